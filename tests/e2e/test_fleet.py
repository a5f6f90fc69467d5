"""Fifty hosts over SSH in one program: one provider process, one log-in each, and none waits for another.

tests/ssh/fleet.py has the address plan. `python -m benchmarks.fleet` has more on each host, and the times.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stacks import Cli, Host, Run, Stack
from tests.ssh.fleet import STATE_DIR, Fleet, address
from tests.ssh.world import until

HOSTS = 50
SICK = 17  # the host that fails
# What the engine's own writing of checkpoints takes is not our subject.
QUICK = {"PULUMI_EXPERIMENTAL": "1", "PULUMI_SKIP_CHECKPOINTS": "1"}
# Else the resources of a host that is waited for may take all the places that the engine has.
WIDE = ("--parallel", "64")


@pytest.fixture
def fleet(cli: Cli) -> Iterator[Fleet]:
    """The servers."""
    made = Fleet(HOSTS)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def stack(fleet: Fleet, tmp_path: Path) -> Stack:
    """An empty stack, whose `pulumi` runs beside the servers."""
    cli = Cli(tmp_path)
    cli.env |= QUICK
    made = Stack(cli, "fleet", stateDir=STATE_DIR)
    made.inside = fleet.client
    return made


def host(fleet: Fleet, number: int) -> Host:
    """A server as a host."""
    server = fleet.servers[number]
    return Host(server.namespace, server.directory / "state")


def hosts(fleet: Fleet) -> list[Host]:
    """All of them."""
    return [host(fleet, number) for number in range(HOSTS)]


def write(fleet: Fleet, stack: Stack, port: int, **sick: int) -> None:
    """The program, with the guests' port that all forwards lead to.

    :param sick: what is said of the connection to the host that fails.
    """
    ways = [fleet.way(number, **(sick if number == SICK else {})) for number in range(HOSTS)]
    fleet.write_program(stack.folder, ways, taps=1, forwards=2, port=port)


def of(number: int) -> set[str]:
    """The resources on a server."""
    return {f"{name}-{number}" for name in ("vms", "nat", "vm0", "web0", "web1")}


ALL = set().union(*map(of, range(HOSTS)))
FORWARDS = {name for name in ALL if name.startswith("web")}


def has_network(host: Host, port: int) -> bool:
    """Whether a server has all that the program says."""
    links = host.links
    return (
        [one["local"] for one in links["vms"]["addr_info"] if one["scope"] == "global"] == ["10.0.0.1"]
        and links["vm0"].get("master") == "vms"
        and host.forwards() == {8000: f"10.0.0.2:{port}", 8001: f"10.0.0.2:{port}"}
    )


def look(host: Host) -> dict[str, Any]:
    """What hostnet changes on a server."""
    return {
        "links": set(host.links),
        "nft": host.run("nft list ruleset"),
        "forwarding": host.sysctl("net.ipv4.ip_forward"),
        "state": host.state_dir.exists(),
    }


def log_ins(fleet: Fleet) -> list[int]:
    """How many there were on each server so far."""
    return [server.log_ins() for server in fleet.servers]


def providers(fleet: Fleet) -> int:
    """How many processes of the provider there are."""
    pids = subprocess.run(["ip", "netns", "pids", fleet.client.name], check=True, capture_output=True, text=True).stdout
    lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in pids.split()]
    return sum("hostnet.rpc" in line for line in lines)


def test_a_fleet(stack: Stack, fleet: Fleet) -> None:
    """Each host gets its own; one that is unplugged fails alone, and holds nobody up; nothing stays at the end."""
    before = [look(each) for each in hosts(fleet)]
    write(fleet, stack, 80, dial_error_limit=1)
    made = stack.up(None, *WIDE)
    assert made.changes == dict.fromkeys(ALL, "create")
    assert made.warnings == []
    assert all(has_network(each, 80) for each in hosts(fleet))
    assert log_ins(fleet) == [1] * HOSTS

    fleet.unplug(SICK)
    one_fails(stack.refresh(*WIDE, fails=True), "same", ALL)
    write(fleet, stack, 81, dial_error_limit=1)
    one_fails(stack.up(None, *WIDE, "--continue-on-error", fails=True), "update", FORWARDS)
    assert [has_network(each, 81) for each in hosts(fleet)] == [number != SICK for number in range(HOSTS)]

    one_is_waited_for(stack, fleet)
    assert all(has_network(each, 82) for each in hosts(fleet))

    stack.destroy(*WIDE)
    assert [look(each) for each in hosts(fleet)] == before
    until(lambda: not any(server.processes("--state-dir") for server in fleet.servers))


def one_fails(run: Run, op: str, all_of_them: set[str]) -> None:
    """Everything was done on all hosts but one, and the only errors are about that.

    :param op: what it comes to where it is done.
    """
    failed = [event["resOpFailedEvent"]["metadata"]["urn"] for event in run.events if "resOpFailedEvent" in event]
    assert {urn.rsplit("::", 1)[-1] for urn in failed} == all_of_them & of(SICK)
    assert {step.name for step in run.steps if step.op == op} >= all_of_them - of(SICK)
    told = run.said_by_name("error")
    assert {name for name in told if name in ALL} == all_of_them & of(SICK)
    assert all(f"root@{address(SICK)}" in told[name] for name in all_of_them & of(SICK))


def one_is_waited_for(stack: Stack, fleet: Fleet) -> None:
    """All others are done by then: by one process, which has logged in to each of them once."""
    write(fleet, stack, 82, dial_error_limit=-1)
    before = log_ins(fleet)
    with stack.running("up", None, "--yes", "--skip-preview", *WIDE) as running:
        running.until(lambda run: {step.name for step in run.steps} >= ALL - of(SICK))
        assert [has_network(each, 82) for each in hosts(fleet)] == [number != SICK for number in range(HOSTS)]
        assert providers(fleet) == 1
        fleet.plug(SICK)
        assert stack.ended(running).code == 0
    assert log_ins(fleet) == [count + 1 for count in before]
