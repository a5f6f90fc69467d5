"""Who may call the plugin, and configure it: its own user and root, once.

Calls of a real other user are in tests/netns/test_local_users.py.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from hostnet.agent.linux import sockets
from hostnet.rpc.protos import provider_pb2

from tests.rpc.engine import Engine, Resource, message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Connected = tuple[socket.socket, sockets.End, sockets.End]
LOCAL = "127.0.0.1"
BRIDGE = "hostnet:index:Bridge"


@pytest.fixture(params=["v4", "v4 in a v6 socket"])
def connected(request: pytest.FixtureRequest) -> Iterator[Connected]:
    """A connection: the client's socket, and the addresses of both ends."""
    with socket.create_server((LOCAL, 0)) as server:
        mapped = request.param != "v4"
        client = socket.socket(socket.AF_INET6 if mapped else socket.AF_INET)
        client.connect((f"::ffff:{LOCAL}" if mapped else LOCAL, server.getsockname()[1]))
        accepted, far = server.accept()
        yield client, (LOCAL, far[1]), (LOCAL, accepted.getsockname()[1])
        accepted.close()
        client.close()


@pytest.mark.parametrize("look_up", [sockets.user_of, sockets._listed], ids=["asked", "listed"])
def test_whose_a_connection_is(connected: Connected, look_up: Callable[[sockets.End, sockets.End], int | None]) -> None:
    """The user of the socket at that end. A socket that is closed has none: the kernel gives it to root."""
    client, near, far = connected
    assert look_up(near, far) == os.geteuid()
    assert look_up((LOCAL, 1), far) is None
    client.close()
    assert look_up(near, far) is None


def test_another_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is called, before the request is read. Unary calls and streams."""
    with Engine() as engine:
        monkeypatch.setattr(sockets, "user_of", lambda *_: os.geteuid() + 1)
        calls: list[Callable[[], object]] = [
            lambda: engine.stub.GetPluginInfo(Empty()),
            lambda: engine.configure(stateDir="/home/other/planted"),
            lambda: next(engine.stub.List(provider_pb2.ListRequest(token=BRIDGE))),
        ]
        for call in calls:
            with pytest.raises(grpc.RpcError) as refused:
                call()
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert f"refuses user {os.geteuid() + 1}" in message(refused.value)
        assert not engine.pool.hosts
    monkeypatch.undo()


def test_a_request_that_is_no_message(engine: Engine) -> None:
    """Bytes that are no request are the sender's fault."""
    call: Any = engine.channel.unary_unary("/pulumirpc.ResourceProvider/Create")
    with pytest.raises(grpc.RpcError) as refused:
        call(b"\xff\xff\xff")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_second_configuration_is_refused() -> None:
    """The plugin of an engine keeps its configuration; the same again is no error."""
    with Engine(starts=True) as engine:
        engine.configure(stateDir="/var/lib/one").configure(stateDir="/var/lib/one")
        with pytest.raises(grpc.RpcError) as refused:
            engine.configure(stateDir="/home/other/planted")
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "is configured" in message(refused.value)
        Resource(engine, "Bridge", "vms", name="vms").create()
        assert engine.pool.settings is not None
        assert engine.pool.settings.state_dir == "/var/lib/one"
