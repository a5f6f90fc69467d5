"""The real `pulumi` for the demonstration, with a copy of the project and a home and a backend of its own."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tools.paths import CHECKOUT, tool_env

PROGRAM = ("Pulumi.yaml", "__main__.py", "program.py")
PARTS = (".venv", "provider", "tools")  # what the project refers to; linked, not copied
WITH_PROGRESS = ("preview", "up", "refresh", "destroy")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
CANCEL_PATIENCE = 60.0  # s that `pulumi` gets after Ctrl-C; providers have 30 s of it


class PulumiError(Exception):
    """A command failed. Its output was shown."""


class Pulumi:
    """Runs `pulumi` commands, and deletes the stack's files at the end."""

    def __init__(self, show: Callable[[str], None], *, colour: bool) -> None:
        """Create the folders.

        Args:
            show: Called with each line that a command prints.
            colour: Whether `pulumi` uses colours.
        """
        self._show = show
        self._colour = "always" if colour else "never"
        self._folder = Path(tempfile.mkdtemp(prefix="hostnet-demo-"))
        self._project = self._folder / "project"
        self.record = self._folder / "record"
        for folder in ("project", "home", "backend"):
            (self._folder / folder).mkdir()
        for name in PROGRAM:
            shutil.copy(CHECKOUT / name, self._project)
        for name in PARTS:
            (self._project / name).symlink_to(CHECKOUT / name)

    def __enter__(self) -> Self:
        """Return itself: the folders exist."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Delete the folders."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _env(self) -> dict[str, str]:
        """The environment without the person's own Pulumi settings, above all their backend and token."""
        kept = {name: value for name, value in tool_env().items() if not name.startswith(("PULUMI_", "HOSTNET_"))}
        return kept | {
            "PULUMI_HOME": str(self._folder / "home"),
            "PULUMI_BACKEND_URL": (self._folder / "backend").as_uri(),
            "PULUMI_CONFIG_PASSPHRASE": "demo",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
        }

    def run(self, *args: str) -> str:
        """Run a command to its end, and show its output line by line.

        Returns:
            Its output, without colours.

        Raises:
            PulumiError: It failed.
        """
        argv = ["pulumi", *args, "--non-interactive", "--color", self._colour]
        if args[0] in WITH_PROGRESS:
            argv.append("--suppress-progress")
        lines = []
        # In a session of its own, Ctrl-C reaches it once: at a second signal, pulumi stops without finishing its work.
        with subprocess.Popen(
            argv,
            cwd=self._project,
            env=self._env(),
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            assert process.stdout is not None  # noqa: S101 - it was asked for
            try:
                for line in process.stdout:
                    self._show(line.rstrip("\n"))
                    lines.append(COLOUR.sub("", line))
            except BaseException:
                _cancel(process)
                raise
        if process.returncode != 0:
            raise PulumiError(f"`pulumi {' '.join(args)}` failed with exit status {process.returncode}")
        return "".join(lines)

    def outputs(self) -> dict[str, Any]:
        """The stack's outputs."""
        argv = ["pulumi", "stack", "output", "--json"]
        done = subprocess.run(argv, cwd=self._project, env=self._env(), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PulumiError(f"`pulumi stack output` failed: {done.stderr.strip()}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def _cancel(process: "subprocess.Popen[str]") -> None:
    """Ask a command to stop, as Ctrl-C does; kill it with its children if it does not."""
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=CANCEL_PATIENCE)
        return
    os.killpg(process.pid, signal.SIGKILL)
