"""VMs without a bridge: the host routes to each TAP, as on microvm.nix's page about a routed network.

Guests share no network segment: a guest sees nothing of another's traffic and can't answer for its address. Every TAP
has the same host addresses (10.0.0.0/32, its guest's gateway) and a route to its own guest. The gateway with
`internal_ips` lets guests out and forwards in. If guests should reach each other, list the TAPs as
`internal_interfaces` instead, with `internal_forwarding`.
"""

import pulumi
import pulumi_hostnet as hostnet

PREFIX4, PREFIX6 = "10.0.0.", "fd12:3456:789a::"
GUESTS = pulumi.Config().get_int("guests") or 3
WEB = 1  # the guest behind port 80

taps = {
    f"vm{number}": hostnet.TapBinding(
        f"vm{number}",
        name=f"vm{number}",
        addresses=[f"{PREFIX4}0/32", f"{PREFIX6}/128"],
        routes=[f"{PREFIX4}{number}/32", f"{PREFIX6}{number:x}/128"],
        guest=hostnet.GuestArgs(hostname=f"vm{number}"),  # its addresses are those of the routes
    )
    for number in range(1, GUESTS + 1)
}
nat = hostnet.NatGateway(
    "nat",
    internal_ips=[f"{PREFIX4}0/24"],
    internal_ipv6s=[f"{PREFIX6}/64"],
    enable_ipv6=True,
)
for family, address in (("v4", f"{PREFIX4}{WEB}"), ("v6", f"{PREFIX6}{WEB:x}")):
    hostnet.PortForward(f"web-{family}", nat_gateway=nat.id, source_port=80, destination=address)

# What the VMs' own resources need: TAP, MAC address, and `ip=` for the kernel's command line.
pulumi.export("guests", {name: tap.guest for name, tap in taps.items()})
