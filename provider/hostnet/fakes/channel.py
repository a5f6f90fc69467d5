"""An agent in this process at the end of a byte stream: what crosses to a host crosses here too, line by line."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hostnet import __version__
from hostnet.agent import main
from hostnet.wire.protocol import AgentProcess, Greeting, Request

if TYPE_CHECKING:
    from hostnet.agent.transaction.host import Host


class FakeChannel:
    """The lines to and from an agent that answers while it is written to. Implements `hosts.session.Channel`.

    Args:
        host: What the agent holds.
    """

    lost = False

    def __init__(self, host: Host) -> None:
        self._host = host
        self.reader = asyncio.StreamReader(limit=256 << 20)
        self.reader.feed_data(Greeting(__version__, AgentProcess(0, 0), "fake", "fake").to_line())

    def write(self, data: bytes) -> None:
        """Answer each request in it."""
        for line in data.splitlines():
            request = Request.parse(line)
            if request.op != "cancel":  # what it is about is answered already
                self.reader.feed_data(main.serve(self._host, request).to_line())

    async def ended(self) -> str:
        """It has no end of its own."""
        return "the fake agent does not end"

    async def close(self) -> None:
        """Nothing is left of it."""
        self.reader.feed_eof()


class FakeTransport:
    """Starts such agents. Implements `hosts.session.Transport`."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.last_activity = 0.0

    async def start(self, *, attempts: int | None = None) -> FakeChannel:
        """Start one, at the first attempt."""
        del attempts
        return FakeChannel(self._host)

    async def verify_login(self) -> None:
        """A login always succeeds."""

    async def close(self) -> None:
        """Nothing leads there."""
