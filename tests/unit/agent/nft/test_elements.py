"""From objects to elements of the table, and from elements back to what is seen of the objects."""

from __future__ import annotations

import ipaddress
import itertools
import json
from dataclasses import asdict
from typing import Any

import pytest
from hostnet.agent.linux.kernel import RawElement, RawTable
from hostnet.agent.nft.context import Context, context_of
from hostnet.agent.nft.desired import ClashError, Compiler
from hostnet.agent.nft.elements import compile_common, compile_object
from hostnet.agent.nft.ruleset import SETS, TABLE, Element, table_text
from hostnet.agent.nft.syntax import list_rule, read_listing, render
from hostnet.agent.observe.drift import drift
from hostnet.agent.observe.observation import Elements, Observation
from hostnet.agent.observe.states import states
from hostnet.agent.plan.world import World
from hostnet.wire.objects import DhcpServer, Forward, Gateway, Guest, Link
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.agent.data import NAMES, Case, check, element, owners, parameters, snapshot


@parameters("elements")
def test_objects_become_these_elements(case: Case) -> None:
    """Each owner's own, and what all share; nft can be given every one of them."""
    held = owners(case)
    context = context_of(held, snapshot(case), case.get("attached", {}))
    own = {
        one.urn.split(":")[-1]: [element(each) for item in one.objects for each, _ in compile_object(item, context)]
        for one in held.values()
    }
    found = {name: elements for name, elements in own.items() if elements}
    common = [each for each, _ in compile_common(context)]
    check("elements", case, {"elements": found, "common": [element(each) for each in common]})
    for one in held.values():
        for item in one.objects:
            for each, _ in compile_object(item, context):
                assert render(each, one.comment)


@parameters("elements")
def test_all_elements_together_clash_only_where_it_is_said(case: Case) -> None:
    """Two owners that want one place with different values can't both have it."""
    held = owners(case)
    try:
        Compiler().desired(held, context_of(held, snapshot(case), case.get("attached", {})))
    except ClashError as clash:
        check("elements", case, {"clash": element(clash.element)})
    else:
        assert "clash" not in case


@parameters("view")
def test_what_is_missing_or_changed_is_seen_in_its_property(case: Case) -> None:
    """`loses`: elements that the kernel has not; `has`: what it has instead. What is whole is as it was declared.

    `drift` has, for each owner, what differs: in a person's words, behind the property.
    """
    held, state = owners(case), snapshot(case)
    context = context_of(held, state, case.get("attached", {}))
    there = dict(Compiler().desired(held, context).elements)
    for text in case.get("loses", ()):
        del there[place(text)]
    for text in case.get("has", ()):
        key, _, value = text.partition(" : ")
        there[place(key)] = tuple(value.split(" . "))
    observation = Observation(World(held, state), context, there, case.get("attached", {}), NAMES, lambda _: True)
    found = {}
    for one in held.values():
        seen = [x and json.loads(json.dumps(asdict(x))) for x in states(one, observation)]
        found[one.urn.split(":")[-1]] = [x and {key: value for key, value in x.items() if value} for x in seen]
    words = {one.urn.split(":")[-1]: [f"{x.path}: {x.text}" for x in drift(one, observation)] for one in held.values()}
    check("view", case, {"seen": found, "drift": {name: texts for name, texts in words.items() if texts}})


@parameters("elements")
def test_every_element_that_is_missing_is_drift_of_an_owner(case: Case) -> None:
    """`hostnet status` says so, and a read shows it to the provider; while all is there neither says anything."""
    held, state = owners(case), snapshot(case)
    context = context_of(held, state, case.get("attached", {}))
    if "clash" in case or case["case"] == "a forward whose gateway is gone":
        return
    desired = Compiler().desired(held, context)
    whole, shares = desired.elements, any(x.loopback for x in held.every(Forward)) or any(held.every(Gateway))

    def observed(there: Elements) -> tuple[Any, Any]:
        fault = "" if len(there) == len(whole) else "elements are missing"
        observation = Observation(
            World(held, state),
            context,
            there,
            case.get("attached", {}),
            NAMES,
            lambda _: True,
            loopback_fault=lambda: fault,
        )
        tables = [
            each
            for each in held.values()
            if each.kinds & {Gateway, Forward, DhcpServer, Guest} or any(link.upload for link in each.of(Link))
        ]
        found = {each.key: [x.text for x in drift(each, observation) if x.field != "running"] for each in tables}
        return found, {each.key: states(each, observation) for each in tables}

    texts, before = observed(whole)
    assert not any(texts.values()), "all is there"
    for place, keys in desired.holders.items():
        if keys == ("",) and not shares:
            continue  # no resource needs what all share
        texts, after = observed({other: value for other, value in whole.items() if other != place})
        changed = {key for key, each in after.items() if each != before[key]}
        assert {key for key, each in texts.items() if each} >= changed
        assert any(texts.values()), place


