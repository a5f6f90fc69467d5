"""The fake nftables by itself: its dump, its counters, and what it does not know. Its likeness: tests/netns."""

from __future__ import annotations

import pytest
from hostnet.agent.firewalls.chains import ChainReader
from hostnet.agent.linux.libnftables import NftError
from hostnet.agent.nft.ruleset import table_text
from hostnet.agent.nft.table import Table
from hostnet.fakes import FakeNftables

RULESET = """
table inet t {
  set links { type ifname; }
  map ports { type inet_proto . inet_service : ipv4_addr; flags interval; }
  chain forward {
    type filter hook forward priority filter + 10; policy drop;
    iifname @links jump allowed
  }
  chain allowed { oifname { "a", "b" } accept comment "to a and b"; }
}
add element inet t links { "br0" comment "a network", "br1" }
add element inet t ports { tcp . 80-90 : 10.0.0.2 }
"""
DUMP = """\
add table inet t
add chain inet t allowed
add chain inet t forward { type filter hook forward priority 10; policy drop; }
add set inet t links { type ifname; }
add element inet t links { "br0" comment "a network" }
add element inet t links { "br1" }
add map inet t ports { type inet_proto . inet_service : ipv4_addr; flags interval; }
add element inet t ports { 6 . 80-90 : 10.0.0.2 }
add rule inet t allowed oifname { "a" , "b" } accept comment "to a and b"
add rule inet t forward iifname @links jump allowed
"""


@pytest.fixture
def nft() -> FakeNftables:
    """With a small ruleset."""
    made = FakeNftables()
    made.run(RULESET)
    return made


def test_dump(nft: FakeNftables) -> None:
    """A ruleset in nft's own language, in a fixed order."""
    assert nft.dump() == DUMP


@pytest.mark.parametrize("text", [RULESET, table_text()])
def test_a_dump_makes_the_same_again(text: str) -> None:
    """It can be loaded."""
    first, second = FakeNftables(), FakeNftables()
    first.run(text)
    second.run(first.dump())
    assert second.dump() == first.dump()


def test_a_batch_is_applied_whole_or_not_at_all(nft: FakeNftables) -> None:
    """What came before the command that is refused is taken back; the generation stays."""
    generation = nft.generation()
    with pytest.raises(NftError, match="No such file or directory"):
        nft.run('add element inet t links { "br2" }\ndelete element inet t links { "absent" }')
    assert nft.dump() == DUMP
    assert nft.generation() == generation


def test_elements_and_counters() -> None:
    """They are listed as the agent reads them."""
    nft = FakeNftables()
    nft.run(table_text() + "add element inet hostnet forward_counters4 { 6 . 80-90 . 10.0.0.2 }")
    nft.count("inet", "hostnet", "forward_counters4", ("6", "80-90", "10.0.0.2"), 3, 180)
    listing = Table(nft).listing()
    assert listing is not None
    place = ("forward_counters4", ("tcp", "80-90", "10.0.0.2"))
    assert listing.elements == {place: ()}
    assert listing.counters == {place: (3, 180)}
    assert nft.elements("inet", "hostnet", "forward_counters4") == {("6", "80-90", "10.0.0.2"): ()}
    whole, terse = (nft.table("inet hostnet", elements=elements) for elements in (True, False))
    assert whole is not None
    assert terse is not None
    assert [element.counter for element in whole.sets["forward_counters4"]] == [(3, 180)]
    assert not any(terse.sets.values())
    assert terse.rules == whole.rules
    assert nft.table("inet nothing") is None


def test_a_batch_can_be_refused(nft: FakeNftables) -> None:
    """A test says what nft says; the next batch is applied."""
    nft.refuse("Error: Could not process rule: No buffer space available")
    with pytest.raises(NftError, match="No buffer space"):
        nft.run("flush ruleset")
    nft.run("flush ruleset")
    assert nft.dump() == ""


def test_a_table_that_a_program_owns() -> None:
    """The agent sees that it can't add rules there."""
    nft = FakeNftables()
    nft.run("add table inet firewalld { flags owner; }")
    nft.run("add chain inet firewalld filter_FORWARD { type filter hook forward priority 0; policy drop; }")
    (chain,) = ChainReader(Table(nft), legacy=False).chains()
    assert chain.read_only
    assert "flags owner" in nft.dump()


@pytest.mark.parametrize("text", ["bogus", "add flowtable inet t f", "add element inet t links", "add table"])
def test_what_is_not_known_is_refused(nft: FakeNftables, text: str) -> None:
    """Text that is not nft's, or no part of what the fake knows, is never taken for something else."""
    with pytest.raises((NftError, NotImplementedError)):
        nft.run(text)
    assert nft.dump() == DUMP
