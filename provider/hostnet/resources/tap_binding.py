"""TapBinding: a TAP interface that hostnet creates for a VM, or a glob that attaches other interfaces to a bridge."""

# ruff: noqa: A002 (an id is what Pulumi calls it)
# ruff: noqa: ARG002 (hooks get what some kind needs)
# ruff: noqa: S105 (a Pulumi type token)

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from hostnet.resources.bridge import MTU_MIN, enough_for_v6, gateway_of, no_address_twice
from hostnet.resources.egress import EGRESS, EGRESS_FIELD, EgressRuleInputs, named_rules
from hostnet.resources.schema.connection import ConnectionInputs, connection_prop
from hostnet.resources.schema.fields import declared_by, fields_of, settle, settle_list, settle_value
from hostnet.resources.schema.kind import Kind, Past
from hostnet.resources.schema.model import (
    Changes,
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
    Account,
    Bool,
    Glob,
    GuestAddress,
    HostCidr,
    HostName,
    Int,
    InterfaceName,
    IpInterface,
    Mac,
    NetCidr,
    Rate,
    parse_interface,
    rate_bits,
    rate_text,
)
from hostnet.resources.schema.values import UNKNOWN, Autoname, Inputs, Look, Outputs, Value, nothing
from hostnet.wire.objects import (
    ETHERNET_MTU,
    TAP_MTU_MAX,
    Address,
    GlobState,
    Guest,
    GuestState,
    Link,
    LinkState,
    Object,
    Port,
    Route,
)
from hostnet.wire.objects import Glob as GlobObject
from hostnet.wire.subnets import derived_guest, gateway_for, netmask_for, reserved, routed_guest

if TYPE_CHECKING:
    from hostnet.wire.requests import View

_GATEWAYS = (("gateway", IPV4), ("gateway6", IPV6))
_DERIVED_FIRST = 0x02  # locally administered, unicast
_NOT_WITH_MATCH = ("owner", "group", "multiQueue", "vnetHdr", "mtu", "addresses", "routes", "guest", "bandwidth")


class GuestInputs(Declared):
    """The guest behind a TAP. `{}`: its MAC address and its addresses are derived."""

    mac_address: str | None = prop(
        Mac(), "The guest's MAC address.", default_doc="derived from the resource, always the same"
    )
    addresses: tuple[str, ...] | None = prop(
        ListOf(GuestAddress(), ordered=True),
        "The guest's addresses, with or without prefix length. The first IPv4 address is the one in `kernelIpArg`. "
        "With an empty list the guest has no address.",
        default_doc="the lowest free address of each subnet of the bridge, kept as long as the resource exists and the "
        "bridge has the subnet; on a routed TAP the other address of each subnet of its own (`172.16.0.1/30`: "
        "`172.16.0.2/30`), and the addresses that `routes` lead to",
    )
    hostname: str | None = prop(
        HostName(), "The guest's name in the bridge's DNS. Each name has one machine.", default_doc="none"
    )

    anti_spoofing: bool = prop(
        Bool(),
        "Lets the guest send only with its own MAC address and, in ARP, IPv4, IPv6 and neighbour advertisements, with "
        "its own addresses: `addresses`, `allowedAddresses`, what `routes` of a routed TAP lead to, link-local ones "
        "that nobody else has, and where the bridge has `ipv6SendRa` and there is no `egress`, free ones of the "
        "advertised prefixes. DHCP requests and duplicate address detection pass. The guest can't act as DHCP server "
        "or router, tag VLANs, or use other protocols than ARP and IP. Where neither the bridge nor the guest has an "
        "address of a family, only the MAC address is checked in that family, and that the guest is no server and no "
        "router.",
        default=True,
        effect="The TAP is in the set `guest_links` (on a bridge) or `tap_links` (routed), its addresses are in sets "
        "beside it: their chains drop the rest.",
    )
    allowed_addresses: tuple[str, ...] = prop(
        ListOf(NetCidr()),
        "Networks whose addresses the guest may have besides its own, such as `10.0.0.100/32` for an address that "
        "moves between guests. Without `antiSpoofing` they have no effect.",
        default=(),
        effect="They are in the sets `guest_addrs4`, `guest_nets4` and the like.",
    )
    proxy_interface: str | None = prop(
        InterfaceName(),
        "The interface on which the host answers ARP and neighbour solicitations for the guest's addresses: for public "
        "addresses that a provider delivers on the link. It answers for these alone, and not for the default gateway's "
        "address.",
        default_doc="none",
        effect="Each address is a proxy entry of the neighbour table of that interface. Forwarding of its family is "
        "switched on, and for IPv6 the interface's `proxy_ndp`.",
    )
    egress: tuple[EgressRuleInputs, ...] | None = prop(
        EGRESS,
        "What the guest may reach beyond its own bridge: only what one of the rules allows. With an empty list it "
        "reaches nothing there. It takes the place of the `egress` of the NatGateway, and requires `antiSpoofing`. "
        "Replies to what came in pass, also by a port forward, and ICMP errors. The host's own addresses are not "
        "concerned, but what a port forward on them leads to has to be allowed. An update ends connections that are "
        "not allowed any more, and keeps the others. The guest can't choose addresses of its bridge's prefixes "
        "(SLAAC).",
        default_doc="what the NatGateway allows",
        effect="The guest, by interface and MAC address, and each rule are elements of sets in the forward hook. The "
        "rest is refused: TCP with a reset, other protocols with an ICMP error.",
    )


