"""Fifty hosts over SSH in one program: one provider process, one login each, and none waits for another.

tests/ssh/fleet.py has the address plan. `make bench ROWS=6` has more on each host, and the times.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hostnet.wire.urn import Urn

from tests.e2e.stacks import Cli, Host, Run, Stack
from tests.lab.waiting import until
from tests.ssh.fleet import STATE_DIR, Fleet, address

HOSTS = 50
SICK = 1  # the host that fails
# What the engine's own writing of checkpoints takes is not our subject.
QUICK = {"PULUMI_EXPERIMENTAL": "1", "PULUMI_SKIP_CHECKPOINTS": "1"}
# Else the resources of a host that is waited for may take all the places that the engine has.
WIDE = ("--parallel", "64")


@pytest.fixture
def fleet(cli: Cli, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """The servers; the test says how many."""
    made = Fleet(request.param)
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


def hosts(fleet: Fleet) -> list[Host]:
    """All of them."""
    return [Host(server.namespace, server.directory / "state") for server in fleet.servers]


def write(fleet: Fleet, stack: Stack, port: int, **sick: int) -> None:
    """The program, with the guests' port that all forwards lead to.

    Args:
        fleet: The hosts.
        stack: Its folder gets the program.
        port: The guests' port.
        sick: Arguments of the connection to the host that fails.
    """
    ways = [fleet.arguments(number, **(sick if number == SICK else {})) for number in range(len(fleet.servers))]
    fleet.write_program(stack.folder, ways, taps=1, forwards=2, port=port)


def of(number: int) -> set[str]:
    """The resources on a server."""
    return {f"{name}-{number}" for name in ("vms", "nat", "vm0", "web0", "web1")}


def everything(fleet: Fleet) -> set[str]:
    """All resources."""
    return set().union(*map(of, range(len(fleet.servers))))


def has_network(host: Host, port: int) -> bool:
    """Whether a server has all that the program says."""
    links = host.links
    return (
        [address.split("/")[0] for address in links["vms"].addresses] == ["10.0.0.1"]
        and links["vm0"].master == "vms"
        and host.forwards() == {8000: f"10.0.0.2:{port}", 8001: f"10.0.0.2:{port}"}
    )


def look(host: Host) -> dict[str, Any]:
    """What hostnet changes on a server."""
    return {
        "links": set(host.links),
        "nft": host.namespace.kernel.listing(),
        "forwarding": host.sysctl("net.ipv4.ip_forward"),
        "state": host.state_dir.exists(),
    }


def log_ins(fleet: Fleet) -> list[int]:
    """How many there were on each server so far."""
    return [server.log_ins() for server in fleet.servers]


def providers(fleet: Fleet) -> int:
    """How many processes of the provider there are."""
    pids = subprocess.run(["ip", "netns", "pids", fleet.client.name], check=True, capture_output=True, text=True).stdout
    found = 0
    for pid in pids.split():
        with suppress(OSError):  # it has ended
            found += "hostnet.rpc" in Path(f"/proc/{pid}/cmdline").read_text()
    return found


@pytest.mark.parametrize("fleet", [HOSTS], indirect=True)
def test_a_fleet(stack: Stack, fleet: Fleet) -> None:
    """Each host gets its own; a refresh goes past one that is unplugged; no `up` waits for it; nothing stays."""
    before = [look(host) for host in hosts(fleet)]
    write(fleet, stack, 80, dial_error_limit=1)
    made = stack.up(None, *WIDE)
    assert made.changes == dict.fromkeys(everything(fleet), "create")
    assert made.warnings == []
    assert all(has_network(host, 80) for host in hosts(fleet))
    assert log_ins(fleet) == [1] * HOSTS

    fleet.unplug(SICK)
    refreshed = stack.refresh(*WIDE, fails=True)
    assert {step.name for step in refreshed.steps if step.op == "same"} == everything(fleet) - of(SICK)
    only_the_sick_fails(refreshed, of(SICK))

    one_is_waited_for(stack, fleet)
    assert all(has_network(host, 81) for host in hosts(fleet))

    stack.destroy(*WIDE)
    assert [look(host) for host in hosts(fleet)] == before
    until(lambda: not any(server.processes("--state-dir") for server in fleet.servers))


def only_the_sick_fails(run: Run, names: set[str]) -> None:
    """These resources fail, and each says which host it is about."""
    failed = [event["resOpFailedEvent"]["metadata"]["urn"] for event in run.events if "resOpFailedEvent" in event]
    assert {Urn.parse(urn).name for urn in failed} == names
    told = run.said_by_name("error")
    assert all(f"root@{address(SICK)}" in told[name] for name in names)


def one_is_waited_for(stack: Stack, fleet: Fleet) -> None:
    """All others are done by then: by one process, which has logged in to each of them once."""
    write(fleet, stack, 81, dial_error_limit=-1)
    before = log_ins(fleet)
    with stack.running("up", None, "--yes", "--skip-preview", *WIDE) as running:
        running.until(lambda run: {step.name for step in run.steps} >= everything(fleet) - of(SICK))
        assert [has_network(host, 81) for host in hosts(fleet)] == [number != SICK for number in range(HOSTS)]
        assert providers(fleet) == 1
        fleet.plug(SICK)
        assert stack.ended(running).code == 0
    assert log_ins(fleet) == [count + 1 for count in before]


@pytest.mark.parametrize("fleet", [4], indirect=True)
def test_continue_on_error(stack: Stack, fleet: Fleet) -> None:
    """An `up` with it fails on the host that is not there, and is done on the others; the next one does the rest."""
    write(fleet, stack, 80, dial_error_limit=1)
    stack.up(None)
    fleet.unplug(SICK)
    write(fleet, stack, 81, dial_error_limit=1)
    only_the_sick_fails(stack.up(None, "--continue-on-error", fails=True), {f"web0-{SICK}", f"web1-{SICK}"})
    assert [has_network(host, 81) for host in hosts(fleet)] == [True, False, True, True]
    fleet.plug(SICK)
    assert set(stack.up(None).changes) == {f"web0-{SICK}", f"web1-{SICK}"}
    assert has_network(hosts(fleet)[SICK], 81)
