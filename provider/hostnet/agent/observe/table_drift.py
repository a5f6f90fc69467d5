"""What differs in gateways and port forwards: from the elements that our table lacks, or has too many. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from functools import cache
from typing import Any

from hostnet.agent.dhcp.config import answers_dns
from hostnet.agent.dhcp.domains import rules_by_name
from hostnet.agent.nft.forward_elements import Cell, counted, forward_cells, forward_devices, source_translated
from hostnet.agent.nft.ruleset import MADE, SETS, Element, Place, Tag
from hostnet.agent.observe.differences import Difference, is_not, is_off, lost
from hostnet.agent.observe.observation import Observation
from hostnet.agent.observe.undeclared import undeclared_forwards
from hostnet.agent.plan.resolve import default_uplinks
from hostnet.wire.family import digit_of
from hostnet.wire.objects import DhcpServer, Forward, Gateway, Guest, Ports, ports_text

# --- gateways ------------------------------------------------------------------------------------------------------

# The property of a gateway that a map's value is.
_PROPERTIES = {
    f"{name}{n}": f"{of}{n}"
    for n in "46"
    for name, of in (("snat_pairs", "snat"), ("snat_nets", "snat"), ("dmz_hosts", "dmz"), ("dmz_addrs", "dmz"))
}
_WORDS = {
    "external": "{external} is not its external interface",
    "internal": "{item} is not wholly behind the gateway",
    "internal4": "{item} is not wholly behind the gateway",
    "internal6": "{item} is not wholly behind the gateway",
    "nat6": "IPv6 is not translated",
    "route4": "IPv4 is not routed",
    "route6": "IPv6 is not routed",
    "mss_clamp": "the MSS is not clamped",
    "internal_forwarding": "its networks do not all reach each other",
    "one_to_one": "the addresses {item} do not stand for each other",
    "egress": "{item} is not allowed, or not all else is refused",
    "dmz4": "nothing goes to the DMZ host {dmz4}",
    "dmz6": "nothing goes to the DMZ host {dmz6}",
    "dmz_except": "port {item} goes to the DMZ host",
    "firewall": "another firewall drops its traffic",
}
_VALUES = {
    "snat4": "the source address",
    "snat6": "the IPv6 source address",
    "dmz4": "the DMZ host",
    "dmz6": "the IPv6 DMZ host",
}
# Undeclared elements that show as an internal interface, as a port forward or in a guest; and counters, which open
# nothing.
_FORWARDS = (
    *("masquerade_pairs", "snat_pairs", "forward_counters", "range_counters"),
    *("dnat_port", "dnat_range", "dnat_source", "dnat_limited", "dnat_addr", "dnat_addr_source", "dnat_addr_range"),
    *("inner_port", "inner_ports", "inner_range", "inner_addr_port", "inner_addr_ports", "inner_addr_range"),
)
UPLOADS = ("upload_links", "upload_ports")  # an undeclared one shows as the TAP's
_SHOWN = frozenset(
    {
        "internal_links",
        "outer_links",  # it opens nothing
        *(f"{name}{n}" for name in _FORWARDS for n in "46"),
        *(name for name, spec in SETS.items() if spec.of == "guest"),
        *MADE,  # what leads to a chain of a list shows
    }
)


def gateway_drift(item: Gateway, observation: Observation) -> Iterator[Difference]:
    """What differs in a gateway."""
    missing, changed = _missing_and_changed(item, observation)
    for field, value in missing:
        words = _WORDS.get(field, "{field} is not in effect").format(**{**vars(item), "field": field, "item": value})
        if value:
            yield lost(item, field, value, words)
        elif isinstance(getattr(item, field), bool):
            yield is_off(item, field, words)
        else:
            yield Difference(item.key, field, words, declared=getattr(item, field))
    for field, there in changed.items():
        if (field, "") not in missing:
            yield is_not(item, field, _VALUES.get(field, field), there, getattr(item, field, None))
    moved = list(_moved(item, observation))
    yield from moved
    faults = [(link, why) for link, why in observation.replies().items() if link in item.uplinks] if item.reply else []
    if faults and not moved:  # the update that takes the new uplinks in does that, too
        link, why = faults[0]
        yield is_off(item, "reply", f"replies to what comes in on {link} may leave by another uplink: {why}")
    yield from _undeclared(item, observation)


def _moved(item: Gateway, observation: Observation) -> Iterator[Difference]:
    """The default routes of a gateway that resolves its external interfaces itself go through others now.

    While there is none, because a line is down, it keeps those that it has.
    """
    now = default_uplinks(item, observation.world.snapshot)
    if item.resolved and now and set(now) != set(item.uplinks):
        text = f"the default routes go through {', '.join(now)}, and the gateway leads out by {', '.join(item.uplinks)}"
        yield Difference(item.key, "moved", text, there=True, declared=False)


def _missing_and_changed(item: Gateway, observation: Observation) -> tuple[list[Tag], dict[str, str]]:
    """The fields for which something is missing (with the item, of a list), and those with another value."""
    missing: list[Tag] = []
    changed: dict[str, str] = {}
    for element, tag in observation.compiled(item):
        there = observation.at(element)
        if there is None or (there != element.value and tag[0] in ("one_to_one", "egress")):
            missing.append(tag)
        elif there != element.value:
            changed[_PROPERTIES.get(element.set, element.set)] = there[0]
    missing += _missing_of_shared(item, observation)
    if ("external", "") in missing:
        missing += _networks(item)
    if item.key in observation.dropped:
        missing.append(("firewall", ""))
    return list(dict.fromkeys(missing)), changed


def _networks(item: Gateway) -> Iterator[Tag]:
    return ((field, x) for field in ("internal", "internal4", "internal6") for x in getattr(item, field))


def _missing_of_shared(item: Gateway, observation: Observation) -> Iterator[Tag]:
    """The fields for which something is missing, or is too much, that belongs to no single owner."""
    # What is undeclared and opens or translates anything concerns every network behind a gateway.
    if any(_opens(place, observation) for place in observation.undeclared):
        yield from _networks(item)
    yield from (("internal", name) for name in item.internal if _link_lacks(name, observation))
    if observation.lacks(x for x in observation.shared("outer_links") if x.key[0] in item.uplinks):
        yield "external", ""
    if observation.lacks(x for x in observation.shared("inner_links") if x.key[0] in observation.context.bridges):
        yield from _networks(item)
    for n in "46":
        yield from ((f"internal{n}", x) for x in getattr(item, f"internal{n}") if _net_lacks(n, x, observation))
    sets = [*(name for name in SETS if name.startswith("egress_net")), *MADE]
    if item.egress is not None and any(observation.at(each) != each.value for each in observation.shared(*sets)):
        yield "egress", ""
    if item.one_to_one and not observation.reflects():
        yield from (("one_to_one", str(pair)) for pair in item.one_to_one)
    if item.internal_forwarding and any(observation.lacks(_between(item, n, observation)) for n in "46"):
        yield "internal_forwarding", ""


def _opens(place: Place, observation: Observation) -> bool:
    """Whether an element that nothing asks for opens or translates anything.

    That of a bridge that was deleted after the last change of the tables does not: no packet comes from there.
    """
    name, key = place
    absent = name == "inner_links" and key[0] not in observation.world.snapshot.links
    return name not in _SHOWN and not absent


def _link_lacks(name: str, observation: Observation) -> bool:
    """Whether something that all share is missing for an internal interface."""
    cidrs = observation.context.addresses.get(name, ())
    own = {cidr.split("/")[0] for cidr in cidrs}
    names = ("our_links", "inner_links", "outer_links", "hairpin_pairs", "hairpin_sources4", "hairpin_sources6")
    about = [x for x in observation.shared(*names) if name in x.key]
    about += [x for x in observation.shared("bridge_addrs4", "bridge_addrs6") if x.key[0] in own]
    return observation.lacks(about) or any(_net_lacks(digit_of(cidr), cidr, observation) for cidr in cidrs)


def _net_lacks(digit: str, cidr: str, observation: Observation) -> bool:
    """Whether the kernel does not hold a network among those behind gateways."""
    network: Any = ipaddress.ip_interface(cidr).network
    ours = observation.shared(f"internal_nets{digit}", f"closed_nets{digit}")
    return observation.lacks(x for x in ours if network.subnet_of(ipaddress.ip_network(x.key[0])))


def _between(item: Gateway, digit: str, observation: Observation) -> Iterator[Element]:
    """What lets the gateway's networks of a family reach each other."""
    networks: list[Any] = [ipaddress.ip_network(cidr) for cidr in getattr(item, f"internal{digit}")]

    @cache
    def mine(kind: str, part: str) -> bool:
        if kind == "ifname":
            return part in item.internal
        other = ipaddress.ip_network(part)
        return any(network.overlaps(other) for network in networks)

    for element in observation.shared(*(name + digit for name in ("net_to_net", "net_to_link", "link_to_net"))):
        if all(map(mine, SETS[element.set].key, element.key)):
            yield element


