"""From a connection to a log-in on its host, through a jump host where there is one, as often as a boot takes.

What is tried again: a connection that is refused, times out, finds no route or no such name, or is closed before the
log-in. A key or a password that is refused, ours or the host's, is not tried again: it would not get better.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import asyncssh

from hostnet.hosts.connection import Connection
from hostnet.hosts.credentials import Credentials
from hostnet.hosts.host_keys import Trust, trust, unacceptable, unknown
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.requests import idle_clock

T = TypeVar("T")
Status = Callable[[str], None]
Hear = Callable[[], None]
Backoff = tuple[float, float]  # seconds: the first pause, the longest

BACKOFF: Backoff = (1, 15)
_GROWTH = 1.5
_JITTER = 0.2  # of a pause: 50 providers must not knock at the same moment
# A host that says nothing for three of these is taken for lost.
_KEEP_ALIVE_SECONDS = 15
_KEEP_ALIVE_MISSES = 3
# How long an attempt may take on a host that was waited for in vain: its other resources come one after the other.
_BRIEF_SECONDS = 5
_ERRNO = re.compile(r"\[Errno (\d+)\]")


class DialError(Exception):
    """The host was not reached this time; it may be the next."""


class Jump:
    """A log-in on a jump host, from the attempt on, and how many go through it.

    :param attempt: gives it.
    """

    def __init__(self, attempt: asyncio.Future[asyncssh.SSHClientConnection]) -> None:
        self._attempt = attempt
        self.users = 0

    async def log_in(self) -> asyncssh.SSHClientConnection:
        """The log-in, or why there is none; who waits no longer leaves it to the others."""
        return await asyncio.shield(self._attempt)

    @property
    def usable(self) -> bool:
        """Whether there is one, or may be soon."""
        return not self._attempt.done() or (self._made is not None and not self._made.is_closed())

    @property
    def _made(self) -> asyncssh.SSHClientConnection | None:
        done = self._attempt.done() and not self._attempt.cancelled() and self._attempt.exception() is None
        return self._attempt.result() if done else None

    def let_go(self) -> None:
        """Go through it no more; the last one hangs up."""
        self.users -= 1
        if self.users == 0:
            self._attempt.cancel()
            if self._made is not None:
                self._made.close()


class Jumps:
    """The log-ins on jump hosts: one on each, for all hosts behind it.

    A jump host's sshd turns many away that come at the same moment (MaxStartups: from the eleventh on), but one log-in
    may have as many connections through it as there are hosts.
    """

    def __init__(self) -> None:
        self._jumps: dict[Connection, Jump] = {}

    async def through(self, proxy: Connection) -> Jump:
        """Log in on a jump host, or share a log-in that is there or on its way. `let_go` follows.

        :raises DialError: where another try may help.
        :raises HostnetError: where none will.
        """
        same = replace(proxy, dial_error_limit=0, per_dial_timeout=0)  # patience makes no other log-in
        jump = self._jumps.get(same)
        if jump is None or not jump.usable:
            jump = self._jumps[same] = Jump(asyncio.ensure_future(log_in(proxy, None)))
        jump.users += 1
        try:
            async with asyncio.timeout(proxy.per_dial_timeout):
                await jump.log_in()
        except BaseException as error:
            jump.let_go()
            if isinstance(error, TimeoutError):
                raise DialError(_reason(error, proxy)) from None
            raise
        return jump


@dataclass
class SshLogin:
    """A log-in on a host.

    :param connection: with the host.
    :param jump: the one on the jump host before it.
    """

    connection: asyncssh.SSHClientConnection
    jump: Jump | None = None

    @property
    def open(self) -> bool:
        """Whether it can still be used."""
        return not self.connection.is_closed()

    def close(self) -> None:
        """Hang up, without waiting for the host to notice."""
        self.connection.close()
        if self.jump is not None:
            self.jump.let_go()


class Dialler:
    """Dials one host.

    :param connection: the host's.
    :param status: told while it waits.
    :param backoff: the pauses between attempts.
    :param jumps: the log-ins on jump hosts.
    """

    def __init__(
        self, connection: Connection, status: Status, backoff: Backoff = BACKOFF, jumps: Jumps | None = None
    ) -> None:
        self._connection, self._status, self._backoff = connection, status, backoff
        self._jumps = jumps or Jumps()
        self._jump: Jump | None = None
        self.heard = 0.0  # see `Host.heard`

    async def dial(self, *, limit: int, brief: bool = False) -> SshLogin:
        """Log in.

        :param limit: how often to try; -1: without limit.
        :param brief: each time for a few seconds only.
        :raises HostnetError: UNREACHABLE where the host was not reached as often as that.
        """
        connection = _briefly(self._connection) if brief else self._connection
        way: SshLogin | None = None
        try:
            found = await self._patiently(connection, limit, lambda: self._attempt(connection, limit))
            way = SshLogin(found, self._jump)
        finally:
            if way is None:
                self._let_go()
            self._jump = None
        return way

    async def _attempt(self, connection: Connection, limit: int) -> asyncssh.SSHClientConnection:
        """Try once, through a log-in on the jump host that serves every attempt."""
        if connection.proxy is None:
            return await log_in(connection, None, self.hear)
        if self._jump is None or not self._jump.usable:
            self._let_go()
            # Patience is for the way as a whole: what the connection allows holds for its jump host as well.
            proxy = connection.proxy
            self._jump = await self._patiently(proxy, limit, lambda: self._jumps.through(proxy))
            self.hear()
        return await log_in(connection, await self._jump.log_in(), self.hear)

    def hear(self) -> None:
        """Note that the host, or the jump host before it, is there."""
        self.heard = idle_clock()

    def _let_go(self) -> None:
        if self._jump is not None:
            self._jump.let_go()
            self._jump = None

    async def _patiently(self, connection: Connection, limit: int, reach: Callable[[], Awaitable[T]]) -> T:
        """Try until the host is there, or the connection's patience is over."""
        pause, longest = self._backoff
        number = 1
        while True:
            try:
                return await reach()
            except DialError as error:
                why = str(error)
            if 0 <= limit <= number:
                raise _unreachable(connection, why, number)
            self._status(attempt(connection, number, limit, why))
            await asyncio.sleep(pause * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311 - no secret
            pause = min(pause * _GROWTH, longest)
            number += 1


class _Client(asyncssh.SSHClient):
    """Answers asyncssh's questions about one log-in."""

    def __init__(self, connection: Connection, trusted: Trust, credentials: Credentials, hear: Hear) -> None:
        self._connection, self._trusted, self._hear = connection, trusted, hear
        self._keys = list(credentials.keys)
        self.stranger: HostnetError | None = None

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        """Somebody is there."""
        del conn
        self._hear()

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Asked for a key that is not among the trusted."""
        del host, addr, port
        self.stranger = unknown(self._connection, key, self._trusted)
        return False

    def public_key_auth_requested(self) -> asyncssh.SSHKeyPair | None:
        """Asked for the next key to try."""
        self._hear()
        return self._keys.pop(0) if self._keys else None


async def log_in(
    connection: Connection, jump: asyncssh.SSHClientConnection | None, hear: Hear = lambda: None
) -> asyncssh.SSHClientConnection:
    """Try once.

    :param hear: called at each sign of life.
    :raises DialError: where another try may help.
    :raises HostnetError: where none will.
    """
    trusted = Trust() if connection.insecure_ignore_host_key else trust(connection)
    credentials = await Credentials.of(connection)
    client = _Client(connection, trusted, credentials, hear)
    try:
        async with asyncio.timeout(connection.per_dial_timeout):
            made = await _connect(connection, jump, client, trusted, credentials.password)
            hear()
            return made
    except asyncssh.HostKeyNotVerifiable as error:
        raise client.stranger or unacceptable(connection, error.reason) from None
    except asyncssh.PermissionDenied:
        raise credentials.refused(connection) from None
    except asyncssh.ChannelOpenError as error:
        if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
            raise _no_forwarding(connection) from None
        raise DialError(f"the jump host says: {error.reason}") from None
    except asyncssh.ConnectionLost:
        raise DialError("the connection was closed before the log-in") from None
    except asyncssh.DisconnectError as error:
        if "authentication failures" in error.reason:
            raise credentials.refused(connection) from None
        raise HostnetError(
            Code.UNSUPPORTED, "SSH with the host fails", error.reason, "Look at its sshd's log", connection.label
        ) from None
    except OSError as error:
        raise DialError(_reason(error, connection)) from None
    finally:
        credentials.close()


async def _connect(
    connection: Connection,
    jump: asyncssh.SSHClientConnection | None,
    client: _Client,
    trusted: Trust,
    password: str | None,
) -> asyncssh.SSHClientConnection:
    return await asyncssh.connect(
        connection.host or "",
        connection.port,
        tunnel=jump or (),
        username=connection.user,
        password=password,
        client_keys=None,  # `client` has them, and only them
        agent_path=None,
        gss_host=None,
        config=None,  # what the program does not say does not count: no ~/.ssh/config
        x509_trusted_certs=None,
        known_hosts=None if connection.insecure_ignore_host_key else _as_asyncssh(trusted),
        server_host_key_algs=trusted.algorithms,
        client_factory=lambda: client,
        compression_algs=["zlib@openssh.com", "none"],  # requests of many resources repeat themselves: a tenth is left
        keepalive_interval=_KEEP_ALIVE_SECONDS,
        keepalive_count_max=_KEEP_ALIVE_MISSES,
        login_timeout=0,  # `per_dial_timeout` covers it
    )


def _as_asyncssh(trusted: Trust) -> tuple[list[asyncssh.SSHKey], list[asyncssh.SSHKey], list[asyncssh.SSHKey]]:
    return list(trusted.keys), list(trusted.authorities), list(trusted.revoked)


def _reason(error: OSError, connection: Connection) -> str:
    """Why a connection did not come about, in a few words."""
    if isinstance(error, TimeoutError):
        return f"no answer within {connection.per_dial_timeout:g} s"
    if isinstance(error, socket.gaierror):
        return (error.strerror or "the name is not known").lower()
    # Where a name has several addresses, asyncio says of each what came of it, in one text.
    number = error.errno or next(map(int, _ERRNO.findall(str(error))), 0)
    return os.strerror(number).lower() if number else "the connection failed"


def _briefly(connection: Connection) -> Connection:
    """The same way with less time for an attempt."""
    proxy = _briefly(connection.proxy) if connection.proxy else None
    return replace(connection, per_dial_timeout=min(connection.per_dial_timeout, _BRIEF_SECONDS), proxy=proxy)


def attempt(connection: Connection, number: int, limit: int, why: str) -> str:
    """What the status says of an attempt that was in vain, before the next."""
    of = f" of {limit}" if limit > 0 else ""
    return f"waiting for {connection.label} (attempt {number}{of}): {why}"


def times(attempts: int) -> str:
    """How often it was tried, for an error."""
    return f" ({attempts} attempts)" if attempts > 1 else ""


def _unreachable(connection: Connection, why: str, attempts: int) -> HostnetError:
    return HostnetError(
        Code.UNREACHABLE,
        "the host can't be reached",
        why + times(attempts),
        f"Check that it is up, and that port {connection.port} is open to this machine",
        connection.label,
    )


def _no_forwarding(connection: Connection) -> HostnetError:
    proxy = connection.proxy.label if connection.proxy else "the jump host"
    return HostnetError(
        Code.PERMISSION,
        f"the jump host {proxy} does not let us through",
        "its sshd forbids TCP forwarding",
        "Set AllowTcpForwarding in its sshd_config, or use another connection.proxy",
        connection.label,
    )
