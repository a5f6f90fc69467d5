"""What hostnet holds on a host, written down: it outlives the agent, and for the machine itself a reboot.

One JSON document a line: a header, then one owner a line, so that a person can read it. It is written to a file beside
the old one, synced, and renamed over it. Of a large one only what changes is written, to a file beside it
(`record/changes.py`), till that is as large itself. The header's `phase` says how far a transaction is
(`record/phase.py`): where one is open, the next agent goes back to what was before it.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hostnet.agent.linux import files
from hostnet.agent.record import phase as phases
from hostnet.agent.record.changes import ChangesFile, Entry
from hostnet.agent.record.lock import Background, Look, Waiter, acquire, is_current
from hostnet.agent.record.originals import Mtu, Originals, Sysctl, mtus_from_json, mtus_to_json
from hostnet.agent.record.owners import Owner, Owners
from hostnet.agent.record.phase import Idle, Pending, Phase, Result, RolledBack, Unconfirmed
from hostnet.agent.record.replies import Replies
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import Forward, Object
from hostnet.wire.shapes import Ip, Name, reader
from hostnet.wire.urn import owner_key

# 2: the phase of a transaction has a type. A record of format 1 is read as well, and written as 2 with the next save.
# 3: there may be a file with changes beside it; a record to which none belongs is written as 2.
_FORMAT = 3
_WITHOUT_CHANGES = 2
# A smaller record is written as a whole: that takes no longer than a line beside it.
LARGE = 64 << 10
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
        replies: What there is so that replies leave by the uplink that the request came in by.
        proxied: The entries by which the host answers for guests, and that hostnet made: interface and address.
        claims: By an owner's key, the URN of the resource that imported it and may take it over.
        phase: How far the transaction under way is.
        results: By transaction, what became of the latest ones; the latest is last.
    """

    owners: Owners = field(default_factory=Owners)
    sysctls: dict[str, Sysctl] = field(default_factory=dict)
    table: Mark = field(default_factory=Mark)
    attached: dict[str, str] = field(default_factory=dict)
    mtus: dict[str, Mtu] = field(default_factory=dict)
    replies: Replies = field(default_factory=Replies)
    proxied: frozenset[tuple[str, str]] = frozenset()
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
    replies: Replies = field(default_factory=Replies)
    proxied: tuple[tuple[Name, Ip], ...] = ()


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
        self._changes = ChangesFile(changes_path(self._path))
        self._directory = directory
        self._instance = instance
        self._written = _Written()
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
            there = self._directory.is_dir()
            check_directory(self._directory)
            try:
                if not there:
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
            if is_current(descriptor, self._lock):
                break
            os.close(descriptor)
        try:
            yield self._load()
        finally:
            if not self._path.exists() and is_current(descriptor, self._lock):
                self._remove()  # a look at a host that holds nothing leaves nothing there
            os.close(descriptor)

    def base(self, urn: str, identity: str, digest: str) -> Sequence[Forward] | None:
        """The forwards of an owner, if they have this digest; None where it has others."""
        key = owner_key(urn, identity)
        # By its digest it is known for the same, whether or not another process has changed the record since.
        owner: Owner | None = self._record.owners.get(key)
        if owner is None or owner.digest != digest:
            with self.locked() as record:
                owner = record.owners.get(key)
        return owner.of(Forward) if owner is not None and owner.digest == digest else None

    def reload(self) -> Record:
        """The record as it is on disk, for an agent that holds the lock and could not write it."""
        return self._load()

    def unconfirmed(self) -> str:
        """The transaction that waits for its confirmation; "" where none does. Reads without the lock."""
        try:
            phase = _phase(header_on_disk(self._path))
        except (OSError, *MALFORMED):
            return ""
        return phase.transaction if isinstance(phase, Unconfirmed) else ""

    def may_have(self, transaction: str) -> bool:
        """Whether the record has this transaction, or one half way that may be it. Reads without the lock."""
        try:
            header = header_on_disk(self._path)
            phase, results = _phase(header), _results(header)
        except FileNotFoundError:
            return False
        except (OSError, *MALFORMED):
            return True  # whoever has the lock reports what is wrong with the record
        if isinstance(phase, (Unconfirmed, RolledBack)) and phase.transaction == transaction:
            return True
        return isinstance(phase, Pending) or transaction in results

    def _load(self) -> Record:
        """The record; what another agent wrote since is read."""
        now = _stat_of(self._path)
        if now is None:
            self._written, self._record = _Written(), Record()
            return self._record
        whole = now != self._written.stat
        if whole or not self._changes.is_as_known():
            try:
                self._read(now, whole=whole)
            except (OSError, *MALFORMED) as error:
                self._written = _Written()
                raise HostnetError(
                    Code.INVALID,
                    f"cannot read the record {self._path}",
                    str(error).strip() if isinstance(error, ValueError) else f"{type(error).__name__}: {error}",
                    "Move it away: at its next `pulumi up` each stack takes what its state knows as its own again",
                ) from None
        self._read_journal(self._record)
        return self._record

    def _read(self, now: _Stat, *, whole: bool) -> None:
        """Read the record, or only what was written beside it since.

        Raises:
            OSError: It can't be read.
            ValueError: It is no record, or a damaged one; so do the others of `MALFORMED`.
        """
        if whole:
            text = files.our_text(self._path)
            header, owners = header_of(text), Owners()
            if header["instance"] != self._instance:
                if self._instance is None or header["instance"] is None:
                    raise ValueError("it is not the record of this network namespace")
                # A namespace of the same name, or the same one before a reboot.
                self._written, self._record = _Written(), Record()
                return
            _put_lines(text, owners)
            entries = self._changes.read(header.get("changes", ""))
        else:
            header, owners = dict(self._written.header), self._written.owners.copy()
            entries = self._changes.read_more(header.get("changes", ""))
        for entry in entries:
            header.update(entry.header)
        _put_entries(entries, owners)
        self._record = _record_of(header, owners)
        self._written = _Written(now, header, owners.copy())

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

    def save(self, record: Record) -> None:
        """Write what has changed, or all of it, and sync it; where there is nothing to keep, remove the files.

        Raises:
            OSError: This failed. The next look at the record reads it from the disk again.
        """
        try:
            self._save(record)
        except OSError:
            self._written = _Written()
            raise

    def _save(self, record: Record) -> None:
        held = record.owners or record.sysctls or record.attached or record.replies.routes or record.proxied
        if not held and isinstance(record.phase, Idle):
            self._remove()
            return
        header: dict[str, Any] = {
            "phase": phases.to_json(record.phase),
            "claims": {key: urn for key, urn in record.claims.items() if key in record.owners},
            "table": dict(vars(record.table)),
            "replies": asdict(record.replies),
            "proxied": sorted(map(list, record.proxied)),
            **record.originals().to_json(),
            "results": {transaction: result.to_json() for transaction, result in record.results.items()},
        }
        written = self._written
        base = written.header.get("changes", "")
        if base and written.stat and written.stat == _stat_of(self._path) and self._changes.size < written.stat.size:
            new = {name: value for name, value in header.items() if value != written.header.get(name)}
            changed = written.owners.differences(record.owners)
            owners = {key: owner.line if owner is not None else None for key, _, owner in changed}
            # Each line before the next: a power cut damages the last one at most.
            self._changes.append(base, Entry(new, owners), sync=self._instance is None)
            self._written = _Written(written.stat, {**written.header, **new}, record.owners.copy())
        else:
            self._write(record, header)
        self._record = record
        self._journal.unlink(missing_ok=True)

    def _write(self, record: Record, header: dict[str, Any]) -> None:
        lines = [owner.line for owner in record.owners.values()]
        large = sum(map(len, lines)) >= LARGE
        header = {
            "format": _FORMAT if large else _WITHOUT_CHANGES,
            "instance": self._instance,
            **({"changes": os.urandom(8).hex()} if large else {}),
            **header,
        }
        # A namespace's record has nothing to outlive: it ends with the boot.
        files.write(self._path, "\n".join([json.dumps(header), *lines, ""]), 0o600, sync=self._instance is None)
        self._changes.remove()  # they belong to the former one
        self._written = _Written(_stat_of(self._path), header, record.owners.copy())

    def _remove(self) -> None:
        """Take the record, the lock and, where nothing else is in it, the directory away."""
        for path in (self._path, self._journal, self._changes.path, self._lock):  # from the last one on others write
            path.unlink(missing_ok=True)
        self._written, self._record = _Written(), Record()
        try:
            self._directory.rmdir()
        except OSError:
            return  # another namespace's record is there, or the directory is not ours alone