def _undeclared(item: Gateway, observation: Observation) -> Iterator[Difference]:
    """Interfaces and forwards that another program put into our table."""
    for name, key in observation.undeclared:
        link = key[0]
        translated = name in ("masquerade_pairs4", "snat_pairs4") and key[1] in item.uplinks
        if (name == "internal_links" or translated) and link not in item.internal:
            text = f"{link} is behind the gateway, and no resource declares that"
            yield Difference(item.key, "internal", text, there=link, item=link)
    for forward in undeclared_forwards(item, observation):
        text = f"{_forward_words(forward)} goes to {forward.address}, and no resource declares that"
        yield Difference(forward.key, "", text, there=forward)


Cells = list[tuple[Cell, bool]]  # a forward's, and whether the kernel has all elements of each

# --- forwards ------------------------------------------------------------------------------------------------------


def forward_drift(item: Forward, observation: Observation) -> Iterator[Difference]:
    """What differs in a port forward."""
    try:
        forward_devices(item, observation.context)
    except KeyError:
        # Its elements went with its gateway.
        yield Difference(item.key, "", f"{_forward_words(item)} goes nowhere: its gateway is not there", declared=item)
        return
    cells = [(cell, not observation.lacks(cell.elements)) for cell in forward_cells(item, observation.context)]
    protocols = [protocol for protocol in item.protocols if _comes_in(protocol, cells)]
    near = [(cell, there) for cell, there in cells if cell.protocol in protocols]
    outside = [there for cell, there in near if not cell.loopback]
    if not protocols or (outside and not any(outside)):
        yield Difference(item.key, "", f"{_forward_words(item)} is not forwarded", declared=item)
        return
    for protocol in item.protocols:
        if protocol not in protocols:
            yield lost(item, "protocols", protocol, f"{protocol} is not forwarded")
    yield from _side_drift(item, near)
    yield from _target_drift(item, cells, observation)
    whole = all(there for cell, there in near if cell.loopback)
    yield from _loopback_drift(item, observation, whole=whole)
    if observation.lacks(source_translated(item, observation.context)):
        yield is_off(item, "source_nat", "the target sees the clients' addresses")


