import pulumi
import pulumi_hostnet as hostnet

bridge = hostnet.Bridge(
    "microvm",
    addresses=["10.0.0.1/24", "fd12:3456:789a::1/64"],
    dhcp_server={"range_start": "10.0.0.100", "range_end": "10.0.0.199"},
    ipv6_send_ra=True,
)
pulumi.export("gateway", bridge.gateway)
