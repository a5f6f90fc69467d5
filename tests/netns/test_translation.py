"""The source address that is seen outside, read off the wire: what is translated, and what never is.

Addresses: see tests/lab/topology.py.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.datagrams import Wire, route_multicast, send
from tests.lab.driver import Stack
from tests.lab.lab import Lab
from tests.lab.namespaces import Namespace
from tests.lab.waiting import until

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
    """A guest's multicast that the host routes is not translated; a datagram to a single host on the same path is."""
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
    """If the host forwards directed broadcasts (bc_forwarding), a guest's to the uplink's segment is not translated."""
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
    """No router forwards it. The host's own, from its address in a network behind the gateway, is not translated."""
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
    """With internalForwarding a guest reaches its sibling; an outsider who uses the guest's address does not."""
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


# <linux/in.h>, <linux/in6.h>: don't fragment; what the kernel knows of the path's MTU.
_ASKS = {
    socket.AF_INET: (socket.IPPROTO_IP, 10, 14),  # IP_MTU_DISCOVER, IP_MTU
    socket.AF_INET6: (socket.IPPROTO_IPV6, 23, 24),  # IPV6_MTU_DISCOVER, IPV6_MTU
}
_PMTUDISC_DO, NARROW = 2, 1300


def path_mtu(namespace: Namespace, address: str, port: int) -> int:
    """Send what is too big for a narrow link until the kernel knows the path's MTU."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    level, discover, mtu = _ASKS[family]
    with namespace.call(socket.socket, family, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(level, discover, _PMTUDISC_DO)
        namespace.call(sender.connect, (address, port))

        def known() -> int:
            with contextlib.suppress(OSError):  # EMSGSIZE: it knows
                sender.send(bytes(1400))
            found: int = sender.getsockopt(level, mtu)
            return found if found < 1500 else 0

        return int(until(known))


@pytest.fixture
def forgetful(lab: Lab) -> Iterator[None]:
    """At the end, flush the routes that neighbours learned, and restore the MTU of the router's link."""
    yield
    lab["router"].ip("link set inet mtu 1500")
    for role in ("guest1", "outsider", "internet"):
        lab[role].ip("route flush cache")
        lab[role].run("ip -6 route flush cache")


@pytest.mark.parametrize("nf", [0, 1])
@pytest.mark.parametrize("where", ["beyond the router", "on the way in", "on the host's own uplink"])
@pytest.mark.parametrize("family", ["v4", "v6"])
@pytest.mark.usefixtures("forgetful")
def test_the_paths_mtu_is_learned(lab: Lab, stack: Stack, family: str, where: str, nf: int) -> None:
    """moby#12565: a router's "too big" reaches the guest, and a client of a guest through a forward."""
    six = family == "v6"
    for name in ("iptables", "ip6tables"):
        lab.host.sysctl(f"net.bridge.bridge-nf-call-{name}", nf)
    made = program("interface")
    made["net"][1]["mtu"] = NARROW if where == "on the way in" else 1500
    web = {"natGateway": "${nat.id}", "protocol": "udp", "sourcePort": 9000}
    stack.up({**made, "web": ("PortForward", {**web, "destination": "[fd12::11]:9" if six else "10.0.0.11:9"})})
    if where == "on the way in":
        assert path_mtu(lab["outsider"], "2001:db8::2" if six else "192.0.2.2", 9000) == NARROW
    else:
        if where == "beyond the router":
            lab["router"].ip(f"link set inet mtu {NARROW}")
        else:
            lab.host.ip(f"link set eth0 mtu {NARROW}")
        assert path_mtu(lab["guest1"], "2001:db8:1::10" if six else "198.51.100.10", 9) == NARROW
