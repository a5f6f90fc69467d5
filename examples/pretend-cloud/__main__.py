"""A server, its network over SSH and a VM on it, all created by one program.

Server, key and VM are pretended (pretend_cloud.py): namespaces of this machine, with a real sshd. hostnet does the same
as on a rented server; examples/rented-server is the same program for a real cloud.
"""

import pulumi
import pulumi_hostnet as hostnet
from pretend_cloud import Server, SshKey, Vm

config = pulumi.Config()
key = SshKey("key")
server = Server(
    "server",
    image=config.require("image"),
    authorized_key=key.public_key,
    boot_seconds=config.require_int("bootSeconds"),
)
# Known only after the server is created; a preview checks everything that does not depend on it.
connection = hostnet.ConnectionArgs(
    host=server.ipv4_address,
    host_key=server.host_key,
    private_key=key.private_key,
    dial_error_limit=20,  # a new server is created long before it has booted
)
bridge = hostnet.Bridge("vms", addresses=["10.0.0.1/24"], connection=connection)
tap = hostnet.TapBinding(
    "web",
    name="vm-web",
    bridge=bridge.name,
    guest=hostnet.GuestArgs(hostname="web"),
    connection=connection,
)
nat = hostnet.NatGateway("nat", internal_interfaces=[bridge.name], connection=connection)
web = Vm(
    "web",
    server=server.id,
    tap=tap.name,
    mac_address=tap.guest.mac_address,
    addresses=tap.guest.addresses,
    gateway=tap.guest.gateway,
)
hostnet.PortForward(
    "http",
    nat_gateway=nat.id,
    source_port=80,
    destination=tap.guest.addresses[0].apply(lambda cidr: cidr.split("/")[0]),
    connection=connection,
    opts=pulumi.ResourceOptions(depends_on=[web]),  # open the port when the VM listens
)

pulumi.export("server", server.id)
pulumi.export("url", pulumi.Output.concat("http://", server.ipv4_address, "/"))
