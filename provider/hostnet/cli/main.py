"""Arguments in, one session with one host, an exit code out."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from hostnet.cli import doctor, graph, remove, status, top
from hostnet.cli.arguments import connection, parsed
from hostnet.cli.topology import topology
from hostnet.hosts.connection import Settings
from hostnet.hosts.pool import Pool
from hostnet.hosts.session import Session
from hostnet.wire.errors import Code, HostnetError

OK, WRONG, USAGE, UNREACHED, INTERRUPTED = 0, 1, 2, 3, 130
_COMPLETIONS = Path(__file__).parent / "files"
_STATUS_EVERY = 5  # updates of `top`
_PRINTED_LINES = 40  # of `top` where it is no terminal
_UNREACHED = {Code.UNREACHABLE, Code.PERMISSION, Code.AGENT_DIED, Code.MALFORMED}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The command line without the program's name; None: this process's.

    Returns:
        The exit code.
    """
    options = parsed(arguments)
    if options.command == "completion":
        sys.stdout.write((_COMPLETIONS / f"hostnet.{options.shell}").read_text())
        return OK
    # A shell lets the jobs that a script starts in the background ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return asyncio.run(_run(options))
    except HostnetError as error:
        _complain(options, error)
        return UNREACHED if error.code in _UNREACHED else WRONG
    except OSError as error:
        sys.stderr.write(f"hostnet: {error}\n")
        return WRONG
    except KeyboardInterrupt:
        return INTERRUPTED


async def _run(options: argparse.Namespace) -> int:
    # `keep`: the provider's configuration decides whether the network comes back after a reboot.
    pool = Pool(Settings(state_dir=options.state_dir, persist="keep", lock_timeout=options.lock_timeout), _tell)
    try:
        session = await pool.host(connection(options))
        return await _COMMANDS[options.command](options, session)
    finally:
        await pool.close()


def _tell(_host: str, line: str) -> None:
    sys.stderr.write(f"{line}\n")


async def _status(options: argparse.Namespace, session: Session) -> int:
    data = (await session.facts("status", {})).data
    _show(
        options,
        {"host": session.label, **data},
        lambda console: status.show(console, session.label, data, whole=options.all),
    )
    return WRONG if options.check and not status.as_declared(data) else OK


async def _top(options: argparse.Namespace, session: Session) -> int:
    console = Console()
    live = console.is_terminal and not options.json
    with Live(console=console, screen=True, auto_refresh=False) if live else contextlib.nullcontext() as page:
        before = (await session.facts("traffic", {})).data
        for number in range(options.count) if options.count else itertools.count():
            # What is declared changes less often than counters, and costs more to compare.
            if number % _STATUS_EVERY == 0:
                about = (await session.facts("status", {})).data
            await asyncio.sleep(options.interval)
            now = (await session.facts("traffic", {})).data
            sample, before = top.sample(session.label, about, before, now), now
            if page is not None:
                page.update(top.screen(sample, console.height), refresh=True)
            elif options.json:
                sys.stdout.write(json.dumps(sample.to_json()) + "\n")
                sys.stdout.flush()
            else:
                console.print(top.screen(sample, _PRINTED_LINES))
    return OK


async def _doctor(options: argparse.Namespace, session: Session) -> int:
    data = (await session.facts("doctor", {})).data
    _show(options, {"host": session.label, **data}, lambda console: doctor.show(console, session.label, data))
    return WRONG if any(check["level"] == "fail" for check in data["checks"]) else OK


async def _restore(options: argparse.Namespace, session: Session) -> int:
    count = await session.restore()
    text = f"{session.label}: put back {count} resource{'' if count == 1 else 's'}"
    _show(options, {"host": session.label, "resources": count}, lambda console: console.print(text, highlight=False))
    return OK


async def _watch(options: argparse.Namespace, session: Session) -> int:
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        async for line in session.watch():
            sys.stdout.write((json.dumps({"said": line}) if options.json else line) + "\n")
            sys.stdout.flush()
    except asyncio.CancelledError:
        return INTERRUPTED
    return OK


async def _graph(options: argparse.Namespace, session: Session) -> int:
    data = (await session.facts("status", {})).data
    made = topology(session.label, data, whole=options.format in graph.WHOLE and not options.json)
    made.when = f"read {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    text = json.dumps(made.to_json(), indent=2) + "\n" if options.json else graph.FORMATS[options.format](made)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return OK


async def _remove(options: argparse.Namespace, session: Session) -> int:
    there = (await session.facts("status", {})).data["resources"]
    chosen = remove.select(there, options.urns, options.stack, options.project)
    if not options.yes and not remove.confirm(session.label, chosen):
        sys.stdout.write("Nothing was deleted.\n")
        return WRONG
    errors = await remove.remove(session, chosen)
    for error in errors:
        sys.stderr.write(f"hostnet: {error}\n")
    deleted = [{"urn": each["urn"], "id": each["id"]} for each in chosen]
    if errors:
        left = {each["urn"] for each in (await session.facts("status", {})).data["resources"]}
        deleted = [each for each in deleted if each["urn"] not in left]
    text = f"{session.label}: deleted {len(deleted)} of {len(chosen)} resources"
    _show(options, {"host": session.label, "deleted": deleted}, lambda console: console.print(text, highlight=False))
    return WRONG if errors else OK


_COMMANDS: dict[str, Callable[[argparse.Namespace, Session], Awaitable[int]]] = {
    "status": _status,
    "top": _top,
    "doctor": _doctor,
    "restore": _restore,
    "watch": _watch,
    "graph": _graph,
    "remove": _remove,
}


def _show(options: argparse.Namespace, data: dict[str, Any], draw: Callable[[Console], None]) -> None:
    if options.json:
        sys.stdout.write(json.dumps(data, indent=2) + "\n")
    else:
        draw(Console())


def _complain(options: argparse.Namespace, error: HostnetError) -> None:
    """Print an error: one line for a person, and its parts as JSON."""
    if options.json:
        sys.stdout.write(json.dumps({"error": {**error.to_json(), "host": error.host}}, indent=2) + "\n")
    sys.stderr.write(f"hostnet: {' '.join(str(error).split())}\n")
