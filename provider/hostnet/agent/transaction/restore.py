"""Takes a host back to what is recorded, or to what was before a transaction.

Unlike a change that a resource asks for, this is right whatever fails: each owner gets all that it can have, stays
recorded, and the next boot or `pulumi up` tries the rest again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Callable

from hostnet.agent.linux.operations import Step
from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.plan.links import Plan
from hostnet.agent.record.phase import Idle, Open, Pairs, Phase, Result, Unconfirmed
from hostnet.agent.record.record import Record
from hostnet.agent.transaction.kernel_errors import OwnerError, kernel_error
from hostnet.agent.transaction.subsystems import Subsystems
from hostnet.agent.transaction.sync import Synchronizer
from hostnet.agent.transaction.transition import Transition, attached_after
from hostnet.wire.errors import Code, HostnetError

_IDLE = Idle()


class Restorer:
    """Of one host."""

    def __init__(self, subsystems: Subsystems) -> None:
        self._subsystems = subsystems
        self._sync = Synchronizer(subsystems)

    def run(self, record: Record, pairs: Pairs, snapshot: Snapshot) -> Transition:
        """Take owners to what they should have, as far as each can have it. The caller commits.

        Returns:
            What was done; those that failed are changed in part.
        """
        transition = Transition.plan(record, pairs, snapshot)
        self._subsystems.persistence.declare_unmanaged(owner for _, owner in pairs.values() if owner is not None)
        record.attached = attached_after(record.attached, transition.links, ())
        # Before the links: a guest whose TAP comes up is checked from its first frame.
        self._sync_table(transition)
        self._perform(transition, transition.links.build)
        self._sync_each(transition)
        self._perform(transition, transition.links.remove)
        transition.conclude()
        return transition

    def roll_back(self, record: Record, reason: str = "", then: Phase = _IDLE) -> dict[str, HostnetError]:
        """Go back to what was before the transaction that is open, if one is.

        Args:
            record: The host's.
            reason: Why, for a provider that asks later.
            then: The phase afterwards.

        Returns:
            By owner, why it did not get back all that it had.

        Raises:
            HostnetError: The record can't be written.
        """
        phase = record.phase
        if not isinstance(phase, Open):
            return {}
        for operation in phase.undo:
            # What was not done yet can't be undone, and that is fine.
            with contextlib.suppress(OSError, LookupError):
                self._subsystems.kernel.perform(operation)
        if isinstance(phase, Unconfirmed):
            record.take_back(phase.originals)
        transition = self.run(record, _reversed(record, phase.pairs), self._subsystems.kernel.snapshot())
        record.phase = then
        if isinstance(phase, Unconfirmed):
            error = _rolled_back(reason or "its agent ended before it was confirmed", transition.failed.values())
            record.add_result(phase.transaction, Result(rolled_back=error))
        self._subsystems.commit(record)
        return transition.failed

    def renew_table(self, record: Record, snapshot: Snapshot) -> None:
        """Replace our tables where hostnet made them otherwise than the record says: see `Table.outdated`.

        Before a read: their sets may have other names, and all forwards would look deleted.

        Args:
            record: The host's.
            snapshot: The host as it is.

        Raises:
            HostnetError: The record can't be written.
        """
        if not self._subsystems.table.outdated(record.table):
            return
        transition = Transition(record, {}, snapshot, record.owners, record.attached, Plan())
        with contextlib.suppress(OwnerError):  # the read shows what is missing, and the next change says why
            self._sync.table(transition, {}, record.owners, verify=False)
            self._subsystems.save(record)

    def _perform(self, transition: Transition, steps: Iterable[Step]) -> None:
        for step in steps:
            try:
                self._subsystems.kernel.perform(step.operation)
            except (OSError, LookupError) as error:
                _fail_in_part(transition, step.owner, kernel_error(step.operation, error))

    def _sync_table(self, transition: Transition) -> None:
        """Our table, with all owners that can have their part of it."""
        owners = transition.owners

        def table(pairs: Pairs) -> None:
            there = owners.copy()
            for key in transition.pairs.keys() - pairs.keys():
                there.remove(key)
            flows = self._sync.table(transition, pairs, there, verify=True)
            self._subsystems.kernel.forget(flows, transition.snapshot.local)

        self._sync_one(transition, table)

    def _sync_each(self, transition: Transition) -> None:
        """The sysctls, DHCP servers, others' firewalls, each by itself.

        An owner that can't have its part of one keeps its parts of the others.
        """
        owners = transition.owners
        self._sync_one(transition, lambda pairs: self._sync.sysctls(transition, pairs, owners))
        self._sync_one(transition, lambda pairs: self._sync.routing(transition, pairs, owners))
        self._sync_one(transition, lambda pairs: self._sync.proxies(transition, pairs, owners))
        self._sync_one(transition, lambda pairs: self._sync.servers(transition, pairs, owners))
        self._sync_one(transition, lambda pairs: self._sync.firewalls(transition, pairs, owners, verify=True))

    def _sync_one(self, transition: Transition, sync: Callable[[Pairs], None]) -> None:
        pairs = dict(transition.pairs)
        for _ in range(len(pairs) + 1):
            try:
                sync(pairs)
            except OwnerError as failure:
                at_fault = [key for key in failure.keys if key in pairs]
                for key in at_fault or pairs:
                    _fail_in_part(transition, key, failure.error)
                if not at_fault:
                    return
                pairs = {key: pair for key, pair in pairs.items() if key not in at_fault}
            else:
                return


def _fail_in_part(transition: Transition, key: str, error: HostnetError) -> None:
    """An owner does not get all that it should have. The first error is kept."""
    transition.failed.setdefault(key, HostnetError(Code.PARTIAL, error.what, error.why, error.fix))


def _reversed(record: Record, pairs: Pairs) -> Pairs:
    """The pairs that lead back. From here on the record has what there may be of the transaction."""
    back: Pairs = {}
    for key, (old, new) in pairs.items():
        if new is not None:
            record.owners[key] = new
        if old is not None and old.key != key:  # its URN changed, and it gets the former one back
            back[key] = (None, None)
            record.hand_over(key, old.key)
        back[old.key if old is not None else key] = (new, old)
    return back


def _rolled_back(reason: str, failed: Iterable[HostnetError]) -> HostnetError:
    left = "; ".join(map(str, failed))
    return HostnetError(
        Code.ROLLED_BACK,
        "rolled the change back",
        f"{reason}; the rollback failed in part: {left}" if left else reason,
        "It may have made the host unreachable: look for what takes the host's address, its route to you or its SSH "
        "port, in this change and in those applied together with it. Where the host is only slow, raise the provider's "
        "confirmTimeout",
    )
