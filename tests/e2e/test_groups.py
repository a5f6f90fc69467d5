"""examples/fleet, run as a person runs it: a stack for each group of servers, the workers of a queue, a shared store.

tests/ssh/fleet.py has the address plan. Groups: canary (server 0), north (1 and 2), south (3); one at a time.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.groups import Groups
from tests.e2e.stacks import Cli
from tests.lab.waiting import until
from tests.ssh.fleet import Fleet, address
from tools.paths import CHECKOUT, tool_env

GROUPS = {"canary": [0], "north": [1, 2], "south": [3]}
NETWORK = {"vms": 1, "forwards": 2, "port": 80}
SICK = 2  # the server of north that is unplugged
WORKERS = 2
PATIENCE = 300  # seconds; only a failure costs them


@pytest.fixture
def groups(cli: Cli, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Groups]:
    """Servers on which nothing is yet; the test says where the state is."""
    fleet = Fleet(4)
    try:
        made = Groups(fleet, tmp_path, GROUPS, at_once=1, network=NETWORK)
        try:
            made.cli.env |= getattr(made.services, request.param)()
            yield made
        finally:
            made.close()
    finally:
        fleet.close()


def run(groups: Groups, command: str, **sick: Any) -> tuple[dict[str, str], str]:
    """Run the example's command; what became of each group, and what it said.

    Args:
        groups: The example.
        command: Of `pulumi`.
        sick: Further arguments of the connection to the server that is unplugged.
    """
    with groups.running(command, WORKERS, {SICK: sick}) as process:
        return ended(process)


def ended(process: subprocess.Popen[str], said: str = "") -> tuple[dict[str, str], str]:
    """Wait for the end of it; see `run`."""
    said += process.communicate(timeout=PATIENCE)[0]
    assert "\ngroup " in said, said
    rows = [re.split(r" {2,}", line) for line in said[said.index("\ngroup ") :].splitlines()]
    outcomes = {row[0]: row[1] for row in rows if row[0] in GROUPS}
    assert (process.returncode == 0) == (outcomes == DONE), said
    return outcomes, said


def has_network(groups: Groups) -> list[bool]:
    """Which of the servers have theirs."""
    whole = {8000: "10.0.0.2:80", 8001: "10.0.0.2:80"}
    return [groups.host(number).forwards() == whole for number in range(4)]


DONE = dict.fromkeys(GROUPS, "done")


@pytest.mark.parametrize("groups", ["postgres"], indirect=True)
def test_a_group_that_fails(groups: Groups) -> None:
    """It stops those that come later; repaired, the next run does the rest; a destroy leaves nothing."""
    groups.fleet.unplug(SICK)
    outcomes, said = run(groups, "up", dial_error_limit=1)
    assert outcomes == {"canary": "done", "north": "FAILED", "south": "not touched"}, said
    assert f"root@{address(SICK)}: cannot reach the host" in said
    # After a failure, the engine begins nothing more on the other server of north.
    canary, _, sick, south = has_network(groups)
    assert (canary, sick, south) == (True, False, False)
    assert groups.state("south") == {}

    groups.fleet.plug(SICK)
    assert run(groups, "up")[0] == DONE
    assert has_network(groups) == [True] * 4
    assert run(groups, "destroy")[0] == DONE
    assert [groups.host(number).left for number in range(4)] == [[]] * 4


def kill_all(worker: int) -> None:
    """Kill a worker with all that it started, as a machine that fails does."""
    os.killpg(os.getpgid(worker), signal.SIGKILL)


def kill_python(worker: int) -> None:
    """Kill a worker's Python alone: `pulumi` outlives it, and ends by itself."""
    os.kill(worker, signal.SIGKILL)


def kill_pulumi(worker: int) -> None:
    """Kill `pulumi` alone, as the kernel may where memory is short."""
    lists = [thread.read_text() for thread in Path(f"/proc/{worker}/task").glob("*/children")]
    children = [child for each in lists for child in each.split()]
    (pulumi,) = [child for child in children if Path(f"/proc/{child}/comm").read_text() == "pulumi\n"]
    os.kill(int(pulumi), signal.SIGKILL)


def kill_in_north(groups: Groups, kill: Callable[[int], None]) -> tuple[dict[str, str], str]:
    """Run `up`, and kill in the middle of north's creates, when one of its two servers has its network."""
    groups.fleet.unplug(SICK)
    with groups.running("up", WORKERS, {SICK: {"dial_error_limit": -1}}) as process:
        assert process.stdout is not None
        said = ""
        while not (begun := re.search(r"north: begun by \S+:(\d+)", said)):
            said += (line := process.stdout.readline())
            assert line, said
        until(lambda: has_network(groups) == [True, True, False, False], patience=PATIENCE)
        kill(int(begun[1]))
        assert groups.state("north")["pending_operations"]
        groups.fleet.plug(SICK)
        return ended(process, said)


def is_whole(groups: Groups) -> None:
    """All servers have their networks, and no stack has an operation that is pending."""
    assert has_network(groups) == [True] * 4
    assert [groups.state(group).get("pending_operations") for group in GROUPS] == [None] * 3


@pytest.mark.parametrize(
    ("groups", "kill"), [("s3", kill_all), ("postgres", kill_python)], indirect=["groups"], ids=["with pulumi", "alone"]
)
def test_a_worker_that_is_killed(groups: Groups, kill: Callable[[int], None]) -> None:
    """Another one goes on: it removes the lock and the pending creates, and the run comes to its end."""
    outcomes, said = kill_in_north(groups, kill)
    assert outcomes == DONE
    assert re.search(r"north: removed the lock and the pending creates", said)
    assert re.search(r"^north .*\(try [2-9]\)$", said, re.MULTILINE)
    is_whole(groups)


@pytest.mark.parametrize("groups", ["postgres"], indirect=True)
def test_a_pulumi_that_is_killed(groups: Groups) -> None:
    """Its group fails, since memory may be short again; the next run removes what it left, and does the rest."""
    outcomes, said = kill_in_north(groups, kill_pulumi)
    assert outcomes == {"canary": "done", "north": "FAILED", "south": "not touched"}, said
    outcomes, said = run(groups, "up")
    assert outcomes == DONE
    assert re.search(r"north: removed the lock and the pending creates", said)
    is_whole(groups)


def test_the_benchmark_of_groups() -> None:
    """The command of docs/fleets.md measures, in a process of its own, without the settings of these tests."""
    sizes = {"HOSTS": "1", "SIZE": "1", "STORES": "postgres", "WORKERS": "1", "VMS": "1", "FORWARDS": "1"}
    env = {name: value for name, value in tool_env().items() if not name.startswith(("PULUMI_", "HOSTNET_"))} | sizes
    argv = [sys.executable, "-m", "benchmarks.groups"]
    done = subprocess.run(argv, cwd=CHECKOUT, env=env, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    found = [re.split(r" {2,}", line)[1:3] for line in done.stdout.splitlines()[1:]]
    assert found == [["1 stack, 1 worker", step] for step in ("up", "up again", "destroy")]
