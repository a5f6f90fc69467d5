"""From what owners had to what they shall have: plan, apply, record; what fails is undone and fails alone."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from hostnet.agent.dhcp import config as dhcp
from hostnet.agent.dhcp.dnsmasq import ServerError
from hostnet.agent.firewalls.sync import FirewallError, firewall_error
from hostnet.agent.linux.install_hints import advice_here
from hostnet.agent.linux.libnftables import MissingLibraryError, NftError
from hostnet.agent.linux.operations import Step
from hostnet.agent.linux.rtnetlink import group_id, user_id
from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.nft.context import context_of
from hostnet.agent.nft.sysctls import SysctlError
from hostnet.agent.nft.table import ClashError, Desired, changed_udp, refused
from hostnet.agent.plan.links import Names, Plan, hairpin, plan
from hostnet.agent.plan.resolve import World
from hostnet.agent.record.owners import Owner, Owners
from hostnet.agent.record.record import ALL, Record
from hostnet.agent.transaction.kernel_errors import OwnerError, clash_error, kernel_error, reason_of
from hostnet.agent.transaction.subsystems import NOTHING, Pairs, Subsystems, effective
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import Forwarding, Gateway, Link


@dataclass
class _Progress:
    """What has been done for whom, and who failed."""

    done: dict[str, list[Step]] = field(default_factory=dict)
    failed: dict[str, HostnetError] = field(default_factory=dict)
    had: Mapping[str, str] = field(default_factory=dict)  # what globs had attached before
    exact: bool = False  # see `Applier.run`

    def lack(self, key: str, error: HostnetError) -> None:
        """This owner does not get all that it shall have; it keeps the rest."""
        self.failed.setdefault(key, HostnetError(Code.PARTIAL, error.what, error.why, error.fix))


class Applier:
    """Of one host."""

    def __init__(self, subsystems: Subsystems) -> None:
        self._subsystems = subsystems
        self._notices: tuple[str, ...] = ()

    def take_notices(self) -> tuple[str, ...]:
        """What the last one's aftermath has to tell, once."""
        notices, self._notices = self._notices, ()
        return notices

    def run(
        self,
        record: Record,
        pairs: Pairs,
        snapshot: Snapshot,
        *,
        exact: bool = False,
        note: Callable[[Mapping[str, HostnetError]], None] = lambda _: None,
        unconfirmed: str = "",
    ) -> dict[str, HostnetError]:
        """Take owners from old to new; gives those that failed, which are as before (or, PARTIAL, as told).

        :param exact: what shall be is what was, or is recorded: it is right, and comes back as far as it can. Who
            fails is recorded as it shall be, and not as it was.
        :param note: told the same before the record is written: what it adds to the record is as true as that.
        :param unconfirmed: the transaction's number, where it is to be confirmed: till then it can be undone.
        """
        before = record.owners.copy()
        progress = _Progress(exact=exact)
        links = self._plan(record, pairs, before, snapshot, progress)
        if not exact:
            record.pending, record.undo = pairs, links.undo
            after = effective(before, pairs, {})
            self._subsystems.sysctls.note(record, after, context_of(after, snapshot, record.attached), snapshot)
            self.save(record)
        self._subsystems.persistence.declare_unmanaged(owner for _, owner in pairs.values() if owner is not None)
        progress.had, record.attached = record.attached, _attached(record.attached, links, {})
        self._steps(links.build, progress)
        if exact:
            self._mend(record, pairs, before, snapshot, progress)
        else:
            self._table_and_sysctls(record, pairs, before, snapshot, progress, exact=False)
        self._steps([step for step in links.remove if exact or step.owner not in progress.failed], progress)
        if progress.failed and not exact:
            # What failed late goes back, too.
            self._table_and_sysctls(record, pairs, before, snapshot, progress, exact=True)
        record.owners = effective(before, pairs, progress.failed)
        record.attached = _attached(progress.had, links, {} if exact else progress.failed)
        record.finish()
        if not exact:
            record.undone = ""  # whose guard may have been killed, and forgets it no more
        lasting = _lasting(pairs, progress.failed)
        if unconfirmed and lasting:
            record.pending, record.undo = lasting, links.undo_but(progress.failed.keys() - lasting.keys())
            record.unconfirmed = unconfirmed
        note(progress.failed)
        self.save(record)
        if record.owners or not record.unconfirmed:  # else what keeps it over a boot may yet be wanted
            self._notices = self._subsystems.persistence.sync(record)
        return progress.failed

    def save(self, record: Record) -> None:
        """Write the record.

        :raises HostnetError: where it can't be written.
        """
        try:
            self._subsystems.store.save(record)
        except OSError as error:
            raise HostnetError(
                Code.KERNEL,
                f"the record {self._subsystems.store.path} can't be written",
                reason_of(error),
                "Make room, or set stateDir to a place that can be written",
            ) from None

    def _plan(self, record: Record, pairs: Pairs, before: Owners, snapshot: Snapshot, progress: _Progress) -> Plan:
        links = Plan()
        world = World(effective(before, pairs, progress.failed), snapshot)
        names = names_of(world.owners.values())
        for old, new in pairs.values():
            if old is None and new is None:
                continue  # changed its name: the pair of the new one has the objects
            plan(old, new, world, record.attached, names, links)
        attached = _attached(record.attached, links, {})
        old_ports = context_of(before, snapshot, record.attached).ports
        hairpin(next(iter(pairs)), old_ports, context_of(world.owners, snapshot, attached).ports, snapshot, links)
        return links

    def _steps(self, steps: Iterable[Step], progress: _Progress) -> None:
        for step in steps:
            if step.owner in progress.failed and not progress.exact:
                continue
            try:
                self._subsystems.kernel.perform(step.operation)
            except (OSError, LookupError) as error:
                if progress.exact:
                    progress.lack(step.owner, kernel_error(step.operation, error))
                else:
                    self._undo(step.owner, kernel_error(step.operation, error), progress)
            else:
                progress.done.setdefault(step.owner, []).append(step)

    def _undo(self, key: str, error: HostnetError, progress: _Progress) -> None:
        """Take back what was done for this owner, last first; go on where one fails, and say so."""
        left = []
        for step in reversed(progress.done.pop(key, [])):
            for operation in step.undo:
                try:
                    self._subsystems.kernel.perform(operation)
                except OSError as refusal:
                    if refusal.errno != errno.ENODEV:  # gone already
                        left.append(f"{operation}: {reason_of(refusal)}")
        if left:
            why = f"{error.what}: {error.why}; then undoing it failed: {'; '.join(left)}"
            error = HostnetError(Code.PARTIAL, "applied in part", why, "The next `pulumi up` repairs it")
        progress.failed[key] = error

    def _table_and_sysctls(
        self,
        record: Record,
        pairs: Pairs,
        before: Owners,
        snapshot: Snapshot,
        progress: _Progress,
        *,
        exact: bool,
    ) -> None:
        """The nftables batch, the sysctls, DHCP servers, others' firewalls; an owner that can't have its part fails."""
        for _ in range(len(pairs) + 1):
            owners = effective(before, pairs, progress.failed)
            try:
                desired = self._sync_table(record, pairs, before, owners, snapshot, progress.had, exact=exact)
                self._sync_sysctls(record, pairs, owners, snapshot)
                self._sync_servers(pairs, owners, snapshot)
                self._sync_firewalls(record, pairs, before, owners, snapshot, exact=exact)
            except OwnerError as failure:
                guilty = [key for key in failure.keys if key in pairs and key not in progress.failed]
                guilty = guilty or [key for key in pairs if key not in progress.failed]
                if not guilty:
                    raise failure.error from None
                for key in guilty:
                    self._undo(key, failure.error, progress)
                exact = True
                continue
            self._subsystems.kernel.forget(changed_udp(*desired), snapshot.local)
            return

    def _mend(self, record: Record, pairs: Pairs, before: Owners, snapshot: Snapshot, progress: _Progress) -> None:
        """The same for what is right: each part of it by itself, and whoever can't have one keeps the others."""
        owners = effective(before, pairs, {})

        def table(rest: Pairs) -> None:
            there = owners.copy()
            for key in pairs.keys() - rest.keys():
                there.remove(key)
            desired = self._sync_table(record, rest, before, there, snapshot, progress.had, exact=True)
            self._subsystems.kernel.forget(changed_udp(*desired), snapshot.local)

        for sync in (
            table,
            lambda rest: self._sync_sysctls(record, rest, owners, snapshot),
            lambda rest: self._sync_servers(rest, owners, snapshot),
            lambda rest: self._sync_firewalls(record, rest, before, owners, snapshot, exact=True),
        ):
            rest = dict(pairs)
            for _ in range(len(pairs) + 1):
                try:
                    sync(rest)
                except OwnerError as failure:
                    guilty = [key for key in failure.keys if key in rest]
                    for key in guilty or rest:
                        progress.lack(key, failure.error)
                    if not guilty:
                        break
                    rest = {key: pair for key, pair in rest.items() if key not in guilty}
                else:
                    break

    def _sync_sysctls(self, record: Record, pairs: Pairs, owners: Owners, snapshot: Snapshot) -> None:
        try:
            self._subsystems.sysctls.sync(record, owners, context_of(owners, snapshot, record.attached), snapshot)
        except SysctlError as failure:
            guilty = [
                key
                for key, (old, new) in pairs.items()
                if any(isinstance(x, Forwarding) for x in (new or old or NOTHING).objects)
            ]
            raise OwnerError(guilty, kernel_error(failure.operation, failure.error)) from None

    def _sync_servers(self, pairs: Pairs, owners: Owners, snapshot: Snapshot) -> None:
        parts = {key: dhcp.bridges_of(old) | dhcp.bridges_of(new) for key, (old, new) in pairs.items()}
        try:
            self._subsystems.servers.sync(World(owners, snapshot), set().union(*parts.values()))
        except ServerError as failure:
            guilty = [key for key, bridges in parts.items() if failure.bridge in bridges]
            raise OwnerError(guilty, failure.error) from None

    def _sync_firewalls(
        self, record: Record, pairs: Pairs, before: Owners, owners: Owners, snapshot: Snapshot, *, exact: bool
    ) -> None:
        try:
            later = _afterwards(snapshot, before, owners)
            self._subsystems.firewalls.sync(before, owners, context_of(owners, later, record.attached), exact=exact)
        except FirewallError as failure:
            guilty = [
                key
                for key, (old, new) in pairs.items()
                if any(isinstance(x, (Gateway, Link)) for x in (new or old or NOTHING).objects)
            ]
            raise OwnerError(guilty, firewall_error(failure)) from None

    def _sync_table(
        self,
        record: Record,
        pairs: Pairs,
        before: Owners,
        owners: Owners,
        snapshot: Snapshot,
        had: Mapping[str, str],
        *,
        exact: bool,
    ) -> tuple[Desired, Desired]:
        known = before
        lost = {key: had_ for key, (had_, _) in pairs.items() if had_ is not None and key not in before}
        if lost:
            # The record was lost: what the state knows of these is what may be there.
            known = before.copy()
            for key, owner in lost.items():
                known[key] = owner
        context = context_of(known, snapshot, had)
        old = self._subsystems.compiler.desired(known, context)
        new = context_of(owners, _afterwards(snapshot, known, owners), record.attached)
        try:
            after = self._subsystems.compiler.desired(owners, new)
        except ClashError as clash:
            newer, holder = (clash.owner, clash.holder) if clash.owner in pairs else (clash.holder, clash.owner)
            raise OwnerError([newer], clash_error(clash, owners.get(holder))) from None
        if not (old.elements or after.elements or record.table.rules or (exact and self._subsystems.table.there)):
            return old, after
        comments = {key: owner.comment for key, owner in owners.items()}
        ensure = set(owners) if exact else set(pairs)
        # What would be compiled from what is observed now may not be what is there: look.
        look = exact or context.observed != record.table.observed
        mark = replace(record.table, generation=0) if look else record.table
        try:
            mark = self._subsystems.table.sync(old, after, comments, mark, ensure)
            record.table = replace(mark, observed=new.observed)
        except NftError as error:
            guilty = [key for key in pairs if self._refused_alone(record, {key: pairs[key]}, before, snapshot)]
            raise OwnerError(guilty or list(pairs), refused("the nftables batch failed", error)) from None
        except MissingLibraryError as error:
            raise OwnerError(
                list(pairs),
                HostnetError(
                    Code.UNSUPPORTED,
                    "NAT and port forwards can't be set up",
                    str(error),
                    advice_here("libnftables"),
                ),
            ) from None
        return old, after

    def _refused_alone(self, record: Record, pairs: Pairs, before: Owners, snapshot: Snapshot) -> bool:
        """Whether nft refuses this owner's elements by themselves: in a joined batch the others are to go through."""
        owners = effective(before, pairs, {})
        try:
            old = self._subsystems.compiler.desired(before, context_of(before, snapshot, record.attached))
            later = _afterwards(snapshot, before, owners)
            after = self._subsystems.compiler.desired(owners, context_of(owners, later, record.attached))
            with self._subsystems.table.rehearsal():
                self._subsystems.table.sync(old, after, {}, record.table, set(pairs))
        except (ClashError, NftError):
            return True
        return False

    def recover(self, record: Record, reason: str = "") -> None:
        """Go back to what was before a transaction that was not seen to end.

        :param reason: why, for a provider that asks for it later.
        """
        if record.pending is None:
            return
        reason = reason or "its agent ended before it was confirmed"
        transaction = record.unconfirmed
        for operation in record.undo:
            # What was not done yet can't be undone, and that is fine.
            with contextlib.suppress(OSError, LookupError):
                self._subsystems.kernel.perform(operation)
        pairs: Pairs = {}
        for key, (old, new) in record.pending.items():
            if new is not None:
                record.owners[key] = new
            if old is not None and old.key != key:  # it changed its URN, and gets the former back
                pairs[key] = (None, None)
                record.attached = {link: old.key if by == key else by for link, by in record.attached.items()}
            pairs[old.key if old is not None else key] = (new, old)

        def note(failed: Mapping[str, HostnetError]) -> None:
            if transaction:
                left = f"; undoing it failed in part: {'; '.join(map(str, failed.values()))}" if failed else ""
                record.note_outcome(transaction, {ALL: _rolled_back(reason + left).to_json()})

        self.run(record, pairs, self._subsystems.kernel.snapshot(), exact=True, note=note)


