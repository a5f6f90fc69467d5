"""One step of the watcher: attach what globs match and nobody attached yet, and nothing else.

What is about to be attached is written down first, in a line beside the record: should the watcher die in between, the
delete of the TapBinding still detaches exactly what it attached. While links keep appearing they are attached; what
can wait (the record itself, hairpin mode, our table) is done once, when no more come.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from hostnet.agent.linux import operations as ops
from hostnet.agent.linux.kernel import Kernel
from hostnet.agent.linux.libnftables import MissingLibraryError, NftError
from hostnet.agent.linux.link_events import Changes
from hostnet.agent.linux.operations import Step
from hostnet.agent.linux.rtnetlink import LinuxKernel
from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.nft.context import context_of, ports_of
from hostnet.agent.nft.table import Compiler, Table
from hostnet.agent.plan.links import Plan, glob_members, glob_steps, hairpin
from hostnet.agent.plan.world import World
from hostnet.agent.record.owners import Owners
from hostnet.agent.record.record import Record, Store
from hostnet.wire.objects import Glob

_ROUNDS = 100  # of looks at what appeared, before others get their turn at the host
Globs = tuple[tuple[str, Glob], ...]  # by their owners' keys
More = Callable[[], "Changes | None"]


@dataclass
class Report:
    """What was done, for the log.

    :param done: no glob is recorded any more; there is nothing to follow.
    :param missed: something happened that nobody told of: everything has to be looked at.
    """

    done: bool = False
    missed: bool = False
    lines: list[str] = field(default_factory=list)


def globs_of(owners: Owners) -> Globs:
    """The globs that are to be followed."""
    return tuple(
        (owner.key, item)
        for owner in owners.structural.values()
        if Glob in owner.kinds
        for item in owner.objects
        if isinstance(item, Glob)
    )


class Follower:
    """Attaches, in the network namespace that the process is in when this is made."""

    def __init__(self, store: Store, kernel: Kernel | None = None, table: Table | None = None) -> None:
        self._store = store
        self.kernel = kernel or LinuxKernel()
        self._table = table or Table()
        self._compiler = Compiler()

    def follow(self, changes: Changes, more: More = lambda: None) -> Report:
        """Attach what matches, let go what matches no more.

        :param changes: since the last call; where some were missed, all links are looked at.
        :param more: gives those that came in the meantime; None where there are none.
        :raises OSError: where it can't be written down; nothing more is attached then.
        """
        report = Report()
        with self._store.locked() as record:
            globs = globs_of(record.owners)
            if not globs:
                report.done = True
                self._leave(record)
                return report
            before = dict(record.attached)
            joined = self._round(record, globs, changes, report)
            for latest in itertools.islice(iter(more, None), _ROUNDS):
                if latest.missed:
                    report.missed = True
                    break
                joined |= self._round(record, globs, latest, report)
            if joined or record.attached != before:
                self._store.save(record)
            self._settle(record, before, joined, report)
        return report

    def _round(self, record: Record, globs: Globs, changes: Changes, report: Report) -> set[str]:
        """Attach and let go; gives what was attached, or was about to be."""
        after = self._release(globs, record.attached, changes.renamed, report)
        snapshot = self.kernel.snapshot() if changes.missed else self._glimpse(globs, changes.appeared)
        look = set(snapshot.links) if changes.missed else changes.appeared & set(snapshot.links)
        for name in list(after) if changes.missed else changes.gone:
            if name in after and name not in snapshot.links and not self._exists(name):
                del after[name]
        plan = plan_links(globs, World(record.owners, snapshot), after, look, report)
        record.attached = after
        if plan.attached:
            self._store.journal_attached(record, plan.attached)
        for name in self._perform(plan.build, report):
            del record.attached[name]
        return set(plan.attached)

    def _exists(self, name: str) -> bool:
        return bool(self.kernel.glimpse([name]).links)

    def _glimpse(self, globs: Globs, names: Iterable[str]) -> Snapshot:
        """As much of the host as a decision about these links takes: its hundred other TAPs cost time."""
        return self.kernel.glimpse({*names, *(item.bridge for _, item in globs)})

    def _leave(self, record: Record) -> None:
        """Where the record is gone, taking its lock made its file anew."""
        if not record.owners:
            self._store.save(record)

    def _release(
        self, globs: Globs, attached: Mapping[str, str], renamed: Mapping[str, str], report: Report
    ) -> dict[str, str]:
        """Members must match: a link that is called otherwise now is let go, unless its glob takes that name, too."""
        after = dict(attached)
        known = dict(globs)
        snapshot = self.kernel.snapshot() if any(old in attached for old in renamed) else Snapshot()
        for old, new in renamed.items():
            key = after.pop(old, None)
            item = known.get(key or "")
            if item is None or key is None or snapshot.master_of(new) != item.bridge:
                continue
            if fnmatch.fnmatchcase(new, item.pattern):
                after[new] = key
                report.lines.append(f"{old}, in {item.bridge}, is called {new} now")
                continue
            try:
                self.kernel.perform(ops.SetLink(new, bridge=""))
            except OSError as error:
                report.lines.append(f"{new}, which was {old}, can't be let go: {_why(error)}")
            else:
                report.lines.append(f"let {new} go, which was {old}: it does not fit {item.pattern} any more")
        return after

    def _perform(self, steps: Iterable[Step], report: Report) -> set[str]:
        """Link by link, so that one that goes away in the middle keeps no other from its bridge.

        :returns: those that are not attached. One that had joined its bridge when its name was gone is: it was renamed
            at that moment, or deleted, and which of the two the kernel is about to tell.
        """
        failed: dict[str, str] = {}
        done: dict[str, list[Step]] = {}
        for step in steps:
            name = _link_of(step)
            if name in failed:
                continue
            try:
                self.kernel.perform(step.operation)
            except OSError as error:
                failed[name] = f"can't {step.operation}: {_why(error)}"
                if error.errno != errno.ENODEV:
                    self._undo(done.pop(name, ()))
            else:
                done.setdefault(name, []).append(step)
        joined = dict(filter(None, map(_joining, steps)))
        report.lines += [f"attached {name} to {bridge}" for name, bridge in joined.items() if name in done]
        report.lines += failed.values()
        return set(failed) - set(done)

    def _undo(self, steps: Iterable[Step]) -> None:
        for step in reversed(list(steps)):
            for operation in step.undo:
                with contextlib.suppress(OSError):  # it went away
                    self.kernel.perform(operation)

    def _settle(self, record: Record, before: Mapping[str, str], joined: set[str], report: Report) -> None:
        """What can wait: ports in hairpin mode, where a forward leads back to its guest, and our table that knows them.

        The table comes first: it drops what hairpin mode would send back to where it came from.
        """
        owners = record.owners
        old, new = ports_of(owners, before), ports_of(owners, record.attached)
        if old != new or new & joined:
            snapshot = self.kernel.snapshot()
            self._reflect(record, before, snapshot, report)
            plan = Plan()
            hairpin("", (), (new - old) | (new & joined), snapshot, plan)
            self._perform(plan.build, report)

    def _reflect(self, record: Record, before: Mapping[str, str], snapshot: Snapshot, report: Report) -> None:
        owners = record.owners
        old, new = (context_of(owners, snapshot, attached) for attached in (before, record.attached))
        comments = {key: owner.comment for key, owner in owners.items()}
        try:
            was, shall = self._compiler.desired(owners, old), self._compiler.desired(owners, new)
            mark = self._table.sync(was, shall, comments, record.table)
            mark = replace(mark, observed=record.table.observed)
        except (NftError, MissingLibraryError) as error:
            report.lines.append(f"ports in hairpin mode can't be noted in nftables: {str(error).splitlines()[0]}")
            return
        if mark != record.table:
            record.table = mark
            self._store.save(record)


def plan_links(globs: Globs, world: World, attached: Mapping[str, str], look: set[str], report: Report) -> Plan:
    """The steps for links among `look` that are not attached yet; and what is left alone, for the log. Pure."""
    into = Plan()
    snapshot = world.snapshot
    for key, item in globs:
        if item.bridge not in snapshot.links:
            fitting = (name for name in sorted(look) if fnmatch.fnmatchcase(name, item.pattern))
            report.lines += [f"{name} fits {item.pattern}, but there is no bridge {item.bridge}" for name in fitting]
            continue
        mine = Plan()
        glob_steps(key, item, world, attached, mine)
        fresh = {
            name
            for name in mine.attached
            if name in look and name not in into.attached and snapshot.master_of(name) != item.bridge
        }
        into.build += [step for step in mine.build if _link_of(step) in fresh]
        into.attached.update(dict.fromkeys(fresh, key))
        report.lines += _left(item, snapshot, look)
    return into


def _left(item: Glob, snapshot: Snapshot, look: set[str]) -> Iterator[str]:
    """What fits and is not attached."""
    for name in glob_members(item, snapshot)[1]:
        if name in look:
            yield f"left {name}, which fits {item.pattern}, in {snapshot.master_of(name)}"
    for name in sorted(look):
        if name == item.bridge or not fnmatch.fnmatchcase(name, item.pattern):
            continue
        if name in snapshot.uplinks:
            yield f"left {name}, which fits {item.pattern}: it has the default route"
        elif snapshot.links[name].physical:
            yield f"left {name}, which fits {item.pattern}: it is a physical interface"


def _link_of(step: Step) -> str:
    return step.operation.name if isinstance(step.operation, ops.SetLink) else ""


def _joining(step: Step) -> tuple[str, str] | None:
    """The link and the bridge, where this step brings them together."""
    operation = step.operation
    return (operation.name, operation.bridge) if isinstance(operation, ops.SetLink) and operation.bridge else None


def _why(error: OSError) -> str:
    return f"{errno.errorcode.get(error.errno or 0, 'error')}: {os.strerror(error.errno or 0)}"
