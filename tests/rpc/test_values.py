"""What goes over the wire: secrets, unknowns, references, and everything that a Struct can hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from hostnet.lifecycle.paths import Path
from hostnet.lifecycle.redaction import HIDDEN, Redactor
from hostnet.lifecycle.secrets import SECRET, SIGNATURE, Given, input_secrets, output_secrets
from hostnet.resources.schema.model import has_unknown
from hostnet.resources.schema.values import UNKNOWN, Value
from hostnet.rpc.codec import ASSET, BYTES, OUTPUT, RESOURCE, UNKNOWNS, MalformedError, decode, encode, encode_again
from hostnet.rpc.protos import provider_pb2
from hypothesis import given
from hypothesis import strategies as st

from tests.rpc.engine import Engine, Resource

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS = st.text(max_size=8).filter(lambda key: key != SIGNATURE)
LEAVES = (
    st.just(UNKNOWN)
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not number.is_integer())
    | st.text().filter(lambda text: text not in UNKNOWNS)
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=20
)
MAPPINGS = st.dictionaries(KEYS, VALUES, max_size=5)


def all_paths(value: Value, path: Path = ()) -> list[Path]:
    """Every path in a value but the empty one."""
    items: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    found = [path] if path else []
    for key, item in items:
        found += all_paths(item, (*path, key))
    return found


@st.composite
def marked(draw: st.DrawFn) -> tuple[dict[str, Any], set[Path]]:
    """Values, and some paths in them of which none is below another."""
    values = draw(MAPPINGS)
    marks: set[Path] = set()
    for path in all_paths(values):
        if draw(st.booleans()) and not any(path[: len(mark)] == mark for mark in marks):
            marks.add(path)
    return values, marks


@given(marked())
def test_values_and_secrets_survive(case: tuple[dict[str, Any], set[Path]]) -> None:
    """What is encoded and sent is decoded to the same values, types and secret paths."""
    values, marks = case
    wire = Struct.FromString(encode(values, marks, unknowns=True).SerializeToString())
    found = decode(wire)
    assert found.values == values
    assert found.secrets == marks
    assert encode(found.values, found.secrets, unknowns=True) == wire


@given(marked(), MAPPINGS, st.data())
def test_what_goes_back_as_it_came_is_the_same(
    case: tuple[dict[str, Any], set[Path]], others: dict[str, Any], data: st.DataObject
) -> None:
    """With what is added, changed and left out, it is what encoding all of it would give."""
    given_values, marks = case
    wire = Struct.FromString(encode(given_values, marks, unknowns=True).SerializeToString())
    found = decode(wire)
    values = {**{name: each for name, each in found.values.items() if data.draw(st.booleans())}, **others}
    secrets, unknowns = input_secrets(values, found), data.draw(st.booleans())
    again = encode_again(wire, found, values, secrets, unknowns=unknowns)
    assert again == encode(values, secrets, unknowns=unknowns)


@pytest.mark.parametrize(
    "given_value", [None, {SIGNATURE: OUTPUT, "value": 7}, {SIGNATURE: SECRET, "value": "x"}, *sorted(UNKNOWNS)]
)
def test_what_has_another_form_does_not_go_back_as_it_came(given_value: Value) -> None:
    """A null is left out, a typed value is its value, and an unknown is written in one way."""
    wire = encode({"it": [given_value], "other": "x"})
    found = decode(wire)
    marks = input_secrets(found.values, found)
    assert encode_again(wire, found, found.values, marks, unknowns=True) == encode(found.values, marks, unknowns=True)


@given(MAPPINGS)
def test_nothing_unknown_outside_previews(values: dict[str, Any]) -> None:
    """Where no unknown may go, none goes."""
    assert not has_unknown(decode(encode(values)).values)


@given(marked())
def test_a_secret_stays_secret(case: tuple[dict[str, Any], set[Path]]) -> None:
    """Whatever is made of inputs with a secret, the secret's text is nowhere open."""
    values, marks = case
    given_inputs = Given(values, marks)
    derived = {f"derived-{name}": [value] for name, value in values.items()}
    outputs = values | derived
    found = decode(encode(outputs, output_secrets(outputs, given_inputs), unknowns=True))
    covered = {path[0] for path in found.secrets}
    if any(path[0] != "connection" for path in marks):
        assert covered >= derived.keys()
    assert {path[0] for path in input_secrets(values, given_inputs)} == {path[0] for path in marks}


def typed(signature: str, **fields: Value) -> Struct:
    """A Struct with one typed value `it`."""
    return encode({"it": {SIGNATURE: signature, **fields}})


def test_output_values() -> None:
    """An output value is its value, secret or not; without one, it is unknown."""
    assert decode(typed(OUTPUT, value=7.0, dependencies=["urn"])).values == {"it": 7}
    secret = decode(typed(OUTPUT, value="x", secret=True))
    assert (secret.values, secret.secrets) == ({"it": "x"}, {("it",)})
    assert decode(typed(OUTPUT)).values == {"it": UNKNOWN}


