"""The files that keep network daemons off our interfaces. A file exists before the interfaces do.

It outlives a reboot: the daemon has read it when the interfaces come back, and needs no reload, which goes over D-Bus
and is not possible so early in the boot. Where /etc can't be written (NixOS) the file is below /run.
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

    Attributes:
        installed: A path that exists where it is installed: it may start later.
        runs: A path that exists while it runs.
        permanent: The path of our file.
        until_reboot: The path below /run, if the other one can't be written.
        text: Returns the file's text for interfaces of these names or globs.
        reload: The command that has it read the file.
    """

    installed: Path
    runs: Path
    permanent: Path
    until_reboot: Path
    text: Callable[[Iterable[str]], str]
    reload: tuple[str, ...]

    def current(self) -> str | None:
        """The text of our file; None if there is none."""
        return files.text_of(self.permanent) or files.text_of(self.until_reboot)

    def write(self, text: str) -> None:
        """Write our file."""
        for path in (self.permanent, self.until_reboot):
            with contextlib.suppress(OSError):
                files.make_directory(path.parent)
                files.write(path, text)
                return

    def remove(self) -> None:
        """Remove our file, and below /run the directories that it was alone in."""
        with contextlib.suppress(OSError):
            self.permanent.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.until_reboot.unlink(missing_ok=True)
            self.until_reboot.parent.rmdir()
            self.until_reboot.parent.parent.rmdir()


class UnmanagedFiles:
    """The files of one record.

    Args:
        daemons: The network daemons.
        run: Runs a command.
    """

    def __init__(self, daemons: Iterable[Daemon], run: Callable[..., object]) -> None:
        self._daemons, self._run = tuple(daemons), run

    def write(self, names: set[str], *, keep: bool) -> None:
        """Keep the daemons off these interfaces.

        Args:
            names: Names and globs.
            keep: Whether those of the last call stay, too.
        """
        for daemon in self._daemons:
            old = daemon.current()
            wanted = names | (set(_listed(old or "")) if keep else set())
            concerned = daemon.installed.exists() or daemon.runs.exists()
            new = daemon.text(wanted) if wanted and concerned else None
            if old == new or (new is None and keep):
                continue
            if new is None:
                daemon.remove()
            else:
                daemon.write(new)
            if daemon.runs.exists():
                self._run(*daemon.reload)


def _listed(text: str) -> Iterator[str]:
    """The names and globs in a file of ours, of either daemon."""
    yield from re.findall(r"^Name=(.+)$", text, re.MULTILINE)
    yield from re.findall(r"interface-name:([^;\s]+)", text)
