"""What an agent works with on its host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from hostnet.agent.dhcp.dnsmasq import DhcpServers
from hostnet.agent.firewalls.sync import Firewalls
from hostnet.agent.lasting.persistence import Persistence
from hostnet.agent.linux.kernel import Kernel
from hostnet.agent.linux.rtnetlink import LinuxKernel
from hostnet.agent.nft.desired import Compiler
from hostnet.agent.nft.syntax import mark_of
from hostnet.agent.nft.sysctls import Sysctls
from hostnet.agent.nft.table import Table
from hostnet.agent.plan.world import World
from hostnet.agent.record.owners import Owner
from hostnet.agent.record.phase import Unconfirmed
from hostnet.agent.record.record import Record, Store
from hostnet.agent.routing.proxies import Proxies
from hostnet.agent.routing.sync import ReplyRouting
from hostnet.agent.transaction.kernel_errors import reason_of
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import DhcpServer, DhcpState, Lease


class Servers(Protocol):
    """The DHCP servers of one record: `dnsmasq.DhcpServers`, or a fake that starts no process."""

    def check(self, owner: Owner, world: World) -> None:
        """Raise a HostnetError where an owner's server, or a guest beside one, can't be served."""

    def sync(self, world: World, concerned: set[str]) -> None:
        """Bring the servers of these bridges to what the owners want; end those that no owner wants."""

    def state(self, server: DhcpServer, world: World) -> DhcpState:
        """Whether one runs as declared, and its leases."""

    def leases(self, bridge: str) -> tuple[Lease, ...]:
        """The leases in use on a bridge."""

    def leased(self) -> dict[str, dict[str, str]]:
        """The addresses on lease, by bridge, with the MAC that has each."""


@dataclass(frozen=True)
class Subsystems:
    """The record, the kernel, and the others that a transaction brings up to date. Each has one reason to exist."""

    store: Store
    persistence: Persistence
    kernel: Kernel
    table: Table
    compiler: Compiler
    sysctls: Sysctls
    routing: ReplyRouting
    proxies: Proxies
    firewalls: Firewalls
    servers: Servers

    @classmethod
    def of(cls, store: Store, persistence: Persistence) -> Subsystems:
        """Those of the network namespace that this process is in."""
        kernel, own = LinuxKernel(), mark_of(str(store.path.parent))
        table = Table(own=own)
        return cls(
            store,
            persistence,
            kernel,
            table,
            Compiler(),
            Sysctls(kernel, table.shared),
            ReplyRouting(kernel, table.nft, own),
            Proxies(kernel),
            Firewalls(table),
            DhcpServers(store),
        )

    def save(self, record: Record) -> None:
        """Write the record.

        Raises:
            HostnetError: It can't be written.
        """
        try:
            self.store.save(record)
        except OSError as error:
            raise HostnetError(
                Code.KERNEL,
                f"cannot write the record {self.store.path}",
                reason_of(error),
                "Make room, or set stateDir to a directory that can be written",
            ) from None

    def commit(self, record: Record) -> tuple[str, ...]:
        """Write the record after a transition, and have the watcher and systemd's units follow it.

        Returns:
            Warnings for a person.

        Raises:
            HostnetError: The record can't be written.
        """
        self.save(record)
        if not record.owners and isinstance(record.phase, Unconfirmed):
            return ()  # a rollback brings owners back, and a boot in the meantime needs the units for it
        return self.persistence.sync(record)
