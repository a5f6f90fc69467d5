"""Connection tracking: delete UDP flows, which would otherwise go on to the old destination of a changed forward.

The kernel looks a forward up for the first packet of a flow only, and a UDP flow lives as long as packets come. TCP
connections are left alone: an established one stays with its destination.
"""

from __future__ import annotations

import errno
import ipaddress
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hostnet.agent.linux import netlink
from hostnet.agent.linux.netlink import attributes
from hostnet.wire.family import AF, Family

# linux/netfilter/nfnetlink_conntrack.h
_GET, _DELETE = (1 << 8) | 1, (1 << 8) | 2
_CTA_TUPLE_ORIG, _CTA_STATUS, _CTA_ID = 1, 3, 12
_CTA_TUPLE_IP, _CTA_TUPLE_PROTO = 1, 2
_CTA_IP_V4_DST, _CTA_IP_V6_DST = 2, 4
_CTA_PROTO_NUM, _CTA_PROTO_DST_PORT = 1, 3
_IPS_DST_NAT = 1 << 5
_IPPROTO_UDP = 17


@dataclass(frozen=True)
class Flows:
    """UDP flows to some ports of the host's own addresses.

    Attributes:
        family: "ipv4" or "ipv6".
        ports: The first and the last port.
    """

    family: Family
    ports: tuple[int, int]


def forget(flows: Iterable[Flows], is_local: Callable[[str], bool]) -> int:
    """Delete flows; the next packet of each is looked up again.

    A flow is deleted only if it was translated, or goes to an address of the host: a forward that listens on every
    address has none to compare with, and a guest's query to the same port of another machine must live.

    Args:
        flows: Which ports.
        is_local: Whether an address is the host's own.

    Returns:
        How many there were.

    Raises:
        OSError: The kernel refuses for another reason than that it tracks no connections yet.
    """
    by_family: dict[Family, list[tuple[int, int]]] = {}
    for each in flows:
        by_family.setdefault(each.family, []).append(each.ports)
    count = 0
    for family, ports in by_family.items():
        connection = netlink.Netlink(netlink.NETLINK_NETFILTER)
        try:
            head = struct.pack("=BBH", AF[family], 0, 0)
            for message in connection.dump(_GET, head):
                if _concerned(message.body[4:], ports, is_local):
                    count += _delete(connection, head, message.body[4:])
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT):
                raise  # else nf_conntrack_netlink is not loaded, or nothing has used conntrack in this namespace
        finally:
            connection.close()
    return count


def _concerned(body: bytes, ports: list[tuple[int, int]], is_local: Callable[[str], bool]) -> bool:
    found = attributes(body)
    original = attributes(found.get(_CTA_TUPLE_ORIG, b""))
    protocol = attributes(original.get(_CTA_TUPLE_PROTO, b""))
    if protocol.get(_CTA_PROTO_NUM, b"\0")[0] != _IPPROTO_UDP:
        return False
    port = int.from_bytes(protocol.get(_CTA_PROTO_DST_PORT, b"\0\0")[:2], "big")
    if not any(low <= port <= high for low, high in ports):
        return False
    if int.from_bytes(found.get(_CTA_STATUS, b"\0\0\0\0")[:4], "big") & _IPS_DST_NAT:
        return True
    address = attributes(original.get(_CTA_TUPLE_IP, b""))
    destination = address.get(_CTA_IP_V4_DST) or address.get(_CTA_IP_V6_DST)
    return destination is not None and is_local(str(ipaddress.ip_address(destination)))


def _delete(connection: netlink.Netlink, head: bytes, body: bytes) -> int:
    found = attributes(body)
    # With its number, so that a later flow between the same ports is not meant.
    request = head + netlink.nested(_CTA_TUPLE_ORIG, found[_CTA_TUPLE_ORIG])
    if _CTA_ID in found:
        request += netlink.attribute(_CTA_ID, found[_CTA_ID])
    try:
        connection.request(_DELETE, request)
    except OSError as error:
        if error.errno != errno.ENOENT:  # it timed out in between
            raise
        return 0
    return 1
