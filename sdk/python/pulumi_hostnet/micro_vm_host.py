"""The network of a microVM host as one component.

This file is written by hand, in tools/gensdk/overlays/python. `make sdk` copies it into the SDK.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional, Union

import pulumi
from pulumi_hostnet import outputs
from pulumi_hostnet._inputs import (
    BandwidthArgs,
    BandwidthArgsDict,
    ConnectionArgs,
    ConnectionArgsDict,
    DhcpServerArgs,
    DhcpServerArgsDict,
    EgressRuleArgs,
    EgressRuleArgsDict,
    ForwardPortArgs,
    ForwardPortArgsDict,
    GuestArgs,
)
from pulumi_hostnet.bridge import Bridge
from pulumi_hostnet.nat_gateway import NatGateway
from pulumi_hostnet.tap_binding import TapBinding

__all__ = ["MicroVmHost"]

_ADDRESSES = ("10.0.0.1/24", "fd12:3456:789a::1/64")
_MATCH = "vm-*"
_RATE = "100mbit"  # of an untrusted guest, each way


class MicroVmHost(pulumi.ComponentResource):
    """The network of a microVM host: a bridge, the VMs' TAPs, NAT for IPv4 and IPv6, and port forwards.

    It corresponds to the `systemd.network` and `networking.nat` that microvm.nix documents for NixOS:

    ```python
    import pulumi_hostnet as hostnet

    hostnet.MicroVmHost(
        "microvm",
        forwards=[
            {"source_port": 80, "destination": "10.0.0.2"},
            {"source_port": 443, "destination": "10.0.0.3"},
        ],
    )
    ```

    Guests that nobody trusts:

    ```python
    host = hostnet.MicroVmHost("sandbox", untrusted=True, guests=["ci-1", "ci-2"])
    host.taps_of_guests["ci-1"].guest.mac_address
    ```

    Its children are a `Bridge` with the component's name, which serves DHCP and DNS and sends IPv6 router
    advertisements, a `TapBinding` NAME-taps for what matches, a `TapBinding` NAME-tap-GUEST for each of the guests, and
    a `NatGateway` NAME-nat with the forwards. If you need other options of these, use the resources themselves. Other
    resources refer to the outputs: a `PortForward` with
    `nat_gateway=host.nat_gateway_id`, a `TapBinding` with `bridge=host.bridge_name`.

    Args:
        resource_name: The component's name, and the bridge's. The names of the other children begin with it.
        opts: The component's options. Its children have the same provider.
        addresses: The host's addresses on the bridge with prefix lengths (CIDR). The first address of each family is
            the guests' gateway. DHCP requires an IPv4 address, router advertisements an IPv6 address with a /64.
            Default: 10.0.0.1/24 and fd12:3456:789a::1/64.
        connection: How the host is reached, for all children. Default: the provider's `connection`, or this machine.
            A change of `host` or `netns` replaces the children; the new ones are created first.
        dhcp_server: The bridge's DHCP server: `range_start` and `range_end` (IPv4 addresses), `lease_time`
            (`<n>s|m|h|d` or `infinite`), `dns_servers`, `domain`, and `static_leases` (`mac_address`, `address`,
            `hostname`), with which a guest always has the address that a forward leads to. Default: leases of 1h for
            all unused addresses of the subnet, and the bridge's own DNS server.
        external_interface: The interface that leads to the outside. Default: the one of the default route.
        forwards: Ports of the host that lead to guests: `source_port` (a number or "from:to"), `destination`
            ("10.0.0.2", "10.0.0.2:80", "[fd12:3456:789a::2]:443"; without a port: the source port), `protocol`
            (`tcp`, `udp`, `sctp`, `tcp+udp`; default: tcp), `listen_addresses`, `source_cidrs`, `loopback`. A port in
            both IP families needs two forwards. Default: none.
        match: A glob. Interfaces whose names match are attached to the bridge, those that exist and those that a VMM
            creates later. Not together with `untrusted`: what these interfaces send is not checked. Default: `vm-*`;
            none where there are `guests`.
        port_isolation: Isolates the guests of the bridge from each other. They still reach the host, and other
            networks through it. Default: false; with `untrusted` true.
        guests: Guests by the names of their TAPs. Each has a `TapBinding`, so its addresses are known, and what it
            sends is checked. Default: none.
        untrusted: Holds guests that nobody trusts. They send as themselves alone, reach of the host only what the
            bridge serves, no port of a neighbour, and outside only what `egress` allows, at the rates of `bandwidth`.
            It requires `guests`. Default: false.
        egress: What the guests may reach beyond their bridge, as `egress` of a `NatGateway`: `cidr`, `protocol`,
            `ports`. Default: everything; with `untrusted` nothing.
        bandwidth: What each of the `guests` receives and sends at most: `download`, `upload`. Default: no limits; with
            `untrusted` 100mbit each way.
    """

    bridge: Bridge
    """The bridge."""
    taps: TapBinding
    """The TAP binding of `match`. Its `members` are the interfaces that were attached at the last read. There is none
    where `guests` take its place."""
    taps_of_guests: dict[str, TapBinding]
    """The TAP bindings of the `guests`, by their names."""
    guests: Optional[pulumi.Output[Sequence[outputs.GuestNetwork]]]  # noqa: UP045
    """The network settings of each of the `guests`, in their order."""
    nat_gateway: NatGateway
    """The NAT gateway."""
    bridge_name: pulumi.Output[str]
    """The bridge's name."""
    nat_gateway_id: pulumi.Output[str]
    """The NatGateway's id."""
    external_addresses: pulumi.Output[Sequence[str]]
    """The source addresses of the guests' traffic outside, without prefix lengths."""

    # The annotations use `Union`: Python 3.9 can't evaluate a type hint with `|`.
    def __init__(
        self,
        resource_name: str,
        opts: Optional[pulumi.ResourceOptions] = None,  # noqa: UP045
        *,
        addresses: Optional[pulumi.Input[Sequence[pulumi.Input[str]]]] = None,  # noqa: UP045
        connection: Optional[pulumi.Input[Union[ConnectionArgs, ConnectionArgsDict]]] = None,  # noqa: UP007, UP045
        dhcp_server: Optional[pulumi.Input[Union[DhcpServerArgs, DhcpServerArgsDict]]] = None,  # noqa: UP007, UP045
        external_interface: Optional[pulumi.Input[str]] = None,  # noqa: UP045
        forwards: Optional[  # noqa: UP045
            pulumi.Input[Sequence[pulumi.Input[Union[ForwardPortArgs, ForwardPortArgsDict]]]]  # noqa: UP007
        ] = None,
        match: Optional[pulumi.Input[str]] = None,  # noqa: UP045
        port_isolation: Optional[pulumi.Input[bool]] = None,  # noqa: UP045
        guests: Sequence[str] = (),
        untrusted: bool = False,
        egress: Optional[  # noqa: UP045
            pulumi.Input[Sequence[pulumi.Input[Union[EgressRuleArgs, EgressRuleArgsDict]]]]  # noqa: UP007
        ] = None,
        bandwidth: Optional[pulumi.Input[Union[BandwidthArgs, BandwidthArgsDict]]] = None,  # noqa: UP007, UP045
    ) -> None:
        _refuse(guests, untrusted=untrusted, match=match, bandwidth=bandwidth)
        super().__init__("hostnet:index:MicroVmHost", resource_name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        self.bridge = Bridge(
            resource_name,
            addresses=list(_ADDRESSES) if addresses is None else addresses,
            dhcp_server=DhcpServerArgs() if dhcp_server is None else dhcp_server,
            ipv6_send_ra=True,
            port_isolation=True if untrusted and port_isolation is None else port_isolation,
            host_access="services" if untrusted else None,
            connection=connection,
            opts=child,
        )
        if match is not None or not guests:
            self.taps = TapBinding(
                f"{resource_name}-taps",
                match=_MATCH if match is None else match,
                bridge=self.bridge.name,
                connection=connection,
                opts=child,
            )
        limits = BandwidthArgs(download=_RATE, upload=_RATE) if untrusted and bandwidth is None else bandwidth
        self.taps_of_guests = self._bind(resource_name, guests, limits, connection)
        self.nat_gateway = NatGateway(
            f"{resource_name}-nat",
            internal_interfaces=[self.bridge.name],
            enable_ipv6=True,
            external_interface=external_interface,
            egress=[] if untrusted and egress is None else egress,
            forward_ports=forwards,
            connection=connection,
            opts=child,
        )
        self._publish()

    def _publish(self) -> None:
        """Set and register the outputs."""
        self.bridge_name = self.bridge.name
        self.nat_gateway_id = self.nat_gateway.id
        self.external_addresses = self.nat_gateway.external_addresses
        self.guests = None
        if self.taps_of_guests:
            self.guests = pulumi.Output.all(*(tap.guest for tap in self.taps_of_guests.values()))
        found = {
            "bridgeName": self.bridge_name,
            "natGatewayId": self.nat_gateway_id,
            "externalAddresses": self.external_addresses,
        }
        self.register_outputs({**found, "guests": self.guests} if self.taps_of_guests else found)

    def _bind(
        self,
        resource_name: str,
        guests: Sequence[str],
        bandwidth: Optional[pulumi.Input[Union[BandwidthArgs, BandwidthArgsDict]]],  # noqa: UP007, UP045
        connection: Optional[pulumi.Input[Union[ConnectionArgs, ConnectionArgsDict]]],  # noqa: UP007, UP045
    ) -> dict[str, TapBinding]:
        """The TAPs of the guests."""
        return {
            name: TapBinding(
                f"{resource_name}-tap-{name}",
                name=name,
                bridge=self.bridge.name,
                guest=GuestArgs(),
                bandwidth=bandwidth,
                connection=connection,
                opts=pulumi.ResourceOptions(parent=self),
            )
            for name in guests
        }


def _refuse(guests: Sequence[str], *, untrusted: bool, match: object, bandwidth: object) -> None:
    """Refuse what would leave guests unchecked.

    Raises:
        ValueError: A guest is named twice, `match` stands beside `untrusted`, or there are no guests to hold.
    """
    if len(set(guests)) < len(guests):
        raise ValueError("guests: must be unique")
    if untrusted and match is not None:
        raise ValueError(
            "match: must not be given together with untrusted: what it attaches is not checked; use guests"
        )
    if (untrusted or bandwidth is not None) and not guests:
        raise ValueError(f"{'untrusted' if untrusted else 'bandwidth'}: requires guests: it is about their TAPs")
