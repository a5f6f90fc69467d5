"""Measure examples/fleet: one program for all hosts beside a stack for each group, with each store and 1, 2, 4 workers.

`python -m benchmarks.groups` runs it with HOSTS=40 servers in groups of SIZE=5. Each server is a network namespace with
an sshd; it has a bridge, a NAT gateway, VMS=2 TAPs and FORWARDS=2 forwards. STORES (postgres,s3) and WORKERS (1,2,4)
say which of them. "1 stack" is the same with one group that has all hosts. `up` begins with nothing, and after `up
again`, which finds no change, `destroy` takes all away. Needs root.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import load
from tests.e2e.groups import Groups
from tests.ssh.fleet import Fleet

HOSTS = int(os.environ.get("HOSTS", "40"))
SIZE = int(os.environ.get("SIZE", "5"))
NETWORK = {"vms": int(os.environ.get("VMS", "2")), "forwards": int(os.environ.get("FORWARDS", "2")), "port": 80}
STORES = os.environ.get("STORES", "postgres,s3").split(",")
WORKERS = [int(word) for word in os.environ.get("WORKERS", "1,2,4").split(",")]
STEPS = {"up": "up", "up again": "up", "destroy": "destroy"}
FORM = "{:<10} {:<20} {:<9} {:>7} {:>7} {:>8} {:>12}"


def groups_of(size: int) -> dict[str, list[int]]:
    """The servers in groups of this size."""
    starts = range(0, HOSTS, size)
    return {f"g{number}": list(range(start, min(start + size, HOSTS))) for number, start in enumerate(starts)}


def command(example: Groups, name: str, workers: int) -> tuple[float, float, float]:
    """Run a command of the example: its seconds, its workers' processor seconds, the largest `pulumi` in MiB.

    Raises:
        RuntimeError: It fails.
    """
    start = time.perf_counter()
    with example.running(name, workers) as process:
        said, _ = process.communicate()
    took = time.perf_counter() - start
    rows = re.findall(r"^g\d+ +done +\d+ +[\d.]+ +[\d.]+ +([\d.]+) +([\d.]+) ", said, re.MULTILINE)
    if process.returncode or len(rows) != len(example.groups):
        raise RuntimeError(said)
    return took, sum(float(busy) for busy, _ in rows), max(float(memory) for _, memory in rows)


def measure(fleet: Fleet, store: str, size: int, workers: int) -> None:
    """Measure one way to run the fleet, and print a line for each command."""
    with tempfile.TemporaryDirectory() as folder:
        example = Groups(fleet, Path(folder), groups_of(size), at_once=workers, network=NETWORK)
        try:
            example.cli.env |= getattr(example.services, store)()
            count = len(example.groups)
            how = f"{count} stack{'s' * (count > 1)}, {workers} worker{'s' * (workers > 1)}"
            for step, name in STEPS.items():
                before = load()
                took, busy, memory = command(example, name, workers)
                figures = (f"{took:.1f}", f"{busy:.1f}", f"{memory:.0f}", f"{before:.1f} - {load():.1f}")
                print(FORM.format(store, how, step, *figures), flush=True)
        finally:
            example.close()


def main() -> None:
    """Measure all, and print the table."""
    print(f"{HOSTS} hosts, groups of {SIZE}, {NETWORK}, {os.cpu_count()} cores", file=sys.stderr)
    fleet = Fleet(HOSTS)
    try:
        print(FORM.format("store", "how", "command", "s", "CPU s", "MiB", "load"), flush=True)
        for store in STORES:
            if SIZE < HOSTS:
                measure(fleet, store, HOSTS, 1)
            for workers in WORKERS:
                measure(fleet, store, SIZE, workers)
    finally:
        fleet.close()


if __name__ == "__main__":
    main()
