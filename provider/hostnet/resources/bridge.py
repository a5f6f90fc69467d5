"""Bridge: a network of guests on the host, with its addresses, DHCP, DNS and router advertisements."""

# ruff: noqa: A002 (an id is what Pulumi calls it)
# ruff: noqa: ARG002 (hooks get what some kind needs)
# ruff: noqa: S105 (a Pulumi type token)

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

from hostnet.resources.schema.connection import ConnectionInputs, connection_prop
from hostnet.resources.schema.fields import declared_by, fields_of, settle, settle_list, settle_value
from hostnet.resources.schema.kind import Kind, Past
from hostnet.resources.schema.model import (
    Declared,
    ListOf,
    Record,
    Report,
    join,
    known,
    known_items,
    output,
    prop,
    without_none,
)
from hostnet.resources.schema.naming import derived_mac, fill_interface_name
from hostnet.resources.schema.types import (
    IPV4,
    IPV6,
    OUT_INT,
    OUT_TEXT,
    Bool,
    Choice,
    DomainName,
    HostCidr,
    HostName,
    Int,
    InterfaceName,
    Ip,
    IpInterface,
    LeaseTime,
    Mac,
    NetCidr,
    parse_interface,
)
from hostnet.resources.schema.values import UNKNOWN, Autoname, Inputs, Look, Outputs, Value, nothing
from hostnet.wire.family import IPV6_MTU_MIN, SLAAC_LENGTH
from hostnet.wire.objects import ETHERNET_MTU, Address, DhcpServer, DhcpState, Link, LinkState, Object, StaticLease
from hostnet.wire.subnets import reserved

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hostnet.wire.requests import View

MTU_MIN, MTU_MAX = 68, 65535  # RFC 791; the kernel's ETH_MAX_MTU
_DERIVED_FIRST = 0x06  # locally administered, unicast, and apart from guests' 0x02


class StaticLeaseInputs(Declared):
    """A DHCP lease with a fixed address."""

    mac_address: str = prop(Mac(), "The guest's MAC address.", required=True)
    address: str = prop(
        Ip(IPV4), "The IPv4 address that the guest gets. It must be in a subnet of the bridge.", required=True
    )
    hostname: str | None = prop(HostName(), "The guest's name in the bridge's DNS.")


def _dhcp_rules(judged: dict[str, Value], path: str, report: Report) -> None:
    start, end = judged["rangeStart"], judged["rangeEnd"]
    if (start is None) != (end is None):
        missing = "rangeStart" if start is None else "rangeEnd"
        report.fail(join(path, missing), "is required: give both rangeStart and rangeEnd, or neither")
    elif known(start) and known(end) and ipaddress.IPv4Address(start) > ipaddress.IPv4Address(end):
        report.fail(join(path, "rangeEnd"), f"must not be below rangeStart {start}, but is {end}")
    for name in ("macAddress", "address", "hostname"):
        taken: dict[str, int] = {}
        for index, lease in enumerate(judged["staticLeases"] if known(judged["staticLeases"]) else ()):
            value = known(lease[name]) if isinstance(lease, dict) else None
            if value is None:
                continue
            first = taken.setdefault(value.lower(), index)
            if first != index:
                leases = join(path, "staticLeases")
                report.fail(f"{leases}[{index}].{name}", f"must be unique: {leases}[{first}] has {value} too")


