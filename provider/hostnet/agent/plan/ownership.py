"""The owner of a thing when the URN of its resource has changed: the state still knows type, name and id. Pure.

The engine rewrites the URNs in a state: `pulumi stack rename`, a renamed project and `pulumi state move` change the
stack or the project, an alias changes the rest. The record has the URN of the last write.
"""

from __future__ import annotations

from collections.abc import Iterable

from hostnet.agent.record.owners import Owner, Owners
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import Object
from hostnet.wire.requests import Change
from hostnet.wire.urn import Urn


def other_holder(urn: str, identity: str, objects: Iterable[Object], owners: Owners) -> Owner | None:
    """The owner under another URN of the thing of this id.

    Args:
        urn: The resource's URN.
        identity: Its id.
        objects: Objects of the resource: of which kind it is.
        owners: All owners.
    """
    kinds = {type(item) for item in objects}
    found = (x for x in owners.of_id(identity) if x.urn != urn and x.kinds & kinds)
    return next(found, None)


def is_alias(owner: Owner, urn: str) -> bool:
    """Whether an owner of this id is the resource under a URN of the same stack."""
    return Urn.parse(owner.urn).is_in_stack_of(Urn.parse(urn))


def is_same_resource(owner: Owner, urn: str) -> bool:
    """Whether an owner of this id is the resource itself: an alias, or as it was called in another stack or project."""
    mine, theirs = Urn.parse(urn), Urn.parse(owner.urn)
    return is_alias(owner, urn) or (mine.type, mine.name) == (theirs.type, theirs.name)


def aliases_of(change: Change, owners: Owners) -> list[Owner]:
    """What a create replaces and the record has under another URN of the stack: `pulumi up --replace` with an alias.

    Not in another stack: where the provider of a resource is another one, the create is for another host, and what is
    there under this id may be another stack's.
    """
    if not change.stated or change.known:
        return []
    kinds = {type(item) for item in change.objects}
    found = (x for each in change.stated for x in owners.of_id(each) if x.urn != change.urn and x.kinds & kinds)
    return [owner for owner in found if is_alias(owner, change.urn)]


def with_alias_advice(change: Change, error: HostnetError, owners: Owners) -> HostnetError:
    """The refusal of a create, with what to do if the resource that is in its way is itself, under its former name.

    `pulumi up --replace`, or a taint, as the first change under an alias creates under the new URN. The engine (3.259)
    names neither the former URN nor the id before, and what the host has is the same as for two resources that exclude
    each other.
    """
    if error.code is not Code.CONFLICT or change.known:
        return error
    mine = Urn.parse(change.urn)
    for owner in owners.values():
        if Urn.end_of(owner.urn) in error.why and owner.urn != change.urn and owner.label in error.why:
            theirs = Urn.parse(owner.urn)
            if mine.type == theirs.type and is_alias(owner, change.urn):
                advice = (
                    f"If {mine.kind} {mine.name} is {theirs.kind} {theirs.name} under another name (an alias), run "
                    "`pulumi up` without --replace (after `pulumi state untaint`, if it is tainted), and then with "
                    "--replace and --refresh"
                )
                fix = f"{error.fix}. {advice}" if error.fix else advice
                return HostnetError(error.code, error.what, error.why, fix, error.host, holder=error.holder)
    return error
