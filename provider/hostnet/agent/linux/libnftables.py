"""nftables: libnftables through ctypes, and what netlink answers without it.

A batch through a context that is kept open takes 0.13 to 0.4 ms, one through a process `nft` 4 ms. The Debian package
python3-nftables belongs to the system's own Python; this needs the library alone.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from hostnet.agent.linux import files, netlink
from hostnet.agent.linux.kernel import RawChange, RawElement, RawTable, TableHead
from hostnet.agent.linux.netlink import attributes
from hostnet.wire.digest import sha256

_SONAME = "libnftables.so.1"
_PROGRAMS = ("/usr/sbin", "/sbin", "/run/current-system/sw/bin")  # where PATH may not lead
_NFT_CTX_OUTPUT_JSON = 1 << 4
_NFT_CTX_OUTPUT_TERSE = 1 << 11
# Numbers, since the names are those of /etc/protocols, which a small system lacks (Debian: the package netbase).
_NFT_CTX_OUTPUT_NUMERIC_PROTO = 1 << 7
# NFT_CTX_OUTPUT_{NUMERIC_PRIO,NUMERIC_SYMBOL,NUMERIC_TIME} are off: the names are what we write.

# linux/netfilter/nf_tables.h, linux/netfilter/nf_tables_compat.h; the subsystem is NFNL_SUBSYS_NFTABLES
_SUBSYSTEM = 10 << 8
_NFT_MSG_GETTABLE, _NFT_MSG_GETCHAIN, _NFT_MSG_GETRULE, _NFT_MSG_GETSET, _NFT_MSG_GETSETELEM, _NFT_MSG_GETGEN = (
    _SUBSYSTEM | number for number in (1, 4, 7, 10, 13, 16)
)
_NFGENMSG = 4  # bytes in front of the attributes
_NFTA_GEN_ID = 1
_NFTA_TABLE_NAME, _NFTA_TABLE_FLAGS, _NFTA_TABLE_USERDATA, _NFT_TABLE_F_OWNER = 1, 2, 6, 0x2
_NFTA_RULE_TABLE, _NFTA_RULE_CHAIN, _NFTA_RULE_HANDLE, _NFTA_RULE_EXPRESSIONS = 1, 2, 3, 4
_NFTA_RULE_USERDATA = 7
_NFTA_CHAIN_TABLE, _NFTA_CHAIN_NAME, _NFTA_CHAIN_HOOK, _NFTA_CHAIN_POLICY, _NFTA_CHAIN_TYPE = 1, 3, 4, 5, 7
_NFTA_EXPR_NAME, _NFTA_EXPR_DATA, _NFTA_MATCH_NAME, _NFTA_MATCH_INFO = 1, 2, 1, 3
_NFTA_SET_TABLE, _NFTA_SET_NAME, _NFTA_SET_FLAGS, _NFT_SET_ANONYMOUS = 1, 2, 3, 0x1
_NFT_SET_INTERVAL, _NFT_SET_CONCAT = 0x4, 0x80
_NFT_MSG_NEWSETELEM, _NFT_MSG_DELSETELEM = _SUBSYSTEM | 12, _SUBSYSTEM | 14
_NFTA_SET_ELEM_LIST_TABLE, _NFTA_SET_ELEM_LIST_SET, _NFTA_SET_ELEM_LIST_ELEMENTS, _NFTA_LIST_ELEM = 1, 2, 3, 1
_NFTA_SET_ELEM_KEY, _NFTA_SET_ELEM_DATA, _NFTA_SET_ELEM_FLAGS, _NFTA_DATA_VALUE = 1, 2, 3, 1
_NFTA_SET_ELEM_USERDATA, _NFTA_SET_ELEM_EXPR, _NFTA_SET_ELEM_KEY_END, _NFT_SET_ELEM_INTERVAL_END = 6, 7, 10, 0x1
_NFTA_COUNTER_BYTES, _NFTA_COUNTER_PACKETS, _NFTA_LIMIT_RATE, _NFTA_LIMIT_UNIT = 1, 2, 1, 2
_NFTA_SET_ELEM_EXPIRATION = 5
_NFTNL_UDATA_SET_ELEM_COMMENT = 0  # libnftnl/udata.h
# What the rules of lists by domain name consist of.
_NFTA_VERDICT_CODE, _NFTA_VERDICT_CHAIN = 1, 2
_NFTA_META_KEY, _NFTA_CMP_OP, _NFTA_CMP_DATA, _NFTA_LOOKUP_SET, _NFTA_LOOKUP_FLAGS, _NFTA_IMMEDIATE_DATA = (
    2,
    2,
    3,
    1,
    5,
    2,
)
_NFTA_PAYLOAD_BASE, _NFTA_PAYLOAD_OFFSET, _NFTA_PAYLOAD_LEN = 2, 3, 4
_NFTA_RANGE_FROM, _NFTA_RANGE_TO = 3, 4
_META_NFPROTO, _META_L4PROTO, _EQ, _LTE, _GTE = 15, 16, 0, 3, 5
_LOADS = {(1, 16, 4): "ip daddr", (1, 24, 16): "ip6 daddr", (2, 2, 2): "dport"}  # base, offset, length
_VERDICTS = {-5: "return", -4: "goto", -3: "jump", 1: "accept", 0: "drop"}
_PORTED = {6: "tcp", 17: "udp", 132: "sctp"}
_FAMILIES = {1: "inet", 2: "ip", 10: "ip6"}  # those of IP
_NUMBERS = {**{name: number for number, name in _FAMILIES.items()}, "arp": 3, "bridge": 7}
_HEAD, _DATA_HEAD = struct.Struct("=HH"), struct.Struct("=HHHH")  # of an attribute, and of one in another
_TRIES = 5  # to list a table while other programs change nftables
_ELEMENTS_PER_MESSAGE = 200  # an attribute has at most 64 KiB, and an element up to 270 bytes


class NftError(Exception):
    """libnftables, or the kernel, refuses a batch: its message."""


class MissingLibraryError(Exception):
    """libnftables is not on this machine."""


def library() -> ctypes.CDLL:
    """Load libnftables from where the linker looks, or else from beside the program `nft`, as in Nix's store.

    Raises:
        MissingLibraryError: It is in neither place.
    """
    try:
        return ctypes.CDLL(_SONAME)
    except OSError as error:
        missing = str(error)
    program = files.which("nft", path=os.pathsep.join((os.environ.get("PATH", os.defpath), *_PROGRAMS)))
    beside = Path(os.path.realpath(program or "")).parent.parent / "lib" / _SONAME
    if program is None or not beside.exists():
        raise MissingLibraryError(missing)
    return ctypes.CDLL(str(beside))


class Nft:
    """nftables in the network namespace of the thread that first uses it. Implements `kernel.Nftables`.

    The library is loaded, and the netlink socket opened, when something first needs it: where no resource needs NAT,
    a host without libnftables is fine.
    """

    def __init__(self) -> None:
        self._context: _Context | None = None
        self._netlink: netlink.Netlink | None = None
        self._dry = False

    # --- through libnftables ---------------------------------------------------------------------------------------

    def run(self, batch: str) -> None:
        """Apply a batch of nft commands, all or none."""
        self._library.run(batch, 0)

    def change(self, changes: Sequence[RawChange], batch: Callable[[], str]) -> None:
        """Apply a batch of elements alone, all or none.

        The kernel gets them without libnftables. That lists all sets, and the elements of those with `interval`, before
        each batch: one more forward takes it 0.59 ms in our tables, and these messages 0.08. For 60,000 forwards in one
        batch it needs 243 MiB, and these messages 69 (nftables 1.0.6, Linux 6.18).
        """
        if self._dry:
            return self.run(batch())
        messages = list(_messages(changes))
        try:
            self._connection.batch(_SUBSYSTEM >> 8, [(kind, flags, body) for kind, flags, body, _ in messages])
        except netlink.BatchError as error:
            name = messages[error.index][3] if error.index is not None else "the batch"
            msg = f"Error: {name}: {os.strerror(error.errno or 0)}"
            raise NftError(msg) from None
        return None

    def dry_run(self, *, on: bool) -> None:
        """Whether batches are only checked."""
        self._library.dry_run(on=on)
        self._dry = on

    def list(self, command: str, *, terse: bool = False) -> list[dict[str, Any]]:
        """What `nft -j <command>` lists."""
        flags = _NFT_CTX_OUTPUT_JSON | _NFT_CTX_OUTPUT_NUMERIC_PROTO | (_NFT_CTX_OUTPUT_TERSE if terse else 0)
        output = self._library.run(command, flags)
        listed: list[dict[str, Any]] = json.loads(output)["nftables"] if output else []
        return listed

    def lines(self, command: str) -> Sequence[str]:
        """What `nft <command>` prints."""
        return self._library.run(command, 0).decode(errors="replace").splitlines()

    @property
    def _library(self) -> _Context:
        if self._context is None:
            self._context = _Context()
        return self._context

    # --- through netlink -------------------------------------------------------------------------------------------

    def generation(self) -> int:
        """The number of the last change of nftables in this namespace."""
        answer = self._connection.ask(_NFT_MSG_GETGEN, struct.pack("=BBH", 0, 0, 0))
        return int.from_bytes(attributes(answer.body[_NFGENMSG:])[_NFTA_GEN_ID], "big")

    def table(self, table: str, *, elements: bool = True, apart: str = "") -> RawTable | None:
        """A table; None where there is none.

        Read without libnftables, which writes all of it as JSON: of 10,000 forwards that takes 1,220 ms of CPU time,
        and this 370. libnftables also reads the elements where they are not wanted (nftables 1.0.6, Linux 6.18).
        """
        for tries_left in reversed(range(_TRIES)):
            try:
                before = self.generation()
                found = self._table(table, apart, elements=elements)
                if self.generation() == before or not tries_left:
                    return found  # what other programs change all the time, the next change lists again
            except OSError:  # a set is gone, or the kernel has no nftables
                if not tries_left:
                    return None
        return None

    def set_elements(self, table: str, name: str) -> Sequence[RawElement]:
        """The elements of a set; none where there is no such set."""
        try:
            return self._elements(table, name, 0)
        except OSError:
            return ()

    def _table(self, table: str, apart: str, *, elements: bool) -> RawTable | None:
        family, name = table.split()
        wanted = name.encode() + b"\0"

        def dump(kind: int) -> Iterator[netlink.Attributes]:
            # The attribute of the table's name has the same number in all three. The kernel lists chains of all tables.
            request = _request(family) + netlink.attribute(_NFTA_SET_TABLE, name)
            found = (attributes(message.body[_NFGENMSG:]) for message in self._connection.dump(kind, request))
            return (each for each in found if each.get(_NFTA_SET_TABLE) == wanted)

        chains, rules, sets = map(list, map(dump, (_NFT_MSG_GETCHAIN, _NFT_MSG_GETRULE, _NFT_MSG_GETSET)))
        if not (chains or rules or sets):
            return None
        bases = [netlink.text(each[_NFTA_CHAIN_NAME]) for each in chains if _NFTA_CHAIN_HOOK in each]
        lists: dict[str, list[str]] = {}
        if apart:
            chains, rules, lists = _apart(apart, chains, rules)
        # Not their handles, and not how many jumps lead to a chain.
        text = _parts(chains, _NFTA_CHAIN_NAME, _NFTA_CHAIN_HOOK, _NFTA_CHAIN_POLICY, _NFTA_CHAIN_TYPE)
        text += _parts(rules, _NFTA_RULE_CHAIN, _NFTA_RULE_EXPRESSIONS, _NFTA_RULE_USERDATA)
        held: dict[str, Sequence[RawElement]] = {}
        for each in sets:
            own, flags = netlink.text(each[_NFTA_SET_NAME]), int.from_bytes(each.get(_NFTA_SET_FLAGS, b""), "big")
            is_part = bool(flags & _NFT_SET_ANONYMOUS)  # of a rule
            there = self._elements(table, own, flags) if elements or is_part else []
            if is_part:
                text += repr((own, sorted(there))).encode()
            else:
                held[own] = there
        return RawTable(sha256(text).hexdigest(), held, lists, bases)

    def _elements(self, table: str, name: str, flags: int) -> Sequence[RawElement]:
        messages = self._connection.dump(_NFT_MSG_GETSETELEM, _of_set(table, name))
        lists = (attributes(message.body[_NFGENMSG:]).get(_NFTA_SET_ELEM_LIST_ELEMENTS, b"") for message in messages)
        elements = [attributes(data) for each in lists for _, data in netlink.each_attribute(each)]
        if flags & _NFT_SET_INTERVAL and not flags & _NFT_SET_CONCAT:
            return _ranges(elements)
        return [_raw_element(each, _value(each.get(_NFTA_SET_ELEM_KEY_END, b""))) for each in elements]

    def tables(self) -> dict[tuple[str, str], TableHead]:
        """By family and name, the tables of IP."""
        try:
            messages = self._connection.dump(_NFT_MSG_GETTABLE, b"\0" * _NFGENMSG)
        except OSError:
            return {}  # a kernel without nftables
        found = {}
        for message in messages:
            family = _FAMILIES.get(message.body[0])
            seen = attributes(message.body[_NFGENMSG:])
            if family is not None:
                flags = int.from_bytes(seen.get(_NFTA_TABLE_FLAGS, b"\0"), "big")
                comment = _comment_in(seen.get(_NFTA_TABLE_USERDATA, b""))
                head = TableHead(bool(flags & _NFT_TABLE_F_OWNER), comment)
                found[family, netlink.text(seen[_NFTA_TABLE_NAME])] = head
        return found

    def xt_comments(self, family: str, table: str, chain: str) -> dict[int, str]:
        """By handle, the comments that iptables-nft wrote in a chain."""
        number = next(key for key, value in _FAMILIES.items() if value == family)
        request = struct.pack("=BBH", number, 0, 0)
        request += netlink.attribute(_NFTA_RULE_TABLE, table) + netlink.attribute(_NFTA_RULE_CHAIN, chain)
        found = {}
        for message in self._connection.dump(_NFT_MSG_GETRULE, request):
            seen = attributes(message.body[_NFGENMSG:])
            if netlink.text(seen[_NFTA_RULE_TABLE]) != table or netlink.text(seen[_NFTA_RULE_CHAIN]) != chain:
                continue  # kernels before 3.18 don't filter
            for _, expression in netlink.each_attribute(seen.get(_NFTA_RULE_EXPRESSIONS, b"")):
                data = attributes(attributes(expression).get(_NFTA_EXPR_DATA, b""))
                if netlink.text(data.get(_NFTA_MATCH_NAME, b"")) == "comment":
                    handle = int.from_bytes(seen[_NFTA_RULE_HANDLE], "big")
                    found[handle] = netlink.text(data[_NFTA_MATCH_INFO])
        return found

    @property
    def _connection(self) -> netlink.Netlink:
        if self._netlink is None:
            self._netlink = netlink.Netlink(netlink.NETLINK_NETFILTER)
        return self._netlink


def _messages(changes: Sequence[RawChange]) -> Iterator[tuple[int, int, bytes, str]]:
    """Type, flags and body of each message, and the set. Deletions come first: a key may get another value."""
    for change in changes:
        for body in _bodies(change, [RawElement(key) for key in change.removed]):
            yield _NFT_MSG_DELSETELEM, 0, body, change.name
    for change in changes:
        for body in _bodies(change, change.added):
            yield _NFT_MSG_NEWSETELEM, netlink.NLM_F_CREATE, body, change.name


def _bodies(change: RawChange, elements: Sequence[RawElement]) -> Iterator[bytes]:
    head = _of_set(change.table, change.name)
    for at in range(0, len(elements), _ELEMENTS_PER_MESSAGE):
        listed = map(_element, elements[at : at + _ELEMENTS_PER_MESSAGE])
        yield head + netlink.nested(_NFTA_SET_ELEM_LIST_ELEMENTS, *listed)


def _request(family: str) -> bytes:
    """The head of a message about a table of this family."""
    return struct.pack("=BBH", _NUMBERS[family], 0, 0)


def _of_set(table: str, name: str) -> bytes:
    """How a message about elements begins."""
    family, own_name = table.split()
    head = _request(family) + netlink.attribute(_NFTA_SET_ELEM_LIST_TABLE, own_name)
    return head + netlink.attribute(_NFTA_SET_ELEM_LIST_SET, name)


def _element(element: RawElement) -> bytes:
    content = _data(_NFTA_SET_ELEM_KEY, element.key)
    if element.value:
        content += _data(_NFTA_SET_ELEM_DATA, element.value)
    if element.comment:
        content += _comment(element.comment)
    return _HEAD.pack(_HEAD.size + len(content), _NFTA_LIST_ELEM | netlink.NLA_F_NESTED) + content


def _raw_element(element: netlink.Attributes, last: bytes) -> RawElement:
    counter = rate = None
    if _NFTA_SET_ELEM_EXPR in element:
        counter, rate = _counter_and_rate(element[_NFTA_SET_ELEM_EXPR])
    key, comment = _value(element[_NFTA_SET_ELEM_KEY]), _comment_in(element.get(_NFTA_SET_ELEM_USERDATA, b""))
    value = _value(element.get(_NFTA_SET_ELEM_DATA, b""))
    left = element.get(_NFTA_SET_ELEM_EXPIRATION)
    expires = int.from_bytes(left, "big") // 1000 if left is not None else None
    return RawElement(key, value, comment, last if last != key else b"", counter, rate, expires)


def _ranges(elements: Sequence[netlink.Attributes]) -> list[RawElement]:
    """The elements of an interval set of one field: the kernel has the first key of each, and the first behind it."""
    starts: list[tuple[bytes, netlink.Attributes]] = []
    ends: list[tuple[bytes, netlink.Attributes]] = []
    for each in elements:
        is_end = int.from_bytes(each.get(_NFTA_SET_ELEM_FLAGS, b""), "big") & _NFT_SET_ELEM_INTERVAL_END
        (ends if is_end else starts).append((_value(each[_NFTA_SET_ELEM_KEY]), each))
    behind = sorted(key for key, _ in ends)
    found = []
    for key, each in starts:
        at = bisect_right(behind, key)
        after = int.from_bytes(behind[at], "big") if at < len(behind) else 1 << 8 * len(key)  # up to the highest
        found.append(_raw_element(each, (after - 1).to_bytes(len(key), "big")))
    return found


def _apart(
    start: str, chains: Sequence[netlink.Attributes], rules: Sequence[netlink.Attributes]
) -> tuple[list[netlink.Attributes], list[netlink.Attributes], dict[str, list[str]]]:
    """Chains and rules without those of chains whose names begin so; and these, with their rules as nft writes them."""
    wanted = start.encode()
    found: dict[str, list[str]] = {
        netlink.text(each[_NFTA_CHAIN_NAME]): [] for each in chains if each[_NFTA_CHAIN_NAME].startswith(wanted)
    }
    for each in rules:
        if each[_NFTA_RULE_CHAIN].startswith(wanted):
            text = _rule_text(each.get(_NFTA_RULE_EXPRESSIONS, b""))
            found.setdefault(netlink.text(each[_NFTA_RULE_CHAIN]), []).append(text)
    return (
        [each for each in chains if not each[_NFTA_CHAIN_NAME].startswith(wanted)],
        [each for each in rules if not each[_NFTA_RULE_CHAIN].startswith(wanted)],
        found,
    )


def _rule_text(expressions: bytes) -> str:
    """A rule as nft writes it: of a protocol, ports, a set of destinations and a verdict. `?` is anything else."""
    loaded, spans, words = "", {"l4proto": (0, 0), "dport": (0, 0)}, []
    for _, expression in netlink.each_attribute(expressions):
        found = attributes(expression)
        name, data = netlink.text(found[_NFTA_EXPR_NAME]), attributes(found.get(_NFTA_EXPR_DATA, b""))
        if name in ("meta", "payload"):
            loaded = _loaded(name, data)
        elif name in ("cmp", "range") and loaded in spans:
            spans[loaded] = _narrowed(spans[loaded], name, data)
        elif name != "cmp" or loaded != "nfproto":  # that follows from the rest
            words.append(_what(name, data, loaded))
    (protocol, _), (first, last) = spans["l4proto"], spans["dport"]
    if last:
        words.insert(0, f"{_PORTED.get(protocol, '?')} dport {first}" + (f"-{last}" if last != first else ""))
    elif protocol:
        words.insert(0, f"meta l4proto {protocol}")
    return " ".join(words)


def _narrowed(span: tuple[int, int], name: str, data: netlink.Attributes) -> tuple[int, int]:
    """The first and last value that still fit; -1 where a comparison is not known here."""
    op = _number(data, _NFTA_CMP_OP)  # of a range, too
    if name == "range" and op == _EQ:
        first, last = (int.from_bytes(_value(data[kind]), "big") for kind in (_NFTA_RANGE_FROM, _NFTA_RANGE_TO))
        return first, last
    value = int.from_bytes(_value(data.get(_NFTA_CMP_DATA, b"")), "big") if name == "cmp" else -1
    return {_EQ: (value, value), _GTE: (value, span[1]), _LTE: (span[0], value)}.get(op, (-1, -1))


def _what(name: str, data: netlink.Attributes, loaded: str) -> str:
    """A look-up of a destination, or a verdict."""
    if name == "lookup" and loaded.endswith("daddr") and not _number(data, _NFTA_LOOKUP_FLAGS):
        return f"{loaded} @{netlink.text(data[_NFTA_LOOKUP_SET])}"
    return verdict_text(_value(data[_NFTA_IMMEDIATE_DATA])) if name == "immediate" else "?"


def _loaded(name: str, data: netlink.Attributes) -> str:
    """What an expression loads into a register; "?" for what no rule of a list looks at."""
    if name == "meta":
        return {_META_NFPROTO: "nfproto", _META_L4PROTO: "l4proto"}.get(_number(data, _NFTA_META_KEY), "?")
    kinds = (_NFTA_PAYLOAD_BASE, _NFTA_PAYLOAD_OFFSET, _NFTA_PAYLOAD_LEN)
    base, offset, length = (_number(data, kind) for kind in kinds)
    return _LOADS.get((base, offset, length), "?")


def _number(data: netlink.Attributes, kind: int) -> int:
    return int.from_bytes(data.get(kind, b""), "big")


def verdict_text(data: bytes) -> str:
    """A verdict as nft writes it, of the attributes of its code and its chain."""
    found = attributes(data)
    code = int.from_bytes(found.get(_NFTA_VERDICT_CODE, b""), "big", signed=True)
    chain = f" {netlink.text(found[_NFTA_VERDICT_CHAIN])}" if _NFTA_VERDICT_CHAIN in found else ""
    return _VERDICTS.get(code, "?") + chain


def verdict_bytes(chain: str) -> bytes:
    """The value of a map that leads to a chain, as the kernel has it."""
    code = netlink.attribute(_NFTA_VERDICT_CODE, (-4).to_bytes(4, "big", signed=True))
    return code + netlink.attribute(_NFTA_VERDICT_CHAIN, chain)


def _value(data: bytes) -> bytes:
    """The value in NFTA_DATA_VALUE, the one attribute of a key; b"" of nothing."""
    return data[_HEAD.size : _HEAD.unpack_from(data)[0]] if data else b""


@lru_cache(maxsize=1024)  # those of one owner have one
def _comment_in(data: bytes) -> str:
    at = 0
    while at + 1 < len(data):  # type, length, value
        if data[at] == _NFTNL_UDATA_SET_ELEM_COMMENT:
            return netlink.text(data[at + 2 : at + 2 + data[at + 1]])
        at += 2 + data[at + 1]
    return ""


def _counter_and_rate(expression: bytes) -> tuple[tuple[int, int] | None, int | None]:
    """Packets and bytes of a counter; the bytes a second of a limit."""
    found = attributes(expression)
    name, data = netlink.text(found[_NFTA_EXPR_NAME]), attributes(found.get(_NFTA_EXPR_DATA, b""))
    if name == "counter":
        counted = (data[kind] for kind in (_NFTA_COUNTER_PACKETS, _NFTA_COUNTER_BYTES))
        packets, size = (int.from_bytes(each, "big") for each in counted)
        return (packets, size), None
    if name == "limit":
        rate, seconds = (int.from_bytes(data[kind], "big") for kind in (_NFTA_LIMIT_RATE, _NFTA_LIMIT_UNIT))
        return None, rate // seconds
    return None, None


def _parts(items: Sequence[netlink.Attributes], *kinds: int) -> bytes:
    """These attributes of each, with their places."""
    return repr([[each.get(kind) for kind in kinds] for each in items]).encode()


def _data(kind: int, value: bytes) -> bytes:
    """`netlink.nested(kind, netlink.attribute(_NFTA_DATA_VALUE, value))`, in a third of the time."""
    size = len(value) + _HEAD.size
    filled = value + b"\0" * (-size % 4)
    return _DATA_HEAD.pack(len(filled) + _DATA_HEAD.size, kind | netlink.NLA_F_NESTED, size, _NFTA_DATA_VALUE) + filled


@lru_cache(maxsize=64)  # a thousand elements in turn have one
def _comment(comment: str) -> bytes:
    text = comment.encode() + b"\0"
    return netlink.attribute(
        _NFTA_SET_ELEM_USERDATA, struct.pack("=BB", _NFTNL_UDATA_SET_ELEM_COMMENT, len(text)) + text
    )


class _Context:
    """A libnftables context. It is kept: to close one after a delete takes 9 to 14 ms (nftables 1.0.6)."""

    def __init__(self) -> None:
        self._lib = lib = library()
        # Without these types ctypes takes a pointer for an int, and cuts it to 32 bits.
        lib.nft_ctx_new.restype = ctypes.c_void_p
        lib.nft_ctx_new.argtypes = [ctypes.c_uint32]
        for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(lib, name).restype = ctypes.c_char_p
            getattr(lib, name).argtypes = [ctypes.c_void_p]
        for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
            getattr(lib, name).argtypes = [ctypes.c_void_p]
        lib.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        lib.nft_ctx_set_dry_run.argtypes = [ctypes.c_void_p, ctypes.c_bool]
        lib.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._context = lib.nft_ctx_new(0)
        lib.nft_ctx_buffer_output(self._context)
        lib.nft_ctx_buffer_error(self._context)

    def dry_run(self, *, on: bool) -> None:
        self._lib.nft_ctx_set_dry_run(self._context, on)

    def run(self, batch: str, flags: int) -> bytes:
        self._lib.nft_ctx_output_set_flags(self._context, flags)
        failed = self._lib.nft_run_cmd_from_buffer(self._context, batch.encode())
        # Both buffers are read after each command: what is not read stays, before the next one's output (1.0.6).
        output = self._lib.nft_ctx_get_output_buffer(self._context)
        said = self._lib.nft_ctx_get_error_buffer(self._context)
        if failed:
            raise NftError((said or b"nft failed without a message").decode(errors="replace").strip())
        return bytes(output)
