"""nftables in memory: tables, chains, rules, sets and maps with their elements, comments and counters. No packets.

It takes the batches that hostnet writes, all or none, refuses them where the kernel does (EEXIST, ENOENT), raises the
generation number as the kernel does, and lists what hostnet reads, as `nft -j` does. `dump` is a ruleset in nft's own
language, for tests to compare. `tests/netns/test_fakes.py` compares it with nftables 1.0.6 and Linux 6.18.
"""

from __future__ import annotations

import errno
import ipaddress
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hostnet.agent.linux.libnftables import NftError
from hostnet.fakes import nft_syntax
from hostnet.fakes.nft_syntax import PRIORITIES, Command, Element, NftSyntaxError, Words

Place = tuple[str, str]  # family and name of a table
Key = tuple[str, ...]
_PROTOCOLS = {"icmp": "1", "tcp": "6", "udp": "17", "ipv6-icmp": "58", "sctp": "132"}
_NUMBERS = ("inet_proto", "inet_service", "mark")
_ADDRESSES = ("ipv4_addr", "ipv6_addr")


@dataclass(frozen=True)
class _Held:
    """An element as it is in a set."""

    value: Key = ()
    comment: str = ""
    packets: int = 0
    bytes: int = 0


@dataclass
class _Set:
    name: str
    handle: int
    key: Key
    value: Key
    interval: bool
    counter: bool
    elements: dict[Key, _Held] = field(default_factory=dict)

    def copy(self) -> _Set:
        return replace(self, elements=dict(self.elements))


@dataclass(frozen=True)
class _Rule:
    handle: int
    words: tuple[str, ...]


@dataclass
class _Chain:
    name: str
    handle: int
    hook: dict[str, Any]  # type, hook, prio and policy of a base chain
    rules: list[_Rule] = field(default_factory=list)

    def copy(self) -> _Chain:
        return replace(self, rules=list(self.rules))


@dataclass
class _Table:
    handle: int
    owned: bool = False
    handles: int = 0
    chains: dict[str, _Chain] = field(default_factory=dict)
    sets: dict[str, _Set] = field(default_factory=dict)

    def copy(self) -> _Table:
        chains = {name: chain.copy() for name, chain in self.chains.items()}
        return replace(self, chains=chains, sets={name: each.copy() for name, each in self.sets.items()})

    def next_handle(self) -> int:
        self.handles += 1
        return self.handles


