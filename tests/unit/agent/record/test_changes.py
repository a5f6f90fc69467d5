"""A large record: what changes is written beside it, and whoever reads it has it as if it was written as a whole."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hostnet.agent.linux import files
from hostnet.agent.record import record as records
from hostnet.agent.record.changes import ChangesFile, Entry
from hostnet.agent.record.originals import Mtu, Sysctl
from hostnet.agent.record.owners import Owner
from hostnet.agent.record.phase import Idle, Pending, Result, RolledBack, Unconfirmed
from hostnet.agent.record.record import Mark, Record, Store, owners_on_disk
from hostnet.wire.errors import HostnetError
from hostnet.wire.objects import Forward, Glob
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every record counts as large."""
    monkeypatch.setattr(records, "LARGE", 0)


def owner(number: int, port: int = 80) -> Owner:
    """One of a few; number 0 has a glob."""
    item = Forward("ipv4", ("tcp",), (port, port), "10.0.0.2", (port, port), external="eth0")
    return Owner(f"urn{number}", f"id{number}", (item,) if number else (Glob("br0", f"vm{port}-*"),))


def put(record: Record, number: int, port: int) -> None:
    """An owner gets a port; with 0 it goes."""
    one = owner(number, port)
    record.owners.remove(one.key)
    if port:
        record.owners[one.key] = one


PAIRS = {"new": (None, owner(1)), "old": (owner(2), None)}
PHASES = (Idle(), Pending(PAIRS), Unconfirmed("t", PAIRS), RolledBack("t"))


def act(record: Record, action: str, number: int) -> None:
    """Change a part of a record."""
    if action == "phase":
        record.phase = PHASES[number]
    elif action == "result":
        record.add_result(f"t{number}", Result())
    elif action == "attached":
        record.attached[f"vm{number}"] = owner(0).key
    elif action == "detached":
        record.attached.pop(f"vm{number}", None)
    elif action == "mtu":
        record.mtus["vm"] = Mtu(1500, number)
    elif action == "sysctl":
        record.sysctls["net.ipv4.ip_forward"] = Sysctl("0", str(number))
    elif action == "claim":
        record.claims[owner(1).key] = f"urn{number}"
    elif action == "table":
        record.table = Mark("rules", "template", number)
    else:
        put(record, int(action), number)


ACTIONS = ("phase", "result", "attached", "detached", "mtu", "sysctl", "claim", "table", "0", "1", "2")
STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 3)), max_size=4)),
    max_size=20,
)


@given(STEPS)
def test_every_reader_has_what_was_saved_last(steps: list[tuple[int, list[tuple[str, int]]]]) -> None:
    """Three agents take turns; after each one a new agent, and those that read without the lock, have the same."""
    with TemporaryDirectory() as folder:
        stores = [Store(Path(folder) / "state", "host", None) for _ in range(3)]
        expected = Record()
        for which, actions in steps:
            with stores[which].locked() as record:
                assert dump(record) == dump(expected)
                for action, number in actions:
                    act(record, action, number)
                expected = replace(record, owners=record.owners.copy(), attached=dict(record.attached),
                                   mtus=dict(record.mtus), sysctls=dict(record.sysctls), claims=dict(record.claims),
                                   results=dict(record.results))  # fmt: skip
                stores[which].save(record)
                if not stores[which].path.exists():
                    expected = Record()
            new = Store(Path(folder) / "state", "host", None)
            assert new.unconfirmed() == ("t" if isinstance(expected.phase, Unconfirmed) else "")
            assert new.path.exists() is bool(globs(new.path) or dump(expected) != dump(Record()))
            assert globs(new.path) == [key for key, each in expected.owners.items() if Glob in each.kinds]


def globs(path: Path) -> list[str]:
    """Whose globs are on the disk."""
    return list(owners_on_disk(path, Glob)) if path.exists() else []


def dump(record: Record) -> Any:
    """All that it says, but for claims to what is gone."""
    claims = {key: urn for key, urn in record.claims.items() if key in record.owners}
    return {**vars(record), "owners": list(record.owners.items()), "claims": claims}


