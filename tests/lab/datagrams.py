"""Single datagrams, sent as a test says and read off the wire: for what no conversation shows.

`send` sends one, also with a source address that is not the sender's. `Wire` reads what arrives at an interface.
`empty` and `unreachable` are datagrams as bytes. `route_multicast` is what a multicast routing daemon tells the kernel.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Self

from tests.lab.frames import checksum
from tests.lab.namespaces import Namespace
from tests.lab.waiting import PATIENCE

IP_TRANSPARENT, IPV6_TRANSPARENT = 19, 75  # <linux/in.h>, <linux/in6.h>
ETH_P_ALL = 0x0003
HOPS = 8
# <linux/mroute.h>, <linux/mroute6.h>
MRT_INIT, MRT_ADD_VIF, MRT_ADD_MFC = 200, 202, 204
VIFF_USE_IFINDEX = 0x8
_VIF4, _MFC4 = struct.Struct("=HBBIi4s"), struct.Struct("=4s4sH32s2xIIIi")
_MIF6, _MFC6 = struct.Struct("=HBBH2xI"), struct.Struct("=28s28sH2x8I")


def send(namespace: Namespace, text: bytes, to: str, *, source: str = "", device: str = "", port: int = 9) -> None:
    """Send a datagram to a UDP port.

    Args:
        namespace: The sender.
        text: What it says.
        to: The address to send it to.
        source: The address to send it from, the sender's own or not; "": the kernel's choice.
        device: The interface to send it through; "": the routes' choice.
        port: The port to send it to.
    """
    six = ip_address(to).version == 6
    with namespace.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as sender:
        namespace.call(_prepare, sender, source, device, six=six)
        namespace.call(sender.sendto, text, (to, port))


def _prepare(sender: socket.socket, source: str, device: str, *, six: bool) -> None:
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    if six:
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, HOPS)
        sender.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    else:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, HOPS)
        sender.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
    if device:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    if source:
        sender.bind((source, 0))


class Wire:
    """What arrives at an interface, from the moment on that this is made."""

    def __init__(self, namespace: Namespace, link: str = "eth0") -> None:
        """Begin to listen."""
        self._socket = namespace.call(socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        namespace.call(self._socket.bind, (link, ETH_P_ALL))
        self.seen: dict[bytes, str] = {}  # by its text, the source of each datagram

    def __enter__(self) -> Self:
        """It listens already."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Listen no more."""
        self.close()

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()

    def read(self) -> None:
        """Take what has arrived, without waiting."""
        self._socket.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                packet, (_, _, kind, *_) = self._socket.recvfrom(2048)
                if kind != socket.PACKET_OUTGOING:
                    self._take(packet)

    def source_of(self, text: bytes) -> str:
        """The source address of a datagram that is to arrive; of all that came before it, too, `seen` knows.

        Raises:
            AssertionError: Where it does not come.
        """
        end = time.monotonic() + PATIENCE
        while text not in self.seen:
            left = end - time.monotonic()
            assert left > 0, f"{text!r} does not arrive; there were {self.seen}"
            self._socket.settimeout(left)
            with contextlib.suppress(TimeoutError):
                packet, (_, _, kind, *_) = self._socket.recvfrom(2048)
                if kind != socket.PACKET_OUTGOING:
                    self._take(packet)
        return self.seen[text]

    def _take(self, packet: bytes) -> None:
        version, udp = packet[0] >> 4, socket.IPPROTO_UDP
        if version == 4 and packet[9] == udp:
            head = (packet[0] & 0xF) * 4
            size = struct.unpack_from("!H", packet, head + 4)[0]
            self.seen[packet[head + 8 : head + size]] = socket.inet_ntop(socket.AF_INET, packet[12:16])
        elif version == 6 and packet[6] == udp:
            size = struct.unpack_from("!H", packet, 44)[0]
            self.seen[packet[48 : 40 + size]] = socket.inet_ntop(socket.AF_INET6, packet[8:24])


Endpoint = tuple[str, int]


def empty(source: Endpoint, to: Endpoint) -> bytes:
    """An empty UDP datagram over IPv4, whole, for a socket of IPPROTO_RAW.

    Args:
        source: The address and port that it is from, the sender's own or not.
        to: The address and port that it is for.
    """
    addresses = [ip_address(address).packed for address, _ in (source, to)]
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, socket.IPPROTO_UDP, 0, *addresses)
    return head + struct.pack("!HHHH", source[1], to[1], 8, 0)


def unreachable(datagram: bytes) -> bytes:
    """The ICMP message "host unreachable" (RFC 792) about a datagram."""
    kind, about = struct.pack("!BB", 3, 1), bytes(4) + datagram
    return kind + struct.pack("!H", checksum(kind + bytes(2) + about)) + about


@contextlib.contextmanager
def route_multicast(namespace: Namespace, source: str, group: str, inside: str, outside: str) -> Iterator[None]:
    """Have the kernel forward a group's datagrams of one source, from one interface to another, for a while."""
    six = ip_address(group).version == 6
    family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_IGMP)
    with namespace.call(socket.socket, family, socket.SOCK_RAW, protocol) as router:
        namespace.call(_route, router, source, group, (inside, outside), six=six)
        yield


def _route(router: socket.socket, source: str, group: str, links: tuple[str, str], *, six: bool) -> None:
    level = socket.IPPROTO_IPV6 if six else socket.IPPROTO_IP
    router.setsockopt(level, MRT_INIT, 1)
    for number, link in enumerate(links):
        index = socket.if_nametoindex(link)
        vif = _MIF6.pack(number, 0, 1, index, 0) if six else _VIF4.pack(number, VIFF_USE_IFINDEX, 1, 0, index, bytes(4))
        router.setsockopt(level, MRT_ADD_VIF, vif)
    if six:
        ends = [struct.pack("=HHI16sI", socket.AF_INET6, 0, 0, ip_address(x).packed, 0) for x in (source, group)]
        router.setsockopt(level, MRT_ADD_MFC, _MFC6.pack(*ends, 0, 1 << 1, *[0] * 7))
    else:
        ends = [ip_address(each).packed for each in (source, group)]
        thresholds = bytes([0, 1]).ljust(32, b"\0")  # a hop limit above 1 goes out of the second interface
        router.setsockopt(level, MRT_ADD_MFC, _MFC4.pack(*ends, 0, thresholds, 0, 0, 0, 0))
