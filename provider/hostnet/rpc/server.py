"""The plugin's process: a port for the engine, a servicer behind it, and an orderly end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING

from grpc import aio

from hostnet.rpc.peers import OwnUser

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostnet.hosts.connection import Settings
    from hostnet.lifecycle.host_access import MakePool, Pool
    from hostnet.rpc.servicer import Servicer

_MESSAGE_BYTES = 400 * 1024 * 1024  # as the engine's own (3.259)

# gRPC refuses requests that waited longer than this for a handler (30 s by default); behind a queue of thousands of
# resources, one may.
_QUEUE_SECONDS = 24 * 3600

_OPTIONS = [
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MESSAGE_BYTES),
    ("grpc.server_max_unrequested_time_in_server", _QUEUE_SECONDS),
    # Two plugins must never share a port: the engine would talk to either.
    ("grpc.so_reuseport", 0),
]

# The engine (3.259) kills five seconds after its SIGINT.
_GRACE_SECONDS = 3.0
_CLOSE_SECONDS = 1.0


def listen() -> tuple[aio.Server, int]:
    """A server with a port of its own on this machine's loopback, for this process's user and for root.

    It answers nothing before `start`.

    Raises:
        OSError: There is no free port.
    """
    peers = OwnUser({os.geteuid(), 0})
    server = aio.server(options=_OPTIONS, interceptors=[peers])
    port = peers.port = server.add_insecure_port("127.0.0.1:0")
    if port == 0:
        msg = "hostnet cannot listen on 127.0.0.1"
        raise OSError(msg)
    return server, port


async def start(server: aio.Server, engine: str | None = None, make_pool: MakePool | None = None) -> Servicer:
    """Answer the engine.

    Args:
        server: From `listen`.
        engine: The engine's address, where it is known.
        make_pool: Makes another pool of hosts than the real one (tests).
    """
    # Imported only now: the engine waits for the port's line, and loading all this takes time.
    from hostnet.lifecycle.redaction import Redactor  # noqa: PLC0415
    from hostnet.rpc.log import GrpcDelivery  # noqa: PLC0415
    from hostnet.rpc.protos import provider_pb2_grpc  # noqa: PLC0415
    from hostnet.rpc.servicer import Servicer  # noqa: PLC0415

    # A plugin without an engine of its own serves one after the other (PULUMI_DEBUG_PROVIDERS).
    servicer = Servicer(GrpcDelivery(engine), Redactor(), make_pool or _real_pool, reconfigurable=engine is None)
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(servicer, server)
    await server.start()
    return servicer


async def stop(server: aio.Server, servicer: Servicer) -> None:
    """Let what is under way end, within the time that the engine gives; then end all sessions."""
    await servicer.access.cancel()
    await server.stop(_GRACE_SECONDS)
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await servicer.access.close()
            await servicer.log.close()
    except TimeoutError:
        sys.stderr.write("hostnet: a host's session did not end in time\n")


async def serve(engine: str | None) -> None:
    """Be the plugin until the engine ends it.

    Args:
        engine: The engine's address; None where no engine started this process (PULUMI_DEBUG_PROVIDERS): one attaches.
    """
    parent = os.getppid() if engine else None
    server, port = listen()
    # The engine reads this line, and only this line, as the port.
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    ended = _end_signal(parent)
    servicer = await start(server, engine)
    await ended
    await stop(server, servicer)


def _end_signal(parent: int | None) -> asyncio.Future[None]:
    """Done at SIGINT, at SIGTERM, and when the engine that started this process is dead. A second signal does not wait.

    Args:
        parent: The engine's process.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def end() -> None:
        if ended.done():
            os._exit(130)
        ended.set_result(None)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)

    def orphaned() -> None:
        if not ended.done():
            ended.set_result(None)

    if parent is not None:
        _at_death(parent, orphaned)
    return ended


def _at_death(process: int, then: Callable[[], object]) -> None:
    """Call back when a process ends: an engine that was killed sends no Cancel.

    PR_SET_PDEATHSIG would follow the thread that started this process, not the engine's process (prctl(2)), and Go ends
    threads while the engine lives. Where there are no process descriptors (before Linux 5.3, on macOS) nothing is
    watched.
    """
    try:
        descriptor = os.pidfd_open(process)
    except (AttributeError, OSError):
        return
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(descriptor)
        then()

    loop.add_reader(descriptor, ended)


def _real_pool(settings: Settings, log: Callable[[str, str], None]) -> Pool:
    from hostnet.hosts.pool import Pool as RealPool  # noqa: PLC0415 - for those who need a host

    return RealPool(settings, log)
