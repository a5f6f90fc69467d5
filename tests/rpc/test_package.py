"""The plugin as a whole: its schema, its functions, its process."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import hostnet
import pytest
from google.protobuf.empty_pb2 import Empty
from hostnet.lifecycle import host_access
from hostnet.lifecycle.host_access import MOST_WAITING
from hostnet.rpc.__main__ import engine_address
from hostnet.rpc.codec import decode, encode
from hostnet.rpc.protos import provider_pb2, provider_pb2_grpc

from tests.rpc.engine import SECONDS, Engine, Resource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hostnet.resources.schema.values import Value

ROOT = Path(__file__).parents[2]
# `import pulumi` raises ImportError.
WITHOUT_PULUMI = """
import runpy, sys
sys.modules["pulumi"] = None
runpy.run_module("hostnet.rpc", run_name="__main__", alter_sys=True)
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "provider")}


def test_schema_is_the_file(engine: Engine) -> None:
    """The engine gets what schema.json has, and `make schema` was run."""
    sent = json.loads(engine.stub.GetSchema(provider_pb2.GetSchemaRequest()).schema)
    assert sent == json.loads((ROOT / "schema.json").read_text())


def test_capabilities(engine: Engine) -> None:
    """Handshake and Configure say the same."""
    shaken = engine.stub.Handshake(provider_pb2.ProviderHandshakeRequest(engine_address=engine.address))
    configured = engine.stub.Configure(provider_pb2.ConfigureRequest())
    assert configured.supportsPreview
    assert shaken.accept_secrets
    assert configured.acceptSecrets
    assert shaken.accept_resources
    assert configured.acceptResources
    assert shaken.accept_outputs
    assert configured.acceptOutputs
    assert shaken.supports_autonaming_configuration
    assert configured.supports_autonaming_configuration
    assert engine.stub.GetPluginInfo(Empty()).version == hostnet.__version__


@pytest.mark.parametrize("name", ["Parameterize", "Call", "GetMapping", "GetMappings"])
def test_what_is_not_there_says_so(engine: Engine, name: str) -> None:
    """An RPC that hostnet does not have is unimplemented, not an error of unknown state."""
    request = getattr(provider_pb2, f"{name}Request")()
    with pytest.raises(grpc.RpcError) as raised:
        getattr(engine.stub, name)(request)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_attach_gives_the_log() -> None:
    """A plugin that no engine started logs to the engine that attached to it."""
    with Engine(attach=True) as engine:
        engine.configure()
        engine.host.add_link("vms", "bridge")
        Resource(engine, "Bridge", "it", name="vms").preview()
        assert len(engine.warnings()) == 1


def test_waiting_shows_in_the_status_column(engine: Engine) -> None:
    """A resource whose host takes long says what it waits for, and what the pool reports of it, until it is done."""
    engine.run(engine.pool.hold)
    bridge = Resource(engine, "Bridge", "it", name="vms", connection={"host": "203.0.113.9"})
    creating = engine.stub.Create.future(bridge.create_request())
    shown = engine.logged.expect(lambda line: line.ephemeral)
    assert (shown.urn, shown.message) == (bridge.urn, "waiting for root@203.0.113.9 …")
    engine.run(lambda: engine.pool.log("root@203.0.113.9", "connecting, try 2"))
    assert engine.logged.expect(lambda line: line.message == "connecting, try 2").urn == bridge.urn
    engine.run(engine.pool.release)
    assert creating.result(SECONDS).id == "vms"
    assert engine.logged.lines[-1].message == ""