class FakeNftables:
    """Of one network namespace. Implements `hostnet.agent.linux.kernel.Nftables`.

    Attributes:
        batches: All batches that were applied, in order.
    """

    def __init__(self) -> None:
        self.batches: list[str] = []
        self._tables: dict[Place, _Table] = {}
        self._generation = 1
        self._handles = 0
        self._dry = False
        self._refusals: list[str] = []

    # --- what a test does --------------------------------------------------------------------------------------------

    def dump(self) -> str:
        """The ruleset in nft's language: tables, chains and elements in order of their names, rules in their own.

        Counters are left out. `run(dump)` makes the same in an empty `FakeNftables`.
        """
        return "".join(f"{line}\n" for line in self._dumped())

    def count(self, family: str, table: str, name: str, key: Key, packets: int, size: int) -> None:
        """Packets came: set the counter of a set's element.

        Args:
            family: Of the table.
            table: Its name.
            name: Of the set.
            key: Of the element, as nft prints its fields.
            packets: How many.
            size: Their bytes.
        """
        elements = self._tables[family, table].sets[name].elements
        elements[key] = replace(elements[key], packets=packets, bytes=size)

    def elements(self, family: str, table: str, name: str) -> dict[Key, Key]:
        """The values of a map's elements by key; of a set's, () each."""
        return {key: held.value for key, held in self._tables[family, table].sets[name].elements.items()}

    def refuse(self, why: str) -> None:
        """Refuse the next batch.

        Args:
            why: What nft says.
        """
        self._refusals.append(why)

    # --- what the agent asks -----------------------------------------------------------------------------------------

    def run(self, batch: str) -> None:
        """Apply a batch, all or nothing."""
        if self._refusals:
            raise NftError(self._refusals.pop(0))
        try:
            commands = nft_syntax.parse(batch)
        except NftSyntaxError as error:
            raise NftError(f"Error: {error}") from None
        work = _Batch({place: table.copy() for place, table in self._tables.items()}, self._handles)
        for command in commands:
            work.perform(command)
        if self._dry:
            return
        self.batches.append(batch)
        self._tables, self._handles = work.tables, work.handles
        # The kernel commits, and counts, no transaction that changes nothing.
        self._generation += work.changed

    def dry_run(self, *, on: bool) -> None:
        """Whether batches are only checked."""
        self._dry = on

    def generation(self) -> int:
        """The number of the last change."""
        return self._generation

    def tables(self) -> dict[Place, bool]:
        """The tables of IP, and whether a program owns each."""
        return {place: table.owned for place, table in self._tables.items() if place[0] in ("inet", "ip", "ip6")}

    def xt_comments(self, family: str, table: str, chain: str) -> dict[int, str]:
        """None: the fake has no extension of iptables-nft's."""
        del family, table, chain
        return {}

    def lines(self, command: str) -> Sequence[str]:
        """What `nft <command>` prints: `list tables` is known."""
        if command != "list tables":
            raise NotImplementedError(command)
        return [f"table {family} {name}" for family, name in self._tables]

    def list(self, command: str, *, terse: bool = False) -> list[dict[str, Any]]:
        """What `nft -j <command>` lists: `list` of `tables`, `chains`, `table`, `chain` and `ruleset` are known."""
        _, what, *of = command.split()
        listed: list[dict[str, Any]] = [{"metainfo": {"version": "1.0.6-fake", "json_schema_version": 1}}]
        if what in ("tables", "chains", "ruleset"):
            for place in self._tables:
                listed += [each for each in self._listed(place, terse=terse) if what == "ruleset" or what[:-1] in each]
        elif what == "table":
            listed += self._listed(self._found(of), terse=terse)
        elif what == "chain":
            family, name = self._found(of)
            chain = self._tables[family, name].chains.get(of[2])
            if chain is None:
                raise _refusal(errno.ENOENT, command)
            listed += [{"chain": _chain_json(family, name, chain)}, *_rules_json(family, name, chain)]
        else:
            raise NotImplementedError(command)
        return listed

    def _found(self, words: Words) -> Place:
        family, name = words[:2]
        if (family, name) not in self._tables:
            raise _refusal(errno.ENOENT, f"list table {family} {name}")
        return family, name

    def _listed(self, place: Place, *, terse: bool) -> Iterator[dict[str, Any]]:
        family, name = place
        table = self._tables[place]
        yield {"table": {"family": family, "name": name, "handle": table.handle}}
        for each in table.sets.values():
            yield {"map" if each.value else "set": _set_json(family, name, each, terse=terse)}
        for chain in table.chains.values():
            yield {"chain": _chain_json(family, name, chain)}
        for chain in table.chains.values():
            yield from _rules_json(family, name, chain)

    def _dumped(self) -> Iterator[str]:
        for (family, name), table in sorted(self._tables.items()):
            yield f"add table {family} {name}" + (" { flags owner; }" if table.owned else "")
            for chain in sorted(table.chains.values(), key=lambda each: each.name):
                yield f"add chain {family} {name} {chain.name}" + _hook_text(chain.hook)
            for each in sorted(table.sets.values(), key=lambda each: each.name):
                yield f"add {'map' if each.value else 'set'} {family} {name} {each.name} {_set_text(each)}"
                for key, held in sorted(each.elements.items()):
                    yield f"add element {family} {name} {each.name} {{ {_element_text(each, key, held)} }}"
            for chain in sorted(table.chains.values(), key=lambda each: each.name):
                yield from (f"add rule {family} {name} {chain.name} {' '.join(rule.words)}" for rule in chain.rules)


# --- changes -------------------------------------------------------------------------------------------------------


