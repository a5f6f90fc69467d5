"""The figures of `make bench`, kept in docs/performance/figures.json, and what is written from them.

docs/performance.md is prose, written by hand, with markers: what stands between `<!-- bench: … -->` and
`<!-- end -->` is written here, and so are the plots beside figures.json. Rows that were not measured this time keep
their figures, as long as these are of the same machine.
"""

from __future__ import annotations

import json
import re
import textwrap
import time
from dataclasses import dataclass, field
from typing import Any

from benchmarks import plots
from benchmarks.measure import Figure
from tools.paths import CHECKOUT

PAGE = CHECKOUT / "docs" / "performance.md"
FIGURES = CHECKOUT / "docs" / "performance" / "figures.json"
WIDTH = 118  # columns of the page's text
HEAD = ("", "hostnet", "no-op", "bare tool", "ratio", "target", "met")
_PART = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Row:
    """A row of the table, measured.

    Args:
        number: As issue and page have it.
        title: Its heading.
        when: The start, in seconds since 1970.
        load: How many programs wanted to run, before it and after it.
        figures: What was measured.
    """

    number: int
    title: str
    when: float
    load: tuple[float, float]
    figures: tuple[Figure, ...]

    def as_json(self) -> dict[str, Any]:
        """For the file of figures."""
        figures = [figure.as_json() for figure in self.figures]
        return {"title": self.title, "when": round(self.when), "load": list(self.load), "figures": figures}

    @classmethod
    def from_json(cls, number: int, data: dict[str, Any]) -> Row:
        """From the file of figures."""
        figures = tuple(Figure(**figure) for figure in data["figures"])
        before, after = data["load"]
        return cls(number, data["title"], data["when"], (before, after), figures)


@dataclass
class Kept:
    """All figures of one machine."""

    machine: dict[str, str]
    rows: dict[int, Row] = field(default_factory=dict)

    @classmethod
    def read(cls, machine: dict[str, str]) -> Kept:
        """What is kept of this machine."""
        kept = cls(machine)
        data = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
        if data.get("machine") == machine:
            kept.rows = {int(number): Row.from_json(int(number), row) for number, row in data["rows"].items()}
        return kept

    def keep(self, row: Row) -> None:
        """Put a row in the place of the former one, and write the file."""
        self.rows[row.number] = row
        rows = {str(number): self.rows[number].as_json() for number in sorted(self.rows)}
        FIGURES.parent.mkdir(exist_ok=True)
        FIGURES.write_text(json.dumps({"machine": self.machine, "rows": rows}, indent=1) + "\n")


def figure_text(value: float | None, unit: str) -> str:
    """A figure with three digits that say something; "" where there is none."""
    if value is None:
        return ""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 4
    return f"{value:,.{digits}f} {unit}"


def cells(figure: Figure) -> tuple[str, ...]:
    """A line of the table."""
    amounts = [figure_text(value, figure.unit) for value in (figure.ours, figure.noop, figure.bare)]
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
    target = ""
    if figure.limit is not None:
        limit = figure_text(figure.limit, figure.unit)
        words = f" ({figure.target})" if figure.target and figure.target != limit else ""
        target = f"{'≥' if figure.more else '≤'} {limit}{words}"
    met = {True: "yes", False: "no", None: ""}[figure.met]
    return (figure.what, *amounts, ratio, target, met)


def lines(row: Row) -> list[str]:
    """A row for a terminal."""
    table = [HEAD, *map(cells, row.figures)]
    widths = [max(len(line[column]) for line in table) for column in range(len(HEAD))]
    text = [
        "  ".join(word.ljust(width) if not at else word.rjust(width) for at, (word, width) in enumerate(both)).rstrip()
        for both in (list(zip(line, widths, strict=True)) for line in table)
    ]
    return [f"{row.number} {row.title}; load {row.load[0]:.1f} to {row.load[1]:.1f}", *text, ""]


def write(kept: Kept) -> None:
    """Write the parts of the page and the plots."""
    parts = {"machine": _machine(kept), "table": _table(kept)}
    for row in kept.rows.values():
        plots.draw(row.title, row.figures, FIGURES.with_name(f"row{row.number}.svg"))
    PAGE.write_text(_PART.sub(lambda found: found[1] + parts.get(found[2], "") + found[3], PAGE.read_text()))


def _machine(kept: Kept) -> str:
    return "".join(f"- {name}: {value}\n" for name, value in kept.machine.items())


def _table(kept: Kept) -> str:
    text = ""
    for number, row in sorted(kept.rows.items()):
        day = time.strftime("%-d %b %Y", time.gmtime(row.when))
        text += f"\n### {number}. {row.title}\n\n{day}; load {row.load[0]:.1f} before, {row.load[1]:.1f} after.\n\n"
        text += f"| {' | '.join(HEAD)} |\n|---|{'--:|' * (len(HEAD) - 1)}\n"
        text += "".join(f"| {' | '.join(cells(figure))} |\n" for figure in row.figures)
        notes = dict.fromkeys(figure.note for figure in row.figures if figure.note)
        text += "".join(f"\n{textwrap.fill(note, WIDTH)}\n" for note in notes)
        text += f"\n![{row.title}](performance/row{number}.svg)\n"
    return text + "\n"
