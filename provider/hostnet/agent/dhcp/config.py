"""What a bridge's dnsmasq shall do, from the objects of all owners. Pure.

DHCP hands out the subnet of the bridge's first v4 address (or the declared range) and keeps the addresses of static
leases and of recorded guests for them. DNS answers their names. Router advertisements announce the declared prefixes.
Every value is checked again here, and written as a number or a checked word: nothing of a user's text becomes a line
of dnsmasq's configuration.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Union

from hostnet.agent.plan.world import World
from hostnet.agent.record.owners import Owner
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import Address, DhcpServer, Guest, Lease, Link

DNS, DHCP = 53, 67
_SOLICITATIONS = (133, 135, 136)  # ICMPv6: router solicitation, neighbour solicitation and advertisement (RFC 4861)
_SLAAC_LENGTH = 64
# How long a guest keeps an announced prefix that is not announced again (they are every ten minutes).
_PREFIX_LIFETIME = "1h"
_MOST_LEASES = 1 << 20  # dnsmasq's own limit of 1000 is less than a /22
_ETHERNET_ONLY = 17  # characters of a MAC address: dnsmasq writes that of other hardware with its type in front

_INTERFACE = re.compile(r"[A-Za-z0-9_.@+=~%-]{1,15}", re.ASCII)
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?", re.ASCII)
_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", re.ASCII)
_LEASE_TIME = re.compile(r"[1-9][0-9]{0,9}[smhd]|infinite", re.ASCII)

Ip = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]


@dataclass(frozen=True)
class Setup:
    """What one dnsmasq is told: its configuration, and the two files that it reads anew on a signal.

    :param config: lines, but for those that name files and users.
    :param hosts: reserved addresses (`dhcp-hostsfile`).
    :param names: what DNS answers (`addn-hosts`).
    """

    bridge: str
    config: tuple[str, ...]
    hosts: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Known:
    """A machine whose addresses are settled."""

    mac: str
    address: str | None  # v4
    hostname: str | None
    names: tuple[str, ...]  # addresses that its name stands for


# --- what it serves ------------------------------------------------------------------------------------------------


def answers_dns(server: DhcpServer) -> bool:
    """Whether guests are told to ask the gateway."""
    return server.dhcp and server.dns_servers is None


def served_ports(server: DhcpServer) -> Iterator[tuple[str, int]]:
    """The protocols and ports of the bridge's own address that are dnsmasq's."""
    if server.dhcp:
        yield "udp", DHCP
    if answers_dns(server):
        yield "udp", DNS
        yield "tcp", DNS


def inputs_to_open(owners: Iterable[Owner]) -> list[tuple[str, str, tuple[int, ...]]]:
    """What other people's firewalls must let in for `openFirewall`: (bridge, protocol, ports or ICMPv6 types)."""
    found: list[tuple[str, str, tuple[int, ...]]] = []
    for owner in owners:
        for item in owner.objects:
            if not isinstance(item, DhcpServer) or not item.open_firewall:
                continue
            ports = list(served_ports(item))
            for wanted in ("udp", "tcp"):
                of_this = tuple(port for protocol, port in ports if protocol == wanted)
                if of_this:
                    found.append((item.bridge, wanted, of_this))
            if item.send_ra:
                found.append((item.bridge, "icmpv6", _SOLICITATIONS))
    return found


def bridges_of(owner: Owner | None) -> set[str]:
    """The bridges whose server an owner has a part in."""
    if owner is None:
        return set()
    return {
        *(item.bridge for item in owner.of(DhcpServer)),
        *(item.bridge for item in owner.of(Guest) if item.bridge),
        *(item.name for item in owner.of(Link) if item.kind == "bridge"),
        *(item.link for item in owner.of(Address)),
    }


def servers(world: World) -> Iterator[DhcpServer]:
    """All that are declared."""
    return world.owners.every(DhcpServer)


# --- what can't be -------------------------------------------------------------------------------------------------


def check(owner: Owner, world: World) -> None:
    """Refuse a server that can't be, and a reserved address or MAC that two machines would have.

    :raises HostnetError: with what stands in the way.
    """
    for server in owner.of(DhcpServer):
        _check_server(server, owner, world)
    for guest in owner.of(Guest):
        _check_guest(guest, world)


def _check_server(item: DhcpServer, owner: Owner, world: World) -> None:
    owners = world.owners.copy()
    owners[owner.key] = owner
    setup_of(item, World(owners, world.snapshot))
    for other, guest in world.owners.holding(Guest):
        if guest.bridge == item.bridge:
            for index, lease in enumerate(item.static_leases):
                _compare(f"staticLeases[{index}] of {item.bridge}", lease.mac, lease.address, guest, other.label)


def _check_guest(item: Guest, world: World) -> None:
    for other, server in world.owners.holding(DhcpServer):
        if server.bridge == item.bridge:
            for lease in server.static_leases:
                _compare(f"guest of {item.link}", lease.mac, lease.address, item, f"a static lease of {other.label}")


