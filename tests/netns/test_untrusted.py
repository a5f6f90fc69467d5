"""Guests that nobody trusts: tests/cases/untrusted, and what needs more than a case.

Addresses: see tests/lab/topology.py; the cases' format: tests/lab/cases.py.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import pytest
from hostnet.resources.micro_vm_host import From, children

from tests.lab.cases import CASES, Case, Runner, load
from tests.lab.clients import Client, advertisement, ask, old_client
from tests.lab.driver import Stack
from tests.lab.frames import Spec, Station, opened
from tests.lab.lab import Lab
from tests.lab.namespaces import Namespace
from tests.lab.probes import DOUBT, RESEND
from tests.lab.waiting import PATIENCE, until

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


# --- the component -------------------------------------------------------------------------------------------------


def component(**given: Any) -> Program:
    """The children of a MicroVmHost `box`, as a program of their own."""
    made: Program = {}
    for child in children(given):
        inputs: dict[str, Any] = {"name": "br-a"} if not child.suffix else {}
        for name, what in child.inputs.items():
            value = given.get(what.source, what.default) if isinstance(what, From) else what
            if isinstance(what, From) and what.source == "bridge.name":
                value = ["${box.name}"] if what.listed else "${box.name}"
            if value is not None:
                inputs[name] = value
        made[f"box{child.suffix}"] = (child.token.rpartition(":")[2], inputs)
    return made


def _settle_in(lab: Lab, stack: Stack, tap: str, role: str) -> list[str]:
    """Put a guest behind its TAP, with the settings that it was given; its addresses, bare."""
    guest = stack[f"box-tap-{tap}.guest"]
    commands = [f"address add {cidr} dev eth0{' nodad' if ':' in cidr else ''}" for cidr in guest["addresses"]]
    commands += [f"route add default via {guest['gateway']}", f"route add ::/0 via {guest['gateway6']}"]
    lab.net.plug(tap, role, *commands, mac=guest["macAddress"])
    return [cidr.partition("/")[0] for cidr in guest["addresses"]]


def test_untrusted_holds_all_of_it_with_one_word(lab: Lab, stack: Stack) -> None:
    """A MicroVmHost's guests reach DHCP, DNS and nothing else; without the word they reach all of it."""
    lab.serve("host", "tcp:8081")
    lab.serve("internet", "tcp:80")
    targets = {
        "host": ["tcp 10.0.0.1:8081", "tcp [fd12:3456:789a::1]:8081", "tcp 192.0.2.2:8081"],
        "internet": ["tcp 198.51.100.10:80", "tcp [2001:db8:1::10]:80"],
    }
    for untrusted in (False, True):
        stack.up(component(untrusted=untrusted, guests=["ci-1", "ci-2"]))
        _settle_in(lab, stack, "ci-1", "guest5")
        four, six = _settle_in(lab, stack, "ci-2", "guest6")
        lab.serve("guest6", "tcp:80")
        found = {
            probe: lab.probe("guest5", probe).outcome
            for probe in (*targets["host"], *targets["internet"], f"tcp {four}:80", f"tcp [{six}]:80")
        }
        if untrusted:
            assert "reached" not in found.values(), found
            assert {found[probe] for each in targets.values() for probe in each} == {"refused"}
        else:
            assert set(found.values()) == {"reached"}, found
        for server in ("10.0.0.1", "fd12:3456:789a::1"):
            assert ask(lab["guest5"], server, "nobody.invalid") == []
        assert stack.refresh() == {}
        lab.net.unplug()
    assert lab.host.run("nft list set bridge hostnet upload_ports").count("12500000 bytes") == 2
    stack.destroy()


# --- what was refused ----------------------------------------------------------------------------------------------


def _facts(stack: Stack, name: str) -> dict[str, Any]:
    async def ask() -> dict[str, Any]:
        host = await stack.provider.host({"connection": {"netns": stack.netns}})
        return dict((await host.facts(name, {})).data)

    return stack.provider.run(ask())


