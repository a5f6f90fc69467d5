"""The functions getHost, getBridge and getPortForwards: their arguments and results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hostnet.resources.bridge import LEASES
from hostnet.resources.schema.connection import connection_prop
from hostnet.resources.schema.model import Declared, ListOf, Record, Report, has_unknown, output, prop, without_none
from hostnet.resources.schema.types import OUT_BOOL, OUT_INT, OUT_TEXT, InterfaceName

if TYPE_CHECKING:
    from hostnet.resources.schema.connection import ConnectionInputs
    from hostnet.resources.schema.values import Failure, Inputs, Outputs, Value


class HostInterface(Declared):
    """A network interface of a host."""

    name: str = output(OUT_TEXT, "The interface's name.")
    kind: str = output(
        OUT_TEXT, 'The kernel\'s name for its kind ("bridge", "tun", "veth"). `""`: a physical interface.'
    )
    ifindex: int = output(OUT_INT, "The kernel's index of the interface.")
    mac_address: str | None = output(OUT_TEXT, "The interface's MAC address.", always=False)
    mtu: int = output(OUT_INT, "The interface's MTU.", unit="bytes")
    up: bool = output(OUT_BOOL, "Whether the interface is up.")
    addresses: tuple[str, ...] = output(ListOf(OUT_TEXT), "The interface's addresses with prefix lengths.")
    bridge: str | None = output(OUT_TEXT, "The bridge that the interface is a port of.", always=False)


class DefaultRoute(Declared):
    """The interfaces of the default routes."""

    ipv4: str | None = output(OUT_TEXT, "The interface of the IPv4 default route.", always=False)
    ipv6: str | None = output(OUT_TEXT, "The interface of the IPv6 default route.", always=False)


class HostForwarding(Declared):
    """The kernel's forwarding switches of a host."""

    ipv4: bool = output(OUT_BOOL, "Whether the kernel forwards IPv4.")
    ipv6: bool = output(OUT_BOOL, "Whether the kernel forwards IPv6.")


class HeldResource(Declared):
    """A resource that hostnet has recorded on a host, of whichever stack."""

    urn: str = output(OUT_TEXT, "The resource's URN.")
    id: str = output(OUT_TEXT, "The resource's id.")
    kind: str = output(OUT_TEXT, 'The resource\'s kind: "Bridge", "TapBinding", "NatGateway" or "PortForward".')


class GetHostResult(Declared):
    """A host: its kernel, its network, and what hostnet has recorded there."""

    kernel: str = output(OUT_TEXT, "The kernel's release.")
    nft_version: str | None = output(
        OUT_TEXT, "The version of nftables. There is none on a host without it.", always=False
    )
    interfaces: tuple[Value, ...] = output(
        ListOf(Record(HostInterface, "hostnet:index:HostInterface")), "The network interfaces."
    )
    default_route: Value = output(
        Record(DefaultRoute, "hostnet:index:DefaultRoute"), "The interfaces of the default routes."
    )
    forwarding: Value = output(
        Record(HostForwarding, "hostnet:index:HostForwarding"), "The kernel's forwarding switches."
    )
    firewalls: tuple[str, ...] = output(
        ListOf(OUT_TEXT),
        'Other firewalls: "docker", "ufw", "firewalld", or the table and chain of an nftables ruleset.',
    )
    resources: tuple[Value, ...] = output(
        ListOf(Record(HeldResource, "hostnet:index:HeldResource")), "The resources that hostnet has recorded here."
    )


class GetHostInputs(Declared):
    """The arguments of getHost."""

    connection: ConnectionInputs | None = connection_prop()


class GetBridgeInputs(Declared):
    """The arguments of getBridge."""

    name: str = prop(InterfaceName(), "The bridge's name.", required=True)
    connection: ConnectionInputs | None = connection_prop()


