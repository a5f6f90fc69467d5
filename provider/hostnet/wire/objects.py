"""The objects between `hostnet.resources` and `hostnet.agent`: what a host should have, and what it has.

A resource becomes a list of *objects* (`Link`, `Address`, `Gateway`, `Forward`, …). For each the agent answers with its
state in the kernel (`LinkState`, …), or with nothing where it is absent. Both are sent as JSON, one dict an object.

Every string is canonical before it gets here: addresses as `ipaddress` prints them, MAC addresses in lower case with
colons, interface names checked. The agent checks again what it writes into nftables or a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, Union

from hostnet.wire.family import Family

LinkKind = Literal["bridge", "tap"]
Ports = tuple[int, int]
Json = dict[str, Any]

# Stands for "the interface of the default route" in an id that is known only after the agent resolved it.
EXTERNAL_PLACEHOLDER = "{external}"


def ports_text(ports: Sequence[int]) -> str:
    """A port or a range as ids and outputs have it: `8080`, `8000:8002`."""
    first, last = ports
    return f"{first}" if first == last else f"{first}:{last}"


@dataclass(frozen=True)
class Link:
    """A bridge or a persistent TAP that hostnet creates and deletes."""

    type: ClassVar[str] = "link"
    name: str
    kind: LinkKind
    mac: str | None = None  # None: the kernel's choice, never drift
    mtu: int | None = None  # None: the kernel's choice, never drift
    stp: bool = False
    vlan_filtering: bool = False
    port_isolation: bool = False  # every port that hostnet attaches to this bridge is isolated
    user: str | None = None  # TAP: user name or number that may open it
    group: str | None = None
    multi_queue: bool = False
    vnet_hdr: bool = True
    adopt: bool = False  # take over an existing link of this name and kind
    open_firewall: bool = True  # a bridge: frames between its own ports pass where br_netfilter meets a dropping chain

    @property
    def key(self) -> str:
        """Identity on a host."""
        return f"link {self.name}"

    @property
    def noun(self) -> str:
        """For messages: "bridge", "TAP"."""
        return "bridge" if self.kind == "bridge" else "TAP"


@dataclass(frozen=True)
class Address:
    """An address with prefix length on a link of hostnet's. Another address on such a link is drift."""

    type: ClassVar[str] = "address"
    link: str
    cidr: str  # "10.0.0.1/24": host bits kept

    @property
    def key(self) -> str:
        """Identity on a host."""
        return f"address {self.link} {self.cidr}"


@dataclass(frozen=True)
class Route:
    """A route through a link of hostnet's (a routed TAP)."""

    type: ClassVar[str] = "route"
    link: str
    cidr: str  # "10.0.0.5/32"

    @property
    def key(self) -> str:
        """Identity on a host."""
        return f"route {self.link} {self.cidr}"


@dataclass(frozen=True)
class Port:
    """The attachment of a link to a bridge."""

    type: ClassVar[str] = "port"
    link: str
    bridge: str
    isolated: bool = False

    @property
    def key(self) -> str:
        """Identity on a host: a link has one bridge."""
        return f"port {self.link}"


@dataclass(frozen=True)
class Glob:
    """Interfaces to attach by name, now and when they appear."""

    type: ClassVar[str] = "glob"
    bridge: str
    pattern: str
    isolated: bool = False

    @property
    def key(self) -> str:
        """Identity on a host."""
        return f"glob {self.bridge}/{self.pattern}"


@dataclass(frozen=True)
class Guest:
    """A guest's MAC and addresses behind a TAP. `addresses` None: the agent takes the lowest free of each subnet."""

    type: ClassVar[str] = "guest"
    link: str  # its TAP
    bridge: str | None  # None: routed TAP
    mac: str
    addresses: tuple[str, ...] | None = None  # bare or CIDR, as given
    hostname: str | None = None
    hint: tuple[str, ...] = ()  # CIDRs that an earlier run allocated; kept while still free and in a subnet

    @property
    def key(self) -> str:
        """Identity on a host."""
        return f"guest {self.link}"


@dataclass(frozen=True)
class Forwarding:
    """The forwarding sysctl of a family. The agent keeps the old value and restores it with the last owner."""

    type: ClassVar[str] = "forwarding"
    family: Family

    @property
    def key(self) -> str:
        """Shared: every owner that needs it names the same key."""
        return f"forwarding {self.family}"


