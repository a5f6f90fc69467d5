"""The engine's log: warnings under a resource, and the live status column."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

# A line that can't be delivered must not hold up the resource that it is about.
DELIVERY_SECONDS = 2.0


@dataclass(frozen=True)
class Line:
    """A line for the engine's log.

    Args:
        urn: The resource that it is about.
        text: What it says.
        severity: A warning is shown in the summary as well.
        ephemeral: Fills the status column, and is gone with the next line.
    """

    urn: str
    text: str
    severity: Literal["info", "warning"] = "info"
    ephemeral: bool = False


class Delivery(Protocol):
    """Delivers lines to the engine: the plugin in one form, Pulumi's process for dynamic resources in another."""

    @property
    def possible(self) -> bool:
        """Whether the engine's address is known."""

    async def send(self, line: Line) -> None:
        """Deliver a line; raises whatever prevents it."""

    async def close(self) -> None:
        """Hang up."""


class EngineLog:
    """Sends lines to the engine in order, in the background. A line that can't be sent is dropped.

    Args:
        delivery: Delivers the lines.
        redact: Every text goes through it, so that no secret is printed.
    """

    def __init__(self, delivery: Delivery, redact: Callable[[str], str]) -> None:
        self._delivery, self._redact = delivery, redact
        self._pending: asyncio.Queue[Line] = asyncio.Queue()
        self._sender: asyncio.Task[None] | None = None
        self._left = 0  # lines that are not delivered yet

    def status(self, urn: str, text: str) -> None:
        """Fill the live status column of a resource until the next line."""
        self._enqueue(Line(urn, text, ephemeral=True))

    def info(self, urn: str, text: str) -> None:
        """Say something that stays under the resource."""
        self._enqueue(Line(urn, text))

    def warn(self, urn: str, text: str) -> None:
        """Warn about a resource; it stays under the resource and in the summary."""
        self._enqueue(Line(urn, text, "warning"))

    async def flush(self) -> None:
        """Wait until the engine has every line so far: after the last answer it no longer listens."""
        if not self._left:
            return  # nearly always, and each answer asks
        try:
            async with asyncio.timeout(DELIVERY_SECONDS):
                await self._pending.join()
        except TimeoutError:
            return

    async def close(self) -> None:
        """Deliver the lines that are left and hang up."""
        await self.flush()
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)
        await self._delivery.close()

    def _enqueue(self, line: Line) -> None:
        if not self._delivery.possible:
            return
        self._left += 1
        self._pending.put_nowait(Line(line.urn, self._redact(line.text), line.severity, line.ephemeral))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.get_running_loop().create_task(self._send_all())

    async def _send_all(self) -> None:
        """Send one line after the other: their order counts."""
        while True:
            line = await self._pending.get()
            try:
                await self._delivery.send(line)
            except Exception as error:  # noqa: BLE001 - a log that fails must fail nothing else
                sys.stderr.write(f"hostnet: the engine's log does not answer: {type(error).__name__}\n")
            finally:
                self._left -= 1
                self._pending.task_done()