def _comes_in(protocol: str, cells: Cells) -> bool:
    """Whether anything of a protocol does: from outside, or, where nothing is to come from there, from within."""
    mine = [(cell, there) for cell, there in cells if cell.protocol == protocol]
    outside = [there for cell, there in mine if not cell.loopback]
    return any(outside) if outside else any(there for _, there in mine)


def _side_drift(item: Forward, near: Cells) -> Iterator[Difference]:
    """Listen addresses and sources for which something is missing."""
    listen = [x for x in item.listen if all(there for cell, there in near if cell.listen == x)]
    if not listen:  # each lacks some source: that is what is missing, then
        listen = [x for x in item.listen if any(there for cell, there in near if cell.listen == x)]
    # Beside its forwards an address that means all has what says so, which is no part of any source.
    wild = {cell.listen for cell, there in near if not there and not cell.loopback and _says_all(cell)}
    for address in item.listen:
        if address not in listen or address in wild:
            yield lost(item, "listen", address, f"what comes to {address} is not forwarded")
    kept = [(cell, there) for cell, there in near if not cell.loopback and (not listen or cell.listen in listen)]
    for source in item.sources:
        if not all(there for cell, there in kept if cell.source == source):
            yield lost(item, "sources", source, f"what comes from {source} is not forwarded")


def _says_all(cell: Cell) -> bool:
    return any(element.set.startswith("dnat_wildcard") for element in cell.elements)


def _target_drift(item: Forward, cells: Cells, observation: Observation) -> Iterator[Difference]:
    """The first other destination that the kernel has."""
    for cell, _ in cells:
        for element in cell.elements:
            there = observation.at(element)
            if there is None or there == element.value:
                continue
            ports = item.to_ports
            if len(there) > 1:
                offset = int(there[1]) - int(element.value[1]) if len(element.value) > 1 else 0
                ports = (item.to_ports[0] + offset, item.to_ports[1] + offset)
            text = f"the forward leads to {_target(there[0], ports)}, not to {_target(item.address, item.to_ports)}"
            if there[0] != item.address:
                yield Difference(item.key, "address", text, there[0], item.address)
            if ports != item.to_ports:
                yield Difference(item.key, "to_ports", text, ports, item.to_ports)
            return


