"""Our tables as `nft -j` lists them, read apart from the agent, which reads them from netlink messages."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

from hostnet.agent.dhcp.domains import NOTHING_SET
from hostnet.agent.nft.ruleset import LIST_CHAINS, LISTS, NAME_SETS, PROTOCOLS, RAW, SETS, Place
from hostnet.agent.nft.syntax import Listing
from hostnet.wire.digest import sha256

_NAMES = {number: name for name, number in {**PROTOCOLS, "icmp": "1", "icmpv6": "58"}.items()}
_UNITS = {"bytes": 1, "kbytes": 1 << 10, "mbytes": 1 << 20}
_PERIODS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}


def parse_listing(listed: list[dict[str, Any]]) -> Listing:
    """Read what `nft -j list table inet hostnet` answered."""
    elements: dict[Place, tuple[str, ...]] = {}
    counters: dict[Place, tuple[int, int]] = {}
    comments: dict[Place, str] = {}
    rules: list[str] = []
    sets: set[str] = set()
    for item in listed:
        (kind, body), *_ = item.items()
        name = body.get("chain" if kind == "rule" else "name", "")
        if name == NOTHING_SET:
            continue
        if name.startswith((LISTS, "n4_", "n6_")):
            _read_by_name(kind, name, body, elements)
        elif kind in ("set", "map"):
            sets.add(body["name"])
            for raw in body.get("elem", []):
                key, value = raw if kind == "map" else (raw, None)
                place = body["name"], _named(body["name"], _fields(key))
                # What packets add, no resource declares.
                if place[0] not in SETS or not SETS[place[0]].seen:
                    elements[place] = _rate(raw) if value is None else _fields(value)
                if isinstance(key, dict) and "comment" in (body_of := key.get("elem", {})):
                    comments[place] = body_of["comment"]
                if kind == "set" and isinstance(raw, dict) and "counter" in raw.get("elem", ()):
                    counters[place] = (raw["elem"]["counter"]["packets"], raw["elem"]["counter"]["bytes"])
        elif kind in ("rule", "chain"):
            body = {name: part for name, part in body.items() if name != "handle"}
            rules.append(json.dumps({kind: body}, sort_keys=True))
    return Listing(elements, sha256("\n".join(rules).encode()).hexdigest(), counters, frozenset(sets), comments)


def _read_by_name(kind: str, name: str, body: dict[str, Any], elements: dict[Place, tuple[str, ...]]) -> None:
    """What rules of `egress` by domain name have: a set of a name, a chain, a rule in it."""
    if kind == "set":
        elements[NAME_SETS, (name,)] = ()
        return
    rule = (" ".join(map(_expression, body["expr"])),) if kind == "rule" else ()
    elements[LIST_CHAINS, (name,)] = (*elements.get((LIST_CHAINS, (name,)), ()), *rule)


def _expression(expression: dict[str, Any]) -> str:
    """A part of a rule, as hostnet writes it."""
    ((kind, body),) = expression.items()
    if kind == "goto":
        return f"goto {body['target']}"
    if kind != "match":
        return kind
    left, right = body["left"], body["right"]
    if isinstance(left, str):  # the fake of nftables keeps conditions as they are
        return left
    if "payload" in left:
        value = "-".join(map(str, right["range"])) if isinstance(right, dict) else right
        return f"{left['payload']['protocol']} {left['payload']['field']} {value}"
    numbers = {**PROTOCOLS, "icmp": "1", "ipv6-icmp": "58"}
    return f"meta l4proto {numbers.get(str(right), right)}"


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
        return tuple(_address(kind, part) if kind in RAW else part for kind, part in zip(kinds, key, strict=False))
    if "inet_proto" not in kinds:
        return key
    return tuple(
        _NAMES.get(part, part) if kind == "inet_proto" else part for kind, part in zip(kinds, key, strict=False)
    )


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
        if "goto" in part:
            return str(part["goto"]["target"])
        if "range" in part:
            return "-".join(str(end) for end in part["range"])
        return json.dumps(part)
    return str(part)


def _address(kind: str, number: str) -> str:
    """The MAC address, address or network that `render` wrote. nft 1.0.6 lists a number of 64 bits with a sign."""
    if kind == "nd_prefix":
        return str(ipaddress.IPv6Address((int(number, 0) % 2**64) << 64))
    if kind in ("sender4", "sender6"):
        return (int(number, 0) % 2**64).to_bytes(8, "big")[:-2].hex(":")
    if kind == "source4":
        return str(ipaddress.IPv4Address(int(number, 0)))
    low, _, high = number.partition("-")
    first = ipaddress.IPv6Address(int(low, 0))
    return (
        str(next(ipaddress.summarize_address_range(first, ipaddress.IPv6Address(int(high, 0))))) if high else str(first)
    )
