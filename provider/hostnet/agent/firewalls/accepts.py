"""The traffic that other firewalls must accept, and the rules that accept it, for nft and for iptables. Pure.

A rule that accepts everything to an internal interface opens nothing: our own table drops what is neither a reply, nor
a forward's, nor between networks that may reach each other. So there is one rule for each interface, where rules for
pairs of interfaces would be as many as their square.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from hostnet.agent.dhcp.config import inputs_to_open
from hostnet.agent.nft.context import Context
from hostnet.agent.nft.forward_elements import forward_devices
from hostnet.agent.nft.ruleset import PROTOCOLS
from hostnet.agent.nft.syntax import clean_comment, render_key
from hostnet.agent.record.owners import Owners
from hostnet.wire.digest import sha256
from hostnet.wire.family import FAMILIES, NFT_HEADER, Family, family_of
from hostnet.wire.objects import DhcpServer, Forward, Gateway, Link

TAG = "hostnet: "  # the comment of every rule of ours in another firewall's chain begins with it
FORWARD, INPUT = "forward", "input"
_ONE_FAMILY: dict[int, Family] = {67: "ipv4", 547: "ipv6"}  # DHCP's ports
_IPTABLES_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,15}")


@dataclass(frozen=True)
class Traffic:
    """Traffic to accept in a hook. What is None may be anything.

    Attributes:
        requester: The key of the object that needs it.
        hook: `FORWARD` or `INPUT`.
        iif: The interface that it comes in by.
        oif: The interface that it leaves by.
        family: Its family.
        source: Its source network.
        target: Its destination network.
        protocol: "tcp", "udp", "sctp" or "ipv6-icmp".
        port_side: Which of its ports `ports` is about: "dport", the destination's, or "sport", the source's.
        ports: "80" or "8000-8002".
        icmp: The number of an ICMPv6 type.
        forwarded: Only what a port forward or a dmz host leads there (DNAT).
    """

    requester: str
    hook: str = FORWARD
    iif: str | None = None
    oif: str | None = None
    family: Family | None = None
    source: str | None = None
    target: str | None = None
    protocol: str | None = None
    port_side: str = "dport"
    ports: str | None = None
    icmp: int | None = None
    forwarded: bool = False

    @property
    def interfaces_only(self) -> bool:
        """Whether interfaces alone describe it."""
        return not (self.family or self.source or self.target or self.protocol or self.forwarded)

    @property
    def text(self) -> str:
        """For the rule's comment: no other traffic of its hook has the same."""
        service = (
            self.protocol,
            f"type {self.icmp}" if self.icmp else None,
            f"{self.port_side} {self.ports}" if self.ports else None,
        )
        words = [
            f"{self.iif or 'any'} to {self.oif or 'host'}" if self.hook == FORWARD or self.iif else "",
            f"{self.source or 'any'} > {self.target or 'any'}" if self.source or self.target else "",
            " ".join(filter(None, service)),
            "forwarded" if self.forwarded else "",
        ]
        return " ".join(filter(None, words))


@dataclass(frozen=True)
class AcceptRule:
    """A rule as a firewall takes it.

    Attributes:
        text: What it matches: in nft syntax, or as arguments of iptables.
        comment: Its comment, by which it is found again.
        requesters: The keys of the objects that need it.
    """

    text: str
    comment: str
    requesters: frozenset[str] = field(default=frozenset(), compare=False)


# --- what must be accepted -------------------------------------------------------------------------------------------


def needs_accepts(gateways: Iterable[Gateway], links: Iterable[Link]) -> bool:
    """Whether other firewalls must accept anything for these gateways and links."""
    return any(gateway.firewall for gateway in gateways) or any(map(_is_open, links))


def traffic_of(owners: Owners, context: Context) -> Iterator[Traffic]:
    """All traffic that must be accepted.

    Args:
        owners: All owners.
        context: What their elements depend on.
    """
    for link in filter(_is_open, owners.every(Link)):
        yield Traffic(link.key, iif=link.name, oif=link.name)
    yield from _services(owners.every(DhcpServer))
    gateways = [gateway for gateway in owners.every(Gateway) if gateway.firewall and gateway.external]
    for gateway in gateways:
        yield from _gateway(gateway)
    if not gateways:
        return
    inside = _Inside(gateways, context)
    by_name = {gateway.name: gateway for gateway in gateways}
    for gateway in gateways:
        yield from _dmz(gateway, inside)
    for forward in owners.every(Forward):
        yield from _forward(forward, by_name, inside, context)


def _is_open(link: Link) -> bool:
    """Whether other firewalls must accept what a bridge forwards between its ports."""
    return link.kind == "bridge" and link.open_firewall


