"""MicroVmHost: a component of a Bridge, a TapBinding and a NatGateway; what each gets of the component's inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hostnet.resources.bridge import BRIDGE
from hostnet.resources.egress import EGRESS, named_rules
from hostnet.resources.nat_gateway import NAT_GATEWAY
from hostnet.resources.port_forward import FORWARD_PORTS
from hostnet.resources.schema.connection import CONNECTION
from hostnet.resources.schema.model import Declared, ListOf, Record, Report, join, known_items, output, prop
from hostnet.resources.schema.types import OUT_TEXT, Bool, HostCidr, InterfaceName
from hostnet.resources.schema.values import UNKNOWN, Value
from hostnet.resources.tap_binding import BANDWIDTH, GUEST_NETWORK, TAP_BINDING

_ADDRESSES = ("10.0.0.1/24", "fd12:3456:789a::1/64")
_MATCH = "vm-*"
_RATE = "100mbit"  # of an untrusted guest, each way


class MicroVmHostInputs(Declared):
    """What a program declares of a microVM host's network."""

    addresses: tuple[str, ...] = prop(
        ListOf(HostCidr(), ordered=True),
        "The host's addresses on the bridge with prefix lengths. The first address of each family is the guests' "
        "gateway. DHCP requires an IPv4 address, router advertisements an IPv6 address with a /64.",
        default_doc="10.0.0.1/24 and fd12:3456:789a::1/64",
    )
    dhcp_server: Value = prop(
        BRIDGE.inputs.properties["dhcpServer"].type,
        "The bridge's DHCP server.",
        default_doc="leases of 1h for all unused addresses of the subnet, and the bridge's own DNS server",
    )
    match: str | None = prop(
        TAP_BINDING.inputs.properties["match"].type,
        "A glob. Interfaces whose names match are attached to the bridge, those that exist and those that a VMM "
        "creates later. Not together with `untrusted`: what these interfaces send is not checked.",
        default_doc=f"{_MATCH}; none where there are `guests`",
    )
    guests: tuple[str, ...] = prop(
        ListOf(InterfaceName(ours=True), ordered=True),
        "Guests by the names of their TAPs. Each has a `TapBinding`, so its addresses are known, and what it sends is "
        "checked. The number of guests must be known when the program runs.",
        default=(),
    )
    untrusted: bool = prop(
        Bool(),
        "Holds guests that nobody trusts. They send as themselves alone (`antiSpoofing` of their TapBindings), reach "
        "of the host only what the bridge serves (`hostAccess: services`), no port of a neighbour (`portIsolation`), "
        "and outside only what `egress` allows, at the rates of `bandwidth`. It requires `guests`, and must be known "
        "when the program runs.",
        default=False,
    )
    egress: tuple[Value, ...] | None = prop(
        EGRESS,
        "What the guests may reach beyond their bridge, as `egress` of a `NatGateway`.",
        default_doc="everything; with `untrusted` nothing",
    )
    bandwidth: Value = prop(
        BANDWIDTH,
        "What each of the `guests` receives and sends at most.",
        default_doc=f"no limits; with `untrusted` {_RATE} each way",
    )
    port_isolation: bool | None = prop(
        Bool(),
        "Isolates the guests of the bridge from each other. They still reach the host, and other networks through it.",
        default_doc="false; with `untrusted` true",
    )
    external_interface: str | None = prop(
        InterfaceName(),
        "The interface that leads to the outside.",
        default_doc="the one of the default route",
    )
    forwards: tuple[Value, ...] = prop(
        FORWARD_PORTS,
        "Ports of the host that lead to guests. A port in both IP families needs two forwards.",
        default=(),
    )
    connection: Value = prop(
        CONNECTION,
        "How the host is reached, for all children. A change of `host` or `netns` replaces them; the new ones are "
        "created first.",
        default_doc="the provider's `connection`, or this machine",
    )


class MicroVmHostOutputs(Declared):
    """What a program gets back."""

    bridge_name: str = output(OUT_TEXT, "The bridge's name.")
    nat_gateway_id: str = output(OUT_TEXT, "The NatGateway's id.")
    external_addresses: tuple[str, ...] = output(
        ListOf(OUT_TEXT), "The source addresses of the guests' traffic outside, without prefix lengths."
    )
    guests: Value = output(
        ListOf(GUEST_NETWORK), "The network settings of each of the `guests`, in their order.", always=False
    )


@dataclass(frozen=True)
class From:
    """A value of a child that comes from elsewhere.

    Args:
        source: A property of the component, or an output of the bridge (`bridge.name`).
        default: What it is where the component does not have it; None: absent.
        listed: Whether the child takes a list of it.
    """

    source: str
    default: Value = None
    listed: bool = False


@dataclass(frozen=True)
class Child:
    """A resource of the component.

    Args:
        token: Its type.
        suffix: Its name is that of the component, and this.
        inputs: Its properties: where each comes from, or what it is.
    """

    token: str
    suffix: str
    inputs: Mapping[str, From | Value]


