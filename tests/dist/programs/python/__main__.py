"""The program of a user: a bridge, a guest, NAT and a forward."""

import os

import pulumi
import pulumi_hostnet as hostnet

connection = hostnet.ConnectionArgs(netns=os.environ["HOST"])
bridge = hostnet.Bridge("net", addresses=["10.0.0.1/24", "fd12::1/64"], connection=connection)
web = hostnet.TapBinding("web", bridge=bridge.name, guest={"hostname": "web"}, connection=connection)
nat = hostnet.NatGateway(
    "nat", internal_interfaces=[bridge.name], external_interface="eth0", enable_ipv6=True, connection=connection
)
hostnet.PortForward(
    "http",
    nat_gateway=nat.id,
    protocol=hostnet.Protocol.TCP,
    source_port=80,
    destination=web.guest.addresses[0].apply(lambda cidr: cidr.split("/")[0]),
    connection=connection,
)
pulumi.export("mac", web.guest.mac_address)
pulumi.export("tap", web.name)
