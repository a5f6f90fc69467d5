"""What the kernel has of an owner's objects, from one snapshot and one listing of the table. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property
from typing import Any

from hostnet.agent.nft.elements import (
    Cell,
    Context,
    Tag,
    compile_common,
    compile_object,
    counted,
    forward_cells,
    forward_devices,
)
from hostnet.agent.nft.ruleset import SETS, Element
from hostnet.agent.plan.links import Names, glob_members
from hostnet.agent.plan.resolve import World
from hostnet.agent.record.owners import Owner
from hostnet.wire.objects import (
    Address,
    DhcpServer,
    DhcpState,
    Forward,
    Forwarding,
    ForwardingState,
    ForwardState,
    Gateway,
    GatewayState,
    Glob,
    GlobState,
    Guest,
    GuestState,
    Link,
    LinkState,
    Object,
    ObjectState,
    Port,
)

Elements = Mapping[tuple[str, tuple[str, ...]], tuple[str, ...]]


@dataclass(frozen=True)
class Observation:
    """Everything that a view is made from.

    :param elements: of our table; empty where the table is gone or its rules are not ours any more.
    :param forwarding: by family, whether every sysctl that forwarding needs has its value.
    :param strange: elements of our table that no resource asked for.
    :param within: whether everything that all forwards share for `loopback` is as it should be.
    :param dhcp: whether a bridge's server runs as declared, and its leases.
    :param held: the keys of owners that the record has: an import is judged by what was done for it, and not before.
    :param dropped: the keys of objects whose traffic somebody else's firewall drops for want of our rules.
    """

    world: World
    context: Context
    elements: Elements = field(default_factory=dict)
    attached: Mapping[str, str] = field(default_factory=dict)
    names: Names = field(default_factory=Names)
    forwarding: Callable[[str], bool] = lambda _: False
    strange: Elements = field(default_factory=dict)
    within: bool = True
    held: Container[str] = ()
    dropped: frozenset[str] = frozenset()
    dhcp: Callable[[DhcpServer], DhcpState] = lambda _: DhcpState(running=False)

    @cached_property
    def _common(self) -> Mapping[str, list[Element]]:
        found: dict[str, list[Element]] = {}
        for element, _ in compile_common(self.context):
            found.setdefault(element.set, []).append(element)
        return found

    def shared(self, *sets: str) -> list[Element]:
        """What our table should have in these sets, of what belongs to no single owner."""
        return [element for name in sets for element in self._common.get(name, ())]

    def lacks(self, elements: Iterable[Element]) -> bool:
        """Whether the kernel has not all of these."""
        return any(element_place(element) not in self.elements for element in elements)


def see(owner: Owner, observation: Observation) -> tuple[ObjectState | None, ...]:
    """What there is of each of the owner's objects."""
    return tuple(_see(item, owner, observation) for item in owner.objects)


def _see(item: Object, owner: Owner, observation: Observation) -> ObjectState | None:
    if isinstance(item, Link):
        return _see_link(item, owner, observation)
    if isinstance(item, Glob):
        return _see_glob(item, owner, observation)
    if isinstance(item, Guest):
        return _see_guest(item, owner, observation)
    if isinstance(item, Gateway):
        return _see_gateway(item, observation)
    if isinstance(item, Forward):
        return _see_forward(item, observation)
    return _see_service(item, observation)


def _see_service(item: Object, observation: Observation) -> ObjectState | None:
    if isinstance(item, DhcpServer):
        return replace(observation.dhcp(item), reached=_reached(item, observation))
    return ForwardingState(observation.forwarding(item.family)) if isinstance(item, Forwarding) else None


def _reached(item: DhcpServer, observation: Observation) -> bool:
    """Whether its guests' DHCP and DNS go to it, and not where a forward leads; without our table no forward does."""
    return not observation.elements or not observation.lacks(
        each for each, _ in compile_object(item, observation.context)
    )


def _see_link(item: Link, owner: Owner, observation: Observation) -> LinkState | None:
    snapshot = observation.world.snapshot
    state = snapshot.links.get(item.name)
    if state is None or state.our_kind != item.kind:
        return None
    declared = [x.cidr for x in owner.objects if isinstance(x, Address)]
    seen = snapshot.addresses.get(item.name, ())
    ordered = (*(cidr for cidr in declared if cidr in seen), *(cidr for cidr in seen if cidr not in declared))
    isolated = state.isolated
    port = next((x for x in owner.objects if isinstance(x, Port) and x.link == item.name), None)
    if port is not None:
        # As declared while it is what declaration and bridge together ask for.
        bridge = observation.world.link(port.bridge)
        wanted = port.isolated or (bridge is not None and bridge.port_isolation)
        isolated = port.isolated if state.isolated == wanted else not port.isolated
    return LinkState(
        name=item.name,
        kind=item.kind,
        ifindex=state.index,
        mac=state.mac,
        mtu=state.mtu,
        stp=state.stp,
        vlan_filtering=state.vlan_filtering,
        user=_user(item.user, state.uid, observation.names.users, default=0 if item.group is None else None),
        group=_user(item.group, state.gid, observation.names.groups),
        multi_queue=state.multi_queue,
        vnet_hdr=item.vnet_hdr,  # every program that opens a TAP sets this anew: what is seen says nothing
        addresses=ordered,
        routes=snapshot.routes.get(item.name, ()),
        bridge=snapshot.master_of(item.name),
        isolated=isolated,
        ports=snapshot.ports_of(item.name) if item.kind == "bridge" else (),
        dropped=bool(observation.dropped & {item.key, f"dhcp {item.name}"}),
        advertised=snapshot.takes_routers(item.name) and owner.key in observation.held,
    )


