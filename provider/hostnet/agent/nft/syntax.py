"""Elements in nft's syntax and as bytes, and our tables as elements. Pure."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from hostnet.agent.dhcp.domains import NOTHING_SET
from hostnet.agent.linux.kernel import RawElement, RawTable
from hostnet.agent.linux.libnftables import verdict_text
from hostnet.agent.nft.ruleset import (
    LIST_CHAINS,
    MADE,
    NAME_SETS,
    PROTOCOLS,
    RAW,
    SETS,
    SHARED,
    VERDICT,
    Element,
    Place,
    SetSpec,
)
from hostnet.wire.digest import sha256
from hostnet.wire.protocol import STATE_DIR

_NUMBERS = {**PROTOCOLS, "icmp": "1", "icmpv6": "58"}
# A chain of a list by domain name, and a set of a name's addresses.
_LIST_CHAIN, _NAME_SET = re.compile(r"list_[0-9a-f]{12}"), re.compile(r"n[46]_[0-9a-f]{12}")
_LIST_RULE = re.compile(
    r"((meta l4proto [0-9]{1,3}|(tcp|udp|sctp) dport [0-9]{1,5}(-[0-9]{1,5})?) )?ip6? daddr @n[46]_[0-9a-f]{12} return"
    r"|goto [a-z_]{1,20}"
)
_NAMES = {number: name for name, number in _NUMBERS.items()}
# nft's strings have no escape for a quote, and a `*` at the end is a wildcard to it (1.0.6).
_IFNAME = re.compile(r"[A-Za-z0-9_.@+=~%,#-]{1,15}")


LIMIT_BURST = 65536  # bytes: the largest packet of several segments fits
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
# By type: the form of a value, what it is, and how it is written.
_WORDS = {
    "ifname": (_IFNAME, "interface name", '"{}"'),
    "ether_addr": (_MAC, "MAC address", "{}"),
    "verdict": (_LIST_CHAIN, "chain of a list", "goto {}"),
}
_IFNAMSIZ, _IPV4_BYTES = 16, 4
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
    if element.set in MADE:
        return ", ".join((*element.key, *element.value))
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


_ETHERTYPES = {"sender4": b"\x08\x00", "sender6": b"\x86\xdd"}  # of IPv4 and IPv6, after a MAC address

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
    "sender4": lambda address: _mac_bytes(address) + _ETHERTYPES["sender4"],
    "sender6": lambda address: _mac_bytes(address) + _ETHERTYPES["sender6"],
    "source4": _ip_bytes(socket.AF_INET),
    "source6": _ip_bytes(socket.AF_INET6),
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
    if kind in _WORDS:
        pattern, what, form = _WORDS[kind]
        if not pattern.fullmatch(value):
            msg = f"{value!r} is no {what}"
            raise ValueError(msg)
        return form.format(value)
    if kind == "inet_proto":
        if value not in (_NUMBERS if icmp else PROTOCOLS):
            msg = f"{value!r} is no protocol"
            raise ValueError(msg)
        return _NUMBERS[value]
    if kind == "inet_service":
        low, _, high = value.partition("-")
        return f"{int(low)}-{int(high)}" if high else str(int(low))
    if kind in RAW:
        return _number(kind, value)
    if not _is_network(value, 4 if kind == "ipv4_addr" else 6):
        msg = f"{value!r} is no {kind}"
        raise ValueError(msg)
    return value


def list_chain(name: str) -> str:
    """The name of a chain of a list by domain name.

    Raises:
        ValueError: It is none.
    """
    return _checked(_LIST_CHAIN, name)


def name_set(name: str) -> str:
    """The name of a set of a name's addresses; raises as `list_chain`."""
    return _checked(_NAME_SET, name)


def list_rule(text: str) -> str:
    """A rule of such a chain; raises as `list_chain`."""
    return _checked(_LIST_RULE, text)


def _checked(pattern: re.Pattern[str], value: str) -> str:
    if not pattern.fullmatch(value):
        msg = f"{value!r} is not of the form {pattern.pattern}"
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


