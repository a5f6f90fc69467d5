"""One step for many changes: observe, resolve, plan, apply, record, report, under the host's lock.

A change that fails is undone and fails alone; the others commit. Before the first operation the record has what was
and what should be, so that the next agent cleans up after one that dies half way.

`admission` accepts changes or refuses them, `apply` brings the host from here to there, `restore` brings it back,
`queries` reports.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar

from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.nft.context import context_of
from hostnet.agent.nft.gateway_elements import closed_addresses
from hostnet.agent.observe.listeners import left_alone
from hostnet.agent.plan.world import World
from hostnet.agent.record.phase import Idle, Open, Pairs, Phase, Result, RolledBack, Unconfirmed
from hostnet.agent.record.record import Record
from hostnet.agent.transaction import lockout
from hostnet.agent.transaction.admission import Admission, Admitted
from hostnet.agent.transaction.apply import Applier
from hostnet.agent.transaction.commit_confirm import AlwaysConfirmed, Confirmation
from hostnet.agent.transaction.follow import follow
from hostnet.agent.transaction.handover import take_over
from hostnet.agent.transaction.kernel_errors import in_part
from hostnet.agent.transaction.queries import Queries
from hostnet.agent.transaction.restore import Restorer
from hostnet.agent.transaction.self_check import check
from hostnet.agent.transaction.subsystems import Subsystems
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.protocol import Outcome
from hostnet.wire.requests import Change, View


class Host:
    """This host (or namespace) as the agent holds it.

    Args:
        subsystems: What the agent works with.
        via: The name by which the provider calls this host, and its own.

    Attributes:
        self_checks: Whether each transaction ends with `self_check.check`.
    """

    self_checks: ClassVar[bool] = False

    def __init__(self, subsystems: Subsystems, via: str | None = None) -> None:
        self._subsystems, self._store, self.persistence = subsystems, subsystems.store, subsystems.persistence
        self.kernel, self.table = subsystems.kernel, subsystems.table
        self._admission = Admission(subsystems, via)
        self._applier, self._restorer = Applier(subsystems), Restorer(subsystems)
        self._queries = Queries(subsystems, self._applier, self._restorer)
        self.read, self.facts, self.base = self._queries.read, self._queries.facts, self._store.base

    def apply(
        self, changes: list[Change], transaction: str = "", *, confirmation: Confirmation | None = None
    ) -> list[Outcome]:
        """Admit what can be, apply it together, and report on each change, in order.

        Args:
            changes: Of one or more resources.
            transaction: The provider's number for it. One that the record knows was applied before the provider lost
                the connection: what became of it is reported, and nothing is applied.
            confirmation: Asked for after a change, and before it counts.
        """
        transaction = transaction or os.urandom(8).hex()
        confirmation = confirmation or AlwaysConfirmed()

        def apply(record: Record) -> list[Outcome]:
            return self._apply(record, changes, transaction, confirmation)

        return self._conclude(changes, transaction, confirmation, otherwise=apply)

    def outcome(
        self, changes: list[Change], transaction: str, *, confirmation: Confirmation | None = None
    ) -> list[Outcome]:
        """Report what became of a transaction, and apply nothing: its agent died of it, or with it.

        Args:
            changes: As they were applied.
            transaction: The provider's number for it.
            confirmation: Asked for where it waits for one.

        Raises:
            HostnetError: It was not applied.
        """

        def refuse(_: Record | None = None) -> list[Outcome]:
            raise HostnetError(Code.AGENT_DIED, "the transaction has no result", "its agent died before it was applied")

        # An agent that died while it waited for the lock has left nothing. Whoever holds the lock may do so for
        # minutes (another stack's change waits for its confirmation): this answer needs no lock.
        if not self._store.may_have(transaction):
            refuse()
        return self._conclude(changes, transaction, confirmation or AlwaysConfirmed(), otherwise=refuse)

    def _conclude(
        self,
        changes: list[Change],
        transaction: str,
        confirmation: Confirmation,
        *,
        otherwise: Callable[[Record], list[Outcome]],
    ) -> list[Outcome]:
        """Bring a transaction to its end: from where the record has it, else by `otherwise`."""
        with self._store.locked() as record:
            if not (isinstance(record.phase, Unconfirmed) and record.phase.transaction == transaction):
                self._roll_back(record)
            result = record.results.get(transaction)
            if result is not None and result.rolled_back is not None:
                return [result.rolled_back for _ in changes]
            try:
                outcomes = self._repeat(record, changes, result) if result is not None else otherwise(record)
                if isinstance(record.phase, Unconfirmed):
                    outcomes = self._confirm(record, record.phase, outcomes, confirmation)
            except EOFError:
                raise  # no provider is there to confirm: the process beside the agent knows what to do
            except Exception as error:
                # The record can't be written, say: what is half done must not wait for another agent.
                left: Mapping[str, HostnetError] = {}
                with contextlib.suppress(HostnetError):
                    left = self._roll_back(self._store.reload())
                confirmation.ended()
                if left and isinstance(error, HostnetError):
                    raise in_part(error, left.values()) from None
                raise
            confirmation.ended()
            if self.self_checks:
                check(record, self._subsystems)
            return outcomes

    def _apply(
        self, record: Record, changes: list[Change], transaction: str, confirmation: Confirmation
    ) -> list[Outcome]:
        admitted = self._admit(record, changes)
        for old, new in admitted.renamed.items():
            record.hand_over(old, new)
        if not admitted.pairs:
            return self._report(record, changes, admitted, Result(), admitted.snapshot)
        confirmation.begun(transaction)
        transition = self._applier.run(record, admitted.pairs, admitted.snapshot, admitted.replaced, admitted.after)
        for old, new in admitted.renamed.items():
            if new in transition.failed and old in record.owners:
                record.hand_over(new, old)
        record.phase = transition.unconfirmed(transaction) if confirmation.required else Idle()
        result = admitted.result(transition.failed)
        record.add_result(transaction, result)
        warnings = self._subsystems.commit(record)
        snapshot = self.kernel.snapshot() if transition.performed else admitted.snapshot
        return self._report(record, changes, admitted, result, snapshot, warnings)

    def _repeat(self, record: Record, changes: list[Change], result: Result) -> list[Outcome]:
        """The outcomes of changes that another agent applied, whose answer was lost."""
        admitted = self._admit(record, changes)
        return self._report(record, changes, admitted, result, admitted.snapshot)

    def _admit(self, record: Record, changes: list[Change]) -> Admitted:
        snapshot = replace(self.kernel.snapshot(), leased=self._subsystems.servers.leased())
        return self._admission.admit(changes, record, snapshot)

    def _report(
        self,
        record: Record,
        changes: list[Change],
        admitted: Admitted,
        result: Result,
        snapshot: Snapshot,
        warnings: tuple[str, ...] = (),
    ) -> list[Outcome]:
        """What became of each change.

        Args:
            record: As it is afterwards.
            changes: All of them.
            admitted: Those that were applied, and what became of the others.
            result: The errors.
            snapshot: The host as it is afterwards.
            warnings: About all of them; they go with the first outcome.
        """
        outcomes = dict(admitted.outcomes)
        for (number, owner), states in zip(
            admitted.owners.items(), self._queries.states(record, admitted.owners.values(), snapshot)
        ):
            notes = (admitted.notes[number],) if number in admitted.notes else ()
            mine = (*warnings, *left_alone(owner, World(record.owners, admitted.snapshot)))
            outcomes[number], warnings = View(owner.id, owner.objects, states, mine, notes), ()
        outcomes.update(result.errors)
        return [outcomes[number] for number in range(len(changes))]

    def _confirm(
        self, record: Record, phase: Unconfirmed, outcomes: list[Outcome], confirmation: Confirmation
    ) -> list[Outcome]:
        """Have the provider confirm a transaction, or roll it back."""
        reconnect = lockout.is_possible(record.owners, phase.pairs, lambda: self._closed(record))
        refusal = confirmation.request(outcomes, phase.transaction, reconnect=reconnect)
        if refusal:
            self._roll_back(record, refusal)
            error = record.results[phase.transaction].rolled_back
            return [each if isinstance(each, HostnetError) or error is None else error for each in outcomes]
        record.phase = Idle()
        self._subsystems.save(record)
        if not record.owners:
            self.persistence.sync(record)
        return outcomes

    def _closed(self, record: Record) -> set[str]:
        """The addresses of this host that do not answer to the outside."""
        return closed_addresses(context_of(record.owners, self.kernel.snapshot(), record.attached))

    def roll_back(self, transaction: str, seconds: float) -> bool:
        """Roll back a transaction that its provider did not confirm.

        Args:
            transaction: The provider's number for it.
            seconds: For how long no confirmation came.

        Returns:
            Whether its provider may come back to ask: it was applied. Where an agent died half way, its provider knows
            that already.
        """
        with self._store.locked() as record:
            phase = record.phase
            if not isinstance(phase, Open) or (isinstance(phase, Unconfirmed) and phase.transaction != transaction):
                return False
            then = RolledBack(phase.transaction) if isinstance(phase, Unconfirmed) else Idle()
            self._roll_back(record, f"the provider did not confirm it within {seconds:g} s", then)
            return isinstance(then, RolledBack)

    def forget(self, transaction: str) -> None:
        """Keep the result of a transaction that was rolled back no longer: its provider has not come back."""
        with self._store.locked() as record:
            if record.phase == RolledBack(transaction):
                record.phase = Idle()
                self._subsystems.save(record)

    def take_over(self, pid: int, started: int, transaction: str = "") -> None:
        """See `handover.take_over`."""
        take_over(self._store, pid, started, transaction)

    def _roll_back(self, record: Record, reason: str = "", then: Phase | None = None) -> Mapping[str, HostnetError]:
        """Go back to what was before the transaction that is open.

        Returns:
            By owner, why it has not all that it had.
        """
        return self._restorer.roll_back(record, reason, then or Idle())

    def follow(self) -> list[str]:
        """Follow the default routes; see `follow.follow`."""
        with self._store.locked() as record:
            self._roll_back(record)
            return follow(record, self._subsystems, self._applier)

    def restore(self) -> int:
        """Put back all that is recorded, as at boot.

        Returns:
            How many owners there are.

        Raises:
            HostnetError: Some of it could not be put back.
        """
        with self._store.locked() as record:
            self._roll_back(record)
            pairs: Pairs = {key: (None, owner) for key, owner in record.owners.items()}
            if not pairs:
                return 0
            failed = self._restorer.run(record, pairs, self.kernel.snapshot()).failed
            self._subsystems.commit(record)
            if failed:
                why = "; ".join(str(error) for error in failed.values())
                raise HostnetError(Code.PARTIAL, f"could not restore {len(failed)} of {len(pairs)} resources", why)
            return len(pairs)
