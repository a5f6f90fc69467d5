"""The dnsmasq processes: one a bridge, started, told and stopped; they live on when the agent and the provider end.

Two places: the leases stay beside the record (a namespace's, which end with the boot, with the rest); the rest is in
/run/hostnet, because dnsmasq, no longer root, must read its lists again on a signal, and the state directory is closed
to all but root:

    /run/hostnet/<digest of state directory and instance>/about-this-directory.json   whose it is, for `sweep`
        <bridge>/<digest of its text>.conf    read once, by root
        <bridge>/hosts, names                 read again on SIGHUP
        <bridge>/pid, checksums

A process is known by its command line, which names its configuration: by it also whether it runs with the declared one.
A change of `hosts` or `names` takes a signal, of all else another process; the leases stay either way.

Where systemd runs, the machine's own are services, which it starts again should they die; those of a namespace, which
may lose its name at any time, are on their own there as well.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hostnet.agent.dhcp import checksums
from hostnet.agent.dhcp import config as dhcp
from hostnet.agent.dhcp.config import Setup
from hostnet.agent.linux import files, systemd, units
from hostnet.agent.linux.install_hints import advice_here
from hostnet.agent.linux.process import end_process
from hostnet.agent.plan.world import World
from hostnet.agent.record.owners import Owner
from hostnet.agent.record.record import Store
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import DhcpServer, DhcpState, Lease

RUN = Path("/run/hostnet")
_ABOUT = "about-this-directory.json"  # longer than any interface's name
_NAMED_NAMESPACES = Path("/run/netns")
_RESOLVED = Path("/run/systemd/resolve/resolv.conf")  # systemd-resolved's own servers, for those who can't ask it
_RESOLV_CONF = Path("/etc/resolv.conf")
_START = 10.0  # seconds of patience
_USERS = ("dnsmasq", "nobody")


class ServerError(Exception):
    """A server that does not start."""

    def __init__(self, bridge: str, error: HostnetError) -> None:
        super().__init__(str(error))
        self.bridge, self.error = bridge, error


@dataclass(frozen=True)
class _Process:
    """A dnsmasq of ours that runs.

    :param config: the file that its command line names.
    """

    pid: int
    config: Path


def check_installed(bridge: str) -> None:
    """Whether this host has dnsmasq.

    :raises HostnetError: naming the package.
    """
    if shutil.which("dnsmasq") is None:
        raise HostnetError(
            Code.UNSUPPORTED,
            f"DHCP and router advertisements can't be served on {bridge}",
            "dnsmasq is not installed (or not in PATH)",
            advice_here("dnsmasq"),
        )


class DhcpServers:
    """All servers of one record."""

    def __init__(self, store: Store) -> None:
        sweep()
        name = f"{store.path.absolute()} {store.instance or ''}"
        self._run = RUN / hashlib.sha256(name.encode()).hexdigest()[:16]
        self._kept = store.path.with_suffix(".dhcp") if store.instance is None else self._run
        self._machine, self._state = store.instance is None, store.path.parent.absolute()

    @staticmethod
    def check(owner: Owner, world: World) -> None:
        """Whether an owner's server, or guest beside one, can be.

        :raises HostnetError: with what stands in the way.
        """
        for item in owner.objects if DhcpServer in owner.kinds else ():
            if isinstance(item, DhcpServer):
                check_installed(item.bridge)
        dhcp.check(owner, world)

    # --- from here to there ----------------------------------------------------------------------------------------

    def sync(self, world: World, concerned: set[str]) -> None:
        """Bring the servers of these bridges to what the owners want; end those that nobody wants.

        :raises ServerError: for the first that can't be had.
        """
        wanted = {server.bridge: server for server in dhcp.servers(world)}
        for bridge in self._there():
            if bridge not in wanted:
                self._remove(bridge)
        for bridge in sorted(concerned & set(wanted)):
            self._try(wanted[bridge], world)
        if not wanted:
            self._clear()

    def _try(self, server: DhcpServer, world: World) -> None:
        try:
            self._ensure(dhcp.setup_of(server, world))
        except HostnetError as error:
            raise ServerError(server.bridge, error) from None
        except OSError as error:
            why = f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
            raise ServerError(server.bridge, _failed(server.bridge, why)) from None

    def _ensure(self, setup: Setup) -> None:
        place = self._run / setup.bridge
        text = self._text(setup)
        config = place / _file(text)
        process = _find(place)
        if process is not None and process.config == config:
            if self._write_lists(setup):
                _signal(process, signal.SIGHUP)
            if not self._whole(setup.bridge):
                self._fill(setup.bridge)
            return
        check_installed(setup.bridge)
        self._end(setup.bridge)
        self._prepare(setup.bridge)
        for old in place.glob("*.conf"):
            old.unlink()
        files.write(config, text, 0o600, sync=False)
        self._write_lists(setup)
        self._start(setup.bridge, config)
        self._fill(setup.bridge)

    def _fill(self, bridge: str) -> None:
        (self._run / bridge / "checksums").write_text(checksums.fill(bridge, self._filled(bridge)))

    def _whole(self, bridge: str) -> bool:
        return checksums.whole(bridge, self._filled(bridge))

    def _filled(self, bridge: str) -> str:
        return files.text_of(self._run / bridge / "checksums") or ""

    def _start(self, bridge: str, config: Path) -> None:
        """Start one; it returns when its sockets are bound and it has gone into the background.

        :raises HostnetError: with what it said.
        """
        argv, said, unit = ["dnsmasq", f"--conf-file={config}"], config.with_name("said"), self._unit(bridge)
        if unit is None:
            _begin(bridge, systemd.in_scope(argv), said)
            return
        try:
            what = f"hostnet: DHCP, DNS and router advertisements on {bridge}"
            _begin(bridge, systemd.as_service(unit, what, config.with_name("pid"), said, argv), said)
        except HostnetError:
            systemd.tell("stop", unit)  # or it would be tried again
            raise

    def _end(self, bridge: str) -> None:
        """End the server of a bridge, and wait for its end."""
        unit, place = self._unit(bridge), self._run / bridge
        if unit is not None:
            systemd.tell("stop", unit)
        process = _find(place)
        if process is not None:
            _stop(process)

    def _unit(self, bridge: str) -> str | None:
        """The service that a bridge's server is; None where it is a process and no more."""
        return units.server_unit(self._state, bridge) if self._machine and systemd.runs() else None

    def _prepare(self, bridge: str) -> None:
        """The directories and the lease file."""
        _, group = _account()
        _directory(RUN, 0o711)
        _directory(self._run, 0o711)
        about = {"state": str(self._state), "netns": None if self._kept != self._run else _namespace()}
        files.write(self._run / _ABOUT, json.dumps(about), 0o600, sync=False)  # /run ends with the boot
        place = self._run / bridge
        _directory(place, 0o750)
        os.chown(place, 0, group)
        _directory(self._kept, 0o700)
        os.close(os.open(self._lease_file(bridge), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def _write_lists(self, setup: Setup) -> bool:
        """Write what dnsmasq reads again; True where it changed."""
        _, group = _account()
        changed = False
        for name, text in _lists(setup).items():
            path = self._run / setup.bridge / name
            if files.text_of(path) != text:
                files.write(path, text, 0o640, group=group, sync=False)
                changed = True
        return changed

    def _remove(self, bridge: str) -> None:
        place = self._run / bridge
        self._end(bridge)
        checksums.leave(bridge, self._filled(bridge))
        shutil.rmtree(place, ignore_errors=True)
        self._lease_file(bridge).unlink(missing_ok=True)

    def _clear(self) -> None:
        """Leave no empty directory."""
        if self._run.exists():
            _forget(self._run)
        with contextlib.suppress(OSError):
            self._kept.rmdir()

    def _there(self) -> list[str]:
        """The bridges that have, or had, a server: after a boot there are only leases."""
        held = {path.name for path in _directories(self._run)}
        if self._kept != self._run:
            held |= {path.name[: -len(".leases")] for path in self._kept.glob("*.leases")}
        return sorted(held)

    # --- seeing ----------------------------------------------------------------------------------------------------

    def state(self, server: DhcpServer, world: World) -> DhcpState:
        """Whether it runs as declared, and its leases."""
        leases = self.leases(server.bridge)
        place = self._run / server.bridge
        try:
            setup = dhcp.setup_of(server, world)
            process = _find(place)
            running = process is not None and process.config == place / _file(self._text(setup))
        except (HostnetError, OSError):
            return DhcpState(running=False, leases=leases)
        lists = all(files.text_of(place / name) == text for name, text in _lists(setup).items())
        return DhcpState(running and lists and self._whole(server.bridge), leases)

    def leases(self, bridge: str) -> tuple[Lease, ...]:
        """The leases in use on a bridge."""
        if "/" in bridge:
            return ()
        return tuple(dhcp.parse_leases(files.text_of(self._lease_file(bridge)) or "", time.time()))

    def leased(self) -> dict[str, dict[str, str]]:
        """The addresses on lease, by bridge, with the MAC that has each."""
        return {bridge: {each.address: each.mac for each in self.leases(bridge)} for bridge in self._there()}

    def _lease_file(self, bridge: str) -> Path:
        return self._kept / f"{bridge}.leases" if self._kept != self._run else self._run / bridge / "leases"

    def _text(self, setup: Setup) -> str:
        """The configuration file.

        :raises OSError: where there is no such bridge.
        """
        place = self._run / setup.bridge
        user, group = _account()
        lines = [
            f"# hostnet: {setup.bridge}. Written by hostnet; what is changed here is lost.",
            # dnsmasq binds its DHCP socket to the interface: a bridge that was made anew takes another process.
            f"# interface {socket.if_nametoindex(setup.bridge)}",
            *setup.config,
            f"user={user}",
            f"group={grp.getgrgid(group).gr_name}",
            f"pid-file={place / 'pid'}",
            f"dhcp-leasefile={self._lease_file(setup.bridge)}",
            f"dhcp-hostsfile={place / 'hosts'}",
            f"addn-hosts={place / 'names'}",
            f"resolv-file={_resolv_file()}",
        ]
        return "\n".join(lines) + "\n"


def _lists(setup: Setup) -> dict[str, str]:
    return {
        "hosts": "".join(f"{line}\n" for line in setup.hosts),
        "names": "".join(f"{line}\n" for line in setup.names),
    }


def _file(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16] + ".conf"


# --- files ---------------------------------------------------------------------------------------------------------


def _account() -> tuple[str, int]:
    """The user that dnsmasq becomes, and its group."""
    for name in _USERS:
        with contextlib.suppress(KeyError):
            return name, pwd.getpwnam(name).pw_gid
    return "root", 0


def _directory(path: Path, mode: int) -> None:
    """Make a directory where there is none, whatever this process's umask."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
        path.chmod(mode)


def _directories(path: Path) -> Iterator[Path]:
    try:
        yield from (entry for entry in path.iterdir() if entry.is_dir())
    except OSError:
        return


def _forget(run: Path) -> None:
    """Take away a directory of ours whose processes are gone, and the one above where nothing else is in it."""
    shutil.rmtree(run, ignore_errors=True)
    with contextlib.suppress(OSError):
        RUN.rmdir()


def _resolv_file() -> Path:
    """Where the name servers to ask are: the host's; in a named namespace its own (ip-netns(8)), if it has one.

    Another namespace can't ask at the loopback address where systemd-resolved answers.
    """
    here = _namespace()
    if here == _inode(Path("/proc/1/ns/net")):
        return _RESOLV_CONF
    for entry in _names_of(here):
        own = Path("/etc/netns") / entry / "resolv.conf"
        if own.exists():
            return own
    servers = [line.split()[1] for line in (files.text_of(_RESOLV_CONF) or "").splitlines() if _is_server(line)]
    local = bool(servers) and all(server.startswith("127.") or server == "::1" for server in servers)
    return _RESOLVED if local and _RESOLVED.exists() else _RESOLV_CONF


def _is_server(line: str) -> bool:
    return line.startswith("nameserver") and len(line.split()) > 1


# --- processes -----------------------------------------------------------------------------------------------------


def _begin(bridge: str, argv: list[str], said: Path) -> None:
    """Run what starts a server.

    :param said: a file in which more may be than it says itself.
    :raises HostnetError: with what was said.
    """
    said.unlink(missing_ok=True)
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
            cwd="/",
            start_new_session=True,
            timeout=_START,
        )
    except subprocess.TimeoutExpired:
        raise _failed(bridge, f"dnsmasq did not start within {_START:.0f} s") from None
    if done.returncode:
        lines = ((files.text_of(said) or "").strip() or done.stderr.strip()).splitlines()
        raise _failed(bridge, lines[-1] if lines else f"dnsmasq ended with exit code {done.returncode}")


def _failed(bridge: str, why: str) -> HostnetError:
    what = f"DHCP and router advertisements can't be served on {bridge}"
    if "Address already in use" in why:
        return HostnetError(
            Code.CONFLICT,
            what,
            why,
            "Another DNS server listens on every address of this host: bind it to its own (dnsmasq: `bind-dynamic`), "
            "or set dhcpServer.dnsServers",
        )
    return HostnetError(Code.KERNEL, what, why, "The host's log has more (`journalctl -t dnsmasq`)")


def _find(place: Path) -> _Process | None:
    """The process whose configuration is in this directory; its pid file is looked at first, then all processes."""
    noted = files.text_of(place / "pid")
    if noted is None and not place.exists():
        return None
    if noted is not None and noted.strip().isdigit():
        found = _process(int(noted), place)
        if found is not None:
            return found
    candidates = (_process(int(entry.name), place) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return next(filter(None, candidates), None)


def _process(pid: int, place: Path) -> _Process | None:
    """The process of this number if it is our dnsmasq: in this namespace, with a configuration of this directory."""
    config = _config_of(pid)
    if config is None or config.parent != place or _inode(Path(f"/proc/{pid}/ns/net")) != _namespace():
        return None
    return _Process(pid, config)


def _config_of(pid: int) -> Path | None:
    """The configuration file on the command line of a dnsmasq; None for any other process."""
    words = (files.text_of(Path(f"/proc/{pid}/cmdline")) or "").split("\0")
    option = "--conf-file="
    if len(words) < 2 or Path(words[0]).name != "dnsmasq" or not words[1].startswith(option):
        return None
    return Path(words[1][len(option) :])


def _signal(process: _Process, number: signal.Signals) -> bool:
    """Send a signal to this very process; False where it is gone."""
    with _opened(process) as descriptor:
        if descriptor is None:
            return False
        signal.pidfd_send_signal(descriptor, number)
        return True


def _stop(process: _Process) -> None:
    """End it and wait for its end."""
    with _opened(process) as descriptor:
        if descriptor is not None:
            end_process(descriptor)


@contextlib.contextmanager
def _opened(process: _Process) -> Iterator[int | None]:
    """A descriptor of the process, which no later process of its number gets; None where it is not there any more."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        # Looked at again, now that the number can't become another's.
        yield descriptor if _process(process.pid, process.config.parent) else None
    finally:
        os.close(descriptor)


# --- namespaces ----------------------------------------------------------------------------------------------------


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _namespace() -> int:
    """The network namespace of the calling thread."""
    return _inode(Path("/proc/thread-self/ns/net"))


def _names_of(namespace: int) -> list[str]:
    """The names of a namespace (ip-netns(8))."""
    try:
        return [entry.name for entry in _NAMED_NAMESPACES.iterdir() if _inode(entry) == namespace]
    except OSError:
        return []


def sweep() -> None:
    """End what serves in namespaces that have no name any more and nobody else in them: they would live for ever.

    What a state directory left that is gone itself goes, too, unless it still serves.
    """
    for run in _directories(RUN):
        try:
            about = json.loads((run / _ABOUT).read_text())
            namespace = int(about["netns"] or 0)
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if _names_of(namespace) if namespace else Path(about["state"]).exists():
            continue
        inside = _processes_in(namespace)
        ours = [pid for pid, config in inside.items() if config is not None and config.parent.parent == run]
        if (len(ours) == len(inside)) if namespace else not ours:
            for pid in ours:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            _forget(run)


def _processes_in(namespace: int) -> Mapping[int, Path | None]:
    """The processes of a namespace (0: every dnsmasq), with the configuration file of those that are a dnsmasq."""
    found: dict[int, Path | None] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (not namespace or _inode(entry / "ns" / "net") == namespace):
            config = _config_of(int(entry.name))
            if namespace or config is not None:
                found[int(entry.name)] = config
    return found