def _counts(traffic: dict[str, Any]) -> dict[str, int]:
    return {each["name"]: each["refused"] for each in traffic["interfaces"]}


def test_what_is_refused_is_told_by_guest_and_destination(lab: Lab, stack: Stack) -> None:
    """For `hostnet status` and `hostnet top`: a guest's own list and its gateway's, both families, a scan of ports.

    What passes is not among it, and none of it is drift.
    """
    allowed = [{"cidr": "198.51.100.10/32", "protocol": "tcp", "ports": 80}]
    guest = {"macAddress": OWN, "addresses": ["10.0.0.5", "fd12::5"], "hostname": "ci"}
    stack.up(
        {
            "net": ("Bridge", {"name": "br-a", "addresses": NET6}),
            "vms": ("TapBinding", {"match": "a-*", "bridge": "${net.name}"}),
            "own": ("TapBinding", {"name": "vm0", "bridge": "${net.name}", "guest": {**guest, "egress": allowed}}),
            "nat": ("NatGateway", {"internalInterfaces": ["br-a"], "enableIpv6": True, "egress": allowed}),
        }
    )
    assert _facts(stack, "status")["refused"] == []
    lab.net.plug(
        "vm0",
        "guest5",
        "address add 10.0.0.5/24 dev eth0",
        "address add fd12::5/64 dev eth0 nodad",
        "route add default via 10.0.0.1",
        "route add ::/0 via fd12::1",
        mac=OWN,
    )
    lab.serve("internet", "tcp:80")
    assert lab.reaches("guest5", "tcp 198.51.100.10:80")[0] == "internet"
    refused = ["tcp 198.51.100.10:81", "udp [2001:db8:1::10]:53"]
    assert [lab.probe("guest5", probe).outcome for probe in refused] == ["refused", "refused"]
    assert lab.probe("guest1", "tcp 192.0.2.20:22").outcome == "refused"
    assert lab.blocked("guest5", "icmp 192.0.2.20")
    found = _facts(stack, "status")["refused"]
    assert {(x["name"], x["interface"], x["source"], x["destination"], x["protocol"], x["port"]) for x in found} == {
        ("ci", "vm0", "10.0.0.5", "198.51.100.10", "tcp", 81),
        ("ci", "vm0", "fd12::5", "2001:db8:1::10", "udp", 53),
        ("ci", "vm0", "10.0.0.5", "192.0.2.20", "icmp", None),
        ("", "br-a", "10.0.0.11", "192.0.2.20", "tcp", 22),
    }
    assert all(each["packets"] for each in found)
    before = _counts(_facts(stack, "traffic"))
    with lab["guest5"].socket(socket.AF_INET, socket.SOCK_DGRAM) as scanner:

        def scanned() -> bool:
            for port in range(1100):
                with contextlib.suppress(OSError):  # the answer to an earlier one
                    scanner.sendto(b"", ("198.51.100.10", 1000 + port))
            return _counts(_facts(stack, "traffic"))["vm0"] > before["vm0"] + 1024

        until(scanned)
    now = _facts(stack, "traffic")
    assert _counts(now)["br-a"] == before["br-a"] > 0
    assert 100 < len(now["refused"]) <= 1024 + len(found)
    assert lab.probe("guest5", "tcp 198.51.100.10:4444").outcome == "refused"
    assert stack.refresh() == {}
    stack.destroy()


# --- frames --------------------------------------------------------------------------------------------------------

OWN, OTHER = "02:00:00:00:00:05", "02:00:00:00:00:06"
ALLOWED = ["10.0.0.100/32", "172.16.0.0/22", "fd12::100/128", "fd77::/64"]
FrameCase = Mapping[str, Any]


