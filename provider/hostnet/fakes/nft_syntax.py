"""The part of nft's language that hostnet writes, and that a test needs to set up other programs' tables.

Text becomes commands, and a rule becomes expressions as `nft -j` prints them. Expressions are exact for what hostnet
reads in others' rules: interfaces, counters, verdicts, comments. Any other condition or statement is one `match` whose
left side is its text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

FAMILIES = ("ip", "ip6", "inet", "arp", "bridge", "netdev")
PRIORITIES = {"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}
_TOKEN = re.compile(r'"[^"]*"|[{};,\n]|[^\s{};,"]+')
_VERDICTS = ("accept", "drop", "return", "continue")
_INTERFACES = ("iifname", "oifname", "iif", "oif")

Words = list[str]


class NftSyntaxError(Exception):
    """A text that is not nft's language, or not the part of it that is known here."""


@dataclass
class Element:
    """An element of a set or map: fields as nft prints them, `10.0.0.0/8`, `80-90`, without quotes.

    `limit` is its rate and burst in bytes, as `limit rate over 8000 bytes/second burst 65536 bytes` has them, `expires`
    the seconds that it stays.
    """

    key: tuple[str, ...]
    value: tuple[str, ...] = ()
    comment: str = ""
    limit: tuple[int, int] = (0, 0)
    expires: int = 3600


@dataclass
class Command:
    """One command.

    Attributes:
        verb: "add", "create", "insert", "delete", "destroy", "flush".
        kind: "table", "chain", "rule", "set" (of maps as well), "element", "ruleset".
        family: Of the table.
        table: Its name.
        name: Of the chain or set.
        handle: Of the rule to delete, or to insert another beside.
        words: Of a rule: its text.
        properties: Of a table, chain or set: its statements by their first word.
        elements: Of a set or of "element".
        text: The whole command, for messages.
    """

    verb: str
    kind: str
    family: str = "ip"
    table: str = ""
    name: str = ""
    handle: int | None = None
    words: Words = field(default_factory=list)
    properties: dict[str, Words] = field(default_factory=dict)
    elements: list[Element] = field(default_factory=list)
    text: str = ""


class _Reader:
    """Takes words one by one."""

    def __init__(self, words: Words) -> None:
        self._words, self._at = words, 0

    @property
    def next(self) -> str:
        """The next word; "" at the end."""
        return self._words[self._at] if self._at < len(self._words) else ""

    def ahead(self, count: int) -> Words:
        """So many words behind the next one."""
        return self._words[self._at + 1 : self._at + 1 + count]

    def take(self) -> str:
        """The next word, taken.

        Raises:
            NftSyntaxError: There is none.
        """
        word = self.next
        if not word:
            raise NftSyntaxError("unexpected end of text")
        self._at += 1
        return word

    def taken(self, *wanted: str) -> bool:
        """Take the next word if it is one of these."""
        if self.next not in wanted:
            return False
        self._at += 1
        return True

    def skip(self) -> bool:
        """Skip what separates statements; whether a word follows."""
        while self.taken("\n", ";"):
            pass
        return bool(self.next)

    def statement(self) -> Words:
        """The words up to the end of a statement; what stands in braces belongs to it."""
        words: Words = []
        depth = 0
        while self.next and (depth or self.next not in ("\n", ";", "}")):
            depth += {"{": 1, "}": -1}.get(self.next, 0)
            words.append(self.take())
        return words

    def block(self) -> Iterator[Words]:
        """The statements in braces, if braces follow."""
        if not self.taken("{"):
            return
        while self.skip() and not self.taken("}"):
            yield self.statement()


def parse(text: str) -> list[Command]:
    """The commands of a batch, in the order in which nft sends them.

    Raises:
        NftSyntaxError: The text is not known.
    """
    reader = _Reader(_TOKEN.findall(re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)))
    found: list[Command] = []
    while reader.skip():
        found += _command(reader)
    return found


def _command(reader: _Reader) -> Iterator[Command]:
    verb = reader.take() if reader.next in ("add", "create", "insert", "delete", "destroy", "flush") else "add"
    kind = reader.take()
    if kind == "ruleset":
        yield Command(verb, kind, text="flush ruleset")
        return
    if kind not in ("table", "chain", "rule", "set", "map", "element"):
        raise NftSyntaxError(f"syntax error, unexpected {kind}")
    family = reader.take() if reader.next in FAMILIES else "ip"
    table = _plain(reader.take())
    head = Command(verb, "set" if kind == "map" else kind, family, table)
    if kind == "table":
        yield from _table(reader, head)
        return
    head.name = _plain(reader.take())
    head.text = f"{verb} {kind} {family} {table} {head.name}"
    if kind == "rule":
        yield _rule(reader, head)
    elif kind == "element":
        head.elements = _elements(reader.statement())
        yield head
    else:
        yield from _body(head, list(reader.block()))


