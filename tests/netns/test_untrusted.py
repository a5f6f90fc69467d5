"""Guests that nobody trusts: tests/cases/untrusted, and what needs more than a case.

Addresses: see tests/lab/topology.py; the cases' format: tests/lab/cases.py.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.cases import Case, Runner, load
from tests.lab.clients import Client, advertisement, ask
from tests.lab.driver import Stack
from tests.lab.lab import Lab
from tests.lab.namespaces import Namespace
from tests.lab.probes import DOUBT
from tests.lab.waiting import PATIENCE

Program = dict[str, tuple[str, dict[str, Any]]]
NET6 = ["10.0.0.1/24", "fd12::1/64"]


@pytest.mark.parametrize("case", load("untrusted"), ids=lambda case: case.name)
def test_case(lab: Lab, stack: Stack, case: Case) -> None:
    """Every probe ends as the case says, and a destroy leaves the host as it was."""
    Runner(lab, stack, case).run()


@pytest.fixture
def client(lab: Lab, tmp_path: Path) -> Iterator[Client]:
    """A guest with a MAC address alone, behind `vm-1`."""
    made = Client(lab, "client1", "vm-1", "02:00:00:00:01:01", tmp_path)
    yield made
    made.close()


def link_local(namespace: Namespace, link: str) -> str:
    """The link-local address of a link, as its neighbour on `eth0` writes it."""
    words = namespace.run(f"ip -6 -o address show dev {link} scope link").split()
    return words[words.index("inet6") + 1].partition("/")[0] + "%eth0"


def connects(namespace: Namespace, address: str, port: int, timeout: float = PATIENCE) -> bool:
    """Whether somebody accepts a TCP connection.

    Args:
        namespace: Who asks.
        address: Whom; an IPv6 address may have a zone.
        port: The port.
        timeout: Until when an answer counts, in seconds.
    """
    host, _, zone = address.partition("%")
    with namespace.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as tcp:
        tcp.settimeout(timeout)
        place = (host, port, 0, namespace.call(socket.if_nametoindex, zone) if zone else 0) if ":" in host else None
        try:
            tcp.connect(place or (host, port))
        except OSError:
            return False
        return True


@pytest.mark.parametrize("nf", [0, 1])
def test_services_are_dhcp_dns_and_advertisements(lab: Lab, stack: Stack, client: Client, *, nf: int) -> None:
    """With `hostAccess: services` a guest gets all that its bridge serves, also at its link-local address.

    Nothing else of the host answers there: the same port does as soon as all of the host may be reached.
    """
    for family in ("ip", "ip6"):
        lab.host.sysctl(f"net.bridge.bridge-nf-call-{family}tables", nf)
    bridge: dict[str, Any] = {
        "name": "br-a",
        "addresses": NET6,
        "dhcpServer": {},
        "ipv6SendRa": True,
        "hostAccess": "services",
    }
    program: Program = {
        "net": ("Bridge", bridge),
        "vms": ("TapBinding", {"match": "vm-*", "bridge": "${net.name}"}),
        "web": ("TapBinding", {"name": "web", "bridge": "${net.name}", "guest": {"hostname": "web"}}),
    }
    stack.up(program)
    lab.serve("host", "tcp:8081")
    guest = client.namespace
    client.udhcpc()
    assert advertisement(guest)["prefixes"] == ["fd12::/64"]
    guest.ip("address add fd12::99/64 dev eth0 nodad")
    near = link_local(lab.host, "br-a")
    for server in ("10.0.0.1", "fd12::1"):
        assert ask(guest, server, "web") == ["10.0.0.2"]
        assert ask(guest, server, "web", tcp=True) == ["10.0.0.2"]
    assert connects(guest, near, 53)
    assert ask(guest, "192.0.2.2", "web", timeout=DOUBT) is None
    for address in ("10.0.0.1", "fd12::1", near, "192.0.2.2"):
        assert not connects(guest, address, 8081), address
    bridge["hostAccess"] = "all"
    stack.up(program)
    for address in ("10.0.0.1", "fd12::1", near):
        assert connects(guest, address, 8081), address
    stack.destroy()


def test_a_connection_to_the_host_ends_when_services_alone_are_open(lab: Lab, stack: Stack) -> None:
    """What a guest began before is no exception; what the host began goes on."""
    bridge: dict[str, Any] = {"name": "br-a", "addresses": NET6}
    program: Program = {
        "net": ("Bridge", bridge),
        "vms": ("TapBinding", {"match": "a-*", "bridge": "${net.name}"}),
        "nat": ("NatGateway", {"internalInterfaces": ["br-a"]}),
    }
    stack.up(program)
    lab.serve("host", "tcp:8081")
    lab.serve("guest1", "tcp:80")
    from_guest, from_host = lab.converse("guest1", "tcp 10.0.0.1:8081"), lab.converse("host", "tcp 10.0.0.11:80")
    assert lab.still(from_guest).server == "host"
    bridge["hostAccess"] = "services"
    stack.up(program)
    assert lab.still(from_host).server == "guest1"
    assert lab.still(from_guest, DOUBT).outcome != "reached"
    for each in (from_guest, from_host):
        lab.background.call(each.close)
    stack.destroy()
