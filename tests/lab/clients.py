"""What a guest asks of its network: real DHCP clients, DNS by hand, and the router advertisements that arrive.

`Client` is a namespace behind a veth of the host, its `eth0` without any address. `ask` asks a name server.
`Client.old` is a DHCP client as they were before PACKET_AUXDATA: it believes the checksum that it sees.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import time
from pathlib import Path
from typing import Any

from tests.lab.lab import Lab
from tests.lab.namespaces import Namespace
from tests.lab.waiting import PATIENCE

_SCRIPT = """#!/bin/sh
case "$1$reason" in
  *bound*|*renew*|*BOUND*|*RENEW*|*REBOOT*)
    ip address flush dev eth0 scope global
    if [ -n "$ip" ]; then ip address add "$ip/$mask" dev eth0
    else ip address add "$new_ip_address/$new_subnet_mask" dev eth0; fi
    for gateway in $router $new_routers; do ip route replace default via "$gateway"; done
    env >"$(dirname "$0")/given" ;;
esac
"""
_ETHERTYPE_IP = 0x0800


class Client:
    """A guest without an address of its own."""

    def __init__(self, lab: Lab, name: str, link: str, mac: str, folder: Path) -> None:
        """Make it.

        Args:
            lab: The laboratory whose host it is a guest of.
            name: Of its namespace.
            link: The host's end of its wire; in `br-a`, if that is there already.
            mac: The MAC address of its `eth0`.
            folder: A place for its script and leases.
        """
        self.mac = mac
        self._lab, self._name, self._folder = lab, name, folder / name
        self.namespace: Namespace = lab.net.namespaces.add(name)
        self.namespace.sysctl("net.ipv6.conf.default.accept_dad", 0)
        self.namespace.sysctl("net.ipv6.conf.default.router_solicitation_delay", 0)
        lab.host.ip(
            f"link add {link} type veth peer name eth0 address {mac} netns {self.namespace.name}", f"link set {link} up"
        )
        self.namespace.ip("link set eth0 up")
        if "br-a" in lab.host.kernel.links():
            lab.host.ip(f"link set {link} master br-a")
        self._folder.mkdir()
        self._script = self._folder / "script"
        self._script.write_text(_SCRIPT)
        self._script.chmod(0o755)

    def close(self) -> None:
        """Take it away with its wire."""
        self._lab.net.namespaces.delete(self._name)

    def udhcpc(self, *options: str) -> dict[str, str]:
        """Busybox's client; gives what it was given, by udhcpc's names (`ip`, `router`, `dns`, `lease`, …)."""
        self.namespace.run(
            ["busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "20", "-T", "5", "-s", self._place, *options]
        )
        return self._given()

    def dhclient(self) -> dict[str, str]:
        """ISC's client, or dhcpcd where the release has no other; gives what it was given (`new_ip_address`, …)."""
        if shutil.which("dhclient") is None:
            return self._dhcpcd()
        files = ["-lf", str(self._folder / "leases"), "-pf", str(self._folder / "pid"), "-cf", "/dev/null"]
        self.namespace.run(["dhclient", "-4", "-1", "-sf", self._place, *files, "eth0"])
        self.namespace.run(["dhclient", "-x", "-sf", "/bin/true", *files, "eth0"])
        return self._given()

    def _dhcpcd(self) -> dict[str, str]:
        """The same by dhcpcd, which calls what it was given by the same names."""
        # Its files are in fixed places, where a dhcpcd of the machine's own may have a file for another eth0.
        apart = 'mount -t tmpfs run /run && mount -t tmpfs leases /var/lib/dhcpcd && exec "$@"'
        wanted = [word for name in ("routers", "domain_name_servers", "domain_name") for word in ("-o", name)]
        options = ["-4", "--oneshot", "--noarp", "-f", "/dev/null", "-c", self._place, *wanted]
        self.namespace.run(["unshare", "--mount", "sh", "-c", apart, "sh", "dhcpcd", *options, "eth0"])
        return self._given()

    @property
    def _place(self) -> str:
        return str(self._script)

    def _given(self) -> dict[str, str]:
        lines = (self._folder / "given").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def addresses6(self) -> list[str]:
        """Its global v6 addresses with prefix lengths."""
        return sorted(one for one in self.namespace.kernel.links()["eth0"].addresses if ":" in one)

    def old(self, timeout: float = PATIENCE) -> str:
        """A DISCOVER whose answer is read off the wire: `whole`, `none` (no checksum), `damaged`, or `silent`."""
        return old_client(self.namespace, self.mac, timeout)


def old_client(namespace: Namespace, mac: str, timeout: float = PATIENCE) -> str:
    """See `Client.old`; on the namespace's `eth0`."""
    raw = namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETHERTYPE_IP))
    with raw:
        raw.bind(("eth0", _ETHERTYPE_IP))
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            raw.settimeout(left)
            raw.send(_discover(bytes.fromhex(mac.replace(":", ""))))
            try:
                while True:
                    raw.settimeout(min(left, 4.0))  # dnsmasq pings an address for three seconds before it offers it
                    verdict = _checksum_of(raw.recv(2048))
                    if verdict:
                        return verdict
            except TimeoutError:
                continue
    return "silent"