# What is done with a guest's packets, not what it is.
_FILTERS = ("antiSpoofing", "allowedAddresses", "egress", "proxyInterface")


def _filter_rules(judged: dict[str, Value], path: str, report: Report) -> None:
    if judged["antiSpoofing"] is False and judged["egress"] is not None and judged["egress"] is not UNKNOWN:
        report.fail(join(path, "egress"), "requires antiSpoofing: else the guest takes another one's address")


GUEST: Record[GuestInputs] = Record(GuestInputs, "hostnet:index:Guest", rules=_filter_rules)


class BandwidthInputs(Declared):
    """The limits of a guest's traffic, from the guest's side."""

    download: str | None = prop(
        Rate(),
        "The rate at which the guest receives at most: bits a second, as `tc` writes them (`100mbit`, `1gbit`), from "
        "`64kbit` to `10gbit`.",
        default_doc="no limit",
        effect="A token bucket (tc `tbf`) is the TAP's queueing discipline, for all its queues together; where the "
        "kernel has `fq_codel`, connections share the rate fairly.",
    )
    upload: str | None = prop(
        Rate(),
        "The rate at which the guest sends at most, in the same form.",
        default_doc="no limit",
        effect="nftables drops what exceeds it, in front of all other rules. A guest that sent less may send as much "
        "as a second's rate and 64 KiB at once.",
    )


BANDWIDTH: Record[BandwidthInputs] = Record(BandwidthInputs, "hostnet:index:Bandwidth")


class GuestOutput(Declared):
    """The network settings for a VM."""

    mac_address: str = output(OUT_TEXT, "The guest's MAC address.")
    addresses: tuple[str, ...] = output(ListOf(OUT_TEXT), "The guest's addresses with prefix lengths.")
    gateway: str | None = output(OUT_TEXT, "The guest's IPv4 gateway.", always=False)
    gateway6: str | None = output(OUT_TEXT, "The guest's IPv6 gateway.", always=False)
    kernel_ip_arg: str = output(
        OUT_TEXT,
        "The argument for the command line of the guest's kernel, "
        '`ip=<client>::<gateway>:<netmask>:<hostname>:eth0:off`. It is `""` for a guest without an IPv4 address. A '
        "kernel accepts only a gateway on the guest's own link. For a gateway outside the guest's subnet, the netmask "
        "is that of the smallest network that holds both; the guest reaches none of its other addresses.",
    )


