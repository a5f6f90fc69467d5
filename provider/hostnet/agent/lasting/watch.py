"""The watcher: a process that attaches interfaces to their bridge when they appear, for the `match` of TapBindings.

There is one for each host (or namespace). It starts with the first owner that needs it and ends with the last, by
itself or stopped by an agent. It listens to RTNLGRP_LINK, and looks at all interfaces at its start and after the kernel
has dropped events. Where it runs it also follows the default routes for gateways that name no external interface, for
replies by the same uplink and for the guests that the host answers for. For gateways that name none or several it runs
without a glob, too, where a reboot brings them back. It writes what it does to a file beside the record and to the
system's log. `ps` shows it as `hostnet-watch`.
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

from hostnet.agent.lasting.attach import Attacher, Globs, globs_of
from hostnet.agent.lasting.persistence import Persistence
from hostnet.agent.linux import files, systemd
from hostnet.agent.linux.link_events import Changes, LinkEvents
from hostnet.agent.linux.process import PidFile, log_path, pid_path, set_name
from hostnet.agent.record.netns import NAMED_NAMESPACES, has_name
from hostnet.agent.record.record import MALFORMED, Store, changes_path, owners_on_disk
from hostnet.wire.errors import HostnetError
from hostnet.wire.objects import Gateway, Glob, Guest

Say = Callable[..., None]  # prints lines
_LOG_BYTES = 128 << 10
_RETRY_SECONDS = 2.0  # after a step that failed
_QUIET_SECONDS = 0.01  # without another interface: then the rest is done
_LOOK_SECONDS = 60.0  # at the record: inotify(7) reports nothing on network file systems
_NICE = -10  # a guest waits for it, also on a busy host
_IN_CLOSE_WRITE, _IN_MOVED_TO, _IN_DELETE, _IN_DELETE_SELF = 0x8, 0x80, 0x200, 0x400
_IN_NONBLOCK, _IN_CLOEXEC = 0o4000, 0o2000000
_NAME = "hostnet-watch"


Follow = Callable[[], "list[str]"]  # brings what follows the default routes up to date; returns lines


def recorded(record: Path) -> tuple[Globs, frozenset[str]]:
    """What a record's file has to watch for, without its lock and without parsing ten thousand forwards.

    Returns:
        The globs; and the interfaces by which gateways lead out, with those on which the host answers for guests.
    """
    try:
        owners = owners_on_disk(record, Glob, Gateway, Guest)
    except (OSError, *MALFORMED):
        return (), frozenset()  # a step, which reads the whole record, says why
    uplinks = {name for gateway in owners.every(Gateway) for name in gateway.uplinks}
    return globs_of(owners), frozenset(uplinks | {guest.proxy for guest in owners.proxied_guests if guest.proxy})


class Log:
    """The watcher's log: a file of bounded size beside the record, and the system's log.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._journal = "JOURNAL_STREAM" in os.environ  # systemd reads standard error (systemd.exec(5))
        if not self._journal:
            syslog.openlog("hostnet", syslog.LOG_PID, syslog.LOG_DAEMON)

    def __call__(self, *lines: str) -> None:
        """Write lines. With a full disk the work goes on without them."""
        if self._journal:
            sys.stderr.writelines(f"{line}\n" for line in lines)
            sys.stderr.flush()
        else:
            for line in lines:
                syslog.syslog(syslog.LOG_INFO, line)
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        with contextlib.suppress(OSError):
            with os.fdopen(files.open_ours(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "a") as file:
                file.writelines(f"{now} {line}\n" for line in lines)
                size = file.tell()
            if size > _LOG_BYTES:
                kept = (files.text_of(self._path) or "")[-_LOG_BYTES // 2 :]
                files.write(self._path, kept[kept.find("\n") + 1 :], 0o600, sync=False)


class Inotify:
    """Wakes a poll when a file in a directory is written, replaced or deleted; never where the kernel has no inotify.

    Args:
        directories: The directories.
    """

    def __init__(self, *directories: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
        for directory in directories:
            mask = _IN_CLOSE_WRITE | _IN_MOVED_TO | _IN_DELETE | _IN_DELETE_SELF
            libc.inotify_add_watch(self._descriptor, os.fsencode(directory), mask)

    def register(self, poll: select.poll) -> None:
        """Add it to a poll."""
        if self._descriptor >= 0:
            poll.register(self._descriptor, select.POLLIN)

    def drain(self) -> None:
        """Drop the events: they say that something changed, and the caller looks what."""
        with contextlib.suppress(OSError):
            while os.read(self._descriptor, 1 << 16):
                pass


class Watcher:
    """Watches the interfaces of the network namespace that the process is in when this is made.

    Args:
        store: The record's.
        say: Gets the lines for the log.
        follow: Brings what follows the default routes up to date.
    """

    def __init__(self, store: Store, say: Say, follow: Follow = list) -> None:
        self._record, self._say = store.path, say
        # The kernel keeps a namespace as long as a process is in it: the watcher ends when it has lost its last name.
        self._named = store.instance is not None and has_name()
        self._events = LinkEvents()  # before the first look at all interfaces: none appears unseen in between
        self._attacher = Attacher(store)
        self._inotify = Inotify(store.path.parent, *([NAMED_NAMESPACES] if self._named else []))
        self._globs: Globs = ()
        self._follow = follow
        self._moved = True  # default routes may have changed since they were followed
        self._stat: list[tuple[int, int]] = []
        self._behind = True  # a step failed or events were dropped: the next one looks at all interfaces
        self._over = False
        self._gone: set[str] = set()  # deleted interfaces that no step knows of yet
        self._failure = ""  # the last step's; a repetition is not logged

    def run(self, also: int | None = None) -> None:
        """Watch until no glob is recorded, or the namespace has lost its name.

        Args:
            also: A descriptor; the watcher also ends when something can be read from it.
        """
        poll = select.poll()
        poll.register(self._events.fileno(), select.POLLIN)
        self._inotify.register(poll)
        if also is not None:
            poll.register(also, select.POLLIN | select.POLLHUP)
        self._reload()
        self._step(Changes())
        while not self._over:
            self._follow_routes()
            wait = _RETRY_SECONDS if self._failure or self._moved else 0 if self._behind else _LOOK_SECONDS
            ready = dict(poll.poll(wait * 1000))
            if also in ready:
                return
            changes = self._events.read()
            self._moved |= changes.routes or changes.missed
            self._step(changes)
            self._inotify.drain()
            if self._named and not has_name():
                return
            if self._reload():
                self._behind = True
                self._step(Changes())

    def _follow_routes(self) -> None:
        """Follow the default routes if they have changed. What fails is tried again."""
        if not (self._moved and self._events.followed):
            self._moved = False
            return
        try:
            lines = self._follow()
        except (OSError, HostnetError) as error:
            lines = [f"cannot follow the default routes: {error}. Trying again every {_RETRY_SECONDS:g} s"]
        else:
            self._moved = False
        if lines:
            self._say(*lines)

    def _reload(self) -> bool:
        """Read the globs and uplinks if the record has changed; True if the globs have."""
        now = [_modified(path) for path in (self._record, changes_path(self._record))]
        if now == self._stat:
            return False
        self._stat = now
        globs, uplinks = recorded(self._record)
        changed = globs != self._globs or uplinks != self._events.followed
        self._globs, self._events.followed = globs, uplinks
        return changed

    def _step(self, changes: Changes) -> None:
        if not self._globs and self._events.followed:
            self._behind = False
            return
        changes.missed |= self._behind
        changes.gone |= self._gone
        if changes.missed:
            links = self._attacher.kernel.snapshot().links.values()
            changes.renamed = {**self._events.learn({link.index: link.name for link in links}), **changes.renamed}
        elif not any(map(self._matches, (*changes.appeared, *changes.renamed))):
            self._gone = changes.gone
            return
        self._behind, self._gone = True, changes.gone
        try:
            report = self._attacher.step(changes, self._more)
        except (OSError, HostnetError) as error:
            if str(error) != self._failure:
                self._say(f"cannot attach interfaces: {error}. Trying again every {_RETRY_SECONDS:g} s")
            self._failure = str(error)
            return
        self._failure = ""
        self._behind, self._over, self._gone = report.missed, report.done, set()
        if report.lines:
            self._say(*report.lines)

    def _more(self) -> Changes | None:
        """Events that concern a glob and have come in the meantime, or come before the next quiet moment."""
        end = time.monotonic() + _QUIET_SECONDS
        while select.select([self._events], [], [], max(0.0, end - time.monotonic()))[0]:
            changes = self._events.read()
            self._moved |= changes.routes or changes.missed
            if changes.missed or any(map(self._matches, (*changes.appeared, *changes.renamed, *changes.gone))):
                return changes
        return None

    def _matches(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, item.pattern) for _, item in self._globs)


def _modified(path: Path) -> tuple[int, int]:
    """What changes with a file; zeros where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_ino, stat.st_mtime_ns


def background(store: Store, follow: Follow) -> int:
    """Be the watcher in the background, the only one of its record, until it is over or a signal ends it.

    Args:
        store: The record's.
        follow: Brings what follows the default routes up to date.

    Returns:
        The process's exit code.
    """
    set_name(_NAME)
    record, own = store.path, PidFile(pid_path(store.path))
    other = own.read()
    # A notify service that ends without a READY=1 has failed (systemd.service(5), Type=): so it is sent here, too.
    if (other is not None and other.pid != os.getpid()) or not any(recorded(record)):
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
        watcher = Watcher(store, log, follow)
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
    """End by an exception, which ends a wait for the lock as well."""
    del number, frame
    raise SystemExit(0)


def foreground(store: Store, persistence: Persistence, say: Say, follow: Follow) -> None:
    """Be the watcher while a person looks on, until standard input ends; then one in the background goes on.

    Args:
        store: The record's.
        persistence: Ends the watcher in the background, and starts it again.
        say: Prints lines.
        follow: Brings what follows the default routes up to date.
    """
    if not any(recorded(store.path)):
        say("no TapBinding with `match` and no NatGateway is recorded here: there is nothing to watch for")
        return
    with store.locked():
        persistence.hand_over()
    globs, uplinks = recorded(store.path)
    for _, item in globs:
        say(f"attaching {item.pattern} to {item.bridge}")
    for name in () if globs else sorted(uplinks):
        say(f"following the routes through {name}")
    try:
        Watcher(store, say, follow).run(also=sys.stdin.fileno())
    finally:
        PidFile(pid_path(store.path)).remove_mine()
        with store.locked() as record:
            if record.owners:
                persistence.sync(record)
            else:
                store.save(record)
