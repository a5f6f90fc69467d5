"""Twenty guests that nobody trusts, from one loop: each has its bandwidth, and a list of what it may reach outside.

A guest runs somebody's job: it fetches packages and sources, and writes to a store of its own. Nothing else answers it
but DHCP, DNS and ping of the host: no other guest, no port of the host, no cloud's metadata service, no other name.
"""

import pulumi
import pulumi_hostnet as hostnet

JOBS = 20
PACKAGES = "packages.example.org"
SOURCES = "sources.example.org"


def https(*names: str) -> list[hostnet.EgressRuleArgs]:
    """HTTPS to the addresses that the bridge's DNS answers for these names, and for those below them."""
    return [hostnet.EgressRuleArgs(domain=name, protocol="tcp", ports=443) for name in names]


bridge = hostnet.Bridge(
    "sandbox",
    addresses=["10.0.0.1/24", "fd12:3456:789a::1/64"],
    dhcp_server=hostnet.DhcpServerArgs(),
    host_access="services",  # DHCP, DNS and ping: nothing else of the host
    port_isolation=True,  # guests can't reach each other
)
hostnet.NatGateway(
    "outside",
    internal_interfaces=[bridge.name],
    enable_ipv6=True,
    egress=[],  # what is on the bridge without a list of its own reaches nothing
)
guests = {}
for number in range(1, JOBS + 1):
    name = f"job-{number}"
    tap = hostnet.TapBinding(
        name,
        name=name,
        bridge=bridge.name,
        guest=hostnet.GuestArgs(hostname=name, egress=https(PACKAGES, SOURCES, f"store-{number}.example.net")),
        bandwidth=hostnet.BandwidthArgs(download="50mbit", upload="10mbit"),
    )
    guests[name] = tap.guest
pulumi.export("guests", guests)
