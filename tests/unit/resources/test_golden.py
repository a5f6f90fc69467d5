"""The golden cases: inputs to objects, olds and news to differences, what a host reports to inputs and outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hostnet.resources import RESOURCES
from hostnet.wire.subnets import gateway_for

from tests.unit.resources.golden import Case, as_json, autoname, parameters, urn, view

if TYPE_CHECKING:
    from hostnet.resources.schema.kind import Kind


@parameters("create")
def test_a_create_asks_for_these_objects(kind: Kind[Any], case: Case) -> None:
    """The change has the id and all objects that the host should have, in canonical form."""
    change = kind.change(urn(kind), case["inputs"])
    assert change is not None
    assert (change.id, change.known, change.prior, change.dry) == (case["id"], False, (), False)
    assert as_json(change.objects) == case["objects"]


@parameters("create")
def test_a_delete_asks_for_no_object_and_names_the_old_ones(kind: Kind[Any], case: Case) -> None:
    """If the host has lost its record, it still knows what to delete."""
    change = kind.removal(urn(kind), case["id"], case["inputs"], {})
    assert (change.id, change.known, change.objects) == (case["id"], True, ())
    assert as_json(change.prior) == case["objects"]


@parameters("create")
def test_a_read_asks_for_these_objects_and_an_import_for_none(kind: Kind[Any], case: Case) -> None:
    """An import knows only the id."""
    query = kind.query(urn(kind), case["id"], case["inputs"], {})
    assert (query.id, query.kind, as_json(query.objects)) == (case["id"], kind.name, case["objects"])
    assert kind.query(urn(kind), case["id"], None, None).objects == ()


@parameters("update")
def test_an_update_shows_the_leaves_that_changed(kind: Kind[Any], case: Case) -> None:
    """The difference names the leaf, marks what replaces, and says whether the old resource is deleted first."""
    found = kind.diff(case["olds"], case["outputs"], case["inputs"])
    assert found.detailed == case["diff"]
    assert found.delete_before_replace == case["deleteBeforeReplace"]
    assert found.output_paths == {path for path in case["diff"] if path.startswith("forwarding")}


@parameters("update")
def test_an_update_keeps_the_id_and_names_the_old_objects(kind: Kind[Any], case: Case) -> None:
    """While an input is unknown there is no change for the host."""
    change = kind.change(urn(kind), case["inputs"], id="id", old_inputs=case["olds"], old_outputs=case["outputs"])
    if change is not None:
        removal = kind.removal(urn(kind), "id", case["olds"], case["outputs"])
        assert (change.id, change.known, change.prior) == ("id", True, removal.prior)


@parameters("noop")
def test_what_means_the_same_is_no_difference(kind: Kind[Any], case: Case) -> None:
    """This holds in both directions, and the objects are the same."""
    for olds, inputs in ((case["olds"], case["inputs"]), (case["inputs"], case["olds"])):
        assert kind.check(inputs, None, autoname()).failures == ()
        assert kind.diff(olds, case["outputs"], inputs).detailed == {}
    before, after = (kind.change(urn(kind), case[which], id="id") for which in ("olds", "inputs"))
    assert before is not None
    assert after is not None
    assert {x.key for x in before.objects} == {x.key for x in after.objects}


@parameters("read")
def test_a_read_shows_drift_in_the_right_property(kind: Kind[Any], case: Case) -> None:
    """Values as declared keep their spelling; the next difference shows exactly the drift."""
    inputs, found = case["inputs"], view(case)
    reads = kind.read_inputs(inputs, found)
    outputs = kind.outputs(urn(kind), inputs, found)
    assert reads == case["reads"]
    assert kind.diff(reads, outputs, inputs).detailed == case["diff"]
    if "outputs" in case:
        assert outputs == case["outputs"]


@parameters("import")
def test_an_import_is_followed_by_a_clean_preview(kind: Kind[Any], case: Case) -> None:
    """The program sets only values that are not default."""
    found = view(case)
    reads = kind.read_inputs(None, found)
    assert reads == case["reads"]
    checked = kind.check(case["program"], reads, autoname())
    assert checked.failures == ()
    assert kind.diff(reads, kind.outputs(urn(kind), reads, found), checked.inputs).detailed == {}


@parameters("preview")
def test_a_preview_has_every_output_and_unknown_at_the_leaf(kind: Kind[Any], case: Case) -> None:
    """No output is missing, and none is guessed."""
    found = kind.preview_outputs(urn(kind), case["inputs"], case["had"], case["olds"])
    assert found == case["outputs"]


@pytest.mark.parametrize("kind", RESOURCES, ids=lambda kind: kind.name)
def test_the_declared_outputs_are_those_of_a_preview(kind: Kind[Any]) -> None:
    """The code has the outputs of the declaration, from which schema.json is made."""
    inputs: dict[str, dict[str, Any]] = {"PortForward": {"sourcePort": 80, "destination": "10.0.0.2"}}
    outputs = kind.preview_outputs(urn(kind), inputs.get(kind.name, {"name": "x0"}), None)
    assert outputs.keys() == kind.results.properties.keys()


def test_a_guest_keeps_what_it_has() -> None:
    """It keeps its derived MAC under another URN (an alias, an import), and its addresses are a hint for the host."""
    kind = next(kind for kind in RESOURCES if kind.name == "TapBinding")
    olds = {"name": "t0", "bridge": "br0", "guest": {}}
    had = {"guest": {"macAddress": "02:00:00:00:00:77", "addresses": ["10.0.0.7/24"]}}
    change = kind.change(urn(kind, "renamed"), {**olds, "owner": 0}, id="t0", old_inputs=olds, old_outputs=had)
    assert change is not None
    guest = as_json(change.objects)[-1]
    assert (guest["mac"], guest["hint"]) == ("02:00:00:00:00:77", ["10.0.0.7/24"])


@pytest.mark.parametrize(
    ("bridge", "guest", "follows"),
    [
        (["10.1.0.1/24", "10.1.0.129/25"], ["10.1.0.2/24", "10.1.0.130/25"], False),
        (["10.1.0.129/25", "10.1.0.1/24"], ["10.1.0.2/24", "10.1.0.130/25"], False),
        (["10.1.0.1/24", "10.1.0.2/24"], ["10.1.0.3/24", "10.1.0.4/24"], False),
        (["10.1.0.1/24", "10.9.9.9/32"], ["10.1.0.2/24"], False),
        (["10.1.0.1/24", "10.1.0.129/25"], ["10.1.0.130/25"], True),
        (["10.1.0.1/24"], ["10.1.0.2/24", "10.1.0.130/25"], True),
        (["10.1.0.1/16"], ["10.1.0.2/24"], True),
        (["10.1.0.2/24"], ["10.1.0.2/24"], True),
    ],
)
def test_a_guest_follows_its_bridge_where_it_has_not_one_address_of_each_subnet(
    bridge: list[str], guest: list[str], *, follows: bool
) -> None:
    """Subnets of one bridge may overlap; a guest that has what the host would choose stays as it is."""
    kind = next(kind for kind in RESOURCES if kind.name == "TapBinding")
    inputs = {"name": "t0", "bridge": "br0", "guest": {}}
    had = {"guest": {"addresses": guest, "gateway": gateway_for(guest, bridge, 4)}}
    found = kind.diff(inputs, had, inputs, lambda *_: {"addresses": bridge})
    assert found.detailed == ({"guest.addresses": "update"} if follows else {})


def test_a_guest_whose_address_is_no_longer_declared_gets_the_derived_one() -> None:
    """A MAC that the program no longer declares is not kept."""
    kind = next(kind for kind in RESOURCES if kind.name == "TapBinding")
    olds = {"name": "t0", "bridge": "br0", "guest": {"macAddress": "02:00:00:00:00:77"}}
    had = {"guest": {"macAddress": "02:00:00:00:00:77", "addresses": ["10.0.0.7/24"]}}
    inputs = {**olds, "guest": {}}
    change = kind.change(urn(kind), inputs, id="t0", old_inputs=olds, old_outputs=had)
    fresh = kind.change(urn(kind), inputs)
    assert change is not None
    assert fresh is not None
    assert as_json(change.objects)[-1]["mac"] == as_json(fresh.objects)[-1]["mac"] != "02:00:00:00:00:77"