def begin(directory: Path) -> Store:
    """A record, and two changes beside it."""
    store = Store(directory, "host", None)
    for port in (1, 2, 3):
        with store.locked() as record:
            for number in range(1, 3 if store.path.exists() else 30):
                put(record, number, port)
            store.save(record)
    return store


def ports(directory: Path) -> dict[str, int]:
    """What an agent that is new reads."""
    with Store(directory, "host", None).locked() as record:
        found = {one.urn: item.ports[0] for one, item in record.owners.holding(Forward)}
    return {urn: port for urn, port in found.items() if urn in ("urn1", "urn2")}


def test_a_change_writes_what_it_changes(tmp_path: Path) -> None:
    """However many owners there are: the record itself stays as it is, until the changes are as large."""
    store = Store(tmp_path, "host", None)
    with store.locked() as record:
        for number in range(1, 300):
            put(record, number, number)
        store.save(record)
    written, sizes = store.path.stat(), []
    for port in range(1000, 1003):
        with store.locked() as record:
            put(record, 7, port)
            store.save(record)
        sizes.append((tmp_path / "host.changes").stat().st_size)
    assert store.path.stat() == written
    assert sizes[-1] - sizes[0] < 2 * sizes[0] < written.st_size / 50
    while store.path.stat() == written:
        assert (tmp_path / "host.changes").stat().st_size < 1.1 * written.st_size
        with store.locked() as record:
            put(record, 7, next(iter(record.owners.values())).objects[0].ports[0] + 1)  # type: ignore[union-attr]
            put(record, 8, 1 + len(str(written)))
            store.save(record)
    assert not (tmp_path / "host.changes").exists()


def every_cut(directory: Path) -> Iterator[bytes]:
    """The changes' file, cut off here and there, and at each end of a line."""
    path = directory / "host.changes"
    whole = path.read_bytes()
    ends = [at for at, byte in enumerate(whole) if byte == ord("\n")]
    for length in sorted({*range(0, len(whole), 29), *ends, *(at + 1 for at in ends[:-1])}):
        path.write_bytes(whole[:length])
        yield whole[:length]
        path.write_bytes(whole[:length] + b"\0" * (len(whole) - length))  # as XFS may leave it
        yield whole[:length]


def test_a_change_that_was_cut_off_was_not_written(tmp_path: Path) -> None:
    """The power, or a full disk: all that was whole before counts, and what is written next is read."""
    begin(tmp_path)
    whole = (tmp_path / "host.changes").read_bytes()
    for number, left in enumerate(every_cut(tmp_path)):
        count = max(0, left.count(b"\n") - 1)  # the first line says of which record they are
        assert ports(tmp_path) == {"urn1": 1 + count, "urn2": 1 + count}
        if number % 7 == 0:
            store = Store(tmp_path, "host", None)
            with store.locked() as record:
                put(record, 1, 9)
                store.save(record)
            assert ports(tmp_path) == {"urn1": 9, "urn2": 1 + count}
    (tmp_path / "host.changes").write_bytes(whole)
    assert ports(tmp_path) == {"urn1": 3, "urn2": 3}


def test_a_damaged_line_is_refused(tmp_path: Path) -> None:
    """In the middle: what follows may build on it. The message names the file."""
    begin(tmp_path)
    path = tmp_path / "host.changes"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(b"10.0.0.2", b"10.0.0.3") + lines[2])
    for _ in range(2):
        with pytest.raises(HostnetError, match=r"line 2 of host\.changes is damaged") as refused:
            ports(tmp_path)
        assert str(refused.value).startswith(f"cannot read the record {tmp_path / 'host.json'}")


@pytest.mark.parametrize("text", [b"[]", b"null", b'{"header":1}', b'{"header":{},"owners":[]}', b'{"x":1}'])
def test_an_entry_that_is_none_is_refused(tmp_path: Path, text: bytes) -> None:
    """Whole by its checksum, and no entry: a newer hostnet wrote it."""
    begin(tmp_path)
    with (tmp_path / "host.changes").open("ab") as file:
        file.write(b"%08x %s\n" % (zlib.crc32(text), text))
    with pytest.raises(HostnetError, match="cannot read the record"):
        ports(tmp_path)


