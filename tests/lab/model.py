"""A model of what hostnet promises: from a program to what the kernel should have, and from drift to what is shown.

Written from DESIGN.md, apart from the agent: nothing of `hostnet` is imported. A program is the driver's: resources by
name, with explicit names of interfaces and references to them. What the kernel has is described in facts:

    ("link", "br0", "kind")                       "bridge"
    ("link", "vm0", "master")                     "br0"
    ("forward", "eth0", "tcp", "", "", 80)        "10.0.0.2:8080"    device, protocol, listen address, source, port;
                                                                     the device is "" for what comes from within
    ("proxy", "eth0", "10.2.1.5")                 ""                 the host answers for this address there
    ("forward_pairs4", "br0", "eth0")             ""                 any other element of the table, as nft lists it

Each expected fact knows where its loss or change has to show: (resource, property).
"""

from __future__ import annotations

import ipaddress
import pwd
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.lab.kernel import Link

Inputs = Mapping[str, Any]
Program = Mapping[str, tuple[str, Inputs]]
Fact = tuple[Any, ...]
Place = tuple[str, str]  # resource, top-level property; property "" where any of that resource will do
GONE = "gone"
UNSEEN: Place = ("", "")  # a fact that no one resource has; see `Model.expected`

OF_KERNEL = ("link", "proxy")  # facts that are no elements of nftables

_REFERENCE = re.compile(r"\$\{([\w-]+)\.\w+\}")
_ANY = {"4": ("0.0.0.0/0", "0.0.0.0"), "6": ("::/0", "::")}  # noqa: S104 - compared with, never bound
_UPLINK_ADDRESSES = ("192.0.2.2/24", "2001:db8::2/64")
INNER_MAPS = tuple(f"inner_{at}{of}" for at in ("", "addr_") for of in ("port", "ports", "range"))
FORWARD_MAPS = (
    "dnat_port",
    "dnat_source",
    "dnat_range",
    "dnat_addr",
    "dnat_addr_source",
    "dnat_addr_range",
    *INNER_MAPS,
)


@dataclass
class Expected:
    """What the kernel should have: value and place of each fact, and which links may not be there at all."""

    facts: dict[Fact, tuple[Any, Place]] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()  # links that a program could make and this one does not
    table: bool = False

    def differences(self, seen: Mapping[Fact, Any]) -> dict[Fact, tuple[Any, Any]]:
        """Facts that are otherwise than expected: (expected, seen), None for what is not there."""
        found = {key: (value, seen.get(key)) for key, (value, _) in self.facts.items() if seen.get(key) != value}
        for key in seen:
            stray = key[0] != "link" or key[1] in self.absent
            if stray and key not in self.facts:
                found[key] = (None, seen[key])
        return found


