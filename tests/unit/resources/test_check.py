"""Check reports all failures with their paths, adds autonames and nothing else, and quotes no credential."""

# ruff: noqa: S105 (what must not show)

from __future__ import annotations

import json
from typing import Any

import pytest
from hostnet.resources import KINDS
from hostnet.resources.provider import check_config
from hostnet.resources.schema.kind import Kind
from hostnet.resources.schema.values import UNKNOWN, Autoname, Failure

from tests.unit.resources.golden import Case, autoname, load, parameters, urn

BRIDGE = KINDS["hostnet:index:Bridge"]
TAP = KINDS["hostnet:index:TapBinding"]
GATEWAY = KINDS["hostnet:index:NatGateway"]
FORWARD = KINDS["hostnet:index:PortForward"]
SECRET = "hunter2"


def expect(failures: tuple[Failure, ...], wanted: dict[str, str]) -> None:
    """Assert that there is one failure for each of these paths, with this text."""
    found = {failure.path: failure.reason for failure in failures}
    assert len(found) == len(failures), "one failure a path"
    assert found.keys() == wanted.keys(), found
    for path, part in wanted.items():
        assert part in found[path]
        assert "None" not in found[path]
        assert len(found[path]) < 400


@parameters("invalid")
def test_bad_input_is_refused_with_its_path_and_what_would_be_right(kind: Kind[Any], case: Case) -> None:
    """Each case fails at exactly the paths it names."""
    expect(kind.check(case["inputs"], None, autoname()).failures, case["failures"])


@parameters("create")
def test_good_input_passes_and_gains_only_a_name(kind: Kind[Any], case: Case) -> None:
    """No default is added."""
    checked = kind.check(case["inputs"], None, autoname())
    assert checked.failures == ()
    assert {name: value for name, value in checked.inputs.items() if name != "name"} == {
        name: value for name, value in case["inputs"].items() if name != "name"
    }


@pytest.mark.parametrize("case", load("connection", "invalid"), ids=lambda case: case["case"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_a_bad_connection_is_refused_and_its_values_are_not_quoted(kind: Kind[Any], case: Case) -> None:
    """Every path starts with `connection`, and no reason repeats what was given."""
    good: dict[str, dict[str, Any]] = {
        "Bridge": {"name": "br0"},
        "TapBinding": {"name": "t0"},
        "NatGateway": {"internalInterfaces": ["br0"]},
        "PortForward": {"sourcePort": 80, "destination": "10.0.0.2"},
    }
    failures = kind.check({**good[kind.name], "connection": case["inputs"]}, None, autoname()).failures
    expect(failures, case["failures"])
    assert SECRET not in repr(failures)
    assert "1234567" not in repr(failures)


@pytest.mark.parametrize("case", load("connection", "invalid"), ids=lambda case: case["case"])
def test_the_providers_connection_is_checked_in_the_same_way(case: Case) -> None:
    """Pulumi passes the objects of a provider's configuration as JSON text."""
    failures = check_config({"connection": json.dumps(case["inputs"])}).failures
    expect(failures, case["failures"])
    assert SECRET not in repr(failures)


@pytest.mark.parametrize(
    ("config", "paths"),
    [
        ({"persist": "sometimes"}, {"persist": "auto, always, never"}),
        ({"deleteUnreachable": "maybe"}, {"deleteUnreachable": "true or false"}),
        ({"confirmTimeout": "0"}, {"confirmTimeout": "above 0"}),
        ({"stateDir": "var/lib"}, {"stateDir": "absolute path"}),
        ({"stateDir": "/var/../etc"}, {"stateDir": "without . and .."}),
        ({"conection": "{}"}, {"conection": "did you mean `connection`?"}),
    ],
)
def test_bad_provider_configuration_is_refused(config: dict[str, str], paths: dict[str, str]) -> None:
    """Each failure has its path and says what would be right."""
    expect(check_config(config).failures, paths)


def test_a_huge_list_is_checked_to_its_end() -> None:
    """Each bad element of thousands is reported."""
    forwards = [{"sourcePort": 1 + n, "destination": "10.0.0.2:80"} for n in range(3000)]
    forwards[7]["destination"] = "x"
    forwards[2999]["sourcePort"] = 0
    failures = GATEWAY.check({"forwardPorts": forwards}, None, autoname()).failures
    assert {x.path for x in failures} == {"forwardPorts[7].destination", "forwardPorts[2999].sourcePort"}


def test_a_specific_listen_address_beside_a_wildcard_is_allowed() -> None:
    """The specific one wins. Forwards of one port in two families or protocols don't clash."""
    port = {"sourcePort": 80, "destination": "10.0.0.2"}
    forwards = [
        port,
        {**port, "listenAddresses": ["203.0.113.5"]},
        {**port, "protocol": "udp"},
        {**port, "destination": "fd12::2"},
        {**port, "sourcePort": 81},
    ]
    assert GATEWAY.check({"forwardPorts": forwards}, None, autoname()).failures == ()


@pytest.mark.parametrize("name", ["ip", "map", "fwd", "table", "dnat", "eth0.100", "br-1", "a@b", "123"])
def test_words_of_nfts_grammar_are_names_too(name: str) -> None:
    """No rule contains a name without quotes."""
    assert BRIDGE.check({"name": name}, None, autoname()).failures == ()
    assert GATEWAY.check({"internalInterfaces": [name]}, None, autoname()).failures == ()


@pytest.mark.parametrize("kind", [BRIDGE, TAP], ids=lambda kind: kind.name)
@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("web", "web"),
        ("Web_Server 1", "web-ser"),
        ("a-very-long-name", "a-very"),
        ("übung", "bung"),
        ("vm-1234-x", "vm-1234"),
    ],
)
def test_a_name_is_derived_from_the_resources_name(kind: Kind[Any], name: str, stem: str) -> None:
    """It has at most 15 bytes of `[a-z0-9-]`, is the same for the same seed, and stays on update."""
    first = kind.check({}, None, autoname(name)).inputs["name"]
    assert first.rpartition("-")[0] == stem
    assert len(first) <= 15
    assert kind.check({}, None, autoname(name)).inputs["name"] == first
    assert kind.check({}, None, Autoname(name, b"other")).inputs["name"] != first
    assert kind.check({}, {"name": first}, Autoname(name, b"other")).inputs == {"name": first}


