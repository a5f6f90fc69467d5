"""Arithmetic of networks, for sets that take no overlapping intervals. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Any, Union

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]


def overlap(networks: Iterable[str], cidrs: Iterable[str]) -> bool:
    """Whether one of these networks overlaps the network of one of these addresses."""
    nets: list[Any] = [ipaddress.ip_network(cidr) for cidr in networks]
    others: list[Any] = [ipaddress.ip_interface(cidr).network for cidr in cidrs]
    return any(net.version == other.version and net.overlaps(other) for net in nets for other in others)


def apart(networks: Iterable[Any]) -> Iterator[Any]:
    """The same addresses as networks that do not overlap. Each is inside or outside of every given network.

    Args:
        networks: Networks of one family.
    """
    given = sorted(networks)  # a network comes before those that lie in it
    for number, network in enumerate(given):
        parts = [network]
        for inner in given[number + 1 :]:
            if not inner.subnet_of(network):
                break
            parts = [part for each in parts for part in _without(each, inner)]
        yield from parts


def _without(network: Any, other: Any) -> Iterable[Any]:
    """A network without the part that another one covers."""
    if not network.overlaps(other):
        return [network]
    return [] if network.subnet_of(other) else network.address_exclude(other)


def without(network: Any, others: Iterable[Any]) -> list[Any]:
    """A network without the parts that others cover."""
    parts = [network]
    for other in others:
        parts = [part for each in parts for part in _without(each, other)]
    return sorted(parts)


def collapsed(cidrs: Iterable[Any]) -> list[Any]:
    """The networks of CIDRs of one family, as few as possible."""
    networks: list[Any] = [ipaddress.ip_network(cidr, strict=False) for cidr in cidrs]
    return list(ipaddress.collapse_addresses(networks))


def subnets(cidrs: tuple[str, ...]) -> list[Network]:
    """The subnets of an interface's addresses, without single addresses and without those that lie in another one."""
    networks: list[Any] = [ipaddress.ip_interface(cidr).network for cidr in cidrs]
    found: list[Any] = []
    for version in (4, 6):
        wide = [net for net in networks if net.version == version and net.prefixlen < net.max_prefixlen]
        found += ipaddress.collapse_addresses(wide)
    return found


def widest(cidr: str, among: Iterable[str]) -> str:
    """The widest network of a list that this one lies in, as nft prints it; mostly it is the network itself."""
    network: Any = ipaddress.ip_network(cidr)
    nets: list[Any] = [ipaddress.ip_network(each) for each in among]
    return bare(min((each for each in nets if network.subnet_of(each)), key=lambda each: int(each.prefixlen)))


def bare(network: Network) -> str:
    """A network as nft prints it: a single address without its length."""
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)
