"""The examples of the schema: each resource has one in each language, and all of them declare the same.

tests/dist compiles those in TypeScript and Go, and runs those in YAML.
"""

from __future__ import annotations

import json
import re
import runpy
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pulumi
import pytest
import yaml
from hostnet import __version__
from hostnet.resources import RESOURCES
from hostnet.resources.examples import LANGUAGES, PROGRAMS, example
from hostnet.resources.micro_vm_host import MICRO_VM_HOST
from hostnet.resources.package_schema import GO_MODULE, package_schema
from pulumi.runtime import MockCallArgs, MockResourceArgs, Mocks

from tools.paths import CHECKOUT

TEMPLATES = CHECKOUT / "templates"
KINDS = [*(kind.name for kind in RESOURCES), MICRO_VM_HOST.name]
TYPE = re.compile(r"\$\{(\w+)\.([\w.]+)\}")
Declared = dict[str, tuple[str, dict[str, Any]]]


class Recorder(Mocks):
    """An engine that creates everything, and whose outputs are `${resource.output}`, as YAML writes references."""

    def __init__(self) -> None:
        """Start with no resources."""
        self.made: Declared = {}

    def new_resource(self, args: MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        """Each output that the schema knows. A component's first child has its name, too."""
        about = package_schema()["resources"][args.typ]
        self.made.setdefault(args.name, (args.typ, args.inputs))
        outputs: dict[str, Any] = {output: f"${{{args.name}.{output}}}" for output in about["properties"]}
        if "guest" in outputs:
            outputs["guest"] = {inner: f"${{{args.name}.guest.{inner}}}" for inner in ("macAddress", "kernelIpArg")}
        return f"${{{args.name}.id}}", outputs

    def call(self, args: MockCallArgs) -> tuple[dict[str, Any], None]:
        """Fail: an example of a resource calls no function."""
        raise AssertionError(args.token)


@pytest.fixture
def engine() -> Iterator[Recorder]:
    """An engine for one program."""
    recorder = Recorder()
    pulumi.runtime.set_mocks(recorder, preview=False)
    yield recorder
    pulumi.runtime.settings.reset_options()


def declared_by_yaml(name: str) -> Declared:
    """What the example in YAML declares."""
    return declared(example(name, "yaml", GO_MODULE))


def declared(text: str) -> Declared:
    """What a program in YAML declares: name -> type and properties."""
    program = yaml.safe_load(text)
    return {
        resource: (about["type"].replace(":", ":index:"), about["properties"])
        for resource, about in program["resources"].items()
    }


def run(name: str) -> None:
    """Run the example in Python to its end."""
    run_program(PROGRAMS / f"{name.lower()}.py")


def run_program(path: Path) -> None:
    """Run a program in Python to its end."""

    def program() -> None:
        runpy.run_path(str(path))

    pulumi.runtime.test(program)()  # type: ignore[no-untyped-call]


def test_each_resource_has_an_example_in_each_language() -> None:
    """And no file is there that no resource has."""
    wanted = {f"{name.lower()}.{ending}" for name in KINDS for _, ending in LANGUAGES.values()}
    assert {path.name for path in PROGRAMS.iterdir() if path.is_file()} == wanted


@pytest.mark.parametrize("name", KINDS)
def test_the_schema_has_it_in_each_language(name: str) -> None:
    """A block each, with what the file has."""
    text = package_schema()["resources"][f"hostnet:index:{name}"]["description"]
    for language in LANGUAGES:
        assert f"```{language}\n{example(name, language, GO_MODULE)}```\n" in text


@pytest.mark.parametrize("name", [kind.name for kind in RESOURCES])
def test_python_and_yaml_declare_the_same(name: str, engine: Recorder) -> None:
    """The program in Python runs, with Pulumi's mocks, and gives each resource what the one in YAML gives it."""
    run(name)
    written = declared_by_yaml(name)
    made = {resource: engine.made[resource] for resource in written}
    assert made == written
    assert f"hostnet:index:{name}" in {token for token, _ in written.values()}


def test_the_component_in_python_declares_what_the_one_in_yaml_is_given(engine: Recorder) -> None:
    """In Python it is made by the program itself: its children have the values."""
    run(MICRO_VM_HOST.name)
    ((token, given),) = declared_by_yaml(MICRO_VM_HOST.name).values()
    assert engine.made["microvm"] == (token, {})
    assert engine.made["microvm-nat"][1]["forwardPorts"] == given["forwards"]


@pytest.mark.parametrize("name", KINDS)
def test_yaml_refers_to_what_is_there(name: str) -> None:
    """Each reference leads to a resource of the program, and to an output that the schema has."""
    schema = package_schema()
    program = yaml.safe_load(example(name, "yaml", GO_MODULE))
    references = TYPE.findall(json.dumps(program))
    assert references
    for resource, path in references:
        token = declared_by_yaml(name)[resource][0]
        output, *inner = path.split(".")
        properties = schema["resources"][token]["properties"]
        assert output == "id" or output in properties
        for part in inner:
            reference = properties[output]["$ref"].rpartition("/")[2]
            assert part in schema["types"][reference]["properties"]


def leaves(value: object) -> Iterator[str]:
    """The values in lists and mappings, as JSON writes them."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from leaves(each)
    else:
        yield json.dumps(value)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("language", ["typescript", "go"])
def test_other_languages_give_the_same_values(name: str, language: str) -> None:
    """Each value of the program in YAML that is no reference stands in the others."""
    text = example(name, language, GO_MODULE)
    for _, properties in declared_by_yaml(name).values():
        assert [leaf for leaf in leaves(properties) if "${" not in leaf and leaf not in text] == []


# --- the templates of `pulumi new` ----------------------------------------------------------------------------------


def test_there_is_a_template_for_each_language() -> None:
    """Pulumi fills in the name and the description, and shows what a template is."""
    assert {path.name for path in TEMPLATES.iterdir() if path.is_dir()} == {f"hostnet-{name}" for name in LANGUAGES}
    for name, (language, _) in LANGUAGES.items():
        text = (TEMPLATES / f"hostnet-{name}" / "Pulumi.yaml").read_text()
        project = yaml.safe_load(text)
        assert (project["name"], project["description"]) == ("${PROJECT}", "${DESCRIPTION}")
        assert language in project["template"]["description"]


def test_the_templates_in_python_and_yaml_declare_the_same(engine: Recorder) -> None:
    """The one in Python runs, with Pulumi's mocks."""
    run_program(TEMPLATES / "hostnet-python" / "__main__.py")
    assert engine.made == declared((TEMPLATES / "hostnet-yaml" / "Pulumi.yaml").read_text())


@pytest.mark.parametrize(("language", "file"), [("typescript", "index.ts"), ("go", "main.go")])
def test_the_templates_in_other_languages_give_the_same_values(language: str, file: str) -> None:
    """Each value of the one in YAML that is no reference."""
    text = (TEMPLATES / f"hostnet-{language}" / file).read_text()
    for _, properties in declared((TEMPLATES / "hostnet-yaml" / "Pulumi.yaml").read_text()).values():
        assert [leaf for leaf in leaves(properties) if "${" not in leaf and leaf not in text] == []


def test_the_templates_require_this_version() -> None:
    """Of hostnet; and of Pulumi what the SDKs require."""
    sdk = tomllib.loads((CHECKOUT / "sdk" / "python" / "pyproject.toml").read_text())["project"]["dependencies"]
    (pulumi_sdk,) = (each for each in sdk if re.match(r"pulumi\b", each))
    oldest = pulumi_sdk.split(">=")[1].split(",")[0]
    wanted = (TEMPLATES / "hostnet-python" / "requirements.txt").read_text().splitlines()
    assert wanted == [f"pulumi>={oldest},<4.0.0", f"pulumi-hostnet>={__version__},<1.0.0"]
    package = json.loads((TEMPLATES / "hostnet-typescript" / "package.json").read_text())
    assert package["dependencies"] == {"@pulumi/pulumi": f"^{oldest}", "pulumi-hostnet": f"^{__version__}"}
    module = (TEMPLATES / "hostnet-go" / "go.mod").read_text()
    assert f"\t{GO_MODULE} v{__version__}\n" in module
    assert f"\tgithub.com/pulumi/pulumi/sdk/v3 v{oldest}\n" in module
    assert f'\t"{GO_MODULE}"\n' in (TEMPLATES / "hostnet-go" / "main.go").read_text()
