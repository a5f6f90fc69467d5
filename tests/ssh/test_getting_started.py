"""Every command of docs/getting-started.md, in order: a workstation, and a server that it reaches over SSH.

The workstation's `pulumi` has no capability of root's and finds neither nft, ip nor dnsmasq. The template is the one in
YAML, whose language host is official on each machine; tests/dist runs and compiles the others, and
installs packages and the plugin from what `make dist` built.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostnet import __version__

from tests.lab.waiting import until
from tests.ssh.world import SERVER, World, which
from tools.paths import CHECKOUT, tool_env

PAGE = (CHECKOUT / "docs" / "getting-started.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^ {4}(\S.*)$", re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
# What the workstation has, apart from `pulumi` and what comes with it.
PROGRAMS = ("cat", "dirname", "env", "mkdir", "readlink", "sh")
WITHOUT_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
PATIENCE = 600.0  # s after which a hanging program is killed: only a failure costs this


class Workstation:
    """Where the commands run, with a folder, an SSH agent and a shell that remembers where it is."""

    def __init__(self, world: World, home: Path, folder: Path) -> None:
        """Make its programs.

        Args:
            world: Has the namespace that it is in.
            home: The user's home.
            folder: For its programs.
        """
        self._world, self.home, self.folder = world, home, home
        self._bin = folder
        folder.mkdir()
        for name in PROGRAMS:
            (folder / name).symlink_to(which(name))
        options = f"-i {world.key} -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={home}/.ssh/known_hosts"
        # OpenSSH finds a home by the user's id, whatever HOME is.
        (folder / "ssh").write_text(f'#!/bin/sh\nexec {which("ssh")} {options} "$@"\n')
        (folder / "ssh").chmod(0o755)
        pulumi = next(part for part in tool_env()["PATH"].split(os.pathsep) if (Path(part) / "pulumi").exists())
        self._env = {
            "HOME": str(home),
            "PULUMI_HOME": str(home / ".pulumi"),
            "PATH": os.pathsep.join((str(folder), pulumi, str(CHECKOUT / "provider" / "bin"))),
            "PULUMI_CONFIG_PASSPHRASE": "getting started",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "SSH_AUTH_SOCK": str(folder / "agent"),
            "NO_COLOR": "1",
        }

    def run(self, command: str) -> str:
        """Run a command as typed, and return what it printed.

        Raises:
            AssertionError: It failed.
        """
        if command.startswith("cd "):
            self.folder /= command.removeprefix("cd ")
            return ""
        inside = ["ip", "netns", "exec", self._world.client.name, *WITHOUT_CAPABILITIES, "sh", "-c", command]
        ended = subprocess.run(
            [which(inside[0]), *inside[1:4], which("setpriv"), *inside[5:]],
            cwd=self.folder,
            env=self._env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert ended.returncode == 0, f"{command}\n{ended.stdout}{ended.stderr}"
        return ended.stdout


@pytest.fixture
def workstation(world: World, home: Path, tmp_path: Path) -> Iterator[Workstation]:
    """With the server's key in an SSH agent. The server has an uplink, and an apt-get that records its arguments."""
    server = world.server
    server.namespace.ip("link set lo up", "route add default via 192.0.2.1")
    (server.directory / "bin").mkdir()
    apt = server.directory / "bin" / "apt-get"
    apt.write_text('#!/bin/sh\necho "$@" >> /run/test/apt\n')
    apt.chmod(0o755)
    server.config += "\nSetEnv PATH=/run/test/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
    server.start()
    made = Workstation(world, home, tmp_path / "bin")
    socket = tmp_path / "bin" / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.PIPE, text=True) as agent:
        try:
            assert agent.stdout is not None
            assert "SSH_AUTH_SOCK" in agent.stdout.readline()
            environment = {**os.environ, "SSH_AUTH_SOCK": str(socket)}
            subprocess.run(["ssh-add", "-q", world.key], check=True, env=environment)
            yield made
        finally:
            agent.terminate()


def edit(program: Path) -> None:
    """What the page says to write."""
    assert "write `10.0.0.2:8443` as the destination of `web-443`" in PAGE
    text = program.read_text()
    first, found, last = text.rpartition("destination: 10.0.0.2\n")
    assert found
    program.write_text(f"{first}destination: 10.0.0.2:8443\n{last}")


def test_every_command(world: World, workstation: Workstation, tmp_path: Path) -> None:
    """Each succeeds, and does what the page says; at the end the server is as before."""
    said: dict[str, str] = {}
    bridge = ""
    for command in COMMANDS:
        typed = command.replace("203.0.113.5", SERVER).replace("REPOSITORY", str(CHECKOUT))
        # `pulumi`, too, finds a home by the user's id.
        typed = typed.replace("login --local", f"login file://{workstation.home}")
        if command == "pulumi preview --diff":
            edit(workstation.folder / "Pulumi.yaml")
        said[command] = workstation.run(typed)
        if command == "pulumi stack init dev":
            workstation.run(f"pulumi config set hostnet:stateDir {tmp_path / 'state'}")
        if command.endswith("ip link set vm-web up"):
            bridge = until(lambda: world.server.namespace.kernel.links()["vm-web"].master)
            assert list(world.server.bridges()) == [bridge]
    assert (world.server.directory / "apt").read_text().splitlines() == [
        "update",
        "install --yes python3 nftables dnsmasq-base",
    ]
    assert f"bridge             {bridge}" in said["pulumi stack output"]
    assert "dnat_port4" in said["ssh root@203.0.113.5 nft list table inet hostnet"]
    assert '"10.0.0.2" => "10.0.0.2:8443"' in said["pulumi preview --diff"]
    assert sorted(world.server.namespace.kernel.links()) == ["eth0", "lo", "vm-web"]


def test_the_programs_are_those_of_the_templates() -> None:
    """Word by word; only the repository's address differs, and YAML's begins with its resources."""
    blocks = dict(re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
    files = {"python": "__main__.py", "typescript": "index.ts", "go": "main.go", "yaml": "Pulumi.yaml"}
    assert set(blocks) == set(files)
    for language, name in files.items():
        text = (CHECKOUT / "templates" / f"hostnet-{language}" / name).read_text()
        text = re.sub(r'"github\.com/[^"]*(/sdk/go/hostnet)"', r'"REPOSITORY\1"', text)
        assert blocks[language] == (text if language != "yaml" else text[text.index("resources:") :])
    assert f"hostnet v{__version__} --server" in PAGE
    assert [shlex.split(command)[0] for command in COMMANDS if shlex.split(command)[0] not in {"ssh", "pulumi"}] == [
        "mkdir",
        "cd",
    ]
