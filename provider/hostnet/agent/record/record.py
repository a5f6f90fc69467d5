"""What hostnet holds on a host, written down: it outlives the agent, and for the machine itself a reboot.

One JSON document a line: a header, then one owner a line, so that a write costs what it writes and a person can read
it. It is written to a file beside the old one, synced, and renamed over it. The header's `phase` says how far a
transaction is (`record/phase.py`): where one is open, the next agent goes back to what was before it.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hostnet.agent.linux import files
from hostnet.agent.record import phase as phases
from hostnet.agent.record.lock import Background, Look, Waiter, acquire
from hostnet.agent.record.originals import Mtu, Originals, Sysctl, mtus_from_json, mtus_to_json
from hostnet.agent.record.owners import Owner, Owners
from hostnet.agent.record.phase import Idle, Pending, Phase, Result, RolledBack, Unconfirmed
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import Object
from hostnet.wire.shapes import reader

# 2: the phase of a transaction has a type. A record of format 1 is read as well, and written as 2 with the next save.
_FORMAT = 2
# A provider asks right after it lost the connection; others on the same host may have had their transactions since.
_RESULTS = 16
# What reading a record raises where it is not one.
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Mark:
    """How our tables were when we last changed them.

    Attributes:
        rules: A hash of their chains and rules as the kernel lists them ("": there are none).
        template: The version of our template that they were made from.
        generation: nftables' generation then; while it is the same no program changed anything since. 0: not known.
        observed: A hash of what its elements were compiled from beside the owners (`Context.observed`).
    """

    rules: str = ""
    template: str = ""
    generation: int = 0
    observed: str = ""


@dataclass
class Record:
    """All owners on one host (or namespace), and what must be put back when they go.

    Attributes:
        attached: By the name of a link that a glob attached, the key of the glob's owner.
        mtus: By the name of a link whose MTU hostnet has set, what it was before.
        claims: By an owner's key, the URN of the resource that imported it and may take it over.
        phase: How far the transaction under way is.
        results: By transaction, what became of the latest ones; the latest is last.
    """

    owners: Owners = field(default_factory=Owners)
    sysctls: dict[str, Sysctl] = field(default_factory=dict)
    table: Mark = field(default_factory=Mark)
    attached: dict[str, str] = field(default_factory=dict)
    mtus: dict[str, Mtu] = field(default_factory=dict)
    claims: dict[str, str] = field(default_factory=dict)
    phase: Phase = field(default_factory=Idle)
    results: dict[str, Result] = field(default_factory=dict)

    def add_result(self, transaction: str, result: Result) -> None:
        """Keep what became of a transaction, and forget what became of an old one."""
        self.results[transaction] = result
        for old in list(self.results)[:-_RESULTS]:
            del self.results[old]

    def originals(self) -> Originals:
        """What must be put back, as it is now."""
        return Originals(dict(self.sysctls), dict(self.attached), dict(self.mtus))

    def take_back(self, originals: Originals) -> None:
        """Remember again what was to be put back before a transaction; what came since stays remembered."""
        self.sysctls.update(originals.sysctls)
        self.attached = {**self.attached, **originals.attached}
        self.mtus.update(originals.mtus)

    def hand_over(self, old: str, new: str) -> None:
        """What globs attached for an owner is another's, since its URN changed."""
        self.attached = {link: new if key == old else key for link, key in self.attached.items()}

    def by_id(self, identity: str, kind: type[Object] | None = None) -> Owner | None:
        """The owner of this id (and with an object of this kind)."""
        found = (owner for owner in self.owners.of_id(identity) if kind is None or kind in owner.kinds)
        return next(found, None)


@dataclass(frozen=True)
class _Parts:
    """What is in the header of a record, whatever its phase. An earlier hostnet wrote less."""

    table: Mark = field(default_factory=Mark)
    claims: dict[str, str] = field(default_factory=dict)