def frame_cases(name: str, places: Mapping[str, str]) -> list[FrameCase]:
    """The cases of tests/cases/untrusted/frames/<name>.json.

    Args:
        name: The file.
        places: What takes the place of `<…>`.
    """
    text = (CASES / "untrusted" / "frames" / f"{name}.json").read_text()
    for place, value in places.items():
        text = text.replace(f"<{place}>", value)
    found: list[FrameCase] = json.loads(text)["cases"]
    return found


class Wire:
    """From a guest's end of its TAP to somebody who hears, frame by frame."""

    def __init__(self, sender: Namespace, receiver: Namespace, station: Station) -> None:
        """Both have an `eth0`."""
        self._sender, self._receiver = sender.call(opened, "eth0"), receiver.call(opened, "eth0")
        self._station = station

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._sender.close()
        self._receiver.close()

    def arrived(self, first: list[Spec], expected: list[Spec]) -> list[Spec]:
        """Which of some frames arrive; they are sent before others, which are waited for.

        Args:
            first: These.
            expected: The others: one that is lost on a busy machine is sent again.
        """
        sent = [(spec, *self._station.frame(spec)) for spec in (*first, *expected)]
        waiting = {cookie for _, _, cookie in sent[len(first) :]}
        seen: set[bytes] = set()
        end = time.monotonic() + PATIENCE
        while waiting - seen and time.monotonic() < end:
            for _, frame, cookie in sent:
                if cookie not in seen:
                    self._sender.send(frame)
            self._listen(sent, waiting, seen)
        assert waiting <= seen, f"does not pass: {[spec for spec, _, cookie in sent if cookie in waiting - seen]}"
        return [spec for spec, _, cookie in sent[: len(first)] if cookie in seen]

    def _listen(self, sent: list[tuple[Spec, bytes, bytes]], waiting: set[bytes], seen: set[bytes]) -> None:
        end = time.monotonic() + RESEND
        while waiting - seen and (left := end - time.monotonic()) > 0:
            self._receiver.settimeout(left)
            try:
                heard = self._receiver.recv(2048)
            except TimeoutError:
                return
            seen |= {cookie for _, _, cookie in sent if cookie in heard}

    def speak(self) -> None:
        """The receiver says where it is: a bridge learns it."""
        self._receiver.send(
            b"\xff" * 6 + bytes.fromhex(self._station.peer_mac.replace(":", "")) + b"\x88\xb5" + bytes(46)
        )


def bridged(lab: Lab, stack: Stack, guest: dict[str, Any], **bridge: Any) -> Station:
    """Two guests on a bridge: `guest5`, behind `vm0`, and `guest6`, who hears. Returns the first.

    Args:
        lab: The laboratory.
        stack: An empty stack.
        guest: Further properties of the first one.
        bridge: Further properties of the bridge.
    """
    stack.up(
        {
            "net": ("Bridge", {"name": "br-a", "addresses": NET6, **bridge}),
            "own": _tap("vm0", OWN, 5, **guest),
            "other": _tap("vm1", OTHER, 6),
        }
    )
    lab.net.plug("vm0", "guest5", mac=OWN)
    lab.net.plug("vm1", "guest6", mac=OTHER)
    return Station(OWN, OTHER, "10.0.0.5", "10.0.0.6", "fd12::5", "fd12::6")


def _tap(name: str, mac: str, number: int, **guest: Any) -> tuple[str, dict[str, Any]]:
    addresses = [f"10.0.0.{number}", f"fd12::{number}"]
    inputs = {"macAddress": mac, "addresses": addresses, **guest}
    return "TapBinding", {"name": name, "bridge": "${net.name}", "guest": inputs}


def _places(lab: Lab) -> dict[str, str]:
    return {
        "bridge": lab.host.kernel.links()["br-a"].mac,
        "bridge-ll": link_local(lab.host, "br-a").partition("%")[0],
        "own-ll": "fe80::ff:fe00:5",
        "other-ll": "fe80::ff:fe00:6",
    }


