"""One step of the watcher: attach what globs match and nobody attached yet, and nothing else.

What is about to be attached is written down first: should the watcher die in between, the delete of the TapBinding
still detaches exactly what it attached.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from hostnet.agent import operations as ops
from hostnet.agent.context import context_of, ports_of
from hostnet.agent.kernel import Kernel
from hostnet.agent.nftables import MissingLibraryError, NftError
from hostnet.agent.operations import Step
from hostnet.agent.owners import Owners
from hostnet.agent.plan import Plan, glob_members, glob_steps, hairpin
from hostnet.agent.record import Record, Store
from hostnet.agent.resolve import World
from hostnet.agent.state import Snapshot
from hostnet.agent.table import Compiler, Table
from hostnet.objects import Glob

_MANY = 32  # links: from here on one list of all is quicker than a question for each
Globs = tuple[tuple[str, Glob], ...]  # by their owners' keys
Renamed = Mapping[str, str]  # old name -> new name


@dataclass
class Report:
    """What was done, for the log.

    :param done: no glob is recorded any more; there is nothing to follow.
    """

    done: bool = False
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

    def __init__(self, store: Store) -> None:
        self._store = store
        self.kernel = Kernel()
        self._table = Table()
        self._compiler = Compiler()

    def follow(self, appeared: Collection[str] | None, renamed: Renamed, gone: Iterable[str] = ()) -> Report:
        """Attach what matches, let go what matches no more.

        :param appeared: the links to look at; None: all.
        :param renamed: links that have another name since the last call.
        :param gone: links that went since then, if not all are looked at.
        :raises OSError: where the record can't be written; nothing is attached then.
        """
        report = Report()
        with self._store.locked() as record:
            globs = globs_of(record.owners)
            if not globs:
                report.done = True
                self._leave(record)
                return report
            before = dict(record.attached)
            after = self._release(globs, before, renamed, report)
            snapshot = self._look(appeared)
            look = set(snapshot.links) if appeared is None else set(appeared) & set(snapshot.links)
            for name in list(after) if appeared is None else gone:
                if name in after and name not in snapshot.links and not _exists(name):
                    del after[name]
            plan = plan_links(globs, World(record.owners, snapshot), after, look, report)
            after.update(plan.attached)
            if after == before and not plan.build:
                return report
            _hairpin(record.owners, before, after, snapshot, plan)
            if after != before:
                self._note(record, after)
            failed = self._perform(plan, report)
            if failed:
                self._note(record, {name: key for name, key in after.items() if name not in failed})
            if ports_of(record.owners, before) != ports_of(record.owners, record.attached):
                self._reflect(record, before, report)
        return report

    def _look(self, names: Collection[str] | None) -> Snapshot:
        """As much of the host as a decision about these links takes: its hundred other TAPs cost time."""
        return self.kernel.snapshot() if names is None or len(names) > _MANY else self.kernel.glimpse(names)

    def _leave(self, record: Record) -> None:
        """Where the record is gone, taking its lock made its file anew."""
        if not record.owners:
            self._store.save(record)

    def _note(self, record: Record, attached: dict[str, str]) -> None:
        old, record.attached = record.attached, attached
        try:
            self._store.save(record)
        except OSError:
            record.attached = old
            raise

    def _release(self, globs: Globs, attached: Mapping[str, str], renamed: Renamed, report: Report) -> dict[str, str]:
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

    def _perform(self, plan: Plan, report: Report) -> set[str]:
        """Link by link, so that one that goes away in the middle keeps no other from its bridge.

        :returns: those that are not attached. One that had joined its bridge when its name was gone is: it was renamed
            at that moment, or deleted, and which of the two the kernel is about to tell.
        """
        failed: dict[str, str] = {}
        done: dict[str, list[Step]] = {}
        for step in plan.build:
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
        joined = dict(filter(None, map(_joining, plan.build)))
        report.lines += [f"attached {name} to {bridge}" for name, bridge in joined.items() if name in done]
        report.lines += failed.values()
        return set(failed) - set(done)

    def _undo(self, steps: Iterable[Step]) -> None:
        for step in reversed(list(steps)):
            for operation in step.undo:
                with contextlib.suppress(OSError):  # it went away
                    self.kernel.perform(operation)

    def _reflect(self, record: Record, before: Mapping[str, str], report: Report) -> None:
        """Our table knows the ports in hairpin mode."""
        owners, snapshot = record.owners, self.kernel.snapshot()
        old, new = (context_of(owners, snapshot, attached) for attached in (before, record.attached))
        comments = {key: owner.comment for key, owner in owners.items()}
        try:
            was, shall = self._compiler.desired(owners, old), self._compiler.desired(owners, new)
            mark = self._table.sync(was, shall, comments, record.table)
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


def _hairpin(
    owners: Owners, before: Mapping[str, str], after: Mapping[str, str], snapshot: Snapshot, plan: Plan
) -> None:
    if not plan.attached:
        return
    old, new = ports_of(owners, before), ports_of(owners, after)
    key = next(iter(plan.attached.values()))
    hairpin(key, (), (new - old) | (new & set(plan.attached)), snapshot, plan)


def _exists(name: str) -> bool:
    try:
        return socket.if_nametoindex(name) > 0
    except OSError:
        return False


def _link_of(step: Step) -> str:
    return step.operation.name if isinstance(step.operation, ops.SetLink) else ""


def _joining(step: Step) -> tuple[str, str] | None:
    """The link and the bridge, where this step brings them together."""
    operation = step.operation
    return (operation.name, operation.bridge) if isinstance(operation, ops.SetLink) and operation.bridge else None


def _why(error: OSError) -> str:
    return f"{errno.errorcode.get(error.errno or 0, 'error')}: {os.strerror(error.errno or 0)}"
