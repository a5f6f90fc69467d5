"""The watcher: a process that attaches interfaces to their bridge when they appear, for the `match` of TapBindings.

One a host (or namespace). It starts with the first glob and ends with the last, by itself or by an agent's hand; it
listens to RTNLGRP_LINK, and looks at everything at its start and where it missed something. What it does it writes to
a file beside the record and to the system's log. Its name in a process list: `… watch --state-dir …`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fnmatch
import os
import select
import signal
import sys
import syslog
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from hostnet.agent.lasting.attach import Follower, Globs, globs_of
from hostnet.agent.lasting.persistence import Persistence
from hostnet.agent.linux import systemd
from hostnet.agent.linux.link_events import Changes, LinkEvents
from hostnet.agent.linux.process import PidFile, log_path, pid_path
from hostnet.agent.record.netns import NAMED_NAMESPACES, has_name
from hostnet.agent.record.owners import Owner, Owners
from hostnet.agent.record.record import Store
from hostnet.wire.errors import HostnetError

Say = Callable[..., None]  # of lines
_LOG_BYTES = 128 << 10
_RETRY_SECONDS = 2.0  # after something that failed
_QUIET = 0.01  # seconds without another link, after which what can wait is done
_LOOK_SECONDS = 60.0  # where nobody tells of a record that changed (inotify can't watch every file system)
_NICE = -10  # it has little to do, and that soon, however busy the host is
_IN_MOVED_TO, _IN_DELETE, _IN_DELETE_SELF = 0x80, 0x200, 0x400
_IN_NONBLOCK, _IN_CLOEXEC = 0o4000, 0o2000000


def recorded_globs(record: Path) -> Globs:
    """The globs in a record's file, without taking the lock and without reading ten thousand forwards."""
    try:
        _, *lines = record.read_text().splitlines()
    except (OSError, ValueError):
        return ()
    owners = Owners()
    for line in lines:
        if '"type":"glob"' in line:
            owner = Owner.parse(line)
            owners[owner.key] = owner
    return globs_of(owners)