class Model:
    """The model of one host.

    Args:
        uplink: The interface of the preferred default route.
        free: Interfaces that another program made, in the order of their names.
        links: All names that programs give to links.
        second: The interface of another default route; "": there is none.
    """

    def __init__(self, uplink: str, free: Iterable[str], links: Iterable[str], second: str = "") -> None:
        """Nothing is declared yet."""
        self.uplink, self.free, self.names = uplink, tuple(free), frozenset(links)
        self._uplinks = (uplink, second) if second else (uplink,)

    def expected(self, program: Program) -> Expected:
        """What the kernel has when this program is up."""
        expected = Expected()
        view = _View(program, self._uplinks)
        for name, (kind, inputs) in program.items():
            if kind == "Bridge":
                _bridge(name, inputs, view, expected)
            elif kind == "TapBinding" and "match" in inputs:
                for link in self.free:
                    _attached(name, link, inputs, view, expected)
            elif kind == "TapBinding":
                _tap(name, inputs, view, expected)
        # Each port says that one is missing: see `drift`.
        expected.facts.update({("isolated_links", link): ("", UNSEEN) for link in view.isolated})
        taken = {key[1] for key in expected.facts if key[0] == "link"}
        for link in self.free:
            if link not in taken:
                expected.facts["link", link, "master"] = (None, UNSEEN)
        expected.absent = frozenset(self.names - taken)
        expected.table = view.table or any(key[0] not in OF_KERNEL for key in expected.facts)
        if view.table:
            for fact, value, place in (*_gateways(view), *_forwards(view), *_common(view)):
                expected.facts[fact] = (value, place)
        return expected

    def families(self, program: Program) -> dict[str, list[str]]:
        """Who needs forwarding, by digit of the family."""
        found: dict[str, list[str]] = {"4": [], "6": []}
        for name, (kind, inputs) in program.items():
            for digit in _needs(kind, inputs):
                found[digit].append(name)
        return found

    def replying(self, program: Program) -> set[str]:
        """The uplinks by which what came in by them is answered: of a host with two, each with a default route."""
        view = _View(program, self._uplinks)
        own = [inputs for _, inputs in view.gateways if inputs.get("replyBySameUplink", True)]
        return {line for inputs in own for line in view.lines(inputs)} if len(self._uplinks) > 1 else set()

    def localnet(self, program: Program) -> dict[str, bool]:
        """Whether a bridge or routed TAP lets 127.0.0.0/8 through to a guest (`route_localnet`)."""
        view = _View(program, self._uplinks)
        targets = [
            ipaddress.ip_address(_destination(inputs)[0])
            for _, inputs in view.forwards
            if _digit(inputs) == "4" and _from_localhost(inputs)
        ]
        return {
            link: any(target in ipaddress.ip_interface(cidr).network for cidr in cidrs for target in targets)
            for link, cidrs in view.devices.items()
        }


class _View:
    """A program with its references followed."""

    def __init__(self, program: Program, uplinks: tuple[str, ...]) -> None:
        self.program, self.uplink, self._uplinks = program, uplinks[0], uplinks
        self.devices: dict[str, list[str]] = {}  # our bridges and routed TAPs, with their addresses
        self.gateways: list[tuple[str, Inputs]] = []
        self.forwards: list[tuple[str, Inputs]] = []  # owner, inputs
        for name, (kind, inputs) in program.items():
            addresses = list(inputs.get("addresses", ()))
            routed = kind == "TapBinding" and "name" in inputs and "bridge" not in inputs
            if kind == "Bridge" or (routed and (addresses or inputs.get("routes"))):
                self.devices[str(inputs["name"])] = addresses
            elif kind == "NatGateway":
                self.gateways.append((name, inputs))
        for name, (kind, inputs) in program.items():
            if kind == "NatGateway":
                self.forwards += [(name, one) for one in inputs.get("forwardPorts", ())]
            elif kind == "PortForward":
                self.forwards.append((name, inputs))

    @property
    def table(self) -> bool:
        """Whether anything needs nftables."""
        return bool(self.gateways or self.forwards)

    @property
    def looped(self) -> bool:
        """Whether any forward or one-to-one NAT is reached from within, so that ports reflect."""
        paired = any(inputs.get("oneToOneNat") for _, inputs in self.gateways)
        return self.table and (paired or any(inputs.get("loopback", True) for _, inputs in self.forwards))

    def lines(self, gateway: Inputs) -> tuple[str, ...]:
        """By what a gateway leads out: what it names, or every interface with a default route."""
        named = gateway.get("externalInterfaces") or [*filter(None, [gateway.get("externalInterface")])]
        return tuple(named) or self._uplinks

    def lines_of(self, name: str, forward: Inputs) -> tuple[str, ...]:
        """On what the forward of a resource listens: on its gateway's lines, or by default on the preferred one."""
        kind, inputs = self.program[name]
        at = _REFERENCE.fullmatch(str(forward.get("natGateway", "")))
        if kind == "NatGateway" or at:
            return self.lines(self.program[at[1]][1] if at else inputs)
        return (self.uplink,)

    def link(self, reference: str) -> str:
        """The interface's name that a reference means."""
        at = _REFERENCE.fullmatch(reference)
        return str(self.program[at[1]][1]["name"]) if at else reference

    def bridge(self, reference: str) -> Inputs:
        """A bridge's inputs."""
        at = _REFERENCE.fullmatch(reference)
        return self.program[at[1]][1] if at else {}

    def internals(self, gateway: Inputs) -> tuple[str, ...]:
        """A gateway's internal interfaces."""
        return tuple(self.link(one) for one in gateway.get("internalInterfaces", ()))

    @property
    def isolated(self) -> set[str]:
        """The bridges whose declared ports are isolated, all of them."""
        every = [
            (str(each["bridge"]), bool(each.get("isolated"))) for _, each in self.program.values() if "bridge" in each
        ]
        ports = {(self.link(reference), own) for reference, own in every}
        found = {link for link, own in ports if own} - {link for link, own in ports if not own}
        bridges = (inputs for kind, inputs in self.program.values() if kind == "Bridge")
        return found | {str(inputs["name"]) for inputs in bridges if inputs.get("portIsolation")}

    def inner(self) -> list[str]:
        """All interfaces behind the host: hostnet's own and internal ones."""
        return sorted({*self.devices, *(name for _, inputs in self.gateways for name in self.internals(inputs))})


