"""The network of a microVM host: a bridge, guests whose TAPs are named vm-*, NAT, ports that lead to a guest."""

import pulumi
import pulumi_hostnet as hostnet

bridge = hostnet.Bridge(
    "microvm",
    addresses=["10.0.0.1/24", "fd12:3456:789a::1/64"],
    dhcp_server={
        "static_leases": [{"mac_address": "02:00:00:00:00:02", "address": "10.0.0.2", "hostname": "web"}],
    },
    ipv6_send_ra=True,
)
# Every interface named like this is attached, now and later: a VMM creates them.
hostnet.TapBinding("guests", match="vm-*", bridge=bridge.name)
nat = hostnet.NatGateway("nat", internal_interfaces=[bridge.name], enable_ipv6=True)
for port in (80, 443):
    hostnet.PortForward(f"web-{port}", nat_gateway=nat.id, source_port=port, destination="10.0.0.2")

pulumi.export("bridge", bridge.name)
pulumi.export("gateway", bridge.gateway)
pulumi.export("externalAddresses", nat.external_addresses)
