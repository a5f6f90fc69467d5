"""From a change to an owner, or to the error that names the resource that it conflicts with."""

from __future__ import annotations

from hostnet.agent.plan.resolve import resolve
from hostnet.wire.errors import HostnetError
from hostnet.wire.requests import Change

from tests.unit.agent.data import Case, as_json, check, objects, parameters, urn, world


@parameters("resolve")
def test_a_change_is_resolved_or_refused(case: Case) -> None:
    """Interfaces and addresses are filled in; a refusal says what was asked, why not and what to do."""
    label = case.get("owner", "Bridge net")
    identity = case.get("id", label.split()[-1])
    change = Change(urn(label), identity, objects(case["wants"]), known=case.get("known", False))
    try:
        found = resolve(change, world(case))
    except HostnetError as error:
        check("resolve", case, {"error": [error.code.value, error.what, error.why, error.fix]})
    else:
        check("resolve", case, {"becomes": found.id, "objects": as_json(found.objects)})
