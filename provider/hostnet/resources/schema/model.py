"""A property is declared once; this is what follows from the declaration.

A `Type` checks a value, gives its canonical form, compares two values by meaning and describes itself for schema.json.
A kind's inputs are a `Declared` class whose attributes are made with `prop`; `Record` turns the class into a type.
"""


# ruff: noqa: ARG002 (a scalar adds no type to the schema)

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from hostnet.resources.schema.values import UNKNOWN, Failure, Value
from hostnet.wire.edits import ends_alike

if TYPE_CHECKING:
    from hostnet.wire.family import Family

SHOWN = 60  # characters of a value that a message quotes
PART = 3  # characters of a known name that are enough to mean it
HUGE = 10**20  # numbers beyond are described, not printed: Python refuses to print the largest
PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}", re.ASCII)

Changes = dict[str, str]

# The types of values without parts. `isinstance(…, Mapping)` asks an abstract class, for each of a list's values.
_WHOLE = frozenset({str, int, float, bool, type(None)})


class BadValueError(ValueError):
    """A value that a type refuses. The message says what would be right, as a continuation of "must be"."""


class Report:
    """Collects every failure of one resource."""

    def __init__(self) -> None:
        self.failures: list[Failure] = []
        self._secret = 0

    def fail(self, path: str, reason: str) -> None:
        """Add a failure; `reason` must hold no credential."""
        self.failures.append(Failure(path, reason))

    def refuse(self, path: str, value: Value, should: str) -> None:
        """Add the failure "must be `should`, not `value`"; inside a secret place the value is left out."""
        self.fail(path, f"must be {should}" + ("" if self._secret else f", not {shown(value)}"))

    def __enter__(self) -> Self:
        """Enter a place whose values are never quoted (a connection)."""
        self._secret += 1
        return self

    def __exit__(self, *_: object) -> None:
        """Leave it."""
        self._secret -= 1


def shown(value: Value) -> str:
    """A value for a message, shortened."""
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value) if abs(value) < HUGE else "a huge number"
    if isinstance(value, str):
        return repr(value) if len(value) <= SHOWN else repr(value[:SHOWN]) + "…"
    return "null" if value is None else type(value).__name__


def join(path: str, key: str) -> str:
    """The path of a member, in Pulumi's spelling."""
    if not PLAIN_KEY.fullmatch(key):
        return f'{path}["{key[:SHOWN]}"]'
    return f"{path}.{key}" if path else key


def has_unknown(value: Value) -> bool:
    """Whether `UNKNOWN` is anywhere in the value."""
    if isinstance(value, dict | list | tuple) or (type(value) not in _WHOLE and isinstance(value, Mapping)):
        for item in value.values() if isinstance(value, Mapping) else value:
            if item is UNKNOWN or (type(item) not in _WHOLE and has_unknown(item)):
                return True
        return False
    return value is UNKNOWN


def known(value: Value) -> Value:
    """The value, or None if it is unknown or was refused, for rules that need a value."""
    return None if value is UNKNOWN else value


def known_items(value: Value) -> list[tuple[int, Value]]:
    """The known elements of a checked list, each with its index."""
    if value is UNKNOWN or value is None:
        return []
    return [(index, item) for index, item in enumerate(value) if item is not None and not has_unknown(item)]


class Type:
    """What a property may hold. `label` names it in the docs; `record` is the record in it, where it has one."""

    label = "value"
    record: Record[Any] | None = None

    def check(self, value: Value, path: str, report: Report) -> Value:
        """Report what is wrong, and return the canonical value with `UNKNOWN` for each refused part."""
        raise NotImplementedError

    def canonical(self, value: Value) -> Value:
        """The one spelling of all values with the same meaning. A value that can't be read is returned unchanged."""
        raise NotImplementedError

    def typed(self, value: Value) -> Value:
        """The canonical value as the kinds' code uses it (tuples, `Declared` objects)."""
        return self.canonical(value)

    def compare(self, old: Value, new: Value, path: str, changes: Changes) -> None:
        """Add the leaves that differ in meaning. Neither side is None or `UNKNOWN`."""
        if freeze(self.canonical(old)) != freeze(self.canonical(new)):
            changes[path] = "update"

    def schema(self, types: dict[str, Value]) -> dict[str, Value]:
        """The type in Pulumi's schema language; records add themselves to `types`."""
        raise NotImplementedError

    def from_text(self, given: str) -> Value:
        """The value in a provider's configuration, where Pulumi writes all but strings as JSON."""
        try:
            return json.loads(given)
        except (ValueError, RecursionError):
            return given  # the check says what is wrong with it