# --- links ---------------------------------------------------------------------------------------------------------


def _bridge(name: str, inputs: Inputs, view: _View, expected: Expected) -> None:
    link = str(inputs["name"])
    facts = expected.facts
    facts["link", link, "kind"] = ("bridge", (name, GONE))
    facts["link", link, "addresses"] = (frozenset(inputs.get("addresses", ())), (name, "addresses"))
    facts["link", link, "stp"] = (bool(inputs.get("stp", False)), (name, "stp"))
    for what, at in (("mtu", "mtu"), ("mac", "macAddress")):
        if at in inputs:
            facts["link", link, what] = (inputs[at], (name, at))


def _tap(name: str, inputs: Inputs, view: _View, expected: Expected) -> None:
    link = str(inputs["name"])
    facts = expected.facts
    facts["link", link, "kind"] = ("tap", (name, GONE))
    facts["link", link, "user"] = (_user(inputs), (name, "owner"))
    facts["link", link, "group"] = (inputs.get("group"), (name, "group"))
    facts["link", link, "addresses"] = (frozenset(inputs.get("addresses", ())), (name, "addresses"))
    facts["link", link, "routes"] = (frozenset(inputs.get("routes", ())), (name, "routes"))
    if "mtu" in inputs:
        facts["link", link, "mtu"] = (inputs["mtu"], (name, "mtu"))
    if "guest" in inputs:  # what it sends is checked
        for checked in ("guest_links",) if "bridge" in inputs else ("tap_links", "routed_taps"):
            facts[checked, link] = ("", (name, "guest"))
    for address in _proxied(inputs):
        facts["proxy", inputs["guest"]["proxyInterface"], address] = ("", (name, "guest"))
    if "bridge" in inputs:
        _attached(name, link, inputs, view, expected)
    else:
        facts["link", link, "master"] = (None, (name, "bridge"))


def _proxied(inputs: Inputs) -> list[str]:
    """The addresses of a guest that the host answers for."""
    guest = inputs.get("guest", {})
    return [cidr.split("/")[0] for cidr in guest.get("addresses", ())] if "proxyInterface" in guest else []


def _user(inputs: Inputs) -> str | None:
    """Root's, where nobody is named."""
    if "owner" in inputs:
        owner = str(inputs["owner"])
        return owner if owner.isdigit() else str(pwd.getpwnam(owner).pw_uid)
    return None if "group" in inputs else "0"


def _attached(name: str, link: str, inputs: Inputs, view: _View, expected: Expected) -> None:
    bridge = str(inputs["bridge"])
    own = bool(inputs.get("isolated", False))
    isolated = own or bool(view.bridge(bridge).get("portIsolation", False))
    # A glob's members come and go, and that is no drift of it; a TAP of ours belongs where it was put.
    at = UNSEEN if "match" in inputs else (name, "bridge")
    expected.facts["link", link, "master"] = (view.link(bridge), at)
    expected.facts["link", link, "isolated"] = (isolated, (name, "isolated"))
    expected.facts["link", link, "hairpin"] = (view.looped, UNSEEN)
    at_bridge = _REFERENCE.fullmatch(bridge)
    if "mtu" not in inputs and at_bridge and "mtu" in view.bridge(bridge):
        expected.facts["link", link, "mtu"] = (view.bridge(bridge)["mtu"], (at_bridge[1], "mtu"))


