"""The rates that `hostnet top` shows, and a screen of them."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hostnet.cli import top
from rich.console import Console

Json = dict[str, Any]
STATUS: Json = {
    "resources": [
        {
            "urn": "urn:web",
            "name": "web-vm",
            "drift": ["tap-web is down"],
            "members": ["tap-web"],
            "objects": [
                {"type": "link", "kind": "tap", "name": "tap-web"},
                {"type": "guest", "link": "tap-web", "mac": "02:00:00:00:00:01", "hostname": "web"},
            ],
        },
        {"urn": "urn:vms", "name": "vms", "drift": [], "members": ["vm-1"], "objects": []},
        {"urn": "urn:http", "name": "http", "drift": [], "members": [], "objects": [{"type": "forward"}]},
    ],
    "undeclared": 0,
    "watcher": {"needed": False, "pid": None},
}


def traffic(at: int, *, packets: int = 0, size: int = 0, sent: int = 0, **more: int) -> Json:
    """An answer of the agent."""
    forward = {"owner": "urn:http", "id": "eth0/ipv4/tcp/80", "packets": packets, "bytes": size}
    lease = {"macAddress": "02:00:00:00:00:01", "address": "10.0.0.9", "hostname": "web", "expires": 0}
    return {
        "milliseconds": at,
        "portForwards": [{**forward, "destinationAddress": "fd12::2", "destinationPorts": "80"}],
        "interfaces": [
            {"name": "tap-web", "received": 500, "sent": sent, **more},
            {"name": "vm-1", "received": 0, "sent": 0},
            {"name": "eth0", "received": 10**9, "sent": 10**9},
        ],
        "leases": [lease],
    }


def shown(found: top.Sample, height: int = 24) -> list[str]:
    """The lines of a screen of 120 columns."""
    out = io.StringIO()
    Console(file=out, width=120).print(top.screen(found, height))
    return out.getvalue().splitlines()


def test_rates_are_those_of_the_agent_s_clock() -> None:
    """Of two answers: a second's packets and bytes; what the host sends on a TAP, its guest receives."""
    found = top.sample("host", STATUS, traffic(1000), traffic(3000, packets=20, size=4096, sent=8000))
    (forward,) = found.forwards
    assert (forward.packets, forward.bytes, forward.total) == (10, 2048, 4096)
    assert (forward.name, forward.destination) == ("http", "[fd12::2]:80")
    assert [(each.link, each.name, each.download, each.upload) for each in found.guests] == [
        ("tap-web", "web", 4000, 0),
        ("vm-1", "vms", 0, 0),
    ]
    assert found.guests[0].addresses == ["10.0.0.9"]
    assert (found.leases, found.drift) == (1, ["web-vm: tap-web is down"])


def test_counters_that_begin_again_are_no_rate() -> None:
    """A table that was made again, an interface that is new."""
    before = traffic(1000, packets=50, size=10**9, sent=10**9)
    before["interfaces"] = before["interfaces"][:1]
    found = top.sample("host", STATUS, before, traffic(2000))
    assert [(each.packets, each.bytes) for each in found.forwards] == [(0, 0)]
    assert [(each.download, each.upload) for each in found.guests] == [(0, 0), (0, 0)]


@pytest.mark.parametrize(("more", "column"), [({}, False), ({"refused": 7}, True)])
def test_refused_egress_is_shown_where_it_is_counted(more: dict[str, int], column: bool) -> None:  # noqa: FBT001
    """An older agent does not count it."""
    found = top.sample("host", STATUS, traffic(1000), traffic(2000, **more))
    assert any("refused" in line for line in shown(found)) is column
    assert found.guests[0].refused == more.get("refused")


@pytest.mark.parametrize(("more", "column"), [({}, False), ({"dropped": 0}, False), ({"dropped": 1234}, True)])
def test_dropped_frames_are_shown_where_there_are_any(more: dict[str, int], column: bool) -> None:  # noqa: FBT001
    """A host whose guests all send as themselves shows no column."""
    found = top.sample("host", STATUS, traffic(1000), traffic(2000, **more))
    text = "\n".join(shown(found))
    assert ("dropped" in text, "1,234" in text) == (column, column)


def test_the_screen_says_to_where() -> None:
    """The first of them; as JSON all."""
    to = {"interface": "tap-web", "name": "web", "source": "10.0.0.9", "protocol": "tcp", "port": 443, "packets": 1234}
    refused = [{**to, "destination": f"192.0.2.{number}"} for number in range(9)]
    refused[0] |= {"protocol": "icmp", "port": None, "name": ""}
    found = top.sample("host", STATUS, traffic(1000), {**traffic(2000), "refused": refused})
    text = "\n".join(shown(found))
    assert "REFUSED (4 of 9)" in text
    for words in (["tap-web 10.0.0.9", "192.0.2.0", "icmp", "1,234"], ["web 10.0.0.9", "192.0.2.3", "tcp 443"]):
        assert any(all(word in line for word in words) for line in text.splitlines()), words
    assert "192.0.2.4" not in text
    assert found.to_json()["refused"] == refused


@pytest.mark.parametrize("height", [16, 24, 60])
def test_a_screen_is_not_longer_than_the_terminal(height: int) -> None:
    """With 10,000 forwards, 500 guests and much drift: those that carry the most, and how many more there are."""
    status = {**STATUS, "resources": [{**STATUS["resources"][1], "drift": ["a", "b", "c", "d", "e", "f"]}]}
    status["resources"][0]["members"] = [f"vm-{number}" for number in range(500)]
    now = traffic(2000)
    now["portForwards"] = [
        {**now["portForwards"][0], "id": f"eth0/{number}", "bytes": number} for number in range(10**4)
    ]
    now["interfaces"] = [{"name": f"vm-{number}", "received": 0, "sent": number} for number in range(500)]
    before = {**now, "milliseconds": 1000, "portForwards": [{**each, "bytes": 0} for each in now["portForwards"]]}
    to = {"interface": "vm-1", "name": "", "source": "10.0.0.9", "protocol": "tcp", "port": 443, "packets": 1}
    now["refused"] = [{**to, "destination": f"192.0.2.{number}"} for number in range(200)]
    lines = shown(top.sample("root@host", status, before, now), height)
    assert len(lines) <= height
    assert "6 not as declared" in lines[0]
    text = "\n".join(lines)
    assert "and 2 more" in text
    assert "of 10,000)" in text
    assert "of 500)" in text
    assert "eth0/9999" in text
    assert "eth0/0 " not in text
