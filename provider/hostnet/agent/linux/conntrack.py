"""Connection tracking: delete the flows that would otherwise keep a translation that the rules no longer ask for.

The kernel looks up how a flow is translated for its first packet only, and a flow of UDP, GRE, ESP or another protocol
without connections lives as long as packets come.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Union

from hostnet.agent.indexes.prefixes import Prefix, PrefixIndex
from hostnet.agent.linux import netlink
from hostnet.agent.linux.netlink import attributes
from hostnet.wire.family import AF, Family

# linux/netfilter/nfnetlink_conntrack.h
_GET, _DELETE = (1 << 8) | 1, (1 << 8) | 2
_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY, _CTA_STATUS, _CTA_ID = 1, 2, 3, 12
_CTA_TUPLE_IP, _CTA_TUPLE_PROTO = 1, 2
_CTA_IP_V4_SRC, _CTA_IP_V4_DST, _CTA_IP_V6_SRC, _CTA_IP_V6_DST = 1, 2, 3, 4
_CTA_PROTO_NUM, _CTA_PROTO_SRC_PORT, _CTA_PROTO_DST_PORT = 1, 2, 3
_IPS_SRC_NAT, _IPS_DST_NAT = 1 << 4, 1 << 5
_IPPROTO_UDP = 17
_CONNECTED = (6, 33, 132)  # TCP, DCCP, SCTP: an established connection stays with its destination, and ends by itself
_NUMBERS = {"tcp": (6,), "udp": (_IPPROTO_UDP,), "sctp": (132,), "icmp": (1, 58)}


@dataclass(frozen=True)
class Flow:
    """A flow that the kernel tracks, as its first packet was before any translation.

    Attributes:
        family: "ipv4" or "ipv6".
        protocol: The number of its protocol.
        source: Where it comes from.
        destination: Where it went to.
        port: The port that it went to; 0 where its protocol has none.
        source_translated: Whether its source is translated.
        target_translated: Whether its destination is translated.
        source_port: The port that it comes from; 0 where its protocol has none.
        answers: Who answers: address and port after any translation; None: as above.
    """

    family: Family
    protocol: int
    source: str
    destination: str
    port: int = 0
    source_translated: bool = False
    target_translated: bool = False
    source_port: int = 0
    answers: tuple[str, int] | None = None

    @property
    def end(self) -> tuple[str, int]:
        """Where it leads to: address and port after any translation."""
        return self.answers or (self.destination, self.port)


@dataclass(frozen=True)
class ForwardedFlows:
    """Flows to the host's own addresses. An established TCP connection stays with its destination.

    Attributes:
        family: "ipv4" or "ipv6".
        ports: The first and the last UDP port; None: all flows of protocols without connections.
    """

    family: Family
    ports: tuple[int, int] | None = None

    def has(self, flow: Flow, is_local: Callable[[str], bool]) -> bool:
        """Whether a flow is one of them: it was translated, or goes to an address of the host.

        A forward that listens on every address has none to compare with, and a guest's query to the same port of
        another machine must live.
        """
        if not _is_without_connection(flow.protocol, flow.port, self.ports):
            return False
        return flow.target_translated or is_local(flow.destination)


@dataclass(frozen=True)
class OwnFlows:
    """What a guest sends by itself, with the source that it was given, while its address or port becomes another's.

    The kernel takes what its peers send for answers, and leads it to that guest.

    Attributes:
        family: "ipv4" or "ipv6".
        source: The guest.
        ports: The first and the last UDP port that it sends from; None: all flows of protocols without connections.
    """

    family: Family
    source: str
    ports: tuple[int, int] | None = None

    def has(self, flow: Flow, _is_local: Callable[[str], bool]) -> bool:
        """Whether a flow is one of them."""
        if flow.source != self.source or not flow.source_translated:
            return False
        return _is_without_connection(flow.protocol, flow.source_port, self.ports)


@dataclass(frozen=True)
class UntranslatedFlows:
    """Flows that leave by an uplink from some networks, with the source that they have.

    Attributes:
        family: "ipv4" or "ipv6".
        sources: The networks.
        elsewhere: The networks that the host reaches by other interfaces.
    """

    family: Family
    sources: tuple[str, ...]
    elsewhere: tuple[str, ...] = ()
    _sources: PrefixIndex[None] = field(init=False, repr=False, compare=False, default_factory=PrefixIndex)
    _elsewhere: PrefixIndex[None] = field(init=False, repr=False, compare=False, default_factory=PrefixIndex)

    def __post_init__(self) -> None:
        for networks, index in ((self.sources, self._sources), (self.elsewhere, self._elsewhere)):
            for cidr in networks:
                index.add(Prefix.parse(cidr), None)

    def has(self, flow: Flow, is_local: Callable[[str], bool]) -> bool:
        """Whether a flow is one of them. One that a forward leads on stays with its destination."""
        if flow.source_translated or flow.target_translated:
            return False
        if not any(self._sources.overlapping(Prefix.parse(flow.source))) or is_local(flow.destination):
            return False
        return not any(self._elsewhere.overlapping(Prefix.parse(flow.destination)))


@dataclass(frozen=True)
class ForbiddenFlows:
    """Flows that began in some networks and lead to where their guests may not go any more.

    Attributes:
        family: "ipv4" or "ipv6".
        sources: The networks.
        allowed: Protocol ("any": all), ports (None: all) and network of what they may reach.
        near: The networks on their own bridge: what goes there is not forwarded.
        others: Parts of `sources` that are not meant.
        kept: Protocol and ports of what they may reach by its name, before and after.
        known: The networks and addresses that they could reach before by a rule that can be named. What went elsewhere
            was allowed by a name that has not been asked for of late.
    """

    family: Family
    sources: tuple[str, ...]
    allowed: tuple[tuple[str, tuple[int, int] | None, str], ...]
    near: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    kept: tuple[tuple[str, tuple[int, int] | None], ...] = ()
    known: tuple[str, ...] = ()

    def has(self, flow: Flow, is_local: Callable[[str], bool]) -> bool:
        """Whether a flow is one of them: of one that goes to the host, a forward has led it elsewhere."""
        target, _ = flow.end
        if not _within(flow.source, self.sources) or is_local(target):
            return False
        if _within(target, self.near) or _within(flow.source, self.others):
            return False
        if any(_fits(flow, *each) for each in self.allowed):
            return False
        return not any(_carries(flow, *each) for each in self.kept) or _within(target, self.known)


def _is_without_connection(protocol: int, port: int, ports: tuple[int, int] | None) -> bool:
    """Whether a protocol has no connections; with `ports`, whether it is UDP and the port is one of these."""
    if ports is None:
        return protocol not in _CONNECTED
    return protocol == _IPPROTO_UDP and ports[0] <= port <= ports[1]


def _within(address: str, networks: Iterable[str]) -> bool:
    return any(Prefix.parse(network).covers(Prefix.parse(address)) for network in networks)


def _fits(flow: Flow, protocol: str, ports: tuple[int, int] | None, network: str) -> bool:
    return _carries(flow, protocol, ports) and _within(flow.end[0], (network,))


def _carries(flow: Flow, protocol: str, ports: tuple[int, int] | None) -> bool:
    if protocol != "any" and flow.protocol not in _NUMBERS[protocol]:
        return False
    return ports is None or ports[0] <= flow.end[1] <= ports[1]


_SINGLE: dict[Family, str] = {"ipv4": "32", "ipv6": "128"}  # the prefix length of one address

Flows = Union[ForbiddenFlows, ForwardedFlows, OwnFlows, UntranslatedFlows]


def forget(flows: Iterable[Flows], is_local: Callable[[str], bool]) -> int:
    """Delete flows; the next packet of each is looked up again.

    Args:
        flows: Which.
        is_local: Whether an address is the host's own.

    Returns:
        How many there were.

    Raises:
        OSError: The kernel refuses for another reason than that it tracks no connections yet.
    """
    by_family: dict[Family, list[Flows]] = {}
    for each in flows:
        by_family.setdefault(each.family, []).append(each)
    count = 0
    for family, wanted in by_family.items():
        connection = netlink.Netlink(netlink.NETLINK_NETFILTER)
        concerned = candidates(wanted)
        try:
            head = struct.pack("=BBH", AF[family], 0, 0)
            for message in connection.dump(_GET, head):
                flow = _flow(family, message.body[4:])
                if flow is not None and any(each.has(flow, is_local) for each in concerned(flow)):
                    count += _delete(connection, head, message.body[4:])
        except OSError as error:
            # EINVAL is the answer of a kernel without nf_conntrack_netlink (nfnetlink_rcv_msg, Linux 6.18). In a
            # namespace where nothing has used conntrack the list is empty.
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT):
                raise
        finally:
            connection.close()
    return count


def candidates(wanted: Iterable[Flows]) -> Callable[[Flow], Sequence[Flows]]:
    """Which of these may have a flow: a thousand guests may get their lists in one change.

    Args:
        wanted: Flows of one family.
    """
    general: list[Flows] = []
    by_source: dict[str, list[Flows]] = {}
    for each in wanted:
        if isinstance(each, OwnFlows):
            by_source.setdefault(each.source, []).append(each)
            continue
        singles = [net.partition("/") for net in each.sources] if isinstance(each, ForbiddenFlows) else []
        if singles and all(length == _SINGLE[each.family] for _, _, length in singles):
            for address, _, _ in singles:
                by_source.setdefault(address, []).append(each)
        else:
            general.append(each)
    return lambda flow: [*general, *by_source.get(flow.source, ())]


def _flow(family: Family, body: bytes) -> Flow | None:
    found = attributes(body)
    original = _tuple(family, found.get(_CTA_TUPLE_ORIG, b""))
    if original is None:
        return None
    # Netfilter's numbers are in network byte order (nfnetlink_conntrack.h), those of rtnetlink in the host's.
    status = int.from_bytes(found.get(_CTA_STATUS, b"\0\0\0\0")[:4], "big")
    forwarded = bool(status & _IPS_DST_NAT)
    reply = _tuple(family, found.get(_CTA_TUPLE_REPLY, b"")) if forwarded else None
    return Flow(
        family,
        original.protocol,
        original.source,
        original.destination,
        original.ports[1],
        bool(status & _IPS_SRC_NAT),
        forwarded,
        original.ports[0],
        (reply.source, reply.ports[0]) if reply is not None else None,
    )


class _Tuple(NamedTuple):
    """One direction of a flow. Ports are 0 where its protocol has none."""

    protocol: int
    source: str
    destination: str
    ports: tuple[int, int]


def _tuple(family: Family, data: bytes) -> _Tuple | None:
    found = attributes(data)
    protocol, address = attributes(found.get(_CTA_TUPLE_PROTO, b"")), attributes(found.get(_CTA_TUPLE_IP, b""))
    source = address.get(_CTA_IP_V4_SRC) or address.get(_CTA_IP_V6_SRC)
    destination = address.get(_CTA_IP_V4_DST) or address.get(_CTA_IP_V6_DST)
    if source is None or destination is None:
        return None
    low, high = (
        int.from_bytes(protocol.get(port, b"\0\0")[:2], "big") for port in (_CTA_PROTO_SRC_PORT, _CTA_PROTO_DST_PORT)
    )
    number = protocol.get(_CTA_PROTO_NUM, b"\0")[0]
    return _Tuple(number, socket.inet_ntop(AF[family], source), socket.inet_ntop(AF[family], destination), (low, high))


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
