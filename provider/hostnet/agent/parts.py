"""What an agent works with on its host, and how the steps of a transaction speak of owners."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional, Union

from hostnet.agent.dnsmasq import Servers
from hostnet.agent.foreign import Foreign
from hostnet.agent.kernel import Kernel
from hostnet.agent.owners import Owner, Owners
from hostnet.agent.record import Store
from hostnet.agent.service import Service
from hostnet.agent.sysctls import Switches
from hostnet.agent.table import Compiler, Table
from hostnet.errors import Code, HostnetError
from hostnet.hosts.api import View

Outcome = Union[View, HostnetError]
Pairs = dict[str, tuple[Optional[Owner], Optional[Owner]]]  # by owner: what it had, what it shall have
NOTHING = Owner("", "")


@dataclass(frozen=True)
class Parts:
    """The record, the kernel and the others that are told things; each has one reason to exist."""

    store: Store
    service: Service
    kernel: Kernel
    table: Table
    compiler: Compiler
    switches: Switches
    foreign: Foreign
    servers: Servers

    @classmethod
    def of(cls, store: Store, service: Service) -> Parts:
        """In the network namespace that this process is in."""
        kernel, table = Kernel(), Table()
        return cls(store, service, kernel, table, Compiler(), Switches(kernel), Foreign(table), Servers(store))


def effective(before: Owners, pairs: Pairs, failed: Mapping[str, HostnetError]) -> Owners:
    """The owners after a transaction in which some failed: those are as before, or, half done, as they should be."""
    owners = before.copy()
    for key, (old, new) in pairs.items():
        kept = old if key in failed and failed[key].code != Code.PARTIAL else new
        if kept is None:
            owners.remove(key)
        else:
            owners[key] = kept
    return owners
