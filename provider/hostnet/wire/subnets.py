"""Subnets, as both sides need them: which addresses a machine can have; a guest's addresses, gateway and netmask."""

from __future__ import annotations

import ipaddress
from collections.abc import Container, Iterable
from typing import Union

Ip = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]


def reserved(address: Ip, network: Network) -> str:
    """What an address of a subnet is, where no machine can have it: "the network address", …; "" for any other.

    Both addresses of a /31 (RFC 3021) and of a /127 (RFC 6164) are machines', and so is that of a /32 or /128. The
    first address of a longer IPv6 subnet is every router's (RFC 4291, section 2.6.1); IPv6 has no broadcast.
    """
    if network.max_prefixlen - network.prefixlen < 2:
        return ""
    if address == network.network_address:
        return "the network address" if address.version == 4 else "the subnet-router anycast address"
    return "the broadcast address" if address.version == 4 and address == network.broadcast_address else ""


def gateway_for(addresses: Iterable[str], own: Iterable[str], version: int) -> str | None:
    """A guest's gateway: the host's address in the first subnet that the two share, else the host's first.

    Args:
        addresses: The guest's, in CIDR notation.
        own: The host's on the bridge or the TAP, in CIDR notation.
        version: 4 or 6.
    """
    ours = [each for each in map(ipaddress.ip_interface, own) if each.version == version]
    guests = [each.ip for each in map(ipaddress.ip_interface, addresses) if each.version == version]
    near = (each for guest in guests for each in ours if guest in each.network)
    found = next(near, ours[0] if ours else None)
    return None if found is None else str(found.ip)


def kept_in(network: Network, addresses: Iterable[str], taken: Container[Ip]) -> Ip | None:
    """Which of its addresses a guest keeps as the one of a subnet of its bridge; None: it gets another.

    Subnets of one bridge may overlap: an address that the guest has with the subnet's prefix length comes first.

    Args:
        network: The subnet.
        addresses: The guest's, in CIDR notation.
        taken: Those that are others', or of another subnet.
    """
    fitting = [each for each in map(ipaddress.ip_interface, addresses) if each.ip in network and each.ip not in taken]
    usable = [each for each in fitting if not reserved(each.ip, network)]
    same = (each for each in usable if each.network.prefixlen == network.prefixlen)
    found = next(same, next(iter(usable), None))
    return None if found is None else found.ip


def derived_guest(addresses: Iterable[str], own: Iterable[str]) -> list[str]:
    """The derived addresses of a guest, one of each subnet of its bridge, as far as it has them; else "".

    Args:
        addresses: The guest's, in CIDR notation.
        own: The bridge's, in CIDR notation.
    """
    had, ours = list(addresses), [ipaddress.ip_interface(cidr) for cidr in own]
    taken, found = {each.ip for each in ours}, []
    for each in ours:
        if each.network.num_addresses == 1:
            continue  # the host's own address, as a hoster routes it to the host: no subnet of guests
        ip = kept_in(each.network, had, taken)
        found.append("" if ip is None else f"{ip}/{each.network.prefixlen}")
        taken |= set() if ip is None else {ip}
    return found


def routed_guest(own: Iterable[str], routes: Iterable[str], given: Iterable[str] | None) -> tuple[str, ...]:
    """The addresses of a guest behind a routed TAP, in CIDR notation.

    Args:
        own: The TAP's addresses.
        routes: The networks that are routed through it.
        given: The guest's declared addresses, bare; None: the other address of each subnet of the TAP's own, and those
            that the routes lead to.
    """
    ours = [ipaddress.ip_interface(cidr) for cidr in own]
    if given is None:
        taken = {each.ip for each in ours}
        others = (next((ip for ip in each.network.hosts() if ip not in taken), None) for each in ours)
        hosts = (ipaddress.ip_network(cidr) for cidr in routes)
        wanted = [ip for ip in others if ip is not None]
        wanted += [each.network_address for each in hosts if each.prefixlen == each.max_prefixlen]
    else:
        wanted = [ipaddress.ip_address(address) for address in given]
    return tuple(f"{ip}/{_prefix_length(ip, [each.network for each in ours])}" for ip in dict.fromkeys(wanted))


def _prefix_length(address: Ip, networks: list[Network]) -> int:
    return next((each.prefixlen for each in networks if address in each), address.max_prefixlen)


def netmask_for(client: ipaddress.IPv4Interface, gateway: str | None) -> str:
    """A netmask for a guest with which its gateway is on its link.

    A kernel refuses a gateway in `ip=` that is not (`ic_setup_routes`, Linux 6.18). Where the gateway is outside the
    client's subnet, it is that of the smallest network that has both, and the client neither first nor last.
    """
    network = client.network
    if gateway is not None:
        router = ipaddress.IPv4Address(gateway)
        while router not in network or reserved(client.ip, network) or _is_last(router, network):
            network = network.supernet()
    return str(network.netmask)


def _is_last(address: ipaddress.IPv4Address, network: ipaddress.IPv4Network) -> bool:
    # A kernel refuses a broadcast address as gateway; the first address it takes, since Linux 5.14.
    return network.prefixlen < 31 and address == network.broadcast_address


def link_local(mac: str) -> str:
    """The IPv6 link-local address that follows from a MAC address (RFC 4291, appendix A)."""
    numbers = bytes.fromhex(mac.replace(":", ""))
    interface = bytes([numbers[0] ^ 2]) + numbers[1:3] + b"\xff\xfe" + numbers[3:]
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + interface))
