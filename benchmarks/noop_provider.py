"""A provider with hostnet's schema that touches nothing: what is left of a run's time on it is the engine's own.

With benchmarks/bin in front on PATH, or named in a project's `plugins:`, a hostnet program runs on it unchanged.
"""

import asyncio
import signal
from pathlib import Path

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.struct_pb2 import Struct
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc

SCHEMA = Path(__file__).resolve().parent.parent / "schema.json"
VERSION = "0.1.0"
# The engine's own limits, as hostnet sets them.
OPTIONS = [
    ("grpc.max_receive_message_length", 400 << 20),
    ("grpc.max_send_message_length", 400 << 20),
    ("grpc.server_max_unrequested_time_in_server", 3600),
]
Context = grpc.aio.ServicerContext[object, object]


class NoopProvider(provider_pb2_grpc.ResourceProviderServicer):
    """Answers every call from the call's own arguments."""

    async def Handshake(
        self, _request: provider_pb2.ProviderHandshakeRequest, _context: Context
    ) -> provider_pb2.ProviderHandshakeResponse:
        """Ask for plain values: secrets and unknowns are not marked."""
        return provider_pb2.ProviderHandshakeResponse()

    async def GetPluginInfo(self, _request: Empty, _context: Context) -> plugin_pb2.PluginInfo:
        """Give the version that the SDK asks for."""
        return plugin_pb2.PluginInfo(version=VERSION)

    async def GetSchema(
        self, _request: provider_pb2.GetSchemaRequest, _context: Context
    ) -> provider_pb2.GetSchemaResponse:
        """Give hostnet's schema."""
        return provider_pb2.GetSchemaResponse(schema=SCHEMA.read_text())

    async def CheckConfig(self, request: provider_pb2.CheckRequest, _context: Context) -> provider_pb2.CheckResponse:
        """Accept any configuration."""
        return provider_pb2.CheckResponse(inputs=request.news)

    async def DiffConfig(self, _request: provider_pb2.DiffRequest, _context: Context) -> provider_pb2.DiffResponse:
        """See no change of configuration."""
        return provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_NONE)

    async def Configure(
        self, _request: provider_pb2.ConfigureRequest, _context: Context
    ) -> provider_pb2.ConfigureResponse:
        """Take part in previews, as hostnet does."""
        return provider_pb2.ConfigureResponse(supportsPreview=True)

    async def Check(self, request: provider_pb2.CheckRequest, _context: Context) -> provider_pb2.CheckResponse:
        """Accept any inputs."""
        return provider_pb2.CheckResponse(inputs=request.news)

    async def Diff(self, request: provider_pb2.DiffRequest, _context: Context) -> provider_pb2.DiffResponse:
        """Compare the inputs as a whole."""
        same = request.old_inputs == request.news
        kinds = provider_pb2.DiffResponse
        return kinds(changes=kinds.DIFF_NONE if same else kinds.DIFF_SOME)

    async def Create(self, request: provider_pb2.CreateRequest, _context: Context) -> provider_pb2.CreateResponse:
        """Make the inputs the outputs."""
        name = request.urn.rpartition("::")[2]
        return provider_pb2.CreateResponse(
            id="" if request.preview else name, properties=_outputs(request.properties, name)
        )

    async def Read(self, request: provider_pb2.ReadRequest, _context: Context) -> provider_pb2.ReadResponse:
        """Find what the state says."""
        return provider_pb2.ReadResponse(id=request.id, inputs=request.inputs, properties=request.properties)

    async def Update(self, request: provider_pb2.UpdateRequest, _context: Context) -> provider_pb2.UpdateResponse:
        """Make the new inputs the outputs."""
        return provider_pb2.UpdateResponse(properties=_outputs(request.news, request.id))

    async def Delete(self, _request: provider_pb2.DeleteRequest, _context: Context) -> Empty:
        """Succeed."""
        return Empty()

    async def Cancel(self, _request: Empty, _context: Context) -> Empty:
        """Have nothing under way to cancel; the engine's signal ends the process."""
        return Empty()


def _outputs(inputs: Struct, name: str) -> Struct:
    """The inputs with the name that other resources of a program refer to."""
    outputs = Struct()
    outputs.CopyFrom(inputs)
    if "name" not in outputs.fields:
        outputs["name"] = name
    return outputs


async def main() -> None:
    """Serve until the engine ends this process, having printed the port first."""
    server = grpc.aio.server(options=OPTIONS)
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(NoopProvider(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    print(port, flush=True)
    await stopped.wait()
    await server.stop(grace=1)


if __name__ == "__main__":
    asyncio.run(main())
