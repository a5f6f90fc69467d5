"""`hostnet remove`: what a lost state left, and nothing else."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from typing import Any

import pytest
from hostnet.cli.main import OK, USAGE, WRONG
from hostnet.cli.remove import select
from hostnet.wire.errors import Code, HostnetError

from tests.cli.conftest import PROGRAM, Terminal


def resource(stack: str, project: str, name: str) -> dict[str, Any]:
    """One as the agent's `status` has it."""
    urn = f"urn:pulumi:{stack}::{project}::hostnet:index:Bridge::{name}"
    return {"urn": urn, "id": name, "stack": stack, "project": project, "kind": "Bridge", "name": name}


THERE = [
    resource("dev", "shop", "a"),
    resource("dev", "shop", "b"),
    resource("dev", "wiki", "c"),
    resource("live", "shop", "d"),
]


@pytest.mark.parametrize(
    ("urns", "stack", "project", "found"),
    [
        ((), "live", None, "d"),
        ((), "dev", "shop", "ab"),
        ((), None, "shop", "abd"),
        (tuple(each["urn"] for each in THERE[1:3]), None, None, "bc"),
    ],
)
def test_what_is_named(urns: tuple[str, ...], stack: str | None, project: str | None, found: str) -> None:
    """A stack, a project, or single resources."""
    assert "".join(each["name"] for each in select(THERE, urns, stack, project)) == found


@pytest.mark.parametrize(
    ("urns", "stack", "project", "code", "words"),
    [
        ((), "dev", None, Code.INVALID, "shop, wiki"),
        (
            (),
            "test",
            None,
            Code.NOT_FOUND,
            "no resource of stack test there. The stacks there are: dev of project shop",
        ),
        ((), "live", "wiki", Code.NOT_FOUND, "stack live of project wiki"),
        (("urn:pulumi:x::y::z::w",), None, None, Code.NOT_FOUND, "urn:pulumi:x::y::z::w"),
    ],
)
def test_what_is_not_clear(
    urns: tuple[str, ...], stack: str | None, project: str | None, code: Code, words: str
) -> None:
    """Nothing is guessed."""
    with pytest.raises(HostnetError) as failed:
        select(THERE, urns, stack, project)
    assert failed.value.code is code
    assert words in str(failed.value)


def test_a_lost_state(terminal: Terminal) -> None:
    """All of the stack goes, watcher and sysctls too; what is asked for again is an error."""
    before = terminal.bed.snapshot()
    terminal.stack.up(PROGRAM)
    done = terminal.run("remove", "--stack", "other", "--yes")
    assert (done.returncode, "The stacks there are: lab of project lab" in done.stderr) == (WRONG, True)
    done = terminal.run("remove", "--stack", "lab", "--project", "lab", "--yes", "--json")
    assert done.returncode == OK, done.stderr
    assert len(json.loads(done.stdout)["deleted"]) == len(PROGRAM)
    assert terminal.bed.snapshot() == before
    assert "hostnet has no resources here" in terminal.run("status").stdout
    assert terminal.run("remove", "--stack", "lab", "--yes").returncode == WRONG


def test_single_resources(terminal: Terminal) -> None:
    """The others stay as they are."""
    terminal.stack.up(PROGRAM)
    urns = {each["name"]: each["urn"] for each in json.loads(terminal.run("status", "--json").stdout)["resources"]}
    done = terminal.run("remove", "--yes", urns["web"], urns["far"])
    assert "deleted 2 of 2 resources" in done.stdout
    left = json.loads(terminal.run("status", "--json").stdout)["resources"]
    assert {each["name"] for each in left} == PROGRAM.keys() - {"web", "far"}
    assert [each["drift"] for each in left if each["drift"]] == []


@pytest.mark.parametrize("answer", ["yes", "no", "\x04"])
def test_it_asks(terminal: Terminal, answer: str) -> None:
    """It shows what would go; only `yes` deletes. Without a terminal nobody can be asked."""
    terminal.stack.up(PROGRAM)
    assert terminal.run("remove", "--stack", "lab").returncode == USAGE
    assert terminal.run("remove", "--yes").returncode == USAGE
    here, there = pty.openpty()
    with subprocess.Popen(
        terminal.argv("remove", "--stack", "lab"),
        env=terminal.environment,
        stdin=there,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        os.write(here, f"{answer}\n".encode())
        assert process.stdout is not None
        shown = process.stdout.read()
    os.close(here)
    os.close(there)
    assert "bridge br-a" in shown
    assert "Delete them? Type yes:" in shown
    gone = answer == "yes"
    assert process.returncode == (OK if gone else WRONG)
    assert ("Nothing was deleted" in shown) is not gone
    assert ("has no resources here" in terminal.run("status").stdout) is gone
