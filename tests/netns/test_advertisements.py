"""What a guest says of itself as a router changes nothing on the host: router advertisements (RFC 4861) stay unheard.

Addresses: see tests/lab/topology.py. Forwarding is off, so that the host is one that the kernel lets take them.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.clients import advertise
from tests.lab.driver import Stack
from tests.lab.lab import Lab
from tests.lab.waiting import until

PREFIX, OTHERS = "2001:db8:bad::/64", "2001:db8:bad:1::/64"
MAC = "02:00:00:00:00:05"
Program = dict[str, tuple[str, dict[str, Any]]]
BRIDGE: Program = {
    "net": ("Bridge", {"name": "br-a", "addresses": ["10.0.0.1/24", "fd12::1/64"]}),
    "vms": ("TapBinding", {"match": "a-*", "bridge": "${net.name}"}),
}
TAP: Program = {"net": ("TapBinding", {"name": "vm5", "addresses": ["fd12::1/128"], "routes": ["fd12::11/128"]})}


def learned(lab: Lab) -> str:
    """What the host has from router advertisements: routes, and addresses of the prefixes."""
    kernel = lab.host.kernel
    addresses = [f"{one} dev {link.name}" for link in kernel.links().values() for one in link.addresses]
    routes = [str(route) for route in kernel.routes() if route.protocol == "ra"]
    return "\n".join([*routes, *(line for line in addresses if "db8:bad" in line)])


def guest_of(lab: Lab, kind: str) -> str:
    """A guest that is at the end of what hostnet made."""
    if kind == "bridge":
        return "guest1"
    lab.net.plug("vm5", "guest5", "address add fd12::11/64 dev eth0 nodad", mac=MAC)
    lab["guest5"].sysctl("net.ipv6.conf.eth0.accept_dad", 0)
    return "guest5"


@pytest.mark.parametrize("kind", ["bridge", "tap"])
def test_a_guest_is_no_router_of_the_hosts(lab: Lab, stack: Stack, kind: str) -> None:
    """On what hostnet made; on the bridge of another program the same words give the host a route and an address."""
    stack.up(BRIDGE if kind == "bridge" else TAP)
    assert lab.host.sysctl("net.ipv6.conf.all.forwarding") == "0"
    guest, link = guest_of(lab, kind), stack["net.name"]
    lab.host.ip("link add br-x type bridge", "link set b-3 master br-x", "link set br-x up")
    until(lambda: lab.host.kernel.links()["br-x"].link_local)
    assert _hears_nothing(lab, guest)

    for value in (1, 2):
        lab.host.sysctl(f"net.ipv6.conf.{link}.accept_ra", value)
        drift = stack.refresh()
        assert set(drift) == {"net"}
        assert [path.partition("[")[0] for path in drift["net"]] == ["addresses"]
        assert stack.again() == [f"update net: {drift['net'][0]}"]
        assert lab.host.sysctl(f"net.ipv6.conf.{link}.accept_ra") == "0"
        assert stack.refresh() == {}
    assert _hears_nothing(lab, guest)

    advertise(lab["guest3"], OTHERS)
    until(lambda: "default" in learned(lab) and "db8:bad:1" in learned(lab))
    assert f"dev {link}" not in learned(lab)
    lab.host.ip("link delete br-x")
    stack.destroy()


def _hears_nothing(lab: Lab, guest: str) -> bool:
    """What comes after it from the same guest has been heard."""
    advertise(lab[guest], PREFIX)
    assert lab.probe(guest, "icmp fd12::1").outcome == "reached"
    return learned(lab).strip() == ""


def test_what_is_heard_is_drift_that_is_taken_away(lab: Lab, stack: Stack) -> None:
    """Where somebody lets the bridge take them, and a guest speaks: its address and its route go with the next up."""
    stack.up(BRIDGE)
    lab.host.sysctl("net.ipv6.conf.br-a.accept_ra", 1)
    advertise(lab["guest1"], PREFIX)
    until(lambda: "default" in learned(lab) and "db8:bad" in learned(lab))
    assert set(stack.refresh()) == {"net"}
    stack.again()
    assert not [one for one in lab.host.kernel.links()["br-a"].addresses if "db8:bad" in one]
    assert stack.refresh() == {}
    stack.destroy()


def test_ipv6_that_comes_back_with_the_mtu(lab: Lab, stack: Stack) -> None:
    """Below 1280 bytes a bridge has none; when it has one again, a guest is no router either."""
    bridge = {"name": "br-a", "addresses": ["10.0.0.1/24"]}
    stack.up({"net": ("Bridge", {**bridge, "mtu": 1000}), "vms": BRIDGE["vms"]})
    stack.up({"net": ("Bridge", {**bridge, "mtu": 1500}), "vms": BRIDGE["vms"]})
    assert lab.host.sysctl("net.ipv6.conf.br-a.accept_ra") == "0"
    assert stack.refresh() == {}
    stack.destroy()


def test_a_bridge_that_is_taken_over(lab: Lab, stack: Stack) -> None:
    """An import shows no difference before anything was done; from the first write on it is as any other."""
    lab.host.ip("link add br-old type bridge", "link set br-old up")
    assert lab.host.sysctl("net.ipv6.conf.br-old.accept_ra") == "1"
    inputs = stack.import_("old", "Bridge", "br-old")
    assert stack.refresh() == {}
    stack.up({"old": ("Bridge", {**inputs, "addresses": ["10.5.0.1/24"]})})
    assert lab.host.sysctl("net.ipv6.conf.br-old.accept_ra") == "0"
    stack.destroy()
    lab.host.ip("link add br-old type bridge", "link set br-old up")
    stack.up({"old": ("Bridge", {"name": "br-old", "adopt": True})})
    assert lab.host.sysctl("net.ipv6.conf.br-old.accept_ra") == "0"
    stack.destroy()


def test_a_bridge_with_an_uplink_in_it(lab: Lab, stack: Stack) -> None:
    """Its routers are the host's: an adopted bridge may have its IPv6 from them alone."""
    lab.host.ip("link add up0 link eth0 type macvlan", "link add br-up type bridge", "link set up0 master br-up")
    lab.host.ip("link set br-up up", "link set up0 up")
    stack.up({"up": ("Bridge", {"name": "br-up", "addresses": ["10.5.0.1/24"], "adopt": True})})
    assert lab.host.sysctl("net.ipv6.conf.br-up.accept_ra") == "1"
    assert stack.refresh() == {}
    stack.destroy()
    lab.host.ip("link delete up0")


