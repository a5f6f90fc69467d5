"""Folders with nothing of the checkout: a program in each language, on what `make dist` built.

Each is checked by its language's compiler, makes a network, finds nothing to change, and removes the network. The
compilers check the schema's examples and the templates of `pulumi new`, too.

`pulumi up` as typed needs a language host. Where the machine has the official `pulumi`, its own are used. Elsewhere the
one for YAML is official, too, the one for Python is this checkout's stand-in, and programs in TypeScript and Go run in
their own processes by Pulumi's Automation API.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from hostnet import __version__
from hostnet.resources.examples import PROGRAMS as EXAMPLES
from hostnet.resources.examples import example
from hostnet.resources.package_schema import GO_MODULE

from tests.dist.conftest import User
from tests.documents import blocks, parts
from tools.dist.__main__ import digest
from tools.dist.gomodule import NAME as GO_ZIP
from tools.dist.plugin import archive_name
from tools.dist.sources import NODEJS_README
from tools.golang import go, pulumi_version
from tools.paths import CHECKOUT, system_program
from tools.venv import CONSTRAINTS

pytestmark = pytest.mark.xdist_group("dist")

SDK = "github.com/pulumi/pulumi/sdk/v3"
PROGRAMS = Path(__file__).parent / "programs"
RUNTIMES = {"python": "python", "typescript": "nodejs", "go": "go", "yaml": "yaml"}
TEMPLATES = CHECKOUT / "templates"
KINDS = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))
# What stands around a part of a program in Go.
GO_PROGRAM = """
package main

