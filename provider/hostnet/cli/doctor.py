"""The output of `hostnet doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

_SIGNS = {"ok": "[green]ok[/]", "note": "[cyan]note[/]", "warn": "[yellow]warning[/]", "fail": "[red]problem[/]"}


def show(console: Console, label: str, data: dict[str, Any]) -> None:
    """Print the agent's answer to `doctor`."""
    table = Table(title=escape(label), title_justify="left")
    for column in ("", "check", "found"):
        table.add_column(column, overflow="fold")
    for check in data["checks"]:
        table.add_row(_SIGNS[check["level"]], escape(check["name"]), escape(check["found"]))
    console.print(table)
    for check in filter(lambda check: check["fix"], data["checks"]):
        console.print(f"{_SIGNS[check['level']]} {escape(check['name'])}: {escape(check['fix'])}", highlight=False)
    failed = sum(check["level"] == "fail" for check in data["checks"])
    problems = f"{failed} problem{'' if failed == 1 else 's'}"
    console.print(f"[red]{problems} to fix before hostnet works here[/]" if failed else "[green]This host is ready.[/]")
