"""A server as Contabo rents it: additional addresses that are set on its interface, and an IPv6 /64 behind fe80::1.

Each additional address stands for one guest, in both directions and for every protocol. The other guests reach the
outside by the main address.
"""

import pulumi
import pulumi_hostnet as hostnet

config = pulumi.Config()
UPLINK = config.get("uplink") or "eth0"
ADDRESS4 = config.get("address4") or "192.0.2.50"  # an additional one, set on the uplink
ADDRESS6 = config.get("address6") or "2001:db8::50"  # of the server's /64, set on the uplink as well
PRIVATE = ["10.0.0.10", "fd12:3456:789a::10"]

bridge = hostnet.Bridge("vms", name="vms", addresses=["10.0.0.1/24", "fd12:3456:789a::1/64"])
mail = hostnet.TapBinding(
    "mail", name="vm-mail", bridge=bridge.name, guest=hostnet.GuestArgs(hostname="mail", addresses=PRIVATE)
)
other = hostnet.TapBinding("other", name="vm-other", bridge=bridge.name, guest=hostnet.GuestArgs(hostname="other"))
nat = hostnet.NatGateway(
    "nat",
    external_interface=UPLINK,
    internal_interfaces=[bridge.name],
    enable_ipv6=True,
    one_to_one_nat=[
        hostnet.OneToOneNatArgs(external_address=ADDRESS4, internal_address=PRIVATE[0]),
        hostnet.OneToOneNatArgs(external_address=ADDRESS6, internal_address=PRIVATE[1]),
    ],
)

pulumi.export("mail", mail.guest)
pulumi.export("other", other.guest)
