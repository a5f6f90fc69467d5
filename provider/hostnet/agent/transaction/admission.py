"""Which changes are accepted: each is resolved against what other resources have, or refused with its reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

from hostnet.agent.linux.rtnetlink import group_id, user_id
from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.nft.clashes import check_forwards
from hostnet.agent.nft.context import context_of
from hostnet.agent.nft.gateway_elements import closed_addresses
from hostnet.agent.observe import listeners
from hostnet.agent.plan.exchange import Resolve, blocked_by, ready, waiting_beside, waiting_owner
from hostnet.agent.plan.links import takes_user_off
from hostnet.agent.plan.ownership import aliases_of, is_alias, is_same_resource, other_holder, with_alias_advice
from hostnet.agent.plan.resolve import resolve
from hostnet.agent.plan.world import World
from hostnet.agent.record.owners import Owner, Owners
from hostnet.agent.record.phase import Pairs, Result
from hostnet.agent.record.record import Record
from hostnet.agent.transaction import lockout
from hostnet.agent.transaction.subsystems import Subsystems
from hostnet.agent.transaction.transition import names_of
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import Glob, Link, Object
from hostnet.wire.protocol import Outcome
from hostnet.wire.requests import Change, View


@dataclass
class Admitted:
    """The changes of a transaction, judged.

    Attributes:
        snapshot: What the kernel had.
        after: All owners, if none of the changes fails.
        owners: By the number of the change, the owner that it is about, where it is accepted.
        pairs: What each owner has, and what it should have.
        deleted: Of these, what those had that should have nothing any more.
        outcomes: By the number of the change, what became of those that are refused or were only asked about.
        renamed: By an owner's former key, its new one: its resource has another URN (an alias).
        notes: By the number of the change, what it took over.
        replaced: By the key of what a create takes away, the key of what is created: both are done, or neither.
        waiting: By the key of an owner that waits for what another resource has, the number of the change.
    """

    snapshot: Snapshot
    after: Owners
    owners: dict[int, Owner] = field(default_factory=dict)
    pairs: Pairs = field(default_factory=dict)
    deleted: dict[str, Owner] = field(default_factory=dict)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)

    def result(self, failed: Mapping[str, HostnetError]) -> Result:
        """The errors by the number of the change, for the record.

        Args:
            failed: By owner, why its change failed.
        """
        errors = {number: each for number, each in self.outcomes.items() if isinstance(each, HostnetError)}
        # The delete of what another resource gets is done with that one's create.
        heirs = {number: self.renamed.get(owner.key, owner.key) for number, owner in self.owners.items()}
        errors.update({number: failed[key] for number, key in heirs.items() if key in failed})
        return Result(errors)


class Admission:
    """Of one host. A preview's later changes build on its earlier ones, as the real ones will.

    Args:
        subsystems: What the agent works with.
        via: The name by which the provider calls this host, and its own; None where that is not known.
    """

    def __init__(self, subsystems: Subsystems, via: str | None = None) -> None:
        self._subsystems, self._via = subsystems, via
        self._previewed: Pairs = {}
        self._asked: set[str] = set()  # the owners that began to wait for another resource in this run

    def admit(self, changes: list[Change], record: Record, snapshot: Snapshot) -> Admitted:
        """Judge each in turn, as if those before it were applied already. Changes nothing.

        Deletes come first. The engine has sent all of them at once, so their order says nothing, and what one resource
        gives up another may take.
        """
        after = record.owners.copy()
        admitted = Admitted(snapshot, after)
        unacknowledged = _unacknowledged(changes, record.owners)
        for number, change in _in_turn(changes, admitted, after):
            for alias in aliases_of(change, after) if not change.dry else ():
                _add(alias, replace(alias, urn=change.urn), admitted, after, change)
            try:
                if change.dry:
                    admitted.outcomes[number] = self._preview(change, after, snapshot, record.claims)
                    continue
                old, new = self._admit_one(change, after, snapshot, record.claims, _freed(change, admitted))
                self._check_asked(new, after, snapshot)
            except HostnetError as error:
                admitted.outcomes[number] = with_alias_advice(change, error, after)
                continue
            if new is not None:
                new = self._named(new, old, record.owners.get(new.key), change)
            elif old is not None and self._is_replaced(old):
                admitted.owners[number] = Owner(change.urn, change.id)
                continue
            admitted.owners[number] = new.later if new is not None else Owner(change.urn, change.id)
            if new is not None and new.wanted is not None:
                admitted.waiting[new.key] = number
            if old is not None and not is_alias(old, change.urn):
                admitted.notes[number] = f"took {old.id} over from {old.label}"
            _add(old, new, admitted, after, change)
            _clear(number, new, unacknowledged, admitted, after, change)
        self._settle(changes, admitted, after, snapshot)
        _inherit(changes, admitted)
        return admitted

    def _settle(self, changes: list[Change], admitted: Admitted, after: Owners, snapshot: Snapshot) -> None:
        """Give those that have waited what is free now; who still waits is noted."""
        for key, new in ready(after, self._resolver(snapshot)).items() if after.waiting else ():
            change = Change(new.urn, new.id, new.objects)
            # What is deleted with it may leave a link, which changes hands; else it goes on from what it has.
            freed = None if after[key].objects else _freed(change, admitted)
            _add(freed or after[key], new, admitted, after, change)
            admitted.waiting.pop(key, None)
        for key, number in admitted.waiting.items():
            self._asked.add(key)
            there = [after[each] for each in changes[number].awaits if each in after]
            of = " and ".join(owner.label for owner in there or after.waiting.values() if owner.key != key)
            admitted.notes[number] = f"takes effect when what it needs of {of} is free, later in this run"

    def _check_asked(self, new: Owner | None, after: Owners, snapshot: Snapshot) -> None:
        """Refuse what keeps from another resource what this run has promised to it."""
        if new is None or new.wanted is not None or not self._asked:
            return
        error = blocked_by(new, after, self._asked, self._resolver(snapshot))
        if error is not None:
            raise HostnetError(error.code, f"{new.label} would keep what another resource asked for: {error.what}",
                               error.why, error.fix, holder=error.holder)  # fmt: skip

    def _resolver(self, snapshot: Snapshot) -> Resolve:
        return lambda change, owners: self._resolve(change, owners, snapshot)

    def _preview(self, change: Change, owners: Owners, snapshot: Snapshot, claims: Mapping[str, str]) -> View:
        """Whether a change would be accepted, after those that this preview asked for before."""
        planned = owners.copy()
        for key, (_, wanted) in self._previewed.items():
            planned.remove(key)
            if wanted is not None:
                planned[key] = wanted
        for alias in aliases_of(change, planned):
            planned.remove(alias.key)
            heir = replace(alias, urn=change.urn)
            planned[heir.key] = heir
        old, new = self._admit_one(change, planned, snapshot, claims)
        if new is None:
            return View(change.id)
        if old is not None and old.key != new.key:
            self._previewed[old.key] = (old, None)
        self._previewed[new.key] = (old, new)
        planned[new.key] = new
        context = cache(lambda: context_of(planned, snapshot, {}))
        dropped = self._subsystems.firewalls.warnings(new, planned, context, snapshot)
        refused = lockout.warnings(old, new, lambda: closed_addresses(context()))
        return View(
            new.id,
            new.objects,
            warnings=(
                *listeners.warnings(new, snapshot, self._subsystems.kernel.listening),
                *listeners.ports_in_use(owners.get(new.key), new, self._subsystems.kernel.bindable),
                *listeners.left_alone(new, World(planned, snapshot)),
                *dropped,
                *refused,
            ),
        )

    def _admit_one(
        self,
        change: Change,
        after: Owners,
        snapshot: Snapshot,
        claims: Mapping[str, str],
        freed: Owner | None = None,
    ) -> tuple[Owner | None, Owner | None]:
        """What the owner has, and what it should have (None: nothing)."""
        old = after.get(Owner(change.urn, change.id).key)
        if old is None and change.known:
            old = _found_by_state(change, after, World(after, snapshot), claims)
        if old is None and freed is not None:
            old, change = freed, replace(change, known=True)
        if not change.objects:
            return old, None
        if old is not None and old.key in after and old.urn != change.urn:
            after = after.copy()
            after.remove(old.key)
        new = self._resolve_or_wait(change, old, after, snapshot)
        return old or after.get(new.key), new.later if change.dry else new

    def _resolve_or_wait(self, change: Change, old: Owner | None, after: Owners, snapshot: Snapshot) -> Owner:
        """The owner that a change asks for, or one that waits until others have given up what it asks for.

        Where others wait already, it counts what they will have: a guest follows its bridge, which waits for a subnet.
        """
        resolver, waited_for = self._resolver(snapshot), bool(waiting_beside(change, after))
        new, error = None, None
        try:
            new = self._resolve(change, after, snapshot)
        except HostnetError as refusal:
            error = refusal
        if error is not None and error.holder not in change.awaits and not waited_for:
            raise error
        if new is not None and not waited_for:
            return new
        had = old or after.get(Owner(change.urn, new.id if new else change.id).key)
        try:
            waiting = waiting_owner(change, had, after, resolver)
        except HostnetError as refusal:
            if new is not None:
                return new
            raise refusal if refusal.holder or error is None else error from None
        return new if new is not None and new.objects == waiting.wanted else waiting

    def _resolve(self, change: Change, owners: Owners, snapshot: Snapshot) -> Owner:
        """The owner that a change asks for, checked against all others."""
        new = resolve(change, World(owners, snapshot))
        _check_users(new)
        _check_open(new, snapshot)
        self._subsystems.servers.check(new, World(owners, snapshot))
        check_forwards(new, owners, snapshot)
        return new

    def _named(self, new: Owner, old: Owner | None, recorded: Owner | None, change: Change) -> Owner:
        """An accepted owner, with the names of host and provider by which the change came, and the URNs that it had.

        To Pulumi another name is another host, and a resource that gets another provider is replaced: what is created
        again by new names is deleted by the former ones afterwards.

        Args:
            new: The owner.
            old: What it had, maybe under another URN.
            recorded: What the record has under its key.
            change: The change.
        """
        before = recorded or (old if old is not None and old.urn == new.urn else None)
        replaced = before.replaced if before else None
        if before is not None and not change.known and before.via not in (None, self._via):
            replaced = before.via
        former = (*old.former, old.urn) if old is not None else ()
        others = tuple(dict.fromkeys(urn for urn in former if not is_alias(new, urn)))
        return replace(new, via=self._via, replaced=replaced, former=others)

    def _is_replaced(self, owner: Owner) -> bool:
        """Whether a delete is about what an owner had before it was created again, and not about what it has now."""
        return owner.replaced is not None and owner.replaced == self._via != owner.via


def _in_turn(changes: list[Change], admitted: Admitted, owners: Owners) -> Iterator[tuple[int, Change]]:
    """The changes with their numbers, deletes first. Those about a former entry of the state alone are done already."""
    for number, change in sorted(enumerate(changes), key=lambda numbered: bool(numbered[1].objects)):
        if _is_inherited(change, owners):
            admitted.owners[number] = Owner(change.urn, change.id)
        else:
            yield number, change


def _is_inherited(change: Change, owners: Owners) -> bool:
    """Whether a delete is about a former entry of the state, and what the host has is the later one's: an alias."""
    urns = (change.urn, *change.heirs) if change.heirs and not change.objects else ()
    return sum(Owner(urn, change.id).key in owners for urn in urns) == 1


