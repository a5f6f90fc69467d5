"""What stops in the middle: Ctrl-C, and a killed agent. The state stays true, and the next run converges."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import pulumi_hostnet as hostnet

from tests.e2e.stacks import Host, Program, Stack

MANY = 60


def network(host: Host) -> Program:
    """A bridge and many TAPs with guests: enough to stop in the middle of."""

    def program() -> None:
        connection = hostnet.ConnectionArgs(netns=host.name)
        net = hostnet.Bridge("net", name="net", addresses=["10.0.0.1/24"], connection=connection)
        hostnet.NatGateway("nat", internal_interfaces=[net.name], connection=connection)
        for index in range(MANY):
            hostnet.TapBinding(f"vm{index}", name=f"vm{index}", bridge=net.name, guest={}, connection=connection)

    return program


def taps(host: Host) -> set[str]:
    """The TAPs on the host."""
    return {name for name in host.links if name.startswith("vm")}


def converges(stack: Stack, host: Host) -> None:
    """The state is true as it is; refresh and up finish the work, and a destroy leaves nothing."""
    known = {one["id"] for one in stack.resources.values() if one["type"].endswith("TapBinding")}
    assert known == taps(host)
    assert stack.refresh().changes == {}
    finished = stack.up(network(host))
    assert set(finished.changes.values()) == {"create"}
    assert taps(host) == {f"vm{index}" for index in range(MANY)}
    assert stack.preview(network(host), "--refresh").changes == {}
    addresses = [
        one["outputs"]["guest"]["addresses"][0] for one in stack.resources.values() if "guest" in one["outputs"]
    ]
    assert len(set(addresses)) == MANY, "no address was given twice"
    stack.destroy()
    assert taps(host) == set()
    assert host.left == []


def test_ctrl_c_in_the_middle_of_an_up(stack: Stack, host: Host) -> None:
    """What was created is in the state, what was not is not on the host."""
    with stack.running("up", network(host), "--yes", "--skip-preview", "--parallel", "2") as running:
        running.until(lambda run: run.done("create") >= 8)
        running.interrupt()
        run = stack.ended(running)
    assert run.code != 0
    assert len(taps(host)) < MANY, "it stopped in the middle"
    assert "exited prematurely" not in run.text
    converges(stack, host)


ENDLESS = """
import threading, pulumi_hostnet as hostnet
print("it runs")
threading.Event().wait()
"""


def test_ctrl_c_in_the_middle_of_a_program(stack: Stack) -> None:
    """A program as typed, stopped wherever it is: what shows is that it was cancelled, and no traceback of it."""
    stack.write(ENDLESS)
    with stack.running("up", None, "--yes", "--skip-preview") as running:
        running.until(lambda run: any("it runs" in text for text in run.said("info")))
        running.interrupt()
        run = stack.ended(running)
    assert run.code != 0
    assert "cancel" in run.errors
    assert "Traceback" not in run.text
    assert "KeyboardInterrupt" not in run.text


def test_a_killed_agent_in_the_middle_of_an_up(stack: Stack, host: Host) -> None:
    """The provider lives and starts another; what was in flight fails with a reason, or is done after all."""
    with stack.running(
        "up", network(host), "--yes", "--skip-preview", "--parallel", "2", "--continue-on-error"
    ) as running:
        running.until(lambda run: run.done("create") >= 8)
        for pid in agents(host):
            os.kill(pid, signal.SIGKILL)
        run = stack.ended(running)
    made = len(taps(host))
    assert made > 8, "another agent went on"
    if run.code:
        assert "SIGKILL" in run.errors
        converges(stack, host)
    else:
        assert made == MANY
        stack.destroy()


def agents(host: Host) -> list[int]:
    """The processes of the agents that work in a namespace."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if host.name.encode() in words and any(b"hostnet.agent" in word for word in words):
                found.append(int(path.parent.name))
    assert found
    return found
