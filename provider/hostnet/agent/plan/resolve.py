"""From a wish to an owner: look up what only the host knows, allocate, and refuse what can't be. Pure."""

from __future__ import annotations

import fnmatch
import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Union

from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.record.owners import Owner, Owners
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.family import FAMILIES, Family
from hostnet.wire.objects import (
    EXTERNAL_PLACEHOLDER,
    Address,
    DhcpServer,
    Forward,
    Gateway,
    Glob,
    Guest,
    Link,
    Object,
    Port,
    Route,
)
from hostnet.wire.requests import Change

Ip = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
Interface = Union[ipaddress.IPv4Interface, ipaddress.IPv6Interface]
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]


@dataclass(frozen=True)
class World:
    """All owners (those of this transaction that were admitted so far included) and what the kernel has."""

    owners: Owners
    snapshot: Snapshot

    def holding(self, kind: type[Object]) -> Iterator[Owner]:
        """The owners that have an object of this kind (not for forwards and their switch)."""
        return (owner for owner in self.owners.structural.values() if kind in owner.kinds)

    def others(self, change: Change, *kinds: type[Object]) -> Iterator[Owner]:
        """The owners that this wish may clash with: not itself, nor what it replaces (one URN, another id)."""
        wanted = frozenset(kinds)
        return (x for x in self.owners.structural.values() if x.kinds & wanted and x.urn != change.urn)

    def link_owner(self, name: str) -> Owner | None:
        """Whose link this is."""
        for owner in self.holding(Link):
            if any(isinstance(item, Link) and item.name == name for item in owner.objects):
                return owner
        return None

    def link(self, name: str) -> Link | None:
        """A declared link."""
        owner = self.link_owner(name)
        if owner is None:
            return None
        return next(item for item in owner.objects if isinstance(item, Link) and item.name == name)

    def cidrs(self, link: str) -> tuple[str, ...]:
        """A link's addresses: as declared where it is ours, else as the kernel has them."""
        declared = tuple(
            item.cidr
            for owner in self.holding(Address)
            for item in owner.objects
            if isinstance(item, Address) and item.link == link
        )
        return declared or self.snapshot.addresses.get(link, ())

    def gateway(self, name: str) -> Gateway | None:
        """A declared gateway."""
        for owner in self.holding(Gateway):
            for item in owner.objects:
                if isinstance(item, Gateway) and item.name == name:
                    return item
        return None


def resolve(change: Change, world: World) -> Owner:
    """The owner that this change asks for.

    :raises HostnetError: where it can't be, with whose thing stands in the way.
    """
    objects: list[Object] = []
    for item in change.objects:
        objects.append(_resolve(item, change, objects, world))
    return Owner(change.urn, _identity(change, objects, world), tuple(objects))


def _resolve(item: Object, change: Change, done: list[Object], world: World) -> Object:
    if isinstance(item, Gateway):
        return _resolve_gateway(item, world)
    if isinstance(item, Forward):
        return _resolve_forward(item, change, world)
    if isinstance(item, Guest):
        return _resolve_guest(item, change, done, world)
    if isinstance(item, Link):
        _check_link(item, change, world)
    elif isinstance(item, Address):
        _check_subnet(item, change, world)
    elif isinstance(item, Route):
        _check_route(item, change, world)
    elif isinstance(item, Port):
        _check_port(item, world)
    elif isinstance(item, Glob):
        _check_glob(item, world)
    return item


def _identity(change: Change, objects: list[Object], world: World) -> str:
    if EXTERNAL_PLACEHOLDER not in change.id:
        return change.id
    for item in objects:
        if isinstance(item, Forward):
            return change.id.replace(EXTERNAL_PLACEHOLDER, external_of(item, world))
    return change.id


def external_of(forward: Forward, world: World) -> str:
    """The external interface of a resolved forward."""
    gateway = world.gateway(forward.gateway) if forward.gateway else None
    return (gateway.external if gateway else forward.external) or ""


