"""nftables in memory: tables, chains, rules, sets and maps with their elements, comments and counters. No packets.

It takes the batches that hostnet writes, all or none, refuses them where the kernel does (EEXIST, ENOENT), raises the
generation number as the kernel does, and lists what hostnet reads, as `nft -j` does. `dump` is a ruleset in nft's own
language, for tests to compare. `tests/netns/test_fakes.py` compares it with nftables 1.0.6 and Linux 6.18.
"""

from __future__ import annotations

import errno
import ipaddress
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from hostnet.agent.linux.kernel import RawChange, RawElement, RawTable, TableHead
from hostnet.agent.linux.libnftables import NftError
from hostnet.fakes import nft_syntax
from hostnet.fakes.nft_state import ADDRESSES, NUMBERS, Chain, Held, Key, Place, Rule, Set, Table
from hostnet.fakes.nft_syntax import PRIORITIES, Command, Element, NftSyntaxError, Words

_PAYLOAD = ("@th", "@nh", "@ll")  # a part of the packet, and no set
_PROTOCOLS = {"icmp": "1", "tcp": "6", "udp": "17", "ipv6-icmp": "58", "sctp": "132"}


class FakeNftables:
    """Of one network namespace. Implements `hostnet.agent.linux.kernel.Nftables`.

    Attributes:
        batches: All batches that were applied, in order.
    """

    def __init__(self) -> None:
        self.batches: list[str] = []
        self._tables: dict[Place, Table] = {}
        self._generation = 1
        self._handles = 0
        self._dry = False
        self._refusals: list[str] = []

    # --- what a test does --------------------------------------------------------------------------------------------

    def dump(self) -> str:
        """The ruleset in nft's language: tables, chains and elements in order of their names, rules in their own.

        Counters are left out. `run(dump)` makes the same in an empty `FakeNftables`.
        """
        return "".join(f"{line}\n" for place, table in sorted(self._tables.items()) for line in table.text(place))

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

    def change(self, changes: Sequence[RawChange], batch: Callable[[], str]) -> None:
        """Apply a batch of elements, all or nothing."""
        del changes
        self.run(batch())

    def dry_run(self, *, on: bool) -> None:
        """Whether batches are only checked."""
        self._dry = on

    def generation(self) -> int:
        """The number of the last change."""
        return self._generation

    def tables(self) -> dict[Place, TableHead]:
        """The tables of IP."""
        found = {place: TableHead(table.owned, table.comment) for place, table in self._tables.items()}
        return {place: head for place, head in found.items() if place[0] in ("inet", "ip", "ip6")}

    def table(self, table: str, *, elements: bool = True, apart: str = "") -> RawTable | None:
        """A table; None where there is none."""
        family, name = table.split()
        found = self._tables.get((family, name))
        return found.raw((family, name), apart, elements=elements) if found is not None else None

    def set_elements(self, table: str, name: str) -> Sequence[RawElement]:
        """The elements of a set; none where there is no such set."""
        family, own = table.split()
        found = self._tables.get((family, own))
        return list(found.sets[name].raw()) if found is not None and name in found.sets else []

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
            found = [item for place, table in self._tables.items() for item in table.json(place, terse=terse)]
            return listed + [item for item in found if what == "ruleset" or what[:-1] in item]
        if what not in ("table", "chain"):
            raise NotImplementedError(command)
        place = of[0], of[1]
        table = self._tables.get(place)
        if table is None or (what == "chain" and of[2] not in table.chains):
            raise _refusal(errno.ENOENT, command)
        if what == "table":
            return [*listed, *table.json(place, terse=terse)]
        return [*listed, table.chains[of[2]].json(place), *table.chains[of[2]].rules_json(place)]


# --- changes -------------------------------------------------------------------------------------------------------


