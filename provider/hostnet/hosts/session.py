"""A session with one host: an agent at the end of a byte stream, and the queue in front of it (group commit).

While one transaction is under way, requests gather; the next message takes them all. That is one trip, one nftables
batch and one record write for as many resources as the engine asks for at once.

A connection that breaks is made anew, once a request. What became of the request is asked, not guessed: it is sent
again with its transaction's number, and an agent whose record has that number tells what it recorded and does nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.protocol import (
    AgentProcess,
    Answer,
    Greeting,
    Operation,
    Outcome,
    Request,
    outcomes_from_json,
    parse_event,
)
from hostnet.wire.requests import Change, Facts, Query, View
from hostnet.wire.urn import Urn

Status = Callable[[str], None]
_LIMIT = 256 << 20  # bytes a line: 10,000 forwards are some 3 MB


class Transport(Protocol):
    """Something that starts an agent."""

    @property
    def heard(self) -> float:
        """See `Host.heard`."""

    async def start(self, *, attempts: int | None = None) -> Channel:
        """Start it.

        :param attempts: to reach the host, at most; None: as many as the connection allows.
        :raises HostnetError: where it can't be reached.
        """

    async def anew(self) -> None:
        """HostAccess the host by a new connection, as the next provider will have to.

        :raises HostnetError: where that fails.
        """

    async def close(self) -> None:
        """Let go of what leads there."""


class Channel(Protocol):
    """The byte stream to a started agent."""

    reader: asyncio.StreamReader

    @property
    def lost(self) -> bool:
        """Whether the way to the agent broke: what became of the agent is not known then."""

    def write(self, data: bytes) -> None:
        """Send."""

    async def ended(self) -> str:
        """How it ended, once it has: "signal 11 (SIGSEGV)", with the last that it said."""

    async def close(self) -> None:
        """End it."""


class _LostError(Exception):
    """The way to the agent broke before it answered."""


@dataclass
class _Waiting:
    """A change or a query in the queue."""

    item: Change | Query
    outcome: asyncio.Future[Outcome | None]


# Attempts to reach a host on which something is to be looked at or deleted: it was there before, so it is not a new one
# that boots.
_FEW = 3
# How long the next agent may take, after one died, to get the host's lock and tell what became of the transaction.
_OUTCOME_SECONDS = 5.0


class Session:
    """A host, through its agent. Implements `hostnet.wire.requests.Host`.

    :param label: the host, for messages.
    :param transport: starts the agent.
    :param status: told what happens with the host.
    """

    def __init__(self, label: str, transport: Transport, status: Status = lambda _: None) -> None:
        self.label = label
        self._transport = transport
        self._status = status
        self._opening: asyncio.Task[Channel] | None = None
        self._cancelled = False
        self._channel: Channel | None = None
        self._queues: dict[Operation, list[_Waiting]] = {}
        self._unsure: set[tuple[str, str]] = set()  # applied, and the answer never came
        self._busy = asyncio.Lock()
        self._number = 0
        self.greeting = Greeting("", AgentProcess(0, 0), "", "")  # of the last agent

    @property
    def heard(self) -> float:
        """See `Host.heard`."""
        return self._transport.heard

    async def apply(self, change: Change) -> View:
        """See `Host.apply`."""
        identity = (change.urn, change.id)
        # What may have been done before the host was lost is not created beside itself the second time.
        change = replace(change, known=change.known or identity in self._unsure)
        try:
            view = await self._joined("apply", change)
        except HostnetError as error:
            if error.code in (Code.UNREACHABLE, Code.AGENT_DIED):
                self._unsure.add(identity)
            raise
        if view is None:
            raise TypeError(f"no outcome for {change.urn}")
        return view

    async def read(self, query: Query) -> View | None:
        """See `Host.read`."""
        return await self._joined("read", query)

    async def facts(self, name: str, arguments: dict[str, Any]) -> Facts:
        """See `Host.facts`."""
        async with self._busy:
            request = self._request("facts", facts=name, arguments=arguments)
            return Facts((await self._ask(request, name)).result)

    async def restore(self) -> int:
        """Put back what is recorded; gives the number of owners."""
        async with self._busy:
            return int((await self._ask(self._request("restore"), "restore")).result)

    async def watch(self) -> AsyncIterator[str]:
        """Have the agent follow new interfaces; gives what it says, till there is nothing to follow any more."""
        async with self._busy:
            channel = await self._open()
            channel.write(self._request("watch").to_line())
            while line := await channel.reader.readline():
                yield parse_event(line)

    async def connect(self) -> None:
        """Start the agent now, to learn whether the host is there."""
        async with self._busy:
            await self._open()

    async def close(self) -> None:
        """See `Host.close`."""
        self.cancel()
        if self._channel is not None:
            channel, self._channel = self._channel, None
            await channel.close()
        await self._transport.close()

    def cancel(self) -> None:
        """Send nothing more, and wait for no host any longer; what was sent ends in its own time."""
        self._cancelled = True
        if self._opening is not None:
            self._opening.cancel()

    # --- the queue -------------------------------------------------------------------------------------------------

    async def _joined(self, operation: Operation, item: Change | Query) -> View | None:
        """Wait in the queue; whoever finds the host free sends all that wait."""
        waiting = _Waiting(item, asyncio.get_running_loop().create_future())
        self._queues.setdefault(operation, []).append(waiting)
        async with self._busy:
            if not waiting.outcome.done():
                await self._flush(operation)
        outcome = await waiting.outcome
        if isinstance(outcome, HostnetError):
            raise outcome
        return outcome

    async def _flush(self, operation: Operation) -> None:
        # Let everything that the event loop has at hand join first.
        await asyncio.sleep(0)
        batch = self._queues.pop(operation, [])
        items = [waiting.item for waiting in batch]
        names = ", ".join(Urn.parse(item.urn).name for item in items[:5])
        request = self._request(
            operation,
            changes=tuple(item for item in items if isinstance(item, Change)),
            queries=tuple(item for item in items if isinstance(item, Query)),
            transaction=secrets.token_hex(8) if operation == "apply" else "",
        )
        try:
            answer = await self._ask(request, names, attempts=_patience(items))
            outcomes = outcomes_from_json(answer.result, self.label)
        except Exception as error:  # noqa: BLE001 - a bug of ours, too, has to reach all who wait
            for waiting in batch:
                if not waiting.outcome.done():
                    waiting.outcome.set_exception(self._of_each(error))
            return
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if not waiting.outcome.done():
                waiting.outcome.set_result(outcome)

    def _of_each(self, error: Exception) -> Exception:
        """An error for one of several who wait: each gets its own, since raising changes it."""
        if not isinstance(error, HostnetError):
            return error
        return HostnetError(error.code, error.what, error.why, error.fix, error.host or self.label)

    # --- the agent -------------------------------------------------------------------------------------------------

    async def _open(self, *, attempts: int | None = None) -> Channel:
        """The channel to a running agent.

        :raises HostnetError: where there is no way to one, or no time any more.
        """
        if self._channel is not None and self._channel.reader.at_eof():
            self._channel = None  # it ended while nothing was asked of it
        if self._cancelled:
            raise self._nothing_sent()
        if self._channel is None:
            self._opening = asyncio.ensure_future(self._start(attempts))
            try:
                self._channel = await self._opening
            except asyncio.CancelledError:
                if not self._cancelled:
                    raise
                raise self._nothing_sent() from None
            finally:
                self._opening = None
        return self._channel

    async def _start(self, attempts: int | None) -> Channel:
        channel = await self._transport.start(attempts=attempts)
        try:
            greeting = await self._read_line(channel, "start the agent")
        except _LostError as lost:
            raise HostnetError(
                Code.UNREACHABLE, "the host went away as the agent was started", str(lost), "Try again", self.label
            ) from None
        try:
            self.greeting = Greeting.parse(greeting, self.label)
        except HostnetError:
            await channel.close()
            raise
        return channel

    def _request(self, operation: Operation, **rest: Any) -> Request:
        self._number += 1
        return Request(self._number, operation, **rest)

    async def _ask(self, request: Request, label: str, *, attempts: int | None = None) -> Answer:
        channel = await self._open(attempts=attempts)
        doing = f"{request.op} {label}"
        try:
            answer = await self._converse(channel, request, doing)
        except _LostError as lost:
            answer = await self._ask_again(request, doing, str(lost))
        except HostnetError as died:
            if request.op != "apply" or died.code is not Code.AGENT_DIED:
                raise
            answer = await self._outcome(request, doing, died)
        if answer.error is not None:
            raise answer.error
        return answer

    async def _outcome(self, request: Request, doing: str, died: HostnetError) -> Answer:
        """After the agent died: the next one starts at once, undoes what is half done, and tells what was done.

        The request is not tried again: it may be what the agent died of.
        """
        self._number += 1
        question = replace(request, id=self._number, outcome_only=True)
        try:
            async with asyncio.timeout(_OUTCOME_SECONDS):
                channel = await self._open()
                answer = await self._exchange(channel, question, doing)
            answer = await self._confirm(channel, question, answer, doing)
        except (HostnetError, _LostError, TimeoutError):
            raise died from None
        if answer.error is not None:
            raise died
        return answer

    async def _ask_again(self, request: Request, doing: str, lost: str) -> Answer:
        """After the way broke: the same request through another agent, which sees to the end of the first."""
        first = self.greeting.process
        self._status(f"connecting to {self.label} again: {lost}")
        try:
            channel = await self._open()
            return await self._converse(channel, replace(request, replaces=first), doing)
        except (HostnetError, _LostError) as error:
            code = error.code if isinstance(error, HostnetError) else Code.UNREACHABLE
            raise HostnetError(
                code if code is not Code.CANCELLED else Code.UNREACHABLE,
                f"the host went away while it was to {doing}, and did not come back",
                f"{lost}; then: {error}",
                "Whether it was done is not known until the host answers: the next `pulumi up` finds out and goes on. "
                "What cut the way to the host, the host undoes by itself after the provider's confirmTimeout",
                self.label,
            ) from None

    async def _converse(self, channel: Channel, request: Request, doing: str) -> Answer:
        """Ask, and confirm what was done, where the host waits for that: we still hear it (DESIGN.md 2.5)."""
        return await self._confirm(channel, request, await self._exchange(channel, request, doing), doing)

    async def _confirm(self, channel: Channel, request: Request, answer: Answer, doing: str) -> Answer:
        if answer.confirm is None:
            return answer
        refusal = await self._refusal() if answer.confirm == "login" else ""
        word = Request(request.id, "undo", why=refusal) if refusal else Request(request.id, "confirm")
        settled = await self._exchange(channel, word, doing)
        return settled if refusal or settled.error else answer

    async def _refusal(self) -> str:
        """Why what was done can't stay: nobody could log in any more. "": they could."""
        try:
            await self._transport.anew()
        except HostnetError as error:
            return f"a new connection to the host failed after it ({error.what}: {error.why})"
        return ""

    async def _exchange(self, channel: Channel, request: Request, doing: str) -> Answer:
        with contextlib.suppress(OSError):  # the reader tells what became of the channel
            channel.write(request.to_line())
        while True:
            answer = Answer.parse(await self._read_line(channel, doing), self.label)
            if answer.id == request.id:
                return answer  # another is late: who asked for it waits no longer

    async def _read_line(self, channel: Channel, doing: str) -> bytes:
        try:
            line = await channel.reader.readline()
        except (ConnectionError, ValueError) as error:
            line, said = b"", str(error)
        else:
            said = ""
        if not line.endswith(b"\n"):
            self._channel = None
            how = said or await channel.ended()
            if channel.lost:
                raise _LostError(how)
            raise HostnetError(
                Code.AGENT_DIED,
                f"the agent ended while it was to {doing}",
                how,
                "What it had half done is undone when the next one starts, which is at once; run the command again",
                self.label,
            )
        return line

    def _nothing_sent(self) -> HostnetError:
        return HostnetError(
            Code.CANCELLED, "stopped before anything was sent to the host", "the engine cancelled", "", self.label
        )


def _patience(items: Sequence[Change | Query]) -> int | None:
    """How often to try to reach the host for these requests; None: as often as the connection allows.

    A new server is waited for by what is to be made on it. A preview waits for none.
    """
    changes = [item for item in items if isinstance(item, Change)]
    if changes and all(change.dry for change in changes):
        return 1
    return None if any(change.objects for change in changes) else _FEW
