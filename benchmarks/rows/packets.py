"""A packet through our rules: new connections, packets and one TCP stream, by the number of forwards.

Compared in alternating rounds: plain routing, a bare map with one forward, and hostnet with SIZES="1 1000 10000 60000"
forwards, plain, with `listenAddresses` and with `sourceCidrs`, IPv4 and IPv6, through the first and the last forward.
Each figure is the median of the ratios to plain routing in the same round. What is counted is work for each
second of CPU time of the client's thread, for SECONDS=0.2: over veths, that thread does all that the kernel does with a
packet up to the guest's socket, and other programs do not count.

    client 198.51.100.2, 2001:db8:1::2 --- eth0 host br0 --- guest 10.0.0.2, fd12::2
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import socket
import statistics
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hostnet.agent.nft.ruleset import TABLE
from hostnet.wire.errors import HostnetError
from hostnet.wire.objects import Address, Forward, Forwarding, Gateway, Link, Object
from hostnet.wire.requests import Change

from benchmarks.measure import Figure, rounds, sizes
from tests.lab.inside import open_host
from tests.lab.namespaces import Namespace, _enter

TITLE = "Packets"
SECONDS = float(os.environ.get("SECONDS", "0.2"))
# Of plain routing: the least of each kind; and with the most forwards, of that with one.
LEAST = {"connections": 0.82, "packets": None, "stream": 0.95}
FLAT = 0.97
NOTE = (
    "The figures are ratios to plain routing of the same round, and with more forwards to hostnet with the fewest. The "
    "bare tool is a table with one map. Counted is what gets done in a second of the client's CPU time."
)
_WARM_UP = 20  # steps
FIRST = 2000  # the first forwarded port
PORT = 9000  # where the guest listens
CLIENT = {4: "198.51.100.2", 6: "2001:db8:1::2"}
HOST = {4: "198.51.100.1", 6: "2001:db8:1::1"}
GUEST = {4: "10.0.0.2", 6: "fd12::2"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
NEIGHBOURS = {4: "198.51.100.0/24", 6: "2001:db8:1::/64"}
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST, so that no TIME_WAIT uses up the client's ports
_CHUNK = 1 << 18
_BATCH = 64  # packets of a sendmmsg(2)


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
                ("tcp", "udp") if port in (FIRST, FIRST + self.count - 1) else ("tcp",),
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
        self._sinks = [self._sink(version) for version in (4, 6)]

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
        names = ("tcp", "udp")
        maps = "".join(
            f"map m{version} {{ type inet_proto . inet_service : ipv{version}_addr . inet_service;"
            f" elements = {{ {', '.join(f'{name} . {FIRST} : {GUEST[version]} . {PORT}' for name in names)} }} }}\n"
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

    def _sink(self, version: int) -> socket.socket:
        """A UDP socket that nobody reads: the kernel drops what comes once its buffer is full."""
        sink = self.guest.call(socket.socket, FAMILY[version], socket.SOCK_DGRAM)
        if version == 6:
            sink.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sink.bind(("", PORT))
        return sink

    def run(self, kind: str, version: int, *, last: bool) -> float:
        """How much of a kind of work the client gets done for a second of its CPU time."""
        return self._fork(WORKS[kind], FAMILY[version], self.target(version, last=last))

    def check_counters(self) -> None:
        """Each packet to the last forward is counted once."""
        before = self._counted()
        with self.client.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as client:
            for _ in range(_BATCH):
                client.sendto(b"x", self.target(4, last=True))
        assert self._counted() - before == _BATCH, "the counters are wrong"

    def _counted(self) -> int:
        key = f"{{ udp . {FIRST + self.variant.count - 1} . {GUEST[4]} }}"
        text = self.host.run(["nft", "get", "element", *TABLE.split(), "forward_counters4", key])
        return int(text.partition("counter packets ")[2].split()[0])

    def _fork(self, work: Work, family: int, target: tuple[str, int]) -> float:
        """The work in a process of its own in the client's namespace: the guest's threads keep this one's lock busy."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            _enter(self.client.name)
            os.write(writer, repr(_rate(work, family, target)).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answer:
            figure = float(answer.read())
        os.waitpid(pid, 0)
        return figure

    def close(self) -> None:
        """Delete the namespaces."""
        for each in (self.client, self.host, self.guest):
            each.delete()


def _accept(listener: socket.socket) -> None:
    buffer = bytearray(_CHUNK)
    while True:
        peer, _ = listener.accept()
        with contextlib.suppress(OSError), peer:
            while peer.recv_into(buffer):
                pass


def _connect(family: int, target: tuple[str, int]) -> Iterator[int]:
    while True:
        with socket.socket(family, socket.SOCK_STREAM) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            client.connect(target)
        yield 1


def _stream(family: int, target: tuple[str, int]) -> Iterator[int]:
    chunk = bytes(_CHUNK)
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.connect(target)
        while True:
            yield client.send(chunk)


class _Vector(ctypes.Structure):
    """`struct iovec`."""

    _fields_ = (("base", ctypes.c_char_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """`struct mmsghdr` of <sys/socket.h>, with its `struct msghdr` inside."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("vectors", ctypes.POINTER(_Vector)),
        ("vectors_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("sent", ctypes.c_uint),
        ("_end", ctypes.c_ulong),
    )


def _packets(family: int, target: tuple[str, int]) -> Iterator[int]:
    """Small UDP packets of one flow, many to a system call: Python's own time would hide the kernel's."""
    libc = ctypes.CDLL(None, use_errno=True)
    vector = _Vector(b"x", 1)
    messages = (_Message * _BATCH)()
    for message in messages:
        message.vectors, message.vectors_count = ctypes.pointer(vector), 1
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.connect(target)
        while True:
            sent = libc.sendmmsg(client.fileno(), messages, _BATCH, 0)
            assert sent > 0, os.strerror(ctypes.get_errno())
            yield sent


Work = Callable[[int, tuple[str, int]], Iterator[int]]
WORKS: dict[str, Work] = {"connections": _connect, "packets": _packets, "stream": _stream}


def _rate(work: Work, family: int, target: tuple[str, int]) -> float:
    """How much of a work is done for a second of this thread's CPU time; its beginning does not count."""
    steps = work(family, target)
    for _ in range(_WARM_UP):
        next(steps)
    start, done = time.thread_time(), 0
    while time.thread_time() < start + SECONDS:
        done += sum(itertools.islice(steps, _WARM_UP))
    return done / (time.thread_time() - start)


def variants(counts: Iterable[int]) -> list[Variant]:
    """What is compared; plain routing first, then the bare map."""
    found = [Variant("plain routing", 0), Variant("bare", 1, bare=True)]
    for count in counts:
        found.append(Variant("plain", count))
        found.append(Variant("listenAddresses", count, listen=True))
        found.append(Variant("sourceCidrs", count, sources=True))
    return found


Key = tuple[str, int, str, int]  # kind, version, variant, forwards


def measure() -> list[Figure]:
    """Measure all in alternating rounds."""
    counts = sizes("1 1000 10000 60000")
    ratios: dict[Key, list[float]] = {}
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        benches = []
        for number, variant in enumerate(variants(counts)):
            benches.append(Bench(variant, number, Path(directory)))
            stack.callback(benches[-1].close)
        benches[2].check_counters()
        for _ in range(rounds(6)):
            for kind in WORKS:
                for version in (4, 6):
                    for key, ratio in _round(benches, kind, version):
                        ratios.setdefault(key, []).append(ratio)
        benches[-1].check_counters()
    return list(_figures(ratios, counts))


def _round(benches: list[Bench], kind: str, version: int) -> Iterator[tuple[Key, float]]:
    """The ratios of one round to plain routing: the mean of the first and the last forward."""
    routing, *others = benches
    plain = routing.run(kind, version, last=False)
    for bench in others:
        ends = (False, True) if bench.variant.count > 1 else (False,)
        ratio = statistics.mean(bench.run(kind, version, last=last) for last in ends) / plain
        yield (kind, version, bench.variant.name, bench.variant.count), ratio


def _figures(ratios: dict[Key, list[float]], counts: list[int]) -> Iterator[Figure]:
    """With the fewest forwards beside plain routing and the bare map; with more, beside the fewest."""
    names = [variant.name for variant in variants(counts[:1])[2:]]
    for kind, version, name in itertools.product(WORKS, (4, 6), names):
        what = f"{kind}, IPv{version}, {name}"
        one, bare = ratios[kind, version, name, counts[0]], statistics.median(ratios[kind, version, "bare", 1])
        limit = max(LEAST[kind] or 0, bare)
        ours = statistics.median(one)
        yield Figure(f"{what}: {counts[0]:,}", "x", ours, None, bare, limit, more=True, note=NOTE)
        for count in counts[1:]:
            ratio = statistics.median(a / b for a, b in zip(ratios[kind, version, name, count], one, strict=True))
            limit_ = FLAT if count == counts[-1] else None
            yield Figure(f"{what}: {count:,} beside {counts[0]:,}", "x", ratio, limit=limit_, more=True)
