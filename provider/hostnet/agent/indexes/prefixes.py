"""Networks as numbers, and an index that finds those that overlap another one without a look at each.

Ten thousand networks are read and compared in a fraction of the time that `ipaddress` takes.
"""

from __future__ import annotations

import socket
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from hostnet.agent.indexes.sharing import SharingMap

ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class Prefix:
    """A network.

    Attributes:
        bits: The length of an address of its family.
        first: Its first address.
        last: Its last address.
    """

    bits: int
    first: int
    last: int

    @classmethod
    def parse(cls, cidr: str) -> Prefix:
        """The network of an address, an address with prefix length, or a network.

        Raises:
            OSError: It is none.
        """
        address, _, length = cidr.partition("/")
        packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
        bits = len(packed) * 8
        host_bits = bits - int(length or bits)
        first = int.from_bytes(packed, "big") >> host_bits << host_bits
        return cls(bits, first, first | ((1 << host_bits) - 1))

    @classmethod
    def single_of(cls, cidr: str) -> Prefix:
        """The address alone of an address with prefix length."""
        return cls.parse(cidr.partition("/")[0])

    @property
    def single(self) -> bool:
        """Whether it is one address."""
        return self.first == self.last

    @property
    def size(self) -> int:
        """How many bits its addresses differ in."""
        return (self.last - self.first).bit_length()

    def covers(self, other: Prefix) -> bool:
        """Whether all of the other is in it."""
        return self.bits == other.bits and self.first <= other.first and other.last <= self.last


class PrefixIndex(Generic[ValueT]):
    """Values by network. Several values may have one network."""

    def __init__(self) -> None:
        self._by_first: SharingMap[tuple[int, int], tuple[tuple[Prefix, ValueT], ...]] = SharingMap()
        self._firsts: dict[int, list[int]] = {}  # by family, in order
        self._sizes: dict[int, dict[int, int]] = {}  # by family, how many networks there are of each size

    def copy(self) -> PrefixIndex[ValueT]:
        """One that changes apart from this."""
        other: PrefixIndex[ValueT] = PrefixIndex()
        other._by_first = self._by_first.copy()
        other._firsts = {bits: list(firsts) for bits, firsts in self._firsts.items()}
        other._sizes = {bits: dict(sizes) for bits, sizes in self._sizes.items()}
        return other

    def add(self, prefix: Prefix, value: ValueT) -> None:
        """Take down a value."""
        place = (prefix.bits, prefix.first)
        if place not in self._by_first:
            insort(self._firsts.setdefault(prefix.bits, []), prefix.first)
        self._by_first[place] = (*self._by_first.get(place, ()), (prefix, value))
        self._count(prefix, 1)

    def drop(self, prefix: Prefix, value: ValueT) -> None:
        """Forget a value, if it is there."""
        place = (prefix.bits, prefix.first)
        there = self._by_first.get(place, ())
        left = tuple(each for each in there if each != (prefix, value))
        self._count(prefix, len(left) - len(there))
        if left:
            self._by_first[place] = left
        elif self._by_first.pop(place, None):
            firsts = self._firsts[prefix.bits]
            del firsts[bisect_left(firsts, prefix.first)]

    def _count(self, prefix: Prefix, by: int) -> None:
        sizes = self._sizes.setdefault(prefix.bits, {})
        sizes[prefix.size] = sizes.get(prefix.size, 0) + by
        if not sizes[prefix.size]:
            del sizes[prefix.size]

    def overlapping(self, prefix: Prefix) -> Iterator[tuple[Prefix, ValueT]]:
        """The values of networks that lie in this one or cover it."""
        # Of two networks that overlap one covers the other. It begins where this one does, masked to its length. Most
        # hosts have networks of two or three lengths.
        starts = dict.fromkeys(prefix.first >> size << size for size in sorted(self._sizes.get(prefix.bits, ())))
        firsts = self._firsts.get(prefix.bits, [])
        for first in starts:
            for network, value in self._by_first.get((prefix.bits, first), ()):
                if network.last >= prefix.first:
                    yield network, value
        for at in range(bisect_right(firsts, prefix.first), bisect_right(firsts, prefix.last)):
            yield from self._by_first[prefix.bits, firsts[at]]
