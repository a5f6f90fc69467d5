"""The cases of tests/unit/agent/cases, as values.

A host is facts: `"links": {"br0": {"kind": "bridge", "mac": …, "addresses": [...], "routes": [...], "in": "br1"}}`,
`"default": {"ipv4": "eth0"}`, `"gateways": {"192.0.2.1": "eth0"}`; what hostnet holds there is
`"held": {"Bridge net": [objects]}` with the id in `"ids"` where it is not the name. An operation is written as
`CreateBridge br0 mac=… mtu=1400`, with `<-` and what undoes it; an element as
`dnat_port4 eth0 . tcp . 80 : 10.0.0.2 . 80`.

`HOSTNET_GOLDEN=write pytest tests/unit/agent` writes what is found into the cases: read the difference.
"""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hostnet.agent.linux.operations import Operation, Step
from hostnet.agent.linux.shaping import Bucket
from hostnet.agent.linux.snapshot import KernelLink, Snapshot
from hostnet.agent.nft.ruleset import Element
from hostnet.agent.plan.links import EVERY_GROUP, Names
from hostnet.agent.plan.world import World
from hostnet.agent.record.originals import Mtu
from hostnet.agent.record.owners import Owner, Owners
from hostnet.wire.objects import Guest, Object, from_json, to_json

CASES = Path(__file__).with_name("cases")
WRITE = os.environ.get("HOSTNET_GOLDEN") == "write"
NAMES = Names({"root": 0, "vm": 1234}, {"kvm": 78})
Case = dict[str, Any]


def parameters(name: str) -> pytest.MarkDecorator:
    """Run a test with each case of a file, as `case`."""
    cases = json.loads((CASES / f"{name}.json").read_text())
    return pytest.mark.parametrize("case", [pytest.param(one, id=one["case"]) for one in cases])


def check(name: str, case: Case, found: dict[str, Any]) -> None:
    """Compare what was found with what the case says; or write it there."""
    if WRITE:
        path = CASES / f"{name}.json"
        cases = json.loads(path.read_text())
        next(one for one in cases if one["case"] == case["case"]).update(found)
        path.write_text(dump(cases))
        return
    assert {key: case.get(key) for key in found} == found


def dump(cases: list[Case]) -> str:
    """A line a property, so that a difference reads well."""
    blocks = []
    for case in cases:
        lines = []
        for key, value in case.items():
            if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
                body = ",\n".join(f"      {json.dumps(one, ensure_ascii=False)}" for one in value)
                lines.append(f"    {json.dumps(key)}: [\n{body}\n    ]")
            else:
                lines.append(f"    {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
        blocks.append("  {\n" + ",\n".join(lines) + "\n  }")
    return "[\n" + ",\n".join(blocks) + "\n]\n"


def urn(label: str) -> str:
    """The URN of "Bridge net", of stack dev of project shop."""
    kind, _, name = label.partition(" ")
    return f"urn:pulumi:dev::shop::hostnet:index:{kind}::{name}"


def objects(items: list[Case] | None) -> tuple[Object, ...]:
    """Objects as a case writes them."""
    return tuple(from_json(item) for item in items or ())


def as_json(items: tuple[Object, ...]) -> list[Case]:
    """Objects as a case would write them."""
    found: list[Case] = json.loads(json.dumps([to_json(item) for item in items]))
    return found


def owner(label: str, items: list[Case] | None, case: Case) -> Owner:
    """An owner as a case writes it."""
    return Owner(urn(label), case.get("ids", {}).get(label, label.rsplit(maxsplit=1)[-1]), objects(items))


def owners(case: Case) -> Owners:
    """What hostnet holds."""
    found = [owner(label, items, case) for label, items in case.get("held", {}).items()]
    return Owners({one.key: one for one in found})


def snapshot(case: Case) -> Snapshot:
    """What the kernel has."""
    links: dict[str, KernelLink] = {}
    given: dict[str, Case] = {"lo": {"ethernet": False}, "eth0": {"kind": "veth"}, **case.get("links", {})}
    number = {name: index for index, name in enumerate(given, 1)}
    held = [item for items in case.get("held", {}).values() for item in objects(items)]
    checked = {item.link for item in held if isinstance(item, Guest) and item.anti_spoofing and item.bridge}
    for name, facts in given.items():
        about = dict(facts)
        master = number.get(about.pop("in", ""), 0)
        kind = about.pop("kind", "")
        tap = kind == "tap"
        values: dict[str, Any] = {
            "up": True,
            "mtu": 1500,
            "mac": f"02:00:00:00:00:{number[name]:02x}",
            "uid": 0 if tap else None,
            "group_fwd_mask": EVERY_GROUP if name in checked and master else 0,
        }
        values |= {key: value for key, value in about.items() if key not in ("addresses", "routes")}
        links[name] = KernelLink(name, number[name], "tun" if tap else kind, master=master, tap=tap, **values)
    return Snapshot(
        links,
        {name: tuple(about["addresses"]) for name, about in given.items() if "addresses" in about},
        {name: tuple(about["routes"]) for name, about in given.items() if "routes" in about},
        case.get("default", {"ipv4": "eth0", "ipv6": "eth0"}),
        gateways=case.get("gateways", {}),
        buckets={name: Bucket(*values) for name, values in case.get("buckets", {}).items()},
    )


def world(case: Case) -> World:
    """Both."""
    return World(owners(case), snapshot(case), mtus(case))


def mtus(case: Case) -> dict[str, Mtu]:
    """The MTUs that hostnet has set: `"mtus": {"vm-a": [1500, 9000]}`, before and since."""
    return {name: Mtu(own, ours) for name, (own, ours) in case.get("mtus", {}).items()}


def operation(one: Operation) -> str:
    """An operation as a case writes it: what is not default."""
    required, *rest = fields(one)
    words = [type(one).__name__, str(getattr(one, required.name))]
    for field in rest:
        value = getattr(one, field.name)
        if value != field.default:
            words.append(f"{field.name}={value if value != '' else '-'}")
    return " ".join(words)


def step(one: Step) -> str:
    """A step with what undoes it; whose it is is said only by those of the others."""
    text = operation(one.operation)
    return text + (" <- " + "; ".join(map(operation, one.undo)) if one.undo else "")


def element(one: Element) -> str:
    """An element as a case writes it."""
    value = " : " + " . ".join(one.value) if one.value else ""
    return f"{one.set} {' . '.join(one.key)}{value}"
