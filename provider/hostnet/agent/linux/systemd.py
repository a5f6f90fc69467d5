"""What hostnet asks of systemd, where it runs: a control group for processes that outlive the provider.

A process stays in the control group in which it was started, and systemd ends all processes of a group together: those
of a service when the service ends (systemd.kill(5), KillMode=), those of a login session at its logout where the
machine is configured so (logind.conf(5), KillUserProcesses=). Without a group of their own, our background processes
would end with the SSH session through which the provider came.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from hostnet.agent.linux import files

BOOTED = Path("/run/systemd/system")  # sd_booted(3)
_SECONDS = 30  # that a command may take
# As in our unit files. With the default dependencies a service waits for basic.target, and a bridge's DHCP server is
# needed before that.
_PROPERTIES = (
    "DefaultDependencies=no",
    # Without the default dependencies nothing else stops the service at shutdown (systemd.service(5)).
    "Conflicts=shutdown.target",
    "Before=shutdown.target",
    "Type=forking",
    "Restart=always",
    "RestartSec=1",
    # Else what dies five times within ten seconds stays dead (systemd.unit(5), DefaultStartLimitBurst=).
    "StartLimitIntervalSec=0",
)


def runs() -> bool:
    """Whether systemd is this host's init, and its commands are installed."""
    return BOOTED.is_dir() and files.which("systemd-run") is not None


def in_scope(argv: Sequence[str]) -> list[str]:
    """The command line that runs a program in a scope of its own; without systemd the same command line.

    `systemd-run --scope` becomes the program: the process keeps its number.
    """
    program = files.which("systemd-run") if runs() else None
    return [program, "--scope", "--quiet", "--collect", "--", *argv] if program else list(argv)


def as_service(unit: str, what: str, pid_file: Path, said: Path, argv: Sequence[str]) -> list[str]:
    """The command line that starts a program as a service, which is restarted when it dies.

    Args:
        unit: The service's name. The unit has no file: it is gone when it is stopped.
        what: Its description.
        pid_file: Where the program, which goes into the background, writes its number.
        said: The file that gets its standard error.
        argv: The program.
    """
    properties = (*_PROPERTIES, f"PIDFile={pid_file}", f"StandardError=file:{said}")
    options = [word for line in properties for word in ("--property", line)]
    # --collect: without it a service that failed stays loaded until it is reset, and its name is taken
    # (systemd-run(1)).
    return ["systemd-run", "--quiet", "--collect", f"--unit={unit}", f"--description={what}", *options, "--", *argv]


def ready() -> None:
    """Tell systemd that this service is ready (sd_notify(3)); nothing where it is not one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as talk, contextlib.suppress(OSError):
        talk.sendto(b"READY=1", "\0" + address[1:] if address.startswith("@") else address)


def tell(*words: str) -> str:
    """Run systemctl; returns its message where it failed, else ""."""
    return run("systemctl", *words)


def run(*argv: str) -> str:
    """Run a command that tells a daemon something; returns its message where it failed, else ""."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode}"
