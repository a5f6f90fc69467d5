"""What the engine hears when something goes wrong, and what it must not hear."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from hostnet.hosts.connection import Connection
from hostnet.lifecycle import host_access
from hostnet.rpc.codec import decode, encode
from hostnet.rpc.failures import STATUS_OF
from hostnet.rpc.protos import provider_pb2
from hostnet.wire.errors import Code, HostnetError, OutcomeUnknownError

from tests.rpc.engine import SECONDS, Engine, Resource, init_failed, message, paths
from tests.rpc.hostile import Hostile, cases, take_over

if TYPE_CHECKING:
    from hostnet.resources.schema.values import Value

PASSWORD = "correct horse battery staple"  # noqa: S105 - the one to be kept out of messages
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAAB3NzaC1yc2EAAAADAQAB\n-----END OPENSSH PRIVATE KEY-----\n"
REMOTE = {"host": "203.0.113.9", "password": PASSWORD}
STATE_UNKNOWN = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS}


def bridge(engine: Engine, **inputs: Value) -> Resource:
    """A bridge of the program."""
    return Resource(engine, "Bridge", "it", **{"name": "vms", "addresses": ["10.0.0.1/24"], **inputs})


@pytest.mark.parametrize("code", Code)
def test_every_error_has_a_code(engine: Engine, code: Code) -> None:
    """No error of ours makes the engine think that it does not know the state; the message says all."""
    engine.host.fail(HostnetError(code, "create bridge vms", "EPERM: no", "Be root"), "apply")
    with pytest.raises(grpc.RpcError) as raised:
        bridge(engine).create()
    assert raised.value.code() is STATUS_OF[code]
    assert raised.value.code() not in STATE_UNKNOWN
    assert "create bridge vms" in message(raised.value)
    assert "Be root" in message(raised.value)


def test_partial_create_keeps_its_id(engine: Engine) -> None:
    """A bridge that is there in part is in the state, and the next update repairs it without a difference."""
    engine.host.fail(HostnetError(Code.PARTIAL, "create bridge vms", "EBUSY"), applied=True)
    it = bridge(engine)
    request = it.create_request()
    with pytest.raises(grpc.RpcError) as raised:
        engine.stub.Create(request)
    detail = init_failed(raised.value)
    assert detail.id == "vms"
    assert decode(detail.inputs).values == decode(request.properties).values
    assert "EBUSY" in detail.reasons[0]
    it.id, it.inputs, it.outputs = detail.id, request.properties, detail.properties
    it.update(**it.given)
    assert it.diff().changes == provider_pb2.DiffResponse.DIFF_NONE


def test_partial_failure_is_repaired_beside_new_credentials(engine: Engine) -> None:
    """An update that follows a partial failure reaches the host also where only the credentials are other ones."""
    remote = engine.pool.at(Connection("203.0.113.9"))
    remote.fail(HostnetError(Code.PARTIAL, "create bridge vms", "EBUSY"))
    it = bridge(engine, connection=REMOTE)
    request = it.create_request()
    with pytest.raises(grpc.RpcError) as raised:
        engine.stub.Create(request)
    detail = init_failed(raised.value)
    it.id, it.inputs, it.outputs = detail.id, request.properties, detail.properties
    it.update(**it.given | {"connection": REMOTE | {"password": "another one"}})
    assert remote.link("vms")


def test_partial_update(engine: Engine) -> None:
    """A half-done update keeps the id as well."""
    it = bridge(engine).create()
    engine.host.fail(HostnetError(Code.PARTIAL, "update bridge vms", "EBUSY"))
    with pytest.raises(grpc.RpcError) as raised:
        it.update(name="vms", addresses=["10.1.0.1/24"])
    assert init_failed(raised.value).id == "vms"


@pytest.mark.parametrize("answer", ["the end", "half an answer and the end", "no JSON", "silence"])
def test_an_update_of_unknown_outcome_is_done_again(
    engine: Engine, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host makes it, and its agents don't say so: the state has the new inputs, and the next `up` updates."""
    monkeypatch.setattr("hostnet.hosts.session._ANSWER_SECONDS", 0.3)
    it = bridge(engine).create()
    case = next(case for _, case in cases("any answer") if case["name"] == answer)
    hostile = Hostile(case, ("apply",))
    engine.run(lambda: take_over(engine.host, engine.host.agent, hostile))
    changed = it.given | {"mtu": 1400}
    inputs = it.checked(**changed)
    with pytest.raises(grpc.RpcError) as raised:
        it.update(**changed)
    detail = init_failed(raised.value)
    assert detail.id == it.id
    assert detail.inputs == inputs
    assert "whether the change was made is not known" in message(raised.value)
    hostile.case = None
    engine.host.change_link("vms", mtu=1500)  # as if it had not been made
    it.inputs, it.outputs, it.given = detail.inputs, detail.properties, changed
    it.update(**changed)
    assert engine.host.link("vms").mtu == 1400
    assert it.diff().changes == provider_pb2.DiffResponse.DIFF_NONE