class _Batch:
    """A transaction on tables that may be thrown away.

    Attributes:
        changed: Whether it changes anything.
    """

    def __init__(self, tables: dict[Place, _Table], handles: int) -> None:
        self.tables, self.handles, self.changed = tables, handles, False

    def perform(self, command: Command) -> None:
        """Perform one command.

        Raises:
            NftError: As nft says it.
        """
        if command.kind == "ruleset":
            self.changed |= bool(self.tables)
            self.tables.clear()
            return
        verb = "add" if command.verb == "insert" else command.verb
        perform = getattr(self, f"_{'add' if verb == 'create' else verb}_{command.kind}", None)
        if perform is None:
            raise NotImplementedError(command.text)
        perform(command)

    def _table(self, command: Command) -> _Table:
        table = self.tables.get((command.family, command.table))
        if table is None:
            raise _refusal(errno.ENOENT, command.text)
        return table

    def _set(self, command: Command) -> _Set:
        found = self._table(command).sets.get(command.name)
        if found is None:
            raise _refusal(errno.ENOENT, command.text)
        return found

    def _chain(self, command: Command) -> _Chain:
        chain = self._table(command).chains.get(command.name)
        if chain is None:
            raise _refusal(errno.ENOENT, command.text)
        return chain

    def _add_table(self, command: Command) -> None:
        place = command.family, command.table
        if place in self.tables:
            if command.verb == "create":
                raise _refusal(errno.EEXIST, command.text)
            return
        self.handles += 1
        self.tables[place] = _Table(self.handles, owned="owner" in command.properties.get("flags", ()))
        self.changed = True

    def _delete_table(self, command: Command) -> None:
        self._table(command)
        del self.tables[command.family, command.table]
        self.changed = True

    def _flush_table(self, command: Command) -> None:
        for chain in self._table(command).chains.values():
            self.changed |= bool(chain.rules)
            chain.rules.clear()

    def _add_chain(self, command: Command) -> None:
        table = self._table(command)
        self.changed = True  # the kernel counts it also where nothing is new
        if command.name in table.chains:
            if command.verb == "create":
                raise _refusal(errno.EEXIST, command.text)
            return
        hook = _hook(command.properties)
        table.chains[command.name] = _Chain(command.name, table.next_handle(), hook)

    def _delete_chain(self, command: Command) -> None:
        table = self._table(command)
        self._chain(command)
        if any({"jump", "goto"} & set(words) and command.name in words for words in _all_words(table)):
            raise _refusal(errno.EBUSY, command.text)
        del table.chains[command.name]
        self.changed = True

    def _flush_chain(self, command: Command) -> None:
        chain = self._chain(command)
        self.changed |= bool(chain.rules)
        chain.rules.clear()

    def _add_set(self, command: Command) -> None:
        table = self._table(command)
        if command.name not in table.sets:
            key, value = _types(command.properties["type"])
            interval = "interval" in command.properties.get("flags", ())
            counter = "counter" in command.properties
            table.sets[command.name] = _Set(command.name, table.next_handle(), key, value, interval, counter)
            self.changed = True
        elif command.verb == "create":
            raise _refusal(errno.EEXIST, command.text)
        self._add_element(command)

    def _delete_set(self, command: Command) -> None:
        table = self._table(command)
        self._set(command)
        if any(f"@{command.name}" in words for words in _all_words(table)):
            raise _refusal(errno.EBUSY, command.text)
        del table.sets[command.name]
        self.changed = True

    def _flush_set(self, command: Command) -> None:
        found = self._set(command)
        self.changed |= bool(found.elements)
        found.elements.clear()

    def _add_element(self, command: Command) -> None:
        found = self._set(command)
        for element in command.elements:
            key, value = _normal(found.key, element.key), _normal(found.value, element.value)
            held = found.elements.get(key)
            if held is None:
                _check_overlap(found, key, element, command)
                found.elements[key] = _Held(value, element.comment)
                self.changed = True
            elif held.value != value or command.verb == "create":
                raise _refusal(errno.EEXIST, command.text, element)

    def _delete_element(self, command: Command) -> None:
        found = self._set(command)
        for element in command.elements:
            key = _normal(found.key, element.key)
            if key not in found.elements:
                if found.interval and len(found.key) == 1:  # nft sees it before it asks the kernel
                    raise NftError(f"Error: element does not exist\n{command.text}")
                raise _refusal(errno.ENOENT, command.text, element)
            del found.elements[key]
            self.changed = True

    def _add_rule(self, command: Command) -> None:
        table, chain = self._table(command), self._chain(command)
        for before, word in zip(["", *command.words], command.words):  # noqa: B905 - the last word has no successor
            if word.startswith("@") and word[1:] not in table.sets:
                raise _refusal(errno.ENOENT, command.text)
            if before in ("jump", "goto") and word not in table.chains:
                raise _refusal(errno.ENOENT, command.text)
        rule = _Rule(table.next_handle(), tuple(command.words))
        if command.handle is None:
            chain.rules.insert(0 if command.verb == "insert" else len(chain.rules), rule)
        else:
            at = _number(chain, command.handle, command.text)
            chain.rules.insert(at if command.verb == "insert" else at + 1, rule)
        self.changed = True

    def _delete_rule(self, command: Command) -> None:
        chain = self._chain(command)
        del chain.rules[_number(chain, command.handle or 0, command.text)]
        self.changed = True


