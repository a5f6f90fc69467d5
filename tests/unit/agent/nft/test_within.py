"""From which interfaces a packet comes from within: forwards with `loopback` are reached from there."""

from __future__ import annotations

import pytest
from hostnet.agent.linux.snapshot import KernelLink, Snapshot
from hostnet.agent.nft.context import Context, context_of, sides
from hostnet.agent.record.owners import Owner, Owners
from hostnet.wire.objects import Address, Forward, Gateway, Link, Object

from tests.unit.agent.data import urn

INDEX = {name: number for number, name in enumerate(("eth0", "br0", "br-other", "lan", "port", "eth1"), 2)}


def link(name: str, kind: str, bridge: str = "") -> KernelLink:
    """A link as the kernel lists it."""
    return KernelLink(
        name, INDEX[name], kind, up=True, mac="", mtu=1500, master=INDEX.get(bridge, 0), tap=kind == "tun"
    )


def context(*links: KernelLink, routes: tuple[str, ...] = ("eth0",), internal: tuple[str, ...] = ("br0",)) -> Context:
    """Of a gateway with a forward on eth0, a bridge br0 of ours, and these links beside."""
    objects: tuple[Object, ...] = (
        Link("br0", "bridge"),
        Address("br0", "10.0.0.1/24"),
        Gateway("nat", "eth0", internal),
        Forward("ipv4", ("tcp",), (80, 80), "10.0.0.2", (80, 80), gateway="nat"),
    )
    owners = Owners()
    owner = Owner(urn("NatGateway nat"), "nat", objects)
    owners[owner.key] = owner
    known = {each.name: each for each in (link("eth0", ""), link("br0", "bridge"), *links)}
    return context_of(owners, Snapshot(known, default_route_links=routes), {})


@pytest.mark.parametrize("port", ["tun", "veth", "dummy"])
def test_a_bridge_of_guests_is_within(port: str) -> None:
    """Another program's is so without any element."""
    found = context(link("br-other", "bridge"), link("port", port, "br-other"))
    assert (found.inner, found.outer, found.apart) == (("br0",), ("eth0",), frozenset())
    assert not sides(found.observed)


@pytest.mark.parametrize("port", ["", "vlan", "bond", "macvlan", "vxlan", "gretap", "team"])
@pytest.mark.parametrize("bridge", ["br0", "br-other"])
def test_a_bridge_that_holds_anything_else_leads_out(port: str, bridge: str) -> None:
    """A network card, or what may be above one: also in a bridge of ours."""
    found = context(link("br-other", "bridge"), link("port", port, bridge))
    assert bridge in found.outer
    assert bridge not in found.inner
    assert sides(found.observed)
    assert found.apart == ({"br0"} if bridge == "br0" else frozenset())


@pytest.mark.parametrize("bridge", ["br0", "br-other"])
def test_a_bridge_with_a_default_route_leads_out(bridge: str) -> None:
    """It may be the uplink, or a guest that is a router."""
    found = context(link("br-other", "bridge"), routes=("eth0", bridge))
    assert bridge in found.outer
    assert bridge not in found.inner


@pytest.mark.parametrize(
    ("kind", "within"),
    [("veth", True), ("tun", True), ("wireguard", True), ("", False), ("vlan", False), ("bond", False)],
)
def test_what_a_gateway_names_is_within_unless_it_leads_out(kind: str, within: bool) -> None:  # noqa: FBT001 - a case
    """A LAN behind a network card uses the forwards of its gateway alone."""
    found = context(link("lan", kind), internal=("br0", "lan"))
    assert found.inner == (("br0", "lan") if within else ("br0",))
    assert found.apart == (frozenset() if within else {"lan"})
    assert found.apart_of(found.gateways["nat"]) == (() if within else ("lan",))


def test_an_external_interface_is_never_within() -> None:
    """Whatever kind it is, and whoever else has it behind a gateway."""
    found = context(link("eth0", "veth"), link("eth1", "veth"), internal=("br0", "eth0"), routes=())
    assert found.inner == ("br0",)
    assert found.outer == ("eth0",)
    assert found.apart_of(found.gateways["nat"]) == ()
