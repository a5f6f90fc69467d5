"""Owners, the ports that they take, and how they are written down."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

import pytest
from hostnet.agent.record.owners import Owner, Owners
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import (
    Address,
    DhcpServer,
    EgressRule,
    Forward,
    Forwarding,
    Gateway,
    Guest,
    Link,
    Object,
    Port,
    StaticLease,
    from_json,
    to_json,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.agent.data import Case, owner, owners, parameters, urn


@parameters("conflicts")
def test_a_port_that_is_taken_is_refused_and_its_owner_named(case: Case) -> None:
    """Whole or in part; a specific listen address beside a wildcard is fine."""
    held = owners(case)
    new = owner("PortForward new", case["wants"], case)
    if case["error"] is None:
        held.check_ports(new)
        return
    with pytest.raises(HostnetError) as error:
        held.check_ports(new)
    assert error.value.code is Code.CONFLICT
    assert [error.value.what, error.value.why] == case["error"]


SOME: tuple[Object, ...] = (
    Link("br0", "bridge", "06:00:00:00:00:01", 1400, stp=True),
    Address("br0", "fd12::1/64"),
    Port("vm0", "br0", isolated=True),
    Guest("vm0", "br0", "02:00:00:00:00:01", ("10.0.0.2/24",), "web", ("10.0.0.2/24",)),
    Gateway("nat", "eth0", ("br0",), dmz_except=(22, 80)),
    Forward("ipv6", ("tcp", "udp"), (80, 82), "fd12::2", (80, 82), listen=("::",)),
    Forwarding("ipv4"),
    DhcpServer("br0", dhcp=True, static_leases=(StaticLease("02:00:00:00:00:01", "10.0.0.2", "web"),)),
)


@pytest.mark.parametrize("item", SOME, ids=lambda item: item.type)
def test_an_object_survives_the_trip(item: Object) -> None:
    """What is written down is read back as it was, defaults left out or not."""
    assert from_json(to_json(item)) == item


WAYS = st.none() | st.just("") | st.text()


@given(st.text(), st.text(), st.lists(st.sampled_from(SOME), unique=True), WAYS, WAYS)
def test_an_owner_survives_the_record(
    name: str, identity: str, items: list[Object], via: str | None, replaced: str | None
) -> None:
    """One line an owner, whatever a resource is called."""
    one = Owner(urn(f"Bridge {name}"), identity, tuple(items), via, replaced)
    assert "\n" not in one.line
    assert Owner.parse(one.line) == one


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 8), st.integers(0, 3)), max_size=12))
def test_the_index_of_ports_is_as_if_made_from_scratch(steps: list[tuple[int, int, int]]) -> None:
    """Kept up over every change, it says what one that is made from scratch says."""
    kept = Owners()
    assert kept.forwards
    for number, port, length in steps:
        name = f"PortForward f{number}"
        one = Owner(urn(name), name, (_ports(port, port + length % 3),))
        if length == 3:
            kept.remove(one.key)
        elif not _refused(one, kept):  # what is refused is never put there
            kept[one.key] = one
    probe = Owner("other", "other", (_ports(4, 6),))
    assert _refused(probe, kept) == _refused(probe, Owners(dict(kept)))


BRIDGES, NAMES = ("br0", "br1"), ("a.example", "b.a.example", "example")
GUESTS = st.builds(
    lambda bridge, last, hostname, names: Guest(
        "vm", bridge, f"02:00:00:00:00:0{last}", (f"10.0.0.{last}/24", f"fd12::{last}"), hostname,
        egress=tuple(EgressRule(domain=name) for name in names),
    ),
    st.sampled_from((*BRIDGES, None)), st.integers(1, 3), st.sampled_from((None, "web", "Web")),
    st.lists(st.sampled_from(NAMES), max_size=2),
)  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 4), st.none() | GUESTS), max_size=12), st.integers(0, 12))
def test_the_index_of_guests_is_as_if_made_from_scratch(steps: list[tuple[int, Guest | None]], moment: int) -> None:
    """Kept up over every change, and in a copy of any moment, it says what one says that is made from scratch."""
    kept, copied = Owners(), Owners()
    assert _known(kept) == {}
    for number, (name, guest) in enumerate(steps):
        if number == moment:
            copied, before = kept.copy(), _known(kept)
        one = Owner(urn(f"TapBinding t{name}"), f"t{name}", () if guest is None else (guest,))
        if guest is None:
            kept.remove(one.key)
        else:
            kept[one.key] = one
    assert _known(kept) == _known(Owners(dict(kept)))
    if moment < len(steps):
        assert _known(copied) == before == _known(Owners(dict(copied)))


def _known(held: Owners) -> dict[tuple[str, str], set[str]]:
    """All that the index says of what there may be."""
    index = held.guests
    found: dict[tuple[str, str], Iterable[str]] = {}
    for bridge in BRIDGES:
        for last in (1, 2, 3):
            found[bridge, f"mac {last}"] = index.with_mac(bridge, f"02:00:00:00:00:0{last}")
            for address in map(ip_address, (f"10.0.0.{last}", f"fd12::{last}")):
                found[bridge, str(address)] = index.with_address(bridge, address.version, int(address))
        found[bridge, "web"] = index.with_hostname(bridge, "WEB")
        for name in NAMES:
            found[bridge, name] = [name] if index.has_domain(bridge, name) else []
            found[bridge, f"below {name}"] = index.domains_below(bridge, name)
    return {key: set(each) for key, each in found.items() if each}


def _ports(low: int, high: int) -> Forward:
    return Forward("ipv4", ("tcp",), (low, high), "10.0.0.2", (80, 80), external="eth0")


def _refused(probe: Owner, held: Owners) -> bool:
    try:
        held.check_ports(probe)
    except HostnetError:
        return True
    return False


@pytest.mark.parametrize(
    ("of", "label", "comment"),
    [
        ("hostnet:index:Bridge::net", "Bridge net (stack dev of project shop)", "dev/shop Bridge net"),
        ("my:mod:C$hostnet:index:Bridge::net", "Bridge net (stack dev of project shop)", "dev/shop Bridge net"),
        ("hostnet:index:Bridge::a::b", "Bridge a::b (stack dev of project shop)", "dev/shop Bridge a::b"),
    ],
)
def test_a_label_says_whose_it_is(of: str, label: str, comment: str) -> None:
    """Also inside a component; a resource's name may hold `::` itself."""
    one = Owner(f"urn:pulumi:dev::shop::{of}", "x")
    assert (one.kind, one.label, one.comment) == ("Bridge", label, comment)
