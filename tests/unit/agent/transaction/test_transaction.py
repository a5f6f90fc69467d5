"""A transaction, phase by phase, on a kernel and nftables in memory: what is on disk when, and what a rollback leaves.

tests/netns/test_failures.py does the same to a real kernel.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hostnet.agent.linux import operations as ops
from hostnet.agent.linux.conntrack import Flow
from hostnet.agent.nft.table import Table
from hostnet.agent.record.record import Record
from hostnet.agent.transaction.host import Host
from hostnet.agent.transaction.lockout import Login
from hostnet.fakes.host import FakeHost
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import (
    Address,
    DhcpServer,
    Forward,
    Forwarding,
    ForwardingState,
    Gateway,
    Glob,
    Guest,
    Link,
    Object,
    Port,
)
from hostnet.wire.protocol import Outcome
from hostnet.wire.requests import Change, Query, View

from tests.unit.agent.data import urn

OBJECTS: dict[str, tuple[Object, ...]] = {
    "Bridge br0": (Link("br0", "bridge", mac="06:00:00:00:00:01"), Address("br0", "10.0.0.1/24")),
    "TapBinding vm0": (Link("vm0", "tap"), Port("vm0", "br0")),
    "NatGateway nat": (Gateway("nat", "eth0", ("br0",)), Forwarding("ipv4")),
    "PortForward web": (Forward("ipv4", ("tcp",), (80, 80), "10.0.0.2", (80, 80), external="eth0"),),
}


def changes(**values: Any) -> list[Change]:
    """A create of each; or an update or a delete of each, where all are there."""
    return [Change(urn(name), name.split()[1], objects, **values) for name, objects in OBJECTS.items()]


DELETES = [Change(urn(name), name.split()[1], (), objects, known=True) for name, objects in OBJECTS.items()]


@pytest.fixture
def fake() -> FakeHost:
    """A bare server."""
    return FakeHost()


@pytest.fixture
def phases(fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The phase of each record that is written, in order."""
    written: list[str] = []
    save = fake._store.save

    def noting(record: Record) -> None:
        written.append(type(record.phase).__name__)
        save(record)

    monkeypatch.setattr(fake._store, "save", noting)
    return written


class Provider:
    """A provider that gives an answer, or (None) hangs up.

    Args:
        answer: "": it confirms; else why it refuses.
    """

    required = True

    def __init__(self, answer: str | None) -> None:
        self._answer = answer
        self.asked: list[bool] = []

    def begun(self, transaction: str) -> None:
        """See `Confirmation`."""

    def request(self, outcomes: list[Outcome], transaction: str, *, reconnect: bool) -> str:
        """See `Confirmation`."""
        del outcomes, transaction
        self.asked.append(reconnect)
        if self._answer is None:
            raise EOFError
        return self._answer

    def ended(self) -> None:
        """See `Confirmation`."""


def agent(fake: FakeHost) -> Host:
    """Another agent, after the first one died."""
    fake.restart_agent()
    return fake.agent


def dump(fake: FakeHost) -> Any:
    """Everything on the host, but for the numbers of interfaces: what is created again gets another."""
    found = fake.dump()
    for link in found["links"].values():
        del link["index"], link["master"]
    return found


def codes(outcomes: list[Outcome]) -> set[Code]:
    """Those of the errors among them."""
    return {each.code for each in outcomes if isinstance(each, HostnetError)}


def test_a_local_change_is_pending_and_then_idle(fake: FakeHost, phases: list[str]) -> None:
    """On disk before the first operation, and after the last one."""
    assert codes(fake.agent.apply(changes())) == set()
    assert phases == ["Pending", "Idle"]


def test_a_preview_writes_nothing(fake: FakeHost, phases: list[str]) -> None:
    """Nor does it change anything."""
    before = dump(fake)
    assert codes(fake.agent.apply(changes(dry=True))) == set()
    assert phases == []
    assert dump(fake) == before


def test_a_confirmed_change_counts(fake: FakeHost, phases: list[str]) -> None:
    """From then on no agent rolls it back."""
    assert codes(fake.agent.apply(changes(), "t1", confirmation=Provider(""))) == set()
    assert phases == ["Pending", "Unconfirmed", "Idle"]
    after = dump(fake)
    assert not agent(fake).roll_back("t1", 30)
    assert dump(fake) == after


