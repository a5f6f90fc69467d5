"""What the elements of an owner depend on beside its own objects, from all owners. Pure."""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from hostnet.agent.indexes.prefixes import Prefix, PrefixIndex
from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.nft.networks import overlap, subnets, without
from hostnet.agent.record.forwards import ForwardIndex
from hostnet.agent.record.owners import Owners
from hostnet.wire.digest import sha256
from hostnet.wire.family import digit_of
from hostnet.wire.objects import Address, DhcpServer, Forward, Gateway, Glob, Guest, Link, Port, Route


@dataclass(frozen=True)
class Context:
    """What elements of one owner depend on beside its own objects.

    Attributes:
        devices: Our bridges and routed TAPs, sorted.
        addresses: By interface, the CIDRs of `devices` (as declared), and of internal and external interfaces (as
            observed).
        gateways: The gateways by name, with their external interfaces resolved.
        ports: The bridge ports that hostnet attached, if a forward has `loopback` or a gateway `oneToOneNat`: they are
            in hairpin mode.
        forwards: What forwards depend on of each other. Where another external interface forwards the same ports,
            the address decides from within which of them is meant.
        bridges: Bridges of other programs with an address in a network of a gateway, and their addresses.
        shared: Our addresses that an interface outside the gateways' networks has, too. A main address that is on a
            bridge as /32 (Hetzner's routed set-up) stays reachable.
        externals: The external interfaces of all gateways and forwards.
        routes: By interface behind a gateway, the declared routes through it (a routed TAP's guests).
        services: The bridges with `hostAccess: services`.
        guest_subnets: By bridge with guests whose frames are checked, and by routed TAP with such a guest, the host's
            addresses there.
        guest_routes: By such a TAP, the routes through it.
        advertised: By such a bridge, the prefixes that its router advertisements announce.
        bridge_macs: The MAC addresses of such bridges.
        egress_bridges: The bridges with a guest that has a list of its own.
        isolated: The bridges whose ports are isolated, all that are declared, and their MAC addresses.
        served_ports: The ports of bridges that serve DHCP or send router advertisements, each with its bridge.
        inner: Of our links and those behind gateways, the ones from which a packet comes from within: forwards with
            `loopback` take it at every address of the host.
        outer: The external interfaces, `apart`, and the bridges that lead out (`Snapshot.outward`). From all other
            bridges a packet comes from within, too.
        apart: What gateways name as internal and is none of `inner`: a network card, say. Their own forwards are
            reached from there all the same.
        observed: A digest of the observed part: with the same owners it can have been another one before. What of it
            decides about `inner` and `outer` follows a dot.
    """

    devices: tuple[str, ...] = ()
    addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    gateways: Mapping[str, Gateway] = field(default_factory=dict)
    ports: tuple[str, ...] = ()
    forwards: ForwardIndex = field(default_factory=ForwardIndex, compare=False)
    bridges: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shared: frozenset[str] = frozenset()
    externals: frozenset[str] = frozenset()
    inner: tuple[str, ...] = ()
    outer: tuple[str, ...] = ()
    apart: frozenset[str] = frozenset()
    routes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    observed: str = ""
    services: frozenset[str] = frozenset()
    guest_subnets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    guest_routes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    advertised: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    bridge_macs: tuple[str, ...] = ()
    egress_bridges: tuple[str, ...] = ()
    isolated: Mapping[str, str] = field(default_factory=dict)
    served_ports: Mapping[str, str] = field(default_factory=dict)

    def apart_of(self, gateway: Gateway) -> tuple[str, ...]:
        """The internal interfaces that a gateway names and that are none of `inner`, nor its own uplinks."""
        if not self.apart:
            return ()
        return tuple(name for name in gateway.internal if name in self.apart and name not in gateway.uplinks)

    def parts(self, gateway: Gateway, external: str, cidr: str) -> list[Any]:
        """A network of a gateway without what is more specific in another gateway of the same external interface.

        There the other gateway says how a source is translated; and an interval set takes no overlapping elements. Of
        two gateways with the same network, which admission refuses, the first by name has it.
        """
        network = Prefix.parse(cidr)
        index = self._behind.get(external)
        inside = [
            ipaddress.ip_network(other)
            for prefix, (name, other) in (index.overlapping(network) if index else ())
            if name != gateway.name and network.covers(prefix) and (prefix != network or name < gateway.name)
        ]
        return without(ipaddress.ip_network(cidr), inside)

    @cached_property
    def _behind(self) -> Mapping[str, PrefixIndex[tuple[str, str]]]:
        """By external interface, the networks behind its gateways, by address and by interface: (gateway, network)."""
        found: dict[str, PrefixIndex[tuple[str, str]]] = {}
        for name, gateway in self.gateways.items():
            own = [str(net) for link in gateway.internal for net in subnets(self.addresses.get(link, ()))]
            routed = [cidr for link in gateway.internal for cidr in self.routes.get(link, ())]
            for external in gateway.uplinks:
                index = found.setdefault(external, PrefixIndex())
                for cidr in (*gateway.internal4, *gateway.internal6, *own, *routed):
                    index.add(Prefix.parse(cidr), (name, cidr))
        return found


