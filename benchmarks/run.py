"""The table of `make bench`: hostnet beside a provider that does nothing and beside the bare tool, row by row.

`make bench` measures all rows, `make bench ROWS=1,4` some of them. ROUNDS sets how often; each row's module
(benchmarks/rows) says what it measures, and its other settings. The figures are kept in docs/performance/figures.json,
from which docs/performance.md is written. Needs root; everything is in network namespaces of its own.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from types import ModuleType

from benchmarks import report
from benchmarks.measure import Figure, load, machine

ROWS = {
    1: "changes",
    2: "batches",
    3: "refresh",
    4: "inline",
    5: "program",
    6: "fleet",
    7: "latency",
    8: "start",
    9: "packets",
    10: "tools",
    11: "watcher",
    12: "commands",
    13: "frames",
}


def module(row: int) -> ModuleType:
    """The module of a row."""
    return importlib.import_module(f"benchmarks.rows.{ROWS[row]}")


def wanted() -> list[int]:
    """The rows to measure: ROWS="1,4", or all."""
    words = os.environ.get("ROWS", "").replace(",", " ").split()
    return [int(word) for word in words] or list(ROWS)


def main() -> None:
    """Measure, keep the figures of each row as soon as it is done, and print the table."""
    kept = report.Kept.read(machine())
    for row in wanted():
        work = module(row)
        print(f"{row} {work.TITLE}: {(work.__doc__ or '').splitlines()[0]}", file=sys.stderr, flush=True)
        before, start = load(), time.time()
        figures: list[Figure] = work.measure()
        kept.keep(report.Row(row, work.TITLE, start, (before, load()), tuple(figures)))
        print("\n".join(report.lines(kept.rows[row])), flush=True)
    report.write(kept)


if __name__ == "__main__":
    main()
