"""When our tables are replaced as a whole. With packets: tests/netns/test_upgrade.py."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hostnet.agent.nft import ruleset, table
from hostnet.agent.nft.ruleset import COPIES, TABLE, TABLES, copied
from hostnet.agent.transaction.host import Host
from hostnet.fakes import FakeHost
from hostnet.wire.objects import (
    Address,
    DhcpServer,
    EgressRule,
    Forward,
    Forwarding,
    ForwardState,
    Gateway,
    Guest,
    Link,
    Object,
    Port,
)
from hostnet.wire.requests import Change, Query, View

T = TypeVar("T")
RESOURCES: dict[str, tuple[Object, ...]] = {
    "Bridge": (Link("vms", "bridge"), Address("vms", "10.0.0.1/24")),
    "NatGateway": (Gateway("nat", "eth0", internal=("vms",)), Forwarding("ipv4")),
    "PortForward": (Forward("ipv4", ("tcp",), (80, 80), "10.0.0.2", (80, 80), gateway="nat"),),
}


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run it in a loop of its own."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


def urn(kind: str) -> str:
    """A resource's URN."""
    return f"urn:pulumi:test::project::hostnet:index:{kind}::{kind.lower()}"


def apply(host: FakeHost, kind: str) -> None:
    """Create or update a resource."""
    assert isinstance(run(host.apply(Change(urn(kind), kind.lower(), RESOURCES[kind]))), View)


def read(host: FakeHost) -> View | None:
    """Read the forward."""
    return run(host.read(Query(urn("PortForward"), "portforward", "PortForward", RESOURCES["PortForward"])))


def replacements(host: FakeHost, since: int) -> list[str]:
    """The batches that delete our table and make it again."""
    return [each for each in host.nftables.batches[since:] if f"delete table {TABLE}\n" in each]


