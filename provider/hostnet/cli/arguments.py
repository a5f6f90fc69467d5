"""The command line: its commands and options, and the connection that they describe."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hostnet import __version__
from hostnet.cli import graph
from hostnet.hosts.connection import Connection, Settings
from hostnet.resources.schema.model import BadValueError, Scalar
from hostnet.resources.schema.types import AbsolutePath, HostAddress, HostKey, NetnsName, Port, UserName

_HOST = re.compile(r"(?:(?P<user>[^@]+)@)?(?:\[(?P<v6>[^]]+)\]|(?P<name>[^:@\[\]]+))(?::(?P<port>\d+))?")
CODES = """exit codes:
  0    success
  1    the host has a problem (doctor, status --check), or it refused the request
  2    the command line is wrong
  3    the host cannot be reached, or the user lacks permission
  130  interrupted
"""
COMMON = """The command needs root on the host: as another user it runs `sudo -n` there.

"""
_COMMANDS = {
    "status": "show the resources on a host: their stacks, drift, and the counters of port forwards",
    "top": "show what passes through port forwards and to guests, live, with leases and drift",
    "doctor": "check whether a host is ready for hostnet, and show how to fix what is not",
    "restore": "put back everything that is recorded on a host, as at boot",
    "watch": "attach new interfaces that fit a TapBinding's `match`, in the foreground",
    "graph": "draw a host's topology as text, for Graphviz, as a picture, or as a page to search",
    "remove": "delete what a stack has on a host, where its state is lost and `pulumi destroy` cannot",
    "completion": "print what completes the commands and options in a shell",
}
SHELLS = ("bash", "zsh", "fish")
EXAMPLES = {
    "status": "hostnet status --host root@203.0.113.5",
    "top": "hostnet top --host root@203.0.113.5",
    "doctor": "hostnet doctor --host admin@server --identity ~/.ssh/id_ed25519",
    "restore": "hostnet restore --netns demo",
    "watch": "hostnet watch",
    "graph": "hostnet graph --format html --output network.html",
    "remove": "hostnet remove --stack dev --project shop",
    "completion": "hostnet completion bash > ~/.local/share/bash-completion/completions/hostnet",
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="hostnet",
        description="Show and repair the network that hostnet manages on a Linux host.",
        epilog=CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=f"hostnet {__version__}")
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    for name, what in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=what,
            description=what[0].upper() + what[1:] + ".",
            epilog=f"{'' if name == 'completion' else COMMON}example:\n  {EXAMPLES[name]}\n\n{CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name in _OWN:
            _OWN[name](command)
        if name != "completion":
            _common(command)
    return made


def _status(command: argparse.ArgumentParser) -> None:
    command.add_argument("--all", action="store_true", help="list every resource and forward also where there are many")
    command.add_argument(
        "--check", action="store_true", help="exit with 1 where something is not as declared, as for monitoring"
    )


def _top(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--interval", type=_interval, default=2.0, metavar="SECONDS", help="how often to look (default: 2)"
    )
    command.add_argument("--count", type=_count, metavar="N", help="end after so many updates (default: go on)")


def _interval(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 3600:
        message = f"must be seconds from 0.1 to 3600, not {text!r}"
        raise argparse.ArgumentTypeError(message)
    return seconds


def _count(text: str) -> int:
    if not 1 <= int(text) <= 10**9:
        message = f"must be 1 or more, not {text!r}"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def _remove(command: argparse.ArgumentParser) -> None:
    command.add_argument("urns", nargs="*", metavar="URN", help="single resources, as `status --json` shows them")
    command.add_argument("--stack", metavar="NAME", help="all resources of the stack")
    command.add_argument("--project", metavar="NAME", help="all resources of the project, or of its --stack")
    command.add_argument("--yes", action="store_true", help="do not ask")


def _graph(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--format",
        choices=sorted(graph.FORMATS),
        default="text",
        help="a tree of text, the language of Graphviz, SVG, or one page that needs no server (default: text)",
    )
    command.add_argument("--output", type=Path, metavar="FILE", help="the file (default: standard output)")


def _completion(command: argparse.ArgumentParser) -> None:
    command.add_argument("shell", choices=SHELLS, help="bash, zsh or fish")


_OWN: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "status": _status,
    "top": _top,
    "remove": _remove,
    "graph": _graph,
    "completion": _completion,
}


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command line. A wrong one ends the process.

    Args:
        arguments: The command line without the program's name; None: this process's.
    """
    made = parser()
    options = made.parse_args(arguments)
    if options.command == "completion":
        return options
    if options.host_key and not options.host:
        made.error(f"{options.command}: --host-key needs --host")
    if options.command == "remove":
        _check_remove(made, options)
    return options


def _check_remove(made: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit where it is not clear what to remove, or nobody can be asked."""
    if bool(options.urns) == bool(options.stack or options.project):
        made.error("remove: give either URNs, or --stack or --project")
    if not options.yes and (options.json or not sys.stdin.isatty()):
        made.error("remove: give --yes, since there is no terminal on which to ask")


def _common(whole: argparse.ArgumentParser) -> None:
    command = whole.add_argument_group("options of all commands")
    where = "[USER@]HOST[:PORT]"
    command.add_argument("--host", type=host, metavar=where, help="the host, over SSH (default: this machine)")
    command.add_argument("--jump", type=host, metavar=where, help="a jump host through which the connection goes")
    command.add_argument(
        "--identity", type=Path, metavar="FILE", help="a private key (default: the keys in the agent at SSH_AUTH_SOCK)"
    )
    command.add_argument(
        "--host-key",
        type=_of(HostKey()),
        metavar="KEY",
        help="the host's public key, as in authorized_keys (default: the key in known_hosts)",
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
    to = {**(options.host or {}), "host_key": options.host_key, "private_key": key, "netns": options.netns}
    return Connection(**to, proxy=jump)
