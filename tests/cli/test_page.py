"""`hostnet graph --format html` in a real browser: what a search finds, and that no name of a host becomes a script."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostnet.cli.page import as_html
from hostnet.cli.topology import topology

from tests.cli.test_graph import Json, answer, forward, link, resource
from tools.browser import Browser, browser

pytestmark = pytest.mark.xdist_group("browser")  # one at a time: each takes a core and some hundred MB

# Each would run a script in its own place: in text, in an attribute, in a style, in a comment, in a URL.
HOSTILE = (
    "<script>window.ran = 1</script>",
    '"><img src=x onerror="window.ran = 1">',
    "'><svg onload='window.ran = 1'>",
    "</style></title><script>window.ran = 1</script>",
    "--><iframe srcdoc='<script>parent.ran = 1</script>'></iframe><!--",
    "javascript:window.ran = 1//&quot;&#x3c;b&#x3e;",
)
VISIBLE = """return Array.from(document.querySelectorAll("li[data-kind]:not([hidden]) > .card > h2"))
    .filter((name) => name.checkVisibility()).map((name) => name.textContent)"""


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    """One browser for all."""
    with browser() as made:
        yield made


def a_host(guests: int) -> Json:
    """Guests with a forward each; one guest has a forward of both families, one TAP is missing, one forward, too."""
    webs = [resource(f"web{n}", forward(f"10.0.{n // 200}.{n % 200 + 2}", port=8000 + n)) for n in range(guests)]
    data = answer(guests, *webs, resource("six", forward("fd12::3")), interfaces=(link("their", "veth", "br0"),))
    wrong = {"vm3": "TAP vm3 does not exist", "web1": "tcp port 8001 is not forwarded"}
    for each in data["resources"]:
        each["wrong"] = [{"item": 0, "text": wrong[each["name"]], "absent": True}] if each["name"] in wrong else []
    data["portForwards"] = [
        {
            "owner": each["urn"],
            "protocol": "tcp",
            "sourcePorts": str(item["ports"][0]),
            "destinationAddress": item["address"],
            "destinationPorts": str(item["to_ports"][0]),
            "packets": 1200,
            "bytes": 3 << 20,
        }
        for each in data["resources"]
        for item in each["objects"]
        if item["type"] == "forward"
    ]
    return data


def show(tab: Browser, folder: Path, data: Json, label: str = "root@203.0.113.5", search: str = "") -> None:
    """Load the page of a host from a file."""
    page = folder / "graph.html"
    page.write_text(as_html(topology(label, data, whole=True)), encoding="utf-8")
    tab.open(f"{page.as_uri()}{search}")


@pytest.mark.parametrize("guests", [5, 500])
def test_it_shows_everything_and_a_search_finds_it(tab: Browser, tmp_path: Path, guests: int) -> None:
    """By a name, an address and a port: the box and those it is behind, and nothing else; emptied, everything."""
    show(tab, tmp_path, a_host(guests))
    everything = tab.run(VISIBLE)
    assert {"root@203.0.113.5", "eth0", "NAT nat", "br0", "their"} <= set(everything)
    assert sum(name.startswith("guest") for name in everything) == guests
    above = ["root@203.0.113.5", "eth0", "NAT nat", "br0", "vm4"]
    for text in ("guest4 10.0.0.6", "10.0.0.6/16", "tcp 8004", "WEB4 10.0.0.6/16"):
        tab.type("#search", text)
        assert tab.run(VISIBLE) == [*above, "guest4"], text
        assert tab.run("return document.getElementById('found').textContent") == "1 found"
    tab.type("#search", "8004")
    rows = "return Array.from(document.querySelectorAll('details[open] .forwards .name'), (each) => each.textContent)"
    assert "tcp 8004 \N{RIGHTWARDS ARROW} 8004" in tab.run(rows)
    tab.type("#search", "no such thing")
    assert tab.run(VISIBLE) == []
    tab.run("location.hash = '#search=10.0.0.6/16'; dispatchEvent(new HashChangeEvent('hashchange'))")
    assert tab.run(VISIBLE) == [*above, "guest4"]
    show(tab, tmp_path, a_host(guests), search="?#search=10.0.0.6%2F16")
    assert tab.run(VISIBLE) == [*above, "guest4"]
    tab.type("#search", "x")
    tab.type("#search", "\N{DIGIT ZERO}\ue003")  # a digit and backspace
    assert tab.run(VISIBLE) == everything


def test_what_is_not_as_declared_is_marked(tab: Browser, tmp_path: Path) -> None:
    """It is named at the top, marked in its box, and can be shown alone; counters, families and the DMZ are there."""
    show(tab, tmp_path, a_host(20))
    text = tab.run("return document.body.innerText")
    for words in ("2 not as declared", "vm3: TAP vm3 does not exist", "guest1: tcp port 8001 is not forwarded"):
        assert words in text
    assert "web2 \N{MIDDLE DOT} 1,200 packets \N{MIDDLE DOT} 3.0 MiB" in text
    assert "all else (DMZ of nat) IPv4, IPv6" in " ".join(text.split())
    assert "not managed by hostnet" in text
    tab.click("#wrong-only")
    assert tab.run(VISIBLE) == ["root@203.0.113.5", "eth0", "NAT nat", "br0", "vm1", "guest1", "vm3"]
    tab.click("#wrong-only")


@pytest.mark.parametrize("width", [420, 1280])
@pytest.mark.parametrize("guests", [5, 500])
def test_it_is_readable(tab: Browser, tmp_path: Path, guests: int, width: int) -> None:
    """On a telephone and a desk: nothing is cut off, no two boxes overlap, and letters are at least 11 pixels high."""
    show(tab, tmp_path, a_host(guests))
    tab.open(tab.run("return location.href"), width=width)
    assert tab.run("return document.documentElement.scrollWidth <= innerWidth")
    boxes: list[list[Any]] = tab.run(
        "return Array.from(document.querySelectorAll('.grid > li > .card'), (card) => card.getBoundingClientRect())"
        ".map((box) => [box.left, box.top, box.right, box.bottom])"
    )
    assert len(boxes) == guests + 1
    for number, (left, top, right, bottom) in enumerate(boxes):
        assert right <= width, boxes[number]
        for x, y, x2, y2 in boxes[number + 1 :]:
            assert right <= x or x2 <= left or bottom <= y or y2 <= top
    small = (
        "return Array.from(document.querySelectorAll('main *'), (each) => parseFloat(getComputedStyle(each).fontSize))"
    )
    assert min(tab.run(small)) >= 11


def test_no_name_of_the_host_becomes_markup(tab: Browser, tmp_path: Path) -> None:
    """In each place where a host, a guest, an interface or a resource says what it likes; the page loads nothing."""
    data = a_host(len(HOSTILE))
    for number, text in enumerate(HOSTILE):
        tap, web = data["resources"][2 + number], data["resources"][2 + len(HOSTILE) + number]
        tap["objects"][2]["hostname"] = web["name"] = text
        tap["wrong"] = [{"item": 0, "text": text, "absent": False}]
        web["wrong"] = [{"item": 0, "text": text, "absent": False}]
        data["interfaces"].append(link(text, "veth", "br0"))
    data["resources"][1]["name"] = HOSTILE[1]
    for label in HOSTILE:
        show(tab, tmp_path, data, label)
        assert tab.run("return document.title") == label
        assert tab.run("return document.querySelector('h1').textContent") == label
        assert set(HOSTILE) <= set(tab.run(VISIBLE))
        assert tab.run("return window.ran === undefined")
        names = tab.run("return Array.from(document.querySelectorAll('*'), (each) => each.localName)")
        assert names.count("script") == names.count("style") == 1
        assert not {"img", "svg", "iframe", "object", "link"} & set(names)
        assert tab.run("return performance.getEntriesByType('resource').length") == 0


def test_the_policy_stops_what_is_not_the_page_s_own(tab: Browser, tmp_path: Path) -> None:
    """A second line of defence: a script that another program wrote into the file does not run."""
    page = tmp_path / "graph.html"
    script = "<script>window.ran = 1</script><img src=x onerror='window.ran = 1'></body>"
    page.write_text(as_html(topology("host", a_host(5), whole=True)).replace("</body>", script), encoding="utf-8")
    tab.open(page.as_uri())
    assert tab.run("return document.scripts.length") == 2
    assert tab.run("return window.ran === undefined")
