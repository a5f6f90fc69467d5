"""NatGateway: source NAT for internal networks, and port forwards into them, through external interfaces."""

# ruff: noqa: A002 (an id is what Pulumi calls it)
# ruff: noqa: ARG002 (hooks get what some kind needs)
# ruff: noqa: S105 (a Pulumi type token)

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hostnet.resources.egress import EGRESS, EGRESS_FIELD, EgressRuleInputs
from hostnet.resources.port_forward import (
    FORWARD_PORT,
    FORWARD_PORTS,
    FORWARDING,
    ForwardInputs,
    family_of,
    forward_of,
    overlapping,
    recorded_forward,
    settle_forward,
    to_forward,
)
from hostnet.resources.schema.connection import ConnectionInputs, connection_prop
from hostnet.resources.schema.fields import declared_by, fields_of, settle, switched_on
from hostnet.resources.schema.kind import Kind, Past
from hostnet.resources.schema.model import (
    Declared,
    Field,
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
from hostnet.resources.schema.naming import SUFFIX, digest, sanitised
from hostnet.resources.schema.types import IPV4, IPV6, OUT_TEXT, Bool, Choice, InterfaceName, Ip, NetCidr, Port
from hostnet.resources.schema.values import UNKNOWN, Inputs, Look, Outputs, Value, nothing
from hostnet.wire.family import FAMILIES, Family
from hostnet.wire.objects import Forward, Forwarding, ForwardState, Gateway, GatewayState, Object, unlike
from hostnet.wire.urn import Urn

if TYPE_CHECKING:
    from hostnet.wire.requests import View

_SSH = (22,)
_RESOLVED = frozenset({"external", "resolved"})  # what no inline forward declares
_ONE_OF = ("internalInterfaces", "internalIps", "internalIpv6s", "forwardPorts", "dmzHost", "dmzHostIpv6")
_PAIR = ("externalAddress", "internalAddress")
_NAME_MAX = 63  # of the readable part of an id


class OneToOneInputs(Declared):
    """An external address that stands for one guest."""

    external_address: str = prop(
        Ip(),
        "An address of an external interface, but not the only one of its family. hostnet does not add it to the host.",
        required=True,
        effect="It is a part of the key of an element of the DNAT map.",
    )
    internal_address: str = prop(
        Ip(),
        "The guest's address, of the same family.",
        required=True,
        effect="It is the element's value, and a part of the key of an element of the SNAT map.",
    )


ONE_TO_ONE: Record[OneToOneInputs] = Record(OneToOneInputs, "hostnet:index:OneToOneNat")


class NatGatewayInputs(Declared):
    """What a program declares of a NAT gateway."""

    external_interface: str | None = prop(
        InterfaceName(),
        "The interface that leads to the outside. Not together with `externalInterfaces`.",
        default_doc="the interfaces of all default routes, see `externalInterfaces`",
        effect="It is a part of the key of the gateway's elements in table `inet hostnet`.",
        field="external",
        host_decides=True,
    )
    external_interfaces: tuple[str, ...] = prop(
        ListOf(InterfaceName(), ordered=True),
        "The interfaces that lead to the outside, where there are several. What leaves by any of them is translated to "
        "that one's address, and port forwards listen on each. The first one is in the ids of port forwards. Not "
        "together with `externalInterface`.",
        default=(),
        default_doc="the interfaces of all default routes of the main table, also of 0.0.0.0/1 with 128.0.0.0/1, the "
        "route with the lowest metric first; looked up at each update, and a change of them is drift",
        effect="Each interface has its own elements, as `externalInterface` has.",
    )
    internal_interfaces: tuple[str, ...] = prop(
        ListOf(InterfaceName()),
        "Interfaces (bridges, routed TAPs) whose guests reach the outside. From outside, only port forwards and "
        "replies reach these guests. The same holds for IPv6 without `enableIpv6`, unless `routeIpv6` is true.",
        default=(),
        effect="Each interface is an element of a set. IPv4 forwarding is switched on.",
        field="internal",
        forwarding="ipv4",
    )
    internal_ips: tuple[str, ...] = prop(
        ListOf(NetCidr(IPV4)),
        "IPv4 networks, without host bits, whose guests reach the outside, on whichever interface they are. Where "
        "gateways overlap, the most specific network counts; the same network in two of one uplink is refused.",
        default=(),
        effect="Each network is an element of an interval set. IPv4 forwarding is switched on.",
        field="internal4",
        forwarding="ipv4",
    )
    internal_ipv6s: tuple[str, ...] = prop(
        ListOf(NetCidr(IPV6)),
        "IPv6 networks, without host bits, whose guests reach the outside, on whichever interface they are. They need "
        "`enableIpv6` or `routeIpv6`.",
        default=(),
        effect="Each network is an element of an interval set.",
        field="internal6",
    )
    enable_ipv6: bool = prop(
        Bool(),
        "Translates IPv6 as well (NAT66). Not together with `routeIpv6`.",
        default=False,
        effect="IPv6 forwarding is switched on. An uplink still accepts router advertisements (accept_ra=2).",
        field="nat6",
        forwarding="ipv6",
    )
    external_ip: str | None = prop(
        Ip(IPV4),
        "The source address of the guests' IPv4 traffic outside. hostnet does not add it to the host.",
        default_doc="the external interface's address (masquerade)",
        effect="SNAT replaces masquerade.",
        field="snat4",
    )
    external_ipv6: str | None = prop(
        Ip(IPV6),
        "The source address of the guests' IPv6 traffic outside. hostnet does not add it to the host.",
        default_doc="the external interface's address (masquerade)",
        effect="SNAT replaces masquerade.",
        field="snat6",
    )
    dmz_host: str | None = prop(
        Ip(IPV4),
        "The guest that receives all incoming IPv4 traffic, of any protocol but ICMP, that no port forward takes. TCP "
        "to `dmzExceptPorts` stays with the host. With `externalIp` it receives what comes to this address: "
        "then several gateways of one external interface may have a DMZ host each.",
        default_doc="none",
        effect="It is an element of the DNAT map that is looked up last. IPv4 forwarding is switched on.",
        field="dmz4",
        forwarding="ipv4",
    )
    dmz_host_ipv6: str | None = prop(
        Ip(IPV6),
        "The same as `dmzHost`, for IPv6 and `externalIpv6`.",
        default_doc="none",
        effect="It is an element of the DNAT map that is looked up last. IPv6 forwarding is switched on.",
        field="dmz6",
        forwarding="ipv6",
    )
    dmz_except_ports: tuple[int, ...] | None = prop(
        ListOf(Port()),
        "TCP ports that stay with the host although there is a `dmzHost`. With an empty list, none does.",
        default=_SSH,
        effect="Each port is an element of a set that is looked up before the DMZ host.",
        field=Field("dmz_except", to_wire=lambda ports: tuple(sorted(ports))),
    )
    forward_ports: tuple[ForwardInputs, ...] = prop(
        FORWARD_PORTS,
        "Port forwards through this gateway. One resource may hold thousands. Each needs its own combination of "
        "protocol, source port, listen addresses and family.",
        default=(),
        effect="Each forward is an element of the forward maps. A change of one forward changes only its own elements.",
    )
    one_to_one_nat: tuple[OneToOneInputs, ...] = prop(
        ListOf(ONE_TO_ONE, key=lambda item: item["externalAddress"]),
        "Addresses that stand for one guest each, in both directions and for every protocol, also ICMP. Port forwards "
        "of the address go before it, a `dmzHost` and masquerade after it.",
        default=(),
        effect="Each is an element of a DNAT map and of an SNAT map, which keep ports. Forwarding of its family is "
        "switched on.",
    )
    egress: tuple[EgressRuleInputs, ...] | None = prop(
        EGRESS,
        "What the gateway's guests may reach beyond their own bridge: only what one of the rules allows. With an empty "
        "list they reach nothing there. Replies to what came in pass, also by a port forward, and ICMP errors. The "
        "host's own addresses are not concerned, but what a port forward on them leads to has to be allowed. An update "
        "ends connections that are not allowed any more, and keeps the others.",
        default_doc="everything",
        effect="The guests' interfaces or networks, and each rule, are elements of sets in the forward hook. The rest "
        "is refused: TCP with a reset, other protocols with an ICMP error.",
        field=EGRESS_FIELD,
    )
    reply_by_same_uplink: bool = prop(
        Bool(),
        "Replies to connections that came in on an external interface with a default route leave by it, whatever the "
        "main routing table says. What the host itself sends is not touched. Of several gateways with one external "
        "interface, one is enough.",
        default=True,
        effect="Only where the host has a second uplink: such connections get a mark (of the bits 0x3f000000), and "
        "routing rules and tables lead their replies. A strict `rp_filter` of the external interface becomes loose.",
        field="reply",
    )
    mss_clamp: bool = prop(
        Bool(),
        "Lowers the maximum segment size (MSS) of forwarded TCP connections to the MTU of the path.",
        default=False,
        effect="`tcp option maxseg size set rt mtu` applies to the external interface.",
        field="mss_clamp",
    )
    internal_forwarding: bool = prop(
        Bool(),
        "Lets the gateway's internal interfaces and networks reach each other.",
        default=False,
        effect="Each pair is an element of the sets that the forward hook accepts.",
        field="internal_forwarding",
    )
    route_ipv4: bool = prop(
        Bool(),
        "Forwards IPv4 of `internalIps` in both directions without translation, for guests with public addresses. What "
        "else is behind `internalInterfaces` is translated as ever.",
        default=False,
        effect="Each network is an element of an interval set: its source is kept, and new connections to it are "
        "accepted from the external interfaces.",
        field="route4",
    )
    route_ipv6: bool = prop(
        Bool(),
        "Forwards IPv6 in both directions without translation, for guests with public IPv6 addresses. Not together "
        "with `enableIpv6`.",
        default=False,
        effect="IPv6 forwarding is switched on.",
        field="route6",
        forwarding="ipv6",
    )
    firewall: str = prop(
        Choice(
            "auto",
            "none",
            token="hostnet:index:FirewallMode",  # noqa: S106 - a type token
            doc="Whether a gateway's traffic is accepted in other programs' firewalls.",
        ),
        "What hostnet does about other firewalls of the host. `auto`: it accepts the gateway's traffic in their chains "
        "that would drop it. `none`: it does not touch them.",
        default="auto",
        effect="With `auto`, an accept rule with hostnet's comment is in each such chain, until no resource needs it.",
        field=Field("firewall", lambda word: word == "auto", lambda on: "auto" if on else "none"),
    )
    connection: ConnectionInputs | None = connection_prop()


class NatGatewayOutputs(Declared):
    """What a NAT gateway is on its host."""

    external_interface: str = output(OUT_TEXT, "The interface that leads to the outside; of several the first.")
    external_interfaces: tuple[str, ...] = output(ListOf(OUT_TEXT), "All interfaces that lead to the outside.")
    external_addresses: tuple[str, ...] = output(
        ListOf(OUT_TEXT),
        "The source addresses of the guests' traffic outside: `externalIp` and `externalIpv6`, or the global addresses "
        "of the external interfaces. A change of them is not drift.",
    )
    forwarding: Value = output(
        FORWARDING, "The kernel's forwarding switches that the gateway needs. One that is off is drift."
    )


def _gateway_rules(judged: dict[str, Value], path: str, report: Report) -> None:
    if not any(judged[name] is UNKNOWN or judged[name] for name in _ONE_OF):
        report.fail(path, f"at least one of {', '.join(_ONE_OF[:5])} is required")
    if judged["enableIpv6"] is True and judged["routeIpv6"] is True:
        report.fail(
            join(path, "routeIpv6"), "must not be true together with enableIpv6: IPv6 is either routed or translated"
        )
    if judged["routeIpv4"] is True and judged["internalIps"] in (None, []):
        report.fail(join(path, "routeIpv4"), "needs internalIps: these networks are routed")
    _external_rules(judged, path, report)
    _one_to_one_rules(judged["oneToOneNat"], join(path, "oneToOneNat"), report)
    overlapping(judged["forwardPorts"], join(path, "forwardPorts"), report)


def _one_to_one_rules(entries: Value, path: str, report: Report) -> None:
    """Each address stands in one entry, and both of an entry are of one family."""
    first_at: dict[tuple[str, Value], int] = {}
    for index, entry in known_items(entries):
        pair = [known(entry[name]) if isinstance(entry, dict) else None for name in _PAIR]
        for name, address in zip(_PAIR, pair, strict=True):
            first = first_at.setdefault((name, address), index) if address else index
            if first != index:
                report.fail(f"{path}[{index}].{name}", f"must be unique: {path}[{first}] has {address} too")
        if all(pair) and len({family_of(address) for address in pair}) > 1:
            report.fail(f"{path}[{index}].internalAddress", f"must be of the family of the externalAddress {pair[0]}")


def _external_rules(judged: dict[str, Value], path: str, report: Report) -> None:
    """The external interfaces are named once, in one of two properties, and are no internal ones."""
    place = join(path, "externalInterfaces")
    external, several = known(judged["externalInterface"]), known_items(judged["externalInterfaces"])
    # An unknown value may still turn out to be absent.
    if external and judged["externalInterfaces"] and judged["externalInterfaces"] is not UNKNOWN:
        report.fail(place, "must not be given together with externalInterface: name all in externalInterfaces")
    first_at: dict[Value, str] = {}
    for index, name in several:
        first = first_at.setdefault(name, f"{place}[{index}]")
        if first != f"{place}[{index}]":
            report.fail(f"{place}[{index}]", f"must be unique: {first} is {name} too")
    for index, name in known_items(judged["internalInterfaces"]):
        if name in first_at or (external and name == external):
            what = "one of the externalInterfaces," if name in first_at else "the externalInterface"
            report.fail(f"{join(path, 'internalInterfaces')}[{index}]", f"must not be {what} {name!r}")


class NatGateway(Kind[NatGatewayInputs]):
    """The kind of a NAT gateway: a gateway, the forwarding switches that it needs, its forwards."""

    name = "NatGateway"
    token = "hostnet:index:NatGateway"
    doc = (
        "Source NAT for the guests of internal interfaces and networks, through external interfaces, like NixOS's "
        "`networking.nat`. Networks that no gateway lists are not touched. An update changes only set elements, so "
        "that established connections survive. The id is derived from the resource's name."
    )
    inputs = Record(NatGatewayInputs, rules=_gateway_rules)
    results = Record(NatGatewayOutputs)
    derived_from = True

    def needs(self, inputs: Inputs) -> set[Family]:
        """The families that its properties and its forwards need; IPv6 only if the program asks for it."""
        forwards = (x.get("destination") for x in _items(inputs, "forwardPorts") if isinstance(x, dict))
        pairs = (x.get("externalAddress") for x in _items(inputs, "oneToOneNat") if isinstance(x, dict))
        return super().needs(inputs) | {family for each in (*forwards, *pairs) if (family := family_of(each))}

    def make_id(self, urn: str, inputs: NatGatewayInputs) -> str:
        """The resource's name with a suffix that differs between stacks."""
        name = sanitised(Urn.parse(urn).name, "nat")[:_NAME_MAX].rstrip("-")
        return f"{name}-{digest(urn).hex()[:SUFFIX]}"

    def desired(self, urn: str, id: str, inputs: NatGatewayInputs, past: Past) -> tuple[Object, ...]:
        """The gateway, the switches it needs, its forwards."""
        forwards = [forward_of(entry, id) for entry in inputs.forward_ports]
        families = switched_on((about, getattr(inputs, name)) for name, about in inputs.properties_.items())
        families |= {forward.family for forward in forwards}
        pairs = tuple((each.external_address, each.internal_address) for each in inputs.one_to_one_nat)
        families |= {family for external, _ in pairs if (family := family_of(external))}
        switches = (Forwarding(family) for family in sorted(families))
        gateway = Gateway(name=id, **fields_of(inputs), one_to_one=tuple(sorted(pairs)))
        if inputs.external_interfaces:
            first, *more = inputs.external_interfaces
            gateway = replace(gateway, external=first, more=tuple(more))
        return (gateway, *switches, *forwards)

    def outputs(self, urn: str, inputs: Inputs, view: View) -> Outputs:
        """The external interface and its addresses, and the forwarding switches."""
        gateway = view.state(GatewayState) or view.object(Gateway)
        uplinks = gateway.uplinks if gateway else ()
        if not uplinks:
            uplinks = tuple(inputs.get("externalInterfaces") or filter(None, (inputs.get("externalInterface"),)))
        seen = view.state(GatewayState)
        return without_none(
            {
                "externalInterface": uplinks[0] if uplinks else None,
                "externalInterfaces": list(uplinks) or None,
                "externalAddresses": list(seen.external_addresses) if seen else [],
                "forwarding": self.forwarding(inputs, view),
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
        """What follows from the inputs; an update keeps what it leaves alone."""
        del urn
        had, needed = old_outputs or {}, self.needs(inputs)
        fixed, fixed6 = (self.inputs.canonical_property(name, inputs) for name in ("externalIp", "externalIpv6"))
        same_side = self.unchanged(old_inputs, inputs, "externalInterface", "externalInterfaces")
        uplinks, kept = self._declared_uplinks(inputs), had if same_side else {}
        external = uplinks[0] if isinstance(uplinks, list) else UNKNOWN
        if uplinks is None:
            uplinks, external = (kept.get(name, UNKNOWN) for name in ("externalInterfaces", "externalInterface"))
        one = uplinks is not UNKNOWN and len(uplinks) == 1
        addresses: Value = UNKNOWN
        if one and fixed is not None and fixed6 is not None:
            addresses = [fixed, fixed6]
        elif same_side and self.unchanged(old_inputs, inputs, "externalIp", "externalIpv6"):
            addresses = had.get("externalAddresses", UNKNOWN)
        # While an input is unknown, a family that is not needed so far may still be needed.
        open_question = any(inputs.get(name) is UNKNOWN for name in self.inputs.properties)
        open_question = open_question or any(
            not isinstance(item, dict) or item.get(of) is UNKNOWN
            for name, of in (("forwardPorts", "destination"), ("oneToOneNat", "externalAddress"))
            for item in _items(inputs, name)
        )
        rest = UNKNOWN if open_question else False
        forwarding = {family: True if family in needed else rest for family in FAMILIES}
        return {
            "externalInterface": external,
            "externalInterfaces": uplinks,
            "externalAddresses": addresses,
            "forwarding": forwarding,
        }

    def _declared_uplinks(self, inputs: Inputs) -> Value:
        """The external interfaces that the program names, as far as they are known; None: it names none."""
        one = self.inputs.canonical_property("externalInterface", inputs)
        several = self.inputs.canonical_property("externalInterfaces", inputs)
        if one is UNKNOWN or several is UNKNOWN:
            return UNKNOWN
        return [one] if one is not None else several or None

    def recorded(self, view: View) -> dict[str, Value]:
        """The properties that the recorded gateway has otherwise than by default, and its forwards."""
        gateway = view.object(Gateway)
        if gateway is None:
            return {}
        found = declared_by(self.inputs, gateway, but={"externalInterface"} if gateway.resolved or gateway.more else ())
        if gateway.more and not gateway.resolved:
            found["externalInterfaces"] = list(gateway.uplinks)
        if gateway.one_to_one:
            found["oneToOneNat"] = [dict(zip(_PAIR, pair, strict=True)) for pair in gateway.one_to_one]
        forwards = [recorded_forward(each) for each in view.every(Forward)]
        return found | ({"forwardPorts": forwards} if forwards else {})

    def settle(self, declared: dict[str, Value], view: View) -> None:
        """Show the gateway as the kernel has it; one that is gone has no internal networks."""
        seen = view.state(GatewayState) or GatewayState(name=view.id)
        # Without the DMZ host its exceptions have no meaning: that it is gone is drift enough.
        settle(declared, self.inputs, seen, but=() if seen.dmz4 or seen.dmz6 else {"dmzExceptPorts"})
        if seen.moved:
            # The program names none: that it has these makes a difference, and the update looks them up again.
            declared["externalInterfaces"] = list(seen.uplinks)
        _settle_pairs(declared, seen)
        _settle_forwards(declared, view)


def _settle_pairs(declared: dict[str, Value], seen: GatewayState) -> None:
    """Show the declared one-to-one addresses that the kernel has, then others."""
    left, found = dict.fromkeys(seen.one_to_one), []
    for entry in declared.get("oneToOneNat") or ():
        typed = ONE_TO_ONE.typed(entry)
        pair = (typed.external_address, typed.internal_address)
        if pair in left:
            del left[pair]
            found.append(entry)
    found += [dict(zip(_PAIR, pair, strict=True)) for pair in left]
    if found != list(declared.get("oneToOneNat") or ()):
        declared["oneToOneNat"] = found


def _settle_forwards(declared: dict[str, Value], view: View) -> None:
    """Show the declared forwards as the kernel has them, then those that another program added."""
    there = {each.key: (each, seen) for each, seen in view.pairs() if isinstance(each, Forward)}
    gateway = view.object(Gateway)
    found, declared_keys = [], set()
    for entry in declared.get("forwardPorts") or ():
        forward = to_forward(FORWARD_PORT.typed(entry), gateway.name if gateway else view.id, None)
        key = forward.key
        declared_keys.add(key)
        _, seen = there.get(key, (None, None))
        if isinstance(seen, ForwardState):
            found.append(entry if unlike(forward, seen).keys() <= _RESOLVED else _settled(entry, seen))
    found += [recorded_forward(each) for key, (each, _) in there.items() if key not in declared_keys]
    if found or declared.get("forwardPorts"):
        declared["forwardPorts"] = found


def _settled(entry: dict[str, Value], seen: ForwardState) -> dict[str, Value]:
    there = dict(entry)
    settle_forward(there, seen, FORWARD_PORT)
    return there


def _items(inputs: Inputs, name: str) -> list[Value]:
    found = inputs.get(name)
    return list(found) if isinstance(found, list | tuple) else []


NAT_GATEWAY = NatGateway()
