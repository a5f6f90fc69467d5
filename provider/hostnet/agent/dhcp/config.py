"""The configuration of a bridge's dnsmasq, from the objects of all owners. Pure.

DHCP leases the subnet of the bridge's first IPv4 address (or the declared range), and keeps the addresses of static
leases and of guests for them. DNS answers their names. Router advertisements announce the declared prefixes. Every
value is checked again here and written as a number or a checked word: no other text of a program becomes a line of the
configuration.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Union

from hostnet.agent.dhcp import domains
from hostnet.agent.plan.mtu import carried_mtu
from hostnet.agent.plan.world import World
from hostnet.agent.record.guests import addresses_of
from hostnet.agent.record.owners import Owner, Owners
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.family import IPV6_MTU_MIN, SLAAC_LENGTH, family_of
from hostnet.wire.objects import Address, DhcpServer, Gateway, Guest, Lease, Link, Port, StaticLease

DNS, DHCP = 53, 67
_SOLICITATIONS = (133, 135, 136)  # ICMPv6: router solicitation, neighbour solicitation and advertisement (RFC 4861)
# How long a guest keeps a prefix that is not announced again. dnsmasq announces it every ten minutes.
_PREFIX_LIFETIME = "1h"
_MOST_LEASES = 1 << 20  # dnsmasq's default, 1000, is less than the hosts of a /22
_MAC_LENGTH = 17  # characters; dnsmasq writes the address of hardware other than Ethernet with its type in front

_INTERFACE = re.compile(r"[A-Za-z0-9_.@+=~%-]{1,15}", re.ASCII)
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?", re.ASCII)
_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", re.ASCII)
_LEASE_TIME = re.compile(r"[1-9][0-9]{0,9}[smhd]|infinite", re.ASCII)

Ip = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]


@dataclass(frozen=True)
class ServerConfig:
    """The configuration of one dnsmasq, and the two files that it reads again on a signal.

    Attributes:
        bridge: The bridge that it serves.
        lines: The configuration, without the lines that name files and users.
        hosts: Reserved addresses (`dhcp-hostsfile`).
        names: The names that DNS answers (`addn-hosts`).
    """

    bridge: str
    lines: tuple[str, ...]
    hosts: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Host:
    """A machine with a reserved address."""

    mac: str
    address: str | None  # v4
    hostname: str | None
    name_addresses: tuple[str, ...]  # DNS answers its name with these


# --- services --------------------------------------------------------------------------------------------------------


def answers_dns(server: DhcpServer) -> bool:
    """Whether the bridge's own server answers DNS: guests get no other server's address."""
    return server.dhcp and server.dns_servers is None


def served_ports(server: DhcpServer) -> Iterator[tuple[str, int]]:
    """The protocols and ports on which a bridge's dnsmasq listens."""
    if server.dhcp:
        yield "udp", DHCP
    if answers_dns(server):
        yield "udp", DNS
        yield "tcp", DNS


def inputs_to_open(servers: Iterable[DhcpServer]) -> list[tuple[str, str, tuple[int, ...]]]:
    """What other firewalls must accept for `openFirewall`: (bridge, protocol, ports or ICMPv6 types)."""
    found: list[tuple[str, str, tuple[int, ...]]] = []
    for server in (each for each in servers if each.open_firewall):
        served = list(served_ports(server))
        for protocol in ("udp", "tcp"):
            ports = tuple(port for each, port in served if each == protocol)
            if ports:
                found.append((server.bridge, protocol, ports))
        if server.send_ra:
            found.append((server.bridge, "icmpv6", _SOLICITATIONS))
    return found


def bridges_of(owner: Owner | None, owners: Owners) -> set[str]:
    """The bridges whose server depends on an owner; on a gateway's rules by domain name those of all servers may."""
    if owner is None:
        return set()
    named = any(isinstance(item, Gateway) for item in domains.with_names(owner))
    return {
        *(item.bridge for item in (owners.every(DhcpServer) if named else ())),
        *(item.bridge for item in owner.of(DhcpServer)),
        *(item.bridge for item in owner.of(Guest) if item.bridge),
        *(item.bridge for item in owner.of(Port)),
        *(item.name for item in owner.of(Link) if item.kind == "bridge"),
        *(item.link for item in owner.of(Address)),
    }