class Log:
    """Bounded, beside the record; and the system's, where it is not told anyway (systemd reads standard error)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._told = "JOURNAL_STREAM" in os.environ
        if not self._told:
            syslog.openlog("hostnet", syslog.LOG_PID, syslog.LOG_DAEMON)

    def __call__(self, *lines: str) -> None:
        """Write lines; a disk that is full keeps nobody from their work."""
        if self._told:
            sys.stderr.writelines(f"{line}\n" for line in lines)
            sys.stderr.flush()
        else:
            for line in lines:
                syslog.syslog(syslog.LOG_INFO, line)
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        with contextlib.suppress(OSError):
            with self._path.open("a") as file:
                file.writelines(f"{now} {line}\n" for line in lines)
                size = file.tell()
            if size > _LOG_BYTES:
                kept = self._path.read_text(errors="replace")[-_LOG_BYTES // 2 :]
                self._path.write_text(kept[kept.find("\n") + 1 :])


class Inotify:
    """Tells that something in a directory was replaced or deleted. Where the kernel can't, it never tells."""

    def __init__(self, *directories: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
        for directory in directories:
            mask = _IN_MOVED_TO | _IN_DELETE | _IN_DELETE_SELF
            libc.inotify_add_watch(self._descriptor, os.fsencode(directory), mask)

    def register(self, poll: select.poll) -> None:
        """Have it wake a poll."""
        if self._descriptor >= 0:
            poll.register(self._descriptor, select.POLLIN)

    def drain(self) -> None:
        """Forget what was told: whoever asks looks for himself."""
        with contextlib.suppress(OSError):
            while os.read(self._descriptor, 1 << 16):
                pass


class Watcher:
    """Follows the interfaces of the namespace that the process is in when this is made.

    :param say: told what is done.
    """

    def __init__(self, store: Store, say: Say) -> None:
        self._record, self._say = store.path, say
        # A namespace lives as long as a process is in it: the watcher ends when the last name of its own is gone.
        self._named = store.instance is not None and has_name()
        self._events = LinkEvents()  # before the first look, so that nothing falls in between
        self._follower = Follower(store)
        self._inotify = Inotify(store.path.parent, *([NAMED_NAMESPACES] if self._named else []))
        self._globs: Globs = ()
        self._stat: tuple[int, int] | None = None
        self._behind = True  # something failed or was missed: everything has to be looked at
        self._over = False
        self._gone: set[str] = set()  # links that went, of which nobody was told yet
        self._trouble = ""  # said once, however often it is met

    def run(self, also: int | None = None) -> None:
        """Follow until no glob is recorded, or the namespace has lost its name.

        :param also: a descriptor; follow until something can be read from it, too.
        """
        poll = select.poll()
        poll.register(self._events.fileno(), select.POLLIN)
        self._inotify.register(poll)
        if also is not None:
            poll.register(also, select.POLLIN | select.POLLHUP)
        self._reload()
        self._step(Changes())
        while not self._over:
            wait = _RETRY_SECONDS if self._trouble else 0 if self._behind else _LOOK_SECONDS
            ready = dict(poll.poll(wait * 1000))
            if also in ready:
                return
            self._step(self._events.read())
            self._inotify.drain()
            if self._named and not has_name():
                return
            if self._reload():
                self._behind = True
                self._step(Changes())

    def _reload(self) -> bool:
        """Look at the globs, where the record is another than it was; True where they are others."""
        try:
            stat = self._record.stat()
            now = (stat.st_ino, stat.st_mtime_ns)
        except OSError:
            now = (0, 0)
        if now == self._stat:
            return False
        self._stat = now
        globs = recorded_globs(self._record)
        changed, self._globs = globs != self._globs, globs
        return changed

    def _step(self, changes: Changes) -> None:
        changes.missed |= self._behind
        changes.gone |= self._gone
        if changes.missed:
            links = self._follower.kernel.snapshot().links.values()
            changes.renamed = {**self._events.learn({link.index: link.name for link in links}), **changes.renamed}
        elif not any(map(self._fits, (*changes.appeared, *changes.renamed))):
            self._gone = changes.gone
            return
        self._behind, self._gone = True, changes.gone
        try:
            report = self._follower.follow(changes, self._more)
        except (OSError, HostnetError) as error:
            if str(error) != self._trouble:
                self._say(f"can't follow: {error}; it is tried again every {_RETRY_SECONDS:g} s")
            self._trouble = str(error)
            return
        self._trouble = ""
        self._behind, self._over, self._gone = report.missed, report.done, set()
        if report.lines:
            self._say(*report.lines)

    def _more(self) -> Changes | None:
        """What concerns a glob and came in the meantime, or comes before it has been quiet for a moment."""
        end = time.monotonic() + _QUIET
        while select.select([self._events], [], [], max(0.0, end - time.monotonic()))[0]:
            changes = self._events.read()
            if changes.missed or any(map(self._fits, (*changes.appeared, *changes.renamed, *changes.gone))):
                return changes
        return None

    def _fits(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, item.pattern) for _, item in self._globs)


def follow(store: Store) -> int:
    """Be the watcher of the background: one a record, until it is over or somebody ends it."""
    record, own = store.path, PidFile(pid_path(store.path))
    other = own.read()
    if (other is not None and other.pid != os.getpid()) or not recorded_globs(record):
        systemd.ready()
        own.remove_mine()
        return 0
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    own.write(os.getpid())
    log = Log(log_path(record))
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    try:
        watcher = Watcher(store, log)
        systemd.ready()
        watcher.run()
        log_path(record).unlink(missing_ok=True)
    finally:
        own.remove_mine()
        if not record.exists():
            with contextlib.suppress(OSError):
                record.parent.rmdir()
    return 0


def _end(number: int, frame: FrameType | None) -> None:
    """An exception, so that a wait for the lock ends as well."""
    del number, frame
    raise SystemExit(0)


def foreground(store: Store, persistence: Persistence, say: Say) -> None:
    """Do the watcher's work here, with a person looking on, until standard input ends; then the background goes on."""
    if not recorded_globs(store.path):
        say("no TapBinding with `match` is recorded here: there is nothing to follow")
        return
    with store.locked():
        persistence.hand_over()
    for _, item in recorded_globs(store.path):
        say(f"following {item.pattern} for {item.bridge}")
    try:
        Watcher(store, say).run(also=sys.stdin.fileno())
    finally:
        PidFile(pid_path(store.path)).remove_mine()
        with store.locked() as record:
            if record.owners:
                persistence.sync(record)
            else:
                store.save(record)
