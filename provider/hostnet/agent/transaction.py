"""One step for many wishes: observe, resolve, plan, apply, record, report, under the host's lock.

A wish that fails is undone and fails alone; the others commit. Before the first operation the record says what was
and what shall be (`pending`), so that an agent that dies half way is cleaned up after by the next one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional, Protocol, Union

from hostnet.agent import conntrack, dhcp, facts, listeners, way
from hostnet.agent.context import context_of
from hostnet.agent.dnsmasq import ServerError, Servers
from hostnet.agent.doctor import doctor
from hostnet.agent.elements import Context, compile_common
from hostnet.agent.foreign import Foreign, ForeignError, foreign_error
from hostnet.agent.kernel import Kernel, group_id, user_id
from hostnet.agent.nftables import MissingLibraryError, NftError
from hostnet.agent.operations import Operation, Step, WriteSysctl
from hostnet.agent.owners import Owner, Owners
from hostnet.agent.packages import advice_here
from hostnet.agent.plan import Names, Plan, hairpin, plan, takes_user_off
from hostnet.agent.reading import is_gone, owner_of
from hostnet.agent.record import ALL, Record, Store
from hostnet.agent.resolve import World, resolve
from hostnet.agent.service import Service
from hostnet.agent.state import Snapshot
from hostnet.agent.status import status
from hostnet.agent.strangers import strange_forwards
from hostnet.agent.sysctls import FORWARDING, SwitchError, Switches
from hostnet.agent.table import ClashError, Compiler, Desired, Table, changed_udp, refused
from hostnet.agent.view import Sight, see
from hostnet.errors import Code, HostnetError
from hostnet.hosts.api import Change, Query, View
from hostnet.objects import Forward, Forwarding, Gateway, Link

Outcome = Union[View, HostnetError]
Pairs = dict[str, tuple[Optional[Owner], Optional[Owner]]]
_NONE = Owner("", "")
_LOOK_SECONDS = 0.05  # how often it is looked what the agent before us does, which holds the lock


class Confirmation(Protocol):
    """What makes a change count: the provider, still heard after it (DESIGN.md 2.5)."""

    asks: bool

    def begun(self, transaction: str) -> None:
        """The host is about to be changed."""

    def ask(self, told: list[Outcome], transaction: str, *, anew: bool) -> str:
        """Tell the provider what is done, and wait for its word.

        :param anew: a connection in progress proves nothing: it must make a new one.
        :returns: "": confirmed; else why it is to be undone.
        :raises EOFError: nobody is there any more.
        """

    def ended(self) -> None:
        """It is confirmed, or undone, or nothing was changed."""


class Unasked:
    """What is changed on the provider's own machine counts at once."""

    asks = False

    def begun(self, transaction: str) -> None:
        """Nobody need know."""

    def ask(self, told: list[Outcome], transaction: str, *, anew: bool) -> str:
        """Confirmed; what another agent left unconfirmed, too."""
        del told, transaction, anew
        return ""

    def ended(self) -> None:
        """Nobody need know."""


@dataclass
class _Progress:
    """What has been done for whom, and who failed."""

    done: dict[str, list[Step]] = field(default_factory=dict)
    failed: dict[str, HostnetError] = field(default_factory=dict)
    had: Mapping[str, str] = field(default_factory=dict)  # what globs had attached before