def _afterwards(snapshot: Snapshot, before: Owners, after: Owners) -> Snapshot:
    """Without the addresses of links that we had and let go: what goes is not somebody else's."""
    kept = _links(after)
    gone = _links(before) - kept
    addresses = {name: cidrs for name, cidrs in snapshot.addresses.items() if name not in gone}
    return replace(snapshot, addresses=addresses) if gone else snapshot


def _links(owners: Owners) -> set[str]:
    return {
        item.name
        for owner in owners.structural.values()
        if Link in owner.kinds
        for item in owner.objects
        if isinstance(item, Link)
    }


def _rolled_back(reason: str) -> HostnetError:
    """That a change was applied, and is undone."""
    return HostnetError(
        Code.ROLLED_BACK,
        "the change is undone: it may have cut the way to this host",
        reason,
        "Look for what takes the host's address, its route to you or its SSH port, in this and in what was changed "
        "with it; where the host is only slow, raise the provider's confirmTimeout",
    )


def _lasting(pairs: Pairs, failed: Mapping[str, HostnetError]) -> Pairs:
    """What is not as before."""
    return {key: pair for key, pair in pairs.items() if key not in failed or failed[key].code == Code.PARTIAL}


def _attached(had: Mapping[str, str], links: Plan, failed: Mapping[str, HostnetError]) -> dict[str, str]:
    """What globs have attached after these steps, but for those whose owner failed."""
    gone = {name for name in links.detached if had.get(name) not in failed}
    kept = {name: key for name, key in had.items() if name not in gone}
    return {**kept, **{name: key for name, key in links.attached.items() if key not in failed}}


def names_of(owners: Iterable[Owner]) -> Names:
    """The numbers of the users and groups that the owners name and this host knows."""
    users: dict[str, int] = {}
    groups: dict[str, int] = {}
    for owner in owners:
        for item in owner.objects if Link in owner.kinds else ():
            if isinstance(item, Link):
                for name, known, find in ((item.user, users, user_id), (item.group, groups, group_id)):
                    if name is not None and name not in known:
                        try:
                            known[name] = find(name)
                        except LookupError:
                            continue
    return Names(users, groups)