def test_what_is_dropped_is_counted_by_tap(lab: Lab, stack: Stack) -> None:
    """For `hostnet status` and `hostnet top`: a guest on a bridge, one behind a routed TAP, a port of no guest."""
    station = bridged(lab, stack, {}, dhcpServer={})
    places = _places(lab)
    cases = {case["name"]: case for case in frame_cases("bridged", places)}
    with Wire(lab["guest5"], lab["guest6"], station) as wire:
        passes: list[Spec] = [{"udp": [4000, 9]}]
        wire.arrived([], passes)
        assert _facts(stack, "status")["dropped"] == {}
        stray: list[Spec] = [{"udp": [4000, 9], "saddr": "10.0.0.77"}, {"udp": [4000, 9], "src": OTHER}]
        stray += cases["a DHCP server"]["refused"]
        assert wire.arrived(stray, passes) == []
    assert _facts(stack, "status")["dropped"]["vm0"] >= len(stray)
    shown = {each["name"]: each["dropped"] for each in _facts(stack, "traffic")["interfaces"]}
    assert (shown["vm0"] >= len(stray), shown["vm1"]) == (True, 0)
    assert stack.refresh() == {}
    lab.net.unplug()
    stack.up(
        {
            "own": (
                "TapBinding",
                {
                    "name": "vm2",
                    "addresses": ["10.2.0.1/32"],
                    "routes": ["10.2.0.5/32"],
                    "guest": {"macAddress": OWN, "antiSpoofing": True},
                },
            )
        }
    )
    addresses = ["address add 10.2.0.5/32 dev eth0", "address add 10.2.0.9/32 dev eth0", "route add 10.2.0.1 dev eth0"]
    lab.net.plug("vm2", "guest5", *addresses, mac=OWN)
    lab.serve("host", "tcp:8081")
    assert lab.reaches("guest5", "tcp 10.2.0.1:8081")[0] == "host"
    assert "dropped" in _facts(stack, "status")
    assert lab.blocked("guest5", "udp 10.2.0.1:9 from 10.2.0.9")
    assert _facts(stack, "status")["dropped"]["vm2"] > 0
    stack.destroy()


@pytest.mark.parametrize("nf", [0, 1])
def test_a_guest_sends_as_itself_alone(lab: Lab, stack: Stack, *, nf: int) -> None:
    """tests/cases/untrusted/frames/bridged.json: what is refused does not reach the neighbour, what passes does."""
    for family in ("ip", "ip6"):
        lab.host.sysctl(f"net.bridge.bridge-nf-call-{family}tables", nf)
    station = bridged(lab, stack, {"allowedAddresses": ALLOWED})
    wrong: list[tuple[str, object]] = []
    with Wire(lab["guest5"], lab["guest6"], station) as wire:
        for case in frame_cases("bridged", _places(lab)):
            try:
                wrong += [(case["name"], spec) for spec in wire.arrived(case["refused"], case["passes"])]
            except AssertionError as error:
                wrong.append((case["name"], error))
    assert not wrong
    assert stack.refresh() == {}
    stack.destroy()


def test_without_anti_spoofing_all_of_it_arrives(lab: Lab, stack: Stack) -> None:
    """So the frames of the test before are good ones, and the neighbour would hear them."""
    for family in ("ip", "ip6"):
        lab.host.sysctl(f"net.bridge.bridge-nf-call-{family}tables", 0)  # with 1 it holds fragments back
    station = bridged(lab, stack, {"antiSpoofing": False, "allowedAddresses": ALLOWED})
    with Wire(lab["guest5"], lab["guest6"], station) as wire:
        for case in frame_cases("bridged", _places(lab)):
            frames = [spec for spec in case["refused"] if int(spec.get("src", OWN)[:2], 16) % 2 == 0]
            wire.speak()
            assert wire.arrived([], [*frames, *case["passes"]]) == []
    stack.destroy()


