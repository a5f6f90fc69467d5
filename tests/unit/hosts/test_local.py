"""An agent that can't start: it can't become root (sudo is a program of the test's), or its file is gone."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hostnet.agent import main
from hostnet.hosts.connection import Connection, Settings
from hostnet.hosts.local import LocalTransport
from hostnet.hosts.session import Session
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.protocol import FILE_IS_GONE


def refusal(path: Path, monkeypatch: pytest.MonkeyPatch) -> HostnetError:
    """Why no agent starts, with the programs of a directory alone."""
    monkeypatch.setenv("PATH", str(path))
    connection = Connection(sudo=True)

    async def connect() -> None:
        session = Session(connection.label, LocalTransport(connection, Settings(state_dir=str(path / "state"))))
        try:
            await session.connect()
        finally:
            await session.close()

    # Not asyncio.run, after which the thread has no loop of its own: Pulumi's mocks need one.
    with pytest.raises(HostnetError) as refused, asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(connect())
    return refused.value


@pytest.mark.parametrize(
    "line",
    [
        "sudo: a password is required",
        "sudo: sorry, you must have a tty to run sudo",
        "alice is not in the sudoers file.",
        "Sorry, user alice is not allowed to execute '/usr/bin/python3' as root on host.",
    ],
)
def test_sudo_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """The message says that it needs root, what sudo said, and the two ways to give it."""
    sudo = tmp_path / "sudo"
    sudo.write_text(f'#!/bin/sh\necho "{line}" >&2\nexit 1\n')
    sudo.chmod(0o755)
    error = refusal(tmp_path, monkeypatch)
    assert error.code is Code.PERMISSION
    assert str(error).startswith("this machine: cannot change the host's network: that needs root, ")
    assert line in str(error)
    assert "Run the same command as root; or allow " in str(error)
    assert "NOPASSWD: ALL` in a file of /etc/sudoers.d)" in str(error)


def test_no_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to do on a Mac; no agent starts, which would end with a traceback."""
    monkeypatch.setattr(sys, "platform", "darwin")
    error = refusal(tmp_path, monkeypatch)
    assert error.code is Code.UNSUPPORTED
    assert str(error).startswith(
        "this machine: cannot change the host's network: hostnet needs Linux, and this machine "
    )
    assert "has macOS. Name a Linux host" in str(error)
    assert "pulumi config set --path hostnet:connection.host" in str(error)


def test_no_sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same two ways."""
    error = refusal(tmp_path, monkeypatch)
    assert error.code is Code.PERMISSION
    assert "(sudo is not installed)" in str(error)
    assert "Run the same command as root; or allow " in str(error)


def test_a_file_that_is_gone_reads_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Python opens it, Python says so; after that, the agent: the provider sends the file again."""
    file = tmp_path / "agent.zip"
    missing = subprocess.run([sys.executable, file], capture_output=True, text=True, check=False)
    assert FILE_IS_GONE in missing.stderr
    file.touch()
    descriptor = os.open(file, os.O_RDONLY)
    file.unlink()
    monkeypatch.setattr(main, "_opened", lambda: descriptor)
    with pytest.raises(SystemExit, match=FILE_IS_GONE):
        main._hold_file()
    os.close(descriptor)
