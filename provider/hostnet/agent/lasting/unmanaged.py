"""What keeps network daemons off our interfaces: a file for each, there before the interfaces are.

It is where it outlives a boot: a daemon has read it when the interfaces come back, and need not be told, which takes
D-Bus and may be too early for that. On a host whose /etc can't be written (NixOS) it is below /run.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hostnet.agent.linux import files


@dataclass(frozen=True)
class Daemon:
    """A network daemon.

    :param installed: is there where it is installed: it may start later.
    :param runs: is there where it runs.
    :param lasting: our file's place.
    :param passing: the same, till the next boot.
    :param text: what says that interfaces of these names or globs are not its.
    :param tell: the command that has it read that.
    """

    installed: Path
    runs: Path
    lasting: Path
    passing: Path
    text: Callable[[Iterable[str]], str]
    tell: tuple[str, ...]

    def now(self) -> str | None:
        """What our file says now."""
        return files.text_of(self.lasting) or files.text_of(self.passing)

    def put(self, text: str) -> None:
        """Write our file."""
        for path in (self.lasting, self.passing):
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                files.write(path, text)
                return

    def take_away(self) -> None:
        """Remove it, and below /run the directories that may be ours."""
        with contextlib.suppress(OSError):
            self.lasting.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.passing.unlink(missing_ok=True)
            self.passing.parent.rmdir()
            self.passing.parent.parent.rmdir()


class UnmanagedFiles:
    """Of one record.

    :param run: runs a command.
    """

    def __init__(self, daemons: Iterable[Daemon], run: Callable[..., object]) -> None:
        self._daemons, self._run = tuple(daemons), run

    def write(self, names: set[str], *, keep: bool) -> None:
        """Say that these are not theirs; `keep`: beside what was said."""
        for daemon in self._daemons:
            old = daemon.now()
            wanted = names | (set(_listed(old or "")) if keep else set())
            there = daemon.installed.exists() or daemon.runs.exists()
            new = daemon.text(wanted) if wanted and there else None
            if old == new or (new is None and keep):
                continue
            if new is None:
                daemon.take_away()
            else:
                daemon.put(new)
            if daemon.runs.exists():
                self._run(*daemon.tell)


def _listed(text: str) -> Iterator[str]:
    """The names in a text of ours."""
    yield from re.findall(r"^Name=(.+)$", text, re.MULTILINE)
    yield from re.findall(r"interface-name:([^;\s]+)", text)