def _add(old: Owner | None, new: Owner | None, admitted: Admitted, after: Owners, change: Change) -> None:
    """Add an accepted change to what is admitted."""
    owner = new or old or Owner(change.urn, change.id)
    if old is not None and old.key != owner.key:
        # The resource's URN changed: its objects change hands, nothing else.
        after.remove(old.key)
        admitted.pairs[old.key] = (None, None)
        admitted.deleted.pop(old.key, None)
        admitted.renamed[old.key] = owner.key
    if new is not None:
        after[new.key] = new
    else:
        after.remove(owner.key)
    if owner.objects or owner.wanted is not None:
        before = admitted.pairs.get(owner.key, (old, None))[0]
        admitted.pairs[owner.key] = (before, new)
        if before is not None and new is None:
            admitted.deleted[owner.key] = before
        else:
            admitted.deleted.pop(owner.key, None)


def _inherit(changes: list[Change], admitted: Admitted) -> None:
    """Take down whose id an owner got: the delete comes again where the provider was killed before its answer."""
    gone = [change for number, change in enumerate(changes) if number in admitted.owners and not change.objects]
    for key, (old, new) in admitted.pairs.items() if gone else ():
        before = tuple(
            change.urn for change in gone if new is not None and change.id == new.id and change.urn != new.urn
        )
        if new is not None and before:
            admitted.pairs[key] = (old, replace(new, inherited=before))


