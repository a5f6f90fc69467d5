"""Another machine over SSH: the agent's file goes there once, and the agent runs at the end of one SSH channel.

Where the host has the agent already, starting it is one command (`bootstrap`), which answers with the agent's
greeting. Where it has not, the command asks for the file and gets it through the same channel: one more round trip.
Nothing here ever falls back to this machine.
"""

from __future__ import annotations

import asyncio
import re
import signal
from dataclasses import dataclass
from typing import cast

import asyncssh

from hostnet.agent.bundle import bundle, command
from hostnet.agent.linux.install_hints import advice
from hostnet.hosts.connection import Connection, Settings
from hostnet.hosts.local import LAST_OUTPUT_BYTES, SUDO_REFUSES, agent_arguments, with_last_output
from hostnet.hosts.login import BACKOFF, Backoff, Jumps, LoginAttempts, SshLogin, attempt, times
from hostnet.hosts.reader import CHUNK_BYTES, malformed
from hostnet.hosts.session import Status
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.protocol import FILE_IS_GONE, BootstrapReport, is_greeting, is_report
from hostnet.wire.shapes import ShapeError

_KILLED = 128  # a shell's exit status for a command that a signal ended, less the signal's number
_NOT_FOUND = 127  # a shell's exit status for a command that it does not find
_BOOT_SECONDS = 60  # from the command to its first line, on a host that is busy
_OS_RELEASE_SECONDS = 15
_OS_RELEASE_BYTES = 64 << 10
# Of all that a host prints before its agent greets: login scripts print pages, and the bootstrap a line each 5 s.
_EARLY_BYTES = 1 << 20
_NO_SUDO = re.compile(r"sudo: (?:command )?not found|(?:command not found|Unknown command):? '?sudo")
_NO_PYTHON = re.compile(r"python3'?: (?:command )?not found|(?:command not found|Unknown command):? '?python3")


