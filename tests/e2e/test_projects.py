"""Projects as a user types them at a shell: the README's program and the project at the top of the checkout."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stacks import Cli, Host, Stack
from tests.lab.namespaces import RUN_NETNS
from tools.paths import CHECKOUT

PYTHON = re.compile(r"^```python\n(?P<program>.*?)^```$", re.DOTALL | re.MULTILINE)


def test_the_program_in_the_readme(stack: Stack, host: Host) -> None:
    """It runs as it stands there, on the host that the provider's configuration names; up, up again, destroy."""
    found = PYTHON.search((CHECKOUT / "README.md").read_text())
    assert found, "README.md has no ```python block"
    stack.write(found["program"])
    stack.cli("config", "set", "hostnet:connection", json.dumps({"netns": host.name}), cwd=stack.folder)
    before = host.snapshot()
    made = stack.up(None)
    assert set(made.changes.values()) == {"create"}
    assert made.warnings == []
    kinds = {one["type"] for one in stack.resources.values()}
    assert kinds == {f"hostnet:index:{kind}" for kind in ("Bridge", "TapBinding", "NatGateway", "PortForward")}
    assert host.forwards()
    assert stack.up(None, "--expect-no-changes").changes == {}
    stack.destroy()
    assert host.snapshot() == before
    assert host.left == []


class TopLevel(Stack):
    """The project at the top, copied as git has it, so that the checkout gets no stack's configuration."""

    def _write(self, name: str, content: object) -> None:
        if name != "Pulumi.yaml":
            super()._write(name, content)
            return
        for file in ("Pulumi.yaml", "__main__.py", "program.py"):
            shutil.copy(CHECKOUT / file, self.folder)
        for folder in ("provider", ".venv", "tools"):
            (self.folder / folder).symlink_to(CHECKOUT / folder)


@pytest.fixture
def top(cli: Cli, tmp_path: Path) -> Iterator[TopLevel]:
    """A stack of the project at the top; its throw-away host goes whatever becomes of the test."""
    stack = TopLevel(cli, "top", project="hostnet-demo", stateDir=str(tmp_path / "state"))
    yield stack
    if stack.outputs:
        stack.destroy()


def test_the_project_at_the_top(top: TopLevel) -> None:
    """`pulumi up` there builds the seed's network in a namespace that it makes, and `destroy` takes both away."""
    names = {"microvm", "web", "nat", "web-80", "web-443", "web-80-v6", "web-443-v6"}
    planned = top.preview(None, "--diff")
    assert set(planned.changes) == names
    assert planned.warnings == []
    assert top.up(None).changes == dict.fromkeys(names, "create")
    name = top.outputs["namespace"]
    assert (RUN_NETNS / name).exists()
    assert top.outputs["kernelIpArg"] == "ip=10.0.0.2::10.0.0.1:255.255.255.0:web:eth0:off"
    moved = top.up(None, "--config", "httpPort=8080")
    assert moved.changes == {"web-80": "update", "web-80-v6": "update"}
    assert top.up(None, "--expect-no-changes").changes == {}
    top.destroy()
    assert not (RUN_NETNS / name).exists()
