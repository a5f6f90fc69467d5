"""JSON from the other side as values of the declared types, or an error that names the place.

The other side of a connection is input: what a remote host sends may be wrong, too large, or made to harm. A dataclass
of this room declares what a message may hold; `reader` makes from its annotations the function that checks and builds
it. A string or a number with a form of its own has an annotated type (`Cidr`, `Count`).

`loads` reads the JSON text. It bounds how much a text may unpack to, and makes control characters visible, so that no
text of another machine moves a terminal's cursor, hides a line, or breaks a protobuf message.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import json
import re
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

# A protobuf Struct has numbers of 64 bits with 53 of precision; a larger integer of Python's does not fit at all.
_LARGEST = 1 << 53
# 60,000 forwards of one gateway are 2.0 million values in one answer. Python makes up to some 100 bytes of each.
_MOST_VALUES = 4_000_000
# A person reads it. More than this of one text is cut.
_LONGEST_TEXT = 4_000
_UNUSUAL = re.compile(rb"\\|[^\x20-\x7e\n]")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5,19}|")
_SPAN = re.compile(r"[0-9a-fA-F:./-]{1,90}")
_NAME = re.compile(r"(?!\.\.?$)[^\s/]{1,64}")  # it is a part of paths
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DOMAIN = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*", re.ASCII)

# Checks a value, and gives what it becomes.
Reader = Callable[[Any], Any]
_READERS: dict[type[Any], Reader] = {}


class ShapeError(ValueError):
    """A value is not of the declared type."""


def visible(text: str) -> str:
    r"""The text with every character that is not printable as an escape: `\x1b`, `\n`, `\u202e`."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def shortened(text: str) -> str:
    """The text, cut where it is longer than a person reads."""
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"