def test_changes_of_another_record_are_none(tmp_path: Path) -> None:
    """The agent died between the two: the record is whole, and they are of the former one."""
    store = begin(tmp_path)
    former = (tmp_path / "host.changes").read_bytes()
    store._written = replace(store._written, header={})
    with store.locked() as record:
        put(record, 1, 7)
        store.save(record)
    assert not (tmp_path / "host.changes").exists()
    (tmp_path / "host.changes").write_bytes(former)
    assert ports(tmp_path) == {"urn1": 7, "urn2": 3}
    after = Store(tmp_path, "host", None)
    with after.locked() as record:
        put(record, 1, 8)
        after.save(record)
    assert ports(tmp_path) == {"urn1": 8, "urn2": 3}
    after.path.unlink()
    assert ports(tmp_path) == {}, "without the record they are nothing"


@pytest.mark.parametrize("text", [b"garbage\n", b"garbage\ngarbage\n", b"\0" * 99], ids=["a line", "lines", "zeros"])
@pytest.mark.parametrize("large", [True, False], ids=["large", "small"])
def test_a_file_that_belongs_to_no_record_is_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes, *, large: bool
) -> None:
    """A power cut brought the former record's file back, damaged; a record that is not large has none at all."""
    if not large:
        monkeypatch.setattr(records, "LARGE", 1 << 30)
    store = Store(tmp_path, "host", None)
    with store.locked() as record:
        put(record, 1, 7)
        store.save(record)
    (tmp_path / "host.changes").write_bytes(text)
    assert ports(tmp_path) == {"urn1": 7}


@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
def test_a_change_that_does_not_reach_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """The disk fails after the write: for nobody is it written, so that it is rolled back."""
    store = begin(tmp_path)
    store._changes._named = False

    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with store.locked() as record:
        put(record, 1, 9)
        with monkeypatch.context() as patch:
            patch.setattr(os, call, broken)
            with pytest.raises(OSError, match="Input/output"):
                store.save(record)
        assert store.reload().owners[owner(1).key] == owner(1, 3)
    assert ports(tmp_path) == {"urn1": 3, "urn2": 3}


def test_a_change_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full: the record is as before, and so is what the same agent reads of it."""
    store = begin(tmp_path)

    write = os.pwrite

    def full(descriptor: int, data: bytes, at: int) -> int:
        return write(descriptor, data[:20], at)

    with store.locked() as record:
        put(record, 1, 9)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            with pytest.raises(OSError, match="No space"):
                store.save(record)
        assert store.reload().owners[owner(1).key] == owner(1, 3)
    assert ports(tmp_path) == {"urn1": 3, "urn2": 3}


def test_it_is_on_the_disk_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's data each time, its name once. A namespace's record outlives nothing, and is not synced."""
    for instance, expected in ((None, ["data", "name", "data", "data"]), ("boot 1 1", [])):
        synced: list[str] = []
        store = Store(tmp_path / str(instance), "host", instance)
        with store.locked() as record:
            for number in range(1, 30):
                put(record, number, 1)
            store.save(record)
            with monkeypatch.context() as patch:
                patch.setattr(os, "fdatasync", lambda _, synced=synced: synced.append("data"))
                patch.setattr(files, "sync_directory", lambda _, synced=synced: synced.append("name"))
                for port, phase in ((2, Idle()), (3, Pending(PAIRS)), (4, Unconfirmed("t", PAIRS))):
                    put(record, 1, port)
                    record.phase = phase
                    store.save(record)
        assert synced == expected


def test_an_entry_without_changes_is_small(tmp_path: Path) -> None:
    """The file alone, without a record."""
    changes = ChangesFile(tmp_path / "x.changes")
    assert changes.read("a") == []
    changes.append("a", Entry({"phase": 1}, {"k": None}), sync=False)
    changes.append("a", Entry(), sync=False)
    assert changes.is_as_known()
    assert ChangesFile(changes.path).read("a") == [Entry({"phase": 1}, {"k": None}), Entry()]
    assert ChangesFile(changes.path).read("b") == []
