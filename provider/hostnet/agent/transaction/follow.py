"""Follows the default routes: what a gateway that resolves its uplinks itself leads out by, and the way back by each.

The watcher calls it when the kernel tells of a default route, of an uplink or of a bridge's port that comes, goes or
changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hostnet.agent.linux.libnftables import MissingLibraryError, NftError
from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.nft.context import Context, context_of, sides
from hostnet.agent.nft.sysctls import SysctlError
from hostnet.agent.plan.overlaps import check_gateway
from hostnet.agent.plan.resolve import default_uplinks, resolve_gateway
from hostnet.agent.plan.world import World
from hostnet.agent.record.owners import Owner, Owners
from hostnet.agent.record.phase import Idle, Pairs
from hostnet.agent.record.record import Record
from hostnet.agent.routing.replies import NoNumberError
from hostnet.agent.routing.sync import RoutingError
from hostnet.agent.transaction.apply import Applier
from hostnet.agent.transaction.subsystems import Subsystems
from hostnet.wire.errors import HostnetError
from hostnet.wire.objects import Gateway
from hostnet.wire.requests import Change


def follow(record: Record, subsystems: Subsystems, applier: Applier) -> list[str]:
    """Bring gateways, replies and proxy entries to the default routes and interfaces as they are now.

    Args:
        record: The host's, locked.
        subsystems: What the agent works with.
        applier: Of the same host.

    Returns:
        What was done, and what could not be done, for the log.

    Raises:
        HostnetError: The record can't be written.
    """
    snapshot, lines = subsystems.kernel.snapshot(), list[str]()
    pairs: Pairs = {}
    for owner in record.owners.values():
        for gateway in owner.of(Gateway):
            try:
                moved = _moved(owner, gateway, record.owners, snapshot)
            except HostnetError as error:
                lines.append(f"cannot follow the default routes: {error}")
                continue
            if moved is not None:
                pairs[owner.key] = (owner, _with(owner, gateway, moved))
                lines.append(f"gateway {gateway.name} leads out by {', '.join(moved.uplinks)} now")
    if pairs:
        failed = applier.run(record, pairs, snapshot).failed
        lines += (f"cannot follow the default routes: {error}" for error in failed.values())
        record.phase = Idle()
    changed = list(_rest(record, subsystems, snapshot))
    if pairs or changed:
        subsystems.save(record)
    return lines + changed


def _moved(owner: Owner, gateway: Gateway, owners: Owners, snapshot: Snapshot) -> Gateway | None:
    """The gateway with the uplinks that it has now; None where nothing has changed, or while a line is down.

    Raises:
        HostnetError: Another gateway has the same network there.
    """
    now = default_uplinks(gateway, snapshot)
    if not gateway.resolved or not now or set(now) == set(gateway.uplinks):
        return None
    moved = resolve_gateway(replace(gateway, external=None, more=(), resolved=False), World(owners, snapshot))
    others = owners.copy()
    others.remove(owner.key)  # what it had on other uplinks is no reason to have it on these
    check_gateway(moved, Change(owner.urn, owner.id), World(others, snapshot))
    return moved


def _with(owner: Owner, gateway: Gateway, moved: Gateway) -> Owner:
    return replace(owner, objects=tuple(moved if item is gateway else item for item in owner.objects))


def _rest(record: Record, subsystems: Subsystems, snapshot: Snapshot) -> Iterator[str]:
    """Which interfaces lead out; and what the kernel drops with an uplink that goes down: replies and proxy entries.

    One that is deleted and comes back, as a modem's does, has the sysctls of a new interface.
    """
    owners, links = record.owners, {name for gateway in record.owners.gateways.values() for name in gateway.uplinks}
    context = context_of(owners, snapshot, record.attached)
    try:
        if subsystems.sysctls.follow(record, owners, context, snapshot, links):
            yield "the sysctls of an external interface are set again"
    except SysctlError as failure:
        yield f"cannot set {failure}: {failure.error.strerror}"
    try:
        if _turn(record, subsystems, context):
            yield "forwards are reached from the networks that are within now"
        if subsystems.routing.sync(record, owners, snapshot):
            yield "replies follow the routes as they are now"
        if subsystems.proxies.sync(record, owners):
            yield "the host answers for guests again"
    except (RoutingError, NoNumberError, NftError, MissingLibraryError) as error:
        yield f"cannot follow the default routes: {error}"


def _turn(record: Record, subsystems: Subsystems, context: Context) -> bool:
    """Bring our table to which interfaces are within; whether others are."""
    if sides(context.observed) == sides(record.table.observed):
        return False
    desired = subsystems.compiler.desired(record.owners, context)
    # What it holds is not what is compiled from today's interfaces: it has to be listed.
    mark = subsystems.table.sync(desired, desired, replace(record.table, generation=0)).mark
    record.table = replace(mark, observed=context.observed)
    return True
