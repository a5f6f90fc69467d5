"""examples/fleet without servers: the Kubernetes operator's Stack objects, and what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools.paths import CHECKOUT

EXAMPLE = CHECKOUT / "examples" / "fleet"
# The fields that the operator's CustomResourceDefinition (v1) has for what the example sets, and their types.
SPEC = {
    "stack": str,
    "projectRepo": str,
    "branch": str,
    "serviceAccountName": str,
    "backend": str,
    "secretsProvider": str,
    "refresh": bool,
    "resyncFrequencySeconds": int,
    "continueResyncOnCommitMatch": bool,
    "prerequisites": list,
    "workspaceTemplate": dict,
}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the example's command without a broker."""
    argv = [sys.executable, "fleet.py", *arguments]
    return subprocess.run(argv, cwd=EXAMPLE, env={}, capture_output=True, text=True, check=False, timeout=60)


def test_stack_objects() -> None:
    """One for each group, of the operator's fields; all but the canary wait for the canary."""
    fleet = json.loads((EXAMPLE / "fleet.json").read_text())
    objects = json.loads(run("stack-objects").stdout)["items"]
    assert [one["spec"]["stack"] for one in objects] == list(fleet["groups"])
    for one in objects:
        spec = one["spec"]
        assert (one["apiVersion"], one["kind"]) == ("pulumi.com/v1", "Stack")
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", one["metadata"]["name"])
        assert {name: type(value) for name, value in spec.items()} == {name: SPEC[name] for name in spec}
        needs = [
            {"name": f"fleet-{fleet['canary']}", "requirement": {"succeededWithinDuration": "7200s"}},
        ]
        assert spec.get("prerequisites", []) == ([] if spec["stack"] == fleet["canary"] else needs)


@pytest.mark.parametrize("where", [{"private_key": "k"}, {"proxy": {"host": "192.0.2.1", "password": "p"}}])
def test_secrets_are_refused(where: dict[str, Any], tmp_path: Path) -> None:
    """A task carries no key: whoever reads the queue would have it."""
    file = tmp_path / "fleet.json"
    file.write_text(json.dumps({"groups": {"north": {"n1": {"host": "192.0.2.21", **where}}}}))
    ended = run("up", file)
    assert ended.returncode == 2
    assert "n1 has p" in ended.stderr
    assert "Use an SSH agent" in ended.stderr