def _refusal(code: int, text: str, element: Element | None = None) -> NftError:
    """As nft says it: what the kernel answered, and the command."""
    what = f"{text} {{ {' . '.join(element.key)} }}" if element else text
    return NftError(f"Error: Could not process rule: {os.strerror(code)}\n{what}")


def _number(chain: _Chain, handle: int, text: str) -> int:
    """The place of the rule of this handle."""
    for number, rule in enumerate(chain.rules):
        if rule.handle == handle:
            return number
    raise _refusal(errno.ENOENT, text)


def _all_words(table: _Table) -> Iterable[tuple[str, ...]]:
    return (rule.words for chain in table.chains.values() for rule in chain.rules)


def _types(words: Words) -> tuple[Key, Key]:
    at = words.index(":") if ":" in words else len(words)
    return tuple(words[:at:2]), tuple(words[at + 1 :: 2])


def _hook(properties: dict[str, Words]) -> dict[str, Any]:
    """A base chain's properties, of `type filter hook forward priority filter + 10`."""
    if "type" not in properties:
        return {}
    kind, _, hook, _, *priority = properties["type"]
    base, *offset = priority
    number = PRIORITIES[base] if base in PRIORITIES else int(base)
    if offset:
        number += int(offset[1]) * (-1 if offset[0] == "-" else 1)
    policy = properties.get("policy", ["accept"])[0]
    return {"type": kind, "hook": hook, "prio": number, "policy": policy}


def _normal(kinds: Key, fields: Key) -> Key:
    """A key or value as nft prints its fields."""
    return tuple(_normal_field(kind, part) for kind, part in zip(kinds, fields, strict=True))


def _normal_field(kind: str, part: str) -> str:
    if kind == "inet_proto":
        return _PROTOCOLS.get(part, part)
    if kind in _ADDRESSES and "/" in part:
        network = ipaddress.ip_network(part)
        return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)
    return part


def _span(kind: str, part: str) -> tuple[Any, Any]:
    """The first and last value of a field."""
    if kind in _ADDRESSES:
        if "/" in part:
            network = ipaddress.ip_network(part)
            return int(network[0]), int(network[-1])
        low, _, high = part.partition("-")
        return int(ipaddress.ip_address(low)), int(ipaddress.ip_address(high or low))
    if kind in _NUMBERS:
        low, _, high = part.partition("-")
        return int(low), int(high or low)
    return part, part


