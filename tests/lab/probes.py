"""One question to the network: who answers at this address, and whom does it see?

A probe ends in one of three outcomes: *reached* (with the server's name and the source address that it saw), *refused*
(a TCP RST, an SCTP ABORT, an ICMP error) or *silent*. Probes run in the lab's background loop, many at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import secrets
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Literal, get_args

from tests.lab.namespaces import Namespace
from tests.lab.sctp import Chunk, Packet
from tests.lab.servers import IPPROTO_SCTP, RST_ON_CLOSE, without_ip_header
from tests.lab.tunnels import NUMBERS, Tunnelled
from tests.lab.waiting import PATIENCE

Protocol = Literal["tcp", "udp", "sctp", "icmp", "gre", "esp"]
Outcome = Literal["reached", "refused", "silent"]

DOUBT = 0.3  # seconds, where no answer is expected
RESEND = 0.5  # seconds between datagrams of one patient probe: the first may be lost while a neighbour is looked up
IP_RECVERR = 11  # <linux/in.h>
IPV6_RECVERR = 25  # <linux/in6.h>
# One more SYN and no third; after a second of silence a keepalive each second, which the host at the other end answers:
# with a RST where it has no such connection.
WATCHFUL = {socket.TCP_SYNCNT: 1, socket.TCP_KEEPIDLE: 1, socket.TCP_KEEPINTVL: 1, socket.TCP_KEEPCNT: 10}
_TCP_INFO = struct.Struct("=100xI")  # <linux/tcp.h>, struct tcp_info: tcpi_total_retrans
ECHO_REPLIES = {socket.AF_INET: 0, socket.AF_INET6: 129}
_icmp_ids = itertools.count(os.getpid())
# The kernel's ephemeral range. In turn: conntrack keeps the path of an INIT for seconds, and a port that is drawn a
# second time within these gets the former destination.
_SCTP_PORTS = itertools.count(secrets.randbelow(28232))


@dataclass(frozen=True)
class Target:
    """Whom to ask, and from where.

    Args:
        port: 0 where the protocol has none.
        source: The own address to use; None: the kernel's choice.
        source_port: 0: the kernel's choice.
        watchful: Whether TCP finds out by itself, within seconds, that the other end does not answer any more.
    """

    protocol: Protocol
    address: str
    port: int = 0
    source: str | None = None
    source_port: int = 0
    watchful: bool = False

    @property
    def family(self) -> socket.AddressFamily:
        """The address's family."""
        return socket.AF_INET if ip_address(self.address).version == 4 else socket.AF_INET6

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read `"tcp 192.0.2.2:8080"`, `"udp [2001:db8::2]:53 from 2001:db8::20"`, `"icmp 10.0.0.1"`, `"… from :700"`.

        Raises:
            ValueError: Where it is none of these.
        """
        protocol, where, *rest = text.split()
        if protocol not in get_args(Protocol) or (rest and (len(rest) != 2 or rest[0] != "from")):
            msg = f"not a probe's target: {text!r}"
            raise ValueError(msg)
        address, port = _endpoint(where)
        source, source_port = _endpoint(rest[1]) if rest else ("", 0)
        return cls(protocol, address, port, source or None, source_port)  # type: ignore[arg-type]


def _endpoint(text: str) -> tuple[str, int]:
    """Address and port of `1.2.3.4`, `1.2.3.4:5`, `::1`, `[::1]:5` or `:5`; 0 where there is no port."""
    if text.startswith("["):
        address, _, port = text[1:].partition("]")
        return address, int(port.removeprefix(":") or 0)
    if text.count(":") > 1:
        return text, 0
    address, _, port = text.partition(":")
    return address, int(port or 0)


@dataclass(frozen=True)
class Verdict:
    """How a probe ended.

    Args:
        server: Who answered (a namespace's role; "" for icmp).
        source: The address that the server saw.
        resent: How many packets a TCP client had to send again.
    """

    outcome: Outcome
    server: str = ""
    source: str = ""
    source_port: int = 0
    detail: str = ""
    resent: int = field(default=0, compare=False)

    @classmethod
    def of(cls, words: bytes) -> Verdict:
        """Reached: from a server's greeting."""
        server, source, port = words.decode().split()
        return cls("reached", server, source, int(port))

    def __str__(self) -> str:
        """As a failed expectation should show it."""
        if self.outcome == "reached":
            again = f", {self.resent} packets sent again" if self.resent else ""
            return (
                f"{self.server or 'reached'} as {self.source}:{self.source_port}" if self.source else "reached"
            ) + again
        return f"{self.outcome} ({self.detail})" if self.detail else self.outcome


async def probe(namespace: Namespace, target: Target, timeout: float = PATIENCE) -> Verdict:  # noqa: ASYNC109
    """Ask once.

    Args:
        namespace: Who asks.
        target: Who is asked, and how.
        timeout: Seconds after which no answer is *silent*.
    """
    ask = {"tcp": _tcp, "udp": _udp, "sctp": _sctp, "icmp": _icmp, "gre": _tunnel, "esp": _tunnel}[target.protocol]
    try:
        async with asyncio.timeout(timeout):
            return await ask(namespace, target)
    except TimeoutError:
        return Verdict("silent")
    except (OSError, EOFError) as error:
        return Verdict("refused", detail=str(error))


async def _socket(namespace: Namespace, target: Target, kind: int, protocol: int = 0) -> socket.socket:
    """A socket in the namespace, bound to the wanted source, that reports ICMP errors."""
    made = await asyncio.wrap_future(namespace.submit(socket.socket, target.family, kind, protocol))
    made.setblocking(False)  # noqa: FBT003 - the standard library's signature
    loop = asyncio.get_running_loop()
    loop.remove_reader(made)  # of an earlier socket of this number: see `servers.add_reader`
    loop.remove_writer(made)
    if target.family == socket.AF_INET:
        made.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    else:
        made.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
    if target.source or target.source_port:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        anywhere = "0.0.0.0" if target.family == socket.AF_INET else "::"  # noqa: S104 - a client
        made.bind((target.source or anywhere, 0 if kind == socket.SOCK_RAW else target.source_port))
    return made


async def _tcp(namespace: Namespace, target: Target) -> Verdict:
    with await connect(namespace, target) as client:
        verdict = Verdict.of(await _line(client))
        (resent,) = _TCP_INFO.unpack(client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size))
        return replace(verdict, resent=resent)


