"""The network of each host: a bridge with two VMs, and port 80 of the host leads to the live one."""

from typing import Any

import pulumi_hostnet as hostnet

# The MAC and IPv4 address of each VM. It sends with these alone.
VMS = {"blue": ("02:00:00:00:00:02", "10.0.0.2"), "green": ("02:00:00:00:00:03", "10.0.0.3")}
PORT = 80


def networks(hosts: dict[str, dict[str, Any]], live: str) -> None:
    """Declare the networks of one group's hosts.

    Args:
        hosts: Each host's connection, by the host's name.
        live: The VM that answers for the host.
    """
    for name, host in hosts.items():
        connection = hostnet.ConnectionArgs(**host)
        bridge = hostnet.Bridge(f"{name}-vms", name="vms", addresses=["10.0.0.1/24"], connection=connection)
        for vm, (mac, address) in VMS.items():
            hostnet.TapBinding(
                f"{name}-{vm}",
                name=vm,
                bridge=bridge.name,
                guest=hostnet.GuestArgs(hostname=vm, mac_address=mac, addresses=[address]),
                connection=connection,
            )
        nat = hostnet.NatGateway(f"{name}-nat", internal_interfaces=[bridge.name], connection=connection)
        hostnet.PortForward(
            f"{name}-web",
            nat_gateway=nat.id,
            source_port=PORT,
            destination=f"{VMS[live][1]}:80",
            connection=connection,
        )
