"""schema.json, docs/resources and the lists of sets follow from the declarations, and so does the configuration."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hostnet.agent.nft.ruleset import SETS
from hostnet.hosts.connection import Connection, Settings
from hostnet.resources import KINDS
from hostnet.resources.functions import FUNCTIONS
from hostnet.resources.package_schema import ORGANISATION, REPOSITORY, package_schema, render
from hostnet.resources.provider import diff_config, parse_config
from hostnet.resources.reference_pages import pages
from hostnet.resources.schema.connection import CONNECTION
from hostnet.resources.schema.values import UNKNOWN

from tests.unit.resources.golden import TOKENS, load
from tools.docs_listing import with_sets

if TYPE_CHECKING:
    from collections.abc import Iterator


TOP = Path(__file__).parents[3]

CONTRACTS = {kind: load(kind, "contract") for kind in (*TOKENS, "connection")}
TYPES = {name: names for contract in CONTRACTS.values() for name, names in contract.get("types", {}).items()}


def test_schema_json_is_up_to_date() -> None:
    """`make schema` writes it."""
    assert (TOP / "schema.json").read_text(encoding="utf-8") == render()


def test_a_variable_of_the_configuration_has_no_object_type() -> None:
    """With the type of a function's argument, Pulumi's generator for Java stops (`package_schema._variable`)."""
    schema = package_schema()
    variables = {name: each.get("$ref") for name, each in schema["config"]["variables"].items()}
    assert set(variables) == set(schema["provider"]["inputProperties"])
    assert not any(variables.values())


def test_the_schema_has_what_pulumis_registry_shows() -> None:
    """Who publishes it, where it is, its logo, and where the plugin of each version is."""
    schema = package_schema()
    assert schema["publisher"] == ORGANISATION
    assert schema["homepage"] == schema["repository"] == REPOSITORY
    assert schema["pluginDownloadURL"] == f"github://api.github.com/{REPOSITORY.removeprefix('https://github.com/')}"
    assert (TOP / schema["logoUrl"].partition(f"/v{schema['version']}/")[2]).read_text().startswith("<svg ")
    assert set(schema["language"]) == {"python", "nodejs", "go", "csharp", "java"}


def test_one_file_says_who_publishes_hostnet() -> None:
    """Of all that is written by hand: what is generated follows, a Go program must name the module that it imports."""
    name = f"{ORGANISATION}/pulumi-hostnet".encode()
    assert [path for path in _written_files() if name in path.read_bytes()] == []  # package_schema.py puts it together


# What is generated, and what .gitignore names. Not by `git ls-files`: a minimal system has the files, but no git.
_NOT_WRITTEN = {"sdk", ".git", ".venv", ".venv-plugin", "build", "node_modules", "__pycache__"}
_CACHE = re.compile(r"\..*cache|\.hypothesis|.*\.egg-info")


def _written_files() -> Iterator[Path]:
    """The files of the checkout that are written by hand, but for Go's."""
    for folder, folders, names in os.walk(TOP):
        folders[:] = [each for each in folders if each not in _NOT_WRITTEN and not _CACHE.fullmatch(each)]
        for path in (Path(folder, name) for name in names if Path(folder) != TOP / "docs" / "resources"):
            if path != TOP / "schema.json" and path.suffix not in {".go", ".mod"} and path.is_file():
                yield path


def test_words_are_enumerations_in_the_sdks() -> None:
    """Where a property takes one of several words; a string is as good."""
    types = package_schema()["types"]
    words = {token: [each["value"] for each in about["enum"]] for token, about in types.items() if "enum" in about}
    assert words == {
        "hostnet:index:EgressProtocol": ["tcp", "udp", "sctp", "icmp", "any"],
        "hostnet:index:FirewallMode": ["auto", "none"],
        "hostnet:index:HostAccess": ["all", "services"],
        "hostnet:index:Persist": ["auto", "always", "never"],
        "hostnet:index:Protocol": ["tcp", "udp", "sctp", "tcp+udp"],
    }


def test_the_docs_are_up_to_date() -> None:
    """`python -m hostnet.resources.reference_pages docs/resources` writes them."""
    there = {path.name: path.read_text(encoding="utf-8") for path in (TOP / "docs" / "resources").glob("*.md")}
    assert there == pages()


def test_the_sets_in_the_docs_are_up_to_date() -> None:
    """`make docs` writes them, and every set says what it holds."""
    text = (TOP / "docs" / "nft.md").read_text(encoding="utf-8")
    assert text == with_sets(text)
    for name, spec in SETS.items():
        assert spec.holds
        assert f"`{name}`" in text


