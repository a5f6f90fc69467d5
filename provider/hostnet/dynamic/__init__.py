"""Hostnet's resources as `pulumi.dynamic` ones, for Python programs without the plugin.

    from hostnet.dynamic import Bridge, TapBinding

    bridge = Bridge("vmbr", addresses=["10.0.0.1/24"])
    web = TapBinding("web", bridge=bridge.name, guest={"hostname": "web"})

Inputs and outputs are those of the plugin's SDK, in snake_case, also inside dicts. A dict among the outputs has its
properties as attributes, too (`web.guest.kernel_ip_arg`). The configuration is the plugin's (`hostnet:stateDir`, …).
docs/dynamic.md says what Pulumi's dynamic resources can't do.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

import pulumi
from pulumi.dynamic import Resource

from hostnet.dynamic.known import INPUTS, SECRET, URN
from hostnet.dynamic.provider import HostnetProvider
from hostnet.lifecycle.secrets import CREDENTIAL_ATTRIBUTES, CREDENTIALS
from hostnet.resources.bridge import BRIDGE
from hostnet.resources.nat_gateway import NAT_GATEWAY
from hostnet.resources.port_forward import PORT_FORWARD
from hostnet.resources.schema.model import Record, camel
from hostnet.resources.tap_binding import TAP_BINDING
from hostnet.wire.urn import Urn

if TYPE_CHECKING:
    from hostnet.resources.schema.kind import Kind
    from hostnet.resources.schema.model import Property

__all__ = ["Bridge", "NatGateway", "PortForward", "TapBinding"]

_CREDENTIALS = CREDENTIALS | CREDENTIAL_ATTRIBUTES


class _Managed(Resource):
    """A resource of one of hostnet's kinds."""

    _kind: ClassVar[Kind[Any]]

    def __init_subclass__(cls, *, kind: Kind[Any]) -> None:
        """Make a class for a kind. Its type token is `pulumi-python:dynamic/hostnet:<kind>`."""
        super().__init_subclass__(module="hostnet", name=kind.name)
        cls._kind = kind
        cls.__doc__ = _documented(kind)

    def __init__(
        self,
        resource_name: str,
        opts: pulumi.ResourceOptions | None = None,
        **inputs: Any,
    ) -> None:
        """Declare it.

        Args:
            resource_name: Its name in the program.
            opts: Pulumi's own options, without `import_`.
            inputs: The kind's inputs: values, dicts, Outputs.

        Raises:
            TypeError: The kind does not have such an input.
            pulumi.RunError: `import_` is given.
        """
        for name in inputs.keys() - set(_attributes(self._kind.inputs.properties.values())):
            raise TypeError(f"{self._kind.name}() got an unexpected keyword argument {name!r}")
        if opts is not None and opts.import_ is not None:
            raise pulumi.RunError(
                f"{resource_name}: Pulumi cannot import a dynamic resource. Take a bridge over with adopt=True, or "
                "import the resource with the plugin's SDK pulumi_hostnet"
            )
        results = _attributes(self._kind.results.properties.values())
        others = {name: value for name, value in inputs.items() if name != "connection"}
        properties = {
            **dict.fromkeys([*results, INPUTS]),  # Pulumi makes attributes of what it finds here
            **inputs,
            "connection": _with_secrets(inputs.get("connection")),
            # Pulumi gives a dynamic provider neither of these.
            URN: _urn(f"pulumi-python:{self._resource_type_name}", resource_name, opts.parent if opts else None),
            SECRET: pulumi.Output.from_input(others).is_secret(),
        }
        super().__init__(HostnetProvider(self._kind.token), resource_name, properties, opts)
        outputs = {name: vars(self).pop(name) for name in properties}
        for name in results:
            vars(self)[name] = self._output(name, outputs[name], outputs[INPUTS])

    def _output(self, name: str, given: pulumi.Output[Any], inputs: pulumi.Output[Any]) -> pulumi.Output[Any]:
        """An output for the program.

        In a preview Pulumi asks a dynamic provider for no outputs, and inputs of the same name stand in for them. That
        is right for a `name`, but the output `guest` has more than the input: it is unknown until the resource has real
        outputs, of which `INPUTS` is one.
        """
        declared = self._kind.inputs.properties.get(camel(name))
        if declared is not None and isinstance(declared.type, Record):
            given = pulumi.Output.all(given, pulumi.Output.unsecret(inputs)).apply(lambda both: both[0])
        return given.apply(_convenient)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> pulumi.Output[Any]:
            """The outputs."""

    def translate_input_property(self, prop: str) -> str:
        """A name for the engine, also of properties inside dicts."""
        return prop if prop.startswith("__") else camel(prop)

    def translate_output_property(self, prop: str) -> str:
        """A name for the program."""
        return prop if prop.startswith("__") else re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", prop)


def _attributes(properties: Iterable[Property]) -> list[str]:
    return [about.attribute for about in properties]


def _documented(kind: Kind[Any]) -> str:
    """The class's docstring, out of the kind's declaration."""
    inputs = "\n".join(f"    {about.attribute}: {about.doc}" for about in kind.inputs.properties.values())
    results = "\n".join(f"    {about.attribute}: {about.doc}" for about in kind.results.properties.values())
    return f"{kind.doc}\n\nInputs:\n{inputs}\n\nOutputs:\n{results}\n"


class Bridge(_Managed, kind=BRIDGE):
    """See hostnet.resources.bridge."""


class TapBinding(_Managed, kind=TAP_BINDING):
    """See hostnet.resources.tap_binding."""


class NatGateway(_Managed, kind=NAT_GATEWAY):
    """See hostnet.resources.nat_gateway."""


class PortForward(_Managed, kind=PORT_FORWARD):
    """See hostnet.resources.port_forward."""


async def _urn(type_: str, name: str, parent: pulumi.Resource | None) -> str:
    """The URN that the engine will give the resource. Not an Output: to depend on the parent is a circle."""
    types = type_
    if parent is not None:
        above = Urn.parse(str(await cast("Awaitable[str]", parent.urn.future()))).qualified_type
        types = type_ if above == "pulumi:pulumi:Stack" else f"{above}${type_}"
    return str(Urn(pulumi.get_stack(), pulumi.get_project(), types, name))


def _with_secrets(connection: Any) -> Any:
    """A connection whose credentials are marked as secrets."""
    if isinstance(connection, Mapping):
        return {
            name: pulumi.Output.secret(value) if name in _CREDENTIALS and value is not None else _inner(name, value)
            for name, value in connection.items()
        }
    if isinstance(connection, pulumi.Output):
        return connection.apply(lambda known: pulumi.Output.secret(known) if _has_credentials(known) else known)
    return connection if connection is None else pulumi.Output.secret(connection)


def _inner(name: str, value: Any) -> Any:
    return _with_secrets(value) if name == "proxy" else value


def _has_credentials(connection: Any) -> bool:
    if not isinstance(connection, Mapping):
        return connection is not None
    return bool(_CREDENTIALS & connection.keys()) or _has_credentials(connection.get("proxy"))


class _Fields(dict[str, Any]):
    """An object among the outputs: its properties are attributes as well, as in the plugin's SDK."""

    def __getattr__(self, name: str) -> Any:
        """A property; None where the object has none of that name."""
        if name.startswith("__"):
            raise AttributeError(name)
        return self.get(name)


def _convenient(value: Any) -> Any:
    """Whole numbers as int (they travel as floats), objects as `_Fields`."""
    if isinstance(value, Mapping):
        return _Fields({name: _convenient(item) for name, item in value.items()})
    if isinstance(value, list):
        return [_convenient(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