GUEST_NETWORK: Record[GuestOutput] = Record(GuestOutput, "hostnet:index:GuestNetwork")


class TapBindingInputs(Declared):
    """What a program declares of a TAP binding."""

    name: str | None = prop(
        InterfaceName(ours=True),
        "The name of the TAP that is created: 1 to 15 bytes. Not together with `match`.",
        default_doc="the resource's name, shortened, with a suffix; none with `match`",
        effect="A persistent TAP is created (TUNSETIFF, TUNSETPERSIST).",
        replaces=True,
    )
    match: str | None = prop(
        Glob(),
        "A glob such as `vm-*`. Interfaces whose names match are attached to `bridge`, those that exist and those that "
        "appear later. It requires `bridge`; beside it only `isolated` and `connection` are allowed.",
        effect="Matching interfaces become ports of the bridge. A delete detaches exactly these. An uplink or a "
        "physical interface that matches is an error.",
        replaces=True,
    )
    bridge: str | None = prop(
        InterfaceName(),
        "The name of the bridge to attach to.",
        default_doc="none: a routed TAP",
        effect="The bridge becomes the interface's master.",
    )
    owner: str | None = prop(
        Account(),
        "The user, by name or number, who may open the TAP.",
        default_doc="root",
        effect="The TAP's owner is set (TUNSETOWNER).",
        field="user",
    )
    group: str | None = prop(
        Account(),
        "The group, by name or number, that may open the TAP.",
        default_doc="none",
        effect="The TAP's group is set (TUNSETGROUP).",
        field="group",
    )
    multi_queue: bool = prop(
        Bool(),
        "Gives the TAP several queues, so that several virtual CPUs can use it at the same time.",
        default=False,
        effect="The TAP has the flag IFF_MULTI_QUEUE.",
        replaces=True,
        field="multi_queue",
    )
    vnet_hdr: bool = prop(
        Bool(),
        "Puts a virtio-net header before each packet, so that the guest can leave checksums and segmentation to the "
        "host.",
        default=True,
        effect="The TAP has the flag IFF_VNET_HDR.",
        replaces=True,
        field="vnet_hdr",
    )
    mtu: int | None = prop(
        Int(MTU_MIN, TAP_MTU_MAX),
        "The TAP's MTU.",
        unit="bytes",
        default_doc="the `mtu` of the bridge; without one, the kernel's choice",
        effect="`mtu` of the TAP is set.",
        field="mtu",
        host_decides=True,
    )
    isolated: bool = prop(
        Bool(),
        "Isolates the port from other isolated ports of the bridge.",
        default=False,
        effect="`isolated` of the bridge port is set.",
    )
    addresses: tuple[str, ...] = prop(
        ListOf(HostCidr(), ordered=True),
        "The host's addresses on a routed TAP, such as `10.0.0.0/32`. The first address of each family is the guest's "
        "gateway.",
        default=(),
        effect="The addresses are added. Any other address on the TAP is drift, and the next update removes it. The "
        "TAP ignores router advertisements (accept_ra=0). If it does not, it shows the address `::/0`.",
    )
    routes: tuple[str, ...] = prop(
        ListOf(NetCidr()),
        "The networks, without host bits, behind a routed TAP, such as `10.0.0.5/32`. A network must not overlap a "
        "subnet, route or guest of another resource, nor hold the host's gateway or an address of another interface.",
        default=(),
        effect="A route to each is added to the main table.",
    )
    guest: GuestInputs | None = prop(
        GUEST,
        "The guest behind the TAP. On a bridge with a `dhcpServer` it has a static lease.",
        default_doc="no guest, and no address is reserved; `{}`: all is derived",
    )
    bandwidth: BandwidthInputs | None = prop(
        BANDWIDTH, "Limits of what the guest receives and sends.", default_doc="no limits"
    )
    connection: ConnectionInputs | None = connection_prop()


