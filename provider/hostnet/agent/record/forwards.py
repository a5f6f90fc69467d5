"""Where the forwards of a host listen: which ports are taken, and what forwards depend on of each other."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import chain
from typing import Generic, TypeVar

from hostnet.agent.indexes.sharing import SharingMap, add_value, take_value
from hostnet.wire.family import ANY_ADDRESS
from hostnet.wire.objects import Forward

Span = tuple[int, int]  # first and last port
Group = tuple[str, str]  # family, protocol
Place = tuple[str, str, str, str]  # external interface, family, protocol, listen address or "*"
Target = tuple[Span, str, Span]  # ports, address, its ports

# By family, protocol and destination address ("": of all that listen on every address), where ranges are cut so that
# their parts are equal or apart: no two elements of an interval set may overlap. Such sets have no values: what is in
# one range or in two matches the same.
CutGroup = tuple[str, str, str]

GroupT = TypeVar("GroupT")
ValueT = TypeVar("ValueT")
KeyT = TypeVar("KeyT")


class ForwardIndex:
    """All forwards of a host, by what others ask of them. It is kept up, forward by forward.

    Attributes:
        looped: How many forwards can be reached from within.
        masked: How many show their target an address of this host.
        targets: The destinations, each with the number of forwards that lead there.
        loopback_targets: The same of those that 127.0.0.1 on the host leads to.
    """

    def __init__(self) -> None:
        self._holders: _Spans[Place, str] = _Spans()
        self._wide: SharingMap[Group, tuple[tuple[Span, str, str], ...]] = SharingMap()  # ports, external, owner's key
        self._listens: dict[tuple[str, str, str], SharingMap[str, int]] = {}  # by external, family, protocol
        self._single: SharingMap[tuple[str, str, str, int], int] = SharingMap()  # by external, family, protocol, port
        self._everywhere: _Spans[Group, Target] = _Spans()
        # Each port before which a range is cut, with the number of forwards that begin or end there.
        self._cuts: dict[CutGroup, SharingMap[int, int]] = {}
        self.looped = self.masked = 0
        self.targets: SharingMap[str, int] = SharingMap()
        self.loopback_targets: SharingMap[str, int] = SharingMap()

    def copy(self) -> ForwardIndex:
        """One that changes apart from this."""
        other = ForwardIndex()
        other._holders, other._everywhere = self._holders.copy(), self._everywhere.copy()
        other._wide, other._single = self._wide.copy(), self._single.copy()
        other._listens = {key: each.copy() for key, each in self._listens.items()}
        other._cuts = {key: each.copy() for key, each in self._cuts.items()}
        other.looped, other.masked = self.looped, self.masked
        other.targets, other.loopback_targets = self.targets.copy(), self.loopback_targets.copy()
        return other

    # --- changes -----------------------------------------------------------------------------------------------------

    def put(self, key: str, item: Forward, externals: Iterable[str]) -> None:
        """Note a forward of an owner, which listens on these external interfaces."""
        for (external, family, protocol, listen), span in places(item, externals):
            self._holders.add((external, family, protocol, listen), span, key)
            _count(self._listens.setdefault((external, family, protocol), SharingMap()), listen, 1)
            if span[0] == span[1]:
                _count(self._single, (external, family, protocol, span[0]), 1)
            else:
                add_value(self._wide, (family, protocol), (span, external, key))
        self._note(item, 1)

    def drop(self, key: str, item: Forward, externals: Iterable[str]) -> None:
        """Forget a forward of an owner."""
        for (external, family, protocol, listen), span in places(item, externals):
            self._holders.drop((external, family, protocol, listen), span, key)
            _count(self._listens[external, family, protocol], listen, -1)
            if not self._listens[external, family, protocol]:
                del self._listens[external, family, protocol]
            if span[0] == span[1]:
                _count(self._single, (external, family, protocol, span[0]), -1)
            else:
                take_value(self._wide, (family, protocol), (span, external, key))
        self._note(item, -1)

    def _note(self, item: Forward, by: int) -> None:
        self.looped += by * item.loopback
        self.masked += by * item.source_nat
        _count(self.targets, item.address, by)
        if _from_loopback(item):
            _count(self.loopback_targets, item.address, by)
        everywhere, wide = ANY_ADDRESS[item.family] in item.listen, item.ports[0] != item.ports[1]
        for protocol in item.protocols if everywhere or wide else ():
            if everywhere:
                change = self._everywhere.add if by > 0 else self._everywhere.drop
                change((item.family, protocol), item.ports, (item.ports, item.address, item.to_ports))
                self._cut_at((item.family, protocol, ""), item.ports, by)
            if wide:
                self._cut_at((item.family, protocol, item.address), item.ports, by)

    def _cut_at(self, group: CutGroup, span: Span, by: int) -> None:
        cuts = self._cuts.setdefault(group, SharingMap())
        for port in (span[0], span[1] + 1):
            _count(cuts, port, by)
        if not cuts:
            del self._cuts[group]

    # --- questions ---------------------------------------------------------------------------------------------------

    def parts(self, span: Span, group: CutGroup) -> list[Span]:
        """A range, cut where another one of its group begins or ends within it. A single port is whole."""
        low, high = span
        cuts = self._cuts.get(group) if low < high else None
        if cuts is None:
            return [span]
        if len(cuts) > high - low:
            within = [port for port in range(low + 1, high + 1) if port in cuts]
        else:
            within = sorted(port for port in cuts if low < port <= high)
        return list(zip((low, *within), (*(port - 1 for port in within), high)))

    @property
    def externals(self) -> frozenset[str]:
        """The external interfaces of all forwards."""
        return frozenset(external for external, _, _ in self._listens)

    def holders(self, place: Place, span: Span) -> Iterable[tuple[Span, str]]:
        """Who has one of these ports in a place: the ports, and the owner's key."""
        return self._holders.overlapping(place, span)

    def beside(self, item: Forward, externals: Collection[str], *, elsewhere: bool) -> Iterator[str]:
        """The keys of owners that have one of a forward's ports somewhere, its own one maybe among them.

        Args:
            item: The forward.
            externals: Its external interfaces.
            elsewhere: On another external interface than one of these; else at any address of these.
        """
        several = len(externals) > 1  # then each of them is another one than the rest
        others = [x for x in self.externals if ((several or x not in externals) if elsewhere else x in externals)]
        for protocol in item.protocols:
            for other in others:
                yield from self._at(other, item.family, protocol, item.ports)

    def _at(self, external: str, family: str, protocol: str, span: Span) -> Iterator[str]:
        """Who has one of these ports at any address of an external interface."""
        wide = self._wide.get((family, protocol), ())
        yield from (key for each, there, key in wide if there == external and _meet(each, span))
        ports = [port for port in range(span[0], span[1] + 1) if (external, family, protocol, port) in self._single]
        for listen in self._listens.get((external, family, protocol), ()) if ports else ():
            for port in ports:
                yield from (key for _, key in self._holders.single((external, family, protocol, listen), port))

    def dependent(self, item: Forward, externals: Collection[str]) -> Iterator[str]:
        """The keys of owners whose elements depend on whether this forward is there."""
        yield from self.beside(item, externals, elsewhere=True)
        for protocol in item.protocols:
            wide = self._wide.get((item.family, protocol), ())
            yield from (key for span, _, key in wide if _meet(span, item.ports))

    def doubled(self, item: Forward, protocol: str, externals: Collection[str]) -> bool:
        """Whether another external interface than a forward's forwards one of its ports, too."""
        others = self.externals.difference(externals)
        if not others:
            return False
        wide = self._wide.get((item.family, protocol), ())
        if any(there in others and _meet(each, item.ports) for each, there, _ in wide):
            return True
        ports = range(item.ports[0], item.ports[1] + 1)
        return any((other, item.family, protocol, port) in self._single for other in others for port in ports)

    def disputed(self, item: Forward, protocol: str) -> bool:
        """Whether a forward of another external interface has one of these ports as well, and leads elsewhere.

        Both listen on every address.
        """
        if len(self.externals) == 1:
            return False
        mine, group = (item.ports, item.address, item.to_ports), (item.family, protocol)
        return any(target != mine for _, target in self._everywhere.overlapping(group, item.ports))


