"""A guest's addresses: those it asks for, checked, or the lowest free of each subnet of its bridge. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import NamedTuple, Union

from hostnet.agent.plan.overlaps import check_routed_guest
from hostnet.agent.plan.world import World
from hostnet.agent.record.owners import Owner
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import DhcpServer, Guest
from hostnet.wire.requests import Change
from hostnet.wire.subnets import Ip, Network, kept_in, reserved

Interface = Union[ipaddress.IPv4Interface, ipaddress.IPv6Interface]


class Taken(NamedTuple):
    """Who has an address.

    Attributes:
        by: As a message names it.
        holder: The key of the owner; "" where the bridge itself or a DHCP client has it.
    """

    by: str
    holder: str = ""


def resolve_guest(item: Guest, change: Change, world: World) -> Guest:
    """A guest with its addresses as CIDRs.

    Args:
        item: The guest as declared.
        change: The change that it is part of.
        world: All owners, and the kernel.

    Raises:
        HostnetError: An address or its MAC is taken, or no address is free.
    """
    _check_proxy(item, world)
    if item.bridge is None:
        # A routed TAP has no subnet that is shared: all follows from its own declaration.
        routed = replace(item, addresses=tuple(str(ipaddress.ip_interface(each)) for each in item.addresses or ()))
        check_routed_guest(routed, change, world)
        return routed
    what = f"cannot set up the guest of {item.link}"
    networks = [ipaddress.ip_interface(cidr) for cidr in world.cidrs(item.bridge)]
    used = Used(item.bridge, change, world)
    _check_mac(item, change, world, what)
    if item.addresses is not None:
        return replace(item, addresses=tuple(_explicit(a, item.bridge, networks, used, what) for a in item.addresses))
    chosen = []
    leases = world.snapshot.leased.get(item.bridge, {}).items()
    leased = {ipaddress.ip_address(address) for address, mac in leases if mac != item.mac}
    for interface in networks:
        if interface.network.num_addresses == 1:
            continue  # the host's own address, as a hoster routes it to the host: no subnet of guests
        address = kept_in(interface.network, item.hint, used)
        # What a client has on lease is taken only where nothing else is free.
        address = address or used.lowest_free(interface.network, leased) or used.lowest_free(interface.network)
        if address is None:
            why = f"no address of {interface.network} on {item.bridge} is free"
            raise HostnetError(Code.CONFLICT, what, why, "Widen the subnet")
        used.take(address)
        chosen.append(f"{address}/{interface.network.prefixlen}")
    return replace(item, addresses=tuple(chosen), derived=True)


def _check_proxy(item: Guest, world: World) -> None:
    """Refuse to answer for a router, or for the host: who asks for them would be led astray."""
    what, snapshot = f"cannot answer for the guest of {item.link} on {item.proxy}", world.snapshot
    if item.proxy is None:
        return
    if item.proxy in (item.link, item.bridge):
        why = f"guest.proxyInterface: the guest itself is behind {item.proxy}"
        raise HostnetError(Code.INVALID, what, why, "Name the interface that the provider delivers to")
    if item.proxy not in snapshot.links:
        why = f"guest.proxyInterface: there is no interface {item.proxy}"
        raise HostnetError(Code.NOT_FOUND, what, why, "Name the interface that the provider delivers to")
    for cidr in item.addresses or ():
        address = str(ipaddress.ip_interface(cidr).ip)
        whose = "the default gateway" if address in snapshot.gateways else "the host" if snapshot.local(address) else ""
        if whose:
            why = f"guest.proxyInterface: {address} is the address of {whose}"
            raise HostnetError(Code.INVALID, what, why, "Choose another address for the guest")


class Used:
    """The addresses that are taken on a bridge, and by what.

    Args:
        bridge: The bridge.
        change: Of a guest there; what its resource has itself is not taken.
        world: All owners, and the kernel.
    """

    def __init__(self, bridge: str, change: Change, world: World) -> None:
        self._bridge, self._urn, self._owners = bridge, change.urn, world.owners
        own = (ipaddress.ip_interface(cidr).ip for cidr in world.cidrs(bridge))
        self._taken = dict.fromkeys(own, Taken(f"bridge {bridge} itself"))
        for owner, server in world.others(change, DhcpServer):
            if server.bridge == bridge:
                leases = (ipaddress.ip_address(lease.address) for lease in server.static_leases)
                self._taken.update(
                    (address, Taken(f"a static lease of {owner.label}", owner.key)) for address in leases
                )

    def by(self, address: Ip) -> Taken | None:
        """Who has an address; None: nobody."""
        if address in self._taken:
            return self._taken[address]
        holder = next(self._holders(address.version, int(address)), None)
        return None if holder is None else Taken(holder.label, holder.key)

    def __contains__(self, address: object) -> bool:
        return isinstance(address, (ipaddress.IPv4Address, ipaddress.IPv6Address)) and self.by(address) is not None

    def _holders(self, version: int, address: int) -> Iterator[Owner]:
        return self._owners.beside_urn(self._urn, self._owners.guests.with_address(self._bridge, version, address))

    def take(self, address: Ip) -> None:
        """The guest itself has it from now on."""
        self._taken[address] = Taken("this guest")

    def lowest_free(self, network: Network, besides: Collection[Ip] = ()) -> Ip | None:
        """The lowest free address of a subnet; None where all are taken.

        Args:
            network: The subnet.
            besides: Addresses that are taken as well.
        """
        version, first, size = network.version, int(network.network_address), network.num_addresses
        # Numbers, not addresses: a thousand guests that come at once look at half a million.
        ends = 1 if size > 2 else 0  # as `ip_network.hosts()`: without network or subnet-router anycast, and broadcast
        taken = {int(each) for each in (*self._taken, *besides) if each.version == version}
        last = first + size - (ends if version == 4 else 0)
        free = (
            each
            for each in range(first + ends, last)
            if each not in taken and next(self._holders(version, each), None) is None
        )
        found = next(free, None)
        return None if found is None else network[found - first]


def _check_mac(item: Guest, change: Change, world: World, what: str) -> None:
    for owner in world.owners.beside_urn(change.urn, world.owners.guests.with_mac(item.bridge or "", item.mac)):
        why = f"MAC address {item.mac} on {item.bridge} belongs to the guest of {owner.label}"
        raise HostnetError(Code.CONFLICT, what, why, "Choose another MAC address", holder=owner.key)


def _explicit(address: str, bridge: str, networks: list[Interface], used: Used, what: str) -> str:
    ip = ipaddress.ip_interface(address).ip
    home = next((n.network for n in networks if n.version == ip.version and ip in n.network), None)
    if home is None:
        there = ", ".join(str(n.network) for n in networks) or "none"
        why = f"{ip} is in no subnet of bridge {bridge}"
        raise HostnetError(Code.INVALID, what, why, f"The bridge's subnets are: {there}")
    why = reserved(ip, home)
    if why:
        raise HostnetError(
            Code.INVALID, what, f"{ip} is {why} of {home}, which no guest can have", "Choose another address"
        )
    taken = used.by(ip)
    if taken is not None:
        why, fix = f"{ip} belongs to {taken.by}", "Choose another address"
        raise HostnetError(Code.CONFLICT, what, why, fix, holder=taken.holder)
    return f"{ip}/{home.prefixlen}"
