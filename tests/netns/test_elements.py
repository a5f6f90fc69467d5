"""Elements that go to the kernel as bytes are those that nft makes of their text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hostnet.agent.linux.kernel import RawChange, RawElement
from hostnet.agent.linux.libnftables import Nft, NftError
from hostnet.agent.nft.ruleset import NAME_SET, SETS, TABLES, Element, table_text
from hostnet.agent.nft.syntax import Listing, encode, encode_key, render
from hostnet.agent.nft.table import Table

from tests.lab.listings import parse_listing
from tests.lab.namespaces import Namespaces

FIELDS = {
    "ifname": ("eth0", "br-a.100+x", "fifteen-letters"),
    "inet_proto": ("tcp", "udp", "sctp"),
    "inet_service": ("80", "1", "65535"),
    "ipv4_addr": ("10.0.0.2", "255.255.255.255", "192.0.2.7"),
    "ipv6_addr": ("fd00::2", "2001:db8:1:2:3:4:5:6", "::ffff:192.0.2.1"),
    "ether_addr": ("02:00:00:00:00:01", "fe:ff:ff:ff:ff:ff", "06:5e:10:20:30:40"),
    "nd_target": ("fd00::2", "fe80::1", "2001:db8::7"),
    "nd_prefix": ("fd00::/64", "2001:db8::/64", "fdff:ffff:ffff:ffff::/64"),
    "verdict": ("list_0123456789ab", "list_0123456789ac", "list_0123456789ad"),
    "sender4": ("02:00:00:00:00:01", "fe:ff:ff:ff:ff:ff", "06:5e:10:20:30:40"),
    "sender6": ("02:00:00:00:00:01", "fe:ff:ff:ff:ff:ff", "06:5e:10:20:30:40"),
    "source4": ("10.0.0.2", "255.255.255.255", "192.0.2.7"),
    "source6": ("fd00::2", "2001:db8:1:2:3:4:5:6", "fe80::1"),
}
BY_NAME = (
    *(f"add set inet hostnet n{digit}_0123456789ab {{ {NAME_SET.format(digit=digit)}; }}" for digit in "46"),
    *(f"add chain inet hostnet {chain}" for chain in FIELDS["verdict"]),
    *(
        f"add rule inet hostnet list_0123456789ab {before}{ip} daddr @n{digit}_0123456789ab return"
        for digit, ip in (("4", "ip"), ("6", "ip6"))
        for before in ("", "meta l4proto 6 ", "meta l4proto 58 ", "tcp dport 80 ", "udp dport 80-90 ", "sctp dport 7 ")
    ),
    "add rule inet hostnet list_0123456789ab goto refused",
    "add rule inet hostnet list_0123456789ac goto net_lists",
)
COMMENT, MARK = "PortForward web of stack dev", " @/srv/hostnet"
PLAIN = [name for name, spec in SETS.items() if spec.plain]


@pytest.fixture
def nft() -> Iterator[Nft]:
    """Our tables in a namespace of their own, without an element."""
    made = Namespaces()
    try:
        here, nft = made.add("elements"), Nft()
        here.call(nft.run, table_text())
        here.call(nft.generation)  # both sockets are of that namespace now
        yield nft
    finally:
        made.close()


def elements(name: str, at: Sequence[int] = (0, 1, 2)) -> list[Element]:
    """Elements of a set, one for each number: of the values of its fields' types, the one of this number."""
    spec = SETS[name]
    return [
        Element(name, *(tuple(FIELDS[kind][each] for kind in kinds) for kinds in (spec.key, spec.value))) for each in at
    ]


def added(name: str, *which: Element) -> RawChange:
    """The change that adds these elements."""
    return RawChange(SETS[name].table, name, (), [encode(each, COMMENT, MARK) for each in which])


def no_text() -> str:
    """In place of a batch's text, where nothing may read it."""
    raise AssertionError


def shown(nft: Nft) -> list[str]:
    """What nft shows of our tables, but for the order in which a hash table has its elements."""
    return sorted(
        line.strip().removeprefix("elements = {").strip(" },")
        for table in TABLES
        for line in nft.lines(f"list table {table}")
    )


def test_every_set_gets_what_nft_makes_of_the_text(nft: Nft) -> None:
    """For each set without ranges: three elements as bytes and as text are listed alike."""
    nft.change([added(name, *elements(name)) for name in PLAIN], no_text)
    as_bytes = shown(nft)
    nft.run("".join(f"flush {'map' if SETS[name].value else 'set'} {SETS[name].table} {name}\n" for name in PLAIN))
    empty = shown(nft)
    for name in PLAIN:
        for each in elements(name):
            nft.run(f"add element {SETS[name].table} {name} {{ {render(each, COMMENT, MARK)} }}")
    assert as_bytes == shown(nft)
    assert len(PLAIN) > 30
    assert as_bytes != empty
    nft.change([RawChange(SETS[x].table, x, [encode_key(x, each.key) for each in elements(x)]) for x in PLAIN], no_text)
    assert shown(nft) == empty


