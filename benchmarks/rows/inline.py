"""One NatGateway with N `forwardPorts`: check, create, diff, change one, read, delete.

The bare tool is one process `nft`: `-f` for a change, `-j list table` for a read. SIZES="1000 10000 60000".
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from hostnet.rpc.protos import provider_pb2

from benchmarks.measure import Figure, in_turn, rounds, seconds, sizes
from benchmarks.place import DECLARE, Place, Places, batch, element, forward, key
from benchmarks.plugin import Plugin

TITLE = "Forwards inside a gateway"
MIDDLE = 10_000  # the size that the targets are about
GROWTH = 1.2
STEPS = ("check", "create", "diff", "change one", "read", "delete")


class Provider:
    """A provider's turn: the whole life of a gateway."""

    def __init__(self, plugin: Plugin, count: int) -> None:
        self._plugin, self._count = plugin, count

    def __call__(self) -> dict[str, float]:
        """The seconds of each step."""
        gateway = self._plugin.resource("NatGateway", "many", **_gateway(self._count))
        stub, took = self._plugin.stub, {"check": seconds(gateway.check)}
        request = gateway.create_request()
        start = time.perf_counter()
        response = stub.Create(request)
        took["create"] = time.perf_counter() - start
        gateway.id, gateway.inputs, gateway.outputs = response.id, request.properties, response.properties
        change = gateway.change_to(gateway.checked(**_gateway(self._count, port=81)))
        diff, update = provider_pb2.DiffRequest(**change), provider_pb2.UpdateRequest(**change)
        took["diff"] = seconds(lambda: stub.Diff(diff))
        took["change one"] = seconds(lambda: stub.Update(update))
        took["read"] = seconds(gateway.read)
        took["delete"] = seconds(gateway.delete)
        return took


def _gateway(count: int, port: int = 80) -> dict[str, Any]:
    """A gateway's inputs: no network, so that it stands beside `Place.fill`'s; the last forward has this port."""
    forwards = [*(forward(number) for number in range(count - 1)), forward(count - 1, port)]
    return {"forwardPorts": forwards}


class Bare:
    """nft's turn."""

    def __init__(self, place: Place, count: int) -> None:
        self._place = place
        self._create = DECLARE + batch("add", [element(number) for number in range(count)])
        self._change = batch("delete", [key(count - 1)]) + batch("add", [element(count - 1, port=81)])
        self._delete = batch("delete", [key(number) for number in range(count)])

    def __call__(self) -> dict[str, float]:
        """The seconds of each step."""
        place = self._place
        took = {
            "create": seconds(lambda: place.nft(self._create)),
            "change one": seconds(lambda: place.nft(self._change)),
            "read": seconds(lambda: place.listing("inet bench")),
            "delete": seconds(lambda: place.nft(self._delete)),
        }
        place.nft("delete table inet bench\n")
        return took


def measure() -> list[Figure]:
    """Measure each size; ours, the no-op and the bare tool take turns."""
    counts = sizes("1000 10000 60000")
    found = {}
    with Places() as places:
        ours = places.enter_context(places.add("ours", forwards=0).plugin())
        noop = places.enter_context(Plugin("noop"))
        bare = places.add("bare")
        for count in counts:
            turns: dict[str, Callable[[], dict[str, float]]] = {
                "ours": Provider(ours, count),
                "noop": Provider(noop, count),
                "bare": Bare(bare, count),
            }
            found[count] = in_turn(turns, rounds(3))
    figures = [_figure(step, count, found[count]) for count in counts for step in STEPS]
    for step in STEPS if len(counts) > 1 else ():
        least, most = (found[count]["ours"][step] / count for count in (counts[0], counts[-1]))
        what = f"{step}, per forward: {counts[-1]:,} beside {counts[0]:,}"
        figures.append(Figure(what, "x", most / least, limit=GROWTH))
    return figures


def _figure(step: str, count: int, found: dict[str, dict[str, float]]) -> Figure:
    ours, nothing, bare = (found[name].get(step) for name in ("ours", "noop", "bare"))
    limit, target = None, ""
    if count == MIDDLE and bare is not None and step != "change one":
        times, of = (2, "listing") if step == "read" else (3, "nft -f")
        limit, target = times * bare, f"{times} x {of}"
    elif count == MIDDLE:
        limit, target = 0.3, "0.3 s"
    assert ours is not None
    return Figure(f"{step}, {count:,}", "s", ours, nothing, bare, limit, target)
