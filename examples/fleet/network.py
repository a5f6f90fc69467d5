"""The network of each host of a group: a bridge with VMs, NAT, and forwards to the VMs."""

from typing import Any

import pulumi_hostnet as hostnet


def networks(hosts: dict[str, dict[str, Any]], *, vms: int, forwards: int, port: int) -> None:
    """Declare the networks of one group's hosts.

    Args:
        hosts: Each host's connection, by the host's name.
        vms: How many VMs a host has.
        forwards: How many ports of a host, from 8000 on, lead to its VMs in turn.
        port: The VMs' port that they lead to.
    """
    for name, host in hosts.items():
        connection = hostnet.ConnectionArgs(**host)
        bridge = hostnet.Bridge(f"{name}-vms", name="vms", addresses=["10.0.0.1/24"], connection=connection)
        for vm in range(vms):
            hostnet.TapBinding(f"{name}-vm{vm}", name=f"vm{vm}", bridge=bridge.name, guest={}, connection=connection)
        nat = hostnet.NatGateway(f"{name}-nat", internal_interfaces=[bridge.name], connection=connection)
        for forward in range(forwards):
            hostnet.PortForward(
                f"{name}-web{forward}",
                nat_gateway=nat.id,
                source_port=8000 + forward,
                destination=f"10.0.0.{2 + forward % vms}:{port}",
                connection=connection,
            )
