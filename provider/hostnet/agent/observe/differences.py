"""A difference between what is declared and what is there, and what follows from it for the object. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hostnet.wire.objects import Object


@dataclass(frozen=True)
class Difference:
    """One property of an object that is not as declared.

    Attributes:
        object: The object's key.
        field: The object's field; "" where the object as a whole is not there.
        text: What is wrong, for a person. Not what would repair it.
        there: What the host has; None: nothing.
        declared: What it should have; None: nothing.
        item: Where the field is a list: the item that it is about.
    """

    object: str
    field: str
    text: str
    there: Any = None
    declared: Any = None
    item: str = ""

    @property
    def path(self) -> str:
        """The property: `mtu`, `addresses[10.0.0.1/24]`."""
        return f"{self.field}[{self.item}]" if self.item else self.field


def lost(item: Object, field: str, value: str, text: str) -> Difference:
    """An item of a list is not there."""
    return Difference(item.key, field, text, declared=value, item=value)


def is_off(item: Object, field: str, text: str) -> Difference:
    """A switch that is declared on is not in effect."""
    return Difference(item.key, field, text, there=False, declared=True)


def is_not(item: Object, field: str, name: str, there: Any, declared: Any) -> Difference:
    """A property has another value."""
    return Difference(item.key, field, f"{name} is {_word(there)}, not {_word(declared)}", there, declared)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else str(value)


def as_there(item: Object, found: Iterable[Difference]) -> Mapping[str, Any]:
    """An object's fields as the host has them: as declared, but for what differs.

    Args:
        item: The object.
        found: What differs in it, and in others; None as a whole.
    """
    values: dict[str, Any] = dict(vars(item))
    for each in found:
        if each.object != item.key or each.field not in values:
            continue
        if not each.item:
            values[each.field] = each.there
        elif values[each.field] is None:
            continue  # nothing is there of the list as a whole
        elif each.there is None:
            values[each.field] = tuple(x for x in values[each.field] if str(x) != each.item)
        else:
            values[each.field] = (*values[each.field], each.there)
    return values
