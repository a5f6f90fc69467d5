"""A file is put in place whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hostnet.agent.linux import files


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that has a content."""
    path = tmp_path / "host.json"
    path.write_text("old")
    return path


def names(path: Path) -> list[str]:
    """All names in its directory."""
    return sorted(entry.name for entry in path.parent.iterdir())


@pytest.mark.parametrize("sync", [True, False])
def test_replaces_the_whole_content(path: Path, *, sync: bool) -> None:
    """Nothing else stays in the directory, and the permissions are those that were asked for, whatever the umask."""
    before = os.umask(0o077)
    try:
        files.write(path, "new\n", 0o640, sync=sync)
    finally:
        os.umask(before)
    assert path.read_text() == "new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert names(path) == ["host.json"]


@pytest.mark.parametrize("call", ["fsync", "fchmod", "fchown"])
def test_a_full_disk_leaves_the_old_content(path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Whatever the disk refuses: the old content stays, and no part of the new one."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(OSError, match="No space left"):
        files.write(path, b"new", group=os.getgid())
    assert path.read_text() == "old"
    assert names(path) == ["host.json"]


def test_what_a_killed_process_left_is_replaced(path: Path) -> None:
    """A part that was written before is no obstacle, and is gone afterwards."""
    path.with_name(".host.json.new").write_text("half")
    files.write(path, "new")
    assert path.read_text() == "new"
    assert names(path) == ["host.json"]


def test_a_symbolic_link_leads_nowhere(path: Path, tmp_path: Path) -> None:
    """One in the part's place is replaced; what it points to is not touched."""
    other = tmp_path / "shadow"
    other.write_text("secret")
    path.with_name(".host.json.new").symlink_to(other)
    files.write(path, "new")
    assert other.read_text() == "secret"
    assert path.read_text() == "new"
    assert not path.is_symlink()


def test_a_name_that_is_a_directory(path: Path, tmp_path: Path) -> None:
    """The rename fails, and leaves nothing."""
    (tmp_path / "place").mkdir()
    with pytest.raises(IsADirectoryError):
        files.write(tmp_path / "place", "new")
    assert names(path) == ["host.json", "place"]


def test_text_of(path: Path, tmp_path: Path) -> None:
    """None where there is none; bytes that are not UTF-8 are no error."""
    assert files.text_of(path) == "old"
    assert files.text_of(tmp_path / "absent") is None
    path.write_bytes(b"a\xffb")
    assert files.text_of(path) == "a\N{REPLACEMENT CHARACTER}b"
