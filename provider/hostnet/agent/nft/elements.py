"""From objects to elements of the table: pure, and per owner, so that a change of one owner touches its own alone.

Each element carries a tag, (field, item) of its object's state in `hostnet.wire.objects`, so that an element that is
missing in the kernel shows as drift of the property that asked for it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from hostnet.agent.dhcp.config import served_ports
from hostnet.agent.nft.ruleset import SOURCE_LENGTHS, Element
from hostnet.wire.family import ANY_ADDRESS, ANY_NETWORK, DIGIT, digit_of
from hostnet.wire.objects import DhcpServer, Forward, Gateway, Object

Tag = tuple[str, str]
Tagged = tuple[Element, Tag]

LOOPBACK_DEVICE = "lo"  # what the host sends to its own addresses leaves through it

_PARTS_BITS = 7  # 128 elements for a source at most: a network with more parts is one element of an interval set


@dataclass(frozen=True)
class Context:
    """What elements of one owner depend on beside its own objects.

    :param devices: hostnet's bridges and routed TAPs, sorted: where a forward without a gateway listens for `loopback`.
    :param addresses: CIDRs of each of `devices` and of each internal interface: declared where ours, else as observed.
    :param gateways: the gateways by name, their external interface resolved.
    :param ports: the bridge ports that hostnet attached, where a forward takes `loopback`: they are in hairpin mode.
    :param doubled: (family, protocol, port) that more than one external interface forwards: from within, the address
        decides which is meant.
    :param bridges: other people's bridges with addresses in networks that are given as such, and those addresses.
    :param observed: a print of what is here as observed: a context of the same owners may have been another before.
    """

    devices: tuple[str, ...] = ()
    addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    gateways: Mapping[str, Gateway] = field(default_factory=dict)
    ports: tuple[str, ...] = ()
    doubled: frozenset[tuple[str, str, int]] = frozenset()
    bridges: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    observed: str = ""

    @cached_property
    def inner(self) -> Mapping[str, tuple[str, ...]]:
        """By gateway, the interfaces that its guests are behind: those it names, and those in its networks.

        A gateway that names none may mean guests anywhere behind hostnet's own: routed TAPs need no address of theirs.
        """
        known = {**{name: self.addresses.get(name, ()) for name in self.devices}, **self.bridges}
        found = {}
        for name, gateway in self.gateways.items():
            networks = (*gateway.internal4, *gateway.internal6)
            homes = [device for device, cidrs in known.items() if networks and overlap(networks, cidrs)]
            found[name] = tuple(dict.fromkeys((*(gateway.internal or self.devices), *homes)))
        return found


def compile_object(item: Object, context: Context) -> Iterator[Tagged]:
    """The elements of one object (those kinds that have any)."""
    if isinstance(item, Gateway):
        yield from _gateway(item, context)
    elif isinstance(item, Forward):
        if item.gateway is not None and item.gateway not in context.gateways:
            return  # its gateway was taken away first: nothing comes in until there is one again
        for cell in forward_cells(item, context):
            for element in cell.elements:
                yield element, ("forward", "")
        yield from ((element, ("count", "")) for element in counted(item))
    elif isinstance(item, DhcpServer) and item.bridge in context.devices:
        for protocol, port in served_ports(item):
            yield Element("dnsmasq_ports", (item.bridge, protocol, str(port))), ("dnsmasq_ports", "")


def compile_common(context: Context) -> Iterator[Tagged]:
    """Elements that belong to no single owner: networks, which may overlap as declared and must not in the kernel."""
    inner = {*context.devices, *(name for gateway in context.gateways.values() for name in gateway.internal)}
    for name in sorted(inner):
        yield Element("our_links", (name,)), ("common", "")
        # For the way back to where it came from; frames between a bridge's own ports pass the forward hook as such,
        # too, where br_netfilter hands them to it.
        yield Element("hairpin_pairs", (name, name)), ("common", "")
        yield from (
            (Element("bridge_addrs" + digit, (address,)), ("common", "")) for digit, address in _own(context, name)
        )
    yield from ((Element("hairpin_ports", (port, port)), ("common", "")) for port in context.ports)
    for name in sorted(inner):
        for network in _subnets(context.addresses.get(name, ())):
            yield Element(f"hairpin_sources{network.version}", (name, str(network))), ("common", "")
    for set_name, networks in _networks(context).items():
        yield from ((Element(set_name, (str(_bare(net)),)), ("common", "")) for net in networks)
    yield from ((element, ("common", "")) for digit in "46" for element in _inner(context, digit))


def _inner(context: Context, digit: str) -> Iterator[Element]:
    """Who may talk to whom by `internalForwarding`, as far as networks are given by their addresses."""
    gateways = [gateway for gateway in context.gateways.values() if gateway.internal_forwarding]
    own = {gateway.name: _collapsed(getattr(gateway, f"internal{digit}")) for gateway in gateways}
    for source in _apart({net for nets in own.values() for net in nets}):
        inside = [nets for nets in own.values() if any(source.subnet_of(net) for net in nets)]
        for target in _collapsed(net for nets in inside for net in nets):
            yield Element(f"net_to_net{digit}", (_bare(source), _bare(target)))
    beside: dict[str, list[Any]] = {}  # networks by the interfaces that they may talk to
    for gateway in gateways:
        for name in gateway.internal:
            beside.setdefault(name, []).extend(own[gateway.name])
    for name in sorted(beside):
        for network in _collapsed(beside[name]):
            yield Element(f"net_to_link{digit}", (_bare(network), name))
            yield Element(f"link_to_net{digit}", (name, _bare(network)))


def _apart(networks: Iterable[Any]) -> Iterator[Any]:
    """The same addresses in networks that do not overlap; each lies in, or outside of, every network that was given."""
    given = sorted(networks)  # what lies in a network follows it
    for number, network in enumerate(given):
        parts = [network]
        for inner in given[number + 1 :]:
            if not inner.subnet_of(network):
                break
            parts = [part for each in parts for part in _without(each, inner)]
        yield from parts


def _without(network: Any, other: Any) -> Iterable[Any]:
    """A network without another that may be in it."""
    if not network.overlaps(other):
        return [network]
    return [] if network.subnet_of(other) else network.address_exclude(other)


def _collapsed(cidrs: Iterable[Any]) -> list[Any]:
    """The networks of one family's CIDRs, as few as can be."""
    networks: list[Any] = [ipaddress.ip_network(cidr, strict=False) for cidr in cidrs]
    return list(ipaddress.collapse_addresses(networks))


