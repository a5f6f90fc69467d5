"""A host in memory behaves as one with a real agent, since it has one."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from hostnet.agent.linux.operations import CreateTap
from hostnet.agent.nft.desired import Compiler
from hostnet.agent.nft.ruleset import Element, Place
from hostnet.agent.nft.syntax import Listing
from hostnet.agent.record.owners import Owner
from hostnet.fakes import FakeHost
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import Address, DhcpServer, Forward, Forwarding, Gateway, Glob, Lease, Link, Object, Port
from hostnet.wire.requests import Change, Query, View

T = TypeVar("T")
NET = (Link("vms", "bridge"), Address("vms", "10.0.0.1/24"))
NAT = (Gateway("nat", "eth0", internal=("vms",)), Forwarding("ipv4"))


def urn(kind: str, name: str) -> str:
    """A resource's URN."""
    return f"urn:pulumi:test::project::hostnet:index:{kind}::{name}"


def change(kind: str, name: str, *objects: Object, known: bool = False) -> Change:
    """Give a resource these objects."""
    return Change(urn(kind, name), name, tuple(objects), known=known)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run it in a loop of its own, and leave the thread's loop alone: another module's tests ask for that."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


def apply(host: FakeHost, *changes: Change) -> list[View | BaseException]:
    """Ask for all at once."""

    async def together() -> list[View | BaseException]:
        return await asyncio.gather(*map(host.apply, changes), return_exceptions=True)

    return run(together())


def make(host: FakeHost, *changes: Change) -> None:
    """Ask for one after the other; each is granted."""
    for each in changes:
        (outcome,) = apply(host, each)
        assert isinstance(outcome, View), outcome


@pytest.fixture
def host() -> FakeHost:
    """With a bridge."""
    made = FakeHost()
    make(made, change("Bridge", "vms", *NET))
    return made


def test_changes_that_come_together_are_one_transaction() -> None:
    """One nftables batch for all of them; one that fails is undone and fails alone."""
    host = FakeHost()
    host.kernel.refuse(errno.EPERM, lambda operation: isinstance(operation, CreateTap))
    bridge, tap, gateway = apply(
        host,
        change("Bridge", "vms", *NET),
        change("TapBinding", "vm0", Link("vm0", "tap"), Port("vm0", "vms")),
        change("NatGateway", "nat", *NAT),
    )
    assert isinstance(bridge, View)
    assert isinstance(gateway, View)
    assert isinstance(tap, HostnetError)
    assert "EPERM" in tap.why
    assert len(host.nftables.batches) == 1
    assert ("eth0",) in host.nftables.elements("inet", "hostnet", "external_links")
    assert "vm0" not in host.dump()["links"]


def test_what_is_deleted_leaves_nothing() -> None:
    """Links, sysctls, tables and the record are as before."""
    host = FakeHost()
    before = host.dump()
    make(host, change("Bridge", "vms", *NET))
    make(host, change("NatGateway", "nat", *NAT))
    assert host.kernel.sysctl("net.ipv4.ip_forward") == "1"
    make(host, change("NatGateway", "nat", known=True))
    make(host, change("Bridge", "vms", known=True))
    assert host.dump() == before


def test_another_agent_knows_what_the_last_one_made(host: FakeHost) -> None:
    """It reads the record; where that is lost, a conflict is said."""
    host.restart_agent()
    view = run(host.read(Query(urn("Bridge", "vms"), "vms", "Bridge", NET)))
    assert view is not None
    assert view.id == "vms"
    host.lose_record()
    host.restart_agent()
    (refused,) = apply(host, change("Bridge", "vms", *NET))
    assert isinstance(refused, HostnetError)
    assert refused.code is Code.CONFLICT
    assert refused.host == "this machine"


def test_interfaces_that_appear_are_attached(host: FakeHost) -> None:
    """By the watcher's own code, while it runs."""
    make(host, change("TapBinding", "vms/vm-*", Glob("vms", "vm-*")))
    host.add_link("vm-1")
    host.add_link("other")
    assert host.kernel.snapshot().ports_of("vms") == ("vm-1",)
    host.persistence.watched = False
    host.add_link("vm-2")
    assert host.kernel.snapshot().ports_of("vms") == ("vm-1",)
    view = run(host.read(Query(urn("TapBinding", "vms/vm-*"), "vms/vm-*", "TapBinding", ())))
    assert view is not None
    assert "no process attaches" in view.warnings[0]


def test_drift_is_seen(host: FakeHost) -> None:
    """What another program changes shows in a view, and the next change of the resource puts it right."""
    make(host, change("NatGateway", "nat", *NAT))
    forward = Forward("ipv4", ("tcp",), (80, 80), "10.0.0.2", (8080, 8080), external="eth0")
    make(host, change("PortForward", "web", forward))
    host.run_nft('delete element inet hostnet dnat_port4 { "eth0" . 6 . 80 }')
    query = Query(urn("PortForward", "web"), "web", "PortForward", (forward,))
    assert run(host.read(query)) is None
    make(host, change("PortForward", "web", forward))
    assert run(host.read(query)) is not None


