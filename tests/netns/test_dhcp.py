"""DHCP, DNS and router advertisements on a bridge, seen by real clients.

Addresses: see tests/lab/topology.py. The bridge is `br-a` with 10.0.0.1/24 and fd12::1/64; clients are namespaces of
their own behind `vm-1`, `vm-2`, … with nothing but a MAC address.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hostnet.agent import dnsmasq
from hostnet.errors import Code, HostnetError

from tests.lab.clients import Client, advertisement, ask, old_client, until
from tests.lab.driver import Provider, Stack, refused
from tests.lab.lab import Lab
from tests.lab.probes import DOUBT

Program = dict[str, tuple[str, dict[str, Any]]]
MAC = "02:00:00:00:01:0{}"
NET4, NET6 = ["10.0.0.1/24"], ["10.0.0.1/24", "fd12::1/64"]


def network(dhcp: dict[str, Any] | None = None, **bridge: Any) -> Program:  # noqa: ANN401 - any input
    """The bridge with its clients' wires."""
    server = {} if dhcp is None else {"dhcpServer": dhcp}
    return {
        "net": ("Bridge", {"name": "br-a", "addresses": NET4, **server, **bridge}),
        "vms": ("TapBinding", {"match": "vm-*", "bridge": "${net.name}"}),
    }


NewClient = Callable[[int], Client]


@pytest.fixture
def client(lab: Lab, tmp_path: Path) -> Iterator[NewClient]:
    """Makes clients: `client(1)` is behind `vm-1`."""
    made: list[Client] = []

    def make(number: int) -> Client:
        made.append(Client(lab, f"client{number}", f"vm-{number}", MAC.format(number), tmp_path))
        return made[-1]

    yield make
    for each in made:
        each.close()


def pids(lab: Lab) -> list[int]:
    """The dnsmasq processes of the host."""
    inside = subprocess.run(["ip", "netns", "pids", lab.host.name], capture_output=True, text=True, check=True)
    names = {int(pid): Path(f"/proc/{pid}/comm") for pid in inside.stdout.split()}
    return sorted(pid for pid, comm in names.items() if comm.exists() and comm.read_text().strip() == "dnsmasq")


def test_a_guest_gets_all_it_needs(lab: Lab, stack: Stack, client: NewClient) -> None:
    """Address out of the range, router, name server, domain, lease time and MTU; and the lease is read."""
    guest = client(1)
    dhcp = {"rangeStart": "10.0.0.100", "rangeEnd": "10.0.0.110", "leaseTime": "20m", "domain": "vm.internal"}
    stack.up(network(dhcp, mtu=1400))
    given = guest.udhcpc("-O", "mtu", "-x", "hostname:first")
    assert 100 <= int(given["ip"].split(".")[3]) <= 110
    expected = {"mask": "24", "router": "10.0.0.1", "dns": "10.0.0.1", "domain": "vm.internal", "lease": "1200"}
    assert {name: given.get(name) for name in expected} == expected
    assert given["mtu"] == "1400"
    assert stack.refresh() == {}
    (lease,) = stack["net.leases"]
    assert (lease["macAddress"], lease["address"], lease["hostname"]) == (guest.mac, given["ip"], "first")
    stack.destroy()
    assert not pids(lab)
