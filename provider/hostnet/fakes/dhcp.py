"""DHCP servers in memory: what each was started with, and the leases that a test gives out. No process, no packet."""

from __future__ import annotations

from hostnet.agent.dhcp import config as dhcp
from hostnet.agent.dhcp.config import ServerConfig
from hostnet.agent.dhcp.dnsmasq import ServerError
from hostnet.agent.plan.world import World
from hostnet.agent.record.owners import Owner
from hostnet.wire.errors import HostnetError
from hostnet.wire.objects import DhcpServer, DhcpState, Lease


class FakeDhcpServers:
    """All servers of one record. Implements `hostnet.agent.transaction.subsystems.Servers`.

    Attributes:
        running: By bridge, what its server was started with. A server that died is taken out.
        given: By bridge, the leases in use.
    """

    def __init__(self) -> None:
        self.running: dict[str, ServerConfig] = {}
        self.given: dict[str, tuple[Lease, ...]] = {}
        self._refusals: dict[str, HostnetError] = {}

    def refuse(self, bridge: str, error: HostnetError) -> None:
        """Let the next start of a bridge's server fail.

        Args:
            bridge: Its name.
            error: What is said.
        """
        self._refusals[bridge] = error

    def check(self, owner: Owner, world: World) -> None:
        """Whether an owner's server, or guest beside one, can be."""
        dhcp.check(owner, world)

    def sync(self, world: World, concerned: set[str]) -> None:
        """Start, change and end servers."""
        wanted = {server.bridge: server for server in dhcp.servers(world)}
        for bridge in self.running.keys() - wanted.keys():
            del self.running[bridge]
            self.given.pop(bridge, None)
        for bridge in sorted(concerned & wanted.keys()):
            if bridge in self._refusals:
                raise ServerError(bridge, self._refusals.pop(bridge))
            self.running[bridge] = dhcp.config_of(wanted[bridge], world)

    def state(self, server: DhcpServer, world: World) -> DhcpState:
        """Whether a server runs as declared, and its leases."""
        try:
            running = self.running.get(server.bridge) == dhcp.config_of(server, world)
        except HostnetError:
            running = False
        return DhcpState(running, self.leases(server.bridge))

    def leases(self, bridge: str) -> tuple[Lease, ...]:
        """The leases in use on a bridge."""
        return self.given.get(bridge, ())

    def leased(self) -> dict[str, dict[str, str]]:
        """The addresses on lease, by bridge, with the MAC that has each."""
        return {bridge: {each.address: each.mac for each in leases} for bridge, leases in self.given.items()}
