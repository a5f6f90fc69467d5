"""GRE and ESP packets as a probe needs them: protocols that NAT translates without ports. Nothing is in the tunnels."""

from __future__ import annotations

import struct
from dataclasses import dataclass

NUMBERS = {"gre": 47, "esp": 50}
# GRE with a key and no other option (RFC 2890), around an experimental EtherType (IEEE 802); ESP's SPI and number (RFC
# 4303). No kernel takes them for a tunnel of its own.
_GRE, _ESP = struct.Struct("!HHI"), struct.Struct("!II")
_KEY_PRESENT, _EXPERIMENTAL = 0x2000, 0x88B5
_ASK, _SAY = b"who\n", b"its "


@dataclass(frozen=True)
class Tunnelled:
    """A packet without its IP header.

    Args:
        protocol: "gre" or "esp".
        number: The key or SPI.
        text: What a server says; None: a client's question.
    """

    protocol: str
    number: int
    text: bytes | None = None

    def encode(self) -> bytes:
        """As it is sent."""
        head = _ESP.pack(self.number, 1)
        if self.protocol == "gre":
            head = _GRE.pack(_KEY_PRESENT, _EXPERIMENTAL, self.number)
        return head + (_ASK if self.text is None else _SAY + self.text)

    @classmethod
    def decode(cls, protocol: str, data: bytes) -> Tunnelled | None:
        """A packet from the wire; None where it is another program's."""
        if len(data) < _GRE.size:
            return None
        head, body = data[: _GRE.size], data[_GRE.size :]
        number = _GRE.unpack(head)[2] if protocol == "gre" else _ESP.unpack(head)[0]
        if body == _ASK:
            return cls(protocol, number)
        return cls(protocol, number, body.removeprefix(_SAY)) if body.startswith(_SAY) else None
