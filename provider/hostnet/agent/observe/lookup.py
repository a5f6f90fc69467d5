"""The owner that a query is about: as recorded, as its state knows it, or as found by its name for an import."""

from __future__ import annotations

from hostnet.agent.linux.snapshot import KernelLink, Snapshot
from hostnet.agent.plan.ownership import is_same_resource, other_holder
from hostnet.agent.plan.resolve import resolve
from hostnet.agent.plan.world import World
from hostnet.agent.record.owners import Owner
from hostnet.agent.record.record import Record
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import ETHERNET_MTU, Address, Forward, Gateway, Glob, Link, Object, Port
from hostnet.wire.requests import Change, Query


def owner_of(query: Query, record: Record, snapshot: Snapshot) -> Owner | None:
    """The owner that a query is about; None where an import finds nothing."""
    recorded: Owner | None = record.owners.get(Owner(query.urn, query.id).key)
    if recorded is not None:
        return recorded
    if query.objects:
        holder = other_holder(query.urn, query.id, query.objects, record.owners)
        if holder is not None and is_same_resource(holder, query.urn):
            return holder
        return _from_state(query, record, snapshot)
    return _find(query, record, snapshot)


def _from_state(query: Query, record: Record, snapshot: Snapshot) -> Owner:
    """The record was lost: what the state says, as far as the host can resolve it."""
    others = record.owners.copy()
    for owner in record.owners.of_id(query.id):
        others.remove(owner.key)
    try:
        return resolve(Change(query.urn, query.id, query.objects, known=True), World(others, snapshot))
    except HostnetError as error:
        if error.code == Code.NOT_FOUND:
            return Owner(query.urn, query.id, query.objects)
        raise


def _find(query: Query, record: Record, snapshot: Snapshot) -> Owner | None:
    if query.kind in ("NatGateway", "PortForward"):
        return record.by_id(query.id, Gateway if query.kind == "NatGateway" else Forward)
    if query.kind == "TapBinding" and "/" in query.id:
        return record.by_id(query.id, Glob)
    state = snapshot.links.get(query.id)
    wanted = "bridge" if query.kind == "Bridge" else "tap"
    if state is None or state.our_kind != wanted:
        return None
    held = record.by_id(query.id, Link)
    return held if held is not None else Owner(query.urn, query.id, tuple(_link_objects(state, snapshot)))


def _link_objects(state: KernelLink, snapshot: Snapshot) -> list[Object]:
    """A link that another program created, as objects."""
    bridge = state.kind == "bridge"
    objects: list[Object] = [
        Link(
            state.name,
            "bridge" if bridge else "tap",
            mtu=state.mtu if state.mtu != ETHERNET_MTU else None,
            stp=state.stp,
            vlan_filtering=state.vlan_filtering,
            user=None if bridge or state.uid is None else str(state.uid),
            group=None if bridge or state.gid is None else str(state.gid),
            multi_queue=state.multi_queue,
            vnet_hdr=state.vnet_hdr if not bridge else True,
        )
    ]
    objects += [Address(state.name, cidr) for cidr in snapshot.addresses.get(state.name, ())]
    master = snapshot.master_of(state.name)
    if master is not None:
        objects.append(Port(state.name, master, state.isolated))
    return objects


def is_gone(owner: Owner, states: tuple[object | None, ...]) -> bool:
    """Whether the thing itself is not there any more: its link, or a forward's every element.

    Args:
        owner: The resource.
        states: The state of each of its objects; None for one that is not there.
    """
    if owner.wanted is not None and not owner.objects:
        return True  # it waits for what another resource has, and has nothing itself
    there = {type(item) for item, state in zip(owner.objects, states) if state is not None}
    if Link in owner.kinds:
        return Link not in there
    return owner.kinds & {Gateway, Glob} == set() and Forward in owner.kinds and Forward not in there
