"""A guest in the DMZ: it gets everything that reaches the host from outside and that no forward takes.

The host keeps TCP to `dmz_except_ports` (its SSH) and ICMP. A forward takes precedence over the DMZ: port 8443 leads to
a second guest.
"""

import pulumi
import pulumi_hostnet as hostnet

PREFIX4, PREFIX6 = "10.0.0.", "fd12:3456:789a::"

bridge = hostnet.Bridge(
    "dmz",
    addresses=[f"{PREFIX4}1/24", f"{PREFIX6}1/64"],
    port_isolation=True,  # an intruder in one guest does not reach the other
)


def guest(name: str, number: int) -> hostnet.TapBinding:
    """The TAP of a guest whose addresses end in a number."""
    return hostnet.TapBinding(
        name,
        name=f"vm-{name}",
        bridge=bridge.name,
        guest=hostnet.GuestArgs(hostname=name, addresses=[f"{PREFIX4}{number}/24", f"{PREFIX6}{number}/64"]),
    )


public, admin = guest("public", 2), guest("admin", 3)
nat = hostnet.NatGateway(
    "nat",
    internal_interfaces=[bridge.name],
    enable_ipv6=True,
    dmz_host=f"{PREFIX4}2",
    dmz_host_ipv6=f"{PREFIX6}2",
    dmz_except_ports=[22],
    opts=pulumi.ResourceOptions(depends_on=[public]),
)
hostnet.PortForward("admin", nat_gateway=nat.id, source_port=8443, destination=f"{PREFIX4}3:443")

pulumi.export("public", public.guest)
pulumi.export("admin", admin.guest)
