"""The changes since a large record was written as a whole, in a second file: one line for each change.

Each line has a checksum before its text. A line that a power cut or a full disk cut off is the last one, and counts as
not written.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hostnet.agent.linux import files

Json = dict[str, Any]
_CHECKSUM = 8  # digits of CRC-32


@dataclass(frozen=True)
class Entry:
    """A change.

    Attributes:
        header: The fields of the record's header that changed.
        owners: By key, the line of an owner that changed; None: it is gone.
    """

    header: Json = field(default_factory=dict)
    owners: Mapping[str, str | None] = field(default_factory=dict)


class ChangesFile:
    """The file. Whoever writes holds the host's lock; whoever reads need not.

    Args:
        path: Where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0  # in bytes, of the lines that are known here
        self._named = False  # whether its name is on the disk
        self._stat: tuple[int, int, int] | None = None

    def is_as_known(self) -> bool:
        """Whether nobody has written to it since it was read or written here."""
        return self._look() == self._stat

    def read(self, base: str) -> list[Entry]:
        """All entries. From here on they are known.

        Args:
            base: The record that they belong to (`begin`); those of another one are none.

        Raises:
            OSError: It can't be read.
            ValueError: A line in the middle is damaged.
        """
        self.size = 0
        return self.read_more(base)

    def read_more(self, base: str) -> list[Entry]:
        """The entries that are not known here yet; else as `read`."""
        self._stat = self._look()
        if not base:
            return []
        try:
            with os.fdopen(files.open_ours(self.path), "rb") as file:
                file.seek(self.size)
                data = file.read()
        except FileNotFoundError:
            self.size = 0
            return []
        begins = self.size == 0
        if begins and data.partition(b"\n")[0] != _line({"base": base})[:-1]:
            return []  # of another record, and maybe not whole
        lines = list(self._whole(data))
        self.size += sum(_CHECKSUM + len(text) + 2 for text in lines)
        return [Entry(**json.loads(text)) for text in lines[begins:]]

    def _whole(self, data: bytes) -> Iterator[bytes]:
        """The texts of the lines that were written as a whole."""
        *lines, rest = data.split(b"\n")
        for number, line in enumerate(lines, 1):
            text = line[_CHECKSUM + 1 :]
            if line[:_CHECKSUM] == b"%08x" % zlib.crc32(text):
                yield text
            elif number == len(lines) and not rest:
                return
            else:
                raise ValueError(f"line {number} of {self.path.name} is damaged")

    def append(self, base: str, entry: Entry, *, sync: bool) -> None:
        """Write an entry. All that is there is known here.

        Args:
            base: The record that it belongs to.
            entry: The entry.
            sync: Whether it is on the disk when this returns.

        Raises:
            OSError: It can't be written, or in part: nobody reads it then.
        """
        data = b"" if self.size else _line({"base": base})
        data += _line({"header": entry.header, "owners": entry.owners})
        descriptor = files.open_ours(self.path, os.O_WRONLY | os.O_CREAT)
        try:
            self._write(descriptor, data, sync=sync)
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, self.size)  # else whoever reads it next would take it for written
            raise
        finally:
            os.close(descriptor)
        self._named |= sync
        self.size += len(data)
        self._stat = self._look()

    def _write(self, descriptor: int, data: bytes, *, sync: bool) -> None:
        if os.fstat(descriptor).st_size > self.size:
            os.ftruncate(descriptor, self.size)  # without what was cut off
        if os.pwrite(descriptor, data, self.size) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if sync:
            os.fdatasync(descriptor)
        if sync and not self._named:
            files.sync_directory(self.path.parent)

    def remove(self) -> None:
        """Take it away: the record is whole again."""
        self.path.unlink(missing_ok=True)
        self.size, self._stat, self._named = 0, None, False

    def _look(self) -> tuple[int, int, int] | None:
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return None
        return (stat.st_ino, stat.st_mtime_ns, stat.st_size)


def _line(value: Any) -> bytes:
    text = json.dumps(value, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)
