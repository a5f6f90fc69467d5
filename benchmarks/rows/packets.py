"""What a packet costs: new connections a second and one TCP stream through the rules of hostnet, by number of forwards.

`python -m benchmarks.rows.packets` compares, in one run and in alternating rounds: plain routing, a bare map, and
hostnet with N forwards, for FORWARDS="1 1000 10000 60000", plain, with `listenAddresses` and with `sourceCidrs`,
IPv4 and IPv6, through the first and the last forward. Each figure is the median of ROUNDS rounds, as a ratio of the
plain routing of its round. It needs root; everything is in network namespaces of its own:

    client 198.51.100.2, 2001:db8:1::2 --- eth0 host br0 --- guest 10.0.0.2, fd12::2
"""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hostnet.wire.errors import HostnetError
from hostnet.wire.objects import Address, Forward, Forwarding, Gateway, Link, Object
from hostnet.wire.requests import Change

from tests.lab.inside import open_host
from tests.lab.namespaces import Namespace, _enter

COUNTS = [int(word) for word in os.environ.get("FORWARDS", "1 1000 10000 60000").split()]
ROUNDS = int(os.environ.get("ROUNDS", "6"))
SECONDS = float(os.environ.get("SECONDS", "0.7"))
FIRST = 2000  # the first forwarded port
PORT = 9000  # where the guest listens
CLIENT = {4: "198.51.100.2", 6: "2001:db8:1::2"}
HOST = {4: "198.51.100.1", 6: "2001:db8:1::1"}
GUEST = {4: "10.0.0.2", 6: "fd12::2"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
NEIGHBOURS = {4: "198.51.100.0/24", 6: "2001:db8:1::/64"}
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST, so that no TIME_WAIT uses up the client's ports
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Variant:
    """Which forwards a host has.

    Args:
        name: as the table of results calls it.
        count: how many; 0: plain routing, without hostnet.
        listen: with `listenAddresses`.
        sources: with `sourceCidrs`.
        bare: a bare nftables map in place of hostnet.
    """

    name: str
    count: int
    listen: bool = False
    sources: bool = False
    bare: bool = False

    def forwards(self, version: int) -> Iterator[Forward]:
        """The forwards of one family."""
        for port in range(FIRST, FIRST + self.count):
            yield Forward(
                f"ipv{version}",  # type: ignore[arg-type]
                ("tcp",),
                (port, port),
                GUEST[version],
                (PORT, PORT),
                gateway="nat",
                listen=(HOST[version],) if self.listen else (),
                sources=(NEIGHBOURS[version],) if self.sources else (),
            )


class Bench:
    """Client, host and guest of one variant."""

    def __init__(self, variant: Variant, number: int, directory: Path) -> None:
        """Make the namespaces and what the host has.

        Args:
            variant: which forwards.
            number: makes the namespaces' names unique.
            directory: for the record of hostnet.
        """
        self.variant = variant
        self.client, self.host, self.guest = (Namespace(f"{role}{number}") for role in ("c", "h", "g"))
        self._wire()
        if variant.bare:
            self._bare()
        elif variant.count:
            self._hostnet(directory / str(number))
        self._listeners = [self._serve(version) for version in (4, 6)]

    def _wire(self) -> None:
        host = self.host
        host.ip(
            f"link add eth0 type veth peer name eth0 netns {self.client.name}",
            f"link add vm0 type veth peer name eth0 netns {self.guest.name}",
            "link set eth0 up",
            "addr add 198.51.100.1/24 dev eth0",
            "addr add 2001:db8:1::1/64 dev eth0 nodad",
        )
        self.client.ip(
            "link set eth0 up",
            "addr add 198.51.100.2/24 dev eth0",
            "addr add 2001:db8:1::2/64 dev eth0 nodad",
            "route add default via 198.51.100.1",
            "route add default via 2001:db8:1::1",
        )
        if not self.variant.count or self.variant.bare:
            host.ip(
                "link add br0 type bridge",
                "link set br0 up",
                "addr add 10.0.0.1/24 dev br0",
                "addr add fd12::1/64 dev br0 nodad",
            )
            host.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
        self.guest.ip(
            "link set eth0 up",
            "addr add 10.0.0.2/24 dev eth0",
            "addr add fd12::2/64 dev eth0 nodad",
            "route add default via 10.0.0.1",
            "route add default via fd12::1",
        )
        if not self.variant.count or self.variant.bare:
            host.ip("link set vm0 master br0 up")

    def _bare(self) -> None:
        ports = range(FIRST, FIRST + self.variant.count)
        maps = "".join(
            f"map m{version} {{ type inet_proto . inet_service : ipv{version}_addr . inet_service;"
            f" elements = {{ {', '.join(f'tcp . {port} : {GUEST[version]} . {PORT}' for port in ports)} }} }}\n"
            for version in (4, 6)
        )
        rules = "\n".join(
            f"meta l4proto {{ tcp, udp }} dnat {ip} to meta l4proto . th dport map @m{version}"
            for version, ip in ((4, "ip"), (6, "ip6"))
        )
        hook = "type nat hook prerouting priority dstnat; fib daddr type != local accept"
        self.host.nft(f"table inet bare {{ {maps} chain prerouting {{ {hook}\n{rules}\n}}\n}}\n")

    def _hostnet(self, state: Path) -> None:
        host = open_host(self.host, state)
        bridge: tuple[Object, ...] = (
            Link("br0", "bridge"),
            Address("br0", "10.0.0.1/24"),
            Address("br0", "fd12::1/64"),
        )
        gateway = Gateway("nat", "eth0", internal=("br0",), nat6=True)
        forwards = (forward for version in (4, 6) for forward in self.variant.forwards(version))
        changes = [
            Change("urn:pulumi:s::p::hostnet:index:Bridge::br0", "br0", bridge),
            Change(
                "urn:pulumi:s::p::hostnet:index:NatGateway::nat",
                "nat",
                (gateway, Forwarding("ipv4"), Forwarding("ipv6"), *forwards),
            ),
        ]
        for outcome in self.host.call(host.apply, changes):
            if isinstance(outcome, HostnetError):
                raise outcome
        self.host.ip("link set vm0 master br0 up")

    def _serve(self, version: int) -> socket.socket:
        listener = self.guest.call(socket.create_server, ("", PORT), family=FAMILY[version], backlog=4096)
        listener.settimeout(None)
        threading.Thread(target=_accept, args=(listener,), daemon=True).start()
        return listener

    def target(self, version: int, *, last: bool) -> tuple[str, int]:
        """Where the client connects to."""
        if not self.variant.count:
            return GUEST[version], PORT
        return HOST[version], FIRST + (self.variant.count - 1 if last else 0)

    def connections(self, version: int, *, last: bool) -> float:
        """New connections a second, one after the other."""
        return self._fork(_connect, FAMILY[version], self.target(version, last=last))

    def stream(self, version: int, *, last: bool) -> float:
        """Bytes a second of one TCP stream to the guest."""
        return self._fork(_stream, FAMILY[version], self.target(version, last=last))

    def _fork(self, work: Callable[[int, tuple[str, int]], float], family: int, target: tuple[str, int]) -> float:
        """The work in a process of its own in the client's namespace: the guest's threads keep this one's lock busy."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            _enter(self.client.name)
            os.write(writer, repr(work(family, target)).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answer:
            figure = float(answer.read())
        os.waitpid(pid, 0)
        return figure


def _accept(listener: socket.socket) -> None:
    buffer = bytearray(_CHUNK)
    while True:
        peer, _ = listener.accept()
        with contextlib.suppress(OSError), peer:
            while peer.recv_into(buffer):
                pass


def _connect(family: int, target: tuple[str, int]) -> float:
    end, count, start = time.perf_counter() + SECONDS, 0, time.perf_counter()
    while time.perf_counter() < end:
        for _ in range(20):
            with socket.socket(family, socket.SOCK_STREAM) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                client.connect(target)
        count += 20
    return count / (time.perf_counter() - start)


def _stream(family: int, target: tuple[str, int]) -> float:
    chunk, sent = bytes(_CHUNK), 0
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.connect(target)
        start = time.perf_counter()
        while time.perf_counter() < start + SECONDS:
            sent += client.send(chunk)
        return sent / (time.perf_counter() - start)


def variants() -> list[Variant]:
    """What is compared; plain routing first."""
    found = [Variant("plain routing", 0), Variant(f"bare map, {COUNTS[-1]}", COUNTS[-1], bare=True)]
    for count in COUNTS:
        found.append(Variant(f"{count}", count))
        found.append(Variant(f"{count}, listenAddresses", count, listen=True))
        found.append(Variant(f"{count}, sourceCidrs", count, sources=True))
    return found


def main() -> None:
    """Measure, and print a table of ratios to plain routing."""
    with tempfile.TemporaryDirectory() as directory:
        benches = [Bench(variant, number, Path(directory)) for number, variant in enumerate(variants())]
        cells = [(kind, version) for kind in ("connections", "stream") for version in (4, 6)]
        figures: dict[tuple[str, str, int, bool], list[float]] = {}
        for number in range(ROUNDS):
            print(f"round {number + 1} of {ROUNDS}", file=sys.stderr, flush=True)
            for kind, version in cells:
                plain = getattr(benches[0], kind)(version, last=False)
                figures.setdefault((kind, "plain routing", version, False), []).append(plain)
                for bench in benches[1:]:
                    for last in (False, True) if bench.variant.count > 1 else (False,):
                        ratio = getattr(bench, kind)(version, last=last) / plain
                        figures.setdefault((kind, bench.variant.name, version, last), []).append(ratio)
        report(figures)


def report(figures: dict[tuple[str, str, int, bool], list[float]]) -> None:
    """Print the medians."""
    for kind in ("connections", "stream"):
        rates = [statistics.median(figures[kind, "plain routing", version, False]) for version in (4, 6)]
        unit = ("a second", 1.0) if kind == "connections" else ("Gbit/s", 8e-9)
        print(f"\n{kind}; plain routing: IPv4 {rates[0] * unit[1]:,.1f}, IPv6 {rates[1] * unit[1]:,.1f} {unit[0]}\n")
        print("| forwards | IPv4 first | IPv4 last | IPv6 first | IPv6 last |\n|---|---|---|---|---|")
        for name in dict.fromkeys(name for _, name, _, _ in figures if name != "plain routing"):
            row = [figures.get((kind, name, version, last)) for version in (4, 6) for last in (False, True)]
            print(f"| {name} | " + " | ".join(f"{statistics.median(x):.2f}" if x else "" for x in row) + " |")


if __name__ == "__main__":
    main()