def test_a_name_without_a_letter_becomes_the_kinds_word() -> None:
    """`++` has no character of `[a-z0-9-]`."""
    assert BRIDGE.check({}, None, autoname("++")).inputs["name"].startswith("br-")
    assert TAP.check({}, None, autoname("++")).inputs["name"].startswith("tap-")


@pytest.mark.parametrize(
    ("mode", "proposed", "name"),
    [
        ("enforce", "vm-web", "vm-web"),
        ("propose", "vm-web", "vm-web"),
        ("enforce", "a-name-that-is-too-long", None),
        ("enforce", "Bad Name", None),
        ("disable", None, None),
    ],
)
def test_configured_autonaming_is_honoured(mode: str, proposed: str | None, name: str | None) -> None:
    """An enforced name is used or refused; without autonaming a name is required."""
    checked = TAP.check({}, None, Autoname("web", b"seed", proposed, mode))
    if name is None:
        assert [x.path for x in checked.failures] == ["name"]
        assert "name" not in checked.inputs
    else:
        assert checked.inputs == {"name": name}


def test_a_proposed_name_that_is_too_long_is_cut() -> None:
    """Its beginning is kept."""
    name = TAP.check({}, None, Autoname("web", b"seed", "production-web-server", "propose")).inputs["name"]
    assert name.startswith("product-")
    assert len(name) <= 15


def test_a_match_gets_no_name() -> None:
    """This holds for an unknown match too."""
    for match in ("vm-*", UNKNOWN):
        inputs = {"match": match, "bridge": "br0"}
        checked = TAP.check(inputs, None, autoname())
        assert checked.inputs == inputs
        assert checked.failures == ()


def test_ids_are_stable_and_differ_between_stacks() -> None:
    """A gateway's id is derived from its URN."""
    inputs = {"internalInterfaces": ["br0"]}
    one, again = GATEWAY.change(urn(GATEWAY), inputs), GATEWAY.change(urn(GATEWAY), inputs)
    other = GATEWAY.change(urn(GATEWAY).replace("test", "prod"), inputs)
    assert one is not None
    assert again is not None
    assert other is not None
    assert one.id == again.id != other.id
    assert one.id.startswith("microvm-")


def test_there_is_no_change_for_the_host_while_an_input_is_unknown() -> None:
    """The preview then does not ask the host."""
    for kind, inputs in (
        (BRIDGE, {"name": "br0", "addresses": [UNKNOWN]}),
        (TAP, {"name": "t0", "guest": {"hostname": UNKNOWN}}),
        (GATEWAY, {"internalInterfaces": UNKNOWN}),
        (FORWARD, {"sourcePort": UNKNOWN, "destination": "10.0.0.2"}),
        (BRIDGE, {"name": "br0", "connection": {"host": UNKNOWN}}),
    ):
        assert kind.change(urn(kind), inputs) is None
