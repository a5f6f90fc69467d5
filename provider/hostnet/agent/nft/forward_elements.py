"""From port forwards to elements of our tables. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from hostnet.agent.nft.context import Context
from hostnet.agent.nft.networks import widest
from hostnet.agent.nft.ruleset import SOURCE_LENGTHS, Element
from hostnet.agent.record.forwards import ForwardIndex, Span
from hostnet.wire.family import ANY_ADDRESS, ANY_NETWORK, DIGIT
from hostnet.wire.objects import Forward

LOOPBACK_DEVICE = "lo"  # what the host sends to its own addresses leaves through it

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
    """The interfaces that a forward's packets come in by: its external ones, and those that `loopback` adds.

    Raises:
        KeyError: There is no gateway of that name.
    """
    if forward.gateway is None:
        if forward.external is None:
            msg = "a forward without an external interface"
            raise ValueError(msg)
        return (forward.external,), (*context.devices, LOOPBACK_DEVICE)
    gateway = context.gateways[forward.gateway]
    if gateway.external is None:
        msg = f"gateway {gateway.name} has no external interface yet"
        raise ValueError(msg)
    return gateway.uplinks, (*context.internal[gateway.name], LOOPBACK_DEVICE)


def forward_cells(forward: Forward, context: Context) -> Iterator[Cell]:
    """A forward's elements, in cells: which cell is missing says which property of the forward has drifted."""
    externals, internal = forward_devices(forward, context)
    wildcard = ANY_ADDRESS[forward.family]
    for protocol in forward.protocols:
        for listen in forward.listen or (None,):
            if listen != "127.0.0.1":
                for source in forward.sources or (None,):
                    outer = [_forward_elements(forward, each, protocol, listen, source) for each in externals]
                    yield Cell(protocol, listen, source, loopback=False, elements=tuple(chain.from_iterable(outer)))
            for at in _inner_addresses(forward, externals, protocol, listen, context):
                for device in _loopback_devices(forward, internal, listen):
                    elements = _forward_elements(forward, device, protocol, at, None)
                    yield Cell(protocol, listen, None, loopback=True, elements=tuple(elements))
        if wildcard in forward.listen:
            devices = [*externals, *(internal if forward.loopback else ())]
            parts = context.forwards.parts(forward.ports, (forward.family, protocol, ""))
            every = tuple(
                Element("dnat_wildcard" + DIGIT[forward.family], (device, protocol, _range(part)))
                for device in devices
                for part in parts
                if device != LOOPBACK_DEVICE
            )
            yield Cell(protocol, wildcard, None, loopback=False, elements=every)


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


def _loopback_devices(forward: Forward, internal: tuple[str, ...], listen: str | None) -> Iterable[str]:
    if not forward.loopback:
        # A forward that listens on 127.0.0.1 can be reached from the host itself alone.
        return (LOOPBACK_DEVICE,) if listen == "127.0.0.1" else ()
    return (LOOPBACK_DEVICE,) if listen == "127.0.0.1" else internal


def _forward_elements(
    forward: Forward, device: str, protocol: str, listen: str | None, source: str | None
) -> Iterator[Element]:
    digit = DIGIT[forward.family]
    low, high = forward.ports
    to_low, to_high = forward.to_ports
    single, same = low == high, (low, high) == (to_low, to_high)
    specific = listen is not None and listen != ANY_ADDRESS[forward.family]
    saddr = widest(source, forward.sources) if source else ANY_NETWORK[forward.family]
    if not single and same:
        # The kernel keeps the port if the value is an address alone: one element for the whole range.
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
    externals, internal = forward_devices(forward, context)
    name = ("source_nat_ports" if forward.ports[0] == forward.ports[1] else "source_nat_ranges") + digit
    inner = (device for device in internal if device != LOOPBACK_DEVICE) if forward.loopback else ()
    for device in (*externals, *inner):
        for protocol in forward.protocols:
            for part in context.forwards.parts(forward.ports, (forward.family, protocol, forward.address)):
                yield Element(name, (device, protocol, _range(part), forward.address))


def _range(ports: Span) -> str:
    return str(ports[0]) if ports[0] == ports[1] else f"{ports[0]}-{ports[1]}"
