"""The lock by which the processes on a host take turns: who holds it, and how another one waits for it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional, Protocol

from hostnet.agent.linux import files

_LOOK_SECONDS = 0.05
_BYTES, _MOST_BYTES = 256, 4096
Look = Optional[Callable[[], None]]


@dataclass(frozen=True)
class Holder:
    """Who holds the lock, as it wrote into the lock's file.

    Attributes:
        pid: Its process; 0 where that is not known.
        doing: What it does.
        since: When it got the lock, in seconds since 1970.
    """

    pid: int = 0
    doing: str = ""
    since: float = 0.0

    @property
    def seconds(self) -> int:
        """For how long it has held the lock."""
        return max(0, int(time.time() - self.since)) if self.pid else 0


class Waiter(Protocol):
    """How a process waits for its turn. What its methods raise ends the wait, and nothing is done."""

    @property
    def doing(self) -> str:
        """What it is to do, for those that wait for it."""

    def waits(self, holder: Holder, seconds: float) -> None:
        """Called again and again while another process holds the lock.

        Args:
            holder: That process.
            seconds: How long the wait has been so far.
        """

    def starts(self) -> None:
        """Called when it has the lock, before it does anything."""


class Background:
    """How a process waits that nobody waits for: as long as it takes.

    Args:
        doing: What it is to do.
    """

    def __init__(self, doing: str = "working in the background") -> None:
        self.doing = doing

    def waits(self, holder: Holder, seconds: float) -> None:
        """Goes on."""

    def starts(self) -> None:
        """Goes on."""


def acquire(descriptor: int, waiter: Waiter, look: Look = None) -> None:
    """Take the lock, after its holder where there is one.

    Args:
        descriptor: The lock's file, open for reading and writing.
        waiter: Decides how long to wait.
        look: Called again and again meanwhile.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if look is None and isinstance(waiter, Background):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        else:
            _wait(descriptor, waiter, look)
    waiter.starts()
    _note(descriptor, waiter.doing)


def _wait(descriptor: int, waiter: Waiter, look: Look) -> None:
    begin = time.monotonic()

    def tick() -> None:
        if look is not None:
            look()
        waiter.waits(holder_of(descriptor), time.monotonic() - begin)

    # The kernel lets processes take turns in the order in which they came only where they wait in flock(2).
    with _ticking(tick):
        fcntl.flock(descriptor, fcntl.LOCK_EX)


@contextlib.contextmanager
def _ticking(tick: Callable[[], None]) -> Iterator[None]:
    """Call something again and again. What it raises ends a system call that waits; else that goes on (PEP 475)."""
    waiting = True

    def ring(*_: object) -> None:
        if waiting:  # the last signal may come late
            tick()

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, _LOOK_SECONDS, _LOOK_SECONDS)
    try:
        yield
    finally:
        waiting = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _note(descriptor: int, doing: str) -> None:
    # Always as long: on a busy disk ext4 takes up to 14 ms to truncate a file (Linux 6.18).
    data = json.dumps(asdict(Holder(os.getpid(), doing, time.time()))).encode().ljust(_BYTES)
    with contextlib.suppress(OSError):  # the disk is full: then nobody learns who it is
        os.pwrite(descriptor, data, 0)
        if os.fstat(descriptor).st_size > len(data):
            os.ftruncate(descriptor, len(data))


def holder_of(descriptor: int) -> Holder:
    """Who holds a lock, by its file."""
    try:
        data = json.loads(os.pread(descriptor, _MOST_BYTES, 0))
        return Holder(int(data["pid"]), str(data["doing"]), float(data["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Holder()


def is_current(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one of this name: who had the lock before may have taken its file away."""
    try:
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Work while no other process does so under the same file, which is there only meanwhile.

    Where the file can't be made (a read-only /run), nobody waits.
    """
    descriptor = None
    with contextlib.suppress(OSError):
        descriptor = _turn(path)
    try:
        yield
    finally:
        if descriptor is not None:
            path.unlink(missing_ok=True)
            os.close(descriptor)


def _turn(path: Path) -> int:
    while True:
        descriptor = files.open_ours(path, os.O_RDWR | os.O_CREAT)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if is_current(descriptor, path):
            return descriptor
        os.close(descriptor)