async def connect(namespace: Namespace, target: Target) -> socket.socket:
    """A connected TCP socket that leaves no TIME_WAIT behind, so that a hammer does not run out of ports."""
    client = await _socket(namespace, target, socket.SOCK_STREAM)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
    if target.watchful:
        for option, value in WATCHFUL.items():
            client.setsockopt(socket.IPPROTO_TCP, option, value)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    try:
        await asyncio.get_running_loop().sock_connect(client, (target.address, target.port))
    except BaseException:
        client.close()
        raise
    return client


async def _line(client: socket.socket) -> bytes:
    """What the other end says up to the end of a line."""
    words = b""
    while not words.endswith(b"\n"):
        more = await asyncio.get_running_loop().sock_recv(client, 4096)
        if not more:
            raise EOFError("closed without a word")
        words += more
    return words


async def _udp(namespace: Namespace, target: Target) -> Verdict:
    with await _socket(namespace, target, socket.SOCK_DGRAM) as client:
        client.connect((target.address, target.port))
        async with _asking(client, b"who\n"):
            return Verdict.of(await asyncio.get_running_loop().sock_recv(client, 4096))


@contextlib.asynccontextmanager
async def _asking(client: socket.socket, question: bytes) -> AsyncIterator[None]:
    """Put a question by a connected datagram socket, and again from time to time."""

    async def again() -> None:
        while True:
            await asyncio.sleep(RESEND)
            with contextlib.suppress(OSError):  # the receiving side sees, and reports, it too
                client.send(question)

    client.send(question)
    repeating = asyncio.create_task(again())
    try:
        yield
    finally:
        repeating.cancel()


async def _sctp(namespace: Namespace, target: Target) -> Verdict:
    """An INIT is answered by INIT ACK or ABORT with our tag, or by an ICMP error."""
    tag = secrets.randbits(32) | 1
    port = target.source_port or 32768 + next(_SCTP_PORTS) % 28232
    init = Packet(port, target.port, Chunk.INIT, 0, tag)
    with await _socket(namespace, target, socket.SOCK_RAW, IPPROTO_SCTP) as client:
        client.connect((target.address, 0))
        async with _asking(client, init.encode()):
            while True:
                data = await _receive(client, struct.pack("!HH", port, target.port), 0)
                packet = Packet.decode(without_ip_header(client, data))
                if packet and packet.tag == tag and packet.destination == port:
                    break
    return Verdict.of(packet.cookie) if packet.chunk == Chunk.INIT_ACK else Verdict("refused", detail="ABORT")


