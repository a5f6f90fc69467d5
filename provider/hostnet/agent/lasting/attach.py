"""One step of the watcher: attach the interfaces that match a glob and are not attached yet, and do nothing else.

An interface is noted before it is attached, in a line beside the record: if the watcher dies in between, the delete of
the TapBinding still detaches exactly what the watcher attached. Where its bridge serves, it is in our table before it
is attached, too: from its first frame it is no server. As long as interfaces keep appearing, they are attached; the
rest (the record itself, hairpin mode, what else our table holds) is done once, when no more come.
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
from hostnet.agent.nft.context import context_of, ports_of, served_ports_of
from hostnet.agent.nft.desired import Compiler
from hostnet.agent.nft.syntax import mark_of
from hostnet.agent.nft.table import Table
from hostnet.agent.plan.links import Plan, glob_members, glob_steps, hairpin
from hostnet.agent.plan.mtu import mtu_steps
from hostnet.agent.plan.world import World
from hostnet.agent.record.owners import Owners
from hostnet.agent.record.record import Record, Store
from hostnet.wire.objects import Glob

_ROUNDS = 100  # with the host's lock held; then an agent that waits for it gets it
Globs = tuple[tuple[str, Glob], ...]  # each with its owner's key
More = Callable[[], "Changes | None"]


@dataclass
class Report:
    """What was done.

    Attributes:
        done: No glob is recorded any more, and the watcher can end.
        missed: The kernel dropped events: the next step has to look at all interfaces.
        lines: For the log.
    """

    done: bool = False
    missed: bool = False
    lines: list[str] = field(default_factory=list)


def globs_of(owners: Owners) -> Globs:
    """The recorded globs."""
    return tuple((owner.key, item) for owner, item in owners.holding(Glob))


class Attacher:
    """Attaches interfaces, in the network namespace that the process is in when this is made.

    Args:
        store: The record's.
        kernel: The kernel; None: this host's.
        table: Our table; None: this host's.
    """

    def __init__(self, store: Store, kernel: Kernel | None = None, table: Table | None = None) -> None:
        self._store = store
        self.kernel = kernel or LinuxKernel()
        self._table = table or Table(own=mark_of(str(store.path.parent)))
        self._compiler = Compiler()

    def step(self, changes: Changes, more: More = lambda: None) -> Report:
        """Attach the interfaces that match, and detach those of ours that do not match any more.

        Args:
            changes: What happened since the last step. If the kernel dropped events, all interfaces are looked at.
            more: Returns what has happened in the meantime; None if nothing has.

        Raises:
            OSError: The record can't be written. Nothing more is attached.
        """
        report = Report()
        with self._store.locked() as record:
            globs = globs_of(record.owners)
            if not globs:
                report.done = True
                if not record.owners:
                    self._store.save(record)  # taking the lock has made its file again: this removes it
                return report
            before, mtus = dict(record.attached), dict(record.mtus)
            noted = dict(before)
            joined = self._round(record, globs, changes, noted, report)
            for latest in itertools.islice(iter(more, None), _ROUNDS):
                if latest.missed:
                    report.missed = True
                    break
                joined |= self._round(record, globs, latest, noted, report)
            if joined or record.attached != before or record.mtus != mtus:
                self._store.save(record)
            self._settle(record, noted, joined, report)
        return report

    def _round(self, record: Record, globs: Globs, changes: Changes, noted: dict[str, str], report: Report) -> set[str]:
        """Attach and detach.

        Args:
            record: The host's.
            globs: The recorded globs.
            changes: What happened.
            noted: What is attached as our table has it; gets what is noted here.
            report: Gets what was done.

        Returns:
            What was attached, or was going to be.
        """
        after = self._update_renamed(globs, record, changes.renamed, report)
        snapshot = self.kernel.snapshot() if changes.missed else self._glimpse(globs, changes.appeared)
        look = set(snapshot.links) if changes.missed else changes.appeared & set(snapshot.links)
        for name in list(after) if changes.missed else changes.gone:
            if name in after and name not in snapshot.links and not self._exists(name):
                del after[name]
                record.mtus.pop(name, None)
        plan = plan_links(globs, World(record.owners, snapshot, record.mtus), after, look, report)
        record.attached = after
        if plan.attached:
            mtus = {name: mtu for name, (_, mtu) in plan.mtus.items() if mtu is not None}
            self._store.journal_attached(record, plan.attached, mtus)
            self._guard(record, noted, plan.attached, report)
        for name in self._perform(plan.build, report):
            del record.attached[name]
            record.mtus.pop(name, None)
        return set(plan.attached)

    def _guard(self, record: Record, noted: dict[str, str], joining: Mapping[str, str], report: Report) -> None:
        """Note ports of bridges that serve in our table, before they are attached."""
        served = served_ports_of(record.owners, joining)
        if served.keys() & joining.keys():
            after = {**noted, **{name: key for name, key in joining.items() if name in served}}
            self._sync_table(record, noted, after, self.kernel.snapshot(), report)
            noted.update(after)

    def _exists(self, name: str) -> bool:
        return bool(self.kernel.glimpse([name]).links)

    def _glimpse(self, globs: Globs, names: Iterable[str]) -> Snapshot:
        """These interfaces and the bridges alone: to read a host's hundred other TAPs takes time."""
        return self.kernel.glimpse({*names, *(item.bridge for _, item in globs)})

    def _update_renamed(
        self, globs: Globs, record: Record, renamed: Mapping[str, str], report: Report
    ) -> dict[str, str]:
        """What is attached after some interfaces were renamed; one whose new name does not match is detached."""
        after = dict(record.attached)
        known = dict(globs)
        snapshot = self.kernel.snapshot() if any(old in after for old in renamed) else Snapshot()
        for old, new in renamed.items():
            key = after.pop(old, None)
            if key is not None and old in record.mtus:
                record.mtus[new] = record.mtus.pop(old)
            item = known.get(key or "")
            if item is None or key is None or snapshot.master_of(new) != item.bridge:
                continue
            if fnmatch.fnmatchcase(new, item.pattern):
                after[new] = key
                report.lines.append(f"{old} was renamed to {new}: it stays in {item.bridge}")
                continue
            own = mtu_steps(key, new, None, World(record.owners, snapshot, record.mtus))
            record.mtus.pop(new, None)
            try:
                self.kernel.perform(ops.SetLink(new, bridge=""))
                for step in own:
                    self.kernel.perform(step.operation)
            except OSError as error:
                report.lines.append(f"cannot detach {new}, which was {old}: {_why(error)}")
            else:
                report.lines.append(f"detached {new}, which was {old}: it does not match {item.pattern} any more")
        return after

    def _perform(self, steps: Iterable[Step], report: Report) -> set[str]:
        """Perform steps, interface by interface: one that disappears in the middle keeps no other from its bridge.

        Returns:
            The interfaces that are not attached. One that joined its bridge and then had no such name is attached: it
            was renamed or deleted at that moment, and the kernel's next event says which of the two.
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
                failed[name] = f"cannot {step.operation}: {_why(error)}"
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
                with contextlib.suppress(OSError):  # the interface was deleted
                    self.kernel.perform(operation)

    def _settle(self, record: Record, before: Mapping[str, str], joined: set[str], report: Report) -> None:
        """Note ports in our tables, and set hairpin mode, where a forward may lead back to the guest that asks.

        The table comes first: it drops what hairpin mode would flood back to the port that it came from.
        """
        owners = record.owners
        old, new = ports_of(owners, before), ports_of(owners, record.attached)
        served = served_ports_of(owners, before) != served_ports_of(owners, record.attached)
        if old != new or new & joined or served:
            snapshot = self.kernel.snapshot()
            self._sync_table(record, before, record.attached, snapshot, report)
            plan = Plan()
            hairpin("", (), (new - old) | (new & joined), snapshot, plan)
            self._perform(plan.build, report)

    def _sync_table(
        self,
        record: Record,
        before: Mapping[str, str],
        attached: Mapping[str, str],
        snapshot: Snapshot,
        report: Report,
    ) -> None:
        owners = record.owners
        old, new = (context_of(owners, snapshot, each) for each in (before, attached))
        try:
            before_, after = self._compiler.desired(owners, old), self._compiler.desired(owners, new)
            mark = self._table.sync(before_, after, record.table).mark
            mark = replace(mark, observed=record.table.observed)
        except (NftError, MissingLibraryError) as error:
            report.lines.append(f"cannot note ports in nftables: {str(error).splitlines()[0]}")
            return
        if mark != record.table:
            record.table = mark
            self._store.save(record)


def plan_links(globs: Globs, world: World, attached: Mapping[str, str], look: set[str], report: Report) -> Plan:
    """The steps for interfaces that are not attached yet; for the log, those that match and are left alone. Pure.

    Args:
        globs: The recorded globs.
        world: All owners, and the interfaces as they are.
        attached: What is attached, with the keys of the globs.
        look: The names of the interfaces to decide about.
        report: Gets the lines for the log.
    """
    into = Plan()
    snapshot = world.snapshot
    for key, item in globs:
        if item.bridge not in snapshot.links:
            matching = (name for name in sorted(look) if fnmatch.fnmatchcase(name, item.pattern))
            report.lines += [f"did not attach {name}: there is no bridge {item.bridge}" for name in matching]
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
        into.mtus.update({name: note for name, note in mine.mtus.items() if name in fresh})
        report.lines += _left(item, snapshot, look)
    return into


def _left(item: Glob, snapshot: Snapshot, look: set[str]) -> Iterator[str]:
    """Why interfaces that match are not attached."""
    for name in glob_members(item, snapshot)[1]:
        if name in look:
            master = snapshot.master_of(name)
            yield f"did not attach {name}, which matches {item.pattern}: it is in {master}"
    for name in sorted(look):
        if name == item.bridge or not fnmatch.fnmatchcase(name, item.pattern):
            continue
        if name in snapshot.uplinks:
            yield f"did not attach {name}, which matches {item.pattern}: it has the default route"
        elif snapshot.links[name].physical:
            yield f"did not attach {name}, which matches {item.pattern}: it is a physical interface"


def _link_of(step: Step) -> str:
    return step.operation.name if isinstance(step.operation, ops.SetLink) else ""


def _joining(step: Step) -> tuple[str, str] | None:
    """The interface and the bridge, if this step attaches one to the other."""
    operation = step.operation
    return (operation.name, operation.bridge) if isinstance(operation, ops.SetLink) and operation.bridge else None


def _why(error: OSError) -> str:
    return f"{errno.errorcode.get(error.errno or 0, 'error')}: {os.strerror(error.errno or 0)}"
