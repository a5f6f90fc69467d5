"""A fleet in one program: HOSTS=50 servers with an sshd each, beside the same stack on the no-op.

Each server is a network namespace. It has a bridge, a NAT gateway, TAPS=5 TAPs and FORWARDS=10 forwards, over SSH.
Beside the times: the plugin's peak memory and CPU time, and the CPU time of all that runs on the servers.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.measure import PROVIDERS, Figure, in_turn, rounds, seconds
from benchmarks.projects import STEPS, project, pulumi
from tests.lab.waiting import until
from tests.ssh.fleet import STATE_DIR, Fleet

TITLE = "A fleet"
HOSTS = int(os.environ.get("HOSTS", "50"))
TAPS = int(os.environ.get("TAPS", "5"))
FORWARDS = int(os.environ.get("FORWARDS", "10"))
MOST, MEMORY, BUSY = 1.25, 100, 15  # times the no-op; MiB; ms of CPU time for each host and command
NOTE = (
    "The hosts are this machine: the CPU time of their sshds and agents, divided by the number of cores, is taken off "
    "in the lines that say so."
)

# Stands between the engine and the provider: the kernel tells the parent what a process took.
MEASURED = f"""#!{sys.executable}
import json, os, signal, sys
from pathlib import Path
child = os.posix_spawn("{{plugin}}", ["{{plugin}}", *sys.argv[1:]], os.environ)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os.kill(child, number))
_, status, usage = os.wait4(child, 0)
with Path("{{figures}}").open("a") as file:
    print(json.dumps([usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime]), file=file)
os._exit(os.waitstatus_to_exitcode(status) % 256)
"""


class Project:
    """The fleet's stack on one provider."""

    def __init__(self, fleet: Fleet, cpu: ServersCpu, name: str, provider: Path) -> None:
        """Put a plugin between, and make the stack."""
        self._fleet, self._cpu, self._folder = fleet, cpu, fleet.directory / name
        plugin = fleet.directory / f"{name}-plugin" / "pulumi-resource-hostnet"
        plugin.parent.mkdir()
        self._figures = plugin.with_name("figures")
        plugin.write_text(MEASURED.format(plugin=provider / plugin.name, figures=self._figures))
        plugin.chmod(0o755)
        self._environment = project(self._folder, plugin.parent, "", stateDir=STATE_DIR)
        ways = [fleet.arguments(number) for number in range(HOSTS)]
        fleet.write_program(self._folder, ways, taps=TAPS, forwards=FORWARDS, port=80)

    def turn(self) -> dict[str, float]:
        """What each command takes: seconds, the plugin's peak memory (MiB) and CPU time, the servers' CPU time."""
        took = {}
        for step, arguments in STEPS.items():
            self._figures.unlink(missing_ok=True)
            before = self._cpu.seconds()
            took[f"{step} seconds"] = seconds(partial(self._run, arguments))
            took[f"{step} hosts"] = self._cpu.seconds() - before
            memory, busy = max(map(json.loads, self._figures.read_text().splitlines()))
            took |= {f"{step} memory": memory, f"{step} busy": busy}
        return took

    def _run(self, arguments: list[str]) -> None:
        self._fleet.client.call(pulumi, arguments, self._folder, self._environment)


class ServersCpu:
    """The CPU time of all sshds, and of all that they start: a control group that is theirs (cgroups(7), version 2).

    Not their children's times (proc_pid_stat(5), `cutime`): sshd does not wait for an agent, whose login is over.
    """

    def __init__(self, fleet: Fleet) -> None:
        """Take the sshds into the group, before anybody logs in."""
        self._path = _control_groups() / f"hnt{os.getpid()}-servers"
        self._path.mkdir()
        for server in fleet.servers:
            (self._path / "cgroup.procs").write_text(str(server.pid))

    def seconds(self) -> float:
        """What they took until now."""
        fields = dict(line.split() for line in (self._path / "cpu.stat").read_text().splitlines())
        return int(fields["usage_usec"]) / 1e6

    def close(self) -> None:
        """Remove the group; its processes have ended."""
        until(lambda: not (self._path / "cgroup.procs").read_text())
        self._path.rmdir()


def _control_groups() -> Path:
    """Where the kernel's control groups of version 2 are."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return next(Path(where) for _, where, kind, *_ in mounts if kind == "cgroup2")


def measure() -> list[Figure]:
    """Measure one fleet; the two providers take turns."""
    with contextlib.ExitStack() as stack:
        fleet = Fleet(HOSTS)
        cpu = ServersCpu(fleet)
        stack.callback(cpu.close)
        stack.callback(fleet.close)
        projects = {name: Project(fleet, cpu, name, provider) for name, provider in PROVIDERS.items()}
        found = in_turn({name: each.turn for name, each in projects.items()}, rounds(1))
    return [figure for step in STEPS for figure in _figures(step, found["ours"], found["noop"])]


def _figures(step: str, ours: dict[str, float], noop: dict[str, float]) -> Iterator[Figure]:
    """What a command took.

    The hosts are this machine, which a fleet's are not: the CPU time of their agents and sshds, spread over the
    processors, is taken off the time of `pulumi`.
    """
    took, nothing = ours[f"{step} seconds"], noop[f"{step} seconds"]
    hosts = ours[f"{step} hosts"] / (os.cpu_count() or 1)
    what = f"{step}, {HOSTS} hosts"
    yield Figure(what, "s", took, nothing, note=NOTE)
    yield Figure(f"{what}, less theirs", "s", took - hosts, nothing, limit=MOST * nothing, target=f"{MOST} x no-op")
    memory, nothing = ours[f"{step} memory"], noop[f"{step} memory"]
    yield Figure(f"{what}: plugin's peak memory", "MiB", memory, nothing, limit=MEMORY)
    busy, nothing = (1000 * each[f"{step} busy"] / HOSTS for each in (ours, noop))
    yield Figure(f"{what}: plugin's CPU time a host", "ms", busy, nothing, limit=BUSY)
