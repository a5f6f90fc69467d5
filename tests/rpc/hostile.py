"""A host that lies: what its agent answers is a case of tests/cases/hostile.json, to one kind of request or to all.

Most cases are the answer of the real agent (on a fake kernel) with one value in it replaced.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostnet.agent import main
from hostnet.agent.transaction.host import Host
from hostnet.fakes.channel import FakeChannel, FakeTransport
from hostnet.hosts.session import Session
from hostnet.wire.protocol import Answer, Request, Whole

_FILE = Path(__file__).parents[1] / "cases" / "hostile.json"
CASES: dict[str, list[dict[str, Any]]] = json.loads(_FILE.read_text(encoding="utf-8"))
# The real one examines the machine's own kernel.
_DOCTOR = {"checks": [{"name": "kernel", "level": "ok", "found": "6.1", "fix": ""}]}
_FLOOD = 1000  # pieces at a time, of an output without end


@dataclass
class Hostile:
    """What a host answers.

    Attributes:
        case: The case; None: the truth.
        ops: The requests to which it answers so.
    """

    case: dict[str, Any] | None = None
    ops: Collection[str] = ()

    def answer(self, request: Request, honest: bytes) -> bytes:
        """The answer instead of the honest one."""
        if self.case is None or request.op not in self.ops:
            return honest
        if "raw" in self.case:
            return _raw(self.case, request.id)
        message = json.loads(honest)
        for path, value in self.case.get("set", {}).items():
            _replace(message, path.split("."), value)
        for path in self.case.get("drop", ()):
            _replace(message, path.split("."))
        return json.dumps(message).encode() + b"\n"


def _raw(case: dict[str, Any], number: int) -> bytes:
    text = case["raw"].replace("$id", str(number)) * case.get("times", 1) + case.get("then", "")
    return bytes(text, "latin-1" if case.get("latin") else "utf-8")


def _replace(message: Any, path: list[str], *value: Any) -> None:
    """Put a value at a path; without one, remove what is there."""
    *parents, last = [int(name) if name.isdigit() else name for name in path]
    for name in parents:
        message = message[name]
    if value:
        message[last] = _value(value[0])
    else:
        del message[last]


def _value(value: Any) -> Any:
    """A value of a case: a long text is written as `{"$times": ["x", 5000]}`."""
    if isinstance(value, dict) and "$times" in value:
        text, times = value["$times"]
        return [text * times] if value.get("$list") else text * times
    return value


class HostileChannel(FakeChannel):
    """The lines of such a host's agent."""

    def __init__(self, host: Host, hostile: Hostile) -> None:
        """It greets; as its case says, where the case is about that."""
        super().__init__(host)
        self._hostile = hostile
        self._flooding: asyncio.Task[None] | None = None
        if "greeting" in hostile.ops and hostile.case is not None:
            self.reader = asyncio.StreamReader()
            self._send(_raw(hostile.case, 0))

    def write(self, data: bytes) -> None:
        """Answer each request in it."""
        for line in data.splitlines():
            request = Request.parse(line)
            if request.op == "facts" and request.facts == "doctor":
                honest: Answer | Whole = Answer(request.id, _DOCTOR)
            else:
                honest = main.serve(self._host, request)
            self._send(self._hostile.answer(request, honest.to_line()))

    def _send(self, data: bytes) -> None:
        case = self._hostile.case or {}
        self.reader.feed_data(data)
        if case.get("end"):
            self.reader.feed_eof()
        if case.get("forever") and self._flooding is None:
            self._flooding = asyncio.ensure_future(self._flood(data))

    async def _flood(self, data: bytes) -> None:
        """Go on for ever, no faster than it is read: a real channel holds back its writer."""
        while True:
            if len(self.reader._buffer) < len(data) * _FLOOD:  # type: ignore[attr-defined]
                self.reader.feed_data(data)
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Nothing is left of it."""
        if self._flooding is not None:
            self._flooding.cancel()
            await asyncio.wait({self._flooding})
        self.reader.feed_eof()


class HostileTransport(FakeTransport):
    """Starts such agents."""

    def __init__(self, host: Host, hostile: Hostile) -> None:
        super().__init__(host)
        self._hostile = hostile

    async def start(self, *, attempts: int | None = None) -> HostileChannel:
        """Start one, at the first attempt."""
        del attempts
        return HostileChannel(self._host, self._hostile)


def take_over(session: Session, host: Host, hostile: Hostile) -> None:
    """From now on another runs the host that a session leads to."""
    session._transport = HostileTransport(host, hostile)
    session._channel = None


def cases(*groups: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The cases of some groups, each with its name."""
    for group in groups:
        for case in CASES[group]:
            yield f"{group}: {case['name']}", case
