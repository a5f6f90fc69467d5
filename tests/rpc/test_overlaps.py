"""Forwards and gateways that overlap: both work, or the second is refused by name, in the preview already.

Named after the kind: overlaps between resources' sets are neither ordered nor refused by name. With a kernel:
tests/netns/test_overlaps.py.
"""

from __future__ import annotations

import grpc
import pytest

from tests.lab.overlaps import Pair, Uplinks, axes, forwards, gateways
from tests.rpc.engine import Engine, Resource, message

AT = Uplinks("203.0.113.5", "198.51.100.5")
AXES, GATEWAYS = axes(AT), gateways(AT)


@pytest.fixture
def engine(engine: Engine) -> Engine:
    """With a second uplink, and two bridges."""
    engine.host.add_link("eth1", "veth", addresses=(f"{AT.two}/24",))
    for number, name in enumerate(("vms", "lab")):
        Resource(engine, "Bridge", name, name=name, addresses=[f"10.{number}.0.1/24"]).create()
    return engine


def tried(engine: Engine, kind: str, name: str, pair: Pair) -> None:
    """Create both, and delete both: nothing is left."""
    empty, warned = engine.host.dump(), len(engine.warnings())
    first = Resource(engine, kind, "first", **pair.first).create()
    second = Resource(engine, kind, "second", **pair.second)
    second.preview()
    warnings = engine.warnings()[warned:]
    engine.run(engine.host.restart_agent)  # a preview is a run of its own
    if pair.refused:
        with pytest.raises(grpc.RpcError) as failed:
            second.create()
        assert pair.refused in message(failed.value), name
        assert f"{kind} first (stack test of project project)" in message(failed.value), name
        assert [text for text in warnings if text.endswith(message(failed.value))], name
    else:
        assert warnings == [], name
        second.create()
        second.delete()
    first.delete()
    assert engine.host.dump() == empty, name


@pytest.mark.parametrize("axis", AXES)
def test_port_forwards(engine: Engine, axis: str) -> None:
    """By what they differ in: every shape of overlap, with every kind of destination."""
    for name, pair in forwards(AXES[axis]):
        tried(engine, "PortForward", name, pair)


@pytest.mark.parametrize("name", GATEWAYS)
def test_gateways(engine: Engine, name: str) -> None:
    """With forwards, dmz hosts and networks."""
    tried(engine, "NatGateway", name, GATEWAYS[name])


def test_a_third_forward_separates_two(engine: Engine) -> None:
    """Once another uplink forwards the port, a forward of every address meets one that listens on this uplink's."""
    at = {"externalInterface": "eth0", "sourcePort": "8000:8010"}
    Resource(engine, "PortForward", "first", destination="10.0.0.2", **at).create()
    Resource(engine, "PortForward", "there", destination="10.0.0.3", listenAddresses=[AT.one], **at).create()
    third = Resource(engine, "PortForward", "third", **at | {"externalInterface": "eth1"}, destination="10.0.0.4")
    with pytest.raises(grpc.RpcError) as failed:
        third.create()
    assert f"from the host and its networks, tcp port 8000:8010 at {AT.one} belongs to" in message(failed.value)


def test_a_gateway_moves_to_another_uplink(engine: Engine) -> None:
    """Its forwards, which other resources declare, meet those that are there."""
    nat = Resource(engine, "NatGateway", "nat", internalInterfaces=["vms"], externalInterface="eth0").create()
    there = {"sourcePort": "8000:8010", "destination": "10.0.0.2"}
    Resource(engine, "PortForward", "moves", natGateway=nat.id, **there).create()
    other = {"sourcePort": "8005:8015", "destination": "10.0.0.3"}
    Resource(engine, "PortForward", "stays", externalInterface="eth1", **other).create()
    before = engine.host.dump()
    with pytest.raises(grpc.RpcError) as failed:
        nat.update(internalInterfaces=["vms"], externalInterface="eth1")
    assert "tcp port 8005:8015 there belongs to PortForward stays" in message(failed.value)
    assert engine.host.dump() == before


def test_a_gateway_moves_to_the_uplink_of_another_one_of_its_network(engine: Engine) -> None:
    """What it had elsewhere is refused there; what both have there already stays."""
    first = Resource(engine, "NatGateway", "first", internalInterfaces=["vms"], externalInterface="eth0").create()
    second = Resource(engine, "NatGateway", "second", internalInterfaces=["vms"], externalInterface="eth1").create()
    before = engine.host.dump()
    with pytest.raises(grpc.RpcError) as failed:
        second.update(internalInterfaces=["vms"], externalInterface="eth0")
    assert "is also behind NAT gateway" in message(failed.value)
    assert "both lead out by eth0" in message(failed.value)
    assert engine.host.dump() == before
    second.update(internalInterfaces=["vms", "lab"], externalInterface="eth1")
    first.update(internalInterfaces=["vms"], externalInterface="eth0", mssClamp=True)
    for each in (second, first):
        each.delete()
