"""The functions getHost, getBridge and getPortForwards: what they take, what they answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hostnet.resources.bridge import LEASES
from hostnet.resources.connection import connection_prop
from hostnet.resources.schema.model import Declared, ListOf, Record, Report, has_unknown, output, prop, without_none
from hostnet.resources.schema.types import OUT_BOOL, OUT_INT, OUT_TEXT, InterfaceName

if TYPE_CHECKING:
    from hostnet.resources.connection import ConnectionInputs
    from hostnet.resources.schema.kind import Failure, Inputs, Outputs, Value


class HostInterface(Declared):
    """A network interface of a host."""

    name: str = output(OUT_TEXT, "Its name.")
    kind: str = output(OUT_TEXT, 'Its kind as the kernel names it ("bridge", "tun", "veth"); `""`: physical.')
    ifindex: int = output(OUT_INT, "The kernel's number of it.")
    mac_address: str | None = output(OUT_TEXT, "Its MAC address.", always=False)
    mtu: int = output(OUT_INT, "Its MTU.", unit="bytes")
    up: bool = output(OUT_BOOL, "Whether it is up.")
    addresses: tuple[str, ...] = output(ListOf(OUT_TEXT), "Its addresses with prefix lengths.")
    bridge: str | None = output(OUT_TEXT, "The bridge it is a port of.", always=False)


class DefaultRoute(Declared):
    """The interfaces of the default routes."""

    ipv4: str | None = output(OUT_TEXT, "The interface of the IPv4 default route.", always=False)
    ipv6: str | None = output(OUT_TEXT, "The interface of the IPv6 default route.", always=False)


class HostForwarding(Declared):
    """The forwarding switches of a host."""

    ipv4: bool = output(OUT_BOOL, "Whether IPv4 is forwarded.")
    ipv6: bool = output(OUT_BOOL, "Whether IPv6 is forwarded.")


class HeldResource(Declared):
    """A resource that hostnet holds on a host, whichever stack's it is."""

    urn: str = output(OUT_TEXT, "Whose it is.")
    id: str = output(OUT_TEXT, "Its id.")
    kind: str = output(OUT_TEXT, 'Its kind: "Bridge", "TapBinding", "NatGateway" or "PortForward".')


class GetHostResult(Declared):
    """What a host is and has."""

    kernel: str = output(OUT_TEXT, "The kernel's release.")
    nft_version: str | None = output(OUT_TEXT, "The version of nftables.", always=False)
    interfaces: tuple[Value, ...] = output(
        ListOf(Record(HostInterface, "hostnet:index:HostInterface")), "Its network interfaces."
    )
    default_route: Value = output(
        Record(DefaultRoute, "hostnet:index:DefaultRoute"), "The interfaces of its default routes."
    )
    forwarding: Value = output(Record(HostForwarding, "hostnet:index:HostForwarding"), "Its forwarding sysctls.")
    firewalls: tuple[str, ...] = output(
        ListOf(OUT_TEXT), 'Other firewalls seen: "docker", "ufw", "firewalld", or the nftables table and chain.'
    )
    resources: tuple[Value, ...] = output(
        ListOf(Record(HeldResource, "hostnet:index:HeldResource")), "What hostnet holds here."
    )


class GetHostInputs(Declared):
    """What getHost takes."""

    connection: ConnectionInputs | None = connection_prop()


class GetBridgeInputs(Declared):
    """What getBridge takes."""

    name: str = prop(InterfaceName(), "The bridge's name.", required=True)
    connection: ConnectionInputs | None = connection_prop()


class GetBridgeResult(Declared):
    """A bridge, ours or not."""

    name: str = output(OUT_TEXT, "The interface's name.")
    ifindex: int = output(OUT_INT, "The kernel's number of the interface.")
    mac_address: str = output(OUT_TEXT, "Its MAC address.")
    mtu: int = output(OUT_INT, "Its MTU.", unit="bytes")
    addresses: tuple[str, ...] = output(ListOf(OUT_TEXT), "Its addresses with prefix lengths.")
    subnets: tuple[str, ...] = output(ListOf(OUT_TEXT), "The networks of its addresses.")
    gateway: str | None = output(OUT_TEXT, "Its first IPv4 address.", always=False)
    gateway6: str | None = output(OUT_TEXT, "Its first IPv6 address.", always=False)
    ports: tuple[str, ...] = output(ListOf(OUT_TEXT), "The interfaces attached to it.")
    leases: tuple[Value, ...] = output(LEASES, "DHCP leases in use.")


class GetPortForwardsInputs(Declared):
    """What getPortForwards takes."""

    connection: ConnectionInputs | None = connection_prop()


class PortForwardInfo(Declared):
    """A port forward on a host, with its counters."""

    id: str = output(OUT_TEXT, "Its id; of an inline forward the id it would have as a resource.")
    protocol: str = output(OUT_TEXT, 'Its protocol: "tcp", "udp", "sctp" or "tcp+udp".')
    source_ports: str = output(OUT_TEXT, "The port or range on the external side.")
    destination_address: str = output(OUT_TEXT, "The guest's address.")
    destination_ports: str = output(OUT_TEXT, "The guest's port or range.")
    owner: str = output(OUT_TEXT, "The URN of the resource it belongs to.")
    packets: int = output(OUT_INT, "Packets that it carried, both ways.")
    bytes: int = output(OUT_INT, "Bytes that it carried, both ways.", unit="bytes")


class GetPortForwardsResult(Declared):
    """The port forwards of a host."""

    port_forwards: tuple[Value, ...] = output(
        ListOf(Record(PortForwardInfo, "hostnet:index:PortForwardInfo")), "Every forward that hostnet holds here."
    )


@dataclass(frozen=True)
class Function:
    """A function: `facts` is what `Host.facts` calls it."""

    token: str
    facts: str
    doc: str
    inputs: Record[Any]
    results: Record[Any]

    def check(self, inputs: Inputs) -> tuple[Failure, ...]:
        """All that is wrong with the arguments."""
        report = Report()
        self.inputs.check(inputs, "", report)
        return tuple(report.failures)

    def arguments(self, inputs: Inputs) -> dict[str, Value] | None:
        """What to ask the host with; None while something is unknown (a preview)."""
        if has_unknown(inputs):
            return None
        return without_none({name: value for name, value in inputs.items() if name != "connection"})

    def result(self, facts: dict[str, Value]) -> Outputs:
        """The answer to the program, of a host's `Facts.data`, which has the names of `results`."""
        return without_none({name: facts.get(name) for name in self.results.properties})


FUNCTIONS: dict[str, Function] = {
    function.token: function
    for function in (
        Function(
            "hostnet:index:getHost",
            "host",
            "What a host is and has: kernel, nftables, interfaces, default routes, forwarding, other firewalls, and "
            "what hostnet holds there.",
            Record(GetHostInputs),
            Record(GetHostResult),
        ),
        Function(
            "hostnet:index:getBridge",
            "bridge",
            "A bridge of a host, ours or not.",
            Record(GetBridgeInputs),
            Record(GetBridgeResult),
        ),
        Function(
            "hostnet:index:getPortForwards",
            "forwards",
            "The port forwards of a host, whichever stack's they are, with their counters.",
            Record(GetPortForwardsInputs),
            Record(GetPortForwardsResult),
        ),
    )
}
