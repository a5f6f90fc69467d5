"""Who calls the plugin. Loopback is no boundary between the users of a machine: any of them can connect to its port."""

from __future__ import annotations

import functools
import os
import re
import sys
from typing import TYPE_CHECKING, Any

import grpc
from grpc import StatusCode, aio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection

    Handler = Any  # grpc.RpcMethodHandler, whose types are those of servers with threads
    Context = aio.ServicerContext[Any, Any]

_PEER = re.compile(r"ipv[46]:(?P<address>.+):(?P<port>\d+)")


class OwnUser(aio.ServerInterceptor):
    """Refuses the calls of other users, before anything of a request is read.

    A user is looked up for each call, not once for each connection: gRPC names a connection by its port, which another
    user's connection may have later. What is looked up is the connection while it is open at both ends, so a call whose
    sender has hung up is refused as well.

    Args:
        users: The numbers of the users that may call.
    """

    def __init__(self, users: Collection[int]) -> None:
        self._users = users
        self.port = 0  # the server's own, once it has one
        self._guarded = functools.cache(self._guard)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Put the check in front of a method."""
        handler = await continuation(handler_call_details)
        return None if handler is None else self._guarded(handler)

    def _guard(self, handler: Handler) -> Handler:
        """The method with the check in front. It takes the request as bytes, and reads it only then."""
        if handler.response_streaming:

            async def stream(data: bytes, context: Context) -> AsyncIterator[Any]:
                async for each in handler.unary_stream(await self._admitted(handler, data, context), context):
                    yield each

            return grpc.unary_stream_rpc_method_handler(stream, None, handler.response_serializer)

        async def unary(data: bytes, context: Context) -> Any:
            return await handler.unary_unary(await self._admitted(handler, data, context), context)

        return grpc.unary_unary_rpc_method_handler(unary, None, handler.response_serializer)

    async def _admitted(self, handler: Handler, data: bytes, context: Context) -> Any:
        """The request of a user who may call."""
        user = self._user(context.peer())
        if user not in self._users:
            who = "a connection whose user is not known" if user is None else f"user {user}"
            why = f"it serves user {os.geteuid()}, who started it, and root"
            await context.abort(StatusCode.PERMISSION_DENIED, f"hostnet's plugin refuses {who}: {why}")
        from google.protobuf.message import DecodeError  # noqa: PLC0415 - after the port's line, as in `server.start`

        try:
            return handler.request_deserializer(data)
        except DecodeError as error:
            await context.abort(StatusCode.INVALID_ARGUMENT, f"the request cannot be read: {error}")

    def _user(self, peer: str) -> int | None:
        """The user at the other end of a connection; None where that is not known.

        Args:
            peer: The other end as gRPC names it: `ipv4:127.0.0.1:40000`.
        """
        if sys.platform != "linux":
            return os.geteuid()  # docs/security.md says so
        import ipaddress  # noqa: PLC0415 - after the port's line, as in `server.start`
        from urllib.parse import unquote  # noqa: PLC0415

        from hostnet.agent.linux import sockets  # noqa: PLC0415

        found = _PEER.fullmatch(unquote(peer))
        if found is None:
            return None
        address = ipaddress.ip_address(found["address"].strip("[]"))
        v4 = getattr(address, "ipv4_mapped", None) or address
        return sockets.user_of((str(v4), int(found["port"])), ("127.0.0.1", self.port))
