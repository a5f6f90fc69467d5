"""A host with two lines: guests leave by the one that the routes prefer, and are reached by both.

The gateway names no external interface, so it leads out by the interface of every default route, and the watcher
follows one that comes, moves or goes. Replies leave by the line that the request came in by.
"""

import pulumi
import pulumi_hostnet as hostnet

bridge = hostnet.Bridge("net", name="vms", addresses=["10.0.0.1/24", "fd12:3456:789a::1/64"])
web = hostnet.TapBinding("web", name="vm-web", bridge=bridge.name, guest=hostnet.GuestArgs(hostname="web"))
hostnet.TapBinding("vms", match="vm-*", bridge=bridge.name)
nat = hostnet.NatGateway("nat", internal_interfaces=[bridge.name], enable_ipv6=True)
for family, address in (("v4", "10.0.0.2"), ("v6", "fd12:3456:789a::2")):
    hostnet.PortForward(f"web-{family}", nat_gateway=nat.id, source_port=80, destination=address)

pulumi.export("web", web.guest)
pulumi.export("lines", nat.external_interfaces)
pulumi.export("addresses", nat.external_addresses)
