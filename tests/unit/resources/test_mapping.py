"""A property that is declared with a field: what goes to the host, what an import and a read show of it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.nft.context import context_of
from hostnet.agent.nft.elements import compile_object
from hostnet.agent.record.owners import Owner, Owners
from hostnet.resources.nat_gateway import NAT_GATEWAY
from hostnet.resources.schema.types import Bool
from hostnet.wire.objects import Gateway, GatewayState, from_json
from hostnet.wire.requests import View

from tests.unit.resources.golden import load, urn

MAPPED = {name: about for name, about in NAT_GATEWAY.inputs.properties.items() if about.field}
BOOLEANS = [name for name, about in MAPPED.items() if isinstance(about.type, Bool)]
OTHERS: dict[str, Any] = {
    "externalInterface": "eth0",
    "internalInterfaces": ["br0"],
    "internalIps": ["203.0.113.64/28"],
}


def test_a_gateways_fields_are_its_properties() -> None:
    """Each is declared once; `name` is the id, `resolved` the agent's, `more` all but the first external interface.

    `one_to_one` is made of records.
    """
    declared = [about.field.name for about in MAPPED.values() if about.field]
    assert len(set(declared)) == len(declared)
    assert {"name", "resolved", "more", "one_to_one", *declared} == {each.name for each in fields(Gateway)}


@pytest.mark.parametrize("name", BOOLEANS)
def test_a_boolean_goes_to_the_host_and_back(name: str) -> None:
    """In its field and in no other; an import shows it, and a read shows where the host lacks it."""
    about = MAPPED[name]
    assert about.field is not None
    unlike = not about.default
    plain, given = (gateway({**OTHERS, name: value}) for value in (about.default, unlike))
    assert vars(given) == {**vars(plain), about.field.name: unlike}
    assert imported(given) == {**OTHERS, name: unlike}
    for there, shown in ((given, {**OTHERS, name: unlike}), (plain, {**OTHERS, name: about.default})):
        seen = View(given.name, (given,), (GatewayState(**vars(there)),))
        assert NAT_GATEWAY.read_inputs({**OTHERS, name: unlike}, seen) == shown


def gateway(inputs: dict[str, Any]) -> Gateway:
    """What the host is to have."""
    change = NAT_GATEWAY.change(urn(NAT_GATEWAY), inputs)
    assert change is not None
    found = change.objects[0]
    assert isinstance(found, Gateway)
    return found


def imported(there: Gateway) -> dict[str, Any]:
    """What an import makes of it."""
    return NAT_GATEWAY.read_inputs(None, View(there.name, (there,), (GatewayState(**vars(there)),)))


@pytest.mark.parametrize("case", load("nat_gateway", "create"), ids=lambda case: case["case"])
def test_an_element_is_tagged_with_the_field_that_asks_for_it(case: dict[str, Any]) -> None:
    """So that one that is missing shows in its property; of a list, with the item as well."""
    there = from_json({"external": "eth0", **case["objects"][0]})
    owner = Owner(urn(NAT_GATEWAY), case["id"], (there,))
    context = context_of(Owners({owner.key: owner}), Snapshot({}, {}, {}, {}), {})
    tags = {tag for _, tag in compile_object(there, context)}
    assert tags
    for field, item in tags:
        value = getattr(there, field)
        # `egress` as a whole is in effect or not; its rules are tagged each.
        whole = field == "egress" and item == ""
        assert whole or (item in map(str, value) if isinstance(value, tuple) else item == "")