def servers(world: World) -> Iterator[DhcpServer]:
    """All declared servers."""
    return world.owners.every(DhcpServer)


_RENAME = "Choose another host name for one of the two"

# --- refusals --------------------------------------------------------------------------------------------------------


def check(owner: Owner, world: World) -> None:
    """Refuse a server that can't run, and an address or MAC address that would be reserved for two machines.

    Args:
        owner: The owner that changes.
        world: All owners, and the host as it is.

    Raises:
        HostnetError: What is refused, and why.
    """
    for server in owner.of(DhcpServer):
        _check_server(server, owner, world)
    for guest in owner.of(Guest):
        _check_guest(guest, owner, world)
    for item in domains.with_names(owner):
        _check_names(item, owner, world)


def _check_server(item: DhcpServer, owner: Owner, world: World) -> None:
    owners = world.owners.copy()
    owners[owner.key] = owner
    config_of(item, World(owners, world.snapshot))
    named: dict[str, tuple[Owner, Guest]] = {}
    for other, guest in world.owners.holding(Guest):
        if guest.bridge != item.bridge:
            continue
        for index, lease in enumerate(item.static_leases):
            _compare(f"staticLeases[{index}] of {item.bridge}", lease, guest, other.label, other.key)
        if guest.hostname and item.dhcp:
            holder, _ = named.setdefault(guest.hostname.lower(), (other, guest))
            if holder.urn != other.urn:
                what = f"cannot serve DNS on {item.bridge}"
                why = f"the guests of {holder.label} and of {other.label} have the host name {guest.hostname}"
                raise HostnetError(Code.CONFLICT, what, why, _RENAME)


def _check_guest(item: Guest, owner: Owner, world: World) -> None:
    what = f"the guest of {item.link}"
    for other, server in world.owners.holding(DhcpServer):
        if server.bridge != item.bridge:
            continue
        for lease in server.static_leases:
            _compare(what, lease, item, f"a static lease of {other.label}", other.key)
        if item.hostname and server.dhcp:
            named = world.owners.guests.with_hostname(item.bridge, item.hostname)
            for holder in world.owners.beside_urn(owner.urn, named):
                why = f"the host name {item.hostname} belongs to the guest of {holder.label}"
                raise HostnetError(Code.CONFLICT, f"cannot set up {what}", why, _RENAME, holder=holder.key)


def _check_names(item: Guest | Gateway, owner: Owner, world: World) -> None:
    """Refuse rules by name that the server of a bridge can't serve."""
    owners = world.owners.copy()
    owners[owner.key] = owner
    after = World(owners, world.snapshot)
    answering = [server.bridge for server in servers(after) if answers_dns(server)]
    domains.check(item, after, answering)
    for bridge in answering:
        if isinstance(item, Gateway):
            list(domains.lines(domains.domains_on(bridge, after)))
        elif bridge == item.bridge:
            domains.check_lines(item, bridge, after)


def _same_name(one: str | None, other: str | None) -> bool:
    """Whether DNS takes two host names for one: it does not tell upper from lower case."""
    return one is not None and other is not None and one.lower() == other.lower()


def _compare(what: str, lease: StaticLease, guest: Guest, holder: str, key: str) -> None:
    """Refuse a static lease and a guest that share the MAC address or the address, but not both, or the name alone.

    Args:
        what: The one of the two that is new.
        lease: The static lease.
        guest: The guest.
        holder: Whose the other one is.
        key: The key of that owner.

    Raises:
        HostnetError: They do.
    """
    addresses = {cidr.split("/")[0] for cidr in guest.addresses or ()}
    v4 = {one for one in addresses if family_of(one) == "ipv4"}
    if guest.mac == lease.mac and lease.address not in addresses and v4:
        both = ", ".join(sorted(v4 | {lease.address}))
        why = f"MAC address {lease.mac} would have two addresses ({both})"
    elif guest.mac != lease.mac and lease.address in addresses:
        why = f"two machines would have {lease.address}"
    elif guest.mac != lease.mac and _same_name(guest.hostname, lease.hostname):
        why = f"two machines would have the host name {lease.hostname}"
    else:
        return
    raise HostnetError(
        Code.CONFLICT,
        f"cannot set up {what}",
        f"{why}: the other one belongs to {holder}",
        "A guest of a TapBinding has its lease without an entry in staticLeases: remove one of the two",
        holder=key,
    )


