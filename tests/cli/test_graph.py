"""`hostnet graph` of an agent's answer: what is there, what is not as declared, and a picture to read."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree as ET

from hostnet.cli.graph import FORMATS
from hostnet.cli.topology import topology

Json = dict[str, Any]
LETTER = 0.6 * 12  # of a monospaced font of 12 units: how wide a letter is
PAGE = 2000  # units: a landscape page on which text of 12 units can be read


def link(name: str, kind: str, bridge: str | None = None, *addresses: str) -> Json:
    """An interface of the host."""
    return {"name": name, "kind": kind, "bridge": bridge, "addresses": list(addresses)}


def resource(name: str, *objects: Json, members: tuple[str, ...] = (), wrong: tuple[Json, ...] = ()) -> Json:
    """A resource that hostnet has recorded."""
    urn = f"urn:pulumi:dev::shop::hostnet:index:Any::{name}"
    return {"urn": urn, "name": name, "objects": list(objects), "members": list(members), "wrong": list(wrong)}


def tap(name: str, number: int) -> Json:
    """A TAP with its guest, of both families."""
    addresses = [f"10.0.{number // 200}.{number % 200 + 2}/16", f"fd12::{number + 2:x}/64"]
    guest = {"type": "guest", "link": name, "bridge": "br0", "mac": f"02:00:00:00:00:{number:02x}"}
    return resource(
        name,
        {"type": "link", "name": name, "kind": "tap"},
        {"type": "port", "link": name, "bridge": "br0"},
        {**guest, "addresses": addresses, "hostname": f"guest{number}"},
    )


def forward(address: str, *, port: int = 80, gateway: str = "nat") -> Json:
    """A port forward."""
    family = "ipv6" if ":" in address else "ipv4"
    ports = {"protocols": ["tcp"], "ports": [port, port], "to_ports": [port, port]}
    return {"type": "forward", "family": family, "address": address, "gateway": gateway, **ports}


def answer(guests: int, *more: Json, interfaces: tuple[Json, ...] = ()) -> Json:
    """The agent's answer to `status`: a bridge behind a gateway, and guests."""
    bridge = {"type": "link", "name": "br0", "kind": "bridge"}
    nat = {"type": "gateway", "name": "nat", "external": "eth0", "internal": ["br0"], "dmz4": "10.0.0.2"}
    taps = [f"vm{number}" for number in range(guests)]
    return {
        "resources": [
            resource("net", bridge),
            resource("nat", {**nat, "dmz6": "fd12::2"}),
            *(tap(name, number) for number, name in enumerate(taps)),
            *more,
        ],
        "interfaces": [
            link("eth0", "physical", None, "192.0.2.2/24", "2001:db8::2/64"),
            link("br0", "bridge", None, "10.0.0.1/16", "fd12::1/64"),
            *(link(name, "tap", "br0") for name in taps),
            *interfaces,
        ],
        "defaultRoute": {"ipv4": "eth0", "ipv6": "eth0"},
        "portForwards": [],
        "undeclared": 0,
        "watcher": {"needed": False, "pid": None},
    }


def boxes(text: str) -> list[tuple[float, float, float, float]]:
    """The boxes of a picture: x, y, width, height."""
    found = ET.fromstring(text).iter("{http://www.w3.org/2000/svg}rect")  # noqa: S314 - our own
    return [tuple(float(box.get(name, "")) for name in ("x", "y", "width", "height")) for box in found]  # type: ignore[misc]


def assert_readable(text: str) -> None:
    """Every line is within a box, no two boxes overlap, and the whole is a page."""
    rects = boxes(text)
    for one in rects:
        for other in rects:
            if one is not other:
                apart = one[0] + one[2] <= other[0] or other[0] + other[2] <= one[0]
                assert apart or one[1] + one[3] <= other[1] or other[1] + other[3] <= one[1], (one, other)
    root = ET.fromstring(text)  # noqa: S314 - our own
    for line in root.iter("{http://www.w3.org/2000/svg}text"):
        x, y, width = float(line.get("x", "")), float(line.get("y", "")), len(line.text or "") * LETTER
        assert any(x >= a and x + width <= a + w and b <= y <= b + h for a, b, w, h in rects), line.text
    assert float(root.get("width", "")) <= PAGE
    assert float(root.get("height", "")) <= PAGE