class Scalar(Type):
    """A type whose values have no parts. A subclass only needs `parse`."""

    json: Value = "string"

    def from_text(self, given: str) -> Value:
        """The text itself for a string, else the value that it is as JSON."""
        return given if self.json == "string" else super().from_text(given)

    def parse(self, value: Value) -> Value:
        """The canonical value.

        Raises:
            BadValueError: The value is refused; the message says what would be right.
        """
        raise NotImplementedError

    def check(self, value: Value, path: str, report: Report) -> Value:
        """Report what `parse` refuses."""
        try:
            return self.parse(value)
        except BadValueError as bad:
            report.refuse(path, value, str(bad))
            return UNKNOWN

    def canonical(self, value: Value) -> Value:
        """What `parse` gives, or the value itself where it refuses."""
        if value is UNKNOWN:
            return value
        try:
            return self.parse(value)
        except BadValueError:
            return value

    def schema(self, types: dict[str, Value]) -> dict[str, Value]:
        """The type's JSON name, or one of several."""
        return {"oneOf": [{"type": x} for x in self.json]} if isinstance(self.json, tuple) else {"type": self.json}


def freeze(value: Value) -> Value:
    """A hashable form of a value: equal for equal values, different for 1 and true."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return ("record", *sorted((key, freeze(item)) for key, item in value.items() if item is not None))
    if isinstance(value, list | tuple):
        return ("list", *map(freeze, value))
    return (type(value).__name__, str(value))


class ListOf(Type):
    """A list, or a set if it is not `ordered`.

    Args:
        item: The type of the elements.
        ordered: Whether the order has meaning.
        key: The identity of a canonical element of a set; None: the whole element.
    """

    def __init__(self, item: Type, *, ordered: bool = False, key: Callable[[Value], Value] | None = None) -> None:
        self.item, self.ordered, self.key = item, ordered, key
        self.label, self.record = f"list of {item.label}", item.record

    def check(self, value: Value, path: str, report: Report) -> Value:
        """Report what is wrong with each element."""
        if not isinstance(value, list | tuple):
            report.refuse(path, value, "a list")
            return UNKNOWN
        judged = []
        for index, item in enumerate(value):
            if item is UNKNOWN:
                judged.append(UNKNOWN)
            elif item is None:
                report.fail(f"{path}[{index}]", "must not be null: omit the element")
                judged.append(UNKNOWN)
            else:
                judged.append(self.item.check(item, f"{path}[{index}]", report))
        return judged

    def canonical(self, value: Value) -> Value:
        """The canonical elements; those of a set are sorted, each of them once."""
        if not isinstance(value, list | tuple):
            return value
        items = [item if item is UNKNOWN or item is None else self.item.canonical(item) for item in value]
        if self.ordered:
            return items
        return sorted(self._distinct(items), key=lambda item: repr(freeze(item)))

    def typed(self, value: Value) -> Value:
        """A tuple, in the order given; a set's repetitions are dropped."""
        if not isinstance(value, list | tuple):
            return ()
        items = [self.item.typed(item) for item in value if item is not None]
        return tuple(items if self.ordered or self.key else dict.fromkeys(items))

    def typed_beside(self, value: Value, other: Value, made: tuple[Value, ...]) -> Value:
        """What `typed` gives, where it has made this of another list: what is the same is not made again."""
        lists = isinstance(value, list | tuple) and isinstance(other, list | tuple)
        if self.record is None or not lists or len(other) != len(made):
            return self.typed(value)
        front, end = ends_alike(value, other)
        middle = self.typed(value[front : len(value) - end])
        return (*made[:front], *middle, *made[len(made) - end :])

    def compare(self, old: Value, new: Value, path: str, changes: Changes) -> None:
        """Add the elements that differ: by index in an ordered list, by identity in a set."""
        if not isinstance(old, list | tuple) or not isinstance(new, list | tuple):
            changes[path] = "update"
        elif self.ordered:
            self._compare_ordered(old, new, path, changes)
        else:
            self._compare_set(old, new, path, changes)

    def schema(self, types: dict[str, Value]) -> dict[str, Value]:
        """An array of the element's type."""
        return {"type": "array", "items": self.item.schema(types)}

    @staticmethod
    def _distinct(items: Iterable[Value]) -> list[Value]:
        seen: dict[Value, Value] = {}
        for item in items:
            seen.setdefault(object() if has_unknown(item) else freeze(item), item)
        return list(seen.values())

    def _compare_ordered(self, old: Value, new: Value, path: str, changes: Changes) -> None:
        for index in range(max(len(old), len(new))):
            place = f"{path}[{index}]"
            if index >= len(old):
                changes[place] = "add"
            elif index >= len(new):
                changes[place] = "delete"
            else:
                compare_items(self.item, old[index], new[index], place, changes)

    def _compare_set(self, old: Value, new: Value, path: str, changes: Changes) -> None:
        # Of thousands of forwards one has changed, or was put in or taken out: only elements that are not the same from
        # the front, or from the end, are compared in detail.
        front, end = _same_places(old, new) if self.key else (set(), set())
        moved = len(new) - len(old)
        left = self._keyed(old, front | end)
        right = self._keyed(new, front | {index + moved for index in end})
        inside: dict[int, Changes] = {}
        for key, index in right.items():
            if key in left:
                compare_items(self.item, old[left[key]], new[index], f"{path}[{index}]", inside.setdefault(index, {}))
        gone = {index for key, index in left.items() if key not in right}
        come = {index for key, index in right.items() if key not in left}
        for index in sorted(gone | come | {i for i, found in inside.items() if found}):
            place = f"{path}[{index}]"
            if index in gone and (index in come or inside.get(index)):
                changes[place] = "update"  # a path has one change, but an old and a new element share the index
            elif index in gone or index in come:
                changes[place] = "delete" if index in gone else "add"
            else:
                changes.update(inside[index])

    def _keyed(self, items: Value, skip: set[int]) -> dict[Value, int]:
        """The index of each element by its identity; unknown elements are counted."""
        out: dict[Value, int] = {}
        unknowns = 0
        for index, item in enumerate(items):
            if index in skip:
                continue
            canonical = item if item is UNKNOWN or item is None else self.item.canonical(item)
            key = self.key(canonical) if self.key and isinstance(canonical, Mapping) else canonical
            if has_unknown(key):
                unknowns += 1
                key = ("unknown", unknowns)
            out.setdefault(freeze(key), index)
        return out


