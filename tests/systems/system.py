"""A minimal system (tools/systems.py) with a copy of the checkout, and how to run something in it.

A command runs in a chroot with mounts and processes of its own. Set-up fetches packages, so it runs in this machine's
network namespace, but can't change it: without CAP_NET_ADMIN, and with read-only sysctls. Tests run in a network
namespace of their own, from which no registry is reached.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.lab.namespaces import sweep_directories, temporary_directory
from tools import systems
from tools.paths import CHECKOUT, cached_bin

ENTER = Path(__file__).with_name("enter")
HOME = "/root"
COPY = f"{HOME}/hostnet"
CACHE = f"{HOME}/.cache/hostnet"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PATIENCE = 3600  # seconds for what must end
SHOWN = 8000  # characters of a failed command's output
# How this machine reaches package registries, which holds in a system too: files, and variables.
SETTINGS = (
    *("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/usr/local/share/ca-certificates"),
    "~/.config/pip/pip.conf",
)
VARIABLES = re.compile(r"PIP_.*|(HTTPS?|FTP|ALL|NO)_PROXY|(SSL|CURL|REQUESTS)_(CERT|CA).*|GO\w*PROXY", re.IGNORECASE)


class System:
    """One system, unpacked for as long as it is needed."""

    def __init__(self, name: str) -> None:
        """Unpack it, and put a copy of the checkout into it.

        Args:
            name: A key of `systems.RELEASES`.
        """
        sweep_directories(systems.folder())
        self.name = name
        self._root = temporary_directory(name, systems.folder())
        self._root.chmod(0o755)
        subprocess.run(["tar", "-C", self._root, "-xf", systems.archive(name)], check=True)
        _copy_checkout(self._inside(COPY))
        self._copy_settings()

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self._root)

    def _inside(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def _copy_settings(self) -> None:
        for name in SETTINGS:
            source, target = Path(name).expanduser(), self._inside(name.replace("~", HOME))
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            elif source.exists():
                shutil.copy(source, target)
        acquire = subprocess.run(["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=True).stdout
        self._inside("/etc/apt/apt.conf.d/99machine").write_text(acquire)

    # --- commands --------------------------------------------------------------------------------------------------

    def online(self, *command: str) -> str:
        """Run a command in the copy of the checkout that may fetch packages.

        Returns:
            What it printed.

        Raises:
            AssertionError: It failed; with the end of what it printed.
        """
        return self._run(["--bounding-set=-net_admin"], [], "online", command)

    def offline(self, *command: str) -> str:
        """Run a command in the copy of the checkout, in a network namespace of its own.

        Returns:
            What it printed.

        Raises:
            AssertionError: It failed; with the end of what it printed.
        """
        return self._run([], ["--net"], "offline", command)

    def pytest(self, *arguments: str, **variables: str) -> str:
        """Run tests in it.

        Args:
            arguments: pytest's.
            variables: Of the environment, besides.

        Returns:
            pytest's last line.

        Raises:
            AssertionError: A test failed, or none ran.
        """
        path = self.online("python3", "-m", "tools.setup", "env").strip()
        environment = [f"{name}={value}" for name, value in {"PATH": path, **variables}.items()]
        said = self.offline("env", *environment, ".venv/bin/python", "-m", "pytest", "-q", *arguments)
        last = said.strip().splitlines()[-1]
        assert re.search(r"\b\d+ passed\b", last), said[-SHOWN:]
        return last

    def _run(self, privileges: Sequence[str], namespaces: Sequence[str], network: str, command: Sequence[str]) -> str:
        argv: list[str | Path] = ["setpriv", "--pdeathsig", "KILL", *privileges]
        argv += ["unshare", "--mount", "--pid", "--fork", "--kill-child", *namespaces]
        argv += [ENTER, network, self._root, *_shared(), "--"]
        argv += ["sh", "-c", f'cd {COPY} && exec "$@"', "sh", *command]
        variables = {name: text for name, text in os.environ.items() if VARIABLES.fullmatch(name)}
        done = subprocess.run(
            argv,
            env={**variables, "PATH": PATH, "HOME": HOME, "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, f"{self.name}: {' '.join(command)}: {done.returncode}\n{done.stdout[-SHOWN:]}"
        return done.stdout


def _shared() -> Iterator[str]:
    """Folders of this machine that save a system downloads and builds, each with its place there."""
    cached_bin().mkdir(parents=True, exist_ok=True)
    yield from (str(cached_bin()), f"{CACHE}/bin")
    pip = subprocess.run([sys.executable, "-m", "pip", "cache", "dir"], capture_output=True, text=True, check=False)
    if pip.returncode == 0 and Path(pip.stdout.strip()).is_dir():
        yield from (pip.stdout.strip(), f"{HOME}/.cache/pip")


def _copy_checkout(target: Path) -> None:
    """What git has, or would take, of the checkout as it is now."""
    argv = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (CHECKOUT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, target / name, follow_symlinks=False)
