"""What hostnet holds on a host, written down: it outlives the agent, and for the machine itself a reboot.

One JSON document a line: a header, then one owner a line, so that a write costs what it writes and a person can read
it. Written to a file beside it, synced, and renamed over the old one. `pending` holds, by owner, what was before and
what shall be after a transaction that has not been seen to end: the next agent goes back to what was.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hostnet.agent.linux import files, operations
from hostnet.agent.linux.operations import Operation
from hostnet.agent.record.owners import Owner, Owners
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import Object

_FORMAT = 1
# A provider asks right after it lost the connection; others on the same host may have had their transactions since.
_OUTCOMES = 16
ALL = "*"


@dataclass
class Sysctl:
    """A sysctl that we set: what it was and what we made of it."""

    old: str
    ours: str


@dataclass(frozen=True)
class Mark:
    """How our tables were when we last changed them.

    :param rules: a print of their chains and rules as the kernel lists them ("": there are none).
    :param template: which version of ours they were made from.
    :param generation: nftables' generation then; while it is the same nobody changed anything since. 0: not known.
    :param observed: a print of what its elements were compiled from beside the owners (`Context.observed`).
    """

    rules: str = ""
    template: str = ""
    generation: int = 0
    observed: str = ""


@dataclass
class Record:
    """All owners on one host (or namespace), and what must be put back when they go."""

    owners: Owners = field(default_factory=Owners)
    sysctls: dict[str, Sysctl] = field(default_factory=dict)
    table: Mark = field(default_factory=Mark)
    attached: dict[str, str] = field(default_factory=dict)  # link -> key of the glob that attached it
    claims: dict[str, str] = field(default_factory=dict)  # owner's key -> URN of who imported it and may take it over
    pending: dict[str, tuple[Owner | None, Owner | None]] | None = None  # of the transaction under way
    undo: tuple[Operation, ...] = ()  # what takes the transaction under way back, in order
    unconfirmed: str = ""  # the transaction under way, where it is applied and waits for its provider's confirmation
    undone: str = ""  # one that its guard undid, and whose provider may come back to ask
    outcomes: dict[str, dict[str, Any]] = field(default_factory=dict)  # transaction -> errors, see `note_outcome`

    def finish(self) -> None:
        """The transaction under way has ended."""
        self.pending, self.undo, self.unconfirmed = None, (), ""

    def note_outcome(self, transaction: str, errors: dict[str, Any]) -> None:
        """Keep what became of a transaction, for a provider that lost the connection before it was told.

        :param transaction: the provider's number for it.
        :param errors: as JSON, by the number of the change (`ALL`: of each); what is not among them was done.
        """
        self.outcomes[transaction] = errors
        for old in list(self.outcomes)[:-_OUTCOMES]:
            del self.outcomes[old]

    def by_id(self, identity: str, kind: type[Object] | None = None) -> Owner | None:
        """The owner of this id (and with an object of this kind)."""
        for owner in self.owners.values():
            if owner.id == identity and (kind is None or any(isinstance(x, kind) for x in owner.objects)):
                return owner
        return None


class Store:
    """The record's file, and the lock that makes two agents take turns.

    :param directory: `stateDir`.
    :param instance: None for the machine itself; else what tells this namespace from a later one of the same name:
        the record is dropped when it differs.
    :param name: the file's name without its ending.
    """

    def __init__(self, directory: Path, name: str, instance: str | None) -> None:
        self._path = directory / f"{name}.json"
        self._lock = directory / f"{name}.lock"
        self._noted = directory / f"{name}.attached"
        self._directory = directory
        self._instance = instance
        self._stat: tuple[int, int, int] | None = None
        self._record = Record()

    @property
    def path(self) -> Path:
        """Where the record is."""
        return self._path

    @property
    def instance(self) -> str | None:
        """What tells this namespace from a later one; None for the machine itself."""
        return self._instance

    @contextmanager
    def locked(self) -> Iterator[Record]:
        """Hold the host's lock; gives the record as it is on disk now."""
        while True:
            try:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise HostnetError(
                    Code.KERNEL,
                    f"the record can't be kept in {self._directory}",
                    f"{errno.errorcode.get(error.errno or 0, 'error')}: {os.strerror(error.errno or 0)}",
                    "Set the provider's stateDir to a directory that root can write",
                ) from None
            fcntl.flock(descriptor, fcntl.LOCK_EX)
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

    def again(self) -> Record:
        """The record as it is on disk, for who holds the lock and could not write it."""
        return self._load()

    def unconfirmed(self) -> str:
        """The transaction that waits for its confirmation, as told without the lock, which its agent holds."""
        try:
            with self._path.open() as file:
                return str(json.loads(file.readline()).get("unconfirmed", ""))
        except (OSError, ValueError):
            return ""

    def _load(self) -> Record:
        """The record; read again only if another agent wrote it."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            self._stat, self._record = None, Record()
            return self._record
        seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if seen != self._stat:
            self._record = self._read()
            self._stat = seen
        self._record.attached.update(self._noted_links())
        return self._record

    def note_attached(self, record: Record, links: Mapping[str, str]) -> None:
        """Write down what is about to be attached, in a line beside the record, until `save` takes it in.

        It is quick, and enough for the death of this process: attachments end with the host.
        """
        line = f"\n{json.dumps([self._instance, dict(links)])}\n".encode()  # apart from one that was cut off
        descriptor = os.open(self._noted, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if os.write(descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)
        record.attached.update(links)

    def _noted_links(self) -> Mapping[str, str]:
        try:
            lines = self._noted.read_text().splitlines()
        except OSError:
            return {}
        found: dict[str, str] = {}
        for line in lines:
            with suppress(ValueError):  # a line that was cut off, or is empty
                instance, links = json.loads(line)
                found.update(links if instance == self._instance else {})
        return found

    def _read(self) -> Record:
        try:
            return self._parse(self._path.read_text())
        except (ValueError, KeyError, TypeError) as error:
            raise HostnetError(
                Code.INVALID,
                f"the record {self._path} can't be read",
                f"{type(error).__name__}: {error}",
                "Move it away: what the stacks' states know is taken as theirs again at their next `pulumi up`",
            ) from None

    def _parse(self, text: str) -> Record:
        header_line, *lines = text.splitlines()
        header: dict[str, Any] = json.loads(header_line)
        if header["format"] > _FORMAT:
            raise ValueError(f"it was written by a newer hostnet (format {header['format']}, this one knows {_FORMAT})")
        if header.get("instance") != self._instance:
            return Record()  # a namespace of the same name, or the same one before a reboot
        record = Record(
            sysctls={name: Sysctl(**value) for name, value in header["sysctls"].items()},
            table=Mark(**header.get("table", {})),
            attached=header["attached"],
            claims=header.get("claims", {}),
            outcomes=header.get("outcomes", {}),
            undone=header.get("undone", ""),
        )
        if header["pending"] is not None:
            record.pending = {
                key: (old and Owner.parse(old), new and Owner.parse(new))
                for key, (old, new) in header["pending"].items()
            }
            record.undo = tuple(map(operations.from_json, header.get("undo", ())))
            record.unconfirmed = header.get("unconfirmed", "")
        for line in lines:
            owner = Owner.parse(line)
            record.owners[owner.key] = owner
        return record

    def save(self, record: Record) -> None:
        """Write, sync, rename; with nothing to keep, leave nothing.

        :raises OSError: where that fails: then the record is as it was on disk, for whoever looks next.
        """
        try:
            self._save(record)
        except OSError:
            self._stat = None
            raise

    def _save(self, record: Record) -> None:
        kept = record.owners or record.sysctls or record.attached or record.undone
        if not kept and record.pending is None:
            self._remove()
            return
        pending: dict[str, list[str | None]] | None = None
        if record.pending is not None:
            pending = {key: [x.line if x else None for x in pair] for key, pair in record.pending.items()}
        header: dict[str, Any] = {
            "format": _FORMAT,
            "instance": self._instance,
            "sysctls": {name: vars(value) for name, value in record.sysctls.items()},
            "claims": {key: urn for key, urn in record.claims.items() if key in record.owners},
            "table": vars(record.table),
            "attached": record.attached,
            "outcomes": record.outcomes,
            "pending": pending,
            "undo": [operations.to_json(each) for each in record.undo] if pending is not None else [],
            "unconfirmed": record.unconfirmed,
            "undone": record.undone,
        }
        lines = [json.dumps(header), *(owner.line for owner in record.owners.values())]
        # A namespace's record has nothing to outlive: it ends with the boot.
        files.write(self._path, "\n".join(lines) + "\n", 0o600, sync=self._instance is None)
        self._noted.unlink(missing_ok=True)
        stat = self._path.stat()
        self._stat, self._record = (stat.st_ino, stat.st_mtime_ns, stat.st_size), record

    def _remove(self) -> None:
        """Take the record, the lock and, where nothing else is in it, the directory away."""
        for path in (self._path, self._lock, self._noted):
            path.unlink(missing_ok=True)
        self._stat, self._record = None, Record()
        try:
            self._directory.rmdir()
        except OSError:
            return  # another namespace's record is there, or it was somebody else's directory to begin with
