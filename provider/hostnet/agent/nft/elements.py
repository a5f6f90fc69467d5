"""From objects to elements of our tables, owner by owner: a change of one owner touches its own elements alone. Pure.

Each element carries a tag, (field, item) of its object's state in `hostnet.wire.objects`: an element that is missing in
the kernel shows as drift of the property that needs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hostnet.agent.dhcp.config import served_ports
from hostnet.agent.nft.context import Context, own_addresses
from hostnet.agent.nft.egress import egress_elements, egress_networks
from hostnet.agent.nft.forward_elements import counted, forward_cells, source_translated
from hostnet.agent.nft.gateway_elements import gateway_elements
from hostnet.agent.nft.guard_elements import guard_elements, shared_guard_elements
from hostnet.agent.nft.networks import Network, apart, bare, collapsed, subnets
from hostnet.agent.nft.ruleset import Element, Tagged
from hostnet.wire.objects import Address, DhcpServer, Forward, Gateway, Guest, Link, Object


def compile_object(item: Object, context: Context) -> Iterator[Tagged]:
    """The elements of one object; most kinds have none."""
    if isinstance(item, Gateway):
        yield from gateway_elements(item, context)
        yield from egress_elements(item, context)
    elif isinstance(item, Forward):
        if item.gateway is not None and item.gateway not in context.gateways:
            return  # its gateway was deleted first: it forwards nothing until there is one again
        for cell in forward_cells(item, context):
            for element in cell.elements:
                yield element, ("forward", "")
        yield from ((element, ("source_nat", "")) for element in source_translated(item, context))
        yield from ((element, ("count", "")) for element in counted(item, context.forwards))
    elif isinstance(item, (Guest, Link, Address)):
        yield from guard_elements(item, context)
    elif isinstance(item, DhcpServer) and (item.bridge in context.devices or item.bridge in context.services):
        for protocol, port in served_ports(item):
            yield Element("dnsmasq_ports", (item.bridge, protocol, str(port))), ("dnsmasq_ports", "")


def compile_common(context: Context) -> Iterator[Tagged]:
    """The elements that all owners share.

    Networks are among them: declared ones may overlap, and an interval set refuses overlapping elements.
    """
    our_links = {*context.devices, *(name for gateway in context.gateways.values() for name in gateway.internal)}
    for name in sorted(our_links):
        yield Element("our_links", (name,)), ("common", "")
        # A forward leads back to the interface that its packet came in by. With br_netfilter, frames between a bridge's
        # own ports look the same in the forward hook.
        yield Element("hairpin_pairs", (name, name)), ("common", "")
        for digit, address in own_addresses(context, name):
            yield Element("bridge_addrs" + digit, (address,)), ("common", "")
    yield from ((Element("inner_links", (name,)), ("common", "")) for name in context.inner)
    yield from ((Element("outer_links", (name,)), ("common", "")) for name in context.outer)
    yield from ((Element("hairpin_ports", (port, port)), ("common", "")) for port in context.ports)
    for name in sorted(our_links):
        for network in subnets(context.addresses.get(name, ())):
            yield Element(f"hairpin_sources{network.version}", (str(network), name)), ("common", "")
    for set_name, networks in _networks(context).items():
        yield from ((Element(set_name, (str(bare(net)),)), ("common", "")) for net in networks)
    yield from ((element, ("common", "")) for digit in "46" for element in _internal(context, digit))
    yield from ((element, ("common", "")) for element in egress_networks(context))
    yield from ((element, ("common", "")) for element in shared_guard_elements(context))


def _internal(context: Context, digit: str) -> Iterator[Element]:
    """Who reaches whom by `internalForwarding`, as far as networks are given by address."""
    gateways = [gateway for gateway in context.gateways.values() if gateway.internal_forwarding]
    own = {gateway.name: collapsed(getattr(gateway, f"internal{digit}")) for gateway in gateways}
    for source in apart({net for nets in own.values() for net in nets}):
        inside = [nets for nets in own.values() if any(source.subnet_of(net) for net in nets)]
        for target in collapsed(net for nets in inside for net in nets):
            yield Element(f"net_to_net{digit}", (bare(source), bare(target)))
    beside: dict[str, list[Any]] = {}  # networks by the interfaces that they reach
    for gateway in gateways:
        for name in gateway.internal:
            beside.setdefault(name, []).extend(own[gateway.name])
    for name in sorted(beside):
        for network in collapsed(beside[name]):
            yield Element(f"net_to_link{digit}", (bare(network), name))
            yield Element(f"link_to_net{digit}", (name, bare(network)))


def _networks(context: Context) -> dict[str, list[Network]]:
    """The networks behind gateways, for the sets that hold them."""
    own: dict[str, list[str]] = {name + n: [] for name in ("internal_nets", "closed_nets") for n in "46"}
    for gateway in context.gateways.values():
        own["internal_nets4"] += gateway.internal4
        own["closed_nets4"] += gateway.internal4
        own["internal_nets6"] += gateway.internal6
        own["closed_nets6"] += gateway.internal6
        for name in gateway.internal:
            for cidr in context.addresses.get(name, ()):
                own["internal_nets6" if ":" in cidr else "internal_nets4"].append(cidr)
    return {name: collapsed(cidrs) for name, cidrs in own.items()}
