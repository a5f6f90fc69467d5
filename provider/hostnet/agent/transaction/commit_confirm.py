"""A change counts once its provider confirms it; else a process beside the agent rolls it back.

That process (`hostnet-confirm` in ps) outlives the agent, the connection and the provider. The agent writes to
a pipe how far a transaction is; the end of the pipe means that the agent died. Then

- before a transaction, and after one: it ends;
- of one that has begun: it rolls it back at once, since no provider has heard of it;
- of one that is applied: it rolls it back when the time is up. Until then another agent may have it confirmed.

Where the time is up and the agent lives, it kills the agent before it rolls back: the agent can't be heard, its
provider has hung up, or it hangs in the middle of a change.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from typing import Protocol

from hostnet.agent.linux.process import let_go, set_name
from hostnet.wire.protocol import Outcome

NAME = "hostnet-confirm"
_BEGUN, _APPLIED, _ENDED = b"b", b"a", b"e"
# How long a change may take: 10,000 forwards take seconds. One that hangs may have cut the connection before it did.
_CHANGE_SECONDS = 300.0

# Rolls a transaction back, if it is not confirmed.
RollBack = Callable[[str], None]


class Confirmation(Protocol):
    """What makes a change count: a provider that is still heard after it (DESIGN.md 2.5)."""

    required: bool

    def begun(self, transaction: str) -> None:
        """The host is about to be changed."""

    def request(self, outcomes: list[Outcome], transaction: str, *, reconnect: bool) -> str:
        """Send the provider what is applied, and wait for its answer.

        Args:
            outcomes: What is applied.
            transaction: The provider's number for it.
            reconnect: A connection in progress proves nothing: the provider must make a new one before it confirms.

        Returns:
            "" where it is confirmed, else why it is to be rolled back.

        Raises:
            EOFError: No provider is there any more.
        """

    def ended(self) -> None:
        """The transaction is confirmed, or rolled back, or nothing was changed."""


class AlwaysConfirmed:
    """What is changed on the provider's own machine counts at once, and what another agent left unconfirmed there."""

    required = False

    def begun(self, transaction: str) -> None:
        """No process need know."""

    def request(self, outcomes: list[Outcome], transaction: str, *, reconnect: bool) -> str:
        """Confirmed."""
        del outcomes, transaction, reconnect
        return ""

    def ended(self) -> None:
        """No process need know."""


class CommitConfirm:
    """The agent's end of the pipe to the process that rolls back.

    Args:
        seconds: How long an applied transaction may wait for its confirmation.
        roll_back: Called in the other process, which shares no open file with this one.
    """

    def __init__(self, seconds: float, roll_back: RollBack) -> None:
        self.seconds, self._roll_back = seconds, roll_back
        self._pipe = self._start()

    def begun(self, transaction: str) -> None:
        """The host is about to be changed."""
        self._write(_BEGUN + transaction.encode())

    def applied(self, transaction: str) -> None:
        """It is changed, recorded, and waits for its confirmation from now on."""
        self._write(_APPLIED + transaction.encode())

    def ended(self) -> None:
        """It is confirmed, or rolled back."""
        self._write(_ENDED)

    def _write(self, what: bytes) -> None:
        try:
            os.write(self._pipe, what + b"\n")
        except BrokenPipeError:  # it was killed
            os.close(self._pipe)
            self._pipe = self._start()
            os.write(self._pipe, what + b"\n")

    def _start(self) -> int:
        read, write = os.pipe()
        agent = os.getpid()
        if os.fork() == 0:
            try:
                _detach(read)
                _await_confirmation(agent, self.seconds, self._roll_back)
            finally:
                os._exit(0)
        os.close(read)
        return write


def _detach(pipe: int) -> None:
    """Be a process of one's own, with the pipe as the only open file: as standard input."""
    os.setsid()
    # SIGTERM is what the processes of a login session get at its end (logind.conf(5), KillUserProcesses=), 90 seconds
    # before they are killed: the end of the session may be what this is for.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.dup2(pipe, 0)
    let_go(first=1)
    set_name(NAME)


def _await_confirmation(agent: int, seconds: float, roll_back: RollBack) -> None:
    """Follow the transactions of an agent till it ends, and roll back the one that is not confirmed."""
    state, transaction, deadline = _ENDED, "", None
    buffer, agent_lives = b"", True
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([0] if agent_lives else [], [], [], left)[0]:
            # The parent is looked up: the number of an agent that has died may be another process's by now.
            if agent_lives and os.getppid() == agent:
                os.kill(agent, signal.SIGKILL)
            roll_back(transaction)
            return
        data = os.read(0, 4096)
        buffer += data
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            state, transaction = line[:1], line[1:].decode()
            patience = {_BEGUN: max(_CHANGE_SECONDS, seconds), _APPLIED: seconds}.get(state)
            deadline = None if patience is None else time.monotonic() + patience
        if data:
            continue
        agent_lives = False
        if state == _BEGUN:
            roll_back(transaction)
        if state != _APPLIED:
            return
