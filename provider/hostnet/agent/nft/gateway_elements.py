"""From gateways to elements of our tables. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from hostnet.agent.nft.context import Context, own_addresses
from hostnet.agent.nft.networks import bare, overlap, widest
from hostnet.agent.nft.ruleset import Element, Tag, Tagged
from hostnet.wire.family import digit_of
from hostnet.wire.objects import Gateway


def gateway_elements(gateway: Gateway, context: Context) -> Iterator[Tagged]:
    """The elements of a gateway.

    Raises:
        ValueError: Its external interface is not resolved.
    """
    if not gateway.uplinks:
        msg = f"gateway {gateway.name} has no external interface yet"
        raise ValueError(msg)
    yield from ((Element("external_links", (external,)), ("external", "")) for external in gateway.uplinks)
    for name in gateway.internal:
        yield from _internal_interface(gateway, name, context)
    for external in gateway.uplinks:
        yield from _internal_networks(gateway, external, context)
    yield from _addresses_in_networks(gateway, context)
    yield from _bridges_in_networks(gateway, context)
    for external in gateway.uplinks:
        if gateway.mss_clamp:
            yield Element("mss_clamp_links", (external,)), ("mss_clamp", "")
        yield from _dmz(gateway, external, context)
    for pair in gateway.one_to_one:
        yield from _one_to_one(gateway, pair, context)


def _one_to_one(gateway: Gateway, pair: tuple[str, str], context: Context) -> Iterator[Tagged]:
    """The elements of an external address that stands for one guest: also for those within who ask for it."""
    (outer, inner), tag, digit = pair, ("one_to_one", str(pair)), digit_of(pair[0])
    homes = homes_of(gateway, outer, context)
    for device in (*homes, *context.apart_of(gateway)):
        yield Element("one_to_one_addrs" + digit, (device, outer), (inner,)), tag
    yield Element("one_to_one_inner" + digit, (outer,), (inner,)), tag
    for external in homes:
        yield Element("one_to_one_hosts" + digit, (external, inner)), tag
        yield Element("one_to_one_sources" + digit, (external, inner), (outer,)), tag


def _dmz(gateway: Gateway, external: str, context: Context) -> Iterator[Tagged]:
    """The dmz hosts of an external interface: for what comes to its fixed address, or to any where there is none."""
    for digit, host, restricted in (("4", gateway.dmz4, gateway.snat4), ("6", gateway.dmz6, gateway.snat6)):
        fixed = fixed_source(gateway, external, digit, context)
        if host is not None and restricted is None:
            yield Element("dmz_hosts" + digit, (external,), (host,)), ("dmz" + digit, "")
        elif host is not None and fixed is not None:
            yield Element("dmz_addrs" + digit, (external, fixed), (host,)), ("dmz" + digit, "")
            for port in gateway.dmz_except:
                yield Element("dmz_except_addrs" + digit, (external, fixed, str(port))), ("dmz_except", str(port))
    if (gateway.dmz4 and not gateway.snat4) or (gateway.dmz6 and not gateway.snat6):
        for port in gateway.dmz_except:
            yield Element("dmz_except_ports", (external, str(port))), ("dmz_except", str(port))


def closed_addresses(context: Context) -> set[str]:
    """The addresses of the host that do not answer to the outside."""
    found = (element for gateway in context.gateways.values() for element, _ in gateway_elements(gateway, context))
    return {element.key[0] for element in found if element.set in ("gateway_addrs4", "gateway_addrs6")}


def _internal_interface(gateway: Gateway, name: str, context: Context) -> Iterator[Tagged]:
    tag = ("internal", name)
    yield Element("internal_links", (name,)), tag
    for external in gateway.uplinks:
        yield Element("forward_pairs4", (name, external)), tag
        yield _translate("pairs4", (name, external), fixed_source(gateway, external, "4", context), tag)
    for digit, address in own_addresses(context, name):
        yield Element("gateway_addrs" + digit, (address,)), tag
    for external in gateway.uplinks:
        if gateway.nat6:
            yield Element("forward_pairs6", (name, external)), ("nat6", "")
            yield _translate("pairs6", (name, external), fixed_source(gateway, external, "6", context), ("nat6", ""))
        if gateway.route6:
            yield Element("forward_pairs6", (name, external)), ("route6", "")
            yield Element("forward_pairs6", (external, name)), ("route6", "")
    if gateway.internal_forwarding:
        for other in gateway.internal:
            if other != name:
                yield Element("forward_pairs4", (name, other)), ("internal_forwarding", "")
                yield Element("forward_pairs6", (name, other)), ("internal_forwarding", "")


def fixed_source(gateway: Gateway, external: str, digit: str, context: Context) -> str | None:
    """The declared source address of what leaves by an external interface; None: the interface's own.

    Of several interfaces it is for those that have it: by another one its replies would not come back. Where none has
    it, it is for the first, as a provider may route it there.
    """
    address = gateway.snat4 if digit == "4" else gateway.snat6
    if address is None or not gateway.more:
        return address
    return address if external in homes_of(gateway, address, context) else None


def homes_of(gateway: Gateway, address: str, context: Context) -> tuple[str, ...]:
    """The external interfaces that have an address; the first where none has it."""
    if not gateway.more:
        return gateway.uplinks
    homes = (name for name in gateway.uplinks if address in map(_bare, context.addresses.get(name, ())))
    return tuple(homes) or gateway.uplinks[:1]


def _bare(cidr: str) -> str:
    return cidr.partition("/")[0]


def _internal_networks(gateway: Gateway, external: str, context: Context) -> Iterator[Tagged]:
    for digit, networks in (("4", gateway.internal4), ("6", gateway.internal6)):
        for cidr in networks:
            tag = ("internal" + digit, cidr)
            for part in context.parts(gateway, external, widest(cidr, networks)):
                yield from _network(gateway, digit, (external, bare(part)), tag, context)


def _network(gateway: Gateway, digit: str, key: tuple[str, str], tag: Tag, context: Context) -> Iterator[Tagged]:
    """The elements of a part of a network that is given by address."""
    if digit == "6" and gateway.route6:
        yield Element("routed_nets6", key), tag
    if digit == "4" and gateway.route4:
        yield Element("routed_nets4", key), ("route4", "")
    if digit == "4" or gateway.nat6 or gateway.route6:
        yield Element("forward_nets" + digit, key), tag
    if (digit == "4" and not gateway.route4) or (digit == "6" and gateway.nat6):
        yield _translate("nets" + digit, key, fixed_source(gateway, key[0], digit, context), tag)


def _addresses_in_networks(gateway: Gateway, context: Context) -> Iterator[Tagged]:
    """Our own bridges' addresses in networks that are given by address: they do not answer to the outside either."""
    for field_name, networks in (("internal4", gateway.internal4), ("internal6", gateway.internal6)):
        for cidr in networks:
            network = ipaddress.ip_network(cidr)
            for name in context.devices:
                for digit, address in own_addresses(context, name):
                    if digit == field_name[-1] and ipaddress.ip_address(address) in network:
                        yield Element("gateway_addrs" + digit, (address,)), (field_name, cidr)


def _bridges_in_networks(gateway: Gateway, context: Context) -> Iterator[Tagged]:
    """Bridges of other programs: with br_netfilter, frames between their own ports come to our chains, and pass."""
    for field_name, networks in (("internal4", gateway.internal4), ("internal6", gateway.internal6)):
        for cidr in networks:
            for name, cidrs in context.bridges.items():
                if overlap([cidr], cidrs):
                    yield Element("hairpin_pairs", (name, name)), (field_name, cidr)


def _translate(what: str, key: tuple[str, ...], fixed: str | None, tag: Tag) -> Tagged:
    """Source NAT for this key of the sets `…_<what>` (`pairs4`, `nets6`): to a fixed address, or masquerade."""
    if fixed is None:
        return Element(f"masquerade_{what}", key), tag
    return Element(f"snat_{what}", key, (fixed,)), tag
