"""Elements in nft's syntax, and nft's listings as elements. Pure."""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from hostnet.agent.linux.kernel import RawElement
from hostnet.agent.nft.ruleset import PROTOCOLS, RAW, SETS, Element, Place
from hostnet.wire.digest import sha256
from hostnet.wire.protocol import STATE_DIR

_NUMBERS = {**PROTOCOLS, "icmp": "1", "icmpv6": "58"}
_NAMES = {number: name for name, number in _NUMBERS.items()}
# nft's strings have no escape for a quote, and a `*` at the end is a wildcard to it (1.0.6).
_IFNAME = re.compile(r"[A-Za-z0-9_.@+=~%,#-]{1,15}")


_SEEN = frozenset(name for name, spec in SETS.items() if spec.seen)
_UNITS = {"bytes": 1, "kbytes": 1 << 10, "mbytes": 1 << 20}
_PERIODS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}
LIMIT_BURST = 65536  # bytes: the largest packet of several segments fits
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_IFNAMSIZ = 16
_LONGEST = 128  # bits of an IPv6 address
LONGEST_COMMENT = 100  # bytes of a comment: nft 1.0.6 refuses more than 128
_LONGEST_MARK = 40
_MARK = re.compile(r" @(/.*)")


def mark_of(state_dir: str) -> str:
    """What ends the comments of a record's elements and rules, so that another record on this host leaves them alone.

    The records of two providers with different `stateDir`s share our tables. That of the default directory has no mark.
    """
    if state_dir == STATE_DIR:
        return ""
    mark = clean_comment(f" @{state_dir}")
    if mark == f" @{state_dir}" and len(mark) <= _LONGEST_MARK:
        return mark
    return f" @/_/{sha256(state_dir.encode()).hexdigest()[:16]}"


def render(element: Element, comment: str = "", mark: str = "") -> str:
    """The element in nft syntax. Each field is checked against its type: no other text of a user's reaches nft.

    Args:
        element: What to write.
        comment: Its comment; harmless characters of it stay.
        mark: What ends the comment (`mark_of`).

    Raises:
        ValueError: A field is not of its type.
    """
    spec = SETS[element.set]
    text = render_key(element.set, element.key)
    if spec.limit:
        # nft 1.0.6 wants it before the comment. A bucket holds a second's bytes and the burst (nft_limit_init).
        text += f" limit rate over {int(element.value[0])} bytes/second burst {LIMIT_BURST} bytes"
    # In a map before the value: after it nft 1.0.6 says "syntax error, unexpected comment".
    if comment:
        text += f' comment "{marked(comment, mark)}"'
    if spec.value:
        text += " : " + " . ".join(_field(kind, part) for kind, part in zip(spec.value, element.value))
    return text


def render_key(set_name: str, key: tuple[str, ...]) -> str:
    """An element's key, which is enough to delete it.

    Raises:
        ValueError: A field is not of its type.
    """
    spec = SETS[set_name]
    return " . ".join(_field(kind, part, icmp=spec.icmp) for kind, part in zip(spec.key, key))


def encode(element: Element, comment: str = "", mark: str = "") -> RawElement:
    """The element as the kernel has it, with fields as nft writes them: for sets that are `plain`.

    Args:
        element: What to encode.
        comment: Its comment; harmless characters of it stay.
        mark: What ends the comment (`mark_of`).

    Raises:
        ValueError: A field is not of its type.
    """
    spec = SETS[element.set]
    value = _joined(spec.value, element.value) if spec.value else b""
    return RawElement(encode_key(element.set, element.key), value, marked(comment, mark) if comment else "")


def encode_key(set_name: str, key: tuple[str, ...]) -> bytes:
    """An element's key; raises as `encode`."""
    spec = SETS[set_name]
    return _joined(tuple(_ICMP if spec.icmp and kind == "inet_proto" else kind for kind in spec.key), key)


def _joined(kinds: tuple[str, ...], values: tuple[str, ...]) -> bytes:
    fields = [_ENCODINGS[kind](value) for kind, value in zip(kinds, values)]
    if len(fields) == 1:
        return fields[0]
    return b"".join(each + b"\0" * (-len(each) % 4) for each in fields)


