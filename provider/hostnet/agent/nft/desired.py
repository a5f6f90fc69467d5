"""What our tables should hold, compiled from all owners. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from hostnet.agent.indexes.sharing import SharingMap
from hostnet.agent.nft.context import Context
from hostnet.agent.nft.elements import compile_common, compile_object
from hostnet.agent.nft.ruleset import Element, Place
from hostnet.agent.record.owners import Owner, Owners
from hostnet.wire.edits import ends_alike, gone_and_come
from hostnet.wire.objects import Forward

COMMON = ""  # in place of an owner's key: what all share

Compiled = tuple[tuple[Hashable, tuple[Element, ...]], ...]  # each object of an owner with its elements


@dataclass(frozen=True)
class Desired:
    """What the tables should hold.

    Attributes:
        elements: Values by place.
        holders: By place, the keys of the owners that ask for it; one for each object that does.
        owners: All owners.
    """

    elements: SharingMap[Place, tuple[str, ...]] = field(default_factory=SharingMap)
    holders: SharingMap[Place, tuple[str, ...]] = field(default_factory=SharingMap)
    owners: Owners = field(default_factory=Owners)
    _compared: tuple[SharingMap[Place, tuple[str, ...]], list[Place]] | None = field(
        default=None, compare=False, repr=False
    )

    def comment(self, place: Place) -> str:
        """Whose an element is, for a person."""
        owner = self.owners.get(self.holders[place][0])
        return owner.comment if owner is not None else "hostnet"

    def differences(self, later: Desired) -> list[Place]:
        """The places that have another value later, or none in one of the two."""
        # Asked twice for each transaction: what to send, and which flows take another path.
        compared = self._compared
        if compared is None or compared[0] is not later.elements:
            compared = (later.elements, sorted(self.elements.differences(later.elements)))
            vars(self)["_compared"] = compared
        return compared[1]


class ClashError(Exception):
    """Two owners ask for different values in one place."""

    def __init__(self, owner: str, holder: str, element: Element) -> None:
        super().__init__(owner, holder, element)
        self.owner, self.holder, self.element = owner, holder, element


class Compiler:
    """Compiles owners to elements, and of them only what changed since the last time."""

    def __init__(self) -> None:
        self._context = Context()
        self._desired = Desired()
        self._compiled: dict[str, Compiled] = {}

    def desired(self, owners: Owners, context: Context) -> Desired:
        """What the tables should hold for all these owners.

        Raises:
            ClashError: Two of them exclude each other.
        """
        # No owner's own elements depend on what is attached, and how.
        alike = _owners_part(context) == _owners_part(self._context)
        before, compiled = (self._desired, self._compiled) if alike else (Desired(), {})
        changed = {key: new for key, _, new in before.owners.differences(owners)}
        if context == self._context and not changed:
            return self._desired
        stale = set(_dependent(before.owners, owners)) if compiled else set()
        changed.update({key: owners[key] for key in stale})
        alike = alike and context == self._context and COMMON in compiled
        fresh = {} if alike else {COMMON: _compile_common(context, compiled.get(COMMON, ()))}
        for key, owner in changed.items():
            fresh[key] = _compile(owner, context, () if key in stale else compiled.get(key, ()))
        after = _changed(before, compiled, fresh, owners)
        compiled.update(fresh)
        for key, owner in changed.items():
            if owner is None:
                del compiled[key]
        self._context, self._desired, self._compiled = context, after, compiled
        return after

    @property
    def common(self) -> Iterator[Element]:
        """What all owners share, of what `desired` had last."""
        return (element for _, elements in self._compiled.get(COMMON, ()) for element in elements)

    def elements(self, owner: Owner) -> Iterator[Element]:
        """What the tables should hold for one of the owners that `desired` had last."""
        return (element for _, elements in self._compiled[owner.key] for element in elements)


def _owners_part(context: Context) -> Context:
    return replace(context, ports=(), served_ports={}, isolated={}, inner=(), outer=(), observed="")


def _dependent(before: Owners, after: Owners) -> Iterator[str]:
    """The keys of owners whose elements depend on forwards that come or go."""
    for _, old, new in before.differences(after):
        had, has = (owner.of(Forward) if owner is not None else () for owner in (old, new))
        for items, owners in zip(gone_and_come(had, has), (before, after)):
            for item in items:
                externals = owners.externals_of(item)
                found = (index.dependent(item, externals) for index in (before.forwards, after.forwards))
                yield from (key for keys in found for key in keys if key in after)


def _compile_common(context: Context, before: Compiled) -> Compiled:
    """What all share, each element by itself."""
    had = dict(before)
    found = dict.fromkeys(element for element, _ in compile_common(context))
    return tuple((element, had.get(element) or (element,)) for element in found)


def _compile(owner: Owner | None, context: Context, before: Compiled) -> Compiled:
    """An owner's elements; those of an object that it had before are not compiled again."""
    if owner is None:
        return ()
    had = [item for item, _ in before]
    front, end = ends_alike(had, owner.objects)
    stays = dict(before[front : len(had) - end])
    return (
        *before[:front],
        *(
            (item, stays[item] if item in stays else tuple(element for element, _ in compile_object(item, context)))
            for item in dict.fromkeys(owner.objects[front : len(owner.objects) - end])
        ),
        *before[len(had) - end :],
    )


def _changed(before: Desired, old: Mapping[str, Compiled], new: Mapping[str, Compiled], owners: Owners) -> Desired:
    """What the tables should hold after owners have changed.

    Args:
        before: What they should hold before.
        old: The elements of all owners before.
        new: Those of the owners that changed.
        owners: All owners.

    Raises:
        ClashError: Two of them exclude each other.
    """
    elements, holders = before.elements.copy(), before.holders.copy()
    for key, compiled in new.items():
        for element in _without(old.get(key, ()), compiled):
            place = element.place
            left = list(holders[place])
            left.remove(key)
            if left:
                holders[place] = tuple(left)
            else:
                del holders[place], elements[place]
    for key, compiled in new.items():
        mine = (key,)
        for element in _without(compiled, old.get(key, ())):
            place = element.place
            there = holders.get(place)
            if there is None:
                elements[place], holders[place] = element.value, mine
            elif elements[place] != element.value:
                raise ClashError(key, there[0], element)
            else:
                holders[place] = (*there, key)
    return Desired(elements, holders, owners.copy())


def _without(compiled: Compiled, other: Compiled) -> Iterator[Element]:
    """The elements of objects, but for those that are the same in another list."""
    front = next((at for at, (x, y) in enumerate(zip(compiled, other)) if x is not y), min(len(compiled), len(other)))
    theirs = {id(elements) for _, elements in other[front:]}
    return (element for _, elements in compiled[front:] if id(elements) not in theirs for element in elements)