def _freed(change: Change, admitted: Admitted) -> Owner | None:
    """What a create gets of a resource that is deleted in the same transaction: a link of its name, or its glob.

    It changes hands: new things are built before old ones are removed, so that deleting the link after the create would
    take the new one away.
    """
    wanted = _places(change.objects)
    if change.known or not wanted:
        return None
    deleted = (old for old in admitted.deleted.values() if old.urn != change.urn)
    return next((old for old in deleted if wanted & _places(old.objects)), None)


def _places(objects: Iterable[Object]) -> set[tuple[str, str]]:
    """What only one owner can have: a link of a name, with its kind, and a glob of a bridge."""
    return {
        (item.key, item.kind if isinstance(item, Link) else "") for item in objects if isinstance(item, (Link, Glob))
    }


def _clear(
    number: int,
    new: Owner | None,
    unacknowledged: Mapping[int, list[Owner]],
    admitted: Admitted,
    after: Owners,
    change: Change,
) -> None:
    """With an accepted create, take away what the host has of the same resource, and the engine has not named.

    A create left it that was never acknowledged, or `pulumi up --replace` replaces it and deletes it afterwards.
    """
    for left in unacknowledged.get(number, ()):
        if new is not None and left.key != new.key:
            _add(left, None, admitted, after, change)
            admitted.replaced[left.key] = new.key
            admitted.notes[number] = f"removed {left.id}: {new.id} takes its place"


