"""What Pulumi runs for a dynamic resource: its few methods, answered by the plugin's own operations.

Pulumi pickles the provider into the state of every resource, so it is a class with a token and nothing else: the
pickle names the class, and the process that serves dynamic resources imports it. That process serves many resources
from four threads; they share what is in `process`.

A dynamic provider is told neither the URN nor, but in a check, the old inputs. So the URN travels as the hidden input
`URN`, and outputs hold the inputs that they came from as the hidden output `INPUTS`, a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

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
from pulumi.output import Unknown

from hostnet.resources import KINDS
from hostnet.resources.connection import PROVIDER
from hostnet.resources.schema.kind import UNKNOWN, Autoname, Kind
from hostnet.wire.urn import Urn

# Hidden inputs, and the hidden output.
URN: Final = "__urn"
SECRET: Final = "__secret"  # noqa: S105 - the name of a property: whether an input besides `connection` is a secret
INPUTS: Final = "__inputs"
_PULUMI = "__provider"

Properties = dict[str, Any]


@dataclass(frozen=True)
class Known:
    """The inputs of a resource, apart from what travels hidden among them."""

    urn: str = ""
    secret: bool = False
    values: Properties = field(default_factory=dict)

    @classmethod
    def parse(cls, properties: Properties) -> Known:
        """From inputs, or from what `INPUTS` holds."""
        plain = _plain(properties)
        hidden = {name: plain.pop(name, None) for name in (URN, SECRET, _PULUMI)}
        return cls(hidden[URN] or "", hidden[SECRET] is True, plain)

    @property
    def hidden(self) -> Properties:
        """What travels hidden, as properties."""
        return {URN: self.urn, SECRET: self.secret}


class HostnetProvider(ResourceProvider):
    """The provider of one of hostnet's kinds."""

    # There is nothing secret in a class's name.
    serialize_as_secret_always = False

    def __init__(self, token: str) -> None:
        """Be the provider of the kind with this token."""
        super().__init__()
        self.token = token

    @property
    def _kind(self) -> Kind:
        return KINDS[self.token]

    def configure(self, req: ConfigureRequest) -> None:
        """Take the stack's configuration for hostnet."""
        from hostnet.dynamic import process  # noqa: PLC0415 - a program that only declares needs none of it

        process.configure({name: req.config.get(f"hostnet:{name}") for name in PROVIDER.properties})

    def check(self, _olds: Properties, news: Properties) -> CheckResult:
        """All that is wrong with the inputs; autonames, which the URN alone decides."""
        from hostnet.dynamic import process  # noqa: PLC0415 - see above

        known, old = Known.parse(news), Known.parse(_olds)
        autoname = Autoname(Urn.parse(known.urn).name, known.urn.encode(errors="surrogatepass"))
        checked = self._kind.check(known.values, old.values or None, autoname)
        failures = process.failures(checked.failures, known)
        named = {name: value for name, value in checked.inputs.items() if name not in known.values}
        # Under an alias a resource keeps the URN that it was made with: the one that the host's record has it under.
        named[URN] = old.urn or known.urn
        return CheckResult({**news, **named}, [CheckFailure(each.property, each.reason) for each in failures])

    def diff(self, _id: str, _olds: Properties, _news: Properties) -> DiffResult:
        """What an update has to do. Where an input has become a secret, outputs have to become secrets."""
        old, new = Known.parse(_olds.get(INPUTS, {})), Known.parse(_news)
        found = self._kind.diff(old.values, _outputs(_olds), new.values)
        return DiffResult(
            found.changed or old.secret != new.secret,
            found.replaces,
            delete_before_replace=bool(found.replaces) and found.delete_before_replace,
        )

    def create(self, props: Properties) -> CreateResult:
        """Make it."""
        from hostnet.dynamic import process  # noqa: PLC0415 - see above

        known = Known.parse(props)
        made = process.create(self._kind, known)
        return CreateResult(made.id, _stored(made.outputs, known))

    def update(self, _id: str, _olds: Properties, _news: Properties) -> UpdateResult:
        """Change it."""
        from hostnet.dynamic import process  # noqa: PLC0415 - see above

        known = Known.parse(_news)
        old = Known.parse(_olds.get(INPUTS, {}))
        made = process.update(self._kind, _id, known, old, _outputs(_olds))
        return UpdateResult(_stored(made.outputs, known))

    def read(self, id_: str, props: Properties) -> ReadResult:
        """What the host has: for a refresh by the state, for a program's `opts.id` by the id."""
        from hostnet.dynamic import process  # noqa: PLC0415 - see above

        refresh = INPUTS in props
        known = Known.parse(props[INPUTS] if refresh else props)
        found = process.read(self._kind, id_, known, _outputs(props) if refresh else None)
        if found is None:
            return ReadResult("", {})
        now = Known(known.urn, known.secret, dict(found.inputs))
        return ReadResult(found.id, _stored(found.outputs, now), {**now.values, **now.hidden})

    def delete(self, _id: str, _props: Properties) -> None:
        """Take it away; what is gone already is success."""
        from hostnet.dynamic import process  # noqa: PLC0415 - see above

        process.delete(self._kind, _id, Known.parse(_props[INPUTS]), _outputs(_props))


def _outputs(properties: Properties) -> Properties:
    """A resource's outputs out of its state."""
    return {name: value for name, value in _plain(properties).items() if name not in (INPUTS, _PULUMI)}


def _stored(outputs: Properties, known: Known) -> Properties:
    """Outputs as the state gets them, with the inputs that they came from."""
    from hostnet.dynamic import process  # noqa: PLC0415 - see above

    shown = {name: value for name, value in outputs.items() if name != "connection"}
    return {**process.with_secrets(shown, known), INPUTS: process.secret({**known.values, **known.hidden})}


def _plain(value: Any) -> Any:
    """Values as the kinds take them: whole numbers are ints, null is absent, unknown is `UNKNOWN`."""
    if isinstance(value, Unknown):
        return UNKNOWN
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
