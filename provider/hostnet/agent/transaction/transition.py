"""A host on its way from what its owners had to what they should have: the plan, what is done, what failed."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace

from hostnet.agent.linux.operations import Step
from hostnet.agent.linux.rtnetlink import group_id, user_id
from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.nft.context import Context, context_of
from hostnet.agent.plan.links import Names, Plan, hairpin, plan
from hostnet.agent.plan.world import World
from hostnet.agent.record.originals import Mtu, Originals
from hostnet.agent.record.owners import Owners
from hostnet.agent.record.phase import Idle, Pairs, Phase, Unconfirmed
from hostnet.agent.record.record import Record
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import Link


@dataclass
class Transition:
    """Of some owners of a record.

    Attributes:
        record: The record; it changes with the host.
        pairs: What each owner had, and what it should have.
        snapshot: The kernel's links, addresses and routes before.
        before: All owners before.
        attached_before: What globs had attached before.
        links: The steps on links.
        replaced: By the key of an owner that goes, the key of the one that is created instead.
        originals: What the record had to put back when the first operation was performed.
        done: By owner, the steps that were performed.
        performed: Whether the kernel's links, addresses, routes or sysctls were changed: they are not as in `snapshot`.
        failed: By owner, why it failed. It is as before then, or, where the code is PARTIAL, changed in part.
    """

    record: Record
    pairs: Pairs
    snapshot: Snapshot
    before: Owners
    attached_before: Mapping[str, str]
    links: Plan
    replaced: Mapping[str, str] = field(default_factory=dict)
    originals: Originals = field(default_factory=Originals)
    done: dict[str, list[Step]] = field(default_factory=dict)
    failed: dict[str, HostnetError] = field(default_factory=dict)
    performed: bool = False
    _owners: tuple[dict[str, HostnetError], Owners] | None = None

    @classmethod
    def plan(cls, record: Record, pairs: Pairs, snapshot: Snapshot, after: Owners | None = None) -> Transition:
        """Plan it; nothing is changed yet.

        Args:
            record: The record.
            pairs: What each owner has, and what it should have.
            snapshot: The kernel's links, addresses and routes.
            after: All owners afterwards, where they are known already; what is looked up among them is made then.
        """
        before = record.owners.copy()
        if after is None or not _are_after(after, before, pairs):
            after = effective(before, pairs, {})
        links, world = Plan(), World(after, snapshot, record.mtus)
        names = names_of(world.owners.every(Link))
        for old, new in pairs.values():
            if old is not None or new is not None:  # else it changed its URN, and the new one's pair has the objects
                plan(old, new, world, record.attached, names, links)
        attached = attached_after(record.attached, links, ())
        old_ports = context_of(before, snapshot, record.attached).ports
        hairpin(next(iter(pairs)), old_ports, context_of(world.owners, snapshot, attached).ports, snapshot, links)
        return cls(record, pairs, snapshot, before, record.attached, links, _owners=({}, world.owners))

    @property
    def owners(self) -> Owners:
        """All owners afterwards, as far as it is known now who fails."""
        if self._owners is None or self._owners[0] != self.failed:
            self._owners = (dict(self.failed), effective(self.before, self.pairs, self.failed))
        return self._owners[1]

    def context(self, owners: Owners, before: Owners | None = None) -> Context:
        """What elements depend on, once these are the owners.

        Args:
            owners: All owners afterwards.
            before: All owners whose links may be there now; None: those of the record.
        """
        links = (self.before if before is None else before).links
        gone = {name for name in links.differences(owners.links) if name not in owners.links}
        return context_of(owners, _without_links(self.snapshot, gone), self.record.attached)

    def conclude(self, undone: Iterable[str] = ()) -> None:
        """Have the record say who has what, and what globs have attached.

        Args:
            undone: The owners whose steps were undone.
        """
        self.record.owners = self.owners
        undone = set(undone)
        self.record.attached = attached_after(self.attached_before, self.links, undone)
        self.record.mtus = self._mtus_after(undone)

    def _mtus_after(self, undone: Container[str]) -> dict[str, Mtu]:
        """The MTUs that hostnet has set, of the links that are still its business."""
        now = dict(self.record.mtus)
        for name, (key, mtu) in self.links.mtus.items():
            if key not in undone and mtu is not None:
                now[name] = mtu
            elif key not in undone:
                now.pop(name, None)
        links, attached = self.owners.links, self.record.attached
        return {name: mtu for name, mtu in now.items() if name in links or name in attached}

    def unconfirmed(self, transaction: str) -> Phase:
        """The phase while a provider has not confirmed it; it is over at once where nothing has changed."""
        lasting = {key: pair for key, pair in self.pairs.items() if not _is_as_before(key, self.failed)}
        if not lasting:
            return Idle()
        undo = self.links.undo_but(self.failed.keys() - lasting.keys())
        return Unconfirmed(transaction, lasting, undo, self.originals)


def effective(before: Owners, pairs: Pairs, failed: Mapping[str, HostnetError]) -> Owners:
    """All owners after a transition in which some failed: those are as before, or, half done, as they should be."""
    owners = before.copy()
    for key, (old, new) in pairs.items():
        kept = old if _is_as_before(key, failed) else new
        if kept is None or kept.key != key:
            owners.remove(key)
        if kept is not None:
            owners[kept.key] = kept  # where it fails to change hands it keeps its former key
    return owners


def _are_after(owners: Owners, before: Owners, pairs: Pairs) -> bool:
    """Whether these are all owners after a transition in which none failed."""
    changed = (key for key, _, _ in before.differences(owners))
    return all(key in pairs for key in changed) and all(owners.get(key) is new for key, (_, new) in pairs.items())


def _is_as_before(key: str, failed: Mapping[str, HostnetError]) -> bool:
    return key in failed and failed[key].code != Code.PARTIAL


def attached_after(before: Mapping[str, str], links: Plan, undone: Iterable[str]) -> dict[str, str]:
    """What globs have attached after these steps.

    Args:
        before: What they had attached before.
        links: The steps.
        undone: The owners whose steps were undone.
    """
    undone = set(undone)
    gone = {name for name in links.detached if before.get(name) not in undone}
    kept = {name: key for name, key in before.items() if name not in gone}
    return {**kept, **{name: key for name, key in links.attached.items() if key not in undone}}


def names_of(links: Iterable[Link]) -> Names:
    """The numbers of the users and groups that links name and this host knows."""
    users: dict[str, int] = {}
    groups: dict[str, int] = {}
    for item in links:
        for name, known, find in ((item.user, users, user_id), (item.group, groups, group_id)):
            if name is not None and name not in known:
                try:
                    known[name] = find(name)
                except LookupError:
                    continue
    return Names(users, groups)


def _without_links(snapshot: Snapshot, gone: set[str]) -> Snapshot:
    """Without the addresses of our links that are deleted: later they would be taken for another program's."""
    if not gone:
        return snapshot
    return replace(snapshot, addresses={k: cidrs for k, cidrs in snapshot.addresses.items() if k not in gone})
