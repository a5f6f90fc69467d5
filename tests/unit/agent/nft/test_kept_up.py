"""What an agent keeps up from transaction to transaction is as a new agent makes it from the record."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import Any

from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.nft.context import context_of
from hostnet.agent.nft.desired import ClashError, Compiler, Desired
from hostnet.agent.nft.destinations import Destinations
from hostnet.agent.record.owners import Owner, Owners
from hostnet.wire.objects import Address, Forward, Forwarding, Gateway, Link, Object
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.agent.data import urn

_LISTENS = st.lists(st.sampled_from(["0.0.0.0", "192.0.2.1", "192.0.2.2", "127.0.0.1"]), max_size=2, unique=True)  # noqa: S104
_FORWARDS = st.builds(
    lambda protocol, low, length, host, where, listen, loopback, source_nat: Forward(
        "ipv4",
        protocol,
        (low, low + length),
        f"10.0.0.{host}",
        (low, low + length),
        **({"gateway": where} if where.startswith("nat") else {"external": where}),
        listen=tuple(listen),
        loopback=loopback,
        source_nat=source_nat,
    ),
    st.sampled_from([("tcp",), ("udp",), ("tcp", "udp")]),
    st.integers(1, 6),
    st.sampled_from([0, 0, 1, 3]),
    st.integers(2, 4),
    st.sampled_from(["nat0", "nat1", "eth0", "eth1"]),
    _LISTENS,
    st.booleans(),
    st.booleans(),
)
_OBJECTS = st.one_of(
    st.just(()),
    _FORWARDS.map(lambda item: (item, Forwarding("ipv4"))),
    st.builds(
        lambda uplinks, forwards: (Gateway("", uplinks[0], ("br0",), more=uplinks[1:]), *forwards),
        st.sampled_from([("eth0",), ("eth1",), ("eth0", "eth1")]),
        st.lists(_FORWARDS, max_size=3, unique=True),
    ),
    st.sampled_from([(Link("", "bridge"), Address("", f"10.0.{number}.1/24")) for number in range(2)]),
)
# A step: which of two versions of all owners changes (or is replaced by a copy of the other), whose, and to what.
_STEPS = st.lists(st.tuples(st.integers(0, 1), st.booleans(), st.integers(0, 5), _OBJECTS), max_size=14)
_HOST = Snapshot(addresses={"eth0": ("192.0.2.1/24",), "eth1": ("192.0.2.2/24",)})


def _web(**where: Any) -> Forward:
    return Forward("ipv4", ("tcp",), (1, 1), "10.0.0.2", (1, 1), loopback=True, **where)


@given(_STEPS)
# A forward of both uplinks goes: that of one of them was beside the other one's.
@example(
    [
        (0, False, 2, (Link("", "bridge"), Address("", "10.0.0.1/24"))),
        (0, False, 0, (_web(external="eth0"),)),
        (0, False, 1, (Gateway("", "eth0", ("br0",), more=("eth1",)), _web(gateway="nat1"), _web(external="eth0"))),
        (1, True, 5, ()),
        (0, False, 1, (Gateway("", "eth0", ("br0",), more=("eth1",)),)),
    ]
)
def test_all_that_is_derived_from_owners(steps: list[tuple[int, bool, int, tuple[Object, ...]]]) -> None:
    """Two versions that share what they have in common stay apart; all else is as a new agent makes it."""
    versions, compiler, destinations = [Owners(), Owners()], Compiler(), Destinations()
    for which, branch, number, objects in steps:
        if branch:
            versions[which] = versions[1 - which].copy()
        owner = Owner(urn(f"PortForward f{number}"), f"f{number}", tuple(_named(item, number) for item in objects))
        if objects:
            versions[which][owner.key] = owner
        else:
            versions[which].remove(owner.key)
        for owners in versions:
            fresh = Owners(dict(owners))
            assert _dump(owners) == _dump(fresh)
            context = context_of(owners, _HOST, {})
            assert context == context_of(fresh, _HOST, {})
            assert _compiled(compiler, owners) == _compiled(Compiler(), fresh)
            _check_destinations(destinations, owners)


def test_a_context_is_kept_for_the_same_moment_only() -> None:
    """Other owners, other addresses of the host, or other attached interfaces: another context."""
    owners, attached = Owners(), {"vm-1": "taps"}
    bridge, gateway, forward = Link("br0", "bridge"), Gateway("nat", "eth0", ("br0",)), _looped("10.0.0.2")
    for number, objects in enumerate([(bridge, Address("br0", "10.0.0.1/24")), (gateway,), (forward,)]):
        owner = Owner(urn(f"Bridge b{number}"), f"b{number}", objects)
        owners[owner.key] = owner
    first = context_of(owners, _HOST, attached)
    assert first.ports == ("vm-1",)
    assert context_of(owners.copy(), _HOST, dict(attached)) is first
    attached["vm-2"] = "taps"
    assert context_of(owners, _HOST, attached).ports == ("vm-1", "vm-2")
    other = Snapshot(addresses={**_HOST.addresses, "eth0": ("10.0.0.1/32",)})
    assert context_of(owners, other, attached).shared == {"10.0.0.1"} != first.shared
    owners.remove(owner.key)
    assert context_of(owners, _HOST, attached).ports == ()


def _looped(target: str) -> Forward:
    return Forward("ipv4", ("tcp",), (80, 80), target, (80, 80), gateway="nat", loopback=True)


def _named(item: Object, number: int) -> Object:
    """Two owners may have a link, or a gateway, of one name: while a resource changes its URN."""
    if isinstance(item, (Link, Gateway)):
        return replace(item, name=f"{'br' if isinstance(item, Link) else 'nat'}{number % 2}")
    return replace(item, link=f"br{number % 2}") if isinstance(item, Address) else item


def _dump(owners: Owners) -> Any:
    """All that owners are asked, as plain values."""
    forwards = owners.forwards
    items = [(owner, item) for owner in owners.values() for item in owner.of(Forward)]
    return [
        list(owners.items()),
        {kind: [(owner.key, item) for owner, item in owners.holding(kind)] for kind in (Link, Gateway, Address)},
        (dict(owners.links), owners.gateways, owners.families, owners.waiting),
        [owners.of_id(owner.id) == owners.of_urn(owner.urn) == [owner] for owner in owners.values()],
        (forwards.looped, forwards.externals),
        [
            forwards.parts(item.ports, (item.family, protocol, at))
            for _, item in items
            for protocol in item.protocols
            for at in ("", item.address)
        ],
        (dict(forwards.targets), dict(forwards.loopback_targets)),
        [sorted(forwards.dependent(item, owners.externals_of(item))) for _, item in items],
        [sorted(owners.beside(owner, elsewhere=there)) for owner in owners.values() for there in (True, False)],
        [
            (forwards.doubled(item, protocol, owners.externals_of(item)), forwards.disputed(item, protocol))
            for _, item in items
            for protocol in item.protocols
        ],
    ]


def _compiled(compiler: Compiler, owners: Owners) -> Any:
    context = context_of(owners, _HOST, {})
    try:
        found: Desired = compiler.desired(owners, context)
    except ClashError:
        return "clash"
    elements = {owner.key: list(compiler.elements(owner)) for owner in owners.values()}
    return dict(found.elements), {place: sorted(keys) for place, keys in found.holders.items()}, elements


def _check_destinations(destinations: Destinations, owners: Owners) -> None:
    networks = {item.link: (item.cidr,) for item in owners.every(Address)}
    found = {
        link
        for link, cidrs in networks.items()
        for address in owners.forwards.targets
        if any(ipaddress.ip_address(address) in ipaddress.ip_interface(cidr).network for cidr in cidrs)
    }
    assert destinations.behind(networks, owners.forwards.targets) == found