def _same_places(old: Value, new: Value) -> tuple[set[int], set[int]]:
    """The places in `old` of what is equal in both lists: at its distance from the front; from the end."""
    front = {place for place, (before, after) in enumerate(zip(old, new, strict=False)) if before == after}
    end: set[int] = set()
    if len(old) != len(new):
        for back in range(1, min(len(old), len(new)) + 1):
            if len(old) - back in front or len(new) - back in front or old[-back] != new[-back]:
                break
            end.add(len(old) - back)
    return front, end


def compare_items(kind: Type, old: Value, new: Value, path: str, changes: Changes) -> None:
    """Compare two values; each may be unknown or null."""
    if old is new or (type(old) is type(new) and not isinstance(old, bool) and old == new):
        return
    if old is UNKNOWN or new is UNKNOWN or old is None or new is None:
        changes[path] = "update"
    else:
        kind.compare(old, new, path, changes)


def _same(value: Value) -> Value:
    return value


@dataclass(frozen=True)
class Field:
    """The field of the object on the wire that a property is.

    Args:
        name: Its name.
        to_wire: From the program's value to the field's.
        from_wire: From the field's value to one that the program could have given.
    """

    name: str
    to_wire: Callable[[Value], Value] = _same
    from_wire: Callable[[Value], Value] = _same


@dataclass(frozen=True)
class Property:
    """A property as declared: what `prop` and `output` put into a `Declared` class."""

    name: str
    attribute: str
    type: Type
    doc: str
    effect: str = ""
    unit: str = ""
    default: Value = None
    default_doc: str = ""
    required: bool = False
    replaces: bool = False
    secret: bool = False
    field: Field | None = None
    forwarding: Family | None = None
    host_decides: bool = False

    @property
    def default_text(self) -> str:
        """The default in words; "" if there is none."""
        if self.default_doc:
            return self.default_doc
        if self.default is None or self.default == ():
            return ""
        if isinstance(self.default, bool):
            return "true" if self.default else "false"
        return f"{list(self.default)}" if isinstance(self.default, tuple) else f"{self.default}"


def prop(
    kind: Type,
    doc: str,
    *,
    default: Value = None,
    default_doc: str = "",
    effect: str = "",
    unit: str = "",
    required: bool = False,
    replaces: bool = False,
    secret: bool = False,
    field: Field | str = "",
    forwarding: Family | None = None,
    host_decides: bool = False,
) -> Any:
    """Declare an input.

    Args:
        kind: What it may hold.
        doc: What it is; Markdown, full sentences.
        default: What its absence means; never put into anybody's inputs.
        default_doc: The default in words, where it is not a constant.
        effect: What it does to the kernel.
        unit: Of a number ("bytes", "s").
        required: Whether it must be there.
        replaces: Whether a change replaces the resource.
        secret: Whether Pulumi must keep the value encrypted.
        field: The field of the object that goes to the host; what is desired, imported and seen of the property
            follows from it (`schema/fields.py`).
        forwarding: The family whose forwarding the host switches on where the property is given.
        host_decides: Whether, where the property is absent, whatever the host has is fine.
    """
    return Property(
        "", "", kind, doc, effect, unit, default, default_doc, required, replaces, secret,
        Field(field) if isinstance(field, str) and field else field or None, forwarding, host_decides,
    )  # fmt: skip