def context_of(owners: Owners, snapshot: Snapshot, attached: Mapping[str, str]) -> Context:
    """The context. Without a gateway and a forward nothing is forwarded, and it says only what guests may do.

    A transaction asks for it for the same owners, at the same moment, in several places: the latest ones are kept.

    Args:
        owners: All owners.
        snapshot: The host's interfaces and their addresses.
        attached: The interfaces that globs attached, each with its glob's key.
    """
    for version, then, ports, context in tuple(_LATEST):  # another thread's host may add one meanwhile
        if version is owners.version and then is snapshot and ports == attached:
            return context
    made = _context_of(owners, snapshot, attached)
    _LATEST.append((owners.version, snapshot, dict(attached), made))
    return made


_LATEST: deque[tuple[object, Snapshot, Mapping[str, str], Context]] = deque(maxlen=4)


def _context_of(owners: Owners, snapshot: Snapshot, attached: Mapping[str, str]) -> Context:
    guards = {**_guards(owners, snapshot), "served_ports": served_ports_of(owners, attached)}
    if not owners.has(Gateway, Forward):
        return Context(**guards)
    forwards, gateways = owners.lend_forwards(), dict(owners.gateways)
    declared = _by_link(owners.every(Address))
    devices = tuple(sorted(_devices(owners, declared)))
    our_links = {*devices, *(name for gateway in gateways.values() for name in gateway.internal)}
    externals = forwards.externals
    several = {name for gateway in gateways.values() if gateway.more for name in gateway.uplinks}
    compared = (externals if len(externals) > 1 else frozenset()) | several
    looked_up = {name: snapshot.addresses.get(name, ()) for name in {*our_links, *compared} - set(devices)}
    addresses = {**looked_up, **{name: declared.get(name, ()) for name in devices}}
    ports = tuple(sorted(_ports(owners, our_links, attached))) if _reflects(owners) else ()
    bridges = _other_bridges(gateways, snapshot, our_links)
    shared = _shared(addresses, snapshot, our_links)
    seen = (sorted({**looked_up, **bridges}.items()), sorted(shared))
    observed = _digest(seen) if any(seen) else ""
    behind = {name for gateway in gateways.values() for name in gateway.internal}
    routes = _by_link(owners.every(Route) if behind else (), behind)
    externals |= {name for gateway in gateways.values() for name in gateway.uplinks}
    found, decides = _sides(snapshot, devices, {*our_links, *bridges}, externals - {""}, behind)
    observed += f".{_digest(decides)}" if any(decides) else ""
    return Context(
        devices,
        addresses,
        gateways,
        ports,
        forwards,
        bridges,
        shared,
        externals,
        routes=routes,
        observed=observed,
        **found,
        **guards,
    )


def sides(observed: str) -> str:
    """Of `Context.observed`, what decides about `inner` and `outer`."""
    return observed.partition(".")[2]


def _digest(seen: object) -> str:
    return sha256(repr(seen).encode()).hexdigest()[:16]


def _sides(
    snapshot: Snapshot, devices: Container[str], near: set[str], externals: frozenset[str], behind: set[str]
) -> tuple[dict[str, Any], tuple[list[str], list[str]]]:
    """`Context.inner`, `outer` and `apart`; and what was observed that decides about them.

    Args:
        snapshot: The host's interfaces.
        devices: Our bridges and routed TAPs; they need not exist yet.
        near: These, the interfaces behind gateways, and other programs' bridges in gateways' networks.
        externals: The external interfaces.
        behind: The interfaces behind gateways.
    """
    outward = snapshot.outward | externals
    inner = {name for name in near if name not in outward and (name in devices or name in snapshot.links)}
    bridges = [name for name in sorted(outward) if name in snapshot.links and snapshot.links[name].kind == "bridge"]
    # Not one that is absent: it is neither, until it comes.
    apart = frozenset(name for name in behind - inner if name in snapshot.links)
    outer = tuple(sorted({*externals, *bridges, *apart}))
    return {"inner": tuple(sorted(inner)), "outer": outer, "apart": apart}, (bridges, sorted(near - inner))


