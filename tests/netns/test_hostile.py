"""A hostile guest in a real microVM: it sends all of tests/cases/untrusted/frames/hostile.json, raw.

    hostile (QEMU) --- vm0 [br-a  host  eth0] --- outsider, router (the uplink's neighbours)
    neighbour (QEMU) - vm1 [br-a  host  br-b] --- guest3

Each case says who hears its frames, and which protections hold them, each by itself: `antiSpoofing` of the guest,
`isolated` TAPs, the bridge's `hostAccess: services`, `egress`, and `served`, which is a bridge with a DHCP server and
router advertisements. What `always` holds needs none of them. `answer` is the host's answer, heard by the guest.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from tests.lab.driver import Stack
from tests.lab.frames import COOKIE, Spec, Station, opened
from tests.lab.lab import Lab
from tests.lab.probes import DOUBT, RESEND
from tests.lab.waiting import PATIENCE, until
from tests.lab.wired import WiredVm
from tests.netns.test_untrusted import NET6, OTHER, OWN, FrameCase, Program, component, frame_cases, link_local

GATEWAY, HOSTILE, NEIGHBOUR = "10.0.0.1", "10.0.0.5", "10.0.0.6"
PROTECTIONS = ("antiSpoofing", "isolated", "services", "egress", "served")
EARS = {"gateway": ("host", "br-a"), "outsider": ("outsider", "eth0"), "router": ("router", "eth0")}
EARS |= {"sibling": ("guest3", "eth0")}
ALLOWED = [{"cidr": cidr, "protocol": "tcp", "ports": 443} for cidr in ("192.0.2.20/32", "2001:db8::20/128")]
BY_NAME = {"domain": "allowed.example", "protocol": "tcp", "ports": 443}  # a list that no address is in
NOTHING = b"\x88\xb5" + bytes(46)  # an ethertype for experiments
PAUSE = 0.02  # seconds between two looks
_IPV4, _IPV6 = 0x0800, 0x86DD
_ICMP, _TCP, _UDP, _ICMP6 = 1, 6, 17, 58
_SYN_ACK = 0x12
_ports = itertools.count(20000)


def program(on: set[str]) -> Program:
    """The stack, with these protections."""
    bridge: dict[str, Any] = {"name": "br-a", "addresses": NET6}
    bridge |= {"hostAccess": "services"} if "services" in on else {}
    bridge |= {"dhcpServer": {}, "ipv6SendRa": True} if "served" in on else {}
    gateway: dict[str, Any] = {"internalInterfaces": ["${box.name}", "${other-net.name}"], "enableIpv6": True}
    gateway |= {"egress": ALLOWED} if "egress" in on else {}
    return {
        "box": ("Bridge", bridge),
        "other-net": ("Bridge", {"name": "br-b", "addresses": ["10.1.0.1/24", "fd13::1/64"]}),
        "box-tap-vm0": _tap("vm0", OWN, HOSTILE, on),
        "box-tap-vm1": _tap("vm1", OTHER, NEIGHBOUR, on),
        "siblings": ("TapBinding", {"match": "b-*", "bridge": "${other-net.name}"}),
        "box-nat": ("NatGateway", gateway),
    }


def untrusted() -> Program:
    """The same resources as a MicroVmHost with `untrusted` makes them, with a rule by name. The addresses stay."""
    all_ = program(set(PROTECTIONS))
    egress = [*ALLOWED, BY_NAME]
    made = {**all_, **component(untrusted=True, guests=["vm0", "vm1"], addresses=NET6, egress=egress)}
    for name in ("box-tap-vm0", "box-tap-vm1"):
        made[name][1]["guest"] = {**made[name][1]["guest"], **_addresses(all_[name][1]["guest"])}
    return made


def _addresses(guest: Mapping[str, Any]) -> dict[str, Any]:
    return {key: guest[key] for key in ("macAddress", "addresses")}


def _tap(name: str, mac: str, address: str, on: set[str]) -> tuple[str, dict[str, Any]]:
    addresses = [address, f"fd12::{address[-1]}"]
    guest = {"macAddress": mac, "addresses": addresses, "antiSpoofing": "antiSpoofing" in on}
    return "TapBinding", {"name": name, "bridge": "${box.name}", "isolated": "isolated" in on, "guest": guest}


@dataclass(frozen=True, eq=False)
class Shot:
    """One frame: whose case it is, what holds it from whom, and how one knows it."""

    case: str
    spec: Spec
    held: Mapping[str, list[str]]
    frame: bytes
    cookie: bytes
    ports: tuple[int, int] | None

    def is_free(self, ear: str, on: set[str]) -> bool:
        """Whether it is to be heard."""
        return not {*on, "always"} & {*self.held[ear]}

    def is_in(self, frame: bytes, ear: str) -> bool:
        """Whether a frame is this one or, for `answer`, the host's answer to it."""
        packet = Packet.read(frame)
        if ear != "answer":
            return self.cookie in frame and not (packet and packet.quotes)
        if packet is None or self.ports is None:
            return packet is not None and packet.is_echo_reply and self.cookie in frame
        return packet.ports == self.ports[::-1] and (packet.flags == _SYN_ACK or packet.protocol == _UDP)


