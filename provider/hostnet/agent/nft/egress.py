"""What guests may reach: from `egress` to elements of our tables, and which flows may not go on. Pure.

An interval set of several fields (nft_set_pipapo) deletes the first element that a key lies in, so no two elements of
one set overlap: ports are cut where a rule begins or ends, and the networks of each piece are collapsed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hostnet.agent.dhcp.domains import set_names
from hostnet.agent.linux.conntrack import ForbiddenFlows
from hostnet.agent.nft.context import Context
from hostnet.agent.nft.networks import apart, bare, collapsed, subnets
from hostnet.agent.nft.ruleset import LIST_CHAINS, LIST_LENGTHS, NAME_SETS, PROTOCOLS, Element, Tagged
from hostnet.agent.record.owners import Owners
from hostnet.wire.digest import sha256
from hostnet.wire.family import FAMILIES, VERSION, Family, digit_of, family_of
from hostnet.wire.objects import EgressRule, Gateway, Guest, Ports

_PORT_MAX = 65535


@dataclass(frozen=True)
class _Allowed:
    """One element's part after its source: a protocol and ports (none: any), and a network.

    Attributes:
        set: The end of the name of its set.
        key: The fields.
    """

    set: str
    key: tuple[str, ...]


def egress_elements(gateway: Gateway, context: Context) -> Iterator[Tagged]:
    """The elements of a gateway's interfaces; those of its networks are shared (`egress_networks`)."""
    if gateway.egress is None:
        return
    tags = _tags(gateway.egress)
    for name in gateway.internal:
        yield Element("egress_links", (name,)), ("egress", "")
        rules = [rule for each in _restricting(context) if name in each.internal for rule in each.egress or ()]
        for digit in "46":
            for allowed in _allowed(rules, digit):
                tag = tags.get((digit, allowed), "")
                yield Element(f"egress_link_{allowed.set}{digit}", (name, *allowed.key)), ("egress", tag)
        made = _by_name(rules, Element("egress_link_lists", (name,)), "net_lists")
        yield from ((element, ("egress", "")) for element in made)


def guest_egress(item: Guest) -> Iterator[Tagged]:
    """The elements of a guest's own list. Its TAP proves its MAC address, so that is its name behind a bridge, too."""
    if item.egress is None:
        return
    tags = _tags(item.egress)
    guest = (item.bridge or item.link, item.mac)
    yield Element("egress_guests", guest), ("egress", "")
    for digit in "46":
        for allowed in _allowed(item.egress, digit):
            tag = tags.get((digit, allowed), "")
            name, key = _by_length(allowed, digit)
            yield Element(f"egress_guest_{name}", (*guest, *key)), ("egress", tag)
    made = _by_name(item.egress, Element("egress_guest_lists", guest), "refused")
    yield from ((element, ("egress", "")) for element in made)


def _by_name(rules: Iterable[EgressRule], source: Element, rest: str) -> Iterator[Element]:
    """What rules by domain name need: the sets of the names, a chain that looks at them, and who goes there.

    Guests with the same list have one chain: what a packet costs does not depend on how many guests there are.

    Args:
        rules: All rules of a list.
        source: The element of who has the list, without its value.
        rest: The chain that goes on with what no name allows.
    """
    named = {(str(rule.domain), rule.protocol, rule.ports or (0, 0)) for rule in rules if rule.domain is not None}
    if not named:
        return
    texts = tuple(text for each in sorted(named) for digit in "46" for text in _name_rule(*each, digit))
    chain = f"list_{sha256(repr((texts, rest)).encode()).hexdigest()[:12]}"
    for name in sorted({name for domain, _, _ in named for name in set_names(domain)}):
        yield Element(NAME_SETS, (name,))
    yield Element(LIST_CHAINS, (chain,), (*texts, f"goto {rest}"))
    yield Element(source.set, source.key, (chain,))


def _name_rule(domain: str, protocol: str, ports: tuple[int, int], digit: str) -> Iterator[str]:
    """A rule by domain name in one family, as `syntax` reads it from nft's listing."""
    first, last = ports
    before = ""
    if first:
        before = f"{protocol} dport {first}" + (f"-{last} " if last != first else " ")
    elif protocol == "icmp":
        before = f"meta l4proto {'58' if digit == '6' else '1'} "
    elif protocol != "any":
        before = f"meta l4proto {PROTOCOLS[protocol]} "
    yield f"{before}{'ip6' if digit == '6' else 'ip'} daddr @{set_names(domain)[digit == '6']} return"


