"""The output of `hostnet graph`: a host's topology as a tree of text, for Graphviz, or as a picture."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape

from hostnet.cli.status import inside
from hostnet.wire.objects import ports_text

_ROW, _COLUMN, _WIDTH, _LINE, _PAD = 16, 250, 200, 15, 8  # SVG user units
_COLOURS = {
    "host": "#e8e8e8",
    "uplink": "#fde2c4",
    "gateway": "#f9d0d0",
    "bridge": "#cfe3fa",
    "port": "#d9f0d3",
    "guest": "#eadcf7",
}


@dataclass
class Node:
    """A box.

    Attributes:
        kind: A key of the colours.
        lines: Its name, then what else it shows.
    """

    kind: str
    lines: list[str]


@dataclass
class Topology:
    """Boxes by id, and which box is behind which. The first edge to a box decides where it is drawn."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)

    def add(self, identity: str, kind: str, *lines: str, behind: str | None = None) -> None:
        """Add a box, unless there is one of this id, and an edge to it."""
        self.nodes.setdefault(identity, Node(kind, list(lines)))
        if behind is not None and (behind, identity) not in self.edges:
            self.edges.append((behind, identity))

    def children(self, identity: str) -> list[str]:
        """The boxes that are drawn behind this one."""
        first: dict[str, str] = {}
        for parent, child in self.edges:
            first.setdefault(child, parent)
        return [child for child, parent in first.items() if parent == identity]

    def to_json(self) -> dict[str, Any]:
        """The boxes and edges as JSON."""
        return {"nodes": {name: vars(node) for name, node in self.nodes.items()}, "edges": self.edges}


def topology(label: str, data: dict[str, Any]) -> Topology:
    """The topology, from the agent's answer to `status`."""
    made = Topology()
    made.add("host", "host", label)
    items = [(item, resource) for resource in data["resources"] for item in resource["objects"]]
    _gateways(made, items)
    for item, _ in items:
        if item["type"] == "link":
            kind = "bridge" if item["kind"] == "bridge" else "port"
            identity = f"link {item['name']}"
            made.nodes.setdefault(identity, Node(kind, [item["name"]])).kind = kind
    for item, resource in items:
        _attach(made, item, resource)
    _guests(made, items)
    _forwards(made, items)
    placed = {child for _, child in made.edges}
    for identity in made.nodes:
        if identity != "host" and identity not in placed:
            made.edges.append(("host", identity))
    return made


