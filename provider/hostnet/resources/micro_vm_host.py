"""MicroVmHost: a component of a Bridge, a TapBinding and a NatGateway; what each gets of the component's inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hostnet.resources.bridge import BRIDGE
from hostnet.resources.nat_gateway import NAT_GATEWAY
from hostnet.resources.port_forward import FORWARD_PORTS
from hostnet.resources.schema.connection import CONNECTION
from hostnet.resources.schema.model import Declared, ListOf, Record, output, prop
from hostnet.resources.schema.types import OUT_TEXT, Bool, HostCidr, InterfaceName
from hostnet.resources.schema.values import Value
from hostnet.resources.tap_binding import TAP_BINDING

_ADDRESSES = ("10.0.0.1/24", "fd12:3456:789a::1/64")
_MATCH = "vm-*"


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
        "creates later.",
        default_doc=_MATCH,
    )
    port_isolation: bool = prop(
        Bool(),
        "Isolates the guests of the bridge from each other. They still reach the host, and other networks through it.",
        default=False,
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
    "NAME-taps, and a `NatGateway` NAME-nat with the forwards. If you need other options of these, use the resources "
    "themselves."
)
MICRO_VM_HOST: Final = Component(
    "hostnet:index:MicroVmHost", _DOC, Record(MicroVmHostInputs), Record(MicroVmHostOutputs)
)
# In this order: the others need the bridge.
CHILDREN: Final = (
    Child(
        BRIDGE.token,
        "",
        {
            "addresses": From("addresses", list(_ADDRESSES)),
            "dhcpServer": From("dhcpServer", {}),
            "ipv6SendRa": True,
            "portIsolation": From("portIsolation"),
            "connection": From("connection"),
        },
    ),
    Child(
        TAP_BINDING.token,
        "-taps",
        {"match": From("match", _MATCH), "bridge": From("bridge.name"), "connection": From("connection")},
    ),
    Child(
        NAT_GATEWAY.token,
        "-nat",
        {
            "internalInterfaces": From("bridge.name", listed=True),
            "enableIpv6": True,
            "externalInterface": From("externalInterface"),
            "forwardPorts": From("forwards"),
            "connection": From("connection"),
        },
    ),
)
