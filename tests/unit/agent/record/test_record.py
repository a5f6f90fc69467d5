"""The record's file and the lines beside it: what a process that died had written down is not forgotten."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hostnet.agent.linux.operations import DeleteLink, SetLink, check_sysctl_name, to_json
from hostnet.agent.record import netns
from hostnet.agent.record import record as records
from hostnet.agent.record.originals import Mtu, Originals, Sysctl
from hostnet.agent.record.owners import Owner
from hostnet.agent.record.phase import Idle, Pending, Phase, Result, RolledBack, Unconfirmed
from hostnet.agent.record.record import Store
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import Glob, Link

OWNER = Owner("urn", "br0/vm-*", (Glob("br0", "vm-*"),))


def store(directory: Path, instance: str | None = None) -> Store:
    """As another process opens it."""
    return Store(directory, "host", instance)


def begin(directory: Path, instance: str | None = None) -> None:
    """A record with a glob that has attached one link."""
    with store(directory, instance).locked() as record:
        record.owners[OWNER.key] = OWNER
        record.attached["vm-0"] = "key"
        store(directory, instance).save(record)


def test_what_is_in_the_journal_is_attached_for_the_next_agent(tmp_path: Path) -> None:
    """In the order in which it was written; the next save takes it into the record."""
    begin(tmp_path)
    first = store(tmp_path)
    with first.locked() as record:
        first.journal_attached(record, {"vm-1": "key", "vm-2": "key"}, {"vm-1": Mtu(1500, 9000)})
        first.journal_attached(record, {"vm-2": "other"}, {})
        assert record.attached == {"vm-0": "key", "vm-1": "key", "vm-2": "other"}
    second = store(tmp_path)
    with second.locked() as record:
        assert record.attached == {"vm-0": "key", "vm-1": "key", "vm-2": "other"}
        assert record.mtus == {"vm-1": Mtu(1500, 9000)}
        del record.attached["vm-1"]
        second.save(record)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["host.json", "host.lock"]
    with first.locked() as record:
        assert record.attached == {"vm-0": "key", "vm-2": "other"}
        assert record.mtus == {"vm-1": Mtu(1500, 9000)}


def test_a_line_that_was_cut_off_hides_no_other(tmp_path: Path) -> None:
    """A full disk, or the power."""
    begin(tmp_path)
    with (tmp_path / "host.attached").open("w") as file:
        file.write('\n[null, {"vm-3": "key"}]')  # as an earlier hostnet wrote it
        file.write('\n[null, {"vm-1": "ke')
    first = store(tmp_path)
    with first.locked() as record:
        assert record.attached == {"vm-0": "key", "vm-3": "key"}
        first.journal_attached(record, {"vm-2": "key"}, {})
    with store(tmp_path).locked() as record:
        assert record.attached == {"vm-0": "key", "vm-3": "key", "vm-2": "key"}


def test_the_journal_of_a_former_namespace_is_ignored(tmp_path: Path) -> None:
    """As its record is."""
    begin(tmp_path, "before")
    old = store(tmp_path, "before")
    with old.locked() as record:
        old.journal_attached(record, {"vm-1": "key"}, {})
    with store(tmp_path, "now").locked() as record:
        assert record.attached == {}
    begin(tmp_path, "now")
    with store(tmp_path, "now").locked() as record:
        assert record.attached == {"vm-0": "key"}


def test_the_last_delete_takes_the_journal_along(tmp_path: Path) -> None:
    """Nothing is left in the directory, nor it."""
    directory = tmp_path / "state"
    begin(directory)
    last = store(directory)
    with last.locked() as record:
        last.journal_attached(record, {"vm-1": "key"}, {})
        record.owners.remove(OWNER.key)
        record.attached.clear()
        last.save(record)
    assert not directory.exists()


# --- the phase of a transaction --------------------------------------------------------------------------------------

OTHER = Owner("urn", "br1/vm-*", (Glob("br1", "vm-*"),))
PAIRS = {OWNER.key: (OWNER, OTHER), "new": (None, OTHER), "old": (OWNER, None), "renamed": (None, None)}
UNDO = (DeleteLink("br1"), SetLink("vm-0", bridge="br0", isolated=False))
ORIGINALS = Originals({"net.ipv4.ip_forward": Sysctl("0", "1")}, {"vm-0": "key"}, {"vm-0": Mtu(1500, 9000)})
PHASES: list[Phase] = [
    Idle(),
    Pending(PAIRS, UNDO),
    Unconfirmed("t1", PAIRS, UNDO, ORIGINALS),
    RolledBack("t1"),
]


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: type(phase).__name__)
def test_a_phase_survives_the_record(tmp_path: Path, phase: Phase) -> None:
    """The next agent knows how far the transaction is, and a look without the lock what waits for a confirmation."""
    begin(tmp_path)
    first = store(tmp_path)
    with first.locked() as record:
        record.phase = phase
        first.save(record)
    with store(tmp_path).locked() as record:
        assert record.phase == phase
    assert store(tmp_path).unconfirmed() == ("t1" if isinstance(phase, Unconfirmed) else "")


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: type(phase).__name__)
def test_which_transactions_a_record_may_have(tmp_path: Path, phase: Phase) -> None:
    """Seen while another agent has the lock. One that is half way has no number yet: it may be any."""
    assert not store(tmp_path).may_have("t1"), "there is no record"
    begin(tmp_path)
    first = store(tmp_path)
    with first.locked() as record:
        record.phase = phase
        record.add_result("t2", Result())
        first.save(record)
        assert store(tmp_path).may_have("t1") is not isinstance(phase, Idle)
        assert store(tmp_path).may_have("t2")
        assert store(tmp_path).may_have("t3") is isinstance(phase, Pending)
    first.path.write_text("{")
    assert store(tmp_path).may_have("t3"), "the agent that gets the lock reports what is wrong"


@pytest.mark.parametrize("phase", PHASES[1:], ids=lambda phase: type(phase).__name__)
def test_a_phase_keeps_an_empty_record(tmp_path: Path, phase: Phase) -> None:
    """A rollback, and a provider that comes back to ask, need it; with the phase it goes."""
    directory = tmp_path / "state"
    first = store(directory)
    with first.locked() as record:
        record.phase = phase
        first.save(record)
    with store(directory).locked() as record:
        assert record.phase == phase
        record.phase = Idle()
        store(directory).save(record)
    assert not directory.exists()


REFUSED = HostnetError(Code.CONFLICT, "what", "why", "fix")
UNDONE = HostnetError(Code.ROLLED_BACK, "what", "why", "fix")


def test_results_survive_the_record(tmp_path: Path) -> None:
    """Of the latest transactions; old ones are forgotten."""
    begin(tmp_path)
    first = store(tmp_path)
    with first.locked() as record:
        for number in range(20):
            record.add_result(f"t{number}", Result({2: REFUSED}))
        record.add_result("last", Result(rolled_back=UNDONE))
        first.save(record)
    with store(tmp_path).locked() as record:
        assert list(record.results) == [*(f"t{number}" for number in range(5, 20)), "last"]
        assert str(record.results["t19"].errors[2]) == str(REFUSED)
        assert record.results["t19"].rolled_back is None
        rolled_back = record.results["last"].rolled_back
        assert rolled_back is not None
        assert (rolled_back.code, str(rolled_back)) == (Code.ROLLED_BACK, str(UNDONE))


def format_1(**phase: Any) -> str:
    """A record as hostnet wrote it before a phase had a type."""
    header = {
        "format": 1,
        "instance": None,
        "sysctls": {"net.ipv4.ip_forward": {"old": "0", "ours": "1"}},
        "claims": {},
        "table": {"rules": "r", "template": "t", "generation": 7, "observed": ""},
        "attached": {"vm-0": OWNER.key},
        "outcomes": {"t0": {"1": REFUSED.to_json()}, "t9": {"*": UNDONE.to_json()}},
        "pending": None,
        "undo": [],
        "unconfirmed": "",
        "undone": "",
        **phase,
    }
    return f"{json.dumps(header)}\n{OWNER.line}\n"


OPEN = {
    "pending": {key: [owner and owner.line for owner in pair] for key, pair in PAIRS.items()},
    "undo": [to_json(each) for each in UNDO],
}


@pytest.mark.parametrize(
    ("header", "phase"),
    [
        pytest.param({}, PHASES[0], id="Idle"),
        pytest.param(OPEN, PHASES[1], id="Pending"),
        pytest.param({**OPEN, "unconfirmed": "t1"}, Unconfirmed("t1", PAIRS, UNDO), id="Unconfirmed"),
        pytest.param({"undone": "t1"}, PHASES[3], id="RolledBack"),
    ],
)
def test_a_record_of_format_1_is_converted(tmp_path: Path, header: dict[str, Any], phase: Phase) -> None:
    """Of an earlier hostnet: all that it says is known, in whatever phase its agent left it; the next save is ours."""
    path = tmp_path / "host.json"
    path.write_text(format_1(**header))
    assert store(tmp_path).unconfirmed() == ("t1" if isinstance(phase, Unconfirmed) else "")
    for number in (1, 2):
        last = store(tmp_path)
        with last.locked() as record:
            assert json.loads(path.read_text().splitlines()[0])["format"] == number
            assert record.phase == phase
            assert record.owners == {OWNER.key: OWNER}
            assert vars(record.sysctls["net.ipv4.ip_forward"]) == {"old": "0", "ours": "1"}
            assert (record.attached, record.table.generation) == ({"vm-0": OWNER.key}, 7)
            assert {number: str(error) for number, error in record.results["t0"].errors.items()} == {1: str(REFUSED)}
            assert str(record.results["t9"].rolled_back) == str(UNDONE)
            last.save(record)


# --- a record is input -----------------------------------------------------------------------------------------------

NOT_RECORDS = {
    "nothing": "",
    "a list": "[]",
    "an object": "{}",
    "null": "null",
    "deep": "[" * 100_000,
    "no JSON": "hello",
    "a format that is no number": '{"format": "2"}',
    "a header that is not whole": '{"format": 2}',
    "another instance": '{"format": 2, "instance": "boot 1 1"}',
    "an instance that is a list": '{"format": 2, "instance": []}',
    "owners that are lists": f"{format_1()}[]\n",
    "a sysctl that leaves /proc/sys": format_1(sysctls={"net.//.//.root.x": {"old": "0", "ours": "1"}}),
    "a sysctl of the kernel": format_1(sysctls={"kernel.core_pattern": {"old": "|/x", "ours": "core"}}),
    "an undo that leaves /proc/sys": format_1(
        pending={}, undo=[{"operation": "WriteSysctl", "name": "net.//.//.root.x", "value": "1"}]
    ),
    "links that are a list": format_1(attached=["vm-0"]),
    "a bridge that is a path": f'{format_1()}{{"urn":"u","id":"i","objects":[{{"type":"dhcp","bridge":"../../x"}}]}}\n',
    "a bridge that is the directory above": f"{format_1()}{Owner('u', 'i', (Link('..', 'bridge'),)).line}\n",
    "an undo of a path": format_1(pending={}, undo=[{"operation": "DeleteLink", "name": "../x"}]),
    "an undo that lacks a name": format_1(pending={}, undo=[{"operation": "DeleteLink"}]),
    "an undo that is no operation": format_1(pending={}, undo=[{"operation": "Execute", "name": "x"}]),
}


@pytest.mark.parametrize("text", NOT_RECORDS.values(), ids=NOT_RECORDS)
def test_what_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    """The message names the file and says what to do. Nothing is taken from the file, and it stays."""
    path = tmp_path / "host.json"
    path.write_text(text)
    for _ in range(2):
        with pytest.raises(HostnetError, match="Move it away") as refused, store(tmp_path).locked():
            pass
        assert (refused.value.code, refused.value.what) == (Code.INVALID, f"cannot read the record {path}")
    assert store(tmp_path).unconfirmed() == ""
    assert path.read_text() == text


@pytest.mark.parametrize("text", NOT_RECORDS.values(), ids=NOT_RECORDS)
def test_one_record_does_not_stop_the_agents_of_others(tmp_path: Path, text: str) -> None:
    """Of a namespace whose record is none: another agent passes it, and does not delete it."""
    path = tmp_path / "netns-1.json"
    path.write_text(text)
    netns._sweep(tmp_path, "boot")
    assert path.read_text() == text


@pytest.mark.parametrize("line", ["[]", "{}", "[1, 2]", "[null, []]", "[" * 100_000])
def test_a_line_of_the_journal_that_is_none_is_passed(tmp_path: Path, line: str) -> None:
    """As one that was cut off."""
    begin(tmp_path)
    (tmp_path / "host.attached").write_text(f'{line}\n[null, {{"vm-1": "key"}}]\n')
    with store(tmp_path).locked() as record:
        assert record.attached == {"vm-0": "key", "vm-1": "key"}


def test_a_state_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    """With the directory that is open, and how to close it. Nothing is made in it."""
    tmp_path.chmod(0o777)
    with pytest.raises(HostnetError, match=f"chmod go-w {tmp_path}`") as refused, store(tmp_path / "state").locked():
        pass
    assert refused.value.code is Code.PERMISSION
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ["lock", "json", "attached", "changes"])
def test_no_link_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    """Whatever is linked stays as it is."""
    state, target = tmp_path / "state", tmp_path / "target"
    state.mkdir(mode=0o700)
    target.write_text(format_1())
    (state / f"host.{ending}").symlink_to(target)
    with contextlib.suppress(HostnetError, OSError), store(state).locked() as record:
        store(state).journal_attached(record, {"vm-1": "key"}, {})
    monkeypatch.setattr(records, "LARGE", 0)
    for _ in range(2):
        with contextlib.suppress(HostnetError, OSError), store(state).locked() as record:
            record.owners[OWNER.key] = OWNER
            store(state).save(record)
    assert target.read_text() == format_1()


@pytest.mark.parametrize("name", ["net//core", "net.", "net..x", "net.a.//.b", "kernel.panic", "/net.x", "net.a\0.b"])
def test_a_name_that_leaves_the_network_sysctls(name: str) -> None:
    """A `/` stands for a dot: two of them would be the directory above."""
    with pytest.raises(ValueError, match="network sysctl"):
        check_sysctl_name(name)


def test_the_name_of_a_sysctl_of_an_interface() -> None:
    """With dots, two after each other too."""
    assert check_sysctl_name("net.ipv4.conf.a//b/1.route_localnet")