def _compare(what: str, mac: str, address: str, guest: Guest, whose: str) -> None:
    """A static lease beside a guest: both the same machine with the same address, or neither in common."""
    theirs = {cidr.split("/")[0] for cidr in guest.addresses or ()}
    v4 = {one for one in theirs if ":" not in one}
    if guest.mac == mac and address not in theirs and v4:
        held = f"MAC address {mac} has another address ({', '.join(sorted(v4 | {address}))}) there"
    elif guest.mac != mac and address in theirs:
        held = f"{address} is the address of another machine there"
    else:
        return
    raise HostnetError(
        Code.CONFLICT,
        f"{what} can't be set up",
        f"{held}: it belongs to {whose}",
        "A guest of a TapBinding has its lease without being listed in staticLeases: leave one of the two out",
    )


# --- the configuration ---------------------------------------------------------------------------------------------


def setup_of(server: DhcpServer, world: World) -> Setup:
    """What the dnsmasq of this server is told.

    :raises HostnetError: where a value is not what it must be, or the bridge has no subnet to serve.
    """
    what = f"DHCP and router advertisements can't be served on {server.bridge}"
    bridge = _word(_INTERFACE, server.bridge, "name that dnsmasq takes for an interface", what)
    own = [ipaddress.ip_interface(cidr) for cidr in world.cidrs(server.bridge)]
    domain = _domain(server.domain, what) if server.domain else None
    config = [f"interface={bridge}", *_ALWAYS, f"port={DNS if answers_dns(server) else 0}"]
    if domain:
        config.append(f"domain={domain}")
    if answers_dns(server):
        config += ["expand-hosts", "domain-needed", *([f"local=/{domain}/"] if domain else ())]
    if server.dhcp:
        link = world.link(server.bridge)
        config += _dhcp(server, own, link.mtu if link else None, what)
    if server.send_ra:
        config += _advertisements(server, own, domain, what)
    known = list(_known(server, world, what)) if server.dhcp else []
    return Setup(bridge, tuple(config), tuple(_hosts(known)), tuple(_names(known)))


# On the bridge alone; what guests call themselves must not stand for the proxy that browsers look for.
_ALWAYS = (
    "except-interface=lo",
    "bind-dynamic",
    "no-hosts",
    "quiet-dhcp",
    "quiet-ra",
    "dhcp-authoritative",
    "dhcp-name-match=set:wpad,wpad",
    "dhcp-ignore-names=tag:wpad",
)


def _dhcp(
    server: DhcpServer,
    own: list[ipaddress.IPv4Interface | ipaddress.IPv6Interface],
    mtu: int | None,
    what: str,
) -> Iterator[str]:
    gateways: dict[ipaddress.IPv4Network, ipaddress.IPv4Address] = {}
    for interface in own:
        if isinstance(interface, ipaddress.IPv4Interface) and interface.network.prefixlen < interface.max_prefixlen:
            gateways.setdefault(interface.network, interface.ip)
    first, last, home = _range(server, list(gateways), what)
    time = _word(_LEASE_TIME, server.lease_time, "lease time", what)
    yield f"dhcp-lease-max={min(max(home.num_addresses, 1000), _MOST_LEASES)}"
    for number, (network, gateway) in enumerate(gateways.items()):
        span = f"{first},{last}" if network == home else f"{network.network_address},static"
        yield f"dhcp-range=set:net{number},{span},{network.netmask},{time}"
        yield f"dhcp-option=tag:net{number},option:router,{gateway}"
        if server.dns_servers is None:
            yield f"dhcp-option=tag:net{number},option:dns-server,{gateway}"
    if server.dns_servers is not None:
        handed = [str(ip) for ip in _ips(server.dns_servers, what) if ip.version == 4]
        yield ",".join(["dhcp-option=option:dns-server", *handed])
    if mtu is not None:
        yield f"dhcp-option=option:mtu,{int(mtu)}"


def _range(
    server: DhcpServer, networks: list[ipaddress.IPv4Network], what: str
) -> tuple[ipaddress.IPv4Address, ipaddress.IPv4Address, ipaddress.IPv4Network]:
    """The addresses to lease and their subnet; undeclared: all hosts of the gateway's."""
    if not networks:
        raise HostnetError(
            Code.INVALID, what, "the bridge has no IPv4 subnet", "Give it an address such as 10.0.0.1/24"
        )
    if server.range_start is None or server.range_end is None:
        home = networks[0]
        inset = 1 if home.num_addresses > 2 else 0  # RFC 3021: both addresses of a /31 are hosts
        return home.network_address + inset, home.broadcast_address - inset, home
    first, last = (ipaddress.IPv4Address(str(ip)) for ip in _ips((server.range_start, server.range_end), what))
    for network in networks:
        if first in network and last in network:
            return first, last, network
    there = ", ".join(map(str, networks))
    raise HostnetError(Code.INVALID, what, f"{first} to {last} is in no subnet of the bridge ({there})")


