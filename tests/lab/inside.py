"""The agent inside the test process: its threads live in the namespace, so that a test may put its hand in between.

`InsideProvider` is a provider whose session speaks to a `Host` of this process in the same lines as to a process.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from hostnet.agent import main
from hostnet.agent.lasting.persistence import Persistence
from hostnet.agent.record import netns
from hostnet.agent.record.record import Store
from hostnet.agent.transaction.host import Host
from hostnet.agent.transaction.subsystems import Subsystems
from hostnet.hosts.session import Session
from hostnet.wire.protocol import Answer, Request, Whole

from tests.lab.driver import Provider
from tests.lab.namespaces import Namespace

if TYPE_CHECKING:
    from hostnet.hosts.connection import Connection
    from hostnet.hosts.session import Channel


class Unwatched(Persistence):
    """A service without a watcher: what a process does in its own time, no sequence of steps can predict."""

    def _sync_watcher(self, *, globs: bool, by_unit: bool) -> None:
        """None is started."""


def open_host(namespace: Namespace, state: Path) -> Host:
    """An agent's host in a namespace, as `main` opens it for a process that is in it."""

    def opened() -> Host:
        # A thread's namespace is not its process's, which is what `main` asks for.
        here = Path("/proc/thread-self/ns/net").stat().st_ino
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        store = Store(state, f"netns-{here}", f"{boot} {here} {netns._netns_cookie()}")
        host = Host(Subsystems.of(store, Unwatched(store, persist="never")))
        # Their sockets belong to the namespace of the thread that opens them: now, and never a test's own thread,
        # which is in the machine's namespace.
        host.table.nft.lines("list tables")
        host.table.generation()
        return host

    return namespace.call(opened)


class InsideTransport:
    """Starts agents that are threads of this process. Implements `hostnet.hosts.session.Transport`."""

    last_activity = 0.0

    def __init__(self, namespace: Namespace, host: Host) -> None:
        """For this host in this namespace."""
        self._namespace, self._host = namespace, host

    async def start(self, *, attempts: int | None = None) -> Channel:
        """Start one, at the first attempt."""
        del attempts
        return InsideChannel(self._namespace, self._host)

    async def verify_login(self) -> None:
        """It is this process."""

    async def close(self) -> None:
        """Nothing leads there."""


class InsideChannel:
    """The lines to and from a `Host` of this process."""

    lost = False

    def __init__(self, namespace: Namespace, host: Host) -> None:
        """It greets at once."""
        self._namespace, self._host = namespace, host
        self._loop = asyncio.get_running_loop()
        self.reader = asyncio.StreamReader(limit=256 << 20)
        self.reader.feed_data(main.greeting().to_line())

    def write(self, data: bytes) -> None:
        """Work on a request in a thread of the namespace."""
        future = self._namespace.submit(main.serve, self._host, Request.parse(data))
        future.add_done_callback(lambda done: self._loop.call_soon_threadsafe(self._done, done))

    def _done(self, future: Future[Answer | Whole]) -> None:
        if future.exception() is None:
            self.reader.feed_data(future.result().to_line())
        else:
            self.reader.feed_eof()

    async def ended(self) -> str:
        """It has no life of its own."""
        return "the thread ended"

    async def close(self) -> None:
        """Nothing is left of it."""


class InsideProvider(Provider):
    """A provider whose only host is a namespace, reached without a process."""

    def __init__(self, namespace: Namespace, *, beside: Provider | None = None) -> None:
        """Open the host.

        Args:
            namespace: The namespace.
            beside: Another provider on the same host, whose state directory is shared.
        """
        super().__init__(beside=beside)
        host = open_host(namespace, self.directory)
        label = f"this machine (namespace {namespace.name})"
        self._inside = Session(label, InsideTransport(namespace, host))

    async def session(self, connection: Connection) -> Session:
        """The namespace, whatever the connection says."""
        del connection
        return self._inside
