"""A session with one host: an agent at the end of a byte stream, and the queue in front of it (group commit).

While one transaction is under way, requests gather; the next message takes them all. That is one trip, one nftables
batch and one record write for as many resources as the engine asks for at once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from hostnet.errors import Code, HostnetError
from hostnet.hosts.api import Change, Facts, Query, View
from hostnet.objects import from_json, seen_from_json, to_json

Status = Callable[[str], None]
_LIMIT = 256 << 20  # bytes a line: 10,000 forwards are some 3 MB


class Transport(Protocol):
    """Something that starts an agent."""

    async def start(self) -> Channel:
        """Start it. Raises HostnetError where it can't be reached."""


class Channel(Protocol):
    """The byte stream to a started agent."""

    reader: asyncio.StreamReader

    def write(self, data: bytes) -> None:
        """Send."""

    async def ended(self) -> str:
        """How it ended, once it has: "signal 11 (SIGSEGV)", with the last that it said."""

    async def close(self) -> None:
        """End it."""


@dataclass
class _Waiting:
    """A request in the queue."""

    payload: dict[str, Any]
    label: str
    future: asyncio.Future[Any]


# How an operation's requests are joined into one message: the name of the list they travel in.
_JOINED = {"apply": "changes", "read": "queries"}


class Session:
    """A host, through its agent. Implements `hostnet.hosts.api.Host`."""

    def __init__(self, label: str, transport: Transport) -> None:
        self.label = label
        self._transport = transport
        self._channel: Channel | None = None
        self._queues: dict[str, list[_Waiting]] = {}
        self._busy = asyncio.Lock()
        self._number = 0
        self.hello: dict[str, Any] = {}

    async def apply(self, change: Change) -> View:
        """See `Host.apply`."""
        payload = {
            "urn": change.urn,
            "id": change.id,
            "objects": [to_json(item) for item in change.objects],
            "prior": [to_json(item) for item in change.prior],
            "known": change.known,
            "dry": change.dry,
        }
        view = await self._joined("apply", payload, change.urn)
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

    async def connect(self) -> None:
        """Start the agent now, to learn whether the host is there."""
        async with self._busy:
            await self._open()

    async def close(self) -> None:
        """See `Host.close`."""
        if self._channel is not None:
            channel, self._channel = self._channel, None
            await channel.close()

    def _view(self, data: dict[str, Any]) -> View:
        if "error" in data:
            raise HostnetError.from_json(data["error"], self.label)
        objects = tuple(map(from_json, data["objects"]))
        seen = tuple(seen_from_json(item.type, what) for item, what in zip(objects, data["seen"], strict=False))
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
        labels = ", ".join(item.label.rsplit("::", 1)[-1] for item in batch[:5])
        try:
            results = await self._ask(operation, {_JOINED[operation]: [item.payload for item in batch]}, labels)
        except HostnetError as error:
            for item in batch:
                if not item.future.done():
                    item.future.set_exception(
                        HostnetError(error.code, error.what, error.why, error.fix, error.host or self.label)
                    )
            return
        for item, result in zip(batch, results, strict=True):
            if not item.future.done():
                item.future.set_result(result)

    # --- the agent -------------------------------------------------------------------------------------------------

    async def _open(self) -> Channel:
        if self._channel is None:
            channel = await self._transport.start()
            greeting = await self._read_line(channel, "start the agent")
            if "error" in greeting:
                await channel.close()
                raise HostnetError.from_json(greeting["error"], self.label)
            self.hello = greeting["hello"]
            self._channel = channel
        return self._channel

    async def _ask(self, operation: str, payload: dict[str, Any], label: str) -> Any:
        channel = await self._open()
        self._number += 1
        request = {"id": self._number, "op": operation, **payload}
        channel.write(json.dumps(request, separators=(",", ":")).encode() + b"\n")
        answer = await self._read_line(channel, f"{operation} {label}")
        if "error" in answer:
            raise HostnetError.from_json(answer["error"], self.label)
        return answer["result"]

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
            raise HostnetError(
                Code.AGENT_DIED,
                f"the agent ended while it was to {doing}",
                how,
                "What it had half done is undone when the next one starts, which is at once; run the command again",
                self.label,
            )
        answer: dict[str, Any] = json.loads(line)
        return answer
