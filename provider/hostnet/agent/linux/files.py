"""Files of ours: put in place as a whole, so that a reader sees the old content or the new one; and root's alone."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_MOST_LINKS = 40  # as the kernel's path_resolution(7)


def text_of(path: Path) -> str | None:
    """The text of a file; None where it can't be read. Bytes that are not UTF-8 become U+FFFD."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None


def which(program: str, path: str | None = None) -> str | None:
    """Where a program is; None where it is in none of the directories.

    `import shutil` loads bz2 and lzma: 0.6 MiB of the 25 that an agent has when it greets, on every host.

    Args:
        program: Its name.
        path: The directories as in PATH; None: those of PATH.
    """
    places = os.environ.get("PATH", os.defpath) if path is None else path
    files = (Path(place, program) for place in places.split(os.pathsep) if place)
    return next((str(file) for file in files if file.is_file() and os.access(file, os.X_OK)), None)


def remove_tree(directory: Path) -> None:
    """Remove a directory with all that is in it, as far as that is possible."""
    import shutil  # noqa: PLC0415 - see `which`

    shutil.rmtree(directory, ignore_errors=True)


def not_ours(directory: Path) -> Path | None:
    """What lets another user put a file into a directory, or another directory in its place; None if nothing does.

    That is a directory or a symbolic link on the way to it that belongs to another user than root and this process's,
    or a directory that others may write. In one with the sticky bit (/tmp) others can't replace what is root's.

    Args:
        directory: The directory. It need not exist: then what is on the way to it counts.
    """
    rest, here, links, trusted = list(reversed(directory.absolute().parts[1:])), Path("/"), 0, _trusted()
    status = here.stat()
    while True:
        mode = status.st_mode
        if status.st_uid not in trusted or (mode & _OTHERS and not (mode & stat.S_ISVTX and rest)):
            return here
        if not rest:
            return None
        entry = here / rest.pop()
        try:
            found = entry.lstat()
        except FileNotFoundError:
            return None
        if stat.S_ISLNK(found.st_mode):
            links += 1
            if found.st_uid not in trusted or links > _MOST_LINKS:
                return entry
            target = entry.readlink()
            here = Path("/") if target.is_absolute() else here
            rest += reversed(target.parts[1:] if target.is_absolute() else target.parts)
            status = here.stat()
        elif stat.S_ISDIR(found.st_mode):
            here, status = (entry, found) if entry.name != ".." else (entry.parent.parent, entry.stat())
        else:
            return entry


def open_ours(path: Path, flags: int = os.O_RDONLY) -> int:
    """Open a file that only root and this process's user can write, and that is no link.

    Args:
        path: The file.
        flags: As for open(2). With O_CREAT it is made for this user alone.

    Returns:
        The descriptor.

    Raises:
        OSError: It can't be opened; EPERM: it is another user's, or others may write it.
    """
    # Without O_NONBLOCK a FIFO would block here.
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_uid in _trusted() and not status.st_mode & _OTHERS:
        return descriptor
    os.close(descriptor)
    raise PermissionError(errno.EPERM, "it is not root's alone", str(path))


def our_text(path: Path) -> str:
    """The text of such a file.

    Raises:
        OSError: It can't be read, or is not ours (`open_ours`).
        ValueError: It is not UTF-8.
    """
    with os.fdopen(open_ours(path), encoding="utf-8") as file:
        return file.read()


def our_line(path: Path) -> str:
    """The first line of such a file; raises as `our_text`."""
    with os.fdopen(open_ours(path), encoding="utf-8") as file:
        return file.readline()


def make_directory(path: Path, mode: int = 0o755) -> None:
    """Make a directory where there is none, and what is missing on the way to it, whatever the umask is.

    Daemons that are not root read what is in it: systemd-networkd its .network files, for one.

    Args:
        path: The directory.
        mode: The permissions of what is made.

    Raises:
        OSError: It can't be made.
    """
    if not path.is_dir():
        make_directory(path.parent, mode)
        path.mkdir(exist_ok=True)
        path.chmod(mode)


def _trusted() -> tuple[int, int]:
    return 0, os.geteuid()


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
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Put a directory's names on the disk: fsync(2) of a file does not include its own name."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
