"""How long hostnet takes with a host that is far away: to connect, for the first commit, for 1,000 creates at once.

`python -m benchmarks.latency` runs it, over wires with round trips of RTTS="0 50 200" ms (two TAPs and a program
between them: not every kernel has netem), and with an agent that waits for no confirmation beside it. How many round
trips a step takes is how its time grows with the wire's. Needs root and openssh-server; works in network namespaces of
its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable
from dataclasses import replace
from functools import partial
from pathlib import Path

from hostnet.hosts.session import Session
from hostnet.hosts.ssh import SSHTransport

from tests.ssh.world import World, bridge, forward, removal

RTTS = [int(word) for word in os.environ.get("RTTS", "0 50 200").split()]
CREATES = int(os.environ.get("CREATES", "1000"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
STEPS = ("connect, the agent's file sent", "connect", "first commit", f"{CREATES} creates at once")


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


async def measure(world: World, kind: type[SSHTransport]) -> list[float]:
    """The time of each step; the host has nothing before and after."""

    def session() -> Session:
        return Session("host", kind(world.connection(), world.settings))

    shutil.rmtree(world.directory / "state", ignore_errors=True)
    first, second = session(), session()
    took = [await timed(first.connect()), await timed(second.connect())]
    took.append(await timed(first.apply(bridge("br0"))))
    wishes = [forward(10000 + number) for number in range(CREATES)]
    took.append(await timed(asyncio.gather(*map(first.apply, wishes))))
    gone = [replace(wish, objects=(), prior=wish.objects, known=True) for wish in wishes]
    await asyncio.gather(*map(first.apply, gone), first.apply(removal("br0")))
    for each in (first, second):
        await each.close()
    return took


def over_wire(rtt: int) -> dict[type[SSHTransport], list[float]]:
    """The medians of each step, with the agent and with one that asks for no confirmation."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.closing(World(Path(scratch))) as world:
        world.server.start()
        with world.wire(delay=rtt / 2):
            rounds = {
                kind: [world.run(partial(measure, world, kind)) for _ in range(ROUNDS)]
                for kind in (SSHTransport, Unconfirmed)
            }
    return {kind: [statistics.median(each) for each in zip(*took, strict=True)] for kind, took in rounds.items()}


def main() -> None:
    """Print seconds, medians of the rounds, and round trips."""
    took = {rtt: over_wire(rtt) for rtt in RTTS}
    for kind, title in ((SSHTransport, "confirmed"), (Unconfirmed, "not confirmed")):
        print(f"{title:<34}" + "".join(f"{f'{rtt} ms':>9}" for rtt in RTTS) + "  round trips")
        for step, name in enumerate(STEPS):
            seconds = [took[rtt][kind][step] for rtt in RTTS]
            trips = (seconds[-1] - seconds[0]) / ((RTTS[-1] - RTTS[0]) / 1000)
            print(f"  {name:<32}" + "".join(f"{each:>9.2f}" for each in seconds) + f"{trips:>13.1f}")


if __name__ == "__main__":
    main()
