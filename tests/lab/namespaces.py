"""Named network namespaces that a test run makes, and takes away whatever becomes of it.

A namespace's name is `hnt<pid>x<start>-<role>`: pid and start time (in clock ticks since boot) of the process that
made it. So runs at the same time do not meet, and `sweep` knows whose maker is dead.

Threads, not processes, live in each namespace: setns(2) moves a thread alone, a socket stays in the namespace where
it was made, and a program started by the thread starts there. That costs 30 µs where a helper process costs 30 ms.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from tests.lab.kernel import Kernel

P = ParamSpec("P")
T = TypeVar("T")

RUN_NETNS = Path("/run/netns")
CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
_OURS = re.compile(r"hnt(?P<pid>\d+)x(?P<start>\d+)-.+")


def _start_of(pid: int) -> int | None:
    """A process's start in clock ticks since boot: with the pid, its identity. None where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])


PREFIX = f"hnt{os.getpid()}x{_start_of(os.getpid())}"


def ip(lines: Iterable[str], *, namespace: str | None = None) -> None:
    """Run many `ip` commands (written without the `ip`) as one process.

    Args:
        lines: The commands.
        namespace: A named namespace in which they all work; None: the machine's own (for `netns add` alone).

    Raises:
        AssertionError: With what ip said, where one of them fails.
    """
    argv = ["ip", *(["-n", namespace] if namespace else []), "-batch", "-"]
    text = "\n".join(lines)
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(argv)}: {done.stderr.strip()}\n{text}"


class Namespace:
    """One named network namespace and the threads that live in it."""

    def __init__(self, role: str) -> None:
        """Make it, with its loopback up.

        Args:
            role: What it is in the test ("host"); unique in this process.
        """
        self.role = role
        self.name = f"{PREFIX}-{role}"
        ip([f"netns add {self.name}"])
        # Several, so that probes go on while a program runs.
        self._threads = ThreadPoolExecutor(4, thread_name_prefix=role, initializer=_enter, initargs=(self.name,))
        self.ip("link set lo up")

    def __repr__(self) -> str:
        """Its role: what a failed assertion should show."""
        return f"<namespace {self.role}>"

    @functools.cached_property
    def kernel(self) -> Kernel:
        """What the kernel has here."""
        from tests.lab.kernel import Kernel  # noqa: PLC0415 - `make demo`, which has namespaces, has no pyroute2

        return Kernel(self.call)

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Begin a call inside the namespace."""
        return self._threads.submit(function, *args, **kwargs)

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function inside the namespace: sockets that it makes and /proc/sys/net that it sees are there."""
        return self.submit(function, *args, **kwargs).result()

    def run(self, command: str | Sequence[str], *, check: bool = True, text: str | None = None) -> str:
        """Run a program inside the namespace.

        Args:
            command: Argv, or a string that is split as a shell would.
            check: Whether it has to succeed.
            text: Its standard input.

        Returns:
            Its standard output.

        Raises:
            AssertionError: With its standard error, where it fails and `check` is set.
        """
        argv = shlex.split(command) if isinstance(command, str) else list(command)
        done = self.call(subprocess.run, argv, input=text, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{self.role}: {shlex.join(argv)}: {done.stderr.strip()}"
        return str(done.stdout)

    def ip(self, *lines: str) -> None:
        """Run `ip` commands (written without the `ip`) here, as one process."""
        ip(lines, namespace=self.name)

    def nft(self, rules: str) -> None:
        """Load nftables text here."""
        self.run(["nft", "-f", "-"], text=rules)

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A non-blocking socket that belongs to this namespace, whichever thread goes on to use it."""
        made = self.call(socket.socket, family, kind, protocol)
        made.setblocking(False)  # noqa: FBT003 - the standard library's signature
        return made

    def sysctl(self, name: str, value: str | int | None = None) -> str:
        """Set a sysctl of this namespace (below net., dotted; a `/` where an interface name has a dot) or read it."""
        path = Path("/proc/sys", *name.split("."))
        if value is not None:
            self.call(path.write_text, str(value))
        return self.call(path.read_text).strip()

    def delete(self) -> None:
        """Take it away, and what still runs in it. What is gone already is no error."""
        self._threads.shutdown(wait=True)
        remove(self.name)


class Namespaces:
    """The namespaces of one owner, made on first use, deleted together."""

    def __init__(self) -> None:
        """Nothing is made yet, but what dead runs left behind is swept away."""
        sweep()
        self._made: dict[str, Namespace] = {}

    def __getitem__(self, role: str) -> Namespace:
        """The namespace of this role.

        Raises:
            KeyError: Where it was not made.
        """
        return self._made[role]

    def __contains__(self, role: str) -> bool:
        """Whether it was made."""
        return role in self._made

    def __iter__(self) -> Iterator[Namespace]:
        """All that were made, oldest first."""
        return iter(list(self._made.values()))

    def add(self, role: str) -> Namespace:
        """Make one more."""
        assert role not in self._made, f"namespace {role} exists"
        self._made[role] = made = Namespace(role)
        return made

    def delete(self, role: str) -> None:
        """Take one away; one that was never made is no error."""
        if role in self._made:
            self._made.pop(role).delete()

    def close(self) -> None:
        """Take all away, going on past what fails."""
        with contextlib.ExitStack() as stack:
            for role in list(self._made):
                stack.callback(self.delete, role)


def sweep() -> None:
    """Remove the namespaces and temporary directories of runs whose process is dead."""
    for entry in RUN_NETNS.glob("hnt*"):
        if _is_left(entry.name):
            remove(entry.name)
    sweep_directories(Path(tempfile.gettempdir()))


def sweep_directories(folder: Path) -> None:
    """Remove the temporary directories in a folder whose maker is dead."""
    for entry in folder.glob("hnt*"):
        if _is_left(entry.name):
            shutil.rmtree(entry, ignore_errors=True)


def temporary_directory(role: str, folder: Path | None = None) -> Path:
    """A directory that `sweep` finds, should its maker be killed.

    Args:
        role: A word for its name.
        folder: Where it is to be, for `sweep_directories` to find; absent: where temporary files are.
    """
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}-{role}-", dir=folder))


def _is_left(name: str) -> bool:
    match = _OURS.fullmatch(name)
    return bool(match and _start_of(int(match["pid"])) != int(match["start"]))


def remove(name: str) -> None:
    """Kill what runs in one of our namespaces, and delete it. Another run may do so at the same moment."""
    assert _OURS.fullmatch(name), name
    inside = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
    for pid in map(int, inside.stdout.split()):
        with contextlib.suppress(ProcessLookupError):
            if pid != os.getpid():
                os.kill(pid, signal.SIGKILL)
    gone = subprocess.run(["ip", "netns", "delete", name], capture_output=True, text=True, check=False)
    assert gone.returncode == 0 or not (RUN_NETNS / name).exists(), gone.stderr


def _enter(name: str) -> None:
    """Move the calling thread into a named namespace."""
    descriptor = os.open(RUN_NETNS / name, os.O_RDONLY)
    try:
        if _LIBC.setns(descriptor, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {name}")
    finally:
        os.close(descriptor)