def _number(kind: str, value: str) -> str:
    """An address as nft writes a part of a packet that has no name: a number, or the first and last of a network."""
    if kind not in ("nd_target", "nd_prefix"):
        return f"{int.from_bytes(_ENCODINGS[kind](value), 'big'):#x}"
    network = ipaddress.IPv6Network(value)
    ends = [int(network[at]) >> (64 if kind == "nd_prefix" else 0) for at in (0, -1)]
    return "-".join(
        f"{each:#x}" for each in (ends if network.prefixlen < _LONGEST and kind != "nd_prefix" else ends[:1])
    )


@dataclass(frozen=True)
class Origin:
    """How our tables came to be.

    Attributes:
        template: The template that they were made from; "" where they do not say.
        copied: Whether a copy stands beside them: an agent exchanges them, or died at that.
    """

    template: str = ""
    copied: bool = False

    def is_another(self, template: str) -> bool:
        """Whether hostnet itself has made them otherwise than a record with this template says."""
        return self.copied or self.template not in ("", template)


@dataclass(frozen=True)
class Listing:
    """Our tables as the kernel has them.

    Args:
        elements: Values by place.
        rules: A print of chains and rules, to compare.
        counters: Packets and bytes by place.
        sets: The names of sets and maps.
        comments: By place, where there is one.
        answers: By set of a name's addresses, each address with the seconds that it stays.
        bases: The base chains, each with its table: `inet hostnet forward`.
        origin: How they came to be.
    """

    elements: dict[Place, tuple[str, ...]]
    rules: str
    counters: dict[Place, tuple[int, int]]
    sets: frozenset[str] = frozenset()
    comments: dict[Place, str] = field(default_factory=dict)
    answers: dict[str, dict[str, int]] = field(default_factory=dict)
    bases: tuple[str, ...] = ()
    origin: Origin = Origin()

    def foreign(self, mark: str) -> set[Place]:
        """The elements of records with another mark. What has no comment is another program's.

        A chain, and its sets, are of those whose elements lead there.
        """
        found = {place for place, comment in self.comments.items() if mark_in(comment) != mark}
        chains = {self.elements[place][0] for place in found if place[0] in SETS and SETS[place[0]].value == VERDICT}
        for name in chains:
            place = LIST_CHAINS, (name,)
            found |= {place, *((NAME_SETS, (each,)) for each in _sets_in(self.elements.get(place, ())))}
        return found

    def needed(self, mark: str) -> set[Place]:
        """What `foreign` gives, where a record of another mark is still there: of `SHARED` alone nobody is left."""
        found = self.foreign(mark)
        return found if any(name not in SHARED for name, _ in found) else set()


def read_listing(tables: Mapping[str, RawTable]) -> Listing:
    """Our tables, by family and name, of what the kernel has."""
    found, rules = Listing({}, "", {}), []
    sets: list[str] = []
    for table in tables.values():
        rules.append(table.rules)
        named = [name for name in table.sets if _NAME_SET.fullmatch(name)]
        found.elements.update({(NAME_SETS, (name,)): () for name in named})
        found.answers.update({name: {address_of(x): x.expires or 0 for x in table.sets[name]} for name in named})
        found.elements.update({(LIST_CHAINS, (name,)): tuple(texts) for name, texts in table.chains.items()})
        for name, elements in table.sets.items():
            if name in found.answers or name == NOTHING_SET:
                continue
            sets.append(name)
            spec = SETS.get(name, SetSpec(()))
            for element in elements:
                _take(found, name, spec, element)
    return replace(
        found,
        rules=sha256(" ".join(rules).encode()).hexdigest(),
        sets=frozenset(sets),
        bases=tuple(f"{name} {chain}" for name, table in tables.items() for chain in table.bases),
    )


def address_of(element: RawElement) -> str:
    """The address that an element of a set of a name is."""
    return socket.inet_ntop(socket.AF_INET if len(element.key) == _IPV4_BYTES else socket.AF_INET6, element.key)


