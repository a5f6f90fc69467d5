"""Which wishes are granted: each is resolved against what the others have, or refused with its reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from hostnet.agent.linux.rtnetlink import group_id, user_id
from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.nft.context import context_of
from hostnet.agent.observe import listeners
from hostnet.agent.plan.links import takes_user_off
from hostnet.agent.plan.resolve import World, resolve
from hostnet.agent.record.owners import Owner, Owners
from hostnet.agent.record.record import Record
from hostnet.agent.transaction.apply import names_of
from hostnet.agent.transaction.subsystems import Outcome, Pairs, Subsystems
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import Link
from hostnet.wire.requests import Change, View
from hostnet.wire.urn import Urn


class Admission:
    """Of one host. A preview's later wishes build on its earlier ones, as the real ones will.

    :param via: the name by which the provider calls this host; None where nobody said.
    """

    def __init__(self, subsystems: Subsystems, via: str | None = None) -> None:
        self._subsystems, self._via = subsystems, via
        self._previewed: Pairs = {}
        # What was created again though it was there: `pulumi up --replace` of a thing that keeps its name. The delete
        # of what it replaces, which follows, is about the same thing, and must not take it away.
        self._again: set[str] = set()

    def admit(
        self,
        changes: list[Change],
        record: Record,
        snapshot: Snapshot,
        outcomes: dict[int, Outcome],
        *,
        repeated: bool,
    ) -> tuple[dict[int, Owner], Pairs]:
        """Judge each in turn, those before it taken for granted.

        :param outcomes: gets what became of those that are refused or only asked about (a preview).
        :param repeated: they were applied before, by an agent whose answer was lost.
        :returns: by the number of the change its owner; and what is to happen.
        """
        after = record.owners.copy()
        admitted: dict[int, Owner] = {}
        pairs: Pairs = {}
        for number, change in enumerate(changes):
            try:
                if change.dry:
                    outcomes[number] = self._preview(change, after, snapshot, record.claims)
                    continue
                old, new = self._admit_one(change, after, snapshot, record.claims)
            except HostnetError as error:
                outcomes[number] = error
                continue
            if new is not None:
                new = self._by_this_way(new, record.owners.get(new.key), again=not change.known and not repeated)
            elif old is not None and self._was_replaced(old):
                admitted[number] = Owner(change.urn, change.id)
                continue
            owner = new or old or Owner(change.urn, change.id)
            admitted[number] = new or Owner(change.urn, change.id)
            if old is not None and old.key != owner.key:
                # The resource's URN changed (an alias): its objects change hands, nothing else.
                after.remove(old.key)
                pairs[old.key] = (None, None)
                _rename(record.attached, old.key, owner.key)
            if new is not None:
                after[new.key] = new
            else:
                after.remove(owner.key)
            if owner.objects:
                pairs[owner.key] = (pairs.get(owner.key, (old, None))[0], new)
        return admitted, pairs

    def _preview(self, change: Change, owners: Owners, snapshot: Snapshot, claims: Mapping[str, str]) -> View:
        """Whether a wish would be granted, after those that this preview asked for before."""
        planned = owners.copy()
        for key, (_, wanted) in self._previewed.items():
            if wanted is not None:
                planned[key] = wanted
        old, new = self._admit_one(change, planned, snapshot, claims)
        if new is None:
            return View(change.id)
        if old is not None and old.key != new.key:
            self._previewed[old.key] = (old, None)
        self._previewed[new.key] = (old, new)
        planned[new.key] = new
        dropped = self._subsystems.firewalls.warnings(new, planned, lambda: context_of(planned, snapshot, {}))
        return View(
            new.id,
            new.objects,
            warnings=(*listeners.warnings(new, snapshot, self._subsystems.kernel.listening), *dropped),
        )

    def _admit_one(
        self, change: Change, after: Owners, snapshot: Snapshot, claims: Mapping[str, str]
    ) -> tuple[Owner | None, Owner | None]:
        """What the owner had, and what it shall have (None: nothing)."""
        old = after.get(Owner(change.urn, change.id).key)
        if old is None and change.known:
            old = _taken_up(change, after, World(after, snapshot), claims)
        if not change.objects:
            return old, None
        if old is not None and old.key in after and old.urn != change.urn:
            after = after.copy()
            after.remove(old.key)
        new = resolve(change, World(after, snapshot))
        _check_users(new)
        _check_open(new, snapshot)
        self._subsystems.servers.check(new, World(after, snapshot))
        after.forwards.check(new, after)
        return old or after.get(new.key), new

    def _by_this_way(self, new: Owner, before: Owner | None, *, again: bool) -> Owner:
        """A granted wish, with the way by which it came.

        :param before: what its owner has.
        :param again: it is to be created, so that what is there would be deleted afterwards.
        """
        replaced = before.replaced if before else None
        if before is not None and again:
            if before.via in (None, self._via):
                self._again.add(new.key)
            else:
                replaced = before.via
        return replace(new, via=self._via, replaced=replaced)

    def _was_replaced(self, owner: Owner) -> bool:
        """Whether a delete is about what an owner was, and not about what it has since."""
        if owner.key in self._again:
            self._again.discard(owner.key)
            return True
        return owner.replaced is not None and owner.replaced == self._via != owner.via

    def undone(self, keys: Iterable[str]) -> None:
        """What was admitted for these owners is not there any more."""
        self._again -= set(keys)


def _check_users(owner: Owner) -> None:
    for item in owner.objects:
        if not isinstance(item, Link):
            continue
        for kind, name, find in (("user", item.user, user_id), ("group", item.group, group_id)):
            try:
                if name is not None:
                    find(name)
            except LookupError:
                raise HostnetError(
                    Code.NOT_FOUND,
                    f"TAP {item.name} can't be set up",
                    f"this host has no {kind} {name}",
                    f"Create the {kind} first, or give its number",
                ) from None


def _check_open(owner: Owner, snapshot: Snapshot) -> None:
    """Taking the owner or group off a TAP makes it anew, which a VM that has it open would not survive."""
    names = names_of([owner])
    for item in owner.objects:
        state = snapshot.links.get(item.name) if isinstance(item, Link) and item.kind == "tap" else None
        if isinstance(item, Link) and state is not None and state.carrier and takes_user_off(item, state, names):
            raise HostnetError(
                Code.CONFLICT,
                f"the owner or group of TAP {item.name} can't be taken off",
                "EBUSY: a program has it open, and the kernel can only make it anew without one",
                "Stop the VM first, or name another owner or group",
            )


def _rename(attached: dict[str, str], old: str, new: str) -> None:
    for link, key in attached.items():
        if key == old:
            attached[link] = new


def _taken_up(change: Change, owners: Owners, world: World, claims: Mapping[str, str]) -> Owner | None:
    """What a state knows and the record has under no or another name: taken as ours, where nobody else's.

    A resource whose URN changed (an alias) is found by its id within the same stack and project; one that this
    resource imported is handed over by the stack that made it.
    """
    urn, holder = Urn.parse(change.urn), _other_holder(change, owners)
    if holder is not None and (Urn.parse(holder.urn).is_in_stack_of(urn) or claims.get(holder.key) == change.urn):
        return holder
    prior = tuple(
        item
        for item in change.prior
        if not isinstance(item, Link) or (world.link_owner(item.name) is None and item.name in world.snapshot.links)
    )
    if any(isinstance(item, Link) for item in change.prior) and not any(isinstance(item, Link) for item in prior):
        return None
    if not prior:
        return None
    try:
        return resolve(Change(change.urn, change.id, prior, known=True), world)
    except HostnetError:
        return None


def _other_holder(change: Change, owners: Owners) -> Owner | None:
    """Who else has the thing of this id."""
    return next(
        (x for x in owners.values() if x.id == change.id and x.urn != change.urn and _same_kind(x, change)), None
    )


def left_alone(change: Change, owners: Owners) -> tuple[str, ...]:
    """What a delete did not touch, since it is another resource's by now."""
    holder = None if change.objects else _other_holder(change, owners)
    return (f"{change.id} stays on the host: it belongs to {holder.label}",) if holder else ()


def _same_kind(owner: Owner, change: Change) -> bool:
    return {type(x) for x in owner.objects} & {type(x) for x in change.prior} != set()
