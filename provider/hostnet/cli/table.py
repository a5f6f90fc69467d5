"""A table on a terminal: drawn by rich, or where it is long as plain columns.

rich takes 0.6 ms for each row of `hostnet status`: 6 s for 10,000 forwards, which plain columns show in 0.1.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

LONG = 500  # rows

Row = Sequence["str | Text"]


def print_table(
    console: Console, title: str, columns: Sequence[str], rows: Sequence[Row], right: Collection[str] = ()
) -> None:
    """Print a table.

    Args:
        console: Where.
        title: What stands above it.
        columns: Their headings.
        rows: The cells, which may have several lines each.
        right: The columns that are aligned to the right.
    """
    if len(rows) > LONG:
        lines = _plain(columns, [[str(cell) for cell in row] for row in rows], right)
        console.out(f"{title}\n" + "\n".join(lines), highlight=False)
        return
    console.print(title, style="italic", markup=False, highlight=False)  # a table's own is wrapped to its width
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in right else "left")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    console.print(table)


def _plain(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str]) -> Iterator[str]:
    lines = [columns, *(line for row in rows for line in zip_longest(*map(str.splitlines, row), fillvalue=""))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = zip(columns, line, widths, strict=True)
        yield "  ".join(x.rjust(width) if name in right else x.ljust(width) for name, x, width in cells).rstrip()
