"""A session with one host: an agent at the end of a byte stream, and the queue in front of it (group commit).

While one transaction is under way, requests gather; the next message takes them all. That is one trip, one nftables
batch and one record write for as many resources as the engine asks for at once.

A connection that breaks is made anew, once a request. What became of the request is asked, not guessed: it is sent
again with its transaction's number, and an agent whose record has that number tells what it recorded and does nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import from_json, state_from_json, to_json
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
    """A request in the queue."""

    payload: dict[str, Any]
    label: str
    future: asyncio.Future[Any]


# How an operation's requests are joined into one message: the name of the list they travel in.
_JOINED = {"apply": "changes", "read": "queries"}
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
        self._queues: dict[str, list[_Waiting]] = {}
        self._unsure: set[tuple[str, str]] = set()  # applied, and the answer never came
        self._busy = asyncio.Lock()
        self._number = 0
        self.hello: dict[str, Any] = {}

    @property
    def heard(self) -> float:
        """See `Host.heard`."""
        return self._transport.heard

    async def apply(self, change: Change) -> View:
        """See `Host.apply`."""
        identity = (change.urn, change.id)
        payload = {
            "urn": change.urn,
            "id": change.id,
            "objects": [to_json(item) for item in change.objects],
            "prior": [to_json(item) for item in change.prior],
            # What may have been done before the host was lost is not created beside itself the second time.
            "known": change.known or identity in self._unsure,
            "dry": change.dry,
        }
        try:
            view = await self._joined("apply", payload, change.urn)
        except HostnetError as error:
            if error.code in (Code.UNREACHABLE, Code.AGENT_DIED):
                self._unsure.add(identity)
            raise
        return self._view(view)

    async def read(self, query: Query) -> View | None:
        """See `Host.read`."""
        payload = {
            "urn": query.urn,
            "id": query.id,
            "kind": query.kind,
            "objects": [to_json(item) for item in query.objects],
        }
        view = await self._joined("read", payload, query.urn)
        return None if view is None else self._view(view)

    async def facts(self, name: str, arguments: dict[str, Any]) -> Facts:
        """See `Host.facts`."""
        async with self._busy:
            return Facts(await self._ask("facts", {"name": name, "arguments": arguments}, name))

    async def restore(self) -> int:
        """Put back what is recorded; gives the number of owners."""
        async with self._busy:
            return int(await self._ask("restore", {}, "restore"))

    async def watch(self) -> AsyncIterator[str]:
        """Have the agent follow new interfaces; gives what it says, till there is nothing to follow any more."""
        async with self._busy:
            channel = await self._open()
            channel.write(json.dumps({"id": 0, "op": "watch"}).encode() + b"\n")
            while line := await channel.reader.readline():
                yield json.loads(line)["said"]

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

    def _view(self, data: dict[str, Any]) -> View:
        if "error" in data:
            raise HostnetError.from_json(data["error"], self.label)
        objects = tuple(map(from_json, data["objects"]))
        seen = tuple(state_from_json(item.type, what) for item, what in zip(objects, data["seen"], strict=False))
        return View(data["id"], objects, seen, tuple(data["warnings"]))

    # --- the queue -------------------------------------------------------------------------------------------------

    async def _joined(self, operation: str, payload: dict[str, Any], label: str) -> Any:
        """Wait in the queue; whoever finds the host free sends all that wait."""
        waiting = _Waiting(payload, label, asyncio.get_running_loop().create_future())
        queue = self._queues.setdefault(operation, [])
        queue.append(waiting)
        async with self._busy:
            if not waiting.future.done():
                await self._flush(operation)
        return await waiting.future

    async def _flush(self, operation: str) -> None:
        # Let everything that the event loop has at hand join first.
        await asyncio.sleep(0)
        batch = self._queues.pop(operation, [])
        labels = ", ".join(Urn.parse(item.label).name for item in batch[:5])
        try:
            payload = {_JOINED[operation]: [item.payload for item in batch]}
            results = await self._ask(operation, payload, labels, attempts=_patience(operation, batch))
        except Exception as error:  # noqa: BLE001 - a bug of ours, too, has to reach all who wait
            for item in batch:
                if not item.future.done():
                    item.future.set_exception(self._of_each(error))
            return
        for item, result in zip(batch, results, strict=True):
            if not item.future.done():
                item.future.set_result(result)

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
        if "error" in greeting:
            await channel.close()
            raise HostnetError.from_json(greeting["error"], self.label)
        self.hello = greeting["hello"]
        return channel

    async def _ask(self, operation: str, payload: dict[str, Any], label: str, *, attempts: int | None = None) -> Any:
        channel = await self._open(attempts=attempts)
        self._number += 1
        request = {"id": self._number, "op": operation, **payload}
        if operation == "apply":
            request["transaction"] = secrets.token_hex(8)
        doing = f"{operation} {label}"
        try:
            answer = await self._converse(channel, request, doing)
        except _LostError as lost:
            answer = await self._ask_again(request, doing, str(lost))
        except HostnetError as died:
            if operation != "apply" or died.code is not Code.AGENT_DIED:
                raise
            answer = await self._outcome(request, doing, died)
        if "error" in answer:
            raise HostnetError.from_json(answer["error"], self.label)
        return answer["result"]

    async def _outcome(self, request: dict[str, Any], doing: str, died: HostnetError) -> dict[str, Any]:
        """After the agent died: the next one starts at once, undoes what is half done, and tells what was done.

        The request is not tried again: it may be what the agent died of.
        """
        self._number += 1
        question = {**request, "id": self._number, "ask": True}
        try:
            async with asyncio.timeout(_OUTCOME_SECONDS):
                channel = await self._open()
                answer = await self._exchange(channel, question, doing)
            answer = await self._confirm(channel, question, answer, doing)
        except (HostnetError, _LostError, TimeoutError):
            raise died from None
        if "error" in answer:
            raise died
        return answer

    async def _ask_again(self, request: dict[str, Any], doing: str, lost: str) -> dict[str, Any]:
        """After the way broke: the same request through another agent, which sees to the end of the first."""
        first = {"pid": self.hello.get("pid"), "started": self.hello.get("started")}
        self._status(f"connecting to {self.label} again: {lost}")
        try:
            channel = await self._open()
            return await self._converse(channel, {**request, "instead_of": first}, doing)
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

    async def _converse(self, channel: Channel, request: dict[str, Any], doing: str) -> dict[str, Any]:
        """Ask, and confirm what was done, where the host waits for that: we still hear it (DESIGN.md 2.5)."""
        return await self._confirm(channel, request, await self._exchange(channel, request, doing), doing)

    async def _confirm(
        self, channel: Channel, request: dict[str, Any], answer: dict[str, Any], doing: str
    ) -> dict[str, Any]:
        if not answer.get("unconfirmed"):
            return answer
        refusal = await self._refusal() if answer["anew"] else ""
        word = {"op": "undo", "why": refusal} if refusal else {"op": "confirm"}
        settled = await self._exchange(channel, {"id": request["id"], **word}, doing)
        return settled if refusal or "error" in settled else answer

    async def _refusal(self) -> str:
        """Why what was done can't stay: nobody could log in any more. "": they could."""
        try:
            await self._transport.anew()
        except HostnetError as error:
            return f"a new connection to the host failed after it ({error.what}: {error.why})"
        return ""

    async def _exchange(self, channel: Channel, request: dict[str, Any], doing: str) -> dict[str, Any]:
        with contextlib.suppress(OSError):  # the reader tells what became of the channel
            channel.write(json.dumps(request, separators=(",", ":")).encode() + b"\n")
        while True:
            answer = await self._read_line(channel, doing)
            if answer["id"] == request["id"]:
                return answer  # another is late: who asked for it waits no longer

    async def _read_line(self, channel: Channel, doing: str) -> dict[str, Any]:
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
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _nothing_sent(self) -> HostnetError:
        return HostnetError(
            Code.CANCELLED, "stopped before anything was sent to the host", "the engine cancelled", "", self.label
        )


def _patience(operation: str, batch: list[_Waiting]) -> int | None:
    """How often to try to reach the host for these requests; None: as often as the connection allows.

    A new server is waited for by what is to be made on it. A preview waits for none.
    """
    if operation == "apply" and all(item.payload["dry"] for item in batch):
        return 1
    if operation == "read" or not any(item.payload["objects"] for item in batch):
        return _FEW
    return None
