"""One more forward beside N: create it, change its target, delete it.

Each is all that the engine calls for one resource: Check and Create; Check, Diff and Update; Delete. The bare tool is
libnftables inside this process, with one element of a map that has N. SIZES="100 1000 10000 60000".
"""

from __future__ import annotations

from hostnet.agent.linux.libnftables import Nft

from benchmarks.measure import Figure, in_turn, rounds, seconds, sizes
from benchmarks.place import DECLARE, Place, Places, batch, element, gateway_forward, key
from benchmarks.plugin import Plugin

TITLE = "One more forward"
ONE = -1  # the number of the one more
FLAT = 1.3


class Provider:
    """A provider's turn: it has one more forward, changes it, and deletes it."""

    def __init__(self, plugin: Plugin) -> None:
        self._one = plugin.resource("PortForward", "one", **gateway_forward(ONE))

    def __call__(self) -> dict[str, float]:
        """The milliseconds of each step."""
        changed = gateway_forward(ONE, port=81)
        before = self._one.given

        def change() -> None:
            self._one.diff(**changed)
            self._one.update(**changed)

        took = {"create": seconds(self._one.create), "change": seconds(change), "delete": seconds(self._one.delete)}
        self._one.given, self._one.inputs, self._one.outputs, self._one.id = before, None, None, ""
        return {step: 1000 * each for step, each in took.items()}


class Bare:
    """libnftables' turn, in a namespace of its own."""

    def __init__(self, place: Place, count: int) -> None:
        self._place, self._nft = place, place.namespace.call(Nft)
        self._run(DECLARE + batch("add", [element(number) for number in range(count)]))

    def _run(self, text: str) -> float:
        def timed() -> float:
            return 1000 * seconds(lambda: self._nft.run(text))

        return self._place.namespace.call(timed)

    def __call__(self) -> dict[str, float]:
        """The milliseconds of each step."""
        add, delete = batch("add", [element(ONE)]), batch("delete", [key(ONE)])
        change = delete + batch("add", [element(ONE, port=81)])
        return {"create": self._run(add), "change": self._run(change), "delete": self._run(delete)}


def measure() -> list[Figure]:
    """Measure beside each N; all take turns."""
    counts = sizes("100 1000 10000 60000")
    with Places() as places:
        turns = {"noop": Provider(places.enter_context(Plugin("noop")))}
        for count in counts:
            place = places.add(f"ours{count}", forwards=count)
            turns[f"ours{count}"] = Provider(places.enter_context(place.plugin()))
        bare = {f"bare{count}": Bare(places.add(f"bare{count}"), count) for count in counts}
        found = in_turn({**turns, **bare}, rounds(20))
    figures = []
    for step, nothing in found["noop"].items():
        first = found[f"ours{counts[0]}"][step]
        for count in counts:
            ours = found[f"ours{count}"][step]
            figures.append(
                Figure(
                    f"{step}, beside {count:,}", "ms", ours, nothing, found[f"bare{count}"][step], 3 + nothing,
                    "no-op + 3 ms",
                )
            )  # fmt: skip
        figures.append(
            Figure(
                f"{step}, {counts[-1]:,} beside {counts[0]:,}", "x", found[f"ours{counts[-1]}"][step] / first,
                limit=FLAT,
            )
        )  # fmt: skip
    return figures