# --- gateways ------------------------------------------------------------------------------------------------------


def _gateways(view: _View) -> Iterator[tuple[Fact, Any, Place]]:
    for name, inputs in view.gateways:
        yield from _gateway(name, inputs, view)


# Of the uplink that has the address.
_OF_ONE_UPLINK = ("externalIp", "externalIpv6", "oneToOneNat")


def _gateway(name: str, inputs: Inputs, view: _View) -> Iterator[tuple[Fact, Any, Place]]:
    other = {key: value for key, value in inputs.items() if key not in _OF_ONE_UPLINK}
    for out in view.lines(inputs):
        yield from _line(name, inputs if out == view.uplink else other, view, out)


def _line(name: str, inputs: Inputs, view: _View, out: str) -> Iterator[tuple[Fact, Any, Place]]:
    """A gateway on one of its lines."""
    internals = view.internals(inputs)
    yield ("external_links", out), "", (name, "")
    if inputs.get("mssClamp"):
        yield ("mss_clamp_links", out), "", (name, "mssClamp")
    nat66, routed = inputs.get("enableIpv6", False), inputs.get("routeIpv6", False)
    for link in internals:
        at = (name, "internalInterfaces")
        yield ("internal_links", link), "", at
        yield ("forward_pairs4", link, out), "", at
        yield from _way_out("pairs4", (link, out), inputs.get("externalIp"), at, (name, "externalIp"))
        for cidr in view.devices.get(link, ()):
            yield ("gateway_addrs6" if ":" in cidr else "gateway_addrs4", cidr.split("/")[0]), "", at
        if nat66 or routed:
            yield ("forward_pairs6", link, out), "", (name, "enableIpv6" if nat66 else "routeIpv6")
        if nat66:
            yield from _way_out(
                "pairs6", (link, out), inputs.get("externalIpv6"), (name, "enableIpv6"), (name, "externalIpv6")
            )
        if routed:
            yield ("forward_pairs6", out, link), "", (name, "routeIpv6")
        for other in internals:
            if inputs.get("internalForwarding") and other != link:
                yield ("forward_pairs4", link, other), "", (name, "internalForwarding")
                yield ("forward_pairs6", link, other), "", (name, "internalForwarding")
    yield from _gateway_networks(name, inputs, out)
    yield from _pairs(name, inputs, out)
    yield from _egress(name, inputs, internals)
    if inputs.get("internalForwarding"):
        yield from _inner_networks(name, inputs, internals)


def _inner_networks(name: str, inputs: Inputs, internals: tuple[str, ...]) -> Iterator[tuple[Fact, Any, Place]]:
    """Networks given by addresses reach each other and the interfaces."""
    at = (name, "internalForwarding")
    for digit, nets in (("4", "internalIps"), ("6", "internalIpv6s")):
        own = _collapsed(list(inputs.get(nets, ())))
        yield from (((f"net_to_net{digit}", one, other), "", at) for one in own for other in own)
        for link in internals:
            for net in own:
                yield (f"net_to_link{digit}", net, link), "", at
                yield (f"link_to_net{digit}", link, net), "", at


def _pairs(name: str, inputs: Inputs, out: str) -> Iterator[tuple[Fact, Any, Place]]:
    """One-to-one NAT, but for the ways from within: which these are is shown by packets (tests/cases/uplinks)."""
    for pair in inputs.get("oneToOneNat", ()):
        outer, inner, at = pair["externalAddress"], pair["internalAddress"], (name, "oneToOneNat")
        digit = str(ipaddress.ip_address(outer).version)
        yield (f"one_to_one_addrs{digit}", out, outer), inner, at
        yield (f"one_to_one_hosts{digit}", out, inner), "", at
        yield (f"one_to_one_sources{digit}", out, inner), outer, at