_FEW = ipaddress.ip_network("10.0.0.0/28")
_NETWORKS = st.sampled_from([str(net) for length in range(28, 33) for net in _FEW.subnets(new_prefix=length)])
_LISTS = st.lists(st.lists(_NETWORKS, min_size=1, max_size=4, unique=True), min_size=1, max_size=3)


@given(_LISTS)
def test_networks_that_may_talk_are_in_one_element_each(lists: list[list[str]]) -> None:
    """Whatever networks gateways have, who may talk to whom is just what they say, and no two elements overlap."""
    gateways = [
        Gateway(f"nat{number}", "eth0", internal=("br0",), internal4=tuple(nets), internal_forwarding=True)
        for number, nets in enumerate(lists)
    ]
    found = [each for each, _ in compile_common(Context(gateways={each.name: each for each in gateways}))]
    hosts = [str(host) for host in _FEW]
    own = [{host for host in hosts for net in nets if _within(host, net)} for nets in lists]
    pairs = [each.key for each in found if each.set == "net_to_net4"]
    for source, target in itertools.product(hosts, hosts):
        matching = [pair for pair in pairs if _within(source, pair[0]) and _within(target, pair[1])]
        assert len(matching) == any(source in each and target in each for each in own)
    for host in hosts:
        for name, field in (("net_to_link4", 0), ("link_to_net4", 1)):
            matching = [each.key for each in found if each.set == name and _within(host, each.key[field])]
            assert len(matching) == any(host in each for each in own)


def _within(host: str, network: str) -> bool:
    return ipaddress.ip_address(host) in ipaddress.ip_network(network)


def place(text: str) -> tuple[str, tuple[str, ...]]:
    """Where an element is, as a case writes it."""
    name, _, key = text.partition(" ")
    return name, tuple(key.split(" . "))


@pytest.mark.parametrize("field", ['br0" }', "a b", "a/b", "", "x" * 16, "a\nb", "$(id)", "a;b", "{", "ä"])
def test_no_text_of_a_users_reaches_nft_as_a_name(field: str) -> None:
    """Each field is checked against its type."""
    with pytest.raises(ValueError, match="no interface name"):
        render(Element("our_links", (field,)))


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("dnat_port4", ("eth0", "icmp", "80"), ("10.0.0.2", "80")),
        ("dnat_port4", ("eth0", "tcp", "80; flush ruleset"), ("10.0.0.2", "80")),
        ("dnat_port4", ("eth0", "tcp", "80"), ("fd12::2", "80")),
        ("dnat_port6", ("eth0", "tcp", "80"), ("10.0.0.2", "80")),
        ("internal_nets4", ("10.0.0.1/24",), ()),
        ("bridge_addrs4", ("localhost",), ()),
        ("egress_guest_lists", ("br0", "02:00:00:00:00:05"), ("forward",)),
        ("egress_link_lists", ("br0",), ("list_0123456789ab; flush ruleset",)),
    ],
)
def test_a_field_that_is_not_of_its_type_is_refused(name: str, key: tuple[str, ...], value: tuple[str, ...]) -> None:
    """Before nft sees it."""
    with pytest.raises(ValueError, match=r"."):
        render(Element(name, key, value))


RULES = [
    "ip daddr @n4_0123456789ab return",
    "meta l4proto 58 ip6 daddr @n6_0123456789ab return",
    "tcp dport 80-90 ip daddr @n4_0123456789ab return",
    "goto refused",
]


