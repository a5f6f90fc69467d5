"""A list as what it has otherwise than a list that both sides have: thousands of forwards cross once, not three times.

Numbers among the items say where they are the same: 5 stands for the next five items of the other list, -2 leaves its
next two out. Everything else is an item itself, as JSON. A short list is written whole.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import islice
from typing import Any, TypeVar

from hostnet.wire.shapes import ShapeError

T = TypeVar("T", bound=Hashable)

SHORT = 16


def ends_alike(one: Sequence[Any], other: Sequence[Any]) -> tuple[int, int]:
    """How many items of two lists are the same from the front, and how many of the others are from the end."""
    least = min(len(one), len(other))
    front = next((at for at, (x, y) in enumerate(zip(one, other)) if x is not y and x != y), least)
    backwards = zip(islice(reversed(one), least - front), islice(reversed(other), least - front))
    end = next((at for at, (x, y) in enumerate(backwards) if x is not y and x != y), least - front)
    return front, end


def gone_and_come(old: Sequence[T], new: Sequence[T]) -> tuple[list[T], list[T]]:
    """The items that only the old list has, and those that only the new one has; of ten thousand, few are hashed."""
    front, end = ends_alike(old, new)
    before, after = old[front : len(old) - end], new[front : len(new) - end]
    there, then = frozenset(before), frozenset(after)
    return [item for item in before if item not in then], [item for item in after if item not in there]


def to_edits(items: Sequence[T], base: Sequence[T], write: Callable[[T], Any]) -> list[Any]:
    """Write a list.

    Args:
        items: The list.
        base: The list that the reader has as well.
        write: Writes an item as JSON that is no number.
    """
    if len(items) < SHORT:
        return [write(item) for item in items]
    front, end = ends_alike(items, base)
    edits: list[Any] = [front] if front else []
    places: dict[T, int] = {}
    at, last = front, len(base) - end
    for item in items[front : len(items) - end]:
        place = at
        if at >= last or (base[at] is not item and base[at] != item):
            places = places or {each: number for number, each in enumerate(base[:last])}
            place = places.get(item, -1)
        if place < at:
            edits.append(write(item))
            continue
        _go_on(edits, place - at, 1)
        at = place + 1
    if end:
        _go_on(edits, last - at, end)
    return edits


def _go_on(edits: list[Any], skipped: int, same: int) -> None:
    """Leave out the next items of the other list, then have some that are the same."""
    if skipped:
        edits.append(-skipped)
    if edits and type(edits[-1]) is int and edits[-1] > 0:
        edits[-1] += same
    else:
        edits.append(same)


def from_edits(edits: Sequence[Any], base: Sequence[T], read: Callable[[Any], T]) -> list[T]:
    """The list that `to_edits` wrote.

    Args:
        edits: What was written.
        base: The list that the writer had as well.
        read: Reads an item.

    Raises:
        ShapeError: It is not such a list; the text begins with the place.
    """
    items: list[T] = []
    at = 0
    for number, each in enumerate(edits):
        if type(each) is not int:
            try:
                items.append(read(each))
            except ShapeError as error:
                raise ShapeError(f"[{number}]{error}") from None
            continue
        if not 0 < abs(each) <= len(base) - at:
            raise ShapeError(f"[{number}] is {each}, and {len(base) - at} items are left")
        if each > 0:
            items += base[at : at + each]
        at += abs(each)
    return items
