"""The engine's log: warnings under a resource, and the live status column."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from hostnet.rpc.protos import engine_pb2, engine_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable

# A log line that can't be delivered must not hold up the resource that it is about.
_DELIVERY_SECONDS = 2.0


class EngineLog:
    """Sends lines to the engine in order, in the background. What can't be sent is dropped: nobody waits for a log."""

    def __init__(self, address: str | None, scrub: Callable[[str], str]) -> None:
        """Nothing is sent or connected yet.

        :param address: the engine's, `host:port`; None where it is not known yet (attach) or there is none.
        :param scrub: what every text goes through.
        """
        self._redact = scrub
        self._channel: Any = None
        self._stub: Any = None
        self._address = address
        self._pending: asyncio.Queue[Any] = asyncio.Queue()
        self._sender: asyncio.Task[None] | None = None

    def connect(self, address: str) -> None:
        """Use this engine from now on (Handshake, Attach)."""
        if address and address != self._address:
            self._address, self._stub = address, None

    def status(self, urn: str, text: str) -> None:
        """Fill the live status column of a resource; the text is gone with the next one."""
        self._enqueue(urn, text, engine_pb2.INFO, ephemeral=True)

    def info(self, urn: str, text: str) -> None:
        """Say something that stays under the resource."""
        self._enqueue(urn, text, engine_pb2.INFO)

    def warn(self, urn: str, text: str) -> None:
        """Warn about a resource; it stays under the resource and in the summary."""
        self._enqueue(urn, text, engine_pb2.WARNING)

    async def flush(self) -> None:
        """Wait until the engine has what was said so far: after the last answer it no longer listens."""
        try:
            async with asyncio.timeout(_DELIVERY_SECONDS):
                await self._pending.join()
        except TimeoutError:
            return

    async def close(self) -> None:
        """Deliver what there is and hang up."""
        await self.flush()
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)
        if self._channel is not None:
            await self._channel.close()

    def _enqueue(self, urn: str, text: str, severity: Any, *, ephemeral: bool = False) -> None:
        if not self._address:
            return
        self._pending.put_nowait(
            engine_pb2.LogRequest(severity=severity, message=self._redact(text), urn=urn, ephemeral=ephemeral)
        )
        if self._sender is None or self._sender.done():
            self._sender = asyncio.get_running_loop().create_task(self._send_all())

    async def _send_all(self) -> None:
        """Send one after the other, for order."""
        while True:
            request = await self._pending.get()
            try:
                await (await self._connected()).Log(request, timeout=_DELIVERY_SECONDS)
            except Exception as error:  # noqa: BLE001 - a log that fails must fail nothing else
                sys.stderr.write(f"hostnet: the engine's log does not answer: {type(error).__name__}\n")
            finally:
                self._pending.task_done()

    async def _connected(self) -> Any:
        if self._stub is None:
            from grpc import aio  # noqa: PLC0415 - the first log line connects

            if self._channel is not None:
                await self._channel.close()
            self._channel = aio.insecure_channel(str(self._address))
            self._stub = engine_pb2_grpc.EngineStub(self._channel)
        return self._stub
