"""The way by which a provider on another machine reaches this host, and what may take it for new connections.

A connection in progress is no proof: conntrack keeps it on its way whatever a new rule does with the next one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from hostnet.agent.linux.process import parent
from hostnet.wire.objects import Forward, Gateway, Object

_SSH = 22
_PARTS = 4  # of SSH_CONNECTION: the client's address and port, the server's address and port (ssh(1))


def ssh_port() -> int:
    """The port of this host at which we were let in: as sshd told whoever started us; 22 where nobody says.

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
            if name == "SSH_CONNECTION" and len(value.split()) == _PARTS and value.split()[-1].isdigit():
                return int(value.split()[-1])
    return _SSH


def may_take(objects: Iterable[Object], port: int) -> bool:
    """Whether any of these may take TCP connections to a port of this host."""
    return any(
        (isinstance(item, Forward) and "tcp" in item.protocols and item.ports[0] <= port <= item.ports[1])
        or (isinstance(item, Gateway) and (item.dmz4 or item.dmz6) and port not in item.dmz_except)
        for item in objects
    )
