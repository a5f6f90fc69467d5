"""From port forwards to elements of our tables. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from hostnet.agent.nft.context import Context
from hostnet.agent.nft.networks import widest
from hostnet.agent.nft.ruleset import SOURCE_LENGTHS, Element
from hostnet.agent.record.forwards import ForwardIndex, Span
from hostnet.wire.family import ANY_ADDRESS, ANY_NETWORK, DIGIT
from hostnet.wire.objects import Forward

_PARTS_BITS = 7  # 128 elements for a source at most: a network with more parts is one element of an interval set


@dataclass(frozen=True)
class Cell:
    """The elements of a forward for one protocol, listen address and source.

    Attributes:
        protocol: The protocol.
        listen: The listen address; None: every address of the host.
        source: The source network; None: every source.
        loopback: Whether they are for packets from within.
        elements: The elements.
    """

    protocol: str
    listen: str | None
    source: str | None
    loopback: bool
    elements: tuple[Element, ...]


def forward_devices(forward: Forward, context: Context) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The interfaces that a forward names: its external ones, and those that are internal and not within by themselves.

    Raises:
        KeyError: There is no gateway of that name.
    """
    if forward.gateway is None:
        if forward.external is None:
            msg = "a forward without an external interface"
            raise ValueError(msg)
        return (forward.external,), ()
    gateway = context.gateways[forward.gateway]
    if gateway.external is None:
        msg = f"gateway {gateway.name} has no external interface yet"
        raise ValueError(msg)
    return gateway.uplinks, context.apart_of(gateway)


def forward_cells(forward: Forward, context: Context) -> Iterator[Cell]:
    """A forward's elements, in cells: which cell is missing says which property of the forward has drifted."""
    externals, apart = forward_devices(forward, context)
    wildcard = ANY_ADDRESS[forward.family]
    for protocol in forward.protocols:
        for listen in forward.listen or (None,):
            if listen != "127.0.0.1":
                for source in forward.sources or (None,):
                    outer = [_forward_elements(forward, each, protocol, listen, source) for each in externals]
                    yield Cell(protocol, listen, source, loopback=False, elements=tuple(chain.from_iterable(outer)))
            # A forward that listens on 127.0.0.1 can be reached from the host itself alone.
            if listen == "127.0.0.1" or forward.loopback:
                for at in _inner_addresses(forward, externals, protocol, listen, context):
                    inner = [_inner_elements(forward, protocol, at)]
                    if listen != "127.0.0.1":
                        inner += [_forward_elements(forward, device, protocol, at, None) for device in apart]
                    yield Cell(protocol, listen, None, loopback=True, elements=tuple(chain.from_iterable(inner)))
        if wildcard in forward.listen:
            yield from _wildcards(forward, protocol, context)


def _wildcards(forward: Forward, protocol: str, context: Context) -> Iterator[Cell]:
    """The cells of a forward that takes what comes to the addresses of bridges, too."""
    (externals, _), digit = forward_devices(forward, context), DIGIT[forward.family]
    keys = [(protocol, _range(part)) for part in context.forwards.parts(forward.ports, (forward.family, protocol, ""))]
    outer = tuple(Element("dnat_wildcard" + digit, (external, *key)) for external in externals for key in keys)
    yield Cell(protocol, ANY_ADDRESS[forward.family], None, loopback=False, elements=outer)
    if forward.loopback:
        inner = tuple(Element("inner_wildcard" + digit, key) for key in keys)
        yield Cell(protocol, ANY_ADDRESS[forward.family], None, loopback=True, elements=inner)


def _inner_addresses(
    forward: Forward, externals: tuple[str, ...], protocol: str, listen: str | None, context: Context
) -> tuple[str | None, ...]:
    """The addresses of the host that mean this forward from within: the declared one.

    If another external interface forwards the port as well, those of this forward's interfaces.
    """
    if listen is None:
        several = context.forwards.doubled(forward, protocol, externals)
    else:
        several = listen == ANY_ADDRESS[forward.family] and context.forwards.disputed(forward, protocol)
    if not several:
        return (listen,)
    wanted = ":" if forward.family == "ipv6" else "."
    return tuple(
        cidr.split("/")[0] for external in externals for cidr in context.addresses.get(external, ()) if wanted in cidr
    )