# --- the configuration -----------------------------------------------------------------------------------------------


def config_of(server: DhcpServer, world: World) -> ServerConfig:
    """The configuration of a server's dnsmasq.

    Args:
        server: What is declared.
        world: All owners, and the host as it is.

    Raises:
        HostnetError: A value is not what it must be, or the bridge has no subnet to serve.
    """
    what = f"cannot serve DHCP and router advertisements on {server.bridge}"
    bridge = _word(_INTERFACE, server.bridge, "name that dnsmasq takes for an interface", what)
    own = [ipaddress.ip_interface(cidr) for cidr in world.cidrs(server.bridge)]
    domain = _domain(server.domain, what) if server.domain else None
    lines = [f"interface={bridge}", *_ALWAYS, f"port={DNS if answers_dns(server) else 0}"]
    if domain:
        lines.append(f"domain={domain}")
    if answers_dns(server):
        never = "/".join([*_NEVER_ASKED, *([domain] if domain else ())])
        lines += ["expand-hosts", "domain-needed", f"local=/{never}/"]
        lines += domains.lines(domains.domains_on(server.bridge, world))
    mtu = carried_mtu(server.bridge, world)
    if server.dhcp:
        lines += _dhcp(server, own, mtu, what)
    if server.send_ra:
        lines += _advertisements(server, own, domain, what)
        if mtu is not None:
            # Without it dnsmasq announces the bridge's MTU, which one of the ports may not carry. 0: its own interval.
            lines.append(f"ra-param={bridge},mtu:{max(int(mtu), IPV6_MTU_MIN)},0")
    known = list(_known(server, world, what)) if server.dhcp else []
    return ServerConfig(bridge, tuple(lines), tuple(_hosts(known)), tuple(_names(known)))


# Names that a guest does not get by calling itself so: what looks them up means something else, or trusts the answer.
RESERVED_NAMES = (
    *("localhost", "invalid", "test", "example", "local", "onion"),  # RFC 6761, RFC 6762, RFC 7686
    # These configure what finds them: a proxy of all browsers (CERT VU#598349), a tunnel, mail programs.
    *("wpad", "isatap", "autoconfig", "autodiscover"),
)
# The name servers of the Internet have no answer (RFC 6761, RFC 7686), and are not asked.
_NEVER_ASKED = ("localhost", "invalid", "onion")


def _name_matches(name: str) -> tuple[str, str]:
    """Tag a guest of this name. dnsmasq 2.90 compares before it strips a domain (`wpad.x`) from the name."""
    return f"dhcp-name-match=set:reserved,{name}", f"dhcp-name-match=set:reserved,{name}.*"