@pytest.mark.parametrize("made", [True, False])
def test_a_create_of_unknown_outcome(engine: Engine, made: bool) -> None:  # noqa: FBT001 - a case
    """The host is asked what it has: that is kept in part, and nothing is a failure like any other."""
    error = OutcomeUnknownError(Code.AGENT_DIED, "create bridge vms", "killed by SIGKILL", "Run it again")
    engine.host.fail(error, applied=made)
    it = bridge(engine)
    with pytest.raises(grpc.RpcError) as raised:
        it.create()
    assert raised.value.code() is grpc.StatusCode.ABORTED
    if made:
        assert init_failed(raised.value).id == "vms"
    else:
        with pytest.raises(StopIteration):
            init_failed(raised.value)
        it.create()


def test_a_create_of_unknown_outcome_on_a_host_that_is_gone(engine: Engine) -> None:
    """It is in the state if its id is known; else the next create takes over what was made."""
    error = OutcomeUnknownError(Code.UNREACHABLE, "lost the connection", "no answer", "Run it again")
    engine.host.fail(error, applied=True)
    with pytest.raises(grpc.RpcError) as raised:
        bridge(engine).create()
    assert init_failed(raised.value).id == "vms"
    engine.host.fail(error, applied=True)
    forward = Resource(engine, "PortForward", "web", sourcePort=80, destination="10.0.0.2")
    with pytest.raises(grpc.RpcError) as raised:
        forward.create()
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert forward.create().id == "eth0/ipv4/tcp/80"


def test_a_bug_says_where(engine: Engine) -> None:
    """An unforeseen exception is one clear line, without its text."""
    engine.host.fail(ZeroDivisionError(PASSWORD))
    with pytest.raises(grpc.RpcError) as raised:
        bridge(engine).create()
    assert raised.value.code() is grpc.StatusCode.INTERNAL
    assert "ZeroDivisionError at hostnet/fakes/host.py:" in message(raised.value)
    assert PASSWORD not in message(raised.value)


def test_check_failures_have_paths(engine: Engine) -> None:
    """All that is wrong comes at once: the top-level property, whose value the engine prints, and the whole path."""
    server = {"staticLeases": [{"macAddress": "x", "address": "10.0.0.9"}]}
    failures = bridge(engine, addresses=["10.0.0.0/33"], mtu="big", dhcpServer=server).check().failures
    found = {failure.property: failure.reason.split(": ")[0] for failure in failures}
    assert found == {"addresses": "addresses[0]", "mtu": "mtu", "dhcpServer": "dhcpServer.staticLeases[0].macAddress"}


def test_no_secret_in_check_failures(engine: Engine) -> None:
    """Below `connection`, and for secret inputs, the engine gets no property whose value it would print."""
    connection = {"hostt": "x", "password": PASSWORD, "privateKey": KEY + "x", "port": PASSWORD}
    it = Resource(engine, "Bridge", "it", [("name",)], name=PASSWORD, connection=connection)
    failures = it.check().failures
    assert failures
    assert all(failure.property == "" for failure in failures)
    assert any("connection.port" in failure.reason for failure in failures)
    assert all(PASSWORD not in failure.reason and "AAAAB3" not in failure.reason for failure in failures)


def test_a_property_that_is_not_declared_may_hold_a_secret(engine: Engine) -> None:
    """A misspelled `connection` is a failure of no property: the engine prints none of its values."""
    (failure,) = bridge(engine, conection=REMOTE).check().failures
    assert failure.property == ""
    assert failure.reason.startswith("conection: unknown property")
    assert PASSWORD not in failure.reason


@pytest.mark.parametrize("secret", [PASSWORD, KEY, "AAAAB3NzaC1yc2EAAAADAQAB"])
def test_no_secret_in_errors(engine: Engine, secret: str) -> None:
    """A host's message that quotes a credential arrives without it, as an error and as a warning."""
    connection = REMOTE | {"privateKey": KEY}
    remote = engine.pool.at(Connection("203.0.113.9"))
    it = bridge(engine, connection=connection)
    for _ in range(2):
        remote.fail(HostnetError(Code.PERMISSION, "log in", f"{secret!r} was refused, {secret}"))
    with pytest.raises(grpc.RpcError) as raised:
        it.create()
    it.preview()
    assert "[secret]" in message(raised.value)
    assert secret not in message(raised.value)
    assert len(engine.warnings()) == 1
    assert secret not in engine.warnings()[0]


