"""The DHCP servers of a record: one dnsmasq for each bridge. They live on when agent and provider end.

The leases of the machine's own bridges stay beside the record. All else is in /run/hostnet: dnsmasq gives up root and
must read its lists again on a signal, and root alone can enter the state directory. The leases of a namespace are there
as well, for they end with the boot.

    /run/hostnet/<digest of state directory and instance>/about-this-directory.json   whose it is, for `process.sweep`
        <bridge>/<digest of its text>.conf    read once, by root
        <bridge>/hosts, names                 read again on SIGHUP
        <bridge>/pid, checksums

The name of the configuration file is a digest of its text, so a process's command line says whether it runs with the
declared configuration. For a change of `hosts` or `names` dnsmasq gets SIGHUP (dnsmasq(8): it reads dhcp-hostsfile and
addn-hosts again, but no conf-file); for any other change another process replaces it. The leases stay in both cases.

Where systemd runs, the machine's own servers are services, which it restarts if they die. Those of a namespace are not:
a service would start them again in a namespace that has lost its name.
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from hostnet.agent.dhcp import checksums, domains, process
from hostnet.agent.dhcp import config as dhcp
from hostnet.agent.dhcp.config import ServerConfig
from hostnet.agent.dhcp.process import ABOUT, RUN
from hostnet.agent.linux import files, systemd, units
from hostnet.agent.linux.install_hints import advice_here
from hostnet.agent.plan.world import World
from hostnet.agent.record.netns import inode, names_of
from hostnet.agent.record.owners import Owner
from hostnet.agent.record.record import Store
from hostnet.wire.digest import sha256
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import DhcpServer, DhcpState, Lease

_RESOLVED = Path("/run/systemd/resolve/resolv.conf")  # the servers that systemd-resolved itself asks
_RESOLV_CONF = Path("/etc/resolv.conf")
_LIST_MODE = 0o640
# Of one bridge in what a provider gets: a /16 full of guests took a read 4 s, and made 10 MB of a stack's state.
MOST_LEASES = 1000
_SECONDS = 10.0


class ServerError(Exception):
    """A server that does not run."""

    def __init__(self, bridge: str, error: HostnetError) -> None:
        super().__init__(str(error))
        self.bridge, self.error = bridge, error


def check_installed(bridge: str) -> None:
    """Check that this host has dnsmasq.

    Args:
        bridge: The bridge that needs it, for the message.

    Raises:
        HostnetError: It has not; the error names the package.
    """
    if files.which("dnsmasq") is None:
        raise HostnetError(
            Code.UNSUPPORTED,
            f"cannot serve DHCP and router advertisements on {bridge}",
            "dnsmasq is not installed (or not in PATH)",
            advice_here("dnsmasq"),
        )


def check_fills_sets(owner: Owner) -> None:
    """Check that this host's dnsmasq can fill sets of nftables, where rules of an owner by domain name need it.

    Args:
        owner: The owner that changes.

    Raises:
        HostnetError: It can't.
    """
    rule = next((rule for item in domains.with_names(owner) for rule in domains.rules_by_name(item)), None)
    if rule is None or fills_sets():
        return
    raise HostnetError(
        Code.UNSUPPORTED,
        f"cannot let guests reach {rule.domain} by its name",
        "this host's dnsmasq was built without nftset (`dnsmasq --version`)",
        "Install one that is (2.87 or later, such as Debian 12's), or write the rule with a cidr",
    )


def fills_sets() -> bool:
    """Whether this host's dnsmasq can fill sets of nftables; True where there is none."""
    program = files.which("dnsmasq")
    if program is None:
        return True
    status = Path(program).stat()
    return _fills_sets(program, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1)  # a thousand guests in turn ask for it
