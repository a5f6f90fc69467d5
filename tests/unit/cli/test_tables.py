"""A long table of the command line says what a drawn one says."""

from __future__ import annotations

import io

import pytest
from hostnet.cli import table
from hostnet.cli.table import print_table
from rich.console import Console
from rich.text import Text

COLUMNS = ("name", "state", "bytes")
ROWS = [
    ("web", Text("ok", "green"), "1"),
    ("[b]mail[/b] :smile:", Text("port 25 leads to 10.0.0.3\nno rule counts it", "yellow"), "1024"),
]


def printed(rows: list[tuple[str, Text, str]]) -> list[str]:
    """The lines of a table, without lines that are drawn and without blanks at the ends."""
    out = io.StringIO()
    print_table(Console(file=out, width=100), "Resources", COLUMNS, rows, right=("bytes",))
    lines = (line.replace("│", " ").replace("┃", " ").strip() for line in out.getvalue().splitlines())
    return [" ".join(line.split()) for line in lines if line and line[0] not in "┏┡└"]


def test_both_layouts_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Markup in a name is text, a cell has several lines, and the title stands above."""
    drawn = printed(ROWS)
    monkeypatch.setattr(table, "LONG", 1)
    assert printed(ROWS) == drawn
    assert drawn == [
        "Resources",
        "name state bytes",
        "web ok 1",
        "[b]mail[/b] :smile: port 25 leads to 10.0.0.3 1024",
        "no rule counts it",
    ]


def test_columns_of_a_long_table_are_aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers to the right."""
    monkeypatch.setattr(table, "LONG", 0)
    out = io.StringIO()
    print_table(Console(file=out, width=10), "Ports", ("id", "bytes"), [("eth0/80", "7"), ("a", "1024")], ("bytes",))
    assert out.getvalue() == "Ports\nid       bytes\neth0/80      7\na         1024\n"