@pytest.mark.parametrize("kind", TOKENS)
def test_a_resource_has_the_properties_of_the_contract(kind: str) -> None:
    """No more, no fewer."""
    resource, contract = package_schema()["resources"][TOKENS[kind]], CONTRACTS[kind]
    assert set(resource["inputProperties"]) == set(contract["inputs"].split())
    assert set(resource["properties"]) == set(contract["outputs"].split())


@pytest.mark.parametrize("name", TYPES)
def test_a_type_has_the_properties_of_the_contract(name: str) -> None:
    """No more, no fewer."""
    assert set(package_schema()["types"][f"hostnet:index:{name}"]["properties"]) == set(TYPES[name].split())


def test_the_contracts_required_inputs_are_required() -> None:
    """Only a forward's port and destination are required."""
    required = {token: x.get("requiredInputs", []) for token, x in package_schema()["resources"].items()}
    assert {token: set(names) for token, names in required.items() if names} == {
        "hostnet:index:PortForward": {"sourcePort", "destination"}
    }


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a schema."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item)


def test_the_schema_has_no_default() -> None:
    """The SDKs would write it into the state."""
    for item in walk(package_schema()):
        assert "default" not in item
        assert "defaultInfo" not in item


def test_the_connections_secrets_are_secret() -> None:
    """Pulumi encrypts them in the state."""
    properties = package_schema()["types"]["hostnet:index:Connection"]["properties"]
    secrets = {name for name, about in properties.items() if about.get("secret")}
    assert secrets == {"password", "privateKey", "privateKeyPassword"}


def test_every_property_is_documented() -> None:
    """Each description ends with a full stop."""
    schema = package_schema()
    holders = [*schema["types"].values(), *schema["resources"].values(), schema["provider"]]
    holders += [part for x in schema["functions"].values() for part in (x["inputs"], x["outputs"])]
    for holder in holders:
        for name, about in {**holder.get("properties", {}), **holder.get("inputProperties", {})}.items():
            assert about["description"].rstrip()[-1] == ".", name


def test_importing_it_needs_neither_pulumi_nor_grpc() -> None:
    """The plugin prints its port before it imports more."""
    code = "import sys, hostnet.resources; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=TOP / "provider"
    )
    assert not {"pulumi", "grpc", "google.protobuf", "pyroute2", "asyncio"} & set(done.stdout.split())


def test_a_checked_connection_fits_the_hosts() -> None:
    """The declaration and `hosts.connection` have the same properties and defaults."""
    assert Connection.from_inputs({}) == Connection()
    assert {about.attribute for about in CONNECTION.properties.values()} == set(Connection.__dataclass_fields__)
    for about in CONNECTION.properties.values():
        assert about.default == getattr(Connection(), about.attribute)


def test_the_configuration_is_read_from_text() -> None:
    """All but strings arrive as JSON text. The environment decides if the configuration does not."""
    assert parse_config({}) == (None, Settings())
    given = {
        "connection": json.dumps({"host": "a", "port": 2222}),
        "deleteUnreachable": "true",
        "persist": "never",
        "confirmTimeout": "5",
        "stateDir": "/run/hostnet/",
    }
    assert parse_config(given) == (
        {"host": "a", "port": 2222},
        Settings(delete_unreachable=True, persist="never", confirm_timeout=5, state_dir="/run/hostnet"),
    )
    environ = {"HOSTNET_DELETE_UNREACHABLE": "1"}
    assert parse_config({}, environ)[1].delete_unreachable
    assert not parse_config({"deleteUnreachable": "false"}, environ)[1].delete_unreachable


def test_another_default_host_replaces_the_provider() -> None:
    """Its resources are replaced with it. Another change of the configuration replaces nothing."""
    old = {"connection": '{"host":"a","password":"x"}'}
    assert diff_config(old, {"connection": '{"host":"b","password":"x"}'}).replaces == ["connection"]
    assert diff_config(old, {"connection": '{"netns":"n","host":"a"}'}).replaces == ["connection"]
    assert diff_config(old, {"connection": '{"host":"a","user":"b"}'}).replaces == []
    assert diff_config(old, {"connection": UNKNOWN}).changed
    assert diff_config({"confirmTimeout": "30"}, {}).detailed == {}
    assert diff_config({}, {"persist": "never"}).detailed == {"persist": "add"}


def test_functions_return_what_they_declare() -> None:
    """Further facts of the agent are left out."""
    bridge = FUNCTIONS["hostnet:index:getBridge"]
    assert [x.path for x in bridge.check({})] == ["name"]
    assert bridge.arguments({"name": "br0", "connection": {"host": "a"}}) == {"name": "br0"}
    assert bridge.arguments({"name": UNKNOWN}) is None
    assert bridge.result({"name": "br0", "more": 1}) == {"name": "br0"}


def test_the_kinds_are_known_by_their_tokens() -> None:
    """There are four."""
    assert list(KINDS) == list(TOKENS.values())