def _guards(owners: Owners, snapshot: Snapshot) -> dict[str, Any]:
    """What the elements depend on that hold what guests may do: those fields of the context."""
    checked = [guest for guest in owners.every(Guest) if guest.anti_spoofing]
    homes = {guest.bridge or guest.link for guest in checked}
    own, routes = _by_link(owners.every(Address), homes), _by_link(owners.every(Route), homes)
    links = {link.name: link for link in owners.every(Link) if link.kind == "bridge" or link.name in homes}
    servers = [server for server in owners.every(DhcpServer) if server.bridge in homes]
    bridges = {guest.bridge for guest in checked if guest.bridge is not None}
    declared = {name: links[name].mac for name in bridges if name in links}
    macs = {declared.get(name) or _mac_of(name, snapshot) for name in bridges}
    return {
        "services": frozenset(name for name, link in links.items() if link.host_access == "services"),
        # Of another program's bridge the kernel says which subnets it has.
        "guest_subnets": {
            name: own.get(name, ()) if name in links else snapshot.addresses.get(name, ()) for name in sorted(homes)
        },
        "guest_routes": routes,
        "advertised": {server.bridge: server.ra_prefixes for server in servers if server.send_ra},
        "bridge_macs": tuple(sorted(macs - {""})),
        "egress_bridges": tuple(
            sorted({guest.bridge for guest in checked if guest.bridge and guest.egress is not None})
        ),
        "isolated": _isolated(owners, links, snapshot),
    }


def _isolated(owners: Owners, links: Mapping[str, Link], snapshot: Snapshot) -> dict[str, str]:
    """`Context.isolated`: a bridge that says so for all its ports, or each of whose ports says so."""
    every: list[Port | Glob] = [*owners.every(Port), *owners.every(Glob)]
    found = {name for name, link in links.items() if link.port_isolation}
    found |= {port.bridge for port in every if port.isolated} - {port.bridge for port in every if not port.isolated}
    macs = {name: (links[name].mac if name in links else None) or _mac_of(name, snapshot) for name in found}
    return {name: mac for name, mac in sorted(macs.items()) if mac}


def served_ports_of(owners: Owners, attached: Mapping[str, str]) -> dict[str, str]:
    """`Context.served_ports` alone."""
    served = {server.bridge for server in owners.every(DhcpServer)}
    if not served:
        return {}
    found = {port.link: port.bridge for port in owners.every(Port) if port.bridge in served}
    for link, key in sorted(attached.items()):
        owner = owners.get(key)
        globs = owner.of(Glob) if owner is not None else ()
        found.update((link, glob.bridge) for glob in globs if glob.bridge in served)
    return found


def _by_link(items: Iterable[Address | Route], links: Container[str] | None = None) -> dict[str, tuple[str, ...]]:
    """CIDRs by their link; None: of every link."""
    found: dict[str, tuple[str, ...]] = {}
    for item in items:
        if links is None or item.link in links:
            found[item.link] = (*found.get(item.link, ()), item.cidr)
    return found


def _mac_of(name: str, snapshot: Snapshot) -> str:
    return snapshot.links[name].mac if name in snapshot.links else ""


def _shared(addresses: Mapping[str, tuple[str, ...]], snapshot: Snapshot, our_links: Container[str]) -> frozenset[str]:
    """The addresses of our links and of those behind a gateway that another interface has, too."""
    own = {cidr.split("/")[0] for name, cidrs in addresses.items() if name in our_links for cidr in cidrs}
    others = (
        cidr.split("/")[0] for name, cidrs in snapshot.addresses.items() if name not in our_links for cidr in cidrs
    )
    return frozenset(own.intersection(others))


def _other_bridges(
    gateways: Mapping[str, Gateway], snapshot: Snapshot, our_links: Container[str]
) -> dict[str, tuple[str, ...]]:
    """Bridges of other programs with an address in a network of a gateway, and their addresses."""
    networks = [cidr for gateway in gateways.values() for cidr in (*gateway.internal4, *gateway.internal6)]
    return {
        name: cidrs
        for name, cidrs in sorted(snapshot.addresses.items() if networks else ())
        if name not in our_links and snapshot.links[name].kind == "bridge" and overlap(networks, cidrs)
    }


def ports_of(owners: Owners, attached: Mapping[str, str]) -> frozenset[str]:
    """`Context.ports` alone."""
    our_links = {*_devices(owners, {item.link for item in owners.every(Address)})}
    our_links.update(name for gateway in owners.every(Gateway) for name in gateway.internal)
    return frozenset(_ports(owners, our_links, attached)) if _reflects(owners) else frozenset()


def _devices(owners: Owners, addressed: Container[str]) -> set[str]:
    """Our bridges and routed TAPs."""
    links = {link.name for link in owners.every(Link) if link.kind == "bridge" or link.name in addressed}
    return links | {route.link for route in owners.every(Route)}


def _reflects(owners: Owners) -> bool:
    """Whether a guest may ask for an address of the host that leads to itself.

    With br_netfilter the bridge translates the frame, and it has to leave by the port that it came in by.
    """
    return bool(owners.forwards.looped) or any(gateway.one_to_one for gateway in owners.gateways.values())


def _ports(owners: Owners, bridges: set[str], attached: Mapping[str, str]) -> set[str]:
    return {port.link for port in owners.every(Port) if port.bridge in bridges} | set(attached)


def own_addresses(context: Context, name: str) -> Iterator[tuple[str, str]]:
    """The host's addresses on an interface, and on no other outside: (digit of the family, bare address)."""
    for cidr in context.addresses.get(name, ()):
        address = cidr.split("/")[0]
        if address not in context.shared:
            yield digit_of(cidr), address
