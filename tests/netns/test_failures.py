"""What fails, and what is left then: of a request, a batch, an agent that dies, a record that can't be written.

The host is tests/lab/bed.py's: no packets, but everything that hostnet changes. Where a test puts its hand in between,
the agent is in this process (tests/lab/inside.py); where a process has to die, it is a real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hostnet.agent.linux import operations as ops
from hostnet.agent.record.lock import Background, acquire
from hostnet.agent.record.record import Record
from hostnet.hosts.connection import Settings
from hostnet.wire import protocol
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import Address, Forward, Forwarding, Gateway, Glob, Link, Object, Port
from hostnet.wire.requests import Change, Query, View

from tests.lab.bed import Bed, difference
from tests.lab.driver import Provider, Stack, refused
from tests.lab.inside import open_host
from tests.lab.namespaces import Namespace, temporary_directory
from tests.lab.taps import open_tap

V4 = "net.ipv4.ip_forward"


@pytest.fixture
def bed() -> Iterator[Bed]:
    """A host that nothing has touched."""
    if os.geteuid() != 0:
        pytest.skip("kernel tests need root: they make network namespaces")
    made = Bed()
    yield made
    made.close()


@pytest.fixture
def state() -> Iterator[Path]:
    """A state directory."""
    made = temporary_directory("state")
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def agent(bed: Bed, state: Path) -> Agent:
    """An agent in this process."""
    return Agent(bed, state)


@pytest.fixture
def stack(bed: Bed) -> Iterator[Stack]:
    """A stack with a provider and agents of its own, which are processes."""
    provider = Provider()
    yield Stack(provider, bed.host.name)
    provider.close()


def urn(name: str, kind: str = "Bridge") -> str:
    """A resource's URN."""
    return f"urn:pulumi:dev::shop::hostnet:index:{kind}::{name}"


def change_of(name: str, *objects: Object, known: bool = False, prior: tuple[Object, ...] = ()) -> Change:
    """A change of a resource whose id is its name."""
    return Change(urn(name), name, objects, prior, known)


def bridge(name: str, *cidrs: str, mtu: int | None = None) -> tuple[Object, ...]:
    """The objects of a bridge."""
    mac = f"06:00:00:00:00:{int(name[-1]):02x}"
    return (Link(name, "bridge", mac=mac, mtu=mtu), *(Address(name, cidr) for cidr in cidrs))


def tap(name: str, on: str, user: str = "1234") -> tuple[Object, ...]:
    """The objects of a TAP."""
    return Link(name, "tap", user=user), Port(name, on)


def forward(port: int, to: str = "10.0.0.2") -> tuple[Object, ...]:
    """The objects of a forward."""
    return Forward("ipv4", ("tcp",), (port, port), to, (port, port), external="eth0"), Forwarding("ipv4")


NETWORK = {
    "br0": bridge("br0", "10.0.0.1/24", "fd12::1/64"),
    "vm0": tap("vm0", "br0"),
    "nat": (Gateway("nat", "eth0", ("br0",), nat6=True), Forwarding("ipv4"), Forwarding("ipv6")),
    "web": forward(80),
}
CHANGED = {
    "br0": bridge("br0", "10.0.0.254/24", "fd12::1/64", mtu=1400),
    "vm0": tap("vm0", "br0", "4321"),
    "nat": (Gateway("nat", "eth0", ("br0",), snat4="192.0.2.2"), Forwarding("ipv4")),
    "web": forward(80, "10.0.0.3"),
}


class Agent:
    """An agent in this process: `Host` with what tests ask of it."""

    def __init__(self, bed: Bed, state: Path) -> None:
        """Open the host."""
        self.bed, self.state = bed, state
        self.host = open_host(bed.host, state)
        self.before: Any = None  # a snapshot, for tests that compare with it

    def apply(self, *changes: Change) -> list[View | HostnetError]:
        """Apply, joined in one transaction."""
        return self.bed.host.call(self.host.apply, list(changes))

    def make(self, *changes: Change) -> None:
        """Apply what must work."""
        for outcome in self.apply(*changes):
            assert isinstance(outcome, View), outcome

    def remove(self, **objects: tuple[Object, ...]) -> list[View | HostnetError]:
        """Delete."""
        return self.apply(*(change_of(name, known=True, prior=prior) for name, prior in objects.items()))

    def read(self, name: str, objects: tuple[Object, ...] = ()) -> View | HostnetError | None:
        """Read one resource."""
        return self.bed.host.call(self.host.read, [Query(urn(name), name, "Bridge", objects)])[0]

    def another(self) -> Agent:
        """A new agent on the same record: the old one is dead."""
        return Agent(self.bed, self.state)

    @property
    def record(self) -> Path:
        """The record's file."""
        return self.host._store.path


# --- sysctls and files that can't be written -----------------------------------------------------------------------


