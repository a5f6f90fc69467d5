"""The process that rolls back what no provider confirms."""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hostnet.agent import main
from hostnet.agent.transaction import commit_confirm
from hostnet.wire.errors import Code, HostnetError

from tests.lab.waiting import until


def test_a_rollback_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever it failed of; once it is done, no more."""
    failures = [OSError(105, "No buffer space available"), HostnetError(Code.KERNEL, "can't write the record")]
    rolled_back: list[str] = []

    class Host:
        def roll_back(self, transaction: str, seconds: float) -> bool:
            assert seconds == 30
            rolled_back.append(transaction)
            return False

    def opened(*_: Any, **__: Any) -> Host:
        if failures:
            raise failures.pop(0)
        return Host()

    monkeypatch.setattr(main, "open_host", opened)
    monkeypatch.setattr(main, "_PAUSES", (0, 0, 0))
    monkeypatch.setattr("syslog.syslog", lambda *_: None)
    main._roll_back(argparse.Namespace(state_dir=tmp_path, netns=None, persist="keep", confirm=30), "t1")
    assert rolled_back == ["t1"]


def noted(note: Path, transaction: str) -> None:
    """Write it down, whole."""
    part = note.with_suffix(".part")
    part.write_text(transaction)
    part.rename(note)


def agent(calls: list[str], note: Path) -> int:
    """Run an agent in a process: it makes these calls to hostnet-confirm, and hangs; gives how that process ended."""
    child = os.fork()
    if child == 0:
        made = commit_confirm.CommitConfirm(0.05, lambda transaction: noted(note, transaction))
        for name in calls:
            getattr(made, name)(*(["t1"] if name != "ended" else []))
        signal.alarm(60)  # its end, should hostnet-confirm not see to it
        signal.pause()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_change_that_hangs_is_rolled_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It may have cut the connection before it did, and its agent will never say that it is applied."""
    monkeypatch.setattr(commit_confirm, "_CHANGE_SECONDS", 0.1)
    note = tmp_path / "rolled-back"
    assert agent(["begun"], note) == -signal.SIGKILL
    until(note.exists)
    assert note.read_text() == "t1"


def test_a_change_that_is_not_confirmed_is_rolled_back(tmp_path: Path) -> None:
    """Its agent, which can't be heard, goes first."""
    note = tmp_path / "rolled-back"
    assert agent(["begun", "applied"], note) == -signal.SIGKILL
    until(note.exists)
