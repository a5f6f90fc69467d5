"""What the table of `make bench` is made of: figures with their targets, medians of turns, facts about the machine."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tools.paths import CHECKOUT

Work = Callable[[], object]
PROVIDERS = {"ours": CHECKOUT / "provider" / "bin", "noop": CHECKOUT / "benchmarks" / "bin"}


@dataclass(frozen=True)
class Figure:
    """One line of the table: hostnet beside what it is compared with, all in one unit.

    Args:
        what: What was measured.
        unit: `ms`, `s`, `MB`, `/s`, …
        ours: hostnet's figure.
        noop: That of a provider that does nothing; None where there is none.
        bare: That of the bare tool; None where there is none.
        limit: What `ours` is to reach; None where the figure has no target.
        target: The limit in words.
        more: More is better: `limit` is the least.
        note: What a reader has to know about it.
    """

    what: str
    unit: str
    ours: float
    noop: float | None = None
    bare: float | None = None
    limit: float | None = None
    target: str = ""
    more: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours beside all that it is compared with; None where that is nothing."""
        beside = (self.noop or 0) + (self.bare or 0)
        return self.ours / beside if beside else None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.limit is None:
            return None
        return self.ours >= self.limit if self.more else self.ours <= self.limit

    def as_json(self) -> dict[str, Any]:
        """For the file of figures."""
        return asdict(self)


def rounds(default: int) -> int:
    """How many rounds a row has: ROUNDS, or its own default."""
    return int(os.environ.get("ROUNDS", default))


def sizes(default: str) -> list[int]:
    """The numbers of forwards that a row measures: SIZES, or its own default."""
    return [int(word) for word in os.environ.get("SIZES", default).split()]


def seconds(work: Work) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(turns: Mapping[str, Callable[[], Mapping[str, float]]], count: int) -> dict[str, dict[str, float]]:
    """Let all take turns, so that they see the same machine.

    Args:
        turns: By contestant: one turn, which gives its figures by step.
        count: How many rounds are counted; one more comes first, to warm up.

    Returns:
        The median of each step, by contestant.
    """
    took: dict[str, dict[str, list[float]]] = {name: {} for name in turns}
    for number in range(count + 1):
        for name, turn in turns.items():
            for step, figure in turn().items():
                if number:
                    took[name].setdefault(step, []).append(figure)
    return {name: {step: statistics.median(all_) for step, all_ in steps.items()} for name, steps in took.items()}


def machine() -> dict[str, str]:
    """What figures of one machine have in common."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    memory = int(Path("/proc/meminfo").read_text().split(maxsplit=2)[1]) >> 20
    nft = subprocess.run(["nft", "--version"], capture_output=True, text=True, check=False).stdout
    return {
        "processor": f"{os.cpu_count()} cores, {cpu.partition(':')[2].strip() or platform.machine()}",
        "memory": f"{memory} GiB",
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "nftables": nft.split()[1].lstrip("v") if nft else "none",
    }


def load() -> float:
    """How many programs wanted to run, on average of the last minute."""
    return os.getloadavg()[0]
