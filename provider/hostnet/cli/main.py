"""Arguments in, one session with one host, an exit code out."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from hostnet import __version__
from hostnet.cli import doctor, graph, status
from hostnet.hosts.connection import Connection, Settings
from hostnet.hosts.pool import Pool
from hostnet.hosts.session import Session
from hostnet.wire.errors import Code, HostnetError

OK, WRONG, USAGE, UNREACHED, INTERRUPTED = 0, 1, 2, 3, 130
_UNREACHED = {Code.UNREACHABLE, Code.PERMISSION, Code.AGENT_DIED}
_HOST = re.compile(r"(?:(?P<user>[^@]+)@)?(?:\[(?P<v6>[^]]+)\]|(?P<name>[^:@\[\]]+))(?::(?P<port>\d+))?")
_CODES = """
exit codes: 0 all is well · 1 something is wrong on the host (doctor), or was refused · 2 the command line ·
3 the host was not reached, or this user may not · 130 interrupted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    :returns: the exit code.
    """
    options = parser().parse_args(arguments)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a script started us in the background
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


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="hostnet", description="A Linux host's network, as hostnet holds it.", epilog=_CODES
    )
    made.add_argument("--version", action="version", version=f"hostnet {__version__}")
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, what in (
        ("status", "what hostnet holds on a host, whose stack owns it, drift, and the forwards' counters"),
        ("doctor", "whether the host is ready, and the command that mends what is not"),
        ("restore", "put back what is recorded, as at boot"),
        ("watch", "follow new interfaces for `match`, in the foreground"),
        ("graph", "the topology as a picture"),
    ):
        command = commands.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".", epilog=_CODES)
        _common(command)
        if name == "graph":
            command.add_argument("--format", choices=sorted(graph.FORMATS), default="text", help="default: text")
            command.add_argument("--output", type=Path, metavar="FILE", help="default: standard output")
    return made


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--host", type=host, metavar="[USER@]HOST[:PORT]", help="over SSH; absent: this machine")
    command.add_argument("--jump", type=host, metavar="[USER@]HOST[:PORT]", help="one jump host before it")
    command.add_argument(
        "--identity", type=Path, metavar="FILE", help="private key; absent: the SSH agent's (SSH_AUTH_SOCK)"
    )
    command.add_argument("--netns", metavar="NAME", help="a named network namespace of the host")
    command.add_argument(
        "--state-dir", default=Settings.state_dir, metavar="DIR", help="the provider's stateDir (%(default)s)"
    )
    command.add_argument("--json", action="store_true", help="for programs")


def host(text: str) -> dict[str, Any]:
    """A host of the command line as a connection's values.

    :raises argparse.ArgumentTypeError: where it is none.
    """
    match = _HOST.fullmatch(text)
    if match is None:
        message = f"{text!r} is not [USER@]HOST[:PORT] (an IPv6 address in brackets)"
        raise argparse.ArgumentTypeError(message)
    values: dict[str, Any] = {"host": match["v6"] or match["name"]}
    if match["user"]:
        values["user"] = match["user"]
    if match["port"]:
        values["port"] = int(match["port"])
    return values


def connection(options: argparse.Namespace) -> Connection:
    """The way to the host that was asked for.

    :raises OSError: where the private key can't be read.
    """
    key = options.identity.read_text() if options.identity else None
    jump = Connection(**options.jump, private_key=key) if options.jump else None
    return Connection(**(options.host or {}), private_key=key, proxy=jump, netns=options.netns)


async def _run(options: argparse.Namespace) -> int:
    # `keep`: whether a reboot is to bring things back is the provider's configuration to say.
    pool = Pool(Settings(state_dir=options.state_dir, persist="keep"), _tell)
    try:
        session = await pool.host(connection(options))
        return await _COMMANDS[options.command](options, session)
    finally:
        await pool.close()


def _tell(_host: str, line: str) -> None:
    sys.stderr.write(f"{line}\n")


async def _status(options: argparse.Namespace, session: Session) -> int:
    data = (await session.facts("status", {})).data
    _show(options, {"host": session.label, **data}, lambda console: status.show(console, session.label, data))
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
    topology = graph.topology(session.label, data)
    text = json.dumps(topology.to_json(), indent=2) + "\n" if options.json else graph.FORMATS[options.format](topology)
    if options.output:
        options.output.write_text(text)
    else:
        sys.stdout.write(text)
    return OK


_COMMANDS: dict[str, Callable[[argparse.Namespace, Session], Awaitable[int]]] = {
    "status": _status,
    "doctor": _doctor,
    "restore": _restore,
    "watch": _watch,
    "graph": _graph,
}


def _show(options: argparse.Namespace, data: dict[str, Any], draw: Callable[[Console], None]) -> None:
    if options.json:
        sys.stdout.write(json.dumps(data, indent=2) + "\n")
    else:
        draw(Console())


def _complain(options: argparse.Namespace, error: HostnetError) -> None:
    """One line; for programs, with its parts."""
    if options.json:
        sys.stdout.write(json.dumps({"error": {**error.to_json(), "host": error.host}}, indent=2) + "\n")
    sys.stderr.write(f"hostnet: {' '.join(str(error).split())}\n")
