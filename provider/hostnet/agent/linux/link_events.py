"""What the kernel tells of links that appear, go and change their names (RTNLGRP_LINK)."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from hostnet.agent.linux import netlink
from hostnet.agent.linux.rtnetlink import IFLA_IFNAME, RTM_DELLINK, RTM_NEWLINK

_RTMGRP_LINK = 1
_SO_RCVBUFFORCE = 33
_BUFFER = 8 << 20  # bytes: a link is told of some five times while it is set up, in 1 to 2 KiB each
_LINK = struct.Struct("=BxHiII")


@dataclass
class Changes:
    """What happened since the last look.

    :param appeared: the names of links that are new, or have a new name.
    :param gone: the names of links that are not there any more.
    :param renamed: the old name of each link that has another now, and that.
    :param missed: the kernel had more to say than there was room for: everything has to be looked at.
    """

    appeared: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    renamed: dict[str, str] = field(default_factory=dict)
    missed: bool = False

    def __bool__(self) -> bool:
        """Whether anything happened."""
        return self.missed or bool(self.appeared or self.gone or self.renamed)


class LinkEvents:
    """A subscription, in the network namespace that the process is in when it is made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, netlink.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        self._socket.bind((0, _RTMGRP_LINK))
        self._socket.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._names: dict[int, str] = {}

    def fileno(self) -> int:
        """For poll(2)."""
        return self._socket.fileno()

    def learn(self, names: Mapping[int, str]) -> dict[str, str]:
        """Take the links that there are, by index, for known.

        :returns: those that have another name than they were known by: old and new.
        """
        renamed = {
            self._names[index]: name for index, name in names.items() if self._names.get(index) not in (None, name)
        }
        self._names = dict(names)
        return renamed

    def read(self) -> Changes:
        """All that was told since the last call; does not wait."""
        changes = Changes()
        while True:
            try:
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
        if message.type not in (RTM_NEWLINK, RTM_DELLINK):
            return
        family, _, index, _, _ = _LINK.unpack_from(message.body)
        if family != socket.AF_UNSPEC:
            return  # AF_BRIDGE: a port that joined or left a bridge
        if message.type == RTM_DELLINK:
            name = self._names.pop(index, "")
            changes.appeared.discard(name)
            changes.gone.add(name)
            return
        name = netlink.text(netlink.attributes(message.body[_LINK.size :]).get(IFLA_IFNAME, b""))
        known = self._names.get(index)
        if known == name:
            return
        self._names[index] = name
        changes.appeared.add(name)
        if known is not None:
            changes.appeared.discard(known)
            first = next((old for old, new in changes.renamed.items() if new == known), known)
            changes.renamed[first] = name
