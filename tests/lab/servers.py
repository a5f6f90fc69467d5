"""Servers that say who they are and whom they see: `<name> <source address> <source port>`.

TCP says it on connect, then echoes each message behind its name; UDP answers each datagram; SCTP answers an INIT with
an INIT ACK that has it as its cookie; GRE and ESP, which have no ports, answer each packet (see `tunnels`). Answers
leave from the address that was asked, so a host with many is fine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.lab.background import Background
from tests.lab.namespaces import Namespace
from tests.lab.sctp import Chunk, Packet
from tests.lab.tunnels import NUMBERS, Tunnelled

IPPROTO_SCTP = 132
IP_PKTINFO = 8  # <linux/in.h>; Python's socket has it from 3.14
ANCILLARY_SPACE = 256
RST_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER of 0: nothing of a connection outlives it
Key = tuple[str, str, int]  # namespace role, protocol, port


def greeting(role: str, peer: tuple[str, int]) -> bytes:
    """What a server says to a client that it sees at `peer`."""
    return f"{role} {peer[0]} {peer[1]}\n".encode()


def parse_ports(text: str) -> Iterable[tuple[str, int]]:
    """Protocol and port of each listener in `"tcp:80 udp:8000-8002 gre"`; port 0 where the protocol has none."""
    for word in text.split():
        protocol, _, ports = word.partition(":")
        if not ports:
            yield protocol, 0
            continue
        first, _, last = ports.partition("-")
        for port in range(int(first), int(last or first) + 1):
            yield protocol, port


@dataclass
class _Sctp:
    """A namespace's raw SCTP sockets and the ports on which an INIT is answered."""

    sockets: list[socket.socket]
    ports: set[int] = field(default_factory=set)


class Servers:
    """The servers of a lab, in its background loop. Starting one that runs is no error."""

    def __init__(self, background: Background) -> None:
        """None runs yet."""
        self._background = background
        self._open: dict[Key, list[socket.socket]] = {}
        self._sctp: dict[str, _Sctp] = {}
        self._accepted: dict[socket.socket, str] = {}

    def start(self, namespace: Namespace, ports: str) -> None:
        """Listen on every address of both families.

        Args:
            namespace: Where they listen.
            ports: `"tcp:80 udp:8000-8002 sctp:80 gre"`.

        Raises:
            OSError: Where a port is taken.
        """
        for protocol, port in parse_ports(ports):
            if protocol == "sctp":
                self._start_sctp(namespace, port)
            elif (namespace.role, protocol, port) not in self._open:
                families = (socket.AF_INET, socket.AF_INET6)
                if protocol in NUMBERS:
                    opened = [self._start_tunnel(namespace, family, protocol) for family in families]
                else:
                    start = {"tcp": self._start_tcp, "udp": self._start_udp}[protocol]
                    opened = [start(namespace, family, port) for family in families]
                self._open[namespace.role, protocol, port] = opened

    def stop(self, role: str | None = None) -> None:
        """Stop all servers, or those of one namespace, and their connections."""
        self._background.call(self._stop, role)

    def _stop(self, role: str | None) -> None:
        for key in [key for key in self._open if role in (None, key[0])]:
            for one in self._open.pop(key):
                self._close(one)
        for name in [name for name in self._sctp if role in (None, name)]:
            for one in self._sctp.pop(name).sockets:
                self._close(one)
        for connection in [one for one, owner in self._accepted.items() if role in (None, owner)]:
            del self._accepted[connection]
            self._close(connection)

    def _close(self, one: socket.socket) -> None:
        self._background.loop.remove_reader(one)
        one.close()

    def _bind(self, namespace: Namespace, family: int, kind: int, port: int) -> socket.socket:
        one = namespace.socket(family, kind)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:  # with UDP it would let two servers share a port
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))  # noqa: S104 - inside a namespace
        return one

    def _start_tcp(self, namespace: Namespace, family: int, port: int) -> socket.socket:
        listener = self._bind(namespace, family, socket.SOCK_STREAM, port)
        listener.listen(1024)

        def accept() -> None:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                connection, peer = listener.accept()
                connection.setblocking(False)  # noqa: FBT003 - the standard library's signature
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
                self._accepted[connection] = namespace.role
                with contextlib.suppress(ConnectionError):
                    connection.send(greeting(namespace.role, peer[:2]))
                add_reader(loop, connection, echo, connection)

        def echo(connection: socket.socket) -> None:
            data = b""
            with contextlib.suppress(OSError):
                data = connection.recv(65536)
            if not data:
                self._accepted.pop(connection, None)
                self._close(connection)
                return
            with contextlib.suppress(OSError):
                connection.send(namespace.role.encode() + b" " + data)

        loop = self._background.loop
        self._background.call(add_reader, loop, listener, accept)
        return listener

    def _start_udp(self, namespace: Namespace, family: int, port: int) -> socket.socket:
        server = self._bind(namespace, family, socket.SOCK_DGRAM, port)
        want_packet_info(server)

        def answer() -> None:
            with contextlib.suppress(OSError):
                _, ancillary, _, peer = server.recvmsg(65536, ANCILLARY_SPACE)
                server.sendmsg([greeting(namespace.role, peer[:2])], reply_from(ancillary), 0, peer)

        self._background.call(add_reader, self._background.loop, server, answer)
        return server

    def _start_tunnel(self, namespace: Namespace, family: int, protocol: str) -> socket.socket:
        server = namespace.socket(family, socket.SOCK_RAW, NUMBERS[protocol])
        want_packet_info(server)

        def answer() -> None:
            with contextlib.suppress(OSError):
                data, ancillary, _, peer = server.recvmsg(65536, ANCILLARY_SPACE)
                asked = Tunnelled.decode(protocol, without_ip_header(server, data))
                if asked is not None and asked.text is None:  # an answer to a client of the same namespace has text
                    said = Tunnelled(protocol, asked.number, greeting(namespace.role, (peer[0], 0)))
                    server.sendmsg([said.encode()], reply_from(ancillary), 0, (peer[0], 0))

        self._background.call(add_reader, self._background.loop, server, answer)
        return server

    def _start_sctp(self, namespace: Namespace, port: int) -> None:
        state = self._sctp.get(namespace.role)
        if state is None:
            families = (socket.AF_INET, socket.AF_INET6)
            state = _Sctp([namespace.socket(family, socket.SOCK_RAW, IPPROTO_SCTP) for family in families])
            self._sctp[namespace.role] = state
            for raw in state.sockets:
                want_packet_info(raw)
                loop = self._background.loop
                self._background.call(add_reader, loop, raw, _answer_init, raw, namespace.role, state.ports)
        state.ports.add(port)