def _user(declared: str | None, number: int | None, known: Mapping[str, int], default: int | None = None) -> str | None:
    """As declared where it means the same, else the number."""
    wanted = known.get(declared) if declared is not None else default
    return declared if number == wanted else None if number is None else str(number)


def _see_glob(item: Glob, owner: Owner, observation: Observation) -> GlobState:
    snapshot = observation.world.snapshot
    matching, left = glob_members(item, snapshot)
    members = [name for name in matching if snapshot.master_of(name) == item.bridge]
    ours = [name for name in members if observation.attached.get(name) == owner.key]
    bridge = observation.world.link(item.bridge)
    wanted = item.isolated or (bridge is not None and bridge.port_isolation)
    as_wanted = all(snapshot.links[name].isolated == wanted for name in ours)
    isolated = item.isolated if as_wanted else not item.isolated
    return GlobState(tuple(members), isolated, tuple(left))


def _see_guest(item: Guest, owner: Owner, observation: Observation) -> GuestState:
    bridge = item.bridge
    if bridge is None:
        own = [x.cidr for x in owner.objects if isinstance(x, Address)]
    else:
        own = list(observation.world.cidrs(bridge))
    interfaces = [ipaddress.ip_interface(cidr) for cidr in own]
    return GuestState(
        mac=item.mac,
        addresses=item.addresses or (),
        hostname=item.hostname,
        gateway=next((str(each.ip) for each in interfaces if each.version == 4), None),
        gateway6=next((str(each.ip) for each in interfaces if each.version == 6), None),
    )


# The property of a gateway that a map's value is.
_PROPERTIES = {
    f"{name}{n}": f"{of}{n}"
    for n in "46"
    for name, of in (("snat_pairs", "snat"), ("snat_nets", "snat"), ("dmz_hosts", "dmz"))
}


def _see_gateway(item: Gateway, observation: Observation) -> GatewayState:
    missing: set[Tag] = set()
    changed: dict[str, str] = {}
    for element, (name, value) in compile_object(item, observation.context):
        there = observation.elements.get(element_place(element))
        if there is None:
            missing.add((name, value))
        elif there != element.value:
            changed[_PROPERTIES.get(element.set, element.set)] = there[0]

    # Something strange among what opens or translates concerns every network behind a gateway.
    strange = any(name not in _SHOWN for name, _ in observation.strange)
    missing |= {("internal", name) for name in item.internal if strange or _shaken(name, observation)}
    for n in "46":
        missing |= {(f"internal{n}", x) for x in getattr(item, f"internal{n}") if strange or _lost(n, x, observation)}
    if item.internal_forwarding and any(observation.lacks(_between(item, n, observation)) for n in "46"):
        missing.add(("internal_forwarding", ""))

    if ("external", "") in missing:
        missing |= {(name, x) for name in ("internal", "internal4", "internal6") for x in getattr(item, name)}
    if item.key in observation.dropped:
        missing.add(("firewall", ""))
    state = GatewayState(**_there(item, missing, changed), external_addresses=external_addresses(item, observation))
    return replace(state, external=item.external, internal=(*state.internal, *_strange_internal(item, observation)))


def _there(item: Gateway, missing: Container[Tag], changed: Mapping[str, str]) -> dict[str, Any]:
    """A gateway's fields as declared, but for what is missing or has another value.

    Args:
        item: The gateway.
        missing: Fields, and items of fields that are lists, for which the kernel lacks something.
        changed: What the kernel has in place of a field's value.
    """
    found: dict[str, Any] = {}
    for each in fields(item):
        declared = getattr(item, each.name)
        if isinstance(declared, tuple):
            found[each.name] = tuple(x for x in declared if (each.name, str(x)) not in missing)
        elif (each.name, "") in missing:
            found[each.name] = False if isinstance(declared, bool) else None
        else:
            found[each.name] = changed.get(each.name, declared)
    return found