def _by_length(allowed: _Allowed, digit: str) -> tuple[str, tuple[str, ...]]:
    """The end of the name of the set, and the end of the key: in a hash table wherever that is possible."""
    *front, cidr = allowed.key
    network: Any = ipaddress.ip_network(cidr)
    if network.prefixlen not in LIST_LENGTHS[digit] or any("-" in part for part in front):
        return f"{allowed.set}{digit}", allowed.key
    to = (str(network.network_address),) if network.prefixlen else ()
    return f"{allowed.set}{network.prefixlen}_{digit}", (*front, *to)


def _tags(rules: Sequence[EgressRule]) -> dict[tuple[str, _Allowed], str]:
    """By what a rule alone allows, the first rule that does; what several allow together is of none."""
    return {
        (digit, allowed): str(rule) for rule in reversed(rules) for digit in "46" for allowed in _allowed([rule], digit)
    }


def egress_networks(context: Context) -> Iterator[Element]:
    """The elements of networks that are given by address. Of networks that overlap, the most specific one counts."""
    gateways = list(context.gateways.values())
    if not _restricting(context):
        return
    for digit in "46":
        own = {cidr: [x for x in gateways if cidr in getattr(x, f"internal{digit}")] for x in gateways
               for cidr in getattr(x, f"internal{digit}")}  # fmt: skip
        networks: list[Any] = [ipaddress.ip_network(cidr) for cidr in own]
        for part in apart(set(networks)):
            home = max((net for net in networks if part.subnet_of(net)), key=lambda net: int(net.prefixlen))
            found = [gateway for gateway in own[str(home)] if gateway.egress is not None]
            if not found:
                continue
            yield Element(f"egress_nets{digit}", (bare(part),))
            rules = [rule for gateway in found for rule in gateway.egress or ()]
            for allowed in _allowed(rules, digit):
                yield Element(f"egress_net_{allowed.set}{digit}", (bare(part), *allowed.key))
            yield from _by_name(rules, Element(f"egress_net_lists{digit}", (bare(part),)), "refused")


def _restricting(context: Context) -> list[Gateway]:
    return [gateway for gateway in context.gateways.values() if gateway.egress is not None]


def _allowed(rules: Iterable[EgressRule], digit: str) -> list[_Allowed]:
    """What rules allow in one family, in pieces that do not overlap within a set."""
    own = [rule for rule in rules if rule.cidr is not None and digit_of(rule.cidr) == digit]
    found = [_Allowed("any", (bare(net),)) for net in collapsed(rule.cidr for rule in own if rule.protocol == "any")]
    for protocol in ("tcp", "udp", "sctp", "icmp"):
        mine = [rule for rule in own if rule.protocol == protocol]
        name = "icmpv6" if protocol == "icmp" and digit == "6" else protocol
        whole = collapsed(rule.cidr for rule in mine if rule.ports is None)
        found += [_Allowed("proto", (name, bare(net))) for net in whole]
        for first, last, networks in _pieces([rule for rule in mine if rule.ports is not None]):
            ports = str(first) if first == last else f"{first}-{last}"
            found += [_Allowed("port", (name, ports, bare(net))) for net in networks]
    return found


def _pieces(rules: list[EgressRule]) -> Iterator[tuple[int, int, list[Any]]]:
    """Ports, cut where a rule begins or ends, each piece with the networks of the rules that hold it."""
    spans = [(rule.ports[0], rule.ports[1], rule.cidr) for rule in rules if rule.ports is not None]
    cuts = sorted({edge for first, last, _ in spans for edge in (first, last + 1)})
    for first, after in zip(cuts, cuts[1:]):
        networks = [cidr for low, high, cidr in spans if low <= first and after - 1 <= high]
        if networks:
            yield first, after - 1, collapsed(networks)


def forbidden_flows(
    before: Owners, after: Owners, old: Context, new: Context, answered: Answered
) -> Iterator[ForbiddenFlows]:
    """The flows that a change of `egress` does not allow any more.

    Those that are accepted pass without a look at the rules, so conntrack must forget the others: their next packet is
    refused as that of a new connection is.

    Nothing says which name the address of a flow was asked by, once it has left the set of the name. Such a flow goes
    on, as long as the list had and has a name with its protocol and port.

    Args:
        before: All owners before the change.
        after: All owners after it.
        old: What the elements depended on before.
        new: What they depend on after it.
        answered: The addresses in a set of a name.
    """
    had, has = ({item.key: item for item in each} for each in _guests_that_changed(before, after))
    for item in has.values():
        if item.egress is not None and item != had.get(item.key):
            was = had[item.key].egress if item.key in had else None
            judged = _Judged(item.egress, was or (), answered)
            yield from _forbidden([_addresses(item, new)], judged, near=_near(item, new))
    # Whose own list is gone is again under the gateway's.
    freed = [
        item.egress
        for key, item in had.items()
        if item.egress is not None and getattr(has.get(key), "egress", None) is None
    ]
    for name, gateway in new.gateways.items():
        former = old.gateways.get(name)
        if gateway.egress is not None and (freed or former is None or former.egress != gateway.egress):
            listed = [net for guest in after.every(Guest) if guest.egress is not None for net in _addresses(guest, new)]
            judged = _Judged(gateway.egress, (former.egress if former else None) or (), answered, freed)
            yield from _forbidden(_homes(gateway, new), judged, others=listed)


