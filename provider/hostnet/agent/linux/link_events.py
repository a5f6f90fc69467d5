"""The kernel's messages about links that appear, go, or change their name, and about default routes."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from hostnet.agent.linux import netlink
from hostnet.agent.linux.rtnetlink import (
    IFLA_IFNAME,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_MASTER,
    RT_TABLE_MAIN,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_NEWLINK,
    RTM_NEWROUTE,
)
from hostnet.agent.linux.snapshot import VIRTUAL_PORTS

_RTMGRP_LINK, _RTMGRP_IPV4_ROUTE, _RTMGRP_IPV6_ROUTE = 0x1, 0x40, 0x400
_WIDEST = 1  # bits: a default route, or one of the halves that a VPN client adds
_SO_RCVBUFFORCE = 33
_BUFFER = 8 << 20  # bytes: the kernel sends some five messages of 1 to 2 KiB for a link while it is set up
_LINK = struct.Struct("=BxHiII")


@dataclass
class Changes:
    """What happened since the last call.

    Attributes:
        appeared: The names of links that are new, or have a new name.
        gone: The names of links that no longer exist.
        renamed: Old name to new name.
        routes: A default route changed, or one of the followed links, or a bridge has another port that may lead out.
        missed: The socket's buffer overflowed (ENOBUFS): messages are lost, and every link has to be looked at.
    """

    appeared: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    renamed: dict[str, str] = field(default_factory=dict)
    routes: bool = False
    missed: bool = False

    def __bool__(self) -> bool:
        """Whether anything happened."""
        return self.missed or self.routes or bool(self.appeared or self.gone or self.renamed)


class LinkEvents:
    """A subscription, in the network namespace of the thread that makes it.

    Attributes:
        followed: The links of which each message counts as one about routes: with a link that goes down the kernel
            drops its routes of IPv4 without a message.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, netlink.NETLINK_ROUTE)
        # Not SO_RCVBUF: the kernel cuts that to net.core.rmem_max, by default 208 KiB (socket(7)).
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        self._socket.bind((0, _RTMGRP_LINK | _RTMGRP_IPV4_ROUTE | _RTMGRP_IPV6_ROUTE))
        self._socket.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._names: dict[int, str] = {}
        self._masters: dict[int, int] = {}
        self.followed: frozenset[str] = frozenset()

    def fileno(self) -> int:
        """The descriptor, for poll(2)."""
        return self._socket.fileno()

    def learn(self, names: Mapping[int, str]) -> dict[str, str]:
        """Take these links as known, after a look at all of them.

        Args:
            names: The links by index.

        Returns:
            Those that were known by another name: old name to new name.
        """
        renamed = {
            self._names[index]: name for index, name in names.items() if self._names.get(index) not in (None, name)
        }
        self._names = dict(names)
        return renamed

    def read(self) -> Changes:
        """What happened since the last call. Does not wait."""
        changes = Changes()
        while True:
            try:
                # The kernel drops what of a datagram does not fit into the reader's buffer (netlink(7), MSG_TRUNC).
                data = self._socket.recv(1 << 20)
            except BlockingIOError:
                return changes
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                changes.missed = True
                continue
            for message in netlink.each_message(data):
                self._take(message, changes)

    def _take(self, message: netlink.Message, changes: Changes) -> None:
        if message.type in (RTM_NEWROUTE, RTM_DELROUTE):
            # struct rtmsg: the second byte is the destination's length, the fifth the table.
            changes.routes |= message.body[1] <= _WIDEST and message.body[4] == RT_TABLE_MAIN
            return
        if message.type not in (RTM_NEWLINK, RTM_DELLINK):
            return
        family, _, index, _, _ = _LINK.unpack_from(message.body)
        if family != socket.AF_UNSPEC:
            return  # AF_BRIDGE: a port joined or left a bridge; the link itself is neither new nor gone
        if message.type == RTM_DELLINK:
            name = self._names.pop(index, "")
            changes.appeared.discard(name)
            changes.gone.add(name)
            changes.routes |= name in self.followed or self._moved(index, {})
            return
        found = netlink.attributes(message.body[_LINK.size :])
        name = netlink.text(found.get(IFLA_IFNAME, b""))
        changes.routes |= name in self.followed or self._moved(index, found)
        known = self._names.get(index)
        if known == name:
            return
        self._names[index] = name
        changes.appeared.add(name)
        if known is not None:
            changes.appeared.discard(known)
            first = next((old for old, new in changes.renamed.items() if new == known), known)
            changes.renamed[first] = name

    def _moved(self, index: int, found: Mapping[int, bytes]) -> bool:
        """Whether a link that may lead out joined a bridge or left it."""
        before = self._masters.get(index, 0)
        master = netlink.u32(found.get(IFLA_MASTER, bytes(4)))
        if master == before:
            return False
        info = netlink.attributes(found.get(IFLA_LINKINFO, b""))
        if master and netlink.text(info.get(IFLA_INFO_KIND, b"")) in VIRTUAL_PORTS:
            return False
        self._masters.pop(index, None)
        if master:
            self._masters[index] = master
        return True
