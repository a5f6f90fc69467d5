"""What replies by the same uplink need: numbers, rules, routes, and the nftables table that sets the marks. Pure.

A connection that is forwarded from an uplink gets a mark, and packets of its replies, which come in from a guest, get
the same mark before the kernel looks for a route. A rule leads them to a table with the main table's routes through
that uplink. What the host itself sends passes no prerouting hook, and gets no mark.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import replace

from hostnet.agent.linux.operations import AddRule, DeleteRule, Operation, PutRoute, RemoveRoute
from hostnet.agent.linux.snapshot import Policy
from hostnet.agent.record.replies import ReplyRoute
from hostnet.wire.digest import sha256
from hostnet.wire.family import FAMILIES, family_of

# The bits of marks that are hostnet's; all others are left as they are. Programs that mark packets by default use
# others: Docker and Kubernetes the lower 16 bits, Tailscale 0x00ff0000.
MASK = 0x3F000000
_OTHERS = 0xFFFFFFFF ^ MASK
_SHIFT = 24
_MARKS = MASK >> _SHIFT
_FIRST_TABLE = 7100  # 253 to 255 are the kernel's, and people count from 100 and from 1000
_MAIN, _STATIC = 254, 4  # RT_TABLE_MAIN, RTPROT_STATIC (linux/rtnetlink.h)
_LINK_LOCAL = "fe80:"
_WIDEST = 1  # bits: a default route, or one of the two halves that a VPN client adds


class NoNumberError(Exception):
    """All numbers are taken."""


def table_name(mark: str) -> str:
    """The nftables table of a record.

    Args:
        mark: What ends the comments of its elements (`syntax.mark_of`); two records of one host have a table each.
    """
    return f"inet hostnet_replies{f'_{sha256(mark.encode()).hexdigest()[:8]}' if mark else ''}"


def table_text(name: str, routes: Mapping[str, ReplyRoute]) -> str:
    """The nftables table, in nft syntax.

    Its chains come after those of others at the priority `mangle`, which may restore marks as a whole: with our bits a
    packet on its way in would be sent out again. They may also save them as a whole, so each packet of a connection
    that has lost ours sets it again: a chain for NAT sees only the first one, and not its repetition. What has ours
    keeps it, whatever comes in elsewhere under its addresses. ICMP errors come in by any uplink.

    Args:
        name: See `table_name`.
        routes: The numbers of each uplink.
    """
    marks = "\n".join(
        f"    ct mark & {MASK:#010x} == {each.mark:#010x} meta mark set meta mark | {each.mark:#010x}"
        for _, each in sorted(routes.items())
    )
    uplinks = "\n".join(
        f'    iifname "{link}" ct mark set ct mark & {_OTHERS:#010x} | {each.mark:#010x}'
        for link, each in sorted(routes.items())
    )
    numbers = ", ".join(f"{each.mark:#010x}" for _, each in sorted(routes.items()))
    return f"""add table {name} {{ comment "hostnet: replyBySameUplink, see docs/nft.md"; }}
