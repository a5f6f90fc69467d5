"""For tests, and for whoever looks for a fault: what an agent keeps up is as a new agent would make it."""

from __future__ import annotations

from typing import Any

from hostnet.agent.nft.context import Context, context_of
from hostnet.agent.nft.desired import ClashError, Compiler
from hostnet.agent.nft.table import Table
from hostnet.agent.record.owners import Owners
from hostnet.agent.record.record import Record, Store
from hostnet.agent.transaction.subsystems import Subsystems

_MOST_OWNERS = 300  # it costs what all owners have


def check(record: Record, subsystems: Subsystems) -> None:
    """Compare after a transaction, whose lock is held still.

    Args:
        record: As this agent has it.
        subsystems: What it works with.

    Raises:
        AssertionError: Something differs: a bug.
    """
    if len(record.owners) > _MOST_OWNERS:
        return
    path, snapshot = subsystems.store.path, subsystems.kernel.snapshot()
    new = Store(path.parent, path.stem, subsystems.store.instance).reload()
    if path.exists():  # else there is nothing to keep
        _check_same("the record", _plain(record), _plain(new))
    kept, made = (context_of(each.owners, snapshot, record.attached) for each in (record, new))
    _check_same("what elements depend on", kept, made)
    _check_held(record, subsystems.table)
    _check_same(
        "the elements",
        _elements(subsystems.compiler, record.owners, kept),
        _elements(Compiler(), new.owners, made),
    )


def _check_held(record: Record, table: Table) -> None:
    """Compare what the kernel's tables hold, unless another program changes them meanwhile."""
    held = table.held(record.table)
    if held is None:
        return
    listing = table.listing(fresh=True)
    elements, foreign = (listing.elements, listing.foreign(table.own)) if listing is not None else ({}, set())
    if table.held(record.table) is held:
        there = {place: value for place, value in elements.items() if place in held or place not in foreign}
        _check_same("what the tables hold", dict(held), there)


def _check_same(what: str, kept: object, made: object) -> None:
    if kept != made:
        raise AssertionError(f"{what} should be {made!r}, and is {kept!r}")


def _plain(record: Record) -> dict[str, Any]:
    claims = {key: urn for key, urn in record.claims.items() if key in record.owners}
    results = {transaction: result.to_json() for transaction, result in record.results.items()}
    return {**vars(record), "owners": list(record.owners.items()), "claims": claims, "results": results}


def _elements(compiler: Compiler, owners: Owners, context: Context) -> object:
    try:
        desired = compiler.desired(owners, context)
    except ClashError:
        return "a clash"
    return dict(desired.elements), {place: sorted(keys) for place, keys in desired.holders.items()}
