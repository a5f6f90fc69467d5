"""What a guard does where it can't undo at once."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
from hostnet.agent import main
from hostnet.errors import Code, HostnetError


def test_what_stands_in_the_way_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever it is; once it is undone, no more."""
    failures = [OSError(105, "No buffer space available"), HostnetError(Code.KERNEL, "the record can't be written")]
    undone: list[str] = []

    class Host:
        def undo(self, transaction: str, seconds: float) -> bool:
            assert seconds == 30
            undone.append(transaction)
            return False

    def opened(*_: Any) -> Host:
        if failures:
            raise failures.pop(0)
        return Host()

    monkeypatch.setattr(main, "open_host", opened)
    monkeypatch.setattr(main, "_PAUSES", (0, 0, 0))
    monkeypatch.setattr("syslog.syslog", lambda *_: None)
    main._undo(argparse.Namespace(state_dir=tmp_path, netns=None, persist="keep", confirm=30), "t1")
    assert undone == ["t1"]