def _networks(context: Context) -> dict[str, list[ipaddress.IPv4Network | ipaddress.IPv6Network]]:
    """The networks behind gateways: exempt from NAT among themselves; those given as networks are closed as well."""
    own: dict[str, list[str]] = {name + n: [] for name in ("internal_nets", "closed_nets") for n in "46"}
    for gateway in context.gateways.values():
        own["internal_nets4"] += gateway.internal4
        own["closed_nets4"] += gateway.internal4
        own["internal_nets6"] += gateway.internal6
        own["closed_nets6"] += gateway.internal6
        for name in gateway.internal:
            for cidr in context.addresses.get(name, ()):
                own["internal_nets6" if ":" in cidr else "internal_nets4"].append(cidr)
    return {name: _collapsed(cidrs) for name, cidrs in own.items()}


def _subnets(cidrs: tuple[str, ...]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """The subnets of an interface's addresses, without those that lie in another: the kernel's sets take no overlap."""
    networks: list[Any] = [ipaddress.ip_interface(cidr).network for cidr in cidrs]
    subnets: list[Any] = []
    for version in (4, 6):
        wide = [net for net in networks if net.version == version and net.prefixlen < net.max_prefixlen]
        subnets += ipaddress.collapse_addresses(wide)
    return subnets


def _widest(cidr: str, among: Iterable[str]) -> str:
    """The network of a list that this one lies in, itself mostly: the kernel's sets take no overlap."""
    network: Any = ipaddress.ip_network(cidr)
    nets: list[Any] = [ipaddress.ip_network(each) for each in among]
    return _bare(min((each for each in nets if network.subnet_of(each)), key=lambda each: int(each.prefixlen)))


def _bare(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str:
    """As nft prints it: a single address has no length."""
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def _own(context: Context, name: str) -> Iterator[tuple[str, str]]:
    """The interface's own addresses: (digit of the family, bare address)."""
    for cidr in context.addresses.get(name, ()):
        yield digit_of(cidr), cidr.split("/")[0]


def _gateway(gateway: Gateway, context: Context) -> Iterator[Tagged]:
    external = gateway.external
    if external is None:
        msg = f"gateway {gateway.name} has no external interface yet"
        raise ValueError(msg)
    yield Element("external_links", (external,)), ("external", "")
    for name in gateway.internal:
        yield from _internal_interface(gateway, external, name, context)
    yield from _internal_networks(gateway, external)
    yield from _guarded_in_networks(gateway, context)
    yield from _bridges_in_networks(gateway, context)
    if gateway.mss_clamp:
        yield Element("mss_clamp_links", (external,)), ("mss_clamp", "")
    for digit, host in (("4", gateway.dmz4), ("6", gateway.dmz6)):
        if host is not None:
            yield Element("dmz_hosts" + digit, (external,), (host,)), ("dmz" + digit, "")
    if gateway.dmz4 or gateway.dmz6:
        for port in gateway.dmz_except:
            yield Element("dmz_except_ports", (external, str(port))), ("dmz_except", str(port))


def _internal_interface(gateway: Gateway, external: str, name: str, context: Context) -> Iterator[Tagged]:
    tag = ("internal", name)
    yield Element("internal_links", (name,)), tag
    yield Element("forward_pairs4", (name, external)), tag
    yield _translate("pairs4", (name, external), gateway.snat4, tag)
    for digit, address in _own(context, name):
        yield Element("gateway_addrs" + digit, (address,)), tag
    if gateway.nat6:
        yield Element("forward_pairs6", (name, external)), ("nat6", "")
        yield _translate("pairs6", (name, external), gateway.snat6, ("nat6", ""))
    if gateway.route6:
        yield Element("forward_pairs6", (name, external)), ("route6", "")
        yield Element("forward_pairs6", (external, name)), ("route6", "")
    if gateway.internal_forwarding:
        for other in gateway.internal:
            if other != name:
                yield Element("forward_pairs4", (name, other)), ("internal_forwarding", "")
                yield Element("forward_pairs6", (name, other)), ("internal_forwarding", "")


def _internal_networks(gateway: Gateway, external: str) -> Iterator[Tagged]:
    for digit, networks, fixed in (
        ("4", gateway.internal4, gateway.snat4),
        ("6", gateway.internal6, gateway.snat6),
    ):
        field_name = "internal" + digit
        for cidr in networks:
            tag = (field_name, cidr)
            key = (external, _widest(cidr, networks))
            if digit == "6" and gateway.route6:
                yield Element("routed_nets6", key), tag
            if digit == "4" or gateway.nat6 or gateway.route6:
                yield Element("forward_nets" + digit, key), tag
            if digit == "4" or gateway.nat6:
                yield _translate("nets" + digit, key, fixed, tag)


def _guarded_in_networks(gateway: Gateway, context: Context) -> Iterator[Tagged]:
    """Our own bridges' addresses in the networks that are given as such: no business of the outside either."""
    for field_name, networks in (("internal4", gateway.internal4), ("internal6", gateway.internal6)):
        for cidr in networks:
            network = ipaddress.ip_network(cidr)
            for name in context.devices:
                for digit, address in _own(context, name):
                    if digit == field_name[-1] and ipaddress.ip_address(address) in network:
                        yield Element("gateway_addrs" + digit, (address,)), (field_name, cidr)


def _bridges_in_networks(gateway: Gateway, context: Context) -> Iterator[Tagged]:
    """Other people's bridges: what br_netfilter shows of frames between their own ports passes."""
    for field_name, networks in (("internal4", gateway.internal4), ("internal6", gateway.internal6)):
        for cidr in networks:
            for name, cidrs in context.bridges.items():
                if overlap([cidr], cidrs):
                    yield Element("hairpin_pairs", (name, name)), (field_name, cidr)


def overlap(networks: Iterable[str], cidrs: Iterable[str]) -> bool:
    """Whether any of these networks overlaps the network of any of these addresses."""
    nets: list[Any] = [ipaddress.ip_network(cidr) for cidr in networks]
    others: list[Any] = [ipaddress.ip_interface(cidr).network for cidr in cidrs]
    return any(net.version == other.version and net.overlaps(other) for net in nets for other in others)


def _translate(what: str, key: tuple[str, ...], fixed: str | None, tag: Tag) -> Tagged:
    """Source NAT for this key of the sets `…_<what>` (`pairs4`, `nets6`): to a fixed address, or masquerade."""
    if fixed is None:
        return Element(f"masquerade_{what}", key), tag
    return Element(f"snat_{what}", key, (fixed,)), tag


@dataclass(frozen=True)
class Cell:
    """The elements of a forward for one protocol, listen address and source, outside or by loopback."""

    protocol: str
    listen: str | None
    source: str | None
    loopback: bool
    elements: tuple[Element, ...]


def forward_devices(forward: Forward, context: Context) -> tuple[str, tuple[str, ...]]:
    """Where a forward's packets come in: its external interface, and those that `loopback` adds.

    :raises KeyError: when its gateway is not there.
    """
    if forward.gateway is None:
        if forward.external is None:
            msg = "a forward without an external interface"
            raise ValueError(msg)
        return forward.external, (*context.devices, LOOPBACK_DEVICE)
    gateway = context.gateways[forward.gateway]
    if gateway.external is None:
        msg = f"gateway {gateway.name} has no external interface yet"
        raise ValueError(msg)
    return gateway.external, (*context.inner[gateway.name], LOOPBACK_DEVICE)


def forward_cells(forward: Forward, context: Context) -> Iterator[Cell]:
    """A forward's elements, in cells whose absence means something to a person."""
    external, inner = forward_devices(forward, context)
    wildcard = ANY_ADDRESS[forward.family]
    for protocol in forward.protocols:
        for listen in forward.listen or (None,):
            if listen != "127.0.0.1":
                for source in forward.sources or (None,):
                    elements = _forward_elements(forward, external, protocol, listen, source)
                    yield Cell(protocol, listen, source, loopback=False, elements=tuple(elements))
            for at in _inner_addresses(forward, external, protocol, listen, context):
                for device in _loopback_devices(forward, inner, listen):
                    elements = _forward_elements(forward, device, protocol, at, None)
                    yield Cell(protocol, listen, None, loopback=True, elements=tuple(elements))
        if wildcard in forward.listen:
            devices = [external, *(inner if forward.loopback else ())]
            ports = _range(forward.ports)
            every = tuple(
                Element("dnat_wildcard" + DIGIT[forward.family], (device, protocol, ports))
                for device in devices
                if device != LOOPBACK_DEVICE
            )
            yield Cell(protocol, wildcard, None, loopback=False, elements=every)


def _inner_addresses(
    forward: Forward, external: str, protocol: str, listen: str | None, context: Context
) -> tuple[str | None, ...]:
    """Which addresses of the host mean this forward from within: as declared.

    Where another external interface forwards the port as well, those of this one's interface.
    """
    low, high = forward.ports
    if listen is not None or not any((forward.family, protocol, port) in context.doubled for port in (low, high)):
        return (listen,)
    wanted = ":" if forward.family == "ipv6" else "."
    return tuple(cidr.split("/")[0] for cidr in context.addresses.get(external, ()) if wanted in cidr)


def _loopback_devices(forward: Forward, inner: tuple[str, ...], listen: str | None) -> Iterable[str]:
    if not forward.loopback:
        # A forward that listens on 127.0.0.1 has no other way in.
        return (LOOPBACK_DEVICE,) if listen == "127.0.0.1" else ()
    return (LOOPBACK_DEVICE,) if listen == "127.0.0.1" else inner


def _forward_elements(
    forward: Forward, device: str, protocol: str, listen: str | None, source: str | None
) -> Iterator[Element]:
    digit = DIGIT[forward.family]
    low, high = forward.ports
    to_low, to_high = forward.to_ports
    single, same = low == high, (low, high) == (to_low, to_high)
    specific = listen is not None and listen != ANY_ADDRESS[forward.family]
    saddr = _widest(source, forward.sources) if source else ANY_NETWORK[forward.family]
    if not single and same:
        # The kernel keeps the port where only the address is given: one element for the whole range.
        name, at = ("dnat_addr_range", [listen]) if specific and listen is not None else ("dnat_range", [])
        yield Element(name + digit, (device, protocol, *at, saddr, _range(forward.ports)), (forward.address,))
        return
    if to_low == to_high:
        spans = [(_range(forward.ports), to_low)]
    else:
        spans = [(str(low + offset), to_low + offset) for offset in range(high - low + 1)]
    for ports, to_port in spans:
        value = (forward.address, str(to_port))
        parts = parts_of(saddr) if source and "-" not in ports else None
        if specific and listen is not None:
            if source or "-" in ports:
                yield Element("dnat_addr_source" + digit, (device, protocol, listen, saddr, ports), value)
            else:
                yield Element("dnat_addr" + digit, (device, protocol, listen, ports), value)
        elif parts is not None:
            yield Element("dnat_limited" + digit, (device, protocol, ports), value)
            for length, address in parts:
                yield Element(f"port_sources{length}_{digit}", (device, protocol, ports, address))
        elif source or "-" in ports:
            yield Element("dnat_source" + digit, (device, protocol, saddr, ports), value)
        else:
            yield Element("dnat_port" + digit, (device, protocol, ports), value)


def parts_of(cidr: str) -> list[tuple[int, str]] | None:
    """A network as parts of one of the prefix lengths that a hash table is there for: (length, first address).

    Returns:
        None where there would be too many, or where there is no longer one of these lengths.
    """
    network: Any = ipaddress.ip_network(cidr)
    length = min(each for each in SOURCE_LENGTHS[str(network.version)] if each >= network.prefixlen)
    if length - network.prefixlen > _PARTS_BITS:
        return None
    return [(length, str(part.network_address)) for part in network.subnets(new_prefix=length)]


def counted(forward: Forward) -> Iterator[Element]:
    """The elements that count a forward's packets."""
    name = "forward_counters" if forward.ports[0] == forward.ports[1] else "range_counters"
    for protocol in forward.protocols:
        yield Element(name + DIGIT[forward.family], (protocol, _range(forward.ports), forward.address))


def _range(ports: tuple[int, int]) -> str:
    return str(ports[0]) if ports[0] == ports[1] else f"{ports[0]}-{ports[1]}"


def localnet_devices(items: Iterable[Object], context: Context) -> set[str]:
    """The links that need `route_localnet`: 127.0.0.1 on the host reaches a guest behind them through a forward."""
    targets = {
        item.address
        for item in items
        if isinstance(item, Forward)
        and item.family == "ipv4"
        and ("127.0.0.1" in item.listen or (item.loopback and not set(item.listen) - {ANY_ADDRESS["ipv4"]}))
    }
    if not targets:
        return set()
    addresses = [ipaddress.ip_address(target) for target in targets]
    return {
        name
        for name, cidrs in (*context.addresses.items(), *context.bridges.items())
        if any(address in ipaddress.ip_interface(cidr).network for cidr in cidrs for address in addresses)
    }
