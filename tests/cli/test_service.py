"""The files for systemd and for network daemons, in directories of the test; no command is run."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hostnet.agent.lasting.agent_file import agent_command
from hostnet.agent.lasting.persistence import Commands, Persistence, Places
from hostnet.agent.linux import units
from hostnet.agent.record.owners import Owner, Owners
from hostnet.agent.record.record import Store
from hostnet.wire.objects import Glob, Link, Object

ARGV = ["/usr/bin/python3", "-I", "-S", "/var/lib/hostnet/agent/0123.zip"]


@dataclass
class Noted(Commands):
    """Notes commands and runs none."""

    noted: list[str] = field(default_factory=list)

    def run(self, *argv: str) -> str:
        """Note it."""
        self.noted.append(" ".join(argv))
        return ""


class Bench:
    """What lasts on a machine, in a directory."""

    def __init__(self, directory: Path) -> None:
        """Systemd and both network daemons seem to run."""
        self.directory = directory
        self.places = Places(*(directory / str(field) for field in Places.__dataclass_fields__))
        for place in (self.places.systemd, self.places.units, self.places.network_manager_runs):
            place.mkdir(parents=True)
        self.places.networkd_runs.write_text("")
        self.commands = Noted()
        self.store = Store(directory / "state", "host", None)

    def service(self, persist: str) -> Persistence:
        """The persistence of an agent."""
        return Persistence(self.store, None, persist, self.places, self.commands)

    def sync(self, persist: str, *objects: Object) -> tuple[str, ...]:
        """Record these objects, and bring everything to what they need."""
        with self.store.locked() as record:
            owner = Owner("urn:pulumi:dev::shop::hostnet:index:Bridge::net", "net", objects)
            record.owners = Owners({owner.key: owner} if objects else {})
            self.store.save(record)
            return self.service(persist).sync(record)

    def units(self) -> set[str]:
        """The roles of the units that exist."""
        name = units.instance_name(self.store.path.parent)
        return {path.name.removeprefix(name).removesuffix(".service") for path in self.places.units.iterdir()}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A machine."""
    return Bench(tmp_path)


BRIDGE = Link("br0", "bridge")
GLOB = Glob("br0", "vm-*")


def test_units_come_with_the_first_resource_and_go_with_the_last(bench: Bench) -> None:
    """They are enabled, with a copy of the agent that outlives the provider. The watcher has one only with a match."""
    bench.sync("auto", BRIDGE)
    assert bench.units() == {"", "-firewall"}
    assert any(command.startswith("systemctl enable") for command in bench.commands.noted)
    agent = list((bench.store.path.parent / "agent").glob("*.zip"))
    assert len(agent) == 1
    text = next(path for path in bench.places.units.iterdir() if "-firewall" not in path.name).read_text()
    assert str(agent[0]) in text
    bench.sync("auto", BRIDGE, GLOB)
    assert bench.units() == {"", "-firewall", "-watch"}
    assert "start --no-block" in bench.commands.noted[-1]
    bench.sync("auto", BRIDGE)
    assert bench.units() == {"", "-firewall"}
    assert any("disable --quiet --now" in command for command in bench.commands.noted)
    before = len(bench.commands.noted)
    bench.sync("auto", BRIDGE)
    assert len(bench.commands.noted) == before, "nothing has changed: no command is run"
    bench.sync("auto")
    assert bench.units() == set()
    assert not bench.store.path.parent.exists()


def test_units_that_are_written_again_leave_no_earlier_agent(bench: Bench) -> None:
    """Files of other versions of hostnet go. One that an agent runs from stays until the next time."""
    bench.sync("auto", BRIDGE)
    directory = bench.store.path.parent / "agent"
    (kept,) = directory.glob("*.zip")
    old, used = directory / f"{'0' * 64}.zip", directory / f"{'1' * 64}.zip"
    old.write_bytes(b"")
    with used.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        bench.sync("auto", BRIDGE, GLOB)
        assert set(directory.iterdir()) == {kept, used}


def test_never_and_always(bench: Bench) -> None:
    """`never` removes all units. `always` without systemd is a warning that says what to do."""
    bench.sync("auto", BRIDGE)
    bench.sync("never", BRIDGE)
    assert bench.units() == set()
    bench.sync("keep", BRIDGE)
    assert bench.units() == set(), "`hostnet restore` leaves it as it is"
    shutil.rmtree(bench.places.systemd)
    assert bench.sync("auto", BRIDGE) == ()
    (warning,) = bench.sync("always", BRIDGE)
    assert "hostnet restore" in warning


def test_units_that_cannot_be_written_are_a_warning(bench: Bench) -> None:
    """On NixOS /etc/systemd/system is read-only. The network is set up nevertheless."""
    shutil.rmtree(bench.places.units)
    bench.places.units.write_text("not a directory")
    warnings = bench.sync("auto", BRIDGE)
    assert any("will not come back after a reboot" in warning for warning in warnings)