def loads(text: bytes) -> Any:
    """JSON text of the other side, with visible strings.

    Raises:
        ShapeError: It is no JSON, or unpacks to too much.
    """
    if sum(map(text.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise ShapeError(f"it has more than {_MOST_VALUES:,} values")
    try:
        value = json.loads(text, parse_constant=_no_number)
        return _visible_strings(value) if _UNUSUAL.search(text) else value
    except RecursionError:
        raise ShapeError("it is nested too deeply") from None
    except ValueError as error:
        if isinstance(error, ShapeError):
            raise
        raise ShapeError(f"it is not JSON ({type(error).__name__})") from None


def _no_number(name: str) -> None:
    raise ShapeError(f"it has the number {name}")


def _visible_strings(value: Any) -> Any:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, list):
        return [_visible_strings(each) for each in value]
    if isinstance(value, dict):
        return {visible(name): _visible_strings(each) for name, each in value.items()}
    return value


# --- forms of strings and numbers ----------------------------------------------------------------------------------


def _address(value: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in value else socket.AF_INET, value)
    except (OSError, ValueError):
        return False
    return True


def _cidr(value: str) -> bool:
    address, slash, length = value.partition("/")
    bits = 128 if ":" in address else 32
    return _address(address) and (not slash or (length.isascii() and length.isdigit() and int(length) <= bits))


def _span(value: str) -> bool:
    return _SPAN.fullmatch(value) is not None


def _mac(value: str) -> bool:
    return _MAC.fullmatch(value) is not None


def _name(value: str) -> bool:
    return _NAME.fullmatch(value) is not None


def is_domain(value: str) -> bool:
    """Whether it is a name of DNS in lower case: labels of letters, digits, hyphens and underscores."""
    return _DOMAIN.fullmatch(value) is not None


def _identifier(value: str) -> bool:
    return len(value) <= _LONGEST_TEXT


def _count(value: int) -> bool:
    return value >= 0


def _port(value: int) -> bool:
    return 0 <= value <= 65535


Ip = Annotated[str, _address, "an IP address"]
Cidr = Annotated[str, _cidr, "an IP address or a network"]
# What nft prints of an element that another program added: a range of addresses as well.
Span = Annotated[str, _span, "an IP address, a network or a range"]
Mac = Annotated[str, _mac, "a MAC address"]  # or "": some interfaces have none
Name = Annotated[str, _name, "the name of an interface"]
Domain = Annotated[str, is_domain, "a domain name"]
Identifier = Annotated[str, _identifier, "an id"]
Text = Annotated[str, shortened]  # for a person
Count = Annotated[int, _count, "a number of at least 0"]
PortNumber = Annotated[int, _port, "a port"]


# --- from annotations to readers -----------------------------------------------------------------------------------


def reader(cls: type[Any]) -> Reader:
    """What makes a value of a dataclass from JSON.

    Args:
        cls: The dataclass. Its annotations are text (`from __future__ import annotations`), and may say `A | B`.

    Returns:
        A function of the value. It raises `ShapeError`, whose text begins with the place: `.seen[1].mtu is …`.
    """
    if cls not in _READERS:
        _READERS[cls] = _dataclass_reader(cls)
    return _READERS[cls]


def _dataclass_reader(cls: type[Any]) -> Reader:
    names = vars(sys.modules[cls.__module__])
    about = {each.name: _reader(_evaluate(ast.parse(str(each.type), mode="eval").body, names)) for each in fields(cls)}
    needed = {each.name for each in fields(cls) if each.default is MISSING and each.default_factory is MISSING}
    made_up = hasattr(cls, "__post_init__") or any(each.default_factory is not MISSING for each in fields(cls))
    blank = {each.name: each.default for each in fields(cls)}

    def read(value: Any) -> Any:
        if type(value) is not dict:
            raise ShapeError(f" is {_shown(value)}, not an object")
        missing = needed - value.keys()
        if missing:
            raise ShapeError(f" has no {min(missing)}")
        made, name = {}, ""
        try:
            for name, each in value.items():
                made[name] = about[name](each)
        except KeyError:
            raise ShapeError(f" has {_shown(name)}, which is not known") from None
        except ShapeError as error:
            raise ShapeError(f".{name}{error}") from None
        return cls(**made) if made_up else filled(cls, blank, made)

    return read


def filled(cls: type[Any], blank: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    """An object of a frozen dataclass, without its `__init__`, which takes five times as long: there are thousands.

    Args:
        cls: The class.
        blank: The defaults of its fields, in order; of those that have none, anything.
        values: The others.
    """
    made = object.__new__(cls)
    own = vars(made)
    # One by one, in order: so objects of a class share the names of their fields, which `update` would copy.
    for name, default in blank.items():
        own[name] = values.get(name, default)
    return made


def _evaluate(node: ast.AST, names: Mapping[str, Any]) -> Any:
    """The type that an annotation's text means; `eval` would need Python 3.10 for `A | B`."""
    if isinstance(node, ast.BinOp):
        return Union[_evaluate(node.left, names), _evaluate(node.right, names)]
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Tuple):
        return tuple(_evaluate(each, names) for each in node.elts)
    if isinstance(node, ast.Subscript):
        return _evaluate(node.value, names)[_evaluate(node.slice, names)]
    if isinstance(node, ast.Name):
        return names[node.id] if node.id in names else getattr(builtins, node.id)
    raise TypeError(f"an annotation that is not understood: {ast.dump(node)}")


def _reader(declared: Any) -> Reader:
    origin, args = get_origin(declared), get_args(declared)
    if hasattr(declared, "__metadata__"):
        return _formed(args[0], *declared.__metadata__)
    if origin is Union:
        return _union([_reader(each) for each in args if each is not type(None)], optional=type(None) in args)
    if origin is Literal:
        return _literal(args)
    if origin is tuple:
        return _every(_reader(args[0])) if args[-1] is Ellipsis else _fixed([_reader(each) for each in args])
    if origin is dict:
        return _mapping(_reader(args[1]))
    return reader(declared) if isinstance(declared, type) and is_dataclass(declared) else _plain(declared)


def _plain(declared: Any, *, longest: int = _LONGEST_TEXT) -> Reader:
    if declared is Any:
        return lambda value: value
    noun = {str: "a text", int: "an integer", bool: "true or false", dict: "an object"}[declared]

    def read(value: Any) -> Any:
        # `type`, not `isinstance`: True is an integer to Python.
        if type(value) is not declared or (declared is int and not -_LARGEST <= value <= _LARGEST):
            raise ShapeError(f" is {_shown(value)}, not {noun}")
        if declared is str and len(value) > longest:
            raise ShapeError(f" has {len(value):,} characters, more than {longest:,}")
        return value

    return read


def _formed(declared: Any, check: Callable[[Any], Any], noun: str = "") -> Reader:
    """A form: a check with its noun, or (without one) a function that gives the value its form."""
    base = _plain(declared, longest=_LONGEST_TEXT if noun else sys.maxsize)

    def read(value: Any) -> Any:
        made = check(base(value))
        if not noun:
            return made
        if not made:
            raise ShapeError(f" is {_shown(value)}, not {noun}")
        return value

    return read


def _union(readers: list[Reader], *, optional: bool) -> Reader:
    *others, last = readers

    def read(value: Any) -> Any:
        if value is None and optional:
            return None
        for each in others:
            with contextlib.suppress(ShapeError):
                return each(value)
        return last(value)

    return read


def _literal(allowed: tuple[Any, ...]) -> Reader:
    def read(value: Any) -> Any:
        if not isinstance(value, str) or value not in allowed:
            raise ShapeError(f" is {_shown(value)}, not one of {', '.join(map(str, allowed))}")
        return value

    return read


def _every(item: Reader) -> Reader:
    def read(value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            raise ShapeError(f" is {_shown(value)}, not a list")
        made: list[Any] = []
        try:
            for each in value:
                made.append(item(each))  # noqa: PERF401 - an error tells which one
        except ShapeError as error:
            raise ShapeError(f"[{len(made)}]{error}") from None
        return tuple(made)

    return read


def _fixed(items: list[Reader]) -> Reader:
    def read(value: Any) -> Any:
        if not isinstance(value, (list, tuple)) or len(value) != len(items):
            raise ShapeError(f" is {_shown(value)}, not a list of {len(items)}")
        return tuple(each(one) for each, one in zip(items, value))

    return read


def _mapping(item: Reader) -> Reader:
    def read(value: Any) -> Any:
        if type(value) is not dict:
            raise ShapeError(f" is {_shown(value)}, not an object")
        return {name: item(each) for name, each in value.items()}

    return read


def _shown(value: Any) -> str:
    """A value in a message: what it is, and of a short one all of it."""
    if isinstance(value, (dict, list)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, int) and not -_LARGEST <= value <= _LARGEST:
        return "a huge number"  # Python refuses to print one of more than 4,300 digits
    if isinstance(value, str):
        return f'"{visible(value[:40])}"'
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))
