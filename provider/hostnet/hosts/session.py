"""A session with one host: an agent at the end of a byte stream, and the queue in front of it (group commit).

While a transaction is under way, requests wait in the queue; the next message takes all of them. That is one round
trip, one nftables batch and one record write for as many resources as the engine asks for at once.

If the connection breaks, the session reconnects, once a request. It does not guess what became of the request: it sends
the request again with the same transaction, and an agent whose record has that transaction reports the outcome and
changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from hostnet.hosts.connection import Settings
from hostnet.hosts.reader import Lines, malformed, parsed
from hostnet.wire.errors import Code, HostnetError, OutcomeUnknownError
from hostnet.wire.protocol import (
    DOING,
    AgentProcess,
    Answer,
    Greeting,
    Holding,
    Operation,
    Outcome,
    Request,
    Waiting,
    Whole,
    is_waiting,
    is_whole,
    parse_event,
    result_from_json,
)
from hostnet.wire.requests import Change, Facts, Query, View
from hostnet.wire.shapes import ShapeError
from hostnet.wire.urn import Urn

# Gets a line about what happens with the host, for the live status column.
Status = Callable[[str], None]

# How long an agent may take to greet, and to answer: a busy host takes seconds, and 10 ms are what each of 60,000
# forwards takes on a slow one at most.
_GREETING_SECONDS = 60.0
_ANSWER_SECONDS, _OBJECT_SECONDS = 120.0, 0.01
_EVENT_BYTES = 64 << 10
# Attempts to reach a host on which a resource is read or deleted: it was there before, so it is not a new one that
# boots.
_FEW = 3
# The agent ended, was ended, or its answer can't be read: what became of the request is not known by that.
_NO_ANSWER = (Code.AGENT_DIED, Code.MALFORMED)
_UNKNOWN_FIX = "Run `pulumi up` again: it asks the host and continues"


class Transport(Protocol):
    """Starts agents on a host."""

    @property
    def last_activity(self) -> float:
        """When the host last showed that it is there while it is being connected with (`Activity.last`)."""

    async def start(self, *, attempts: int | None = None) -> Channel:
        """Start an agent.

        Args:
            attempts: To reach the host, at most; None: as many as the connection allows.

        Raises:
            HostnetError: The host can't be reached, or the agent can't be started.
        """

    async def verify_login(self) -> None:
        """Log in by a new connection, as the next provider will have to.

        Raises:
            HostnetError: That fails.
        """

    async def close(self) -> None:
        """Hang up."""


class Channel(Protocol):
    """The byte stream to a started agent.

    Attributes:
        reader: Its output. While nobody reads, it is held back (`hosts/reader.py`).
    """

    reader: asyncio.StreamReader

    @property
    def lost(self) -> bool:
        """Whether the connection broke: then it is not known what became of the agent."""

    def write(self, data: bytes) -> None:
        """Send."""

    async def ended(self) -> str:
        """How it ended, once it has: "killed by SIGSEGV", with its last output."""

    async def close(self) -> None:
        """End it."""


class _LostError(Exception):
    """The connection broke before the agent answered."""


@dataclass
class _Waiting:
    """A change or a query in the queue."""

    item: Change | Query
    outcome: asyncio.Future[Outcome | None]


class Session:
    """A host, through its agent. Every request raises `HostnetError` where it fails.

    Args:
        label: The host as messages name it: `this machine`, `root@203.0.113.5`, `this machine (namespace demo)`.
        transport: Starts the agent.
        status: Gets what happens with the host.
        lock_timeout: For how many seconds a request waits on the host for another process.

    Attributes:
        greeting: That of the last agent.
    """

    def __init__(
        self,
        label: str,
        transport: Transport,
        status: Status = lambda _: None,
        lock_timeout: float = Settings.lock_timeout,
    ) -> None:
        self.label = label
        self.greeting = Greeting("", AgentProcess(0, 0), "", "")
        self._transport = transport
        self._status = status
        self._lock_timeout = lock_timeout
        self._sent: Request | None = None  # and not answered yet
        self._opening: asyncio.Task[Channel] | None = None
        self._cancelled = False
        self._channel: Channel | None = None
        self._lines: Lines  # of `_channel`: there is none before there is one
        self._queues: dict[Operation, list[_Waiting]] = {}
        self._unsure: set[tuple[str, str]] = set()  # owners whose change was sent, and the answer never came
        self._busy = asyncio.Lock()
        self._number = 0

    @property
    def last_activity(self) -> float:
        """When the host last showed that it is there while it is being connected with (`Activity.last`)."""
        return self._transport.last_activity

    async def apply(self, change: Change) -> View:
        """Apply a change, in one transaction with those that wait beside it; a dry one is only tried.

        Returns:
            What the host has for the resource then.
        """
        owner = (change.urn, change.id)
        # What may have been created before the connection broke is not created a second time beside the first.
        if owner in self._unsure:
            change = replace(change, known=True)
        try:
            view = await self._joined("apply", change)
        except HostnetError as error:
            if error.code in (Code.UNREACHABLE, Code.AGENT_DIED):
                self._unsure.add(owner)
            raise
        if view is None:
            raise TypeError(f"a change has an outcome: {change.urn}")
        return view

    async def read(self, query: Query) -> View | None:
        """Read a resource; None where it no longer exists. Joined with the queries that wait beside it."""
        return await self._joined("read", query)

    async def facts(self, name: str, arguments: dict[str, Any]) -> Facts:
        """Ask about the host.

        Args:
            name: `host`, `bridge`, `forwards`, `status`, `traffic` or `doctor`.
            arguments: Those of the question.
        """
        async with self._busy:
            request = self._request("facts", facts=name, arguments=arguments)
            return Facts((await self._ask(request, f"{name} facts")).result)

    async def restore(self) -> int:
        """Restore what the record holds; gives the number of owners."""
        async with self._busy:
            count: int = (await self._ask(self._request("restore"), "the record")).result
            return count

    async def watch(self) -> AsyncIterator[str]:
        """Have the agent follow new interfaces; gives what it reports, until there is nothing left to follow."""
        async with self._busy:
            channel = await self._open()
            channel.write(self._request("watch").to_line())
            try:
                while line := await self._lines.next(_EVENT_BYTES):
                    yield parse_event(line)
            except ShapeError as error:
                raise malformed(error, "watching", self.label) from None

    async def connect(self) -> None:
        """Start the agent now, to learn whether the host is there."""
        async with self._busy:
            await self._open()

    async def close(self) -> None:
        """End the session; what is committed stays."""
        self.cancel()
        if self._channel is not None:
            channel, self._channel = self._channel, None
            await channel.close()
        await self._transport.close()

    def cancel(self) -> None:
        """Send nothing more, and stop waiting for the host. What has begun there goes on to its end.

        What waits there for another process does not begin any more.
        """
        self._cancelled = True
        if self._channel is not None and self._sent is not None:
            with contextlib.suppress(OSError):
                self._channel.write(Request(self._sent.id, "cancel").to_line())
        if self._opening is not None:
            self._opening.cancel()

    # --- the queue -------------------------------------------------------------------------------------------------

    async def _joined(self, operation: Operation, item: Change | Query) -> View | None:
        """Wait in the queue; whoever finds the host free sends everything that waits."""
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
            outcomes = (await self._ask(request, names, attempts=_patience(items))).result
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
        return type(error)(error.code, error.what, error.why, error.fix, error.host or self.label)

    # --- the agent -------------------------------------------------------------------------------------------------

    async def _open(self, *, attempts: int | None = None) -> Channel:
        """The channel to a running agent.

        Raises:
            HostnetError: No agent can be started, or the session was cancelled.
        """
        if self._channel is not None and self._lines.ended:
            self._channel = None  # it ended while no request was under way
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
        self._lines = Lines(channel.reader)
        doing = "starting the agent"
        try:
            async with asyncio.timeout(_GREETING_SECONDS):
                line = await self._read_line(channel, doing)
            self.greeting = parsed(lambda: Greeting.parse(line, self.label), doing, self.label)
        except _LostError as lost:
            what = "lost the connection while starting the agent"
            raise HostnetError(Code.UNREACHABLE, what, str(lost), "Try again", self.label) from None
        except TimeoutError:
            await channel.close()
            raise self._silent(doing, _GREETING_SECONDS) from None
        except BaseException:  # cancelled, say: no agent is left behind
            await channel.close()
            raise
        return channel

    def _request(self, operation: Operation, **rest: Any) -> Request:
        self._number += 1
        return Request(self._number, operation, **rest)

    async def _ask(self, request: Request, names: str, *, attempts: int | None = None) -> Answer:
        channel = await self._open(attempts=attempts)
        doing = f"{DOING[request.op]} {names}"
        try:
            answer = await self._converse(channel, request, doing)
        except _LostError as lost:
            answer = await self._ask_again(request, doing, str(lost))
        except HostnetError as died:
            if died.code not in _NO_ANSWER or all(change.dry for change in request.changes):
                raise
            answer = await self._ask_outcome(request, doing, died)
        if answer.error is not None:
            raise answer.error
        return answer

    async def _ask_outcome(self, request: Request, doing: str, died: HostnetError) -> Answer:
        """Ask the next agent what became of a request of which the last one died.

        The next agent starts at once and rolls back what is half done. The request is not tried again: it may be what
        the agent died of. The next agent may take as long for its answer as for any other, and wait as long for the
        host's lock.

        Raises:
            HostnetError: It was not applied.
            OutcomeUnknownError: The next agent can't say.
        """
        self._number += 1
        question = replace(request, id=self._number, outcome_only=True)
        try:
            channel = await self._open()
            answer = await self._converse(channel, question, doing)
        except HostnetError as error:
            raise self._unknown(died, f"{error.what}: {error.why}") from None
        except _LostError as lost:
            raise self._unknown(died, str(lost)) from None
        if answer.error is None:
            return answer
        if answer.error.code is Code.AGENT_DIED:
            raise died  # it has no result: it was not applied, and what was half done is rolled back
        raise self._unknown(died, f"{answer.error.what}: {answer.error.why}")

    def _unknown(self, died: HostnetError, why: str) -> OutcomeUnknownError:
        """The error about a change of which an agent died, and the next one can't say what became of it."""
        what = f"{died.what}, and whether the change was made is not known"
        return OutcomeUnknownError(died.code, what, f"{died.why}; {why}", _UNKNOWN_FIX, self.label)

    async def _ask_again(self, request: Request, doing: str, lost: str) -> Answer:
        """Reconnect and send the same request to another agent, which ends the first one."""
        first = self.greeting.process
        self._status(f"reconnecting to {self.label}: {lost}")
        try:
            channel = await self._open()
            return await self._converse(channel, replace(request, replaces=first), doing)
        except (HostnetError, _LostError) as error:
            raise self._not_reconnected(request, doing, lost, error) from None

    def _not_reconnected(
        self, request: Request, doing: str, lost: str, error: HostnetError | _LostError
    ) -> HostnetError:
        code, why = Code.UNREACHABLE, str(error)
        if isinstance(error, HostnetError):
            code = error.code if error.code is not Code.CANCELLED else Code.UNREACHABLE
            why = f"{error.what}: {error.why}"
        what = f"lost the connection while {doing} and could not reconnect"
        if all(change.dry for change in request.changes):
            return HostnetError(code, what, f"{lost}; {why}", "Try again", self.label)
        fix = (
            f"Whether the change was made is not known. {_UNKNOWN_FIX}. A change that makes the host unreachable is "
            "rolled back automatically after the provider's confirmTimeout"
        )
        return OutcomeUnknownError(code, what, f"{lost}; {why}", fix, self.label)

    async def _converse(self, channel: Channel, request: Request, doing: str) -> Answer:
        """Ask, and confirm the change where the host waits for that: its answer arrived (docs/architecture.md)."""
        return await self._confirm(channel, request, await self._exchange(channel, request, doing), doing)

    async def _confirm(self, channel: Channel, request: Request, answer: Answer, doing: str) -> Answer:
        if answer.confirm is None:
            return answer
        refusal = await self._login_failure() if answer.confirm == "login" else ""
        word = Request(request.id, "roll-back", why=refusal) if refusal else Request(request.id, "confirm")
        settled = await self._exchange(channel, word, doing, about=request)
        return settled if refusal or settled.error else answer

    async def _login_failure(self) -> str:
        """Why nobody could log in any more after the change; "": a login succeeded."""
        try:
            await self._transport.verify_login()
        except HostnetError as error:
            return f"after the change a new connection to the host failed ({error.what}: {error.why})"
        return ""

    async def _exchange(self, channel: Channel, request: Request, doing: str, about: Request | None = None) -> Answer:
        """Send a request and read its answer.

        Args:
            channel: Leads to the agent.
            request: What is sent.
            doing: For messages: "applying web".
            about: Whose result the answer has, where it is a request before.
        """
        about = about or request
        with contextlib.suppress(OSError):  # reading tells what became of the channel
            channel.write(request.to_line())
        within = _answer_seconds(about)
        self._sent = request
        try:
            async with asyncio.timeout(within) as limit:
                answer = await self._answer_to(channel, request.id, doing, limit)
            if answer.error is None:
                answer = replace(answer, result=result_from_json(about, answer.result, self.label))
        except TimeoutError:
            await self._hang_up(channel)
            raise self._silent(doing, within) from None
        except ShapeError as error:
            await self._hang_up(channel)
            raise malformed(error, doing, self.label) from None
        finally:
            self._sent = None
        return answer

    async def _answer_to(self, channel: Channel, number: int, doing: str, limit: asyncio.Timeout) -> Answer:
        waits = wholes = False
        while True:
            line = await self._read_line(channel, doing)
            if is_whole(line):
                Whole.parse(line)
                if self._sent is None or self._sent.id != number or wholes:
                    raise ShapeError("it asks for a whole request twice")
                wholes = True
                with contextlib.suppress(OSError):
                    channel.write(self._sent.to_line(whole=True))
                continue
            if is_waiting(line):
                self._status(_waits(Waiting.parse(line).waiting, self.label))
                if not waits:
                    limit.reschedule((limit.when() or 0.0) + self._lock_timeout)
                waits = True
                continue
            answer = Answer.parse(line, self.label)
            if answer.id == number:
                return answer
            if answer.id > number:
                raise ShapeError(f"it answers request {answer.id}, and the last one was {number}")
            # It is late: its request is no longer waited for.

    async def _read_line(self, channel: Channel, doing: str) -> bytes:
        try:
            line = await self._lines.next()
        except ConnectionError as error:
            line, reason = b"", str(error)
        else:
            reason = ""
        if not line.endswith(b"\n"):
            self._channel = None
            how = reason or await channel.ended()
            if channel.lost:
                raise _LostError(how)
            fix = "The next agent starts at once and rolls back what was half done. Run the command again"
            raise HostnetError(Code.AGENT_DIED, f"the agent ended while {doing}", how, fix, self.label)
        return line

    def _silent(self, doing: str, seconds: float) -> HostnetError:
        fix = "Check the load of the host, and run the command again"
        why = f"no answer within {seconds:g} s"
        return HostnetError(Code.AGENT_DIED, f"the agent did not answer while {doing}", why, fix, self.label)

    async def _hang_up(self, channel: Channel) -> None:
        """End an agent that can't be talked with."""
        self._channel = None
        await channel.close()

    def _nothing_sent(self) -> HostnetError:
        return HostnetError(Code.CANCELLED, "cancelled", "nothing was sent to the host", "", self.label)


def _patience(items: Sequence[Change | Query]) -> int | None:
    """How often to try to reach the host for these requests; None: as often as the connection allows.

    A new server is waited for when something is created on it. A preview waits for no host.
    """
    changes = [item for item in items if isinstance(item, Change)]
    if changes and all(change.dry for change in changes):
        return 1
    return None if any(change.objects for change in changes) else _FEW


def _answer_seconds(request: Request) -> float:
    """How long an agent may take for a request."""
    objects = sum(len(each.objects) + len(each.prior) for each in request.changes)
    return _ANSWER_SECONDS + _OBJECT_SECONDS * (objects + sum(len(each.objects) for each in request.queries))


def _waits(holding: Holding, label: str) -> str:
    """The line for the status column while another process holds the host's lock."""
    if not holding.pid:
        return f"waiting for {label}: another process has its lock"
    doing = f" ({holding.doing})" if holding.doing else ""
    return f"waiting for {label}: process {holding.pid}{doing} has had its lock for {holding.seconds} s"
