"""Port ranges of forwards that overlap: no two elements of an interval set may. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping

from hostnet.wire.family import ANY_ADDRESS
from hostnet.wire.objects import Forward

Span = tuple[int, int]  # first and last port
Held = tuple[int, int, object]  # the same, and what they are compared by

# By family, protocol and destination address ("": of all that listen on every address), where ranges are cut so that
# their parts are equal or apart.
Cuts = Mapping[tuple[str, str, str], tuple[int, ...]]


def cuts_of(forwards: Iterable[Forward]) -> Cuts:
    """Where ranges are cut whose elements would overlap: those of counters, and those that listen on every address.

    Such sets have no values: what is in one range or in two matches the same.
    """
    spans: dict[tuple[str, str, str], set[Span]] = {}
    for item in forwards:
        is_range, wildcard = item.ports[0] != item.ports[1], ANY_ADDRESS[item.family] in item.listen
        for protocol in item.protocols if is_range or wildcard else ():
            if is_range:
                spans.setdefault((item.family, protocol, item.address), set()).add(item.ports)
            if wildcard:
                spans.setdefault((item.family, protocol, ""), set()).add(item.ports)
    return {key: _points(found) for key, found in spans.items() if len(found) > 1 and _overlap(found)}


def parts_at(span: Span, points: tuple[int, ...]) -> list[Span]:
    """A range, cut where there is a point within it."""
    low, high = span
    firsts = (low, *points[bisect_right(points, low) : bisect_left(points, high + 1)])
    return list(zip(firsts, (*(first - 1 for first in firsts[1:]), high)))


def shared_spans(spans: Iterable[Held]) -> Iterator[Span]:
    """The ranges that overlap one of another."""
    begun: list[Held] = []
    for low, high, whose in sorted(spans, key=lambda each: each[:2]):
        begun = [each for each in begun if each[1] >= low]
        others = [each for each in begun if each[2] != whose]
        yield from ((first, last) for first, last, _ in others)
        if others:
            yield low, high
        begun.append((low, high, whose))


def _points(spans: Iterable[Span]) -> tuple[int, ...]:
    return tuple(sorted({point for low, high in spans for point in (low, high + 1)}))


def _overlap(spans: Iterable[Span]) -> bool:
    ordered = sorted(spans)
    return any(later[0] <= earlier[1] for earlier, later in zip(ordered, ordered[1:]))