_ALWAYS = (
    # On the bridge alone. dnsmasq adds lo to `interface=` by itself, and without bind-dynamic it binds the wildcard
    # address, which takes port 53 from the host's own DNS server.
    "except-interface=lo",
    "bind-dynamic",
    # Not the host's /etc/hosts: Debian's has the host's own name at 127.0.1.1, where a guest finds itself.
    "no-hosts",
    # Else each lease and each router advertisement is a line in the host's log.
    "quiet-dhcp",
    "quiet-ra",
    # It is the only DHCP server of its bridge: it need not ignore a request for a lease that it does not know, and the
    # guest does not wait until it gives that one up.
    "dhcp-authoritative",
    *(line for name in RESERVED_NAMES for line in _name_matches(name)),
    "dhcp-ignore-names=tag:reserved",
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
        # dnsmasq has no lease, not even a reserved one, in a subnet without a range: `static` is one of those alone.
        span = f"{first},{last}" if network == home else f"{network.network_address},static"
        yield f"dhcp-range=set:net{number},{span},{network.netmask},{time}"
        yield f"dhcp-option=tag:net{number},option:router,{gateway}"
        if server.dns_servers is None:
            yield f"dhcp-option=tag:net{number},option:dns-server,{gateway}"
    if server.dns_servers is not None:
        handed = [str(ip) for ip in _ips(server.dns_servers, what) if ip.version == 4]
        # Also without an address: else dnsmasq names itself. An option without a value sends none (dnsmasq(8)).
        yield ",".join(["dhcp-option=option:dns-server", *handed])
    if mtu is not None:
        yield f"dhcp-option=option:mtu,{int(mtu)}"


def _range(
    server: DhcpServer, networks: list[ipaddress.IPv4Network], what: str
) -> tuple[ipaddress.IPv4Address, ipaddress.IPv4Address, ipaddress.IPv4Network]:
    """The first and last address to lease, and their subnet; by default all hosts of the first subnet."""
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
    raise HostnetError(Code.INVALID, what, f"{first} to {last} is not in one subnet of the bridge ({there})")


def _advertisements(
    server: DhcpServer,
    own: list[ipaddress.IPv4Interface | ipaddress.IPv6Interface],
    domain: str | None,
    what: str,
) -> Iterator[str]:
    if not server.ra_prefixes:
        raise HostnetError(Code.INVALID, what, "there is no prefix to advertise", "Give ipv6Prefixes a /64")
    yield "enable-ra"
    # ra-names: dnsmasq derives the SLAAC address of a guest with an IPv4 lease, checks that it answers a ping, and then
    # answers the guest's name with it.
    mode = "ra-names" if answers_dns(server) else "ra-only"
    for prefix in server.ra_prefixes:
        network = ipaddress.ip_network(prefix)
        if network.version != 6 or network.prefixlen != SLAAC_LENGTH:
            raise HostnetError(Code.INVALID, what, f"{network} is no /64, which SLAAC needs")
        if not any(interface.ip in network for interface in own):
            raise HostnetError(
                Code.INVALID,
                what,
                f"the bridge has no address in {network}, so it could not answer its guests",
                "Add an address of that prefix to the bridge's `addresses`",
            )
        yield f"dhcp-range={network.network_address},{mode},{SLAAC_LENGTH},{_PREFIX_LIFETIME}"
    if server.dns_servers:
        handed = [f"[{ip}]" for ip in _ips(server.dns_servers, what) if ip.version == 6]
        if handed:
            yield ",".join(["dhcp-option=option6:dns-server", *handed])
    if domain:
        yield f"dhcp-option=option6:domain-search,{domain}"


def _known(server: DhcpServer, world: World, what: str) -> Iterator[_Host]:
    """Static leases and guests. Of two with one MAC address or address (a guest and its replacement), the later one."""
    found = [_guest(guest, what, send_ra=server.send_ra) for guest in _guests(server.bridge, world)]
    for lease in server.static_leases:
        address = str(_ips((lease.address,), what)[0])
        name = lease.hostname and _word(_LABEL, lease.hostname, "host name", what)
        found.append(_Host(_word(_MAC, lease.mac, "MAC address", what), address, name, (address,)))
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


@lru_cache(maxsize=1 << 14)  # the configuration has all guests of a bridge, and mostly one of them has changed
def _guest(guest: Guest, what: str, *, send_ra: bool) -> _Host:
    ips = list(addresses_of(guest))
    v4 = [str(ip) for ip in ips if ip.version == 4]
    # A guest that gets advertisements makes its own IPv6 address. Its name must not stand for an address that it does
    # not have, which clients would try first; dnsmasq finds the real one (ra-names).
    named = v4 if v4 and send_ra else [str(ip) for ip in ips]
    name = guest.hostname and _word(_LABEL, guest.hostname, "host name", what)
    return _Host(_word(_MAC, guest.mac, "MAC address", what), v4[0] if v4 else None, name, tuple(named))


def _hosts(known: Iterable[_Host]) -> Iterator[str]:
    for each in known:
        if each.address or each.hostname:
            yield ",".join(filter(None, (each.mac, each.address, each.hostname)))


def _names(known: Iterable[_Host]) -> Iterator[str]:
    for each in known:
        if each.hostname:
            yield from (f"{address} {each.hostname}" for address in each.name_addresses)


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


# --- leases ----------------------------------------------------------------------------------------------------------


def parse_leases(text: str, now: float) -> Iterator[Lease]:
    """The IPv4 leases in use, from dnsmasq's lease file: `<expiry> <mac> <address> <name or *> <client id or *>`.

    They come in the file's order.

    Args:
        text: The file.
        now: Seconds since the epoch; leases that have ended are left out. An expiry of 0 is never.
    """
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 4 or not fields[0].isdigit() or family_of(fields[2]) == "ipv6":
            continue
        expires, mac = int(fields[0]), fields[1].lower()
        if len(mac) == _MAC_LENGTH and (expires == 0 or expires > now):
            yield Lease(mac, fields[2], "" if fields[3] == "*" else fields[3], expires)
