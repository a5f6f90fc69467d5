"""Uplinks that come and go: missing at boot, back with other sysctls or another address, made again by a modem or VPN.

Addresses: see tests/lab/topology.py; the second uplink is eth1, or a line without Ethernet such as ppp0.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hostnet.wire.errors import HostnetError

from tests.lab.driver import Provider, Stack
from tests.lab.lab import Lab
from tests.lab.waiting import until

FAR = "198.51.100.77"
WATCHED = {"vms": ("TapBinding", {"match": "a-*", "bridge": "${net.name}"})}
PROGRAM: dict[str, tuple[str, dict[str, Any]]] = {
    "net": ("Bridge", {"name": "br-a", "addresses": ["10.0.0.1/24", "fd12::1/64"]}),
    "web": ("PortForward", {"natGateway": "${nat.id}", "sourcePort": 8080, "destination": "10.0.0.11:80"}),
    "web6": ("PortForward", {"natGateway": "${nat.id}", "sourcePort": 8080, "destination": "[fd12::11]:80"}),
}


def program(*, watched: bool, **gateway: object) -> dict[str, tuple[str, dict[str, Any]]]:
    """A bridge with guests behind a gateway, and a forward of each family; whether the watcher runs."""
    inputs = {"internalInterfaces": ["${net.name}"], "enableIpv6": True, **gateway}
    first = {"net": PROGRAM["net"], **(WATCHED if watched else {}), "nat": ("NatGateway", inputs)}
    return {**first, **PROGRAM}


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A provider of the test's own: its host is rebooted, as far as a namespace can be."""
    made = Provider()
    yield made
    made.close()


def serve(lab: Lab) -> None:
    """Servers everywhere; a client far behind the second uplink, where the main table does not lead."""
    lab["outsider2"].ip(f"address replace {FAR}/32 dev lo")
    for role in ("guest1", "outsider", "outsider2"):
        lab.serve(role, "tcp:80")


def reboot(lab: Lab) -> None:
    """Nothing that lives in the kernel or in a process is left, but for the cards and the wires of the guests."""
    inside = subprocess.run(["ip", "netns", "pids", lab.host.name], capture_output=True, text=True, check=True)
    for pid in map(int, inside.stdout.split()):
        with suppress(OSError):
            if pid != os.getpid() and Path(f"/proc/{pid}/comm").read_text().strip() == "hostnet-watch":
                os.kill(pid, signal.SIGKILL)
    lab.host.nft("flush ruleset")
    lab.host.run("ip link delete br-a")
    for family in ("-4", "-6"):
        for rule in lab.host.kernel.rules():
            if rule.table >= 7100:
                lab.host.run(f"ip {family} rule delete table {rule.table}", check=False)
                lab.host.run(f"ip {family} route flush table {rule.table}", check=False)
    lab.host.sysctl("net.ipv4.ip_forward", 0)
    lab.host.sysctl("net.ipv6.conf.all.forwarding", 0)
    lab.host.sysctl("net.ipv6.conf.eth0.accept_ra", 1)


async def _restore(provider: Provider, netns: str) -> None:
    host: Any = await provider.host({"connection": {"netns": netns}})
    await host.restore()


async def _status(provider: Provider, netns: str) -> Any:
    host: Any = await provider.host({"connection": {"netns": netns}})
    return (await host.facts("status", {})).data


def down(provider: Provider, lab: Lab) -> list[str]:
    """What `hostnet status` says of the gateway."""
    data = provider.run(_status(provider, lab.host.name))
    (nat,) = (each for each in data["resources"] if each["name"] == "nat")
    found: list[str] = nat["drift"]
    return found


def default_by_eth1(lab: Lab) -> None:
    """A default route of each family that is not the preferred one."""
    lab.host.ip(
        "route add default via 203.0.113.20 dev eth1 metric 500",
        "route add ::/0 via 2001:db8:2::20 dev eth1 metric 5000",
    )


