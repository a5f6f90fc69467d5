"""A process is its number and its start together: no other process is ended by mistake."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostnet.agent.linux import process
from hostnet.agent.linux.process import PidFile, Process, opened, parent, spawn, started_at

from tests.lab.waiting import until


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends only when it is asked to."""
    with subprocess.Popen(["sleep", "3600"]) as running:
        yield running
        running.kill()


def identity(child: subprocess.Popen[bytes]) -> Process:
    """What a child is known by."""
    started = started_at(child.pid)
    assert started is not None
    return Process(child.pid, started)


def test_a_process_runs_until_it_ends(child: subprocess.Popen[bytes]) -> None:
    """A zombie, whose parent has not asked for it yet, does not run."""
    process = identity(child)
    assert process.runs
    assert parent(child.pid) == os.getpid()
    process.stop()
    assert not process.runs
    assert started_at(child.pid) is None
    assert child.wait() == -signal.SIGTERM


def test_kill(child: subprocess.Popen[bytes]) -> None:
    """It gets no chance to go on."""
    identity(child).kill()
    assert child.wait() == -signal.SIGKILL


def test_another_process_of_its_number_is_left_alone(child: subprocess.Popen[bytes]) -> None:
    """The number alone is no identity."""
    earlier = Process(child.pid, identity(child).started - 1)
    assert not earlier.runs
    earlier.stop()
    earlier.kill()
    assert child.poll() is None


def test_what_is_gone_is_ended(child: subprocess.Popen[bytes]) -> None:
    """To end it again is success."""
    process = identity(child)
    child.kill()
    child.wait()
    process.stop()
    process.kill()
    assert started_at(child.pid) is None
    with pytest.raises(FileNotFoundError):
        parent(child.pid)


def test_a_number_that_is_no_process() -> None:
    """A pid file is left behind, and its number may be a thread's by now."""
    done, numbers = threading.Event(), queue.SimpleQueue[int]()

    def stay() -> None:
        numbers.put(threading.get_native_id())
        done.wait()

    thread = threading.Thread(target=stay)
    thread.start()
    try:
        for number in (numbers.get(), 0):
            with opened(number, lambda: True) as descriptor:
                assert descriptor is None
    finally:
        done.set()
        thread.join()


def test_pid_file(child: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """It names the process while that runs."""
    file = PidFile(tmp_path / "host.watch.pid")
    assert file.read() is None
    file.write(child.pid)
    assert file.read() == identity(child)
    child.kill()
    child.wait()
    assert file.read() is None
    file.remove()
    assert not file.path.exists()


def test_a_background_process_has_left_the_sessions_control_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before that a logout would end it, so only then `spawn` is done."""
    groups = iter(["session"] * 3 + ["scope"])
    monkeypatch.setattr(process, "in_scope", lambda argv: ["/usr/bin/env", *argv])
    monkeypatch.setattr(process, "control_group", lambda pid: "session" if pid == "self" else next(groups))
    pid = spawn(["/bin/sleep", "60"])
    assert list(groups) == []
    os.kill(pid, signal.SIGKILL)


def test_a_background_process_that_ends_at_once_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Systemd refused it a scope, say."""
    monkeypatch.setattr(process, "in_scope", lambda argv: ["/bin/false", *argv])
    pid = spawn(["/bin/sleep", "60"])
    until(lambda: started_at(pid) is None)
