"""Refuses networks that two resources, or a resource and the host, would have. Pure.

A subnet, a route and a guest's address are all routes to the kernel, and of two the more specific one wins, without a
word: one resource's packets would go to another one's guest, or the host would lose its own uplink.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from hostnet.agent.indexes.prefixes import Prefix
from hostnet.agent.plan.world import World
from hostnet.agent.record.networks import Held
from hostnet.agent.record.owners import Owner
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import Address, Gateway, Guest, Route
from hostnet.wire.requests import Change

_CHOOSE = "Remove one of the two, or choose another network"
_KEEP = "The host would lose its own network: choose another one"


def check_address(item: Address, change: Change, world: World) -> None:
    """Refuse a subnet that overlaps another one, and an address that another resource's guest has or is routed to.

    Many routed TAPs may share one address without a subnet, and it may lie in another link's subnet.

    Raises:
        HostnetError: Names the resource or the interface that has it.
    """
    if world.has(change, item):
        return
    what, prefix = f"cannot give {item.link} the address {item.cidr}", Prefix.parse(item.cidr)
    for owner, network, held in world.networks_beside(change, prefix):
        if isinstance(held.item, Address):
            if not prefix.single:
                why = f"its subnet overlaps {held.cidr} of {held.item.link}, which belongs to {owner.label}"
                raise HostnetError(Code.CONFLICT, what, why, "Choose another subnet", holder=owner.key)
        elif not (isinstance(held.item, Guest) and _follows(held.item, item.link, change, world)):
            why = _relation("it", prefix, owner, network, held)
            raise HostnetError(Code.CONFLICT, what, why, _CHOOSE, holder=owner.key)
    if item not in change.prior:
        _check_gateways(item.link, prefix, what, world)
        if not prefix.single:
            _check_other_guests(item.link, prefix, what, world)


def check_route(item: Route, change: Change, world: World) -> None:
    """Refuse a route that leads another resource's packets, or the host's own, into a TAP.

    One that was this resource's, and that another program changed since, is taken back.

    Raises:
        HostnetError: Names the resource or the interface that has the network.
    """
    if world.has(change, item):
        return
    what, prefix = f"cannot route {item.cidr} through {item.link}", Prefix.parse(item.cidr)
    for owner, network, held in world.networks_beside(change, prefix):
        why = _relation("it", prefix, owner, network, held)
        raise HostnetError(Code.CONFLICT, what, why, _CHOOSE, holder=owner.key)
    for owner, address in world.single_addresses(change, prefix):
        why = f"it holds {address.cidr}, the host's address on {address.link}, which belongs to {owner.label}"
        raise HostnetError(Code.CONFLICT, what, why, _CHOOSE, holder=owner.key)
    if item in change.prior:
        return
    for link, cidrs in world.snapshot.routes.items():
        if link != item.link and item.cidr in cidrs and world.link_owner(link) is None:
            why = f"it goes through {link}, by a route that is not managed by hostnet"
            raise HostnetError(Code.CONFLICT, what, why, _CHOOSE)
    _check_gateways(item.link, prefix, what, world)
    for link, _, cidr in _host_addresses(item.link, prefix, world):
        if prefix.covers(Prefix.single_of(cidr)):  # so does one that covers an uplink's network
            raise HostnetError(Code.CONFLICT, what, f"it holds {cidr}, the host's own address on {link}", _KEEP)
    _check_other_guests(item.link, prefix, what, world)


def check_routed_guest(item: Guest, change: Change, world: World) -> None:
    """Refuse an address of a routed TAP's guest that is another resource's, or the host's own.

    Raises:
        HostnetError: Names the resource or the interface that has it.
    """
    what, fix = f"cannot set up the guest of {item.link}", "Choose another address"
    for cidr in item.addresses or ():
        address = cidr.partition("/")[0]
        prefix = Prefix.parse(address)
        for owner, network, held in world.networks_beside(change, prefix):
            why = _relation(address, prefix, owner, network, held)
            raise HostnetError(Code.CONFLICT, what, why, fix, holder=owner.key)
        for owner, own in world.single_addresses(change, prefix):
            why = f"{address} is the host's address on {own.link}, which belongs to {owner.label}"
            raise HostnetError(Code.CONFLICT, what, why, fix, holder=owner.key)
        for link, _, own_cidr in _host_addresses(item.link, prefix, world):
            if Prefix.single_of(own_cidr) == prefix:
                raise HostnetError(Code.CONFLICT, what, f"{address} is the host's own address on {link}", fix)


def _follows(guest: Guest, bridge: str, change: Change, world: World) -> bool:
    """Whether a guest is behind the bridge that gets the address, or will be.

    A bridge that replaces another one gets its guests: it is created beside the other one, which the same resource has,
    or after that one's delete.
    """
    if guest.bridge is None:
        return False
    owner = world.link_owner(guest.bridge)
    is_gone = owner is None and guest.bridge not in world.snapshot.links
    return guest.bridge == bridge or is_gone or (owner is not None and owner.urn == change.urn)


def check_gateway(item: Gateway, change: Change, world: World) -> None:
    """Refuse a network that is behind another gateway of the same uplink: its source would have two translations.

    Of networks that lie in each other the more specific one counts. What the gateway had already on an uplink stays its
    own.

    Raises:
        HostnetError: Names the other gateway's resource.
    """
    own, mine = world.gateway(item.name), _behind(item, world)
    had = (set(_behind(own, world)), set(own.uplinks)) if own is not None else (set(), set())
    for owner, other in world.others(change, Gateway):
        shared = [name for name in item.uplinks if name in other.uplinks]
        if not shared:
            continue
        _check_dmz(item, other, owner, ", ".join(shared))
        _check_one_to_one(item, other, owner, ", ".join(shared))
        both = mine.keys() & _behind(other, world).keys()
        for place in both - had[0] if had[1].issuperset(shared) else both:
            raise HostnetError(
                Code.CONFLICT,
                f"cannot set up NAT gateway {item.name}",
                f"{mine[place]} is also behind NAT gateway {other.name}, which belongs to {owner.label}, and both lead "
                f"out by {', '.join(shared)}",
                "Remove it from one of the two, or give them different external interfaces",
                holder=owner.key,
            )


def _check_one_to_one(item: Gateway, other: Gateway, owner: Owner, shared: str) -> None:
    """Refuse an address that another gateway of the same external interface has in its one-to-one NAT."""
    for mine in item.one_to_one:
        for theirs in other.one_to_one:
            for address, there in zip(mine, theirs):
                if address == there:
                    raise HostnetError(
                        Code.CONFLICT,
                        f"cannot translate {mine[0]} and {mine[1]} into each other on {shared}",
                        f"{address} has one-to-one NAT already, by {owner.label}",
                        "Remove one of the two",
                        holder=owner.key,
                    )


def _check_dmz(item: Gateway, other: Gateway, owner: Owner, shared: str) -> None:
    """Refuse a second dmz host for what comes to one address of an external interface, or to any of its addresses."""
    for name, mine, theirs, at, there in (
        ("externalIp", item.dmz4, other.dmz4, item.snat4, other.snat4),
        ("externalIpv6", item.dmz6, other.dmz6, item.snat6, other.snat6),
    ):
        if mine and theirs and mine != theirs and at == there:
            where = f"{at} of {shared}" if at else shared
            raise HostnetError(
                Code.CONFLICT,
                f"cannot make {mine} the dmz host of {where}",
                f"{theirs} is the dmz host of {where}, by {owner.label}",
                f"Remove one of the two, or give the gateways different {name}s: each gets what comes to its own",
                holder=owner.key,
            )


def _behind(gateway: Gateway, world: World) -> dict[Prefix | str, str]:
    """The interfaces and networks behind a gateway, each as a message names it."""
    found: dict[Prefix | str, str] = {name: name for name in gateway.internal}
    for name in gateway.internal:
        subnets = {Prefix.parse(cidr): f"{cidr} of {name}" for cidr in world.cidrs(name)}
        found.update({prefix: text for prefix, text in subnets.items() if not prefix.single})
    found.update({Prefix.parse(cidr): cidr for cidr in (*gateway.internal4, *gateway.internal6)})
    return found


def _relation(subject: str, prefix: Prefix, owner: Owner, network: Prefix, held: Held) -> str:
    """How a network lies to one of an owner: `it lies in 10.0.0.1/24 of vmbr, which belongs to Bridge vmbr`."""
    verb = "is" if network == prefix else "lies in" if network.covers(prefix) else "covers"
    link = held.item.link
    if isinstance(held.item, Route):
        there = f"the route {held.cidr} through {link}"
    elif isinstance(held.item, Guest):
        there = f"the address {held.cidr} of the guest of {link}"
    else:
        there = f"{held.cidr} of {link}"
    return f"{subject} {verb} {there}, which belongs to {owner.label}"


def _check_gateways(name: str, prefix: Prefix, what: str, world: World) -> None:
    """Refuse a network that holds a router of the host's default routes on another link."""
    for router, link in world.snapshot.gateways.items():
        if link != name and prefix.covers(Prefix.parse(router)):
            why = f"it holds {router}, the host's gateway on {link}"
            raise HostnetError(Code.CONFLICT, what, why, _KEEP)


def _check_other_guests(name: str, prefix: Prefix, what: str, world: World) -> None:
    """Refuse a network that overlaps the subnet of another link behind which another program has guests."""
    for link, subnet, cidr in _host_addresses(name, prefix, world):
        if not subnet.single and world.snapshot.leads_to_guests(link):
            why = f"it overlaps {cidr} of {link}, which is not managed by hostnet"
            raise HostnetError(Code.CONFLICT, what, why, _CHOOSE)


def _host_addresses(name: str, prefix: Prefix, world: World) -> Iterator[tuple[str, Prefix, str]]:
    """The host's addresses whose network overlaps this one: (link, network, CIDR). Not those on resources' links.

    Nor those on one link, nor loopback addresses.
    """
    snapshot = world.snapshot
    for subnet, cidr in snapshot.address_index.overlapping(prefix):
        if ipaddress.ip_interface(cidr).is_loopback:
            continue
        for link in snapshot.links_with[cidr]:
            if link != name and world.link_owner(link) is None:
                yield link, subnet, cidr