@dataclass(frozen=True)
class Gateway:
    """NAT for internal networks through an external interface.

    A new field gets its state (`GatewayState`) without more code, if the elements that it needs are tagged with its
    name (`agent/nft/elements.py`).
    """

    type: ClassVar[str] = "gateway"
    name: str  # the NatGateway's id
    external: str | None = None  # None: the default route's interface, resolved at every apply
    internal: tuple[str, ...] = ()  # interface names
    internal4: tuple[str, ...] = ()  # CIDRs
    internal6: tuple[str, ...] = ()
    nat6: bool = False
    route6: bool = False
    snat4: str | None = None  # None: masquerade
    snat6: str | None = None
    dmz4: str | None = None
    dmz6: str | None = None
    dmz_except: tuple[int, ...] = (22,)
    mss_clamp: bool = False
    internal_forwarding: bool = False
    firewall: bool = True
    resolved: bool = False  # `external` was not declared: the agent filled in the default route's interface

    @property
    def key(self) -> str:
        """Identity on a host."""
        return f"gateway {self.name}"


@dataclass(frozen=True)
class Forward:
    """A port forward of one family. Its external interface is the gateway's, or `external`, or the default route's."""

    type: ClassVar[str] = "forward"
    family: Family
    protocols: tuple[str, ...]  # of tcp, udp, sctp
    ports: Ports  # inclusive
    address: str
    to_ports: Ports  # as long as `ports`, or one port
    gateway: str | None = None  # a Gateway's name
    external: str | None = None
    listen: tuple[str, ...] = ()  # (): every address of the external side; "0.0.0.0"/"::": every address
    sources: tuple[str, ...] = ()  # CIDRs; (): anyone
    loopback: bool = True
    resolved: bool = False  # `external` was not declared: the agent filled in the default route's interface

    @property
    def key(self) -> str:
        """Identity on a host (one owner may hold many: a gateway's inline list)."""
        where = self.gateway or self.external or "default"
        listen = ",".join(self.listen)
        return f"forward {where} {self.family} {'+'.join(self.protocols)} {self.ports[0]}-{self.ports[1]} {listen}"

    def id_on(self, external: str) -> str:
        """The id of its resource, or for one of a gateway's inline list, the id that it would have as a resource."""
        listen = f"@{','.join(self.listen)}" if self.listen else ""
        return f"{external}/{self.family}/{'+'.join(self.protocols)}/{ports_text(self.ports)}{listen}"


@dataclass(frozen=True)
class StaticLease:
    """A DHCP lease that is always the same."""

    mac: str
    address: str
    hostname: str | None = None


@dataclass(frozen=True)
class DhcpServer:
    """DHCP, DNS and router advertisements on a bridge (dnsmasq)."""

    type: ClassVar[str] = "dhcp"
    bridge: str
    dhcp: bool = False  # False: router advertisements only
    range_start: str | None = None
    range_end: str | None = None
    lease_time: str = "1h"
    dns_servers: tuple[str, ...] | None = None  # None: the gateway answers
    domain: str | None = None
    static_leases: tuple[StaticLease, ...] = ()
    send_ra: bool = False
    ra_prefixes: tuple[str, ...] = ()
    open_firewall: bool = True

    @property
    def key(self) -> str:
        """Identity on a host."""
        return f"dhcp {self.bridge}"


Object = Union[Link, Address, Route, Port, Glob, Guest, Forwarding, Gateway, Forward, DhcpServer]

_TYPES: dict[str, type[Object]] = {
    cls.type: cls for cls in (Link, Address, Route, Port, Glob, Guest, Forwarding, Gateway, Forward, DhcpServer)
}


@dataclass(frozen=True)
class LinkState:
    """A link as the kernel has it."""

    name: str
    kind: str
    ifindex: int
    mac: str
    mtu: int
    stp: bool = False
    vlan_filtering: bool = False
    user: str | None = None  # as the declaration spells it where it means the same; else the number
    group: str | None = None
    multi_queue: bool = False
    vnet_hdr: bool = True
    addresses: tuple[str, ...] = ()  # CIDRs, declared ones first in declared order, link-local ones left out
    routes: tuple[str, ...] = ()  # those through it that no address implies
    bridge: str | None = None
    isolated: bool = False
    ports: tuple[str, ...] = ()  # of a bridge
    dropped: bool = False  # in spite of `open_firewall`, another firewall drops its traffic
    advertised: bool = (
        False  # it accepts router advertisements, and with them any address and route that a guest announces
    )

    port_mtu: int | None = None  # of a bridge: the MTU of a port that should have the bridge's, and has not

    @property
    def open_to(self) -> tuple[str, ...]:
        """Its addresses; `::/0` stands for all those that a guest could announce."""
        return (*self.addresses, "::/0") if self.advertised else self.addresses


@dataclass(frozen=True)
class GlobState:
    """What a glob has attached now."""

    members: tuple[str, ...] = ()
    isolated: bool = False  # as declared while every member is so
    left_alone: tuple[str, ...] = ()  # matching interfaces in another program's bridge


@dataclass(frozen=True)
class GuestState:
    """A guest's addresses as allocated, and its gateways."""

    mac: str
    addresses: tuple[str, ...]  # CIDRs
    hostname: str | None = None
    gateway: str | None = None
    gateway6: str | None = None


@dataclass(frozen=True)
class GatewayState(Gateway):
    """A gateway as the kernel has it: as declared, without what is incomplete.

    A boolean is true while the kernel has every element that it needs, and every accept rule in other firewalls.
    """

    external_addresses: tuple[str, ...] = ()  # bare, global; the fixed ones where set


@dataclass(frozen=True)
class ForwardState(Forward):
    """A forward as the kernel has it: as declared, without what is incomplete."""


@dataclass(frozen=True)
class ForwardingState:
    """The forwarding sysctl of a family."""

    enabled: bool


@dataclass(frozen=True)
class Lease:
    """A DHCP lease in use."""

    mac: str
    address: str
    hostname: str
    expires: int  # unix seconds; 0: never


@dataclass(frozen=True)
class DhcpState:
    """A DHCP server's state: `running` with the declared configuration, or not."""

    running: bool
    leases: tuple[Lease, ...] = ()
    reached: bool = True  # the guests' DHCP and DNS requests reach it, whatever ports are forwarded


ObjectState = Union[LinkState, GlobState, GuestState, GatewayState, ForwardState, ForwardingState, DhcpState]

_STATES: dict[str, type[ObjectState]] = {
    "link": LinkState,
    "glob": GlobState,
    "guest": GuestState,
    "gateway": GatewayState,
    "forward": ForwardState,
    "forwarding": ForwardingState,
    "dhcp": DhcpState,
}


def to_json(value: Object) -> Json:
    """An object as it is sent: its type and its fields, without those that have the default."""
    out: Json = {"type": value.type}
    for field in fields(value):
        item = getattr(value, field.name)
        if item != field.default:
            out[field.name] = [asdict(x) for x in item] if field.name == "static_leases" else item
    return out


def from_json(data: Json) -> Object:
    """The object that `to_json` wrote, also after it was JSON text.

    Raises:
        ValueError: This version does not know the type, or a field.
    """
    cls = _TYPES.get(data.get("type", ""))
    if cls is None:
        msg = f"unknown object type {data.get('type')!r}"
        raise ValueError(msg)
    values = {name: _tuple(item) for name, item in data.items() if name != "type"}
    if "static_leases" in values:
        values["static_leases"] = tuple(StaticLease(**lease) for lease in values["static_leases"])
    try:
        return cls(**values)
    except TypeError as error:
        msg = f"{data['type']}: {error}"
        raise ValueError(msg) from None


def state_to_json(value: ObjectState | None) -> Json | None:
    """A state as it is sent."""
    return None if value is None else asdict(value)


def state_from_json(object_type: str, data: Json | None) -> ObjectState | None:
    """The state that `state_to_json` wrote.

    An Address, a Route and a Port have none of their own: they are in the state of their link.

    Args:
        object_type: The type of the object that it is the state of.
        data: What was sent.
    """
    cls = _STATES.get(object_type)
    if data is None or cls is None:
        return None
    values = {name: _tuple(item) for name, item in data.items()}
    if "leases" in values:
        values["leases"] = tuple(Lease(**lease) for lease in values["leases"])
    return cls(**values)


def _tuple(value: Any) -> Any:
    """JSON has no tuples."""
    return tuple(_tuple(x) for x in value) if isinstance(value, list) else value