class Store:
    """The record's file, and the lock that makes two agents take turns.

    Args:
        directory: The provider's `stateDir`.
        name: The file's name without its ending.
        instance: None for the machine itself; else what tells this namespace from a later one of the same name: a
            record with another instance is dropped.

    Attributes:
        waiter: How this process waits for the lock.
    """

    def __init__(self, directory: Path, name: str, instance: str | None) -> None:
        self._path = directory / f"{name}.json"
        self._lock = directory / f"{name}.lock"
        self._journal = directory / f"{name}.attached"
        self._directory = directory
        self._instance = instance
        self._stat: tuple[int, int, int] | None = None
        self._record = Record()
        self.waiter: Waiter = Background()

    @property
    def path(self) -> Path:
        """Where the record is."""
        return self._path

    @property
    def instance(self) -> str | None:
        """What tells this namespace from a later one; None for the machine itself."""
        return self._instance

    @contextmanager
    def locked(self, look: Look = None) -> Iterator[Record]:
        """Hold the host's lock; gives the record as it is on disk now.

        Args:
            look: Called again and again while another process holds the lock.

        Raises:
            HostnetError: The record can't be locked or read, or others may write it; or the waiter gives up.
        """
        while True:
            check_directory(self._directory)
            try:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                check_directory(self._directory)  # it may have been made by another user in between
                descriptor = files.open_ours(self._lock, os.O_RDWR | os.O_CREAT)
            except OSError as error:
                raise HostnetError(
                    Code.KERNEL,
                    f"cannot write the record in {self._directory}",
                    f"{errno.errorcode.get(error.errno or 0, 'error')}: {error.strerror}",
                    "Set the provider's stateDir to a directory that root can write",
                ) from None
            try:
                acquire(descriptor, self.waiter, look)
            except BaseException:
                os.close(descriptor)
                raise
            # The last owner's delete takes the lock's file away: then this one locked a file that is gone.
            if self._lock_is_current(descriptor):
                break
            os.close(descriptor)
        try:
            yield self._load()
        finally:
            if not self._path.exists() and self._lock_is_current(descriptor):
                self._remove()  # a look at a host that holds nothing leaves nothing there
            os.close(descriptor)

    def _lock_is_current(self, descriptor: int) -> bool:
        try:
            return os.fstat(descriptor).st_ino == self._lock.stat().st_ino
        except FileNotFoundError:
            return False

    def reload(self) -> Record:
        """The record as it is on disk, for an agent that holds the lock and could not write it."""
        return self._load()

    def unconfirmed(self) -> str:
        """The transaction that waits for its confirmation; "" where none does. Reads without the lock."""
        try:
            phase = _phase(header_of(files.our_text(self._path)))
        except (OSError, *MALFORMED):
            return ""
        return phase.transaction if isinstance(phase, Unconfirmed) else ""

    def may_have(self, transaction: str) -> bool:
        """Whether the record has this transaction, or one half way that may be it. Reads without the lock."""
        try:
            header = header_of(files.our_text(self._path))
            phase, results = _phase(header), _results(header)
        except FileNotFoundError:
            return False
        except (OSError, *MALFORMED):
            return True  # whoever has the lock reports what is wrong with the record
        if isinstance(phase, (Unconfirmed, RolledBack)) and phase.transaction == transaction:
            return True
        return isinstance(phase, Pending) or transaction in results

    def _load(self) -> Record:
        """The record; read again only if another agent wrote it."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            self._stat, self._record = None, Record()
            return self._record
        now = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if now != self._stat:
            self._record = self._read()
            self._stat = now
        self._read_journal(self._record)
        return self._record

    def journal_attached(self, record: Record, links: Mapping[str, str], mtus: Mapping[str, Mtu]) -> None:
        """Append what is about to be attached to a journal beside the record, until `save` takes it in.

        It is quick, and outlives this process. It need not outlive the host: attachments do not.
        """
        entry = [self._instance, dict(links), mtus_to_json(mtus)]
        line = f"\n{json.dumps(entry)}\n".encode()  # apart from one that was cut off
        descriptor = files.open_ours(self._journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            if os.write(descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)
        record.attached.update(links)
        record.mtus.update(mtus)

    def _read_journal(self, record: Record) -> None:
        try:
            lines = files.our_text(self._journal).splitlines()
        except (OSError, ValueError):
            return
        for line in lines:
            with suppress(*MALFORMED):  # a line that was cut off, or is empty
                instance, links, *more = json.loads(line)
                if instance == self._instance:
                    record.attached.update(links)
                    record.mtus.update(mtus_from_json(more[0] if more else {}))  # an earlier hostnet wrote none

    def _read(self) -> Record:
        try:
            return self._parse(files.our_text(self._path))
        except (OSError, *MALFORMED) as error:
            raise HostnetError(
                Code.INVALID,
                f"cannot read the record {self._path}",
                str(error).strip() if isinstance(error, ValueError) else f"{type(error).__name__}: {error}",
                "Move it away: at its next `pulumi up` each stack takes what its state knows as its own again",
            ) from None

    def _parse(self, text: str) -> Record:
        header = header_of(text)
        if header["instance"] != self._instance:
            if self._instance is None or header["instance"] is None:
                raise ValueError("it is not the record of this network namespace")
            return Record()  # a namespace of the same name, or the same one before a reboot
        parts: _Parts = reader(_Parts)({name: header[name] for name in vars(_Parts()) if name in header})
        originals = Originals.from_json(header)
        record = Record(
            sysctls=originals.sysctls,
            table=parts.table,
            attached=originals.attached,
            mtus=originals.mtus,
            claims=parts.claims,
            phase=_phase(header),
            results=_results(header),
        )
        for line in text.splitlines()[1:]:
            owner = Owner.parse(line)
            record.owners[owner.key] = owner
        return record

    def save(self, record: Record) -> None:
        """Write, sync, rename; where there is nothing to keep, remove the file.

        Raises:
            OSError: This failed. The next look at the record reads it from the disk again.
        """
        try:
            self._save(record)
        except OSError:
            self._stat = None
            raise

    def _save(self, record: Record) -> None:
        if not (record.owners or record.sysctls or record.attached or not isinstance(record.phase, Idle)):
            self._remove()
            return
        header: dict[str, Any] = {
            "format": _FORMAT,
            "instance": self._instance,
            "phase": phases.to_json(record.phase),
            "claims": {key: urn for key, urn in record.claims.items() if key in record.owners},
            "table": vars(record.table),
            **record.originals().to_json(),
            "results": {transaction: result.to_json() for transaction, result in record.results.items()},
        }
        lines = [json.dumps(header), *(owner.line for owner in record.owners.values())]
        # A namespace's record has nothing to outlive: it ends with the boot.
        files.write(self._path, "\n".join(lines) + "\n", 0o600, sync=self._instance is None)
        self._journal.unlink(missing_ok=True)
        stat = self._path.stat()
        self._stat, self._record = (stat.st_ino, stat.st_mtime_ns, stat.st_size), record

    def _remove(self) -> None:
        """Take the record, the lock and, where nothing else is in it, the directory away."""
        for path in (self._path, self._lock, self._journal):
            path.unlink(missing_ok=True)
        self._stat, self._record = None, Record()
        try:
            self._directory.rmdir()
        except OSError:
            return  # another namespace's record is there, or the directory is not ours alone


def check_directory(directory: Path) -> None:
    """Refuse a state directory that is not root's alone: who can write there has root change the network.

    Raises:
        HostnetError: Another user can put a file there.
    """
    try:
        culprit = files.not_ours(directory)
    except OSError:
        return  # what opens a file there says why it can't
    if culprit is not None:
        raise HostnetError(
            Code.PERMISSION,
            f"cannot use the state directory {directory}",
            f"users other than root can write to {culprit}, or it belongs to one of them",
            f"Check what is in it, then run `chown root:root {culprit}` and `chmod go-w {culprit}`; or set the "
            "provider's stateDir to a directory of root's",
        )


def header_of(text: str) -> dict[str, Any]:
    """The header of a record's text.

    Raises:
        ValueError: It has none, or one of a newer hostnet.
        RecursionError: It is nested too deeply.
    """
    header = json.loads(text.partition("\n")[0] or "null")
    whole = isinstance(header, dict) and type(header.get("format")) is int
    if not whole or type(header.setdefault("instance", None)) not in (str, type(None)):
        raise ValueError("its first line is not the header of a record")
    if header["format"] > _FORMAT:
        raise ValueError(f"it was written by a newer hostnet (format {header['format']}, this one knows {_FORMAT})")
    return dict(header)


def _phase(header: dict[str, Any]) -> Phase:
    return phases.from_json(header["phase"]) if "phase" in header else phases.from_format_1(header)


def _results(header: dict[str, Any]) -> dict[str, Result]:
    if "results" in header:
        return {transaction: Result.from_json(data) for transaction, data in header["results"].items()}
    return {transaction: Result.from_format_1(data) for transaction, data in header.get("outcomes", {}).items()}
