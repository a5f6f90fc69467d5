"""The provider at the other end of an agent's streams: its requests, and whether it still waits for the answer.

Nothing takes effect for a provider that has gone, or has cancelled, while its request waited for the host's lock.
"""

from __future__ import annotations

import os
import select
from typing import BinaryIO

from hostnet.agent.record.lock import Holder
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.protocol import DOING, Holding, Request, Waiting
from hostnet.wire.requests import Change, Query
from hostnet.wire.urn import Urn

_CHUNK_BYTES = 1 << 20
_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL
# When a provider hears that its request waits, and then how often.
_FIRST_SECONDS, _EVERY_SECONDS = 0.5, 5.0


class Provider:
    """The streams.

    Args:
        requests: The descriptor of the requests.
        answers: Where answers go.

    Attributes:
        request: The one under way.
    """

    def __init__(self, requests: int, answers: BinaryIO) -> None:
        self._input, self._out = requests, answers
        self._part: list[bytes] = []
        self._queue: list[Request] = []
        self.request = Request(0, "read")

    def send(self, line: bytes) -> None:
        """Send a message."""
        self._out.write(line)
        self._out.flush()

    def next(self) -> Request | None:
        """The next request; None at the end of the input."""
        request = self.following()
        if request is not None:
            self.request = request
        return request

    def following(self) -> Request | None:
        """What comes next about the request under way, or after it."""
        while True:
            while self._queue:
                request = self._queue.pop(0)
                if request.op != "cancel":  # else it comes too late: what it is about has begun, or is over
                    return request
            if not self._read():
                return None

    def put_back(self, request: Request) -> None:
        """Have a request be the next one."""
        self._queue.insert(0, request)

    def check(self) -> None:
        """Make sure that the request under way is still waited for.

        Raises:
            EOFError: The provider has gone.
            HostnetError: It has cancelled.
        """
        while True:
            ready = dict(self._poll())
            events = ready.get(self._input, 0)
            if ready.get(self._out.fileno(), 0) & _GONE:
                raise EOFError
            if events & select.POLLIN:
                if not self._read():
                    raise EOFError
                continue
            if events & (_GONE | select.POLLRDHUP):
                raise EOFError
            break
        if any(each.op == "cancel" and each.id == self.request.id for each in self._queue):
            raise HostnetError(Code.CANCELLED, "cancelled", "it waited for the host's lock, and nothing was changed")

    def _poll(self) -> list[tuple[int, int]]:
        poll = select.poll()
        # Asked for nothing, poll(2) still says where the reader has gone (POLLERR).
        poll.register(self._out.fileno(), 0)
        poll.register(self._input, select.POLLIN | select.POLLRDHUP)
        return poll.poll(0)

    def _read(self) -> bool:
        """Read once; False at the end."""
        data = os.read(self._input, _CHUNK_BYTES)
        if not data:
            return False
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._queue.append(Request.parse(b"".join([*self._part, line])))
            self._part = []
        self._part.append(rest)
        return True


class Turn:
    """How a request waits for the host's lock: a `Waiter`.

    Args:
        provider: Whose requests they are.
        patience: After so many seconds a request fails.
    """

    def __init__(self, provider: Provider, patience: float) -> None:
        self._provider, self._patience = provider, patience
        self._said = 0.0

    @property
    def doing(self) -> str:
        """What the request under way is about."""
        request = self._provider.request
        about: list[Change | Query] = [*request.changes, *request.queries]
        stacks = dict.fromkeys(_stack(each.urn) for each in about)
        return " ".join((DOING.get(request.op, request.op), ", ".join(filter(None, stacks)))).strip()

    def waits(self, holder: Holder, seconds: float) -> None:
        """Give up where no provider waits any more, or the time is over; else tell the provider who holds the lock."""
        self._provider.check()
        if seconds >= self._patience:
            raise _busy(holder, self._patience)
        if seconds < _FIRST_SECONDS:
            self._said = 0.0
        elif not self._said or seconds - self._said >= _EVERY_SECONDS:
            self._said = seconds
            holding = Holding(holder.pid, holder.doing, holder.seconds)
            self._provider.send(Waiting(self._provider.request.id, holding).to_line())

    def starts(self) -> None:
        """Give up where no provider waits any more."""
        self._provider.check()


def _stack(urn: str) -> str:
    parsed = Urn.parse(urn)
    return f"stack {parsed.stack} of project {parsed.project}" if parsed.kind else ""


def _busy(holder: Holder, patience: float) -> HostnetError:
    who = "another process"
    fix = "Try again"
    if holder.pid:
        who = f"process {holder.pid} ({holder.doing}) has held it for {holder.seconds} s"
        fix = f"Wait until it ends, or end it (`kill {holder.pid}`)"
    why = f"{who}, and this request has waited {patience:g} s" if holder.pid else f"{who} holds it"
    return HostnetError(
        Code.BUSY, "cannot lock the host's record", why, f"{fix}. The provider's lockTimeout sets how long it waits"
    )