class DhcpServerInputs(Declared):
    """DHCP and DNS for the guests of a bridge, by dnsmasq. `{}` leases every free address of the subnet."""

    range_start: str | None = prop(
        Ip(IPV4),
        "The first address to lease.",
        default_doc="together with `rangeEnd`: all unused addresses of the subnet",
    )
    range_end: str | None = prop(Ip(IPV4), "The last address to lease.", default_doc="see `rangeStart`")
    lease_time: str = prop(
        LeaseTime(), "How long a lease lasts: `<n>s|m|h|d`, at least `120s`, or `infinite`.", default="1h"
    )
    dns_servers: tuple[str, ...] | None = prop(
        ListOf(Ip(), ordered=True),
        "The DNS servers that guests are given, in this order. With an empty list they are given none.",
        default_doc="the bridge's own DNS server",
    )
    domain: str | None = prop(
        DomainName(),
        "The guests' domain. DNS answers their names with and without it. Only a declared host name may be a reserved "
        "one: a guest that calls itself `localhost`, `wpad` or the like gets its lease, and no name.",
        default_doc="none",
    )
    static_leases: tuple[StaticLeaseInputs, ...] = prop(
        ListOf(
            Record(StaticLeaseInputs, "hostnet:index:StaticLease"),
            key=lambda lease: lease["macAddress"],
        ),
        "DHCP leases with a fixed address. The guest of a `TapBinding` has one without being listed here.",
        default=(),
    )


DHCP_SERVER: Record[DhcpServerInputs] = Record(DhcpServerInputs, "hostnet:index:DhcpServer", rules=_dhcp_rules)


class LeaseOutput(Declared):
    """A DHCP lease in use."""

    mac_address: str = output(OUT_TEXT, "The guest's MAC address.")
    address: str = output(OUT_TEXT, "The guest's address.")
    hostname: str = output(OUT_TEXT, 'The host name that the guest sent, or `""`.')
    expires: int = output(OUT_INT, "When the lease ends. 0: never.", unit="unix s")


LEASES = ListOf(Record(LeaseOutput, "hostnet:index:Lease"))


HOST_ACCESS = Choice(
    "all",
    "services",
    token="hostnet:index:HostAccess",  # noqa: S106 - a type token
    doc="What the guests of a bridge reach of the host itself.",
)


