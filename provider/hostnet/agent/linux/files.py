"""Files that are put in place whole."""

from __future__ import annotations

import os
from pathlib import Path


def text_of(path: Path) -> str | None:
    """What is in a file; None where it can't be read."""
    try:
        return path.read_text()
    except (OSError, ValueError):
        return None


def write(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Put a file in place: the old one or this one is there at any time, also after the host lost its power.

    :raises OSError: where it can't be written; nothing is left of it then.
    """
    data = content.encode() if isinstance(content, str) else content
    part = path.with_name(f".{path.name}.new")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        part.rename(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
