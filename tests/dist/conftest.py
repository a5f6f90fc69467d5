"""What `make dist` builds, once; and folders with nothing of the checkout that use it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from hostnet import __version__

from tests.lab.namespaces import Namespace
from tools.dist.npm import node_folder
from tools.dist.plugin import archive_name
from tools.paths import CHECKOUT, tool_env

PATIENCE = 600.0  # s after which a hanging program is killed: only a failure costs this


def run(*argv: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """Run a program to its end; what it printed.

    Raises:
        AssertionError: It failed; with its output.
    """
    ended = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert ended.returncode == 0, f"{argv}\n{ended.stdout}{ended.stderr}"
    return ended.stdout


def build(folder: Path, **env: str) -> Path:
    """Build everything that is published into a folder."""
    run(sys.executable, "-m", "tools.dist", folder, cwd=CHECKOUT, env={**os.environ, **env})
    return folder


@dataclass(frozen=True)
class User:
    """Somebody who has a folder, an empty home of Pulumi with the plugin, and a host.

    Attributes:
        folder: Theirs.
        env: The environment of their programs.
        host: The host's namespace.
    """

    folder: Path
    env: Mapping[str, str]
    host: Namespace

    def run(self, *argv: str | Path) -> str:
        """Run a program in the folder."""
        return run(*argv, cwd=self.folder, env=self.env)


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make dist` built."""
    return build(tmp_path_factory.mktemp("dist") / "one")


@pytest.fixture(scope="session")
def pulumi_home(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PULUMI_HOME in which nothing is installed but the plugin, from its archive."""
    home = tmp_path_factory.mktemp("home")
    command = ("pulumi", "plugin", "install", "resource", "hostnet", f"v{__version__}")
    run(*command, "--file", dist / archive_name("linux-amd64"), cwd=home, env={**_plain(), "PULUMI_HOME": str(home)})
    return home


@pytest.fixture
def user(pulumi_home: Path, tmp_path: Path) -> Iterator[User]:
    """A user with a host that nothing has touched."""
    if os.geteuid() != 0:
        pytest.skip("these tests need root: they make a network namespace")
    folder, backend = tmp_path / "project", tmp_path / "backend"
    folder.mkdir()
    backend.mkdir()
    host = Namespace("d0")
    try:
        host.ip(
            "link add eth0 type veth peer name wire",
            "link set eth0 up",
            "link set wire up",
            "address add 192.0.2.2/24 dev eth0",
            "route add default via 192.0.2.1",
        )
        env = {
            **_plain(),
            "PULUMI_HOME": str(pulumi_home),
            "PULUMI_BACKEND_URL": f"file://{backend}",
            "PULUMI_CONFIG_PASSPHRASE": "dist",
            "HOSTNET_PREVIEW_SECONDS": os.environ["HOSTNET_PREVIEW_SECONDS"],
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "HOST": host.name,
            "STATE_DIR": str(tmp_path / "state"),
        }
        yield User(folder, env, host)
    finally:
        host.delete()


def _plain() -> dict[str, str]:
    """This process's environment, with nothing that leads to the checkout but the `pulumi` that set-up built."""
    drop = ("PULUMI_", "HOSTNET_", "PYTHON", "VIRTUAL_ENV")
    kept = {name: value for name, value in tool_env().items() if not name.startswith(drop)}
    node = node_folder()
    path = f"{kept['PATH']}{os.pathsep}{node}" if node else kept["PATH"]
    return {**kept, "PATH": path, "PULUMI_SKIP_UPDATE_CHECK": "true", "NO_COLOR": "1"}
