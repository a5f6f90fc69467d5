"""The connection of the plugin to the engine's log: gRPC."""

from __future__ import annotations

from typing import Any

from hostnet.lifecycle.log import DELIVERY_SECONDS, Line
from hostnet.rpc.protos import engine_pb2, engine_pb2_grpc

_SEVERITY = {"info": engine_pb2.INFO, "warning": engine_pb2.WARNING}


class GrpcDelivery:
    """Delivers lines over a channel to the engine; the first line opens it.

    Args:
        address: The engine's, `host:port`; None where it is not known yet (it attaches) or there is none.
    """

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._channel: Any = None
        self._stub: Any = None

    def connect(self, address: str) -> None:
        """Use this engine from now on (Handshake, Attach)."""
        if address and address != self._address:
            self._address, self._stub = address, None

    @property
    def possible(self) -> bool:
        """Whether the engine's address is known."""
        return bool(self._address)

    async def send(self, line: Line) -> None:
        """Deliver a line.

        Raises:
            grpc.RpcError: The engine does not answer.
        """
        request = engine_pb2.LogRequest(
            severity=_SEVERITY[line.severity], message=line.text, urn=line.urn, ephemeral=line.ephemeral
        )
        await (await self._connected()).Log(request, timeout=DELIVERY_SECONDS)

    async def close(self) -> None:
        """Hang up."""
        if self._channel is not None:
            await self._channel.close()

    async def _connected(self) -> Any:
        if self._stub is None:
            from grpc import aio  # noqa: PLC0415 - the first line connects

            await self.close()
            self._channel = aio.insecure_channel(str(self._address))
            self._stub = engine_pb2_grpc.EngineStub(self._channel)
        return self._stub
