"""The connection of Pulumi's process for dynamic resources to the engine's log: that of `pulumi` itself."""

from __future__ import annotations

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pulumi.runtime import Settings
from pulumi.runtime.proto import engine_pb2

from hostnet.lifecycle.log import DELIVERY_SECONDS, Line

_SEVERITY = {"info": engine_pb2.INFO, "warning": engine_pb2.WARNING}


class PulumiDelivery:
    """Delivers lines through the engine connection of a `pulumi.runtime.Settings`.

    `pulumi.log` does not reach the engine here (SDK 3.272): `pulumi.dynamic` configures this process without the
    engine's address at every request, so `pulumi.log.warn` prints to a stream that the engine hides.

    Args:
        address: The engine's, `host:port`; None where there is none.
    """

    def __init__(self, address: str | None) -> None:
        self.possible = address is not None
        self._address = address
        self._engine: Any = None
        # The connection blocks until the engine has the line. One thread, because their order counts.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hostnet-log")

    async def send(self, line: Line) -> None:
        """Deliver a line; raises what `pulumi`'s connection raises."""
        request = engine_pb2.LogRequest(
            severity=_SEVERITY[line.severity], message=line.text, urn=line.urn, ephemeral=line.ephemeral
        )
        await asyncio.get_running_loop().run_in_executor(self._thread, self._send, request)

    async def close(self) -> None:
        """Send nothing more; the connection ends with the process."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _send(self, request: engine_pb2.LogRequest) -> None:
        if self._engine is None:
            # Settings are context variables: in a context of their own they change nothing for other resources.
            self._engine = contextvars.Context().run(_connect, self._address)
        self._engine.Log(request, timeout=DELIVERY_SECONDS)


def _connect(address: str | None) -> Any:
    return Settings(project=None, stack=None, engine=address).engine