@pytest.mark.parametrize("there", [False, True], ids=["create", "delete"])
def test_a_refused_change_is_rolled_back(fake: FakeHost, phases: list[str], *, there: bool) -> None:
    """At once, and whoever asks again for the same transaction hears the same."""
    if there:
        fake.agent.apply(changes())
        phases.clear()
    before = dump(fake)
    outcomes = fake.agent.apply(DELETES if there else changes(), "t1", confirmation=Provider("no way back"))
    assert codes(outcomes) == {Code.ROLLED_BACK}
    assert all("no way back" in str(each) for each in outcomes)
    assert phases == ["Pending", "Unconfirmed", "Idle"]
    assert dump(fake) == before
    if there:  # else nothing is left to remember it
        assert codes(agent(fake).apply(DELETES, "t1", confirmation=Provider(""))) == {Code.ROLLED_BACK}
        assert dump(fake) == before


def test_no_answer_in_time_is_remembered_till_the_provider_comes_back(fake: FakeHost) -> None:
    """The record is kept for that alone, where it holds nothing else."""
    before = dump(fake)
    with pytest.raises(EOFError):
        fake.agent.apply(changes(), "t1", confirmation=Provider(None))
    confirm = agent(fake)
    assert phase(fake) == "Unconfirmed"
    assert not confirm.roll_back("another", 30), "it is not of this process"
    assert confirm.roll_back("t1", 30)
    assert not confirm.roll_back("t1", 30), "it is done"
    assert phase(fake) == "RolledBack"
    assert dump(fake) == before
    assert codes(agent(fake).outcome(changes(), "t1")) == {Code.ROLLED_BACK}
    confirm = agent(fake)
    confirm.forget("another")
    assert phase(fake) == "RolledBack"
    confirm.forget("t1")
    assert not fake._store.path.exists()
    with pytest.raises(HostnetError, match="has no result"):
        confirm.outcome(changes(), "t1")


def test_the_next_change_ends_the_memory_of_a_rollback(fake: FakeHost) -> None:
    """Of the phase; the result is kept with the others."""
    with pytest.raises(EOFError):
        fake.agent.apply(changes(), "t1", confirmation=Provider(None))
    agent(fake).roll_back("t1", 30)
    assert codes(agent(fake).apply(changes(), "t2", confirmation=Provider(""))) == set()
    assert phase(fake) == "Idle"
    assert codes(agent(fake).outcome(changes(), "t1")) == {Code.ROLLED_BACK}


def test_a_provider_that_comes_back_confirms_through_another_agent(fake: FakeHost) -> None:
    """Nothing is applied twice; another transaction instead would have rolled it back."""
    with pytest.raises(EOFError):
        fake.agent.apply(changes(), "t1", confirmation=Provider(None))
    after, performed = dump(fake), len(fake.kernel.performed)
    outcomes = agent(fake).outcome(changes(), "t1", confirmation=Provider(""))
    assert all(isinstance(each, View) and each.seen[0] is not None for each in outcomes)
    assert (dump(fake), len(fake.kernel.performed)) == (after, performed)
    assert phase(fake) == "Idle"


def test_another_transaction_rolls_back_what_a_dead_agent_left(fake: FakeHost) -> None:
    """Its provider learns that later."""
    fake.agent.apply(changes()[:1])
    with pytest.raises(EOFError):
        fake.agent.apply(changes()[1:], "t1", confirmation=Provider(None))
    read = agent(fake).read([Query(urn("Bridge br0"), "br0", "Bridge")])
    assert isinstance(read[0], View)
    assert "vm0" not in fake.dump()["links"]
    assert codes(agent(fake).outcome(changes()[1:], "t1")) == {Code.ROLLED_BACK}


class DeadError(BaseException):
    """SIGKILL."""


class Mortal:
    """A kernel whose agent dies in the operation after so many.

    Args:
        perform: The kernel's own.
        left: How many are still performed.
    """

    def __init__(self, perform: Callable[[ops.Operation], None], left: int) -> None:
        self._perform, self.left = perform, left

    def __call__(self, operation: ops.Operation) -> None:
        """Perform it, or die."""
        self.left -= 1
        if self.left < 0:
            raise DeadError
        self._perform(operation)