def _guests_that_changed(before: Owners, after: Owners) -> tuple[list[Guest], list[Guest]]:
    """The guests before and after, of the owners that are others now."""
    had: list[Guest] = []
    has: list[Guest] = []
    for _, old, new in before.differences(after):
        had += old.of(Guest) if old is not None else ()
        has += new.of(Guest) if new is not None else ()
    return had, has


Answered = Callable[[str], Sequence[str]]  # the addresses in a set of a name


@dataclass(frozen=True)
class _Judged:
    """A list by which flows in progress are judged.

    Attributes:
        rules: What may be reached.
        former: What might be before.
        answered: The addresses in a set of a name.
        others: More lists that flows may have begun under.
    """

    rules: Sequence[EgressRule]
    former: Sequence[EgressRule]
    answered: Answered
    others: Sequence[Sequence[EgressRule]] = ()

    def allowed(self, family: Family) -> Iterator[tuple[str, Ports | None, str]]:
        """Protocol, ports and network of what may be reached."""
        for rule in self.rules:
            yield from ((rule.protocol, rule.ports, cidr) for cidr in self._targets(rule, family))

    def kept(self) -> Iterator[tuple[str, Ports | None]]:
        """Protocol and ports of the rules by a name that the list had before."""
        had = {rule.domain for rule in self.former if rule.domain is not None}
        return ((rule.protocol, rule.ports) for rule in self.rules if rule.domain in had)

    def known(self, family: Family) -> Iterator[str]:
        """What could be reached before by a rule that can be named."""
        for rule in (*self.former, *(each for rules in self.others for each in rules)):
            yield from self._targets(rule, family)

    def _targets(self, rule: EgressRule, family: Family) -> Sequence[str]:
        if rule.cidr is not None:
            return (rule.cidr,) if family_of(rule.cidr) == family else ()
        return self.answered(set_names(str(rule.domain))[family == "ipv6"])


def _forbidden(
    homes: Iterable[Sequence[Any]], judged: _Judged, near: Sequence[Any] = (), others: Sequence[Any] = ()
) -> Iterator[ForbiddenFlows]:
    """The flows of guests in these networks that no rule allows.

    Args:
        homes: The networks, home by home: what stays in one is not forwarded.
        judged: What they may reach, and might before.
        near: More networks that are not beyond the guests' own bridge.
        others: The addresses of guests that have lists of their own.
    """
    for networks in homes:
        for family in FAMILIES:
            own, inside, but = (
                tuple(str(net) for net in nets if net.version == VERSION[family])
                for nets in (networks, [*networks, *near], others)
            )
            if own:
                allowed, kept = tuple(judged.allowed(family)), tuple(judged.kept())
                known = tuple(judged.known(family)) if kept else ()
                yield ForbiddenFlows(family, own, allowed, inside, but, kept, known)


def _addresses(item: Guest, context: Context) -> list[Any]:
    """What a guest sends with: its addresses, and the networks of `allowedAddresses` and of a routed TAP's `routes`."""
    routes = context.guest_routes.get(item.link, ()) if item.bridge is None else ()
    own = (cidr.split("/")[0] for cidr in item.addresses or ())
    return [ipaddress.ip_network(each) for each in (*own, *item.allowed, *routes)]


def _near(item: Guest, context: Context) -> list[Any]:
    """The subnets of a guest's own bridge."""
    return subnets(context.guest_subnets.get(item.bridge or item.link, ()))


def _homes(gateway: Gateway, context: Context) -> Iterator[list[Any]]:
    """The networks of each interface behind a gateway, and each network that is given by address."""
    for link in gateway.internal:
        routed = [ipaddress.ip_network(cidr) for cidr in context.routes.get(link, ())]
        yield [*subnets(context.addresses.get(link, ())), *routed]
    for cidr in (*gateway.internal4, *gateway.internal6):
        yield [ipaddress.ip_network(cidr)]
