"""Which source address is seen outside, read off the wire: what is translated, and what never is.

Addresses: see tests/lab/topology.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.datagrams import Wire, route_multicast, send
from tests.lab.driver import Stack
from tests.lab.lab import Lab

GROUP4, GROUP6 = "239.1.2.3", "ff05::1234"
BEHIND = {
    "interface": {"internalInterfaces": ["${net.name}"]},
    "networks": {"internalIps": ["10.0.0.0/24"], "internalIpv6s": ["fd12::/64"]},
}
FIXED = {"masquerade": {}, "fixed": {"externalIp": "192.0.2.3", "externalIpv6": "2001:db8::3"}}


def program(behind: str, fixed: str = "masquerade", **options: Any) -> dict[str, tuple[str, dict[str, Any]]]:
    """Network A behind a gateway."""
    return {
        "net": ("Bridge", {"name": "br-a", "addresses": ["10.0.0.1/24", "fd12::1/64"]}),
        "vms": ("TapBinding", {"match": "a-*", "bridge": "${net.name}"}),
        "nat": ("NatGateway", {"enableIpv6": True, **BEHIND[behind], **FIXED[fixed], **options}),
    }


@pytest.mark.parametrize("fixed", FIXED)
@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize(
    ("guest", "group", "unicast", "seen"),
    [
        ("10.0.0.11", GROUP4, "192.0.2.20", {"masquerade": "192.0.2.2", "fixed": "192.0.2.3"}),
        ("fd12::11", GROUP6, "2001:db8::20", {"masquerade": "2001:db8::2", "fixed": "2001:db8::3"}),
    ],
    ids=["v4", "v6"],
)
def test_multicast_keeps_its_source(
    lab: Lab, stack: Stack, guest: str, group: str, unicast: str, seen: dict[str, str], behind: str, fixed: str
) -> None:
    """A guest's group datagram that the host routes is not translated; one to a single host, on the same way, is."""
    # With br_netfilter, kernels from 6.8 on know a group's connection before it is routed, and translate none of it.
    for name in ("iptables", "ip6tables"):
        lab.host.sysctl(f"net.bridge.bridge-nf-call-{name}", 0)
    stack.up(program(behind, fixed))
    with Wire(lab["outsider"]) as wire, route_multicast(lab.host, guest, group, "br-a", "eth0"):
        send(lab["guest1"], b"to many", group)
        send(lab["guest1"], b"to one", unicast)
        assert wire.source_of(b"to one") == seen[fixed]
        assert wire.source_of(b"to many") == guest


@pytest.mark.parametrize("fixed", FIXED)
@pytest.mark.parametrize("behind", BEHIND)
def test_a_directed_broadcast_keeps_its_source(lab: Lab, stack: Stack, behind: str, fixed: str) -> None:
    """Where the host forwards those (bc_forwarding), a guest's to the uplink's segment is not translated."""
    stack.up(program(behind, fixed))
    for link in ("all", "br-a"):
        lab.host.sysctl(f"net.ipv4.conf.{link}.bc_forwarding", 1)
    with Wire(lab["outsider"]) as wire:
        send(lab["guest1"], b"to all", "192.0.2.255")
        send(lab["guest1"], b"to one", "192.0.2.20")
        assert wire.source_of(b"to one") == ("192.0.2.3" if fixed == "fixed" else "192.0.2.2")
        assert wire.source_of(b"to all") == "10.0.0.11"


@pytest.mark.parametrize("fixed", FIXED)
def test_a_limited_broadcast_keeps_its_source(lab: Lab, stack: Stack, fixed: str) -> None:
    """No router forwards it; the host's own, from its address in a network behind the gateway, is not translated."""
    stack.up(program("networks", fixed))
    with Wire(lab["outsider"]) as wire:
        send(lab.host, b"to all", "255.255.255.255", source="10.0.0.1", device="eth0")
        send(lab.host, b"to one", "192.0.2.20", source="10.0.0.1")
        assert wire.source_of(b"to one") == ("192.0.2.3" if fixed == "fixed" else "192.0.2.2")
        assert wire.source_of(b"to all") == "10.0.0.1"


@pytest.mark.parametrize(("guest", "sibling"), [("10.0.0.11", "10.1.0.13"), ("fd12::11", "fd13::13")], ids=["v4", "v6"])
@pytest.mark.parametrize(
    "nat",
    [
        {"internalIps": ["10.0.0.0/24", "10.1.0.0/24"], "internalIpv6s": ["fd12::/64", "fd13::/64"]},
        {"internalInterfaces": ["br-b"], "internalIps": ["10.0.0.0/24"], "internalIpv6s": ["fd12::/64"]},
        {"internalInterfaces": ["br-a"], "internalIps": ["10.1.0.0/24"], "internalIpv6s": ["fd13::/64"]},
    ],
    ids=["networks", "from a network", "to a network"],
)
def test_a_source_address_opens_nothing_from_outside(
    lab: Lab, stack: Stack, nat: dict[str, Any], guest: str, sibling: str
) -> None:
    """internalForwarding: the guest's datagram reaches its sibling, an outsider's with the guest's address does not."""
    lab.host.sysctl("net.ipv4.conf.all.rp_filter", 0)
    lab.host.sysctl("net.ipv4.conf.eth0.rp_filter", 0)
    stack.up(
        {
            "net-a": ("Bridge", {"name": "br-a", "addresses": ["10.0.0.1/24", "fd12::1/64"]}),
            "net-b": ("Bridge", {"name": "br-b", "addresses": ["10.1.0.1/24", "fd13::1/64"]}),
            "vms-a": ("TapBinding", {"match": "a-*", "bridge": "${net-a.name}"}),
            "vms-b": ("TapBinding", {"match": "b-*", "bridge": "${net-b.name}"}),
            "nat": ("NatGateway", {"enableIpv6": True, "internalForwarding": True, **nat}),
        }
    )
    with Wire(lab.host) as uplink, Wire(lab["guest3"]) as wire:
        send(lab["attacker"], b"feigned", sibling, source=guest)
        assert uplink.source_of(b"feigned") == guest
        send(lab["guest1"], b"true", sibling)
        assert wire.source_of(b"true") == guest
        assert b"feigned" not in wire.seen
