"""One step for many wishes: observe, resolve, plan, apply, record, report, under the host's lock.

A wish that fails is undone and fails alone; the others commit. Before the first operation the record says what was
and what shall be (`pending`), so that an agent that dies half way is cleaned up after by the next one.

`admission` says which wishes are granted, `transition` brings the host from here to there, `seeing` reports.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from hostnet.agent.linux.process import Process
from hostnet.agent.observe.view import see
from hostnet.agent.record.owners import Owner
from hostnet.agent.record.record import ALL, Record
from hostnet.agent.transaction import lockout
from hostnet.agent.transaction.admission import Admission, left_alone
from hostnet.agent.transaction.apply import Applier
from hostnet.agent.transaction.queries import Queries
from hostnet.agent.transaction.subsystems import Outcome, Pairs, Subsystems
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import Forward, Gateway, Object
from hostnet.wire.requests import Change, View

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


class Host:
    """This host (or namespace) as the agent holds it."""

    def __init__(self, parts: Subsystems, via: str | None = None) -> None:
        self._store, self._subsystems, self.persistence = parts.store, parts, parts.persistence
        self.kernel, self.table = parts.kernel, parts.table
        self._admission = Admission(parts, via)
        self._applier = Applier(parts)
        self._queries = Queries(parts, self._applier)
        self.read, self.facts = self._queries.read, self._queries.facts

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
        snapshot = replace(self.kernel.snapshot(), leased=self._subsystems.servers.leased())
        outcomes: dict[int, Outcome] = {}
        admitted, pairs = self._admission.admit(changes, record, snapshot, outcomes, repeated=repeated)
        if pairs and not repeated:
            note = _note(record, transaction, admitted, outcomes)
            confirmation.begun(transaction)
            unconfirmed = transaction if confirmation.asks else ""
            self._applier.run(record, pairs, snapshot, note=note, unconfirmed=unconfirmed)
        observation = self._queries.observation(record, self.kernel.snapshot(), None)
        for index, owner in admitted.items():
            warnings = (*self._applier.take_notices(), *left_alone(changes[index], record.owners))
            outcomes[index] = View(owner.id, owner.objects, see(owner, observation), warnings)
        for number, error in record.outcomes.get(transaction, {}).items():
            outcomes[int(number)] = HostnetError.from_json(error)
        return [outcomes[index] for index in range(len(changes))]

    def _settle(self, record: Record, told: list[Outcome], confirmation: Confirmation) -> list[Outcome]:
        """Have it confirmed by the provider, or undo it."""
        transaction = record.unconfirmed
        refusal = confirmation.ask(told, transaction, anew=lockout.may_take(_moved(record), lockout.ssh_port()))
        if refusal:
            self.recover(record, refusal)
            undone = record.outcomes[transaction][ALL]
            told = [each if isinstance(each, HostnetError) else HostnetError.from_json(undone) for each in told]
        else:
            record.finish()
            self._applier.save(record)
            if not record.owners:
                self.persistence.sync(record)
        return told

    def undo(self, transaction: str, seconds: float) -> bool:
        """Undo a transaction that nobody confirmed, for whoever watched over it.

        :param seconds: for how long nobody did.
        :returns: whether its provider may come back to ask: it was applied. What an agent died of half way is its
            provider's to tell, which knows how.
        """
        with self._store.locked() as record:
            if record.pending is None or record.unconfirmed not in ("", transaction):
                return False
            record.undone = record.unconfirmed
            self.recover(record, f"nothing was heard of the provider for {seconds:g} s after it")
            return bool(record.undone)

    def forget(self, transaction: str) -> None:
        """Keep the fate of an undone transaction no longer, for a provider that has not come back."""
        with self._store.locked() as record:
            if record.undone == transaction:
                record.undone = ""
                self._applier.save(record)

    def replace_agent(self, pid: int, started: int, transaction: str = "") -> None:
        """End the agent that this one takes over from, if it lives: what it was told last must not come later.

        It is not in mid-transaction then: it does not hold the lock, or waits for a confirmation that now comes here.

        :param pid: its process.
        :param started: when that started, in clock ticks since the boot: with the number, its identity.
        :param transaction: the one that this is about.
        """

        def end() -> None:
            if pid != os.getpid():
                Process(pid, started).kill()

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

    def recover(self, record: Record, why: str = "") -> None:
        """See `Applier.recover`."""
        if record.pending is not None:
            self._admission.undone(record.pending)
            self._applier.recover(record, why)

    def restore(self) -> int:
        """Put back all that is recorded, as at boot; gives how many owners there are."""
        with self._store.locked() as record:
            self.recover(record)
            pairs: Pairs = {key: (None, owner) for key, owner in record.owners.items()}
            failed = self._applier.run(record, pairs, self.kernel.snapshot(), exact=True) if pairs else {}
            if failed:
                left = "; ".join(str(error) for error in failed.values())
                raise HostnetError(Code.PARTIAL, f"{len(failed)} of {len(pairs)} could not be restored", left)
            return len(pairs)


def _moved(record: Record) -> list[Object]:
    """What takes something since the change that waits, or takes it elsewhere: forwards go where their gateway goes."""
    pairs = (record.pending or {}).values()
    had = {item for old, _ in pairs if old for item in old.objects}
    has = {item for _, new in pairs if new for item in new.objects}
    gateways = {item.name for item in had ^ has if isinstance(item, Gateway)}
    items = (item for owner in record.owners.values() for item in owner.objects)
    return [*(has - had), *(item for item in items if isinstance(item, Forward) and item.gateway in gateways)]


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
