"""Which networks resources have on a host: subnets, routes, guests' addresses, and the host's single addresses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Union

from hostnet.agent.indexes.prefixes import Prefix, PrefixIndex
from hostnet.agent.indexes.sharing import SharingMap
from hostnet.wire.objects import Address, Guest, Object, Route

Networked = Union[Address, Route, Guest]
NETWORKED = frozenset({Address, Route, Guest})


@dataclass(frozen=True)
class Held:
    """A network that an owner has.

    Attributes:
        owner: The owner's key.
        item: The object that it is of.
        cidr: The network as the object has it; of a guest one of its addresses.
    """

    owner: str
    item: Networked
    cidr: str


class Networks:
    """An index, which finds what overlaps another network without a look at each owner.

    Attributes:
        wide: Subnets, routes and guests' addresses.
        single: The host's addresses without a subnet (`10.0.0.0/32`). A thousand routed TAPs may share one, so these
            are counted.
    """

    def __init__(self) -> None:
        self.wide: PrefixIndex[Held] = PrefixIndex()
        self.single: PrefixIndex[str] = PrefixIndex()
        self._counts: SharingMap[str, int] = SharingMap()

    def copy(self) -> Networks:
        """One that changes apart from this."""
        other = Networks()
        other.wide, other.single, other._counts = self.wide.copy(), self.single.copy(), self._counts.copy()
        return other

    def put(self, owner: str, objects: Iterable[Object]) -> None:
        """Take down what an owner has."""
        for prefix, held in _held(owner, objects):
            if not is_single(prefix, held):
                self.wide.add(prefix, held)
                continue
            count = self._counts[held.cidr] = self._counts.get(held.cidr, 0) + 1
            if count == 1:
                self.single.add(prefix, held.cidr)

    def drop(self, owner: str, objects: Iterable[Object]) -> None:
        """Forget what an owner has."""
        for prefix, held in _held(owner, objects):
            if not is_single(prefix, held):
                self.wide.drop(prefix, held)
                continue
            self._counts[held.cidr] -= 1
            if not self._counts[held.cidr]:
                del self._counts[held.cidr]
                self.single.drop(prefix, held.cidr)


def is_single(prefix: Prefix, held: Held) -> bool:
    """Whether it is an address of the host without a subnet."""
    return prefix.single and isinstance(held.item, Address)


def _held(owner: str, objects: Iterable[Object]) -> Iterator[tuple[Prefix, Held]]:
    for item in objects:
        if isinstance(item, (Address, Route)):
            yield Prefix.parse(item.cidr), Held(owner, item, item.cidr)
        elif isinstance(item, Guest):
            for cidr in item.addresses or ():
                address = cidr.partition("/")[0]
                yield Prefix.parse(address), Held(owner, item, address)
