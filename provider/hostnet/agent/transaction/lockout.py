"""Whether a change may keep a provider on another machine from logging in again.

A connection in progress is no proof that the next one works: conntrack keeps it on its path whatever a new rule does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hostnet.agent.linux.process import parent
from hostnet.agent.record.owners import Owners
from hostnet.agent.record.phase import Pairs
from hostnet.wire.objects import Forward, Gateway, Object

_SSH = 22
_FIELDS = 4  # of SSH_CONNECTION: the client's address and port, the server's address and port (ssh(1))


def is_possible(owners: Owners, pairs: Pairs) -> bool:
    """Whether what a transaction changed may divert new connections to the SSH port of this host.

    Args:
        owners: All owners afterwards.
        pairs: What each owner of the transaction had, and what it has.
    """
    port = ssh_port()
    return any(_diverts(item, port) for item in _redirected(owners, pairs))


def ssh_port() -> int:
    """The port of this host at which the provider logged in, as sshd wrote it to our environment; else 22.

    sudo keeps SSH_CONNECTION from us, so our ancestors are asked.
    """
    pid = os.getpid()
    while pid > 1:
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            pid = parent(pid)
        except OSError:
            break
        for variable in variables:
            name, _, value = variable.decode(errors="replace").partition("=")
            if name == "SSH_CONNECTION" and len(value.split()) == _FIELDS and value.split()[-1].isdigit():
                return int(value.split()[-1])
    return _SSH


def _redirected(owners: Owners, pairs: Pairs) -> Iterator[Object]:
    """The objects that are new or changed, and the forwards of changed gateways: they listen where the gateway does."""
    had = {item for old, _ in pairs.values() if old for item in old.objects}
    has = {item for _, new in pairs.values() if new for item in new.objects}
    yield from has - had
    gateways = {item.name for item in had ^ has if isinstance(item, Gateway)}
    yield from (item for item in owners.every(Forward) if item.gateway in gateways)


def _diverts(item: Object, port: int) -> bool:
    """Whether it may take TCP connections to a port of this host."""
    if isinstance(item, Forward):
        return "tcp" in item.protocols and item.ports[0] <= port <= item.ports[1]
    return isinstance(item, Gateway) and bool(item.dmz4 or item.dmz6) and port not in item.dmz_except
