"""A host's topology, from the agent's answer to `status`: what is there, with what is not as declared marked.

Links, ports and addresses are the kernel's; gateways, forwards and guests are as recorded, but for what the agent found
missing or changed.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from hostnet.resources.schema.types import rate_text
from hostnet.wire.objects import ports_text

MARK = "\N{BALLOT X} "  # before what is not as declared
_MOST_FORWARDS = 8  # in one box
_MOST_PORTS = 12  # of one bridge, each in a box of its own
Json = dict[str, Any]


@dataclass
class Target:
    """What reaches a box from outside: a port forward, the rest as DMZ host, or all that an address of the host gets.

    Attributes:
        text: Its ports, in words.
        resource: The name of its resource.
        families: `IPv4`, `IPv6`, or both.
        kind: `forward`, `dmz` or `one-to-one`.
        packets: That a forward has translated; of others none are counted.
        bytes: Likewise.
        wrong: What is not as declared.
        absent: It is declared, and not there.
    """

    text: str
    resource: str
    families: list[str]
    kind: str = "forward"
    packets: int = 0
    bytes: int = 0
    wrong: list[str] = field(default_factory=list)
    absent: bool = False


@dataclass
class Node:
    """A box.

    Attributes:
        kind: `host`, `uplink`, `gateway`, `bridge`, `network`, `port`, `guest`, or `ports`: many in one box.
        lines: Its name, then what else it shows; of `ports` a line for each.
        wrong: What is not as declared.
        absent: It is declared, and not there.
        targets: The forwards that lead to it.
    """

    kind: str
    lines: list[str]
    wrong: list[str] = field(default_factory=list)
    absent: bool = False
    targets: list[Target] = field(default_factory=list)


@dataclass
class Topology:
    """Boxes by id, and which box is behind which. The first edge to a box decides where it is drawn.

    Attributes:
        nodes: The boxes.
        edges: Pairs of ids: the second is behind the first.
        when: When the host was read, for a person; "" where that is not shown.
    """

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    when: str = ""

    def add(self, identity: str, kind: str, *lines: str, behind: str | None = None) -> Node:
        """The box of this id, which is made if there is none, with an edge to it."""
        node = self.nodes.setdefault(identity, Node(kind, list(lines)))
        if behind is not None and (behind, identity) not in self.edges:
            self.edges.append((behind, identity))
        return node

    def tree(self) -> dict[str, list[str]]:
        """By box, the boxes that are drawn behind it."""
        first: dict[str, str] = {}
        for parent, child in self.edges:
            first.setdefault(child, parent)
        found: dict[str, list[str]] = defaultdict(list)
        for child, parent in first.items():
            found[parent].append(child)
        return found

    def remove(self, identities: Iterable[str]) -> None:
        """Take boxes out, with their edges."""
        gone = set(identities)
        self.nodes = {identity: node for identity, node in self.nodes.items() if identity not in gone}
        self.edges = [edge for edge in self.edges if not gone & set(edge)]

    def to_json(self) -> Json:
        """The boxes and edges as JSON."""
        return {"nodes": {name: asdict(node) for name, node in self.nodes.items()}, "edges": self.edges}


@dataclass(frozen=True)
class _Item:
    """An object of a resource, with what is wrong with it."""

    object: Json
    resource: Json
    wrong: tuple[str, ...]
    absent: bool


def topology(label: str, data: Json, *, whole: bool = False) -> Topology:
    """The topology of a host, from the agent's answer to `status`.

    Args:
        label: The host.
        data: The answer.
        whole: A box for each port, with all forwards as its targets. Otherwise it is made to fit a page: a bridge's
            many ports are one box, and a box has lines for the first of its forwards.
    """
    made = _Builder(data).build(label)
    if not whole:
        for node in made.nodes.values():
            node.lines += _lines(node.targets)
            node.wrong += [text for target in node.targets for text in target.wrong]
        _fold(made)
    return made


class _Builder:
    def __init__(self, data: Json) -> None:
        self._data = data
        self._links: dict[str, Json] = {each["name"]: each for each in data["interfaces"]}
        self._items = list(_items(data))
        self._made = Topology()

    def build(self, label: str) -> Topology:
        """All boxes."""
        self._host(label)
        for external in dict.fromkeys(self._externals()):
            self._uplink(external)
        for item in self._of("gateway"):
            self._gateway(item)
        self._bridges()
        self._ports()
        for item in self._of("guest"):
            self._guest(item)
        self._targets()
        placed = {child for _, child in self._made.edges}
        for identity in self._made.nodes:
            if identity != "host" and identity not in placed:
                self._made.edges.append(("host", identity))
        return self._made

    def _of(self, kind: str) -> Iterator[_Item]:
        return (item for item in self._items if item.object["type"] == kind)

    def _host(self, label: str) -> None:
        host = self._made.add("host", "host", label)
        if self._data["undeclared"]:
            host.wrong.append(f"no resource declares {self._data['undeclared']} nftables elements")
        for item in self._of("forwarding"):
            host.wrong += [text for text in item.wrong if text not in host.wrong]
        if self._data["watcher"]["needed"] and not self._data["watcher"]["pid"]:
            host.wrong.append("no process attaches new interfaces")

    def _externals(self) -> Iterator[str]:
        yield from self._data["defaultRoute"].values()
        for item in (*self._of("gateway"), *self._of("forward")):
            yield from _uplinks(item.object)

    def _uplink(self, name: str) -> None:
        node = self._made.add(f"link {name}", "uplink", name, *self._addresses(name), behind="host")
        if name not in self._links:
            node.absent = True
            node.wrong.append(f"{name} does not exist")

    def _addresses(self, name: str) -> list[str]:
        """Both families on one line; none where there are none."""
        cidrs = self._links.get(name, {}).get("addresses", ())
        return [", ".join(cidrs)] if cidrs else []

    def _gateway(self, item: _Item) -> None:
        about, name = item.object, f"gateway {item.object['name']}"
        how = [about.get("snat4") or "masquerade"]
        if about.get("nat6"):
            how.append(f"IPv6 {about.get('snat6') or 'masquerade'}")
        if about.get("route6"):
            how.append("IPv6 routed")
        if about.get("route4"):
            how.append("IPv4 routed")
        lines, uplinks = [f"NAT {item.resource['name']}", ", ".join(how)], _uplinks(about)
        if len(uplinks) > 1:
            lines.append(f"through {', '.join(uplinks)}")
        for external in uplinks or ["None"]:
            node = self._made.add(name, "gateway", *lines, behind=f"link {external}")
        node.wrong += item.wrong
        behind = {f"link {each}" for each in about.get("internal", ())}
        for cidr in (*about.get("internal4", ()), *about.get("internal6", ())):
            behind |= self._links_in(cidr) or {f"network {cidr}"}
        for each in sorted(behind):
            kind, _, title = each.partition(" ")
            self._made.add(each, "bridge" if kind == "link" else "network", title, behind=name)

    def _links_in(self, cidr: str) -> set[str]:
        """The links whose subnets overlap a network, but for uplinks."""
        network = ipaddress.ip_network(cidr)
        return {
            f"link {name}"
            for name, about in self._links.items()
            if self._made.nodes.get(f"link {name}", Node("", [])).kind != "uplink"
            and any(_overlap(network, each) for each in about["addresses"])
        }

    def _bridges(self) -> None:
        declared = {item.object["name"]: item for item in self._of("link") if item.object["kind"] == "bridge"}
        named = [item.object["bridge"] for kind in ("port", "glob") for item in self._of(kind)]
        for name in (*declared, *named):
            self._made.add(f"link {name}", "bridge", name)
        for node in [each for each in self._made.nodes.values() if each.kind == "bridge"]:
            name = node.lines[0]
            node.lines += self._addresses(name)
            node.absent = name not in self._links
            about = [declared[name]] if name in declared else []
            about += [item for kind in ("dhcp", "glob") for item in self._of(kind) if item.object["bridge"] == name]
            told = self._made.nodes["host"].wrong
            node.wrong += [text for item in about for text in item.wrong if text not in told]

    def _ports(self) -> None:
        """Where the kernel has each link; one that is absent is where it is declared to be."""
        declared = {item.object["name"]: item for item in self._of("link") if item.object["kind"] == "tap"}
        ours = {*declared, *(name for each in self._data["resources"] for name in each["members"])}
        bridges = {item.object["link"]: item for item in self._of("port")}
        shown = {node.lines[0] for node in self._made.nodes.values() if node.kind == "bridge"}
        there = [name for name, about in self._links.items() if about["bridge"] in shown]
        for name in dict.fromkeys((*there, *declared)):
            port, link = bridges.get(name), declared.get(name)
            master = self._links[name]["bridge"] if name in self._links else port and port.object["bridge"]
            behind = f"link {master}" if master in shown else "host"
            node = self._made.add(f"link {name}", "port", name, *self._addresses(name), behind=behind)
            node.absent = name not in self._links
            if name not in ours:
                node.lines.append("not managed by hostnet")
            if link is not None:
                node.lines += _limits(link.object)
            for item in (link, port):
                node.wrong += item.wrong if item is not None else ()
        for item in self._of("glob"):
            if not item.resource["members"]:
                bridge, pattern = item.object["bridge"], item.object["pattern"]
                self._made.add(f"glob {bridge}/{pattern}", "port", pattern, "no interface", behind=f"link {bridge}")

    def _guest(self, item: _Item) -> None:
        about = item.object
        lines = [about.get("hostname") or "guest", ", ".join(about.get("addresses") or ()), about["mac"]]
        behind = f"link {about['link']}"
        node = self._made.add(f"guest {about['link']}", "guest", *filter(None, lines), behind=behind)
        node.wrong += item.wrong

    def _targets(self) -> None:
        """Forwards and DMZ hosts, in the box of their guest, or in one of its own if the guest is not declared."""
        places, counters = _Places(self._made, self._items, self._links), _Counters(self._data["portForwards"])
        for item in self._of("forward"):
            about = item.object
            packets, size = counters.of(item.resource["urn"], about)
            target = Target(
                _forward_text(about),
                item.resource["name"],
                ["IPv6" if about["family"] == "ipv6" else "IPv4"],
                packets=packets,
                bytes=size,
                wrong=list(item.wrong),
                absent=item.absent,
            )
            self._made.nodes[places.of(about["address"])].targets.append(target)
        for item in self._of("gateway"):
            for place, target in _of_gateway(item.object, item.resource["name"], places):
                self._made.nodes[place].targets.append(target)


def _limits(about: Json) -> list[str]:
    """What `bandwidth` allows; none where it allows all."""
    rates = [f"{rate_text(about[name])} {name}" for name in ("download", "upload") if about.get(name)]
    return [f"at most {', '.join(rates)}"] if rates else []


def _uplinks(about: Json) -> list[str]:
    """The external interfaces of a gateway or forward; none while it is not known."""
    return [about["external"], *about.get("more", ())] if about.get("external") else []


def _of_gateway(about: Json, name: str, places: _Places) -> Iterator[tuple[str, Target]]:
    """The boxes of a gateway's DMZ hosts and of its one-to-one NAT, and what reaches them."""
    found: dict[str, Target] = {}
    for address in filter(None, (about.get("dmz4"), about.get("dmz6"))):
        target = found.setdefault(places.of(address), Target(f"all else (DMZ of {name})", name, [], kind="dmz"))
        target.families.append(_family(address))
    yield from found.items()
    for external, internal in about.get("one_to_one", ()):
        yield places.of(internal), Target(f"all of {external} (one-to-one)", name, [_family(internal)], "one-to-one")


