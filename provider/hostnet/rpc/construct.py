"""Construct: registers a component and its children with the engine, as Pulumi's SDK does in a program.

The engine calls it for programs of every language. It speaks with the engine's resource monitor itself: `pulumi` would
bring 40 MB and half a second for five requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableSequence
from typing import Any

from grpc import aio

from hostnet import __version__
from hostnet.lifecycle.paths import Path
from hostnet.resources.micro_vm_host import MICRO_VM_HOST, Child, From, children
from hostnet.resources.package_schema import DOWNLOADS
from hostnet.resources.schema.model import Report
from hostnet.resources.schema.values import UNKNOWN, Value
from hostnet.rpc.codec import decode, encode
from hostnet.rpc.protos import provider_pb2, resource_pb2, resource_pb2_grpc
from hostnet.wire.errors import Code, HostnetError

_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_PACKAGE = "hostnet"
_GUESTS = "guests"  # the TapBindings of guests, beside the kinds of the other children
# Which children each output is of.
_SOURCES = {
    "bridgeName": "Bridge",
    "natGatewayId": "NatGateway",
    "externalAddresses": "NatGateway",
    "guests": _GUESTS,
}
# What a child has of its component, where the program says it of the component.
_INHERITED = ("protect", "retainOnDelete", "deletedWith")
# What goes on from the request to the component's registration, under the same name.
_OWN = (
    "parent", "dependencies", "providers", "aliases", "protect", "retainOnDelete", "deletedWith", "ignoreChanges",
    "replaceOnChanges", "replace_with", "additionalSecretOutputs", "deleteBeforeReplace", "customTimeouts",
    "replacement_trigger",
)  # fmt: skip


async def construct(request: provider_pb2.ConstructRequest) -> provider_pb2.ConstructResponse:
    """Register the component MicroVmHost with its children, and give its outputs.

    Raises:
        HostnetError: It is another component, an input is refused, or a child was not made.
    """
    if request.type != MICRO_VM_HOST.token:
        raise HostnetError(Code.INVALID, f"unknown component {request.type}", f"hostnet has {MICRO_VM_HOST.token}")
    async with aio.insecure_channel(request.monitorEndpoint, options=_UNLIMITED) as channel:
        try:
            return await _Construction(request, resource_pb2_grpc.ResourceMonitorStub(channel)).run()
        except aio.AioRpcError as error:
            # The engine shows the child's own error with the child.
            why = error.details() or error.code().name
            raise HostnetError(Code.CANCELLED, f"cannot create {request.name}", why) from error


class _Construction:
    """One component on its way.

    Args:
        request: What the engine asks for.
        monitor: The engine's resource monitor, asynchronous: its type is that of a stub that blocks.
    """

    def __init__(self, request: provider_pb2.ConstructRequest, monitor: Any) -> None:
        self._request, self._monitor = request, monitor
        self._given = decode(request.inputs)
        self._needs = {name: set(each.urns) for name, each in request.inputDependencies.items()}
        self._urn = ""

    async def run(self) -> provider_pb2.ConstructResponse:
        """Register everything in order."""
        self._check()
        self._urn = (await self._monitor.RegisterResource(self._component())).urn
        made: dict[str, list[resource_pb2.RegisterResourceResponse]] = {}
        for child in children(self._given.values):
            kind = child.token.rpartition(":")[2] if "name" not in child.inputs else _GUESTS
            made.setdefault(kind, []).append(await self._monitor.RegisterResource(self._child(child)))
            if child.suffix == "":
                self._learn(made["Bridge"][0])
        (gateway,) = made["NatGateway"]
        guests = made.get(_GUESTS, [])
        outputs = {
            "bridgeName": self._given.values["bridge.name"],
            "natGatewayId": gateway.id or UNKNOWN,
            "externalAddresses": decode(gateway.object).values.get("externalAddresses", UNKNOWN),
        }
        if guests:
            outputs["guests"] = [decode(each.object).values.get("guest", UNKNOWN) for each in guests]
        # A secret input of a child makes its outputs secret; they stay so here.
        marks: list[Path] = [("externalAddresses",)] if _secret(gateway, "externalAddresses") else []
        marks += [("bridgeName",)] if ("bridge.name",) in self._given.secrets else []
        marks += [("guests", index) for index, each in enumerate(guests) if _secret(each, "guest")]
        state = encode(outputs, marks, unknowns=True)
        done = resource_pb2.RegisterResourceOutputsRequest(urn=self._urn, outputs=state)
        await self._monitor.RegisterResourceOutputs(done)
        response = provider_pb2.ConstructResponse(urn=self._urn, state=state)
        for name, kind in _SOURCES.items():
            if kind in made:
                response.stateDependencies[name].urns.extend(each.urn for each in made[kind])
        return response

    def _check(self) -> None:
        """Refuse inputs that no child would take.

        Raises:
            HostnetError: With every failure.
        """
        report = Report()
        MICRO_VM_HOST.inputs.check(self._given.values, "", report)
        if report.failures:
            reason = "; ".join(f"{each.path}: {each.reason}" for each in report.failures)
            raise HostnetError(Code.INVALID, f"invalid inputs of {self._request.name}", reason)

    def _component(self) -> resource_pb2.RegisterResourceRequest:
        """The request for the component itself."""
        made = resource_pb2.RegisterResourceRequest(
            type=self._request.type,
            name=self._request.name,
            object=encode(self._given.values, self._given.secrets, unknowns=True),
            **_always(),
        )
        _copy(self._request, made, _OWN)
        for name, urns in self._needs.items():
            made.propertyDependencies[name].urns.extend(sorted(urns))
        return made

    def _child(self, child: Child) -> resource_pb2.RegisterResourceRequest:
        """The request for a child."""
        values: dict[str, Value] = {}
        secrets: set[Path] = set()
        needs: dict[str, set[str]] = {}
        for name, what in child.inputs.items():
            if not isinstance(what, From):
                values[name] = what
                continue
            value = self._given.values.get(what.source, what.default)
            if value is None:
                continue
            values[name] = [value] if what.listed else value
            below = (0,) if what.listed else ()
            secrets |= {(name, *below, *path[1:]) for path in self._given.secrets if path[0] == what.source}
            needs[name] = self._needs.get(what.source, set())
        made = resource_pb2.RegisterResourceRequest(
            type=child.token,
            name=f"{self._request.name}{child.suffix}",
            parent=self._urn,
            custom=True,
            object=encode(values, secrets, unknowns=True),
            provider=self._request.providers.get(_PACKAGE, ""),
            version=__version__,
            pluginDownloadURL=DOWNLOADS,
            supportsPartialValues=True,
            dependencies=sorted(set().union(*needs.values())),
            **_always(),
        )
        _copy(self._request, made, _INHERITED)
        for name, urns in needs.items():
            made.propertyDependencies[name].urns.extend(sorted(urns))
        return made

    def _learn(self, bridge: resource_pb2.RegisterResourceResponse) -> None:
        """Keep the bridge's name for the other children, which then depend on the bridge."""
        self._given.values["bridge.name"] = decode(bridge.object).values.get("name", UNKNOWN)
        self._needs["bridge.name"] = {bridge.urn}
        if _secret(bridge, "name"):
            self._given.secrets.add(("bridge.name",))


