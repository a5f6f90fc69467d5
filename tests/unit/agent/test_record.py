"""The record's file and the lines beside it: what a process that died had written down is not forgotten."""

from __future__ import annotations

from pathlib import Path

from hostnet.agent.record.owners import Owner
from hostnet.agent.record.record import Store
from hostnet.wire.objects import Glob

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


def test_what_was_noted_is_attached_for_whoever_looks_next(tmp_path: Path) -> None:
    """In the order in which it was noted; the next save takes it into the record."""
    begin(tmp_path)
    first = store(tmp_path)
    with first.locked() as record:
        first.note_attached(record, {"vm-1": "key", "vm-2": "key"})
        first.note_attached(record, {"vm-2": "other"})
        assert record.attached == {"vm-0": "key", "vm-1": "key", "vm-2": "other"}
    second = store(tmp_path)
    with second.locked() as record:
        assert record.attached == {"vm-0": "key", "vm-1": "key", "vm-2": "other"}
        del record.attached["vm-1"]
        second.save(record)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["host.json", "host.lock"]
    with first.locked() as record:
        assert record.attached == {"vm-0": "key", "vm-2": "other"}


def test_a_line_that_was_cut_off_hides_no_other(tmp_path: Path) -> None:
    """A full disk, or the power."""
    begin(tmp_path)
    with (tmp_path / "host.attached").open("w") as file:
        file.write('\n[null, {"vm-1": "ke')
    first = store(tmp_path)
    with first.locked() as record:
        assert record.attached == {"vm-0": "key"}
        first.note_attached(record, {"vm-2": "key"})
    with store(tmp_path).locked() as record:
        assert record.attached == {"vm-0": "key", "vm-2": "key"}


def test_notes_of_a_former_namespace_are_nobodys(tmp_path: Path) -> None:
    """As its record is."""
    begin(tmp_path, "before")
    old = store(tmp_path, "before")
    with old.locked() as record:
        old.note_attached(record, {"vm-1": "key"})
    with store(tmp_path, "now").locked() as record:
        assert record.attached == {}
    begin(tmp_path, "now")
    with store(tmp_path, "now").locked() as record:
        assert record.attached == {"vm-0": "key"}


def test_the_last_delete_takes_notes_along(tmp_path: Path) -> None:
    """Nothing is left in the directory, nor it."""
    directory = tmp_path / "state"
    begin(directory)
    last = store(directory)
    with last.locked() as record:
        last.note_attached(record, {"vm-1": "key"})
        record.owners.remove(OWNER.key)
        record.attached.clear()
        last.save(record)
    assert not directory.exists()
