"""How far the transaction on a host is, and what became of the latest ones: as the record keeps it.

- `Idle` becomes `Pending` when a transaction begins, and `Unconfirmed` when it is applied.
- `Unconfirmed` becomes `Idle` when its provider confirms it.
- `Pending` whose agent died, and `Unconfirmed` that is refused, are rolled back: to `Idle`, or to `RolledBack` where no
  provider answered in time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional, Union

from hostnet.agent.linux import operations
from hostnet.agent.linux.operations import Operation
from hostnet.agent.record.originals import Originals
from hostnet.agent.record.owners import Owner
from hostnet.wire.errors import HostnetError

Pairs = dict[str, tuple[Optional[Owner], Optional[Owner]]]  # by owner's key: what it had, what it should have
Json = dict[str, Any]
_ALL = "*"  # in a record of format 1: the error of every change


@dataclass(frozen=True)
class Idle:
    """No transaction is open."""


@dataclass(frozen=True)
class Pending:
    """A transaction is being applied. Where an agent gets the host's lock and finds this, another one died half way.

    Attributes:
        pairs: What each owner had, and what it should have.
        undo: What takes the links back to where they were, in order.
    """

    pairs: Pairs
    undo: tuple[Operation, ...] = ()


@dataclass(frozen=True)
class Unconfirmed:
    """A transaction is applied, and counts only once its provider has confirmed it.

    Attributes:
        transaction: The provider's number for it.
        pairs: As in `Pending`, of what is applied.
        undo: As in `Pending`.
        originals: What the record had to put back before. An agent that dies in a rollback has set sysctls and MTUs
            again; the next one would take them for what was there before hostnet.
    """

    transaction: str
    pairs: Pairs
    undo: tuple[Operation, ...] = ()
    originals: Originals = field(default_factory=Originals)


@dataclass(frozen=True)
class RolledBack:
    """A transaction that was not confirmed is rolled back, and its provider may come back to ask what became of it.

    Until then the record is kept, also where it holds nothing else.

    Attributes:
        transaction: The provider's number for it.
    """

    transaction: str


Open = (Pending, Unconfirmed)
Phase = Union[Idle, Pending, Unconfirmed, RolledBack]


@dataclass(frozen=True)
class Result:
    """What became of a transaction, for a provider that lost the connection before it heard of it.

    Attributes:
        errors: By the number of the change; a change that is not among them was applied.
        rolled_back: The error of every change, where all was rolled back.
    """

    errors: Mapping[int, HostnetError] = field(default_factory=dict)
    rolled_back: HostnetError | None = None

    def to_json(self) -> Json:
        """As the record keeps it."""
        data: Json = {"errors": {str(number): error.to_json() for number, error in self.errors.items()}}
        if self.rolled_back is not None:
            data["rolledBack"] = self.rolled_back.to_json()
        return data

    @classmethod
    def from_json(cls, data: Json) -> Result:
        """The result that `to_json` wrote."""
        errors = {int(number): HostnetError.from_json(error) for number, error in data["errors"].items()}
        rolled_back = data.get("rolledBack")
        return cls(errors, rolled_back and HostnetError.from_json(rolled_back))

    @classmethod
    def from_format_1(cls, data: Json) -> Result:
        """The result in a record of format 1: errors by number, or one by `*`."""
        if _ALL in data:
            return cls(rolled_back=HostnetError.from_json(data[_ALL]))
        return cls.from_json({"errors": data})


def to_json(phase: Phase) -> Json:
    """A phase as the record keeps it."""
    data: Json = {"name": _NAMES[type(phase)]}
    if isinstance(phase, (Unconfirmed, RolledBack)):
        data["transaction"] = phase.transaction
    if isinstance(phase, Open):
        data["pairs"] = {key: [owner and owner.line for owner in pair] for key, pair in phase.pairs.items()}
        data["undo"] = [operations.to_json(each) for each in phase.undo]
    if isinstance(phase, Unconfirmed):
        data["originals"] = phase.originals.to_json()
    return data


def from_json(data: Json) -> Phase:
    """The phase that `to_json` wrote."""
    cls = _PHASES[data["name"]]
    values: Json = {"transaction": data["transaction"]} if "transaction" in data else {}
    if "pairs" in data:
        values["pairs"] = _pairs(data["pairs"])
        values["undo"] = tuple(map(operations.from_json, data["undo"]))
    if "originals" in data:
        values["originals"] = Originals.from_json(data["originals"])
    made: Phase = cls(**values)
    return made


def from_format_1(header: Json) -> Phase:
    """The phase in a record of format 1, where it was spread over `pending`, `undo`, `unconfirmed` and `undone`."""
    if header["pending"] is not None:
        pairs, undo = _pairs(header["pending"]), tuple(map(operations.from_json, header.get("undo", ())))
        transaction = header.get("unconfirmed", "")
        return Unconfirmed(transaction, pairs, undo) if transaction else Pending(pairs, undo)
    return RolledBack(header["undone"]) if header.get("undone") else Idle()


def _pairs(data: Mapping[str, Any]) -> Pairs:
    return {key: (old and Owner.parse(old), new and Owner.parse(new)) for key, (old, new) in data.items()}


_PHASES: dict[str, Any] = {"idle": Idle, "pending": Pending, "unconfirmed": Unconfirmed, "rolled back": RolledBack}
_NAMES = {cls: name for name, cls in _PHASES.items()}