def _values(forward: Forward) -> Iterator[tuple[str, tuple[str, ...]]]:
    """A forward's ports as elements have them, each with its value."""
    low, high = forward.ports
    to_low, to_high = forward.to_ports
    if low != high and forward.ports == forward.to_ports:
        # The kernel keeps the port if the value is an address alone: one element for the whole range.
        yield _range(forward.ports), (forward.address,)
    elif to_low == to_high:
        yield _range(forward.ports), (forward.address, str(to_low))
    else:
        yield from ((str(low + by), (forward.address, str(to_low + by))) for by in range(high - low + 1))


def _specific(forward: Forward, listen: str | None) -> tuple[str, ...]:
    """A listen address, where it is not every address."""
    return () if listen is None or listen == ANY_ADDRESS[forward.family] else (listen,)


def _inner_elements(forward: Forward, protocol: str, listen: str | None) -> Iterator[Element]:
    """The elements for packets from within, wherever they come from."""
    at = _specific(forward, listen)
    for ports, value in _values(forward):
        of = "range" if len(value) == 1 else "ports" if "-" in ports else "port"
        name = f"inner_addr_{of}" if at else f"inner_{of}"
        yield Element(name + DIGIT[forward.family], (protocol, *at, ports), value)


def _forward_elements(
    forward: Forward, device: str, protocol: str, listen: str | None, source: str | None
) -> Iterator[Element]:
    """The elements for packets that come in by an interface."""
    digit, at = DIGIT[forward.family], _specific(forward, listen)
    saddr = widest(source, forward.sources) if source else ANY_NETWORK[forward.family]
    for ports, value in _values(forward):
        if len(value) == 1:
            name = "dnat_addr_range" if at else "dnat_range"
            yield Element(name + digit, (device, protocol, *at, saddr, ports), value)
            continue
        parts = parts_of(saddr) if source and "-" not in ports else None
        if at:
            if source or "-" in ports:
                yield Element("dnat_addr_source" + digit, (device, protocol, *at, saddr, ports), value)
            else:
                yield Element("dnat_addr" + digit, (device, protocol, *at, ports), value)
        elif parts is not None:
            yield Element("dnat_limited" + digit, (device, protocol, ports), value)
            for length, address in parts:
                yield Element(f"port_sources{length}_{digit}", (device, protocol, ports, address))
        elif source or "-" in ports:
            yield Element("dnat_source" + digit, (device, protocol, saddr, ports), value)
        else:
            yield Element("dnat_port" + digit, (device, protocol, ports), value)


def parts_of(cidr: str) -> list[tuple[int, str]] | None:
    """A network as parts of one of the prefix lengths that have a hash table: (length, first address).

    Returns:
        None if there would be too many.
    """
    network: Any = ipaddress.ip_network(cidr)
    length = min(each for each in SOURCE_LENGTHS[str(network.version)] if each >= network.prefixlen)
    if length - network.prefixlen > _PARTS_BITS:
        return None
    return [(length, str(part.network_address)) for part in network.subnets(new_prefix=length)]


def counted(forward: Forward, index: ForwardIndex) -> Iterator[Element]:
    """The elements that count a forward's packets."""
    name = "forward_counters" if forward.ports[0] == forward.ports[1] else "range_counters"
    for protocol in forward.protocols:
        for part in index.parts(forward.ports, (forward.family, protocol, forward.address)):
            yield Element(name + DIGIT[forward.family], (protocol, _range(part), forward.address))


def source_translated(forward: Forward, context: Context) -> Iterator[Element]:
    """The elements by which the target sees an address of this host."""
    if not forward.source_nat:
        return
    digit = DIGIT[forward.family]
    yield Element("source_nat_targets" + digit, (forward.address,))
    externals, apart = forward_devices(forward, context)
    of = "ports" if forward.ports[0] == forward.ports[1] else "ranges"
    for protocol in forward.protocols:
        for part in context.forwards.parts(forward.ports, (forward.family, protocol, forward.address)):
            key = (protocol, _range(part), forward.address)
            for device in (*externals, *(apart if forward.loopback else ())):
                yield Element(f"source_nat_{of}{digit}", (device, *key))
            if forward.loopback:
                yield Element(f"source_nat_inner_{of}{digit}", key)


def _range(ports: Span) -> str:
    return str(ports[0]) if ports[0] == ports[1] else f"{ports[0]}-{ports[1]}"