def _loopback_drift(item: Forward, observation: Observation, *, whole: bool) -> Iterator[Difference]:
    if not whole:
        text = "the forward is not reachable from the host and its networks"
        yield Difference(item.key, "loopback", text, there=False, declared=item.loopback)
    elif item.loopback and observation.loopback_fault():
        text = f"the forward may not be reachable from the host and its networks: {observation.loopback_fault()}"
        yield is_off(item, "loopback", text)
    if observation.lacks(counted(item, observation.context.forwards)):
        # A counter has no property of its own: a read shows it as `loopback`, so that an update puts it back.
        text = "its packets are not counted"
        yield Difference(item.key, "loopback", text, there=False, declared=item.loopback)


def _forward_words(item: Forward) -> str:
    listen = f" at {', '.join(item.listen)}" if item.listen else ""
    return f"{'+'.join(item.protocols)} port {ports_text(item.ports)}{listen}"


def _target(address: str, ports: Ports) -> str:
    return f"[{address}]:{ports_text(ports)}" if ":" in address else f"{address}:{ports_text(ports)}"


# --- guests --------------------------------------------------------------------------------------------------------


def guest_filter_drift(item: Guest, observation: Observation) -> Iterator[Difference]:
    """What a guest may send that it should not, or may not send that it should."""
    missing = {tag for element, tag in observation.compiled(item) if observation.at(element) != element.value}
    yield from _guest_egress_drift(item, observation, [value for field, value in missing if field == "egress"])
    missing = {tag for tag in missing if tag[0] != "egress"}
    taken = observation.shared("taken_addrs6", "taken_targets6") if item.bridge is not None else []
    extra = [key[1] for name, key in observation.undeclared if name in _ADDRESSES and key[0] == item.link]
    others = any(name in _FILTERS and key[0] == item.link for name, key in observation.undeclared)
    if not item.anti_spoofing:
        if others or extra or missing:
            yield is_not(item, "anti_spoofing", "anti-spoofing", there=True, declared=False)
        return
    if ("anti_spoofing", "") in missing or others or observation.lacks(taken):
        yield is_off(item, "anti_spoofing", f"what the guest of {item.link} sends is not checked as declared")
        return
    for _, cidr in sorted(missing):
        yield lost(item, "allowed", cidr, f"the guest may not send with {cidr}")
    for value in dict.fromkeys(extra):
        cidr = value if "/" in value else f"{value}/{128 if ':' in value else 32}"
        text = f"the guest may send with {cidr}, and no resource declares that"
        yield Difference(item.key, "allowed", text, there=cidr, item=cidr)


def _guest_egress_drift(item: Guest, observation: Observation, missing: list[str]) -> Iterator[Difference]:
    """What a guest may reach that it should not, or may not reach that it should.

    Args:
        item: The guest.
        observation: What the host has.
        missing: The rules for which something is missing; "" for none or all of them.
    """
    guest = (item.bridge or item.link, item.mac)
    others = any(name.startswith("egress_guest") and key[:2] == guest for name, key in observation.undeclared)
    if item.egress is not None:
        others = others or observation.lacks(x for x in observation.shared("hairpin_pairs") if x.key[0] == guest[0])
    if "" in missing or others:
        text = f"what the guest of {item.link} reaches is not as declared"
        there = () if item.egress is None else None
        yield Difference(item.key, "egress", text, there=there, declared=item.egress)
        return
    yield from (lost(item, "egress", rule, f"the guest does not reach {rule}") for rule in sorted(missing))
    servers = (server for server in observation.world.owners.every(DhcpServer) if server.bridge == item.bridge)
    if not any(map(answers_dns, servers)):
        why = f"{item.bridge} has no DNS of its own"
        yield from (lost(item, "egress", str(x), f"the guest does not reach {x}: {why}") for x in rules_by_name(item))


# The sets whose elements are a guest's addresses, and all others that begin with its TAP.
_ADDRESSES = frozenset(
    f"{of}_{name}" for of in ("guest", "tap", "arp") for name in ("addrs4", "addrs6", "nets4", "nets6")
)
_FILTERS = frozenset(
    name
    for name, spec in SETS.items()
    if name.startswith(("guest_", "tap_", "arp_", "slaac_")) and name not in _ADDRESSES
)
