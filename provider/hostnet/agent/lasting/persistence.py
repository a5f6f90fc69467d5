"""What goes on when no provider runs: the watcher, systemd's units, and what keeps network daemons off our interfaces.

`Persistence.sync` brings them to what the record asks for, after each transaction; with nothing recorded nothing stays.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hostnet
from hostnet import __version__
from hostnet.agent.lasting.attach import globs_of
from hostnet.agent.lasting.unmanaged import Daemon, UnmanagedFiles
from hostnet.agent.linux import files, systemd, units
from hostnet.agent.linux.process import PidFile, Process, log_path, pid_path, spawn
from hostnet.agent.record.owners import Owner, Owners
from hostnet.agent.record.record import Record, Store
from hostnet.wire.objects import Glob, Link

_SYSTEM_PYTHONS = ("/usr/bin/python3", "/run/current-system/sw/bin/python3")
_ENDED = "no process follows new interfaces: it was ended; the next change here, or `hostnet restore`, starts it"
# What an interface's name or a glob may be made of; more is checked before it gets here.
_PLAIN = re.compile(r"[A-Za-z0-9_.*?\[\]-]{1,64}")


@dataclass(frozen=True)
class Places:
    """Where systemd and network daemons are looked for and told; tests have their own."""

    systemd: Path = systemd.BOOTED
    units: Path = Path("/etc/systemd/system")
    networkd_runs: Path = Path("/run/systemd/netif/state")
    networkd: Path = Path("/etc/systemd/network")
    networkd_passing: Path = Path("/run/systemd/network")
    network_manager_runs: Path = Path("/run/NetworkManager/devices")
    network_manager: Path = Path("/etc/NetworkManager")
    network_manager_passing: Path = Path("/run/NetworkManager/conf.d")


class Tools:
    """The few commands that tell others."""

    def run(self, *argv: str) -> str:
        """Run one; gives what it said where it failed."""
        return systemd.run(*argv)


@dataclass(frozen=True)
class Watching:
    """How the watcher is.

    :param needed: whether a glob is recorded.
    :param process: the watcher, if it lives.
    """

    needed: bool
    process: Process | None


class Persistence:
    """Of one record.

    :param netns: the named namespace that this is; None otherwise.
    :param persist: `auto`, `always` or `never`, as the provider's configuration says; `keep`: as it was.
    """

    def __init__(
        self,
        store: Store,
        netns: str | None = None,
        persist: str = "keep",
        places: Places | None = None,
        tools: Tools | None = None,
    ) -> None:
        self._state = store.path.parent.absolute()
        self._machine = store.instance is None
        self._netns, self._persist = netns, persist
        self._places, self._tools = places or Places(), tools or Tools()
        self._name = units.instance_name(self._state)
        self._shields = UnmanagedFiles(self._unmanaged(), self._tools.run)
        self._log = log_path(store.path)
        self._pid = PidFile(pid_path(store.path))

    # --- what is asked for -----------------------------------------------------------------------------------------

    def declare_unmanaged(self, owners: Iterable[Owner]) -> None:
        """Keep network daemons off the interfaces of these owners, too; before they are made."""
        if self._machine:
            self._shields.write(set(_names(owners)), keep=True)

    def sync(self, record: Record) -> tuple[str, ...]:
        """Bring everything to what the record asks for; gives what a person should know."""
        globs = bool(globs_of(record.owners))
        warnings: list[str] = []
        by_unit = False
        if self._machine:
            by_unit = self._sync_units(record.owners, globs=globs, warnings=warnings)
            self._shields.write(set(_names(record.owners.values())), keep=False)
        try:
            self._sync_watcher(globs=globs, by_unit=by_unit)
        except OSError as error:
            warnings.append(f"no process follows new interfaces: it can't be started ({error.strerror})")
        if not record.owners:
            with contextlib.suppress(OSError):
                self._state.rmdir()
        return tuple(warnings)

    def watching(self, owners: Owners) -> Watching:
        """How the watcher is."""
        return Watching(bool(globs_of(owners)), self._watcher())

    def warnings(self, owner: Owner) -> tuple[str, ...]:
        """What is wrong for this owner: a watcher that died."""
        if Glob not in owner.kinds or self._watcher() is not None:
            return ()
        return (_ENDED,)

    # --- the watcher -----------------------------------------------------------------------------------------------

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
                # Not waited for: at boot this runs in the unit that the watcher's comes after.
                self._tools.run("systemctl", "start", "--no-block", f"{self._name}-watch.service")
        elif process is None or process.version != __version__:
            if process is not None:
                process.stop()
            self._pid.write(spawn([*agent_command(_root()), *self._arguments("watch")]))

    def hand_over(self) -> None:
        """End the watcher, for somebody who does its work."""
        process = self._pid.read()
        if process is not None and process.pid != os.getpid():
            process.stop()
        self._pid.write(os.getpid())

    def _arguments(self, task: str) -> list[str]:
        namespace = ["--netns", self._netns] if self._netns else []
        return [task, "--state-dir", str(self._state), *namespace]

    def _is_unit(self, process: Process) -> bool:
        try:
            return f"{self._name}-watch.service" in Path(f"/proc/{process.pid}/cgroup").read_text()
        except OSError:
            return False

    # --- systemd ---------------------------------------------------------------------------------------------------

    def _sync_units(self, owners: Owners, *, globs: bool, warnings: list[str]) -> bool:
        """Install what is wanted, remove what is not; True where the watcher is a unit."""
        there = self._places.systemd.is_dir()
        held = (self._places.units / f"{self._name}.service").exists()
        if owners and self._persist == "always" and not there:
            warnings.append(
                "persist is `always`, but systemd does not run here: have the host's init run "
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
            f"this network won't come back after a reboot: systemd's units can't be written ({error.strerror}{where}). "
            "Run `hostnet restore` at boot by other means (NixOS: a service in configuration.nix), "
            "and set persist to `never`"
        )

    def _texts(self, *, globs: bool) -> dict[str, str]:
        argv = agent_command(self._kept_agent())
        texts = {
            f"{self._name}.service": units.restore_unit(self._state, argv),
            f"{self._name}-firewall.service": units.firewall_unit(self._name, self._state),
        }
        if globs:
            texts[f"{self._name}-watch.service"] = units.watch_unit(self._name, self._state, argv)
        return texts

    def _write_units(self, wanted: dict[str, str]) -> None:
        removed, written, new_here = [], [], not (self._places.units / f"{self._name}.service").exists()
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
            stop = ["--now"] if suffix == "-watch" else []  # this may run in one of the others
            self._tools.run("systemctl", "disable", "--quiet", *stop, "--no-reload", file)
            path.unlink(missing_ok=True)
            removed.append(file)
        if written:
            self._tools.run("systemctl", "enable", "--quiet", "--no-reload", *written)
        if written or removed:
            self._tools.run("systemctl", "daemon-reload")
        if written:
            self._tools.run("systemctl", "try-restart", "--no-block", f"{self._name}-watch.service")
            forget_agents(self._state / "agent", self._kept_agent())
        if written and new_here:
            # Else no firewall's reload would reach it before the next boot. It waits for the lock that is held here.
            self._tools.run("systemctl", "start", "--no-block", f"{self._name}.service")
        if removed:
            self._tools.run("systemctl", "stop", "--no-block", *removed)
            self._tools.run("systemctl", "reset-failed", *removed)
        if removed and not wanted:
            self._drop_agent()

    def _kept_agent(self) -> Path:
        """The agent as a file that outlives a boot and what this one runs from."""
        directory, root = self._state / "agent", _root()
        if root.is_file() and root.parent == directory:
            return root
        if root.is_file():
            data = root.read_bytes()
        else:
            from hostnet.agent.bundle import bundle  # noqa: PLC0415 - a checkout's or a package's; a zip has none

            data = bundle().data
        path = directory / f"{hashlib.sha256(data).hexdigest()}.zip"
        if not path.exists():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.write(path, data, 0o600)
        return path

    def _drop_agent(self) -> None:
        """Take our copy away; an agent that runs from such a file takes its own away when it ends."""
        if _root().is_file():
            return
        forget_agents(self._state / "agent")

    def _unmanaged(self) -> Iterator[Daemon]:
        """The network daemons, and our files for them."""
        places = self._places
        file = f"00-{self._name}.network"  # of all files that fit a link the first counts
        yield Daemon(
            installed=places.systemd,  # it is part of it
            runs=places.networkd_runs,
            lasting=places.networkd / file,
            passing=places.networkd_passing / file,
            text=units.networkd_text,
            tell=("networkctl", "reload"),
        )
        file = f"90-{self._name}.conf"
        yield Daemon(
            installed=places.network_manager,
            runs=places.network_manager_runs,
            lasting=places.network_manager / "conf.d" / file,
            passing=places.network_manager_passing / file,
            text=units.network_manager_text,
            tell=("systemctl", "reload", "NetworkManager.service"),
        )


def agent_command(root: Path) -> list[str]:
    """How this agent's code is run.

    :param root: the directory or the zip that the package is in.
    """
    python = python_path()
    if root.is_file():
        return [python, "-I", "-S", str(root)]
    code = f"import sys; sys.path.insert(0, {str(root)!r}); "
    code += "from hostnet.agent.main import main; sys.exit(main())"
    return [python, "-I", "-S", "-c", code]


def compiled_of(file: Path) -> Path:
    """Where a Python keeps what it compiled of an agent's file (`agent/__main__.py`)."""
    return file.with_suffix(".compiled")


def forget_agents(directory: Path, kept: Path | None = None) -> None:
    """Take away the agent's files, those of earlier versions too, but for any that an agent runs from now.

    :param kept: one that stays in any case.
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


def python_path() -> str:
    """A Python that is there tomorrow, too: not a virtual environment's, nor one that only Nix's store names."""
    real = os.path.realpath(sys.executable)
    return next((path for path in _SYSTEM_PYTHONS if os.path.realpath(path) == real), real)


def _root() -> Path:
    return Path(hostnet.__file__).absolute().parent.parent


def _names(owners: Iterable[Owner]) -> Iterator[str]:
    for owner in owners:
        if not owner.kinds & {Link, Glob}:
            continue
        for item in owner.objects:
            name = item.name if isinstance(item, Link) else item.pattern if isinstance(item, Glob) else ""
            if _PLAIN.fullmatch(name):
                yield name