def _gateways(made: Topology, items: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    for item, resource in items:
        if item["type"] != "gateway":
            continue
        external = item.get("external") or "?"
        made.add(f"uplink {external}", "uplink", external, behind="host")
        name = f"gateway {item['name']}"
        translation = item.get("snat4") or "masquerade"
        made.add(name, "gateway", f"NAT {resource['name']}", translation, behind=f"uplink {external}")
        for each in inside(item):
            made.add(f"link {each}", "bridge", each, behind=name)


def _attach(made: Topology, item: dict[str, Any], resource: dict[str, Any]) -> None:
    if item["type"] == "address":
        made.add(f"link {item['link']}", "port", item["link"])
        made.nodes[f"link {item['link']}"].lines.append(item["cidr"])
    elif item["type"] == "port":
        made.add(f"link {item['bridge']}", "bridge", item["bridge"])
        made.add(f"link {item['link']}", "port", item["link"], behind=f"link {item['bridge']}")
    elif item["type"] == "glob":
        made.add(f"link {item['bridge']}", "bridge", item["bridge"])
        for member in resource["members"] or [item["pattern"]]:
            made.add(f"link {member}", "port", member, behind=f"link {item['bridge']}")


def _guests(made: Topology, items: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    for item, _ in items:
        if item["type"] == "guest":
            title = item.get("hostname") or "guest"
            lines = [*(item.get("addresses") or ()), item["mac"]]
            made.add(f"guest {item['link']}", "guest", title, *lines, behind=f"link {item['link']}")


def _forwards(made: Topology, items: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """Add each forward to the box of its guest, or to one of its own if the guest is not declared."""
    at: dict[str, str] = {}
    for item, _ in items:
        if item["type"] == "guest":
            for cidr in item.get("addresses") or ():
                at[str(ipaddress.ip_interface(cidr).ip)] = f"guest {item['link']}"
    networks = [
        (ipaddress.ip_interface(item["cidr"]).network, f"link {item['link']}")
        for item, _ in items
        if item["type"] == "address"
    ]
    for item, _ in items:
        if item["type"] != "forward":
            continue
        address = item["address"]
        target = at.get(address)
        if target is None:
            target = at[address] = f"address {address}"
            where = (link for network, link in networks if ipaddress.ip_address(address) in network)
            made.add(target, "guest", address, behind=next(where, "host"))
        ports, to_ports = ports_text(item["ports"]), ports_text(item["to_ports"])
        made.nodes[target].lines.append(f"{'+'.join(item['protocols'])} {ports} \N{RIGHTWARDS ARROW} {to_ports}")


# --- text, Graphviz, SVG -------------------------------------------------------------------------------------------


def as_text(made: Topology) -> str:
    """A tree."""
    return "\n".join(_branch(made, "host", "", "")) + "\n"


def _branch(made: Topology, identity: str, first: str, rest: str) -> Iterator[str]:
    name, *more = made.nodes[identity].lines
    yield f"{first}{name}{'  ' if more else ''}{', '.join(more)}"
    children = made.children(identity)
    for number, child in enumerate(children):
        last = number == len(children) - 1
        yield from _branch(made, child, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))


def as_dot(made: Topology) -> str:
    """For Graphviz."""
    lines = ["digraph hostnet {", '  rankdir=LR; node [shape=box, style="rounded,filled", fontname="sans-serif"];']
    for identity, node in made.nodes.items():
        label = "\\n".join(line.replace("\\", "\\\\").replace('"', '\\"') for line in node.lines)
        lines.append(f'  {_quoted(identity)} [label="{label}", fillcolor="{_COLOURS[node.kind]}"];')
    lines += [f"  {_quoted(one)} -> {_quoted(other)};" for one, other in made.edges]
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@dataclass
class _Layout:
    """Columns by depth, rows by leaf; a box stands in the middle of what is behind it."""

    made: Topology
    places: dict[str, tuple[float, float]] = field(default_factory=dict)
    bottom: float = _ROW

    def height(self, identity: str) -> float:
        """A box's."""
        return len(self.made.nodes[identity].lines) * _LINE + 2 * _PAD

    def place(self, identity: str, depth: int = 0) -> float:
        """Place a box and all behind it; gives its middle."""
        top = self.bottom
        middles = [self.place(child, depth + 1) for child in self.made.children(identity)]
        height = self.height(identity)
        middle = (middles[0] + middles[-1]) / 2 if middles else top + height / 2
        middle = max(middle, top + height / 2)
        self.bottom = max(self.bottom, middle + height / 2 + _ROW)
        self.places[identity] = (_ROW + depth * _COLUMN, middle)
        return middle


def as_svg(made: Topology) -> str:
    """A picture."""
    layout = _Layout(made)
    layout.place("host")
    width = max(x for x, _ in layout.places.values()) + _WIDTH + _ROW
    size = f'viewBox="0 0 {width:g} {layout.bottom:g}" width="{width:g}" height="{layout.bottom:g}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">']
    for one, other in made.edges:
        (x, y), (to_x, to_y) = layout.places[one], layout.places[other]
        start, middle = x + _WIDTH, (x + _WIDTH + to_x) / 2
        curve = f"M{start:g} {y:g} C{middle:g} {y:g} {middle:g} {to_y:g} {to_x:g} {to_y:g}"
        parts.append(f'<path d="{curve}" fill="none" stroke="#888"/>')
    parts += [line for identity in layout.places for line in _box(layout, identity)]
    return "\n".join([*parts, "</svg>", ""])


def _box(layout: _Layout, identity: str) -> Iterator[str]:
    node, (x, middle), height = layout.made.nodes[identity], layout.places[identity], layout.height(identity)
    yield (
        f'<rect x="{x:g}" y="{middle - height / 2:g}" width="{_WIDTH}" height="{height:g}" rx="5" '
        f'fill="{_COLOURS[node.kind]}" stroke="#666"/>'
    )
    for number, line in enumerate(node.lines):
        weight = ' font-weight="bold"' if number == 0 else ""
        y = middle - height / 2 + _PAD + (number + 0.8) * _LINE
        yield f'<text x="{x + _PAD:g}" y="{y:g}"{weight}>{escape(line)}</text>'


FORMATS: dict[str, Callable[[Topology], str]] = {"text": as_text, "dot": as_dot, "svg": as_svg}
