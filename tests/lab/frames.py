"""Frames as a hostile guest writes them, from the words of tests/cases/untrusted/frames.

A frame is a JSON object; what it does not say is as an honest guest would have it:

    arp        "request" or "reply", with `sha`, `spa`, `tpa`
    udp        [source port, destination port] · tcp: the same · echo: true
    na, ns     a neighbour advertisement or solicitation, with its target · ra, rs: true · redirect: its target
    protocol   a protocol above IP, by number
    icmp       an ICMP type of IPv4 · icmp6: one of IPv6
    raw        an ethertype or, below 1536, a length: what follows is zeros
    src, dst   MAC addresses · saddr, daddr: IP addresses
    vlan       a tag's number
    headers    IPv6 extension headers before the rest, of "hop", "dest", "fragment" (an only one), "first" (of several
               fragments, with the rest), "hidden" (the first fragment, which ends before the rest)

Each frame ends with a cookie, by which its receiver knows it.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

Spec = Mapping[str, Any]
COOKIE = 8  # bytes
_ICMP, _TCP, _UDP, _ICMP6 = 1, 6, 17, 58
_HOP, _FRAGMENT, _DEST = 0, 44, 60
_RA, _NS, _NA, _REDIRECT = 134, 135, 136, 137


@dataclass(frozen=True)
class Station:
    """Who sends: its own addresses, and those that it writes to.

    Attributes:
        mac: Its own MAC address.
        peer_mac: The MAC address of whom it writes to.
        v4: Its own IPv4 address.
        peer4: The IPv4 address of whom it writes to.
        v6: Its own IPv6 address.
        peer6: The IPv6 address of whom it writes to.
    """

    mac: str
    peer_mac: str
    v4: str
    peer4: str
    v6: str
    peer6: str

    def frame(self, spec: Spec) -> tuple[bytes, bytes]:
        """A frame, and its cookie."""
        cookie = os.urandom(COOKIE)
        kind, payload = self._payload(spec, cookie)
        head = _mac(spec.get("dst", self.peer_mac)) + _mac(spec.get("src", self.mac))
        if "vlan" in spec:
            head += struct.pack("!HH", 0x8100, spec["vlan"])
        return (head + struct.pack("!H", kind) + payload).ljust(60, b"\0"), cookie

    def _payload(self, spec: Spec, cookie: bytes) -> tuple[int, bytes]:
        if "arp" in spec:
            return 0x0806, self._arp(spec) + cookie
        if "raw" in spec:
            return spec["raw"], bytes(30) + cookie
        six = any(name in spec for name in ("na", "ns", "ra", "rs", "redirect", "icmp6"))
        six = six or ":" in spec.get("saddr", "") or ":" in spec.get("daddr", "")
        return (0x86DD, self._ipv6(spec, cookie)) if six else (0x0800, self._ipv4(spec, cookie))

    def _arp(self, spec: Spec) -> bytes:
        reply = spec["arp"] == "reply"
        sender = _mac(spec.get("sha", self.mac)) + _ip(spec.get("spa", self.v4))
        target = _mac(self.peer_mac if reply else "00:00:00:00:00:00") + _ip(spec.get("tpa", self.peer4))
        return struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2 if reply else 1) + sender + target

    def _ipv4(self, spec: Spec, cookie: bytes) -> bytes:
        source, destination = _ip(spec.get("saddr", self.v4)), _ip(spec.get("daddr", self.peer4))
        protocol, body = _upper(spec, cookie, source, destination)
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 7, 0, 64, protocol, 0) + source + destination
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body

    def _ipv6(self, spec: Spec, cookie: bytes) -> bytes:
        source, destination = _ip(spec.get("saddr", self.v6)), _ip(spec.get("daddr", self.peer6))
        protocol, body = _upper(spec, cookie, source, destination)
        for name in reversed(spec.get("headers", ())):
            protocol, body = _extended(name, protocol, body, cookie)
        return struct.pack("!IHBB", 6 << 28, len(body), protocol, 255) + source + destination + body


def _extended(name: str, protocol: int, body: bytes, cookie: bytes) -> tuple[int, bytes]:
    """A header before the rest."""
    if name in ("fragment", "first", "hidden"):
        more = int(name != "fragment")
        following, rest = protocol, body
        if name == "hidden":  # the next fragment would have it: this one ends with the options before it
            following, rest = _DEST, struct.pack("!BBBB", protocol, 1, 1, 12) + bytes(4) + cookie
        return _FRAGMENT, struct.pack("!BBHI", following, 0, more, 99) + rest
    return (_HOP if name == "hop" else _DEST), struct.pack("!BBBBI", protocol, 0, 1, 4, 0) + body


def _upper(spec: Spec, cookie: bytes, source: bytes, destination: bytes) -> tuple[int, bytes]:
    """The protocol above IP, and its packet."""
    six = len(source) == 16
    if "udp" in spec or "tcp" in spec:
        protocol = _UDP if "udp" in spec else _TCP
        ports = struct.pack("!HH", *spec.get("udp", spec.get("tcp")))
        body = ports + struct.pack("!HH", 8 + len(cookie), 0) + cookie
        if protocol == _TCP:
            body = ports + struct.pack("!IIBBHHH", 1, 0, 0x50, 2, 1000, 0, 0) + cookie
    elif "protocol" in spec:
        return spec["protocol"], bytes(16) + cookie
    else:
        protocol, body = (_ICMP6, _icmp6(spec) + cookie) if six else (_ICMP, _icmp4(spec) + cookie)
    at = {_TCP: 16, _UDP: 6}.get(protocol, 2)
    pseudo = (
        source
        + destination
        + (struct.pack("!II", len(body), protocol) if six else struct.pack("!HH", protocol, len(body)))
    )
    whole = checksum((b"" if protocol == _ICMP else pseudo) + body)
    return protocol, body[:at] + struct.pack("!H", whole) + body[at + 2 :]


def _icmp4(spec: Spec) -> bytes:
    return struct.pack("!BBHI", spec.get("icmp", 8), 0, 0, 0)


def _icmp6(spec: Spec) -> bytes:
    if "ra" in spec:
        return struct.pack("!BBHBBHII", _RA, 0, 0, 64, 0, 1800, 0, 0)
    for name, kind in (("na", _NA), ("ns", _NS), ("redirect", _REDIRECT)):
        if name in spec:
            flags = 0x20000000 if name == "na" else 0
            return (
                struct.pack("!BBHI", kind, 0, 0, flags) + _ip(spec[name]) + (bytes(16) if name == "redirect" else b"")
            )
    return struct.pack("!BBHI", 133 if "rs" in spec else spec.get("icmp6", 128), 0, 0, 0)


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _ip(text: str) -> bytes:
    return ip_address(text).packed


def opened(link: str) -> socket.socket:
    """A socket for all frames of a link, in the calling thread's namespace."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    made.bind((link, 0))
    return made
