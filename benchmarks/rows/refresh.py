"""A refresh of COUNT=1000 resources: a Read for each forward, all at once.

The bare tool is one `nft -j list table` of hostnet's table, parsed.
"""

from __future__ import annotations

import os

from benchmarks.measure import Figure, in_turn, rounds, seconds
from benchmarks.place import Places, gateway_forward
from benchmarks.plugin import Plugin

TITLE = "Refresh"
COUNT = int(os.environ.get("COUNT", "1000"))
MOST = 1.5


def measure() -> list[Figure]:
    """Create the forwards once; refreshes take turns."""
    with Places() as places:
        host = places.add("ours", forwards=0)
        plugins = {"ours": places.enter_context(host.plugin()), "noop": places.enter_context(Plugin("noop"))}
        turns = {"bare": lambda: {"read": seconds(lambda: host.listing("inet hostnet"))}}
        for name, plugin in plugins.items():
            resources = [plugin.resource("PortForward", f"f{each}", **gateway_forward(each)) for each in range(COUNT)]
            plugin.create(resources)
            turns[name] = lambda plugin=plugin, resources=resources: {  # type: ignore[misc]
                "read": seconds(lambda: plugin.read(resources))
            }
        found = in_turn(turns, rounds(5))
    took, nothing, least = (found[name]["read"] for name in ("ours", "noop", "bare"))
    target = f"{MOST} x (no-op + listing)"
    return [Figure(f"refresh {COUNT:,} forwards", "s", took, nothing, least, MOST * (nothing + least), target)]