# Reserved group addresses: STP's, one that no protocol here has, LLDP's. Their frames have a path of their own.
GROUPS = [f"01:80:c2:00:00:{last}" for last in ("00", "03", "0e")]
STRAY = "02:00:00:00:00:77"
# A bridge with priority 0 that says to be the root (IEEE 802.1D, 9.3.1).
SUPERIOR = bytes.fromhex(
    GROUPS[0].replace(":", "") + OWN.replace(":", "") + "0026424203" + "0000000000"
    "0000" + OWN.replace(":", "") + "00000000" + "0000" + OWN.replace(":", "") + "8001" + "0000140002000f00"
)


def learned(lab: Lab) -> bool:
    """Whether the bridge believes that STRAY is behind `vm0`."""
    return STRAY in lab.host.run("bridge fdb show dev vm0")


@pytest.mark.parametrize("stp", [False, True])
def test_reserved_group_addresses_lead_past_no_rule(lab: Lab, stack: Stack, *, stp: bool) -> None:
    """The kernel takes their frames before nftables sees them, learns their source, and obeys those of STP.

    The port of a guest that is checked treats them as any other frame.
    """
    station = bridged(lab, stack, {})
    program: Program = {
        "net": ("Bridge", {"name": "br-a", "addresses": NET6, "stp": stp}),
        "own": _tap("vm0", OWN, 5),
        "other": _tap("vm1", OTHER, 6),
    }
    stack.up(program)  # by an update: its ports forward already
    frames: list[Spec] = [{"raw": 0x88CC, "src": STRAY, "dst": group} for group in GROUPS]
    with lab["guest5"].call(opened, "eth0") as raw, Wire(lab["guest5"], lab["guest6"], station) as wire:

        def dropped() -> int:
            return int(_facts(stack, "status")["dropped"].get("vm0", 0))

        def send() -> list[Spec]:
            return wire.arrived(frames, [{"udp": [4000, 9]}])

        assert send() == []
        assert not learned(lab)
        before = dropped()
        assert before >= len(frames)
        # The kernel's STP hears nothing outside of the machine's own namespace (Linux 6.18): the rules have it.
        raw.send(SUPERIOR)
        until(lambda: dropped() > before)
        lab.host.ip("link set vm0 type bridge_slave group_fwd_mask 0")
        assert stack.refresh() == {"own": ["guest.antiSpoofing"]}
        stack.up(program)
        assert stack.refresh() == {}
        assert send() == []
        assert not learned(lab)
        program["own"] = _tap("vm0", OWN, 5, antiSpoofing=False)
        stack.up(program)
        assert stack.refresh() == {}
        # Where the kernel does no STP, it forwards STP's.
        assert send() == ([] if stp else frames[:1])
        until(lambda: learned(lab))
    stack.destroy()


class Asker:
    """A guest behind a routed TAP that says in ARP whatever it likes, and hears the host's answers."""

    def __init__(self, guest: Namespace, host_mac: str) -> None:
        """Its `eth0` is plugged in."""
        self._raw = guest.call(opened, "eth0")
        self._station = Station(OWN, host_mac, "10.2.0.5", "10.2.0.1", "::", "::")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._raw.close()

    def answered(self, *specs: Spec) -> list[Spec]:
        """Which of these get an answer from the host; an honest request comes after them, and is waited for."""
        honest: Spec = {"arp": "request"}
        end = time.monotonic() + PATIENCE
        heard: set[bytes] = set()
        while self._asked(honest) not in heard:
            assert time.monotonic() < end, "an honest request gets no answer"
            for spec in (*specs, honest):
                self._raw.send(self._station.frame(spec)[0])
            self._listen(heard, self._asked(honest))
        return [spec for spec in specs if self._asked(spec) in heard]

    def _asked(self, spec: Spec) -> bytes:
        """As whom: the answer goes there."""
        return socket.inet_aton(spec.get("spa", "10.2.0.5"))

    def _listen(self, heard: set[bytes], last: bytes) -> None:
        end = time.monotonic() + RESEND
        while last not in heard and (left := end - time.monotonic()) > 0:
            self._raw.settimeout(left)
            try:
                frame = self._raw.recv(2048)
            except TimeoutError:
                return
            if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2" and frame[28:32] == socket.inet_aton("10.2.0.1"):
                heard.add(frame[38:42])


