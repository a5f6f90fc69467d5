"""The process of a dnsmasq: found by its command line, started, signalled, stopped.

A process of ours is a dnsmasq that root started, whose command line names a configuration file in a directory of ours.
The number in a pid file proves nothing: the kernel gives it to another process later.
"""

from __future__ import annotations

import contextlib
import json
import pwd
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from hostnet.agent.dhcp.config import DHCP, DNS
from hostnet.agent.linux import files
from hostnet.agent.linux.process import end_process, opened, send_signal, wait_for_end
from hostnet.agent.record.netns import inode, names_of
from hostnet.wire.errors import Code, HostnetError

RUN = Path("/run/hostnet")
ABOUT = "about-this-directory.json"  # longer than any interface's name, and so no bridge's directory
_START_SECONDS = 10.0
_CONFIG_OPTION = "--conf-file="
# Debian's package makes the first; the second is dnsmasq's own default (dnsmasq(8), --user).
_USERS = ("dnsmasq", "nobody")


@dataclass(frozen=True)
class DnsmasqProcess:
    """A dnsmasq of ours that runs.

    Attributes:
        pid: Its number.
        config: The configuration file that its command line names.
    """

    pid: int
    config: Path

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens if it has ended."""
        with self._opened() as descriptor:
            if descriptor is not None:
                send_signal(descriptor, number)

    def stop(self) -> None:
        """End it, and wait for its end."""
        with self._opened() as descriptor:
            if descriptor is not None:
                end_process(descriptor)

    def _opened(self) -> AbstractContextManager[int | None]:
        return opened(self.pid, lambda: _process(self.pid, self.config.parent))


def argv_of(config: Path) -> list[str]:
    """The command line of a dnsmasq with this configuration file."""
    # With this option dnsmasq does not read /etc/dnsmasq.conf, which is for the host's own server.
    return ["dnsmasq", f"{_CONFIG_OPTION}{config}"]


def find(place: Path) -> DnsmasqProcess | None:
    """The process whose configuration file is in this directory, in this network namespace.

    The process of the pid file is looked at first; the others only if it is not that one.
    """
    pid = files.text_of(place / "pid")
    if pid is None and not place.exists():
        return None
    if pid is not None and pid.strip().isdigit():
        found = _process(int(pid), place)
        if found is not None:
            return found
    candidates = (_process(int(entry.name), place) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return next(filter(None, candidates), None)


def _process(pid: int, place: Path) -> DnsmasqProcess | None:
    config = _config_of(pid)
    if config is None or config.parent != place or inode(Path(f"/proc/{pid}/ns/net")) != namespace():
        return None
    return DnsmasqProcess(pid, config)


def await_end(place: Path) -> None:
    """Wait for the end of a server of this directory that was killed a moment ago.

    A process that dies has no command line any more before the kernel closes its sockets: `find` does not find it, and
    its ports are in use (Linux 6.18).
    """
    pid = (files.text_of(place / "pid") or "").strip()
    if pid.isdigit():
        with opened(int(pid), lambda: _is_dying(int(pid))) as descriptor:
            if descriptor is not None:
                wait_for_end(descriptor)


def _is_dying(pid: int) -> bool:
    command_line, name = (files.text_of(Path(f"/proc/{pid}/{each}")) for each in ("cmdline", "comm"))
    return command_line == "" and "dnsmasq" in (name or "")


def account() -> tuple[str, int, int]:
    """The user that dnsmasq becomes: its name, its number, and its group's number."""
    for name in _USERS:
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            return name, user.pw_uid, user.pw_gid
    return "root", 0, 0


def _config_of(pid: int) -> Path | None:
    """The configuration file on the command line of a dnsmasq of root's; None for any other process.

    Any user can run a program under such a command line.
    """
    process = Path(f"/proc/{pid}")
    words = (files.text_of(process / "cmdline") or "").split("\0")
    if len(words) < 2 or Path(words[0]).name != "dnsmasq" or not words[1].startswith(_CONFIG_OPTION):
        return None
    try:
        # Before it gives up root, and after it. Nix runs a `.dnsmasq-wrapped`, an upgrade leaves a `dnsmasq (deleted)`.
        ours = process.stat().st_uid in (0, account()[1]) and "dnsmasq" in (process / "exe").readlink().name
    except OSError:
        return None
    return Path(words[1][len(_CONFIG_OPTION) :]) if ours else None


