"""Where a port forward leads, as a value: parsed and written here and nowhere else."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from hostnet.resources.schema.model import BadValueError, Scalar
from hostnet.resources.schema.types import IPV4, IPV6, PORT_MAX, IpAddress, check_range, parse_ip, text, usable_ip
from hostnet.wire.family import Family, family_of

if TYPE_CHECKING:
    from hostnet.resources.schema.values import Value
    from hostnet.wire.objects import Ports

_SHOULD = 'an address with or without ports such as "10.0.0.2", "10.0.0.2:80", "10.0.0.2:8000-8100", "[fd12::2]:443"'
_TARGET = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<v4>[^:\[\]]*))(?::(?P<ports>[^:]*))?", re.ASCII)
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)


@dataclass(frozen=True)
class Destination:
    """An address, and its ports.

    `str` gives the canonical spelling, which `parse` reads back: `10.0.0.2`, `10.0.0.2:80`, `10.0.0.2:8000-8100`,
    `[fd12::2]:443`.

    Args:
        address: as `ipaddress` prints it, without brackets.
        ports: the first and the last port; None: the source ports.
    """

    address: str
    ports: Ports | None = None

    @staticmethod
    @lru_cache(maxsize=65536)  # a gateway with 10,000 forwards compares, judges and sends the same few texts
    def parse(spelled: str) -> Destination:
        """The destination with this spelling.

        Raises:
            BadValueError: The value is refused; the message says what would be right.
        """
        address, ports = _split(spelled)
        usable_ip(address, loopback=True)
        if ports is not None:
            check_range(*ports, f"a destination with ports from 1 to {PORT_MAX}")
        return Destination(str(address), ports)

    @property
    def family(self) -> Family:
        """The address's family."""
        return family_of(self.address)

    def on(self, source: Ports) -> Destination:
        """The same destination with its ports spelled out, for a forward of these source ports."""
        return self if self.ports else replace(self, ports=source)

    def __str__(self) -> str:
        if self.ports is None:
            return self.address
        low, high = self.ports
        host = f"[{self.address}]" if self.family == "ipv6" else self.address
        return f"{host}:{low}" if low == high else f"{host}:{low}-{high}"


def _split(spelled: str) -> tuple[IpAddress, Ports | None]:
    match = _TARGET.fullmatch(spelled)
    if not match:
        return _address(spelled), None  # IPv6 without brackets: it has several colons
    family = IPV6 if match["v6"] is not None else IPV4
    address = _address(match["v6"] if family == IPV6 else match["v4"])
    if address.version != family:
        raise BadValueError(_SHOULD)
    if match["ports"] is None:
        return address, None
    ports = _PORTS.fullmatch(match["ports"])
    if not ports:
        raise BadValueError(f"{_SHOULD}; ports are one number, or two with -")
    return address, (int(ports[1]), int(ports[2] or ports[1]))


def _address(spelled: str) -> IpAddress:
    try:
        return parse_ip(spelled)
    except BadValueError:
        raise BadValueError(_SHOULD) from None


class DestinationType(Scalar):
    """The type of a property that holds a destination; its canonical value is a `Destination`."""

    label = 'string: "address", "address:port", "address:from-to", v6 with a port in brackets'

    def parse(self, value: Value) -> Destination:
        """Accept the spellings of a destination; the canonical value is a `Destination`."""
        return value if isinstance(value, Destination) else Destination.parse(text(value, _SHOULD))