class _Stat(NamedTuple):
    """What tells a file from another one that was put in its place."""

    inode: int
    modified: int
    size: int


@dataclass(frozen=True)
class _Written:
    """What is on the disk, as far as this process knows.

    Attributes:
        stat: The record's file as it was when that was so.
        header: Its header, with the changes.
        owners: All owners.
    """

    stat: _Stat | None = None
    header: dict[str, Any] = field(default_factory=dict)
    owners: Owners = field(default_factory=Owners)


def _stat_of(path: Path) -> _Stat | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return _Stat(stat.st_ino, stat.st_mtime_ns, stat.st_size)


def _record_of(header: dict[str, Any], owners: Owners) -> Record:
    parts: _Parts = reader(_Parts)({name: header[name] for name in vars(_Parts()) if name in header})
    originals = Originals.from_json(header)
    return Record(
        owners=owners,
        sysctls=originals.sysctls,
        table=parts.table,
        attached=originals.attached,
        mtus=originals.mtus,
        replies=parts.replies,
        proxied=frozenset(parts.proxied),
        claims=parts.claims,
        phase=_phase(header),
        results=_results(header),
    )


def changes_path(path: Path) -> Path:
    """The file with changes beside a record."""
    return path.with_suffix(".changes")


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


def header_on_disk(path: Path) -> dict[str, Any]:
    """The header of a record's file with the changes beside it, as they are now. Needs no lock.

    Raises:
        OSError: It can't be read.
        ValueError: It is no record, or a damaged one; so do the others of `MALFORMED`.
    """
    text, entries = _on_disk(path, files.our_line)
    header = header_of(text)
    for entry in entries:
        header.update(entry.header)
    return header