def test_behind_a_routed_tap_a_guest_says_in_arp_who_it_is(lab: Lab, stack: Stack) -> None:
    """The host answers nobody else there, and keeps what it knows of its neighbours."""
    guest: dict[str, Any] = {"macAddress": OWN, "addresses": ["10.2.0.5"], "allowedAddresses": ["10.2.0.64/28"]}
    tap: dict[str, Any] = {"name": "vm2", "addresses": ["10.2.0.1/24"], "routes": ["10.3.0.0/28"], "guest": guest}
    program: Program = {"own": ("TapBinding", tap)}
    stack.up(program)
    lab.net.plug("vm2", "guest5", mac=OWN)
    lab.host.sysctl("net.ipv4.neigh.vm2.locktime", 0)  # else a neighbour is believed once a second
    poison: Spec = {"arp": "reply", "spa": "10.2.0.8"}
    stray: list[Spec] = [
        {"arp": "request", "spa": "10.2.0.9"},
        {"arp": "request", "spa": "10.2.0.10", "tpa": "10.2.0.1"},
        {"arp": "request", "spa": "10.2.0.6", "sha": OTHER},
    ]
    own: list[Spec] = [
        {"arp": "request", "spa": "10.2.0.65"},
        {"arp": "request", "spa": "10.3.0.3"},
        {"arp": "request", "spa": "0.0.0.0"},  # noqa: S104 - duplicate address detection
    ]

    def known() -> dict[str, str]:
        words = [line.split() for line in lab.host.run("ip neigh show dev vm2").splitlines()]
        return {each[0]: each[2] for each in words if "lladdr" in each}

    with Asker(lab["guest5"], lab.host.kernel.links()["vm2"].mac) as asker:
        lab.host.ip(f"neigh replace 10.2.0.8 lladdr {OTHER} dev vm2 nud stale")
        assert asker.answered(poison, *stray, *own) == own
        assert known()["10.2.0.8"] == OTHER
        assert not {"10.2.0.10", "10.2.0.6"} & known().keys()
        assert _facts(stack, "status")["dropped"]["vm2"] >= len(stray)
        lab.host.nft('delete element arp hostnet arp_links { "vm2" }')
        assert stack.refresh() == {"own": ["guest.antiSpoofing"]}
        assert asker.answered(stray[0]) == stray[:1]
        stack.up(program)
        assert stack.refresh() == {}
        assert asker.answered(*stray) == []
        program["own"] = ("TapBinding", {**tap, "guest": {**guest, "antiSpoofing": False, "allowedAddresses": []}})
        stack.up(program)
        lab.host.ip(f"neigh replace 10.2.0.8 lladdr {OTHER} dev vm2 nud stale")
        assert asker.answered(poison, *stray) == stray
        until(lambda: known().get("10.2.0.8") == OWN)
    assert stack.refresh() == {}
    stack.destroy()


# --- ports of bridges that serve -----------------------------------------------------------------------------------

SERVERS = ("a DHCP server", "a DHCPv6 server", "a router", "a router that hides in fragments", "redirects")


def served(stack: Stack, bridge: dict[str, Any]) -> tuple[Station, list[FrameCase]]:
    """Two guests that are not declared, on a bridge, and the frames of servers and routers that one of them sends."""
    stack.up(
        {
            "net": ("Bridge", {"name": "br-a", "addresses": NET6, **bridge}),
            "vms": ("TapBinding", {"match": "a-*", "bridge": "${net.name}"}),
        }
    )
    macs = "02:00:00:00:00:01", "02:00:00:00:00:02"
    places = {"own-ll": "fe80::ff:fe00:1"}
    cases = [case for case in frame_cases("bridged", places) if case["name"] in SERVERS]
    assert len(cases) == len(SERVERS)
    return Station(*macs, "10.0.0.11", "10.0.0.12", "fd12::11", "fd12::12"), cases


