"""Many port forwards in one resource: the inline form, for a table that is long or comes from another program.

Each PortForward resource costs Pulumi about 10 ms in every run; the entries of `forward_ports` cost it nothing. A
changed entry updates only its own element on the host.
"""

import pulumi
import pulumi_hostnet as hostnet

TENANTS = pulumi.Config().get_int("tenants") or 100
FIRST_GUEST = 10  # of 10.1.0.0/24
FIRST_PORT = 20000
PORTS_A_TENANT = 10

bridge = hostnet.Bridge("tenants", addresses=["10.1.0.1/24"], port_isolation=True)


def forwards(tenant: int) -> list[hostnet.ForwardPortArgs]:
    """A tenant's forwards: SSH on a port of its own, and a range of ports with the same numbers on both sides."""
    guest = f"10.1.0.{FIRST_GUEST + tenant}"
    first = FIRST_PORT + tenant * PORTS_A_TENANT
    own = f"{first}:{first + PORTS_A_TENANT - 1}"
    return [
        hostnet.ForwardPortArgs(source_port=10000 + tenant, destination=f"{guest}:22"),
        hostnet.ForwardPortArgs(protocol="tcp", source_port=own, destination=guest),
        hostnet.ForwardPortArgs(protocol="udp", source_port=own, destination=guest),
    ]


nat = hostnet.NatGateway(
    "nat",
    internal_interfaces=[bridge.name],
    forward_ports=[entry for tenant in range(TENANTS) for entry in forwards(tenant)],
)
pulumi.export("forwards", TENANTS * len(forwards(0)))
