"""All hosts of one provider process, in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hostnet.fakes.host import FakeHost
from hostnet.hosts.connection import Connection, Settings
from hostnet.wire.errors import Code, HostnetError


class FakePool:
    """A pool of fake hosts: one for each label (`Connection.label`), made when it is first asked for.

    Attributes:
        hosts: By label.
        connections: All that were asked for, in order.
        unreachable: Labels of hosts that can't be reached.
        cancelled: Whether `cancel` was called.
        closed: Whether `close` was called.
        asked: Set when a session is asked for.
    """

    def __init__(self, settings: Settings | None = None, log: Callable[[str, str], None] = lambda _, __: None) -> None:
        self.settings, self.log = settings, log
        self.hosts: dict[str, FakeHost] = {}
        self.connections: list[Connection] = []
        self.unreachable: set[str] = set()
        self.cancelled = self.closed = False
        self.asked = asyncio.Event()
        self._gate = asyncio.Event()
        self._gate.set()

    def at(self, connection: Connection | None = None) -> FakeHost:
        """The host that a connection leads to, whether it can be reached or not."""
        label = (connection or Connection()).label
        if label not in self.hosts:
            self.hosts[label] = FakeHost(label)
        return self.hosts[label]

    def hold(self) -> None:
        """Keep every new session waiting, as a server that is booting does."""
        self._gate.clear()

    def release(self) -> None:
        """Let them go on."""
        self._gate.set()

    def known(self, connection: Connection) -> FakeHost | None:
        """The session with this connection's host, if there is one already that can be reached."""
        if connection.label not in self.hosts or connection.label in self.unreachable or not self._gate.is_set():
            return None
        self.connections.append(connection)
        self.asked.set()
        return self.hosts[connection.label]

    async def host(self, connection: Connection) -> FakeHost:
        """The session with this connection's host."""
        self.connections.append(connection)
        self.asked.set()
        await self._gate.wait()
        if connection.label in self.unreachable:
            why = "ETIMEDOUT: Connection timed out"
            raise HostnetError(Code.UNREACHABLE, "cannot reach the host", why, "Is it up?", connection.label)
        return self.at(connection)

    async def cancel(self) -> None:
        """Nothing new is begun."""
        self.cancelled = True

    async def close(self) -> None:
        """End all sessions."""
        self.closed = True