class BridgeInputs(Declared):
    """What a program declares of a bridge."""

    name: str = prop(
        InterfaceName(ours=True),
        "The interface's name: 1 to 15 bytes.",
        default_doc="the resource's name, shortened, with a suffix",
        effect="A link of kind bridge is created.",
        replaces=True,
    )
    addresses: tuple[str, ...] = prop(
        ListOf(HostCidr(), ordered=True),
        "The host's addresses on the bridge, IPv4 and IPv6, with prefix lengths. The first address of each family is "
        "the guests' gateway. A subnet must not overlap that of another bridge, nor hold the host's gateway.",
        default=(),
        effect="The addresses are added. Any other address on the bridge is drift, and the next update removes it. The "
        "bridge ignores router advertisements (accept_ra=0). If it does not, it shows the address `::/0`.",
    )
    mac_address: str | None = prop(
        Mac(),
        "The bridge's own MAC address.",
        default_doc="derived from the resource, always the same",
        effect="It is set when the bridge is created. Otherwise it would change when a port is attached.",
        field="mac",
        host_decides=True,
    )
    mtu: int | None = prop(
        Int(MTU_MIN, MTU_MAX),
        "The MTU of the bridge and of its ports: of each TAP without an `mtu` of its own, and of each interface that "
        "a `match` attaches. With IPv6 addresses it is at least 1280.",
        unit="bytes",
        default_doc="the kernel's choice",
        effect="`mtu` of the bridge and of these ports is set. An attached interface gets its own back when it is "
        "detached, unless another program has changed it. DHCP and router advertisements announce the smallest MTU of "
        "the declared ports.",
        field="mtu",
        host_decides=True,
    )
    stp: bool = prop(
        Bool(),
        "Runs the spanning tree protocol (STP) on the bridge.",
        default=False,
        effect="`stp_state` of the bridge is set.",
        field="stp",
    )
    vlan_filtering: bool = prop(
        Bool(),
        "Makes the bridge aware of VLANs. The kernel needs CONFIG_BRIDGE_VLAN_FILTERING.",
        default=False,
        effect="`vlan_filtering` of the bridge is set.",
        field="vlan_filtering",
    )
    port_isolation: bool = prop(
        Bool(),
        "Isolates the guests of the bridge from each other. They still reach the host, and other networks through it.",
        default=False,
        effect="`isolated` is set on each port that hostnet attaches.",
        field="port_isolation",
    )
    dhcp_server: DhcpServerInputs | None = prop(
        DHCP_SERVER,
        "Serves DHCP and DNS on the bridge.",
        default_doc="neither is served",
        effect="One dnsmasq process runs for this bridge and listens only on it.",
    )
    ipv6_send_ra: bool = prop(
        Bool(),
        "Sends IPv6 router advertisements, so that guests configure their own addresses (SLAAC).",
        default=False,
        effect="The bridge's dnsmasq process sends them.",
    )
    ipv6_prefixes: tuple[str, ...] | None = prop(
        ListOf(NetCidr(IPV6, SLAAC_LENGTH)),
        "The IPv6 prefixes to advertise, each a /64.",
        default_doc="the /64s of `addresses`",
    )
    open_firewall: bool = prop(
        Bool(),
        "Lets DHCP, DNS and router solicitations from the bridge reach the host although another firewall would drop "
        "them, and lets frames pass between the bridge's own ports. It opens nothing else.",
        default=True,
        effect="An accept rule with hostnet's comment is in each chain of another firewall that would drop them.",
        field="open_firewall",
    )
    host_access: str = prop(
        HOST_ACCESS,
        "What the bridge's guests reach of the host itself, at any of its addresses: `all`, or `services`: DHCP, the "
        "bridge's own DNS, ICMP and ICMPv6, and nothing else. It does not concern what they reach beyond the host, nor "
        "what a port forward or a `dmzHost` leads elsewhere.",
        default="all",
        effect="With `services`, the bridge is in the set `services_links`: the chain `services` rejects the rest.",
        field="host_access",
    )
    adopt: bool = prop(
        Bool(),
        "Takes over an existing bridge of this name. From then on, addresses that are not declared are drift, and "
        "`pulumi destroy` deletes the bridge.",
        default=False,
        field="adopt",
    )
    connection: ConnectionInputs | None = connection_prop()


class BridgeOutputs(Declared):
    """What a bridge is on its host."""

    name: str = output(OUT_TEXT, "The interface's name.")
    ifindex: int = output(OUT_INT, "The kernel's index of the interface.")
    mac_address: str = output(OUT_TEXT, "The bridge's own MAC address.")
    mtu: int = output(OUT_INT, "The bridge's MTU.", unit="bytes")
    addresses: tuple[str, ...] = output(
        ListOf(OUT_TEXT), "The bridge's addresses with prefix lengths, declared ones first."
    )
    subnets: tuple[str, ...] = output(ListOf(OUT_TEXT), "The networks of these addresses.")
    gateway: str | None = output(OUT_TEXT, "The first IPv4 address: the guests' gateway.", always=False)
    gateway6: str | None = output(OUT_TEXT, "The first IPv6 address: the guests' IPv6 gateway.", always=False)
    leases: tuple[Value, ...] = output(
        LEASES,
        "The DHCP leases in use at the last read: those of the 1,000 lowest addresses, where there are more. A change "
        "of them is not drift.",
    )


def _bridge_rules(judged: dict[str, Value], path: str, report: Report) -> None:
    mtu, addresses = known(judged["mtu"]), judged["addresses"]
    here = [(index, parse_interface(item)) for index, item in known_items(addresses)]
    no_address_twice(here, join(path, "addresses"), report)
    enough_for_v6(mtu, (a for _, a in here), join(path, "mtu"), report)
    complete = addresses is not UNKNOWN and len(here) == len(addresses or ())
    v4 = [a for _, a in here if a.version == IPV4]
    if known(judged["dhcpServer"]):
        if complete and not v4:
            report.fail(
                join(path, "dhcpServer"), "requires an IPv4 address in `addresses`: its subnet is what DHCP serves"
            )
        elif complete:
            _dhcp_in_subnets(judged["dhcpServer"], v4, join(path, "dhcpServer"), report)
    derived = known(judged["ipv6SendRa"]) and judged["ipv6Prefixes"] is None and complete
    if derived and not advertised(a for _, a in here):
        report.fail(join(path, "ipv6SendRa"), "requires an IPv6 address with a /64 in `addresses`, or `ipv6Prefixes`")


