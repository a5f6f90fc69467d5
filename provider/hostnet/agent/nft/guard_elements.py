"""From bridges and guests to the elements that hold what guests may do to the host and to each other. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from hostnet.agent.nft.context import Context
from hostnet.agent.nft.egress import guest_egress
from hostnet.agent.nft.networks import collapsed
from hostnet.agent.nft.ruleset import IN_ARP, Element, Tag, Tagged
from hostnet.wire.family import digit_of
from hostnet.wire.objects import Address, Guest, Link, Object
from hostnet.wire.subnets import link_local

_CHECKED: Tag = ("anti_spoofing", "")


def guard_elements(item: Object, context: Context) -> Iterator[Tagged]:
    """The elements of an object. Those of a bridge's addresses are tagged with a field of the bridge.

    Args:
        item: The object.
        context: What its elements depend on.
    """
    if isinstance(item, Guest):
        if item.bridge in context.guest_subnets:
            own = [link_local(item.mac), *(cidr.split("/")[0] for cidr in item.addresses or ())]
            yield from ((element, _CHECKED) for element in _taken(own))
        if item.anti_spoofing:
            yield from _in_arp(_checked(item, context))
            yield from guest_egress(item)
    elif isinstance(item, Link) and item.name in context.services:
        yield Element("services_links", (item.name,)), ("host_access", "")
    elif isinstance(item, Link) and item.upload is not None:
        # A TAP on a bridge is seen there alone, a routed one is not.
        for name in ("upload_links", "upload_ports"):
            yield Element(name, (item.name,), (str(item.upload // 8),)), ("upload", "")
        for name in ("routed_taps", "ruled_ports"):
            yield Element(name, (item.name,)), ("upload", "")
    elif isinstance(item, Address) and item.link in context.services:
        address = item.cidr.split("/")[0]
        yield Element("service_addrs" + digit_of(item.cidr), (item.link, address)), ("host_access", "")


def shared_guard_elements(context: Context) -> Iterator[Element]:
    """What the host itself has where guests are, which no guest may take, and the ports of bridges that serve."""
    yield from served(context.served_ports)
    # With br_netfilter, what a guest says to its neighbours comes to the rules of `egress`, too.
    yield from (Element("hairpin_pairs", (name, name)) for name in context.egress_bridges)
    yield from isolating(context)
    for cidrs in context.guest_subnets.values():
        yield from _taken(cidr.split("/")[0] for cidr in cidrs)
    yield from _taken(link_local(mac) for mac in context.bridge_macs)


def served(ports: Iterable[str]) -> Iterator[Element]:
    """What keeps ports of bridges that serve from serving."""
    yield from (Element(name, (port,)) for port in ports for name in ("served_ports", "ruled_ports"))


def isolating(context: Context, bridge: str | None = None) -> Iterator[Element]:
    """What keeps isolated guests apart where the host forwards: of one bridge, or of all."""
    for name, mac in context.isolated.items():
        if bridge in (None, name):
            yield Element("isolated_links", (name, name, mac))


def _taken(addresses: Iterable[str]) -> Iterator[Element]:
    """What no guest may take that has the choice: of link-local addresses, and of those of advertised prefixes."""
    for address in addresses:
        if ":" in address:
            yield Element("taken_addrs6", (address,))
            yield Element("taken_targets6", (address,))


def _in_arp(tagged: Iterable[Tagged]) -> Iterator[Tagged]:
    """With those of what a guest behind a routed TAP may say in ARP."""
    for element, tag in tagged:
        yield element, tag
        of, end = element.set[:3], element.set[3:]
        if of == "tap" and end in IN_ARP:
            yield replace(element, set=f"arp{end}"), tag


def _checked(item: Guest, context: Context) -> Iterator[Tagged]:
    """What a guest may send, whose frames are checked."""
    of = "tap" if item.bridge is None else "guest"
    near = context.guest_subnets.get(item.bridge or item.link, ())
    routes = context.guest_routes.get(item.link, ()) if item.bridge is None else ()
    own = [cidr.split("/")[0] for cidr in item.addresses or ()]
    yield Element(f"{of}_links", (item.link,)), _CHECKED
    yield Element(f"{of}_macs", (item.link, item.mac)), _CHECKED
    yield Element("routed_taps" if of == "tap" else "ruled_ports", (item.link,)), _CHECKED
    for digit in sorted({"4", "6"} - {digit_of(each) for each in (*own, *near, *routes)}):
        yield Element(f"{of}_unchecked{digit}", (item.link,)), _CHECKED
    for address in (*own, link_local(item.mac)):
        yield from ((element, _CHECKED) for element in _from(of, item, address))
    # With `egress` every address that it has is known: an update has to end the connections of each.
    for prefix in context.advertised.get(item.bridge or "", ()) if item.egress is None else ():
        for name in ("slaac_nets6", "slaac_targets6"):
            yield Element(name, (item.link, prefix.split("/")[0])), _CHECKED
    yield from _more(of, item, routes)


def _more(of: str, item: Guest, routes: Sequence[str]) -> Iterator[Tagged]:
    """The elements of `allowedAddresses`, and of the networks that are routed to the guest. No two overlap."""
    for digit in "46":
        allowed: list[Any] = [ipaddress.ip_network(cidr) for cidr in item.allowed if digit_of(cidr) == digit]
        for part in collapsed([*allowed, *(cidr for cidr in routes if digit_of(cidr) == digit)]):
            tags = [("allowed", str(each)) for each in allowed if each.subnet_of(part) or part.subnet_of(each)]
            for element in _from(of, item, str(part)):
                yield from ((element, tag) for tag in tags or [_CHECKED])


def _from(of: str, item: Guest, source: str) -> Iterator[Element]:
    """What lets a guest send with a source, which is an address or a network, and of IPv6 have it as a neighbour."""
    single, digit = ipaddress.ip_network(source).num_addresses == 1, digit_of(source)
    value = source.partition("/")[0] if single else source
    yield Element(f"{of}_{'addrs' if single else 'nets'}{digit}", (item.link, value))
    if single and of == "guest" and item.unlimited:
        yield Element(f"guest_senders{digit}", (item.link, item.mac, value))
    if digit == "6":
        yield Element(f"{of}_targets6" if single else f"{of}_target_nets6", (item.link, value))
