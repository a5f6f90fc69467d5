"""Whatever a host answers, it is an error of that host alone, which says so; the others go on.

tests/cases/hostile.json has the answers. Each is given to every request that it can be the answer of.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from hostnet.fakes import FakeHost
from hostnet.hosts import reader, session
from hostnet.hosts.connection import Connection
from hostnet.hosts.session import Session
from hostnet.rpc.codec import encode
from hostnet.rpc.protos import provider_pb2
from hostnet.wire.objects import Address, Link
from hostnet.wire.requests import Change

from tests.rpc.engine import Engine, Resource, message
from tests.rpc.hostile import Hostile, HostileTransport, cases, take_over

HOST, OTHER = "203.0.113.9", "203.0.113.10"
STATE_UNKNOWN = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS}
# `<host>: <what failed>: <why>. <what to do>`, in one line.
FORM = re.compile(rf"root@{re.escape(HOST)}: [^\n]+: [^\n]+\. [^\n]+")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")

cli = importlib.import_module("hostnet.cli.main")  # the package has a function of that name

RPCS = {
    "preview": ("apply", ("any answer", "an outcome")),
    "create": ("apply", ("any answer", "an outcome", "a state")),
    "update": ("apply", ("any answer", "an outcome", "a state")),
    "read": ("read", ("any answer", "an outcome", "a state")),
    "delete": ("apply", ("any answer",)),
    "getHost": ("facts", ("any answer", "facts", "getHost")),
    "getBridge": ("facts", ("any answer", "facts", "getBridge")),
    "getPortForwards": ("facts", ("any answer", "facts", "getPortForwards")),
}
COMMANDS = {
    "status": ("facts", ("any answer", "facts", "status")),
    "graph": ("facts", ("any answer", "facts", "status")),
    "top": ("facts", ("facts",)),
    "doctor": ("facts", ("any answer", "facts", "doctor")),
    "restore": ("restore", ("any answer",)),
}


def table(of: dict[str, tuple[str, tuple[str, ...]]]) -> list[Any]:
    """Each request with each answer to it, and each greeting."""
    rows = []
    for name, (op, groups) in of.items():
        rows += [pytest.param(name, op, case, id=f"{name}, {title}") for title, case in cases(*groups)]
        rows += [pytest.param(name, "greeting", case, id=f"{name}, {title}") for title, case in cases("a greeting")]
    return rows


@pytest.fixture(autouse=True)
def impatient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent host is given up soon, and a line is too long soon; for all else there is time on a slow machine."""
    case = getattr(request.node, "callspec", None)
    says = case.params["case"].get("says", "") if case is not None else ""
    seconds = 0.3 if says.startswith("no answer within") else 60.0
    monkeypatch.setattr(session, "_ANSWER_SECONDS", seconds)
    monkeypatch.setattr(session, "_GREETING_SECONDS", seconds)
    monkeypatch.setattr(reader, "LINE_BYTES", 10 << 20)


def at(host: str, name: str = "vms") -> dict[str, Any]:
    """The inputs of a bridge there."""
    return {"name": name, "addresses": ["10.0.0.1/24"], "connection": {"host": host}}


def perform(engine: Engine, rpc: str, it: Resource) -> Any:
    """Have one RPC done."""
    if rpc == "preview":
        return it.preview()
    if rpc == "update":
        return it.update(**at(HOST), mtu=1400)
    if rpc in {"create", "read", "delete"}:
        return getattr(it, rpc)()
    arguments = {"connection": {"host": HOST}, **({"name": "vms"} if rpc == "getBridge" else {})}
    return engine.stub.Invoke(provider_pb2.InvokeRequest(tok=f"hostnet:index:{rpc}", args=encode(arguments)))


@pytest.fixture(scope="module")
def running() -> Iterator[Engine]:
    """One plugin for the table: a host that lied is one that can be trusted again, as far as that goes."""
    with Engine() as made:
        yield made.configure()


@pytest.fixture
def engine(running: Engine) -> Engine:
    """With new hosts, and no line in the log."""
    running.pool.hosts.clear()
    running.logged.lines.clear()
    return running


