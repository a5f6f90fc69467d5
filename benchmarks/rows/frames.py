"""Frames from one guest to another of its bridge, with and without anti-spoofing, by the number of declared guests.

Compared in alternating rounds: the same bridge with GUESTS="1 1000" guests beside the receiver, with `antiSpoofing` and
without it. One thread writes a frame into the sender's TAP and reads it from the receiver's, as two hypervisors would:
the write does all that the kernel does with a frame. What is counted is frames for each second of that thread's CPU
time, for SECONDS=0.2, and the time from the write to the end of the read. Beside them, without any of hostnet's rules:
a bridge alone, and one with the least rule that can tell one guest from another, a look-up of the TAP's name.

    vm0 10.0.1.0, fd12::100 ---+ br0 10.0.0.1/16, fd12::1/64 +--- vm<last>
"""

from __future__ import annotations

import contextlib
import os
import select
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from hostnet.wire.errors import HostnetError
from hostnet.wire.objects import Address, Guest, Link, Object, Port
from hostnet.wire.requests import Change

from benchmarks.measure import Figure, rounds
from tests.lab.frames import Station
from tests.lab.inside import open_host
from tests.lab.namespaces import Namespace
from tests.lab.taps import open_tap

TITLE = "Frames of guests"
SECONDS = float(os.environ.get("SECONDS", "0.2"))
COUNTS = [int(word) for word in os.environ.get("GUESTS", "1 1000").split()]
LEAST = 0.95  # of what passes without anti-spoofing
NOTE = (
    "The figures are ratios to the same number of guests without anti-spoofing, or to a bridge without any rules, of "
    "the same round. Counted is what is done in a second of CPU time of the thread that sends and receives."
)
_FLOOR = """
table bridge floor {
  set taps { type ifname; elements = { "vm0" } }
  chain prerouting {
    type filter hook prerouting priority -310; policy accept;
    iifname @taps accept
  }
}
"""
_BARE = {"no rules": "", "one look-up": _FLOOR}
_WARM_UP = 200  # frames
_CHUNK = 50
_VNET_HEADER = bytes(10)
_ETHERNET = slice(10, 24)
FAMILIES = ("IPv4", "IPv6")


def _mac(number: int) -> str:
    return f"02:00:00:01:{number >> 8:02x}:{number & 255:02x}"


def _addresses(number: int) -> tuple[str, str]:
    return f"10.0.{1 + (number >> 8)}.{number & 255}", f"fd12::{0x100 + number:x}"


