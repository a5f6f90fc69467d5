"""`hostnet doctor`, for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

_SIGNS = {"ok": "[green]ok[/]", "note": "[cyan]note[/]", "warn": "[yellow]warning[/]", "fail": "[red]wrong[/]"}


def show(console: Console, label: str, data: dict[str, Any]) -> None:
    """Print what the agent's `doctor` answered."""
    table = Table(title=escape(label), title_justify="left")
    for column in ("", "what", "found"):
        table.add_column(column, overflow="fold")
    for check in data["checks"]:
        table.add_row(_SIGNS[check["level"]], escape(check["name"]), escape(check["found"]))
    console.print(table)
    broken = [check for check in data["checks"] if check["fix"]]
    for check in broken:
        console.print(f"{_SIGNS[check['level']]} {escape(check['name'])}: {escape(check['fix'])}", highlight=False)
    failed = sum(check["level"] == "fail" for check in data["checks"])
    console.print(f"[red]{failed} to mend before hostnet works here[/]" if failed else "[green]This host is ready.[/]")