@pytest.mark.parametrize(("rpc", "op", "case"), table(RPCS))
def test_an_answer(engine: Engine, rpc: str, op: str, case: dict[str, Any]) -> None:
    """The code is none that means "state unknown", the message has its form, and another host is not concerned."""
    host = engine.pool.at(Connection(HOST))
    it, hostile = Resource(engine, "Bridge", "vms", **at(HOST)), Hostile()
    forward = Resource(engine, "PortForward", "f", sourcePort=80, destination="10.0.0.2", connection={"host": HOST})
    if rpc not in {"preview", "create"}:
        it.create()
        forward.create()
    engine.run(lambda: take_over(host, host.agent, hostile))
    hostile.case, hostile.ops = case, (op,)
    code = grpc.StatusCode.OK
    try:
        answered = str(perform(engine, rpc, it))
        said = "\n".join(engine.warnings()) or answered
    except grpc.RpcError as error:
        code, said = error.code(), message(error)
    assert code not in STATE_UNKNOWN, said
    expected: str = case.get("shows") or case["says"]
    assert expected in said.replace("\\\\", "\\").replace("\\'", "'")
    if "says" in case:
        for line in said.splitlines():
            assert FORM.fullmatch(line.removeprefix("this change would fail: ")), line
    assert not _UNSAFE.search(said.replace("\n", "")), ascii(said)
    assert len(said) < 10_000
    Resource(engine, "Bridge", "other", **at(OTHER, "others")).create()


@pytest.mark.parametrize(
    "case",
    [case for _, case in cases("any answer") if case.get("forever") or case.get("raw") == ""],
    ids=lambda case: case["name"],
)
def test_the_others_do_not_wait(engine: Engine, monkeypatch: pytest.MonkeyPatch, case: dict[str, Any]) -> None:
    """While one host is silent, or says too much, everything on another one is done."""
    monkeypatch.setattr(session, "_ANSWER_SECONDS", 3600.0)
    host, hostile = engine.pool.at(Connection(HOST)), Hostile(case, ("apply",))
    engine.run(lambda: take_over(host, host.agent, hostile))
    waiting = engine.stub.Create.future(Resource(engine, "Bridge", "vms", **at(HOST)).create_request())
    other = Resource(engine, "Bridge", "other", **at(OTHER, "others")).create()
    other.update(**at(OTHER, "others"), mtu=1400)
    other.delete()
    waiting.cancel()


def test_large_answers_pass(engine: Engine) -> None:
    """Ten thousand forwards in one gateway, and back."""
    forwards = [{"sourcePort": n, "destination": f"10.0.{n >> 8}.{n & 255 or 1}:80"} for n in range(10_000, 20_000)]
    connection = {"host": HOST}
    it = Resource(engine, "NatGateway", "nat", externalInterface="eth0", forwardPorts=forwards, connection=connection)
    it.create()
    assert it.refresh().id
    assert it.diff().changes == provider_pb2.DiffResponse.DIFF_NONE


class _Pool:
    """A pool of one host, which lies."""

    hostile = Hostile()

    def __init__(self, *_: Any) -> None:
        self._fake = FakeHost()
        urn = "urn:pulumi:dev::shop::hostnet:index:Bridge::vms"
        self._fake.agent.apply([Change(urn, "vms", (Link("vms", "bridge"), Address("vms", "10.0.0.1/24")))])

    async def host(self, connection: Connection) -> Session:
        """A session with it."""
        return Session(connection.label, HostileTransport(self._fake.agent, self.hostile))

    async def close(self) -> None:
        """Nothing is left."""


@pytest.mark.parametrize(("command", "op", "case"), table(COMMANDS))
def test_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, op: str, case: dict[str, Any]
) -> None:
    """The exit code says that it failed, the message has its form, and nothing moves the terminal's cursor."""
    monkeypatch.setattr(_Pool, "hostile", Hostile(case, (op,)))
    monkeypatch.setattr(cli, "Pool", _Pool)
    monkeypatch.setenv("COLUMNS", "1000")
    once = ["--count", "1", "--interval", "0.1"] if command == "top" else []
    code = cli.main([command, *once, "--host", f"root@{HOST}"])
    out, err = capsys.readouterr()
    if "shows" in case:
        assert code == cli.OK
        assert case["shows"] in out or command == "graph"
    else:
        assert code in {cli.WRONG, cli.UNREACHED}
        assert case["says"] in err
        assert FORM.fullmatch(err.strip().removeprefix("hostnet: ")), err
    assert not _UNSAFE.search((out + err).replace("\n", "")), ascii(out + err)