def _table(reader: _Reader, head: Command) -> Iterator[Command]:
    """A table, and what stands in its braces: nft sends chains first, then sets, then rules."""
    head.text = f"{head.verb} table {head.family} {head.table}"
    inside: list[Command] = []
    for words in reader.block():
        if words[0] in ("chain", "set", "map"):
            inner = _Reader(words)
            kind, name = inner.take(), _plain(inner.take())
            text = f"add {kind} {head.family} {head.table} {name}"
            made = Command("add", "set" if kind == "map" else kind, head.family, head.table, name, text=text)
            inside += _body(made, list(inner.block()))
        else:
            head.properties[words[0]] = words[1:]
    yield head
    for kind in ("chain", "set", "rule"):
        yield from (each for each in inside if each.kind == kind)


def _body(head: Command, statements: list[Words]) -> Iterator[Command]:
    """A chain or set with what stands in its braces: its properties, and the rules of a chain."""
    known = (
        ("type", "policy", "comment")
        if head.kind == "chain"
        else ("type", "typeof", "flags", "counter", "limit", "elements", "size", "timeout", "comment")
    )
    rules = []
    for words in statements:
        if words[0] not in known:
            rules.append(words)
        elif words[0] == "elements":
            head.elements = _elements(words[2:])
        else:
            head.properties[words[0]] = words[1:]
    yield head
    for words in rules:
        text = f"add rule {head.family} {head.table} {head.name}"
        yield Command("add", "rule", head.family, head.table, head.name, words=words, text=text)


def _rule(reader: _Reader, head: Command) -> Command:
    if reader.taken("handle", "position"):
        head.handle = int(reader.take())
    head.words = reader.statement()
    return head


def _elements(words: Words) -> list[Element]:
    """The elements in braces."""
    if words[:1] != ["{"] or words[-1] != "}":
        raise NftSyntaxError("syntax error, elements stand in braces")
    found: list[Element] = []
    part: Words = []
    for word in [*words[1:-1], ","]:
        if word == ",":
            if part:
                found.append(_element(part))
            part = []
        elif word != "\n":
            part.append(word)
    return found


def _element(words: Words) -> Element:
    comment = ""
    if "comment" in words:
        at = words.index("comment")
        comment, words = _plain(words[at + 1]), words[:at] + words[at + 2 :]
    limit = (0, 0)
    if "limit" in words:
        at = words.index("limit")
        limit, words = (int(words[at + 3]), int(words[at + 6])), words[:at]
    expires = 3600
    if "expires" in words:
        at = words.index("expires")
        expires, words = int(words[at + 1].removesuffix("s")), words[:at]
    at = words.index(":") if ":" in words else len(words)
    value = words[at + 1 :]
    # A verdict is one field.
    fields = (" ".join(value),) if value[:1] == ["goto"] else _fields(value)
    return Element(_fields(words[:at]), fields, comment, limit, expires)


def _fields(words: Words) -> tuple[str, ...]:
    return tuple(_plain(word) for word in words if word != ".")


def _plain(word: str) -> str:
    return word[1:-1] if word.startswith('"') else word


def expressions(words: Words) -> tuple[list[dict[str, Any]], str]:
    """A rule's expressions, as `nft -j` prints them, and its comment."""
    comment = ""
    if "comment" in words:
        at = words.index("comment")
        comment, words = _plain(words[at + 1]), words[:at]
    found: list[dict[str, Any]] = []
    rest: Words = []
    reader = _Reader(words)
    while reader.next:
        known = _known(reader) if reader.next != "." and rest[-1:] != ["."] else None
        if known is None:
            rest.append(reader.take())
            continue
        found += [*_other(rest), known]
        rest = []
    return [*found, *_other(rest)], comment


def _other(words: Words) -> list[dict[str, Any]]:
    return [{"match": {"op": "==", "left": " ".join(words), "right": ""}}] if words else []


def _known(reader: _Reader) -> dict[str, Any] | None:
    """The next expression, where it is one that hostnet reads; nothing is taken where it is not."""
    word = reader.next
    if word in _VERDICTS:
        return {reader.take(): None}
    if word in ("jump", "goto"):
        return {reader.take(): {"target": reader.take()}}
    if word == "counter":
        reader.take()
        numbers = {name: int(reader.take()) if reader.taken(name) else 0 for name in ("packets", "bytes")}
        return {"counter": numbers}
    if word == "log":
        reader.take()
        while reader.taken("prefix", "level", "group", "snaplen", "queue-threshold", "flags"):
            reader.take()
        return {word: None}
    if word == "reject":
        reader.take()
        if reader.taken("with"):  # `icmpx admin-prohibited`, `icmp type port-unreachable`, `tcp reset`
            reader.take()
            reader.taken("type")
            reader.take()
        return {word: None}
    return _interface(reader) if word in _INTERFACES else None


def _interface(reader: _Reader) -> dict[str, Any] | None:
    """A condition on an interface's name; not one on a concatenation, nor a lookup in a named set."""
    first, second = (*reader.ahead(2), "", "")[:2]
    value = second if first in ("!=", "==") else first
    if value in ("", ".", "map") or value.startswith("@"):
        return None
    key = reader.take()
    negated = reader.taken("!=")
    reader.taken("==")
    right: Any = _plain(reader.take())
    if right == "{":
        right = {"set": []}
        while not reader.taken("}"):
            if not reader.taken(",", "\n"):
                right["set"].append(_plain(reader.take()))
    return {"match": {"op": "!=" if negated else "==", "left": {"meta": {"key": key}}, "right": right}}
