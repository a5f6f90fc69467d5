"""What the engine does to a plugin, for tests: a real gRPC channel to a real server whose hosts are fakes.

The server has its event loop in a thread of its own, so a test is plain code that calls RPCs one after the other, or
several at once with `.future`.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import grpc
from google.protobuf.empty_pb2 import Empty
from hostnet.fakes import FakeHost, FakePool
from hostnet.rpc import server as plugin
from hostnet.rpc.codec import decode, encode
from hostnet.rpc.failures import DETAILS_KEY
from hostnet.rpc.protos import (
    engine_pb2,
    engine_pb2_grpc,
    plugin_pb2,
    provider_pb2,
    provider_pb2_grpc,
    status_pb2,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from google.protobuf.struct_pb2 import Struct
    from hostnet.hosts.connection import Settings
    from hostnet.lifecycle.paths import Path
    from hostnet.lifecycle.secrets import Given

SECONDS = 30  # no test takes this long: it is how long a broken one hangs


class LogService(engine_pb2_grpc.EngineServicer):
    """The engine's log: keeps every line."""

    def __init__(self) -> None:
        """No line yet."""
        self.lines: list[Any] = []
        self._more = threading.Condition()

    def Log(self, request: engine_pb2.LogRequest, _: object) -> Empty:  # noqa: N802
        """See the protocol."""
        with self._more:
            self.lines.append(request)
            self._more.notify_all()
        return Empty()

    def expect(self, wanted: Callable[[Any], bool]) -> Any:
        """The first line that is wanted, as soon as it is there."""
        with self._more:
            assert self._more.wait_for(lambda: any(map(wanted, self.lines)), SECONDS)
            return next(filter(wanted, self.lines))


class Engine:
    """An engine with one hostnet plugin."""

    def __init__(self, *, attach: bool = False, starts: bool = False) -> None:
        """Nothing runs yet.

        Args:
            attach: Give the plugin the engine's address by Attach, not by Handshake.
            starts: The engine starts the plugin: it gives the address on the command line as well.
        """
        self._starts = starts
        self.pool = FakePool()
        self.logged = LogService()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._attach = attach
        self._logs = grpc.server(ThreadPoolExecutor(1))

    def __enter__(self) -> Self:
        """Start the plugin and shake hands."""
        self._thread.start()
        engine_pb2_grpc.add_EngineServicer_to_server(self.logged, self._logs)
        self.address = f"127.0.0.1:{self._logs.add_insecure_port('127.0.0.1:0')}"
        self._logs.start()
        port = self.run(self._start)
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.stub = provider_pb2_grpc.ResourceProviderStub(self.channel)
        if self._attach:
            self.stub.Attach(plugin_pb2.PluginAttach(address=self.address))
        else:
            self.stub.Handshake(provider_pb2.ProviderHandshakeRequest(engine_address=self.address))
        return self

    def __exit__(self, *_: object) -> None:
        """End the plugin as its process does."""
        self.run(lambda: plugin.stop(self._server, self._servicer))
        self.channel.close()
        self._logs.stop(None)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()

    def run(self, function: Callable[[], Any]) -> Any:
        """Call something in the server's event loop (a coroutine function or a plain one)."""

        async def call() -> Any:
            result = function()
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(SECONDS)

    async def _start(self) -> int:
        self._server, port = plugin.listen()
        self._servicer = await plugin.start(self._server, self.address if self._starts else None, self._make_pool)
        return port

    def _make_pool(self, settings: Settings, log: Callable[[str, str], None]) -> FakePool:
        self.pool.settings, self.pool.log = settings, log
        return self.pool

    def configure(self, **config: Any) -> Self:
        """Configure the provider; the arguments are camelCase."""
        self.stub.Configure(provider_pb2.ConfigureRequest(args=encode(config)))
        return self

    @property
    def host(self) -> FakeHost:
        """This machine."""
        return self.pool.at()

    def notes(self) -> list[str]:
        """What was said, and is no warning, in order."""
        return [line.message for line in self.logged.lines if line.severity == 1 and not line.ephemeral]  # INFO

    def warnings(self) -> list[str]:
        """What was warned of, in order."""
        return [line.message for line in self.logged.lines if line.severity == 2]  # WARNING


