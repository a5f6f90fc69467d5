"""What an agent works with on its host, and how the steps of a transaction speak of owners."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional, Protocol, Union

from hostnet.agent.dhcp.dnsmasq import DhcpServers
from hostnet.agent.firewalls.sync import Firewalls
from hostnet.agent.lasting.persistence import Persistence
from hostnet.agent.linux.kernel import Kernel
from hostnet.agent.linux.rtnetlink import LinuxKernel
from hostnet.agent.nft.sysctls import Sysctls
from hostnet.agent.nft.table import Compiler, Table
from hostnet.agent.plan.resolve import World
from hostnet.agent.record.owners import Owner, Owners
from hostnet.agent.record.record import Store
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import DhcpServer, DhcpState, Lease
from hostnet.wire.requests import View

Outcome = Union[View, HostnetError]
Pairs = dict[str, tuple[Optional[Owner], Optional[Owner]]]  # by owner: what it had, what it shall have
NOTHING = Owner("", "")


class Servers(Protocol):
    """The DHCP servers of one record: `dnsmasq.DhcpServers`, or a fake that starts no process."""

    def check(self, owner: Owner, world: World) -> None:
        """Raise a HostnetError where an owner's server, or a guest beside one, can't be served."""

    def sync(self, world: World, concerned: set[str]) -> None:
        """Bring the servers of these bridges to what the owners want; end those that nobody wants."""

    def see(self, server: DhcpServer, world: World) -> DhcpState:
        """Whether one runs as declared, and its leases."""

    def leases(self, bridge: str) -> tuple[Lease, ...]:
        """The leases in use on a bridge."""

    def leased(self) -> dict[str, dict[str, str]]:
        """The addresses on lease, by bridge, with the MAC that has each."""


@dataclass(frozen=True)
class Subsystems:
    """The record, the kernel and the others that are told things; each has one reason to exist."""

    store: Store
    persistence: Persistence
    kernel: Kernel
    table: Table
    compiler: Compiler
    sysctls: Sysctls
    firewalls: Firewalls
    servers: Servers

    @classmethod
    def of(cls, store: Store, persistence: Persistence) -> Subsystems:
        """In the network namespace that this process is in."""
        kernel, table = LinuxKernel(), Table()
        return cls(store, persistence, kernel, table, Compiler(), Sysctls(kernel), Firewalls(table), DhcpServers(store))


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
