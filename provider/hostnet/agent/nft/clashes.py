"""Refuses forwards that need different values of one element of our tables, before nft does. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product

from hostnet.agent.indexes.prefixes import Prefix
from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.nft.context import Context, context_of
from hostnet.agent.nft.forward_elements import Cell, forward_cells
from hostnet.agent.nft.ruleset import SETS, Element
from hostnet.agent.record.owners import Owner, Owners
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import Forward, Gateway, ports_text

Placed = tuple[Forward, Cell, Element]


def check_forwards(owner: Owner, owners: Owners, snapshot: Snapshot) -> None:
    """Refuse an owner whose forwards, or whose gateway's forwards, need ports that another owner's have.

    Raises:
        HostnetError: Names the other owner.
    """
    owners.check_ports(owner)
    _check_source_nat(owner, owners)
    moved = {gateway.name for gateway in owner.of(Gateway) if owners.gateways.get(gateway.name) != gateway}
    if not moved and not owners.beside(owner, elsewhere=True):
        return
    planned = owners.copy()
    planned[owner.key] = owner
    context: Context | None = None
    forwarding = [each for each in planned.values() if any(item.gateway in moved for item in each.of(Forward))]
    for each in {one.key: one for one in (owner, *forwarding)}.values():
        planned.check_ports(each)
        elsewhere = planned.beside(each, elsewhere=True)
        if elsewhere:
            context = context or context_of(planned, snapshot, {})
            # Where another external interface forwards the same port, the address that a client asks for decides:
            # these forwards can clash with those that listen on that address.
            beside = {key for one in elsewhere for key in planned.beside(planned[one], elsewhere=False)}
            group = [each, *(planned[key] for key in sorted(elsewhere | beside - {each.key}))]
            for one, other in combinations(group, 2):
                _check_pair(one, other, context, owner)


def _check_source_nat(owner: Owner, owners: Owners) -> None:
    """Refuse forwards that differ in `sourceNat`, and beyond that only in the address that they listen on.

    At postrouting a packet has its target, and the port that was asked for (`source_nat_ports`).
    """
    if not owners.forwards.masked and not any(item.source_nat for item in owner.of(Forward)):
        return
    planned = owners.copy()
    planned[owner.key] = owner
    beside = sorted(planned.beside(owner, elsewhere=False))
    by_target: dict[tuple[str, ...], list[tuple[int, int, Forward, Owner]]] = {}
    for each in (owner, *(planned[key] for key in beside)):
        for item in each.of(Forward):
            for external, protocol in product(planned.externals_of(item), item.protocols):
                target = (external, item.family, protocol, item.address)
                by_target.setdefault(target, []).append((*item.ports, item, each))
    for forwards in by_target.values():
        _check_one_target(forwards, owner)


def _check_one_target(forwards: list[tuple[int, int, Forward, Owner]], owner: Owner) -> None:
    """Refuse two that share a port, one with `sourceNat` and one without."""
    forwards.sort(key=lambda each: each[:2])
    latest: dict[bool, tuple[int, Forward, Owner]] = {}  # by `sourceNat`, the one that reaches furthest so far
    for low, high, item, holder in forwards:
        other = latest.get(not item.source_nat)
        if other is not None and low <= other[0] and (holder is owner or other[2] is owner):
            mine, theirs = ((item, other[1]), other[2]) if holder is owner else ((other[1], item), holder)
            raise _source_nat_differs(*mine, theirs)
        if item.source_nat not in latest or high > latest[item.source_nat][0]:
            latest[item.source_nat] = (high, item, holder)


def _source_nat_differs(item: Forward, other: Forward, holder: Owner) -> HostnetError:
    ports = ports_text(other.ports)
    return HostnetError(
        Code.CONFLICT,
        f"cannot forward {'+'.join(item.protocols)} port {ports_text(item.ports)} ({item.family})",
        f"port {ports} at another address leads to {other.address} as well, with another sourceNat, by {holder.label}",
        "Set sourceNat to the same value in both",
        holder=holder.key,
    )


def _check_pair(one: Owner, other: Owner, context: Context, asking: Owner) -> None:
    """Refuse what both have on one interface and is not the same: the first of two would win, by chance."""
    if one.urn == other.urn:
        return
    theirs: dict[tuple[str, ...], list[Element]] = {}
    for _, _, element in _placed(other, context):
        theirs.setdefault(_alike(element), []).append(element)
    for forward, cell, element in _placed(one, context):
        for there in theirs.get(_alike(element), ()):
            same = there.key == element.key and there.value == element.value
            if not same and all(map(_meet, _asked(element), _asked(there))):
                raise _taken(forward, cell, there, one if one is not asking else None, other)


def _placed(owner: Owner, context: Context) -> Iterator[Placed]:
    """The elements that say where packets go."""
    for item in owner.of(Forward):
        if item.gateway is None or item.gateway in context.gateways:
            for cell in forward_cells(item, context):
                yield from ((item, cell, element) for element in cell.elements if SETS[element.set].value)


def _alike(element: Element) -> tuple[str, ...]:
    """The set, the interface where it has one, and the protocol."""
    return (element.set, *element.key[: -len(_asked(element))])


def _asked(element: Element) -> tuple[str, ...]:
    """What follows them: addresses and ports."""
    return element.key[SETS[element.set].key.index("inet_proto") + 1 :]


def _meet(field: str, other: str) -> bool:
    """Whether two addresses, networks or port ranges have something in common."""
    if "." in field or ":" in field:
        one, two = Prefix.parse(field), Prefix.parse(other)
        return one.covers(two) or two.covers(one)
    (low, high), (first, last) = (
        (int(begin), int(end or begin)) for begin, _, end in (each.partition("-") for each in (field, other))
    )
    return low <= last and first <= high


def _taken(forward: Forward, cell: Cell, there: Element, one: Owner | None, other: Owner) -> HostnetError:
    mine = ":".join(map(str, dict.fromkeys(forward.ports)))
    ports = there.key[-1].replace("-", ":")
    at = f" at {_asked(there)[0]}" if there.set.startswith(("dnat_addr", "inner_addr")) else ""
    whose = f" of {one.label}" if one else ""
    return HostnetError(
        Code.CONFLICT,
        f"cannot forward {cell.protocol} port {mine} ({forward.family}){whose}",
        f"from the host and its networks, {cell.protocol} port {ports}{at} belongs to {other.label}",
        "Choose another port"
        if cell.listen == "127.0.0.1"
        else "Choose another port, or set loopback to false in one of the two",
        holder=other.key,
    )