def _always() -> dict[str, Any]:
    """What every registration says: how its values may be written, and that aliases are written in full."""
    return {"acceptSecrets": True, "acceptResources": True, "aliasSpecs": True}


def _copy(source: provider_pb2.ConstructRequest, target: Any, names: Iterable[str]) -> None:
    """Copy fields that are set."""
    wanted = {field.name: value for field, value in source.ListFields() if field.name in names}
    for name, value in wanted.items():
        field = target.DESCRIPTOR.fields_by_name[name]
        if isinstance(value, Mapping):
            getattr(target, name).update(value)
        elif isinstance(value, MutableSequence):  # not field.is_repeated, which is of protobuf 6.31
            getattr(target, name).extend(value)
        elif field.message_type is None:
            setattr(target, name, value)
        elif field.message_type.full_name.endswith("CustomTimeouts"):
            getattr(target, name).ParseFromString(value.SerializeToString())
        else:
            getattr(target, name).CopyFrom(value)
    if source.HasField("deleteBeforeReplace") and "deleteBeforeReplace" in names:
        target.deleteBeforeReplaceDefined = True


def _secret(made: resource_pb2.RegisterResourceResponse, name: str) -> bool:
    """Whether an output of a resource is secret, or has a secret in it."""
    return any(path[0] == name for path in decode(made.object).secrets)
