"""A server at Hetzner and the network of the VMs on it: one program, one `pulumi up`.

The server boots, installs what hostnet needs, and gets a bridge with DHCP and DNS, NAT for its VMs, and two ports that
lead to one of them. The stack creates both keys: the one to log in with, and the server's host key.
"""

import pulumi
import pulumi_hcloud as hcloud
import pulumi_hostnet as hostnet
import pulumi_tls as tls

config = pulumi.Config()

# --- the server ----------------------------------------------------------------------------------------------------

login = tls.PrivateKey("login", algorithm="ED25519")
# Created here and not on the server, so hostnet can identify the server from the first connection on.
identity = tls.PrivateKey("identity", algorithm="ED25519")

# The metadata service gives the user data, with the host key, to every process on the server. This keeps VMs from
# asking.
METADATA = """\
#!/bin/sh
nft 'table inet metadata { chain forward { type filter hook forward priority 0; ip daddr 169.254.169.254 drop; }; }'
"""
user_data = pulumi.Output.concat(
    "#cloud-config\n",
    pulumi.Output.json_dumps(  # JSON is YAML
        {
            "ssh_deletekeys": True,
            "ssh_keys": {
                "ed25519_private": identity.private_key_openssh,
                "ed25519_public": identity.public_key_openssh,
            },
            "package_update": True,
            "packages": ["python3", "nftables", "dnsmasq-base"],
            "write_files": [
                {
                    "path": "/var/lib/cloud/scripts/per-boot/metadata-not-for-vms",
                    "permissions": "0755",
                    "content": METADATA,
                }
            ],
        }
    ),
)
server = hcloud.Server(
    "vmhost",
    server_type=config.require("serverType"),
    location=config.require("location"),
    image=config.require("image"),
    ssh_keys=[hcloud.SshKey("login", public_key=login.public_key_openssh).id],
    user_data=user_data,
)

# --- its network ---------------------------------------------------------------------------------------------------

connection = hostnet.ConnectionArgs(
    host=server.ipv4_address,
    host_key=identity.public_key_openssh,
    private_key=login.private_key_openssh,
    # The server exists long before it has booted, and accepts logins before cloud-init has installed the packages. So
    # hostnet waits about eight minutes for the login, and three for cloud-init.
    dial_error_limit=40,
)
# The network is deleted with the server: nothing has to be deleted on it first, also if it is dead.
with_server = pulumi.ResourceOptions(deleted_with=server)

bridge = hostnet.Bridge(
    "vms",
    addresses=["10.0.0.1/24"],
    dhcp_server=hostnet.DhcpServerArgs(range_start="10.0.0.100", range_end="10.0.0.199"),
    port_isolation=True,
    connection=connection,
    opts=with_server,
)
web = hostnet.TapBinding(
    "web",
    bridge=bridge.name,
    guest=hostnet.GuestArgs(hostname="web"),
    connection=connection,
    opts=with_server,
)
nat = hostnet.NatGateway(
    "nat",
    internal_interfaces=[bridge.name],
    connection=connection,
    opts=with_server,
)
address = web.guest.addresses[0].apply(lambda cidr: cidr.split("/")[0])
for port in (80, 443):
    hostnet.PortForward(
        f"web-{port}",
        nat_gateway=nat.id,
        source_port=port,
        destination=address,
        connection=connection,
        opts=with_server,
    )

pulumi.export("server", server.ipv4_address)
pulumi.export("privateKey", login.private_key_openssh)
# What the VM's own resource needs: its TAP and its MAC address. The VM gets its address by DHCP.
pulumi.export("tap", web.name)
pulumi.export("guest", web.guest)
