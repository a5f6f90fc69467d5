"""A file is put in place whole or not at all."""

from __future__ import annotations

import errno
import os
import resource
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


def test_a_disk_that_is_full_half_way(path: Path) -> None:
    """What is written in part is taken away at once: it would keep the disk full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            files.write(path, b"x" * 100_000)
        assert names(path) == ["host.json"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"


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


def test_a_directory_is_open_to_daemons(tmp_path: Path) -> None:
    """Whatever the umask of its maker is; one that exists stays as it is."""
    tmp_path.chmod(0o711)
    before = os.umask(0o077)
    try:
        files.make_directory(tmp_path / "a" / "b")
        files.make_directory(tmp_path / "a")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")]
    assert modes == [0o711, 0o755, 0o755]


# --- whose a file is -------------------------------------------------------------------------------------------------


def make(top: Path, **modes: int) -> Path:
    """Nested directories with these permissions; gives the innermost."""
    for name, mode in modes.items():
        top = top / name
        top.mkdir()
        top.chmod(mode)
    return top


@pytest.mark.parametrize(
    ("modes", "culprit"),
    [
        ({"a": 0o755, "b": 0o700}, None),
        ({"a": 0o755, "b": 0o777}, "a/b"),
        ({"a": 0o755, "b": 0o775}, "a/b"),
        ({"a": 0o777, "b": 0o700}, "a"),
        ({"a": 0o1777, "b": 0o700}, None),  # as /tmp
        ({"a": 0o755, "b": 0o1777}, "a/b"),
    ],
)
def test_whose_a_directory_is(tmp_path: Path, modes: dict[str, int], culprit: str | None) -> None:
    """Root's (and this user's) alone, with all that leads to it; and so for one that is not there yet."""
    directory = make(tmp_path, **modes)
    expected = culprit and tmp_path / culprit
    assert files.not_ours(directory) == expected
    assert files.not_ours(directory / "new" / "er") == (None if modes["b"] == 0o1777 else expected)


def test_a_link_on_the_way_to_a_directory(tmp_path: Path) -> None:
    """Both where it is and where it leads to count."""
    good, bad = make(tmp_path, good=0o755), make(tmp_path, bad=0o777)
    (good / "home").symlink_to("../good")
    (good / "out").symlink_to(bad)
    (bad / "in").symlink_to(good)
    (good / "round").symlink_to("round")
    assert files.not_ours(good / "home") is None
    assert files.not_ours(good / "out") == bad
    assert files.not_ours(bad / "in") == bad
    assert files.not_ours(good / "round") == good / "round"


def test_a_file_of_another_user_is_not_opened(path: Path) -> None:
    """Nor a link, a directory, a FIFO, or a file that others may write."""
    assert files.our_text(path) == "old"
    link, fifo = path.with_name("link"), path.with_name("fifo")
    link.symlink_to(path)
    os.mkfifo(fifo)
    for each in (link, fifo, path.parent):
        with pytest.raises(OSError, match=r"levels of symbolic links|root's alone"):
            files.our_text(each)
    for mode in (0o620, 0o602):
        path.chmod(mode)
        with pytest.raises(PermissionError):
            files.our_text(path)


def test_a_program_is_found_in_the_first_directory_that_has_it(tmp_path: Path) -> None:
    """What is no file, or can't be executed, is no program."""
    for name, mode in (("one", 0o644), ("two", 0o755), ("three", 0o755)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tool").write_text("#!/bin/sh\n")
        (tmp_path / name / "tool").chmod(mode)
    (tmp_path / "none" / "tool").mkdir(parents=True)
    path = ":".join(str(tmp_path / name) for name in ("none", "one", "two", "three"))
    assert files.which("tool", path) == str(tmp_path / "two" / "tool")
    assert files.which("another", path) is None
    assert files.which("sh") is not None
