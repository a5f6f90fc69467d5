"""The state of each object for a read: what is declared, with the differences in it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Callable

from hostnet.agent.nft.gateway_elements import fixed_source
from hostnet.agent.observe.differences import Difference, as_there
from hostnet.agent.observe.drift import drift
from hostnet.agent.observe.links import observed_glob, observed_link
from hostnet.agent.observe.observation import Observation
from hostnet.agent.observe.undeclared import undeclared_forwards
from hostnet.agent.record.owners import Owner
from hostnet.wire.family import digit_of
from hostnet.wire.objects import (
    ETHERNET_MTU,
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
    Route,
    state_of,
)
from hostnet.wire.subnets import gateway_for

_SETTINGS = frozenset(
    {"name", "kind", "stp", "vlan_filtering", "user", "group", "multi_queue", "vnet_hdr", "host_access"}
    | {"download", "upload"}
)


@dataclass(frozen=True)
class _Facts:
    """What the states of an owner's objects are made from."""

    owner: Owner
    observation: Observation
    found: Mapping[str, list[Difference]]  # by the object's key: of ten thousand forwards, each asks for its own

    def of(self, item: Object) -> Sequence[Difference]:
        """What differs in an object."""
        return self.found.get(item.key, ()) if self.found else ()

    def has(self, item: Object, field: str) -> bool:
        """Whether a field of an object differs; "": whether it is not there at all."""
        return any(each.field == field for each in self.of(item))


def states(owner: Owner, observation: Observation) -> tuple[ObjectState | None, ...]:
    """The state of each of the owner's objects; None for one that is not there, or has no state of its own."""
    found: dict[str, list[Difference]] = {}
    for each in drift(owner, observation):
        found.setdefault(each.object, []).append(each)
    facts = _Facts(owner, observation, found)
    return tuple(_state(item, facts) for item in owner.objects)


def promised(owner: Owner, observation: Observation) -> tuple[ObjectState | None, ...]:
    """The same of an owner that waits for what another resource has: as it will be."""
    facts = _Facts(owner, observation, {})
    return tuple(
        _promised_link(item, facts) if isinstance(item, Link) else _state(item, facts) for item in owner.objects
    )


def _promised_link(item: Link, facts: _Facts) -> LinkState:
    """A link as it will be. One that another resource leaves has its index already; else it has none (0)."""
    observed = observed_link(item.name, facts.observation)
    there = observed.kernel if observed else None
    return LinkState(
        **{name: value for name, value in vars(item).items() if name in _SETTINGS},
        ifindex=there.index if there else 0,
        mac=item.mac or (there.mac if there else ""),
        mtu=item.mtu or (there.mtu if there else ETHERNET_MTU),
        addresses=tuple(each.cidr for each in facts.owner.of(Address) if each.link == item.name),
        routes=tuple(each.cidr for each in facts.owner.of(Route) if each.link == item.name),
        bridge=next((port.bridge for port in facts.owner.of(Port) if port.link == item.name), None),
        isolated=any(port.isolated for port in facts.owner.of(Port) if port.link == item.name),
        ports=observed.ports if observed else (),
    )


def extra(owner: Owner, observation: Observation) -> list[tuple[Forward, ForwardState]]:
    """The forwards on this owner's gateway that no resource declares, with their states."""
    return [
        (forward, ForwardState(**{**vars(forward), "external": gateway.external}))
        for gateway in owner.of(Gateway)
        for forward in undeclared_forwards(gateway, observation)
    ]


def _state(item: Object, facts: _Facts) -> ObjectState | None:
    make = _STATES.get(type(item))
    return make(item, facts) if make is not None and not facts.has(item, "") else None