# --- links ---------------------------------------------------------------------------------------------------------


def _check_link(item: Link, change: Change, world: World) -> None:
    owner = world.link_owner(item.name)
    mine = owner is not None and owner.urn == change.urn and (owner.id == change.id or not change.id)
    if owner is not None and not mine:
        raise HostnetError(
            Code.CONFLICT,
            f"{item.kind} {item.name} can't be created",
            f"the name belongs to {owner.label}",
            "Choose another name, or import it to take it over",
        )
    state = world.snapshot.links.get(item.name)
    if state is None:
        return
    if state.our_kind != item.kind:
        raise HostnetError(
            Code.CONFLICT,
            f"{item.kind} {item.name} can't be created",
            f"EEXIST: an interface of this name exists and is {_a(state.our_kind)}",
            "Choose another name",
        )
    if not (mine or change.known or item.adopt):
        raise HostnetError(
            Code.CONFLICT,
            f"{item.kind} {item.name} can't be created",
            "EEXIST: it exists and hostnet did not make it",
            f"Take it over with `pulumi import` (id {item.name})"
            + (", or with adopt: true" if item.kind == "bridge" else ""),
        )


def _a(kind: str) -> str:
    names = {"physical": "a network card", "veth": "a veth", "bridge": "a bridge", "tap": "a TAP"}
    return names.get(kind, f"a {kind} interface")


def _check_subnet(item: Address, change: Change, world: World) -> None:
    """Refuse overlapping subnets on two of our bridges: the host could not tell where to route.

    A routed TAP's address is no subnet.
    """
    mine = ipaddress.ip_interface(item.cidr).network
    if mine.prefixlen == mine.max_prefixlen:
        return
    for owner in world.others(change, Address):
        for other in owner.objects:
            if not isinstance(other, Address):
                continue
            theirs = ipaddress.ip_interface(other.cidr).network
            if theirs.prefixlen != theirs.max_prefixlen and _overlap(mine, theirs):
                raise HostnetError(
                    Code.CONFLICT,
                    f"{item.link} can't have the address {item.cidr}",
                    f"its subnet overlaps {other.cidr} of {other.link}, which belongs to {owner.label}",
                    "Choose another subnet",
                )


def _check_route(item: Route, change: Change, world: World) -> None:
    """Refuse a route that would take the place of another: the kernel has one to each network (of one metric).

    One that was ours, and that somebody changed since, is taken back.
    """
    if any(item in owner.objects for owner in world.holding(Route) if owner.urn == change.urn) or item in change.prior:
        return
    for owner in world.others(change, Route):
        for other in owner.objects:
            if isinstance(other, Route) and other.cidr == item.cidr:
                raise _taken(item, f"it goes through {other.link}, which belongs to {owner.label}")
    for link, cidrs in world.snapshot.routes.items():
        if link != item.link and item.cidr in cidrs and world.link_owner(link) is None:
            raise _taken(item, f"it goes through {link}, by a route that is not hostnet's")


def _taken(item: Route, why: str) -> HostnetError:
    fix = "Remove one of the two, or choose another network"
    return HostnetError(Code.CONFLICT, f"{item.cidr} can't be routed through {item.link}", why, fix)


def _overlap(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)


def _check_port(item: Port, world: World) -> None:
    if item.link in world.snapshot.uplinks:
        raise _uplink(f"{item.link} can't be put into bridge {item.bridge}", item.link, world.snapshot)
    _check_bridge(item.bridge, f"{item.link} can't be put into bridge {item.bridge}", world)


def _check_bridge(bridge: str, what: str, world: World) -> None:
    declared = world.link(bridge)
    if declared is not None and declared.kind == "bridge":
        return
    state = world.snapshot.links.get(bridge)
    if state is None:
        raise HostnetError(
            Code.NOT_FOUND, what, f"there is no interface {bridge}", "Create the Bridge first: use its `name` output"
        )
    if state.kind != "bridge":
        raise HostnetError(Code.INVALID, what, f"{bridge} is {_a(state.our_kind)}", "Name a bridge")


