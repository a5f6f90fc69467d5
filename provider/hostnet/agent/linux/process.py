"""Processes: which one a number means, and a background process of ours: start it, find it again, end it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hostnet import __version__
from hostnet.agent.linux import files
from hostnet.agent.linux.systemd import in_scope

# The last one is NixOS's, which has nearly nothing in the others.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin"
_PR_SET_NAME = 15
_PATIENCE = 5.0  # seconds that a process has to end before it is killed
# Descriptors that are closed in a background process. Not all up to the limit, which may be many millions: Python 3.9
# closes one number after the other (4 million: 0.7 s), later ones all in one call.
_MOST_FILES = 4096


def pid_path(record: Path) -> Path:
    """The pid file of a record's watcher."""
    return record.with_name(record.stem + ".watch.pid")


def log_path(record: Path) -> Path:
    """The log of a record's watcher."""
    return record.with_name(record.stem + ".watch.log")


# Fields of /proc/PID/stat behind the program's name, which may hold spaces and parentheses (proc_pid_stat(5)).
_STATE, _PARENT, _STARTED = 0, 1, 19


def _stat(pid: int) -> list[str]:
    """The fields behind the program's name; raises OSError where there is no such process."""
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


def boot_id() -> str:
    """What names this boot: another one has another."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True)
class Process:
    """One process. The kernel gives its number to another one later, but not together with its start time.

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
        with opened(self.pid, lambda: self.runs) as descriptor:
            if descriptor is not None:
                end_process(descriptor)

    def kill(self) -> None:
        """Kill it."""
        with opened(self.pid, lambda: self.runs) as descriptor:
            if descriptor is not None:
                send_signal(descriptor, signal.SIGKILL)


@contextlib.contextmanager
def opened(pid: int, is_same: Callable[[], object]) -> Iterator[int | None]:
    """A descriptor (pidfd_open(2)) that means one process and no later one of its number; None if it has ended.

    Args:
        pid: Its number.
        is_same: Whether the number means this process now. It is asked once the descriptor is open: from then on the
            descriptor can't come to mean another process.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except OSError as error:
        # Its number may be a thread's by now (ENOENT, Linux 6.18), or be none (EINVAL).
        if error.errno not in (errno.ESRCH, errno.ENOENT, errno.EINVAL):
            raise
        yield None
        return
    try:
        yield descriptor if is_same() else None
    finally:
        os.close(descriptor)


def end_process(descriptor: int) -> None:
    """Ask a process to end, kill it where it does not, and wait for its end.

    Args:
        descriptor: Of pidfd_open(2).
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        send_signal(descriptor, number)
        if wait_for_end(descriptor):
            return


def wait_for_end(descriptor: int) -> bool:
    """Wait for the end of a process for some seconds; whether it has come.

    Args:
        descriptor: Of pidfd_open(2).
    """
    ended = select.poll()
    ended.register(descriptor, select.POLLIN)
    return bool(ended.poll(_PATIENCE * 1000))


def send_signal(descriptor: int, number: signal.Signals) -> None:
    """Send a process a signal; nothing happens if it has ended.

    Args:
        descriptor: Of pidfd_open(2).
        number: The signal.
    """
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(descriptor, number)


class PidFile:
    """A file that names the process which does a job.

    Its number and start would name another process after a reboot, so the boot's id stands beside them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Process | None:
        """The process; None where it does not run."""
        try:
            pid, start, boot, version = files.our_text(self.path).split()
            process = Process(int(pid), int(start), version)
        except (OSError, ValueError):
            return None
        return process if boot == boot_id() and process.runs else None

    def write(self, pid: int) -> None:
        """Name a process."""
        files.write(self.path, f"{pid} {started_at(pid) or 0} {boot_id()} {__version__}\n", 0o600, sync=False)

    def remove(self) -> None:
        """Name none."""
        self.path.unlink(missing_ok=True)

    def remove_mine(self) -> None:
        """Name none, unless another process than this one has taken over."""
        process = self.read()
        if process is not None and process.pid == os.getpid():
            self.remove()


def environment(path: str) -> dict[str, str]:
    """The whole environment of an agent or a watcher, and so of what it starts, which may run for months.

    The starter's environment may hold secrets (a passphrase, a cloud's keys), which /proc/<pid>/environ would show and
    a backup or a crash report copy. `hosts/bootstrap.py` does the same on a remote host.

    Args:
        path: The PATH. Its relative entries are left out: they would lead to the directory where `pulumi` runs.
    """
    absolute = [entry for entry in path.split(":") if entry.startswith("/")]
    return {"PATH": ":".join(absolute) or _PATH, "LANG": "C.UTF-8"}


def spawn(argv: Sequence[str]) -> int:
    """Start a process that outlives this one, in a session and a scope of its own, without our files and secrets.

    It is not this process's child: a second fork, whose parent ends at once, gives it to init.

    Args:
        argv: Its command line.

    Returns:
        Its number.

    Raises:
        OSError: It can't be started.
    """
    scoped = in_scope(argv)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            if os.fork() == 0:
                _become(scoped, write)
        finally:
            os._exit(0)
    os.close(write)
    try:
        os.waitpid(child, 0)
        said = os.read(read, 32)
    finally:
        os.close(read)
    if not said:
        raise OSError(0, "no process", scoped[0])
    if len(scoped) != len(argv):
        _await_scope(int(said))
    return int(said)


def _await_scope(pid: int) -> None:
    """Wait until systemd has moved a process into its scope.

    Until then it is in the control group of our login session, and ends with it: a watcher was gone where the session
    ended right after its start (systemd 252, KillUserProcesses=yes).
    """
    ours, end = control_group("self"), time.monotonic() + _PATIENCE
    with contextlib.suppress(OSError):  # it has ended
        while control_group(pid) == ours and time.monotonic() < end:
            time.sleep(0.002)


def control_group(pid: int | str) -> str:
    """The control groups of a process, as /proc/PID/cgroup has them.

    Raises:
        OSError: There is no such process.
    """
    return Path(f"/proc/{pid}/cgroup").read_text()


def _become(argv: Sequence[str], tell: int) -> None:
    """In the grandchild: drop what it has of the starter, and run the program."""
    try:
        os.write(tell, str(os.getpid()).encode())
        let_go()
        # execve(2) keeps ignored signals ignored: Python ignores SIGPIPE, nohup SIGHUP, a shell's `&` SIGINT.
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.execve(argv[0], list(argv), environment(_PATH))  # noqa: S606 - no shell is wanted
    finally:
        os._exit(127)


def set_name(name: str) -> None:
    """Name this process, as `ps -e` and `top` show it. The kernel keeps 15 bytes (TASK_COMM_LEN, prctl(2))."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def let_go(first: int = 0) -> None:
    """Close all files, leave the directory (or its file system stays busy), and let others read no file of ours.

    Args:
        first: The lowest descriptor that is closed. Standard ones from here on lead to /dev/null.
    """
    os.chdir("/")
    os.umask(0o077)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(first, 3):
        os.dup2(null, descriptor)
    # Libraries open files without O_CLOEXEC: libnftables 1.0.6 its netlink socket, for one.
    os.closerange(3, _MOST_FILES)