def test_a_key_gets_another_value_in_one_batch(nft: Nft) -> None:
    """Deletions come before additions."""
    old, new = (
        elements("dnat_port4", (0,))[0],
        Element("dnat_port4", elements("dnat_port4", (0,))[0].key, ("10.9.9.9", "9")),
    )
    nft.change([added("dnat_port4", old)], no_text)
    change = RawChange("inet hostnet", "dnat_port4", [encode_key("dnat_port4", old.key)], [encode(new)])
    nft.change([change], no_text)
    assert any("10.9.9.9 . 9" in line for line in shown(nft))
    assert not any("10.0.0.2 . 80" in line for line in shown(nft))


REFUSED: dict[str, tuple[list[RawChange], str]] = {
    "another value": (
        [added("dnat_port4", Element("dnat_port4", ("eth0", "tcp", "80"), ("10.9.9.9", "9")))],
        "dnat_port4: File exists",
    ),
    "not there": (
        [RawChange("inet hostnet", "our_links", [encode_key("our_links", ("eth9",))])],
        "our_links: No such file or directory",
    ),
    "no such set": (
        [RawChange("inet hostnet", "nothing", (), [RawElement(b"x" * 16)])],
        "nothing: No such file",
    ),
    "a key of another length": (
        [RawChange("inet hostnet", "our_links", (), [RawElement(b"x")])],
        "our_links: Invalid",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("many", [1, 1000])
def test_what_the_kernel_refuses_changes_nothing(nft: Nft, case: str, many: int) -> None:
    """A batch is applied as a whole or not at all, wherever in it the fault is."""
    changes, why = REFUSED[case]
    nft.change([added("dnat_port4", elements("dnat_port4", (0,))[0])], no_text)
    before, generation = shown(nft), nft.generation()
    others = [Element("forward_counters4", ("udp", str(port), "10.0.0.2")) for port in range(1, many + 1)]
    for batch in ([*changes, added("forward_counters4", *others)], [added("forward_counters4", *others), *changes]):
        with pytest.raises(NftError, match=f"Error: {why}"):
            nft.change(batch, no_text)
        assert (shown(nft), nft.generation()) == (before, generation)
    nft.change([added("forward_counters4", *others)], no_text)
    assert nft.generation() == generation + 1


def test_a_rehearsal_changes_nothing(nft: Nft) -> None:
    """While batches are only checked, one of elements is, too."""
    batch = f"add element inet hostnet our_links {{ {render(elements('our_links', (0,))[0])} }}"
    before = shown(nft)
    nft.dry_run(on=True)
    nft.change([added("our_links", elements("our_links", (0,))[0])], lambda: batch)
    with pytest.raises(NftError):
        nft.change([], lambda: 'delete element inet hostnet our_links { "eth0" }')
    nft.dry_run(on=False)
    assert shown(nft) == before


def test_60_000_elements_are_one_batch(nft: Nft) -> None:
    """More bytes than a socket's buffer has by itself, in one change of the ruleset."""
    generation = nft.generation()
    many = [Element("forward_counters4", ("tcp", str(port), "10.0.0.2")) for port in range(1, 60_001)]
    nft.change([added("forward_counters4", *many)], no_text)
    assert nft.generation() == generation + 1
    listed = nft.list("list set inet hostnet forward_counters4")
    assert len(listed[-1]["set"]["elem"]) == 60_000


NOT_OF_ITS_TYPE = [
    Element("our_links", ("sixteen-letters-",)),
    Element("our_links", ('a"b',)),
    Element("our_links", ("",)),
    Element("dnsmasq_ports", ("br0", "icmp", "53")),
    Element("dnsmasq_ports", ("br0", "tcp", "65536")),
    Element("dnsmasq_ports", ("br0", "tcp", "-1")),
    Element("bridge_addrs4", ("10.0.0.0/8",)),
    Element("bridge_addrs4", ("fd00::1",)),
    Element("bridge_addrs6", ("10.0.0.1",)),
    Element("guest_macs", ("tap0", "02:00:00:00:00")),
]


@pytest.mark.parametrize("element", NOT_OF_ITS_TYPE, ids=lambda each: " ".join(each.key) or "empty")
def test_a_field_has_to_be_of_its_type(element: Element) -> None:
    """Nothing else becomes bytes."""
    with pytest.raises((ValueError, OverflowError)):
        encode(element)


RANGES = {
    "inet_service": ("80-90", "1-65535", "7"),
    "ipv4_addr": ("10.0.0.0/8", "0.0.0.0/0", "192.0.2.7"),
    "ipv6_addr": ("fd00::/64", "::/0", "2001:db8::7"),
    "nd_target": ("fd00::/64", "2001:db8::/32", "fe80::1"),
}


def of_any_kind(name: str) -> list[Element]:
    """Elements of a set, with ranges where it takes them, that do not overlap."""
    spec = SETS[name]
    if spec.limit:
        return [
            Element(name, (each,), (str(rate),))
            for each, rate in zip(FIELDS["ifname"], (8000, 125_000, 1 << 27), strict=True)
        ]
    if not spec.interval:
        return elements(name)
    if len(spec.key) == 1:
        nets = {
            "ipv4_addr": ("10.0.0.0/8", "11.0.0.0/8", "192.0.2.7", "240.0.0.0/4"),
            "ipv6_addr": ("fd00::/64", "::1"),
        }
        return [Element(name, (net,), FIELDS["verdict"][:1] if spec.value else ()) for net in nets[spec.key[0]]]
    whole = [RANGES[kind][1] if kind in RANGES else FIELDS[kind][1] for kind in spec.key]
    first, last = ([(RANGES.get(kind) or FIELDS[kind])[at] for kind in spec.key] for at in (0, 2))
    values = [tuple(FIELDS[kind][at] for kind in spec.value) for at in (0, 1, 2)]
    # The widest comes last: the kernel refuses what lies in another element, and takes what others lie in.
    return [Element(name, tuple(key), value) for key, value in zip((first, last, whole), values, strict=True)]


def listings(nft: Nft) -> tuple[Listing, Listing]:
    """Our tables as the agent reads them, and as nft lists them."""
    listed = parse_listing([item for name in TABLES for item in nft.list(f"list table {name}")])
    ours = Table(nft).listing()
    assert ours is not None
    return ours, listed


def test_a_listing_is_what_nft_lists(nft: Nft) -> None:
    """Of every set, elements of every kind."""
    for command in BY_NAME:
        nft.run(command)
    everything = [each for name, spec in SETS.items() if not spec.seen for each in of_any_kind(name)]
    for each in everything:
        nft.run(f"add element {SETS[each.set].table} {each.set} {{ {render(each, COMMENT, MARK)} }}")
    for name in (name for name, spec in SETS.items() if spec.seen):
        nft.run(f"add element {SETS[name].table} {name} {{ {render(elements(name)[0])} counter packets 3 bytes 180 }}")
    ours, listed = listings(nft)
    assert ours.elements == listed.elements
    assert ours.elements.keys() >= {each.place for each in everything if "nd_prefix" not in SETS[each.set].key}
    assert ours.comments == listed.comments
    assert ours.counters == listed.counters
    assert (3, 180) in ours.counters.values()
    assert ours.sets == listed.sets == SETS.keys()
    assert len(everything) > 3 * 60


@pytest.mark.parametrize("nets", [["0.0.0.0/0"], ["0.0.0.0/1", "128.0.0.0/1"], ["255.255.255.255"], ["0.0.0.0/32"], []])
def test_the_ends_of_all_addresses(nft: Nft, nets: list[str]) -> None:
    """The kernel has no key behind the highest address."""
    for net in nets:
        nft.run(f"add element inet hostnet internal_nets4 {{ {net} }}")
    ours, listed = listings(nft)
    assert ours.elements == listed.elements == {("internal_nets4", (net.removesuffix("/32"),)): () for net in nets}


CHANGES = {
    "a rule": "add rule inet hostnet forward accept",
    "a chain": "add chain inet hostnet another",
    "a rule with a set of its own": 'add rule inet hostnet forward iifname { "a", "b" } accept',
    "the bridge's table": "add rule bridge hostnet forward accept",
    "a rule is gone": "flush chain inet hostnet forward",
}
NO_CHANGES = {
    "an element": 'add element inet hostnet our_links { "eth0" }',
    "another table": "add table inet other; add chain inet other forward; add rule inet other forward accept",
    "the same again, with other handles": "",
}


def rules(nft: Nft) -> str:
    """The print of the rules."""
    return listings(nft)[0].rules


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_rule_changes_the_print(nft: Nft, change: str) -> None:
    """So drift of the rules is seen."""
    before = rules(nft)
    nft.run(CHANGES[change])
    assert rules(nft) != before


def test_one_element_of_a_rules_own_set_changes_the_print(nft: Nft) -> None:
    """What nft writes in braces is a set without a name of its own, and no part of the rule's message."""
    prints = []
    for names in ('"a", "b"', '"a", "c"'):
        nft.run(f"add chain inet hostnet another; add rule inet hostnet another iifname {{ {names} }} accept")
        prints.append(rules(nft))
        nft.run("delete chain inet hostnet another")
    assert prints[0] != prints[1]


@pytest.mark.parametrize("change", NO_CHANGES)
def test_nothing_else_changes_the_print(nft: Nft, change: str) -> None:
    """Not elements, not other tables, not a replacement by the same rules."""
    before = rules(nft)
    nft.run(NO_CHANGES[change] or "".join(f"delete table {name}\n" for name in TABLES) + table_text())
    assert rules(nft) == before
