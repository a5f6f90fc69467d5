"""Sockets of programs in this network namespace: ports with a listener, and the user that a connection belongs to."""

from __future__ import annotations

import errno
import socket
import struct
from pathlib import Path

from hostnet.wire.family import family_of

_LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp
_UNCONNECTED = "07"  # a UDP socket that is bound and not connected

_IP_FREEBIND, _IPV6_FREEBIND = 15, 78  # linux/in.h, linux/in6.h

# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
_NLM_F_REQUEST = 1
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY = 4, 20
_ESTABLISHED = 1
_HEADER = struct.Struct("=IHHII")
_ENDS = struct.Struct("!HH16s16s")
_REQUEST = struct.Struct("=BBBBI")
_ANSWER = struct.Struct("=BBBB48x5I")  # family, state, timer, retransmissions; expires, queues, user, inode
_ANSWER_BYTES = 8192  # as netlink(7) advises: a message is not cut, whatever the size of a page
_ANY_LINK_AND_COOKIE = struct.pack("=I", 0) + b"\xff" * 8

End = tuple[str, int]  # an IPv4 address and a port


def listening(protocol: str, family: str) -> set[int]:
    """The ports with a listener.

    Args:
        protocol: "tcp" or "udp"; of others /proc tells nothing.
        family: "ipv4" or "ipv6".
    """
    state = {"tcp": _LISTEN, "udp": _UNCONNECTED}.get(protocol)
    if state is None:
        return set()
    ports: set[int] = set()
    # A v6 socket may take v4 connections as well.
    for suffix in ("", "6") if family == "ipv4" else ("6",):
        try:
            lines = Path(f"/proc/self/net/{protocol}{suffix}").read_text().splitlines()[1:]
        except FileNotFoundError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == state:
                ports.add(int(fields[1].rsplit(":", 1)[1], 16))
    return ports


def traffic() -> dict[str, tuple[int, int]]:
    """The bytes that each interface has received and sent."""
    found = {}
    for line in Path("/proc/self/net/dev").read_text().splitlines()[2:]:
        name, _, counters = line.rpartition(":")  # a name may hold a colon (an alias)
        fields = counters.split()
        found[name.strip()] = (int(fields[0]), int(fields[8]))
    return found


def bindable(protocol: str, address: str, port: int, *, shared: bool) -> bool:
    """Whether a server could have a port of an address now. Which options other sockets have, /proc does not say.

    Args:
        protocol: "tcp" or "udp".
        address: An address, which need not be the host's yet; 0.0.0.0 for all.
        port: The port.
        shared: The server shares the port with servers that allow it (SO_REUSEPORT).
    """
    six = family_of(address) == "ipv6"
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET6 if six else socket.AF_INET, kind | socket.SOCK_CLOEXEC) as probe:
        # As servers have it: then only a listener is in the way, and no connection in TIME_WAIT (socket(7)).
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if six:
            # Else :: takes the port of IPv4 as well (ipv6(7)).
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.setsockopt(socket.IPPROTO_IPV6 if six else socket.IPPROTO_IP, _IPV6_FREEBIND if six else _IP_FREEBIND, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True


def user_of(near: End, far: End) -> int | None:
    """The user whose socket is the near end of a TCP connection; None where that is not an open socket.

    Only a connection that is established has a user: a socket that its program has closed is root's to the kernel
    (Linux 6.18 lists one in TIME_WAIT with user 0).

    Args:
        near: The end that is asked about.
        far: The other one.
    """
    try:
        return _asked(near, far)
    except OSError:  # there is none, or the kernel has no sock_diag (gVisor)
        return _listed(near, far)


def _asked(near: End, far: End) -> int | None:
    """The user as the kernel tells it for one connection. It takes the same time however many connections there are.

    Raises:
        OSError: There is no such connection, or the kernel can't tell.
    """
    ends = _ENDS.pack(near[1], far[1], socket.inet_aton(near[0]), socket.inet_aton(far[0]))
    body = _REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 1 << _ESTABLISHED) + ends + _ANY_LINK_AND_COOKIE
    head = _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    # Not by Netlink, whose large buffers are for long lists: 8 us instead of 34.
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as kernel:
        kernel.send(head + body)
        answer = kernel.recv(_ANSWER_BYTES)
    _, kind, *_ = _HEADER.unpack_from(answer)
    if kind != _SOCK_DIAG_BY_FAMILY:
        raise OSError(errno.ENOENT, "no such connection")
    _, state, *_, user, inode = _ANSWER.unpack_from(answer, _HEADER.size)
    return user if state == _ESTABLISHED and inode else None


def _listed(near: End, far: End) -> int | None:
    """The user as /proc lists it among all connections. A v6 socket may have v4 ends."""
    for suffix, prefix in (("", ""), ("6", "0000000000000000FFFF0000")):
        ends = [f"{prefix}{_hexadecimal(address)}:{port:04X}" for address, port in (near, far)]
        try:
            lines = Path(f"/proc/self/net/tcp{suffix}").read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[1:3] == ends and int(fields[3], 16) == _ESTABLISHED and fields[9] != "0":
                return int(fields[7])
    return None


def _hexadecimal(address: str) -> str:
    """An IPv4 address as /proc/net/tcp has it: a 32-bit number in host order."""
    return f"{struct.unpack('=I', socket.inet_aton(address))[0]:08X}"
