"""Takes owners to what they should have. What fails is undone and fails alone; the others go on."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping

from hostnet.agent.linux.conntrack import Flows
from hostnet.agent.linux.operations import Step
from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.nft.context import context_of
from hostnet.agent.record.owners import Owners
from hostnet.agent.record.phase import Pairs, Pending
from hostnet.agent.record.record import Record
from hostnet.agent.transaction.kernel_errors import OwnerError, in_part, kernel_error, reason_of
from hostnet.agent.transaction.subsystems import Subsystems
from hostnet.agent.transaction.sync import Synchronizer
from hostnet.agent.transaction.transition import Transition, attached_after
from hostnet.wire.errors import HostnetError


class Applier:
    """Of one host."""

    def __init__(self, subsystems: Subsystems) -> None:
        self._subsystems = subsystems
        self._sync = Synchronizer(subsystems)

    def run(
        self,
        record: Record,
        pairs: Pairs,
        snapshot: Snapshot,
        replaced: Mapping[str, str] | None = None,
        after: Owners | None = None,
    ) -> Transition:
        """Take owners from old to new.

        The record is on disk as `Pending` when the first operation is performed. It is left so: the caller ends the
        phase, and commits.

        Args:
            record: The host's.
            pairs: What each owner has, and what it should have.
            snapshot: The host as it is.
            replaced: By the key of an owner that goes, the key of the one that is created instead. If that one fails,
                the other one stays: with `pulumi up --replace` it is what the state has.
            after: All owners afterwards, where they are known already.

        Returns:
            What was done, with the errors of those that failed.

        Raises:
            HostnetError: The record can't be written; nothing is changed then.
        """
        transition = Transition.plan(record, pairs, snapshot, after)
        transition.replaced = replaced or {}
        record.phase = Pending(pairs, transition.links.undo)
        # The agent that finishes or undoes this has to know what the sysctls were.
        after = transition.owners
        self._subsystems.sysctls.remember(record, after, context_of(after, snapshot, record.attached), snapshot)
        self._sync.prepare_routing(transition)
        transition.originals = record.originals()
        self._subsystems.save(record)
        self._subsystems.persistence.declare_unmanaged(owner for _, owner in pairs.values() if owner is not None)
        record.attached = attached_after(record.attached, transition.links, ())
        flows = self._sync_table(transition)
        self._perform(transition, transition.links.build)
        self._sync_all(transition, verify=bool(transition.failed), flows=flows)
        self._perform(transition, transition.links.remove)
        if transition.failed:
            self._sync_all(transition, verify=True)  # those that failed late go back as well
        transition.conclude(undone=transition.failed)
        return transition

    def _perform(self, transition: Transition, steps: Iterable[Step]) -> None:
        for step in steps:
            if step.owner in transition.failed:
                continue
            transition.performed = True
            try:
                self._subsystems.kernel.perform(step.operation)
            except (OSError, LookupError) as error:
                self._undo(transition, step.owner, kernel_error(step.operation, error))
            else:
                transition.done.setdefault(step.owner, []).append(step)

    def _undo(self, transition: Transition, key: str, error: HostnetError) -> None:
        """Undo what was done for an owner, the last step first. Go on where one can't be undone, and say so."""
        left = []
        for step in reversed(transition.done.pop(key, [])):
            for operation in step.undo:
                try:
                    self._subsystems.kernel.perform(operation)
                except OSError as refusal:
                    if refusal.errno != errno.ENODEV:  # gone already
                        left.append(f"{operation}: {reason_of(refusal)}")
        if left:
            error = in_part(error, left)
        transition.failed[key] = error
        for other, successor in transition.replaced.items():
            if successor == key and other not in transition.failed:
                self._undo(transition, other, error)

    def _sync_table(self, transition: Transition) -> list[Flows]:
        """Our table, before the links: a guest whose TAP comes up is checked from its first frame.

        Nor is anything forwarded, or accepted by another firewall, before our rules are there.

        Returns:
            The flows to forget afterwards.
        """
        try:
            return self._sync.table(transition, transition.pairs, transition.owners, verify=False)
        except OwnerError as failure:
            for key in _at_fault(transition, failure):
                self._undo(transition, key, failure.error)
            return []

    def _sync_all(self, transition: Transition, *, verify: bool, flows: Iterable[Flows] = ()) -> None:
        """The sysctls, DHCP servers, others' firewalls; an owner that can't have its part of one fails.

        Args:
            transition: Our table is as it needs it, unless an owner has failed.
            verify: Whether one has: our table is first, and compared with what the host has.
            flows: Those to forget afterwards.
        """
        pairs, flows = transition.pairs, list(flows)
        for _ in range(len(pairs) + 1):
            owners = transition.owners
            try:
                if verify:
                    flows += self._sync.table(transition, pairs, owners, verify=True)
                self._sync.sysctls(transition, pairs, owners)
                self._sync.routing(transition, pairs, owners)
                self._sync.proxies(transition, pairs, owners)
                self._sync.servers(transition, pairs, owners)
                self._sync.firewalls(transition, pairs, owners, verify=verify)
            except OwnerError as failure:
                for key in _at_fault(transition, failure):
                    self._undo(transition, key, failure.error)
                verify = True
                continue
            # After the rules: the next packet of a flow that was forgotten before would be tracked by the old ones
            # again (moby#8795).
            self._subsystems.kernel.forget(flows, transition.snapshot.local)
            return


def _at_fault(transition: Transition, failure: OwnerError) -> list[str]:
    """The owners that fail now: those that the failure names, or, where it names none that is left, all.

    Raises:
        HostnetError: All have failed already.
    """
    left = [key for key in transition.pairs if key not in transition.failed]
    if not left:
        raise failure.error from None
    return [key for key in failure.keys if key in left] or left
