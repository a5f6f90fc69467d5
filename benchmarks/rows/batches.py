"""Many resources at once: COUNT=1000 forwards, TAPS=500 TAPs on a bridge, as the engine sends them.

The engine checks one resource after the other and creates at once what is checked. The bare tools are `nft -f` with all
elements, and `ip -batch` with all TAPs, one process each. Of guests, which have addresses and are checked, a bare tool
makes the TAPs alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from benchmarks.measure import Figure, in_turn, rounds, seconds
from benchmarks.place import DECLARE, Place, Places, batch, element, gateway_forward, ip_batch
from benchmarks.plugin import Plugin

TITLE = "Many at once"
COUNT = int(os.environ.get("COUNT", "1000"))
TAPS = int(os.environ.get("TAPS", "500"))
MOST = 1.5

Inputs = Callable[[int], dict[str, Any]]


def tap(number: int) -> dict[str, Any]:
    """A TAP on the bridge."""
    return {"name": f"vm{number}", "bridge": "br0"}


def tap_with_guest(number: int) -> dict[str, Any]:
    """The same with a guest, for which hostnet chooses an address."""
    return {**tap(number), "guest": {"hostname": f"guest{number}"}}


class Provider:
    """A provider's turn: it creates all, and deletes them, which is not timed."""

    def __init__(self, plugin: Plugin, kind: str, inputs: Inputs, count: int) -> None:
        self._plugin, self._kind, self._inputs, self._count = plugin, kind, inputs, count

    def __call__(self) -> dict[str, float]:
        """The seconds."""
        kind, inputs = self._kind, self._inputs
        resources = [self._plugin.resource(kind, f"r{each}", **inputs(each)) for each in range(self._count)]
        took = seconds(lambda: self._plugin.create(resources))
        self._plugin.delete(resources)
        return {"create": took}


def by_nft(place: Place) -> dict[str, float]:
    """The seconds that the bare tool needs for the forwards."""
    text = batch("add", [element(each) for each in range(COUNT)])
    place.nft(DECLARE)
    took = seconds(lambda: place.nft(text))
    place.nft("delete table inet bench\n")
    return {"create": took}


def by_ip(place: Place) -> dict[str, float]:
    """The seconds that the bare tool needs for the TAPs."""
    names = [tap(each)["name"] for each in range(TAPS)]
    lines = [line for x in names for line in (f"tuntap add {x} mode tap", f"link set {x} master br0 up")]
    ip_batch(place, ["link add br0 type bridge"])
    took = seconds(lambda: ip_batch(place, lines))
    ip_batch(place, [f"link delete {name}" for name in (*names, "br0")])
    return {"create": took}


def measure() -> list[Figure]:
    """Measure both kinds; ours, the no-op and the bare tool take turns."""
    figures = []
    with Places() as places:
        ours = places.enter_context(places.add("ours", forwards=0).plugin())
        noop = places.enter_context(Plugin("noop"))
        bare = places.add("bare")
        for kind, what, inputs, count, tool in (
            ("PortForward", "forwards", gateway_forward, COUNT, by_nft),
            ("TapBinding", "TAPs", tap, TAPS, by_ip),
            ("TapBinding", "TAPs with a guest", tap_with_guest, TAPS, by_ip),
        ):
            found = in_turn(
                {
                    "ours": Provider(ours, kind, inputs, count),
                    "noop": Provider(noop, kind, inputs, count),
                    "bare": lambda tool=tool: tool(bare),  # type: ignore[misc]
                },
                rounds(5),
            )
            took, nothing, least = (found[name]["create"] for name in ("ours", "noop", "bare"))
            figures.append(
                Figure(
                    f"create {count:,} {what}", "s", took, nothing, least, MOST * (nothing + least),
                    f"{MOST} x (no-op + bare)",
                )
            )  # fmt: skip
    return figures