def _sets_in(rules: Iterable[str]) -> Iterator[str]:
    """The sets of names that rules of a chain look at."""
    return (word[1:] for rule in rules for word in rule.split() if word.startswith("@"))


def _take(found: Listing, name: str, spec: SetSpec, element: RawElement) -> None:
    try:
        place = name, _split(spec.key, element.key, element.last)
        value = _target(element.value) if spec.value == VERDICT else _split(spec.value, element.value)
    except ValueError:  # another version's set
        place, value = (name, (element.key.hex(), element.last.hex())), (element.value.hex(),)
    if not spec.seen:  # what packets add, no resource declares
        found.elements[place] = (str(element.rate),) if spec.limit and element.rate is not None else value
    if element.comment:
        found.comments[place] = element.comment
    if element.counter is not None:
        found.counters[place] = element.counter


def _target(verdict: bytes) -> tuple[str, ...]:
    """The chain that a verdict leads to."""
    return (verdict_text(verdict).removeprefix("goto "),)


def _split(kinds: tuple[str, ...], first: bytes, last: bytes = b"") -> tuple[str, ...]:
    """The fields that `_joined` wrote; with ranges where the last key is another one."""
    size, places = _layout(kinds)
    if size != len(first):
        msg = f"{len(first)} bytes are no {' . '.join(kinds)}"
        raise ValueError(msg)
    if not last:
        return tuple([read(first[start:end]) for start, end, read in places])
    return tuple([_range_text(read, first[start:end], last[start:end]) for start, end, read in places])


@lru_cache(maxsize=256)
def _layout(kinds: tuple[str, ...]) -> tuple[int, tuple[tuple[int, int, Callable[[bytes], str]], ...]]:
    """How long a key of these types is, and where in it each field is, and how it is read."""
    places, at = [], 0
    for kind in kinds:
        length, read = _READINGS[kind]
        places.append((at, at + length, read))
        at += length if len(kinds) == 1 else length + -length % 4
    return at, tuple(places)


def _range_text(read: Callable[[bytes], str], first: bytes, last: bytes) -> str:
    """A field of a range as a person writes it: a network where it is one."""
    if first == last:
        return read(first)
    low, high, bits = int.from_bytes(first, "big"), int.from_bytes(last, "big"), 8 * len(first)
    length = bits - (low ^ high).bit_length()
    is_network = read in _ADDRESSES and low & high == low and (low ^ high) + 1 == 1 << (bits - length)
    return f"{read(first)}/{length}" if is_network else f"{read(first)}-{read(last)}"


def _ipv6_text(data: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6, data.ljust(16, b"\0"))


def _sender_text(ethertype: bytes) -> Callable[[bytes], str]:
    def read(data: bytes) -> str:
        if data[6:] != ethertype:
            msg = f"{data[6:].hex()} is another ethertype"
            raise ValueError(msg)
        return data[:6].hex(":")

    return read


_ADDRESSES = (socket.inet_ntoa, _ipv6_text)
_READINGS: dict[str, tuple[int, Callable[[bytes], str]]] = {
    "ifname": (_IFNAMSIZ, lru_cache(maxsize=1024)(lambda data: data.split(b"\0", 1)[0].decode(errors="replace"))),
    "inet_proto": (1, lambda data: _NAMES.get(str(data[0]), str(data[0]))),
    "inet_service": (2, lambda data: str(data[0] << 8 | data[1])),
    "ipv4_addr": (4, socket.inet_ntoa),
    "ipv6_addr": (16, _ipv6_text),
    "ether_addr": (6, lambda data: data.hex(":")),
    "nd_target": (16, _ipv6_text),
    "nd_prefix": (8, _ipv6_text),
    "sender4": (8, _sender_text(_ETHERTYPES["sender4"])),
    "sender6": (8, _sender_text(_ETHERTYPES["sender6"])),
    "source4": (4, socket.inet_ntoa),
    "source6": (16, _ipv6_text),
}
