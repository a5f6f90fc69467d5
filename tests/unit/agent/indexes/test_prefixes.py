"""Networks that overlap are found by an index: the same ones as by a look at each."""

from __future__ import annotations

import ipaddress
from typing import Any

from hostnet.agent.indexes.prefixes import Prefix, PrefixIndex
from hypothesis import given
from hypothesis import strategies as st


def network(version: int, bits: int, length: int) -> Any:
    """A network of which few bits differ from others', so that many overlap."""
    most = 32 if version == 4 else 128
    address = (ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address)(bits << (most - 4) | bits)
    return ipaddress.ip_network(f"{address}/{min(length, most)}", strict=False)


NETWORKS = st.builds(network, st.sampled_from([4, 6]), st.integers(0, 15), st.integers(0, 128))


# More than a network has bits are looked up in another way.
CROWDS = st.builds(lambda crowd: [ipaddress.ip_network(number) for number in range(40) if crowd], st.booleans())


@given(
    held=st.builds(lambda few, crowd: few + crowd, st.lists(NETWORKS, max_size=12), CROWDS),
    dropped=st.sets(st.integers(0, 11)),
    asked=NETWORKS,
)
def test_the_index_finds_what_overlaps(held: list[Any], dropped: set[int], asked: Any) -> None:
    """In both families, with several values of one network, and after some were dropped; a copy is apart."""
    index: PrefixIndex[int] = PrefixIndex()
    for number, each in enumerate(held):
        index.add(Prefix.parse(str(each)), number)
    before = index.copy()
    for number in dropped & set(range(len(held))):
        index.drop(Prefix.parse(str(held[number])), number)
    overlapping = {n for n, each in enumerate(held) if each.version == asked.version and each.overlaps(asked)}
    prefix = Prefix.parse(str(asked))
    assert {number for _, number in index.overlapping(prefix)} == overlapping - dropped
    found = [(number, prefix.covers(each), each.covers(prefix)) for each, number in before.overlapping(prefix)]
    assert sorted(found) == [(n, held[n].subnet_of(asked), asked.subnet_of(held[n])) for n in sorted(overlapping)]