def test_network_daemons_are_kept_off(bench: Bench) -> None:
    """Their files exist before the interfaces do and as long as they do, where a daemon reads them at the next boot."""
    networkd, manager = bench.places.networkd, bench.places.network_manager / "conf.d"
    bench.service("never").declare_unmanaged([Owner("urn", "id", (BRIDGE,))])
    assert [path.suffix for path in networkd.iterdir()] == [".network"]
    text = next(networkd.iterdir()).read_text()
    assert "[Match]\nName=br0\n" in text
    assert "Unmanaged=yes" in text
    assert "unmanaged-devices+=interface-name:br0\n" in next(manager.iterdir()).read_text()
    assert bench.commands.noted == ["networkctl reload", "systemctl reload NetworkManager.service"]
    bench.service("never").declare_unmanaged([Owner("urn", "id", (GLOB,))])
    assert "Name=br0\nName=vm-*\n" in next(networkd.iterdir()).read_text()
    assert (next(networkd.iterdir()).stat().st_mode & 0o777) == 0o644
    bench.sync("never", BRIDGE)
    assert "vm-*" not in next(networkd.iterdir()).read_text()
    bench.sync("never")
    assert list(networkd.iterdir()) == list(manager.iterdir()) == []


def test_a_network_daemon_may_start_later(bench: Bench) -> None:
    """It finds the file if it is installed. While it does not run, nothing is reloaded."""
    networkd, manager, places = bench.places.networkd, bench.places.network_manager / "conf.d", bench.places
    places.networkd_runs.unlink()
    places.network_manager_runs.rmdir()
    bench.sync("never", BRIDGE)
    assert "Name=br0\n" in next(networkd.iterdir()).read_text()
    assert not manager.exists(), "it is not installed"
    places.network_manager.mkdir()
    bench.sync("never", BRIDGE)
    assert "interface-name:br0\n" in next(manager.iterdir()).read_text()
    assert bench.commands.noted == []


def test_network_daemons_are_kept_off_where_etc_cannot_be_written(bench: Bench) -> None:
    """On NixOS the files last until the next boot, when `hostnet restore` writes them again."""
    for place in (bench.places.networkd, bench.places.network_manager):
        place.write_text("not a directory")
    bench.sync("never", BRIDGE)
    networkd, manager = bench.places.networkd_until_reboot, bench.places.network_manager_until_reboot
    assert "Name=br0\n" in next(networkd.iterdir()).read_text()
    assert "interface-name:br0\n" in next(manager.iterdir()).read_text()
    bench.sync("never")
    assert not networkd.exists()
    assert not manager.exists()


def test_a_namespace_has_neither(tmp_path: Path) -> None:
    """Units and network daemons belong to the machine."""
    bench = Bench(tmp_path)
    bench.store = Store(tmp_path / "state", "netns-1", "boot 1 1")
    bench.service("always").declare_unmanaged([Owner("urn", "id", (BRIDGE,))])
    assert bench.sync("always", BRIDGE) == ()
    assert bench.units() == set()
    assert not bench.places.networkd.exists()


def test_other_state_directories_have_other_units() -> None:
    """Different state directories have different units."""
    assert units.instance_name(Path("/var/lib/hostnet")) == "hostnet"
    assert units.instance_name(Path("/srv/a")) != units.instance_name(Path("/srv/b"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """`systemd-analyze verify` finds no fault, also with unusual paths."""
    odd = tmp_path / "a b%c$d"
    argv = agent_command(Path(__file__).resolve().parents[2] / "provider")
    texts = {
        "hostnet.service": units.restore_unit(odd, argv),
        "hostnet-firewall.service": units.firewall_unit("hostnet", odd),
        "hostnet-watch.service": units.watch_unit("hostnet", odd, argv),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in texts)],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if "hostnet" in line]
    assert said == [], done.stderr


def test_restore_comes_before_guests_and_after_firewalls() -> None:
    """The order at boot is in the unit."""
    text = units.restore_unit(Path("/var/lib/hostnet"), ARGV)
    assert 'ExecStart="/usr/bin/python3" "-I" "-S" "/var/lib/hostnet/agent/0123.zip" "restore"' in text
    lines = dict.fromkeys(text.splitlines())
    before = " ".join(line for line in lines if line.startswith("Before="))
    after = " ".join(line for line in lines if line.startswith("After="))
    assert all(unit in before for unit in ("network.target", "libvirtd.service", "microvms.target"))
    assert all(unit in after for unit in ("network-pre.target", "nftables.service", "systemd-sysctl.service"))
    assert "Wants=network-pre.target network.target" in lines, "else guests wait for it only if another wants it"


def test_a_firewall_that_empties_nftables_is_followed() -> None:
    """It is followed by its start and, since the unit stays active, by its reload."""
    text = units.restore_unit(Path("/var/lib/hostnet"), ARGV)
    assert "RemainAfterExit=yes" in text
    assert "ExecReload=" in text
    for firewall in units.EARLY_FIREWALLS:
        assert all(firewall in _values(text, key) for key in ("After", "ReloadPropagatedFrom"))
    text = units.firewall_unit("hostnet", Path("/var/lib/hostnet"))
    for firewall in (*units.EARLY_FIREWALLS, "docker.service"):
        assert all(firewall in _values(text, key) for key in ("After", "WantedBy"))


def _values(text: str, key: str) -> str:
    return " ".join(line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}="))


@pytest.mark.parametrize(
    ("bridge", "unit"),
    [
        ("br-a", "hostnet-dhcp-br-a.service"),
        ("br0.7", "hostnet-dhcp-br0.7.service"),
        ("a@b%c\\", r"hostnet-dhcp-a\x40b\x25c\x5c.service"),
        ("brücke", r"hostnet-dhcp-br\xc3\xbccke.service"),
    ],
)
def test_the_servers_service_has_a_name_that_systemd_takes(bridge: str, unit: str) -> None:
    """Everything that the kernel allows in an interface's name is escaped."""
    assert units.server_unit(Path("/var/lib/hostnet"), bridge) == unit