class GetBridgeResult(Declared):
    """A bridge, created by hostnet or not."""

    name: str = output(OUT_TEXT, "The interface's name.")
    ifindex: int = output(OUT_INT, "The kernel's index of the interface.")
    mac_address: str = output(OUT_TEXT, "The bridge's MAC address.")
    mtu: int = output(OUT_INT, "The bridge's MTU.", unit="bytes")
    addresses: tuple[str, ...] = output(ListOf(OUT_TEXT), "The bridge's addresses with prefix lengths.")
    subnets: tuple[str, ...] = output(ListOf(OUT_TEXT), "The networks of these addresses.")
    gateway: str | None = output(OUT_TEXT, "The first IPv4 address.", always=False)
    gateway6: str | None = output(OUT_TEXT, "The first IPv6 address.", always=False)
    ports: tuple[str, ...] = output(ListOf(OUT_TEXT), "The interfaces that are attached to the bridge.")
    leases: tuple[Value, ...] = output(LEASES, "The DHCP leases in use, of the 1,000 lowest addresses.")


class GetPortForwardsInputs(Declared):
    """The arguments of getPortForwards."""

    connection: ConnectionInputs | None = connection_prop()


class PortForwardInfo(Declared):
    """A port forward on a host, with its counters."""

    id: str = output(OUT_TEXT, "The id. For an entry of `forwardPorts` it is the id that a PortForward would have.")
    protocol: str = output(OUT_TEXT, 'The protocol: "tcp", "udp", "sctp" or "tcp+udp".')
    source_ports: str = output(OUT_TEXT, "The port or range on the external side.")
    destination_address: str = output(OUT_TEXT, "The guest's address.")
    destination_ports: str = output(OUT_TEXT, "The guest's port or range.")
    owner: str = output(OUT_TEXT, "The URN of the resource that the forward belongs to.")
    packets: int = output(OUT_INT, "The packets of the forward, in both directions.")
    bytes: int = output(OUT_INT, "The bytes of the forward, in both directions.", unit="bytes")


class GetPortForwardsResult(Declared):
    """The port forwards of a host."""

    port_forwards: tuple[Value, ...] = output(
        ListOf(Record(PortForwardInfo, "hostnet:index:PortForwardInfo")),
        "All port forwards that hostnet has recorded here.",
    )


@dataclass(frozen=True)
class Function:
    """A function. `facts` is its name for `Host.facts`."""

    token: str
    facts: str
    doc: str
    inputs: Record[Any]
    results: Record[Any]

    def check(self, inputs: Inputs) -> tuple[Failure, ...]:
        """Every failure of the arguments."""
        report = Report()
        self.inputs.check(inputs, "", report)
        return tuple(report.failures)

    def arguments(self, inputs: Inputs) -> dict[str, Value] | None:
        """The arguments for the host; None while one is unknown (a preview)."""
        if has_unknown(inputs):
            return None
        return without_none({name: value for name, value in inputs.items() if name != "connection"})

    def result(self, facts: dict[str, Value]) -> Outputs:
        """The program's result, from a host's `Facts.data`, which has the names of `results`."""
        return without_none({name: facts.get(name) for name in self.results.properties})


FUNCTIONS: dict[str, Function] = {
    function.token: function
    for function in (
        Function(
            "hostnet:index:getHost",
            "host",
            "Returns facts about a host: kernel, nftables, interfaces, default routes, forwarding, other firewalls, "
            "and the resources that hostnet has recorded there.",
            Record(GetHostInputs),
            Record(GetHostResult),
        ),
        Function(
            "hostnet:index:getBridge",
            "bridge",
            "Returns a bridge of a host, created by hostnet or not.",
            Record(GetBridgeInputs),
            Record(GetBridgeResult),
        ),
        Function(
            "hostnet:index:getPortForwards",
            "forwards",
            "Returns all port forwards that hostnet has recorded on a host, of every stack, with their counters.",
            Record(GetPortForwardsInputs),
            Record(GetPortForwardsResult),
        ),
    )
}