def _shaken(name: str, observation: Observation) -> bool:
    """Whether something that all share is missing for an internal interface."""
    cidrs = observation.context.addresses.get(name, ())
    own = {cidr.split("/")[0] for cidr in cidrs}
    about = [
        x
        for x in observation.shared("our_links", "hairpin_pairs", "hairpin_sources4", "hairpin_sources6")
        if x.key[0] == name
    ]
    about += [x for x in observation.shared("bridge_addrs4", "bridge_addrs6") if x.key[0] in own]
    return observation.lacks(about) or any(_lost("6" if ":" in cidr else "4", cidr, observation) for cidr in cidrs)


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


# Strange elements that show as an internal interface or as a port forward; and counters, which open nothing.
_FORWARDS = (
    *("masquerade_pairs", "snat_pairs", "forward_counters"),
    *("dnat_port", "dnat_range", "dnat_source", "dnat_addr", "dnat_addr_range"),
)
_SHOWN = frozenset({"internal_links", *(f"{name}{n}" for name in _FORWARDS for n in "46")})


def _lost(digit: str, cidr: str, observation: Observation) -> bool:
    """Whether the kernel does not hold a network among ours."""
    network: Any = ipaddress.ip_interface(cidr).network
    ours = observation.shared(f"internal_nets{digit}", f"closed_nets{digit}")
    return observation.lacks(x for x in ours if network.subnet_of(ipaddress.ip_network(x.key[0])))


def _strange_internal(item: Gateway, observation: Observation) -> tuple[str, ...]:
    """Interfaces that somebody else put behind this gateway."""
    return tuple(
        key[0]
        for name, key in observation.strange
        if (name == "internal_links" or (name in ("masquerade_pairs4", "snat_pairs4") and key[1] == item.external))
        and key[0] not in item.internal
    )


def element_place(element: Element) -> tuple[str, tuple[str, ...]]:
    """Where an element is, as a listing is keyed."""
    return element.set, element.key


def external_addresses(item: Gateway, observation: Observation) -> tuple[str, ...]:
    """The fixed addresses where set, else the external interface's global ones; bare."""
    found = []
    seen = [cidr.split("/")[0] for cidr in observation.world.snapshot.addresses.get(item.external or "", ())]
    for fixed, version in ((item.snat4, 4), (item.snat6, 6)):
        if fixed is not None:
            found.append(fixed)
        else:
            found += [address for address in seen if ipaddress.ip_address(address).version == version]
    return tuple(found)


def _see_forward(item: Forward, observation: Observation) -> ForwardState | None:
    try:
        external, _ = forward_devices(item, observation.context)
    except KeyError:
        return None  # its gateway is gone, and its elements with it
    cells = [
        (cell, [observation.elements.get(element_place(element)) for element in cell.elements])
        for cell in forward_cells(item, observation.context)
    ]
    there = [(cell, None not in values) for cell, values in cells]
    protocols = tuple(protocol for protocol in item.protocols if _takes(protocol, there))
    if not protocols:
        return None
    outside = [(cell, ok) for cell, ok in there if not cell.loopback and cell.protocol in protocols]
    if outside and not any(ok for _, ok in outside):
        return None
    inside = [ok for cell, ok in there if cell.loopback and cell.protocol in protocols]
    near = [(cell, ok) for cell, ok in there if cell.protocol in protocols]
    listen = tuple(x for x in item.listen if all(ok for cell, ok in near if cell.listen == x))
    if not listen:  # each lacks some source: that is what is missing, then
        listen = tuple(x for x in item.listen if any(ok for cell, ok in near if cell.listen == x))
    kept = [(cell, ok) for cell, ok in outside if not listen or cell.listen in listen]
    sources = tuple(x for x in item.sources if all(ok for cell, ok in kept if cell.source == x))
    address, to_ports = _target(item, cells)
    within = (
        all(inside)
        and observation.within
        and all(element_place(each) in observation.elements for each in counted(item))
    )
    declared: dict[str, Any] = {**vars(item), "loopback": item.loopback and within}
    found = {"protocols": protocols, "address": address, "to_ports": to_ports, "listen": listen, "sources": sources}
    return ForwardState(**{**declared, **found, "external": external})


def _takes(protocol: str, there: list[tuple[Cell, bool]]) -> bool:
    """Whether anything of a protocol comes in: from outside, or, where nothing is to come from there, from within."""
    mine = [(cell, ok) for cell, ok in there if cell.protocol == protocol]
    outside = [ok for cell, ok in mine if not cell.loopback]
    return any(outside) if outside else any(ok for _, ok in mine)


def _target(item: Forward, cells: list[tuple[Cell, list[tuple[str, ...] | None]]]) -> tuple[str, tuple[int, int]]:
    """The destination: as declared, or the first that the kernel has otherwise."""
    for cell, values in cells:
        for element, value in zip(cell.elements, values):
            if value is not None and value != element.value:
                ports = item.to_ports
                if len(value) > 1:
                    offset = int(value[1]) - int(element.value[1]) if len(element.value) > 1 else 0
                    ports = (item.to_ports[0] + offset, item.to_ports[1] + offset)
                return value[0], ports
    return item.address, item.to_ports
