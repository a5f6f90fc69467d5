"""A process beside the agent that undoes what nobody confirms, whoever dies: the agent, the way to it, the provider.

The agent tells it through a pipe how far a transaction is; the end of the pipe tells that the agent died. Then

- before a transaction, and after one: it ends;
- of one that has begun: it undoes it at once, since nobody was told of it;
- of one that is applied: it undoes it when the time is up. Until then another agent may have it confirmed.

While the agent lives, it kills it before it undoes something: that one can't be heard, its provider has hung up, or it
hangs itself in the middle of a change.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import time
from collections.abc import Callable

from hostnet.agent.linux.process import let_go

NAME = "hostnet-guard"  # as ps and top show it; 15 bytes at most
_PR_SET_NAME = 15
_BEGUN, _APPLIED, _ENDED = b"b", b"a", b"e"
# How long a change may take: 10,000 forwards take seconds. One that hangs may have cut the way before it did.
_CHANGE_SECONDS = 300.0

# Undo a transaction, if it is not confirmed.
Undo = Callable[[str], None]


class CommitConfirm:
    """The agent's end.

    :param seconds: how long an applied transaction may wait for its confirmation.
    :param undo: called in the other process, which shares no open file with this one.
    """

    def __init__(self, seconds: float, undo: Undo) -> None:
        self.seconds, self._undo = seconds, undo
        self._pipe = self._start()

    def begun(self, transaction: str) -> None:
        """The host is about to be changed."""
        self._tell(_BEGUN + transaction.encode())

    def applied(self, transaction: str) -> None:
        """It is changed, recorded, and waits for its confirmation from now on."""
        self._tell(_APPLIED + transaction.encode())

    def ended(self) -> None:
        """It is confirmed, or undone."""
        self._tell(_ENDED)

    def _tell(self, what: bytes) -> None:
        try:
            os.write(self._pipe, what + b"\n")
        except BrokenPipeError:  # somebody killed it
            os.close(self._pipe)
            self._pipe = self._start()
            os.write(self._pipe, what + b"\n")

    def _start(self) -> int:
        read, write = os.pipe()
        agent = os.getpid()
        if os.fork() == 0:
            try:
                _become_guard(read)
                _guard(agent, self.seconds, self._undo)
            finally:
                os._exit(0)
        os.close(read)
        return write


def _become_guard(pipe: int) -> None:
    """Be a process of one's own, with the pipe as the only open file: as standard input."""
    os.setsid()
    # SIGTERM is what the processes of a log-in session get at its end (logind.conf(5), KillUserProcesses=), 90 seconds
    # before they are killed: the end of the session may be what this is for.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.dup2(pipe, 0)
    let_go(first=1)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_NAME, NAME.encode())


def _guard(agent: int, seconds: float, undo: Undo) -> None:
    state, transaction, deadline = _ENDED, "", None
    buffer, hears = b"", True
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([0] if hears else [], [], [], left)[0]:
            if hears and os.getppid() == agent:
                os.kill(agent, signal.SIGKILL)
            undo(transaction)
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
        hears = False
        if state == _BEGUN:
            undo(transaction)
        if state != _APPLIED:
            return