def start(bridge: str, argv: list[str], errors: Path) -> None:
    """Start a server. dnsmasq goes into the background once its sockets are bound: what fails before is its exit code.

    Args:
        bridge: Its bridge, for the message.
        argv: The command line: dnsmasq's, or that of a program that starts it.
        errors: The file for dnsmasq's standard error, where another program starts it.

    Raises:
        HostnetError: It did not start.
    """
    errors.unlink(missing_ok=True)
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
            # A daemon's directory keeps its file system busy.
            cwd="/",
            # A terminal sends Ctrl-C to its whole foreground group: to `pulumi`, and without this to dnsmasq as well.
            start_new_session=True,
            timeout=_START_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise failure(bridge, f"dnsmasq did not start within {_START_SECONDS:.0f} s") from None
    if done.returncode:
        lines = ((files.text_of(errors) or "").strip() or done.stderr.strip()).splitlines()
        raise failure(bridge, lines[-1] if lines else f"dnsmasq ended with exit code {done.returncode}")


def failure(bridge: str, why: str) -> HostnetError:
    """The error for a server that does not run."""
    what = f"cannot serve DHCP and router advertisements on {bridge}"
    if "Address already in use" in why:
        # dnsmasq (2.90): "failed to bind DHCP server socket: …", "failed to create listening socket for 10.0.0.1: …"
        return HostnetError(Code.CONFLICT, what, why, in_use(DHCP if "DHCP server socket" in why else DNS))
    return HostnetError(Code.KERNEL, what, why, "The host's log has more (`journalctl -t dnsmasq`)")


def in_use(port: int) -> str:
    """What to do where another program has a port of a bridge's server."""
    if port == DHCP:
        return (
            "Another DHCP server has UDP port 67 of this host; `ss -lunp 'sport = :67'` names it. Stop it, or have it "
            "share the port (dnsmasq: `bind-dynamic`)"
        )
    return (
        "Another DNS server listens on every address of this host; `ss -lntup 'sport = :53'` names it. Bind it to its "
        "own addresses (dnsmasq: `bind-dynamic`), or set dhcpServer.dnsServers"
    )


# --- namespaces ----------------------------------------------------------------------------------------------------


def namespace() -> int:
    """The network namespace of the calling thread."""
    return inode(Path("/proc/thread-self/ns/net"))


def sweep() -> None:
    """End the servers of namespaces that have lost their name and have no other process.

    The kernel keeps a namespace as long as a process is in it: it would stay for ever. The directories of state
    directories that were deleted go as well, unless a server still runs from one.
    """
    for run in directories(RUN):
        try:
            about = json.loads((run / ABOUT).read_text())
            netns = int(about["netns"] or 0)
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if names_of(netns) if netns else Path(about["state"]).exists():
            continue
        inside = _processes_in(netns)
        ours = [pid for pid, config in inside.items() if config is not None and config.parent.parent == run]
        if (len(ours) == len(inside)) if netns else not ours:
            for pid in ours:
                _end(pid, inside[pid])
            remove_directory(run)


def _end(pid: int, config: Path | None) -> None:
    """Ask a server to end. The number of one that has ended since it was found may be another process's by now."""
    with opened(pid, lambda: _config_of(pid) == config) as descriptor:
        if descriptor is not None:
            send_signal(descriptor, signal.SIGTERM)


def _processes_in(namespace: int) -> Mapping[int, Path | None]:
    """The processes of a namespace (0: every dnsmasq), with the configuration file of those that are a dnsmasq."""
    found: dict[int, Path | None] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (not namespace or inode(entry / "ns" / "net") == namespace):
            config = _config_of(int(entry.name))
            if namespace or config is not None:
                found[int(entry.name)] = config
    return found


def directories(path: Path) -> Iterator[Path]:
    """The directories in a directory; none if it does not exist."""
    try:
        yield from (entry for entry in path.iterdir() if entry.is_dir())
    except OSError:
        return


def remove_directory(run: Path) -> None:
    """Remove a directory below `RUN` whose servers have ended, and `RUN` if it was the last one."""
    files.remove_tree(run)
    with contextlib.suppress(OSError):
        RUN.rmdir()