def _family(address: str) -> str:
    return "IPv6" if ":" in address else "IPv4"


class _Counters:
    """The counters of forwards, by what the agent says of each."""

    def __init__(self, forwards: Iterable[Json]) -> None:
        self._left: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
        names = ("owner", "protocol", "sourcePorts", "destinationAddress", "destinationPorts")
        for each in forwards:
            self._left[tuple(each[name] for name in names)].append((each["packets"], each["bytes"]))

    def of(self, urn: str, about: Json) -> tuple[int, int]:
        """Packets and bytes; both lists of a resource's forwards are in one order."""
        protocol, ports, to_ports = "+".join(about["protocols"]), ports_text(about["ports"]), about["to_ports"]
        left = self._left[urn, protocol, ports, about["address"], ports_text(to_ports)]
        return left.pop(0) if left else (0, 0)


class _Places:
    """The boxes of addresses."""

    def __init__(self, made: Topology, items: list[_Item], links: dict[str, Json]) -> None:
        self._made = made
        self._at: dict[str, str] = {}
        for item in items:
            if item.object["type"] == "guest":
                for cidr in item.object.get("addresses") or ():
                    self._at[cidr.partition("/")[0]] = f"guest {item.object['link']}"
        self._subnets = [
            (ipaddress.ip_interface(cidr).network, f"link {name}")
            for name, about in links.items()
            if f"link {name}" in made.nodes
            for cidr in about["addresses"]
        ]

    def of(self, address: str) -> str:
        """The box of an address, which is made if there is none."""
        if address not in self._at:
            ip = ipaddress.ip_address(address)
            behind = next((link for network, link in self._subnets if ip in network), "host")
            self._at[address] = f"address {address}"
            self._made.add(f"address {address}", "guest", address, behind=behind)
        return self._at[address]