def _advertisements(
    server: DhcpServer,
    own: list[ipaddress.IPv4Interface | ipaddress.IPv6Interface],
    domain: str | None,
    what: str,
) -> Iterator[str]:
    if not server.ra_prefixes:
        raise HostnetError(Code.INVALID, what, "there is no prefix to advertise", "Give ipv6Prefixes a /64")
    yield "enable-ra"
    # With names, dnsmasq finds out the SLAAC address of a guest that has a v4 lease, and answers it for its name.
    mode = "ra-names" if answers_dns(server) else "ra-only"
    for prefix in server.ra_prefixes:
        network = ipaddress.ip_network(prefix)
        if network.version != 6 or network.prefixlen != _SLAAC_LENGTH:
            raise HostnetError(Code.INVALID, what, f"{network} is no /64, which SLAAC needs")
        if not any(interface.ip in network for interface in own):
            raise HostnetError(
                Code.INVALID,
                what,
                f"the bridge has no address in {network}, and its guests' packets could not be answered",
                "Add an address of that prefix to the bridge's `addresses`",
            )
        yield f"dhcp-range={network.network_address},{mode},{_SLAAC_LENGTH},{_PREFIX_LIFETIME}"
    if server.dns_servers:
        handed = [f"[{ip}]" for ip in _ips(server.dns_servers, what) if ip.version == 6]
        if handed:
            yield ",".join(["dhcp-option=option6:dns-server", *handed])
    if domain:
        yield f"dhcp-option=option6:domain-search,{domain}"


def _known(server: DhcpServer, world: World, what: str) -> Iterator[_Known]:
    """Static leases and guests; where two claim a MAC or an address (a replacement), one of them."""
    found = [_guest(guest, server, what) for guest in _guests(server.bridge, world)]
    for lease in server.static_leases:
        address = str(_ips((lease.address,), what)[0])
        name = lease.hostname and _word(_LABEL, lease.hostname, "host name", what)
        found.append(_Known(_word(_MAC, lease.mac, "MAC address", what), address, name, (address,)))
    macs: dict[str, int] = {}
    addresses: dict[str, int] = {}
    for number, each in enumerate(found):
        macs[each.mac] = number
        if each.address:
            addresses[each.address] = number
    for number, each in enumerate(found):
        if macs[each.mac] == number and (not each.address or addresses[each.address] == number):
            yield each


def _guests(bridge: str, world: World) -> list[Guest]:
    return [item for item in world.owners.every(Guest) if item.bridge == bridge]


def _guest(guest: Guest, server: DhcpServer, what: str) -> _Known:
    ips: list[Ip] = [ipaddress.ip_interface(cidr).ip for cidr in guest.addresses or ()]
    v4 = [str(ip) for ip in ips if ip.version == 4]
    # A guest that is sent advertisements makes its own v6 address: its name must not stand for one that it does not
    # answer on, which clients would try first. dnsmasq finds the real one (`ra-names`).
    named = v4 if v4 and server.send_ra else [str(ip) for ip in ips]
    name = guest.hostname and _word(_LABEL, guest.hostname, "host name", what)
    return _Known(_word(_MAC, guest.mac, "MAC address", what), v4[0] if v4 else None, name, tuple(named))


def _hosts(known: Iterable[_Known]) -> Iterator[str]:
    for each in known:
        if each.address or each.hostname:
            yield ",".join(filter(None, (each.mac, each.address, each.hostname)))


def _names(known: Iterable[_Known]) -> Iterator[str]:
    for each in known:
        if each.hostname:
            yield from (f"{address} {each.hostname}" for address in each.names)


def _domain(value: str, what: str) -> str:
    labels = value.split(".")
    if len(value) > 253:
        raise HostnetError(Code.INVALID, what, f"{value!r} is no domain name")
    return ".".join(_word(_LABEL, label, "part of a domain name", what) for label in labels)


def _ips(values: Iterable[str], what: str) -> list[Ip]:
    try:
        return [ipaddress.ip_address(value) for value in values]
    except ValueError as error:
        raise HostnetError(Code.INVALID, what, str(error)) from None


def _word(pattern: re.Pattern[str], value: str, kind: str, what: str) -> str:
    if not pattern.fullmatch(value):
        raise HostnetError(Code.INVALID, what, f"{value!r} is no {kind}")
    return value


# --- leases --------------------------------------------------------------------------------------------------------


def parse_leases(text: str, now: float) -> Iterator[Lease]:
    """The v4 leases in use, from dnsmasq's lease file: `<expiry> <mac> <address> <name or *> <client id or *>`."""
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 4 or not fields[0].isdigit() or ":" in fields[2]:
            continue
        expires, mac = int(fields[0]), fields[1].lower()
        if len(mac) == _ETHERNET_ONLY and (expires == 0 or expires > now):
            yield Lease(mac, fields[2], "" if fields[3] == "*" else fields[3], expires)