class Bench:
    """A bridge with guests; the first sends to one more, which is not checked."""

    def __init__(self, count: int, number: int, directory: Path, *, checked: bool, rules: str | None = None) -> None:
        """Make it.

        Args:
            count: How many guests there are beside the receiver.
            number: Makes the namespace's name unique.
            directory: For the record of hostnet.
            checked: Whether all of them are checked.
            rules: What is in nftables in place of hostnet's tables.
        """
        self.host = Namespace(f"f{number}")
        for family in ("ip", "ip6"):
            self.host.sysctl(f"net.bridge.bridge-nf-call-{family}tables", 0)  # else the IP firewall is most of a frame
        self._declare(count, directory / str(number), checked=checked)
        if rules is not None:
            self.host.nft(f"flush ruleset\n{rules}")
        receiver = f"vm{count}"
        self._sender, self._receiver = (self.host.call(open_tap, tap) for tap in ("vm0", receiver))
        for descriptor in (self._sender, self._receiver):
            os.set_blocking(descriptor, True)
        own, other = _addresses(0), _addresses(count)
        station = Station(_mac(0), _mac(count), own[0], other[0], own[1], other[1])
        self._frames = {
            name: _VNET_HEADER + station.frame({"udp": [4000, 9], "daddr": address})[0]
            for name, address in zip(FAMILIES, other, strict=True)
        }
        self._introduce(other[0], _mac(count))

    def _declare(self, count: int, state: Path, *, checked: bool) -> None:
        host = open_host(self.host, state)
        bridge = (Link("br0", "bridge"), Address("br0", "10.0.0.1/16"), Address("br0", "fd12::1/64"))
        owners: list[tuple[str, str, tuple[Object, ...]]] = [("Bridge", "br0", bridge)]
        for each in range(count + 1):
            name = f"vm{each}"
            guest = Guest(name, "br0", _mac(each), _addresses(each), anti_spoofing=checked, unlimited=True)
            owners.append(("TapBinding", name, (Link(name, "tap"), Port(name, "br0"), guest)))
        changes = [
            Change(f"urn:pulumi:s::p::hostnet:index:{kind}::{name}", name, objects) for kind, name, objects in owners
        ]
        for outcome in self.host.call(host.apply, changes):
            if isinstance(outcome, HostnetError):
                raise outcome

    def _introduce(self, address: str, mac: str) -> None:
        """Wait until the ports forward, and the bridge knows where the receiver is."""
        arp, _ = Station(mac, "ff:ff:ff:ff:ff:ff", address, address, "::", "::").frame({"arp": "reply"})
        frame, heard = self._frames["IPv4"], b""
        while heard[_ETHERNET] != frame[_ETHERNET]:
            os.write(self._receiver, _VNET_HEADER + arp)
            os.write(self._sender, frame)
            while select.select([self._receiver], [], [], 0.01)[0] and heard[_ETHERNET] != frame[_ETHERNET]:
                heard = os.read(self._receiver, 2048)

    def _pass(self, frame: bytes) -> None:
        """One frame, from guest to guest; what else the receiver hears is left out."""
        os.write(self._sender, frame)
        while os.read(self._receiver, 2048)[_ETHERNET] != frame[_ETHERNET]:
            pass

    def rate(self, name: str) -> float:
        """Frames for each second of CPU time."""
        frame = self._frames[name]
        for _ in range(_WARM_UP):
            self._pass(frame)
        start, done = time.thread_time(), 0
        while time.thread_time() < start + SECONDS:
            for _ in range(_CHUNK):
                self._pass(frame)
            done += _CHUNK
        return done / (time.thread_time() - start)

    def latency(self, name: str) -> float:
        """The median time of one frame, in µs."""
        frame = self._frames[name]
        times = []
        for _ in range(_WARM_UP * 10):
            start = time.perf_counter()
            self._pass(frame)
            times.append(time.perf_counter() - start)
        return statistics.median(times) * 1e6

    def close(self) -> None:
        """Delete it."""
        for descriptor in (self._sender, self._receiver):
            os.close(descriptor)
        self.host.delete()


def measure() -> list[Figure]:
    """Measure all in alternating rounds."""
    rates: dict[tuple[str, str], list[float]] = {}
    times: dict[tuple[str, int, bool], list[float]] = {}
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        benches: dict[tuple[int, bool], Bench] = {}
        for number, key in enumerate((count, checked) for count in COUNTS for checked in (False, True)):
            benches[key] = Bench(key[0], number, Path(directory), checked=key[1])
            stack.callback(benches[key].close)
        bare: dict[str, Bench] = {}
        for number, (what, rules) in enumerate(_BARE.items(), len(benches)):
            bare[what] = Bench(1, number, Path(directory), checked=False, rules=rules)
            stack.callback(bare[what].close)
        for _ in range(rounds(12)):
            for name in FAMILIES:
                for what, ratio in _ratios(name, benches, bare):
                    rates.setdefault((name, what), []).append(ratio)
                for (count, checked), bench in benches.items():
                    times.setdefault((name, count, checked), []).append(bench.latency(name))
    return list(_figures(rates, times))


def _ratios(
    name: str, benches: Mapping[tuple[int, bool], Bench], bare: Mapping[str, Bench]
) -> Iterator[tuple[str, float]]:
    """What is compared in a round, and the ratio."""
    nothing, floor = (bare[what].rate(name) for what in _BARE)
    yield "one look-up, to no rules", floor / nothing
    for count in COUNTS:
        without, with_ = (benches[count, checked].rate(name) for checked in (False, True))
        guests = f"{count:,} guest{'s' if count > 1 else ''}"
        yield guests, with_ / without
        yield f"{guests}, to no rules", with_ / nothing


def _figures(
    rates: dict[tuple[str, str], list[float]], times: dict[tuple[str, int, bool], list[float]]
) -> Iterator[Figure]:
    for (name, what), ratios in rates.items():
        limit = None if what.endswith("no rules") else LEAST
        yield Figure(
            f"frames a second, {name}, {what}", "x", statistics.median(ratios), limit=limit, more=True, note=NOTE
        )
    for name, count in dict.fromkeys((name, count) for name, count, _ in times):
        without, with_ = (statistics.median(times[name, count, checked]) for checked in (False, True))
        what = f"{name}, {count:,} guest{'s' if count > 1 else ''}"
        yield Figure(f"latency, {what}", "µs", with_, bare=without, limit=without / LEAST, note=NOTE)
