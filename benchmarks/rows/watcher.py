"""The watcher: how long an interface that fits a TapBinding's `match` waits for its bridge; CPU time while idle.

1, 20 and 200 TAPs are made at once by one `ip -batch`. `ip -timestamp monitor link` says when the kernel tells of each,
and when of its bridge. The watcher's process needs no Pulumi process.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from benchmarks.measure import Figure, rounds
from benchmarks.place import Place, Places, ip_batch

TITLE = "The watcher"
AT_ONCE = (1, 20, 200)
MOST, LAST = 20, 50  # ms
IDLE = 10  # s
_CALM = 2  # s after the last event
_LINE = re.compile(r"\[(?P<when>\S+)\] \d+: (?P<name>vm\d+):(?P<rest>.*)")


@contextmanager
def monitor(place: Place) -> Iterator[subprocess.Popen[str]]:
    """`ip monitor` in the namespace, for as long as the context."""
    argv = ["ip", "-n", place.namespace.name, "-tshort", "-oneline", "monitor", "link"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def waits(place: Place, count: int, turn: int) -> list[float]:
    """The milliseconds that each of so many TAPs waits for its bridge."""
    names = [f"vm{turn}{number:03}" for number in range(count)]
    begun: dict[str, float] = {}
    ended: dict[str, float] = {}
    with monitor(place) as process:
        assert process.stdout is not None
        time.sleep(0.3)  # until it listens: it says nothing of it
        ip_batch(place, [f"tuntap add {name} mode tap" for name in names])
        for line in process.stdout:
            found = _LINE.match(line)
            if not found or found["name"] not in names:
                continue
            when = datetime.fromisoformat(found["when"]).timestamp()
            begun.setdefault(found["name"], when)
            if " master br0 " in found["rest"]:
                ended.setdefault(found["name"], when)
            if len(ended) == count:
                break
    ip_batch(place, [f"link delete {name}" for name in names])
    return sorted(1000 * (ended[name] - begun[name]) for name in names)


def cpu(place: Place) -> float:
    """CPU milliseconds that the watcher takes while nothing happens."""
    argv = ["ip", "netns", "pids", place.namespace.name]
    pids = map(int, subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split())
    (watcher,) = [pid for pid in pids if b"watch" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def spent() -> int:
        first, *_ = Path(f"/proc/{watcher}/schedstat").read_text().split()
        return int(first)

    time.sleep(_CALM)
    before = spent()
    time.sleep(IDLE)
    return (spent() - before) / 1e6


def measure() -> list[Figure]:
    """Have interfaces appear, and then none."""
    figures = []
    with Places() as places:
        place = places.add("ours")
        with place.plugin() as plugin:
            plugin.create([plugin.resource("Bridge", "br0", name="br0")])
            plugin.create([plugin.resource("TapBinding", "vms", match="vm*", bridge="br0")])
        turn = 0
        for count in AT_ONCE:
            every = []
            for _ in range(rounds(10)):
                every.append(waits(place, count, turn))
                turn += 1
            pooled = sorted(each for one in every for each in one)
            p99 = pooled[min(len(pooled) - 1, round(0.99 * len(pooled)))]
            last = statistics.median(one[-1] for one in every)
            if count < AT_ONCE[-1]:
                figures.append(Figure(f"{count} at once, p99", "ms", p99, limit=MOST))
            figures.append(
                Figure(f"{count} at once, the last", "ms", last, limit=LAST if count == AT_ONCE[-1] else None)
            )
        figures.append(Figure(f"CPU time in {IDLE} s without an event", "ms", cpu(place), limit=0))
    return figures