class TapBindingOutputs(Declared):
    """What a TAP binding is on its host."""

    name: str | None = output(OUT_TEXT, "The TAP's name. There is none with `match`.")
    ifindex: int | None = output(OUT_INT, "The kernel's index of the TAP. There is none with `match`.")
    members: tuple[str, ...] = output(
        ListOf(OUT_TEXT), "The interfaces that were attached at the last read. A change of them is not drift."
    )
    guest: Value = output(
        GUEST_NETWORK,
        "The guest's network settings. There are none without `guest`.",
    )


def _tap_rules(judged: dict[str, Value], path: str, report: Report) -> None:
    if judged["match"] is not None:
        _match_rules(judged, path, report)
        return
    here = [(index, parse_interface(item)) for index, item in known_items(judged["addresses"])]
    routes = [parse_interface(item) for _, item in known_items(judged["routes"])]
    no_address_twice(here, join(path, "addresses"), report)
    enough_for_v6(known(judged["mtu"]), [*(a for _, a in here), *routes], join(path, "mtu"), report)
    if judged["bridge"] is None:
        if judged["isolated"] is True:
            report.fail(join(path, "isolated"), "requires bridge: only ports of a bridge can be isolated")
    elif judged["bridge"] is not UNKNOWN:
        for name in ("addresses", "routes"):
            if judged[name] is not UNKNOWN and judged[name]:
                report.fail(join(path, name), "must not be given together with bridge: it is for a routed TAP")
    if judged["bridge"] is None and known(judged["guest"]):
        place = join(join(path, "guest"), "egress")
        for number in named_rules(judged["guest"]["egress"]):
            report.fail(f"{place}[{number}].domain", "requires bridge: its own DNS says which addresses it has")
    if known(judged["guest"]):
        _guest_rules(judged["guest"], [a for _, a in here], join(path, "guest"), report)


def _guest_rules(guest: dict[str, Value], own: list[IpInterface], path: str, report: Report) -> None:
    addresses = [(i, _interface(item)) for i, item in known_items(guest["addresses"])]
    place = join(path, "addresses")
    no_address_twice(addresses, place, report)
    for index, address in addresses:
        ip = address.ip
        if any(ip == each.ip for each in own):
            report.fail(f"{place}[{index}]", f"must not be the TAP's own address {ip}")
        for why in {reserved(ip, each.network) for each in own if ip in each.network} - {""}:
            report.fail(f"{place}[{index}]", f"must be a host address in the TAP's subnet, not {why} {ip}")


def _interface(address: str) -> IpInterface:
    return ipaddress.ip_interface(address)


def _match_rules(judged: dict[str, Value], path: str, report: Report) -> None:
    if judged["match"] is UNKNOWN:
        return
    if judged["name"] is not None and judged["name"] is not UNKNOWN:
        report.fail(
            join(path, "match"),
            "must not be given together with name: a TapBinding is either one TAP (name) or a glob (match)",
        )
    if judged["bridge"] is None:
        report.fail(join(path, "bridge"), "is required with match: the interfaces are attached to it")
    for name in _NOT_WITH_MATCH:
        if judged[name] is not None and judged[name] is not UNKNOWN:
            report.fail(
                join(path, name), "must not be given together with match: hostnet does not create these interfaces"
            )