class Resource:
    """A resource in a program: what the engine does with it, and the state that it keeps of it."""

    def __init__(
        self,
        engine: Engine,
        kind: str,
        name: str,
        secrets: Iterable[Path] = (),
        /,
        **inputs: Any,
    ) -> None:
        """Declare it.

        Args:
            engine: Where the plugin runs.
            kind: `Bridge`, …
            name: Its name in the program.
            secrets: The paths of the inputs that are secret.
            inputs: The inputs.
        """
        self.engine = engine
        self.token = f"hostnet:index:{kind}"
        self.urn = f"urn:pulumi:test::project::{self.token}::{name}"
        self.name = name
        self.secrets = set(secrets)
        self.given = inputs
        self.seed = b"seed"  # random in an engine, and another one at each check of a create
        self.id = ""
        self.inputs: Struct | None = None  # as Check returned them, and as the state keeps them
        self.outputs: Struct | None = None

    def as_urn(self, *, stack: str = "test", project: str = "project", name: str | None = None) -> Self:
        """The same state under another URN: after `pulumi stack rename`, `pulumi state move`, or with an alias."""
        other = copy.copy(self)
        other.name = self.name if name is None else name
        other.urn = f"urn:pulumi:{stack}::{project}::{self.token}::{other.name}"
        return other

    @property
    def about(self) -> dict[str, Any]:
        """What every request says of the resource."""
        return {"urn": self.urn, "name": self.name, "type": self.token}

    def check(self, **given: Any) -> Any:
        """Check the inputs as the program has them; or others."""
        news = encode(given or self.given, self.secrets, unknowns=True)
        olds = self.inputs
        request = provider_pb2.CheckRequest(news=news, olds=olds, randomSeed=self.seed, **self.about)
        return self.engine.stub.Check(request)

    def checked(self, **given: Any) -> Struct:
        """The checked inputs."""
        response = self.check(**given)
        assert not response.failures, response.failures
        inputs: Struct = response.inputs
        return inputs

    def preview(self, **given: Any) -> Given:
        """A preview's outputs."""
        inputs = self.checked(**given)
        if self.id:
            request = provider_pb2.UpdateRequest(preview=True, **self.change_to(inputs))
            return decode(self.engine.stub.Update(request).properties)
        created = self.engine.stub.Create(provider_pb2.CreateRequest(properties=inputs, preview=True, **self.about))
        return decode(created.properties)

    def create_request(self) -> Any:
        """A Create with checked inputs."""
        return provider_pb2.CreateRequest(properties=self.checked(), **self.about)

    def create(self) -> Self:
        """Create it and keep its state."""
        request = self.create_request()
        response = self.engine.stub.Create(request)
        self.id, self.inputs, self.outputs = response.id, request.properties, response.properties
        return self

    def change_to(self, inputs: Struct) -> dict[str, Any]:
        """What the engine sends for the difference to other checked inputs, and for the change to them."""
        return {"id": self.id, "olds": self.outputs, "old_inputs": self.inputs, "news": inputs, **self.about}

    def diff(self, ignore: Iterable[str] = (), **given: Any) -> Any:
        """The difference to other inputs; by default to the same."""
        request = provider_pb2.DiffRequest(ignoreChanges=ignore, **self.change_to(self.checked(**given)))
        return self.engine.stub.Diff(request)

    def update(self, **given: Any) -> Self:
        """Change it and keep its state."""
        inputs = self.checked(**given)
        request = provider_pb2.UpdateRequest(**self.change_to(inputs))
        self.outputs = self.engine.stub.Update(request).properties
        self.inputs = inputs
        self.given = given or self.given
        return self

    def read(self) -> Any:
        """Read it for a refresh; the state stays as it is."""
        request = provider_pb2.ReadRequest(id=self.id, properties=self.outputs, inputs=self.inputs, **self.about)
        return self.engine.stub.Read(request)

    def refresh(self) -> Self:
        """Read it, show what differs from the state, and keep what was found."""
        response = self.read()
        if response.id:  # for the display, the engine asks for the difference the other way round
            request = provider_pb2.DiffRequest(
                id=response.id, olds=response.properties, old_inputs=response.inputs, news=self.inputs, **self.about
            )
            self.engine.stub.Diff(request)
        self.id, self.inputs, self.outputs = response.id, response.inputs, response.properties
        return self

    def imported(self, identifier: str) -> Any:
        """Read it for an import."""
        return self.engine.stub.Read(provider_pb2.ReadRequest(id=identifier, **self.about))

    def delete(self) -> None:
        """Delete it; the state stays as it is."""
        request = provider_pb2.DeleteRequest(id=self.id, properties=self.outputs, old_inputs=self.inputs, **self.about)
        self.engine.stub.Delete(request)

    def values(self) -> dict[str, Any]:
        """Its outputs."""
        assert self.outputs is not None
        return decode(self.outputs).values


def paths(response: Any) -> dict[str, str]:
    """A diff's changes by path."""
    names = provider_pb2.PropertyDiff.Kind
    return {path: names.Name(found.kind) for path, found in response.detailedDiff.items()}


def message(error: grpc.RpcError) -> str:
    """What a person reads of an error."""
    return error.details() or ""


def init_failed(error: grpc.RpcError) -> Any:
    """The partial failure in an error's trailer."""
    trailer: Any = error.trailing_metadata()
    raw = next(value for key, value in trailer if key == DETAILS_KEY)
    status = status_pb2.Status.FromString(raw)
    assert status.code == error.code().value[0]
    # The name by which the engine knows it; that in protobuf's registry is another one.
    assert status.details[0].type_url == "type.googleapis.com/pulumirpc.ErrorResourceInitFailed"
    return provider_pb2.ErrorResourceInitFailed.FromString(status.details[0].value)
