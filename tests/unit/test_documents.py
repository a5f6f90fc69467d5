"""The programs that README.md and docs/ show: each runs with Pulumi's mocks, and what it declares passes the checks.

docs/resources has the schema's examples, which test_examples.py runs. tests/dist compiles docs/_index.md's programs in
TypeScript and Go, and runs its one in YAML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pulumi
import pytest
import yaml
from hostnet.resources import KINDS
from hostnet.resources.schema.values import UNKNOWN
from pulumi.runtime import MockResourceArgs

from tests.documents import Block, blocks, parts
from tests.unit.resources.golden import autoname
from tests.unit.resources.test_examples import Declared, Recorder, declared, leaves
from tools.dist.sources import PYTHON_README

INDEX = "docs/_index.md"
# What stands before a part of a program: names that the text around it has explained.
BEFORE = {
    "docs/architecture.md": """
from hostnet.resources.schema.model import prop
from hostnet.resources.schema.types import Bool
""",
    "docs/fleets.md": """
import pulumi
import pulumi_hostnet as hostnet
""",
    "docs/servers.md": """
import pulumi
import pulumi_hcloud as hcloud
import pulumi_hostnet as hostnet
import pulumi_tls as tls
identity = login = tls.PrivateKey("identity", algorithm="ED25519")
cloud_init = ""
server = hcloud.Server("server", server_type="cx22")
connection = hostnet.ConnectionArgs(host=server.ipv4_address)
""",
    "docs/untrusted-guests.md": """
import pulumi_hostnet as hostnet
bridge = hostnet.Bridge("guests", addresses=["10.0.0.1/24"])
""",
}
CONFIG = {"project:hosts": json.dumps({"n1": {"host": "192.0.2.21", "hostKey": "ssh-ed25519 AAAA"}})}
PYTHON = [*blocks("python"), *parts("sdk/python/README.md", PYTHON_README, "python")]


class Documented(Recorder):
    """An engine that lets the plugin check what it is given, where another resource's outputs are not known."""

    def new_resource(self, args: MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        """Check a resource of hostnet's; those of others have the outputs that they were given."""
        if args.typ not in KINDS:
            self.made.setdefault(args.name, (args.typ, args.inputs))
            return f"${{{args.name}.id}}", {**args.inputs, "ipv4Address": f"${{{args.name}.ipv4Address}}"}
        checked = KINDS[args.typ].check(unknown(args.inputs), None, autoname())
        assert checked.failures == ()
        name, outputs = super().new_resource(args)
        if "guest" in outputs:
            outputs["guest"]["addresses"] = ["10.0.0.2/24"]
        return name, outputs


def unknown(value: Any) -> Any:
    """A value in which each reference to an output is unknown."""
    if isinstance(value, dict):
        return {name: unknown(each) for name, each in value.items()}
    if isinstance(value, list):
        return [unknown(each) for each in value]
    return UNKNOWN if isinstance(value, str) and "${" in value else value


@pytest.fixture
def engine() -> Iterator[Documented]:
    """An engine for one program."""
    recorder = Documented()
    pulumi.runtime.set_mocks(recorder, project="project", preview=False)
    pulumi.runtime.set_all_config(CONFIG)
    yield recorder
    pulumi.runtime.set_all_config({})
    pulumi.runtime.settings.reset_options()


def run(block: Block) -> None:
    """Run a program to its end."""
    text = BEFORE.get(block.page, "") + block.text

    def program() -> None:
        exec(compile(text, str(block), "exec"), {})  # noqa: S102 - the document's own program

    pulumi.runtime.test(program)()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_a_program_in_python(block: Block, engine: Documented) -> None:
    """It runs, and declares something, but for the declaration of a property."""
    run(block)
    assert engine.made or "prop(" in block.text


@pytest.mark.parametrize("wrong", [{"addresses": ["10.0.0.1/99"]}, {"dhcpServer": {"lease": 3}}])
def test_a_mistake_in_a_program_is_found(wrong: dict[str, Any]) -> None:
    """Of a value, and of a name in a value. Python itself refuses the name of an argument."""
    with pytest.raises(AssertionError, match="Failure"):
        Documented().new_resource(MockResourceArgs("hostnet:index:Bridge", "net", wrong, None, None, custom=True))


def index(language: str) -> str:
    """The page of the registry in a language."""
    (text,) = (block.text for block in blocks(language) if block.page == INDEX)
    return text


def values(made: Declared) -> list[tuple[str, Any]]:
    """What each resource is, and what it is given, without what the program calls the others."""
    text = re.sub(r"\$\{\w+", "${", json.dumps([*made.values()]))
    return sorted(map(tuple, json.loads(text)), key=lambda each: str(each[0]))


def test_the_registrys_page_declares_the_same_in_python_and_yaml(engine: Documented) -> None:
    """Whatever the programs call their resources; the values of the other languages are the same, too."""
    (block,) = (each for each in PYTHON if each.page == INDEX)
    run(block)
    wanted = declared(index("yaml"))
    assert values(engine.made) == values(wanted)
    for language in ("typescript", "go"):
        text = index(language)
        for _, given in wanted.values():
            assert [leaf for leaf in leaves(given) if "${" not in leaf and leaf not in text] == []


@pytest.mark.parametrize("block", list(blocks("yaml")), ids=str)
def test_yaml_is_yaml(block: Block) -> None:
    """It has no error, and something in it."""
    assert list(yaml.safe_load_all(block.text)) != [None]