def no_address_twice(here: list[tuple[int, IpInterface]], path: str, report: Report) -> None:
    """The same address, whatever its prefix length, is there once."""
    taken: dict[Any, int] = {}
    for index, address in here:
        first = taken.setdefault(address.ip, index)
        if first != index:
            report.fail(f"{path}[{index}]", f"must be unique: {path}[{first}] has {address.ip} too")


def enough_for_v6(mtu: int | None, here: Iterable[IpInterface], path: str, report: Report) -> None:
    """IPv6 needs an MTU of 1280."""
    if mtu is not None and mtu < IPV6_MTU_MIN and any(a.version == IPV6 for a in here):
        report.fail(path, f"must be at least {IPV6_MTU_MIN} with IPv6 addresses (RFC 8200), not {mtu}")


def _dhcp_in_subnets(dhcp: dict[str, Value], here: list[IpInterface], path: str, report: Report) -> None:
    subnets = ", ".join(str(a.network) for a in here)
    start, end = known(dhcp["rangeStart"]), known(dhcp["rangeEnd"])
    homes = [
        _home(value, here, subnets, join(path, name), report, gateway_fine=True)
        for name, value in (("rangeStart", start), ("rangeEnd", end))
        if value
    ]
    if len(homes) == 2 and None not in homes and homes[0] != homes[1]:
        report.fail(join(path, "rangeEnd"), f"must be in the subnet of rangeStart {start}, not {end}")
    for index, lease in enumerate(dhcp["staticLeases"] if known(dhcp["staticLeases"]) else ()):
        value = known(lease["address"]) if isinstance(lease, dict) else None
        if value:
            place = f"{join(path, 'staticLeases')}[{index}].address"
            _home(value, here, subnets, place, report, gateway_fine=False)


def _home(value: str, here: list[IpInterface], subnets: str, path: str, report: Report, *, gateway_fine: bool) -> Value:
    """The subnet that an address is in; reports one that no guest can have."""
    ip = ipaddress.ip_address(value)
    home = next((a.network for a in here if ip in a.network), None)
    if home is None:
        report.fail(path, f"must be in a subnet of the bridge ({subnets}), not {value}")
    elif why := reserved(ip, home):
        report.fail(path, f"must be a host address in {home}, not {why} {value}")
    elif not gateway_fine and any(ip == a.ip for a in here):
        report.fail(path, f"must not be the bridge's own address {value}")
    return home


def advertised(addresses: Iterable[IpInterface]) -> tuple[str, ...]:
    """The prefixes of the v6 addresses that SLAAC can use."""
    nets = (a.network for a in addresses if a.version == IPV6 and a.network.prefixlen == SLAAC_LENGTH)
    return tuple(dict.fromkeys(str(net) for net in nets))


def subnets_of(addresses: Iterable[Value]) -> list[Value]:
    """The networks of addresses; unknown for an unknown one."""
    nets = (UNKNOWN if a is UNKNOWN else str(parse_interface(a).network) for a in addresses)
    return list(dict.fromkeys(nets))


def gateway_of(addresses: Iterable[Value], family: int) -> Value:
    """The first address of a family, bare; unknown where an unknown one may come before it."""
    for address in addresses:
        if address is UNKNOWN:
            return UNKNOWN
        found = parse_interface(address)
        if found.version == family:
            return str(found.ip)
    return None


