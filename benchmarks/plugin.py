"""A plugin's process, spoken to over gRPC as Pulumi's engine does: hostnet's, or the no-op provider's.

`tests.rpc.engine.Resource` has the calls for one resource: check, create, diff, update, read, delete.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import grpc
from hostnet.rpc.codec import encode
from hostnet.rpc.protos import engine_pb2_grpc, provider_pb2, provider_pb2_grpc

from benchmarks.measure import PROVIDERS
from tests.rpc.engine import LogService, Resource

_OPTIONS = [("grpc.max_receive_message_length", 400 << 20), ("grpc.max_send_message_length", 400 << 20)]


class Plugin:
    """A plugin's process, and the engine's side of it.

    Args:
        provider: `ours` or `noop`.
        config: The provider's configuration, in camelCase.
    """

    def __init__(self, provider: str, **config: Any) -> None:
        executable = PROVIDERS[provider] / "pulumi-resource-hostnet"
        self._logs = grpc.server(ThreadPoolExecutor(1))
        engine_pb2_grpc.add_EngineServicer_to_server(LogService(), self._logs)
        engine = f"127.0.0.1:{self._logs.add_insecure_port('127.0.0.1:0')}"
        self._logs.start()
        self.process = subprocess.Popen([executable, engine], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        port = int(self.process.stdout.readline())
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS)
        self.stub = provider_pb2_grpc.ResourceProviderStub(self._channel)
        self.stub.Handshake(provider_pb2.ProviderHandshakeRequest(engine_address=engine))
        self.stub.Configure(provider_pb2.ConfigureRequest(args=encode(config)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        self.process.terminate()
        self.process.wait()
        self._logs.stop(None)

    def resource(self, kind: str, name: str, /, **inputs: Any) -> Resource:
        """A resource of a program."""
        return Resource(self, kind, name, **inputs)  # type: ignore[arg-type]  # it needs the stub alone

    def create(self, resources: Iterable[Resource]) -> None:
        """Create resources as the engine does: it checks one after the other, and creates those that are checked."""
        calls = []
        for each in resources:
            request = each.create_request()
            calls.append((each, request.properties, self.stub.Create.future(request)))
        for each, inputs, call in calls:
            response = call.result()
            each.id, each.inputs, each.outputs = response.id, inputs, response.properties

    def read(self, resources: Iterable[Resource]) -> None:
        """Refresh resources at once."""
        _at_once(
            self.stub.Read,
            (
                provider_pb2.ReadRequest(id=each.id, properties=each.outputs, inputs=each.inputs, **each.about)
                for each in resources
            ),
        )

    def delete(self, resources: Iterable[Resource]) -> None:
        """Delete resources at once."""
        _at_once(
            self.stub.Delete,
            (
                provider_pb2.DeleteRequest(id=each.id, properties=each.outputs, old_inputs=each.inputs, **each.about)
                for each in resources
            ),
        )


def _at_once(call: Any, requests: Iterable[Any]) -> None:
    """Send all requests, then wait for all answers."""
    for sent in [call.future(request) for request in requests]:
        sent.result()


def peak_memory(pid: int) -> float:
    """The most memory that a process had, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024
