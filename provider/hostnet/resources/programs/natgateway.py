import pulumi
import pulumi_hostnet as hostnet

bridge = hostnet.Bridge("microvm", addresses=["10.0.0.1/24", "fd12:3456:789a::1/64"])
nat = hostnet.NatGateway(
    "nat",
    internal_interfaces=[bridge.name],
    enable_ipv6=True,
    forward_ports=[{"source_port": 80, "destination": "10.0.0.2"}],
)
pulumi.export("externalAddresses", nat.external_addresses)
