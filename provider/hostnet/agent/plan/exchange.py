"""Resources that wait for what another one of their stack still has, and releases later in the same run. Pure.

The engine may send one change at a time (`pulumi up --parallel 1`), and deletes last: of two resources that exchange
their ports, the first asks for what the second has. The first then waits, with nothing changed, and the change that
frees the last of what is waited for takes effect together with all that wait for it, in one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import replace

from hostnet.agent.plan.ownership import is_alias
from hostnet.agent.record.owners import Owner, Owners
from hostnet.wire.errors import HostnetError
from hostnet.wire.objects import Link
from hostnet.wire.requests import Change

# What a change makes of its owner where these are all owners; raises HostnetError where they exclude it.
Resolve = Callable[[Change, Owners], Owner]


def waiting_owner(change: Change, old: Owner | None, owners: Owners, resolve: Resolve) -> Owner:
    """What becomes of the owner of a change that has to wait: as before, and what it wants is noted.

    Args:
        change: The change.
        old: What the owner has.
        owners: All owners.
        resolve: Resolves a change.

    Raises:
        HostnetError: It could not be done after the wait either.
    """
    names = {item.name for item in change.objects if isinstance(item, Link)}
    later = owners.copy()
    for each in waiting_beside(change, owners):
        later[each.key] = each.later
    for key in change.awaits:
        if key in later and later[key].urn != change.urn:
            # A link that is there already is what the other one leaves.
            change = replace(change, known=change.known or any(link.name in names for link in later[key].of(Link)))
            later[key] = _without(later[key], names)
    wanted = resolve(change, later)
    return replace(wanted, objects=old.objects if old else (), wanted=wanted.objects)


def waiting_beside(change: Change, owners: Owners) -> list[Owner]:
    """The other owners of the stack that wait."""
    return [each for each in owners.waiting.values() if each.urn != change.urn and is_alias(each, change.urn)]


def ready(owners: Owners, resolve: Resolve) -> dict[str, Owner]:
    """Those that have waited for each other, or for what is free now, each with what it gets.

    All of them together: of two that exchange their ports neither could come first. An owner that still waits for
    another one keeps what it has, and the owners that wait for it wait as well.
    """
    waiting = dict(owners.waiting)
    while waiting:
        links = {key: {item.name for item in owner.later.of(Link)} for key, owner in waiting.items()}
        world = owners.copy()
        for key, owner in waiting.items():
            world[key] = _without(owner, set().union(*links.values()) - links[key])
        barred = list(waiting)
        while placed := [key for key in barred if _place(waiting[key], world, resolve)]:
            barred = [key for key in barred if key not in placed]
        if not barred:
            break
        for key in barred:
            del waiting[key]
    return {key: owner.later for key, owner in waiting.items()}


def _place(owner: Owner, world: Owners, resolve: Resolve) -> bool:
    """Give an owner what it waits for, if that is possible beside all others."""
    try:
        resolve(_change(owner), world)
    except HostnetError:
        return False
    world[owner.key] = owner.later
    return True


def _change(owner: Owner, awaits: tuple[str, ...] = ()) -> Change:
    """The change that an owner waits for."""
    return Change(owner.urn, owner.id, owner.later.objects, owner.objects, known=True, awaits=awaits)


def blocked_by(new: Owner, owners: Owners, asked: Container[str], resolve: Resolve) -> HostnetError | None:
    """The error of the first owner that would go on to wait for what another one is about to have.

    Args:
        new: That other one, as it will be.
        owners: All owners.
        asked: The keys of those that have begun to wait in this run.
        resolve: Resolves a change.
    """
    after = owners.copy()
    after[new.key] = new
    for owner in owners.waiting.values():
        if owner.key not in asked or owner.key == new.key:
            continue
        awaits: tuple[str, ...] = ()
        while True:
            try:
                waiting_owner(_change(owner, awaits), owner, after, resolve)
            except HostnetError as error:
                if error.holder == new.key:
                    return error
                if error.holder and error.holder not in awaits:
                    awaits = (*awaits, error.holder)
                    continue
            break
    return None


def _without(owner: Owner, names: Container[str]) -> Owner:
    """An owner without what it has, but for its links: to another owner they are no other program's.

    Args:
        owner: The owner.
        names: The names of links that others want: without these, too.
    """
    return replace(owner, objects=tuple(item for item in owner.of(Link) if item.name not in names), wanted=None)
