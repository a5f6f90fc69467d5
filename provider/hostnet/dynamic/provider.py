"""What Pulumi runs for a dynamic resource: its few methods, answered by the plugin's own operations.

Pulumi pickles the provider into the state of every resource, so it is a class with a token and nothing else: the
pickle names the class, and the process that serves dynamic resources imports it. That process serves many resources
from four threads; they share what is in `process`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from pulumi.dynamic import (
    CheckFailure,
    CheckResult,
    ConfigureRequest,
    CreateResult,
    DiffResult,
    ReadResult,
    ResourceProvider,
    UpdateResult,
)

from hostnet.dynamic.known import INPUTS, URN, Known, Properties, outputs_of, secret
from hostnet.resources import KINDS
from hostnet.resources.provider import PROVIDER
from hostnet.resources.schema.kind import Kind
from hostnet.resources.schema.values import Autoname
from hostnet.wire.urn import Urn

if TYPE_CHECKING:
    from hostnet.dynamic.process import Process


@functools.cache
def _process() -> Process:
    from hostnet.dynamic.process import Process  # noqa: PLC0415 - a program that only declares needs none of it

    return Process()


class HostnetProvider(ResourceProvider):
    """The provider of one of hostnet's kinds.

    Args:
        token: The kind's, `hostnet:index:Bridge`.
    """

    # There is nothing secret in a class's name.
    serialize_as_secret_always = False

    def __init__(self, token: str) -> None:
        super().__init__()
        self.token = token

    @property
    def _kind(self) -> Kind[Any]:
        return KINDS[self.token]

    def configure(self, req: ConfigureRequest) -> None:
        """Take the stack's configuration for hostnet."""
        _process().configure({name: req.config.get(f"hostnet:{name}") for name in PROVIDER.properties})

    def check(self, _olds: Properties, news: Properties) -> CheckResult:
        """All that is wrong with the inputs; autonames, which the URN alone decides."""
        known, old = Known.parse(news), Known.parse(_olds)
        autoname = Autoname(Urn.parse(known.urn).name, known.urn.encode(errors="surrogatepass"))
        checked = self._kind.check(known.values, old.values or None, autoname)
        _process().declare(known.urn)
        failures = _process().failures(self._kind, checked.failures, known)
        named = {name: value for name, value in checked.inputs.items() if name not in known.values}
        named[URN] = known.urn  # after `pulumi stack rename`, or with an alias, another one than the state's
        return CheckResult({**news, **named}, [CheckFailure(each.property, each.reason) for each in failures])

    def diff(self, _id: str, _olds: Properties, _news: Properties) -> DiffResult:
        """What an update has to do. Where an input has become a secret, outputs have to become secrets."""
        old, new = Known.parse(_olds.get(INPUTS, {})), Known.parse(_news)
        found = _process().diff(self._kind, _id, new, old, outputs_of(_olds))
        return DiffResult(
            found.changed or old.secret != new.secret,
            found.replaces,
            delete_before_replace=bool(found.replaces) and found.delete_before_replace,
        )

    def create(self, props: Properties) -> CreateResult:
        """Make it."""
        known = Known.parse(props)
        made = _process().create(self._kind, known)
        return CreateResult(made.id, _stored(made.outputs, known))

    def update(self, _id: str, _olds: Properties, _news: Properties) -> UpdateResult:
        """Change it."""
        known = Known.parse(_news)
        old = Known.parse(_olds.get(INPUTS, {}))
        made = _process().update(self._kind, _id, known, old, outputs_of(_olds))
        return UpdateResult(_stored(made.outputs, known))

    def read(self, id_: str, props: Properties) -> ReadResult:
        """What the host has: for a refresh by the state, for a program's `opts.id` by the id."""
        refresh = INPUTS in props
        known = Known.parse(props[INPUTS] if refresh else props)
        found = _process().read(self._kind, id_, known, outputs_of(props) if refresh else None)
        if found is None:
            # An empty id is how a refresh learns that it is gone (engine 3.259).
            return ReadResult("", {})
        now = Known(known.urn, known.secret, dict(found.inputs))
        return ReadResult(found.id, _stored(found.outputs, now), {**now.values, **now.hidden})

    def delete(self, _id: str, _props: Properties) -> None:
        """Delete it; what is gone already is success."""
        _process().delete(self._kind, _id, Known.parse(_props[INPUTS]), outputs_of(_props))


def _stored(outputs: Properties, known: Known) -> Properties:
    """Outputs as the state gets them, with the inputs that they came from."""
    shown = {name: value for name, value in outputs.items() if name != "connection"}
    return {**_process().with_secrets(shown, known), INPUTS: secret({**known.values, **known.hidden})}