def test_groups_of_reads_share_a_listing_and_what_it_lacks(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine refreshes a few resources at a time. After another program's change the next group looks again."""
    forwards = {
        f"f{port}": Forward("ipv4", ("tcp",), (port, port), "10.0.0.2", (80, 80), external="eth0") for port in (80, 81)
    }
    make(host, change("NatGateway", "nat", *NAT))
    make(host, *(change("PortForward", name, item) for name, item in forwards.items()))
    queries = [Query(urn("PortForward", name), name, "PortForward", (item,)) for name, item in forwards.items()]
    host.restart_agent()
    looked: list[str] = []
    foreign = Listing.foreign

    def counted(self: Listing, mark: str) -> set[Place]:
        looked.append(mark)
        return foreign(self, mark)

    monkeypatch.setattr(Listing, "foreign", counted)
    assert all(run(host.read(query)) is not None for query in (*queries, *queries))
    assert len(looked) == 1
    host.run_nft('delete element inet hostnet dnat_port4 { "eth0" . 6 . 81 }')
    assert [run(host.read(query)) is None for query in queries] == [False, True]
    assert len(looked) == 2
    make(host, change("PortForward", "f81", forwards["f81"]))
    assert [run(host.read(query)) is None for query in queries] == [False, False]


def test_a_read_looks_at_an_owner_once_however_many_forwards_it_has(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not once for each forward: with 10,000 of one gateway a read took minutes."""
    forwards = [Forward("ipv4", ("tcp",), (port, port), "10.0.0.2", (80, 80), "nat") for port in range(1000, 1050)]
    make(host, change("NatGateway", "nat", *NAT, *forwards))
    looked: list[str] = []
    elements = Compiler.elements

    def counted(self: Compiler, owner: Owner) -> Iterator[Element]:
        looked.append(owner.key)
        return elements(self, owner)

    monkeypatch.setattr(Compiler, "elements", counted)
    view = run(host.read(Query(urn("NatGateway", "nat"), "nat", "NatGateway", (*NAT, *forwards))))
    assert view is not None
    assert None not in view.seen
    assert len(looked) < len(forwards)


def test_another_firewall_gets_accept_rules(host: FakeHost) -> None:
    """And loses them with the last gateway."""
    make(host, change("Bridge", "vms", Link("vms", "bridge", open_firewall=False), NET[1], known=True))
    host.run_nft("add table ip filter")
    host.run_nft("add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }")
    before = host.dump()["nftables"]
    gateway = Gateway("nat", "eth0", internal=("vms",), firewall=True)
    make(host, change("NatGateway", "nat", gateway, Forwarding("ipv4")))
    rules = [item["rule"] for item in host.nftables.list("list chain ip filter FORWARD") if "rule" in item]
    assert [rule["comment"].startswith("hostnet: ") for rule in rules] == [True] * len(rules)
    assert rules
    make(host, change("NatGateway", "nat", known=True))
    assert host.dump()["nftables"] == before


def test_dhcp(host: FakeHost) -> None:
    """A server runs as declared or not, and its leases show in the view."""
    server = DhcpServer("vms")
    lease = Lease("02:00:00:00:00:05", "10.0.0.5", "web", 4102444800)
    make(host, change("Bridge", "vms", *NET, server, known=True))
    host.servers.given["vms"] = (lease,)
    query = Query(urn("Bridge", "vms"), "vms", "Bridge", ())
    view = run(host.read(query))
    assert view is not None
    assert view.seen[2].leases == (lease,)  # type: ignore[union-attr]
    assert view.seen[2].running  # type: ignore[union-attr]
    host.servers.running.clear()
    view = run(host.read(query))
    assert view is not None
    assert not view.seen[2].running  # type: ignore[union-attr]


def test_systemd_gets_units_where_it_runs() -> None:
    """Written in the test's own directories; the commands are noted, and not run."""
    host = FakeHost()
    host.persistence.places.systemd.mkdir(parents=True)
    host.persistence.places.units.mkdir(parents=True)
    make(host, change("Bridge", "vms", *NET))
    assert [path.name for path in host.persistence.places.units.glob("*.service")]
    assert ("systemctl", "daemon-reload") in host.persistence.commands.ran


def test_facts(host: FakeHost) -> None:
    """Functions answer from the fakes; the doctor, who tries the machine's own kernel, does not."""
    facts = run(host.facts("host", {})).data
    assert facts["defaultRoute"] == {"ipv4": "eth0", "ipv6": "eth0"}
    assert {each["name"] for each in facts["interfaces"]} == {"lo", "eth0", "vms"}
    with pytest.raises(HostnetError, match="fake"):
        run(host.facts("doctor", {}))