def test_provider_credentials_are_secrets(engine: Engine) -> None:
    """The provider's own connection arrives as JSON text; its password is kept out of messages as well."""
    engine.configure(connection=f'{{"host": "203.0.113.9", "password": "{PASSWORD}"}}')
    engine.pool.at(Connection("203.0.113.9")).fail(HostnetError(Code.PERMISSION, "log in", PASSWORD))
    with pytest.raises(grpc.RpcError) as raised:
        bridge(engine).create()
    assert message(raised.value) == "log in: [secret]"


def test_preview_warns_and_never_fails(engine: Engine) -> None:
    """What would fail is a warning under the resource; the preview goes on."""
    engine.host.add_link("vms", "bridge")
    assert bridge(engine).preview().values["name"] == "vms"
    (line,) = [line for line in engine.logged.lines if not line.ephemeral]
    assert line.urn == bridge(engine).urn
    assert "vms" in line.message


def test_unreachable_host_in_previews(engine: Engine) -> None:
    """A host that does not answer is asked once; the preview of everything on it goes on."""
    engine.pool.unreachable.add("root@203.0.113.9")
    for name in ("a", "b", "c"):
        assert bridge(engine, name=name, connection=REMOTE).preview().values["name"] == name
    assert len(engine.pool.connections) == 1
    assert len(engine.warnings()) == 1


