"""Processes that take turns under a file that is there only meanwhile."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hostnet.agent.record.lock import exclusive


def test_one_after_the_other(tmp_path: Path) -> None:
    """Never two at once, however often the file comes and goes; it is gone at the end."""
    path, inside, most = tmp_path / "turn.lock", list[int](), list[int]()

    def work() -> None:
        for _ in range(100):
            with exclusive(path):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (set(most), len(most)) == ({1}, 800)
    assert list(tmp_path.iterdir()) == []


def test_where_there_can_be_no_file(tmp_path: Path) -> None:
    """Nobody waits, and the work is done."""
    (tmp_path / "run").touch()
    with exclusive(tmp_path / "run" / "turn.lock"):
        pass


def test_what_fails_gives_up_its_turn(tmp_path: Path) -> None:
    """The file goes, too."""
    path = tmp_path / "turn.lock"
    with pytest.raises(LookupError), exclusive(path):
        raise LookupError
    assert not path.exists()
    with exclusive(path):
        assert path.exists()