async def _icmp(namespace: Namespace, target: Target) -> Verdict:
    """An echo request is answered by an echo reply with our identifier, or by an ICMP error."""
    v4 = target.family == socket.AF_INET
    identifier = next(_icmp_ids) & 0xFFFF
    request = struct.pack("!BBHHH", 8 if v4 else 128, 0, 0, identifier, 1) + b"hostnet."
    if v4:  # the kernel fills in an IPv6 checksum itself
        request = request[:2] + _checksum(request) + request[4:]
    with await _socket(namespace, target, socket.SOCK_RAW, socket.IPPROTO_ICMP if v4 else socket.IPPROTO_ICMPV6) as raw:
        raw.connect((target.address, 0))
        async with _asking(raw, request):
            while True:
                body = without_ip_header(raw, await _receive(raw, struct.pack("!H", identifier), 4))
                if body[0] == ECHO_REPLIES[target.family] and struct.unpack_from("!H", body, 4)[0] == identifier:
                    return Verdict("reached")


async def _tunnel(namespace: Namespace, target: Target) -> Verdict:
    """A GRE or ESP packet with a number of its own is answered by one with the same number, or by an ICMP error."""
    asked = Tunnelled(target.protocol, secrets.randbits(32) | 1 << 31)  # an SPI below 256 is reserved (RFC 4303)
    with await _socket(namespace, target, socket.SOCK_RAW, NUMBERS[target.protocol]) as raw:
        raw.connect((target.address, 0))
        async with _asking(raw, asked.encode()):
            while True:
                body = without_ip_header(raw, await _receive(raw, asked.encode()[:8], 0))
                said = Tunnelled.decode(target.protocol, body)
                if said is not None and said.text is not None and said.number == asked.number:
                    return Verdict.of(said.text)


async def _receive(raw: socket.socket, mine: bytes, offset: int) -> bytes:
    """The next packet, or an ICMP error about one of our own, which has `mine` at `offset`.

    An ICMP error reaches every raw socket that is connected to its address: another probe's is passed over.

    Raises:
        OSError: For an ICMP error about our own packet.
    """
    while True:
        try:
            return await asyncio.get_running_loop().sock_recv(raw, 65536)
        except OSError:
            with contextlib.suppress(BlockingIOError):
                while True:
                    about = raw.recv(65536, socket.MSG_ERRQUEUE)
                    if about[offset : offset + len(mine)] == mine:
                        raise


def _checksum(data: bytes) -> bytes:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF)


class Conversation:
    """A TCP connection that stays open, to see whether and where it lives on."""

    def __init__(self, client: socket.socket, verdict: Verdict) -> None:
        """See `converse`."""
        self._client = client
        self.verdict = verdict

    async def ask(self, timeout: float = PATIENCE) -> Verdict:  # noqa: ASYNC109
        """Say something; the server's answer tells who it is."""
        try:
            async with asyncio.timeout(timeout):
                await asyncio.get_running_loop().sock_sendall(self._client, b"still\n")
                server, _, _ = (await _line(self._client)).partition(b" ")
        except TimeoutError:
            return Verdict("silent")
        except (OSError, EOFError) as error:
            return Verdict("refused", detail=str(error))
        return Verdict("reached", server.decode())

    def close(self) -> None:
        """Hang up."""
        self._client.close()


async def converse(namespace: Namespace, target: Target) -> Conversation:
    """Open a TCP connection to a server of the lab and keep it.

    Raises:
        OSError: Where it can't be had.
    """
    async with asyncio.timeout(PATIENCE):
        client = await connect(namespace, target)
        return Conversation(client, Verdict.of(await _line(client)))


@dataclass
class Hammer:
    """What a stream of connections saw: how often each server answered, and every failure.

    A connection whose first packet was lost, and which needed a second one, is a failure as well. The kernel says so
    (`tcpi_total_retrans`), not a clock: on a busy machine a connection may take as long as a lost packet does.
    """

    servers: Counter[str] = field(default_factory=Counter)
    failures: list[Verdict] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def total(self) -> int:
        """All probes so far."""
        return sum(self.servers.values()) + len(self.failures)

    async def strike(self, namespace: Namespace, target: Target) -> None:
        """Probe one after the other until it is cancelled.

        TCP gives up with its second SYN: the connection counts as a failure by then, and a third would only hold up
        the next one. One that only the client still has (the RST went to the server, because the host did not
        translate a packet) ends with the first keepalive.
        """
        target = replace(target, watchful=True)
        while True:
            verdict = await probe(namespace, target)
            if verdict.outcome == "reached" and not verdict.resent:
                self.servers[verdict.server] += 1
            else:
                self.failures.append(verdict)
            async with self.changed:
                self.changed.notify_all()

    async def wait(self, more: int) -> None:
        """Wait until so many more probes have ended."""
        goal = self.total + more
        async with self.changed:
            await self.changed.wait_for(lambda: self.total >= goal)