@pytest.fixture
def upgraded(monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    """A host whose tables another version of hostnet made."""
    host = FakeHost()
    with monkeypatch.context() as patch:
        for module in (ruleset, table):
            patch.setattr(module, "TEMPLATE", "e" * 16)
        for kind in RESOURCES:
            apply(host, kind)
    return host


def test_tables_of_another_version_are_replaced_by_a_change(upgraded: FakeHost) -> None:
    """In one batch, with all elements; after it, changes touch their own elements again."""
    before, elements = len(upgraded.nftables.batches), upgraded.dump()["nftables"]
    apply(upgraded, "Bridge")
    (batch,) = replacements(upgraded, before)
    assert "add element" in batch
    copy, *_, last = upgraded.nftables.batches[before:]
    assert copied(batch.removeprefix("".join(f"delete table {name}\n" for name in TABLES))) == copy
    assert last == "".join(f"delete table {name}\n" for name in COPIES)
    assert upgraded.dump()["nftables"].replace(ruleset.TEMPLATE, "e" * 16) == elements
    before = len(upgraded.nftables.batches)
    apply(upgraded, "NatGateway")
    assert replacements(upgraded, before) == []


def test_tables_of_another_version_are_replaced_before_a_read(upgraded: FakeHost) -> None:
    """Its sets may have other names: the read would find every element missing. A second read changes nothing."""
    before = len(upgraded.nftables.batches)
    assert read(upgraded) is not None
    assert len(replacements(upgraded, before)) == 1
    before = len(upgraded.nftables.batches)
    assert read(upgraded) is not None
    assert len(upgraded.nftables.batches) == before


def test_tables_of_another_version_that_were_changed_are_drift(upgraded: FakeHost) -> None:
    """A read that replaced them would hide what another program did."""
    upgraded.nftables.run(f"flush chain {TABLE} postrouting\n")
    before = len(upgraded.nftables.batches)
    assert read(upgraded) is None
    assert replacements(upgraded, before) == []


def test_elements_are_sent_in_order() -> None:
    """Of a new table and of a repair: nft lists an interval map of several fields as it was filled."""
    host = FakeHost()
    forwards = tuple(
        Forward("ipv4", ("tcp",), (low, low + 5), "10.0.0.2", (low, low + 5), gateway="nat") for low in (100, 200, 300)
    )
    resources = {**RESOURCES, "PortForward": forwards}
    host.agent.apply([Change(urn(kind), kind.lower(), objects) for kind, objects in resources.items()])
    made = len(host.nftables.batches)
    host.run_nft(f"flush map {TABLE} dnat_range4")
    host.agent.apply([Change(urn("PortForward"), "portforward", forwards, known=True)])
    for batches in (host.nftables.batches[:made], host.nftables.batches[made + 1 :]):
        sent = [re.findall(r"\"[^,]*?10\.0\.0\.2", line) for each in batches for line in each.splitlines()
                if "dnat_range4 {" in line and line.startswith("add")]  # fmt: skip
        assert max(map(len, sent)) == len(forwards)
        assert all(elements == sorted(elements) for elements in sent)


def test_a_read_lists_only_what_another_program_may_have_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the last change to nftables was this agent's, a read knows what the tables hold; else it looks."""
    host = FakeHost()
    for kind in RESOURCES:
        apply(host, kind)
    listed: list[str] = []
    really = host.nftables.list

    def listing(command: str, *, terse: bool = False) -> list[dict[str, Any]]:
        listed.append(command)
        return really(command, terse=terse)

    monkeypatch.setattr(host.nftables, "list", listing)
    monkeypatch.setattr(Host, "self_checks", False)  # it lists them
    assert read(host) == read(host) is not None
    assert listed == []
    host.run_nft("add table inet other\n")
    assert read(host) is not None
    assert listed
    host.run_nft(f"flush map {TABLE} dnat_port4\n")
    found = read(host)
    assert found is None or any(state is None for state in found.seen)


def test_what_another_agent_changed_is_read() -> None:
    """Another agent's change is one of another program's: nothing that this one keeps hides it."""
    host = FakeHost()
    for kind in RESOURCES:
        apply(host, kind)
    first, query = host.agent, Query(urn("PortForward"), "portforward", "PortForward", RESOURCES["PortForward"])
    (found,) = first.read([query])
    assert isinstance(found, View)
    host.restart_agent()
    moved = (Forward("ipv4", ("tcp",), (80, 80), "10.0.0.3", (80, 80), gateway="nat"),)
    host.agent.apply([Change(urn("PortForward"), "portforward", moved, RESOURCES["PortForward"], known=True)])
    (found,) = first.read([query])
    assert isinstance(found, View)
    assert [state.address for state in found.seen if isinstance(state, ForwardState)] == ["10.0.0.3"]


NAMED = (EgressRule(domain="example.com", protocol="tcp", ports=(80, 80)),)
GUESTS: dict[str, tuple[Object, ...]] = {
    f"TapBinding{number}": (
        Link(f"vm{number}", "tap"),
        Port(f"vm{number}", "vms"),
        Guest(f"vm{number}", "vms", f"02:00:00:00:00:0{number}", (f"10.0.0.{number}/24",), egress=NAMED),
    )
    for number in (5, 6)
}
BRIDGE = (Link("vms", "bridge", mac="06:00:00:00:00:01"), Address("vms", "10.0.0.1/24"), DhcpServer("vms", dhcp=True))
SERVED = {"Bridge": BRIDGE, **GUESTS}


def made(host: FakeHost) -> list[str]:
    """The chains and sets of lists by name."""
    return sorted(re.findall(r"add (?:chain|set) inet hostnet (list_[0-9a-f]+|n[46]_[0-9a-f]+)", host.nftables.dump()))


def change(host: FakeHost, kind: str, objects: tuple[Object, ...], *, known: bool = True) -> None:
    """A change of one resource."""
    (outcome,) = host.agent.apply([Change(urn(kind), kind.lower(), objects, known=known)])
    assert not isinstance(outcome, Exception), outcome


def test_what_lists_by_name_need_comes_with_the_first_guest_and_goes_with_the_last() -> None:
    """Of two that have the same list. What dnsmasq has put into the sets stays, whatever else is changed."""
    host = FakeHost()
    for kind, objects in SERVED.items():
        change(host, kind, objects, known=False)
    found = made(host)
    assert [name[:3] for name in found] == ["lis", "n4_", "n6_"]
    host.run_nft(f"add element {TABLE} {found[1]} {{ 198.51.100.10 expires 900s }}")
    sent = len(host.nftables.batches)
    change(host, "NatGateway", RESOURCES["NatGateway"], known=False)
    change(host, "TapBinding5", ())
    assert made(host) == found
    assert not any("delete table" in batch or found[1] in batch for batch in host.nftables.batches[sent:])
    host.run_nft(f"add rule {TABLE} refused counter")
    change(host, "TapBinding6", GUESTS["TapBinding6"])
    assert "delete table" in host.nftables.batches[-1]
    assert f"add element inet hostnet {found[1]} {{ 198.51.100.10 expires 900s }}" in host.nftables.dump()
    change(host, "TapBinding6", ())
    assert made(host) == []


def test_a_chain_of_a_list_that_was_changed_is_repaired() -> None:
    """It is led to, and so it is not deleted: its rules are written again."""
    host = FakeHost()
    for kind, objects in SERVED.items():
        change(host, kind, objects, known=False)
    before, (chain, *_) = host.nftables.dump(), made(host)
    host.run_nft(f"add rule {TABLE} {chain} accept")
    change(host, "TapBinding5", GUESTS["TapBinding5"])
    assert host.nftables.dump() == before


def test_a_bridge_that_goes_is_no_drift_of_the_gateway_that_names_it() -> None:
    """The engine deletes the bridge, and then the gateway's deletion fails: what is left is as declared.

    It stays so when the bridge is made again.
    """
    host = FakeHost()
    for kind in RESOURCES:
        apply(host, kind)
    query = Query(urn("NatGateway"), "natgateway", "NatGateway", RESOURCES["NatGateway"])
    assert isinstance(run(host.apply(Change(urn("Bridge"), "bridge", ()))), View)
    gone = run(host.read(query))
    assert gone is not None
    apply(host, "Bridge")
    there = run(host.read(query))
    assert there is not None
    assert gone.seen == there.seen
