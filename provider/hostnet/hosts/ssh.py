"""Another machine over SSH: the agent's file goes there once, and the agent runs at the end of one SSH channel.

Where the host has the agent already, starting it is one command (`bootstrap`), which answers with the agent's
greeting. Where it has not, the command asks for the file and gets it through the same channel: one more round trip.
Nothing here ever falls back to this machine.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
from dataclasses import dataclass
from typing import Any

import asyncssh

from hostnet.agent.bundle import bundle, command
from hostnet.agent.linux.install_hints import advice
from hostnet.hosts.connection import Connection, Settings
from hostnet.hosts.local import agent_arguments
from hostnet.hosts.login import BACKOFF, Backoff, Dialler, Jumps, SshLogin, Status, attempt, times
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.protocol import is_greeting

_LIMIT = 256 << 20  # bytes a line, as in `session`
_LAST_WORDS = 2000
_KILLED = 128  # a shell's exit status for a command that a signal ended, less the signal's number
_NOT_FOUND = 127  # a shell's exit status for a command that it does not find
_BOOT_SECONDS = 60  # from the command to its first word, on a host with a lot else to do
_LOOK_SECONDS = 15
_NO_SUDO = re.compile(r"sudo: (?:command )?not found|(?:command not found|Unknown command):? '?sudo")
_NO_PYTHON = re.compile(r"python3'?: (?:command )?not found|(?:command not found|Unknown command):? '?python3")
_SUDO_REFUSES = ("is required", "must have a tty", "not in the sudoers", "not allowed to")


class SSHTransport:
    """Starts agents on another machine. The connection is kept: an agent that died is followed on the same one.

    :param connection: with a `host`.
    :param status: told while a host is waited for.
    :param backoff: the pauses between attempts to reach it.
    :param jumps: the log-ins on jump hosts, which other hosts share.
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
        self._dialler = Dialler(connection, status, backoff, jumps)
        self._way: SshLogin | None = None
        self._in_vain = 0  # attempts

    async def start(self, *, attempts: int | None = None) -> SSHChannel:
        """Start one.

        :param attempts: to reach the host, at most; None: as many as the connection allows. After as many in vain
            there is one more, and a brief one: the other resources of a host that is gone need not wait for it as long
            again.
        :raises HostnetError: UNREACHABLE where the host is not reached, and others.
        """
        limit = self._connection.dial_error_limit
        if attempts is not None:
            limit = attempts if limit < 0 else min(attempts, limit)
        brief = 0 <= limit <= self._in_vain != 0
        try:
            if self._way is None or not self._way.open:
                await self.close()
                self._way = await self._dialler.dial(limit=1 if brief else limit, brief=brief)
            channel = await self._boot(self._way, 1 if brief else limit)
        except BaseException as error:
            if isinstance(error, HostnetError) and error.code is Code.UNREACHABLE:
                self._in_vain = max(self._in_vain, limit, 1)
            await self.close()
            raise
        self._in_vain = 0
        return channel

    @property
    def heard(self) -> float:
        """See `Host.heard`."""
        return self._dialler.heard

    async def anew(self) -> None:
        """Log in once more, beside the connection in progress, which is kept.

        :raises HostnetError: where that fails.
        """
        patience = self._settings.confirm_timeout / 2  # the host's is not to end before we tell it
        try:
            async with asyncio.timeout(patience):
                (await self._dialler.dial(limit=1)).close()
        except TimeoutError:
            why = f"no log-in within {patience:g} s"
            raise HostnetError(Code.UNREACHABLE, "the host can't be reached", why, "", self._connection.label) from None

    async def close(self) -> None:
        """Hang up."""
        way, self._way = self._way, None
        if way is not None:
            way.close()

    async def _boot(self, way: SshLogin, limit: int) -> SSHChannel:
        """Start the agent; again where its file was taken away (by another's last word) as it was being started."""
        for _ in range(2):
            stream = _Stream()
            start = command(self._prefix(), self._settings.state_dir, self._arguments())
            try:
                channel, _ = await way.connection.create_session(lambda: stream, start, encoding=None)  # noqa: B023
            except (asyncssh.Error, OSError) as error:
                raise self._not_started(getattr(error, "reason", "") or str(error)) from None
            answer = await self._ready(stream, limit)
            self._dialler.hear()
            if "need" in answer:
                channel.write(bundle().data)
                answer = await self._answer(stream)
                self._dialler.hear()
            if "greeting" in answer:
                return SSHChannel(self, channel, stream)
            if "can't open file" not in stream.said:
                raise await self._explain(way, stream, answer)
        raise self._not_started("its file vanished twice as it was being started")

    def _arguments(self) -> list[str]:
        return [*agent_arguments(self._connection, self._settings), "--confirm", f"{self._settings.confirm_timeout:g}"]

    def _prefix(self) -> list[str]:
        """How to become root on the host."""
        sudo = self._connection.sudo
        if sudo is None:
            sudo = self._connection.user != "root"
        return ["sudo", "-n", "--"] if sudo else []

    async def _ready(self, stream: _Stream, limit: int) -> dict[str, Any]:
        """The first answer of a host that has been set up: to wait for its cloud-init is to try again."""
        number = 0
        while "wait" in (answer := await self._answer(stream)):
            number += 1
            if 0 <= limit <= number:
                raise HostnetError(
                    Code.UNREACHABLE,
                    "the host is not ready",
                    f"its {answer['wait']} is at work still" + times(number),
                    "Look at what `cloud-init status --long` says there, or raise connection.dialErrorLimit",
                    self._connection.label,
                )
            self._status(attempt(self._connection, number, limit, f"its {answer['wait']} is at work still"))
        return answer

    async def _answer(self, stream: _Stream) -> dict[str, Any]:
        try:
            async with asyncio.timeout(_BOOT_SECONDS):
                return await stream.answers.get()
        except TimeoutError:
            raise HostnetError(
                Code.UNREACHABLE,
                "the host does not start the agent",
                f"it let us in, but said nothing for {_BOOT_SECONDS} s",
                "Look at its load, and at what its users' shells do at a log-in",
                self._connection.label,
            ) from None

    async def _explain(self, way: SshLogin, stream: _Stream, answer: dict[str, Any]) -> HostnetError:
        """Why no agent greets us."""
        label = self._connection.label
        fail = answer.get("fail")
        if fail == "python":
            fix = advice("python3", await self._os_release(way))
            return HostnetError(
                Code.UNSUPPORTED,
                "the agent can't run",
                f"python3 there is {answer['version']}, older than 3.9",
                fix,
                label,
            )
        if fail == "user":
            return self._not_root(f"the agent runs as user {answer['uid']} there, not as root")
        if fail == "place":
            where = "Give root a place that it can write to and nobody else: the provider's stateDir, or /run"
            return HostnetError(Code.PERMISSION, "the agent's file can't be put down", answer["why"], where, label)
        if fail is not None:
            return self._not_started("what arrived is not what was sent")
        if stream.lost is not None:
            return HostnetError(
                Code.UNREACHABLE, "the host went away as the agent was being started", stream.lost, "Try again", label
            )
        return await self._unstarted(way, stream)

    async def _unstarted(self, way: SshLogin, stream: _Stream) -> HostnetError:
        """What the user's shell, or sudo, said instead of starting Python."""
        said, status = stream.said, stream.status
        need = ""
        if _NO_PYTHON.search(said):
            need = "python3"
        elif _NO_SUDO.search(said):
            need = "sudo"
        elif status == _NOT_FOUND:
            need = "sudo" if self._prefix() else "python3"
        if need:
            fix = advice(need, await self._os_release(way))
            if need == "sudo":
                fix += ", or connect as root"
            return HostnetError(
                Code.UNSUPPORTED, "the agent can't run", f"there is no {need}", fix, self._connection.label
            )
        if self._prefix() and any(words in said for words in _SUDO_REFUSES):
            return self._not_root(said.splitlines()[-1])
        return self._not_started(stream.how)

    def _not_root(self, why: str) -> HostnetError:
        user = self._connection.user
        return HostnetError(
            Code.PERMISSION,
            "the host's network can't be changed",
            why,
            f"Connect as root, or allow {user} sudo without a password (`{user} ALL=(root) NOPASSWD: ALL` in "
            "/etc/sudoers.d); sudo with a password is not supported",
            self._connection.label,
        )

    def _not_started(self, why: str) -> HostnetError:
        fix = f"Look at what `ssh {self._connection.user}@{self._connection.host} python3 --version` says"
        return HostnetError(Code.UNSUPPORTED, "the agent can't be started", why, fix, self._connection.label)

    async def _os_release(self, way: SshLogin) -> str:
        """What distribution it is; "" where that can't be told."""
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                done = await way.connection.run("cat /etc/os-release", encoding="utf-8", errors="replace")
        except (asyncssh.Error, OSError):
            return ""
        return str(done.stdout or "")