def test_of_many_that_wait_some_say_so(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a thousand resources that wait for a host, a screen has room for few, and each line costs a call."""
    monkeypatch.setattr(host_access, "SILENT_SECONDS", 0)
    engine.run(engine.pool.hold)
    many = [Resource(engine, "Bridge", f"b{number}", name=f"b{number}") for number in range(2 * MOST_WAITING)]
    creating = [engine.stub.Create.future(each.create_request()) for each in many]
    while len(engine.pool.connections) < len(many):
        engine.run(engine.pool.asked.wait)
        engine.run(engine.pool.asked.clear)
    label = engine.pool.connections[0].label
    engine.run(lambda: engine.pool.log(label, "one moment"))
    engine.logged.expect(lambda line: line.message == "one moment")
    waiting = [line.urn for line in engine.logged.lines if line.message == f"waiting for {label} …"]
    engine.run(engine.pool.release)
    assert len({created.result(SECONDS).id for created in creating}) == len(many)
    assert len(waiting) == len(set(waiting)) == MOST_WAITING


def test_what_happens_with_a_host_shows_under_its_own_resources(engine: Engine) -> None:
    """Two servers that boot: each resource has the status of its own, also one that joins the wait later."""
    engine.run(engine.pool.hold)
    hosts = ("203.0.113.9", "203.0.113.10")
    one, other, late = (
        Resource(engine, "Bridge", name, name=name, connection={"host": host})
        for name, host in (("one", hosts[0]), ("other", hosts[1]), ("late", hosts[0]))
    )
    creating = [engine.stub.Create.future(each.create_request()) for each in (one, other)]
    for each in (one, other):
        engine.logged.expect(about(each))
    for host in hosts:
        engine.run(partial(engine.pool.log, f"root@{host}", f"{host}, try 2"))
    creating.append(engine.stub.Create.future(late.create_request()))
    engine.logged.expect(about(late))
    lines = {(line.urn, line.message) for line in engine.logged.lines if "try" in line.message}
    assert lines == {
        (one.urn, "203.0.113.9, try 2"),
        (other.urn, "203.0.113.10, try 2"),
        (late.urn, "203.0.113.9, try 2"),
    }
    engine.run(engine.pool.release)
    assert [each.result(SECONDS).id for each in creating] == ["one", "other", "late"]


def about(resource: Resource) -> Callable[[Any], bool]:
    """Whether a line of the log is about a resource."""
    return lambda line: bool(line.urn == resource.urn)


def test_a_dead_log_fails_nothing() -> None:
    """An engine that no longer listens to its log still gets its answers."""
    with Engine() as engine:
        engine.configure()
        engine.stub.Handshake(provider_pb2.ProviderHandshakeRequest(engine_address="127.0.0.1:1"))
        engine.host.add_link("vms", "bridge")
        assert Resource(engine, "Bridge", "it", name="vms").preview().values["name"] == "vms"


def invoke(engine: Engine, name: str, /, **arguments: Value) -> dict[str, Value]:
    """Call a function."""
    request = provider_pb2.InvokeRequest(tok=f"hostnet:index:{name}", args=encode(arguments))
    response = engine.stub.Invoke(request)
    assert not response.failures
    return decode(getattr(response, "return")).values


def test_functions(engine: Engine) -> None:
    """getHost, getBridge and getPortForwards answer from the host."""
    Resource(engine, "Bridge", "it", name="vms", addresses=["10.0.0.1/24"]).create()
    Resource(engine, "PortForward", "web", externalInterface="eth0", sourcePort=80, destination="10.0.0.2").create()
    assert invoke(engine, "getHost")["defaultRoute"] == {"ipv4": "eth0", "ipv6": "eth0"}
    assert invoke(engine, "getBridge", name="vms")["gateway"] == "10.0.0.1"
    forwards = invoke(engine, "getPortForwards")["portForwards"]
    assert [forward["sourcePorts"] for forward in forwards] == ["80"]


def test_function_arguments_are_checked(engine: Engine) -> None:
    """A missing argument is a failure with its name; an unknown function an error."""
    bad = engine.stub.Invoke(provider_pb2.InvokeRequest(tok="hostnet:index:getBridge"))
    assert [failure.property for failure in bad.failures] == ["name"]
    with pytest.raises(grpc.RpcError) as raised:
        engine.stub.Invoke(provider_pb2.InvokeRequest(tok="hostnet:index:getNothing"))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_list_pages(engine: Engine) -> None:
    """List gives the ids of one kind, page by page, up to the limit."""
    for number in range(5):
        Resource(engine, "Bridge", f"b{number}", name=f"br{number}").create()
    Resource(engine, "TapBinding", "tap", name="vm0", bridge="br0").create()
    token = "hostnet:index:Bridge"  # noqa: S105 - a type token
    found: list[tuple[str, str]] = []
    after, pages = "", 0
    while True:
        request = provider_pb2.ListRequest(token=token, page_size=2, limit=3, continuation_token=after)
        answers = list(engine.stub.List(request))
        found += [(a.result.id, a.result.name) for a in answers if a.HasField("result")]
        pages += 1
        after = answers[-1].continuation.continuation_token
        if not after:
            break
    assert found == [("br0", "b0"), ("br1", "b1"), ("br2", "b2")]
    assert pages == 2


@pytest.mark.parametrize(
    ("arguments", "address"),
    [
        (["127.0.0.1:5"], "127.0.0.1:5"),
        (["--logtostderr", "-v=9", "--tracing", "file:x", "127.0.0.1:5"], "127.0.0.1:5"),
        (["--logtostderr"], None),
        ([], None),
    ],
)
def test_arguments(arguments: list[str], address: str | None) -> None:
    """The engine's address is found behind its flags, and its absence is fine."""
    assert engine_address(arguments) == address


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    """The plugin's process, with no engine, on a machine without Pulumi's Python SDK."""
    command = [sys.executable, "-c", WITHOUT_PULUMI, "--logtostderr"]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as running:
        yield running
        running.kill()


def test_process(process: subprocess.Popen[str]) -> None:
    """The first line is a port on this machine; it answers Handshake, acknowledges Cancel, and ends at SIGINT."""
    assert process.stdout is not None
    with grpc.insecure_channel(f"127.0.0.1:{int(process.stdout.readline())}") as channel:
        stub = provider_pb2_grpc.ResourceProviderStub(channel)
        handshake = provider_pb2.ProviderHandshakeRequest()
        assert stub.Handshake(handshake, wait_for_ready=True, timeout=SECONDS).accept_secrets
        stub.Cancel(Empty())
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS) == 0
    assert process.stdout.read() == ""


