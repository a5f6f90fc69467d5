"""A server as OVHcloud rents it: additional IPv4 addresses of other networks, an IPv6 /64 whose gateway is outside it.

Each guest has addresses of its own, untranslated. The host answers ARP and neighbour solicitations for them on the
uplink.
"""

import pulumi
import pulumi_hostnet as hostnet

config = pulumi.Config()
UPLINK = config.get("uplink") or "eth0"
# By guest, an additional address without a virtual MAC address, and one of the server's /64.
GUESTS = config.get_object("guests") or {
    "shop": ["203.0.113.50", "2001:db8:5:1::50"],
    "mail": ["203.0.113.51", "2001:db8:5:1::51"],
}
GATEWAYS = ["10.9.9.1/32", "fd99::1/128"]  # what each guest has as its gateways


def cidr(address: str) -> str:
    """An address as a network of one."""
    return f"{address}/128" if ":" in address else f"{address}/32"


guests = {
    name: hostnet.TapBinding(
        name,
        name=f"vm-{name}",
        addresses=GATEWAYS,
        routes=[cidr(address) for address in addresses],
        guest=hostnet.GuestArgs(hostname=name, proxy_interface=UPLINK),
    )
    for name, addresses in GUESTS.items()
}
every = [cidr(address) for addresses in GUESTS.values() for address in addresses]
hostnet.NatGateway(
    "public",
    external_interface=UPLINK,
    internal_ips=[one for one in every if ":" not in one],
    internal_ipv6s=[one for one in every if ":" in one],
    route_ipv4=True,
    route_ipv6=True,
    internal_forwarding=True,  # the guests reach each other, as everybody reaches them
)

pulumi.export("guests", {name: tap.guest for name, tap in guests.items()})