def _egress(name: str, inputs: Inputs, internals: tuple[str, ...]) -> Iterator[tuple[Fact, Any, Place]]:
    """What guests may reach, by interface and by network; a network of either family is disjoint from the others."""
    if "egress" not in inputs:
        return
    at = (name, "egress")
    yield from ((("egress_links", link), "", at) for link in internals)
    for digit, nets in (("4", "internalIps"), ("6", "internalIpv6s")):
        networks = [_bare(cidr) for cidr in inputs.get(nets, ())]
        yield from ((("egress_nets" + digit, net), "", at) for net in networks)
        for rule in inputs["egress"]:
            if str(ipaddress.ip_network(rule["cidr"]).version) != digit:
                continue
            number = next((n for n, protocol in _PROTOCOLS.items() if protocol == rule.get("protocol")), None)
            key = (number, rule["ports"], rule["cidr"]) if number else (rule["cidr"],)
            of = f"{'port' if number else 'any'}{digit}"
            yield from (((f"egress_link_{of}", link, *key), "", at) for link in internals)
            yield from (((f"egress_net_{of}", net, *key), "", at) for net in networks)


def _gateway_networks(name: str, inputs: Inputs, out: str) -> Iterator[tuple[Fact, Any, Place]]:
    nat66, routed = inputs.get("enableIpv6", False), inputs.get("routeIpv6", False)
    for cidr in map(_bare, inputs.get("internalIps", ())):
        at = (name, "internalIps")
        yield ("forward_nets4", out, cidr), "", at
        if inputs.get("routeIpv4"):
            yield ("routed_nets4", out, cidr), "", (name, "routeIpv4")
            continue
        yield from _way_out("nets4", (out, cidr), inputs.get("externalIp"), at, (name, "externalIp"))
    for cidr in map(_bare, inputs.get("internalIpv6s", ())):
        at = (name, "internalIpv6s")
        if nat66 or routed:
            yield ("forward_nets6", out, cidr), "", at
        if routed:
            yield ("routed_nets6", out, cidr), "", at
        if nat66:
            yield from _way_out("nets6", (out, cidr), inputs.get("externalIpv6"), at, (name, "externalIpv6"))


def _way_out(
    what: str, key: tuple[str, ...], fixed: str | None, at: Place, changed: Place
) -> Iterator[tuple[Fact, Any, Place]]:
    """Masquerade; or a fixed address, which is the place where another address shows."""
    if fixed is None:
        yield (f"masquerade_{what}", *key), "", at
    else:
        yield (f"snat_{what}", *key), fixed, (at[0], f"{at[1]}|{changed[1]}")


# --- forwards ------------------------------------------------------------------------------------------------------


def _forwards(view: _View) -> Iterator[tuple[Fact, Any, Place]]:
    for name, inputs in view.forwards:
        at = (name, "") if view.program[name][0] == "PortForward" else (name, "forwardPorts")
        lines = view.lines_of(name, inputs)
        for key, value in _ways_in(inputs, view):
            for device in lines if key[0] == view.uplink else (key[0],):
                yield ("forward", device, *key[1:]), value, at
        for key in _wildcards(inputs, view):
            for device in lines if key[1] == view.uplink else (key[1],):
                yield (key[0], device, *key[2:]), "", at


