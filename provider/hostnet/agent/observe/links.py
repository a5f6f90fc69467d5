"""What the host has of each link and glob: facts, whatever is declared. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from hostnet.agent.linux.snapshot import KernelLink
from hostnet.agent.observe.observation import Observation
from hostnet.agent.plan.links import glob_members
from hostnet.wire.objects import Glob, Link


@dataclass(frozen=True)
class ObservedLink:
    """A link of a name and a kind that one of ours may have.

    Attributes:
        kernel: As rtnetlink lists it.
        addresses: CIDRs, without link-local ones.
        routes: Networks that are routed through it, but for those that an address implies.
        bridge: The name of the bridge that it is in.
        ports: A bridge's.
        advertised: Whether it takes router advertisements: a guest could give the host addresses and routes.
    """

    kernel: KernelLink
    addresses: tuple[str, ...]
    routes: tuple[str, ...]
    bridge: str | None
    ports: tuple[str, ...]
    advertised: bool


def observed_link(name: str, observation: Observation) -> ObservedLink | None:
    """The link of this name; None where there is none."""
    snapshot = observation.world.snapshot
    kernel = snapshot.links.get(name)
    if kernel is None:
        return None
    return ObservedLink(
        kernel,
        snapshot.addresses.get(name, ()),
        snapshot.routes.get(name, ()),
        snapshot.master_of(name),
        snapshot.ports_of(name) if kernel.kind == "bridge" else (),
        snapshot.takes_routers(name),
    )


@dataclass(frozen=True)
class ObservedGlob:
    """The interfaces that fit a glob.

    Attributes:
        members: Those in its bridge.
        attached: Those of them that hostnet attached.
        waiting: Those in no bridge, that no other resource has.
        left_alone: Those in another bridge.
    """

    members: tuple[str, ...]
    attached: tuple[str, ...]
    waiting: tuple[str, ...]
    left_alone: tuple[str, ...]


def observed_glob(item: Glob, owner_key: str, observation: Observation) -> ObservedGlob:
    """What fits a glob now."""
    snapshot = observation.world.snapshot
    fitting, left_alone = glob_members(item, snapshot)
    members = tuple(name for name in fitting if snapshot.master_of(name) == item.bridge)
    declared = {link.name for link in observation.world.owners.every(Link)}
    return ObservedGlob(
        members,
        tuple(name for name in members if observation.attached.get(name) == owner_key),
        tuple(name for name in fitting if name not in members and name not in declared),
        tuple(left_alone),
    )