@pytest.mark.parametrize("how", ["hostnet", "by hand"])
def test_the_uplinks_router_is_heard_on(lab: Lab, stack: Stack, how: str) -> None:
    """systemd#40322: with v6 forwarding the uplink keeps the route and address it learned, and learns more.

    Switched on by hand, the kernel forgets the route and hears nothing more.
    """
    lab.host.ip("route delete ::/0")
    advertise(lab["outsider"], PREFIX)
    until(lambda: "default" in learned(lab) and "db8:bad:" in learned(lab))
    if how == "hostnet":
        stack.up({**BRIDGE, "nat": ("NatGateway", {"internalInterfaces": ["br-a"], "enableIpv6": True})})
    else:
        lab.host.sysctl("net.ipv6.conf.all.forwarding", 1)
    assert ("default" in learned(lab)) is (how == "hostnet")
    advertise(lab["outsider"], OTHERS)
    if how == "hostnet":
        until(lambda: "db8:bad:1" in learned(lab))
        assert "default" in learned(lab)
        stack.destroy()
        assert lab.host.sysctl("net.ipv6.conf.eth0.accept_ra") == "1"
    else:
        assert lab.probe("outsider", "icmp 192.0.2.2").outcome == "reached"
        assert "db8:bad:1" not in learned(lab)
        assert "default" not in learned(lab)