def owners_on_disk(path: Path, *kinds: type[Object]) -> Owners:
    """The owners with an object of one of these types, as they are now.

    Needs no lock, and does not parse ten thousand others.

    Raises:
        OSError: The record can't be read.
        ValueError: It is no record, or a damaged one; so do the others of `MALFORMED`.
    """
    (text, entries), owners, marks = _on_disk(path, files.our_text), Owners(), [f'"type":"{x.type}"' for x in kinds]
    _put_lines(text, owners, marks)
    _put_entries(entries, owners, marks)
    return owners


def _on_disk(path: Path, read: Callable[[Path], str]) -> tuple[str, list[Entry]]:
    """A record's text and the changes beside it, of one moment."""
    while True:
        before, text = _stat_of(path), read(path)
        entries = ChangesFile(changes_path(path)).read(header_of(text).get("changes", ""))
        if _stat_of(path) == before:  # else another process wrote it as a whole in between, and they are of another one
            return text, entries


def _put_lines(text: str, owners: Owners, marks: Sequence[str] = ("",)) -> None:
    """Add the owners of a record's text whose line has one of these marks."""
    for line in text.splitlines()[1:]:
        if any(mark in line for mark in marks):
            owner = Owner.parse(line)
            owners[owner.key] = owner


def _put_entries(entries: Iterable[Entry], owners: Owners, marks: Sequence[str] = ("",)) -> None:
    """Change owners as entries say; one whose line has none of these marks is taken out."""
    for entry in entries:
        for key, line in entry.owners.items():
            if line is not None and any(mark in line for mark in marks):
                owners[key] = Owner.parse(line)
            else:
                owners.remove(key)


def _phase(header: dict[str, Any]) -> Phase:
    return phases.from_json(header["phase"]) if "phase" in header else phases.from_format_1(header)


def _results(header: dict[str, Any]) -> dict[str, Result]:
    if "results" in header:
        return {transaction: Result.from_json(data) for transaction, data in header["results"].items()}
    return {transaction: Result.from_format_1(data) for transaction, data in header.get("outcomes", {}).items()}