def _ways_in(inputs: Inputs, view: _View) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Where a packet has to come in, by which address and port, and where it goes."""
    address, to = _destination(inputs)
    ports = _ports(inputs["sourcePort"])
    targets = ports if to is None else to * len(ports) if len(to) == 1 else to
    listens = [one if one not in _ANY[_digit(inputs)] else "" for one in inputs.get("listenAddresses", ("",))]
    for protocol in inputs.get("protocol", "tcp").split("+"):
        for port, target in zip(ports, targets, strict=True):
            value = f"{address}:{target}"
            for listen in listens:
                if listen != "127.0.0.1":
                    for source in inputs.get("sourceCidrs", ("",)):
                        yield (view.uplink, protocol, listen, _bare(source), port), value
                if listen == "127.0.0.1" or inputs.get("loopback", True):  # the host alone can say that address
                    yield ("", protocol, listen, "", port), value


def _wildcards(inputs: Inputs, view: _View) -> Iterator[Fact]:
    """A forward of every address takes the guests' gateway's address, too."""
    digit = _digit(inputs)
    if _ANY[digit][1] in inputs.get("listenAddresses", ()):
        for protocol in inputs.get("protocol", "tcp").split("+"):
            for port in _ports(inputs["sourcePort"]):
                yield f"dnat_wildcard{digit}", view.uplink, protocol, port
                if inputs.get("loopback", True):
                    yield f"inner_wildcard{digit}", protocol, port


def _from_localhost(inputs: Inputs) -> bool:
    listens = set(inputs.get("listenAddresses", ()))
    return "127.0.0.1" in listens or (inputs.get("loopback", True) and not listens - {_ANY["4"][1]})


def _destination(inputs: Inputs) -> tuple[str, list[int] | None]:
    """Address and ports."""
    text = str(inputs["destination"])
    found = re.fullmatch(r"\[(?P<v6>[^]]+)\](?::(?P<p6>.+))?|(?P<v4>[\d.]+)(?::(?P<p4>.+))?", text)
    if found is None:
        return text, None
    ports = found["p6"] or found["p4"]
    return found["v6"] or found["v4"], _ports(ports.replace("-", ":")) if ports else None


def _digit(inputs: Inputs) -> str:
    return str(ipaddress.ip_address(_destination(inputs)[0]).version)


def _ports(text: int | str) -> list[int]:
    low, _, high = str(text).partition(":")
    return list(range(int(low), int(high or low) + 1))


def _needs(kind: str, inputs: Inputs) -> set[str]:
    """The families whose forwarding a resource needs."""
    if kind == "PortForward":
        return {_digit(inputs)}
    if kind == "TapBinding":
        return {str(ipaddress.ip_address(address).version) for address in _proxied(inputs)}
    if kind != "NatGateway":
        return set()
    found = {_digit(one) for one in inputs.get("forwardPorts", ())}
    if inputs.get("internalInterfaces") or inputs.get("internalIps"):
        found.add("4")
    if inputs.get("enableIpv6") or inputs.get("routeIpv6"):
        found.add("6")
    return found | {
        str(ipaddress.ip_address(pair["externalAddress"]).version) for pair in inputs.get("oneToOneNat", ())
    }


# --- what all share ------------------------------------------------------------------------------------------------


def _common(view: _View) -> Iterator[tuple[Fact, Any, Place]]:
    nets: dict[str, list[str]] = {"4": [], "6": []}
    closed: dict[str, list[str]] = {"4": [], "6": []}
    for _, inputs in view.gateways:
        for digit, name in (("4", "internalIps"), ("6", "internalIpv6s")):
            nets[digit] += inputs.get(name, ())
            closed[digit] += inputs.get(name, ())
        for link in view.internals(inputs):
            for cidr in view.devices.get(link, ()):
                nets["6" if ":" in cidr else "4"].append(cidr)
    for prefix, of in (("internal_nets", nets), ("closed_nets", closed)):
        for digit, cidrs in of.items():
            yield from (((prefix + digit, net), "", UNSEEN) for net in _collapsed(cidrs))
    lines = {line for _, inputs in view.gateways for line in view.lines(inputs)}
    lines |= {line for name, inputs in view.forwards for line in view.lines_of(name, inputs)}
    yield from ((("outer_links", line), "", UNSEEN) for line in lines)
    yield from ((("inner_links", link), "", UNSEEN) for link in view.inner())
    yield from _inner_common(view)


def _inner_common(view: _View) -> Iterator[tuple[Fact, Any, Place]]:
    """What follows from the interfaces behind the host."""
    for link in view.inner():
        yield ("our_links", link), "", UNSEEN
        yield ("hairpin_pairs", link, link), "", UNSEEN
        for cidr in view.devices.get(link, ()):
            yield ("bridge_addrs6" if ":" in cidr else "bridge_addrs4", cidr.split("/")[0]), "", UNSEEN
        for digit, mark in (("4", "."), ("6", ":")):
            subnets = [
                cidr for cidr in view.devices.get(link, ()) if mark in cidr and not cidr.endswith(("/32", "/128"))
            ]
            yield from ((("hairpin_sources" + digit, net, link), "", UNSEEN) for net in _collapsed(subnets))


def _collapsed(cidrs: list[str]) -> list[str]:
    nets: Any = [ipaddress.ip_network(cidr, strict=False) for cidr in cidrs]
    found = list(ipaddress.collapse_addresses(nets))
    return [_bare(str(net)) for net in found]


def _bare(cidr: str) -> str:
    """As nft prints it: a single address has no length."""
    return cidr.removesuffix("/128") if ":" in cidr else cidr.removesuffix("/32")


# --- what the kernel has -------------------------------------------------------------------------------------------

_PROTOCOLS = {"6": "tcp", "17": "udp", "132": "sctp"}  # the bed lists numbers
# Counters count, `hairpin_ports` is a copy of the ports' hairpin mode, and `dns_port` is as fixed as the rules. Which
# addresses a guest may have depends on more than programs here say: tests/cases/untrusted has it, frame by frame.
_COUNTERS = (f"{name}_counters{n}" for name in ("forward", "range") for n in "46")
_IGNORED = frozenset({*_COUNTERS, "hairpin_ports", "dns_port"})
_GUARDS = re.compile(r"(guest|tap)_(?!links)\w+|arp_\w+|(taken|slaac)_\w+|(served|ruled)_ports|one_to_one_inner\w*")
_SOURCES = re.compile(r"port_sources(?P<length>\d+)_[46]")


def link_facts(links: Mapping[str, Link], routes: Mapping[str, set[str]]) -> dict[Fact, Any]:
    """Facts of links, and of the static routes of each."""
    facts: dict[Fact, Any] = {}
    for name, link in links.items():
        facts["link", name, "addresses"] = frozenset(link.addresses)
        facts["link", name, "routes"] = frozenset(routes.get(name, ()))
        for what in ("kind", "stp", "mtu", "mac", "master", "isolated", "hairpin"):
            facts["link", name, what] = getattr(link, what)
        facts["link", name, "user"] = None if link.owner is None else str(link.owner)
        facts["link", name, "group"] = None if link.group is None else str(link.group)
    return facts


def proxy_facts(entries: Iterable[tuple[str, str]]) -> dict[Fact, Any]:
    """Facts of what the host answers for: interface and address of each entry."""
    return {("proxy", device, address): "" for device, address in entries}


def table_facts(listed: Iterable[Mapping[str, Any]]) -> dict[Fact, Any]:
    """Facts of hostnet's tables in `nft -j list ruleset`: forwards port by port, all else as it is listed."""
    facts: dict[Fact, Any] = {}
    for item in listed:
        body = item.get("map") or item.get("set")
        if body is None or body["table"] != "hostnet" or body["name"] in _IGNORED or _GUARDS.fullmatch(body["name"]):
            continue
        for raw in body.get("elem", ()):
            key, value = raw if "map" in item else (raw, None)
            if body["name"].startswith("one_to_one_addrs") and not _parts(key)[0].startswith("eth"):
                continue  # see `_pairs`
            facts |= _element(body["name"], _parts(key), _parts(value) if value is not None else [])
    return _with_sources(facts)


