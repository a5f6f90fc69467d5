"""What holds guests is there again after a reboot, and is never away while the host gets there.

Addresses: see tests/lab/topology.py. `guest5` is behind the TAP `vm0` and `guest6` behind `vm1`, on the bridge br-a.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.lab.driver import Program, Provider, Stack
from tests.lab.frames import Station
from tests.lab.lab import Lab
from tests.lab.taps import open_tap
from tests.lab.waiting import until

OWN, OTHER, STRAY = "02:00:00:00:00:05", "02:00:00:00:00:06", "02:00:00:00:00:77"
NET6 = ["10.0.0.1/24", "fd12::1/64"]
VNET_HEADER = bytes(10)
REPLACEMENTS = 10
RESEND = 0.02  # seconds between two honest frames
_SO_RCVBUFFORCE = 33  # <asm-generic/socket.h>
Probe = tuple[str, str]  # who, whom


@dataclass(frozen=True)
class Guarded:
    """A protection: where it is declared, what it holds, and what passes on the same path."""

    refused: tuple[Probe, ...]
    passes: tuple[Probe, ...]
    guest: tuple[tuple[str, Any], ...] = ()  # of `guest`
    tap: tuple[tuple[str, Any], ...] = ()
    bridge: tuple[tuple[str, Any], ...] = ()
    gateway: tuple[tuple[str, Any], ...] = ()

    def program(self) -> Program:
        """The stack."""
        taps = {
            role: (
                "TapBinding",
                {
                    "name": name,
                    "bridge": "${net.name}",
                    "guest": {
                        "macAddress": mac,
                        "addresses": [f"10.0.0.{mac[-1]}", f"fd12::{mac[-1]}"],
                        "antiSpoofing": False,
                        **dict(self.guest),
                    },
                    **dict(self.tap),
                },
            )
            for role, name, mac in (("own", "vm0", OWN), ("other", "vm1", OTHER))
        }
        gateway = {"internalInterfaces": ["${net.name}"], "enableIpv6": True, **dict(self.gateway)}
        return {
            "net": ("Bridge", {"name": "br-a", "addresses": NET6, **dict(self.bridge)}),
            **taps,
            "nat": ("NatGateway", gateway),
        }


GUARDED = {
    "antiSpoofing": Guarded(
        (("guest5", "tcp 10.0.0.1:8081 from 10.0.0.77"), ("guest5", "tcp [fd12::1]:8081 from fd12::77")),
        (("guest5", "tcp 10.0.0.1:8081 from 10.0.0.5"), ("guest5", "tcp [fd12::1]:8081 from fd12::5")),
        guest=(("antiSpoofing", True),),
    ),
    "dhcpServer": Guarded(
        (("guest5", "udp 10.0.0.6:68"),),
        (("guest5", "udp 10.0.0.6:80"),),
        bridge=(("dhcpServer", {}),),
    ),
    "hostAccess": Guarded(
        (("guest5", "tcp 10.0.0.1:8081"), ("guest5", "tcp [fd12::1]:8081"), ("guest5", "tcp 192.0.2.2:8081")),
        (("guest5", "icmp 10.0.0.1"), ("guest5", "icmp fd12::1")),
        bridge=(("hostAccess", "services"),),
    ),
    "egress": Guarded(
        (("guest5", "tcp 198.51.100.10:81"), ("guest5", "tcp [2001:db8:1::10]:80")),
        (("guest5", "tcp 198.51.100.10:80"),),
        gateway=(("egress", [{"cidr": "198.51.100.10/32", "protocol": "tcp", "ports": 80}]),),
    ),
    "guest.egress": Guarded(
        (("guest5", "tcp 198.51.100.10:81"), ("guest5", "tcp [2001:db8:1::10]:80")),
        (("guest5", "tcp 198.51.100.10:80"),),
        guest=(
            ("antiSpoofing", True),
            ("egress", [{"cidr": "198.51.100.10/32", "protocol": "tcp", "ports": 80}]),
        ),
    ),
    "portIsolation": Guarded(
        (("guest5", "tcp 10.0.0.6:80"), ("guest5", "tcp [fd12::6]:80")),
        (("guest5", "tcp 198.51.100.10:80"),),
        bridge=(("portIsolation", True),),
    ),
    "bandwidth": Guarded(
        (),
        (("guest5", "tcp 198.51.100.10:80"),),
        tap=(("bandwidth", {"download": "8mbit", "upload": "8mbit"}),),
    ),
}


def plug(lab: Lab) -> None:
    """Both guests; the first has addresses besides that are not its own."""
    for role, tap, mac in (("guest5", "vm0", OWN), ("guest6", "vm1", OTHER)):
        last = mac[-1]
        lab.net.plug(
            tap,
            role,
            f"address add 10.0.0.{last}/24 dev eth0",
            f"address add fd12::{last}/64 dev eth0 nodad",
            "route add default via 10.0.0.1",
            "route add ::/0 via fd12::1",
            mac=mac,
        )
        if role == "guest5":
            lab[role].ip("address add 10.0.0.77/24 dev eth0", "address add fd12::77/64 dev eth0 nodad")


def crash(lab: Lab) -> None:
    """Another program takes all tables away, under guests that run."""
    lab.host.nft("flush ruleset")


def reboot(lab: Lab) -> None:
    """Links and tables are gone."""
    lab.net.unplug()
    lab.host.ip("link delete vm0", "link delete vm1", "link delete br-a")
    lab.host.nft("flush ruleset")
    for family in ("ipv4", "ipv6"):
        lab.host.sysctl(f"net.{family}.conf.all.forwarding", 0)


async def _restore(provider: Provider, netns: str) -> None:
    host: Any = await provider.host({"connection": {"netns": netns}})
    await host.restore()


def restore(lab: Lab, stack: Stack) -> None:
    """As systemd's unit does it at boot."""
    stack.provider.run(_restore(stack.provider, lab.host.name))


