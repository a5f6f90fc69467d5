"""A microVM host's network: guests on one bridge that can't reach each other, reached through the host's ports.

A guest's name, and which ports of the host lead to which of its own (in both IP families), is all that one writes down.
"""

import pulumi
import pulumi_hostnet as hostnet

GUESTS = {
    "web": {80: 80, 443: 443},
    "git": {2222: 22},
}

bridge = hostnet.Bridge("microvm", addresses=["10.0.0.1/24", "fd12:3456:789a::1/64"], port_isolation=True)
nat = hostnet.NatGateway("nat", internal_interfaces=[bridge.name], enable_ipv6=True)


def destinations(guest: hostnet.outputs.GuestNetwork, port: int) -> list[str]:
    """The guest's addresses with a port, as a forward's destination has them."""
    bare = [cidr.split("/")[0] for cidr in guest.addresses]
    return [f"[{address}]:{port}" if ":" in address else f"{address}:{port}" for address in bare]


for name, ports in GUESTS.items():
    tap = hostnet.TapBinding(name, name=f"vm-{name}", bridge=bridge.name, guest=hostnet.GuestArgs(hostname=name))
    for source, port in ports.items():
        found = tap.guest.apply(lambda guest, port=port: destinations(guest, port))
        for index, family in enumerate(("v4", "v6")):
            hostnet.PortForward(
                f"{name}-{source}-{family}", nat_gateway=nat.id, source_port=source, destination=found[index]
            )
    # What a resource that starts the VM needs: its MAC address, and `ip=` for its kernel.
    pulumi.export(name, tap.guest)