def output(kind: Type, doc: str, *, unit: str = "", always: bool = True) -> Any:
    """Declare an output.

    Args:
        kind: What it holds.
        doc: What it is; Markdown, full sentences.
        unit: Of a number.
        always: Whether it is there in every state of the resource, or wherever a program has a reason to read it. The
            types of the SDKs follow: what is not always there must be unpacked in TypeScript and Go.
    """
    return Property("", "", kind, doc, unit=unit, required=always)


def camel(attribute: str) -> str:
    """`ipv6_send_ra` as Pulumi spells it: `ipv6SendRa`."""
    head, *tail = attribute.split("_")
    return head + "".join(word.capitalize() for word in tail)


class Declared:
    """A class whose attributes are properties. Its objects have a program's values, and are immutable.

    Not a dataclass: those generate and compile code for each class, which the plugin's start would wait for.
    """

    properties_: ClassVar[dict[str, Property]] = {}
    fields_: ClassVar[list[tuple[str, Field]]] = []  # the attributes that have a field on the wire

    def __init_subclass__(cls) -> None:
        """Collect the declarations, inherited ones first, and replace each by its default."""
        own = {name: about for name, about in vars(cls).items() if isinstance(about, Property)}
        cls.properties_ = {**cls.properties_, **own}
        cls.fields_ = [(name, about.field) for name, about in cls.properties_.items() if about.field]
        for name, about in own.items():
            setattr(cls, name, about.default)

    def __setattr__(self, name: str, value: Value) -> None:
        """Refuse."""
        raise AttributeError(name)


T = TypeVar("T", bound=Declared)
Normal = Callable[[dict[str, Value]], dict[str, Value]]


