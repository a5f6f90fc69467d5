"""What a fake nftables holds, and how nft prints it: as JSON, and in its own language."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from hostnet.agent.linux.kernel import RawElement, RawTable
from hostnet.agent.linux.libnftables import verdict_bytes
from hostnet.agent.nft.ruleset import RAW, SETS
from hostnet.fakes import nft_syntax
from hostnet.wire.digest import sha256

Place = tuple[str, str]  # family and name of a table
Key = tuple[str, ...]  # an element's key or value: its fields as nft prints them
_UNITS = (("mbytes", 1 << 20), ("kbytes", 1 << 10), ("bytes", 1))
NUMBERS = ("inet_proto", "inet_service", "mark")
ADDRESSES = ("ipv4_addr", "ipv6_addr")


@dataclass(frozen=True)
class Held:
    """An element as it is in a set."""

    value: Key = ()
    comment: str = ""
    packets: int = 0
    bytes: int = 0
    limit: tuple[int, int] = (0, 0)
    expires: int = 3600


@dataclass
class Set:
    """A set, or a map, whose elements have a value.

    Attributes:
        name: Its name.
        handle: Its handle.
        key: nft's types of the key's fields.
        value: nft's types of the value's fields; none for a set.
        interval: Whether fields may be ranges or networks.
        counter: Whether each element counts what it matched.
        limit: Whether each element has a rate.
        seen: Whether packets add its elements: 1,024 at most, for an hour each.
        timed: Whether its elements go after an hour, of what a program adds.
        comment: What a person reads of it.
        elements: By key.
    """

    name: str
    handle: int
    key: Key
    value: Key
    interval: bool
    counter: bool
    limit: bool = False
    seen: bool = False
    timed: bool = False
    comment: str = ""
    elements: dict[Key, Held] = field(default_factory=dict)

    def copy(self) -> Set:
        """The same, to be changed."""
        return replace(self, elements=dict(self.elements))

    def json(self, place: Place, *, terse: bool) -> dict[str, Any]:
        """As `nft -j` lists it; `terse`: without elements."""
        types = self.key[0] if len(self.key) == 1 else list(self.key)
        body: dict[str, Any] = {"family": place[0], "name": self.name, "table": place[1], "type": types}
        body["handle"] = self.handle
        if self.value:
            body["map"] = " . ".join(self.value)
        if self.interval:
            body["flags"] = ["interval"]
        if self.seen:
            body |= {"size": 1024, "flags": ["timeout"], "timeout": 3600}
        if self.comment:
            body["comment"] = self.comment
        if self.timed:
            body |= {"size": 65535, "flags": ["timeout"], "timeout": 3600}
        if self.elements and not terse:
            body["elem"] = [self._element(key, held) for key, held in self.elements.items()]
        if self.counter:
            body["stmt"] = [{"counter": None}]
        if self.limit:
            body["stmt"] = [{"limit": _limit_json((1, 1))}]
        return {"map" if self.value else "set": body}

    def raw(self) -> Iterator[RawElement]:
        """Its elements as the kernel has them."""
        kinds = SETS[self.name].key if self.name in SETS else self.key  # what nft shows as a number may be an address
        for key, held in self.elements.items():
            first, last = (_joined(kinds, key, at) for at in (0, -1))
            counter = (held.packets, held.bytes) if self.counter or self.seen else None
            rate = held.limit[0] if self.limit else None
            value = _joined(self.value, held.value, 0) if self.value else b""
            expires = held.expires if self.timed else None
            yield RawElement(first, value, held.comment, last if last != first else b"", counter, rate, expires)

    def _element(self, key: Key, held: Held) -> Any:
        shown = _fields_json(self.key, key)
        more: dict[str, Any] = {"comment": held.comment} if held.comment else {}
        if self.counter:
            more["counter"] = {"packets": held.packets, "bytes": held.bytes}
        if self.limit:
            more["limit"] = _limit_json(held.limit)
        if self.timed:
            more["expires"] = held.expires
        if more:
            shown = {"elem": {"val": shown, **more}}
        return [shown, _fields_json(self.value, held.value)] if self.value else shown

    def text(self, place: Place) -> Iterator[str]:
        """The commands that make it, with its elements in order of their keys."""
        kind, of = "map" if self.value else "set", f"{' '.join(place)} {self.name}"
        types = " . ".join(self.key) + (f" : {' . '.join(self.value)}" if self.value else "")
        flags = (" flags interval;" if self.interval else "") + (" counter;" if self.counter else "")
        flags = " size 1024; flags dynamic,timeout; timeout 1h; counter;" if self.seen else flags
        flags = " size 65535; flags timeout; timeout 1h;" if self.timed else flags
        flags += f' comment "{self.comment}";' if self.comment else ""
        flags += f" {_limit_text((1, 1))};" if self.limit else ""
        yield f"add {kind} {of} {{ type {types};{flags} }}"
        for key, held in sorted(self.elements.items()):
            comment = f' comment "{held.comment}"' if held.comment else ""
            comment = f" {_limit_text(held.limit)}{comment}" if self.limit else comment
            comment = f" expires {held.expires}s{comment}" if self.timed else comment
            value = f" : {_fields_text(self.value, held.value)}" if self.value else ""
            yield f"add element {of} {{ {_fields_text(self.key, key)}{comment}{value} }}"


@dataclass(frozen=True)
class Rule:
    """A rule: its words."""

    handle: int
    words: tuple[str, ...]


@dataclass
class Chain:
    """A chain.

    Attributes:
        name: Its name.
        handle: Its handle.
        hook: Type, hook, prio and policy of a base chain.
        rules: Its rules in order.
    """

    name: str
    handle: int
    hook: dict[str, Any]
    rules: list[Rule] = field(default_factory=list)

    def copy(self) -> Chain:
        """The same, to be changed."""
        return replace(self, rules=list(self.rules))

    def json(self, place: Place) -> dict[str, Any]:
        """As `nft -j` lists it, without rules."""
        body = {"family": place[0], "table": place[1], "name": self.name, "handle": self.handle}
        return {"chain": {**body, **self.hook}}

    def rules_json(self, place: Place) -> Iterator[dict[str, Any]]:
        """Its rules, as `nft -j` lists them."""
        for rule in self.rules:
            found, comment = nft_syntax.expressions(list(rule.words))
            body = {"family": place[0], "table": place[1], "chain": self.name, "handle": rule.handle}
            yield {"rule": {**body, **({"comment": comment} if comment else {}), "expr": found}}

    def text(self, place: Place) -> str:
        """The command that makes it, without rules."""
        hook = (
            " {{ type {type} hook {hook} priority {prio}; policy {policy}; }}".format(**self.hook) if self.hook else ""
        )
        return f"add chain {' '.join(place)} {self.name}{hook}"


@dataclass
class Table:
    """A table.

    Attributes:
        handle: Its handle.
        owned: Whether a program owns it.
        comment: What a person reads of it.
        handles: The last handle that was given to something in it.
        chains: By name.
        sets: By name.
    """

    handle: int
    owned: bool = False
    comment: str = ""
    handles: int = 0
    chains: dict[str, Chain] = field(default_factory=dict)
    sets: dict[str, Set] = field(default_factory=dict)

    def copy(self) -> Table:
        """The same, to be changed."""
        chains = {name: chain.copy() for name, chain in self.chains.items()}
        return replace(self, chains=chains, sets={name: each.copy() for name, each in self.sets.items()})

    def next_handle(self) -> int:
        """A handle for something new in it."""
        self.handles += 1
        return self.handles

    def rules(self) -> Iterator[Rule]:
        """All rules of all chains."""
        for chain in self.chains.values():
            yield from chain.rules

    def json(self, place: Place, *, terse: bool) -> Iterator[dict[str, Any]]:
        """As `nft -j` lists it."""
        yield {"table": {"family": place[0], "name": place[1], "handle": self.handle}}
        yield from (each.json(place, terse=terse) for each in self.sets.values())
        yield from (chain.json(place) for chain in self.chains.values())
        for chain in self.chains.values():
            yield from chain.rules_json(place)

    def raw(self, place: Place, apart: str = "", *, elements: bool) -> RawTable:
        """As the kernel has it; chains whose names begin with `apart` are not in the print."""
        lists = {name: chain for name, chain in self.chains.items() if apart and name.startswith(apart)}
        shown = [
            {name: part for name, part in body.items() if name != "handle"}
            for item in self.json(place, terse=True)
            for kind, body in item.items()
            if kind in ("chain", "rule") and body["name" if kind == "chain" else "chain"] not in lists
        ]
        rules = sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()
        sets = {name: list(each.raw()) if elements else [] for name, each in self.sets.items()}
        texts = {name: [" ".join(rule.words) for rule in chain.rules] for name, chain in lists.items()}
        bases = [name for name, chain in self.chains.items() if chain.hook]
        return RawTable(rules, sets, texts, bases)

    def text(self, place: Place) -> Iterator[str]:
        """The commands that make it: chains and sets in order of their names, rules in their own."""
        chains = sorted(self.chains.values(), key=lambda each: each.name)
        said = ("flags owner; " if self.owned else "") + (f'comment "{self.comment}"; ' if self.comment else "")
        yield f"add table {' '.join(place)}" + (f" {{ {said}}}" if said else "")
        yield from (chain.text(place) for chain in chains)
        for each in sorted(self.sets.values(), key=lambda each: each.name):
            yield from each.text(place)
        for chain in chains:
            yield from (f"add rule {' '.join(place)} {chain.name} {' '.join(rule.words)}" for rule in chain.rules)


def _joined(kinds: Key, fields: Key, at: int) -> bytes:
    """Fields as the kernel has them; of ranges the first (`at` 0) or the last value."""
    parts = [_field_bytes(kind, part, at) for kind, part in zip(kinds, fields, strict=True)]
    return parts[0] if len(parts) == 1 else b"".join(each + b"\0" * (-len(each) % 4) for each in parts)


def _field_bytes(kind: str, part: str, at: int) -> bytes:
    if kind in RAW:
        size = int(RAW[kind].rpartition(",")[2]) // 8  # its bits are the last number
        return (int(part.split("-")[at], 0) % (1 << 8 * size)).to_bytes(size, "big")
    if kind in ADDRESSES:
        ends = ipaddress.ip_network(part) if "/" in part else part.split("-")
        return ipaddress.ip_address(ends[at]).packed
    if kind in NUMBERS:
        return int(part.split("-")[at]).to_bytes({"inet_proto": 1, "inet_service": 2, "mark": 4}[kind], "big")
    if kind == "verdict":
        return verdict_bytes(part.removeprefix("goto "))
    if kind == "ether_addr":
        return bytes.fromhex(part.replace(":", ""))
    return part.encode().ljust(16, b"\0")


def _limit_text(limit: tuple[int, int]) -> str:
    return f"limit rate over {limit[0]} bytes/second burst {limit[1]} bytes"


def _limit_json(limit: tuple[int, int]) -> dict[str, Any]:
    found: dict[str, Any] = {"per": "second", "inv": True}
    for name, size in zip(("rate", "burst"), limit, strict=True):
        # nft prints the largest unit of which it is a multiple.
        unit, length = next(each for each in _UNITS if size % each[1] == 0)
        found |= {name: size // length, f"{name}_unit": unit}
    return found


def _fields_json(kinds: Key, fields: Key) -> Any:
    shown = [_field_json(kind, part) for kind, part in zip(kinds, fields, strict=True)]
    return shown[0] if len(shown) == 1 else {"concat": shown}


def _field_json(kind: str, part: str) -> Any:
    if kind in ADDRESSES and "/" in part:
        address, _, length = part.partition("/")
        return {"prefix": {"addr": address, "len": int(length)}}
    if kind in (*ADDRESSES, *NUMBERS, "integer") and "-" in part:
        return {"range": [_field_json(kind, end) for end in part.split("-")]}
    if kind == "verdict":
        return {"goto": {"target": part.removeprefix("goto ")}}
    return int(part) if kind in NUMBERS else part


def _fields_text(kinds: Key, fields: Key) -> str:
    return " . ".join(f'"{part}"' if kind == "ifname" else part for kind, part in zip(kinds, fields, strict=True))
