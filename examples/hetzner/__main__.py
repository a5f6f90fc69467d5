"""A server as Hetzner rents it: a main address as /32, a gateway on no subnet, an additional address, an IPv6 /64.

One guest has the additional address and one of the /64, untranslated; the host answers ARP and neighbour solicitations
for it on the uplink. The other guests are on a bridge, and reach the outside by the main address.
"""

import pulumi
import pulumi_hostnet as hostnet

config = pulumi.Config()
UPLINK = config.get("uplink") or "eth0"
ADDRESS4 = config.get("address4") or "192.0.2.50"  # the additional one
ADDRESS6 = config.get("address6") or "2001:db8::50"  # of the server's /64
PUBLIC = [f"{ADDRESS4}/32", f"{ADDRESS6}/128"]

public = hostnet.TapBinding(
    "public",
    name="vm-public",
    addresses=["10.9.9.1/32", "fd99::1/128"],  # what the guest has as its gateways
    routes=PUBLIC,
    guest=hostnet.GuestArgs(hostname="public", proxy_interface=UPLINK),
)
hostnet.NatGateway(
    "public",
    external_interface=UPLINK,
    internal_ips=PUBLIC[:1],
    internal_ipv6s=PUBLIC[1:],
    route_ipv4=True,
    route_ipv6=True,
)

bridge = hostnet.Bridge("private", name="vms", addresses=["10.0.0.1/24", "fd12:3456:789a::1/64"])
private = hostnet.TapBinding("private", name="vm-private", bridge=bridge.name, guest=hostnet.GuestArgs())
nat = hostnet.NatGateway("private", external_interface=UPLINK, internal_interfaces=[bridge.name], enable_ipv6=True)
hostnet.PortForward("web", nat_gateway=nat.id, source_port=8080, destination="10.0.0.2:80")

pulumi.export("public", public.guest)
pulumi.export("private", private.guest)