def _check_overlap(into: _Set, key: Key, element: Element, command: Command) -> None:
    """Refuse what overlaps with another element of an interval set.

    A set of one field refuses any overlap. nft_set_pipapo, of several, looks up the new element's lowest and highest
    key, and takes one that only contains another.
    """
    if not into.interval:
        return
    new = [_span(kind, part) for kind, part in zip(into.key, key, strict=True)]
    for other in into.elements:
        old = [_span(kind, part) for kind, part in zip(into.key, other, strict=True)]
        if len(new) == 1:
            if new[0][0] <= old[0][1] and old[0][0] <= new[0][1]:
                raise NftError(f"Error: interval overlaps with an existing one\n{command.text}")
        elif any(all(o[0] <= n[end] <= o[1] for n, o in zip(new, old, strict=True)) for end in (0, 1)):
            raise _refusal(errno.EEXIST, command.text, element)


# --- as JSON -------------------------------------------------------------------------------------------------------


def _set_json(family: str, table: str, each: _Set, *, terse: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"family": family, "name": each.name, "table": table, "type": _one_or_all(each.key)}
    body["handle"] = each.handle
    if each.value:
        body["map"] = " . ".join(each.value)
    if each.interval:
        body["flags"] = ["interval"]
    if each.elements and not terse:
        body["elem"] = [_element_json(each, key, held) for key, held in each.elements.items()]
    if each.counter:
        body["stmt"] = [{"counter": None}]
    return body


def _element_json(each: _Set, key: Key, held: _Held) -> Any:
    shown = _fields_json(each.key, key)
    more: dict[str, Any] = {"comment": held.comment} if held.comment else {}
    if each.counter:
        more["counter"] = {"packets": held.packets, "bytes": held.bytes}
    if more:
        shown = {"elem": {"val": shown, **more}}
    return [shown, _fields_json(each.value, held.value)] if each.value else shown


def _fields_json(kinds: Key, fields: Key) -> Any:
    shown = [_field_json(kind, part) for kind, part in zip(kinds, fields, strict=True)]
    return shown[0] if len(shown) == 1 else {"concat": shown}


def _field_json(kind: str, part: str) -> Any:
    if kind in _ADDRESSES and "/" in part:
        address, _, length = part.partition("/")
        return {"prefix": {"addr": address, "len": int(length)}}
    if kind in (*_ADDRESSES, *_NUMBERS) and "-" in part:
        return {"range": [_field_json(kind, end) for end in part.split("-")]}
    return int(part) if kind in _NUMBERS else part


def _one_or_all(fields: Key) -> Any:
    return fields[0] if len(fields) == 1 else list(fields)


def _chain_json(family: str, table: str, chain: _Chain) -> dict[str, Any]:
    return {"family": family, "table": table, "name": chain.name, "handle": chain.handle, **chain.hook}


def _rules_json(family: str, table: str, chain: _Chain) -> Iterator[dict[str, Any]]:
    for rule in chain.rules:
        found, comment = nft_syntax.expressions(list(rule.words))
        body = {"family": family, "table": table, "chain": chain.name, "handle": rule.handle}
        yield {"rule": {**body, **({"comment": comment} if comment else {}), "expr": found}}


# --- as text -------------------------------------------------------------------------------------------------------


def _hook_text(hook: dict[str, Any]) -> str:
    if not hook:
        return ""
    return " {{ type {type} hook {hook} priority {prio}; policy {policy}; }}".format(**hook)


def _set_text(each: _Set) -> str:
    value = f" : {' . '.join(each.value)}" if each.value else ""
    flags = (" flags interval;" if each.interval else "") + (" counter;" if each.counter else "")
    return f"{{ type {' . '.join(each.key)}{value};{flags} }}"


def _element_text(each: _Set, key: Key, held: _Held) -> str:
    comment = f' comment "{held.comment}"' if held.comment else ""
    value = f" : {_fields_text(each.value, held.value)}" if each.value else ""
    return _fields_text(each.key, key) + comment + value


def _fields_text(kinds: Key, fields: Key) -> str:
    return " . ".join(f'"{part}"' if kind == "ifname" else part for kind, part in zip(kinds, fields, strict=True))
