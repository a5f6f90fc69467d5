"""`hostnet status` and `hostnet doctor` on a host with COUNT=10000 forwards, from exec to exit.

The bare tool is one process `nft -j list table` of hostnet's table, parsed.
"""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.measure import Figure, in_turn, rounds, seconds
from benchmarks.place import Places

TITLE = "`hostnet status` and `hostnet doctor`"
COUNT = int(os.environ.get("COUNT", "10000"))
MOST = 1.0  # s


def measure() -> list[Figure]:
    """Both commands and the listing take turns."""
    with Places() as places:
        place = places.add("ours", forwards=COUNT)
        where = ["--netns", place.namespace.name, "--state-dir", str(place.directory / "state")]

        def command(name: str) -> dict[str, float]:
            argv = [sys.executable, "-I", "-m", "hostnet.cli", name, *where]
            # doctor exits with 1 where the host lacks something, as a namespace without systemd may.
            return {"run": seconds(lambda: subprocess.run(argv, stdout=subprocess.DEVNULL, check=name == "status"))}

        found = in_turn(
            {
                "status": lambda: command("status"),
                "doctor": lambda: command("doctor"),
                "bare": lambda: {"run": seconds(lambda: place.listing("inet hostnet"))},
            },
            rounds(3),
        )
    bare = found["bare"]["run"]
    return [
        Figure(f"{name}, {COUNT:,} forwards", "s", found[name]["run"], None, bare, MOST, "1 s")
        for name in ("status", "doctor")
    ]
