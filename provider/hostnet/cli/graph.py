"""The output of `hostnet graph`: a topology as a tree of text, for Graphviz, as a picture, or as a page."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from hostnet.cli.page import as_html
from hostnet.cli.topology import MARK, Node, Topology

# SVG user units. A monospaced letter is 0.6 of the font's size wide, in every font: so a box can be made to fit.
_FONT, _LETTER, _LINE, _PAD, _GAP, _BETWEEN = 12, 7.3, 15, 8, 12, 50
_LETTERS, _ROWS = 52, 60  # of a line in a box; of a column of a box with many ports
_COLOURS = {
    "host": "#e8e8e8",
    "uplink": "#fde2c4",
    "gateway": "#f9d0d0",
    "bridge": "#cfe3fa",
    "network": "#cfe3fa",
    "port": "#d9f0d3",
    "ports": "#d9f0d3",
    "guest": "#eadcf7",
}
_WRONG = "#c00000"


# --- text ----------------------------------------------------------------------------------------------------------


def as_text(made: Topology) -> str:
    """A tree."""
    return "\n".join(_branch(made, made.tree(), "host", "", "")) + "\n"


def _branch(made: Topology, tree: dict[str, list[str]], identity: str, first: str, rest: str) -> Iterator[str]:
    node = made.nodes[identity]
    name, *more = node.lines
    below = more if node.kind == "ports" else []
    facts = [*([] if below else more), *(MARK + text for text in node.wrong)]
    yield f"{first}{name}{'  ' if facts else ''}{', '.join(facts)}"
    children = tree.get(identity, [])
    for number, line in enumerate(below):
        yield f"{rest}{'└─ ' if number == len(below) - 1 else '├─ '}{line}"
    for number, child in enumerate(children):
        last = number == len(children) - 1
        yield from _branch(made, tree, child, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))


# --- Graphviz ------------------------------------------------------------------------------------------------------


def as_dot(made: Topology) -> str:
    """For Graphviz."""
    lines = ["digraph hostnet {", '  rankdir=LR; node [shape=box, style="rounded,filled", fontname="monospace"];']
    for identity, node in made.nodes.items():
        label = "".join(line.replace("\\", "\\\\").replace('"', '\\"') + "\\l" for line in _rows(node))
        look = f'fillcolor="{_COLOURS[node.kind]}"'
        if node.wrong or node.absent:
            look += f', color="{_WRONG}", fontcolor="{_WRONG}", penwidth=2'
        if node.absent:
            look += ', style="rounded,filled,dashed"'
        lines.append(f'  {_quoted(identity)} [label="{label}", {look}];')
    lines += [f"  {_quoted(one)} -> {_quoted(other)};" for one, other in made.edges]
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# --- SVG -----------------------------------------------------------------------------------------------------------


def _rows(node: Node) -> list[str]:
    """The lines of a box, none too long; what is wrong last."""
    lines = [*node.lines, *(MARK + text for text in node.wrong)]
    return [row for line in lines for row in textwrap.wrap(line, _LETTERS, subsequent_indent="  ") or [""]]


@dataclass
class _Box:
    """A box on the page.

    Attributes:
        node: What it shows.
        columns: Its lines; one column, but for a box with many ports.
    """

    node: Node
    columns: list[list[str]]
    x: float = 0
    y: float = 0  # of its middle

    @classmethod
    def of(cls, node: Node) -> _Box:
        """The box of a node."""
        rows = _rows(node)
        if node.kind != "ports":
            return cls(node, [rows])
        count = -(-len(rows) // _ROWS)
        each = -(-len(rows) // count)
        return cls(node, [rows[start : start + each] for start in range(0, len(rows), each)])

    @property
    def widths(self) -> list[float]:
        """Of its columns."""
        return [max(map(len, rows)) * _LETTER + 2 * _PAD for rows in self.columns]

    @property
    def width(self) -> float:
        """As wide as its lines need."""
        return sum(self.widths)

    @property
    def height(self) -> float:
        """As high as its lines need."""
        return max(map(len, self.columns)) * _LINE + 2 * _PAD


@dataclass
class _Layout:
    """Columns by depth, rows by leaf; a box stands in the middle of what is behind it."""

    made: Topology
    boxes: dict[str, _Box] = field(default_factory=dict)
    bottom: float = _GAP
    right: float = 0

    def place_all(self) -> None:
        """Place every box."""
        tree = self.made.tree()
        self.boxes = {identity: _Box.of(node) for identity, node in self.made.nodes.items()}
        depths = dict(_depths(tree, "host", 0))
        self._place(tree, "host")
        left = float(_GAP)
        for depth in range(max(depths.values()) + 1):
            column = [self.boxes[identity] for identity, at in depths.items() if at == depth]
            for box in column:
                box.x = left
            left += max(box.width for box in column) + _BETWEEN
        self.right = left - _BETWEEN + _GAP

    def _place(self, tree: dict[str, list[str]], identity: str) -> float:
        """Place a box and all behind it from top to bottom; returns the height of its middle."""
        top, box = self.bottom, self.boxes[identity]
        middles = [self._place(tree, child) for child in tree.get(identity, ())]
        middle = (middles[0] + middles[-1]) / 2 if middles else 0.0
        box.y = max(middle, top + box.height / 2)
        self.bottom = max(self.bottom, box.y + box.height / 2 + _GAP)
        return box.y


def _depths(tree: dict[str, list[str]], identity: str, depth: int) -> Iterator[tuple[str, int]]:
    yield identity, depth
    for child in tree.get(identity, ()):
        yield from _depths(tree, child, depth + 1)


def as_svg(made: Topology) -> str:
    """A picture."""
    layout = _Layout(made)
    layout.place_all()
    size = f'viewBox="0 0 {layout.right:g} {layout.bottom:g}" width="{layout.right:g}" height="{layout.bottom:g}"'
    look = f'font-family="monospace" font-size="{_FONT}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} {look}>']
    for one, other in made.edges:
        start, end = layout.boxes[one], layout.boxes[other]
        x = start.x + start.width
        middle = (x + end.x) / 2
        curve = f"M{x:g} {start.y:g} C{middle:g} {start.y:g} {middle:g} {end.y:g} {end.x:g} {end.y:g}"
        parts.append(f'<path d="{curve}" fill="none" stroke="#888"/>')
    parts += [line for box in layout.boxes.values() for line in _drawn(box)]
    return "\n".join([*parts, "</svg>", ""])


def _drawn(box: _Box) -> Iterator[str]:
    node, top = box.node, box.y - box.height / 2
    stroke = f'stroke="{_WRONG}" stroke-width="2"' if node.wrong or node.absent else 'stroke="#666"'
    dashes = ' stroke-dasharray="6 4"' if node.absent else ""
    yield (
        f'<rect x="{box.x:g}" y="{top:g}" width="{box.width:g}" height="{box.height:g}" rx="5" '
        f'fill="{_COLOURS[node.kind]}" {stroke}{dashes}/>'
    )
    x = box.x
    for column, (rows, width) in enumerate(zip(box.columns, box.widths, strict=True)):
        marked = False
        for number, row in enumerate(rows):
            marked = marked or row.startswith(MARK)
            weight = ' font-weight="bold"' if number == column == 0 else ""
            colour = f' fill="{_WRONG}"' if marked else ""
            y = top + _PAD + (number + 0.8) * _LINE
            yield f'<text x="{x + _PAD:g}" y="{y:g}" xml:space="preserve"{weight}{colour}>{escape(row)}</text>'
        x += width


# The last shows everything, the others what fits a page.
WHOLE = frozenset({"html"})
FORMATS: dict[str, Callable[[Topology], str]] = {
    "text": as_text,
    "dot": as_dot,
    "svg": as_svg,
    "html": as_html,
}