def test_resource_references() -> None:
    """A reference to a resource is its id; while it has none, it is unknown; without an id it is the URN."""
    assert decode(typed(RESOURCE, urn="urn:x", id="br0")).values == {"it": "br0"}
    assert decode(typed(RESOURCE, urn="urn:x", id="")).values == {"it": UNKNOWN}
    assert decode(typed(RESOURCE, urn="urn:x")).values == {"it": "urn:x"}


def test_byte_strings() -> None:
    """A string that is no UTF-8 comes back byte for byte."""
    wire = typed(BYTES, value="/wD+")
    found = decode(wire)
    assert found.values["it"].encode(errors="surrogateescape") == b"\xff\x00\xfe"
    assert encode(found.values) == wire


def test_a_byte_string_that_is_not_base64(engine: Engine) -> None:
    """Not in ASCII either: the request is wrong."""
    wire = typed(BYTES, value="é")
    with pytest.raises(MalformedError, match="not valid base64"):
        decode(wire)
    request = provider_pb2.CreateRequest(properties=wire, urn=Resource(engine, "Bridge", "it").urn)
    assert status_of_call(engine.stub.Create, request) is grpc.StatusCode.INVALID_ARGUMENT


def status_of_call(call: Callable[[Any], object], request: object) -> grpc.StatusCode:
    """How a call is refused."""
    with pytest.raises(grpc.RpcError) as refused:
        call(request)
    code: grpc.StatusCode = refused.value.code()
    return code


HALF = {"connection": '{"host": "a", "password": "\\ud800"}'}


@pytest.mark.parametrize(
    "config",
    [HALF, {"connection": "[" * 100_000}, {"connection": "[]"}, {"stateDir": "relative"}, {"persist": "9" * 5000}],
)
def test_a_configuration_that_is_wrong(engine: Engine, config: dict[str, str]) -> None:
    """Half a character, a deep nest: a failure of its check; without a check, an error of the caller."""
    response = engine.stub.CheckConfig(provider_pb2.CheckRequest(news=encode(config)))
    assert response.failures
    request = provider_pb2.ConfigureRequest(args=encode(config))
    assert status_of_call(engine.stub.Configure, request) is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("token", ["x", "-5", "1.5", "é", "9" * 30])
def test_a_continuation_that_is_not_ours(engine: Engine, token: str) -> None:
    """The place of a page is a number."""
    request = provider_pb2.ListRequest(token="hostnet:index:Bridge", continuation_token=token)  # noqa: S106
    assert status_of_call(lambda it: list(engine.stub.List(it)), request) is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("urn", ["", "x", "urn:pulumi:::::", "urn:pulumi:dev::shop::hostnet:index:Bridge::"])
def test_a_request_without_a_urn(engine: Engine, urn: str) -> None:
    """Nothing is made for a resource that has no name."""
    about: dict[str, Any] = {"urn": urn, "type": "hostnet:index:Bridge"}
    inputs = encode({"name": "br0"})
    for call, request in (
        (engine.stub.Check, provider_pb2.CheckRequest(news=inputs, **about)),
        (engine.stub.Diff, provider_pb2.DiffRequest(id="br0", news=inputs, old_inputs=inputs, **about)),
        (engine.stub.Create, provider_pb2.CreateRequest(properties=inputs, **about)),
        (engine.stub.Read, provider_pb2.ReadRequest(id="br0", **about)),
        (engine.stub.Update, provider_pb2.UpdateRequest(id="br0", news=inputs, old_inputs=inputs, **about)),
        (engine.stub.Delete, provider_pb2.DeleteRequest(id="br0", old_inputs=inputs, **about)),
    ):
        assert status_of_call(call, request) is grpc.StatusCode.INVALID_ARGUMENT
    assert "br0" not in engine.host.dump()["links"]


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ("PortForward", {"sourcePort": True}),
        ("PortForward", {"destination": "10.0.0.2", "sourcePort": "x:y"}),
        ("Bridge", {"name": "br0", "mtu": float("nan")}),
        ("Bridge", {"name": UNKNOWN}),
    ],
)
def test_inputs_that_were_not_checked(engine: Engine, kind: str, inputs: dict[str, Any]) -> None:
    """Whoever skips Check is refused: such a request is no bug of hostnet's."""
    given = encode(inputs, unknowns=True)
    about: dict[str, Any] = {"urn": Resource(engine, kind, "it").urn}
    for call, request in (
        (engine.stub.Create, provider_pb2.CreateRequest(properties=given, **about)),
        (engine.stub.Delete, provider_pb2.DeleteRequest(id="br0", old_inputs=given, **about)),
    ):
        assert status_of_call(call, request) is grpc.StatusCode.INVALID_ARGUMENT