def add_reader(
    loop: asyncio.AbstractEventLoop, one: socket.socket | int, callback: Callable[..., None], *args: Any
) -> None:
    """Have a new socket, or another descriptor, read by the loop.

    Where an earlier socket of this number was closed while the loop still read it, the loop takes the new one for that
    (Python 3.11: `selectors` changes nothing where the events are the same), and it would never be read: forget it.
    """
    loop.remove_reader(one)
    loop.add_reader(one, callback, *args)


def _answer_init(raw: socket.socket, role: str, ports: set[int]) -> None:
    """Answer an INIT: INIT ACK where we listen, else ABORT."""
    with contextlib.suppress(OSError):
        data, ancillary, _, peer = raw.recvmsg(65536, ANCILLARY_SPACE)
        packet = Packet.decode(without_ip_header(raw, data))
        if packet is None or packet.chunk != Chunk.INIT:
            return
        answer = Packet(packet.destination, packet.source, Chunk.ABORT, packet.initiate)
        if packet.destination in ports:
            words = greeting(role, (peer[0], packet.source))
            tag = int.from_bytes(os.urandom(4), "big") | 1
            answer = Packet(packet.destination, packet.source, Chunk.INIT_ACK, packet.initiate, tag, words)
        raw.sendmsg([answer.encode()], reply_from(ancillary), 0, (peer[0], 0))


def without_ip_header(raw: socket.socket, data: bytes) -> bytes:
    """A raw IPv4 socket's packets begin with their IP header; IPv6's don't."""
    return data[(data[0] & 15) * 4 :] if raw.family == socket.AF_INET and data else data


def want_packet_info(server: socket.socket) -> None:
    """Ask to learn, with each packet, which of our addresses it was sent to."""
    if server.family == socket.AF_INET:
        server.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    else:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)


def reply_from(ancillary: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """The ancillary data that makes an answer leave from the address that a packet was sent to."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
            destination = struct.unpack("=i4s4s", data[:12])[2]
            return [(level, kind, struct.pack("=i4s4s", 0, destination, bytes(4)))]
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            return [(level, kind, data[:16] + bytes(4))]
    return []