def with_read_only_proc(bed: Bed, state: Path, changes: list[Change]) -> list[protocol.Outcome | None]:
    """Apply through an agent that sees /proc/sys read-only, as in an unprivileged container."""
    root = Path(__file__).parents[2] / "provider"
    mount = 'mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys && exec "$@"'
    code = f"import sys; sys.path.insert(0, {str(root)!r}); from hostnet.agent.main import main; sys.exit(main())"
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount, "sh"]
    argv += [sys.executable, "-I", "-S", "-c", code, "--state-dir", str(state)]
    agent = bed.host.call(lambda: subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    with agent:
        assert agent.stdin is not None
        assert agent.stdout is not None
        agent.stdin.write(protocol.Request(1, "apply", tuple(changes)).to_line())
        agent.stdin.flush()
        assert protocol.is_greeting(agent.stdout.readline())
        answer = protocol.Answer.parse(agent.stdout.readline(), "")
        agent.stdin.close()
    return protocol.outcomes_from_json(answer.result, "", changes)


def test_a_read_only_proc_with_the_right_value_is_fine(bed: Bed, state: Path) -> None:
    """netavark: what is right already is not written."""
    bed.switch(V4, "1")
    bed.switch("net.ipv4.conf.default.route_localnet", "1")
    changes = [change_of("nat", Gateway("nat", "eth0", internal4=("10.9.0.0/24",)), Forwarding("ipv4"))]
    (outcome,) = with_read_only_proc(bed, state, changes)
    assert isinstance(outcome, View), outcome


def test_a_read_only_proc_with_the_wrong_value_is_an_error(bed: Bed, state: Path) -> None:
    """netavark: it names the switch and what to do, and nothing has changed."""
    before = bed.snapshot()
    changes = [change_of("nat", Gateway("nat", "eth0", internal4=("10.9.0.0/24",)), Forwarding("ipv4"))]
    (outcome,) = with_read_only_proc(bed, state, changes)
    assert isinstance(outcome, HostnetError), outcome
    assert outcome.code is Code.KERNEL
    assert V4 in str(outcome)
    assert "EROFS" in outcome.why
    assert difference(bed.snapshot(), before) == []
    assert not list(state.glob("*.json"))


@contextlib.contextmanager
def tiny(state: Path) -> Iterator[None]:
    """The state directory as a file system of a few pages (in this process's mount namespace, gone at the end)."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20k,mode=700", "tmpfs", str(state)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(state)], check=True)


def test_a_full_state_directory_is_an_error_that_changes_nothing(bed: Bed, state: Path) -> None:
    """What was recorded before still is, and the kernel is as it says."""
    with tiny(state):
        agent = Agent(bed, state)
        agent.make(change_of("br0", *NETWORK["br0"]))
        before, recorded = bed.snapshot(), agent.record.read_text()
        (state / "ballast").write_bytes(b"x" * 4096 * 3)
        with pytest.raises(HostnetError) as error:
            agent.apply(*(change_of(name, *objects) for name, objects in CHANGED.items()), *many_bridges())
        assert error.value.code is Code.KERNEL
        assert "ENOSPC" in str(error.value)
        assert "stateDir" in error.value.fix
        assert difference(bed.snapshot(), before) == []
        assert agent.record.read_text() == recorded
        (state / "ballast").unlink()
        agent.another().make(change_of("br0", *CHANGED["br0"], known=True))


def many_bridges() -> list[Change]:
    """Enough for a record of several pages."""
    return [change_of(f"x{n}", *bridge(f"x{n}", f"10.{n}.0.1/24")) for n in range(100, 160)]


def test_a_record_that_can_not_be_written_in_the_end_is_told_and_recovered(bed: Bed, state: Path) -> None:
    """The disk fills up between the first write and the last: an error, and the next agent makes the two agree."""
    agent = Agent(bed, state)
    agent.make(change_of("br0", *NETWORK["br0"]))
    before = bed.snapshot()
    store, saves = agent.host._store, []
    save = store.save

    def once(record: Record) -> None:
        saves.append(record)
        if len(saves) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(record)

    store.save = once  # type: ignore[method-assign]
    with pytest.raises(HostnetError, match="ENOSPC"):
        agent.apply(change_of("br0", *CHANGED["br0"], known=True), change_of("web", *NETWORK["web"]))
    another = agent.another()
    assert isinstance(another.read("br0"), View)
    assert difference(bed.snapshot(), before) == []


def test_a_state_directory_that_is_no_directory_is_a_clear_error(bed: Bed, state: Path) -> None:
    """It says which and what to set, and is no "bug in hostnet"."""
    occupied = state / "file"
    occupied.write_text("")
    before = bed.snapshot()
    agent = Agent(bed, occupied)
    with pytest.raises(HostnetError) as error:
        agent.apply(change_of("br0", *NETWORK["br0"]))
    assert str(occupied) in str(error.value)
    assert "stateDir" in error.value.fix
    assert difference(bed.snapshot(), before) == []


# --- half way ------------------------------------------------------------------------------------------------------


def test_a_tap_that_is_open_elsewhere_keeps_its_owner_and_the_others_go_on(bed: Bed, agent: Agent) -> None:
    """EBUSY when changing who may open it: that resource is as before, the others of the batch are changed."""
    agent.make(*(change_of(name, *objects) for name, objects in NETWORK.items()))
    descriptor = bed.host.call(open_tap, "vm0")
    try:
        outcomes = agent.apply(*(change_of(name, *objects, known=True) for name, objects in CHANGED.items()))
        errors = {name: x for name, x in zip(CHANGED, outcomes, strict=True) if isinstance(x, HostnetError)}
        assert set(errors) == {"vm0"}
        assert errors["vm0"].code is Code.KERNEL
        assert "EBUSY" in str(errors["vm0"])
        assert bed.links()["vm0"].owner == 1234
        assert bed.links()["br0"].mtu == 1400
        assert "10.0.0.3" in json.dumps(bed.ruleset())
    finally:
        os.close(descriptor)
    agent.make(change_of("vm0", *CHANGED["vm0"], known=True))


def test_a_create_that_fails_half_way_leaves_nothing(bed: Bed, agent: Agent) -> None:
    """A name that is taken between plan and apply: the bridge before it in the same resource goes again."""
    before = bed.snapshot()
    perform = agent.host.kernel.perform

    def race(operation: ops.Operation) -> None:
        if operation == ops.AddAddress("br1", "fd13::1/64"):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        perform(operation)

    agent.host.kernel.perform = race  # type: ignore[method-assign]
    first, second = agent.apply(
        change_of("br1", *bridge("br1", "10.1.0.1/24", "fd13::1/64")), change_of("br0", *NETWORK["br0"])
    )
    assert isinstance(first, HostnetError)
    assert "fd13::1/64" in str(first)
    assert isinstance(second, View)
    agent.host.kernel.perform = perform  # type: ignore[method-assign]
    agent.remove(br0=NETWORK["br0"])
    assert difference(bed.snapshot(), before) == []


def test_a_name_that_is_taken_in_between_is_an_error(bed: Bed, agent: Agent) -> None:
    """And the link that took it is left alone."""
    perform = agent.host.kernel.perform

    def race(operation: ops.Operation) -> None:
        if isinstance(operation, ops.CreateBridge) and operation.name == "br1":
            bed.host.ip("link add br1 type bridge", "address add 10.99.0.1/24 dev br1")
        perform(operation)

    agent.host.kernel.perform = race  # type: ignore[method-assign]
    taken, fine = agent.apply(change_of("br1", *bridge("br1", "10.1.0.1/24")), change_of("br0", *NETWORK["br0"]))
    assert isinstance(taken, HostnetError)
    assert "EEXIST" in str(taken)
    assert isinstance(fine, View)
    assert "10.99.0.1/24" in bed.links()["br1"].addresses


def test_a_batch_that_nft_refuses_fails_its_owner_alone(bed: Bed, agent: Agent) -> None:
    """DESIGN.md 2.3: a request that fails in a joined batch fails alone. The kernel refuses one element here."""
    agent.make(change_of("nat", Gateway("nat", "eth0", internal4=("10.9.0.0/24",)), Forwarding("ipv4")))
    nft = bed.host.call(lambda: agent.host.table.nft)
    run = nft.run

    def picky(batch: str) -> None:
        # As a kernel that can't have this one: the whole batch is refused, without a word on which element.
        run(batch + 'add element inet hostnet internal_links { "x" . "y" }\n' if "10.66.6.6" in batch else batch)

    nft.run = picky  # type: ignore[method-assign]
    good, bad, bridge_too = agent.apply(
        change_of("web", *forward(80)), change_of("bad", *forward(81, "10.66.6.6")), change_of("br0", *NETWORK["br0"])
    )
    assert isinstance(bad, HostnetError)
    assert isinstance(good, View), good
    assert isinstance(bridge_too, View), bridge_too
    text = json.dumps(bed.ruleset())
    assert "10.0.0.2" in text
    assert "10.66.6.6" not in text


def test_a_port_that_one_gives_up_another_takes_in_the_same_transaction(bed: Bed, agent: Agent) -> None:
    """The engine sends both at once: which of them arrives first is chance."""
    agent.make(change_of("web", *forward(80)))
    agent.make(change_of("two", *forward(80, "10.0.0.3")), change_of("web", known=True, prior=forward(80)))
    assert "10.0.0.3" in json.dumps(bed.ruleset())
    assert "10.0.0.2" not in json.dumps(bed.ruleset())
    agent.remove(two=forward(80, "10.0.0.3"))


def test_an_undo_that_fails_is_a_partial_failure_and_the_next_up_repairs_it(bed: Bed, agent: Agent) -> None:
    """The record says what should be, so that nothing is forgotten."""
    perform = agent.host.kernel.perform

    def broken(operation: ops.Operation) -> None:
        if isinstance(operation, (ops.AddAddress, ops.DeleteLink)):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        perform(operation)

    agent.host.kernel.perform = broken  # type: ignore[method-assign]
    (outcome,) = agent.apply(change_of("br0", *NETWORK["br0"]))
    assert isinstance(outcome, HostnetError)
    assert outcome.code is Code.PARTIAL
    assert "EIO" in outcome.why
    agent.host.kernel.perform = perform  # type: ignore[method-assign]
    assert isinstance(agent.read("br0", NETWORK["br0"]), View)
    agent.make(change_of("br0", *NETWORK["br0"], known=True, prior=NETWORK["br0"]))
    assert "10.0.0.1/24" in bed.links()["br0"].addresses


def test_a_part_of_a_delete_that_fails_still_removes_the_rest(bed: Bed, agent: Agent) -> None:
    """Netavark. What could not be deleted is recorded still, and goes the next time."""
    before = bed.snapshot()
    agent.make(*(change_of(name, *objects) for name, objects in NETWORK.items()))
    perform = agent.host.kernel.perform

    def stuck(operation: ops.Operation) -> None:
        if operation == ops.DeleteLink("vm0"):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        perform(operation)

    agent.host.kernel.perform = stuck  # type: ignore[method-assign]
    outcomes = dict(zip(NETWORK, agent.remove(**NETWORK), strict=True))
    assert isinstance(outcomes.pop("vm0"), HostnetError)
    assert not [x for x in outcomes.values() if isinstance(x, HostnetError)]
    links = bed.links()
    assert "br0" not in links
    assert "vm0" in links
    assert not bed.kernel.tables()
    agent.host.kernel.perform = perform  # type: ignore[method-assign]
    agent.make(change_of("vm0", known=True, prior=NETWORK["vm0"]))
    assert difference(bed.snapshot(), before) == []
    assert not agent.record.exists()


# --- death at every stage ------------------------------------------------------------------------------------------


class Killed(BaseException):
    """SIGKILL: nothing of ours runs after it."""


class Mortal:
    """An agent that dies at the n-th thing that it does to the host or to its record."""

    def __init__(self, agent: Agent, moment: int) -> None:
        """Lay hands on it."""
        self._left = moment
        host = agent.host
        # libnftables opens its socket where it is loaded: in the namespace, not in this thread's.
        nft = agent.bed.host.call(lambda: host.table.nft)
        parts: tuple[tuple[object, str], ...] = ((host.kernel, "perform"), (nft, "run"), (host._store, "save"))
        for part, name in parts:
            setattr(part, name, self._around(getattr(part, name)))

    def _around(self, function: Callable[[Any], None]) -> Callable[[Any], None]:
        def wrapped(argument: Any) -> None:
            self._tick()
            function(argument)
            self._tick()

        return wrapped

    def _tick(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise Killed


def die_everywhere(agent: Agent, changes: list[Change], before: Any) -> int:
    """Apply with an agent that dies, at each moment in turn; the next agent goes back to what was.

    After the last write it is done: then the next agent finds it so.

    Returns:
        At how many moments it died before that.
    """
    bed, recorded = agent.bed, owners(agent.record)
    for moment in range(1, 500):
        mortal = agent.another()
        Mortal(mortal, moment)
        try:
            bed.host.call(mortal.host.apply, changes)
        except Killed:
            heir = agent.another()
            heir.read("br0", NETWORK["br0"])
            if owners(heir.record) != recorded:
                return moment - 1
            assert difference(bed.snapshot(), before) == [], f"died at moment {moment}"
        else:
            return moment - 1
    raise AssertionError("it never ends")


def owners(record: Path) -> list[str]:
    """What a record says that there is; nothing of it may be open."""
    if not record.exists():
        return []
    header, *lines = record.read_text().splitlines()
    assert json.loads(header)["phase"] == {"name": "idle"}
    return sorted(lines)


def test_a_create_that_dies_at_any_moment_leaves_nothing(bed: Bed, agent: Agent) -> None:
    """The next agent goes back to what was, from the record."""
    before = bed.snapshot()
    changes = [change_of(name, *objects) for name, objects in NETWORK.items()]
    assert die_everywhere(agent, changes, before) > 20
    heir = agent.another()
    heir.make(*(change_of(name, *objects, known=True) for name, objects in NETWORK.items()))
    heir.remove(**NETWORK)
    assert difference(bed.snapshot(), before) == []
    assert not heir.record.exists()


def test_an_update_that_dies_at_any_moment_is_undone(bed: Bed, agent: Agent) -> None:
    """Links, addresses, elements and switches are as they were; the record too."""
    pristine = bed.snapshot()
    agent.make(*(change_of(name, *objects) for name, objects in NETWORK.items()))
    before = bed.snapshot()
    assert die_everywhere(agent, [change_of(n, *o, known=True) for n, o in CHANGED.items()], before) > 10
    agent.another().remove(**CHANGED)
    assert difference(bed.snapshot(), pristine) == []


def test_a_delete_that_dies_at_any_moment_is_undone(bed: Bed, agent: Agent) -> None:
    """What was deleted is made again, as it was declared."""
    pristine = bed.snapshot()
    agent.make(*(change_of(name, *objects) for name, objects in NETWORK.items()))
    before = bed.snapshot()
    assert die_everywhere(agent, [change_of(n, known=True, prior=o) for n, o in NETWORK.items()], before) > 10
    agent.another().remove(**NETWORK)
    assert difference(bed.snapshot(), pristine) == []


# --- changes that wait for a confirmation ----------------------------------------------------------------------------


class Answer:
    """A provider's answer, as it is to be; and what it heard of its change, in order."""

    required = True

    def __init__(self, refusal: str | None) -> None:
        """It confirms (""), refuses, or has hung up (None)."""
        self._refusal = refusal
        self.heard: list[str] = []
        self.reconnect: bool | None = None

    def begun(self, transaction: str) -> None:
        """See `Confirmation`."""
        self.heard.append(f"begun {transaction}")

    def request(self, outcomes: list[Any], transaction: str, *, reconnect: bool) -> str:
        """See `Confirmation`."""
        assert all(isinstance(each, View) for each in outcomes)
        self.heard.append(f"applied {transaction}")
        self.reconnect = reconnect
        if self._refusal is None:
            raise EOFError
        return self._refusal

    def ended(self) -> None:
        """See `Confirmation`."""
        self.heard.append("ended")


SETS: dict[str, tuple[bool, list[Change]]] = {
    "create": (False, [change_of(n, *o) for n, o in NETWORK.items()]),
    "update": (True, [change_of(n, *o, known=True) for n, o in CHANGED.items()]),
    "delete": (True, [change_of(n, known=True, prior=o) for n, o in NETWORK.items()]),
}


def unconfirmed(agent: Agent, name: str, answer: Answer) -> list[Any]:
    """Apply one of the sets, on a host that has what it changes; gives what was heard."""
    there, changes = SETS[name]
    if there:
        agent.make(*(change_of(name, *objects) for name, objects in NETWORK.items()))
    agent.before = agent.bed.snapshot()
    return agent.bed.host.call(agent.host.apply, changes, "t1", confirmation=answer)


@pytest.mark.parametrize("name", SETS)
def test_a_confirmed_change_counts(bed: Bed, agent: Agent, name: str) -> None:
    """For the next agent, too; hostnet-confirm heard how far it was, in order."""
    answer = Answer("")
    told = unconfirmed(agent, name, answer)
    assert all(isinstance(each, View) for each in told)
    assert answer.heard == ["begun t1", "applied t1", "ended"]
    after = bed.snapshot()
    assert difference(after, agent.before) != []
    heir = agent.another()
    heir.read("br0", NETWORK["br0"])
    assert difference(bed.snapshot(), after) == []
    assert heir.record.exists() == (name != "delete")


@pytest.mark.parametrize("name", SETS)
def test_a_refused_change_is_undone(bed: Bed, agent: Agent, name: str) -> None:
    """At once, all of it; each resource gets the reason, and so does a provider that asks again."""
    answer = Answer("it can't be reached")
    told = unconfirmed(agent, name, answer)
    assert {(each.code, each.why) for each in told} == {(Code.ROLLED_BACK, "it can't be reached")}
    assert answer.heard == ["begun t1", "applied t1", "ended"]
    assert difference(bed.snapshot(), agent.before) == []


@pytest.mark.parametrize("name", SETS)
def test_a_change_whose_provider_hung_up_is_undone(bed: Bed, agent: Agent, name: str) -> None:
    """By hostnet-confirm, which keeps its result for a provider that comes back, and then leaves nothing."""
    with pytest.raises(EOFError):
        unconfirmed(agent, name, Answer(None))
    recorded = NETWORK if name != "create" else {}
    confirm = agent.another()
    assert not bed.host.call(confirm.host.roll_back, "another", 1)
    assert bed.host.call(confirm.host.roll_back, "t1", 1)
    assert not bed.host.call(confirm.host.roll_back, "t1", 1)
    assert difference(bed.snapshot(), agent.before) == []
    again: list[Any] = bed.host.call(agent.another().host.apply, SETS[name][1], "t1", confirmation=Answer(""))
    assert {each.code for each in again} == {Code.ROLLED_BACK}
    bed.host.call(confirm.host.forget, "t1")
    assert len(owners(confirm.record)) == len(recorded)
    assert confirm.record.exists() == bool(recorded)


@pytest.mark.parametrize("name", SETS)
def test_a_change_whose_provider_comes_back_is_confirmed(bed: Bed, agent: Agent, name: str) -> None:
    """Through another agent: it does nothing, tells the same, and takes the confirmation."""
    with pytest.raises(EOFError):
        unconfirmed(agent, name, Answer(None))
    after = bed.snapshot()
    answer = Answer("")
    told = bed.host.call(agent.another().host.outcome, SETS[name][1], "t1", confirmation=answer)
    assert all(isinstance(each, View) for each in told)
    assert answer.heard == ["applied t1", "ended"]
    assert difference(bed.snapshot(), after) == []
    confirm = agent.another()
    assert not bed.host.call(confirm.host.roll_back, "t1", 1)
    assert difference(bed.snapshot(), after) == []


@pytest.mark.parametrize("name", SETS)
def test_an_agent_that_dies_before_the_answer_at_any_moment(bed: Bed, agent: Agent, name: str) -> None:
    """Whatever it had done and written: hostnet-confirm goes back to what was."""
    for moment in range(1, 500):
        mortal = agent.another()
        if moment == 1 and SETS[name][0]:
            mortal.make(*(change_of(name, *objects) for name, objects in NETWORK.items()))
        before, recorded = bed.snapshot(), owners(mortal.record)
        Mortal(mortal, moment)
        try:
            bed.host.call(mortal.host.apply, SETS[name][1], f"t{moment}", confirmation=Answer(None))
        except EOFError:
            assert moment > 10
            return
        except Killed:
            heir = agent.another()
            bed.host.call(heir.host.roll_back, f"t{moment}", 1)
            bed.host.call(heir.host.forget, f"t{moment}")
            assert owners(heir.record) == recorded
            assert difference(bed.snapshot(), before) == [], f"died at moment {moment}"
    raise AssertionError("it never ends")


def test_a_link_that_took_a_name_stays_where_the_others_are_undone(bed: Bed, agent: Agent) -> None:
    """The create that failed of it left nothing to undo."""
    perform = agent.host.kernel.perform

    def race(operation: ops.Operation) -> None:
        if isinstance(operation, ops.CreateBridge) and operation.name == "br1":
            bed.host.ip("link add br1 type bridge")
        perform(operation)

    class Refusing(Answer):
        def request(self, outcomes: list[Any], transaction: str, *, reconnect: bool) -> str:
            applied = [each for each in outcomes if isinstance(each, View)]
            return super().request(applied, transaction, reconnect=reconnect)

    agent.host.kernel.perform = race  # type: ignore[method-assign]
    changes = [change_of("br0", *NETWORK["br0"]), change_of("br1", Link("br1", "bridge"))]
    bed.host.call(agent.host.apply, changes, "t1", confirmation=Refusing("no"))
    links = bed.links()
    assert "br1" in links
    assert "br0" not in links


def test_a_new_urn_is_taken_back(bed: Bed, agent: Agent) -> None:
    """With the links that a glob has attached; the record has the resource once, here as well as on the disk."""
    bed.host.ip("link add vm-1 type veth peer name far")
    glob = (Glob("br0", "vm-*"),)
    agent.make(change_of("br0", *bridge("br0", "10.0.0.1/24")), change_of("g", *glob))
    before, recorded, attached = bed.snapshot(), owners(agent.record), header(agent)["attached"]
    assert attached
    renamed = [
        Change(urn("new"), "br0", bridge("br0", "10.1.0.1/24"), bridge("br0", "10.0.0.1/24"), known=True),
        Change(urn("newer"), "g", glob, glob, known=True),
    ]
    bed.host.call(agent.host.apply, renamed, "t1", confirmation=Answer("no"))
    assert (owners(agent.record), header(agent)["attached"]) == (recorded, attached)
    assert difference(bed.snapshot(), before) == []
    agent.make(change_of("br0", *bridge("br0", "10.0.0.1/24"), known=True))
    assert owners(agent.record) == recorded
    agent.remove(g=glob)
    agent.remove(br0=bridge("br0", "10.0.0.1/24"))
    assert not agent.record.exists()


def header(agent: Agent) -> dict[str, Any]:
    """The record's."""
    made: dict[str, Any] = json.loads(agent.record.read_text().splitlines()[0])
    return made


def test_what_cannot_be_restored_stays_recorded(bed: Bed, agent: Agent) -> None:
    """It gets what it can, and the next boot tries again."""
    agent.make(
        change_of("br0", *bridge("br0", "10.0.0.1/24", "10.1.0.1/24")), change_of("br1", *bridge("br1", "10.2.0.1/24"))
    )
    recorded = owners(agent.record)
    bed.host.ip("link delete br0", "link delete br1")
    failing = agent.another()
    perform = failing.host.kernel.perform

    def fail(operation: ops.Operation) -> None:
        if operation == ops.AddAddress("br0", "10.0.0.1/24"):
            raise OSError(errno.EACCES, "Permission denied")
        perform(operation)

    failing.host.kernel.perform = fail  # type: ignore[method-assign]
    with pytest.raises(HostnetError, match="could not restore 1 of 2 resources"):
        bed.host.call(failing.host.restore)
    assert owners(agent.record) == recorded
    assert "10.1.0.1/24" in bed.links()["br0"].addresses
    assert "10.2.0.1/24" in bed.links()["br1"].addresses
    assert bed.host.call(agent.another().host.restore) == 2


def test_what_may_take_the_ssh_port_is_asked_for_a_new_connection(bed: Bed, agent: Agent) -> None:
    """What was there before it may stay; what comes, and could take it, may not without."""
    ssh = (Forward("ipv4", ("tcp",), (20, 30), "10.0.0.2", (20, 30), external="eth0"),)
    web = (Forward("ipv4", ("tcp",), (80, 80), "10.0.0.2", (80, 80), external="eth0"),)
    for objects, known, reconnect in ((ssh, False, True), (ssh + web, True, False), (ssh, True, False)):
        answer = Answer("")
        bed.host.call(agent.host.apply, [change_of("f", *objects, known=known)], confirmation=answer)
        assert answer.reconnect is reconnect


def test_a_confirmation_that_cannot_be_written(bed: Bed, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full by then: the change is undone at once, and its provider hears that it failed."""
    before = bed.snapshot()
    save, saved = agent.host._store._save, []

    def full(record: Record) -> None:
        saved.append(record.phase)
        if len(saved) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(record)

    monkeypatch.setattr(agent.host._store, "_save", full)
    with pytest.raises(HostnetError, match="ENOSPC"):
        unconfirmed(agent, "create", Answer(""))
    assert difference(bed.snapshot(), before) == []
    heir = agent.another()
    heir.read("br0", NETWORK["br0"])
    assert owners(heir.record) == []
    assert difference(bed.snapshot(), before) == []


# --- agents as processes -------------------------------------------------------------------------------------------

PROGRAM: dict[str, tuple[str, dict[str, Any]]] = {
    "net": ("Bridge", {"name": "br0", "addresses": ["10.0.0.1/24"]}),
    "web": ("PortForward", {"sourcePort": 80, "destination": "10.0.0.2"}),
}


def agents(namespace: Namespace) -> list[int]:
    """The agents in a namespace."""
    inside = subprocess.run(["ip", "netns", "pids", namespace.name], capture_output=True, text=True, check=True)
    return [pid for pid in map(int, inside.stdout.split()) if pid != os.getpid()]


def test_a_crash_while_idle_is_not_noticed(bed: Bed, stack: Stack) -> None:
    """Libnftables crashes, say: the provider lives, starts another, and at most says so once."""
    stack.up(PROGRAM)
    (old,) = agents(bed.host)
    os.kill(old, signal.SIGSEGV)
    try:
        stack.refresh()
    except HostnetError as error:
        assert error.code is Code.AGENT_DIED  # noqa: PT017
        assert "SIGSEGV" in str(error)  # noqa: PT017
    assert stack.refresh() == {}
    assert agents(bed.host) != [old]
    stack.destroy()


def test_a_crash_in_mid_request_says_what_was_in_flight(bed: Bed, stack: Stack) -> None:
    """The request fails and names itself and the signal; the next agent does it."""
    before = bed.snapshot()
    stack.up({"net": PROGRAM["net"]})
    (old,) = agents(bed.host)
    # Held at the host's lock, the agent is in mid-request for sure.
    lock = next(stack.provider.directory.glob("*.lock"))
    with held(lock):
        watcher = threading.Thread(target=_kill_when_waiting, args=(old, lock))
        watcher.start()
        with pytest.raises(HostnetError) as error:
            stack.up(PROGRAM)
        watcher.join()
    assert refused(error.value, Code.AGENT_DIED)
    assert "SIGSEGV" in str(error.value)
    assert "web" in str(error.value)
    assert stack.up(PROGRAM) == ["create web"]
    stack.destroy()
    assert difference(bed.snapshot(), before) == []


@pytest.fixture
def said() -> list[str]:
    """What is shown while a host is waited for."""
    return []


@pytest.fixture
def patient(bed: Bed, said: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """A stack whose requests wait for the host's lock for a second; with a bridge."""
    provider = Provider(Settings(lock_timeout=1))
    monkeypatch.setattr(provider._pool, "_log", lambda label, text: said.append(f"{label}: {text}"))
    stack = Stack(provider, bed.host.name)
    stack.up({"net": PROGRAM["net"]})
    yield stack
    provider.close()


def test_who_waits_for_the_lock_sees_who_has_it_and_gives_up(bed: Bed, patient: Stack, said: list[str]) -> None:
    """After `lockTimeout`; what it waited with is not done, and the same again is."""
    before = bed.snapshot()
    with held(next(patient.provider.directory.glob("*.lock")), "trying a case"), pytest.raises(HostnetError) as error:
        patient.up(PROGRAM)
    assert refused(error.value, Code.BUSY)
    assert f"process {os.getpid()} (trying a case) has held it for" in str(error.value)
    assert "lockTimeout" in str(error.value)
    assert any(f"process {os.getpid()} (trying a case) has had its lock for" in line for line in said)
    assert difference(bed.snapshot(), before) == []
    assert patient.again() == ["create web"]
    patient.destroy()


def test_what_is_cancelled_while_it_waits_is_not_done(bed: Bed, stack: Stack) -> None:
    """The engine's Cancel reaches the agent; the lock comes free, and nothing happens."""
    stack.up({"net": PROGRAM["net"]})
    before = bed.snapshot()
    (agent,), lock = agents(bed.host), next(stack.provider.directory.glob("*.lock"))
    cancel = threading.Thread(target=_when_waiting, args=(agent, lock, lambda: _cancel(stack.provider)))
    with held(lock):
        cancel.start()
        with pytest.raises(HostnetError) as error:
            stack.up(PROGRAM)
        cancel.join()
    assert refused(error.value, Code.CANCELLED)
    assert difference(bed.snapshot(), before) == []
    beside = Provider(beside=stack.provider)
    again = Stack(beside, bed.host.name, state=stack.state)
    try:
        assert again.up(PROGRAM) == ["create web"]
        again.destroy()
    finally:
        beside.close()


def _cancel(provider: Provider) -> None:
    """As the engine does: in the provider's loop, beside what is under way."""
    asyncio.run_coroutine_threadsafe(provider._pool.cancel(), provider._runner.get_loop()).result()


@pytest.mark.parametrize("ends", ["requests", "answers"])
def test_a_request_whose_provider_is_gone_is_not_done(bed: Bed, state: Path, ends: str) -> None:
    """It waits for the lock, `pulumi` is killed, the lock comes free: the agent ends and has done nothing."""
    Agent(bed, state).make(change_of("br0", *NETWORK["br0"]))
    before, lock = bed.snapshot(), next(state.glob("*.lock"))
    root = Path(__file__).parents[2] / "provider"
    code = f"import sys; sys.path.insert(0, {str(root)!r}); from hostnet.agent.main import main; sys.exit(main())"
    argv = [sys.executable, "-I", "-S", "-c", code, "--state-dir", str(state)]
    agent = bed.host.call(lambda: subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    with agent, held(lock):
        assert agent.stdin is not None
        assert agent.stdout is not None
        agent.stdin.write(protocol.Request(1, "apply", (change_of("web", *NETWORK["web"]),)).to_line())
        agent.stdin.flush()
        _when_waiting(agent.pid, lock, (agent.stdin if ends == "requests" else agent.stdout).close)
        assert agent.wait() == 0
    assert difference(bed.snapshot(), before) == []
    assert Agent(bed, state).read("web", NETWORK["web"]) is None


@contextlib.contextmanager
def held(lock: Path, doing: str = "") -> Iterator[None]:
    """Hold a host's lock, as another agent would."""
    with lock.open("r+") as file:
        acquire(file.fileno(), Background(doing))
        yield


def _kill_when_waiting(pid: int, lock: Path) -> None:
    _when_waiting(pid, lock, lambda: os.kill(pid, signal.SIGSEGV))


def _when_waiting(pid: int, lock: Path, then: Callable[[], object]) -> None:
    """Do something as soon as the kernel says that a process waits for the lock."""
    inode = str(lock.stat().st_ino)
    while not any(
        " -> " in line and f" {pid} " in line and f":{inode} " in line
        for line in Path("/proc/locks").read_text().splitlines()
    ):
        os.sched_yield()
    then()


def test_two_agents_take_turns(bed: Bed, stack: Stack) -> None:
    """Two providers on one host at the same moment: both get what they want, and the record has both."""
    before = bed.snapshot()
    beside = Provider(beside=stack.provider)
    second = Stack(beside, bed.host.name, name="second")
    programs = [
        (stack, {f"n{n}": ("Bridge", {"name": f"a{n}", "addresses": [f"10.{n}.0.1/24"]}) for n in range(10)}),
        (second, {f"n{n}": ("Bridge", {"name": f"b{n}", "addresses": [f"10.{n + 50}.0.1/24"]}) for n in range(10)}),
    ]
    failures: list[BaseException] = []

    def go(one: Stack, program: dict[str, Any]) -> None:
        try:
            one.up({"f": ("PortForward", {"sourcePort": 80 + len(one.name), "destination": "10.0.0.2"}), **program})
        except BaseException as error:  # noqa: BLE001 - reported below
            failures.append(error)

    try:
        threads = [threading.Thread(target=go, args=pair) for pair in programs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert stack.refresh() == second.refresh() == {}
        stack.destroy()
        assert second.refresh() == {}
        second.destroy()
        assert difference(bed.snapshot(), before) == []
    finally:
        beside.close()


# --- the record ----------------------------------------------------------------------------------------------------


def test_a_lost_record_is_made_again_from_what_the_state_knows(bed: Bed, agent: Agent) -> None:
    """DESIGN.md 2.2: what a stack's state knows and the kernel still shows is taken as ours again."""
    before = bed.snapshot()
    agent.make(*(change_of(name, *objects) for name, objects in NETWORK.items()))
    agent.record.unlink()
    heir = agent.another()
    for name, objects in NETWORK.items():
        assert isinstance(heir.read(name, objects), View), name
    heir.make(*(change_of(n, *CHANGED[n], known=True, prior=NETWORK[n]) for n in NETWORK))
    assert "10.0.0.3" in json.dumps(bed.ruleset())
    heir.remove(**CHANGED)
    left = bed.snapshot()
    # What a switch was before is lost with the record: it stays as it is found.
    left["switches"] = before["switches"]
    left["sysctls"] = before["sysctls"]
    assert difference(left, before) == []


def test_a_lost_record_does_no_harm_to_a_destroy(bed: Bed, agent: Agent) -> None:
    """Everything that the state knows goes, straight away."""
    agent.make(*(change_of(name, *objects) for name, objects in NETWORK.items()))
    agent.record.unlink()
    outcomes = agent.another().remove(**NETWORK)
    assert not [x for x in outcomes if isinstance(x, HostnetError)]
    assert not {"br0", "vm0"} & bed.links().keys()
    assert not bed.kernel.tables()


def test_a_namespaces_record_goes_with_it(state: Path) -> None:
    """Another namespace, even under the same name and inode, starts without one."""
    old = Bed("doomed")
    agent = Agent(old, state)
    agent.make(change_of("br0", *NETWORK["br0"]))
    recorded = agent.record.read_text()
    old.close()
    new = Bed("doomed")
    try:
        heir = Agent(new, state)
        heir.record.write_text(recorded)  # as if it had got the old one's inode
        assert heir.read("br0") is None
        heir.make(change_of("br0", *NETWORK["br0"]))
    finally:
        new.close()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda _: "", id="empty"),
        pytest.param(lambda text: text[: len(text) // 2], id="truncated"),
        pytest.param(lambda text: text.replace('"owners"', "").replace("{", "(", 1), id="no JSON"),
        pytest.param(lambda text: text.splitlines()[0] + '\n{"urn": 1}\n', id="no owner"),
        pytest.param(lambda text: text.replace('"format": 2', '"format": 99'), id="of a later version"),
    ],
)
def test_a_damaged_record_is_a_clear_error(bed: Bed, agent: Agent, damage: Callable[[str], str]) -> None:
    """It names the file and what to do, changes nothing, and is no "bug in hostnet"."""
    agent.make(*(change_of(name, *objects) for name, objects in NETWORK.items()))
    before = bed.snapshot()
    agent.record.write_text(damage(agent.record.read_text()))
    heir = agent.another()
    with pytest.raises(HostnetError) as error:
        heir.apply(change_of("br0", *CHANGED["br0"], known=True, prior=NETWORK["br0"]))
    assert str(heir.record) in str(error.value)
    assert error.value.fix
    assert difference(bed.snapshot(), before) == []


def test_a_taps_owner_and_group_are_taken_back(bed: Bed, stack: Stack) -> None:
    """What is not declared any more is root's alone again, though the kernel can't unset it (TUNSETGROUP: EINVAL)."""
    for given in ({"owner": "1234", "group": "4321"}, {"owner": "1234"}, {"group": "4321"}, {}):
        stack.up({"tap": ("TapBinding", {"name": "vm0", **given})})
        tap = bed.links()["vm0"]
        wanted = given.get("owner", None if given.get("group") else "0")
        assert str(tap.owner) == str(wanted)
        assert str(tap.group) == str(given.get("group"))
        assert stack.refresh() == {}
    stack.destroy()


def test_a_name_that_is_an_alternative_name(bed: Bed, stack: Stack) -> None:
    """The kernel refuses it; a preview says whose it is, and how to free it."""
    bed.host.ip("link property add dev eth0 altname br-a")
    program: dict[str, tuple[str, dict[str, Any]]] = {"net": ("Bridge", {"name": "br-a", "addresses": ["10.0.0.1/24"]})}
    free = "ip link property del dev eth0 altname br-a"
    said = stack.preview(program)
    assert any(free in line for line in said), said
    with pytest.raises(HostnetError, match="br-a is an alternative name of eth0") as error:
        stack.up(program)
    assert refused(error.value, Code.CONFLICT)
    bed.host.run(free)
    stack.up(program)
    stack.destroy()
