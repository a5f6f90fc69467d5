"""Which host a resource is on, and how long to wait for it: status, cancel, previews."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from hostnet.hosts.activity import idle_clock
from hostnet.hosts.connection import Connection, Settings
from hostnet.resources.schema.model import has_unknown
from hostnet.wire.errors import Code, HostnetError

if TYPE_CHECKING:
    from hostnet.hosts.session import Session
    from hostnet.lifecycle.log import EngineLog
    from hostnet.wire.requests import Change, Facts, Query, View

T = TypeVar("T")

# A preview asks a host only where that is quick: an unknown or unreachable host costs nothing. These are seconds
# without a sign of life. The tests have more patience, with a machine that does much else.
_PATIENCE = os.environ.get("HOSTNET_PREVIEW_SECONDS", "")
PREVIEW_SECONDS = float(_PATIENCE) if _PATIENCE.isdecimal() else 3.0

# After so long a person wonders what the plugin is waiting for.
SILENT_SECONDS = 0.7
# So many resources of a host show what they wait for, which is more than a screen has lines for. Each line is a call of
# the engine, and answers wait until it has all of them: the first 1,000 reads of a new plugin sent 744.
MOST_WAITING = 20


class Pool(Protocol):
    """The sessions of this process: one a connection."""

    def known(self, connection: Connection) -> Session | None:
        """The session with a host, if there is one already."""

    async def host(self, connection: Connection) -> Session:
        """The session with a host.

        Raises:
            HostnetError: The connection can't be used.
        """

    async def cancel(self) -> None:
        """Fail the requests that were not sent yet; let those that were go on to their end."""

    async def close(self) -> None:
        """End all sessions."""


# Asks for a change by the second argument.
Take = Callable[["Change", Callable[["Change"], Awaitable["View"]]], Awaitable["View"]]
# The second argument gets what happens with a host: the host's label and a text.
MakePool = Callable[[Settings, Callable[[str, str], None]], Pool]


class HostAccess:
    """The hosts of one provider.

    Args:
        log: Shows what is waited for, and warnings.
        make_pool: Makes the pool once the settings are known.
    """

    def __init__(self, log: EngineLog, make_pool: MakePool) -> None:
        self.settings = Settings()
        self._log = log
        self._make_pool = make_pool
        self._pool: Pool | None = None
        self._configured = False
        self._default: Mapping[str, Any] | None = None
        self._cancelled = False
        self._reaching: set[asyncio.Future[Any]] = set()  # what a Cancel does not wait for: nothing is sent yet
        self._silent: set[Connection] = set()
        self._waiting: dict[str, list[str]] = {}  # by label: the URNs that show what they wait for
        self._progress_of: dict[str, str] = {}  # by label: the last line about a host that has not answered since
        self._tasks: set[asyncio.Future[Any]] = set()

    async def configure(self, default: Mapping[str, Any] | None, settings: Settings) -> None:
        """Take the provider's configuration: its own connection and the settings.

        A plugin that an engine attached to (PULUMI_DEBUG_PROVIDERS) outlives the engine's Cancel, and is configured
        again by the next one. It then forgets what it knew.
        """
        if self._pool is not None:
            await self._pool.close()
            self._pool = None
        self._cancelled = False
        self._silent.clear()
        self._default, self.settings, self._configured = default, settings, True

    @property
    def configured(self) -> bool:
        """Whether Configure was called. The engine does not call it while a part of the configuration is unknown."""
        return self._configured

    def filled(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Inputs with the provider's connection where they have none of their own."""
        if self._default is None or inputs.get("connection") is not None:
            return inputs
        return {**inputs, "connection": self._default}

    def connection(self, inputs: Mapping[str, Any]) -> Connection | None:
        """The resource's own connection, else the provider's, else this machine; None while it is not known."""
        own = inputs.get("connection")
        if has_unknown(own):
            return None
        return Connection.from_inputs(own if own is not None else self._default)

    def place(self, inputs: Mapping[str, Any]) -> tuple[str | None, str | None] | None:
        """Which host, and which namespace, inputs name; None while that is not known."""
        connection = self.connection(inputs)
        return None if connection is None else (connection.host, connection.netns)

    async def host(self, urn: str, inputs: Mapping[str, Any]) -> Session:
        """The session with the resource's host.

        Raises:
            HostnetError: The connection is not known, or the engine cancelled.
        """
        if not self._configured:
            why = "the engine did not configure the provider (Configure was not called)"
            raise HostnetError(Code.INVALID, "cannot reach the host", why)
        connection = self.connection(inputs)
        if connection is None:
            raise HostnetError(Code.INVALID, "cannot reach the host", "the value of connection is not known yet")
        if self._cancelled:
            raise _cancelled()
        known = self._pool.known(connection) if self._pool is not None else None
        if known is not None:
            return known
        return await self._until_cancelled(urn, connection.label, self._session(connection))

    async def apply(self, urn: str, host: Session, change: Change) -> View:
        """Apply a change. Once it is under way it goes on to its end, also where the engine hangs up."""
        return await self._answer(urn, host.label, self._keep(host.apply(change)))

    async def read(self, urn: str, host: Session, query: Query) -> View | None:
        """What the host has for a resource."""
        return await self._answer(urn, host.label, self._keep(host.read(query)))

    async def facts(self, urn: str, host: Session, name: str, arguments: dict[str, Any]) -> Facts:
        """Answer a question about the host."""
        return await self._answer(urn, host.label, self._keep(host.facts(name, arguments)))

    async def preview(self, urn: str, inputs: Mapping[str, Any], change: Change, take: Take) -> View | None:
        """Ask the host, if it answers soon, whether a change would work, and warn where it would not. Never fails.

        Args:
            urn: The resource.
            inputs: Its inputs.
            change: What would be asked for.
            take: Asks for it, where it may wait for others (`Turns.take`).

        Returns:
            What the host would have then; None where it would not work, or was not asked.
        """
        connection = self.connection(inputs)
        if connection is None or not self._configured or connection in self._silent:
            return None
        try:
            view = await self._soon(connection, change, take)
            for warning in view.warnings:
                self._log.warn(urn, warning)
        except TimeoutError:
            self._silent.add(connection)
            self._log.warn(urn, f"{connection.label}: no answer in time. This preview does not check changes on it")
        except HostnetError as error:
            if error.code is Code.UNREACHABLE:
                self._silent.add(connection)
            if error.code is not Code.CANCELLED:
                self._log.warn(urn, f"this change would fail: {error}")
        else:
            return view
        return None

    async def cancel(self) -> None:
        """Fail the requests that were not sent yet; let those that were go on to their end."""
        self._cancelled = True
        for task in self._reaching:
            task.cancel()
        if self._pool is not None:
            await self._pool.cancel()

    async def close(self) -> None:
        """End all sessions."""
        for task in self._tasks:
            task.cancel()
        if self._pool is not None:
            await self._pool.close()

    async def _soon(self, connection: Connection, change: Change, take: Take) -> View:
        """Ask, and wait while the host shows signs of life: a distant host, or one of many, may take longer.

        Raises:
            TimeoutError: There was none for `PREVIEW_SECONDS`.
        """
        hosts: list[Session] = []

        async def ask() -> View:
            hosts.append(await self._session(connection))
            return await take(change, hosts[0].apply)

        task, start = self._keep(ask()), idle_clock()
        while not task.done():
            last = max((host.last_activity for host in hosts), default=0.0)
            left = max(start, last) + PREVIEW_SECONDS - idle_clock()
            if left <= 0:
                raise TimeoutError
            await asyncio.wait({task}, timeout=left)
        return task.result()

    async def _session(self, connection: Connection) -> Session:
        if self._pool is None:
            self._pool = self._make_pool(self.settings, self._progress)
        return await self._pool.host(connection)

    async def _until_cancelled(self, urn: str, label: str, waiting: Awaitable[T]) -> T:
        """Wait, unless the engine cancels."""
        task = self._keep(waiting)
        self._reaching.add(task)
        try:
            return await self._announced(urn, label, task)
        except asyncio.CancelledError:
            if self._cancelled and task.cancelled():
                raise _cancelled() from None
            raise
        finally:
            self._reaching.discard(task)

    async def _answer(self, urn: str, label: str, waiting: asyncio.Future[T]) -> T:
        """Wait for a host's answer; then the last line about the host is out of date."""
        try:
            return await self._announced(urn, label, waiting)
        finally:
            self._progress_of.pop(label, None)

    async def _announced(self, urn: str, label: str, task: asyncio.Future[T]) -> T:
        """Wait; where it takes long, the status column says for what."""
        done, _ = await asyncio.wait({task}, timeout=SILENT_SECONDS)
        if done:
            return task.result()
        waiting = self._waiting.setdefault(label, [])
        if len(waiting) >= MOST_WAITING:
            return await asyncio.shield(task)
        self._log.status(urn, self._progress_of.get(label, f"waiting for {label} …"))
        waiting.append(urn)
        try:
            return await asyncio.shield(task)
        finally:
            waiting.remove(urn)
            self._log.status(urn, "")  # else the last line stays beside "created"

    def _progress(self, label: str, text: str) -> None:
        """Show what happens with a host at those of its resources that have waited for a while."""
        self._progress_of[label] = text
        for urn in self._waiting.get(label, ()):
            self._log.status(urn, text)

    def _keep(self, waiting: Awaitable[T]) -> asyncio.Future[T]:
        """A task that goes on where the wait for it ends early: other requests may share it."""
        task = asyncio.ensure_future(waiting)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # asyncio complains about an exception that is never retrieved


def _cancelled() -> HostnetError:
    return HostnetError(Code.CANCELLED, "cancelled", "nothing was sent to the host")
