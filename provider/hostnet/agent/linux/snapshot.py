"""The kernel's links, addresses and routes at one moment, as data: one snapshot serves a whole transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from hostnet.agent.indexes.prefixes import Prefix, PrefixIndex
from hostnet.agent.linux.operations import AddRule, PutRoute
from hostnet.agent.linux.shaping import Bucket

# The halves of all addresses: a VPN client adds both, so that its server keeps the default route (OpenVPN,
# `redirect-gateway def1`).
_HALVES = {
    one: other for pair in (("0.0.0.0/1", "128.0.0.0/1"), ("::/1", "8000::/1")) for one, other in (pair, pair[::-1])
}
_GUESTS = frozenset({"tun", "veth"})  # kinds of links behind which guests are
# The kinds of links that lead to nothing but this host's own guests, unless they are used as an uplink. All else may be
# above a network card (bond, VLAN, macvlan), or a tunnel.
_VIRTUAL = frozenset({"bridge", "dummy", "tun", "veth", "wireguard"})
VIRTUAL_PORTS = frozenset({"dummy", "tun", "veth"})


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
    group_fwd_mask: int = 0  # the reserved group addresses whose frames its bridge treats as any other's
    stp: bool = False
    vlan_filtering: bool = False
    tap: bool = False
    uid: int | None = None
    gid: int | None = None
    multi_queue: bool = False
    vnet_hdr: bool = False
    persistent: bool = False
    accept_ra: int | None = None  # the sysctl: whether it accepts router advertisements; None: the link has no IPv6
    disable_ipv6: bool = False  # the sysctl: with it the kernel refuses the link IPv6 addresses (EACCES)
    forwarding4: bool = True  # the sysctl: whether what comes in by it is forwarded; True where it has no IPv4
    forwarding6: bool = True  # the sysctl: whether it is a router to its neighbours; True where it has no IPv6
    altnames: tuple[str, ...] = ()  # no other link can have one of these as its name
    carrier: bool = False  # of a TAP: whether a program has it open

    @property
    def physical(self) -> bool:
        """Whether it is a network card: virtual links have a kind."""
        return self.ethernet and not self.kind

    @property
    def our_kind(self) -> str:
        """The kind as objects name it: "tap", "physical", else the kernel's own name."""
        return "tap" if self.kind == "tun" and self.tap else self.kind or "physical"


class DefaultRoutes:
    """Collects the routes of the main table that lead anywhere."""

    def __init__(self) -> None:
        self._found: list[tuple[int, str, int, tuple[str, ...]]] = []  # a half or not, family, metric, links
        self._halves: dict[str, tuple[int, tuple[str, ...]]] = {}

    def add(self, family: str, cidr: str, metric: int, links: Iterable[str]) -> None:
        """Take a route into account; one that leads to a network is none of them.

        Args:
            family: Its family.
            cidr: Its destination.
            metric: Its metric.
            links: The interfaces of its next hops; "" for those of no interface that is looked at.
        """
        named = tuple(filter(None, links))
        if cidr.endswith("/0"):
            self._found.append((0, family, metric, named))
        elif cidr in _HALVES:
            self._halves[cidr] = (metric, named)
            other = self._halves.get(_HALVES[cidr])
            if other is not None:
                self._found.append((1, family, metric, (*named, *other[1])))

    @property
    def links(self) -> tuple[str, ...]:
        """Their interfaces, see `Snapshot.default_route_links`."""
        return tuple(dict.fromkeys(name for *_, links in sorted(self._found, key=lambda x: x[:3]) for name in links))


