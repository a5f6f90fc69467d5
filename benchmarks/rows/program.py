"""A stack in `pulumi`: preview, up, an up without a change, refresh, destroy, beside the same stack on the no-op.

Two stacks: a bridge, a gateway, 50 TAPs and 200 forwards; and a bridge, a gateway and 1,000 forwards.
STACKS="50x200 0x1000" sets how many TAPs and forwards each has.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from benchmarks.measure import PROVIDERS, Figure, in_turn, rounds, seconds
from benchmarks.place import Places
from benchmarks.projects import STEPS, project, pulumi

TITLE = "A stack in `pulumi`"
STACKS = [tuple(map(int, word.split("x"))) for word in os.environ.get("STACKS", "50x200 0x1000").split()]
MOST = 1.1
PROGRAM = """
import pulumi_hostnet as hostnet

bridge = hostnet.Bridge("vms", name="vms", addresses=["10.0.0.1/16"])
gateway = hostnet.NatGateway("nat", internal_interfaces=[bridge.name])
for number in range({taps}):
    hostnet.TapBinding(f"vm-{{number}}", name=f"vm{{number}}", bridge=bridge.name)
for number in range({forwards}):
    hostnet.PortForward(
        f"web-{{number}}",
        nat_gateway=gateway.id,
        source_port=10000 + number,
        destination=f"10.0.{{1 + number // 250}}.{{1 + number % 250}}:80",
    )
"""


def turn(folder: Path, environment: dict[str, str]) -> dict[str, float]:
    """The seconds of each command, from nothing to nothing."""
    return {step: seconds(partial(pulumi, arguments, folder, environment)) for step, arguments in STEPS.items()}


def measure() -> list[Figure]:
    """Measure each stack; the two providers take turns."""
    figures = []
    for taps, forwards in STACKS:
        with Places() as places:
            place = places.add("ours")
            program = PROGRAM.format(taps=taps, forwards=forwards)
            turns = {}
            for name, folder in PROVIDERS.items():
                where = place.directory / name
                turns[name] = partial(turn, where, project(where, folder, program, **place.config))
            found = in_turn(turns, rounds(3))
        for step, nothing in found["noop"].items():
            what = f"{step}, {f'{taps} TAPs and ' if taps else ''}{forwards:,} forwards"
            figures.append(
                Figure(what, "s", found["ours"][step], nothing, limit=MOST * nothing, target=f"{MOST} x no-op")
            )
    return figures
