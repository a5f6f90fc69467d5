"""What hostnet holds on a host, and what is not as it should be. Reads alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hostnet.agent.lasting.persistence import Watching
from hostnet.agent.nft.ruleset import Place
from hostnet.agent.nft.table import Desired
from hostnet.agent.observe.view import Observation
from hostnet.agent.plan.links import Plan, plan
from hostnet.agent.record.owners import Owner
from hostnet.wire.objects import DhcpServer, Forwarding, Gateway, Glob, Link, to_json
from hostnet.wire.urn import Urn

Facts = dict[str, Any]


def status(observation: Observation, desired: Desired, listed: Mapping[Place, Any] | None, watching: Watching) -> Facts:
    """Every resource that is recorded, with what it would take to mend it.

    :param desired: what our table should hold.
    :param listed: what it holds; None where it could not be looked at.
    """
    process = watching.process
    missing = _missing(desired, listed)
    return {
        "resources": [
            _resource(owner, observation, missing.get(owner.key, 0), watching)
            for owner in observation.world.owners.values()
        ],
        "strange": sum(place not in desired.elements for place in listed or ()),
        "watcher": {"needed": watching.needed, "pid": process.pid if process else None},
        "defaultRoute": dict(observation.world.snapshot.default_links),
    }


def _missing(desired: Desired, listed: Mapping[Place, Any] | None) -> dict[str, int]:
    """By owner, how many elements of our table are not as they should be."""
    missing: dict[str, int] = {}
    for place, value in desired.elements.items():
        if listed is not None and listed.get(place) != value:
            owner = desired.owners[place]
            missing[owner] = missing.get(owner, 0) + 1
    return missing


def _resource(owner: Owner, observation: Observation, missing: int, watching: Watching) -> Facts:
    urn = Urn.parse(owner.urn)
    members = sorted(name for name, key in observation.attached.items() if key == owner.key)
    return {
        "urn": owner.urn,
        "id": owner.id,
        "kind": urn.kind,
        "name": urn.name,
        "stack": urn.stack,
        "project": urn.project,
        "objects": [to_json(item) for item in owner.objects],
        "members": members,
        "drift": list(_drift(owner, observation, missing, watching)),
    }


def _drift(owner: Owner, observation: Observation, missing: int, watching: Watching) -> Iterator[str]:
    """What would have to be done for this owner, in words."""
    into = Plan()
    plan(owner, owner, observation.world, observation.attached, observation.names, into)
    yield from dict.fromkeys(str(step.operation) for step in (*into.build, *into.remove) if step.owner == owner.key)
    if missing:
        yield f"{missing} nftables element{'s' if missing > 1 else ''} missing or changed"
    for item in owner.objects:
        if isinstance(item, Forwarding) and not observation.forwarding(item.family):
            yield f"{item.family} forwarding is off"
        elif isinstance(item, (Link, Gateway)) and observation.dropped & {
            item.key,
            f"dhcp {getattr(item, 'name', '')}",
        }:
            yield "another firewall drops its traffic"
        elif isinstance(item, DhcpServer) and not observation.dhcp(item).running:
            yield f"no DHCP server runs on {item.bridge}"
        elif isinstance(item, Glob) and watching.process is None:
            yield "no process follows new interfaces"
