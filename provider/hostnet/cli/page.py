"""`hostnet graph --format html`: a topology as one page that needs no server and loads nothing.

All text of the host is escaped. The policy in the page's head lets the browser run one script, by its digest, and load
nothing: so a name that got through would still not run.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from html import escape
from pathlib import Path

from hostnet.cli.status import in_units
from hostnet.cli.topology import MARK, Node, Target, Topology

_PAGE = Path(__file__).parent / "files" / "page"
# A list of forwards that is not longer is shown at once, on a page with few ports.
_SHORT, _FEW = 3, 40
_KINDS = {
    "host": "host",
    "uplink": "uplink",
    "gateway": "NAT gateway",
    "bridge": "bridge",
    "network": "network",
    "port": "port",
    "guest": "guest",
}
_OTHER = {"dmz": "DMZ host", "one-to-one": "one-to-one NAT"}
# What is behind these is shown side by side.
_MANY = ("bridge", "network")


def as_html(made: Topology) -> str:
    """A page with the whole topology."""
    style, script = ((_PAGE / name).read_text(encoding="utf-8") for name in ("style.css", "search.js"))
    policy = f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; base-uri 'none'"
    page = _Page(made)
    label = escape(made.nodes["host"].lines[0])
    return "\n".join(
        (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{label}</title>\n<style>{style}</style>\n</head>\n<body>\n<header>",
            f"<h1>{label}</h1>\n<p>{escape(page.summary())}</p>",
            '<input id="search" type="search" placeholder="Search names, addresses, ports ( / )" autocomplete="off">',
            '<label><input id="wrong-only" type="checkbox"> only what is not as declared</label>',
            '<output id="found"></output>\n</header>\n<main>',
            *page.wrongs(),
            f"<ul>{page.item('host')}</ul>\n</main>\n<script>{script}</script>\n</body>\n</html>\n",
        )
    )


def _digest(text: str) -> str:
    """As a content security policy names an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class _Page:
    def __init__(self, made: Topology) -> None:
        self._made, self._tree = made, made.tree()
        self._few = sum(node.kind == "port" for node in made.nodes.values()) <= _FEW
        self._numbers = {identity: f"n{number}" for number, identity in enumerate(made.nodes)}

    def summary(self) -> str:
        """What there is, in numbers, and when it was read."""
        nodes = self._made.nodes.values()
        counts = {kind: sum(node.kind == kind for node in nodes) for kind in ("gateway", "bridge", "port", "guest")}
        counts["port forward"] = sum(target.kind == "forward" for node in nodes for target in node.targets)
        named = (f"{count:,} {_KINDS.get(kind, kind)}{'' if count == 1 else 's'}" for kind, count in counts.items())
        wrong = sum(_is_wrong(node) for node in nodes)
        state = f"{wrong:,} not as declared" if wrong else "all as declared"
        return " · ".join(filter(None, (*named, state, self._made.when)))

    def wrongs(self) -> Iterator[str]:
        """What is not as declared, with links to the boxes."""
        wrong = [(identity, node) for identity, node in self._made.nodes.items() if _is_wrong(node)]
        if not wrong:
            return
        shown = " open" if len(wrong) <= _SHORT else ""
        yield f'<details id="wrongs"{shown}><summary class="error">{len(wrong):,} not as declared</summary>\n<ul>'
        for identity, node in wrong:
            link = f'<a href="#{self._numbers[identity]}"><bdi>{escape(node.lines[0])}</bdi></a>'
            texts = [*node.wrong, *(text for target in node.targets for text in target.wrong)]
            yield f"<li>{link}: {escape(', '.join(texts) or 'is not there')}</li>"
        yield "</ul></details>"

    def item(self, identity: str) -> str:
        """A box, and what is behind it: beside a port is its guest, in the same box."""
        node, behind = self._made.nodes[identity], self._tree.get(identity, [])
        classes = [node.kind, *(["wrong"] if _is_wrong(node) else []), *(["absent"] if node.absent else [])]
        grid = " grid" if node.kind in _MANY else ""
        items = "".join(map(self.item, behind))
        children = f'<ul class="behind{grid}">{items}</ul>' if behind else ""
        within, below = (children, "") if node.kind == "port" else ("", children)
        return (
            f'<li class="{" ".join(classes)}" id="{self._numbers[identity]}" data-kind="{node.kind}">'
            f'<div class="card">{"".join(_face(node, shown=self._few))}{within}</div>{below}</li>\n'
        )


def _is_wrong(node: Node) -> bool:
    return bool(node.absent or node.wrong or any(target.wrong for target in node.targets))


def _face(node: Node, *, shown: bool) -> Iterator[str]:
    """What a box shows; its forwards at once, or where a reader opens them."""
    name, *facts = node.lines
    yield f'<h2><bdi>{escape(name)}</bdi></h2><span class="kind">{_KINDS[node.kind]}</span>'
    yield from (f'<bdi class="fact">{escape(fact)}</bdi>' for fact in facts)
    yield from map(_error, node.wrong)
    if node.targets:
        yield from _forwards(node.targets, shown=shown)


def _forwards(targets: list[Target], *, shown: bool) -> Iterator[str]:
    """A list of forwards with their counters."""
    forwards = [each for each in targets if each.kind == "forward"]
    words = [f"{len(forwards):,} forward{'' if len(forwards) == 1 else 's'}"] if forwards else []
    words += [name for kind, name in _OTHER.items() if any(each.kind == kind for each in targets)]
    total = f" \N{MIDDLE DOT} {in_units(sum(each.bytes for each in forwards))}" if forwards else ""
    opened = " open" if shown and len(targets) <= _SHORT else ""
    yield f"<details{opened}><summary>{', '.join(words)}{total}</summary>\n"
    yield f'<ul class="forwards">{"".join(map(_row, targets))}</ul></details>'


def _row(target: Target) -> str:
    kind = ' class="absent"' if target.absent else ""
    counters = (
        ""
        if target.kind != "forward"
        else f" \N{MIDDLE DOT} {target.packets:,} packets \N{MIDDLE DOT} {in_units(target.bytes)}"
    )
    return (
        f'<li{kind}><bdi class="name">{escape(target.text)}</bdi> <span>{", ".join(target.families)}</span>'
        f'<span class="fact"><bdi>{escape(target.resource)}</bdi>{counters}</span>'
        f"{''.join(map(_error, target.wrong))}</li>\n"
    )


def _error(text: str) -> str:
    return f'<bdi class="error">{MARK}{escape(text)}</bdi>'