def _link(item: Link, facts: _Facts) -> LinkState | None:
    observed = observed_link(item.name, facts.observation)
    if observed is None:
        return None
    declared = [address.cidr for address in facts.owner.of(Address)]
    port = next((port for port in facts.owner.of(Port) if port.link == item.name), None)
    there = as_there(item, facts.of(item))
    return LinkState(
        name=item.name,
        kind=item.kind,
        ifindex=observed.kernel.index,
        mac=observed.kernel.mac,
        mtu=observed.kernel.mtu,
        stp=observed.kernel.stp,
        vlan_filtering=observed.kernel.vlan_filtering,
        user=there["user"],
        group=there["group"],
        multi_queue=observed.kernel.multi_queue,
        vnet_hdr=item.vnet_hdr,  # every program that opens a TAP sets it (TUNSETIFF): what is there says nothing
        addresses=_declared_first(observed.addresses, declared),
        routes=observed.routes,
        bridge=observed.bridge,
        isolated=observed.kernel.isolated if port is None else _isolated(port, facts),
        ports=observed.ports,
        download=there["download"],
        upload=there["upload"],
        dropped=facts.has(item, "open_firewall"),
        advertised=facts.has(item, "advertised"),
        host_access=there["host_access"],
        port_mtu=next((each.there for each in facts.of(item) if each.field == "port_mtu"), None),
    )


def _declared_first(there: tuple[str, ...], declared: Iterable[str]) -> tuple[str, ...]:
    """In declared order, then the others: the order in which the kernel lists them has no meaning."""
    return tuple(dict.fromkeys((*(cidr for cidr in declared if cidr in there), *there)))


def _isolated(item: Port | Glob, facts: _Facts) -> bool:
    """As declared, or its negation where the ports are not as declaration and bridge together say.

    Only a property of the resource itself that differs makes Pulumi update it, also where the bridge's
    `portIsolation` is what its port lacks.
    """
    return item.isolated != facts.has(item, "isolated")


def _glob(item: Glob, facts: _Facts) -> GlobState:
    observed = observed_glob(item, facts.owner.key, facts.observation)
    return GlobState(observed.members, _isolated(item, facts), observed.left_alone)


def _guest(item: Guest, facts: _Facts) -> GuestState:
    if item.bridge is None:
        own = [address.cidr for address in facts.owner.of(Address)]
    else:
        own = list(facts.observation.world.cidrs(item.bridge))
    addresses = item.addresses or ()
    there = as_there(item, facts.of(item))
    return GuestState(
        mac=item.mac,
        addresses=addresses,
        hostname=item.hostname,
        gateway=gateway_for(addresses, own, 4),
        gateway6=gateway_for(addresses, own, 6),
        astray=tuple(each.item for each in facts.of(item) if each.field == "addresses"),
        lacking=facts.has(item, "derived"),
        anti_spoofing=there["anti_spoofing"],
        allowed=there["allowed"],
        proxy=there["proxy"],
        egress=there["egress"],
    )


def _gateway(item: Gateway, facts: _Facts) -> GatewayState:
    there = {**as_there(item, facts.of(item)), "external": item.external}
    addresses = _external_addresses(item, facts.observation)
    return GatewayState(**there, external_addresses=addresses, moved=facts.has(item, "moved"))


def _external_addresses(item: Gateway, observation: Observation) -> tuple[str, ...]:
    """By family and external interface the fixed address where it is set, else the interface's global ones; bare."""
    found: list[str] = []
    for digit in "46":
        for external in item.uplinks:
            fixed = fixed_source(item, external, digit, observation.context)
            there = (cidr for cidr in observation.world.snapshot.addresses.get(external, ()) if digit_of(cidr) == digit)
            found += [fixed] if fixed is not None else [cidr.split("/")[0] for cidr in there]
    return tuple(dict.fromkeys(found))


def _forward(item: Forward, facts: _Facts) -> ForwardState:
    gateway = facts.observation.context.gateways[item.gateway] if item.gateway else None
    external = gateway.external if gateway else item.external
    there = as_there(item, facts.of(item)) if facts.found else {}
    return state_of(item, {**there, "external": external})


def _forwarding(item: Forwarding, facts: _Facts) -> ForwardingState:
    return ForwardingState(enabled=not facts.has(item, "enabled"))


def _dhcp(item: DhcpServer, facts: _Facts) -> DhcpState:
    there = facts.observation.dhcp(item)
    return replace(there, reached=not facts.has(item, "reached"), guarded=not facts.has(item, "guarded"))


_STATES: Mapping[type[Any], Callable[..., ObjectState | None]] = {
    Link: _link,
    Glob: _glob,
    Guest: _guest,
    Gateway: _gateway,
    Forward: _forward,
    Forwarding: _forwarding,
    DhcpServer: _dhcp,
}