def test_an_agent_that_dies_at_any_operation_leaves_what_was(fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record says `Pending`; the next agent rolls back, and there is no result to report."""
    fake.agent.apply(changes()[:1])
    before, perform = dump(fake), fake.kernel.perform
    for moment in range(100):
        dying, mortal = agent(fake), Mortal(perform, moment)
        monkeypatch.setattr(fake.kernel, "perform", mortal)
        try:
            dying.apply(changes()[1:], f"t{moment}")
        except DeadError:
            assert phase(fake) == "Pending"
        finally:
            monkeypatch.setattr(fake.kernel, "perform", perform)
        if mortal.left >= 0:
            assert moment > 5
            return
        with pytest.raises(HostnetError, match="has no result"):
            agent(fake).outcome(changes()[1:], f"t{moment}")
        assert phase(fake) == "Idle"
        assert dump(fake) == before, f"died at operation {moment}"
    raise AssertionError("it never ends")


BORROWING: dict[str, tuple[Object, ...]] = {
    "Bridge br0": (Link("br0", "bridge", mac="06:00:00:00:00:01", mtu=9000), Address("br0", "10.0.0.1/24")),
    "TapBinding any": (Glob("br0", "vm-*"),),
    "NatGateway nat": (Gateway("nat", "eth0", ("br0",), nat6=True), Forwarding("ipv4"), Forwarding("ipv6")),
}


def test_what_cannot_be_undone_is_said(fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc/sys becomes read-only in the middle of a delete: what is switched off already can't be switched on again.

    Either all is as before, or the error says that it is not, and a refresh sees it. The next delete leaves nothing.
    """
    fake.agent.apply(changes()[:1])
    bare, perform, found = fake.dump(), fake.kernel.perform, set()
    nat = BORROWING["NatGateway nat"]
    for last in range(6):
        fake.agent.apply([Change(urn("NatGateway nat"), "nat", nat)])
        before, left = fake.dump(), last

        def read_only(operation: ops.Operation) -> None:
            nonlocal left
            if isinstance(operation, ops.WriteSysctl):
                left -= 1
                if left < 0:
                    raise OSError(errno.EROFS, "Read-only file system")
            perform(operation)

        delete = Change(urn("NatGateway nat"), "nat", (), nat, known=True)
        with monkeypatch.context() as patch:
            patch.setattr(fake.kernel, "perform", read_only)
            try:
                (outcome,) = fake.agent.apply([delete])
            except HostnetError as error:
                outcome = error
        code = outcome.code if isinstance(outcome, HostnetError) else None
        after = fake.dump()
        unlike = Code.PARTIAL if after["owners"] == before["owners"] else None
        assert code is (Code.KERNEL if after == before else unlike)
        found.add(code)
        fake.agent.apply([delete])
        assert fake.dump() == bare
    assert found == {Code.KERNEL, Code.PARTIAL, None}


def borrow_and_leave_unconfirmed(fake: FakeHost) -> list[Change]:
    """Create all, and have their deletion wait for its confirmation; gives the deletes of all."""
    creates = [Change(urn(name), name.split()[1], objects) for name, objects in BORROWING.items()]
    deletes = [Change(each.urn, each.id, (), each.objects, known=True) for each in creates]
    assert codes(agent(fake).apply(creates)) == set()
    assert fake.dump()["links"]["vm-1"]["mtu"] == 9000
    with pytest.raises(EOFError):
        agent(fake).apply(deletes[1:], "t1", confirmation=Provider(None))
    return deletes


def test_a_rollback_that_dies_forgets_no_original(fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """What sysctls, MTUs and masters were before hostnet is known to the agent that finishes the rollback."""
    fake.add_link("vm-1", "tap")
    bare, perform = dump(fake), fake.kernel.perform
    for moment in range(100):
        deletes = borrow_and_leave_unconfirmed(fake)
        dying, mortal = agent(fake), Mortal(perform, moment)
        with monkeypatch.context() as patch, contextlib.suppress(DeadError):
            patch.setattr(fake.kernel, "perform", mortal)
            dying.roll_back("t1", 30)
        assert codes(agent(fake).apply(deletes)) == set()
        assert dump(fake) == bare, f"died at operation {moment}"
        if mortal.left >= 0:
            assert moment > 4
            return
    raise AssertionError("it never ends")


def test_a_rollback_that_cannot_be_written_forgets_no_original(fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full: it is done, and done again by the next agent."""
    fake.add_link("vm-1", "tap")
    bare = dump(fake)
    deletes = borrow_and_leave_unconfirmed(fake)
    full = agent(fake)
    with monkeypatch.context() as patch:
        patch.setattr(fake._store, "save", full_disk)
        with pytest.raises(HostnetError, match="cannot write the record"):
            full.roll_back("t1", 30)
    assert codes(agent(fake).apply(deletes)) == set()
    assert dump(fake) == bare


def full_disk(_: Record) -> None:
    """What saving does there."""
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_change_that_fails_is_undone_alone(fake: FakeHost) -> None:
    """The others are applied, and a provider that lost the answer gets the same."""
    fake.kernel.refuse(errno.EBUSY, lambda operation: isinstance(operation, ops.CreateTap))
    first = fake.agent.apply(changes(), "t1")
    assert [isinstance(each, HostnetError) for each in first] == [False, True, False, False]
    again = agent(fake).outcome(changes(), "t1")
    assert [str(each) for each in again if isinstance(each, HostnetError)] == [str(first[1])]


def test_what_cannot_be_restored_stays_recorded(fake: FakeHost, phases: list[str]) -> None:
    """Each resource gets what it can have, and the error says what is missing."""
    fake.agent.apply(changes())
    fake.remove_link("br0")
    fake.remove_link("vm0")
    phases.clear()
    fake.kernel.refuse(errno.EACCES, lambda operation: isinstance(operation, ops.CreateTap))
    with pytest.raises(HostnetError, match="could not restore 1 of 4 resources"):
        fake.agent.restore()
    assert phases == ["Idle"], "a restore is never pending: what it does is right"
    assert "br0" in fake.dump()["links"]
    assert len(fake.dump()["owners"]) == 4
    assert agent(fake).restore() == 4
    assert "vm0" in fake.dump()["links"]


def test_an_uplink_that_comes_back_hears_its_routers_again(fake: FakeHost) -> None:
    """With forwarding and accept_ra=1 the kernel ignores router advertisements; the next change sets accept_ra=2."""
    gateway = Gateway("nat", "eth0", internal=("br0",), nat6=True)
    wanted = Change(urn("NatGateway nat"), "nat", (gateway, Forwarding("ipv4"), Forwarding("ipv6")))
    fake.agent.apply([wanted])
    query = Query(wanted.urn, wanted.id, "NatGateway", wanted.objects)

    def forwarding() -> list[bool]:
        (view,) = fake.agent.read([query])
        assert isinstance(view, View)
        return [each.enabled for each in view.seen if isinstance(each, ForwardingState)]

    assert forwarding() == [True, True]
    fake.remove_link("eth0")
    bridge = (Link("br9", "bridge"), Address("br9", "10.9.0.1/24"))
    fake.agent.apply([Change(urn("Bridge br9"), "br9", bridge)])
    fake.add_link("eth0", "physical", addresses=("203.0.113.5/24", "2001:db8:5::5/64"))
    assert forwarding() == [True, False]
    fake.agent.apply([replace(wanted, known=True)])
    assert forwarding() == [True, True]
    assert fake.kernel.sysctl("net.ipv6.conf.eth0.accept_ra") == "2"


def test_a_restore_has_untranslated_flows_forgotten(fake: FakeHost) -> None:
    """What began while the table was gone is translated from then on; conntrack is asked for nothing else."""
    fake.agent.apply(changes())
    translated, fresh = (
        Flow("ipv4", 17, "10.0.0.2", "198.51.100.1", 53, source_translated=yes) for yes in (True, False)
    )
    fake.kernel.flows = {translated, fresh}
    fake.agent.restore()
    assert fake.kernel.flows == {translated, fresh}, "nothing was missing"
    fake.run_nft("delete table inet hostnet")
    agent(fake).restore()
    assert fake.kernel.flows == {translated}


@pytest.mark.parametrize(
    ("port", "reconnect"), [(22, True), (80, False)], ids=["the SSH port is forwarded", "another port is forwarded"]
)
def test_a_change_that_may_divert_log_ins_needs_one(
    fake: FakeHost, port: int, *, reconnect: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection in progress proves nothing then."""
    monkeypatch.setattr("hostnet.agent.transaction.lockout._login", Login)
    provider = Provider("")
    forward = Forward("ipv4", ("tcp",), (port, port), "10.0.0.2", (port, port), external="eth0")
    fake.agent.apply([Change(urn("PortForward ssh"), "ssh", (forward,))], confirmation=provider)
    assert provider.asked == [reconnect]


BRIDGE = Link("br1", "bridge")
LOGIN = Login("203.0.113.9", "198.51.100.1", 22)


@pytest.mark.parametrize(
    ("cidrs", "gateway", "reconnect"),
    [
        (("10.0.0.1/24",), False, False),
        (("203.0.113.14/29",), False, True),
        (("198.51.100.1/32",), False, True),
        (("10.0.0.1/24",), True, False),
    ],
    ids=["another network", "the client's network", "the address that it connects to", "a gateway of another network"],
)
def test_what_may_refuse_the_next_log_in_needs_one(
    fake: FakeHost, cidrs: tuple[str, ...], *, gateway: bool, reconnect: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replies that leave by another interface, an address that moves; and a preview says so."""
    monkeypatch.setattr("hostnet.agent.transaction.lockout._login", lambda: LOGIN)
    provider = Provider("")
    bridge: tuple[Object, ...] = (BRIDGE, *(Address("br1", cidr) for cidr in cidrs))
    wanted = [Change(urn("Bridge br1"), "br1", bridge)]
    if gateway:
        wanted.append(Change(urn("NatGateway nat"), "nat", (Gateway("nat", "eth0", internal=("br1",)),)))
    previews = fake.agent.apply([replace(change, dry=True) for change in wanted])
    warned = [text for view in previews if isinstance(view, View) for text in view.warnings if "new SSH" in text]
    assert bool(warned) == reconnect
    fake.agent.apply(wanted, confirmation=provider)
    assert provider.asked == [reconnect]


def phase(fake: FakeHost) -> str:
    """The record's, as the next agent reads it; "" where there is no record."""
    with fake._store.locked():
        pass
    if not fake._store.path.exists():
        return ""
    fresh = type(fake._store)(fake._store.path.parent, "host", None)
    with fresh.locked() as record:
        return type(record.phase).__name__


TAKEN: dict[str, tuple[Object, ...]] = {
    "Bridge": (Link("x", "bridge"), Address("x", "10.7.0.1/24")),
    "TapBinding": (Link("x", "tap"), Port("x", "br0")),
    "glob": (Glob("br0", "g-*"),),
    "queues": (Link("x", "tap", multi_queue=True),),
    "PortForward": OBJECTS["PortForward web"],
}


@pytest.mark.parametrize("kind", TAKEN)
@pytest.mark.parametrize("order", [1, -1], ids=["delete-first", "create-first"])
def test_deleted_and_created_again_by_another_resource(fake: FakeHost, kind: str, order: int) -> None:
    """In one transaction: it is there, as the other declares it, and the first one's state has lost it rightly."""
    for name in ("g-1", "g-2"):
        fake.add_link(name)
    fake.agent.apply(changes()[:1])
    token = {"glob": "TapBinding", "queues": "TapBinding"}.get(kind, kind)
    objects = TAKEN[kind]
    first: tuple[Object, ...] = (Link("x", "tap"),) if kind == "queues" else objects
    fake.agent.apply([Change(urn(f"{token} one"), "x", first)])
    whole = dump(fake)
    exchange = [Change(urn(f"{token} one"), "x", (), first, known=True), Change(urn(f"{token} two"), "x", objects)]
    assert codes(fake.agent.apply(exchange[::order])) == set()
    found = dump(fake)
    assert found["owners"].keys() ^ whole["owners"].keys() == {f"{urn(f'{token} {x}')} x" for x in ("one", "two")}
    if kind == "queues":
        for value in ("multi_queue", "mac"):  # the kernel gives a new TAP another one
            assert found["links"]["x"].pop(value) != whole["links"]["x"].pop(value)
    assert found["links"] == whole["links"]
    fake.restart_agent()
    assert codes(fake.agent.apply([Change(urn(f"{token} two"), "x", (), objects, known=True)])) == set()
    assert "x" not in dump(fake)["links"]


def test_the_other_resource_fails(fake: FakeHost) -> None:
    """Then the first one keeps what it has, and both get the error."""
    fake.agent.apply([*changes()[:1], Change(urn("TapBinding one"), "x", TAKEN["TapBinding"])])
    whole = dump(fake)
    fake.kernel.refuse(errno.ENOSPC)
    exchange = [
        Change(urn("TapBinding one"), "x", (), TAKEN["TapBinding"], known=True),
        Change(urn("TapBinding two"), "x", (*TAKEN["TapBinding"], Address("x", "10.8.0.1/32"))),
    ]
    assert codes(fake.agent.apply(exchange)) == {Code.KERNEL}
    assert dump(fake) == whole
    fake.restart_agent()
    assert codes(fake.agent.apply(exchange[:1])) == set()
    assert "x" not in dump(fake)["links"]


def swapping() -> tuple[list[Change], list[Change]]:
    """Two forwards on a host, and the changes by which they swap their ports."""

    def forward(name: str, port: int) -> Forward:
        return Forward("ipv4", ("tcp",), (port, port), f"10.0.0.{ord(name)}", (80, 80), external="eth0")

    made = [Change(urn(f"PortForward {name}"), name, (forward(name, port),)) for name, port in (("a", 81), ("b", 82))]
    swapped = [
        replace(each, objects=(forward(each.id, port),), prior=each.objects, known=True, awaits=(f"{of.urn}|{of.id}",))
        for each, of, port in ((made[0], made[1], 82), (made[1], made[0], 81))
    ]
    return made, swapped


@pytest.mark.parametrize("at_once", [True, False])
def test_an_exchange_is_one_transaction(fake: FakeHost, at_once: bool) -> None:  # noqa: FBT001
    """The first one waits, and both take effect with the second."""
    made, swapped = swapping()
    fake.agent.apply(made)
    if at_once:
        assert codes(fake.agent.apply(swapped)) == set()
    else:
        whole = fake.nftables.dump()
        assert codes(fake.agent.apply(swapped[:1])) == set()
        assert fake.nftables.dump() == whole
        fake.restart_agent()
        assert codes(fake.agent.apply(swapped[1:])) == set()
    assert dump(fake)["owners"] == {f"{x.urn} {x.id}": [x.objects[0].key] for x in swapped}


@pytest.mark.parametrize("refused", [0, 1])
def test_an_exchange_that_is_not_confirmed(fake: FakeHost, refused: int) -> None:
    """Whichever of the two changes is rolled back: the host is as before, and the same changes work later."""
    made, swapped = swapping()
    fake.agent.apply(made)
    whole = dump(fake)
    for each in swapped[:refused]:
        fake.agent.apply([each])
    outcomes = fake.agent.apply([swapped[refused]], confirmation=Provider("it cannot log in"))
    assert codes(outcomes) == {Code.ROLLED_BACK}
    assert dump(fake) == whole
    for each in swapped[refused:]:
        assert codes(fake.agent.apply([each])) == set()
    assert dump(fake)["owners"] == {f"{x.urn} {x.id}": [x.objects[0].key] for x in swapped}


def test_an_exchange_that_fails(fake: FakeHost) -> None:
    """The kernel refuses it: both have what they had, and the next attempt works."""
    made, swapped = swapping()
    fake.agent.apply(made)
    fake.agent.apply(swapped[:1])
    whole = dump(fake)
    for _ in range(2):  # refused once, it is tried again with all that the table lists
        fake.nftables.refuse("no space")
    assert codes(fake.agent.apply(swapped[1:])) == {Code.KERNEL}
    assert dump(fake) == whole
    assert codes(fake.agent.apply(swapped[1:])) == set()
    assert dump(fake)["owners"] == {f"{x.urn} {x.id}": [x.objects[0].key] for x in swapped}


def test_what_a_failed_create_would_replace_stays(fake: FakeHost) -> None:
    """`pulumi up --replace` of a resource that gets another autoname: the state has the one before."""
    network = (Link("one", "bridge"), Address("one", "10.7.0.1/24"))
    fake.agent.apply([Change(urn("Bridge net"), "one", network)])
    whole = dump(fake)
    create = Change(urn("Bridge net"), "two", (Link("two", "bridge"), Address("two", "10.7.0.1/24")))
    fake.kernel.refuse(errno.ENOSPC)
    fake.restart_agent()
    assert codes(fake.agent.apply([create])) == {Code.KERNEL}
    assert dump(fake) == whole
    assert codes(fake.agent.apply([create])) == set()
    assert {"one", "two"} & dump(fake)["links"].keys() == {"two"}


def test_what_the_record_lacks_is_put_into_tables_that_others_keep(fake: FakeHost) -> None:
    """A delete whose answer was lost: the state has the gateway still, and our tables are another resource's."""
    fake.agent.apply(changes())
    before = fake.nftables.dump()
    name, objects = "NatGateway nat", OBJECTS["NatGateway nat"]
    fake.agent.apply([Change(urn(name), "nat", (), objects, known=True)])
    assert fake.nftables.dump() != before
    fake.agent.apply([Change(urn(name), "nat", objects, objects, known=True)])
    assert fake.nftables.dump() == before


@pytest.mark.parametrize("reply", [True, False])
def test_replies_that_may_leave_elsewhere_need_a_log_in(
    fake: FakeHost, monkeypatch: pytest.MonkeyPatch, *, reply: bool
) -> None:
    """A provider may come through a guest, by a forward; and a gateway that moves no reply needs none."""
    monkeypatch.setattr("hostnet.agent.transaction.lockout._login", lambda: LOGIN)
    fake.kernel.add_link("eth1", "physical", addresses=("192.0.2.5/24",))
    fake.kernel.add_route("eth1", "0.0.0.0/0", "192.0.2.1", metric=500)
    provider = Provider("")
    gateway = Gateway("nat", internal4=("10.0.0.0/24",), reply=reply)
    fake.agent.apply([Change(urn("NatGateway nat"), "nat", (gateway,))], confirmation=provider)
    again = replace(gateway, mss_clamp=True)
    fake.agent.apply([Change(urn("NatGateway nat"), "nat", (again,))], confirmation=provider)
    assert provider.asked == [reply, False]
    assert any(rule["mark"] for rule in fake.dump()["rules"]) == reply


def test_a_rule_that_the_kernel_refuses_leaves_nothing(fake: FakeHost) -> None:
    """The gateway fails, and what was made for its replies before is taken away."""
    fake.kernel.add_link("eth1", "physical", addresses=("192.0.2.5/24",))
    fake.kernel.add_route("eth1", "0.0.0.0/0", "192.0.2.1", metric=500)
    before = fake.dump()
    fake.kernel.refuse(errno.ENOMEM, lambda each: isinstance(each, ops.AddRule) and each.family == "ipv6")
    outcome = fake.agent.apply([Change(urn("NatGateway nat"), "nat", (Gateway("nat", internal4=("10.0.0.0/24",)),))])
    assert "routing rule" in str(outcome[0])
    assert fake.dump() == before


@pytest.mark.parametrize(("address", "reconnect"), [("203.0.113.9/32", True), ("203.0.113.8/32", False)])
def test_answering_for_the_providers_own_address_needs_a_log_in(
    fake: FakeHost, monkeypatch: pytest.MonkeyPatch, address: str, *, reconnect: bool
) -> None:
    """Routers would send here what is for the provider; another neighbour's address leads no reply astray."""
    monkeypatch.setattr("hostnet.agent.transaction.lockout._login", lambda: LOGIN)
    provider = Provider("")
    guest = Guest("vm0", None, "02:00:00:00:00:05", (address,), proxy="eth0")
    fake.agent.apply([Change(urn("TapBinding vm0"), "vm0", (Link("vm0", "tap"), guest))], confirmation=provider)
    assert provider.asked == [reconnect]
    assert fake.dump()["proxies"] == [("eth0", address.partition("/")[0])]


def test_a_gateway_without_uplinks_of_its_own_follows_the_default_routes(fake: FakeHost) -> None:
    """What the watcher does: a route that comes is taken in; while none is left, and where nothing has changed, no."""
    nat, fixed = Gateway("nat", internal4=("10.0.0.0/24",)), Gateway("fixed", "eth0", internal4=("10.1.0.0/24",))
    for gateway in (nat, fixed):
        fake.agent.apply([Change(urn(f"NatGateway {gateway.name}"), gateway.name, (gateway,))])
    assert fake.agent.follow() == []
    fake.kernel.add_link("ppp0", "ppp", addresses=("192.0.2.5/32",), ethernet=False)
    fake.kernel.add_route("ppp0", "0.0.0.0/0", metric=50)
    assert "gateway nat leads out by eth0, ppp0 now" in fake.agent.follow()
    assert uplinks(fake) == {"nat": ("eth0", "ppp0"), "fixed": ("eth0",)}
    assert fake.agent.follow() == []
    fake.kernel.remove_link("ppp0")
    fake.kernel.remove_link("eth0")
    fake.agent.follow()
    assert uplinks(fake)["nat"] == ("eth0", "ppp0")


def test_where_the_default_route_leads_may_be_another_gateways(fake: FakeHost) -> None:
    """Of two gateways with one network that would share an uplink the log names the other, and nothing changes."""
    for gateway in (Gateway("nat", internal4=("10.0.0.0/24",)), Gateway("other", "ppp0", internal4=("10.0.0.0/24",))):
        if gateway.external:
            fake.kernel.add_link("ppp0", "ppp", addresses=("192.0.2.5/32",), ethernet=False)
        fake.agent.apply([Change(urn(f"NatGateway {gateway.name}"), gateway.name, (gateway,))])
    fake.kernel.add_route("ppp0", "0.0.0.0/0", metric=50)
    found = fake.agent.follow()
    assert any("both lead out by ppp0" in line for line in found), found
    assert uplinks(fake) == {"nat": ("eth0",), "other": ("ppp0",)}


@pytest.mark.parametrize(
    ("persist", "systemd", "watched"),
    [("auto", True, True), ("auto", False, False), ("always", False, True), ("never", True, False)],
)
def test_the_watcher_runs_for_such_a_gateway(persist: str, *, systemd: bool, watched: bool) -> None:
    """Where a reboot brings it back. For one external interface that is named it does not, for several it does."""
    fake = FakeHost(persist=persist)
    if systemd:
        fake.persistence.places.systemd.mkdir(parents=True)
    own = Gateway("nat", "eth0", internal4=("10.0.0.0/24",))
    fake.agent.apply([Change(urn("NatGateway nat"), "nat", (own,))])
    assert fake.persistence.watched is False
    free = Gateway("nat", internal4=("10.0.0.0/24",))
    fake.agent.apply([Change(urn("NatGateway nat"), "nat", (free,), known=True)])
    assert fake.persistence.watched is watched
    fake.agent.apply([Change(urn("NatGateway nat"), "nat", (own,), known=True)])
    assert fake.persistence.watched is False
    fake.kernel.add_link("ppp0", "ppp", addresses=("192.0.2.5/32",), ethernet=False)
    several = Gateway("nat", "eth0", more=("ppp0",), internal4=("10.0.0.0/24",))
    fake.agent.apply([Change(urn("NatGateway nat"), "nat", (several,), known=True)])
    assert fake.persistence.watched is watched


def uplinks(fake: FakeHost) -> dict[str, tuple[str, ...]]:
    """By gateway, the external interfaces that are recorded."""
    with fake._store.locked() as record:
        return {name: gateway.uplinks for name, gateway in record.owners.gateways.items()}


def test_an_interface_is_no_server_from_its_first_frame(fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watcher notes a port of a bridge that serves before it attaches it, and takes back what could not join."""
    bridge = (*OBJECTS["Bridge br0"], DhcpServer("br0", dhcp=True))
    for outcome in fake.agent.apply(
        [
            Change(urn("Bridge br0"), "br0", bridge),
            Change(urn("TapBinding vms"), "br0/late-*", (Glob("br0", "late-*"),)),
        ]
    ):
        assert not isinstance(outcome, HostnetError), outcome

    def guarded() -> set[str]:
        listing = Table(fake.nftables).listing()
        found = listing.elements if listing is not None else ()
        return {key[0] for name, key in found if name == "served_ports"}

    at_join: list[set[str]] = []
    perform = fake.kernel.perform

    def performing(operation: ops.Operation) -> None:
        if isinstance(operation, ops.SetLink) and operation.bridge == "br0":
            at_join.append(guarded())
            if operation.name == "late-2":
                raise OSError(errno.EBUSY, "busy")
        perform(operation)

    monkeypatch.setattr(fake.kernel, "perform", performing)
    for name in ("late-1", "late-2"):
        fake.add_link(name)
    assert at_join == [{"late-1"}, {"late-1", "late-2"}]
    assert guarded() == {"late-1"}
