"""examples/rollout, run as a person runs it, on servers with VMs: what fails stops it, who comes later is untouched.

tests/ssh/fleet.py has the address plan. Groups: canary (server 0), north (1 and 2), south (3). On each server the VMs
`blue` 10.0.0.2 and `green` 10.0.0.3 boot when their TAPs are there; but server 1's `green` at first does not.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.stacks import Cli, Host
from tests.lab.namespaces import Namespace
from tests.lab.waiting import PATIENCE
from tests.ssh.fleet import Fleet, address
from tools.paths import CHECKOUT

EXAMPLES = CHECKOUT / "examples"
VMM = EXAMPLES / "pretend-cloud" / "pretend_vmm.py"
GROUPS = {"canary": [0], "north": [1, 2], "south": [3]}
VMS = {"blue": 2, "green": 3}
DEAD = (1, "green")


class Rollout:
    """The example in a folder, and the servers."""

    def __init__(self, folder: Path) -> None:
        """Copy the example as git has it; `../..` has what the checkout's has."""
        self.fleet = Fleet(4)
        self.cli = Cli(folder)
        self.project = folder / "examples" / "rollout"
        shutil.copytree(
            EXAMPLES / "rollout", self.project, ignore=shutil.ignore_patterns("Pulumi.*.yaml", "__pycache__")
        )
        for name in ("provider", ".venv"):
            (folder / name).symlink_to(CHECKOUT / name)
        self._pool = ThreadPoolExecutor(8)
        self._closed = threading.Event()

    def run(self, live: str, *flags: str, patience: float = 2 * PATIENCE) -> tuple[dict[str, str], str]:
        """Roll out which VM is live; what became of each group, and what it said.

        Args:
            live: The VM.
            flags: For `pulumi`.
            patience: How many seconds a VM has to answer.
        """
        groups = {
            group: {f"s{number}": self.fleet.arguments(number, dial_error_limit=1) for number in numbers}
            for group, numbers in GROUPS.items()
        }
        file = self.project / "servers.json"
        file.write_text(json.dumps({"live": live, "probe": {"path": "/", "seconds": patience}, "groups": groups}))
        argv = [sys.executable, "rollout.py", str(file), *flags]
        ended = self.fleet.client.call(
            lambda: subprocess.run(
                argv, cwd=self.project, env=self.cli.env, capture_output=True, text=True, check=False, timeout=300
            )
        )
        text = ended.stdout + ended.stderr
        table = dict(line.split(maxsplit=1) for line in ended.stdout.splitlines()[-len(GROUPS) :])
        assert table.keys() == GROUPS.keys(), text
        assert (ended.returncode == 0) == (set(table.values()) == {"done, and answers"}), text
        return table, text

    def boot(self, number: int, vm: str) -> None:
        """Boot a VM as soon as its TAP is there."""
        self._pool.submit(self._boot, self.fleet.namespaces.add(f"fleet{number}{vm}"), number, vm)

    def _boot(self, guest: Namespace, number: int, vm: str) -> None:
        server = self.fleet.servers[number].namespace
        while not server.call(has_link, vm):
            if self._closed.wait(0.05):
                return
        about = {
            "tap": vm,
            "name": f"{vm} of {number}",
            "mac_address": f"02:00:00:00:00:0{VMS[vm]}",
            "addresses": [f"10.0.0.{VMS[vm]}/24"],
            "gateway": "10.0.0.1",
        }
        argv = [sys.executable, str(VMM), server.name, guest.name, json.dumps(about)]
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)

    def host(self, number: int) -> Host:
        """A server as a host."""
        server = self.fleet.servers[number]
        return Host(server.namespace, server.directory / "state")

    def live(self) -> list[str]:
        """Which VM each server's port 80 leads to."""
        names = {f"10.0.0.{last}:80": name for name, last in VMS.items()}
        return [names[self.host(number).forwards()[80]] for number in range(4)]

    def answers(self, number: int) -> str:
        """Which VM answers a client of a server."""
        browser = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        answer: bytes = self.fleet.client.call(lambda: browser.open(f"http://{address(number)}/", timeout=5).read())
        return answer.decode().strip().partition("this is ")[2]

    def state(self, group: str) -> bytes:
        """A group's state."""
        return (self.cli.folder / "backend" / ".pulumi" / "stacks" / "rollout" / f"{group}.json").read_bytes()

    def close(self) -> None:
        """Take all away."""
        self._closed.set()
        self._pool.shutdown()
        self.fleet.close()


def has_link(name: str) -> bool:
    """Whether there is an interface of that name, here."""
    return name in (found for _, found in socket.if_nameindex())


@pytest.fixture
def rollout(cli: Cli, tmp_path: Path) -> Iterator[Rollout]:
    """Servers on which nothing is yet; the VMs boot with their TAPs."""
    made = Rollout(tmp_path)
    try:
        for number in range(4):
            for vm in VMS:
                if (number, vm) != DEAD:
                    made.boot(number, vm)
        yield made
    finally:
        made.close()


GO = "--despite-warnings"  # a preview waits 3 s for a host, and this machine may be busy
DONE = "done, and answers"
STOPPED = {"canary": DONE, "north": "FAILED", "south": "not touched"}


def test_a_rollout(rollout: Rollout) -> None:
    """It goes everywhere; or stops at the previews; or at the first group that fails, and later goes on from there."""
    assert rollout.run("blue", GO)[0] == dict.fromkeys(GROUPS, DONE)
    assert [rollout.answers(number) for number in range(4)] == [f"blue of {number}" for number in range(4)]

    rollout.fleet.unplug(2)
    before = [rollout.state(group) for group in GROUPS]
    told, text = rollout.run("green")
    assert told == dict.fromkeys(GROUPS, "not touched")
    assert f"root@{address(2)}" in text
    assert "stopped: the preview of" in text
    assert [rollout.state(group) for group in GROUPS] == before

    told, text = rollout.run("green", GO)
    assert told == STOPPED
    assert f"root@{address(2)}: cannot reach the host" in text

    rollout.fleet.plug(2)
    told, text = rollout.run("green", GO, patience=5)
    assert told == STOPPED
    assert f"http://{address(1)}:80/ does not answer" in text
    assert rollout.live() == ["green", "green", "green", "blue"]
    assert rollout.answers(3) == "blue of 3"
    assert rollout.state("south") == before[-1]

    rollout.boot(*DEAD)
    assert rollout.run("green", GO)[0] == dict.fromkeys(GROUPS, DONE)
    assert [rollout.answers(number) for number in range(4)] == [f"green of {number}" for number in range(4)]
