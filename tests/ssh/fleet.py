"""Many servers beside one provider's machine: each a namespace with an sshd of its own, all on one switch.

Address plan: `fleet` 198.18.0.1/16 is the provider's machine and everybody's default route. Server `number` (from 0) is
198.18.1.`number + 1`; its `eth0` is at port `s<number>` of the switch, which is the bridge `lan` of the provider's
machine. It has a /run of its own, and its `stateDir` in there.
"""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hostnet.hosts.connection import Connection

from tests.lab.namespaces import Namespaces, temporary_directory
from tests.ssh.world import Server, keygen

GATEWAY = "198.18.0.1"
STATE_DIR = "/run/test/state"
_PROGRAM = Path(__file__).with_name("fleet_program.py")
_AT_ONCE = 4  # servers that are made at a time


class Fleet:
    """The provider's machine and the servers, with sshd running."""

    def __init__(self, size: int) -> None:
        """Make so many servers; where one can't be made, nothing stays."""
        self.namespaces = Namespaces()
        self.directory = temporary_directory("fleet")
        self.servers: list[Server] = []
        try:
            self.key = keygen(self.directory / "key")
            self.client = self.namespaces.add("fleet")
            self.client.ip("link add lan type bridge", f"address add {GATEWAY}/16 dev lan", "link set lan up")
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                self.servers += pool.map(self._server, range(size))
        except BaseException:
            self.close()
            raise

    def _server(self, number: int) -> Server:
        namespace = self.namespaces.add(f"fleet{number}")
        port = f"s{number}"
        self.client.ip(
            f"link add {port} type veth peer name eth0 netns {namespace.name}",
            f"link set {port} master lan",
            f"link set {port} up",
        )
        namespace.ip(
            f"address add {address(number)}/16 dev eth0", "link set eth0 up", f"route add default via {GATEWAY}"
        )
        server = Server(namespace, self.directory / port)
        (server.directory / "authorized_keys").write_text(self.key.with_suffix(".pub").read_text())
        server.start()
        return server

    def arguments(self, number: int, **more: Any) -> dict[str, Any]:
        """The arguments of a server's connection."""
        server = self.servers[number]
        return {"host": address(number), "private_key": self.key.read_text(), "host_key": server.host_key, **more}

    def connection(self, number: int, **more: Any) -> Connection:
        """The connection to a server."""
        return Connection(**self.arguments(number, **more))

    def write_program(self, folder: Path, connections: list[dict[str, Any]], **how: int) -> None:
        """Put a program for these servers into a project's folder.

        Args:
            folder: The project's.
            connections: Those of the servers (`arguments`).
            how: `taps` and `forwards` of each, and the `port` that these lead to.
        """
        shutil.copy(_PROGRAM, folder / "__main__.py")
        (folder / "fleet.json").write_text(json.dumps({"servers": connections, **how}))

    def unplug(self, number: int) -> None:
        """Take a server's cable out. The kernel notices within seconds that the address does not answer."""
        self.client.ip(f"link set s{number} down", f"neigh flush to {address(number)}")

    def plug(self, number: int) -> None:
        """Put it in again."""
        self.client.ip(f"link set s{number} up")

    def close(self) -> None:
        """Take all away."""
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            stack.callback(self.namespaces.close)
            for server in self.servers:
                stack.callback(server.close)


def address(number: int) -> str:
    """A server's."""
    return f"198.18.1.{number + 1}"