def holds(lab: Lab, guarded: Guarded) -> None:
    """What passes passes, and then what is refused is refused."""
    for role, target in guarded.passes:
        lab.reaches(role, target)
    for role, target in guarded.refused:
        assert lab.blocked(role, target), target


@pytest.mark.parametrize("loss", [crash, reboot])
@pytest.mark.parametrize("name", GUARDED)
def test_it_holds_again(lab: Lab, stack: Stack, name: str, loss: Callable[[Lab], None]) -> None:
    """Each protection, after a restore; and a refresh finds nothing."""
    guarded = GUARDED[name]
    for role, ports in (("host", "tcp:8081"), ("internet", "tcp:80 tcp:81"), ("guest6", "tcp:80 udp:68 udp:80")):
        lab.serve(role, ports)
    stack.up(guarded.program())
    plug(lab)
    holds(lab, guarded)
    loss(lab)
    restore(lab, stack)
    if loss is reboot:
        plug(lab)
    holds(lab, guarded)
    assert stack.refresh() == {}
    if name == "bandwidth":
        assert "tbf" in {each.kind for each in lab.host.kernel.qdiscs() if each.device == "vm0"}
        assert "1000000 bytes/second" in lab.host.run("nft list set bridge hostnet upload_ports")
    lab.net.unplug()
    stack.destroy()


# --- and is never away in between ----------------------------------------------------------------------------------

STATION = Station(OWN, OTHER, "10.0.0.5", "10.0.0.1", "fd12::5", "fd12::1")
SPOOFED, SPOOFED_COOKIE = STATION.frame({"udp": [4000, 9], "src": STRAY, "dst": "ff:ff:ff:ff:ff:ff"})
HONEST, HONEST_COOKIE = STATION.frame({"udp": [4000, 9], "dst": "ff:ff:ff:ff:ff:ff"})


class Flood:
    """A guest that sends spoofed frames without a pause as soon as its TAP can be opened, and who hears them."""

    def __init__(self, lab: Lab) -> None:
        """Begin."""
        self.sent = 0
        self._over, self._heard = threading.Event(), threading.Event()
        self._ear = lab.host.call(_ear)
        self._guest = lab.host.submit(self._send)

    def _send(self) -> None:
        with contextlib.ExitStack() as ends:
            while not self._over.is_set():
                with contextlib.suppress(OSError):  # it is not there, or the agent has it
                    socket.if_nametoindex("vm0")
                    tap = open_tap("vm0")
                    ends.callback(os.close, tap)
                    break
            while not self._over.is_set():
                with contextlib.suppress(OSError):  # EIO: it is not up yet
                    self.sent += os.write(tap, VNET_HEADER + SPOOFED) > 0
            while not self._heard.wait(RESEND):
                os.write(tap, VNET_HEADER + HONEST)

    def end(self) -> list[bytes]:
        """End it with an honest frame; returns the spoofed ones that the bridge took in."""
        self._over.set()
        heard: list[bytes] = []

        def honest_is_heard() -> bool:
            heard.extend(_heard(self._ear))
            return any(HONEST_COOKIE in frame for frame in heard)

        try:
            until(honest_is_heard)
        finally:
            self._heard.set()
        self._guest.result()
        self._ear.close()
        return [frame for frame in heard if SPOOFED_COOKIE in frame]


def _ear() -> socket.socket:
    """Of the bridge or, where it is not there yet, of every interface."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 26)
    with contextlib.suppress(OSError):
        made.bind(("br-a", 0))
    return made


def _heard(ear: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        while True:
            frame, (link, *_) = ear.recvfrom(2048, socket.MSG_DONTWAIT)
            if link == "br-a":
                yield frame


def spoofer(stack: Stack) -> None:
    """A bridge, and a guest whose frames are checked."""
    guest = {"macAddress": OWN, "addresses": ["10.0.0.5", "fd12::5"]}
    stack.up(
        {
            "net": ("Bridge", {"name": "br-a", "addresses": NET6}),
            "own": ("TapBinding", {"name": "vm0", "bridge": "${net.name}", "guest": guest}),
        }
    )


def test_nothing_passes_while_a_host_boots(lab: Lab, stack: Stack) -> None:
    """A guest that waits for its TAP is checked from its first frame."""
    spoofer(stack)
    lab.host.ip("link delete vm0", "link delete br-a")
    lab.host.nft("flush ruleset")
    flood = Flood(lab)
    restore(lab, stack)
    until(lambda: flood.sent)
    assert flood.end() == []
    assert stack.refresh() == {}
    stack.destroy()


def test_nothing_passes_where_a_guest_is_made_again(lab: Lab, stack: Stack) -> None:
    """Nor while `up` makes a TAP that was deleted."""
    spoofer(stack)
    lab.host.ip("link delete vm0")
    assert stack.refresh() == {"own": ["gone"]}
    flood = Flood(lab)
    stack.again()
    until(lambda: flood.sent)
    assert flood.end() == []
    stack.destroy()


def test_nothing_passes_while_the_tables_are_replaced(lab: Lab, stack: Stack) -> None:
    """Old and new tables change places in one moment, under a guest that sends all the time."""
    spoofer(stack)
    flood = Flood(lab)
    until(lambda: flood.sent)
    for _ in range(REPLACEMENTS):
        sent = flood.sent
        lab.host.nft("add rule bridge hostnet guest_arp counter")
        restore(lab, stack)
        assert "counter" not in lab.host.run("nft list chain bridge hostnet guest_arp")
        until(lambda sent=sent: flood.sent > sent)  # type: ignore[misc]
    assert flood.end() == []
    stack.destroy()
