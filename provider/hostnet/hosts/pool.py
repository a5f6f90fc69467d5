"""All hosts of one provider process, each reached once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from hostnet.hosts.connection import Connection, Settings
from hostnet.hosts.local import LocalTransport
from hostnet.hosts.session import Session, Status, Transport

if TYPE_CHECKING:
    from hostnet.hosts.login import Jumps

Log = Callable[[str, str], None]


class Pool:
    """Sessions by connection. A session is made when the first request needs it and kept till the end.

    :param settings: the provider's configuration.
    :param log: told what happens with a host, by its label ("root@192.0.2.2", "waiting for …"), for the live status.
    """

    def __init__(self, settings: Settings | None = None, log: Log = lambda _, __: None) -> None:
        self._settings = settings or Settings()
        self._log = log
        self._sessions: dict[Connection, Session] = {}
        self._jumps: Jumps | None = None

    async def host(self, connection: Connection) -> Session:
        """The session with this connection's host; the first request that it is asked connects."""
        session = self._sessions.get(connection)
        if session is None:
            told = partial(self._log, connection.label)
            session = Session(connection.label, self._transport(connection, told), told)
            self._sessions[connection] = session
        return session

    def _transport(self, connection: Connection, told: Status) -> Transport:
        """The way to a host. A connection that names one never leads to this machine."""
        if connection.host is None:
            return LocalTransport(connection, self._settings)
        # Half a second, for those who need it.
        from hostnet.hosts.login import Jumps  # noqa: PLC0415
        from hostnet.hosts.ssh import SSHTransport  # noqa: PLC0415

        self._jumps = self._jumps or Jumps()
        return SSHTransport(connection, self._settings, told, jumps=self._jumps)

    async def close(self) -> None:
        """End all sessions, at once."""
        sessions, self._sessions = list(self._sessions.values()), {}
        await asyncio.gather(*(session.close() for session in sessions), return_exceptions=True)

    async def cancel(self) -> None:
        """Nothing new is begun, no host is waited for any longer; what is under way ends in its own time."""
        for session in self._sessions.values():
            session.cancel()