class SSHTransport:
    """Starts agents on another machine. The login is kept: after an agent died, the next one starts in the same login.

    Args:
        connection: With a `host`.
        settings: The provider's configuration.
        status: Gets a line while a host is waited for.
        backoff: The pauses between attempts to reach it.
        jumps: The logins on jump hosts, which other hosts share.
    """

    def __init__(
        self,
        connection: Connection,
        settings: Settings,
        status: Status = lambda _: None,
        backoff: Backoff = BACKOFF,
        jumps: Jumps | None = None,
    ) -> None:
        self._connection, self._settings, self._status = connection, settings, status
        self._attempts = LoginAttempts(connection, status, backoff, jumps)
        self._login: SshLogin | None = None
        self._failed = 0  # attempts without success

    async def start(self, *, attempts: int | None = None) -> SSHChannel:
        """Start an agent.

        Args:
            attempts: To reach the host, at most; None: as many as the connection allows. After as many without success
                there is one more, and a brief one: the other resources of a host that is gone must not wait for it
                as long again.

        Raises:
            HostnetError: UNREACHABLE where the host is not reached, and others.
        """
        limit = self._connection.dial_error_limit
        if attempts is not None:
            limit = attempts if limit < 0 else min(attempts, limit)
        brief = 0 <= limit <= self._failed != 0
        try:
            if self._login is None or not self._login.open:
                await self.close()
                self._login = await self._attempts.log_in(limit=1 if brief else limit, brief=brief)
            channel = await self._boot(self._login, 1 if brief else limit)
        except BaseException as error:
            if isinstance(error, HostnetError) and error.code is Code.UNREACHABLE:
                self._failed = max(self._failed, limit, 1)
            await self.close()
            raise
        self._failed = 0
        return channel

    @property
    def last_activity(self) -> float:
        """When the host last showed that it is there while it is being connected with (`Activity.last`)."""
        return self._attempts.activity.last

    async def verify_login(self) -> None:
        """Log in once more beside the connection in progress, which is kept.

        Raises:
            HostnetError: That fails.
        """
        patience = self._settings.confirm_timeout / 2  # the host must still wait for the answer when there is one
        try:
            async with asyncio.timeout(patience):
                (await self._attempts.log_in(limit=1)).close()
        except TimeoutError:
            why = f"no login within {patience:g} s"
            raise HostnetError(Code.UNREACHABLE, "cannot reach the host", why, "", self._connection.label) from None

    async def close(self) -> None:
        """Hang up."""
        login, self._login = self._login, None
        if login is not None:
            login.close()

    async def _boot(self, login: SshLogin, limit: int) -> SSHChannel:
        """Start the agent; twice where its file was deleted meanwhile, by the last agent of another provider."""
        for _ in range(2):
            stream = _Stream()
            start = command(self._prefix(), self._settings.state_dir, self._arguments())
            try:
                channel, _ = await login.connection.create_session(lambda: stream, start, encoding=None)  # noqa: B023
            except (asyncssh.Error, OSError) as error:
                raise self._not_started(getattr(error, "reason", "") or str(error)) from None
            event = await self._ready(stream, limit)
            self._attempts.activity.note()
            if isinstance(event, BootstrapReport) and event.need:
                channel.write(bundle().data)
                event = await self._event(stream)
                self._attempts.activity.note()
            if isinstance(event, _Greeted):
                return SSHChannel(self, channel, stream)
            if isinstance(event, BootstrapReport) or FILE_IS_GONE not in stream.output:
                raise await self._explain(login, stream, event)
        raise self._not_started("its file was deleted twice before it could start")

    def _arguments(self) -> list[str]:
        return [*agent_arguments(self._connection, self._settings), "--confirm", f"{self._settings.confirm_timeout:g}"]

    def _prefix(self) -> list[str]:
        """How to become root on the host."""
        sudo = self._connection.sudo
        if sudo is None:
            sudo = self._connection.user != "root"
        return ["sudo", "-n", "--"] if sudo else []

    async def _ready(self, stream: _Stream, limit: int) -> _Event:
        """The first event of a host whose cloud-init has ended: each message about it counts as an attempt."""
        number = 0
        while isinstance(event := await self._event(stream), BootstrapReport) and event.wait:
            number += 1
            if 0 <= limit <= number:
                raise HostnetError(
                    Code.UNREACHABLE,
                    "the host is not ready",
                    f"{event.wait} is still running" + times(number),
                    "Check `cloud-init status --long` on the host, or raise connection.dialErrorLimit",
                    self._connection.label,
                )
            self._status(attempt(self._connection, number, limit, f"{event.wait} is still running"))
        return event

    async def _event(self, stream: _Stream) -> _Event:
        try:
            async with asyncio.timeout(_BOOT_SECONDS):
                event = await stream.events.get()
        except TimeoutError:
            raise HostnetError(
                Code.UNREACHABLE,
                "cannot start the agent",
                f"the login succeeded, but nothing was printed for {_BOOT_SECONDS} s",
                "Check the load of the host, and the login scripts of its users",
                self._connection.label,
            ) from None
        if isinstance(event, ShapeError):
            raise malformed(event, "starting the agent", self._connection.label)
        return event

    async def _explain(self, login: SshLogin, stream: _Stream, event: _Event) -> HostnetError:
        """Why there is no greeting."""
        label = self._connection.label
        if isinstance(event, BootstrapReport):
            if event.fail == "python":
                fix = advice("python3", await self._os_release(login))
                why = f"its python3 is {event.version}, and hostnet needs 3.9 or later"
                return HostnetError(Code.UNSUPPORTED, "cannot run the agent", why, fix, label)
            if event.fail == "user":
                return self._not_root(f"the agent runs as user {event.uid}, not as root")
            if event.fail == "place":
                fix = "Provide a directory that only root can write to: the provider's stateDir, or /run"
                return HostnetError(Code.PERMISSION, "cannot store the agent's file", event.why, fix, label)
            return self._not_started("what the host received is not what was sent")
        if stream.lost is not None:
            what = "lost the connection while starting the agent"
            return HostnetError(Code.UNREACHABLE, what, stream.lost, "Try again", label)
        return await self._unstarted(login, stream)

    async def _unstarted(self, login: SshLogin, stream: _Stream) -> HostnetError:
        """What the user's shell, or sudo, printed instead of starting Python."""
        output, status = stream.output, stream.status
        need = ""
        if _NO_PYTHON.search(output):
            need = "python3"
        elif _NO_SUDO.search(output):
            need = "sudo"
        elif status == _NOT_FOUND:
            need = "sudo" if self._prefix() else "python3"
        if need:
            fix = advice(need, await self._os_release(login))
            if need == "sudo":
                fix += ", or connect as root"
            why = f"{need} is not installed"
            return HostnetError(Code.UNSUPPORTED, "cannot run the agent", why, fix, self._connection.label)
        if self._prefix() and any(words in output for words in SUDO_REFUSES):
            return self._not_root(output.splitlines()[-1])
        return self._not_started(stream.how)

    def _not_root(self, why: str) -> HostnetError:
        user = self._connection.user
        return HostnetError(
            Code.PERMISSION,
            "cannot change the host's network",
            why,
            f"Connect as root, or allow {user} to use sudo without a password (`{user} ALL=(root) NOPASSWD: ALL` in "
            "/etc/sudoers.d). hostnet does not support sudo with a password",
            self._connection.label,
        )

    def _not_started(self, why: str) -> HostnetError:
        fix = f"Check the output of `ssh {self._connection.user}@{self._connection.host} python3 --version`"
        return HostnetError(Code.UNSUPPORTED, "cannot start the agent", why, fix, self._connection.label)

    async def _os_release(self, login: SshLogin) -> str:
        """The text of os-release; "" where it can't be read."""
        try:
            async with asyncio.timeout(_OS_RELEASE_SECONDS):
                process = await login.connection.create_process("cat /etc/os-release", encoding=None)
                data = await process.stdout.read(_OS_RELEASE_BYTES)
        except (asyncssh.Error, OSError):
            return ""
        process.close()
        return str(data, errors="replace")


