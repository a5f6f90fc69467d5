"""What works while no provider runs: the watcher, systemd's units, and the files for network daemons.

`Persistence.sync` brings them to what the record needs, after each transaction. Without owners nothing of them is left.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hostnet import __version__
from hostnet.agent.lasting.agent_file import agent_command, agent_root, keep_agent, remove_agents
from hostnet.agent.lasting.unmanaged import Daemon, UnmanagedFiles
from hostnet.agent.linux import files, systemd, units
from hostnet.agent.linux.process import PidFile, Process, control_group, log_path, pid_path, spawn
from hostnet.agent.record.owners import Owner, Owners
from hostnet.agent.record.record import Record, Store
from hostnet.wire.objects import Glob, Link

_ENDED = (
    "no process attaches new interfaces: it was ended. The next change on this host, or `hostnet restore`, starts it"
)
# The characters of an interface's name or a glob. They were checked before; here they go into files of other programs.
_PLAIN = re.compile(r"[A-Za-z0-9_.*?\[\]-]{1,64}")


@dataclass(frozen=True)
class Places:
    """Where systemd and the network daemons are, and where their files are; tests have their own."""

    systemd: Path = systemd.BOOTED
    units: Path = Path("/etc/systemd/system")
    networkd_runs: Path = Path("/run/systemd/netif/state")
    networkd: Path = Path("/etc/systemd/network")
    networkd_until_reboot: Path = Path("/run/systemd/network")
    network_manager_runs: Path = Path("/run/NetworkManager/devices")
    network_manager: Path = Path("/etc/NetworkManager")
    network_manager_until_reboot: Path = Path("/run/NetworkManager/conf.d")


class Commands:
    """Runs the commands of systemd and of the network daemons; tests only note them."""

    def run(self, *argv: str) -> str:
        """Run one; returns its error message, "" if it succeeds."""
        return systemd.run(*argv)


@dataclass(frozen=True)
class WatcherState:
    """The state of the watcher.

    Attributes:
        needed: Whether a glob is recorded.
        process: The watcher's process, if it runs.
    """

    needed: bool
    process: Process | None


class Persistence:
    """What lasts, of one record.

    Args:
        store: The record's.
        netns: The name of the network namespace; None for the machine's own.
        persist: `auto`, `always` or `never`, as in the provider's configuration; `keep`: units that exist are kept up
            to date, and none is added.
        places: Where systemd and the network daemons are; None: where they are on a host.
        commands: Runs their commands; None: as they are.
    """

    def __init__(
        self,
        store: Store,
        netns: str | None = None,
        persist: str = "keep",
        places: Places | None = None,
        commands: Commands | None = None,
    ) -> None:
        self._state = store.path.parent.absolute()
        self._machine = store.instance is None
        self._netns, self._persist = netns, persist
        self._places, self._commands = places or Places(), commands or Commands()
        self._name = units.instance_name(self._state)
        self._unmanaged = UnmanagedFiles(self._daemons(), self._commands.run)
        self._log = log_path(store.path)
        self._pid = PidFile(pid_path(store.path))
        self._agents = self._state / "agent"

    # --- sync --------------------------------------------------------------------------------------------------------

    def declare_unmanaged(self, owners: Iterable[Owner]) -> None:
        """Keep network daemons off the interfaces of these owners, too. To be called before the interfaces exist."""
        if self._machine:
            self._unmanaged.write(
                {name for owner in owners for name in _names(owner.of(Link), owner.of(Glob))}, keep=True
            )

    def sync(self, record: Record) -> tuple[str, ...]:
        """Bring everything to what the record needs.

        Args:
            record: The host's.

        Returns:
            Warnings for a person.
        """
        owners = record.owners
        globs = owners.has(Glob) or self._follows(owners)
        warnings: list[str] = []
        by_unit = False
        if self._machine:
            by_unit = self._sync_units(record.owners, globs=globs, warnings=warnings)
            self._unmanaged.write(set(_names(owners.every(Link), owners.every(Glob))), keep=False)
        try:
            self._sync_watcher(globs=globs, by_unit=by_unit)
        except OSError as error:
            warnings.append(f"no process attaches new interfaces: it cannot be started ({error.strerror})")
        if not record.owners:
            with contextlib.suppress(OSError):
                self._state.rmdir()
        return tuple(warnings)

    def _follows(self, owners: Owners) -> bool:
        """Whether the watcher runs for gateways alone: where a reboot brings them back.

        It runs for those that resolve their uplinks themselves, and those that have several, of which one may be absent
        for a while. One that runs already goes on.
        """
        if not any(gateway.resolved or gateway.more for gateway in owners.gateways.values()):
            return False
        if self._persist == "keep":
            return self._watcher() is not None
        return self._persist == "always" or (
            self._persist == "auto" and self._machine and self._places.systemd.is_dir()
        )

    def watching(self, owners: Owners) -> WatcherState:
        """The state of the watcher."""
        return WatcherState(owners.has(Glob), self._watcher())

    def warnings(self, owner: Owner) -> tuple[str, ...]:
        """Warnings about this owner: that its watcher has ended."""
        if Glob not in owner.kinds or self._watcher() is not None:
            return ()
        return (_ENDED,)

    # --- the watcher -------------------------------------------------------------------------------------------------

    def _watcher(self) -> Process | None:
        return self._pid.read()

    def _sync_watcher(self, *, globs: bool, by_unit: bool) -> None:
        process = self._pid.read()
        if not globs:
            if process is not None:
                process.stop()
            self._pid.remove()
            self._log.unlink(missing_ok=True)
        elif by_unit:
            if process is not None and not self._is_unit(process):
                process.stop()
                process = None
            if process is None:
                # Without waiting: at boot this runs in the unit that comes before the watcher's (After=).
                self._commands.run("systemctl", "start", "--no-block", f"{self._name}-watch.service")
        elif process is None or process.version != __version__:
            if process is not None:
                process.stop()
            self._pid.write(spawn([*agent_command(agent_root()), *self._arguments("watch")]))

    def hand_over(self) -> None:
        """End the watcher: this process takes over its work."""
        process = self._pid.read()
        if process is not None and process.pid != os.getpid():
            process.stop()
        self._pid.write(os.getpid())

    def _arguments(self, task: str) -> list[str]:
        namespace = ["--netns", self._netns] if self._netns else []
        return [task, "--state-dir", str(self._state), *namespace]

    def _is_unit(self, process: Process) -> bool:
        try:
            return f"{self._name}-watch.service" in control_group(process.pid)
        except OSError:
            return False

    # --- systemd -----------------------------------------------------------------------------------------------------

    def _sync_units(self, owners: Owners, *, globs: bool, warnings: list[str]) -> bool:
        """Install the units that are needed and remove the others; True if the watcher is a unit."""
        there = self._places.systemd.is_dir()
        held = (self._places.units / f"{self._name}.service").exists()
        if owners and self._persist == "always" and not there:
            warnings.append(
                "persist is `always`, but systemd does not run on this host: have its init run "
                "`hostnet restore` at boot, before guests start"
            )
        wanted: dict[str, str] = {}
        if there and owners and self._persist != "never" and (held or self._persist != "keep"):
            try:
                wanted = self._texts(globs=globs)
            except OSError as error:
                warnings.append(self._not_persistent(error))
        try:
            self._write_units(wanted)
        except OSError as error:
            warnings.append(self._not_persistent(error))
            return False
        return f"{self._name}-watch.service" in wanted

    def _not_persistent(self, error: OSError) -> str:
        where = f" {error.filename}" if error.filename else ""
        return (
            f"this network will not come back after a reboot: cannot write systemd's units ({error.strerror}{where}). "
            "Run `hostnet restore` at boot by other means (NixOS: a service in configuration.nix), "
            "and set persist to `never`"
        )

    def _texts(self, *, globs: bool) -> dict[str, str]:
        argv = agent_command(keep_agent(self._agents))
        texts = {
            f"{self._name}.service": units.restore_unit(self._state, argv),
            f"{self._name}-firewall.service": units.firewall_unit(self._name, self._state),
        }
        if globs:
            texts[f"{self._name}-watch.service"] = units.watch_unit(self._name, self._state, argv)
        return texts

    def _write_units(self, wanted: dict[str, str]) -> None:
        """Write, enable, disable and remove units.

        Args:
            wanted: The units' texts by file name.

        Raises:
            OSError: One can't be written.
        """
        new_here = not (self._places.units / f"{self._name}.service").exists()
        written, removed = self._change_files(wanted)
        run = self._commands.run
        if written:
            run("systemctl", "enable", "--quiet", "--no-reload", *written)
        if written or removed:
            run("systemctl", "daemon-reload")
        if written:
            run("systemctl", "try-restart", "--no-block", f"{self._name}-watch.service")
            remove_agents(self._agents, keep_agent(self._agents))
        if written and new_here:
            # systemd propagates a firewall's reload (ReloadPropagatedFrom=) to active units alone: without this start
            # none would come before the next boot. Without waiting: it needs the lock that is held here.
            run("systemctl", "start", "--no-block", f"{self._name}.service")
        if removed:
            run("systemctl", "stop", "--no-block", *removed)
            run("systemctl", "reset-failed", *removed)  # a failed unit is listed as long as it is not reset
        if removed and not wanted and not agent_root().is_file():
            remove_agents(self._agents)  # an agent that runs from such a file removes its own when it ends

    def _change_files(self, wanted: dict[str, str]) -> tuple[list[str], list[str]]:
        """Write and remove the units' files; returns the names of those that were written, and of those removed."""
        written, removed = [], []
        for suffix in ("", "-firewall", "-watch"):
            file = f"{self._name}{suffix}.service"
            path = self._places.units / file
            old, new = files.text_of(path), wanted.get(file)
            if old == new:
                continue
            if new is not None:
                files.write(path, new)
                written.append(file)
                continue
            now = ["--now"] if suffix == "-watch" else []  # this process may belong to one of the other two
            # Before its file is removed: without it systemctl (252) says "unit … does not exist", and leaves the links.
            self._commands.run("systemctl", "disable", "--quiet", *now, "--no-reload", file)
            path.unlink(missing_ok=True)
            removed.append(file)
        return written, removed

    def _daemons(self) -> Iterator[Daemon]:
        """The network daemons, with our files for them."""
        places = self._places
        # Of all files that match an interface the first one, by its name, counts (systemd.network(5)).
        file = f"00-{self._name}.network"
        yield Daemon(
            installed=places.systemd,  # systemd-networkd is a part of it
            runs=places.networkd_runs,
            permanent=places.networkd / file,
            until_reboot=places.networkd_until_reboot / file,
            text=units.networkd_text,
            reload=("networkctl", "reload"),
        )
        # NetworkManager reads its files by their names, and the later one overrides (NetworkManager.conf(5)).
        file = f"90-{self._name}.conf"
        yield Daemon(
            installed=places.network_manager,
            runs=places.network_manager_runs,
            permanent=places.network_manager / "conf.d" / file,
            until_reboot=places.network_manager_until_reboot / file,
            text=units.network_manager_text,
            reload=("systemctl", "reload", "NetworkManager.service"),
        )


def _names(links: Iterable[Link], globs: Iterable[Glob]) -> Iterator[str]:
    """The names and globs of interfaces."""
    names = (*(link.name for link in links), *(glob.pattern for glob in globs))
    return (name for name in names if _PLAIN.fullmatch(name))