def works(lab: Lab) -> None:
    """Guests leave by the second uplink with its address, and are reached through it, from near and from far."""
    until(lambda: lab.probe("outsider2", f"tcp 203.0.113.2:8080 from {FAR}", 1).server == "guest1")
    assert lab.reaches("guest1", "tcp 203.0.113.20:80") == ("outsider2", "203.0.113.2")
    assert lab.reaches("guest1", "tcp [2001:db8:2::20]:80") == ("outsider2", "2001:db8:2::2")
    assert lab.reaches("outsider2", "tcp 203.0.113.2:8080") == ("guest1", "203.0.113.20")
    assert lab.reaches("outsider2", "tcp [2001:db8:2::2]:8080") == ("guest1", "2001:db8:2::20")
    assert lab.blocked("outsider2", "tcp 10.0.0.11:80")


MISSING = "there is no external interface eth1 now: nothing leaves or comes in by it until it is back"


@pytest.mark.parametrize("watched", [True, False], ids=["with a watcher", "without one"])
def test_a_line_that_is_missing_at_boot(lab: Lab, provider: Provider, watched: bool) -> None:  # noqa: FBT001
    """The rest works meanwhile, and no update is refused; all of it works when the line appears.

    Without a watcher the sysctls and the replies wait for the next update, and are drift until then.
    """
    lab.net.second_uplink()
    default_by_eth1(lab)
    serve(lab)
    lab.host.sysctl("net.ipv6.conf.eth1.accept_ra", 1)
    stack = Stack(provider, lab.host.name)
    stack.up(program(watched=watched, externalInterfaces=["eth0", "eth1"]))
    if not watched:
        lab.host.run("ip link set a-1 master br-a")
    works(lab)
    reboot(lab)
    lab.host.run("ip link delete eth1")
    provider.run(_restore(provider, lab.host.name))
    if not watched:
        lab.host.run("ip link set a-1 master br-a")
    assert lab.reaches("guest1", "tcp 192.0.2.20:80") == ("outsider", "192.0.2.2")
    assert lab.reaches("outsider", "tcp 192.0.2.2:8080") == ("guest1", "192.0.2.20")
    assert stack.refresh() == {}
    assert stack.warnings == [MISSING]
    assert down(provider, lab) == [MISSING]
    assert stack.again() == []
    another = ("PortForward", {**PROGRAM["web"][1], "sourcePort": 9090})
    held = dict(stack.program)
    stack.up({**held, "another": another})
    assert lab.reaches("outsider", "tcp 192.0.2.2:9090") == ("guest1", "192.0.2.20")
    with pytest.raises(HostnetError, match="there is no external interface eth1"):
        stack.up({**held, "nat": ("NatGateway", {**held["nat"][1], "mssClamp": True})})
    stack.up(held)
    stack.warnings.clear()
    lab.net.second_card()
    default_by_eth1(lab)
    if not watched:
        assert lab.reaches("guest1", "tcp 203.0.113.20:80") == ("outsider2", "203.0.113.2")
        assert lab.reaches("outsider2", "tcp 203.0.113.2:8080") == ("guest1", "203.0.113.20")
        assert set(stack.refresh()) >= {"nat"}
        assert stack.again()
    works(lab)
    until(lambda: lab.host.sysctl("net.ipv6.conf.eth1.accept_ra") == "2")
    stack.warnings.clear()
    assert stack.refresh() == {}
    assert stack.warnings == []
    assert down(provider, lab) == []
    stack.destroy()
    assert {rule.priority for rule in lab.host.kernel.rules()} == {0, 32766, 32767}


