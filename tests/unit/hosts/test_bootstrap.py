"""The first code on a host, run as a file of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hostnet.hosts import __file__ as hosts


def _functions() -> dict[str, Any]:
    """What the bootstrap defines, without its last line, which starts it."""
    source = (Path(hosts).parent / "bootstrap.py").read_text().rpartition("\nmain(sys.argv[1:])")[0]
    names: dict[str, Any] = {}
    exec(compile(source, "bootstrap.py", "exec"), names)  # noqa: S102 - it has no other way in
    return names


def test_parts_whose_writer_was_killed_go_with_the_next_write(tmp_path: Path) -> None:
    """A part of a process that runs, and any other file, stays; one with this process's own number is no obstacle."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    stay = {f"{'a' * 64}.zip", f"{'a' * 64}.zip.1", "notes.1x", f"other.{ended.pid}"}
    for name in (*stay, f"{'b' * 64}.zip.{ended.pid}", f"{'c' * 64}.zip.{os.getpid()}"):
        (tmp_path / name).write_text("part")
    names = _functions()
    names["only_root_writes"] = lambda _: True
    path = names["place"](b"whole", "c" * 64, [str(tmp_path)])
    assert path == str(tmp_path / f"{'c' * 64}.zip")
    assert Path(path).read_bytes() == b"whole"
    assert {each.name for each in tmp_path.iterdir()} == {*stay, f"{'c' * 64}.zip"}