def test_a_host_that_takes_its_time_in_a_preview(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that shows signs of life is waited for, longer than one that shows none; that one is not looked at."""
    monkeypatch.setattr(host_access, "PREVIEW_SECONDS", 0.05)
    far, silent = {"host": "203.0.113.9"}, {"host": "203.0.113.10"}
    hosts = [engine.pool.at(Connection.from_inputs(each)) for each in (far, silent)]
    for host in hosts:
        engine.run(host.hold)
    hosts[0].transport.last_activity = math.inf  # always just now
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(bridge(engine, name="a", connection=far).preview)
        assert bridge(engine, name="b", connection=silent).preview().values["name"] == "b"
        assert not asking.done()
        engine.run(hosts[0].release)
        assert asking.result(SECONDS).values["name"] == "a"
    (warning,) = engine.warnings()
    assert warning.startswith("root@203.0.113.10: no answer in time")
    assert len(hosts[0].requests) == 1


def test_unreachable_is_not_gone(engine: Engine) -> None:
    """A host that can't be reached is an error of Read, Create and Update, never "gone"."""
    it = bridge(engine, connection=REMOTE).create()
    engine.pool.unreachable.add("root@203.0.113.9")
    for doing in (it.read, it.create, lambda: it.update(**it.given | {"mtu": 1400})):
        with pytest.raises(grpc.RpcError) as raised:
            doing()
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


def test_delete_on_unreachable_host(engine: Engine) -> None:
    """Deleting on a host that is gone names the opt-in, and with it succeeds with a warning."""
    it = bridge(engine, connection=REMOTE).create()
    engine.pool.unreachable.add("root@203.0.113.9")
    with pytest.raises(grpc.RpcError) as raised:
        it.delete()
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "deleteUnreachable" in message(raised.value)
    assert "HOSTNET_DELETE_UNREACHABLE" in message(raised.value)
    engine.configure(deleteUnreachable=True)
    it.delete()
    assert "203.0.113.9" in engine.warnings()[-1]


def test_delete_on_unreachable_host_by_environment(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment variable does the same."""
    it = bridge(engine, connection=REMOTE).create()
    engine.pool.unreachable.add("root@203.0.113.9")
    monkeypatch.setenv("HOSTNET_DELETE_UNREACHABLE", "1")
    engine.configure()
    it.delete()


def test_unconfigured_provider_previews_only() -> None:
    """Without Configure, a preview is blind and anything else an error."""
    with Engine() as engine:
        assert bridge(engine).preview().values["name"] == "vms"
        with pytest.raises(grpc.RpcError) as raised:
            bridge(engine).create()
        assert "Configure" in message(raised.value)
        assert engine.pool.connections == []


def test_cancel_before_the_host_is_reached(engine: Engine) -> None:
    """Who still waits for a host at Cancel fails at once, as cancelled; nothing was done."""
    engine.run(engine.pool.hold)
    waiting = engine.stub.Create.future(bridge(engine).create_request())
    engine.run(engine.pool.asked.wait)
    engine.stub.Cancel(Empty())
    with pytest.raises(grpc.RpcError) as raised:
        waiting.result(SECONDS)
    assert raised.value.code() is grpc.StatusCode.CANCELLED
    assert engine.pool.cancelled
    assert "vms" not in engine.host.dump()["links"]


def test_cancel_lets_finish_what_is_under_way(engine: Engine) -> None:
    """What a host is doing at Cancel it does to its end, and the state has it."""
    engine.run(engine.host.hold)
    under_way = engine.stub.Create.future(bridge(engine).create_request())
    engine.run(engine.host.entered.wait)
    engine.stub.Cancel(Empty())
    engine.run(engine.host.release)
    assert under_way.result(SECONDS).id == "vms"
    with pytest.raises(grpc.RpcError) as raised:
        bridge(engine, name="late").create()
    assert raised.value.code() is grpc.StatusCode.CANCELLED


def test_configure_begins_anew(engine: Engine) -> None:
    """A plugin that was attached to serves the next deployment as well, after the Cancel that ended the last."""
    engine.stub.Cancel(Empty())
    engine.configure()
    assert bridge(engine).create().id == "vms"


def test_creates_run_at_the_same_time(engine: Engine) -> None:
    """Creates that come at once are at the host at once, so that it can join them."""
    engine.run(engine.host.hold)
    names = [f"br{i}" for i in range(8)]
    requests = [bridge(engine, name=name, addresses=[]).create_request() for name in names]
    calls = [engine.stub.Create.future(request) for request in requests]
    engine.run(lambda: engine.host.arrived(len(names)))
    engine.run(engine.host.release)
    assert [call.result(SECONDS).id for call in calls] == names


def test_credentials_touch_nothing(engine: Engine) -> None:
    """New credentials are an update that asks the host for nothing."""
    it = bridge(engine, connection=REMOTE).create()
    asked = len(engine.pool.at(Connection("203.0.113.9")).requests)
    before = it.outputs
    new = it.given | {"connection": REMOTE | {"password": "another"}}
    found = it.diff(**new)
    assert paths(found) == {"connection.password": "UPDATE"}
    assert not found.replaces
    it.update(**new)
    assert it.outputs == before
    assert len(engine.pool.at(Connection("203.0.113.9")).requests) == asked


def test_another_host_is_a_replacement(engine: Engine) -> None:
    """Another host means another bridge, created there before the old one goes."""
    it = bridge(engine, connection=REMOTE).create()
    found = it.diff(**it.given | {"connection": {"host": "203.0.113.10"}})
    assert list(found.replaces) == ["connection"]
    assert not found.deleteBeforeReplace


def test_ignored_changes(engine: Engine) -> None:
    """What a program ignores is no difference, whole or by path."""
    it = bridge(engine).create()
    new = it.given | {"mtu": 1400, "addresses": ["10.0.0.1/24", "10.1.0.1/24"]}
    assert paths(it.diff(["mtu", "addresses[*]"], **new)) == {}
    assert set(paths(it.diff(["mtu"], **new))) == {"addresses[1]"}


def test_name_replaces_by_deleting_first(engine: Engine) -> None:
    """Where old and new could clash on one host, the old one goes first."""
    it = bridge(engine).create()
    found = it.diff(**it.given | {"name": "other"})
    assert list(found.replaces) == ["name"]
    assert found.deleteBeforeReplace


def test_config_that_means_another_host(engine: Engine) -> None:
    """A provider that moves to another host is replaced, and so are its resources; new credentials are an update."""
    old = encode({"connection": '{"host": "203.0.113.9"}', "version": "0.1.0"})
    moved = encode({"connection": '{"host": "203.0.113.10"}'})
    other = encode({"connection": '{"host": "203.0.113.9", "port": 2222}'})
    diff = engine.stub.DiffConfig
    assert list(diff(provider_pb2.DiffRequest(old_inputs=old, olds=old, news=moved)).replaces) == ["connection"]
    changed = diff(provider_pb2.DiffRequest(old_inputs=old, olds=old, news=other))
    assert changed.changes == provider_pb2.DiffResponse.DIFF_SOME
    assert not changed.replaces


def test_config_is_checked(engine: Engine) -> None:
    """Wrong configuration is named with its path, and none of its values is printed."""
    news = encode({"connection": f'{{"hostt": "{PASSWORD}"}}', "persist": "sometimes"})
    response = engine.stub.CheckConfig(provider_pb2.CheckRequest(news=news))
    assert "persist" in {failure.property for failure in response.failures}
    assert any("connection.hostt" in failure.reason for failure in response.failures)
    assert all(PASSWORD not in failure.reason for failure in response.failures)