@pytest.mark.parametrize("rule", RULES)
def test_rules_of_a_list_are_of_one_form(rule: str) -> None:
    """Those that hostnet writes."""
    assert list_rule(rule) == rule


@pytest.mark.parametrize(
    "rule", ["accept", "goto refused; flush ruleset", "ip daddr @internal_nets4 return", "tcp dport 80 return", ""]
)
def test_no_other_rule_gets_into_a_list(rule: str) -> None:
    """The agent checks again what it writes."""
    with pytest.raises(ValueError, match="not of the form"):
        list_rule(rule)


@given(st.text(max_size=300))
def test_a_comment_is_harmless_and_short(text: str) -> None:
    """No quote, no backslash, no newline; the kernel takes 128 bytes with its header."""
    rendered = render(Element("our_links", ("br0",)), text)
    comment = rendered.removeprefix('"br0"').removeprefix(' comment "').removesuffix('"')
    assert not set(comment) & set('"\\\n{};')
    assert len(comment.encode()) <= 100


def test_every_set_is_declared_and_used() -> None:
    """A set that no rule looks at is of no use, one that a rule looks at must be there."""
    text = table_text()
    for name in SETS:
        assert f"@{name}" in text, name
        assert f" {name} {{ type" in text, name


def raw(*fields: tuple[str, ...], comment: str = "", **more: Any) -> RawElement:
    """An element as the kernel has it: of each field its value, or the first and the last, in hexadecimal."""
    first, last = (b"".join(bytes.fromhex(field[at]) for field in fields) for at in (0, -1))
    return RawElement(first, last=last if last != first else b"", comment=comment, **more)


LINK, TCP = ("65746830" + "00" * 12,), ("06000000",)


def test_a_listing_is_read_back_as_elements() -> None:
    """Ranges, networks, comments, counters, rates; and a set whose fields are another version's."""
    found = read_listing(
        {
            TABLE: RawTable(
                "print",
                {
                    "dnat_source4": [
                        raw(LINK, TCP, ("00000000", "ffffffff"), ("00500000", "00520000"),
                            value=bytes.fromhex("0a00000200500000"), comment="x"),
                        raw(LINK, TCP, ("0a000000", "0a0000ff"), ("00500000",),
                            value=bytes.fromhex("0a00000200500000")),
                        raw(LINK, TCP, ("0a000001", "0a000006"), ("00510000",),
                            value=bytes.fromhex("0a00000200500000")),
                    ],
                    "our_links": [raw(("62723000" + "00" * 12,)), raw(("62723100" + "00" * 12,), comment="y")],
                    "forward_counters4": [raw(TCP, ("00500000",), ("0a000002",), counter=(3, 180))],
                    "range_counters4": [],
                    "upload_links": [raw(LINK, rate=125000)],
                    "external_links": [raw(("aabb",), comment="z")],
                    "a_set_of_tomorrow": [raw(("aabb",))],
                    "refused_links": [raw(LINK, ("0200000000010000",), counter=(1, 60))],
                },
                bases=["forward"],
            )
        }
    )  # fmt: skip
    assert found.bases == ("inet hostnet forward",)
    assert found.elements == {
        ("dnat_source4", ("eth0", "tcp", "0.0.0.0/0", "80-82")): ("10.0.0.2", "80"),
        ("dnat_source4", ("eth0", "tcp", "10.0.0.0/24", "80")): ("10.0.0.2", "80"),
        ("dnat_source4", ("eth0", "tcp", "10.0.0.1-10.0.0.6", "81")): ("10.0.0.2", "80"),
        ("our_links", ("br0",)): (),
        ("our_links", ("br1",)): (),
        ("forward_counters4", ("tcp", "80", "10.0.0.2")): (),
        ("upload_links", ("eth0",)): ("125000",),
        ("external_links", ("aabb", "")): ("",),
        ("a_set_of_tomorrow", ("aabb", "")): ("",),
    }
    assert found.counters == {
        ("forward_counters4", ("tcp", "80", "10.0.0.2")): (3, 180),
        ("refused_links", ("eth0", "02:00:00:00:00:01")): (1, 60),
    }
    assert {name: comment for (name, _), comment in found.comments.items()} == {
        "dnat_source4": "x",
        "our_links": "y",
        "external_links": "z",
    }
    assert "range_counters4" in found.sets