class SSHChannel:
    """A started agent on another machine."""

    def __init__(self, transport: SSHTransport, channel: asyncssh.SSHClientChannel[bytes], stream: _Stream) -> None:
        self._transport, self._channel, self._stream = transport, channel, stream
        self.reader = stream.reader

    @property
    def lost(self) -> bool:
        """Whether the way to the agent broke; what became of the agent is not known then."""
        return self._stream.lost is not None

    def write(self, data: bytes) -> None:
        """Send.

        :raises OSError: where the channel is closed.
        """
        self._channel.write(data)

    async def ended(self) -> str:
        """How it ended."""
        await self._stream.closed.wait()
        return self._stream.how

    async def close(self) -> None:
        """End it: its input ends, and with it the agent. The connection goes as well."""
        if not self._channel.is_closing():
            self._channel.write_eof()
        await self._transport.close()


@dataclass
class _Exit:
    """How a command on a host ended, as far as it was told."""

    status: int | None = None
    signal: str = ""


class _Stream(asyncssh.SSHClientSession[bytes]):
    """What comes out of the channel: first the bootstrap's words, from the greeting on the agent's."""

    def __init__(self) -> None:
        self.reader = asyncio.StreamReader(limit=_LIMIT)
        self.answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.closed = asyncio.Event()
        self.lost: str | None = None
        self._exit = _Exit()
        self._greeted = False
        self._early = b""
        self._words = b""

    @property
    def status(self) -> int | None:
        """The exit status, where there is one."""
        return self._exit.status

    @property
    def said(self) -> str:
        """The last that it said, beside answers."""
        return self._words.decode(errors="replace").strip()

    @property
    def how(self) -> str:
        """How it ended."""
        if self.lost is not None:
            return self.lost
        last = f"; it last said: {self.said.splitlines()[-1]}" if self.said else ""
        name = f"SIG{self._exit.signal}" if self._exit.signal else _signal_of(self._exit.status)
        if name:
            return f"killed by {name}{last}"
        return f"exit code {self._exit.status}{last}"

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """Some more of it."""
        if datatype is not None:
            self._words = (self._words + data)[-_LAST_WORDS:]
        elif self._greeted:
            self.reader.feed_data(data)
        else:
            self._early += data
            while not self._greeted and b"\n" in self._early:
                line, _, self._early = self._early.partition(b"\n")
                self._early_line(line + b"\n")

    def _early_line(self, line: bytes) -> None:
        """A line before the greeting: the bootstrap's, the greeting, or what a log-in script prints (skipped)."""
        if is_greeting(line):
            self._greeted = True
            self.reader.feed_data(line + self._early)
            self.answers.put_nowait({"greeting": True})
        elif line.startswith(b'{"hostnet"'):
            self.answers.put_nowait(json.loads(line)["hostnet"])
        else:
            self._words = (self._words + line)[-_LAST_WORDS:]

    def exit_status_received(self, status: int) -> None:
        """The command ended."""
        self._exit.status = status

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:  # noqa: FBT001
        """The command was killed."""
        del core_dumped, msg, lang
        self._exit.signal = signal

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel is closed, or the connection under it."""
        if exc is not None or (self._exit.status is None and not self._exit.signal):
            reason = getattr(exc, "reason", "") or (str(exc) if exc else "")
            self.lost = f"the connection was lost ({reason})" if reason else "the connection was lost"
        self.answers.put_nowait({"ended": True})
        self.reader.feed_eof()
        self.closed.set()


def _signal_of(status: int | None) -> str:
    """The signal that a shell, or sudo, tells of by an exit status above 128; "" where it is none."""
    try:
        return signal.Signals((status or 0) - _KILLED).name
    except ValueError:
        return ""
