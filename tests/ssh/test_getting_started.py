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
from tools.paths import CHECKOUT, VENV_PYTHON, tool_env

PAGE = (CHECKOUT / "docs" / "getting-started.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^ {4}(\S.*)$", re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
# What the page shows of a mistake.
(MISTAKE,) = re.findall(r"^```\n(error: .*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
# What the workstation has, apart from `pulumi` and what comes with it.
PROGRAMS = ("cat", "dirname", "env", "mkdir", "readlink", "sh")
WITHOUT_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
NO_LINUX = CHECKOUT / "tests" / "lab" / "no_linux.py"
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

    def hide_linux(self) -> None:
        """Run the plugin and `hostnet` as on a Mac: without what only Linux has (tests/lab/no_linux.py)."""
        for name, module in (("pulumi-resource-hostnet", "hostnet.rpc"), ("hostnet", "hostnet.cli")):
            program = self._bin / name
            program.write_text(f'#!/bin/sh\nexec {VENV_PYTHON} -I {NO_LINUX} {module} "$@"\n')
            program.chmod(0o755)
        ours = str(CHECKOUT / "provider" / "bin")
        self._env["PATH"] = os.pathsep.join(part for part in self._env["PATH"].split(os.pathsep) if part != ours)

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


def edit(program: Path, destination: str, before: str = "10.0.0.2") -> None:
    """Write another destination of `web-443`, the last resource."""
    text = program.read_text()
    first, found, last = text.rpartition(f"destination: {before}\n")
    assert found
    program.write_text(f"{first}destination: {destination}\n{last}")


def test_every_command(world: World, workstation: Workstation, tmp_path: Path) -> None:
    """Each succeeds, and does what the page says; at the end the server is as before."""
    said: dict[str, str] = {}
    bridge = ""
    for command in COMMANDS:
        typed = command.replace("203.0.113.5", SERVER).replace("REPOSITORY", str(CHECKOUT))
        # `pulumi`, too, finds a home by the user's id.
        typed = typed.replace("login --local", f"login file://{workstation.home}")
        if command == "pulumi preview --diff":
            edit(workstation.folder / "Pulumi.yaml", "10.0.0.2:84430")
            shown = " ".join(workstation.run("pulumi preview --non-interactive 2>&1 | cat").split())
            assert " ".join(MISTAKE.split()) in shown
            edit(workstation.folder / "Pulumi.yaml", "10.0.0.2", "10.0.0.2:84430")
            assert "write `10.0.0.2:8443` as the destination of `web-443`" in PAGE
            edit(workstation.folder / "Pulumi.yaml", "10.0.0.2:8443")
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


def test_a_workstation_without_linux(world: World, workstation: Workstation, tmp_path: Path) -> None:
    """As on a Mac: a server's network is made, compared and removed, and the command line reads it."""
    workstation.hide_linux()
    run = workstation.run
    run(f"pulumi login file://{workstation.home}")
    run("mkdir my-host")
    run("cd my-host")
    run(f"pulumi new {CHECKOUT}/templates/hostnet-yaml --generate-only --yes --name my-host")
    run("pulumi stack init dev")
    run(f"pulumi config set hostnet:stateDir {tmp_path / 'state'}")
    refused = run("pulumi up --yes --skip-preview 2>&1 | cat")
    assert "hostnet needs Linux, and this machine has macOS. Name a Linux host that you reach over SSH" in refused
    assert "Traceback" not in refused
    run(f"ssh root@{SERVER} true")  # its key is known from now on
    run(f"pulumi config set --path hostnet:connection.host {SERVER}")
    run("pulumi up --yes --skip-preview")
    run("pulumi preview --expect-no-changes")
    where = f"--host root@{SERVER} --state-dir {tmp_path / 'state'}"
    assert "5 resources, all as declared" in run(f"hostnet status {where}")
    assert "MainThread" not in run(f"hostnet top --count 1 --interval 0.1 {where}")
    run(f"hostnet graph --format html --output graph.html {where}")
    run("pulumi destroy --yes")
    assert sorted(world.server.namespace.kernel.links()) == ["eth0", "lo"]


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
