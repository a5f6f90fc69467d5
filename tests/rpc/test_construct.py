"""The component MicroVmHost, as the engine has it constructed for a program of any language."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from hostnet.resources.schema.values import UNKNOWN
from hostnet.rpc.codec import decode, encode
from hostnet.rpc.protos import provider_pb2, resource_pb2, resource_pb2_grpc

from tests.unit.test_sdk import DEFAULT, UNTRUSTED

if TYPE_CHECKING:
    from tests.rpc.engine import Engine

TYPE = "hostnet:index:MicroVmHost"
URN = "urn:pulumi:dev::shop::{}::{}"


class Monitor(resource_pb2_grpc.ResourceMonitorServicer):
    """An engine's resource monitor that makes everything, or knows nothing of it yet (a preview)."""

    def __init__(self) -> None:
        """Nothing is registered."""
        self.made: list[resource_pb2.RegisterResourceRequest] = []
        self.outputs: dict[str, Any] = {}
        self.preview = False
        self.refused = ""

    def RegisterResource(  # noqa: N802
        self, request: resource_pb2.RegisterResourceRequest, context: grpc.ServicerContext
    ) -> resource_pb2.RegisterResourceResponse:
        """Note it; its outputs are its inputs, and what the host would add."""
        self.made.append(request)
        if request.type == self.refused:
            context.abort(grpc.StatusCode.UNKNOWN, "the host refuses")
        response = resource_pb2.RegisterResourceResponse(urn=URN.format(request.type, request.name))
        if request.custom and not self.preview:
            added: dict[str, Any] = {"name": f"{request.name}-br", "externalAddresses": ["192.0.2.2"]}
            if "-tap-" in request.name:
                added["guest"] = {"macAddress": f"of {request.name.partition('-tap-')[2]}"}
            response.object.CopyFrom(encode(added))
            response.id = f"{request.name}-id"
        return response

    def RegisterResourceOutputs(  # noqa: N802
        self, request: resource_pb2.RegisterResourceOutputsRequest, _: object
    ) -> Empty:
        """Note them."""
        self.outputs[request.urn] = decode(request.outputs).values
        return Empty()

    @property
    def children(self) -> dict[str, dict[str, Any]]:
        """Each child's inputs by its name; of two of one name, the component is not there."""
        return {each.name: decode(each.object).values for each in self.made if each.custom}


@pytest.fixture
def monitor() -> Iterator[Monitor]:
    """A monitor with an address."""
    servicer = Monitor()
    server = grpc.server(ThreadPoolExecutor(4))
    resource_pb2_grpc.add_ResourceMonitorServicer_to_server(servicer, server)
    servicer.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"  # type: ignore[attr-defined]
    server.start()
    yield servicer
    server.stop(grace=None)


def request(monitor: Monitor, /, **fields: Any) -> provider_pb2.ConstructRequest:
    """What the engine sends for a component `microvm`."""
    inputs = encode(fields.pop("inputs", {}), fields.pop("secrets", ()), unknowns=True)
    return provider_pb2.ConstructRequest(
        type=TYPE,
        name="microvm",
        monitorEndpoint=monitor.address,  # type: ignore[attr-defined]
        inputs=inputs,
        **fields,
    )


def test_without_inputs_it_is_the_class_of_the_python_sdk(engine: Engine, monitor: Monitor) -> None:
    """The same children, with the same inputs; they are the component's, and its outputs are theirs."""
    made = engine.stub.Construct(request(monitor))
    assert monitor.children == DEFAULT
    component, *children = monitor.made
    assert (component.type, component.name, component.custom) == (TYPE, "microvm", False)
    assert {child.parent for child in children} == {made.urn}
    outputs = {
        "bridgeName": "microvm-br",
        "natGatewayId": "microvm-nat-id",
        "externalAddresses": ["192.0.2.2"],
    }
    assert decode(made.state).values == outputs == monitor.outputs[made.urn]
    bridge = URN.format("hostnet:index:Bridge", "microvm")
    assert list(made.stateDependencies["bridgeName"].urns) == [bridge]
    taps = children[1]
    assert (list(taps.dependencies), list(taps.propertyDependencies["bridge"].urns)) == ([bridge], [bridge])


