"""A process of ours in the background: it outlives whoever starts it, is known by a file, and ends for sure."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hostnet import __version__
from hostnet.agent.linux import files
from hostnet.agent.linux.systemd import in_scope

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin"
_PATIENCE = 5.0  # seconds for a process that was asked to end
_MOST_FILES = 4096


def pid_path(record: Path) -> Path:
    """Where the watcher of a record says that it is there."""
    return record.with_name(record.stem + ".watch.pid")


def log_path(record: Path) -> Path:
    """Where it says what it did."""
    return record.with_name(record.stem + ".watch.log")


# Fields of /proc/PID/stat behind the program's name, which may hold spaces and parentheses (proc_pid_stat(5)).
_STATE, _PARENT, _STARTED = 0, 1, 19


def _stat(pid: int) -> list[str]:
    """The fields behind the program's name; OSError where there is no such process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def started_at(pid: int) -> int | None:
    """When a process started, in clock ticks since the boot; None where it does not run (a zombie does not)."""
    try:
        stat = _stat(pid)
    except OSError:
        return None
    return None if stat[_STATE] in "ZX" else int(stat[_STARTED])


def parent(pid: int) -> int:
    """The number of a process's parent; 0 for the first one of its PID namespace.

    Raises:
        OSError: There is no such process.
    """
    return int(_stat(pid)[_PARENT])


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True)
class Process:
    """One process for good: the kernel gives its number to another one later, but not with the same start.

    Attributes:
        pid: Its number.
        started: When it started, in clock ticks since the boot.
        version: The version of hostnet that it runs.
    """

    pid: int
    started: int
    version: str = __version__

    @property
    def runs(self) -> bool:
        """Whether it still runs."""
        return started_at(self.pid) == self.started

    def stop(self) -> None:
        """Ask it to end, kill it where it does not, and wait for its end."""
        with self._opened() as descriptor:
            if descriptor is not None:
                end_process(descriptor)

    def kill(self) -> None:
        """Kill it."""
        with self._opened() as descriptor:
            if descriptor is not None:
                _send(descriptor, signal.SIGKILL)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int | None]:
        """A descriptor that means this process and no later one of its number; None where it does not run."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            yield None
            return
        try:
            # Checked behind pidfd_open: from then on the descriptor can't come to mean another process.
            yield descriptor if self.runs else None
        finally:
            os.close(descriptor)


def end_process(descriptor: int) -> None:
    """Ask a process to end, kill it where it does not, and wait for its end.

    Args:
        descriptor: Of pidfd_open(2).
    """
    ended = select.poll()
    ended.register(descriptor, select.POLLIN)
    for number in (signal.SIGTERM, signal.SIGKILL):
        _send(descriptor, number)
        if ended.poll(_PATIENCE * 1000):
            return


def _send(descriptor: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(descriptor, number)


class PidFile:
    """Says which process does the job."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Process | None:
        """The process, if it lives."""
        try:
            pid, start, boot, version = self.path.read_text().split()
            process = Process(int(pid), int(start), version)
        except (OSError, ValueError):
            return None
        return process if boot == _boot() and process.runs else None

    def write(self, pid: int) -> None:
        """Say that it is this one."""
        files.write(self.path, f"{pid} {started_at(pid) or 0} {_boot()} {__version__}\n", sync=False)

    def remove(self) -> None:
        """Say that there is none."""
        self.path.unlink(missing_ok=True)

    def remove_mine(self) -> None:
        """Say that this process does it no more, unless another has taken over."""
        process = self.read()
        if process is not None and process.pid == os.getpid():
            self.remove()


def spawn(argv: Sequence[str]) -> int:
    """Start a process that is nobody's child, in a session and a scope of its own, without a file or secret of ours.

    :returns: its number.
    :raises OSError: where it can't be started.
    """
    argv = in_scope(argv)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            if os.fork() == 0:
                _become(argv, write)
        finally:
            os._exit(0)
    os.close(write)
    try:
        os.waitpid(child, 0)
        said = os.read(read, 32)
    finally:
        os.close(read)
    if not said:
        raise OSError(0, "no process", argv[0])
    return int(said)


def _become(argv: Sequence[str], tell: int) -> None:
    """In the grandchild: let go of everything that is the starter's, and run the program."""
    try:
        os.write(tell, str(os.getpid()).encode())
        let_go()
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        # The starter's environment may hold secrets (a passphrase); whoever reads /proc/<pid>/environ would see them.
        os.execve(argv[0], list(argv), {"PATH": _PATH, "LANG": "C.UTF-8"})  # noqa: S606 - no shell is wanted
    finally:
        os._exit(127)


def let_go(first: int = 0) -> None:
    """Have nothing open, stand in nobody's directory, and make files that nobody else can read.

    :param first: the lowest descriptor that is let go; those of the three standard ones lead to nothing then.
    """
    os.chdir("/")
    os.umask(0o077)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(first, 3):
        os.dup2(null, descriptor)
    # Not all that libraries open says close-on-exec: libnftables' sockets don't.
    os.closerange(3, _MOST_FILES)