@lru_cache(maxsize=1024)
def _ifname_bytes(name: str) -> bytes:
    _field("ifname", name)
    return name.encode().ljust(_IFNAMSIZ, b"\0")


def _mac_bytes(address: str) -> bytes:
    return bytes.fromhex(_field("ether_addr", address).replace(":", ""))


def _ip_bytes(family: socket.AddressFamily) -> Callable[[str], bytes]:
    def encoded(address: str) -> bytes:
        try:
            return socket.inet_pton(family, address)
        except OSError:
            msg = f"{address!r} is no address of {family.name}"
            raise ValueError(msg) from None

    return encoded


_ICMP = "inet_proto with ICMP"
_ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "ifname": _ifname_bytes,
    "inet_proto": lambda name: bytes((int(_field("inet_proto", name)),)),
    _ICMP: lambda name: bytes((int(_field("inet_proto", name, icmp=True)),)),
    "inet_service": lambda port: int(port).to_bytes(2, "big"),
    "ipv4_addr": _ip_bytes(socket.AF_INET),
    "ipv6_addr": _ip_bytes(socket.AF_INET6),
    "ether_addr": _mac_bytes,
    "nd_target": _ip_bytes(socket.AF_INET6),
    "nd_prefix": lambda network: ipaddress.IPv6Network(network)[0].packed[:8],
}


def clean_comment(comment: str) -> str:
    """The comment in harmless characters."""
    return re.sub(r"[^A-Za-z0-9 _.:/@+-]", "_", comment)


@lru_cache(maxsize=64)  # a thousand elements in turn have one
def marked(comment: str, mark: str) -> str:
    """The comment in harmless characters with a record's mark at its end, `LONGEST_COMMENT` at most.

    Args:
        comment: What it says.
        mark: What ends it (`mark_of`).
    """
    return f"{clean_comment(comment)[: LONGEST_COMMENT - len(mark)]}{mark}"


def mark_in(comment: str) -> str:
    """The mark at the end of a comment; "" where there is none."""
    found = _MARK.search(comment)
    return found[0] if found else ""


def _field(kind: str, value: str, *, icmp: bool = False) -> str:
    if kind == "ifname":
        if not _IFNAME.fullmatch(value):
            msg = f"{value!r} is no interface name"
            raise ValueError(msg)
        return f'"{value}"'
    if kind == "inet_proto":
        if value not in (_NUMBERS if icmp else PROTOCOLS):
            msg = f"{value!r} is no protocol"
            raise ValueError(msg)
        return _NUMBERS[value]
    if kind == "inet_service":
        low, _, high = value.partition("-")
        return f"{int(low)}-{int(high)}" if high else str(int(low))
    if kind == "ether_addr":
        if not _MAC.fullmatch(value):
            msg = f"{value!r} is no MAC address"
            raise ValueError(msg)
        return value
    if kind in RAW:
        return _number(kind, ipaddress.IPv6Network(value))
    if not _is_network(value, 4 if kind == "ipv4_addr" else 6):
        msg = f"{value!r} is no {kind}"
        raise ValueError(msg)
    return value


def _is_network(value: str, version: int) -> bool:
    if "/" in value:
        return ipaddress.ip_network(value).version == version
    try:
        socket.inet_pton(socket.AF_INET if version == 4 else socket.AF_INET6, value)
    except OSError:
        return False
    return True


def _number(kind: str, network: ipaddress.IPv6Network) -> str:
    """An address as nft writes a part of a packet that has no name: a number, or the first and last of a network."""
    ends = [int(network[at]) >> (64 if kind == "nd_prefix" else 0) for at in (0, -1)]
    return "-".join(
        f"{each:#x}" for each in (ends if network.prefixlen < _LONGEST and kind != "nd_prefix" else ends[:1])
    )


