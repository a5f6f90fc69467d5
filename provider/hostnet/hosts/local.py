"""This machine: the agent as a child process, as root (itself, or through sudo)."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

from hostnet.hosts.connection import Connection, Settings
from hostnet.wire.errors import Code, HostnetError

_LIMIT = 256 << 20
_LAST_WORDS = 2000


def agent_arguments(connection: Connection, settings: Settings) -> list[str]:
    """What the agent is told on its command line (no secret is among it)."""
    arguments = ["--state-dir", settings.state_dir, "--persist", settings.persist, "--via", connection.host or ""]
    return arguments + (["--netns", connection.netns] if connection.netns else [])


class LocalTransport:
    """Starts agents on this machine."""

    heard = 0.0  # nothing is between

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection, self._settings = connection, settings

    async def start(self, *, attempts: int | None = None) -> LocalChannel:
        """Start one; there is nothing to wait for.

        :raises HostnetError: where it takes root and there is no way to it.
        """
        del attempts
        code = f"import sys; sys.path.insert(0, {_package_root()!r}); "
        code += "from hostnet.agent.main import main; sys.exit(main())"
        # -I -S: nothing of the user's environment or site-packages gets into a process that runs as root.
        argv = [*self._prefix(), sys.executable, "-I", "-S", "-c", code]
        argv += agent_arguments(self._connection, self._settings)
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LIMIT,
            start_new_session=True,  # Ctrl-C is the provider's to handle
        )
        return LocalChannel(process)

    async def anew(self) -> None:
        """Nothing can cut the way from here to here."""

    async def close(self) -> None:
        """Nothing leads here but the channel."""

    def _prefix(self) -> list[str]:
        if os.geteuid() == 0 and not self._connection.sudo:
            return []
        if os.geteuid() != 0 and self._connection.sudo is False:
            return []
        if shutil.which("sudo") is None:
            raise HostnetError(
                Code.PERMISSION,
                "the host's network can't be changed",
                f"this runs as user {os.geteuid()} and there is no sudo",
                "Run pulumi as root, or install sudo and allow this user to use it without a password",
                self._connection.label,
            )
        return ["sudo", "-n", "--"]


class LocalChannel:
    """A started agent on this machine."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        if process.stdin is None or process.stdout is None or process.stderr is None:
            msg = "the agent's streams are pipes"
            raise AssertionError(msg)
        self.lost = False  # what a process here came to is always known
        self._process = process
        self._input = process.stdin
        self.reader = process.stdout
        self._words = b""
        self._listening = asyncio.ensure_future(self._listen(process.stderr))

    async def _listen(self, errors: asyncio.StreamReader) -> None:
        while data := await errors.read(4096):
            self._words = (self._words + data)[-_LAST_WORDS:]
            sys.stderr.buffer.write(data)
            sys.stderr.flush()

    def write(self, data: bytes) -> None:
        """Send."""
        self._input.write(data)

    async def ended(self) -> str:
        """How it ended."""
        code = await self._process.wait()
        await self._listening
        last = self._words.decode(errors="replace").strip().splitlines()
        said = f"; it last said: {last[-1]}" if last else ""
        if code < 0:
            return f"signal {-code} ({signal.Signals(-code).name}){said}"
        return f"exit code {code}{said}"

    async def close(self) -> None:
        """End it: its input ends, and with it the agent."""
        self._input.close()
        try:
            await asyncio.wait_for(self._process.wait(), 5)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._listening


def _package_root() -> str:
    return str(Path(__file__).resolve().parent.parent.parent)
