"""`make protocol` writes provider/hostnet/rpc/protos, and nothing else of the plugin is Pulumi's Python SDK."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tools import protocol
from tools.paths import CHECKOUT

PACKAGE = CHECKOUT / "provider" / "hostnet"
# The resources for programs without the plugin, which are Pulumi programs.
# The second has programs of users, which documents show.
ALLOWED = {PACKAGE / "dynamic", PACKAGE / "resources" / "programs"}


def test_the_protocol_is_up_to_date() -> None:
    """The folder has what `make protocol` writes, and nothing else."""
    written = {path.name: path.read_text(encoding="utf-8") for path in protocol.TARGET.glob("*_pb2*")}
    assert written == protocol.render()


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_else_imports_pulumi(path: Path) -> None:
    """At no place of a module; the type stubs do, which nothing runs."""
    if ALLOWED & {*path.parents}:
        return
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    assert "pulumi" not in found
