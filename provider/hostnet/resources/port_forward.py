"""PortForward: forwards a port of the external interface to a guest. NatGateway's `forwardPorts` are such forwards."""

# ruff: noqa: A002 (an id is what Pulumi calls it)
# ruff: noqa: ARG002 (hooks get what some kind needs)
# ruff: noqa: S105 (a Pulumi type token)
# ruff: noqa: S104 (addresses are compared with, not bound to)

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hostnet.resources.schema.connection import ConnectionInputs, connection_prop
from hostnet.resources.schema.destination import Destination, DestinationType
from hostnet.resources.schema.fields import declared_by, fields_of, settle
from hostnet.resources.schema.kind import Kind, Past
from hostnet.resources.schema.model import (
    Changes,
    Declared,
    Field,
    ListOf,
    Record,
    Report,
    has_unknown,
    join,
    known,
    known_items,
    output,
    prop,
    without_none,
)
from hostnet.resources.schema.types import (
    OUT_BOOL,
    OUT_TEXT,
    Bool,
    Choice,
    GatewayId,
    InterfaceName,
    Ip,
    NetCidr,
    PortSpec,
    parse_interface,
    parse_ip,
    split_ports,
)
from hostnet.resources.schema.values import UNKNOWN, Inputs, Look, Outputs, Value, nothing
from hostnet.wire.family import Family
from hostnet.wire.objects import (
    EXTERNAL_PLACEHOLDER,
    Forward,
    Forwarding,
    ForwardState,
    Object,
    new_forward,
    ports_text,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from hostnet.wire.requests import View

_KEY = frozenset({"natGateway", "externalInterface", "protocol", "sourcePort", "listenAddresses"})
_WILDCARDS = frozenset({"0.0.0.0", "::"})


def sorted_addresses(addresses: Collection[str]) -> tuple[str, ...]:
    """Addresses in the order that ids have."""
    return tuple(sorted(addresses, key=lambda a: int(parse_ip(a)))) if addresses else ()


class ForwardInputs(Declared):
    """A port forward."""

    protocol: str = prop(
        Choice(
            "tcp",
            "udp",
            "sctp",
            "tcp+udp",
            token="hostnet:index:Protocol",  # noqa: S106 - a type token
            doc="The protocol of a port forward.",
        ),
        "The protocol, in lower case.",
        default="tcp",
        effect="It is a part of the element's key in the forward maps of table `inet hostnet`.",
        field=Field("protocols", to_wire=lambda word: tuple(word.split("+")), from_wire="+".join),
    )
    source_port: str = prop(
        PortSpec(),
        'The port on the external side: a number, or a range such as `"8000:8010"`.',
        required=True,
        effect="It is a part of the element's key. A range is one interval element.",
    )
    destination: Destination = prop(
        DestinationType(),
        "The guest's address and, if it differs from the source port, the port: `10.0.0.2`, `10.0.0.2:80`, "
        "`10.0.0.2:8000-8100` or `[fd12::2]:443`. A range of source ports goes to a range of the same length or to one "
        "port. The address decides the family of the forward. Only the host itself reaches a forward to `127.0.0.1`.",
        default_doc="for the port: the source port",
        required=True,
        effect="It is the element's value. A change is one atomic update of the map: established TCP connections keep "
        "the old destination, UDP goes to the new one at once. A change of the family replaces a PortForward.",
    )
    listen_addresses: tuple[str, ...] = prop(
        ListOf(Ip(wildcard=True, loopback=True)),
        "The addresses of the host that are forwarded. `0.0.0.0` and `::` stand for every address of their family. A "
        "specific address wins over a wildcard with the same port.",
        default=(),
        default_doc="every address of the external interface",
        effect="They are a part of the element's key. hostnet does not add them to the host.",
        field=Field("listen", to_wire=sorted_addresses),
    )
    source_cidrs: tuple[str, ...] = prop(
        ListOf(NetCidr()),
        "The networks, without host bits, that may use the forward from outside. It must not be empty: omit it to "
        "allow every source.",
        default=(),
        default_doc="every source",
        effect="They are a part of the element's key.",
        field="sources",
    )
    loopback: bool = prop(
        Bool(),
        "Lets the host itself and all its virtual networks use the forward as well: the guests of any gateway, the one "
        "that it leads to, and bridges of other programs. A physical interface, or one with a default route, is no "
        "such network.",
        default=True,
        effect="The forward has an element in the maps for what comes from within, whichever interface that is.",
        field="loopback",
    )
    source_nat: bool = prop(
        Bool(),
        "Shows the target an address of this host instead of the client's, for a target whose replies would not come "
        "back through this host. Not where the target has to know its clients.",
        default=False,
        effect="Each port is an element of a set by which new connections are masqueraded at postrouting. Connections "
        "in progress keep their source; of UDP they are forgotten.",
        field="source_nat",
    )


def destination_of(value: Value) -> Destination | None:
    """The destination that a program gave; None while it is unknown or wrong."""
    found = DestinationType().canonical(value)
    return found if isinstance(found, Destination) else None


def family_of(value: Value) -> Family | None:
    """The family of a destination that a program gave; None while it is unknown or wrong."""
    found = destination_of(value)
    return found.family if found else None


def _forward_rules(judged: dict[str, Value], path: str, report: Report) -> None:
    destination, source = known(judged["destination"]), known(judged["sourcePort"])
    if isinstance(destination, Destination):
        if destination.ports and source:
            _fitting(split_ports(source), destination.ports, join(path, "destination"), report)
        _one_family(destination, judged, path, report)
    if judged["listenAddresses"]:
        _listens_once(judged["listenAddresses"], join(path, "listenAddresses"), report)
    if judged["sourceCidrs"] == []:
        report.fail(join(path, "sourceCidrs"), "must not be empty: omit it to allow every source")


def _listens_once(addresses: Value, path: str, report: Report) -> None:
    first_at: dict[object, int] = {}
    for index, listen in known_items(addresses):
        first = first_at.setdefault(parse_ip(listen), index)
        if first != index:
            report.fail(f"{path}[{index}]", f"must be unique: {path}[{first}] is {listen} too")


def _one_family(destination: Destination, judged: dict[str, Value], path: str, report: Report) -> None:
    if not judged["listenAddresses"] and not judged["sourceCidrs"]:
        return
    family = destination.family.replace("ip", "IP")
    for index, listen in known_items(judged["listenAddresses"]):
        if f"ipv{parse_ip(listen).version}" != destination.family:
            place = f"{join(path, 'listenAddresses')}[{index}]"
            report.fail(place, f"must be an {family} address like the destination, not {listen}")
    for index, cidr in known_items(judged["sourceCidrs"]):
        if f"ipv{parse_interface(cidr).version}" != destination.family:
            place = f"{join(path, 'sourceCidrs')}[{index}]"
            report.fail(place, f"must be an {family} network like the destination, not {cidr}")


def _fitting(source: tuple[int, int], ports: tuple[int, int], path: str, report: Report) -> None:
    wanted, given = source[1] - source[0] + 1, ports[1] - ports[0] + 1
    if given not in {1, wanted}:
        report.fail(path, f"must have as many ports as sourcePort ({wanted}), or one; it has {given}")


def _forward_normal(canonical: dict[str, Value]) -> dict[str, Value]:
    """Spell out the ports of a destination without ports: they are the source ports."""
    destination, source = canonical["destination"], canonical["sourcePort"]
    if isinstance(destination, Destination) and isinstance(source, str):
        with suppress(ValueError):  # ports of an old state that no version of ours would accept: compared as they are
            canonical["destination"] = destination.on(split_ports(source))
    return canonical


def forward_key(canonical: dict[str, Value]) -> Value:
    """The identity of an inline forward: family, protocol, ports and listen addresses."""
    destination = canonical["destination"]
    family = UNKNOWN if destination is UNKNOWN else family_of(destination)
    return [family, canonical["protocol"], canonical["sourcePort"], canonical["listenAddresses"]]


FORWARD_PORT: Record[ForwardInputs] = Record(
    ForwardInputs, "hostnet:index:ForwardPort", rules=_forward_rules, normal=_forward_normal
)
FORWARD_PORTS = ListOf(FORWARD_PORT, key=forward_key)


def overlapping(forwards: Value, path: str, report: Report) -> None:
    """Report each forward whose ports overlap those of one before it."""
    by_place: dict[tuple[Any, ...], list[tuple[int, int, int]]] = {}
    for index, item in enumerate(forwards if isinstance(forwards, list) else ()):
        if not isinstance(item, dict) or has_unknown(item) or item["destination"] is None or item["sourcePort"] is None:
            continue
        low, high = split_ports(item["sourcePort"])
        family = item["destination"].family
        for protocol in (item["protocol"] or "tcp").split("+"):
            for listen in _places(item["listenAddresses"]):
                by_place.setdefault((family, protocol, listen), []).append((low, high, index))
    found: dict[int, int] = {}
    for spans in by_place.values():
        spans.sort()
        reach, holder = -1, -1
        for low, high, index in spans:
            if low <= reach:
                found.setdefault(max(index, holder), min(index, holder))
            if high > reach:
                reach, holder = high, index
    for index in sorted(found):
        report.fail(f"{path}[{index}].sourcePort", f"must not overlap the ports of {path}[{found[index]}]")


def _places(listen: Value) -> list[str]:
    places = ["*" if address in _WILDCARDS else address for address in listen or ("*",)]
    return list(dict.fromkeys(places))


def to_forward(inputs: ForwardInputs, gateway: str | None, external: str | None) -> Forward:
    """The object of a forward."""
    destination, source = inputs.destination, split_ports(inputs.source_port)
    return new_forward(
        {
            **fields_of(inputs),
            "family": destination.family,
            "ports": source,
            "address": destination.address,
            "to_ports": destination.ports or source,
            "gateway": gateway,
            "external": external,
        }
    )


def forward_of(inputs: ForwardInputs, gateway: str) -> Forward:
    """The object of a gateway's forward, made once: an update and the state before it have most of them in common."""
    made: Forward | None = vars(inputs).get("_forward")
    if made is None or made.gateway != gateway:
        made = vars(inputs)["_forward"] = to_forward(inputs, gateway, None)
    return made


def recorded_forward(forward: Forward) -> dict[str, Value]:
    """The inputs of a forward from its object: only what is not default."""
    ports = None if forward.to_ports == forward.ports else forward.to_ports
    first, last = forward.ports
    return {
        "sourcePort": first if first == last else ports_text(forward.ports),
        "destination": str(Destination(forward.address, ports)),
        **declared_by(FORWARD_PORT, forward),
    }


def settle_forward(declared: dict[str, Value], seen: ForwardState, record: Record[Any]) -> None:
    """Put into a forward's inputs what the kernel has otherwise than declared."""
    settle(declared, record, seen)
    source = split_ports(PortSpec().parse(declared["sourcePort"]))
    had = destination_of(declared["destination"])
    if had is None or had.on(source) != Destination(seen.address, seen.to_ports):
        declared["destination"] = str(Destination(seen.address, None if seen.to_ports == source else seen.to_ports))


class PortForwardInputs(ForwardInputs):
    """What a program declares of a port forward."""

    nat_gateway: str | None = prop(
        GatewayId(),
        "The id of a NatGateway: its external interfaces are used. Not together with `externalInterface`.",
    )
    external_interface: str | None = prop(
        InterfaceName(),
        "The interface on which the port is forwarded. Not together with `natGateway`.",
        default_doc="the NatGateway's, or the interface of the default route",
    )
    connection: ConnectionInputs | None = connection_prop()


class ForwardingOutput(Declared):
    """The kernel's forwarding switches, as far as the resource needs them."""

    ipv4: bool = output(OUT_BOOL, "Whether the resource needs IPv4 forwarding and the kernel has it on.")
    ipv6: bool = output(OUT_BOOL, "Whether the resource needs IPv6 forwarding and the kernel has it on.")


FORWARDING = Record(ForwardingOutput, "hostnet:index:Forwarding")


class PortForwardOutputs(Declared):
    """What a port forward is on its host."""

    source_ports: str = output(OUT_TEXT, 'The port or range on the external side: `"8080"` or `"8000:8002"`.')
    destination_address: str = output(OUT_TEXT, "The guest's address.")
    destination_ports: str = output(OUT_TEXT, 'The guest\'s port or range: `"80"` or `"8000:8002"`.')
    external_interface: str = output(OUT_TEXT, "The interface on which the port is forwarded.")
    forwarding: Value = output(
        FORWARDING, "The kernel's forwarding switch of the forward's family. One that is off is drift."
    )


def _port_forward_rules(judged: dict[str, Value], path: str, report: Report) -> None:
    _forward_rules(judged, path, report)
    # An unknown value may still turn out to be absent.
    if known(judged["natGateway"]) and known(judged["externalInterface"]):
        report.fail(
            join(path, "externalInterface"),
            "must not be given together with natGateway: the gateway's external interface is used",
        )


class PortForward(Kind[PortForwardInputs]):
    """The kind of a port forward: a forward and the forwarding switch of its family."""

    name = "PortForward"
    token = "hostnet:index:PortForward"
    doc = (
        "Forwards a port of the external interface to a guest. It switches on IP forwarding of its family. A port in "
        "both families needs two forwards. The id is `<externalInterface>/<ipv4|ipv6>/<protocol>/<sourcePort>`, "
        "followed by `@` and the listen addresses if there are any."
    )
    inputs = Record(PortForwardInputs, rules=_port_forward_rules, normal=_forward_normal, replaces=_KEY)
    results = Record(PortForwardOutputs)

    def needs(self, inputs: Inputs) -> set[Family]:
        """The destination's family."""
        family = family_of(inputs.get("destination"))
        return {family} if family else set()

    def refine(self, old_inputs: Inputs, old_outputs: Inputs, inputs: Inputs, changes: Changes) -> None:
        """Replace for another family, which is a part of the key; naming the interface in use is no replacement."""
        old, new = family_of(old_inputs.get("destination")), family_of(inputs.get("destination"))
        if "destination" in changes and old and new and old != new:
            changes["destination"] += "-replace"
        named = inputs.get("externalInterface")
        same_side = "natGateway" not in changes and old_inputs.get("externalInterface") is None
        if "externalInterface" in changes and same_side and named == old_outputs.get("externalInterface"):
            changes["externalInterface"] = "add"

    def make_id(self, urn: str, inputs: PortForwardInputs) -> str:
        """The key; the agent fills in the interface if the program names none."""
        return to_forward(inputs, None, None).id_on(inputs.external_interface or EXTERNAL_PLACEHOLDER)

    def desired(self, urn: str, id: str, inputs: PortForwardInputs, past: Past) -> tuple[Object, ...]:
        """The forward and its family's switch."""
        forward = to_forward(inputs, inputs.nat_gateway, inputs.external_interface)
        return (forward, Forwarding(forward.family))

    def outputs(self, urn: str, inputs: Inputs, view: View) -> Outputs:
        """The ports and the destination, as the kernel has them if it has the forward."""
        seen, asked = view.state(ForwardState), view.object(Forward)
        forward = to_forward(self.inputs.typed(inputs), None, None)
        external = seen.external if seen else (asked.external if asked else None) or inputs.get("externalInterface")
        return without_none(
            {
                "sourcePorts": ports_text(forward.ports),
                "destinationAddress": seen.address if seen else forward.address,
                "destinationPorts": ports_text(seen.to_ports if seen else forward.to_ports),
                "externalInterface": external,
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
        """All but the interface of the default route follows from the inputs."""
        del urn
        now, had = self.inputs.canonical(inputs), old_outputs or {}
        needed = self.needs(inputs)
        destination = now["destination"]
        address: Value = UNKNOWN
        ports: Value = UNKNOWN
        if isinstance(destination, Destination):
            address, ports = destination.address, ports_text(destination.ports) if destination.ports else UNKNOWN
        external = now["externalInterface"]
        if external is None:
            same = old_inputs is None or self.unchanged(old_inputs, inputs, "natGateway", "externalInterface")
            external = had.get("externalInterface", UNKNOWN) if same else UNKNOWN
            gateway = look("NatGateway", now["natGateway"])
            external = gateway.get("externalInterface", UNKNOWN) if gateway is not None else external
        return {
            "sourcePorts": now["sourcePort"],
            "destinationAddress": address,
            "destinationPorts": ports,
            "externalInterface": external,
            "forwarding": {"ipv4": "ipv4" in needed, "ipv6": "ipv6" in needed} if needed else UNKNOWN,
        }

    def derive_again(self, old_outputs: Inputs, inputs: Inputs, look: Look) -> Changes:
        """The external interface is the gateway's."""
        gateway = look("NatGateway", inputs.get("natGateway"))
        external = gateway.get("externalInterface") if gateway is not None else None
        if external in (None, UNKNOWN, old_outputs.get("externalInterface")):
            return {}
        return {"externalInterface": "update"}

    def recorded(self, view: View) -> dict[str, Value]:
        """The recorded forward as inputs."""
        forward = view.object(Forward)
        if forward is None:
            return {}
        external = None if forward.resolved else forward.external
        where = {"natGateway": forward.gateway} if forward.gateway else {"externalInterface": external}
        return recorded_forward(forward) | without_none(where)

    def settle(self, declared: dict[str, Value], view: View) -> None:
        """Show the forward as the kernel has it."""
        seen = view.state(ForwardState)
        if seen is not None and declared:
            settle_forward(declared, seen, self.inputs)


PORT_FORWARD = PortForward()