def _items(data: Json) -> Iterator[_Item]:
    for resource in data["resources"]:
        wrong: dict[int, list[Json]] = defaultdict(list)
        for each in resource["wrong"]:
            wrong[each["item"]].append(each)
        for number, item in enumerate(resource["objects"]):
            found = wrong.get(number, [])
            yield _Item(item, resource, tuple(x["text"] for x in found), any(x["absent"] for x in found))


def _overlap(network: ipaddress.IPv4Network | ipaddress.IPv6Network, cidr: str) -> bool:
    other = ipaddress.ip_interface(cidr).network
    return other.version == network.version and network.overlaps(other)


def _forward_text(item: Json) -> str:
    ports, to_ports = ports_text(item["ports"]), ports_text(item["to_ports"])
    listen = f" at {', '.join(item['listen'])}" if item.get("listen") else ""
    return f"{'+'.join(item['protocols'])} {ports}{listen} \N{RIGHTWARDS ARROW} {to_ports}"


def _lines(targets: list[Target]) -> list[str]:
    """A line for each of the first forwards that are there; one of both families is one line."""
    found: dict[str, set[str]] = defaultdict(set)
    for each in targets:
        if not each.absent:
            found[each.text] |= set(each.families)
    shown = [_with_families(text, families) for text, families in found.items()]
    more = len(shown) - _MOST_FORWARDS
    return shown[:_MOST_FORWARDS] + ([f"and {more} more forwards"] if more > 0 else [])


def _with_families(text: str, families: set[str]) -> str:
    """IPv4 goes without saying, where it is alone."""
    return text if families == {"IPv4"} else f"{text} ({', '.join(sorted(families))})"


def _fold(made: Topology) -> None:
    """Put the ports of a bridge that has many into one box. What is not as declared keeps a box of its own."""
    tree = made.tree()
    for bridge, ports in tree.items():
        if bridge not in made.nodes or made.nodes[bridge].kind != "bridge" or len(ports) <= _MOST_PORTS:
            continue
        whole = {port: [port, *tree.get(port, ())] for port in ports}
        folded = {port: boxes for port, boxes in whole.items() if not any(made.nodes[x].wrong for x in boxes)}
        lines = ["  ".join(_brief(made.nodes[box]) for box in boxes) for boxes in folded.values()]
        if len(folded) > 1:
            made.remove(box for boxes in folded.values() for box in boxes)
            made.add(f"ports {bridge}", "ports", f"{len(folded)} ports", *sorted(lines), behind=bridge)


def _brief(node: Node) -> str:
    """A box in one line, without a guest's MAC address."""
    return " ".join(line for line in node.lines if line != "guest" and line.count(":") != 5)