@dataclass(frozen=True)
class Packet:
    """What matters of a packet of IP."""

    protocol: int
    body: bytes

    @classmethod
    def read(cls, frame: bytes) -> Packet | None:
        """Of a frame; None if it is another protocol's."""
        (kind,) = struct.unpack_from("!H", frame, 12)
        if kind == _IPV4:
            return cls(frame[23], frame[14 + 4 * (frame[14] & 15) :])
        return cls(frame[20], frame[54:]) if kind == _IPV6 else None

    @property
    def ports(self) -> tuple[int, int]:
        """Source and destination, if it has any."""
        source, destination = struct.unpack_from("!HH", self.body.ljust(4, b"\0"))
        return source, destination

    @property
    def flags(self) -> int:
        """Those of TCP."""
        return self.body[13] if self.protocol == _TCP else 0

    @property
    def quotes(self) -> bool:
        """Whether it is an ICMP error, which quotes what it is about."""
        return (self.protocol == _ICMP and self.body[0] in (3, 11)) or (self.protocol == _ICMP6 and self.body[0] < 128)

    @property
    def is_echo_reply(self) -> bool:
        """Whether it answers a ping."""
        return (self.protocol, self.body[0]) in ((_ICMP, 0), (_ICMP6, 129))


class World:
    """The two microVMs, and who hears besides."""

    def __init__(self, lab: Lab, hostile: WiredVm, neighbour: WiredVm) -> None:
        """All is up."""
        self._lab, self._hostile, self._neighbour = lab, hostile, neighbour
        self._sockets = {ear: lab[role].call(opened, link) for ear, (role, link) in EARS.items()}
        bridge = lab.host.kernel.links()["br-a"].mac
        near = link_local(lab.host, "br-a").partition("%")[0]
        places = {"bridge": bridge, "bridge-ll": near, "own-ll": "fe80::ff:fe00:5", "other-ll": "fe80::ff:fe00:6"}
        self._cases = frame_cases("hostile", places)
        self._station = Station(OWN, bridge, HOSTILE, GATEWAY, "fd12::5", "fd12::1")

    def close(self) -> None:
        """Close the ears."""
        for each in self._sockets.values():
            each.close()

    def shots(self, case: str = "") -> list[Shot]:
        """The frames of a case, or of all, each with a cookie and ports of its own."""
        return [self._shot(each, spec) for each in self._cases if case in each["name"] for spec in each["frames"]]

    def _shot(self, case: FrameCase, spec: Spec) -> Shot:
        fresh = {name: (spec[name][0] or next(_ports), spec[name][1]) for name in ("tcp", "udp") if name in spec}
        frame, cookie = self._station.frame({**spec, **fresh})
        return Shot(case["name"], spec, case["heard"], frame, cookie, next(iter(fresh.values()), None))

    def fire(self, on: set[str]) -> list[str]:
        """Send all of it; what is to be heard is waited for, and sent again where it was lost.

        Returns:
            What was heard although it should be held.
        """
        shots = self.shots()
        self._hear()
        expected = {(shot, ear) for shot in shots for ear in shot.held if shot.is_free(ear, on)}
        heard: set[tuple[Shot, str]] = set()
        end = time.monotonic() + PATIENCE
        while missing := expected - heard:
            assert time.monotonic() < end, f"with {sorted(on)} not heard: {_named(missing)}"
            lost = {shot for shot, _ in missing}
            self.set_right()
            self._hostile.send([shot.frame for shot in shots if shot in lost or not heard])
            self._listen(shots, expected, heard)
        self._reach_neighbour(shots, heard)
        return _named(heard - expected)

    def set_right(self) -> None:
        """Bridge and host forget what the hostile guest said of its neighbour."""
        self._lab.host.ip("neigh flush dev br-a")
        own = bytes.fromhex(OTHER.replace(":", ""))
        self._neighbour.send([b"\xff" * 6 + own + NOTHING])

    def _listen(self, shots: list[Shot], expected: set[tuple[Shot, str]], heard: set[tuple[Shot, str]]) -> None:
        end = time.monotonic() + RESEND
        while expected - heard and time.monotonic() < end:
            time.sleep(PAUSE)
            heard |= self._known(shots, self._hear())

    def _reach_neighbour(self, shots: list[Shot], heard: set[tuple[Shot, str]]) -> None:
        """What the host sends to all now, its guests hear after all that is under way to them."""
        cookie = os.urandom(COOKIE)
        got: list[tuple[str, bytes]] = []
        self._sockets["gateway"].send(
            b"\xff" * 6 + bytes.fromhex(self._station.peer_mac.replace(":", "")) + NOTHING + cookie
        )

        def reached() -> bool:
            got.extend(self._hear())
            return {ear for ear, frame in got if cookie in frame} >= {"answer", "neighbour"}

        until(reached)
        heard |= self._known(shots, got)

    def _known(self, shots: list[Shot], got: list[tuple[str, bytes]]) -> set[tuple[Shot, str]]:
        return {(shot, ear) for ear, frame in got for shot in shots if ear in shot.held and shot.is_in(frame, ear)}

    def _hear(self) -> list[tuple[str, bytes]]:
        """All that was heard since the last time: by whom, and the frame."""
        got = [("answer", frame) for frame in self._hostile.heard()]
        got += [("neighbour", frame) for frame in self._neighbour.heard()]
        return got + [(ear, frame) for ear, each in self._sockets.items() for frame in _received(each)]

    def claims_the_neighbour(self) -> str:
        """Have the guest ask in its neighbour's name, after which the host knows a MAC address: which one."""
        self.set_right()
        self._hostile.send([shot.frame for shot in self.shots("ARP requests as a neighbour")])
        return until(self._neighbour_mac)

    def _neighbour_mac(self) -> str:
        self._lab.probe("host", f"icmp {NEIGHBOUR}", DOUBT)
        found = self._lab.host.kernel.neighbours()
        return "".join(each.mac or "" for each in found if each.address == NEIGHBOUR)


