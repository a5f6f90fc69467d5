"""A host to measure on: a network namespace with an uplink, a bridge and a gateway of hostnet, and N forwards.

outside --- eth0 192.0.2.2/24, host, br0 10.0.0.1/16
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hostnet.agent.main import open_host
from hostnet.resources import KINDS
from hostnet.wire.errors import HostnetError
from hostnet.wire.requests import Change

from benchmarks.plugin import Plugin
from tests.lab.namespaces import Namespace, Namespaces, temporary_directory
from tools.paths import CHECKOUT

FIRST_PORT = 2000
MAP = "inet bench m"
DECLARE = f"""add table inet bench
add map {MAP} {{ type ifname . inet_proto . inet_service : ipv4_addr . inet_service; }}
"""  # as the agent's map of forwards


def forward(number: int, port: int = 80) -> dict[str, Any]:
    """The inputs of a forward.

    Args:
        number: Which.
        port: The guest's port.
    """
    return {"sourcePort": FIRST_PORT + number, "destination": f"{_guest(number)}:{port}"}


def gateway_forward(number: int, port: int = 80) -> dict[str, Any]:
    """The inputs of a forward of `Place.fill`'s gateway; see `forward`."""
    return {"natGateway": _change("NatGateway", "nat", {}).id, **forward(number, port)}


def element(number: int, port: int = 80) -> str:
    """The same in a bare map, in nft's syntax."""
    return f"{key(number)} : {_guest(number)} . {port}"


def key(number: int) -> str:
    """The key of `element`."""
    return f'"eth0" . tcp . {FIRST_PORT + number}'


def _guest(number: int) -> str:
    return f"10.0.{1 + max(number, 0) // 250}.{1 + number % 250}"


def batch(verb: str, elements: list[str]) -> str:
    """Commands that add or delete elements of the bare map, 500 in each."""
    return "".join(
        f"{verb} element {MAP} {{ {', '.join(elements[at : at + 500])} }}\n" for at in range(0, len(elements), 500)
    )


class Place:
    """The namespace, with hostnet's record of it.

    Args:
        namespaces: Where it is made.
        role: Its name there.
    """

    def __init__(self, namespaces: Namespaces, role: str) -> None:
        self.namespace: Namespace = namespaces.add(role)
        self.directory = temporary_directory("bench")
        self.namespace.ip(
            "link add eth0 type veth peer name outside",
            "addr add 192.0.2.2/24 dev eth0",
            "link set eth0 up",
            "link set outside up",
            "route add default via 192.0.2.1",
        )

    @property
    def config(self) -> dict[str, Any]:
        """The provider's configuration, with this host as the default."""
        connection = {"netns": self.namespace.name}
        return {"connection": connection, "stateDir": str(self.directory / "state"), "persist": "never"}

    def plugin(self, provider: str = "ours") -> Plugin:
        """A plugin's process for this host."""
        return Plugin(provider, **self.config)

    def fill(self, count: int) -> None:
        """Give the host a bridge, a gateway, and forwards with an owner each, in one transaction of an agent."""
        argv = [
            sys.executable,
            "-m",
            "benchmarks.place",
            str(self.directory / "state"),
            self.namespace.name,
            str(count),
        ]
        subprocess.run(argv, check=True, cwd=CHECKOUT)

    def nft(self, text: str) -> None:
        """Run `nft -f` there, one process."""
        self.namespace.run(["nft", "-f", "-"], text=text)

    def listing(self, table: str) -> Any:
        """List a table by one process `nft -j`, and parse it."""
        return json.loads(self.namespace.run(["nft", "-j", "list", "table", *table.split()]))

    def close(self) -> None:
        """Delete hostnet's files."""
        shutil.rmtree(self.directory, ignore_errors=True)


def _change(kind: str, name: str, inputs: dict[str, Any]) -> Change:
    """What a provider asks of an agent for a new resource."""
    token = f"hostnet:index:{kind}"
    made = KINDS[token].change(f"urn:pulumi:test::project::{token}::{name}", inputs)
    assert made is not None, f"{name}: something is unknown"
    return made


class Places(ExitStack):
    """The hosts of one row, deleted at its end with all that was entered."""

    def __init__(self) -> None:
        super().__init__()
        self._namespaces = Namespaces()
        self.callback(self._namespaces.close)

    def add(self, role: str, forwards: int | None = None) -> Place:
        """Make one.

        Args:
            role: Its name.
            forwards: What hostnet has there beside a bridge and a gateway; None: it has nothing.
        """
        place = Place(self._namespaces, role)
        self.callback(place.close)
        if forwards is not None:
            place.fill(forwards)
        return place


def ip_batch(place: Place, lines: list[str]) -> None:
    """Run `ip` commands there, as one process."""
    argv = ["ip", "-n", place.namespace.name, "-batch", "-"]
    subprocess.run(argv, input="\n".join(lines), text=True, check=True, capture_output=True)


def _fill(state: Path, netns: str, count: int) -> None:
    """What `Place.fill` does, in a process that may move into the namespace.

    Raises:
        HostnetError: A change is refused.
    """
    changes = [
        _change("Bridge", "br0", {"name": "br0", "addresses": ["10.0.0.1/16"]}),
        _change("NatGateway", "nat", {"internalInterfaces": ["br0"]}),
        *(_change("PortForward", f"f{each}", gateway_forward(each)) for each in range(count)),
    ]
    for outcome in open_host(state, netns, "never").apply(changes):
        if isinstance(outcome, HostnetError):
            raise outcome


if __name__ == "__main__":
    _fill(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