class Host:
    """This host (or namespace) as the agent holds it."""

    def __init__(self, store: Store, service: Service | None = None) -> None:
        self._store = store
        self.service = service or Service(store)
        self._notices: tuple[str, ...] = ()  # what the last transaction's aftermath has to tell
        self.kernel = Kernel()
        self.table = Table()
        self._compiler = Compiler()
        self._switches = Switches(self.kernel)
        self._foreign = Foreign(self.table)
        self._servers = Servers(store)
        # What a preview has asked for so far: its later wishes build on its earlier ones, as the real ones will.
        self._previewed: Pairs = {}
        # What was created again though it was there: `pulumi up --replace` of a thing that keeps its name. The delete
        # of what it replaces, which follows, is about the same thing, and must not take it away.
        self._again: set[str] = set()

    # --- wishes ----------------------------------------------------------------------------------------------------

    def apply(
        self,
        changes: list[Change],
        transaction: str = "",
        *,
        ask: bool = False,
        confirmation: Confirmation | None = None,
    ) -> list[Outcome]:
        """Admit what can be, apply it together, and report on each change, in order.

        :param transaction: the provider's number for it. One that the record knows was applied before the provider
            lost the connection: what became of it is reported, and nothing is done.
        :param ask: do nothing in any case: another agent died of it, or with it.
        :param confirmation: asked for after a change, and before it counts.
        :raises HostnetError: where `ask` finds that it was not done.
        """
        transaction = transaction or os.urandom(8).hex()
        confirmation = confirmation or Unasked()
        with self._store.locked() as record:
            if record.unconfirmed != transaction:
                self.recover(record)
            fate = record.outcomes.get(transaction)
            if ask and fate is None:
                raise HostnetError(Code.AGENT_DIED, "apply the transaction", "it was not done, or is undone")
            if fate is not None and ALL in fate:
                return [HostnetError.from_json(fate[ALL]) for _ in changes]
            try:
                told = self._apply(record, changes, transaction, confirmation, repeated=fate is not None)
                if record.unconfirmed:
                    told = self._settle(record, told, confirmation)
            except EOFError:
                raise  # nobody confirms: the guard knows what to do
            except Exception:
                # The record can't be written, say: what is half done is not to wait for another agent to undo it.
                with contextlib.suppress(HostnetError):
                    self.recover(self._store.again())
                confirmation.ended()
                raise
            confirmation.ended()
            return told

    def _apply(
        self, record: Record, changes: list[Change], transaction: str, confirmation: Confirmation, *, repeated: bool
    ) -> list[Outcome]:
        snapshot = replace(self.kernel.snapshot(), leased=self._servers.leased())
        outcomes: dict[int, Outcome] = {}
        admitted, pairs = self._admit(changes, record, snapshot, outcomes, repeated=repeated)
        if pairs and not repeated:
            note = _note(record, transaction, admitted, outcomes)
            confirmation.begun(transaction)
            unconfirmed = transaction if confirmation.asks else ""
            self._transition(record, pairs, snapshot, note=note, unconfirmed=unconfirmed)
        sight = self._sight(record, self.kernel.snapshot(), None)
        for index, owner in admitted.items():
            warnings = (*self._notices, *_left_alone(changes[index], record.owners))
            outcomes[index] = View(owner.id, owner.objects, see(owner, sight), warnings)
            self._notices = ()
        for number, error in record.outcomes.get(transaction, {}).items():
            outcomes[int(number)] = HostnetError.from_json(error)
        return [outcomes[index] for index in range(len(changes))]

    def _settle(self, record: Record, told: list[Outcome], confirmation: Confirmation) -> list[Outcome]:
        """Have it confirmed by the provider, or undo it."""
        pairs = record.pending or {}
        added = [
            item for old, new in pairs.values() if new for item in new.objects if item not in (old or _NONE).objects
        ]
        transaction = record.unconfirmed
        refusal = confirmation.ask(told, transaction, anew=way.may_take(added, way.ssh_port()))
        if refusal:
            self.recover(record, refusal)
            told = [HostnetError.from_json(record.outcomes[transaction][ALL]) for _ in told]
        else:
            record.finish()
            self._save(record)
            if not record.owners:
                self.service.sync(record)
        return told

    def undo(self, transaction: str, seconds: float) -> bool:
        """Undo a transaction that nobody confirmed, for whoever watched over it. True where there was one to undo.

        :param seconds: for how long nobody did.
        """
        with self._store.locked() as record:
            if record.pending is None or record.unconfirmed not in ("", transaction):
                return False
            record.undone = record.unconfirmed = transaction
            self.recover(record, f"nothing was heard of the provider for {seconds:g} s after it")
            return True

    def forget(self, transaction: str) -> None:
        """Keep the fate of an undone transaction no longer, for a provider that has not come back."""
        with self._store.locked() as record:
            if record.undone == transaction:
                record.undone = ""
                self._save(record)

    def _admit(
        self,
        changes: list[Change],
        record: Record,
        snapshot: Snapshot,
        outcomes: dict[int, Outcome],
        *,
        repeated: bool,
    ) -> tuple[dict[int, Owner], Pairs]:
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
            if new is not None and not change.known and new.key in record.owners and not repeated:
                self._again.add(new.key)
            elif new is None and old is not None and old.key in self._again:
                self._again.discard(old.key)
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
        dropped = self._foreign.warnings(new, planned, lambda: context_of(planned, snapshot, {}))
        return View(new.id, new.objects, warnings=(*listeners.warnings(new, snapshot), *dropped))

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
        self._servers.check(new, World(after, snapshot))
        after.forwards.check(new, after)
        return old or after.get(new.key), new

    def replace_agent(self, pid: int, started: int, transaction: str = "") -> None:
        """End the agent that this one takes over from, if it lives: what it was told last must not come later.

        It is not in mid-transaction then: it does not hold the lock, or waits for a confirmation that now comes here.

        :param pid: its process.
        :param started: when that started, in clock ticks since the boot: with the number, its identity.
        :param transaction: the one that this is about.
        """

        def end() -> None:
            if pid != os.getpid() and started_at(pid) == started:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

        def look(*_: object) -> None:
            if transaction and self._store.unconfirmed() == transaction:
                end()

        # Waiting for the lock goes on after each look (PEP 475).
        signal.signal(signal.SIGALRM, look)
        signal.setitimer(signal.ITIMER_REAL, _LOOK_SECONDS, _LOOK_SECONDS)
        try:
            with self._store.locked():
                end()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    # --- from here to there ----------------------------------------------------------------------------------------

    def _transition(
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

        :param note: told the same before the record is written: what it adds to the record is as true as that.
        :param unconfirmed: the transaction's number, where it is to be confirmed: till then it can be undone.
        """
        before = record.owners.copy()
        progress = _Progress()
        links = self._plan(record, pairs, before, snapshot, progress)
        if not exact:
            record.pending, record.undo = pairs, links.undo
            after = _effective(before, pairs, {})
            self._switches.note(record, after, context_of(after, snapshot, record.attached), snapshot)
            self._save(record)
        self.service.shield(owner for _, owner in pairs.values() if owner is not None)
        progress.had, record.attached = record.attached, _attached(record.attached, links, {})
        self._steps(links.build, progress)
        self._table_and_switches(record, pairs, before, snapshot, progress, exact=exact)
        self._steps([step for step in links.remove if step.owner not in progress.failed], progress)
        if progress.failed:
            # What failed late goes back, too.
            self._table_and_switches(record, pairs, before, snapshot, progress, exact=True)
        record.owners = _effective(before, pairs, progress.failed)
        record.attached = _attached(progress.had, links, progress.failed)
        record.finish()
        if unconfirmed and _lasting(pairs, progress.failed):
            record.pending, record.undo = _lasting(pairs, progress.failed), links.undo
            record.unconfirmed = unconfirmed
        note(progress.failed)
        self._save(record)
        if record.owners or not record.unconfirmed:  # else what keeps it over a boot may yet be wanted
            self._notices = self.service.sync(record)
        return progress.failed

    def _save(self, record: Record) -> None:
        try:
            self._store.save(record)
        except OSError as error:
            raise HostnetError(
                Code.KERNEL,
                f"the record {self._store.path} can't be written",
                _why(error),
                "Make room, or set stateDir to a place that can be written",
            ) from None

    def _plan(self, record: Record, pairs: Pairs, before: Owners, snapshot: Snapshot, progress: _Progress) -> Plan:
        links = Plan()
        world = World(_effective(before, pairs, progress.failed), snapshot)
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
            if step.owner in progress.failed:
                continue
            try:
                self.kernel.perform(step.operation)
            except (OSError, LookupError) as error:
                self._undo(step.owner, _kernel_error(step.operation, error), progress)
            else:
                progress.done.setdefault(step.owner, []).append(step)

    def _undo(self, key: str, error: HostnetError, progress: _Progress) -> None:
        """Take back what was done for this owner, last first; go on where one fails, and say so."""
        left = []
        for step in reversed(progress.done.pop(key, [])):
            for operation in step.undo:
                try:
                    self.kernel.perform(operation)
                except OSError as refusal:
                    if refusal.errno != errno.ENODEV:  # gone already
                        left.append(f"{operation}: {_why(refusal)}")
        if left:
            why = f"{error.what}: {error.why}; then undoing it failed: {'; '.join(left)}"
            error = HostnetError(Code.PARTIAL, "applied in part", why, "The next `pulumi up` repairs it")
        progress.failed[key] = error

    def _table_and_switches(
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
            owners = _effective(before, pairs, progress.failed)
            try:
                desired = self._sync_table(record, pairs, before, owners, snapshot, progress.had, exact=exact)
                self._sync_switches(record, pairs, owners, snapshot)
                self._sync_servers(pairs, owners, snapshot)
                self._sync_foreign(record, pairs, before, owners, snapshot, exact=exact)
            except _OwnerError as failure:
                guilty = [key for key in failure.keys if key in pairs and key not in progress.failed]
                guilty = guilty or [key for key in pairs if key not in progress.failed]
                if not guilty:
                    raise failure.error from None
                for key in guilty:
                    self._undo(key, failure.error, progress)
                exact = True
                continue
            conntrack.forget(changed_udp(*desired), snapshot.local)
            return

    def _sync_switches(self, record: Record, pairs: Pairs, owners: Owners, snapshot: Snapshot) -> None:
        try:
            self._switches.sync(record, owners, context_of(owners, snapshot, record.attached), snapshot)
        except SwitchError as failure:
            guilty = [
                key
                for key, (old, new) in pairs.items()
                if any(isinstance(x, Forwarding) for x in (new or old or _NONE).objects)
            ]
            raise _OwnerError(guilty, _kernel_error(failure.operation, failure.error)) from None

    def _sync_servers(self, pairs: Pairs, owners: Owners, snapshot: Snapshot) -> None:
        parts = {key: dhcp.bridges_of(old) | dhcp.bridges_of(new) for key, (old, new) in pairs.items()}
        try:
            self._servers.sync(World(owners, snapshot), set().union(*parts.values()))
        except ServerError as failure:
            guilty = [key for key, bridges in parts.items() if failure.bridge in bridges]
            raise _OwnerError(guilty, failure.error) from None

    def _sync_foreign(
        self, record: Record, pairs: Pairs, before: Owners, owners: Owners, snapshot: Snapshot, *, exact: bool
    ) -> None:
        try:
            self._foreign.sync(before, owners, context_of(owners, snapshot, record.attached), exact=exact)
        except ForeignError as failure:
            guilty = [
                key
                for key, (old, new) in pairs.items()
                if any(isinstance(x, (Gateway, Link)) for x in (new or old or _NONE).objects)
            ]
            raise _OwnerError(guilty, foreign_error(failure)) from None

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
        old = self._compiler.desired(known, context)
        try:
            after = self._compiler.desired(owners, context_of(owners, snapshot, record.attached))
        except ClashError as clash:
            newer, holder = (clash.owner, clash.holder) if clash.owner in pairs else (clash.holder, clash.owner)
            raise _OwnerError([newer], _clash(clash, owners.get(holder))) from None
        if not (old.elements or after.elements or record.table.rules or (exact and self.table.there)):
            return old, after
        comments = {key: owner.comment for key, owner in owners.items()}
        ensure = set(owners) if exact else set(pairs)
        # What was compiled from addresses as observed may not be what is there: look.
        mark = replace(record.table, generation=0) if exact or context.observed else record.table
        try:
            record.table = self.table.sync(old, after, comments, mark, ensure)
        except NftError as error:
            guilty = [key for key in pairs if self._refused_alone(record, {key: pairs[key]}, before, snapshot)]
            raise _OwnerError(guilty or list(pairs), refused("the nftables batch failed", error)) from None
        except MissingLibraryError as error:
            raise _OwnerError(
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
        owners = _effective(before, pairs, {})
        try:
            old = self._compiler.desired(before, context_of(before, snapshot, record.attached))
            after = self._compiler.desired(owners, context_of(owners, snapshot, record.attached))
            with self.table.rehearsal():
                self.table.sync(old, after, {}, record.table, set(pairs))
        except (ClashError, NftError):
            return True
        return False

    # --- after a crash, after a boot -------------------------------------------------------------------------------

    def recover(self, record: Record, why: str = "its agent ended before it was confirmed") -> bool:
        """Go back to what was before a transaction that was not seen to end. True where there was one.

        :param why: a provider that asks for it later is told.
        """
        if record.pending is None:
            return False
        transaction = record.unconfirmed
        for operation in record.undo:
            # What was not done yet can't be undone, and that is fine.
            with contextlib.suppress(OSError, LookupError):
                self.kernel.perform(operation)
        pairs = {key: (new, old) for key, (old, new) in record.pending.items()}
        for key, (new, _) in pairs.items():
            if new is not None:
                record.owners[key] = new
        self._again -= pairs.keys()

        def note(_: Mapping[str, HostnetError]) -> None:
            if transaction:
                record.note_outcome(transaction, {ALL: rolled_back(why).to_json()})

        self._transition(record, pairs, self.kernel.snapshot(), exact=True, note=note)
        return True

    def restore(self) -> int:
        """Put back all that is recorded, as at boot; gives how many owners there are."""
        with self._store.locked() as record:
            self.recover(record)
            pairs: Pairs = {key: (None, owner) for key, owner in record.owners.items()}
            failed = self._transition(record, pairs, self.kernel.snapshot(), exact=True) if pairs else {}
            if failed:
                left = "; ".join(str(error) for error in failed.values())
                raise HostnetError(Code.PARTIAL, f"{len(failed)} of {len(pairs)} could not be restored", left)
            return len(pairs)

    # --- seeing ----------------------------------------------------------------------------------------------------

    def read(self, queries: list[Query]) -> list[View | HostnetError | None]:
        """What there is for each query, from one look at the host."""
        with self._store.locked() as record:
            self.recover(record)
            snapshot = self.kernel.snapshot()
            found = [_attempt(query, record, snapshot) for query in queries]
            owners = record.owners.copy()
            for each in found:
                if isinstance(each, Owner):
                    owners[each.key] = each
            sight = self._sight(replace(record, owners=owners), snapshot, self._listed(record, owners))
            sight = replace(sight, dropped=self._foreign.missing(owners, sight.context))
            views = [self._view(x, sight) if isinstance(x, Owner) else x for x in found]
            claims = {x.key: q.urn for q, x in zip(queries, found) if isinstance(x, Owner) and _imports(q, x, record)}
            if claims.items() - record.claims.items():
                record.claims.update(claims)
                self._save(record)
            gone = [x.key for x, view in zip(found, views) if isinstance(x, Owner) and view is None]
            self._forget(record, [key for key in gone if key in record.owners], snapshot)
            return views

    def _forget(self, record: Record, keys: list[str], snapshot: Snapshot) -> None:
        """What a read found gone is let go: a state that drops it now will never ask to delete it.

        Others' things are left as they are: a read mends nothing.
        """
        if not keys:
            return
        if len(keys) == len(record.owners):
            self._transition(record, {key: (record.owners[key], None) for key in keys}, snapshot)
            return
        for key in keys:
            record.owners.remove(key)
        context = context_of(record.owners, snapshot, record.attached)
        self._switches.release(record, record.owners, context, snapshot)
        self._save(record)

    def facts(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Answer a function's question.

        :raises HostnetError: for a thing that is not there.
        """
        with self._store.locked() as record:
            snapshot = self.kernel.snapshot()
            if name == "bridge":
                return facts.bridge_facts(arguments["name"], snapshot, self._servers.leases(arguments["name"]))
            if name == "forwards":
                return facts.forward_facts(record.owners, snapshot, self.table)
            if name == "status":
                return self._status(record, snapshot)
            if name == "doctor":
                place, watching = self._store.path.parent, self.service.watching(record.owners)
                machine = self._store.instance is None
                return doctor(record, place, self.table, watching, self.kernel, machine=machine)
            switches = {name: self.kernel.sysctl(name) for name in FORWARDING.values()}
            return facts.host_facts(record.owners, snapshot, self.table, switches)

    def _status(self, record: Record, snapshot: Snapshot) -> dict[str, Any]:
        listed = self._listed(record, record.owners)
        sight = self._sight(record, snapshot, listed)
        sight = replace(sight, dropped=self._foreign.missing(record.owners, sight.context))
        desired = self._compiler.desired(record.owners, sight.context)
        forwards = facts.forward_facts(record.owners, snapshot, self.table)
        return {**status(sight, desired, listed, self.service.watching(record.owners)), **forwards}

    def _listed(self, record: Record, owners: Mapping[str, Owner]) -> Mapping:  # type: ignore[type-arg]
        """The table's elements; none where its rules are not as we made them: elements without rules do nothing."""
        if not any(isinstance(item, (Gateway, Forward)) for owner in owners.values() for item in owner.objects):
            return {}
        try:
            listing = self.table.listing()
        except MissingLibraryError:
            return {}
        if listing is None or (record.table.rules and listing.rules != record.table.rules):
            return {}
        return listing.elements

    def _view(self, owner: Owner, sight: Sight) -> View | None:
        seen = see(owner, sight)
        if is_gone(owner, seen):
            return None
        strange = strange_forwards(owner, sight)
        objects, seen = (*owner.objects, *(x for x, _ in strange)), (*seen, *(x for _, x in strange))
        return View(owner.id, objects, seen, self.service.warnings(owner))

    def _within(self, record: Record, context: Context, snapshot: Snapshot, elements: Mapping[Any, Any]) -> bool:
        """Whether what all forwards share for `loopback` is there: elements, hairpin mode, and `route_localnet`."""
        shared = all((element.set, element.key) in elements for element, _ in compile_common(context))
        return shared and _hairpinned(context, snapshot) and self._switches.local(record)

    def _sight(self, record: Record, snapshot: Snapshot, elements: Mapping | None) -> Sight:  # type: ignore[type-arg]
        """What views are made from; without `elements` those that were just applied are taken for seen."""
        world = World(record.owners, snapshot)
        context = context_of(record.owners, snapshot, record.attached)
        desired = self._compiler.desired(record.owners, context).elements
        strange = {} if elements is None else {k: v for k, v in elements.items() if k not in desired}
        if elements is None:
            elements = desired
        return Sight(
            world,
            context,
            elements,
            record.attached,
            names_of(record.owners.values()),
            lambda family: self._switches.on(record, family),
            strange,
            self._within(record, context, snapshot, elements),
            dhcp=lambda server: self._servers.see(server, world),
        )


def rolled_back(why: str) -> HostnetError:
    """That a change was applied, and is undone."""
    return HostnetError(
        Code.ROLLED_BACK,
        "the change is undone: it may have cut the way to this host",
        why,
        "Look for what takes the host's address, its route to you or its SSH port, in this and in what was changed "
        "with it; where the host is only slow, raise the provider's confirmTimeout",
    )


def _lasting(pairs: Pairs, failed: Mapping[str, HostnetError]) -> Pairs:
    """What is not as before."""
    return {key: pair for key, pair in pairs.items() if key not in failed or failed[key].code == Code.PARTIAL}


def _hairpinned(context: Context, snapshot: Snapshot) -> bool:
    links = [snapshot.links[port] for port in context.ports if port in snapshot.links]
    return all(link.hairpin for link in links if link.master)


def _note(
    record: Record, transaction: str, admitted: Mapping[int, Owner], refused: Mapping[int, Outcome]
) -> Callable[[Mapping[str, HostnetError]], None]:
    """What notes, in the record, the errors of a transaction by the number of the change.

    :param admitted: the owners of the changes that were tried.
    :param refused: what became of the others.
    """

    def note(failed: Mapping[str, HostnetError]) -> None:
        errors = {number: each for number, each in refused.items() if isinstance(each, HostnetError)}
        errors.update({number: failed[owner.key] for number, owner in admitted.items() if owner.key in failed})
        record.note_outcome(transaction, {str(number): error.to_json() for number, error in errors.items()})

    return note


def _imports(query: Query, found: Owner, record: Record) -> bool:
    """Whether a query asks, for an import, for what another stack's resource has."""
    return not query.objects and found.key in record.owners and found.urn != query.urn


def _attempt(query: Query, record: Record, snapshot: Snapshot) -> Owner | HostnetError | None:
    try:
        return owner_of(query, record, snapshot)
    except HostnetError as error:
        return error


def started_at(pid: int) -> int:
    """When a process started, in clock ticks since the boot; -1 where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return -1
    return int(stat.rpartition(")")[2].split()[19])


class _OwnerError(Exception):
    """What can't be, and whose it is."""

    def __init__(self, keys: list[str], error: HostnetError) -> None:
        super().__init__(str(error))
        self.keys, self.error = keys, error


def _attached(had: Mapping[str, str], links: Plan, failed: Mapping[str, HostnetError]) -> dict[str, str]:
    """What globs have attached after these steps, but for those whose owner failed."""
    gone = {name for name in links.detached if had.get(name) not in failed}
    kept = {name: key for name, key in had.items() if name not in gone}
    return {**kept, **{name: key for name, key in links.attached.items() if key not in failed}}


def _effective(before: Owners, pairs: Pairs, failed: Mapping[str, HostnetError]) -> Owners:
    """The owners after a transaction in which some failed: those are as before, or, half done, as they should be."""
    owners = before.copy()
    for key, (old, new) in pairs.items():
        kept = old if key in failed and failed[key].code != Code.PARTIAL else new
        if kept is None:
            owners.remove(key)
        else:
            owners[key] = kept
    return owners


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
    stack = "::".join(change.urn.split("::")[:2])
    holder = _other_holder(change, owners)
    if holder is not None and (holder.urn.startswith(stack + "::") or claims.get(holder.key) == change.urn):
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


def _left_alone(change: Change, owners: Owners) -> tuple[str, ...]:
    """What a delete did not touch, since it is another resource's by now."""
    holder = None if change.objects else _other_holder(change, owners)
    return (f"{change.id} stays on the host: it belongs to {holder.label}",) if holder else ()


def _same_kind(owner: Owner, change: Change) -> bool:
    return {type(x) for x in owner.objects} & {type(x) for x in change.prior} != set()


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


def _clash(clash: ClashError, holder: Owner | None) -> HostnetError:
    element = clash.element
    who = holder.label if holder else "another resource"
    return HostnetError(
        Code.CONFLICT,
        f"{' '.join(element.key)} can't go to {' '.join(element.value) or 'it'}",
        f"it belongs to {who}",
        "Remove one of the two",
    )


def _kernel_error(operation: Operation, error: OSError | LookupError) -> HostnetError:
    if isinstance(error, LookupError):
        return HostnetError(Code.NOT_FOUND, f"can't {operation}", str(error))
    code = Code.PERMISSION if error.errno in (errno.EPERM, errno.EACCES) else Code.KERNEL
    return HostnetError(code, f"can't {operation}", _why(error), _advice(operation, error))


def _why(error: OSError) -> str:
    name = errno.errorcode.get(error.errno or 0, "error")
    return f"{name}: {os.strerror(error.errno or 0)}"


_ADVICE = {
    errno.EPERM: "hostnet needs root on the host: connect as root, or set connection.sudo",
    errno.EACCES: "hostnet needs root on the host: connect as root, or set connection.sudo",
    errno.EBUSY: "A program has the interface open; stop it and try again",
    errno.EROFS: "The host mounts /proc/sys read-only: set the sysctl where the host is started",
    errno.EOPNOTSUPP: "This kernel was built without the feature",
    errno.ENODEV: "The interface went away in the meantime; run `pulumi refresh`, then `pulumi up`",
}


def _advice(operation: Operation, error: OSError) -> str:
    if isinstance(operation, WriteSysctl) and error.errno in (errno.EROFS, errno.EACCES):
        return _ADVICE[errno.EROFS]
    return _ADVICE.get(error.errno or 0, "")
