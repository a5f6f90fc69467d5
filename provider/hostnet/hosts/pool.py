"""All hosts of one provider process, one session each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from hostnet.hosts.connection import Connection, Settings
from hostnet.hosts.local import LocalTransport
from hostnet.hosts.session import Session, Status, Transport
from hostnet.wire.shapes import shortened, visible

if TYPE_CHECKING:
    from hostnet.hosts.login import Jumps

# Gets a host's label and a line about it.
Log = Callable[[str, str], None]


class Pool:
    """Sessions by connection. The first request makes a session, which is kept to the end.

    Args:
        settings: The provider's configuration.
        log: Gets what happens with a host, for the live status: "root@192.0.2.2", "waiting for …".
    """

    def __init__(self, settings: Settings | None = None, log: Log = lambda _, __: None) -> None:
        self._settings = settings or Settings()
        self._log = log
        self._sessions: dict[Connection, Session] = {}
        self._jumps: Jumps | None = None

    def known(self, connection: Connection) -> Session | None:
        """The session with this connection's host, if there is one already."""
        return self._sessions.get(connection)

    async def host(self, connection: Connection) -> Session:
        """The session with this connection's host; its first request connects."""
        session = self.known(connection)
        if session is None:
            status = partial(self._show, connection.label)
            session = Session(
                connection.label, self._transport(connection, status), status, self._settings.lock_timeout
            )
            self._sessions[connection] = session
        return session

    def _show(self, label: str, text: str) -> None:
        self._log(label, shortened(visible(text)))  # it may quote the host

    def _transport(self, connection: Connection, status: Status) -> Transport:
        """What starts agents on a host. A connection that names a host never leads to this machine."""
        if connection.host is None:
            return LocalTransport(connection, self._settings)
        # Importing asyncssh takes half a second: only a provider that needs it pays for it.
        from hostnet.hosts.login import Jumps  # noqa: PLC0415
        from hostnet.hosts.ssh import SSHTransport  # noqa: PLC0415

        self._jumps = self._jumps or Jumps()
        return SSHTransport(connection, self._settings, status, jumps=self._jumps)

    async def close(self) -> None:
        """End all sessions, at the same time."""
        sessions, self._sessions = list(self._sessions.values()), {}
        await asyncio.gather(*(session.close() for session in sessions), return_exceptions=True)

    async def cancel(self) -> None:
        """Begin nothing new and stop waiting for hosts; what is under way goes on to its end."""
        for session in self._sessions.values():
            session.cancel()
