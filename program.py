"""The network of a microVM host: a bridge, a guest's TAP, a NAT gateway and port forwards.

The configuration value `target` says on which host: see Pulumi.yaml and docs/developing.md.
"""

import pulumi
import pulumi_hostnet as hostnet

from tools.throwaway_host import connection_to

config = pulumi.Config()
connection = connection_to(config.require("target"))
ports = {80: config.require_int("httpPort"), 443: 443}  # port of the host: port of the guest

bridge = hostnet.Bridge(
    "microvm",
    name="microvm",
    addresses=["10.0.0.1/24", "fd12:3456:789a::1/64"],
    connection=connection,
)
web = hostnet.TapBinding(
    "web",
    name="vm-web",
    bridge=bridge.name,
    guest=hostnet.GuestArgs(hostname="web", addresses=["10.0.0.2/24", "fd12:3456:789a::2/64"]),
    connection=connection,
)
nat = hostnet.NatGateway(
    "nat",
    internal_interfaces=[bridge.name],
    enable_ipv6=True,
    connection=connection,
)
address4, address6 = (web.guest.addresses[index].apply(lambda cidr: cidr.split("/")[0]) for index in (0, 1))

for port, guest_port in ports.items():
    hostnet.PortForward(
        f"web-{port}",
        nat_gateway=nat.id,
        source_port=port,
        destination=pulumi.Output.concat(address4, f":{guest_port}"),
        connection=connection,
    )
    hostnet.PortForward(
        f"web-{port}-v6",
        nat_gateway=nat.id,
        source_port=port,
        destination=pulumi.Output.concat("[", address6, f"]:{guest_port}"),
        connection=connection,
    )

pulumi.export("namespace", connection and connection.netns)
pulumi.export("guest", web.guest)
pulumi.export("kernelIpArg", web.guest.kernel_ip_arg)
pulumi.export("externalAddresses", nat.external_addresses)
