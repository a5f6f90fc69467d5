"""The plugin's archives, one for each platform: what `pulumi plugin install` unpacks.

For Linux it comes with a Python of its own and all that it requires, and is a program. It needs glibc 2.36 (Debian 12,
Ubuntu 24.04). For other platforms it is source: Pulumi's Python host, which the official `pulumi` brings, makes a
virtual environment beside it and installs requirements.txt. Any Linux can use that one, too.
"""

import importlib.metadata
import re
import tomllib
from pathlib import Path

from hostnet import __version__

from tools.dist import interpreter
from tools.dist.archives import File, write_tar
from tools.dist.sources import tracked
from tools.paths import CHECKOUT
from tools.steps import left_out
from tools.venv import CONSTRAINTS

# As Pulumi names them. It also has windows-amd64, where the plugin does not run. `source` is for any other system.
WITH_PYTHON = {"linux-amd64": "amd64", "linux-arm64": "arm64"}
FROM_SOURCE = ("darwin-amd64", "darwin-arm64", "source")
# The command line's, which the plugin does not import.
COMMAND_LINE = {"rich"}

_MANIFEST = """\
runtime:
  name: python
  options:
    toolchain: pip
    virtualenv: venv
"""
_MAIN = '''\
"""`pulumi-resource-hostnet`, as Pulumi's Python host runs it."""

from hostnet.rpc.__main__ import main

main()
'''


# -I: hostnet's modules come from this folder and no other, whatever the environment and the working directory are.
_PROGRAM = f"""\
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
exec "$here/python/bin/python{interpreter.VERSION}" -I -m hostnet.rpc "$@"
"""


def archive_name(platform: str) -> str:
    """The name under which the engine looks for the plugin among the files of a release."""
    return f"pulumi-resource-hostnet-v{__version__}-{platform}.tar.gz"


def build(target: Path) -> None:
    """Build all into a folder."""
    wanted = requirements()
    source = {
        **package(),
        "PulumiPlugin.yaml": File(_MANIFEST.encode()),
        "requirements.txt": File("".join(f"{line}\n" for line in wanted).encode()),
        "__main__.py": File(_MAIN.encode()),
        "LICENSE": tracked("LICENSE")["LICENSE"],
    }
    for platform in FROM_SOURCE:
        write_tar(target / archive_name(platform), source)
    for platform, architecture in WITH_PYTHON.items():
        if not interpreter.available():
            left_out(f"the plugin for {platform} with its own Python", "this machine has no sources of Debian packages")
            write_tar(target / archive_name(platform), source)
            continue
        write_tar(target / archive_name(platform), _program(interpreter.build(architecture, wanted)))


def _program(python: dict[str, File]) -> dict[str, File]:
    """The plugin as a program, which `pulumi` prefers to a PulumiPlugin.yaml."""
    return {
        "pulumi-resource-hostnet": File(_PROGRAM.encode(), executable=True),
        **{f"python/{name}": file for name, file in python.items()},
        **{f"python/{interpreter.PACKAGES}/{name}": file for name, file in package().items()},
        "LICENSE": tracked("LICENSE")["LICENSE"],
    }


def package() -> dict[str, File]:
    """Hostnet's own modules, without the type stubs, which nothing runs."""
    found = tracked("provider/hostnet").items()
    return {name.removeprefix("provider/"): file for name, file in found if not name.endswith(".pyi")}


def requirements() -> list[str]:
    """What the plugin imports, and what that requires, each with the version that hostnet is tested with."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [_name(each) for each in project["dependencies"]]
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE))
    versions = {_normal(name): version for name, version in pins.items()}
    found: set[str] = set()
    todo = [name for name in wanted if name not in COMMAND_LINE]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += _required(name, extra="bcrypt" if name == "asyncssh" else "")
    return [f"{name}=={versions[name]}" for name in sorted(found)]


def _required(name: str, extra: str) -> list[str]:
    """What a distribution requires: of the extras, those of one."""
    listed = importlib.metadata.requires(name) or []
    without = [_name(each) for each in listed if "extra ==" not in each]
    return without + [_name(each) for each in listed if extra and re.search(rf"extra == ['\"]{extra}['\"]", each)]


def _name(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found, requirement  # noqa: S101 - metadata of distributions that pip installed
    return _normal(found[0])


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
