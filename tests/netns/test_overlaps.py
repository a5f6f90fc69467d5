"""Forwards and gateways that overlap, in a kernel: both work, or the second is refused by name. See tests/rpc.

The kernel refuses overlapping elements of an interval set with "File exists", whichever resources they are of.
"""

from __future__ import annotations

import pytest
from hostnet.wire.errors import HostnetError

from tests.lab.driver import Stack
from tests.lab.lab import Lab
from tests.lab.overlaps import Pair, Uplinks, axes, forwards, gateways

AT = Uplinks("192.0.2.2", "203.0.113.2")
AXES, GATEWAYS = axes(AT), gateways(AT)
BRIDGES = {name: ("Bridge", {"name": name, "addresses": [f"10.{n}.0.1/24"]}) for n, name in enumerate(("vms", "lab"))}


@pytest.fixture
def stack(lab: Lab, stack: Stack) -> Stack:
    """With two bridges, on a host with a second uplink."""
    lab.host.ip(
        "link add eth1 type veth peer name wire1",
        "link set eth1 up",
        "link set wire1 up",
        f"address add {AT.two}/24 dev eth1",
    )
    stack.up(BRIDGES)
    return stack


def tried(stack: Stack, kind: str, name: str, pair: Pair) -> None:
    """Create both, one after the other: the kernel takes them, and shows them whole."""
    first = {**BRIDGES, "first": (kind, pair.first)}
    stack.up(first)
    both = {**first, "second": (kind, pair.second)}
    if pair.refused:
        with pytest.raises(HostnetError, match=pair.refused):
            stack.up(both)
    else:
        stack.up(both)
    assert stack.refresh() == {}, name
    stack.up(BRIDGES)


@pytest.mark.parametrize("axis", AXES)
def test_port_forwards(stack: Stack, axis: str) -> None:
    """By what they differ in: ranges that overlap in part, in whole, and are equal."""
    for name, pair in forwards(AXES[axis], "partly", "around", "equal"):
        tried(stack, "PortForward", name, pair)


@pytest.mark.parametrize("name", GATEWAYS)
def test_gateways(stack: Stack, name: str) -> None:
    """With forwards, dmz hosts and networks."""
    tried(stack, "NatGateway", name, GATEWAYS[name])