def _check_glob(item: Glob, world: World) -> None:
    what = f"{item.pattern!r} can't be attached to bridge {item.bridge}"
    _check_bridge(item.bridge, what, world)
    for name, link in world.snapshot.links.items():
        if fnmatch.fnmatchcase(name, item.pattern) and name != item.bridge:
            if name in world.snapshot.uplinks:
                raise _uplink(what, name, world.snapshot)
            if link.physical:
                raise HostnetError(
                    Code.INVALID, what, f"it takes in {name}, a physical interface", "Narrow the pattern"
                )


def _uplink(what: str, name: str, snapshot: Snapshot) -> HostnetError:
    families = " and ".join(
        family.replace("ip", "IP") for family, link in sorted(snapshot.default_links.items()) if link == name
    )
    return HostnetError(
        Code.INVALID,
        what,
        f"{name} is the interface of the {families} default route; the host would lose its own network",
        "Name other interfaces",
    )


# --- gateways and forwards -----------------------------------------------------------------------------------------


def _default_link(what: str, family: Family | None, snapshot: Snapshot) -> str:
    """The interface of the default route: IPv4's first, where the family is not given."""
    for each in sorted(FAMILIES, key=lambda each: each != family):
        if each in snapshot.default_links:
            return snapshot.default_links[each]
    raise HostnetError(
        Code.NOT_FOUND, what, "externalInterface is not set and the host has no default route", "Set externalInterface"
    )


def _resolve_gateway(item: Gateway, world: World) -> Gateway:
    what = f"NAT gateway {item.name} can't be set up"
    external = item.external or _default_link(what, None, world.snapshot)
    if external not in world.snapshot.links:
        raise _missing_external(what, external, world.snapshot)
    if external in item.internal:
        raise HostnetError(
            Code.INVALID, what, f"{external} is both its external and an internal interface", "Name the inner side only"
        )
    return replace(item, external=external, resolved=item.external is None or item.resolved)


def _missing_external(what: str, name: str, snapshot: Snapshot) -> HostnetError:
    there = ", ".join(sorted(name for name in snapshot.links if name != "lo")) or "none"
    return HostnetError(
        Code.NOT_FOUND, what, f"there is no external interface {name}", f"The host's interfaces are: {there}"
    )


def _resolve_forward(item: Forward, change: Change, world: World) -> Forward:
    ports = "-".join(map(str, dict.fromkeys(item.ports)))
    what = f"{'+'.join(item.protocols)} port {ports} can't be forwarded to {item.address}"
    if item.gateway is not None:
        own = next((x for x in change.objects if isinstance(x, Gateway) and x.name == item.gateway), None)
        if own is None and world.gateway(item.gateway) is None:
            raise HostnetError(
                Code.NOT_FOUND, what, f"there is no NAT gateway {item.gateway}", "Use the `id` of a NatGateway"
            )
        return item
    external = item.external
    asked = external is not None
    if external is None and EXTERNAL_PLACEHOLDER not in change.id and change.known:
        external = change.id.split("/", 1)[0]  # the id says which interface it was when it was created
    external = external or _default_link(what, item.family, world.snapshot)
    if external not in world.snapshot.links:
        raise _missing_external(what, external, world.snapshot)
    return replace(item, external=external, resolved=not asked)


# --- guests --------------------------------------------------------------------------------------------------------


