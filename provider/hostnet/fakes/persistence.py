"""What outlives the provider, without a process: the watcher is a flag, systemd and the daemons are directories."""

from __future__ import annotations

from pathlib import Path

from hostnet import __version__
from hostnet.agent.lasting.persistence import Commands, Persistence, Places
from hostnet.agent.linux.process import Process
from hostnet.agent.record.record import Store


class RecordedCommands(Commands):
    """Runs no command.

    Attributes:
        ran: The words of each command that the agent would have run, in order.
    """

    def __init__(self) -> None:
        self.ran: list[tuple[str, ...]] = []

    def run(self, *argv: str) -> str:
        """Note it; it succeeds."""
        self.ran.append(argv)
        return ""


class FakePersistence(Persistence):
    """The agent's own, in directories of a test; it starts no process.

    Attributes:
        places: Where systemd and the daemons are looked for. Nothing is there at first: make `places.systemd`, and
            systemd runs.
        commands: What would have been run.
        watched: Whether a watcher attaches new interfaces. A test that sets it to False has ended it.
    """

    def __init__(self, store: Store, root: Path, persist: str = "keep") -> None:
        self.places = Places(
            systemd=root / "run/systemd/system",
            units=root / "etc/systemd/system",
            networkd_runs=root / "run/systemd/netif/state",
            networkd=root / "etc/systemd/network",
            networkd_until_reboot=root / "run/systemd/network",
            network_manager_runs=root / "run/NetworkManager/devices",
            network_manager=root / "etc/NetworkManager",
            network_manager_until_reboot=root / "run/NetworkManager/conf.d",
        )
        self.commands, self.watched = RecordedCommands(), False
        super().__init__(store, None, persist, self.places, self.commands)

    def _watcher(self) -> Process | None:
        return Process(0, 0, __version__) if self.watched else None

    def _sync_watcher(self, *, globs: bool, by_unit: bool) -> None:
        del by_unit
        self.watched = globs