class _Spans(Generic[GroupT, ValueT]):
    """Values by group and ports, the latest first.

    Single ports, which are most, are found at once; ranges are few and looked through.
    """

    def __init__(self) -> None:
        self._single: SharingMap[tuple[GroupT, int], tuple[ValueT, ...]] = SharingMap()
        self._ranges: SharingMap[GroupT, tuple[tuple[Span, ValueT], ...]] = SharingMap()

    def copy(self) -> _Spans[GroupT, ValueT]:
        other: _Spans[GroupT, ValueT] = _Spans()
        other._single, other._ranges = self._single.copy(), self._ranges.copy()
        return other

    def add(self, group: GroupT, span: Span, value: ValueT) -> None:
        if span[0] == span[1]:
            add_value(self._single, (group, span[0]), value)
        else:
            add_value(self._ranges, group, (span, value))

    def drop(self, group: GroupT, span: Span, value: ValueT) -> None:
        if span[0] == span[1]:
            take_value(self._single, (group, span[0]), value)
        else:
            take_value(self._ranges, group, (span, value))

    def overlapping(self, group: GroupT, span: Span) -> Iterable[tuple[Span, ValueT]]:
        ranges = [each for each in reversed(self._ranges.get(group, ())) if _meet(each[0], span)]
        if span[0] == span[1]:
            there = self._single.get((group, span[0]), ())
            return [*ranges, *((span, value) for value in reversed(there))] if ranges or there else ()
        singles = (self.single(group, port) for port in range(span[0], span[1] + 1))
        return chain(ranges, chain.from_iterable(singles))

    def single(self, group: GroupT, port: int) -> Iterator[tuple[Span, ValueT]]:
        return (((port, port), value) for value in reversed(self._single.get((group, port), ())))


def places(item: Forward, externals: Iterable[str]) -> list[tuple[Place, Span]]:
    """Where a forward listens, with its ports."""
    everywhere = ANY_ADDRESS[item.family]
    listens = {"*" if listen == everywhere else listen for listen in item.listen} or ("*",)
    return [
        ((external, item.family, protocol, listen), item.ports)
        for external in externals
        for protocol in item.protocols
        for listen in listens
    ]


def _from_loopback(item: Forward) -> bool:
    """Whether a forward leads from 127.0.0.1 on the host to its destination."""
    if item.family != "ipv4":
        return False
    return "127.0.0.1" in item.listen or (item.loopback and not set(item.listen) - {ANY_ADDRESS["ipv4"]})


def _count(counts: SharingMap[KeyT, int], key: KeyT, by: int) -> None:
    """Count up or down; what is at 0 is taken out."""
    count = counts.get(key, 0) + by
    if count:
        counts[key] = count
    else:
        counts.pop(key, None)


def _meet(one: Span, other: Span) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]