def _address(kind: str, number: str) -> str:
    """The address or network that `_number` wrote. nft 1.0.6 lists a number of 64 bits with a sign."""
    if kind == "nd_prefix":
        return str(ipaddress.IPv6Address((int(number, 0) % 2**64) << 64))
    low, _, high = number.partition("-")
    first = ipaddress.IPv6Address(int(low, 0))
    return (
        str(next(ipaddress.summarize_address_range(first, ipaddress.IPv6Address(int(high, 0))))) if high else str(first)
    )


@dataclass(frozen=True)
class Listing:
    """Our tables as the kernel has them.

    Args:
        elements: Values by place.
        rules: A print of chains and rules, to compare.
        counters: Packets and bytes by place.
        sets: The names of sets and maps.
        comments: By place, where there is one.
    """

    elements: dict[Place, tuple[str, ...]]
    rules: str
    counters: dict[Place, tuple[int, int]]
    sets: frozenset[str] = frozenset()
    comments: dict[Place, str] = field(default_factory=dict)

    def foreign(self, mark: str) -> set[Place]:
        """The elements of records with another mark. What has no comment is another program's."""
        return {place for place, comment in self.comments.items() if mark_in(comment) != mark}


def parse_listing(listed: list[dict[str, Any]]) -> Listing:
    """Read what `nft -j list table inet hostnet` answered."""
    elements: dict[Place, tuple[str, ...]] = {}
    counters: dict[Place, tuple[int, int]] = {}
    comments: dict[Place, str] = {}
    rules: list[str] = []
    sets: set[str] = set()
    for item in listed:
        (kind, body), *_ = item.items()
        if kind in ("set", "map"):
            sets.add(body["name"])
            for raw in body.get("elem", []):
                key, value = raw if kind == "map" else (raw, None)
                place = body["name"], _named(body["name"], _fields(key))
                # What packets add, no resource declares.
                if place[0] not in _SEEN:
                    elements[place] = _rate(raw) if value is None else _fields(value)
                if isinstance(key, dict) and "comment" in (body_of := key.get("elem", {})):
                    comments[place] = body_of["comment"]
                if kind == "set" and isinstance(raw, dict) and "counter" in raw.get("elem", ()):
                    counters[place] = (raw["elem"]["counter"]["packets"], raw["elem"]["counter"]["bytes"])
        elif kind in ("rule", "chain"):
            body = {name: part for name, part in body.items() if name != "handle"}
            rules.append(json.dumps({kind: body}, sort_keys=True))
    return Listing(elements, sha256("\n".join(rules).encode()).hexdigest(), counters, frozenset(sets), comments)


def _rate(raw: Any) -> tuple[str, ...]:
    """The value of a set's element: none, or its rate in bytes a second."""
    limit = raw["elem"].get("limit") if isinstance(raw, dict) and "elem" in raw else None
    if limit is None:
        return ()
    bytes_ = limit["rate"] * _UNITS.get(limit.get("rate_unit", ""), 0)
    return (str(bytes_ // _PERIODS.get(limit["per"], 1)),)


def _named(name: str, key: tuple[str, ...]) -> tuple[str, ...]:
    """The key with the protocol's name, and an address, in place of their numbers."""
    kinds = SETS[name].key if name in SETS else ()
    if RAW.keys() & set(kinds):
        return tuple(_address(kind, part) if kind in RAW else part for kind, part in zip(kinds, key))
    if "inet_proto" not in kinds:
        return key
    return tuple(_NAMES.get(part, part) if kind == "inet_proto" else part for kind, part in zip(kinds, key))


def _fields(value: Any) -> tuple[str, ...]:
    """A key or value in nft's JSON as our fields."""
    if isinstance(value, dict):
        if "elem" in value:
            return _fields(value["elem"]["val"])
        if "concat" in value:
            return tuple(_one(part) for part in value["concat"])
    return (_one(value),)


def _one(part: Any) -> str:
    if isinstance(part, dict):
        if "prefix" in part:
            return f"{part['prefix']['addr']}/{part['prefix']['len']}"
        if "range" in part:
            return "-".join(str(end) for end in part["range"])
        return json.dumps(part)
    return str(part)