@dataclass(frozen=True)
class Component:
    """A component, as a resource's declaration is read for schema.json and the docs.

    Args:
        token: Its type.
        doc: What it is; Markdown.
        inputs: What a program declares.
        results: What it gets back.
    """

    token: str
    doc: str
    inputs: Record[MicroVmHostInputs]
    results: Record[MicroVmHostOutputs]

    @property
    def name(self) -> str:
        """The last part of the token."""
        return self.token.rpartition(":")[2]


_DOC: Final = (
    "The network of a microVM host: a bridge, the VMs' TAPs, NAT for IPv4 and IPv6, and port forwards. It corresponds "
    "to the `systemd.network` and `networking.nat` that microvm.nix documents for NixOS. Its children are a `Bridge` "
    "with the component's name, which serves DHCP and DNS and sends IPv6 router advertisements, a `TapBinding` "
    "NAME-taps for what matches, a `TapBinding` NAME-tap-GUEST for each of the guests, and a `NatGateway` NAME-nat "
    "with the forwards. If you need other options of these, use the resources themselves."
)


def _rules(judged: dict[str, Value], path: str, report: Report) -> None:
    for name in ("untrusted", "guests"):
        if judged[name] is UNKNOWN:
            report.fail(join(path, name), "must be known when the program runs: it decides which children there are")
    for index, name in enumerate(judged["guests"] if isinstance(judged["guests"], list) else ()):
        if name is UNKNOWN:
            report.fail(f"{join(path, 'guests')}[{index}]", "must be known when the program runs")
    first_at: dict[Value, int] = {}
    for index, name in known_items(judged["guests"]):
        if first_at.setdefault(name, index) != index:
            report.fail(f"{join(path, 'guests')}[{index}]", f"must be unique: guests[{first_at[name]}] is {name} too")
    if judged["untrusted"] is True and judged["match"] is not None:
        report.fail(
            join(path, "match"),
            "must not be given together with untrusted: what it attaches is not checked; use guests",
        )
    for name in ("untrusted", "bandwidth"):
        if judged[name] not in (None, False) and judged["guests"] in (None, []):
            report.fail(join(path, name), "requires guests: it is about their TAPs")
    _name_rules(judged, path, report)


def _name_rules(judged: dict[str, Value], path: str, report: Report) -> None:
    """Rules by domain name need the DNS of the component's own bridge."""
    served = judged["dhcpServer"]
    if isinstance(served, dict) and served.get("dnsServers") is not None and served["dnsServers"] is not UNKNOWN:
        for number in named_rules(judged["egress"]):
            why = "requires a dhcpServer without dnsServers: the bridge's own DNS says which addresses it has"
            report.fail(f"{join(path, 'egress')}[{number}].domain", why)


MICRO_VM_HOST: Final = Component(
    "hostnet:index:MicroVmHost", _DOC, Record(MicroVmHostInputs, rules=_rules), Record(MicroVmHostOutputs)
)


def children(given: Mapping[str, Value]) -> tuple[Child, ...]:
    """The resources of a component, in this order: the others need the bridge.

    Args:
        given: The component's inputs.
    """
    untrusted, guests = given.get("untrusted") is True, given.get("guests") or []
    matched = given.get("match") is not None or not guests
    globs = {"match": From("match", _MATCH), "bridge": From("bridge.name"), "connection": From("connection")}
    return (
        Child(BRIDGE.token, "", _bridge(untrusted=untrusted)),
        *((Child(TAP_BINDING.token, "-taps", globs),) if matched else ()),
        *(Child(TAP_BINDING.token, f"-tap-{name}", _guest(name, untrusted=untrusted)) for name in guests),
        Child(NAT_GATEWAY.token, "-nat", _gateway(untrusted=untrusted)),
    )


def _bridge(*, untrusted: bool) -> dict[str, From | Value]:
    return {
        "addresses": From("addresses", list(_ADDRESSES)),
        "dhcpServer": From("dhcpServer", {}),
        "ipv6SendRa": True,
        "portIsolation": From("portIsolation", True if untrusted else None),
        **({"hostAccess": "services"} if untrusted else {}),
        "connection": From("connection"),
    }


def _guest(name: str, *, untrusted: bool) -> dict[str, From | Value]:
    return {
        "name": name,
        "bridge": From("bridge.name"),
        "guest": {},
        "bandwidth": From("bandwidth", {"download": _RATE, "upload": _RATE} if untrusted else None),
        "connection": From("connection"),
    }


def _gateway(*, untrusted: bool) -> dict[str, From | Value]:
    return {
        "internalInterfaces": From("bridge.name", listed=True),
        "enableIpv6": True,
        "externalInterface": From("externalInterface"),
        "egress": From("egress", [] if untrusted else None),
        "forwardPorts": From("forwards"),
        "connection": From("connection"),
    }
