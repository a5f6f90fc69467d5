"""What systemd is asked for, where it runs: a control group for what is to outlive whoever starts it.

A process stays in the group that it was started in, and that group's end is its own: a service's, when the service ends
(systemd.kill(5), KillMode=); a log-in session's, at the log-out, if the machine is set up so (logind.conf(5),
KillUserProcesses=). What we leave running would end with the session over which a provider came.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

BOOTED = Path("/run/systemd/system")  # sd_booted(3)
_SECONDS = 30
# Like our units on the disk: a server starts early in the boot, before what an ordinary service waits for.
_PROPERTIES = (
    "DefaultDependencies=no",
    "Conflicts=shutdown.target",
    "Before=shutdown.target",
    "Type=forking",
    "Restart=always",
    "RestartSec=1",
)


def runs() -> bool:
    """Whether systemd is this host's init, and can be asked."""
    return BOOTED.is_dir() and shutil.which("systemd-run") is not None


def in_scope(argv: Sequence[str]) -> list[str]:
    """The command line that makes a program of its own of these words: the same process, in a scope of its own."""
    program = shutil.which("systemd-run") if runs() else None
    return [program, "--scope", "--quiet", "--collect", "--", *argv] if program else list(argv)


def as_service(unit: str, what: str, pid_file: Path, said: Path, argv: Sequence[str]) -> list[str]:
    """The command line that starts a program that goes into the background, as a service that starts it again.

    :param unit: the service's name; it is gone when it is stopped.
    :param what: what it is, for a person.
    :param pid_file: where the program writes its number.
    :param said: the file for what it writes to standard error.
    """
    properties = (*_PROPERTIES, f"PIDFile={pid_file}", f"StandardError=file:{said}")
    options = [word for line in properties for word in ("--property", line)]
    return ["systemd-run", "--quiet", "--collect", f"--unit={unit}", f"--description={what}", *options, "--", *argv]


def ready() -> None:
    """Say that this process does what its unit is for (sd_notify(3)), where it is one that is asked."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as talk, contextlib.suppress(OSError):
        talk.sendto(b"READY=1", "\0" + address[1:] if address.startswith("@") else address)


def tell(*words: str) -> str:
    """Run systemctl; gives what it said where it failed."""
    return run("systemctl", *words)


def run(*argv: str) -> str:
    """Run a command that tells a daemon something; gives what it said where it failed."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode}"