def test_the_checkout_is_a_plugin() -> None:
    """As Pulumi's Python host runs PulumiPlugin.yaml: the folder, with the engine's address."""
    command = [sys.executable, str(ROOT), "127.0.0.1:1"]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            assert int(running.stdout.readline())
        finally:
            running.kill()


def test_process_ends_with_its_engine() -> None:
    """A plugin whose engine was killed ends as well."""
    starter = (
        "import subprocess, sys;subprocess.Popen([sys.executable, '-m', 'hostnet.rpc', '127.0.0.1:1']);sys.stdin.read()"
    )
    command = [sys.executable, "-c", starter]
    with subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as engine:
        assert engine.stdout is not None
        assert int(engine.stdout.readline())
        engine.kill()
        # The plugin holds the other end of this pipe, and is the last to do so.
        readable, _, _ = select.select([engine.stdout], [], [], SECONDS)
        assert readable
        assert engine.stdout.read() == b""


# A program whose registry of protobuf has the protocol of another version of Pulumi, under Pulumi's own names.
OTHER_PULUMI = """
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import Default
other = FileDescriptorProto(name="pulumi/provider.proto", package="pulumirpc", syntax="proto3")
for name in ("CheckRequest", "ErrorResourceInitFailed"):
    other.message_type.add(name=name).field.add(name="later", number=99, type=9, label=1)
Default().AddSerializedFile(other.SerializeToString())
"""
OURS = "from hostnet.rpc.protos import engine_pb2_grpc, provider_pb2, provider_pb2_grpc, status_pb2\n"
REAL_PULUMI = "import pulumi.dynamic\nfrom google.rpc import error_details_pb2\n"


@pytest.mark.parametrize(
    "imports",
    [OURS + REAL_PULUMI, REAL_PULUMI + OURS, OTHER_PULUMI + OURS, OURS + OTHER_PULUMI],
    ids=["pulumi after", "pulumi before", "another version before", "another version after"],
)
def test_one_process_has_the_protocol_and_pulumi(imports: str) -> None:
    """Whichever is imported first, and whichever version it is: hostnet's messages are hostnet's own."""
    program = f"{imports}assert provider_pb2.CheckRequest(urn='u').SerializeToString() == b'\\n\\x01u'\n"
    subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, check=True, timeout=SECONDS)


def test_messages_are_pulumis_on_the_wire() -> None:
    """What Pulumi's own modules write, hostnet's read, and the other way round."""
    from pulumi.runtime.proto import provider_pb2 as theirs  # noqa: PLC0415 - beside hostnet's

    ours = provider_pb2.CheckRequest(urn="u", news=encode({"a": [1, True, "x"]}), randomSeed=b"s")
    assert theirs.CheckRequest is not provider_pb2.CheckRequest
    assert theirs.CheckRequest.FromString(ours.SerializeToString()).SerializeToString() == ours.SerializeToString()
