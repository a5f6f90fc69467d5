"""What the kernel has, as data: one snapshot serves every plan and view of a transaction."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from hostnet.agent.linux.operations import PutRoute

_GUESTS = frozenset({"tun", "veth"})  # kinds of links behind which guests are


@dataclass(frozen=True)
class KernelLink:
    """A link as rtnetlink lists it."""

    name: str
    index: int
    kind: str  # "bridge", "tun", "veth", …; "" for hardware
    up: bool
    mac: str
    mtu: int
    ethernet: bool = True
    master: int = 0
    isolated: bool = False
    hairpin: bool = False
    stp: bool = False
    vlan_filtering: bool = False
    tap: bool = False
    uid: int | None = None
    gid: int | None = None
    multi_queue: bool = False
    vnet_hdr: bool = False
    persistent: bool = False
    accept_ra: int | None = None  # whether it takes router advertisements, as the sysctl has it; None: no IPv6
    carrier: bool = False  # of a TAP: a program has it open

    @property
    def physical(self) -> bool:
        """A network card, not something made in software."""
        return self.ethernet and not self.kind

    @property
    def our_kind(self) -> str:
        """The kind as objects name it; the kernel's own name for all that we don't make."""
        return "tap" if self.kind == "tun" and self.tap else self.kind or "physical"


@dataclass(frozen=True)
class Snapshot:
    """Links, addresses, routes and sysctls of the namespace at one moment."""

    links: Mapping[str, KernelLink] = field(default_factory=dict)
    addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by link, CIDRs, without link-local ones
    routes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by link, CIDRs, main table, static
    default_links: Mapping[str, str] = field(default_factory=dict)  # family -> interface of the default route
    ways_out: frozenset[str] = frozenset()  # the interfaces of all default routes: several uplinks may share one
    through: Mapping[str, tuple[PutRoute, ...]] = field(default_factory=dict)  # by bridge: all but the kernel's own
    leased: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # by bridge, address -> MAC of its DHCP lease

    def by_index(self, index: int) -> KernelLink | None:
        """The link of this index."""
        return next((link for link in self.links.values() if link.index == index), None)

    def master_of(self, name: str) -> str | None:
        """The bridge (or bond, …) that this link is in."""
        link = self.links.get(name)
        if link is None or not link.master:
            return None
        master = self.by_index(link.master)
        return master.name if master else None

    def ports_of(self, bridge: str) -> tuple[str, ...]:
        """The links in this bridge, by name."""
        link = self.links.get(bridge)
        if link is None:
            return ()
        return tuple(sorted(port.name for port in self.links.values() if port.master == link.index))

    def takes_routers(self, name: str) -> bool:
        """Whether a guest's router advertisement would be heard by this host.

        A bridge's port passes it on. On a bridge with a network card, a bond or the like in it they are its uplink's,
        which may be all that gives this host its IPv6 (an adopted bridge).
        """
        link = self.links[name]
        ports = (self.links[port] for port in self.ports_of(name))
        return bool(link.accept_ra) and not link.master and all(port.kind in _GUESTS for port in ports)

    @property
    def uplinks(self) -> frozenset[str]:
        """The interfaces of the default routes: taking one of them away cuts the machine off."""
        return self.ways_out | set(self.default_links.values())

    def holds(self, name: str, cidr: str) -> bool:
        """Whether the link has this very address and prefix length."""
        return cidr in self.addresses.get(name, ())

    def local(self, address: str) -> bool:
        """Whether it is one of the host's own addresses."""
        wanted = ipaddress.ip_address(address)
        return any(ipaddress.ip_interface(cidr).ip == wanted for cidrs in self.addresses.values() for cidr in cidrs)