class TapBinding(Kind[TapBindingInputs]):
    """The kind of a TAP binding: a TAP with its port, addresses, routes and guest; or a glob."""

    name = "TapBinding"
    token = "hostnet:index:TapBinding"
    doc = (
        "A VM's TAP interface: either one persistent TAP that hostnet creates (`name`), or all interfaces that match a "
        "glob and that other programs create, now or later (`match`). With `guest` it also assigns the guest's MAC and "
        "IP addresses. The id is the name, or `<bridge>/<match>`."
    )
    inputs = Record(TapBindingInputs, rules=_tap_rules)
    results = Record(TapBindingOutputs)

    def fill_name(self, kept: dict[str, Value], olds: Inputs, autoname: Autoname, report: Report) -> None:
        """A `match` has no name."""
        if kept.get("match") is None:
            fill_interface_name(kept, olds, autoname, report, "tap")

    def refine(self, old_inputs: Inputs, old_outputs: Inputs, inputs: Inputs, changes: Changes) -> None:
        """A match's id holds its bridge."""
        del old_outputs
        if "bridge" in changes and old_inputs.get("match") is not None and inputs.get("match") is not None:
            changes["bridge"] += "-replace"

    def make_id(self, urn: str, inputs: TapBindingInputs) -> str:
        """The name, or bridge and glob."""
        return f"{inputs.bridge}/{inputs.match}" if inputs.match else f"{inputs.name}"

    def desired(self, urn: str, id: str, inputs: TapBindingInputs, past: Past) -> tuple[Object, ...]:
        """A glob; or the TAP with its port, addresses, routes and guest."""
        if inputs.match:
            return (GlobObject(inputs.bridge or "", inputs.match, inputs.isolated),)
        name = inputs.name or id
        limits: dict[str, Value] = {**fields_of(inputs), **_limits(inputs.bandwidth or BandwidthInputs())}
        objects: list[Object] = [Link(name, "tap", **limits)]
        if inputs.bridge:
            objects.append(Port(name, inputs.bridge, inputs.isolated))
        objects += (Address(name, cidr) for cidr in inputs.addresses)
        objects += (Route(name, cidr) for cidr in inputs.routes)
        if inputs.guest is not None:
            objects.append(self._guest(urn, name, inputs, inputs.guest, past))
        return tuple(objects)

    @staticmethod
    def _guest(urn: str, name: str, inputs: TapBindingInputs, guest: GuestInputs, past: Past) -> Guest:
        had = past.outputs.get("guest")
        hint: tuple[str, ...] = ()
        if guest.addresses is None and isinstance(had, Mapping):
            hint = tuple(had.get("addresses") or ())
        addresses = guest.addresses
        if not inputs.bridge:
            addresses = routed_guest(inputs.addresses, inputs.routes, guest.addresses)
        mac = guest.mac_address or _kept_mac(past.inputs, past.outputs) or guest_mac(urn)
        return Guest(
            link=name,
            bridge=inputs.bridge,
            mac=mac,
            addresses=addresses,
            hostname=guest.hostname,
            hint=hint,
            anti_spoofing=guest.anti_spoofing,
            allowed=guest.allowed_addresses,
            proxy=guest.proxy_interface,
            egress=EGRESS_FIELD.to_wire(guest.egress),
            unlimited=inputs.bandwidth is None or inputs.bandwidth.upload is None,
        )

    def outputs(self, urn: str, inputs: Inputs, view: View) -> Outputs:
        """The TAP with its guest, or the interfaces that a glob has attached."""
        if inputs.get("match") is not None:
            attached = view.state(GlobState)
            return {"members": list(attached.members) if attached else []}
        link = view.state(LinkState)
        name = link.name if link else inputs.get("name") or view.id
        guest = view.state(GuestState)
        return without_none(
            {
                "name": name,
                "ifindex": (link.ifindex or None) if link else None,
                "members": [name],
                "guest": _guest_output(guest) if guest else None,
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
        """What follows from the inputs; an update keeps what the host chose for the guest."""
        now, had = self.inputs.canonical(inputs), old_outputs or {}
        if now["match"] is not None:
            return {"name": None, "ifindex": None, "members": had.get("members", UNKNOWN), "guest": None}
        guest: Value = None
        if now["guest"] is UNKNOWN:
            guest = UNKNOWN
        elif now["guest"] is not None:
            before, after = (_without_filters(each) for each in (old_inputs, inputs))
            same = self.unchanged(before, after or {}, "guest", "bridge", "routes", "addresses")
            if same and had.get("guest") and not self.derive_again(had, inputs, look):
                guest = had["guest"]
            else:
                guest = _guest_preview(urn, now, old_inputs or {}, had, _bridge_addresses(inputs, look))
        return {
            "name": now["name"],
            "ifindex": had.get("ifindex", UNKNOWN),
            "members": [now["name"]],
            "guest": guest,
        }

    def derive_again(self, old_outputs: Inputs, inputs: Inputs, look: Look) -> Changes:
        """A guest has an address of each subnet of its bridge, and gateways that are in its subnets."""
        own, had, guest = _bridge_addresses(inputs, look), old_outputs.get("guest"), inputs.get("guest")
        if own is None or not isinstance(had, Mapping) or not isinstance(guest, Mapping):
            return {}
        addresses = had.get("addresses") or []
        changes: Changes = {}
        derived = guest.get("addresses") is None
        if sorted(addresses) != sorted(derived_guest(addresses, own) if derived else _on_bridge(addresses, own)):
            changes["guest.addresses"] = "update"
        for name, version in _GATEWAYS:
            if gateway_for(addresses, own, version) != had.get(name):
                changes[f"guest.{name}"] = "update"
        return changes

    def recorded(self, view: View) -> dict[str, Value]:
        """The recorded TAP or glob as inputs, without a guest's derived MAC and addresses."""
        glob = view.object(GlobObject)
        if glob is not None:
            return without_none({"match": glob.pattern, "bridge": glob.bridge, "isolated": glob.isolated or None})
        link, seen = view.object(Link), view.state(LinkState)
        port, guest = view.object(Port), view.object(Guest)
        out: dict[str, Value] = {"name": view.id}
        if link is not None:
            out |= declared_by(self.inputs, link) | _bandwidth(link)
        elif seen is not None:
            out |= {"mtu": seen.mtu} if seen.mtu != ETHERNET_MTU else {}
            out |= {} if seen.vnet_hdr else {"vnetHdr": False}
        if port is not None and port.isolated:
            out["isolated"] = True
        if guest is not None:
            out["guest"] = without_none(
                {
                    "hostname": guest.hostname,
                    "antiSpoofing": None if guest.anti_spoofing else False,
                    "allowedAddresses": list(guest.allowed) or None,
                    "proxyInterface": guest.proxy,
                    "egress": EGRESS_FIELD.from_wire(guest.egress),
                }
            )
        return out

    def settle(self, declared: dict[str, Value], view: View) -> None:
        """Show the TAP, or what a glob has attached, as the kernel has it."""
        if (attached := view.state(GlobState)) is not None:
            if attached.members:
                settle_value(declared, self.inputs, "isolated", attached.isolated)
            return
        link = view.state(LinkState)
        if link is None:
            return
        # vnetHdr is left: whoever opens the TAP sets that flag (tun_set_iff), so what the kernel has says nothing.
        settle(declared, self.inputs, link, but={"vnetHdr"})
        settle_value(declared, self.inputs, "bridge", link.bridge)
        if link.bridge is not None:
            settle_value(declared, self.inputs, "isolated", link.isolated)
        _settle_bandwidth(declared, link)
        settle_list(declared, self.inputs, "addresses", link.open_to)
        settle_list(declared, self.inputs, "routes", link.routes)
        self._settle_guest(declared, view)

    @staticmethod
    def _settle_guest(declared: dict[str, Value], view: View) -> None:
        guest = declared.get("guest")
        if not isinstance(guest, Mapping) or view.object(Guest) is None:
            return
        seen = view.state(GuestState)
        if seen is None:
            del declared["guest"]
            return
        found = dict(guest)
        if found.get("macAddress") is not None:
            settle_value(found, GUEST, "macAddress", seen.mac)
        if found.get("addresses") is None and (seen.astray or seen.lacking):
            found["addresses"] = list(seen.addresses)  # they were derived from other subnets
        elif found.get("addresses") is not None:
            bare = {str(_interface(a).ip): a for a in seen.addresses if a not in seen.astray}
            kept = [a for a in found["addresses"] if str(_interface(a).ip) in bare]
            ours = {str(_interface(a).ip) for a in kept}
            found["addresses"] = kept + [cidr for ip, cidr in bare.items() if ip not in ours]
        settle_value(found, GUEST, "antiSpoofing", seen.anti_spoofing)
        settle_list(found, GUEST, "allowedAddresses", seen.allowed)
        settle_value(found, GUEST, "proxyInterface", seen.proxy)
        settle_value(found, GUEST, "egress", EGRESS_FIELD.from_wire(seen.egress))
        declared["guest"] = found


def _limits(bandwidth: BandwidthInputs) -> dict[str, int | None]:
    """The fields of a TAP's object."""
    rates = ((name, getattr(bandwidth, name)) for name in BANDWIDTH.properties)
    return {name: rate_bits(rate) if rate else None for name, rate in rates}


def _bandwidth(link: Link | LinkState) -> dict[str, Value]:
    """The property that gives a TAP its limits; none for one without."""
    found = without_none({name: getattr(link, name) for name in BANDWIDTH.properties})
    return {"bandwidth": {name: rate_text(bits) for name, bits in found.items()}} if found else {}


def _settle_bandwidth(declared: dict[str, Value], link: LinkState) -> None:
    """Show the limits that the kernel has, with the declared spelling of those that are as declared."""
    there = _bandwidth(link).get("bandwidth", {})
    given = declared.get("bandwidth")
    found = dict(given) if isinstance(given, Mapping) else {}
    for name in BANDWIDTH.properties:
        settle_value(found, BANDWIDTH, name, there.get(name))
    if found or given is not None:
        declared["bandwidth"] = found


def _without_filters(inputs: Inputs | None) -> Inputs | None:
    """Inputs without what changes nothing of a guest's own settings."""
    guest = inputs.get("guest") if inputs is not None else None
    if inputs is None or not isinstance(guest, Mapping):
        return inputs
    return {**inputs, "guest": {name: value for name, value in guest.items() if name not in _FILTERS}}


def _bridge_addresses(inputs: Inputs, look: Look) -> list[str] | None:
    """What this run has made of the addresses of the bridge; None where it has not, or they are not known."""
    bridge = look("Bridge", inputs.get("bridge"))
    own = bridge.get("addresses") if bridge is not None else None
    return own if isinstance(own, list) and UNKNOWN not in own else None


def _on_bridge(addresses: Iterable[str], own: list[str]) -> list[str]:
    """A guest's declared addresses with the prefix lengths of a bridge with these addresses; "" for one that can't be.

    Args:
        addresses: The guest's.
        own: The bridge's.
    """
    subnets = [each.network for each in map(_interface, own) if each.network.num_addresses > 1]
    found: list[str] = []
    for address in map(_interface, addresses):
        home = next((each for each in subnets if address.ip in each), None)
        found.append(f"{address.ip}/{home.prefixlen}" if home else "")
    return found


def guest_mac(urn: str) -> str:
    """A guest's derived MAC address."""
    return derived_mac(_DERIVED_FIRST, "guest", urn)


def _kept_mac(old_inputs: Inputs, old_outputs: Inputs) -> str | None:
    """The derived MAC that a guest has already: after an alias or an import the resource has another URN."""
    had, declared = old_outputs.get("guest"), old_inputs.get("guest")
    if not isinstance(had, Mapping) or not isinstance(declared, Mapping) or declared.get("macAddress") is not None:
        return None
    return had.get("macAddress")


def kernel_ip_arg(addresses: tuple[str, ...] | list[str], gateway: str | None, hostname: str | None) -> str:
    """The `ip=` argument (kernel docs, admin-guide/nfs/nfsroot); "" without an IPv4 address."""
    client = next((a for a in map(ipaddress.ip_interface, addresses) if isinstance(a, ipaddress.IPv4Interface)), None)
    if client is None:
        return ""
    return f"ip={client.ip}::{gateway or ''}:{netmask_for(client, gateway)}:{hostname or ''}:eth0:off"


def _guest_output(guest: GuestState) -> dict[str, Value]:
    return without_none(
        {
            "macAddress": guest.mac,
            "addresses": list(guest.addresses),
            "gateway": guest.gateway,
            "gateway6": guest.gateway6,
            "kernelIpArg": kernel_ip_arg(guest.addresses, guest.gateway, guest.hostname),
        }
    )


def _guest_preview(
    urn: str, now: dict[str, Value], old_inputs: Inputs, had: Inputs, own: list[str] | None
) -> dict[str, Value]:
    """What is known of a guest without asking the host.

    Args:
        urn: The resource's URN.
        now: Its inputs, canonical.
        old_inputs: Those of the state.
        had: The outputs of the state.
        own: The addresses of its bridge; None: not known.
    """
    guest = now["guest"]
    mac = guest["macAddress"]
    if mac is None:
        mac = _kept_mac(old_inputs, had) or guest_mac(urn)
    if now["bridge"] is not None:
        return {"macAddress": mac, **_bridged_preview(guest, own)}
    return {"macAddress": mac, **_routed_preview(now, guest)}


def _bridged_preview(guest: dict[str, Value], own: list[str] | None) -> dict[str, Value]:
    """The rest for a guest on a bridge, whose gateways and prefix lengths are the bridge's."""
    if own is None:
        return dict.fromkeys(("addresses", "gateway", "gateway6", "kernelIpArg"), UNKNOWN)
    given = guest["addresses"]
    if given is None:
        subnets = [each for each in own if _interface(each).network.num_addresses > 1]
        gateways = {name: gateway_for(subnets, own, version) for name, version in _GATEWAYS}
        # The host allocates the addresses. Without an IPv4 subnet it is known that there is no argument.
        return {"addresses": UNKNOWN, **without_none(gateways), "kernelIpArg": UNKNOWN if gateways["gateway"] else ""}
    if given is UNKNOWN or UNKNOWN in given:
        return dict.fromkeys(("addresses", "gateway", "gateway6", "kernelIpArg"), UNKNOWN)
    addresses = [each or UNKNOWN for each in _on_bridge((str(_interface(x)) for x in given), own)]
    return _settings(addresses, own, guest["hostname"])


def _settings(addresses: list[Value], own: list[str], hostname: Value) -> dict[str, Value]:
    """Addresses, gateways and the kernel's argument of a guest, as far as they follow from one another."""
    if UNKNOWN in addresses:
        return dict.fromkeys(("addresses", "gateway", "gateway6", "kernelIpArg"), UNKNOWN)
    found = {name: gateway_for(addresses, own, version) for name, version in _GATEWAYS}
    argument = UNKNOWN if hostname is UNKNOWN else kernel_ip_arg(addresses, found["gateway"], hostname)
    return without_none({"addresses": addresses, **found, "kernelIpArg": argument})


def _routed_preview(now: dict[str, Value], guest: dict[str, Value]) -> dict[str, Value]:
    """The rest for a routed TAP's guest, where all follows from the inputs."""
    given, routes, own = guest["addresses"], now["routes"], now["addresses"]
    if not any(each is UNKNOWN or UNKNOWN in each for each in (given or (), routes, own)):
        return _settings(list(routed_guest(own, routes, given)), own, guest["hostname"])
    gateways = {name: UNKNOWN if own is UNKNOWN else gateway_of(own, version) for name, version in _GATEWAYS}
    return without_none({"addresses": UNKNOWN, **gateways, "kernelIpArg": UNKNOWN})


TAP_BINDING = TapBinding()
