"""Which host a resource is on, and the way there: waiting, cancelling, looking ahead in a preview."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from hostnet.hosts.connection import Connection, Settings
from hostnet.resources.schema.model import has_unknown
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.requests import idle_clock

if TYPE_CHECKING:
    from hostnet.lifecycle.log import EngineLog
    from hostnet.wire.requests import Change, Facts, Host, Query, View

T = TypeVar("T")

# A preview looks at a host only while that is quick: an unknown or unreachable host costs nothing (DESIGN.md 2.6).
# The seconds are those without a sign of life from it.
PREVIEW_SECONDS = 3.0

# Below this nobody wonders what the plugin is waiting for.
_SILENT_SECONDS = 0.7

NEVER = "the provider's configuration did not arrive (Configure was not called)"


class Pool(Protocol):
    """The sessions of this process: one a connection."""

    async def host(self, connection: Connection) -> Host:
        """The session to a host.

        :raises HostnetError: `UNREACHABLE` where the host or the namespace on it is gone, and others.
        """

    async def cancel(self) -> None:
        """Fail what was not sent yet with `CANCELLED`; let finish what was."""

    async def close(self) -> None:
        """End all sessions."""


# A pool tells what happens with a host: second argument, which takes the host's label and the text.
MakePool = Callable[[Settings, Callable[[str, str], None]], Pool]


class HostAccess:
    """The hosts of one provider."""

    def __init__(self, log: EngineLog, make_pool: MakePool) -> None:
        """HostAccess nothing yet.

        :param log: where waiting and warnings show.
        :param make_pool: how to get a pool once the settings are known.
        """
        self.settings = Settings()
        self._log = log
        self._make_pool = make_pool
        self._pool: Pool | None = None
        self._configured = False
        self._default: Mapping[str, Any] | None = None
        self._cancelled = asyncio.Event()
        self._silent: set[Connection] = set()
        self._waiting: Counter[tuple[str, str]] = Counter()  # a host's label, and the URN of who waits for it
        self._news: dict[str, str] = {}  # the last that was told of a host which has not answered since
        self._tasks: set[asyncio.Future[Any]] = set()

    async def configure(self, default: Mapping[str, Any] | None, settings: Settings) -> None:
        """Take the provider's configuration: its own connection and the settings.

        A plugin that an engine attached to (PULUMI_DEBUG_PROVIDERS) outlives the engine's Cancel, and is configured
        again by the next one: everything starts anew.
        """
        if self._pool is not None:
            await self._pool.close()
            self._pool = None
        self._cancelled = asyncio.Event()
        self._silent.clear()
        self._default, self.settings, self._configured = default, settings, True

    @property
    def configured(self) -> bool:
        """Whether Configure came; it does not while a preview knows not all of the configuration."""
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

    async def host(self, urn: str, inputs: Mapping[str, Any]) -> Host:
        """The session to the resource's host.

        :raises HostnetError: where it can't be reached, or the engine cancelled.
        """
        if not self._configured:
            raise HostnetError(Code.INVALID, "reach a host", NEVER)
        connection = self.connection(inputs)
        if connection is None:
            raise HostnetError(Code.INVALID, "reach a host", "its connection is not known yet")
        if self._cancelled.is_set():
            raise _cancelled()
        return await self._until_cancelled(urn, connection.label, self._session(connection))

    async def apply(self, urn: str, host: Host, change: Change) -> View:
        """Make it so; what is under way goes on to its end also when the engine hangs up."""
        return await self._answer(urn, host.label, host.apply(change))

    async def read(self, urn: str, host: Host, query: Query) -> View | None:
        """What the host has for a resource."""
        return await self._answer(urn, host.label, host.read(query))

    async def facts(self, urn: str, host: Host, name: str, arguments: dict[str, Any]) -> Facts:
        """Answer a question about the host."""
        return await self._answer(urn, host.label, host.facts(name, arguments))

    async def try_out(self, urn: str, inputs: Mapping[str, Any], change: Change) -> None:
        """Ask a host that answers soon whether a change would work, and warn where it would not. Never fails."""
        connection = self.connection(inputs)
        if connection is None or not self._configured or connection in self._silent:
            return
        try:
            view = await self._soon(connection, change)
            for warning in view.warnings:
                self._log.warn(urn, warning)
        except TimeoutError:
            self._silent.add(connection)
            self._log.warn(urn, f"{connection.label} did not answer in time: this preview does not look at it")
        except HostnetError as error:
            if error.code is Code.UNREACHABLE:
                self._silent.add(connection)
            if error.code is not Code.CANCELLED:
                self._log.warn(urn, f"this would fail: {error}")

    async def cancel(self) -> None:
        """Fail what was not sent to a host yet; let finish what was."""
        self._cancelled.set()
        if self._pool is not None:
            await self._pool.cancel()

    async def close(self) -> None:
        """End all sessions."""
        for task in self._tasks:
            task.cancel()
        if self._pool is not None:
            await self._pool.close()

    async def _soon(self, connection: Connection, change: Change) -> View:
        """Ask, and wait while the host shows signs of life: one that is far away, or one of many, may take its time.

        :raises TimeoutError: after `PREVIEW_SECONDS` without one.
        """
        hosts: list[Host] = []

        async def ask() -> View:
            hosts.append(await self._session(connection))
            return await hosts[0].apply(change)

        task, start = self._keep(ask()), idle_clock()
        while not task.done():
            heard = max((host.heard for host in hosts), default=0.0)
            left = max(start, heard) + PREVIEW_SECONDS - idle_clock()
            if left <= 0:
                raise TimeoutError
            await asyncio.wait({task}, timeout=left)
        return task.result()

    async def _session(self, connection: Connection) -> Host:
        if self._pool is None:
            self._pool = self._make_pool(self.settings, self._progress)
        return await self._pool.host(connection)

    async def _until_cancelled(self, urn: str, label: str, waiting: Awaitable[T]) -> T:
        """Wait, unless the engine cancels."""
        cancelled = asyncio.ensure_future(self._cancelled.wait())
        waited = asyncio.ensure_future(self._announced(urn, label, waiting))
        try:
            await asyncio.wait({cancelled, waited}, return_when=asyncio.FIRST_COMPLETED)
            if not waited.done():
                raise _cancelled()
            return await waited
        finally:
            cancelled.cancel()
            waited.cancel()

    async def _answer(self, urn: str, label: str, waiting: Awaitable[T]) -> T:
        """Wait for what a host answers; then what was told of it is over."""
        try:
            return await self._announced(urn, label, waiting)
        finally:
            self._news.pop(label, None)

    async def _announced(self, urn: str, label: str, waiting: Awaitable[T]) -> T:
        """Wait; where it takes long, say for what."""
        task = self._keep(waiting)
        done, _ = await asyncio.wait({task}, timeout=_SILENT_SECONDS)
        if done:
            return task.result()
        self._log.status(urn, self._news.get(label, f"waiting for {label} …"))
        self._waiting[label, urn] += 1
        try:
            return await asyncio.shield(task)
        finally:
            self._waiting[label, urn] -= 1
            self._log.status(urn, "")  # else the last of it stands beside "created"

    def _progress(self, label: str, text: str) -> None:
        """Show what happens with a host under those of its resources that have waited for a while."""
        self._news[label] = text
        for (host, urn), count in self._waiting.items():
            if count and host == label:
                self._log.status(urn, text)

    def _keep(self, waiting: Awaitable[T]) -> asyncio.Future[T]:
        """Something that goes on where a wait for it ends early: other requests may share it."""
        task = asyncio.ensure_future(waiting)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # taken notice of: asyncio complains about errors that nobody looked at


def _cancelled() -> HostnetError:
    return HostnetError(Code.CANCELLED, "stopped before anything was sent to the host", "the engine cancelled")
