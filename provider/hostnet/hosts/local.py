"""This machine: the agent as a child process that runs as root, through sudo where the provider does not."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import sys
from pathlib import Path

from hostnet.agent.linux.process import environment
from hostnet.hosts.connection import Connection, Settings
from hostnet.hosts.reader import CHUNK_BYTES
from hostnet.wire.errors import Code, HostnetError

# sudo's messages in English: the agent's environment has LANG=C.UTF-8.
SUDO_REFUSES = ("is required", "must have a tty", "not in the sudoers", "not allowed to")
LAST_OUTPUT_BYTES = 2000  # of an agent's standard error, for the message about its end


def agent_arguments(connection: Connection, settings: Settings) -> list[str]:
    """The agent's command line arguments. No secret is among them: other users see command lines."""
    arguments = ["--state-dir", settings.state_dir, "--persist", settings.persist]
    arguments += ["--via", " ".join(filter(None, (connection.host, settings.provider)))]
    arguments += ["--lock-timeout", f"{settings.lock_timeout:g}"]
    arguments += ["--self-check"] if os.environ.get("HOSTNET_SELF_CHECK") else []
    return arguments + (["--netns", connection.netns] if connection.netns else [])


def with_last_output(how: str, output: bytes) -> str:
    """How a process ended, with the last line that it printed."""
    lines = output.decode(errors="replace").strip().splitlines()
    return f"{how}; last output: {lines[-1]}" if lines else how


class LocalTransport:
    """Starts agents on this machine."""

    last_activity = 0.0  # there is no connection to wait for

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection, self._settings = connection, settings

    async def start(self, *, attempts: int | None = None) -> LocalChannel:
        """Start an agent.

        Raises:
            HostnetError: This machine has no Linux; or it needs root, and there is no sudo.
        """
        del attempts
        if sys.platform != "linux":
            raise _no_linux(self._connection.label)
        prefix = self._prefix()
        code = f"import sys; sys.path.insert(0, {_package_root()!r}); "
        code += "from hostnet.agent.main import main; sys.exit(main())"
        # -I -S: nothing of the user's environment or site-packages gets into a process that runs as root.
        argv = [*prefix, sys.executable, "-I", "-S", "-c", code]
        argv += agent_arguments(self._connection, self._settings)
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=CHUNK_BYTES,
            env=environment(os.environ.get("PATH", "")),
            start_new_session=True,  # Ctrl-C goes to the whole process group, and is the provider's to handle
        )
        return LocalChannel(process, self._connection.label, sudo=bool(prefix))

    async def verify_login(self) -> None:
        """A change can't make this machine unreachable from itself."""

    async def close(self) -> None:
        """There is no connection besides the channel."""

    def _prefix(self) -> list[str]:
        if os.geteuid() == 0 and not self._connection.sudo:
            return []
        if os.geteuid() != 0 and self._connection.sudo is False:
            return []
        sudo = shutil.which("sudo")
        if sudo is None:
            raise _not_root("sudo is not installed", self._connection.label)
        return [sudo, "-n", "--"]


class LocalChannel:
    """The byte stream to an agent on this machine."""

    lost = False  # how a child process ended is always known

    def __init__(self, process: asyncio.subprocess.Process, label: str, *, sudo: bool) -> None:
        if process.stdin is None or process.stdout is None or process.stderr is None:
            msg = "the agent's streams are pipes"
            raise AssertionError(msg)
        self._process, self._label, self._sudo = process, label, sudo
        self._input = process.stdin
        self.reader = process.stdout
        self._output = b""
        self._listening = asyncio.ensure_future(self._listen(process.stderr))

    async def _listen(self, errors: asyncio.StreamReader) -> None:
        while data := await errors.read(4096):
            self._output = (self._output + data)[-LAST_OUTPUT_BYTES:]
            sys.stderr.buffer.write(data)
            sys.stderr.flush()

    def write(self, data: bytes) -> None:
        """Send."""
        self._input.write(data)

    async def ended(self) -> str:
        """How it ended, once it has.

        Raises:
            HostnetError: sudo refused to start it.
        """
        code = await self._process.wait()
        await self._listening
        last = self._output.decode(errors="replace").strip().rpartition("\n")[2]
        if self._sudo and code == 1 and any(words in last for words in SUDO_REFUSES):
            raise _not_root(last, self._label)
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return with_last_output(how, self._output)

    async def close(self) -> None:
        """End its input, and with it the agent."""
        self._input.close()
        try:
            await asyncio.wait_for(self._process.wait(), 5)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._listening


def _no_linux(label: str) -> HostnetError:
    return HostnetError(
        Code.UNSUPPORTED,
        "cannot change the host's network",
        f"hostnet needs Linux, and this machine has {'macOS' if sys.platform == 'darwin' else sys.platform}",
        "Name a Linux host that you reach over SSH: `pulumi config set --path hostnet:connection.host ADDRESS`, or "
        "`--host` for the command line",
        label,
    )


def _not_root(why: str, label: str) -> HostnetError:
    """This process is not root, and cannot become root either."""
    user = os.geteuid()
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:
        name = f"#{user}"  # as sudoers(5) writes a user without a name
    return HostnetError(
        Code.PERMISSION,
        "cannot change the host's network",
        f"that needs root, hostnet runs as user {user}, and it cannot become root ({why})",
        f"Run the same command as root; or allow {name} to use sudo without a password (`{name} ALL=(root) NOPASSWD: "
        "ALL` in a file of /etc/sudoers.d)",
        label,
    )


def _package_root() -> str:
    return str(Path(__file__).resolve().parent.parent.parent)
