"""VMs without a bridge: the host routes to each TAP, as microvm.nix's page on a routed network has it.

Guests share no network segment: one hears nothing of another's traffic and can't answer for its address. Every TAP has
the same host addresses (10.0.0.0/32, its guest's gateway) and a route to its own guest. A gateway by `internal_ips`
lets guests out and forwards in; for guests that reach each other, list the TAPs as `internal_interfaces` instead, with
`internal_forwarding`.
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
        guest=hostnet.GuestArgs(hostname=f"vm{number}"),  # its addresses: those of the routes
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

# What a resource that starts a VM needs: its TAP, its MAC address, and `ip=` for its kernel.
pulumi.export("guests", {name: tap.guest for name, tap in taps.items()})