class _Batch:
    """A transaction on tables that may be thrown away.

    Attributes:
        changed: Whether it changes anything.
    """

    def __init__(self, tables: dict[Place, Table], handles: int) -> None:
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

    def _table(self, command: Command) -> Table:
        table = self.tables.get((command.family, command.table))
        if table is None:
            raise _refusal(errno.ENOENT, command.text)
        return table

    def _set(self, command: Command) -> Set:
        found = self._table(command).sets.get(command.name)
        if found is None:
            raise _refusal(errno.ENOENT, command.text)
        return found

    def _chain(self, command: Command) -> Chain:
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
        self.tables[place] = Table(
            self.handles,
            owned="owner" in command.properties.get("flags", ()),
            comment=" ".join(command.properties.get("comment", ())).strip('"'),
        )
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
        table.chains[command.name] = Chain(command.name, table.next_handle(), hook)

    def _delete_chain(self, command: Command) -> None:
        table = self._table(command)
        self._chain(command)
        led = {value for each in table.sets.values() for held in each.elements.values() for value in held.value}
        if f"goto {command.name}" in led:
            raise _refusal(errno.EBUSY, command.text)
        if any({"jump", "goto"} & {*rule.words} and command.name in rule.words for rule in table.rules()):
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
            key, value = _types(command.properties)
            flags = command.properties.get("flags", ())
            interval, seen = "interval" in flags, "dynamic" in flags
            timed = "timeout" in flags and not seen
            comment = " ".join(command.properties.get("comment", ())).strip('"')
            counter = "counter" in command.properties
            limit = "limit" in command.properties
            table.sets[command.name] = Set(
                command.name, table.next_handle(), key, value, interval, counter, limit, seen, timed, comment
            )
            self.changed = True
        elif command.verb == "create":
            raise _refusal(errno.EEXIST, command.text)
        self._add_element(command)

    def _delete_set(self, command: Command) -> None:
        table = self._table(command)
        self._set(command)
        if any(f"@{command.name}" in rule.words for rule in table.rules()):
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
                for to in (each.removeprefix("goto ") for each in value if each.startswith("goto ")):
                    if to not in self._table(command).chains:
                        raise _refusal(errno.ENOENT, command.text, element)
                found.elements[key] = Held(value, element.comment, limit=element.limit, expires=element.expires)
                self.changed = True
            elif held.value != value or command.verb == "create":
                raise _refusal(errno.EEXIST, command.text, element)

    def _delete_element(self, command: Command) -> None:
        found = self._set(command)
        for element in command.elements:
            key = _normal(found.key, element.key)
            if found.interval and len(found.key) == 1 and key not in found.elements:
                # nft sees it before it asks the kernel.
                raise NftError(f"Error: element does not exist\n{command.text}")
            if found.interval and len(found.key) > 1:
                # nft_set_pipapo takes the first element that the lowest key lies in.
                key = next((other for other in found.elements if _holds(found, other, key)), key)
            if key not in found.elements:
                raise _refusal(errno.ENOENT, command.text, element)
            del found.elements[key]
            self.changed = True

    def _add_rule(self, command: Command) -> None:
        table, chain = self._table(command), self._chain(command)
        for before, word in zip(["", *command.words], command.words):  # noqa: B905 - the last word has no successor
            if word.startswith("@") and word not in _PAYLOAD and word[1:] not in table.sets:
                raise _refusal(errno.ENOENT, command.text)
            if before in ("jump", "goto") and word not in table.chains:
                raise _refusal(errno.ENOENT, command.text)
        rule = Rule(table.next_handle(), tuple(command.words))
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


def _number(chain: Chain, handle: int, text: str) -> int:
    """The place of the rule of this handle."""
    for number, rule in enumerate(chain.rules):
        if rule.handle == handle:
            return number
    raise _refusal(errno.ENOENT, text)


def _types(properties: dict[str, Words]) -> tuple[Key, Key]:
    """The types of a set's key and value. A part of a packet without a name (`@th,64,128`) is an integer."""
    if "typeof" in properties:
        fields = " ".join(properties["typeof"]).split(" . ")
        return tuple("ifname" if each == "meta iifname" else "integer" for each in fields), ()
    words = properties["type"]
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
    if kind in ADDRESSES and "/" in part:
        network = ipaddress.ip_network(part)
        return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)
    return part


def _span(kind: str, part: str) -> tuple[Any, Any]:
    """The first and last value of a field."""
    if kind in ADDRESSES:
        if "/" in part:
            network = ipaddress.ip_network(part)
            return int(network[0]), int(network[-1])
        low, _, high = part.partition("-")
        return int(ipaddress.ip_address(low)), int(ipaddress.ip_address(high or low))
    if kind in NUMBERS:
        low, _, high = part.partition("-")
        return int(low), int(high or low)
    return part, part


def _spans(into: Set, key: Key) -> list[tuple[Any, Any]]:
    return [_span(kind, part) for kind, part in zip(into.key, key, strict=True)]


def _holds(into: Set, other: Key, key: Key, end: int = 0) -> bool:
    """Whether the lowest key of an element (`end` 1: the highest) lies in another element."""
    pairs = zip(_spans(into, key), _spans(into, other), strict=True)
    return all(old[0] <= new[end] <= old[1] for new, old in pairs)


def _check_overlap(into: Set, key: Key, element: Element, command: Command) -> None:
    """Refuse what overlaps with another element of an interval set.

    A set of one field refuses any overlap. nft_set_pipapo, of several, looks up the new element's lowest and highest
    key, and takes one that only contains another.
    """
    for other in into.elements if into.interval else ():
        if len(key) == 1:
            (new,), (old,) = _spans(into, key), _spans(into, other)
            if new[0] <= old[1] and old[0] <= new[1]:
                raise NftError(f"Error: interval overlaps with an existing one\n{command.text}")
        elif _holds(into, other, key) or _holds(into, other, key, end=1):
            raise _refusal(errno.EEXIST, command.text, element)