class Record(Type, Generic[T]):
    """A `Declared` class as a type.

    Args:
        cls: The class.
        token: "hostnet:index:Name" for a type of its own; "" for a resource's whole inputs or outputs.
        rules: What the properties must fulfil together. It gets the checked values, the path and the report.
        normal: Makes canonical values with the same meaning equal, if this needs more than one property.
        replaces: Further properties whose change replaces the resource.
    """

    def __init__(
        self,
        cls: type[T],
        token: str = "",
        rules: Callable[[dict[str, Value], str, Report], None] | None = None,
        normal: Normal | None = None,
        replaces: frozenset[str] = frozenset(),
    ) -> None:
        self.cls, self.token, self.rules, self.normal = cls, token, rules, normal
        self.doc = (cls.__doc__ or "").strip()
        self.properties: dict[str, Property] = {}
        for attribute, about in cls.properties_.items():
            name = camel(attribute)
            replacing = about.replaces or name in replaces
            self.properties[name] = replace(about, name=name, attribute=attribute, replaces=replacing)
        self.label, self.record = token.rpartition(":")[2], self

    def check(self, value: Value, path: str, report: Report) -> Value:
        """Report what is wrong with each property, then what the rules refuse."""
        if not isinstance(value, Mapping):
            report.refuse(path, value, "an object")
            return UNKNOWN
        self._check_keys(value, path, report)
        judged: dict[str, Value] = dict.fromkeys(self.properties)
        below = f"{path}." if path else ""  # what `join` does with a declared name
        for name, about in self.properties.items():
            item = value.get(name)
            if item is UNKNOWN:
                judged[name] = UNKNOWN
            elif item is not None:
                judged[name] = about.type.check(item, below + name, report)
            elif about.required:
                report.fail(below + name, "is required")
                judged[name] = UNKNOWN
        if self.rules:
            self.rules(judged, path, report)
        return judged

    def canonical(self, value: Value) -> Value:
        """All properties, absent ones with their defaults."""
        if not isinstance(value, Mapping):
            return value
        out = {name: self.canonical_property(name, value) for name in self.properties}
        return self.normal(out) if self.normal else out

    def canonical_property(self, name: str, value: Mapping[str, Value]) -> Value:
        """One property alone, before `normal`; an absent one with its default."""
        about, item = self.properties[name], value.get(name)
        if item is None:
            item = list(about.default) if isinstance(about.default, tuple) else about.default
        return item if item is None or item is UNKNOWN else about.type.canonical(item)

    def typed(self, value: Value) -> T:
        """An object of the class."""
        made = self.cls()
        found, given = vars(made), value if isinstance(value, Mapping) else {}
        for name, about in self.properties.items():
            item = given.get(name)
            if item is not None:
                found[about.attribute] = about.type.typed(item)
        return made

    def typed_beside(self, value: Value, other: Mapping[str, Value], made: T) -> T:
        """The same, where another record was made already: of ten thousand forwards most are in both.

        Args:
            value: The record.
            other: The other one.
            made: What `typed` made of it.
        """
        given = value if isinstance(value, Mapping) else {}
        lists = {name: about.type for name, about in self.properties.items() if isinstance(about.type, ListOf)}
        found = self.typed({name: item for name, item in given.items() if name not in lists})
        for name, kind in lists.items():
            attribute = self.properties[name].attribute
            if given.get(name) is not None:
                beside = getattr(made, attribute)
                vars(found)[attribute] = kind.typed_beside(given[name], other.get(name), beside)
        return found

    def compare(self, old: Value, new: Value, path: str, changes: Changes) -> None:
        """Compare property by property."""
        if not isinstance(old, Mapping) or not isinstance(new, Mapping):
            changes[path] = "update"
            return
        for name in self.properties:
            self.compare_property(name, old, new, path, changes)

    def compare_property(
        self, name: str, old: Mapping[str, Value], new: Mapping[str, Value], path: str, changes: Changes
    ) -> None:
        """Compare one property of two records. An absent property equals its default."""
        about = self.properties[name]
        left, right = old.get(name), new.get(name)
        if left is right:
            return
        place = join(path, name)
        found: Changes = {}
        before, after = (about.default if x is None else x for x in (left, right))
        compare_items(about.type, before, after, place, found)
        if not found or self._equal_together(name, old, new):
            return
        if left is None or right is None:
            found = {place: "add" if left is None else "delete"}
        suffix = "-replace" if about.replaces else ""
        changes.update({where: how.removesuffix("-replace") + suffix for where, how in found.items()})

    def schema(self, types: dict[str, Value]) -> dict[str, Value]:
        """A reference to the type, which is added to `types`."""
        if self.token not in types:
            types[self.token] = {}  # ends the recursion of a type that contains itself
            types[self.token] = {"type": "object", "description": self.doc, **self.schema_properties(types)}
        return {"$ref": f"#/types/{self.token}"}

    def schema_properties(self, types: dict[str, Value]) -> dict[str, Value]:
        """The `properties` and `required` of the record."""
        out = {name: property_schema(about, types) for name, about in self.properties.items()}
        required = [name for name, about in self.properties.items() if about.required]
        return {"properties": out, "required": required} if required else {"properties": out}

    def _equal_together(self, name: str, old: Mapping[str, Value], new: Mapping[str, Value]) -> bool:
        if not self.normal:
            return False
        return bool(freeze(self.canonical(old)[name]) == freeze(self.canonical(new)[name]))

    def _check_keys(self, value: Mapping[str, Value], path: str, report: Report) -> None:
        if value.keys() <= self.properties.keys():
            return
        for key in value:
            if key in self.properties:
                continue
            near = nearest(key, self.properties)
            known_ones = ", ".join(self.properties)
            hint = f"did you mean `{near}`?" if near else f"the known properties are {known_ones}"
            report.fail(join(path, key), f"unknown property: {hint}")


def nearest(key: str, names: Iterable[str]) -> str | None:
    """The known name that the program probably means."""
    flat = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in names}
    wanted = re.sub(r"[^a-z0-9]", "", key[:SHOWN].lower())
    close = difflib.get_close_matches(wanted, flat, n=1, cutoff=0.6)
    if not close and len(wanted) >= PART:
        close = [name for name in flat if wanted in name]
    return flat[close[0]] if close else None


def property_schema(about: Property, types: dict[str, Value]) -> dict[str, Value]:
    """A property in Pulumi's schema language, with unit, default and effect in its description."""
    text = about.doc
    if about.unit:
        text += f" Unit: {about.unit}."
    if about.default_text:
        text += f" Default: {about.default_text}."
    if about.effect:
        text += f" On the host: {about.effect}"
    if about.replaces:
        text += " A change replaces the resource."
    out = {**about.type.schema(types), "description": text}
    if about.secret:
        out["secret"] = True
    if about.replaces:
        out["willReplaceOnChanges"] = True
    return out


def without_none(values: Mapping[str, Value]) -> dict[str, Value]:
    """The values that are not None."""
    return {name: value for name, value in values.items() if value is not None}