def _discover(mac: bytes) -> bytes:
    options = b"\x63\x82\x53\x63" + b"\x35\x01\x01" + b"\x37\x03\x01\x03\x06" + b"\xff"
    bootp = (b"\x01\x01\x06\0" + os.urandom(4) + bytes(20) + mac + bytes(10 + 192) + options).ljust(300, b"\0")
    udp = struct.pack("!HHHH", 68, 67, 8 + len(bootp), 0) + bootp
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, bytes(4), b"\xff" * 4)
    head = head[:10] + struct.pack("!H", _sum(head)) + head[12:]
    return b"\xff" * 6 + mac + struct.pack("!H", _ETHERTYPE_IP) + head + udp


def _checksum_of(frame: bytes) -> str:
    """How the UDP checksum of a DHCP answer stands; "" for any other frame."""
    start = 14 + (frame[14] & 15) * 4
    if frame[23] != 17 or frame[start : start + 4] != struct.pack("!HH", 67, 68):
        return ""
    udp = frame[start : start + struct.unpack_from("!H", frame, start + 4)[0]]
    if udp[6:8] == b"\0\0":
        return "none"
    pseudo = frame[26:34] + b"\0\x11" + udp[4:6]
    return "damaged" if _sum(pseudo + udp) else "whole"


def _sum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


# --- DNS -----------------------------------------------------------------------------------------------------------

_TYPES = {"A": 1, "PTR": 12, "AAAA": 28}


def ask(
    namespace: Namespace, server: str, name: str, kind: str = "A", *, tcp: bool = False, timeout: float = PATIENCE
) -> list[str] | None:
    """The addresses (for PTR: how many answers, as text) that a server answers; None where it does not answer."""
    query = struct.pack("!HHHHHH", 1, 0x0100, 1, 0, 0, 0) + _labels(name) + struct.pack("!HH", _TYPES[kind], 1)
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    made = namespace.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
    with made:
        made.settimeout(timeout)
        try:
            made.connect((server, 53))
            reply: bytes
            if tcp:
                made.sendall(struct.pack("!H", len(query)) + query)
                reply = made.recv(4096)[2:]
            else:
                made.send(query)
                reply = made.recv(4096)
        except OSError:
            return None
    return _answers(reply, len(query)) if reply else None  # a connection that is closed without a word is none


def _labels(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def _answers(reply: bytes, at: int) -> list[str]:
    found = []
    for _ in range(struct.unpack_from("!H", reply, 6)[0]):
        while reply[at] and reply[at] < 0xC0:
            at += 1 + reply[at]
        at += 2 if reply[at] >= 0xC0 else 1
        kind, _, _, size = struct.unpack_from("!HHIH", reply, at)
        data = reply[at + 10 : at + 10 + size]
        if kind in (1, 28):
            found.append(socket.inet_ntop(socket.AF_INET if kind == 1 else socket.AF_INET6, data))
        at += 10 + size
    return found


# --- router advertisements -----------------------------------------------------------------------------------------

_ADVERTISEMENT, _PREFIX, _MTU, _RDNSS = 134, 3, 5, 25


def advertisement(namespace: Namespace, timeout: float = PATIENCE) -> dict[str, Any]:
    """Solicit on `eth0`; gives `{"prefixes": [...], "servers": [...], "mtu": …}` of the first advertisement, or {}."""
    raw = namespace.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    with raw:
        index = namespace.call(socket.if_nametoindex, "eth0")
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        group = socket.inet_pton(socket.AF_INET6, "ff02::1") + struct.pack("=I", index)
        namespace.call(raw.setsockopt, socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            raw.settimeout(1)
            try:
                raw.sendto(struct.pack("!BBHI", 133, 0, 0, 0), ("ff02::2", 0, 0, index))
                while True:
                    data = raw.recv(2048)
                    if data[0] == _ADVERTISEMENT:
                        return _parse_advertisement(data)
            except OSError:
                continue
    return {}


def advertise(namespace: Namespace, prefix: str) -> None:
    """Send on `eth0`, as a router, that each host makes itself an address of a /64 prefix."""
    with namespace.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
        index = namespace.call(socket.if_nametoindex, "eth0")
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        head = struct.pack("!BBHBBHII", _ADVERTISEMENT, 0, 0, 64, 0, 1800, 0, 0)
        network = socket.inet_pton(socket.AF_INET6, prefix.split("/", maxsplit=1)[0])
        option = struct.pack("!BBBBIII16s", _PREFIX, 4, 64, 0xC0, 86400, 14400, 0, network)
        raw.sendto(head + option, ("ff02::1", 0, 0, index))


def _parse_advertisement(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {"prefixes": [], "servers": [], "managed": bool(data[5] & 0x80)}
    at = 16
    while at + 8 <= len(data) and data[at + 1]:
        option = data[at : at + data[at + 1] * 8]
        if option[0] == _PREFIX:
            found["prefixes"].append(f"{socket.inet_ntop(socket.AF_INET6, option[16:32])}/{option[2]}")
        elif option[0] == _RDNSS:
            found["servers"] += [
                socket.inet_ntop(socket.AF_INET6, option[i : i + 16]) for i in range(8, len(option), 16)
            ]
        elif option[0] == _MTU:
            found["mtu"] = struct.unpack_from("!I", option, 4)[0]
        at += len(option)
    return found
