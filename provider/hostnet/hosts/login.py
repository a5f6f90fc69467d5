"""From a connection to a login on its host, through a jump host where there is one, with retries while a host boots.

Another attempt follows where a connection is refused, times out, finds no route or no such name, or is closed before
the login. A key or a password that is refused, ours or the host's, is not tried again: the answer would be the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import asyncssh
from asyncssh.packet import String

from hostnet.hosts.activity import Activity
from hostnet.hosts.connection import Connection
from hostnet.hosts.credentials import Credentials
from hostnet.hosts.host_keys import Trusted, refused, trusted_keys, untrusted
from hostnet.hosts.session import Status
from hostnet.wire.errors import Code, HostnetError

T = TypeVar("T")
Backoff = tuple[float, float]  # seconds: the first pause, the longest

BACKOFF: Backoff = (1, 15)
_GROWTH = 1.5
_JITTER = 0.2  # of a pause: 50 providers must not connect at the same moment
# A connection without an answer to three of these is lost.
_KEEP_ALIVE_SECONDS = 15
_KEEP_ALIVE_MISSES = 3
# How long an attempt may take on a host that did not answer before: its resources come one after the other.
_BRIEF_SECONDS = 5
# RFC 4252, 7: the method, and whether its request is signed.
_PUBLIC_KEY, _ASKED, _SIGNED = b"publickey", b"\0", b"\1"
_ERRNO = re.compile(r"\[Errno (\d+)\]")


class LoginError(Exception):
    """This attempt failed; the next one may succeed."""


class Jump:
    """A login on a jump host, from its first attempt on, and the number of hosts behind it that use it.

    Args:
        attempt: Gives the login.
    """

    def __init__(self, attempt: asyncio.Future[asyncssh.SSHClientConnection]) -> None:
        self._attempt = attempt
        self.users = 0

    async def connection(self) -> asyncssh.SSHClientConnection:
        """The login, or why there is none. A user that stops waiting does not end it for the others."""
        return await asyncio.shield(self._attempt)

    @property
    def usable(self) -> bool:
        """Whether it is open, or may be soon."""
        return not self._attempt.done() or (self._made is not None and not self._made.is_closed())

    @property
    def _made(self) -> asyncssh.SSHClientConnection | None:
        done = self._attempt.done() and not self._attempt.cancelled() and self._attempt.exception() is None
        return self._attempt.result() if done else None

    def release(self) -> None:
        """Stop using it; the last user closes it."""
        self.users -= 1
        if self.users == 0:
            self._attempt.cancel()
            if self._made is not None:
                self._made.close()


class Jumps:
    """The logins on jump hosts: one on each, for all hosts behind it.

    The sshd of a jump host turns many logins away that come at the same moment (MaxStartups 10:30:100: from the
    eleventh on), but one login may carry connections to as many hosts as there are.
    """

    def __init__(self) -> None:
        self._jumps: dict[Connection, Jump] = {}

    async def acquire(self, proxy: Connection) -> Jump:
        """Log in on a jump host, or share a login that is open or under way. Its user calls `release` in the end.

        Raises:
            LoginError: Another attempt may succeed.
            HostnetError: No attempt will.
        """
        same = replace(proxy, dial_error_limit=0, per_dial_timeout=0)  # limits do not make another login
        jump = self._jumps.get(same)
        if jump is None or not jump.usable:
            jump = self._jumps[same] = Jump(asyncio.ensure_future(log_in(proxy, None)))
        jump.users += 1
        try:
            async with asyncio.timeout(proxy.per_dial_timeout):
                await jump.connection()
        except BaseException as error:
            jump.release()
            if isinstance(error, TimeoutError):
                raise LoginError(_reason(error, proxy)) from None
            raise
        return jump


@dataclass
class SshLogin:
    """A login on a host.

    Args:
        connection: The SSH connection.
        jump: The login on the jump host before it.
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
            self.jump.release()


