"""`kill -9` of the plugin, of `pulumi`, of both, at random moments: the next `up` is right, a destroy leaves nothing.

`make test` tries 32 moments, `make kills` as many as HOSTNET_MOMENTS says, from the seed HOSTNET_SEED. What fails names
its seed, and what was killed when.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pulumi_hostnet as hostnet
import pytest

from tests.e2e.stacks import PATIENCE, Host, Program, Run, Running, Stack
from tests.lab.waiting import until

MOMENTS = int(os.environ.get("HOSTNET_MOMENTS", "32"))
SEED = int(os.environ.get("HOSTNET_SEED", "0"))
ROUNDS = 4  # tests, so that two workers share them
VICTIMS = ("plugin", "pulumi", "both")
EVENTS = 24  # about as many as a run has; a moment may also be after the last
PAUSE = 0.06  # seconds: about what a request takes on the host


class Stage(NamedTuple):
    """What the program declares: the first, an update in place of each kind, and replacements."""

    name: str
    mtu: int = 1450
    destination: str = "10.0.0.2"
    port: int = 80
    queues: bool = False


STAGES = (
    Stage("create"),
    Stage("update", mtu=1400, destination="10.0.0.3"),
    Stage("replace", mtu=1400, destination="10.0.0.3", port=81, queues=True),
)


def network(host: Host, stage: Stage) -> Program:
    """Each kind, autonamed."""

    def program() -> None:
        connection = hostnet.ConnectionArgs(netns=host.name)
        net = hostnet.Bridge("net", addresses=["10.0.0.1/24", "fd12::1/64"], mtu=stage.mtu, connection=connection)
        hostnet.TapBinding("web", bridge=net.name, guest={}, multi_queue=stage.queues, connection=connection)
        hostnet.TapBinding("glob", match="vm-*", bridge=net.name, connection=connection)
        addresses = {"addresses": ["10.9.0.1/32"], "routes": ["10.9.0.2/32"]}
        hostnet.TapBinding("routed", mtu=stage.mtu, multi_queue=stage.queues, connection=connection, **addresses)
        nat = hostnet.NatGateway("nat", internal_interfaces=[net.name], connection=connection)
        hostnet.PortForward(
            "http", nat_gateway=nat.id, source_port=stage.port, destination=stage.destination, connection=connection
        )

    return program


def processes(of: Callable[[int, list[bytes]], bool]) -> list[int]:
    """The processes for which this holds of the parent's number and the words of the command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if of(parent, (path / "cmdline").read_bytes().split(b"\0")):
                found.append(int(path.name))
    return found


def plugins(running: Running) -> list[int]:
    """The plugin's process of a `pulumi` under way."""
    return processes(lambda parent, words: parent == running.process.pid and b"hostnet.rpc" in words)


def agents(host: Host) -> list[int]:
    """The agents and plugins that work in a namespace."""
    name = host.name.encode()
    return processes(
        lambda _, words: name in words and b"watch" not in words and any(b"hostnet.agent" in word for word in words)
    )


def killed(stack: Stack, host: Host, running: Running, victim: str, moment: random.Random) -> None:
    """Kill at a moment: so many events, and a while. Then wait for all that is left of the run."""
    events, pause = moment.randrange(EVENTS), moment.random() * PAUSE
    process = running.process
    while process.poll() is None and (len(running.events()) < events or not plugins(running)):
        time.sleep(0.002)
    time.sleep(pause)
    left = plugins(running)
    for pid in [process.pid] * (victim != "plugin") + left * (victim != "pulumi"):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    # A plugin whose engine died ends by itself, and its agent with it: nobody else changes the host any more.
    until(lambda: not (set(left) & set(processes(lambda _, words: b"hostnet.rpc" in words)) or agents(host)))


def unlocked(stack: Stack) -> None:
    """What a killed `pulumi` leaves locked, as its own message says."""
    stack.cli("cancel", "--yes", "--stack", stack.name, cwd=stack.folder, check=False)


def one(stack: Stack, host: Host, command: str, stage: Stage, moment: random.Random) -> str:
    """Kill one run at a random moment, and repair what it left; what was killed, in words."""
    victim = moment.choice(VICTIMS)
    program = network(host, stage) if command == "up" else None
    with stack.running(command, program, "--yes", "--skip-preview") as running:
        killed(stack, host, running, victim, moment)
        told = len(running.events())
    unlocked(stack)
    what = f"{victim} killed in {stage.name if command == 'up' else command} after {told} events"
    # What a destroy has deleted, and the state still has, only a refresh knows.
    repaired = stack.run("up", network(host, stage), "--yes", "--skip-preview", *["--refresh"] * (command != "up"))
    assert repaired.code == 0, what
    return what


@pytest.mark.parametrize("part", range(ROUNDS))
def test_killed_at_random_moments(stack: Stack, host: Host, part: int) -> None:
    """An `up`, an update, a replacement and a destroy, each killed once in a round; then all is there, and all goes."""
    moment = random.Random(f"{SEED} {part}")  # noqa: S311 - it keeps no secret
    before = host.snapshot()
    for _ in range(max(1, MOMENTS // (len(STAGES) + 1) // ROUNDS)):
        story = []
        for command, stage in [*(("up", each) for each in STAGES), ("destroy", STAGES[-1])]:
            story.append(one(stack, host, command, stage, moment))
            said = f"seed {SEED}, part {part}: {'; '.join(story)}"
            taps = [("routed", stage.mtu), ("web", stage.mtu)]
            links = sorted((name.rpartition("-")[0], link.mtu) for name, link in host.links.items() if "-" in name)
            assert links == sorted([("net", stage.mtu), *taps]), said
            assert host.forwards() == {stage.port: f"{stage.destination}:{stage.port}"}, said
            assert len(stack.resources) == len(links) + 3, said
        clean(stack, host, before, said)


def clean(stack: Stack, host: Host, before: dict[str, Any], said: str) -> None:
    """A refresh finds nothing to do, and a destroy leaves nothing."""
    found: Run = stack.preview(network(host, STAGES[-1]), "--refresh")
    assert found.changes == {}, f"{said}\n{found.text}"
    stack.destroy()
    assert host.left == [], said
    assert host.snapshot() == before, said
