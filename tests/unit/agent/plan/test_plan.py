"""From what an owner had, what it should have and what the kernel has, to operations and what undoes each."""

from __future__ import annotations

from hostnet.agent.linux.operations import CreateBridge, CreateTap
from hostnet.agent.plan.links import Plan, hairpin, plan
from hostnet.agent.plan.world import World

from tests.unit.agent.data import NAMES, Case, check, mtus, operation, owner, owners, parameters, snapshot, step


def planned(case: Case) -> Plan:
    """The plan of a case: `had` and `wants` are one owner's objects (null: it is not there)."""
    label = case.get("owner", "Bridge net")
    old = owner(label, case["had"], case) if case.get("had") is not None else None
    new = owner(label, case["wants"], case) if case.get("wants") is not None else None
    held = owners(case)
    for one in (old, new):
        if one is not None:
            held.remove(one.key)
    if new is not None:
        held[new.key] = new
    into = Plan()
    plan(old, new, World(held, snapshot(case), mtus(case)), case.get("attached", {}), NAMES, into)
    return into


def notes(found: Plan) -> dict[str, list[int] | None]:
    """What the record is to say of the links' MTUs."""
    return {name: [mtu.own, mtu.ours] if mtu else None for name, (_, mtu) in found.mtus.items()}


@parameters("plan")
def test_a_plan_has_these_steps_and_each_says_what_undoes_it(case: Case) -> None:
    """Creating before removing; what is as it should be has no step."""
    found = planned(case)
    check(
        "plan",
        case,
        {
            "build": [step(one) for one in found.build],
            "remove": [step(one) for one in found.remove],
            "attaches": found.attached,
            "lets go": found.detached,
            **({"notes": notes(found)} if "notes" in case else {}),
        },
    )


@parameters("plan")
def test_what_a_step_changes_it_can_take_back(case: Case) -> None:
    """Every step of a plan has an undo, but for those on a link that an earlier step made: that goes whole."""
    found = planned(case)
    made = {one.operation.name for one in found.build if isinstance(one.operation, (CreateBridge, CreateTap))}
    for one in found.build:
        target = getattr(one.operation, "name", None) or getattr(one.operation, "link", None)
        assert one.undo or target in made or case.get("no undo"), operation(one.operation)


@parameters("hairpin")
def test_hairpin_mode_follows_who_needs_it(case: Case) -> None:
    """On where a port joins or lacks it, off where no forward needs it any more, untouched where it is right."""
    into = Plan()
    if "joins" in case:
        plan(None, owner("TapBinding t", case["joins"], case), World(owners(case), snapshot(case)), {}, NAMES, into)
    before = len(into.build)
    hairpin("key", case["old"], case["new"], snapshot(case), into)
    check("hairpin", case, {"steps": [step(one) for one in into.build[before:]]})