def test_both_families_are_on_one_line_and_the_dmz_is_drawn() -> None:
    """A forward of both families is one line, and so are addresses; the DMZ host gets all else."""
    data = answer(1, resource("web", forward("10.0.0.2")), resource("web6", forward("fd12::2")))
    text = FORMATS["text"](topology("host", data))
    assert text == (
        "host\n"
        "└─ eth0  192.0.2.2/24, 2001:db8::2/64\n"
        "   └─ NAT nat  masquerade\n"
        "      └─ br0  10.0.0.1/16, fd12::1/64\n"
        "         └─ vm0\n"
        "            └─ guest0  10.0.0.2/16, fd12::2/64, 02:00:00:00:00:00, "
        "tcp 80 → 80 (IPv4, IPv6), all else (DMZ of nat) (IPv4, IPv6)\n"
    )
    assert_readable(FORMATS["svg"](topology("host", data)))


def test_it_draws_what_is_and_marks_what_is_not_as_declared() -> None:
    """A port is where the kernel has it; what another program put there is shown, and what is gone is marked."""
    data = answer(2, interfaces=(link("their", "veth", "br0"),))
    data["interfaces"] = [each for each in data["interfaces"] if each["name"] != "vm1"]
    next(each for each in data["interfaces"] if each["name"] == "vm0")["bridge"] = None
    next(each for each in data["interfaces"] if each["name"] == "br0")["addresses"] = ["10.0.0.1/16"]
    wrong = {
        "net": ("address fd12::1/64 is missing", 0, False),
        "vm0": ("vm0 is in no bridge, not in br0", 1, False),
        "vm1": ("TAP vm1 does not exist", 0, True),
    }
    for each in data["resources"]:
        if each["name"] in wrong:
            text, number, absent = wrong[each["name"]]
            each["wrong"] = [{"item": number, "text": text, "absent": absent}]
    data["undeclared"] = 2
    made = topology("host", data)
    lines = [line.lstrip(" │├└─") for line in FORMATS["text"](made).splitlines()]
    assert lines[0] == "host  ✗ no resource declares 2 nftables elements"
    assert "br0  10.0.0.1/16, ✗ address fd12::1/64 is missing" in lines
    assert "their  not managed by hostnet" in lines
    assert "vm1  ✗ TAP vm1 does not exist" in lines
    assert "vm0  ✗ vm0 is in no bridge, not in br0" in lines
    dot, svg = FORMATS["dot"](made), FORMATS["svg"](made)
    assert dot.count("dashed") == svg.count("stroke-dasharray") == 1
    assert dot.count("penwidth") == svg.count("stroke-width") == 4
    assert_readable(svg)


def test_a_gateway_of_several_uplinks() -> None:
    """It is behind each, and drawn behind the first; an address that stands for one guest is in the guest's box."""
    data = answer(2)
    gateway = data["resources"][1]["objects"][0]
    gateway |= {"more": ["eth1"], "route4": True, "one_to_one": [["192.0.2.7", "10.0.0.3"]]}
    del gateway["dmz4"], gateway["dmz6"]
    data["interfaces"].append(link("eth1", "physical", None, "198.51.100.2/24"))
    made = topology("host", data)
    assert [edge for edge in made.edges if edge[1] == "gateway nat"] == [
        ("link eth0", "gateway nat"),
        ("link eth1", "gateway nat"),
    ]
    text = FORMATS["text"](made)
    assert "│  └─ NAT nat  masquerade, IPv4 routed, through eth0, eth1\n" in text
    assert "all of 192.0.2.7 (one-to-one)" in text
    assert "one-to-one NAT" in FORMATS["html"](topology("host", data, whole=True))
    assert_readable(FORMATS["svg"](made))


def test_a_guest_s_bandwidth_is_beside_its_port() -> None:
    """As tc writes rates; one that is not limited says nothing."""
    data = answer(2)
    data["resources"][2]["objects"][0] |= {"download": 100_000_000, "upload": None}
    lines = FORMATS["text"](topology("host", data)).splitlines()
    assert "         ├─ vm0  at most 100mbit download" in lines
    assert "         └─ vm1" in lines


def test_a_hundred_guests_fit_a_page() -> None:
    """They are in one box, a line for each; those that are not as declared have a box of their own."""
    data = answer(100, *(resource(f"f{n}", forward("10.0.0.9", port=n)) for n in range(1, 1000)))
    data["resources"][2 + 50]["wrong"] = [{"item": 0, "text": "the MTU is 1400, not 1500", "absent": False}]
    made = topology("root@host", data)
    svg = FORMATS["svg"](made)
    assert_readable(svg)
    text = FORMATS["text"](made)
    assert "99 ports" in text
    assert "vm50  ✗ the MTU is 1400, not 1500" in text
    assert text.count("guest") == 100
    for kind in ("text", "dot", "svg"):
        assert "and 991 more forwards" in FORMATS[kind](made)
    assert json.loads(json.dumps(made.to_json()))["edges"]
