"""Compare a fleet's stack on hostnet with the same stack on a provider that does nothing, in one run.

`python -m benchmarks.fleet [flags of pulumi]` runs it: HOSTS=50 servers, network namespaces with an sshd each, and on
each a bridge, a NAT gateway, TAPS=5 TAPs and FORWARDS=10 port forwards over SSH, in one program. Beside the times: the
provider's peak memory and its CPU time. All servers share this machine's processors with `pulumi`, as a fleet does not.

Needs root; all of it, `pulumi` too, runs in network namespaces of its own.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.run import PROVIDERS, STEPS, project, pulumi, timed
from tests.ssh.fleet import STATE_DIR, Fleet

HOSTS = int(os.environ.get("HOSTS", "50"))
TAPS = int(os.environ.get("TAPS", "5"))
FORWARDS = int(os.environ.get("FORWARDS", "10"))
ROUNDS = int(os.environ.get("ROUNDS", "1"))

# Stands between the engine and the provider: the kernel tells the parent what a process took.
MEASURED = f"""#!{sys.executable}
import json, os, signal, sys
from pathlib import Path
child = os.posix_spawn("{{plugin}}", ["{{plugin}}", *sys.argv[1:]], os.environ)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os.kill(child, number))
_, status, usage = os.wait4(child, 0)
with Path("{{told}}").open("a") as file:
    print(json.dumps([usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime]), file=file)
os._exit(os.waitstatus_to_exitcode(status) % 256)
"""


@dataclass(frozen=True)
class Took:
    """What a run of `pulumi` took: seconds; and the provider's process: its peak memory (MB) and its CPU seconds."""

    seconds: float
    memory: float
    busy: float


class Project:
    """The fleet's stack on one provider."""

    def __init__(self, fleet: Fleet, name: str, provider: Path) -> None:
        """Put a plugin between, and make the stack."""
        self._fleet, self._folder = fleet, fleet.directory / name
        plugin = fleet.directory / f"{name}-plugin" / "pulumi-resource-hostnet"
        plugin.parent.mkdir()
        self._told = plugin.with_name("told")
        plugin.write_text(MEASURED.format(plugin=provider / plugin.name, told=self._told))
        plugin.chmod(0o755)
        self._environment = project(self._folder, plugin.parent, "", stateDir=STATE_DIR)
        ways = [fleet.arguments(number) for number in range(HOSTS)]
        fleet.write_program(self._folder, ways, taps=TAPS, forwards=FORWARDS, port=80)

    def run(self, arguments: list[str]) -> Took:
        """Run `pulumi`."""
        self._told.unlink(missing_ok=True)
        seconds = timed(lambda: self._fleet.client.call(pulumi, arguments, self._folder, self._environment))
        memory, busy = max(map(json.loads, self._told.read_text().splitlines()))
        return Took(seconds, memory, busy)


def main(flags: list[str]) -> None:
    """Alternate the providers, so that both see the same machine; print medians."""
    took: dict[str, dict[str, list[Took]]] = {name: {step: [] for step in STEPS} for name in PROVIDERS}
    fleet = Fleet(HOSTS)
    try:
        projects = {name: Project(fleet, name, provider) for name, provider in PROVIDERS.items()}
        for _ in range(ROUNDS):
            for name, each in projects.items():
                for step, arguments in STEPS.items():
                    took[name][step].append(each.run([*arguments, *flags]))
    finally:
        fleet.close()
    print(f"{HOSTS} hosts, {HOSTS * (2 + TAPS + FORWARDS)} resources, median of {ROUNDS} rounds: hostnet / no-op")
    print(f"{'':<16}{'seconds':>18}{'peak memory, MB':>18}{'CPU seconds':>18}")
    for step in STEPS:
        print(f"{step:<16}" + "".join(f"{both(took, step, what):>18}" for what in ("seconds", "memory", "busy")))


def both(took: dict[str, dict[str, list[Took]]], step: str, what: str) -> str:
    """One figure of both providers."""
    medians = [statistics.median(getattr(each, what) for each in took[name][step]) for name in PROVIDERS]
    return " / ".join(f"{median:.0f}" if what == "memory" else f"{median:.2f}" for median in medians)


if __name__ == "__main__":
    main(sys.argv[1:])