def _check_users(owner: Owner) -> None:
    for item in owner.of(Link):
        for kind, name, find in (("user", item.user, user_id), ("group", item.group, group_id)):
            try:
                if name is not None:
                    find(name)
            except LookupError:
                raise HostnetError(
                    Code.NOT_FOUND,
                    f"cannot set up TAP {item.name}",
                    f"this host has no {kind} {name}",
                    f"Create the {kind} first, or give its number",
                ) from None


def _check_open(owner: Owner, snapshot: Snapshot) -> None:
    """Refuse to take the owner or group off a TAP that a VM has open: it would have to be deleted and created again.

    The kernel can change them, and not unset them (TUNSETOWNER and TUNSETGROUP with -1: EINVAL).
    """
    names = names_of(owner.of(Link))
    for item in owner.of(Link):
        state = snapshot.links.get(item.name) if item.kind == "tap" else None
        if state is not None and state.carrier and takes_user_off(item, state, names):
            raise HostnetError(
                Code.CONFLICT,
                f"cannot take the owner or group off TAP {item.name}",
                "EBUSY: a program has it open, and the kernel cannot unset them without creating the TAP again",
                "Stop the VM first, or name another owner or group",
            )


def _found_by_state(change: Change, owners: Owners, world: World, claims: Mapping[str, str]) -> Owner | None:
    """What a resource has that its state knows, and that the record has not, or has under another URN.

    A resource whose URN changed is found by its id. What this resource imported is handed over by the stack that
    created it. Where the record was lost, what the kernel still has is taken as ours again, unless another resource has
    it.

    Raises:
        HostnetError: It is a delete, and the thing is another resource's.
    """
    holder = other_holder(change.urn, change.id, change.prior or change.objects, owners)
    if holder is not None and change.urn in holder.inherited and not change.objects:
        return None
    if holder is not None:
        imported = claims.get(holder.key) == change.urn
        if change.known and not change.objects and not imported:
            _check_delete(change, holder)
        if imported or is_same_resource(holder, change.urn):
            return holder
    return _lost(change, world)


def _check_delete(change: Change, holder: Owner) -> None:
    """Refuse to delete what another resource has: success would remove it from the state, and leave it on the host."""
    if is_alias(holder, change.urn):
        return
    what = f"cannot delete {change.id}"
    remove = "If it should stay, remove the resource from this state with `pulumi state delete`"
    if change.urn in holder.former:
        raise HostnetError(
            Code.CONFLICT,
            what,
            f"it changed hands after this state was written: now it belongs to {holder.label}",
            f"{remove}. If this stack should have it again, change one of its properties with `pulumi up` first",
        )
    if not is_same_resource(holder, change.urn):
        fix = f"{remove}. If this stack should have it, import it first"
        raise HostnetError(Code.CONFLICT, what, f"it belongs to {holder.label}", fix)


def _lost(change: Change, world: World) -> Owner | None:
    """What the kernel still has of a resource that the record has not: the record was lost."""
    prior = tuple(
        item
        for item in change.prior
        if not isinstance(item, Link) or (world.link_owner(item.name) is None and item.name in world.snapshot.links)
    )
    links = tuple(item for item in prior if isinstance(item, Link))
    if not prior or (not links and any(isinstance(item, Link) for item in change.prior)):
        return None
    try:
        return resolve(Change(change.urn, change.id, prior, known=True), world)
    except HostnetError:
        # To delete a link it need not be known where it belongs.
        return Owner(change.urn, change.id, links) if links and not change.objects else None


def _unacknowledged(changes: list[Change], owners: Owners) -> dict[int, list[Owner]]:
    """By the number of a create, what the host has for its resource, and the state has not.

    It was created by a provider that was killed before the engine had its answer. The autoname of the next create is
    another one, since the engine's seed is random.
    """
    return {
        number: [owner for owner in owners.of_urn(change.urn) if owner.id not in change.stated]
        for number, change in enumerate(changes)
        if _is_create(change)
    }


def _is_create(change: Change) -> bool:
    return bool(change.objects) and not change.known and not change.dry
