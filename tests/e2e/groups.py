"""examples/fleet in a folder, servers in groups, a queue's broker and a store: what its workers share."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.services import Services
from tests.e2e.stacks import Cli, Host
from tests.ssh.fleet import Fleet, address
from tools.paths import CHECKOUT

LOST = 10  # seconds after which a killed worker counts as lost
_EXAMPLE = CHECKOUT / "examples" / "fleet"


class Groups:
    """The example, and all that it runs with.

    Args:
        fleet: The servers, which the caller takes away.
        folder: Where the example is copied to.
        groups: The numbers of each group's servers.
        at_once: How many groups change at the same time.
        network: What each server gets.
    """

    def __init__(
        self, fleet: Fleet, folder: Path, groups: Mapping[str, list[int]], *, at_once: int, network: Mapping[str, int]
    ) -> None:
        self.fleet, self.groups, self.at_once, self.network = fleet, groups, at_once, network
        self.services = Services(fleet.client)
        self.cli = Cli(folder)
        # As git has it; `../..` has what the checkout's has.
        self.project = folder / "examples" / "fleet"
        shutil.copytree(_EXAMPLE, self.project, ignore=shutil.ignore_patterns("Pulumi.*.yaml", "__pycache__"))
        for name in ("provider", ".venv"):
            (folder / name).symlink_to(CHECKOUT / name)
        self.cli.env |= self.services.redis() | self.services.ssh_agent(fleet.key) | {"FLEET_LOST": str(LOST)}

    @contextmanager
    def running(
        self, command: str, workers: int, special: Mapping[int, Mapping[str, Any]] | None = None
    ) -> Iterator[subprocess.Popen[str]]:
        """The example's command under way; at the end of the block it is killed.

        Args:
            command: Of `pulumi`.
            workers: How many it starts.
            special: Further arguments of the connections to some servers.
        """
        file = self.project / "servers.json"
        hosts = {
            name: {f"s{number}": self._connection(number, (special or {}).get(number, {})) for number in numbers}
            for name, numbers in self.groups.items()
        }
        canary = next(iter(hosts))
        about = {"canary": canary, "at_once": self.at_once, "network": self.network, "groups": hosts}
        file.write_text(json.dumps(about))
        argv = [sys.executable, "fleet.py", command, str(file), "--workers", str(workers)]
        how: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        process = self.fleet.client.call(
            lambda: subprocess.Popen(argv, cwd=self.project, env=self.cli.env, start_new_session=True, **how)
        )
        try:
            yield process
        finally:
            process.kill()  # workers that this leaves end with their namespace
            process.wait()

    def _connection(self, number: int, more: Mapping[str, Any]) -> dict[str, Any]:
        """A server's, without the key: the agent has it."""
        return {"host": address(number), "host_key": self.fleet.servers[number].host_key, **more}

    def host(self, number: int) -> Host:
        """A server as a host."""
        server = self.fleet.servers[number]
        return Host(server.namespace, server.directory / "state")

    def state(self, group: str) -> dict[str, Any]:
        """A group's state; empty if there is none."""
        ended = self.fleet.client.call(self.cli, "stack", "export", "-s", group, cwd=self.project, check=False)
        return dict(json.loads(ended.stdout)["deployment"]) if ended.returncode == 0 else {}

    def close(self) -> None:
        """End what it started."""
        self.services.close()
