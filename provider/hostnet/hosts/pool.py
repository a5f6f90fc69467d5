"""All hosts of one provider process, each reached once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hostnet.errors import Code, HostnetError
from hostnet.hosts.api import Host
from hostnet.hosts.connection import Connection, Settings
from hostnet.hosts.local import LocalTransport
from hostnet.hosts.session import Session

Log = Callable[[str], None]


class Pool:
    """Sessions by connection. A session is made when the first request needs it and kept till the end.

    :param settings: the provider's configuration.
    :param log: told what happens with hosts ("connecting to …"), for the live status.
    """

    def __init__(self, settings: Settings | None = None, log: Log = lambda _: None) -> None:
        self._settings = settings or Settings()
        self._log = log
        self._sessions: dict[Connection, Session] = {}

    async def host(self, connection: Connection) -> Host:
        """The session with this connection's host.

        :raises HostnetError: where it can't be reached.
        """
        session = self._sessions.get(connection)
        if session is None:
            session = self._sessions[connection] = Session(connection.label, self._transport(connection))
        return session

    def _transport(self, connection: Connection) -> LocalTransport:
        if connection.host is not None:
            raise HostnetError(
                Code.UNSUPPORTED,
                "the host can't be reached",
                "connections over SSH are not built yet",
                "Leave connection.host out and run pulumi on the host itself",
                replace(connection, password=None).label,
            )
        return LocalTransport(connection, self._settings)

    async def close(self) -> None:
        """End all sessions."""
        sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            await session.close()

    async def cancel(self) -> None:
        """Nothing new is begun; what is under way ends in its own time."""