def _resolve_guest(item: Guest, change: Change, done: list[Object], world: World) -> Guest:
    """The guest with its addresses, as CIDRs: its own choice checked, or the lowest free of each subnet."""
    what = f"guest of {item.link} can't be set up"
    if item.bridge is None:
        return _routed_guest(item, done)
    networks = [ipaddress.ip_interface(cidr) for cidr in world.cidrs(item.bridge)]
    used = _used(item.bridge, change, world)
    _check_mac(item, change, world, what)
    if item.addresses is not None:
        return replace(item, addresses=tuple(_explicit(a, item.bridge, networks, used, what) for a in item.addresses))
    chosen = []
    leased = {
        ipaddress.ip_address(address): f"a DHCP lease of {mac}"
        for address, mac in world.snapshot.leased.get(item.bridge, {}).items()
        if mac != item.mac
    }
    for interface in networks:
        address = _hinted(item.hint, interface.network, used)
        # What a client has on lease is not free while there is something better.
        address = address or _lowest(interface.network, {**used, **leased}) or _lowest(interface.network, used)
        if address is None:
            raise HostnetError(
                Code.CONFLICT, what, f"no address of {interface.network} on {item.bridge} is free", "Widen the subnet"
            )
        used[address] = "this guest"
        chosen.append(f"{address}/{interface.network.prefixlen}")
    return replace(item, addresses=tuple(chosen))


def _routed_guest(item: Guest, done: list[Object]) -> Guest:
    """A routed TAP has no subnet: the guest's addresses are the host routes through it."""
    routes = (r.cidr for r in done if isinstance(r, Route) and r.link == item.link)
    hosts = [
        cidr for cidr in routes if ipaddress.ip_network(cidr).prefixlen == ipaddress.ip_network(cidr).max_prefixlen
    ]
    wanted = item.addresses if item.addresses is not None else tuple(hosts)
    return replace(item, addresses=tuple(str(ipaddress.ip_interface(address)) for address in wanted))


def _used(bridge: str, change: Change, world: World) -> dict[Ip, str]:
    """Addresses taken on a bridge, and by whom."""
    used = {ipaddress.ip_interface(cidr).ip: f"bridge {bridge} itself" for cidr in world.cidrs(bridge)}
    for owner in world.others(change, Guest, DhcpServer):
        for other in owner.objects:
            if isinstance(other, Guest) and other.bridge == bridge:
                for cidr in other.addresses or ():
                    used[ipaddress.ip_interface(cidr).ip] = owner.label
            elif isinstance(other, DhcpServer) and other.bridge == bridge:
                for lease in other.static_leases:
                    used[ipaddress.ip_address(lease.address)] = f"a static lease of {owner.label}"
    return used


def _check_mac(item: Guest, change: Change, world: World, what: str) -> None:
    for owner in world.others(change, Guest):
        for other in owner.objects:
            if isinstance(other, Guest) and other.bridge == item.bridge and other.mac == item.mac:
                raise HostnetError(
                    Code.CONFLICT,
                    what,
                    f"MAC address {item.mac} on {item.bridge} belongs to the guest of {owner.label}",
                    "Choose another MAC address",
                )


def _explicit(
    address: str,
    bridge: str,
    networks: list[Interface],
    used: Mapping[Ip, str],
    what: str,
) -> str:
    ip = ipaddress.ip_interface(address).ip
    home = next((n.network for n in networks if n.version == ip.version and ip in n.network), None)
    if home is None:
        there = ", ".join(str(n.network) for n in networks) or "none"
        raise HostnetError(
            Code.INVALID, what, f"{ip} is in no subnet of bridge {bridge}", f"The bridge's subnets are: {there}"
        )
    if ip in used:
        raise HostnetError(Code.CONFLICT, what, f"{ip} belongs to {used[ip]}", "Choose another address")
    return f"{ip}/{home.prefixlen}"


def _hinted(hint: tuple[str, ...], network: Network, used: Mapping[Ip, str]) -> Ip | None:
    for cidr in hint:
        ip = ipaddress.ip_interface(cidr).ip
        if ip.version == network.version and ip in network and ip not in used:
            return ip
    return None


def _lowest(network: Network, used: Mapping[Ip, str]) -> Ip | None:
    """The lowest host address that nobody has (`hosts` leaves out network, broadcast and subnet-router anycast)."""
    return next((address for address in network.hosts() if address not in used), None)