def forwards_of(owners: Owners, context: Context) -> Iterator[tuple[Traffic, str]]:
    """What forwards and dmz hosts of gateways with `firewall: auto` lead to guests, with the external interface."""
    gateways = {gateway.name: gateway for gateway in owners.every(Gateway) if gateway.firewall and gateway.external}
    if not gateways:
        return
    inside = _Inside(gateways.values(), context)
    for gateway in gateways.values():
        for family, address in _whole_machines(gateway):
            yield from ((Traffic(gateway.key, family=family, target=address), name) for name in gateway.uplinks)
    for item in owners.every(Forward):
        of = gateways.get(item.gateway) if item.gateway else None
        externals = of.uplinks if of else (item.external,) if item.external else ()
        if not externals or (of is None and (item.gateway or inside.externals(item.address) is None)):
            continue  # it is of no gateway with `firewall: auto`
        low, high = item.to_ports
        ports = str(low) if low == high else f"{low}-{high}"
        key = of.key if of else item.key
        for protocol in item.protocols:
            there = Traffic(key, family=item.family, target=item.address, protocol=protocol, ports=ports)
            yield from ((there, external) for external in externals)


def _services(servers: Iterable[DhcpServer]) -> Iterator[Traffic]:
    """DHCP, DNS and router solicitations to the host on its bridges."""
    for bridge, protocol, numbers in inputs_to_open(servers):
        for number in numbers:
            key = f"dhcp {bridge}"
            if protocol == "icmpv6":
                yield Traffic(key, INPUT, bridge, family="ipv6", protocol="ipv6-icmp", icmp=number)
            else:
                family = _ONE_FAMILY.get(number)
                yield Traffic(key, INPUT, bridge, family=family, protocol=protocol, ports=str(number))


def _gateway(gateway: Gateway) -> Iterator[Traffic]:
    key = gateway.key
    for name in gateway.internal:
        yield from (Traffic(key, iif=name, oif=external) for external in gateway.uplinks)
        yield Traffic(key, oif=name)
    for family, networks in zip(FAMILIES, (gateway.internal4, _forwarded6(gateway))):
        for network in networks:
            yield from (Traffic(key, oif=each, family=family, source=network) for each in gateway.uplinks)
            yield Traffic(key, family=family, target=network)


def _forwarded6(gateway: Gateway) -> tuple[str, ...]:
    """The gateway's IPv6 networks, where anything is forwarded for them."""
    return gateway.internal6 if gateway.nat6 or gateway.route6 or gateway.internal_forwarding else ()


def _whole_machines(gateway: Gateway) -> Iterator[tuple[Family, str]]:
    """The guests to which more leads than ports: dmz hosts, and those with one-to-one NAT."""
    yield from ((family, host) for family, host in zip(FAMILIES, (gateway.dmz4, gateway.dmz6)) if host)
    yield from ((family_of(inner), inner) for _, inner in gateway.one_to_one)


def _dmz(gateway: Gateway, inside: _Inside) -> Iterator[Traffic]:
    """To and from a dmz host that is behind none of the gateway's interfaces."""
    for family, address in _whole_machines(gateway):
        for external in gateway.uplinks:
            if external not in (inside.externals(address) or ()):
                yield Traffic(gateway.key, iif=external, family=family, target=address)
                yield Traffic(gateway.key, oif=external, family=family, source=address)


class _Inside:
    """The addresses behind the gateways' interfaces and networks, which the rules for those accept already."""

    def __init__(self, gateways: Iterable[Gateway], context: Context) -> None:
        self._networks = [
            (ipaddress.ip_network(cidr, strict=False), gateway.uplinks)
            for gateway in gateways
            for cidr in (
                *gateway.internal4,
                *_forwarded6(gateway),
                *(cidr for name in gateway.internal for cidr in context.addresses.get(name, ())),
            )
        ]
        self._known: dict[str, tuple[str, ...] | None] = {}

    def externals(self, address: str) -> tuple[str, ...] | None:
        """The external interfaces of the gateway that the address is behind; None if it is behind none."""
        if address not in self._known:
            parsed = ipaddress.ip_address(address)
            self._known[address] = next((names for network, names in self._networks if parsed in network), None)
        return self._known[address]


def _forward(item: Forward, gateways: Mapping[str, Gateway], inside: _Inside, context: Context) -> Iterator[Traffic]:
    """What a forward needs beyond the rules for its gateway's interfaces: mostly nothing."""
    within = inside.externals(item.address)
    gateway = gateways.get(item.gateway) if item.gateway else None
    if gateway is None and (item.gateway or within is None):
        return  # it is of no gateway with `firewall: auto`
    externals, apart = forward_devices(item, context)
    if set(externals) <= set(within or ()):
        return
    key = gateway.key if gateway else item.key
    low, high = item.to_ports
    ports = str(low) if low == high else f"{low}-{high}"
    for protocol in item.protocols:
        there = Traffic(key, family=item.family, target=item.address, protocol=protocol, ports=ports)
        back = Traffic(key, family=item.family, source=item.address, protocol=protocol, port_side="sport", ports=ports)
        if within is None:
            for source in item.sources or (None,):
                yield from (replace(there, iif=external, source=source) for external in externals)
            for device in (*context.inner, *apart) if item.loopback else ():
                yield replace(there, iif=device)
                yield replace(back, oif=device)
        yield from (replace(back, oif=external) for external in externals)


