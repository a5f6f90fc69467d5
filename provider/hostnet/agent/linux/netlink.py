"""Netlink messages, as far as hostnet needs them: build, send and read. No decisions are taken here.

Why not pyroute2: its `__init__` imports everything (0.24 to 0.41 s, on every `pulumi up`, on every host), it takes
4.7 times as long as `ip -batch` for a bridge with 100 TAPs (these messages: 1.1 times), and the agent's file would
grow by some 3 MB. The formats are those of linux/netlink.h and linux/rtnetlink.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_F_NESTED = 0x8000
# The two highest bits of an attribute's type are flags: NLA_F_NESTED and NLA_F_NET_BYTEORDER.
NLA_TYPE_MASK = 0x3FFF
_NLM_F_DUMP_INTR = 0x10
_NFNL_MSG_BATCH_BEGIN, _NFNL_MSG_BATCH_END = 0x10, 0x11  # linux/netfilter/nfnetlink.h
_SOL_NETLINK, _NETLINK_CAP_ACK, _SO_SNDBUFFORCE = 270, 10, 32
_PATIENCE = 5.0  # seconds
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")

Attributes = dict[int, bytes]


class BatchError(OSError):
    """The kernel refuses a batch.

    Attributes:
        index: Which of its messages; None where it refuses the whole.
    """

    def __init__(self, code: int, index: int | None) -> None:
        super().__init__(code, os.strerror(code))
        self.index = index


@dataclass(frozen=True)
class Message:
    """One netlink message: its type and what follows the header."""

    type: int
    body: bytes


def attribute(kind: int, value: bytes | str | int) -> bytes:
    """One attribute, padded to 4 bytes.

    Args:
        kind: Its type.
        value: A str is sent with a closing zero, an int as 32 bits in host order.
    """
    if isinstance(value, str):
        value = value.encode() + b"\0"
    elif isinstance(value, int):
        value = struct.pack("=I", value)
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + b"\0" * (-size % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(parts))


def attributes(data: bytes) -> Attributes:
    """The attributes in `data` by type; of a repeated type the last."""
    # As `each_attribute`, in a third of the time: a snapshot of a host has a hundred of these for each link.
    found, at, last = {}, 0, len(data) - _ATTRIBUTE.size
    while at <= last:
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size:
            break
        found[kind & NLA_TYPE_MASK] = data[at + _ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3
    return found


def each_attribute(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Every attribute in `data`, in order."""
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size:
            return
        yield kind & NLA_TYPE_MASK, data[at + _ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3


def u32(data: bytes) -> int:
    """A 32-bit number in host order."""
    return int(struct.unpack("=I", data[:4])[0])


def text(data: bytes) -> str:
    """A string with its closing zero."""
    return data.split(b"\0", 1)[0].decode(errors="replace")


class Netlink:
    """A netlink socket in the network namespace of the thread that opens it."""

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.bind((0, 0))
        self._sequence = 0
        self._room = 0  # bytes that surely fit into one message

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def request(self, kind: int, body: bytes, flags: int = 0) -> None:
        """Send one message and wait for the kernel's acknowledgement.

        Raises:
            OSError: The kernel refuses, with its errno.
        """
        sequence = self._send(kind, body, NLM_F_REQUEST | NLM_F_ACK | flags)
        for message in self._receive(sequence):
            if message.type == NLMSG_ERROR:
                code = -struct.unpack_from("=i", message.body)[0]
                if code:
                    raise OSError(code, os.strerror(code))
                return

    def ask(self, kind: int, body: bytes) -> Message:
        """Send one message and return the one that answers it.

        Raises:
            OSError: The kernel refuses, with its errno.
        """
        sequence = self._send(kind, body, NLM_F_REQUEST)
        message = next(iter(self._receive(sequence)))
        if message.type == NLMSG_ERROR:
            code = -struct.unpack_from("=i", message.body)[0]
            raise OSError(code, os.strerror(code))
        return message

    def batch(self, subsystem: int, messages: Sequence[tuple[int, int, bytes]]) -> None:
        """Send messages that the kernel takes all or none (nfnetlink's batches).

        Args:
            subsystem: Of netfilter: whose batch it is.
            messages: Type, flags and body of each.

        Raises:
            BatchError: The kernel refuses.
        """
        ends = struct.pack("=BBH", 0, 0, socket.htons(subsystem))
        first, parts = self._sequence + 1, []
        for kind, flags, body in ((_NFNL_MSG_BATCH_BEGIN, 0, ends), *messages, (_NFNL_MSG_BATCH_END, 0, ends)):
            self._sequence += 1
            # Without errors the last message is the only one that the kernel answers. It answers the batch's end from
            # 6.10 on.
            asked = NLM_F_REQUEST | (NLM_F_ACK if self._sequence == first + len(messages) else 0)
            parts.append(_HEADER.pack(_HEADER.size + len(body), kind, asked | flags, self._sequence, 0) + body)
        try:
            answers = self._exchange(b"".join(parts))
        except OSError as error:
            raise BatchError(error.errno or errno.EIO, None) from None
        at = {sequence - first - 1: code for sequence, code in answers.items()}
        for index, code in sorted(at.items()):
            if code:
                raise BatchError(code, index if index >= 0 else None)
        if len(messages) - 1 not in at:
            raise BatchError(errno.EIO, None)

    def _exchange(self, data: bytes) -> dict[int, int]:
        """Send messages in one piece; returns the errnos that answer them by sequence number, 0 for none."""
        # Otherwise a refusal has the message that it refuses with it.
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        if len(data) > self._room:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, len(data))
            self._room = len(data)
        self._socket.send(data)
        answers = {}
        # The kernel has handled them all when `send` returns: netfilter's messages are handled in the sender's context.
        with suppress(BlockingIOError):
            while True:
                for sequence, _, message in _messages(self._socket.recv(1 << 20, socket.MSG_DONTWAIT)):
                    if message.type == NLMSG_ERROR:
                        answers[sequence] = -struct.unpack_from("=i", message.body)[0]
        return answers

    def dump(self, kind: int, body: bytes) -> list[Message]:
        """All that the kernel lists for this request.

        A list that changes while it is read may lack entries; the kernel marks it (NLM_F_DUMP_INTR), and it is asked
        for again.

        Raises:
            OSError: The kernel refuses, with its errno; or the list keeps changing for `_PATIENCE` (EAGAIN). Two
                hundred TAPs that are made at once take less.
        """
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            sequence = self._send(kind, body, NLM_F_REQUEST | NLM_F_DUMP)
            messages: list[Message] = []
            self._interrupted = False
            for message in self._receive(sequence):
                if message.type == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", message.body)[0]
                    raise OSError(code, os.strerror(code))
                if message.type == NLMSG_DONE:
                    break
                messages.append(message)
            if not self._interrupted:
                return messages
        raise OSError(errno.EAGAIN, "the kernel's list kept changing while it was read")

    def _send(self, kind: int, body: bytes, flags: int) -> int:
        self._sequence += 1
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0) + body)
        return self._sequence

    def _receive(self, sequence: int) -> Iterator[Message]:
        """The messages that answer `sequence`, until the caller stops asking."""
        while True:
            # The kernel fills a dump's datagrams up to 32 KiB for a reader with room for it (netlink_dump, Linux 6.18).
            data = self._socket.recv(1 << 20)
            yield from self._parse(data, sequence)

    def _parse(self, data: bytes, sequence: int) -> Iterable[Message]:
        for answered, flags, message in _messages(data):
            # The rest of a list whose reading an error ended is still in the socket, before this answer.
            if answered == sequence:
                self._interrupted = getattr(self, "_interrupted", False) or bool(flags & _NLM_F_DUMP_INTR)
                yield message


def each_message(data: bytes) -> Iterator[Message]:
    """The messages of a datagram of a multicast group, in order."""
    return (message for _, _, message in _messages(data))


def _messages(data: bytes) -> Iterator[tuple[int, int, Message]]:
    """The messages of a datagram, in order: sequence number, flags and message."""
    at = 0
    while at + _HEADER.size <= len(data):
        size, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
        if size < _HEADER.size:
            return
        yield sequence, flags, Message(kind, data[at + _HEADER.size : at + size])
        at += (size + 3) & ~3


class Tolerate:
    """Takes these errors for success: the object exists already, or is gone already."""

    def __init__(self, *codes: int) -> None:
        self._codes = codes

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        return isinstance(error, OSError) and error.errno in self._codes