table {name} {{
  chain prerouting {{
    type filter hook prerouting priority -149; policy accept;
    meta mark & {MASK:#010x} != 0x0 meta mark set meta mark & {_OTHERS:#010x}
    ct mark & {MASK:#010x} == 0x0 accept
    ct direction original accept
{marks}
  }}
  chain postrouting {{
    type filter hook postrouting priority 99; policy accept;
    ct direction reply accept
    ct mark & {MASK:#010x} {{ {numbers} }} accept
    ct state related meta l4proto {{ icmp, ipv6-icmp }} accept
{uplinks}
  }}
}}
"""


def numbered(uplinks: Iterable[str], held: Mapping[str, ReplyRoute], policy: Policy) -> dict[str, ReplyRoute]:
    """The numbers of each uplink: those that it has, unless another program uses one of them; else free ones.

    The priority is always before the rules of others: one that came later may be before ours by now.

    Args:
        uplinks: Which.
        held: The numbers that are recorded.
        policy: The routing rules and routes of the host.

    Raises:
        NoNumberError: Rules of other programs take all marks.
    """
    others = [rule for rule in policy.rules if not _is_ours(rule, held.values())]
    tables = {rule.table for rule in others} | policy.named
    tables |= {route.table for route in policy.routes} - {each.table for each in held.values()}
    found: dict[str, ReplyRoute] = {}
    first = _priority(others)
    for link in uplinks:
        each = held.get(link)
        if each is None or each.table in tables or _is_taken(each.mark, others):
            known = (*held.values(), *found.values())
            mark = _free_mark({x.mark for x in known}, others)
            each = ReplyRoute(mark, _free_table({*tables, *(x.table for x in known)}), first)
        found[link] = each if each.priority <= first else replace(each, priority=first)
    return found


def _rules(route: ReplyRoute) -> Iterator[AddRule]:
    return (AddRule(family, route.priority, route.mark, MASK, route.table) for family in FAMILIES)


def _is_ours(rule: AddRule, known: Iterable[ReplyRoute]) -> bool:
    """Whether a rule is one of these uplinks', whatever its priority was."""
    return rule.mask == MASK and any((rule.mark, rule.table) == (each.mark, each.table) for each in known)


def _is_taken(mark: int, others: Iterable[AddRule]) -> bool:
    """Whether the rule of another program is for packets with this mark."""
    return any(rule.mark and mark & rule.mask == rule.mark for rule in others)


def _free_mark(taken: Container[int], others: list[AddRule]) -> int:
    for number in range(1, _MARKS + 1):
        mark = number << _SHIFT
        if mark not in taken and not _is_taken(mark, others):
            return mark
    raise NoNumberError


def _free_table(taken: Container[int]) -> int:
    table = _FIRST_TABLE
    while table in taken:
        table += 1
    return table


def _priority(others: Iterable[AddRule]) -> int:
    """Before each rule that leads elsewhere than to the host's own addresses: a VPN client's would come first else."""
    return max(1, min((rule.priority for rule in others if rule.priority), default=32766) - 1)


def steps(held: Mapping[str, ReplyRoute], routes: Mapping[str, ReplyRoute], policy: Policy) -> Iterator[Operation]:
    """The operations that bring rules and tables to what they should be.

    Args:
        held: The numbers of each uplink that had some.
        routes: Those of each uplink that should have some.
        policy: The routing rules and routes of the host.
    """
    wanted = [route for link, each in routes.items() for route in _wanted_routes(link, each.table, policy)]
    tables, former = {each.table for each in routes.values()}, {each.table: link for link, each in held.items()}
    # The kernel has one route of a destination, metric and TOS: one that changes goes first.
    yield from (
        RemoveRoute(**vars(route))
        for route in policy.routes
        if (route.table in tables or former.get(route.table) == route.link) and route not in wanted
    )
    yield from (route for route in wanted if route not in policy.routes)
    filled = {(family_of(route.cidr), route.table) for route in wanted}  # a family that a host lacks has no rules
    rules = [rule for each in routes.values() for rule in _rules(each) if (rule.family, rule.table) in filled]
    yield from (rule for rule in rules if rule not in policy.rules)
    known = (*held.values(), *routes.values())
    yield from (DeleteRule(**vars(rule)) for rule in policy.rules if _is_ours(rule, known) and rule not in rules)


def _wanted_routes(link: str, table: int, policy: Policy) -> Iterator[PutRoute]:
    """The main table's routes through an uplink, as they are in a table of its own; those without a gateway first.

    Without a preferred source: what is forwarded has one, and with that address the kernel deletes the route. Of a
    family without a default route there (the line is down) they stay as they are.
    """
    found: dict[tuple[object, ...], PutRoute] = {}
    for route in policy.routes:
        if route.table == _MAIN and route.link == link and not route.cidr.startswith(_LINK_LOCAL):
            copy = replace(route, table=table, protocol=_STATIC, source=None, expires=0)
            found.setdefault((copy.cidr, copy.tos, copy.metric), copy)
    wanted = sorted(found.values(), key=lambda route: route.gateway is not None)
    for family in FAMILIES:
        of_family = [route for route in wanted if family_of(route.cidr) == family]
        if any(int(route.cidr.partition("/")[2]) <= _WIDEST for route in of_family):
            yield from of_family
        else:
            yield from (x for x in policy.routes if x.table == table and x.link == link and family_of(x.cidr) == family)