class SSHChannel:
    """The byte stream to an agent on another machine."""

    def __init__(self, transport: SSHTransport, channel: asyncssh.SSHClientChannel[bytes], stream: _Stream) -> None:
        self._transport, self._channel, self._stream = transport, channel, stream
        self.reader = stream.reader

    @property
    def lost(self) -> bool:
        """Whether the connection broke: then it is not known what became of the agent."""
        return self._stream.lost is not None

    def write(self, data: bytes) -> None:
        """Send.

        Raises:
            OSError: The channel is closed.
        """
        self._channel.write(data)

    async def ended(self) -> str:
        """How it ended, once it has."""
        await self._stream.closed.wait()
        return self._stream.how

    async def close(self) -> None:
        """End its input, and with it the agent, and hang up."""
        if not self._channel.is_closing():
            self._channel.write_eof()
        await self._transport.close()


class _Greeted:
    """The agent's greeting has begun."""


class _Ended:
    """The command ended without a greeting."""


# What happens until the agent greets. A ShapeError: the host printed what is no report, or too much.
_Event = BootstrapReport | _Greeted | _Ended


@dataclass
class _Exit:
    """How a command on a host ended, as far as the host reports it."""

    status: int | None = None
    signal: str = ""


class _Stream(asyncssh.SSHClientSession[bytes]):
    """What comes out of the channel: lines of the bootstrap, then from the greeting on those of the agent."""

    def __init__(self) -> None:
        self.reader = asyncio.StreamReader(limit=CHUNK_BYTES)
        self.events: asyncio.Queue[_Event | ShapeError] = asyncio.Queue()
        self.closed = asyncio.Event()
        self.lost: str | None = None
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._exit = _Exit()
        self._greeted = False
        self._early, self._early_bytes = b"", 0
        self._output = b""

    @property
    def status(self) -> int | None:
        """The exit status, where there is one."""
        return self._exit.status

    @property
    def output(self) -> str:
        """The end of what it printed besides messages."""
        return self._output.decode(errors="replace").strip()

    @property
    def how(self) -> str:
        """How it ended."""
        if self.lost is not None:
            return self.lost
        name = f"SIG{self._exit.signal}" if self._exit.signal else _signal_of(self._exit.status)
        how = f"killed by {name}" if name else f"exit code {self._exit.status}"
        return with_last_output(how, self._output)

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        """The channel is open. Its window is kept shut while the reader has enough."""
        self._channel = chan
        self.reader.set_transport(cast("asyncio.BaseTransport", chan))  # it has all that a StreamReader asks of one

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """More output."""
        if datatype is not None:
            self._output = (self._output + data)[-LAST_OUTPUT_BYTES:]
        elif self._greeted:
            self.reader.feed_data(data)
        else:
            self._early_data(data)

    def _early_data(self, data: bytes) -> None:
        """What comes up to the greeting: reports of the bootstrap, and what a login script prints (skipped)."""
        self._early_bytes += len(data)
        if self._early_bytes > _EARLY_BYTES:
            self.events.put_nowait(
                ShapeError(f"it printed more than {_EARLY_BYTES >> 10:,} KiB before the agent started")
            )
            if self._channel is not None:
                self._channel.pause_reading()
            return
        *lines, self._early = (self._early + data).split(b"\n")
        for number, line in enumerate(lines):
            if is_greeting(line):
                self._greeted = True
                self.reader.feed_data(b"\n".join([*lines[number:], self._early]))
                self.events.put_nowait(_Greeted())
                return
            if is_report(line):
                self.events.put_nowait(_report(line))
            else:
                self._output = (self._output + line + b"\n")[-LAST_OUTPUT_BYTES:]

    def exit_status_received(self, status: int) -> None:
        """The command ended."""
        self._exit.status = status

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:  # noqa: FBT001
        """The command was killed."""
        del core_dumped, msg, lang
        self._exit.signal = signal

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel is closed, or the connection under it."""
        # sshd sends one of the two when a command ends (RFC 4254, 6.10).
        if exc is not None or (self._exit.status is None and not self._exit.signal):
            reason = getattr(exc, "reason", "") or (str(exc) if exc else "")
            self.lost = f"the connection was lost ({reason})" if reason else "the connection was lost"
        self.events.put_nowait(_Ended())
        self.reader.feed_eof()
        self.closed.set()


def _report(line: bytes) -> BootstrapReport | ShapeError:
    try:
        return BootstrapReport.parse(line)
    except ShapeError as error:
        return error


def _signal_of(status: int | None) -> str:
    """The signal that a shell, or sudo, reports by an exit status above 128; "" for another status."""
    try:
        return signal.Signals((status or 0) - _KILLED).name
    except ValueError:
        return ""