def _with_sources(facts: dict[Fact, Any]) -> dict[Fact, Any]:
    """A forward that some sources may use is in two sets: where it leads, and who may use it."""
    joined = {key: value for key, value in facts.items() if not _SOURCES.fullmatch(str(key[0]))}
    used = set()
    for name, *key in facts:
        length = _SOURCES.fullmatch(str(name))
        if length is None:
            continue
        device, number, port, address = key
        limited = ("dnat_limited6" if ":" in address else "dnat_limited4", device, number, port)
        used.add(limited)
        source = _bare(f"{address}/{length['length']}")
        joined["forward", device, _PROTOCOLS.get(number, number), "", source, int(port)] = facts.get(limited)
    return {key: value for key, value in joined.items() if key not in used}


def _element(name: str, key: list[str], value: list[str]) -> dict[Fact, Any]:
    if name == "isolated_links":
        return {(name, key[0]): ""}
    of = name.rstrip("46")
    if of not in (*FORWARD_MAPS, "dnat_wildcard", "inner_wildcard"):
        return {(name, *map(_bare, key)): ":".join(value)}
    device, number, *middle, span = ("", *key) if of.startswith("inner_") else key
    protocol = _PROTOCOLS.get(number, number)
    ports = _ports(span.replace("-", ":"))
    if of.endswith("_wildcard"):
        return {(name, *([device] if device else []), protocol, port): "" for port in ports}
    if of.startswith("inner_") or (of.startswith("dnat_addr") and len(middle) == 1):
        middle.append("")  # from every source
    *listen, source = middle or [""]
    source = "" if source in _ANY["4"] or source in _ANY["6"] else _bare(source)
    at = listen[0] if listen else ""
    to = [value[1]] * len(ports) if len(value) > 1 else [str(port) for port in ports]
    return {
        ("forward", device, protocol, at, source, port): f"{value[0]}:{target}"
        for port, target in zip(ports, to, strict=True)
    }