# --- rules -----------------------------------------------------------------------------------------------------------


def by_interface(wanted: Iterable[Traffic], family: str) -> Iterator[Traffic]:
    """All that forwards lead to an interface as one, where a rule can tell what was forwarded."""
    for each in _of(wanted, family):
        yield Traffic(each.requester, oif=each.oif, forwarded=True)


def for_nft(wanted: Iterable[Traffic], family: str) -> list[AcceptRule]:
    """The rules for a table of nft: one for all pairs of interfaces, one for all interfaces that may be sent to."""
    rest: list[Traffic] = []
    pairs: list[Traffic] = []
    targets: list[Traffic] = []
    for each in _of(wanted, family):
        if each.hook != FORWARD or not each.interfaces_only:
            rest.append(each)
        else:
            (pairs if each.iif and each.oif else targets).append(each)
    accepts = []
    for what, group, key in (
        ("between interfaces", pairs, "iifname . oifname"),
        ("to interfaces", targets, "oifname"),
    ):
        if group:
            members = sorted({" . ".join(_name(x) for x in (each.iif, each.oif) if x) for each in group})
            text = f"{key} {{ {', '.join(members)} }}"
            digest = sha256(text.encode()).hexdigest()[:6]
            requesters = frozenset(each.requester for each in group)
            accepts.append(AcceptRule(text, f"{TAG}{what} ({digest})", requesters))
    return accepts + _merged(
        AcceptRule(_nft_text(each, family), TAG + each.text, frozenset((each.requester,))) for each in rest
    )


def for_iptables_nft(wanted: Iterable[Traffic], family: str) -> list[AcceptRule]:
    """The rules for a table of iptables-nft, of what iptables can read back.

    It shows a rule with a set of interfaces wrongly, and it knows no ports of SCTP (1.8.9): those rules match the
    protocol alone.
    """
    return _merged(
        AcceptRule(
            # With a counter, as its own rules have one: `iptables -L -v` shows 0 packets for a rule without (1.8.9).
            _nft_text(replace(each, ports=None) if each.protocol == "sctp" else each, family) + " counter",
            clean_comment(TAG + each.text),
            frozenset((each.requester,)),
        )
        for each in _of(wanted, family)
    )


def for_iptables(wanted: Iterable[Traffic], family: str) -> list[AcceptRule]:
    """The rules for iptables-legacy. A `+` at the end of a name means any ending there: such names get no rule."""
    return _merged(
        AcceptRule(_iptables_text(each), clean_comment(TAG + each.text), frozenset((each.requester,)))
        for each in _of(wanted, family)
        if all(_IPTABLES_NAME.fullmatch(name) for name in (each.iif, each.oif) if name)
    )


def _of(wanted: Iterable[Traffic], family: str) -> Iterator[Traffic]:
    return (each for each in wanted if family == "inet" or each.family is None or NFT_HEADER[each.family] == family)


def _merged(accepts: Iterable[AcceptRule]) -> list[AcceptRule]:
    """Each rule once, with all its requesters."""
    found: dict[AcceptRule, frozenset[str]] = {}
    for each in accepts:
        found[each] = found.get(each, frozenset()) | each.requesters
    return [AcceptRule(each.text, each.comment, requesters) for each, requesters in found.items()]


def _name(name: str) -> str:
    """An interface's name, checked and quoted."""
    return render_key("our_links", (name,))


def _nft_text(each: Traffic, family: str) -> str:
    parts = []
    if each.iif:
        parts.append(f"iifname {_name(each.iif)}")
    if each.oif:
        parts.append(f"oifname {_name(each.oif)}")
    if each.forwarded:
        parts.append("ct status dnat")
    header = NFT_HEADER[each.family] if each.family else ""
    parts += [f"{header} saddr {_bare(each.source)}"] if each.source else []
    parts += [f"{header} daddr {_bare(each.target)}"] if each.target else []
    if family == "inet" and each.family and not (each.source or each.target):
        parts.append(f"meta nfproto {each.family}")
    if each.icmp:
        parts.append(f"icmpv6 type {each.icmp}")
    elif each.ports:
        parts.append(f"{each.protocol} {each.port_side} {each.ports}")
    elif each.protocol:
        parts.append(f"meta l4proto {PROTOCOLS[each.protocol]}")
    return " ".join(parts)


def _iptables_text(each: Traffic) -> str:
    pairs = (("-s", each.source), ("-d", each.target), ("-i", each.iif), ("-o", each.oif), ("-p", each.protocol))
    parts = [f"{option} {value}" for option, value in pairs if value]
    if each.forwarded:
        parts.append("-m conntrack --ctstate DNAT")
    if each.icmp:
        parts.append(f"-m icmp6 --icmpv6-type {each.icmp}")
    elif each.ports:
        parts.append(f"-m {each.protocol} --{each.port_side} {each.ports.replace('-', ':')}")
    return " ".join(parts)


def _bare(address: str | None) -> str:
    """A network, checked, as nft prints it."""
    network = ipaddress.ip_network(address or "")
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)