class LoginAttempts:
    """Logs in on one host, as often as it takes.

    Args:
        connection: The host's.
        status: Gets a line before each pause.
        backoff: The pauses between attempts.
        jumps: The logins on jump hosts.

    Attributes:
        activity: The host's signs of life, and the jump host's.
    """

    def __init__(
        self, connection: Connection, status: Status, backoff: Backoff = BACKOFF, jumps: Jumps | None = None
    ) -> None:
        self.activity = Activity()
        self._connection, self._status, self._backoff = connection, status, backoff
        self._jumps = jumps or Jumps()
        self._jump: Jump | None = None

    async def log_in(self, *, limit: int, brief: bool = False) -> SshLogin:
        """Log in.

        Args:
            limit: The number of attempts; -1: no limit.
            brief: An attempt ends after a few seconds.

        Raises:
            HostnetError: UNREACHABLE after that many attempts, and others.
        """
        connection = _briefly(self._connection) if brief else self._connection
        login: SshLogin | None = None
        try:
            made = await self._patiently(connection, limit, lambda: self._attempt(connection, limit))
            login = SshLogin(made, self._jump)
        finally:
            if login is None:
                self._release()
            self._jump = None
        return login

    async def _attempt(self, connection: Connection, limit: int) -> asyncssh.SSHClientConnection:
        """Try once, through a login on the jump host that serves every attempt."""
        if connection.proxy is None:
            return await log_in(connection, None, self.activity)
        if self._jump is None or not self._jump.usable:
            self._release()
            # The limit is for both hosts together: what the connection allows holds for its jump host as well.
            proxy = connection.proxy
            self._jump = await self._patiently(proxy, limit, lambda: self._jumps.acquire(proxy))
            self.activity.note()
        return await log_in(connection, await self._jump.connection(), self.activity)

    def _release(self) -> None:
        if self._jump is not None:
            self._jump.release()
            self._jump = None

    async def _patiently(self, connection: Connection, limit: int, try_once: Callable[[], Awaitable[T]]) -> T:
        """Try until it succeeds, or up to the limit."""
        pause, longest = self._backoff
        number = 1
        while True:
            try:
                return await try_once()
            except LoginError as error:
                why = str(error)
            if 0 <= limit <= number:
                raise _unreachable(connection, why, number)
            self._status(attempt(connection, number, limit, why))
            await asyncio.sleep(pause * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311 - no secret
            pause = min(pause * _GROWTH, longest)
            number += 1


class _Client(asyncssh.SSHClient):
    """Answers asyncssh's questions about one login."""

    def __init__(self, connection: Connection, trusted: Trusted, credentials: Credentials, activity: Activity) -> None:
        self._connection, self._trusted, self._activity = connection, trusted, activity
        self._keys, self._own = list(credentials.keys), credentials.own
        self.untrusted: HostnetError | None = None

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        """The host accepts the connection."""
        self._activity.note()
        if self._keys:
            save_questions(conn, self._own)

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """The host presents a key that is not among the trusted ones."""
        del host, addr, port
        self.untrusted = untrusted(self._connection, key, self._trusted)
        return False

    def public_key_auth_requested(self) -> asyncssh.SSHKeyPair | None:
        """The host asks for the next key."""
        self._activity.note()
        return self._keys.pop(0) if self._keys else None


def save_questions(conn: asyncssh.SSHClientConnection, own: Sequence[asyncssh.SSHKeyPair]) -> None:
    """Have a connection log in with a key at once: two round trips less, of eleven up to the agent's greeting.

    asyncssh (2.24) first asks which ways to log in there are ("none", RFC 4252, 5.2), then whether the server
    would accept the key (7), and signs only then. An SSH agent may ask a person before it signs, so its keys are still
    asked about. What the server does not accept, it answers with the ways that there are; asyncssh goes on from there.

    Args:
        conn: The connection, before its login.
        own: The keys that this process itself signs with.
    """
    ask = conn.send_userauth_request

    async def request(method: bytes, *args: bytes, **options: Any) -> None:
        asked = args[1:] if method == _PUBLIC_KEY and args[0] == _ASKED else ()
        for key in own:
            if asked == (String(key.algorithm), String(key.public_data)):
                with contextlib.suppress(ValueError):  # it can't sign so: asyncssh asks, and finds the next way
                    await ask(method, _SIGNED, *asked, key=key, trivial=False)
                    return
        await ask(method, *args, **options)

    conn.send_userauth_request = request  # type: ignore[method-assign]
    conn._auth_methods = [_PUBLIC_KEY, b"none"]  # noqa: SLF001 - asyncssh (2.24) has no option that leaves out "none"


async def log_in(
    connection: Connection, jump: asyncssh.SSHClientConnection | None, activity: Activity | None = None
) -> asyncssh.SSHClientConnection:
    """Try once.

    Args:
        connection: The host's.
        jump: The connection to the jump host before it.
        activity: Gets the host's signs of life.

    Raises:
        LoginError: Another attempt may succeed.
        HostnetError: No attempt will.
    """
    activity = activity or Activity()
    trusted = Trusted() if connection.insecure_ignore_host_key else trusted_keys(connection)
    credentials = await Credentials.of(connection)
    client = _Client(connection, trusted, credentials, activity)
    try:
        async with asyncio.timeout(connection.per_dial_timeout):
            made = await _connect(connection, jump, client, trusted, credentials.password)
            activity.note()
            return made
    except asyncssh.HostKeyNotVerifiable as error:
        raise client.untrusted or refused(connection, error.reason) from None
    except asyncssh.PermissionDenied:
        raise credentials.refused(connection) from None
    except asyncssh.ChannelOpenError as error:
        # The code of a server that may not forward (RFC 4254, 5.1). A host that does not answer has another one.
        if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
            raise _no_forwarding(connection) from None
        raise LoginError(f"the jump host reports: {error.reason}") from None
    except asyncssh.ConnectionLost:
        raise LoginError("the connection was closed before the login") from None
    except asyncssh.DisconnectError as error:
        # sshd's "Too many authentication failures": more keys were offered than MaxAuthTries, by default 6
        # (sshd_config(5)). It disconnects, and refuses none of them.
        if "authentication failures" in error.reason:
            raise credentials.refused(connection) from None
        fix = "Look at the log of the server's sshd"
        raise HostnetError(Code.UNSUPPORTED, "SSH failed", error.reason, fix, connection.label) from None
    except OSError as error:
        raise LoginError(_reason(error, connection)) from None
    finally:
        credentials.close()


async def _connect(
    connection: Connection,
    jump: asyncssh.SSHClientConnection | None,
    client: _Client,
    trusted: Trusted,
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
        config=None,  # only what the program says counts: no ~/.ssh/config
        x509_trusted_certs=None,
        known_hosts=None if connection.insecure_ignore_host_key else _as_asyncssh(trusted),
        server_host_key_algs=trusted.algorithms,
        client_factory=lambda: client,
        compression_algs=["zlib@openssh.com", "none"],  # requests of many resources repeat themselves: a tenth is left
        keepalive_interval=_KEEP_ALIVE_SECONDS,
        keepalive_count_max=_KEEP_ALIVE_MISSES,
        login_timeout=0,  # `per_dial_timeout` covers it
    )


def _as_asyncssh(trusted: Trusted) -> tuple[list[asyncssh.SSHKey], list[asyncssh.SSHKey], list[asyncssh.SSHKey]]:
    return list(trusted.keys), list(trusted.authorities), list(trusted.revoked)


def _reason(error: OSError, connection: Connection) -> str:
    """Why there is no connection, in a few words."""
    if isinstance(error, TimeoutError):
        return f"no answer within {connection.per_dial_timeout:g} s"
    if isinstance(error, socket.gaierror):
        return (error.strerror or "unknown host name").lower()
    # Where a name has several addresses, asyncio puts the error of each into one text.
    number = error.errno or next(map(int, _ERRNO.findall(str(error))), 0)
    return os.strerror(number).lower() if number else "the connection failed"


def _briefly(connection: Connection) -> Connection:
    """The same connection with less time for an attempt."""
    proxy = _briefly(connection.proxy) if connection.proxy else None
    return replace(connection, per_dial_timeout=min(connection.per_dial_timeout, _BRIEF_SECONDS), proxy=proxy)


def attempt(connection: Connection, number: int, limit: int, why: str) -> str:
    """The line for the status column after a failed attempt, before the next one."""
    of = f" of {limit}" if limit > 0 else ""
    return f"waiting for {connection.label} (attempt {number}{of}): {why}"


def times(attempts: int) -> str:
    """The number of attempts, for an error."""
    return f" ({attempts} attempts)" if attempts > 1 else ""


def _unreachable(connection: Connection, why: str, attempts: int) -> HostnetError:
    fix = f"Check that the host is up, and that port {connection.port} is open to this machine"
    return HostnetError(Code.UNREACHABLE, "cannot reach the host", why + times(attempts), fix, connection.label)


def _no_forwarding(connection: Connection) -> HostnetError:
    proxy = connection.proxy.label if connection.proxy else "the jump host"
    return HostnetError(
        Code.PERMISSION,
        f"cannot connect through the jump host {proxy}",
        "its sshd forbids TCP forwarding",
        "Set AllowTcpForwarding in its sshd_config, or use another connection.proxy",
        connection.label,
    )
