"""What the listings of docs/ show of a run does not depend on the order in which Pulumi's resources finish."""

from __future__ import annotations

from tools.docs_listing import in_order

BRIDGE = ["    ~ hostnet:index:Bridge: (refresh)", "        [id=vmbr]", "      ~ mtu: 1400 => 1300"]
NAT = ["    ~ hostnet:index:NatGateway: (refresh)", "        [id=nat]"]
FORWARDS = [["    ~ hostnet:index:PortForward: (update)", f"        [id=eth0/ipv4/tcp/{port}]"] for port in (443, 80)]


def test_consecutive_resources_are_sorted() -> None:
    """By type, then id, each with its own lines; the lines around them stay where they are."""
    head, middle, end = (
        ["Previewing update (dev):"],
        ["  pulumi:pulumi:Stack: (same)"],
        ["Resources:", "    ~ 4 to update"],
    )
    shown = in_order([*head, *NAT, *BRIDGE, *middle, *FORWARDS[1], *BRIDGE, *FORWARDS[0], *end])
    assert shown == [*head, *BRIDGE, *NAT, *middle, *BRIDGE, *FORWARDS[0], *FORWARDS[1], *end]


def test_other_outputs_are_left_alone() -> None:
    """An empty one, and one that has no diff."""
    assert in_order([]) == []
    assert in_order(["b", "", "    a"]) == ["b", "", "    a"]