class Bridge(Kind[BridgeInputs]):
    """The kind of a bridge: a link, its addresses, its DHCP server."""

    name = "Bridge"
    token = "hostnet:index:Bridge"
    doc = (
        "A Linux bridge: a network of guests on the host. It can serve DHCP and DNS, and send IPv6 router "
        "advertisements. Every property except `name` changes in place: ports stay attached, and leases stay valid."
    )
    inputs = Record(BridgeInputs, rules=_bridge_rules)
    results = Record(BridgeOutputs)
    derived_from = True

    def fill_name(self, kept: dict[str, Value], olds: Inputs, autoname: Autoname, report: Report) -> None:
        """Name the bridge after the resource."""
        fill_interface_name(kept, olds, autoname, report, "br")

    def make_id(self, urn: str, inputs: BridgeInputs) -> str:
        """The name."""
        return inputs.name

    def desired(self, urn: str, id: str, inputs: BridgeInputs, past: Past) -> tuple[Object, ...]:
        """The link, its addresses and its server."""
        link = Link(inputs.name, "bridge", **{**fields_of(inputs), "mac": self._mac(urn, inputs, past)})
        addresses = tuple(Address(inputs.name, cidr) for cidr in inputs.addresses)
        if inputs.dhcp_server is None and not inputs.ipv6_send_ra:
            return (link, *addresses)
        return (link, *addresses, _server(inputs))

    @staticmethod
    def _mac(urn: str, inputs: BridgeInputs, past: Past) -> str | None:
        """The declared MAC address, or the bridge's present one, or a derived one for a bridge that is created."""
        if inputs.mac_address:
            return inputs.mac_address
        had = past.outputs.get("macAddress")
        if isinstance(had, str) and past.inputs.get("macAddress") is None:
            return had
        # A new one has its own: else the kernel gives a bridge the lowest of its ports', and another one as they join
        # (Linux 6.18).
        # A bridge that is taken over keeps its MAC address: its guests have it in their neighbour tables.
        return None if inputs.adopt else derived_mac(_DERIVED_FIRST, "bridge", urn, inputs.name)

    def outputs(self, urn: str, inputs: Inputs, view: View) -> Outputs:
        """What the kernel has of the bridge, and the leases of its DHCP server."""
        link = view.state(LinkState)
        if link is None:
            return {"name": inputs.get("name") or view.id, "addresses": [], "subnets": [], "leases": []}
        served = view.state(DhcpState)
        leases = [
            {"macAddress": x.mac, "address": x.address, "hostname": x.hostname, "expires": x.expires}
            for x in (served.leases if served else ())
        ]
        return without_none(
            {
                "name": link.name,
                "ifindex": link.ifindex or None,
                "macAddress": link.mac,
                "mtu": link.mtu,
                "addresses": list(link.addresses),
                "subnets": subnets_of(link.addresses),
                "gateway": gateway_of(link.addresses, IPV4),
                "gateway6": gateway_of(link.addresses, IPV6),
                "leases": leases,
            }
        )

    def preview_outputs(
        self,
        urn: str,
        inputs: Inputs,
        old_outputs: Inputs | None,
        old_inputs: Inputs | None = None,
        look: Look = nothing,
    ) -> Outputs:
        """What follows from the inputs; an update keeps what the kernel chose."""
        now, had = self.inputs.canonical(inputs), old_outputs or {}
        addresses = now["addresses"]
        whole = addresses is not UNKNOWN
        return {
            "name": now["name"],
            "ifindex": had.get("ifindex", UNKNOWN),
            "macAddress": self._preview_mac(urn, now, had, old_inputs),
            "mtu": now["mtu"] if now["mtu"] is not None else had.get("mtu", UNKNOWN),
            "addresses": addresses,
            "subnets": subnets_of(addresses) if whole else UNKNOWN,
            "gateway": gateway_of(addresses, IPV4) if whole else UNKNOWN,
            "gateway6": gateway_of(addresses, IPV6) if whole else UNKNOWN,
            "leases": [] if now["dhcpServer"] is None else had.get("leases", UNKNOWN),
        }

    @staticmethod
    def _preview_mac(urn: str, now: dict[str, Value], had: Inputs, old_inputs: Inputs | None) -> Value:
        if now["macAddress"] is not None:
            return now["macAddress"]
        kept = had.get("macAddress")
        if kept is not None and (old_inputs is None or old_inputs.get("macAddress") is None):
            return kept
        if now["adopt"] is not False or now["name"] is UNKNOWN:
            return UNKNOWN
        return derived_mac(_DERIVED_FIRST, "bridge", urn, now["name"])

    def recorded(self, view: View) -> dict[str, Value]:
        """The recorded bridge as inputs, without a derived MAC address and `adopt`."""
        link = view.object(Link)
        out: dict[str, Value] = {"name": view.id}
        if link is not None:
            out |= declared_by(self.inputs, link, but={"macAddress", "adopt"})
        elif (seen := view.state(LinkState)) is not None and seen.mtu != ETHERNET_MTU:
            out["mtu"] = seen.mtu
        server = view.object(DhcpServer)
        return out | _recorded_server(server, view) if server else out

    def settle(self, declared: dict[str, Value], view: View) -> None:
        """Show the bridge as the kernel has it, with addresses that are not declared."""
        link = view.state(LinkState)
        if link is None:
            return
        settle(declared, self.inputs, link)
        settle_list(declared, self.inputs, "addresses", link.open_to)
        if link.port_mtu is not None:
            settle_value(declared, self.inputs, "mtu", link.port_mtu)
        if link.dropped:
            settle_value(declared, self.inputs, "openFirewall", seen=False)
        if view.object(DhcpServer):
            served = view.state(DhcpState)
            if served is None or not (served.running and served.reached and served.guarded):
                declared.pop("dhcpServer", None)
            if served is None or not (served.running and served.guarded):
                settle_value(declared, self.inputs, "ipv6SendRa", seen=False)


