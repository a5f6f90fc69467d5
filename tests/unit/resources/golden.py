"""The golden cases of tests/cases/resources, as values: a file for each kind, beside its contract.

`"contract"` names its properties. The other lists are cases: what is created, what is no difference, what an update
changes, what a read and an import show, what a preview knows, what is refused. `"${unknown}"` in a case is what a
preview does not know yet. `"packets"` are run in the kernel (tests/netns/test_cases.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hostnet.resources import KINDS
from hostnet.resources.schema.kind import Kind
from hostnet.resources.schema.values import UNKNOWN, Autoname
from hostnet.wire.objects import from_json, state_from_json, to_json
from hostnet.wire.requests import View

CASES = Path(__file__).parents[2] / "cases" / "resources"
TOKENS = {
    "bridge": "hostnet:index:Bridge",
    "tap_binding": "hostnet:index:TapBinding",
    "nat_gateway": "hostnet:index:NatGateway",
    "port_forward": "hostnet:index:PortForward",
}
Case = dict[str, Any]


def load(kind: str, name: str) -> Any:
    """A part of a kind's file."""
    return with_unknowns(json.loads((CASES / f"{kind}.json").read_text(encoding="utf-8"))[name])


def with_unknowns(value: Any) -> Any:
    """The value with `UNKNOWN` for its placeholder."""
    if isinstance(value, dict):
        return {key: with_unknowns(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_unknowns(item) for item in value]
    return UNKNOWN if value == "${unknown}" else value


def parameters(name: str) -> pytest.MarkDecorator:
    """Run a test with each case of this name of each kind, as `kind` and `case`."""
    found = [
        pytest.param(KINDS[token], case, id=f"{kind}: {case['case']}")
        for kind, token in TOKENS.items()
        for case in load(kind, name)
    ]
    return pytest.mark.parametrize(("kind", "case"), found)


def urn(kind: Kind[Any], name: str = "microvm") -> str:
    """The URN that golden MAC addresses and ids are derived from."""
    return f"urn:pulumi:test::net::{kind.token}::{name}"


def autoname(name: str = "microvm") -> Autoname:
    """What the engine sends with a check."""
    return Autoname(name, b"seed")


def view(case: Case) -> View:
    """A host's answer: pairs of an object and its state (null: it is absent)."""
    pairs = [(from_json(item), seen) for item, seen in case["view"]]
    return View(
        case.get("id", "id"),
        tuple(item for item, _ in pairs),
        tuple(state_from_json(item.type, seen) for item, seen in pairs),
    )


def as_json(objects: tuple[Any, ...]) -> list[dict[str, Any]]:
    """Objects as cases write them."""
    out: list[dict[str, Any]] = json.loads(json.dumps([to_json(item) for item in objects]))
    return out
