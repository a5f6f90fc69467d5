"""From a declaration to the fields of an object on the wire, and back, by `prop(..., field=...)`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from hostnet.resources.schema.model import Changes, Declared, Field, ListOf, Property, Record, compare_items
from hostnet.resources.schema.values import UNKNOWN, Value

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hostnet.wire.family import Family
    from hostnet.wire.objects import Object, ObjectState


def fields_of(inputs: Declared) -> dict[str, Value]:
    """The fields of an object, from a program's values: `Gateway(name=id, **fields_of(inputs))`."""
    return {field.name: field.to_wire(getattr(inputs, attribute)) for attribute, field in inputs.fields_}


def declared_by(record: Record[Any], item: Object, *, but: Collection[str] = ()) -> dict[str, Value]:
    """The inputs that describe an object which a host recorded (import): those that are not default.

    Args:
        record: The declarations.
        item: The object.
        but: Properties to leave out.
    """
    found = {}
    for name, about, field in _mapped(record):
        recorded = getattr(item, field.name)
        if name not in but and recorded != field.to_wire(about.default):
            value = field.from_wire(recorded)
            found[name] = list(value) if isinstance(value, tuple) else value
    return found


def settle(declared: dict[str, Value], record: Record[Any], seen: ObjectState, *, but: Collection[str] = ()) -> None:
    """Replace each declared value that the kernel has otherwise by the kernel's.

    Args:
        declared: The inputs; changed in place.
        record: The declarations.
        seen: What the kernel has. A field that it lacks is left as declared.
        but: Properties to leave out.
    """
    for name, about, field in _mapped(record):
        if name in but or not hasattr(seen, field.name):
            continue
        there = field.from_wire(getattr(seen, field.name))
        if about.host_decides and (declared.get(name) is None or there is None):
            continue
        if isinstance(about.type, ListOf) and about.type.record is None:
            settle_list(declared, record, name, there)
        else:
            settle_value(declared, record, name, there)


def _mapped(record: Record[Any]) -> Iterator[tuple[str, Property, Field]]:
    for name, about in record.properties.items():
        if about.field:
            yield name, about, about.field


def settle_value(declared: dict[str, Value], record: Record[Any], name: str, seen: Value) -> None:
    """Write the value that was seen, unless it means the same. `seen` None removes the property."""
    about = record.properties[name]
    found: Changes = {}
    had = declared.get(name)
    compare_items(about.type, about.default if had is None else had, about.default if seen is None else seen, "", found)
    if not found:
        return
    if seen is None:
        declared.pop(name, None)
    else:
        declared[name] = seen


def settle_list(declared: dict[str, Value], record: Record[Any], name: str, seen: Iterable[Value]) -> None:
    """Keep the declared elements that were seen, with their spelling, and append the others that were seen."""
    about = record.properties[name]
    if not isinstance(about.type, ListOf):
        raise TypeError(name)
    had = declared.get(name)
    left = dict.fromkeys(seen)
    kept = []
    for item in about.default or () if had is None else had:
        canonical = about.type.item.canonical(item)
        if canonical in left:
            del left[canonical]
            kept.append(item)
    found = [*kept, *left]
    if found != list(about.default or () if had is None else had):
        declared[name] = found


def switched_on(values: Iterable[tuple[Property, Value]]) -> set[Family]:
    """The families whose forwarding the given values need, by their properties' `forwarding`."""
    needed: set[Family] = set()
    for about, value in values:
        if about.forwarding and value and value is not UNKNOWN:
            needed.add(about.forwarding)
    return needed