@pytest.mark.parametrize("bridge", [{"dhcpServer": {}}, {"ipv6SendRa": True}], ids=["dhcp", "advertisements"])
@pytest.mark.parametrize("nf", [0, 1])
def test_no_port_serves_in_the_bridges_place(lab: Lab, stack: Stack, bridge: dict[str, Any], *, nf: int) -> None:
    """Whichever of the two it serves: its ports are neither DHCP servers nor routers (RFC 7610, RFC 6105)."""
    for family in ("ip", "ip6"):
        lab.host.sysctl(f"net.bridge.bridge-nf-call-{family}tables", nf)
    station, cases = served(stack, bridge)
    with Wire(lab["guest1"], lab["guest2"], station) as wire:
        for case in cases:
            assert wire.arrived(case["refused"], case["passes"]) == [], case["name"]
    assert stack.refresh() == {}
    stack.destroy()


def test_a_bridge_that_serves_nothing_leaves_that_to_its_ports(lab: Lab, stack: Stack) -> None:
    """So the frames of the test before are good ones."""
    for family in ("ip", "ip6"):
        lab.host.sysctl(f"net.bridge.bridge-nf-call-{family}tables", 0)
    station, cases = served(stack, {})
    with Wire(lab["guest1"], lab["guest2"], station) as wire:
        for case in cases:
            assert wire.arrived([], [*case["refused"], *case["passes"]]) == []
    stack.destroy()


def test_a_port_that_joins_later_cannot_serve_either(lab: Lab, stack: Stack, client: Client) -> None:
    """The watcher attaches it, and notes it in the table."""
    program: Program = {
        "net": ("Bridge", {"name": "br-a", "addresses": NET6, "dhcpServer": {}}),
        "vms": ("TapBinding", {"match": "late-*", "bridge": "${net.name}"}),
    }
    stack.up(program)
    lab.host.ip("link set vm-1 name late-1")
    until(lambda: "late-1" in lab.host.run("nft list set bridge hostnet served_ports", check=False))
    assert stack.refresh() == {}
    assert client.udhcpc()["router"] == "10.0.0.1"
    stack.destroy()


def test_a_guest_makes_its_own_addresses_and_leases(lab: Lab, stack: Stack) -> None:
    """On a bridge with DHCP and router advertisements anti-spoofing leaves both to a guest, with SLAAC's addresses.

    It may take no address of the prefix that another guest or the host has.
    """
    served = {"dhcpServer": {}, "ipv6SendRa": True}
    station = bridged(lab, stack, {}, **served)
    guest = lab["guest5"]
    guest.sysctl("net.ipv6.conf.eth0.accept_ra", 1)
    assert advertisement(guest)["prefixes"] == ["fd12::/64"]
    until(lambda: "fd12::ff:fe00:5/64" in guest.kernel.links()["eth0"].addresses)
    lab.serve("host", "tcp:8081")
    # While duplicate address detection goes on, the guest sends from its link-local address.
    until(lambda: lab.probe("guest5", "tcp [fd12::1]:8081").source == "fd12::ff:fe00:5")
    assert old_client(guest, OWN) in ("whole", "none")
    free: Spec = {"udp": [4000, 9], "saddr": "fd12::abcd"}
    refused: list[Spec] = [{**free, "saddr": address} for address in ("fd12::6", "fd12::1")]
    refused += [{"na": "fd12::6"}, {"na": "fd12::1"}]
    passes: list[Spec] = [free, {"na": "fd12::abcd", "saddr": "fd12::abcd"}]
    with Wire(guest, lab["guest6"], station) as wire:
        assert wire.arrived(refused, passes) == []
    stack.destroy()