def _received(ear: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        while True:
            frame, address = ear.recvfrom(2048, socket.MSG_DONTWAIT)
            if address[2] != socket.PACKET_OUTGOING:
                yield frame


def _named(found: set[tuple[Shot, str]]) -> list[str]:
    return sorted(f"{shot.case}: {dict(shot.spec)}, {ear}" for shot, ear in found)


@pytest.fixture
def world(lab: Lab, stack: Stack) -> Iterator[World]:
    """All of it, without protections."""
    for family in ("ip", "ip6"):
        lab.host.sysctl(f"net.bridge.bridge-nf-call-{family}tables", 0)  # with 1 it holds fragments back
    lab["router"].ip("address add 169.254.169.254/32 dev eth0", "address add 169.254.7.7/32 dev eth0")
    lab.host.ip("route add 169.254.0.0/16 dev eth0")
    stack.up(program(set()))
    lab.serve("host", "tcp:8081 udp:8081")
    with contextlib.ExitStack() as ends:
        ends.callback(
            lab["router"].ip, "address del 169.254.169.254/32 dev eth0", "address del 169.254.7.7/32 dev eth0"
        )
        vms = []
        for tap, mac, last in (("vm0", OWN, 5), ("vm1", OTHER, 6)):
            addresses = f"ip=10.0.0.{last}::{GATEWAY}:255.255.255.0:{tap}:eth0:off ip6=fd12::{last}/64,fd12::1"
            vms.append(WiredVm(lab.host, tap, mac, addresses))
            ends.callback(vms[-1].close)
        for vm in vms:
            vm.wait()
        made = World(lab, *vms)
        ends.callback(made.close)
        yield made


def test_a_hostile_guest(world: World, stack: Stack) -> None:
    """Without protections all arrives that is not held always; each protection holds what is its own; all hold all.

    So does `untrusted` of a MicroVmHost.
    """
    assert world.fire(set()) == []
    assert world.claims_the_neighbour() == OWN
    for one in PROTECTIONS:
        stack.up(program({one}))
        assert world.fire({one}) == [], one
    for protected in (program(set(PROTECTIONS)), untrusted()):
        stack.up(protected)
        assert world.fire(set(PROTECTIONS)) == []
        assert world.claims_the_neighbour() == OTHER
    assert stack.refresh() == {}
    stack.destroy()