def _server(inputs: BridgeInputs) -> DhcpServer:
    dhcp = inputs.dhcp_server or DhcpServerInputs()
    prefixes = inputs.ipv6_prefixes
    if prefixes is None:
        prefixes = advertised(map(parse_interface, inputs.addresses))
    return DhcpServer(
        bridge=inputs.name,
        dhcp=inputs.dhcp_server is not None,
        range_start=dhcp.range_start,
        range_end=dhcp.range_end,
        lease_time=dhcp.lease_time,
        dns_servers=dhcp.dns_servers,
        domain=dhcp.domain,
        static_leases=tuple(StaticLease(x.mac_address, x.address, x.hostname) for x in dhcp.static_leases),
        send_ra=inputs.ipv6_send_ra,
        ra_prefixes=prefixes if inputs.ipv6_send_ra else (),
        open_firewall=inputs.open_firewall,
    )


def _recorded_server(server: DhcpServer, view: View) -> dict[str, Value]:
    out: dict[str, Value] = {}
    if server.dhcp:
        leases = [
            without_none({"macAddress": x.mac, "address": x.address, "hostname": x.hostname})
            for x in server.static_leases
        ]
        out["dhcpServer"] = without_none(
            {
                "rangeStart": server.range_start,
                "rangeEnd": server.range_end,
                "leaseTime": server.lease_time if server.lease_time != DhcpServer.lease_time else None,
                "dnsServers": None if server.dns_servers is None else list(server.dns_servers),
                "domain": server.domain,
                "staticLeases": leases or None,
            }
        )
    if server.send_ra:
        link = view.state(LinkState)
        out["ipv6SendRa"] = True
        if link and server.ra_prefixes != advertised(map(parse_interface, link.addresses)):
            out["ipv6Prefixes"] = list(server.ra_prefixes)
    return out


BRIDGE = Bridge()