def _fills_sets(program: str, *_: int) -> bool:
    """The same of a program; a file that was changed is another one."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return True  # its start says why
    return not domains.lacks_nftset(said.stdout)


class DhcpServers:
    """All servers of one record.

    Args:
        store: The record's.
    """

    def __init__(self, store: Store) -> None:
        process.sweep()
        name = f"{store.path.absolute()} {store.instance or ''}"
        self._run = RUN / sha256(name.encode()).hexdigest()[:16]
        self._lease_directory = store.path.with_suffix(".dhcp") if store.instance is None else self._run
        self._machine, self._state = store.instance is None, store.path.parent.absolute()

    @staticmethod
    def check(owner: Owner, world: World) -> None:
        """Check that an owner's server, or a guest beside one, can be served.

        Args:
            owner: The owner that changes.
            world: All owners, and the host as it is.

        Raises:
            HostnetError: It can't.
        """
        for item in owner.of(DhcpServer):
            check_installed(item.bridge)
        dhcp.check(owner, world)
        check_fills_sets(owner)

    # --- changes -----------------------------------------------------------------------------------------------------

    def sync(self, world: World, concerned: set[str]) -> None:
        """Bring the servers of some bridges to what the owners want, and end those that no owner wants.

        Args:
            world: All owners, and the host as it is.
            concerned: The bridges whose servers may have to change.

        Raises:
            ServerError: A server does not run. The bridges after it are not looked at.
        """
        wanted = {server.bridge: server for server in dhcp.servers(world)}
        for bridge in self._bridges():
            if bridge not in wanted:
                self._remove(bridge)
        for bridge in sorted(concerned & set(wanted)):
            self._run_server(wanted[bridge], world)
        if not wanted:
            self._remove_directories()

    def _run_server(self, server: DhcpServer, world: World) -> None:
        try:
            self._ensure(dhcp.config_of(server, world))
        except HostnetError as error:
            raise ServerError(server.bridge, error) from None
        except OSError as error:
            why = f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
            raise ServerError(server.bridge, process.failure(server.bridge, why)) from None

    def _ensure(self, config: ServerConfig) -> None:
        """Have a server run with this configuration."""
        bridge, place = config.bridge, self._run / config.bridge
        text = self._text(config)
        file = place / _file_name(text)
        running = process.find(place)
        if running is not None and running.config == file:
            closed = not self._is_readable(config)
            self._make_directories(bridge)
            if self._write_lists(config) or closed:
                running.signal(signal.SIGHUP)
            if not self._checksums_whole(bridge):
                self._complete_checksums(bridge)
            return
        check_installed(bridge)
        self._end(bridge)
        self._make_directories(bridge)
        for old in place.glob("*.conf"):
            old.unlink()
        files.write(file, text, 0o600, sync=False)
        self._write_lists(config)
        self._start(bridge, file)
        self._complete_checksums(bridge)

    def _complete_checksums(self, bridge: str) -> None:
        how = checksums.complete(bridge, self._checksums(bridge))
        files.write(self._run / bridge / "checksums", how, 0o600, sync=False)

    def _checksums_whole(self, bridge: str) -> bool:
        return checksums.is_complete(bridge, self._checksums(bridge))

    def _checksums(self, bridge: str) -> str:
        """How the checksums of a bridge's answers are completed."""
        return files.text_of(self._run / bridge / "checksums") or ""

    def _start(self, bridge: str, config: Path) -> None:
        """Start a server.

        Raises:
            HostnetError: It did not start.
        """
        argv, errors, unit = process.argv_of(config), config.with_name("errors"), self._unit(bridge)
        if unit is None:
            process.start(bridge, systemd.in_scope(argv), errors)
            return
        try:
            what = f"hostnet: DHCP, DNS and router advertisements on {bridge}"
            process.start(bridge, systemd.as_service(unit, what, config.with_name("pid"), errors, argv), errors)
        except HostnetError:
            systemd.tell("stop", unit)  # Restart=always would try for ever: the service has no start limit
            raise

    def _end(self, bridge: str) -> None:
        """End the server of a bridge, and wait for its end."""
        unit = self._unit(bridge)
        if unit is not None:
            systemd.tell("stop", unit)
        running = process.find(self._run / bridge)
        if running is not None:
            running.stop()
        else:
            process.await_end(self._run / bridge)

    def _unit(self, bridge: str) -> str | None:
        """The name of the service that a bridge's server is; None if it is a process of its own."""
        return units.server_unit(self._state, bridge) if self._machine and systemd.runs() else None

    def _make_directories(self, bridge: str) -> None:
        """Make the directories and the lease file of a server, and give them their permissions."""
        for path, mode, group in self._permissions(bridge):
            _make_directory(path, mode, group)
        about = {"state": str(self._state), "netns": None if self._machine else process.namespace()}
        files.write(self._run / ABOUT, json.dumps(about), 0o600, sync=False)  # /run ends with the boot
        _make_directory(self._lease_directory, 0o711 if self._lease_directory == self._run else 0o700, 0)
        os.close(files.open_ours(self._lease_file(bridge), os.O_RDWR | os.O_CREAT))

    def _permissions(self, bridge: str) -> Iterator[tuple[Path, int, int]]:
        """The directories between /run and a server's lists, each with its mode and its group."""
        # dnsmasq's own user passes through these two, and has no need to list them.
        yield RUN, 0o711, 0
        yield self._run, 0o711, 0
        # After it has given up root, dnsmasq reads the lists in here again.
        yield self._run / bridge, 0o750, process.account()[2]

    def _is_readable(self, config: ServerConfig) -> bool:
        """Whether dnsmasq, which has given up root, can read its lists."""
        group = process.account()[2]
        lists = ((self._run / config.bridge / name, _LIST_MODE, group) for name in _lists(config))
        try:
            return all(_has(*each) for each in (*self._permissions(config.bridge), *lists))
        except OSError:
            return False

    def _write_lists(self, config: ServerConfig) -> bool:
        """Write the files that dnsmasq reads again on a signal; True if one has changed."""
        _, _, group = process.account()
        changed = False
        for name, text in _lists(config).items():
            path = self._run / config.bridge / name
            if files.text_of(path) != text or not _has(path, _LIST_MODE, group):
                files.write(path, text, _LIST_MODE, group=group, sync=False)
                changed = True
        return changed

    def _remove(self, bridge: str) -> None:
        place = self._run / bridge
        self._end(bridge)
        checksums.restore(bridge, self._checksums(bridge))
        files.remove_tree(place)
        self._lease_file(bridge).unlink(missing_ok=True)

    def _remove_directories(self) -> None:
        """Remove what is empty without servers."""
        if self._run.exists():
            process.remove_directory(self._run)
        with contextlib.suppress(OSError):
            self._lease_directory.rmdir()

    def _bridges(self) -> list[str]:
        """The bridges that have, or had, a server: after a boot there are leases alone."""
        held = {path.name for path in process.directories(self._run)}
        if self._machine:
            held |= {path.name[: -len(".leases")] for path in self._lease_directory.glob("*.leases")}
        return sorted(held)

    # --- state -------------------------------------------------------------------------------------------------------

    def state(self, server: DhcpServer, world: World) -> DhcpState:
        """Whether a server runs as declared, and its leases."""
        leases = self.leases(server.bridge)
        place = self._run / server.bridge
        try:
            config = dhcp.config_of(server, world)
            running = process.find(place)
            as_declared = running is not None and running.config == place / _file_name(self._text(config))
        except (HostnetError, OSError):
            return DhcpState(running=False, leases=leases)
        lists = all(files.text_of(place / name) == text for name, text in _lists(config).items())
        lists = lists and self._is_readable(config)
        return DhcpState(as_declared and lists and self._checksums_whole(server.bridge), leases)

    def leases(self, bridge: str) -> tuple[Lease, ...]:
        """The leases in use on a bridge: those of the lowest addresses, `MOST_LEASES` at most."""
        found = sorted(self._leases(bridge), key=lambda lease: [part.zfill(3) for part in lease.address.split(".")])
        return tuple(found[:MOST_LEASES])

    def _leases(self, bridge: str) -> Iterator[Lease]:
        if "/" in bridge:
            return iter(())
        return dhcp.parse_leases(files.text_of(self._lease_file(bridge)) or "", time.time())

    def leased(self) -> dict[str, dict[str, str]]:
        """The leased addresses by bridge, each with the MAC address that has it."""
        return {bridge: {each.address: each.mac for each in self._leases(bridge)} for bridge in self._bridges()}

    def _lease_file(self, bridge: str) -> Path:
        return self._lease_directory / f"{bridge}.leases" if self._machine else self._run / bridge / "leases"

    def _text(self, config: ServerConfig) -> str:
        """The text of the configuration file.

        Raises:
            OSError: There is no such bridge.
        """
        place = self._run / config.bridge
        user, _, group = process.account()
        lines = [
            f"# DHCP, DNS and router advertisements on {config.bridge}. Written by hostnet: changes here are lost.",
            # dnsmasq binds its DHCP socket to the interface (SO_BINDTODEVICE): a bridge that was deleted and made again
            # needs another process.
            f"# Interface number {socket.if_nametoindex(config.bridge)}",
            *config.lines,
            f"user={user}",
            f"group={grp.getgrgid(group).gr_name}",
            f"pid-file={place / 'pid'}",
            f"dhcp-leasefile={self._lease_file(config.bridge)}",
            f"dhcp-hostsfile={place / 'hosts'}",
            f"addn-hosts={place / 'names'}",
            f"resolv-file={_resolv_file()}",
        ]
        return "\n".join(lines) + "\n"


