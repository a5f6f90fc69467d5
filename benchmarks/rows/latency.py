"""A host that is far away: the time to connect, for the first commit, for CREATES=1000 creates at once.

The wires have round trips of RTTS="0 50 200" ms (two TAPs and a program between them: not every kernel has netem).
Beside it an agent that waits for no confirmation; beside its `connect`, OpenSSH's `ssh` with one command. How many
round trips a step takes is how its time grows with the wire's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable
from dataclasses import replace
from functools import partial
from pathlib import Path

from hostnet.hosts.session import Session
from hostnet.hosts.ssh import SSHTransport

from benchmarks.measure import Figure, rounds, seconds
from tests.ssh.world import SERVER, World, bridge, forward, removal

TITLE = "A host far away"
RTTS = [int(word) for word in os.environ.get("RTTS", "0 50 200").split()]
CREATES = int(os.environ.get("CREATES", "1000"))
CREATING = f"{CREATES} creates at once"
STEPS = ("connect, the agent's file sent", "connect", "first commit", CREATING)
NOTE = (
    "The bare tool of `connect` is `ssh host true` of OpenSSH; that of the other steps is hostnet with an agent that "
    "waits for no confirmation."
)
TRIPS = {"connect": 6, "first commit": 2, CREATING: 3}


class Unconfirmed(SSHTransport):
    """Starts agents that ask for no confirmation."""

    def _arguments(self) -> list[str]:
        arguments = super()._arguments()
        place = arguments.index("--confirm")
        return arguments[:place] + arguments[place + 2 :]


async def timed(work: Awaitable[object]) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    await work
    return time.perf_counter() - start


async def measure_once(world: World, kind: type[SSHTransport]) -> list[float]:
    """The time of each step; the host has nothing before and after."""

    def session() -> Session:
        return Session("host", kind(world.connection(), world.settings))

    shutil.rmtree(world.directory / "state", ignore_errors=True)
    first, second = session(), session()
    took = [await timed(first.connect()), await timed(second.connect())]
    took.append(await timed(first.apply(bridge("br0"))))
    changes = [forward(10000 + number) for number in range(CREATES)]
    took.append(await timed(asyncio.gather(*map(first.apply, changes))))
    gone = [replace(change, objects=(), prior=change.objects, known=True) for change in changes]
    await asyncio.gather(*map(first.apply, gone), first.apply(removal("br0")))
    for each in (first, second):
        await each.close()
    return took


class Bare:
    """OpenSSH's client, from exec to exit."""

    def __init__(self, world: World) -> None:
        """Write the server's key where the client looks for it."""
        known = world.directory / "known_hosts"
        known.write_text(f"{SERVER} {world.server.host_key}\n")
        options = ["-F", "none", "-o", f"UserKnownHostsFile={known}", "-o", "BatchMode=yes", "-i", str(world.key)]
        self._argv, self._client = ["ssh", *options, f"root@{SERVER}", "true"], world.client

    def connect(self) -> float:
        """Seconds that one command takes."""
        return seconds(lambda: self._client.call(subprocess.run, self._argv, check=True))


def over_wire(rtt: int) -> dict[str, list[float]]:
    """The medians of each step: ours, and of what is beside it."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.closing(World(Path(scratch))) as world:
        world.server.start()
        bare = Bare(world)
        with world.wire(delay=rtt / 2):
            took: dict[str, list[list[float]]] = {"ours": [], "bare": []}
            for _ in range(rounds(3)):
                took["ours"].append(world.run(partial(measure_once, world, SSHTransport)))
                beside = world.run(partial(measure_once, world, Unconfirmed))
                beside[STEPS.index("connect")] = bare.connect()
                took["bare"].append(beside)
    return {name: [statistics.median(each) for each in zip(*times, strict=True)] for name, times in took.items()}


def measure() -> list[Figure]:
    """Seconds over each wire, and from how they grow the round trips of each step."""
    took = {rtt: over_wire(rtt) for rtt in RTTS}
    longest = (RTTS[-1] - RTTS[0]) / 1000
    figures = []
    for step, name in enumerate(STEPS):
        confirmed, plain = ([took[rtt][which][step] for rtt in RTTS] for which in ("ours", "bare"))
        for rtt, ours, without in zip(RTTS, confirmed, plain, strict=True):
            limit = confirmed[0] + 3 * rtt / 1000 if name == CREATING and rtt else None
            what = f"{name}, {rtt} ms away"
            figures.append(Figure(what, "s", ours, None, without, limit, "near + 3 trips", note=NOTE))
        trips, without = ((each[-1] - each[0]) / longest for each in (confirmed, plain))
        figures.append(Figure(f"{name}: round trips", "", trips, None, without, TRIPS.get(name), note=NOTE))
    return figures
