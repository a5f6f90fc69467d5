"""From a change to an owner, or to the error that names the resource that it conflicts with."""

from __future__ import annotations

from typing import Any

import pytest
from hostnet.agent.dhcp import config as dhcp
from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.plan.resolve import resolve
from hostnet.agent.plan.world import World
from hostnet.agent.record.owners import Owner, Owners
from hostnet.wire.errors import HostnetError
from hostnet.wire.objects import Address, DhcpServer, EgressRule, Guest, Link, Object, Port
from hostnet.wire.requests import Change

from tests.unit.agent.data import Case, as_json, check, objects, parameters, urn, world


@parameters("resolve")
def test_a_change_is_resolved_or_refused(case: Case) -> None:
    """Interfaces and addresses are filled in; a refusal says what was asked, why not and what to do."""
    label = case.get("owner", "Bridge net")
    identity = case.get("id", label.split()[-1])
    change = Change(urn(label), identity, objects(case["wants"]), known=case.get("known", False))
    try:
        found = resolve(change, world(case))
    except HostnetError as error:
        check("resolve", case, {"error": [error.code.value, error.what, error.why, error.fix]})
    else:
        check("resolve", case, {"becomes": found.id, "objects": as_json(found.objects)})


@pytest.mark.parametrize("addresses", [None, ("10.0.0.200",)], ids=["chosen", "given"])
def test_a_guest_is_judged_without_a_look_at_each_other(
    addresses: tuple[str, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a thousand guests that come at once, each costs the same: the first and the last."""
    ordered = Owners._ordered

    def looked_through(self: Owners, kind: type[Any]) -> dict[str, Owner]:
        assert kind not in (Owner, Guest, Link, Port), f"all of {kind.__name__} are looked through"
        return ordered(self, kind)

    net: tuple[Object, ...] = (Link("br0", "bridge"), Address("br0", "10.0.0.1/24"), DhcpServer("br0", dhcp=True))
    owners = Owners()
    for name, items in (
        ("Bridge net", net),
        *((f"TapBinding vm{number}", _tap(f"vm{number}", f"10.0.0.{number + 2}/24", number)) for number in range(5)),
    ):
        one = Owner(urn(name), name, items)
        owners[one.key] = one
    assert owners.guests
    assert owners.networks
    monkeypatch.setattr(Owners, "_ordered", looked_through)
    world = World(owners, Snapshot())
    change = Change(urn("TapBinding new"), "new", _tap("new", addresses, 9))
    found = resolve(change, world)
    dhcp.check(found, world)
    (guest,) = found.of(Guest)
    assert guest.addresses == ("10.0.0.7/24" if addresses is None else "10.0.0.200/24",)


def _tap(name: str, addresses: str | tuple[str, ...] | None, last: int) -> tuple[Object, ...]:
    given = (addresses,) if isinstance(addresses, str) else addresses
    egress = (EgressRule(domain=f"{name}.example"),)
    guest = Guest(name, "br0", f"02:00:00:00:00:0{last}", given, f"host-{name}", egress=egress)
    return Link(name, "tap"), Port(name, "br0"), guest
