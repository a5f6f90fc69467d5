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
from hostnet.cli import doctor, graph, remove, status
from hostnet.cli.topology import topology
from hostnet.hosts.connection import Connection, Settings
from hostnet.hosts.pool import Pool
from hostnet.hosts.session import Session
from hostnet.resources.schema.model import BadValueError, Scalar
from hostnet.resources.schema.types import AbsolutePath, HostAddress, NetnsName, Port, UserName
from hostnet.wire.errors import Code, HostnetError

OK, WRONG, USAGE, UNREACHED, INTERRUPTED = 0, 1, 2, 3, 130
_UNREACHED = {Code.UNREACHABLE, Code.PERMISSION, Code.AGENT_DIED, Code.MALFORMED}
_HOST = re.compile(r"(?:(?P<user>[^@]+)@)?(?:\[(?P<v6>[^]]+)\]|(?P<name>[^:@\[\]]+))(?::(?P<port>\d+))?")
_CODES = """exit codes:
  0    success
  1    the host has a problem (doctor, status --check), or it refused the request
  2    the command line is wrong
  3    the host cannot be reached, or the user lacks permission
  130  interrupted
"""
_COMMON = """The command needs root on the host: as another user it runs `sudo -n` there.

"""
_EXAMPLES = {
    "status": "hostnet status --host root@203.0.113.5",
    "doctor": "hostnet doctor --host admin@server --identity ~/.ssh/id_ed25519",
    "restore": "hostnet restore --netns demo",
    "watch": "hostnet watch",
    "graph": "hostnet graph --format svg --output network.svg",
    "remove": "hostnet remove --stack dev --project shop",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The command line without the program's name; None: this process's.

    Returns:
        The exit code.
    """
    made = parser()
    options = made.parse_args(arguments)
    if options.command == "remove":
        _check_remove(made, options)
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


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="hostnet",
        description="Show and repair the network that hostnet manages on a Linux host.",
        epilog=_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=f"hostnet {__version__}")
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    for name, what in (
        ("status", "show the resources on a host: their stacks, drift, and the counters of port forwards"),
        ("doctor", "check whether a host is ready for hostnet, and show how to fix what is not"),
        ("restore", "put back everything that is recorded on a host, as at boot"),
        ("watch", "attach new interfaces that fit a TapBinding's `match`, in the foreground"),
        ("graph", "draw a host's topology as text, for Graphviz, or as a picture"),
        ("remove", "delete what a stack has on a host, where its state is lost and `pulumi destroy` cannot"),
    ):
        command = commands.add_parser(
            name,
            help=what,
            description=what[0].upper() + what[1:] + ".",
            epilog=f"{_COMMON}example:\n  {_EXAMPLES[name]}\n\n{_CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _common(command)
        if name == "status":
            command.add_argument(
                "--check", action="store_true", help="exit with 1 where something is not as declared, as for monitoring"
            )
        if name == "remove":
            command.add_argument(
                "urns", nargs="*", metavar="URN", help="single resources, as `status --json` shows them"
            )
            command.add_argument("--stack", metavar="NAME", help="all resources of the stack")
            command.add_argument("--project", metavar="NAME", help="all resources of the project, or of its --stack")
            command.add_argument("--yes", action="store_true", help="do not ask")
        if name == "graph":
            command.add_argument(
                "--format",
                choices=sorted(graph.FORMATS),
                default="text",
                help="a tree of text, the language of Graphviz, or SVG (default: text)",
            )
            command.add_argument("--output", type=Path, metavar="FILE", help="the file (default: standard output)")
    return made


def _check_remove(made: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit where it is not clear what to remove, or nobody can be asked."""
    if bool(options.urns) == bool(options.stack or options.project):
        made.error("remove: give either URNs, or --stack or --project")
    if not options.yes and (options.json or not sys.stdin.isatty()):
        made.error("remove: give --yes, since there is no terminal on which to ask")


def _common(command: argparse.ArgumentParser) -> None:
    where = "[USER@]HOST[:PORT]"
    command.add_argument("--host", type=host, metavar=where, help="the host, over SSH (default: this machine)")
    command.add_argument("--jump", type=host, metavar=where, help="a jump host through which the connection goes")
    command.add_argument(
        "--identity", type=Path, metavar="FILE", help="a private key (default: the keys in the agent at SSH_AUTH_SOCK)"
    )
    command.add_argument("--netns", type=_of(NetnsName()), metavar="NAME", help="a named network namespace of the host")
    command.add_argument(
        "--state-dir",
        type=_of(AbsolutePath()),
        default=Settings.state_dir,
        metavar="DIR",
        help="the provider's stateDir (default: %(default)s)",
    )
    command.add_argument(
        "--lock-timeout",
        type=float,
        default=Settings.lock_timeout,
        metavar="SECONDS",
        help="how long to wait while another process changes the host (default: %(default)s)",
    )
    command.add_argument("--json", action="store_true", help="print JSON")


def host(text: str) -> dict[str, Any]:
    """The values of a connection, from a host on the command line.

    Raises:
        argparse.ArgumentTypeError: The text names no host.
    """
    match = _HOST.fullmatch(text)
    if match is None:
        message = f"must be [USER@]HOST[:PORT], with an IPv6 address in brackets, not {text!r}"
        raise argparse.ArgumentTypeError(message)
    values: dict[str, Any] = {"host": _of(HostAddress())(match["v6"] or match["name"])}
    if match["user"]:
        values["user"] = _of(UserName())(match["user"])
    if match["port"]:
        values["port"] = _of(Port())(match["port"])
    return values


def _of(kind: Scalar) -> Callable[[str], Any]:
    """What reads an option as the property of a program is read: the same is refused, with the same words."""

    def read(text: str) -> Any:
        try:
            return kind.parse(text)
        except BadValueError as error:
            message = f"must be {error}, not {text!r}"
            raise argparse.ArgumentTypeError(message) from None

    return read


def connection(options: argparse.Namespace) -> Connection:
    """How the host on the command line is reached.

    Raises:
        OSError: The private key can't be read.
    """
    key = options.identity.read_text() if options.identity else None
    jump = Connection(**options.jump, private_key=key) if options.jump else None
    return Connection(**(options.host or {}), private_key=key, proxy=jump, netns=options.netns)


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
    _show(options, {"host": session.label, **data}, lambda console: status.show(console, session.label, data))
    return WRONG if options.check and not status.as_declared(data) else OK


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
    made = topology(session.label, data)
    text = json.dumps(made.to_json(), indent=2) + "\n" if options.json else graph.FORMATS[options.format](made)
    if options.output:
        options.output.write_text(text)
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