def _parts(value: Any) -> list[str]:
    """A key or value as strings."""
    if isinstance(value, dict) and "elem" in value:
        return _parts(value["elem"]["val"])
    if isinstance(value, dict) and "concat" in value:
        return [part for one in value["concat"] for part in _parts(one)]
    if isinstance(value, dict) and "prefix" in value:
        return [f"{value['prefix']['addr']}/{value['prefix']['len']}"]
    if isinstance(value, dict) and "range" in value:
        return ["-".join(str(end) for end in value["range"])]
    return [str(value)]


def rules(listed: Iterable[Mapping[str, Any]]) -> list[Any]:
    """Chains and rules of hostnet's tables, without handles. That of replies depends on the uplinks."""
    found = []
    for item in listed:
        for kind in ("table", "chain", "rule"):
            body = item.get(kind)
            if body is not None and (body["name"] if kind == "table" else body["table"]) == "hostnet":
                found.append((kind, {key: value for key, value in body.items() if key != "handle"}))
    return found


# --- what refresh shows --------------------------------------------------------------------------------------------


def drift(program: Program, expected: Expected, seen: Mapping[Fact, Any], *, whole_table: bool) -> dict[str, set[str]]:
    """What refresh should show: properties by resource; `{"gone"}` for a resource that is not there any more.

    A property "" means "some property of it": which one a lost element shows in is a matter of its cell.

    Args:
        program: What is declared.
        expected: What the model says of it.
        seen: What the kernel has.
        whole_table: Whether the table's chains and rules are as they were made; elements without rules do nothing.
    """
    found: dict[str, set[str]] = {}
    for key, (value, (name, top)) in expected.facts.items():
        if not name:
            continue
        table = key[0] not in OF_KERNEL
        at = ("link", key[1], "master")
        of_port = top == "isolated" or (top == "mtu" and program[name][0] == "Bridge" and at in expected.facts)
        if of_port and seen.get(at) != expected.facts[at][0]:
            continue  # of a port that is not there nothing is said
        if top == "isolated":
            kept = ("isolated_links", seen.get(at))
            if value and kept in expected.facts and not (whole_table and kept in seen):
                found.setdefault(name, set()).add(top)
        there = None if table and not whole_table else seen.get(key)
        if there != value:
            lost, _, changed = top.partition("|")
            found.setdefault(name, set()).add(changed if changed and there is not None else lost)
    for name, tops in list(found.items()):
        if GONE in tops:
            found[name] = {GONE}
        if program[name][0] == "PortForward" and not whole_table:
            found[name] = {GONE}
    return found
