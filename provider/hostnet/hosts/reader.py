"""The lines that a host sends, bounded in size. What they mean is for `wire/protocol.py`.

A host may send more than it was asked for, a line that never ends, or nothing. While no answer is waited for, its
output is read no further than one chunk: TCP's window, or the pipe, then holds it back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.shapes import ShapeError

T = TypeVar("T")

# The longest message. 60,000 forwards of one gateway, as objects and as states, are 20 MB; with an IPv6 destination,
# listen address and source network each, 39 MB.
LINE_BYTES = 64 << 20
# What is read ahead of a line's reader: one more packet of an SSH channel, or one pipe.
CHUNK_BYTES = 64 << 10


class Lines:
    """The lines of one agent.

    Args:
        source: Its output. It is to hold back its writer at `CHUNK_BYTES` (`asyncio.StreamReader`, `limit`).
    """

    def __init__(self, source: asyncio.StreamReader) -> None:
        self._source = source
        self._ahead, self._at = b"", 0

    @property
    def ended(self) -> bool:
        """Whether nothing comes any more."""
        return self._at >= len(self._ahead) and self._source.at_eof()

    async def next(self, longest: int | None = None) -> bytes:
        """The next line with its end; where the output ends, the last line may have none.

        Args:
            longest: In bytes; None: `LINE_BYTES`.

        Raises:
            ShapeError: It is too long.
        """
        longest = LINE_BYTES if longest is None else longest
        parts: list[bytes] = []
        size = 0
        while True:
            end = self._ahead.find(b"\n", self._at) + 1
            part = self._ahead[self._at : end or len(self._ahead)]
            parts.append(part)
            size += len(part)
            if size > longest:
                raise ShapeError(f"one line has more than {longest >> 10:,} KiB")
            if end:
                self._at = end
                return b"".join(parts)
            self._ahead, self._at = await self._source.read(CHUNK_BYTES), 0
            if not self._ahead:
                return b"".join(parts)


def parsed(parse: Callable[[], T], doing: str, host: str) -> T:
    """What a host sent, as values.

    Args:
        parse: Makes them.
        doing: What was asked: "applying web".
        host: Its name in messages.

    Raises:
        HostnetError: MALFORMED: it is not what an agent sends.
    """
    try:
        return parse()
    except ShapeError as error:
        raise malformed(error, doing, host) from None


def malformed(error: ShapeError, doing: str, host: str) -> HostnetError:
    """The error about an answer that is not what an agent sends."""
    return HostnetError(
        Code.MALFORMED,
        f"cannot read the host's answer while {doing}",
        str(error).strip(),
        "No agent of hostnet sends that. Check that this is the host that you mean, and what its python3 is",
        host,
    )
