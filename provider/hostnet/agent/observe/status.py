"""What hostnet has on a host, whose it is, and what is not as declared. Reads alone."""

from __future__ import annotations

from typing import Any

from hostnet.agent.lasting.persistence import WatcherState
from hostnet.agent.observe.differences import Difference
from hostnet.agent.observe.drift import drift
from hostnet.agent.observe.facts import interfaces
from hostnet.agent.observe.listeners import lines_down
from hostnet.agent.observe.observation import Observation
from hostnet.agent.record.owners import Owner
from hostnet.wire.objects import to_json
from hostnet.wire.urn import Urn

Facts = dict[str, Any]
_WAITS = "waits for what another resource of its stack has and should give up: run `pulumi up` again"


def status(observation: Observation, watching: WatcherState) -> Facts:
    """Every resource that is recorded, with its drift in words; of one that waits for another, what it waits for."""
    process = watching.process
    return {
        "resources": [_resource(owner, observation) for owner in observation.world.owners.values()],
        "undeclared": len(observation.undeclared),
        "watcher": {"needed": watching.needed, "pid": process.pid if process else None},
        "defaultRoute": dict(observation.world.snapshot.default_links),
        "interfaces": interfaces(observation.world.snapshot),
    }


def _resource(owner: Owner, observation: Observation) -> Facts:
    urn, waits = Urn.parse(owner.urn), owner.wanted is not None
    owner = owner.later
    found = drift(owner, observation)
    if waits:
        found = [Difference("", "waits", _WAITS), *found]
    # No update can put it back: so it is no difference that a refresh finds.
    found += [Difference("", "down", text) for text in lines_down(owner, observation.world.snapshot)]
    # What another object is about (a forward that no resource declares) concerns the resource: its first one.
    number = {item.key: index for index, item in enumerate(owner.objects)} if found else {}
    return {
        "urn": owner.urn,
        "id": owner.id,
        "kind": urn.kind,
        "name": urn.name,
        "stack": urn.stack,
        "project": urn.project,
        "objects": [to_json(item) for item in owner.objects],
        "members": sorted(name for name, key in observation.attached.items() if key == owner.key),
        "drift": list(dict.fromkeys(each.text for each in found)),
        "wrong": [
            {"item": number.get(each.object, 0), "text": each.text, "absent": each.field == ""} for each in found
        ],
    }
