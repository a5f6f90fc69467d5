"""Prints schema.json, the package as Pulumi's code generators read it: `python -m hostnet.resources.package_schema`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from hostnet import __version__
from hostnet.resources import RESOURCES, examples
from hostnet.resources.functions import FUNCTIONS
from hostnet.resources.micro_vm_host import MICRO_VM_HOST
from hostnet.resources.provider import DELETE_UNREACHABLE_ENV, PROVIDER
from hostnet.resources.schema.model import property_schema

if TYPE_CHECKING:
    from hostnet.resources.functions import Function
    from hostnet.resources.micro_vm_host import Component
    from hostnet.resources.schema.kind import Kind
    from hostnet.resources.schema.values import Value

Schema = dict[str, "Value"]

# The one place that says who publishes hostnet. `make sdk` and `make dist` take it from here.
ORGANISATION = "pulumi-hostnet"
REPOSITORY = f"https://github.com/{ORGANISATION}/pulumi-hostnet"
# A file of the repository at a release, as the web has it.
LOGO = f"https://raw.githubusercontent.com/{ORGANISATION}/pulumi-hostnet/v{__version__}/docs/logo.svg"
# Where the engine finds the plugin of a version: among the files of the release.
DOWNLOADS = f"github://api.github.com/{ORGANISATION}/pulumi-hostnet"
_PYTHON = {
    "packageName": "pulumi_hostnet",
    "requires": {"pulumi": ">=3.150.0,<4.0.0"},
    "pyproject": {"enabled": True},
    "respectSchemaVersion": True,
    "inputTypes": "classes-and-dicts",
}
_NODEJS = {"packageName": "pulumi-hostnet", "respectSchemaVersion": True}
GO_MODULE = f"{REPOSITORY.removeprefix('https://')}/sdk/go/hostnet"
_GO = {
    "importBasePath": GO_MODULE,
    "generateResourceContainerTypes": True,
    "respectSchemaVersion": True,
}
# Packages whose name begins with `Pulumi.` are Pulumi's own on the index of .NET packages.
_CSHARP = {"rootNamespace": "PulumiHostnet", "packageReferences": {"Pulumi": "3.*"}, "respectSchemaVersion": True}
_JAVA = {
    "basePackage": "io.github.pulumihostnet",
    "buildFiles": "gradle",
    "dependencies": {"com.pulumi:pulumi": "1.0.0"},
}


def resource_schema(kind: Kind[Value] | Component, types: Schema) -> Schema:
    """A resource: inputs and outputs as declared."""
    inputs = kind.inputs.schema_properties(types)
    outputs = kind.results.schema_properties(types)
    return {
        "description": f"{kind.doc}\n\n{_example(kind.name)}",
        "inputProperties": inputs["properties"],
        **({"requiredInputs": inputs["required"]} if "required" in inputs else {}),
        **outputs,
    }


def _example(name: str) -> str:
    """A resource's example, of which each generator of an SDK takes its own language's block."""
    blocks = "\n".join(examples.blocks(name, GO_MODULE).values())
    return f"## Example Usage\n\n{{{{% example %}}}}\n{blocks}{{{{% /example %}}}}\n"


def function_schema(function: Function, types: Schema) -> Schema:
    """A function: arguments and result as declared."""
    return {
        "description": function.doc,
        "inputs": {"type": "object", **function.inputs.schema_properties(types)},
        "outputs": {
            "type": "object",
            "description": function.results.doc,
            **function.results.schema_properties(types),
        },
    }


def _variable(about: Schema) -> Schema:
    """A setting as an SDK's module `config` reads it.

    An object is a map there. The generator for Java (pulumi-java 1.12) writes the type of a variable into the file that
    has the type of a function's argument, and stops: "duplicate file: ... inputs/Connection.java".
    """
    if "#/types/" not in about.get("$ref", ""):
        return about
    return {"type": "object", "additionalProperties": {"$ref": "pulumi.json#/Any"}, "description": about["description"]}


def package_schema() -> Schema:
    """The whole package. No property has a default: the provider applies those that the descriptions name."""
    types: Schema = {}
    resources = {kind.token: resource_schema(kind, types) for kind in RESOURCES}
    resources[MICRO_VM_HOST.token] = {"isComponent": True, **resource_schema(MICRO_VM_HOST, types)}
    functions = {token: function_schema(function, types) for token, function in FUNCTIONS.items()}
    settings = {name: property_schema(about, types) for name, about in PROVIDER.properties.items()}
    return {
        "name": "hostnet",
        "displayName": "hostnet",
        "version": __version__,
        "description": "A Linux host's network in a Pulumi stack: bridges, TAPs of microVMs, NAT, port forwards.",
        "keywords": ["pulumi", "hostnet", "category/network", "kind/native"],
        "homepage": REPOSITORY,
        "license": "Apache-2.0",
        "repository": REPOSITORY,
        "logoUrl": LOGO,
        "pluginDownloadURL": DOWNLOADS,
        "publisher": ORGANISATION,
        "config": {"variables": {name: _variable(about) for name, about in settings.items()}},
        "provider": {
            "description": f"Configures hostnet. It also reads `{DELETE_UNREACHABLE_ENV}` from the environment.",
            "inputProperties": settings,
        },
        "types": dict(sorted(types.items())),
        "resources": resources,
        "functions": functions,
        "language": {"python": _PYTHON, "nodejs": _NODEJS, "go": _GO, "csharp": _CSHARP, "java": _JAVA},
    }


def render() -> str:
    """The text of schema.json."""
    return json.dumps(package_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