def _lists(config: ServerConfig) -> dict[str, str]:
    """The files that dnsmasq reads again on a signal, by name."""
    return {
        "hosts": "".join(f"{line}\n" for line in config.hosts),
        "names": "".join(f"{line}\n" for line in config.names),
    }


def _file_name(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16] + ".conf"


def _make_directory(path: Path, mode: int, group: int) -> None:
    """Have a directory with this mode and group, whatever the umask is, and whoever made it."""
    path.mkdir(mode=0o700, exist_ok=True)
    if not _has(path, mode, group):
        os.chown(path, 0, group)
        path.chmod(mode)


def _has(path: Path, mode: int, group: int) -> bool:
    """Whether a file or directory is root's, with this mode and group."""
    status = path.lstat()
    return (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (mode, 0, group)


def _resolv_file() -> Path:
    """The file that names the DNS servers to ask: the host's, or a named namespace's own (ip-netns(8)).

    A namespace can't reach 127.0.0.53, where systemd-resolved answers the host: it asks the servers behind it.
    """
    here = process.namespace()
    if here == inode(Path("/proc/1/ns/net")):
        return _RESOLV_CONF
    for name in names_of(here):
        own = Path("/etc/netns") / name / "resolv.conf"
        if own.exists():
            return own
    servers = [line.split()[1] for line in (files.text_of(_RESOLV_CONF) or "").splitlines() if _is_server(line)]
    local = bool(servers) and all(server.startswith("127.") or server == "::1" for server in servers)
    return _RESOLVED if local and _RESOLVED.exists() else _RESOLV_CONF


def _is_server(line: str) -> bool:
    return line.startswith("nameserver") and len(line.split()) > 1