def test_a_card_that_comes_back_with_other_sysctls(lab: Lab, provider: Provider) -> None:
    """On a hardened host a new interface does not forward, and drops what comes from where no route leads."""
    lab.net.second_uplink()
    default_by_eth1(lab)
    serve(lab)
    stack = Stack(provider, lab.host.name)
    stack.up(program(watched=True, externalInterfaces=["eth0", "eth1"]))
    works(lab)
    lab.host.run("ip link delete eth1")
    until(lambda: "eth1" not in lab.host.kernel.links())
    lab.host.sysctl("net.ipv4.conf.default.forwarding", 0)
    lab.host.sysctl("net.ipv4.conf.default.rp_filter", 1)
    lab.net.second_card()
    default_by_eth1(lab)
    until(lambda: lab.host.sysctl("net.ipv4.conf.eth1.forwarding") == "1")
    until(lambda: lab.host.sysctl("net.ipv4.conf.eth1.rp_filter") == "2")
    until(lambda: lab.host.sysctl("net.ipv6.conf.eth1.accept_ra") == "2")
    works(lab)
    stack.refresh()
    stack.again()
    assert stack.refresh() == {}
    stack.destroy()


@pytest.mark.parametrize("fixed", [False, True], ids=["masquerade", "externalIp"])
@pytest.mark.parametrize("family", ["v4", "v6"])
def test_a_line_that_changes_its_address(lab: Lab, provider: Provider, family: str, fixed: bool) -> None:  # noqa: FBT001
    """Masquerade follows at once. A fixed address does not, and a refresh warns that the host does not have it."""
    old, new, far, bits = {
        "v4": ("203.0.113.2", "203.0.113.77", "203.0.113.20", 24),
        "v6": ("2001:db8:2::2", "2001:db8:2::77", "2001:db8:2::20", 64),
    }[family]
    target = f"tcp {far if family == 'v4' else f'[{far}]'}:80"
    lab.net.second_uplink()
    serve(lab)
    given = {"externalIp" if family == "v4" else "externalIpv6": old} if fixed else {}
    stack = Stack(provider, lab.host.name)
    stack.up(program(watched=True, externalInterface="eth1", **given))
    assert lab.reaches("guest1", target) == ("outsider2", old)
    lab.host.ip(f"address delete {old}/{bits} dev eth1", f"address add {new}/{bits} dev eth1")
    lab["outsider2"].ip("neigh flush all")  # it asks who has the old address, and nobody answers
    if fixed:
        assert lab.blocked("guest1", target)
        assert lab.reaches("host", target) == ("outsider2", new)
    else:
        until(lambda: lab.probe("guest1", target, 1).source == new)
    assert stack.refresh() == {}
    assert old in stack["nat.externalAddresses"] or not fixed
    warned = f"externalIp: {old} is not an address of the host now, and hostnet adds none"
    assert stack.warnings == ([warned] if fixed else [])
    if not fixed:
        assert new in stack["nat.externalAddresses"]
    stack.destroy()


@pytest.mark.parametrize("name", ["ppp0", "wg0"])
def test_a_line_without_ethernet_that_is_made_again(lab: Lab, provider: Provider, name: str) -> None:
    """A modem's or a VPN's interface is deleted with its connection: each time it is a new one of that name."""
    line = lab.net.second_line(name)
    serve(lab)
    stack = Stack(provider, lab.host.name)
    stack.up(program(watched=True, externalInterfaces=["eth0", name]))
    halves = ("0.0.0.0/1", "128.0.0.0/1") if name == "wg0" else ("default",)
    for made in range(3):
        if made:
            line.close()
            until(lambda: name not in lab.host.kernel.links())
            assert lab.reaches("guest1", "tcp 192.0.2.20:80") == ("outsider", "192.0.2.2")
            line = lab.net.second_line(name)
            lab["outsider2"].ip(f"address replace {FAR}/32 dev lo")
        lab.host.ip(*(f"route add {half} dev {name} metric 500" for half in halves))
        lab.host.ip(f"route add ::/0 dev {name} metric 5000")
        works(lab)
        until(lambda: lab.host.sysctl(f"net.ipv6.conf.{name}.accept_ra") == "2")
    stack.warnings.clear()
    assert stack.refresh() == {}
    assert stack.warnings == []
    stack.destroy()
    assert lab.host.kernel.tables() == set()