def test_each_input_reaches_its_child(engine: Engine, monitor: Monitor) -> None:
    """With what it depends on, and a secret stays one."""
    forwards = [{"sourcePort": 80, "destination": "10.5.0.2"}]
    connection = {"host": "192.0.2.9", "password": "hunter2"}
    inputs = {
        "addresses": ["10.5.0.1/24"],
        "connection": connection,
        "dhcpServer": {"domain": "vm.internal"},
        "externalInterface": "eth1",
        "forwards": forwards,
        "match": "tap[0-9]",
        "portIsolation": True,
    }
    needs = {"forwards": provider_pb2.ConstructRequest.PropertyDependencies(urns=["urn:a"])}
    engine.stub.Construct(
        request(
            monitor,
            inputs=inputs,
            secrets=[("forwards", 0, "destination")],
            inputDependencies=needs,
            providers={"hostnet": "urn:provider::id"},
            protect=True,
            parent="urn:parent",
        )
    )
    assert monitor.children == {
        "microvm": {
            "addresses": ["10.5.0.1/24"],
            "dhcpServer": {"domain": "vm.internal"},
            "ipv6SendRa": True,
            "portIsolation": True,
            "connection": connection,
        },
        "microvm-taps": {"match": "tap[0-9]", "bridge": "microvm-br", "connection": connection},
        "microvm-nat": {
            "internalInterfaces": ["microvm-br"],
            "enableIpv6": True,
            "externalInterface": "eth1",
            "forwardPorts": forwards,
            "connection": connection,
        },
    }
    component, *children = monitor.made
    assert component.parent == "urn:parent"
    assert all(child.protect and child.provider == "urn:provider::id" for child in children)
    gateway = children[2]
    assert "urn:a" in gateway.dependencies
    assert decode(gateway.object).secrets >= {("forwardPorts", 0, "destination"), ("connection", "password")}


def test_untrusted_is_that_of_the_python_sdk(engine: Engine, monitor: Monitor) -> None:
    """The guests' network settings are an output, which depends on their TAPs."""
    made = engine.stub.Construct(request(monitor, inputs={"untrusted": True, "guests": ["ci-1", "ci-2"]}))
    assert monitor.children == UNTRUSTED
    taps = [URN.format("hostnet:index:TapBinding", f"microvm-tap-ci-{number}") for number in (1, 2)]
    assert list(made.stateDependencies["guests"].urns) == taps
    assert decode(made.state).values["guests"] == [{"macAddress": f"of ci-{number}"} for number in (1, 2)]


def test_guests_beside_a_match_with_limits_and_rules(engine: Engine, monitor: Monitor) -> None:
    """They are trusted, and what the program says reaches their TAPs and the gateway."""
    limits, rules = {"upload": "1mbit"}, [{"cidr": "192.0.2.0/24"}, {"domain": "example.com"}]
    inputs = {"guests": ["web"], "match": "vm-*", "bandwidth": limits, "egress": rules}
    engine.stub.Construct(request(monitor, inputs=inputs))
    tap = {"name": "web", "bridge": "microvm-br", "guest": {}, "bandwidth": limits}
    gateway = {**DEFAULT["microvm-nat"], "egress": rules}
    assert monitor.children == {**DEFAULT, "microvm-tap-web": tap, "microvm-nat": gateway}


def test_in_a_preview_what_is_not_known_is_unknown(engine: Engine, monitor: Monitor) -> None:
    """Also an input of a child."""
    monitor.preview = True
    made = engine.stub.Construct(request(monitor, dryRun=True, inputs={"externalInterface": UNKNOWN}))
    assert set(decode(made.state).values.values()) == {UNKNOWN}
    assert monitor.children["microvm-taps"]["bridge"] is UNKNOWN
    assert monitor.children["microvm-nat"]["internalInterfaces"] == [UNKNOWN]
    assert monitor.children["microvm-nat"]["externalInterface"] is UNKNOWN


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": {"matches": "vm-*"}}, "did you mean `match`?"),
        ({"inputs": {"addresses": ["10.0.0.1"]}}, "addresses[0]"),
        ({"inputs": {"untrusted": True}}, "untrusted: requires guests"),
        ({"inputs": {"bandwidth": {"upload": "1mbit"}, "guests": []}}, "bandwidth: requires guests"),
        ({"inputs": {"untrusted": True, "guests": ["a"], "match": "vm-*"}}, "match: must not be given together"),
        ({"inputs": {"guests": ["a", "b", "a"]}}, "guests[2]: must be unique: guests[0] is a too"),
        ({"inputs": {"guests": ["a b"]}}, "guests[0]"),
        ({"inputs": {"guests": UNKNOWN}}, "guests: must be known"),
        ({"inputs": {"guests": ["a", UNKNOWN]}}, "guests[1]: must be known"),
        ({"inputs": {"untrusted": UNKNOWN, "guests": ["a"]}}, "untrusted: must be known"),
        (
            {"inputs": {"egress": [{"domain": "a.example"}], "dhcpServer": {"dnsServers": ["192.0.2.53"]}}},
            "egress[0].domain: requires a dhcpServer without dnsServers",
        ),
    ],
)
def test_what_no_child_would_take_is_refused(
    engine: Engine, monitor: Monitor, change: dict[str, Any], message: str
) -> None:
    """Before anything is registered."""
    with pytest.raises(grpc.RpcError) as raised:
        engine.stub.Construct(request(monitor, **change))
    assert message in str(raised.value.details())
    assert monitor.made == []


def test_a_child_that_fails_ends_the_component(engine: Engine, monitor: Monitor) -> None:
    """Nothing is registered after it."""
    monitor.refused = "hostnet:index:Bridge"
    with pytest.raises(grpc.RpcError) as raised:
        engine.stub.Construct(request(monitor))
    assert raised.value.code() is grpc.StatusCode.CANCELLED
    assert [each.type for each in monitor.made] == [TYPE, "hostnet:index:Bridge"]
    assert monitor.outputs == {}
