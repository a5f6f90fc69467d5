"""The agent as a file on the host, which systemd's units and the watcher run when no provider does."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from pathlib import Path

import hostnet
from hostnet.agent.linux import files
from hostnet.wire.digest import sha256

_SYSTEM_PYTHONS = ("/usr/bin/python3", "/run/current-system/sw/bin/python3")


def agent_root() -> Path:
    """The directory or the zip that this agent's package is in."""
    return Path(hostnet.__file__).absolute().parent.parent


def agent_command(root: Path) -> list[str]:
    """The command line of an agent.

    Args:
        root: The directory or the zip that its package is in.
    """
    python = python_path()
    if root.is_file():
        # -I -S: nothing of a user's environment or site-packages gets into a process that runs as root.
        return [python, "-I", "-S", str(root)]
    code = f"import sys; sys.path.insert(0, {str(root)!r}); "
    code += "from hostnet.agent.main import main; sys.exit(main())"
    return [python, "-I", "-S", "-c", code]


def python_path() -> str:
    """A Python that still exists tomorrow: not a virtual environment's, and no path in Nix's store."""
    real = os.path.realpath(sys.executable)
    return next((path for path in _SYSTEM_PYTHONS if os.path.realpath(path) == real), real)


def keep_agent(directory: Path) -> Path:
    """Have this agent's code as a file that outlives a reboot, and the provider that brought it.

    Args:
        directory: Where the file belongs.

    Raises:
        OSError: It can't be written.
    """
    root = agent_root()
    if root.is_file() and root.parent == directory:
        return root
    if root.is_file():
        data = root.read_bytes()
    else:
        from hostnet.agent.bundle import bundle  # noqa: PLC0415 - a checkout's or a package's; a zip has none

        data = bundle().data
    path = directory / f"{sha256(data).hexdigest()}.zip"
    if not (path.is_file() and path.read_bytes() == data):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.write(path, data, 0o600)
    return path


def compiled_of(file: Path) -> Path:
    """Where a Python keeps what it compiled of an agent's file (`agent/__main__.py`)."""
    return file.with_suffix(".compiled")


def remove_agents(directory: Path, kept: Path | None = None) -> None:
    """Remove the agent's files, those of other versions too, but for the files that an agent runs from.

    An agent holds a shared lock on its file (`agent/main.py`).

    Args:
        directory: Where the files are. It is removed if no file is left.
        kept: A file that stays in any case.
    """
    for file in directory.glob("*.zip"):
        if file == kept:
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for part in (file, compiled_of(file)):
                    part.unlink(missing_ok=True)
            finally:
                os.close(descriptor)
    with contextlib.suppress(OSError):
        directory.rmdir()