import (
	"MODULE"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

func main() {
	pulumi.Run(func(ctx *pulumi.Context) error {
PART
		return nil
	})
}
"""
# The stack, and four resources.
MADE = {"create": 5}
AGAIN = {"same": 5}


def check(user: User, reported: dict[str, Any]) -> None:
    """The program made its network, and found it as it was; nothing of it is left on the host."""
    assert reported["made"] == MADE
    assert reported["again"] == AGAIN
    outputs = {name: output.get("value", output.get("Value")) for name, output in reported["outputs"].items()}
    assert outputs["mac"].count(":") == 5
    assert outputs["tap"].startswith("web-")
    left = json.loads(user.host.run("ip -json link"))
    assert sorted(link["ifname"] for link in left) == ["eth0", "lo", "wire"]


def page(language: str) -> str:
    """The program of docs/_index.md, which Pulumi's registry shows."""
    (text,) = (block.text for block in blocks(language) if block.page == "docs/_index.md")
    return text


def has_host(language: str) -> bool:
    """Whether the machine has the official language host."""
    return system_program(f"pulumi-language-{RUNTIMES[language]}") is not None


def test_python(user: User, dist: Path) -> None:
    """A virtual environment with the two wheels; `pulumi` as typed."""
    python = user.folder / ".venv" / "bin" / "python"
    user.run(sys.executable, "-m", "venv", ".venv")
    wheels = sorted(dist.glob("*.whl"))
    assert len(wheels) == 2
    user.run(python, "-m", "pip", "install", "--quiet", "--constraint", CONSTRAINTS, *wheels)
    user.run(user.folder / ".venv" / "bin" / "hostnet", "--help")
    shutil.copy(PROGRAMS / "python" / "__main__.py", user.folder)
    project = {"name": "python", "runtime": {"name": "python", "options": {"virtualenv": ".venv"}}}
    (user.folder / "Pulumi.yaml").write_text(json.dumps(project))  # JSON is YAML
    check(user, as_typed(user))
    for name in ("__main__.py", "Pulumi.yaml"):
        (user.folder / name).unlink()
    new_project(user, "python")
    check_template(as_typed(user, "--config", connection(user)))


def new_project(user: User, language: str) -> None:
    """What `pulumi new` writes into the user's folder. It says what to do next if it has the language's host."""
    command = ("pulumi", "new", str(TEMPLATES / f"hostnet-{language}"), "--generate-only", "--yes", "--force")
    argv = [*command, "--name", "my-host", "--description", "My host"]
    ended = subprocess.run(argv, cwd=user.folder, env=user.env, capture_output=True, text=True, check=False)
    without_host = f"no language plugin 'pulumi-language-{RUNTIMES[language]}' found"
    assert ended.returncode == 0 or without_host in ended.stdout + ended.stderr, ended
    assert "Created project 'my-host'" in ended.stdout or "Your new project is ready" in ended.stdout, ended
    project = yaml.safe_load((user.folder / "Pulumi.yaml").read_text())
    assert (project["name"], project["description"]) == ("my-host", "My host")
    # An official language host adds its options.
    runtime = project["runtime"] if isinstance(project["runtime"], str) else project["runtime"]["name"]
    assert runtime == RUNTIMES[language]
    assert not [path for path in user.folder.iterdir() if path.is_file() and "${PROJECT}" in path.read_text()]


def check_template(reported: dict[str, Any]) -> None:
    """A template's program made the bridge, the glob, the gateway, two forwards; and found them as they were."""
    assert reported["made"] == {"create": 6}
    assert reported["again"] == {"same": 6}
    outputs = {name: output["value"] for name, output in reported["outputs"].items()}
    assert outputs["gateway"] == "10.0.0.1"
    assert outputs["externalAddresses"] == ["192.0.2.2"]


def connection(user: User) -> str:
    """The provider's configuration that leads to the user's host."""
    return f"hostnet:connection={json.dumps({'netns': user.env['HOST']})}"


def test_the_template_in_yaml(user: User) -> None:
    """`pulumi new` writes a project that runs as it is."""
    new_project(user, "yaml")
    check_template(as_typed(user, "--config", connection(user)))


def test_yaml(user: User) -> None:
    """A project that is one file; it needs no package."""
    shutil.copy(PROGRAMS / "yaml" / "Pulumi.yaml", user.folder)
    check(user, as_typed(user, "--config", f"namespace={user.env['HOST']}"))


@pytest.mark.parametrize("kind", KINDS)
def test_an_example_in_yaml(user: User, kind: str) -> None:
    """It makes what it declares."""
    text = example(kind, "yaml", GO_MODULE)
    (user.folder / "Pulumi.yaml").write_text(f"name: example\nruntime: yaml\n{text}")
    reported = as_typed(user, "--config", connection(user))
    assert set(reported["made"]) == {"create"}
    assert set(reported["again"]) == {"same"}
    assert reported["outputs"]


def test_the_registrys_page_in_yaml(user: User) -> None:
    """It makes what it declares."""
    (user.folder / "Pulumi.yaml").write_text(f"name: page\nruntime: yaml\n{page('yaml')}")
    reported = as_typed(user, "--config", connection(user))
    assert (reported["made"], reported["again"]) == (MADE, AGAIN)
    assert reported["outputs"]["kernelIpArg"]["value"].startswith("ip=10.0.0.2::10.0.0.1:")


def test_the_plugin_comes_from_a_server(user: User, dist: Path, tmp_path: Path) -> None:
    """As in docs/getting-started.md, for a program in YAML: Pulumi finds this machine's archive by its name."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(dist))
    there = replace(user, env={**user.env, "PULUMI_HOME": str(tmp_path / "home")})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        serving = Thread(target=server.serve_forever)
        serving.start()
        try:
            address = f"http://127.0.0.1:{server.server_port}"
            there.run("pulumi", "plugin", "install", "resource", "hostnet", f"v{__version__}", "--server", address)
        finally:
            server.shutdown()
            serving.join()
    assert installed(there) == [("hostnet", __version__)]


def test_the_plugin_from_source(user: User, dist: Path, tmp_path: Path) -> None:
    """What a Mac gets: Pulumi's Python host makes a virtual environment for it. It does what the one for Linux does."""
    source, mac = (dist / archive_name(platform) for platform in ("source", "darwin-arm64"))
    assert digest(source) == digest(mac)
    there = replace(user, env={**user.env, "PULUMI_HOME": str(tmp_path / "home")})
    there.run("pulumi", "plugin", "install", "resource", "hostnet", f"v{__version__}", "--file", source)
    assert installed(there) == [("hostnet", __version__)]
    shutil.copy(PROGRAMS / "yaml" / "Pulumi.yaml", user.folder)
    check(there, as_typed(there, "--config", f"namespace={user.env['HOST']}"))


def installed(user: User) -> list[tuple[str, str]]:
    """The plugins in the user's home of Pulumi: name and version."""
    return [(each["name"], each["version"]) for each in json.loads(user.run("pulumi", "plugin", "ls", "--json"))]


def as_typed(user: User, *config: str) -> dict[str, Any]:
    """What `pulumi up`, a preview and `destroy` report of the project in the user's folder."""
    pulumi = ("pulumi", "--non-interactive")
    user.run(*pulumi, "stack", "init", "dev")
    user.run(*pulumi, "config", "set", "hostnet:stateDir", user.env["STATE_DIR"])
    up = user.run(*pulumi, "up", "--yes", "--skip-preview", "--json", *config)
    events = [json.loads(line) for line in up.splitlines()]
    (made,) = (event["summaryEvent"]["resourceChanges"] for event in events if "summaryEvent" in event)
    outputs = json.loads(user.run(*pulumi, "stack", "output", "--json"))
    again = json.loads(user.run(*pulumi, "preview", "--expect-no-changes", "--json", *config))
    user.run(*pulumi, "destroy", "--yes", "--skip-preview")
    named = {name: {"value": value} for name, value in outputs.items()}
    return {"made": made, "again": again["changeSummary"], "outputs": named}


def test_typescript(user: User, dist: Path) -> None:
    """An npm project, by the strict compiler."""
    for path in (PROGRAMS / "typescript").iterdir():
        shutil.copy(path, user.folder)
    (user.folder / "template").mkdir()
    template = replace(user, folder=user.folder / "template")
    new_project(template, "typescript")
    for kind in KINDS:
        (user.folder / f"example_{kind}.ts").write_text(example(kind, "typescript", GO_MODULE))
    (user.folder / "page.ts").write_text(page("typescript"))
    (readme,) = parts("sdk/nodejs/README.md", NODEJS_README, "typescript")
    (user.folder / "readme.ts").write_text(readme.text)
    (user.folder / "package.json").write_text(json.dumps({"private": True}))
    (package,) = dist.glob("*.tgz")
    tools = ("typescript@5.9.3", "@types/node@20.19.0")
    user.run("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", package, *tools)
    user.run("npx", "tsc")
    user.run("npx", "tsc", "--project", "template")
    check(user, json.loads(user.run("node", "bin/run.js").splitlines()[-1]))
    if has_host("typescript"):
        check_template(as_typed(template, "--config", connection(user)))


def test_go(user: User, dist: Path, tmp_path: Path) -> None:
    """A Go module, from a proxy that has hostnet's."""
    versions = tmp_path / "proxy" / GO_MODULE / "@v"
    versions.mkdir(parents=True)
    (versions / "list").write_text(f"v{__version__}\n")
    (versions / f"v{__version__}.info").write_text(json.dumps({"Version": f"v{__version__}"}))
    shutil.copy(dist / GO_ZIP, versions / f"v{__version__}.zip")
    with zipfile.ZipFile(dist / GO_ZIP) as archive:
        (versions / f"v{__version__}.mod").write_bytes(archive.read(f"{GO_MODULE}@v{__version__}/go.mod"))
    text = (PROGRAMS / "go" / "main.go.txt").read_text()
    (user.folder / "main.go").write_text(text.replace("MODULE", GO_MODULE))
    (user.folder / "template").mkdir()
    template = replace(user, folder=user.folder / "template")
    new_project(template, "go")
    (user.folder / "template" / "go.mod").unlink()  # it names published versions
    for kind in KINDS:
        (user.folder / kind).mkdir()
        (user.folder / kind / "main.go").write_text(example(kind, "go", GO_MODULE))
    (user.folder / "page").mkdir()
    (user.folder / "page" / "main.go").write_text(GO_PROGRAM.replace("MODULE", GO_MODULE).replace("PART", page("go")))
    program = go()
    # A cache of its own: the machine's would keep an earlier build of the same version. What the machine has of other
    # modules comes from there.
    known = Path(user.run(program, "env", "GOMODCACHE").strip(), "cache", "download")
    proxies = (f"file://{tmp_path / 'proxy'}", f"file://{known}", user.run(program, "env", "GOPROXY").strip())
    env = {
        **user.env,
        "GOPROXY": ",".join(proxies),
        "GONOSUMDB": GO_MODULE,
        # As set-up builds `pulumi`, with the same version of Pulumi's Go SDK: what it compiled is not compiled again.
        "GOFLAGS": "-mod=mod -modcacherw -trimpath",
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "GOMODCACHE": str(tmp_path / "modules"),
    }
    developer = User(user.folder, env, user.host)
    developer.run(program, "mod", "init", "example.com/go")
    developer.run(program, "get", f"{GO_MODULE}@v{__version__}", f"{SDK}@{pulumi_version()}")
    developer.run(program, "vet", "./...")
    check(user, json.loads(developer.run(program, "run", ".").splitlines()[-1]))
    if has_host("go"):
        check_template(as_typed(replace(developer, folder=template.folder), "--config", connection(user)))
