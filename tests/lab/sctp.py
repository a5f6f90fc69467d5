"""As much of SCTP (RFC 9260) as a probe needs: INIT, INIT ACK and ABORT on raw sockets. This kernel has no SCTP."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

COMMON_HEADER = struct.Struct("!HHII")  # source port, destination port, verification tag, checksum
CHUNK_HEADER = struct.Struct("!BBH")  # type, flags, length
INIT_BODY = struct.Struct("!IIHHI")  # initiate tag, receiver window, outbound streams, inbound streams, initial TSN
PARAMETER_HEADER = struct.Struct("!HH")  # type, length
STATE_COOKIE = 7


class Chunk(IntEnum):
    """Chunk types (RFC 9260, 3.2)."""

    INIT = 1
    INIT_ACK = 2
    ABORT = 6


@dataclass(frozen=True)
class Packet:
    """A packet with one chunk.

    Args:
        tag: The verification tag: 0 with INIT, else what the other end's INIT asked for.
        initiate: The tag that an INIT or INIT ACK asks the other end to use.
        cookie: An INIT ACK's state cookie; the lab's servers put their words there.
    """

    source: int
    destination: int
    chunk: int
    tag: int = 0
    initiate: int = 0
    cookie: bytes = b""

    def encode(self) -> bytes:
        """The packet with its checksum, without an IP header."""
        body = b""
        if self.chunk in (Chunk.INIT, Chunk.INIT_ACK):
            body = INIT_BODY.pack(self.initiate, 65536, 1, 1, self.initiate)
        if self.cookie:
            body += PARAMETER_HEADER.pack(STATE_COOKIE, 4 + len(self.cookie)) + self.cookie
        chunk = CHUNK_HEADER.pack(self.chunk, 0, CHUNK_HEADER.size + len(body)) + body
        chunk += bytes(-len(chunk) % 4)
        bare = COMMON_HEADER.pack(self.source, self.destination, self.tag, 0) + chunk
        # The checksum alone travels with its low byte first (RFC 9260, appendix A).
        return bare[:8] + struct.pack("<I", crc32c(bare)) + bare[12:]

    @classmethod
    def decode(cls, data: bytes) -> Packet | None:
        """A packet from the wire; None where it is cut short or its checksum is wrong."""
        if len(data) < COMMON_HEADER.size + CHUNK_HEADER.size:
            return None
        if struct.pack("<I", crc32c(data[:8] + bytes(4) + data[12:])) != data[8:12]:
            return None
        source, destination, tag, _ = COMMON_HEADER.unpack_from(data)
        chunk, _, length = CHUNK_HEADER.unpack_from(data, COMMON_HEADER.size)
        body = data[COMMON_HEADER.size + CHUNK_HEADER.size : COMMON_HEADER.size + length]
        initiate, cookie = 0, b""
        if chunk in (Chunk.INIT, Chunk.INIT_ACK) and len(body) >= INIT_BODY.size:
            initiate = INIT_BODY.unpack_from(body)[0]
            cookie = _cookie(body[INIT_BODY.size :])
        return cls(source, destination, chunk, tag, initiate, cookie)


def _cookie(parameters: bytes) -> bytes:
    """The state cookie, where it is the first parameter."""
    if len(parameters) < PARAMETER_HEADER.size:
        return b""
    kind, length = PARAMETER_HEADER.unpack_from(parameters)
    return parameters[PARAMETER_HEADER.size : length] if kind == STATE_COOKIE else b""


def _table() -> list[int]:
    """CRC-32C (Castagnoli), reflected."""
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC = _table()


def crc32c(data: bytes) -> int:
    """The checksum of RFC 9260, appendix A."""
    value = 0xFFFFFFFF
    for byte in data:
        value = (value >> 8) ^ _CRC[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF
