"""The objects between `hostnet.resources` and `hostnet.agent`: what a host should have, and what it has.

A resource becomes a list of *objects* (`Link`, `Address`, `Gateway`, `Forward`, …). For each the agent answers with its
state in the kernel (`LinkState`, …), or with nothing where it is absent. Both are sent as JSON, one dict an object.

Every string is canonical before it gets here: addresses as `ipaddress` prints them, MAC addresses in lower case with
colons, interface names checked. The agent checks again what it writes into nftables or a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from operator import attrgetter
from typing import Any, ClassVar, Literal, Union

from hostnet.wire.digest import sha256
from hostnet.wire.family import Family
from hostnet.wire.shapes import (
    Cidr,
    Count,
    Domain,
    Identifier,
    Ip,
    Mac,
    Name,
    PortNumber,
    ShapeError,
    Span,
    filled,
    reader,
)

LinkKind = Literal["bridge", "tap"]
HostAccess = Literal["all", "services"]
Ports = tuple[PortNumber, PortNumber]
Pair = tuple[Ip, Ip]
Json = dict[str, Any]

# Stands for "the interface of the default route" in an id that is known only after the agent resolved it.
EXTERNAL_PLACEHOLDER = "{external}"


def ports_text(ports: Sequence[int]) -> str:
    """A port or a range as ids and outputs have it: `8080`, `8000:8002`."""
    first, last = ports
    return f"{first}" if first == last else f"{first}:{last}"


ETHERNET_MTU = 1500  # ETH_DATA_LEN: what the kernel gives a new bridge or TAP
TAP_MTU_MAX = 65521  # the kernel's tun driver: 65535 less an Ethernet header


@dataclass(frozen=True)
class Link:
    """A bridge or a persistent TAP that hostnet creates and deletes."""

    type: ClassVar[str] = "link"
    name: Name
    kind: LinkKind
    mac: Mac | None = None  # None: the kernel's choice, never drift
    mtu: Count | None = None  # None: the kernel's choice, never drift
    stp: bool = False
    vlan_filtering: bool = False
    port_isolation: bool = False  # every port that hostnet attaches to this bridge is isolated
    user: str | None = None  # TAP: user name or number that may open it
    group: str | None = None
    multi_queue: bool = False
    vnet_hdr: bool = True
    adopt: bool = False  # take over an existing link of this name and kind
    open_firewall: bool = True  # a bridge: frames between its own ports pass where br_netfilter meets a dropping chain
    download: Count | None = None  # TAP: bit/s that its guest receives at most
    upload: Count | None = None  # TAP: bit/s that its guest sends at most
    host_access: HostAccess = "all"  # a bridge: what its guests reach of the host itself

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
    link: Name
    cidr: Cidr  # "10.0.0.1/24": host bits kept

    @property
    def key(self) -> str:
        """Identity on a host."""
        return f"address {self.link} {self.cidr}"


@dataclass(frozen=True)
class Route:
    """A route through a link of hostnet's (a routed TAP)."""

    type: ClassVar[str] = "route"
    link: Name
    cidr: Cidr  # "10.0.0.5/32"

    @property
    def key(self) -> str:
        """Identity on a host."""
        return f"route {self.link} {self.cidr}"


@dataclass(frozen=True)
class Port:
    """The attachment of a link to a bridge."""

    type: ClassVar[str] = "port"
    link: Name
    bridge: Name
    isolated: bool = False

    @property
    def key(self) -> str:
        """Identity on a host: a link has one bridge."""
        return f"port {self.link}"


@dataclass(frozen=True)
class Glob:
    """Interfaces to attach by name, now and when they appear."""

    type: ClassVar[str] = "glob"
    bridge: Name
    pattern: Name
    isolated: bool = False

    @property
    def key(self) -> str:
        """Identity on a host."""
        return f"glob {self.bridge}/{self.pattern}"


@dataclass(frozen=True)
class EgressRule:
    """What guests may reach: a network, or the addresses that DNS has answered for a name and those below it."""

    cidr: Cidr | None = None
    protocol: Literal["tcp", "udp", "sctp", "icmp", "any"] = "any"
    ports: Ports | None = None  # inclusive; None: all
    domain: Domain | None = None  # in place of `cidr`

    def __str__(self) -> str:
        """As a person reads it: `10.0.0.0/8 tcp 443`."""
        ports = "" if self.ports is None else f" {ports_text(self.ports)}"
        return f"{self.cidr or self.domain} {self.protocol}{ports}"


@dataclass(frozen=True)
class Guest:
    """A guest's MAC and addresses behind a TAP. `addresses` None: the agent takes the lowest free of each subnet."""

    type: ClassVar[str] = "guest"
    link: Name  # its TAP
    bridge: Name | None  # None: routed TAP
    mac: Mac
    addresses: tuple[Cidr, ...] | None = None  # bare or CIDR, as given
    hostname: str | None = None
    hint: tuple[Cidr, ...] = ()  # CIDRs that an earlier run allocated; kept while still free and in a subnet
    derived: bool = False  # the agent allocated `addresses`: one of each subnet of the bridge
    anti_spoofing: bool = True  # what comes by its TAP has its own MAC and addresses
    allowed: tuple[Cidr, ...] = ()  # networks whose addresses it may have besides
    proxy: Name | None = None  # the interface on which the host answers ARP and neighbour solicitations for it
    egress: tuple[EgressRule, ...] | None = None  # what it may reach; None: what its gateway allows
    unlimited: bool = False  # its TAP has no `upload`, for which each of its frames is counted

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
    name: Identifier  # the NatGateway's id
    external: Name | None = None  # None: the default route's interface, resolved at every apply
    internal: tuple[Name, ...] = ()  # interface names
    internal4: tuple[Cidr, ...] = ()  # CIDRs
    internal6: tuple[Cidr, ...] = ()
    nat6: bool = False
    route6: bool = False
    snat4: Ip | None = None  # None: masquerade
    snat6: Ip | None = None
    dmz4: Ip | None = None
    dmz6: Ip | None = None
    dmz_except: tuple[PortNumber, ...] = (22,)
    mss_clamp: bool = False
    internal_forwarding: bool = False
    firewall: bool = True
    resolved: bool = False  # `external` was not declared: the agent filled in the default routes' interfaces
    more: tuple[Name, ...] = ()  # further external interfaces; `external` is the first
    route4: bool = False  # `internal4` is routed both ways, and not translated
    one_to_one: tuple[Pair, ...] = ()  # each an external and an internal address
    egress: tuple[EgressRule, ...] | None = None  # what its networks may reach; None: everything
    reply: bool = True  # replies leave by the uplink that the request came in by, where that has a default route

    @property
    def key(self) -> str:
        """Identity on a host."""
        return f"gateway {self.name}"

    @property
    def uplinks(self) -> tuple[str, ...]:
        """All external interfaces; () while none is resolved."""
        return (self.external, *self.more) if self.external else ()


@dataclass(frozen=True)
class Forward:
    """A port forward of one family. Its external interface is the gateway's, or `external`, or the default route's."""

    type: ClassVar[str] = "forward"
    family: Family
    protocols: tuple[str, ...]  # of tcp, udp, sctp
    ports: Ports  # inclusive
    address: Ip
    to_ports: Ports  # as long as `ports`, or one port
    gateway: Identifier | None = None  # a Gateway's name
    external: Name | None = None
    listen: tuple[Span, ...] = ()  # (): every address of the external side; "0.0.0.0"/"::": every address
    sources: tuple[Span, ...] = ()  # CIDRs; (): anyone
    loopback: bool = True
    resolved: bool = False  # `external` was not declared: the agent filled in the default route's interface
    source_nat: bool = False  # the target sees an address of this host

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

    mac: Mac
    address: Ip
    hostname: str | None = None


@dataclass(frozen=True)
class DhcpServer:
    """DHCP, DNS and router advertisements on a bridge (dnsmasq)."""

    type: ClassVar[str] = "dhcp"
    bridge: Name
    dhcp: bool = False  # False: router advertisements only
    range_start: Ip | None = None
    range_end: Ip | None = None
    lease_time: str = "1h"
    dns_servers: tuple[Ip, ...] | None = None  # None: the gateway answers
    domain: str | None = None
    static_leases: tuple[StaticLease, ...] = ()
    send_ra: bool = False
    ra_prefixes: tuple[Cidr, ...] = ()
    open_firewall: bool = True

    @property
    def key(self) -> str:
        """Identity on a host."""
        return f"dhcp {self.bridge}"


Object = Union[Link, Address, Route, Port, Glob, Guest, Forwarding, Gateway, Forward, DhcpServer]

_RECORDS = frozenset({"static_leases", "egress"})  # fields whose items are objects themselves
_TYPES: dict[str, type[Object]] = {
    cls.type: cls for cls in (Link, Address, Route, Port, Glob, Guest, Forwarding, Gateway, Forward, DhcpServer)
}


@dataclass(frozen=True)
class LinkState:
    """A link as the kernel has it."""

    name: Name
    kind: str
    ifindex: Count
    mac: Mac
    mtu: Count
    stp: bool = False
    vlan_filtering: bool = False
    user: str | None = None  # as the declaration spells it where it means the same; else the number
    group: str | None = None
    multi_queue: bool = False
    vnet_hdr: bool = True
    addresses: tuple[Cidr, ...] = ()  # CIDRs, declared ones first in declared order, link-local ones left out
    routes: tuple[Cidr, ...] = ()  # those through it that no address implies
    bridge: Name | None = None
    isolated: bool = False
    ports: tuple[Name, ...] = ()  # of a bridge
    dropped: bool = False  # in spite of `open_firewall`, another firewall drops its traffic
    advertised: bool = (
        False  # it accepts router advertisements, and with them any address and route that a guest announces
    )

    download: Count | None = None
    upload: Count | None = None
    port_mtu: Count | None = None  # of a bridge: the MTU of a port that should have the bridge's, and has not
    host_access: HostAccess = "all"  # of a bridge: as declared while our table says so

    @property
    def open_to(self) -> tuple[str, ...]:
        """Its addresses; `::/0` stands for all those that a guest could announce."""
        return (*self.addresses, "::/0") if self.advertised else self.addresses


@dataclass(frozen=True)
class GlobState:
    """What a glob has attached now."""

    members: tuple[Name, ...] = ()
    isolated: bool = False  # as declared while every member is so
    left_alone: tuple[Name, ...] = ()  # matching interfaces in another program's bridge


@dataclass(frozen=True)
class GuestState:
    """A guest's addresses as allocated, and its gateways."""

    mac: Mac
    addresses: tuple[Cidr, ...]  # CIDRs
    hostname: str | None = None
    gateway: Ip | None = None
    gateway6: Ip | None = None
    astray: tuple[Cidr, ...] = ()  # those of its addresses that are in no subnet of its bridge
    lacking: bool = False  # it has no address of some subnet of its bridge, and should have
    anti_spoofing: bool = True  # as declared while our table has all that it needs
    allowed: tuple[Cidr, ...] = ()  # as our table has them
    proxy: Name | None = None  # as declared while the host answers for all of its addresses
    egress: tuple[EgressRule, ...] | None = None  # as our table has it


@dataclass(frozen=True)
class GatewayState(Gateway):
    """A gateway as the kernel has it: as declared, without what is incomplete.

    A boolean is true while the kernel has every element that it needs, and every accept rule in other firewalls.
    """

    external_addresses: tuple[Ip, ...] = ()  # bare, global; the fixed ones where set
    moved: bool = False  # `resolved`, and the default routes go through other interfaces now


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
    address: Ip
    hostname: str
    expires: Count  # unix seconds; 0: never


@dataclass(frozen=True)
class DhcpState:
    """A DHCP server's state: `running` with the declared configuration, or not."""

    running: bool
    leases: tuple[Lease, ...] = ()
    reached: bool = True  # the guests' DHCP and DNS requests reach it, whatever ports are forwarded
    guarded: bool = True  # no port of the bridge can answer in its place


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


# What is not sent, since it is the default. MISSING, where there is none, equals nothing.
_DEFAULTS: dict[type[Object], Json] = {
    cls: {each.name: each.default for each in fields(cls)} for cls in _TYPES.values()
}


def to_json(value: Object) -> Json:
    """An object as it is sent: its type and its fields, without those that have the default."""
    out: Json = {"type": value.type}
    defaults = _DEFAULTS[type(value)]
    for name, item in vars(value).items():
        if item != defaults[name]:
            out[name] = [asdict(x) for x in item] if name in _RECORDS else item
    return out


def from_json(data: Json) -> Object:
    """The object that `to_json` wrote, also after it was JSON text.

    Raises:
        ShapeError: This version does not know the type, or a field is missing, unknown, or of another form.
    """
    kind = data.get("type") if isinstance(data, dict) else None
    cls = _TYPES.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise ShapeError(f" has the unknown object type {kind!r:.60}")
    values = dict(data)
    del values["type"]
    made: Object = reader(cls)(values)
    return made


def unlike(item: Forward, state: ForwardState) -> Json:
    """The fields of a forward's state that are not as declared."""
    declared = vars(item)
    return {name: value for name, value in vars(state).items() if value != declared[name]}


_VALUES = attrgetter(*(each.name for each in fields(Forward)))


def digest_of(forwards: Sequence[Forward]) -> str:
    """A digest of forwards in their order: provider and agent see by it whether they have the same."""
    return sha256(repr(list(map(_VALUES, forwards))).encode()).hexdigest()


def state_of(item: Object, fields: Json) -> ForwardState:
    """The state of a forward: as declared, but for some fields."""
    # Without the class's `__init__`: a frozen one takes ten times as long, and there are thousands.
    state = object.__new__(ForwardState)
    vars(state).update(vars(item), **fields)
    return state


def new_forward(fields: Json) -> Forward:
    """A forward, as `Forward(**fields)`."""
    made: Forward = filled(Forward, _DEFAULTS[Forward], fields)
    return made


def states_unlike(items: Sequence[Object], fields: Json) -> list[ForwardState]:
    """The states of forwards that are as declared but for the same fields.

    Args:
        items: The forwards.
        fields: What `unlike` gave for each.

    Raises:
        ShapeError: One is no forward, or a field is unknown, or of another form.
    """
    if not all(isinstance(item, Forward) for item in items):
        raise ShapeError(" is about what is no forward")
    first: ForwardState = reader(ForwardState)({**vars(items[0]), **fields})
    checked = {name: getattr(first, name) for name in fields}
    return [state_of(item, checked) for item in items]


def state_to_json(value: ObjectState | None) -> Json | None:
    """A state as it is sent."""
    if isinstance(value, DhcpState) or (isinstance(value, (GatewayState, GuestState)) and value.egress):
        return asdict(value)
    return None if value is None else vars(value)  # `asdict` copies each value, and takes ten times as long


def state_from_json(object_type: str, data: Json | None) -> ObjectState | None:
    """The state that `state_to_json` wrote.

    An Address, a Route and a Port have none of their own: they are in the state of their link.

    Args:
        object_type: The type of the object that it is the state of.
        data: What was sent.

    Raises:
        ShapeError: A field is missing, unknown, or of another form.
    """
    cls = _STATES.get(object_type)
    if data is None or cls is None:
        return None
    made: ObjectState = reader(cls)(data)
    return made