@dataclass(frozen=True)
class Policy:
    """The routing rules and routes of a network namespace at one moment.

    Attributes:
        rules: Those that lead to a table; mark and mask are 0 where they hold for any mark.
        routes: Of all tables, each next hop by itself.
        named: The numbers of the tables that have a name (rt_tables).
    """

    rules: tuple[AddRule, ...] = ()
    routes: tuple[PutRoute, ...] = ()
    named: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Snapshot:
    """Links, addresses and routes of a network namespace at one moment.

    Attributes:
        links: By name.
        addresses: By link, CIDRs in the kernel's order, without link-local ones.
        routes: By link, the destinations of static routes in the main table.
        default_links: By family ("ipv4", "ipv6"), the interface of the default route with the lowest metric.
        default_route_links: The interfaces of all default routes, also of two halves (0.0.0.0/1 and 128.0.0.0/1, as VPN
            clients add them): the one with the lowest metric first, IPv4 before IPv6.
        gateways: The routers of all default routes, each with the interface that leads to it; without link-local ones
            of IPv6, which mean another router on each interface.
        buckets: By link, what limits what it sends.
        through: By bridge, the routes through it in any table, without those that the kernel adds by itself.
        leased: By bridge, the addresses on DHCP lease with the MAC address that has each.
    """

    links: Mapping[str, KernelLink] = field(default_factory=dict)
    addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    routes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    default_links: Mapping[str, str] = field(default_factory=dict)
    default_route_links: tuple[str, ...] = ()
    through: Mapping[str, tuple[PutRoute, ...]] = field(default_factory=dict)
    leased: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    gateways: Mapping[str, str] = field(default_factory=dict)
    buckets: Mapping[str, Bucket] = field(default_factory=dict)

    def by_index(self, index: int) -> KernelLink | None:
        """The link with this index."""
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
        return self._ports.get(link.index, ()) if link is not None else ()

    @cached_property
    def _ports(self) -> Mapping[int, tuple[str, ...]]:
        """The links in each bridge (or bond, …), by its index; a thousand changes in one transaction ask for them."""
        found: dict[int, list[str]] = {}
        for link in self.links.values():
            if link.master:
                found.setdefault(link.master, []).append(link.name)
        return {index: tuple(sorted(names)) for index, names in found.items()}

    def takes_routers(self, name: str) -> bool:
        """Whether this host would accept a guest's router advertisement on this link.

        A port of a bridge accepts none itself. On a bridge that has a network card, a bond or the like as a port they
        are the uplink's routers', and may be all that gives this host its IPv6 (an adopted bridge): not a guest's.
        """
        link = self.links[name]
        ports = (self.links[port] for port in self.ports_of(name))
        return bool(link.accept_ra) and not link.master and all(port.kind in _GUESTS for port in ports)

    @property
    def uplinks(self) -> frozenset[str]:
        """The interfaces of the default routes: without one of them the machine may be unreachable."""
        return frozenset(self.default_route_links) | set(self.default_links.values())

    @property
    def default_uplinks(self) -> tuple[str, ...]:
        """The same in order: that of IPv4's default route first."""
        best = (self.default_links[family] for family in sorted(self.default_links))
        return tuple(dict.fromkeys((*best, *self.default_route_links)))

    def leads_to_guests(self, name: str) -> bool:
        """Whether guests, containers and the like are behind this link: a TAP, a bridge without another kind of port.

        A network card, or what stands for one in a container (veth), may lead to a network of the administrator's.
        """
        link = self.links[name]
        if name in self.uplinks or link.kind not in ("bridge", "tun"):
            return False
        return all(self.links[port].kind in _GUESTS for port in self.ports_of(name))

    @cached_property
    def outward(self) -> frozenset[str]:
        """The links that lead to more than this host's own guests.

        Network cards and what may be above them, those of default routes, and bridges with such a port.
        """
        links = self.links.values()
        above = {link.master for link in links if link.master and link.kind not in VIRTUAL_PORTS}
        found = {link.name for link in links if link.kind not in _VIRTUAL or link.index in above}
        return frozenset(found | self.uplinks) - {"lo"}

    @cached_property
    def address_index(self) -> PrefixIndex[str]:
        """All addresses by their networks, each once; `links_with` says which links have it."""
        index: PrefixIndex[str] = PrefixIndex()
        for cidr in self.links_with:
            index.add(Prefix.parse(cidr), cidr)
        return index

    def home_of(self, address: str) -> str | None:
        """The link in whose subnet an address is: of several the one with the smallest."""
        found = [(net.last - net.first, cidr) for net, cidr in self.address_index.overlapping(Prefix.parse(address))]
        subnets = [each for each in found if each[0]]
        return self.links_with[min(subnets)[1]][0] if subnets else None

    @cached_property
    def links_with(self) -> Mapping[str, tuple[str, ...]]:
        """The links by address with prefix length."""
        found: dict[str, list[str]] = {}
        for name, cidrs in self.addresses.items():
            for cidr in cidrs:
                found.setdefault(cidr, []).append(name)
        return {cidr: tuple(names) for cidr, names in found.items()}

    def holds(self, name: str, cidr: str) -> bool:
        """Whether the link has this address with this prefix length."""
        return cidr in self.addresses.get(name, ())

    def local(self, address: str) -> bool:
        """Whether it is one of the host's own addresses."""
        return address in self._own

    @cached_property
    def _own(self) -> frozenset[str]:
        return frozenset(cidr.partition("/")[0] for cidr in self.links_with)