def test_many_failures_with_secrets(engine: Engine) -> None:
    """The first hundred are shown without their secrets, and how many there are."""
    ports = [{"sourcePort": f"{n}:x", "destination": f"10.0.0.300:{n}"} for n in range(3000)]
    secrets = [("forwardPorts", n, name) for n in range(3000) for name in ("sourcePort", "destination")]
    forwards = Resource(engine, "NatGateway", "it", secrets, forwardPorts=ports)
    failures = [failure.reason for failure in forwards.check().failures]
    assert len(failures) == 101
    assert failures[-1] == "6,000 failures in all; the first 100 are shown"
    assert not any("10.0.0.300" in reason for reason in failures)


@pytest.mark.parametrize("signature", [ASSET, "0123"])
def test_foreign_values_are_refused(engine: Engine, signature: str) -> None:
    """An asset, or an unknown signature, is a check failure with its path."""
    bridge = Resource(engine, "Bridge", "it", addresses=[{SIGNATURE: signature, "text": "x"}])
    failures = bridge.check().failures
    assert [failure.property for failure in failures] == [""]
    assert failures[0].reason.startswith("addresses[0]: ")


def test_null_is_absent() -> None:
    """A null property is one that was not given."""
    assert decode(encode({"a": None, "b": {"c": None}})).values == {"b": {}}


def test_secret_inputs_make_secret_outputs(engine: Engine) -> None:
    """A secret address is secret in the outputs, and so is what is made of it; the kernel's own numbers are open."""
    secret: Path = ("addresses", 0)
    bridge = Resource(engine, "Bridge", "it", [secret], name="vms", addresses=["10.0.0.1/24"]).create()
    assert bridge.inputs is not None
    assert bridge.outputs is not None
    assert decode(bridge.inputs).secrets == {secret}
    hidden = decode(bridge.outputs).secrets
    assert {path[0] for path in hidden} >= {"addresses", "subnets", "gateway"}
    assert not {path[0] for path in hidden} & {"name", "ifindex"}
    bridge.refresh()
    assert decode(bridge.inputs).secrets == {secret}
    assert decode(bridge.outputs).secrets == hidden


def test_connection_is_no_output(engine: Engine) -> None:
    """A connection, with its secrets, stays in the inputs and nowhere else; a refresh keeps it there."""
    connection = {"host": "203.0.113.9", "password": "correct horse"}
    secrets: list[Path] = [("connection", "password")]
    bridge = Resource(engine, "Bridge", "it", secrets, name="vms", connection=connection).create()
    assert bridge.outputs is not None
    assert b"correct horse" not in bridge.outputs.SerializeToString()
    assert decode(bridge.outputs).secrets == set()
    before = bridge.inputs
    bridge.refresh()
    assert bridge.inputs == before


def test_unknowns_in_previews(engine: Engine) -> None:
    """An unknown input is let through, makes what depends on it unknown, and reaches no host."""
    bridge = Resource(engine, "Bridge", "it", name="vms", addresses=UNKNOWN)
    planned = bridge.preview().values
    assert planned["name"] == "vms"
    assert has_unknown(planned["addresses"])
    assert engine.pool.connections == []


def test_unknown_host_in_previews(engine: Engine) -> None:
    """A server that the same stack will create is no host yet."""
    planned = Resource(engine, "Bridge", "it", name="vms", connection={"host": UNKNOWN}).preview().values
    assert planned["name"] == "vms"
    assert engine.pool.connections == []


def test_nested_unknowns_stay_leaves(engine: Engine) -> None:
    """A guest's address that only the host can tell is unknown in a preview, not missing."""
    tap = Resource(engine, "TapBinding", "it", name="vm0", bridge="vms", guest={"hostname": "web"})
    guest = tap.preview().values["guest"]
    assert has_unknown(guest)
    assert guest is not UNKNOWN


def test_redactor() -> None:
    """Secrets are hidden whole, line by line, quoted and cut short; short ones as words of their own."""
    redact = Redactor()
    redact.learn(["-----BEGIN KEY-----\nabcdefghijklmnop\n", "hunter2-hunter2-hunter2", "80"])
    assert redact("line 2 is abcdefghijklmnop") == f"line 2 is {HIDDEN}"
    assert redact(repr("-----BEGIN KEY-----\nabcdefghijklmnop\n")).count("abcdef") == 0
    assert redact("'hunter2-hunter2-…' is no name") == f"'{HIDDEN}…' is no name"
    assert redact("port 80 of 8080") == f"port {HIDDEN} of 8080"


def test_secret_signature_is_pulumis() -> None:
    """The signature that marks a secret is the engine's."""
    wire = encode({"a": "b"}, [("a",)])
    assert wire.fields["a"].struct_value.fields[SIGNATURE].string_value == SECRET
