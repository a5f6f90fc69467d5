"""The network of a microVM host as one component.

Written by hand: it lies in tools/gensdk/overlays/python, from where `make sdk` copies it into the SDK.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional, Union

import pulumi
from pulumi_hostnet._inputs import (
    ConnectionArgs,
    ConnectionArgsDict,
    DhcpServerArgs,
    DhcpServerArgsDict,
    ForwardPortArgs,
    ForwardPortArgsDict,
)
from pulumi_hostnet.bridge import Bridge
from pulumi_hostnet.nat_gateway import NatGateway
from pulumi_hostnet.tap_binding import TapBinding

__all__ = ["MicroVmHost"]

_ADDRESSES = ("10.0.0.1/24", "fd12:3456:789a::1/64")
_MATCH = "vm-*"


class MicroVmHost(pulumi.ComponentResource):
    """A whole microVM host: a bridge, the VMs' TAPs, NAT in both IP families and port forwards.

    It is what microvm.nix documents for NixOS as `systemd.network` and `networking.nat`:

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

    Its children are a `Bridge` of the component's own name (DHCP, DNS and IPv6 router advertisements are served on it),
    a `TapBinding` NAME-taps and a `NatGateway` NAME-nat, which has the forwards. Where more is wanted of one of them,
    use the resources themselves; other resources can join by the outputs (a `PortForward` whose `nat_gateway` is
    `nat_gateway_id`, a `TapBinding` whose `bridge` is `bridge_name`).
    """

    bridge: Bridge
    """The bridge."""
    taps: TapBinding
    """What attaches the VMs' TAPs; its `members` are those attached at the last read."""
    nat_gateway: NatGateway
    """The gateway."""
    bridge_name: pulumi.Output[str]
    """The bridge's name."""
    nat_gateway_id: pulumi.Output[str]
    """The NatGateway's id."""
    external_addresses: pulumi.Output[Sequence[str]]
    """The addresses that guests are seen with outside, without prefix lengths."""

    # The annotations say `Union` for Pythons before 3.10, where type hints with `|` can't be evaluated.
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
    ) -> None:
        """Declare it.

        Args:
            resource_name: The component's name, and the bridge's; the names of the other children begin with it.
            opts: Options of the component. Children have its provider.
            addresses: The host's addresses on the bridge with their prefix lengths (CIDR). The first IPv4 address and
                the first IPv6 address are the guests' gateways. DHCP needs an IPv4 one, router advertisements an
                IPv6 /64. Default: 10.0.0.1/24 and fd12:3456:789a::1/64.
            connection: How to reach the host, for all children. Default: the provider's `connection`, else this
                machine. A change of `host` or `netns` replaces the children, the new ones first.
            dhcp_server: What the bridge's DHCP server is to know beyond its subnet: `range_start`, `range_end`
                (IPv4 addresses), `lease_time` (`<n>s|m|h|d` or `infinite`), `dns_servers`, `domain`, and
                `static_leases` (`mac_address`, `address`, `hostname`), by which a guest always has the address that
                a forward leads to. Default: every free address of the subnet, for 1h; the gateway answers DNS.
            external_interface: The interface that leads out. Default: that of the default route.
            forwards: Ports of the host that lead to guests: `source_port` (a number, or "from:to"), `destination`
                ("10.0.0.2", "10.0.0.2:80", "[fd12:3456:789a::2]:443"; no port: the source port), `protocol` (`tcp`,
                `udp`, `sctp`, `tcp+udp`; default: tcp), `listen_addresses`, `source_cidrs`, `loopback`. A port in
                both IP families is two forwards. Default: none.
            match: A glob: interfaces of such a name, those that are there and those that a VMM makes later, are
                attached to the bridge. Default: `vm-*`.
            port_isolation: Guests on the bridge can't reach each other, only the host and what lies behind it.
                Default: false.
        """
        super().__init__("hostnet:index:MicroVmHost", resource_name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        self.bridge = Bridge(
            resource_name,
            addresses=list(_ADDRESSES) if addresses is None else addresses,
            dhcp_server=DhcpServerArgs() if dhcp_server is None else dhcp_server,
            ipv6_send_ra=True,
            port_isolation=port_isolation,
            connection=connection,
            opts=child,
        )
        self.taps = TapBinding(
            f"{resource_name}-taps",
            match=_MATCH if match is None else match,
            bridge=self.bridge.name,
            connection=connection,
            opts=child,
        )
        self.nat_gateway = NatGateway(
            f"{resource_name}-nat",
            internal_interfaces=[self.bridge.name],
            enable_ipv6=True,
            external_interface=external_interface,
            forward_ports=forwards,
            connection=connection,
            opts=child,
        )
        self.bridge_name = self.bridge.name
        self.nat_gateway_id = self.nat_gateway.id
        self.external_addresses = self.nat_gateway.external_addresses
        self.register_outputs(
            {
                "bridgeName": self.bridge_name,
                "natGatewayId": self.nat_gateway_id,
                "externalAddresses": self.external_addresses,
            }
        )
