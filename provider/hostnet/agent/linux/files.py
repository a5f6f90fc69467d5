"""Files that are put in place as a whole: a reader sees the old content or the new one, never a part."""

from __future__ import annotations

import os
from pathlib import Path


def text_of(path: Path) -> str | None:
    """The text of a file; None where it can't be read. Bytes that are not UTF-8 become U+FFFD."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None


def write(path: Path, content: str | bytes, mode: int = 0o644, *, group: int | None = None, sync: bool = True) -> None:
    """Write a file beside the path, then rename it over the path.

    The file beside it has a fixed name: what a process left that was killed in the middle is replaced by the next
    write, and does not stay. Two processes must therefore not write one path at the same time: callers hold the
    host's lock, or check what they read (`agent/__main__.py`).

    Args:
        path: Where the content belongs.
        content: The whole content; text is written as UTF-8.
        mode: The file's permissions, whatever the umask is. Nobody but the owner can open it before it has them.
        group: The group's number; None leaves the process's own.
        sync: Whether the content and its name are on the disk when this returns, so that a power cut leaves one of
            the two. ext4 and XFS may otherwise keep the new name and lose the content (rename without fsync).

    Raises:
        OSError: It can't be written (the disk is full, say). The old content is there, and no part of the new.
    """
    data = content.encode() if isinstance(content, str) else content
    part = path.with_name(f".{path.name}.new")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if group is not None:
                os.fchown(descriptor, -1, group)
            os.fchmod(descriptor, mode)
            if sync:
                os.fsync(descriptor)
        part.rename(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    if sync:
        _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    """Put a directory's names on the disk: fsync(2) of a file does not include its own name."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
