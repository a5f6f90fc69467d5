"""What only a whole system shows: systemd's units, a reboot, network daemons, logins that end.

All tests use one server (machine.py has the address plan), in the order of a machine's life: `world` boots it and runs
`pulumi up`, each test leaves it as the stack declares it, and the last one destroys the stack.

The server is set up as many are (seed/): systemd-networkd configures by DHCP every link that no earlier file names, and
logind ends the processes of a user who logs out. The provider logs in as `admin`, who has sudo.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stacks import Cli, Run, Running, Stack
from tests.vm.machine import ADDRESS, PATIENCE, Place, timed, until
from tools.paths import CHECKOUT

pytestmark = pytest.mark.xdist_group("server")

OURS = ("vmbr", "tap-web", "tap-routed")
UNITS = ("hostnet.service", "hostnet-firewall.service", "hostnet-watch.service", "hostnet-dhcp-vmbr.service")
HEAD = """
import json
from pathlib import Path

import pulumi
import pulumi_hostnet as hostnet

way = hostnet.ConnectionArgs(**json.loads(Path("connection.json").read_text()))
options = {"connection": way}
"""
PROGRAM = (
    HEAD
    + """
lease = {"mac_address": "02:00:00:00:00:07", "address": "10.0.0.7", "hostname": "guest"}
net = hostnet.Bridge(
    "net",
    name="vmbr",
    addresses=["10.0.0.1/24", "fd12::1/64"],
    mac_address="02:00:00:00:00:01",
    dhcp_server={"domain": "vm.internal", "static_leases": [lease]},
    ipv6_send_ra=True,
    **options,
)
hostnet.TapBinding("vms", match="vm-*", bridge=net.name, **options)
hostnet.TapBinding("web", name="tap-web", bridge=net.name, guest={"hostname": "web"}, **options)
hostnet.TapBinding("routed", name="tap-routed", addresses=["10.9.0.1/32"], routes=["10.9.0.2/32"], **options)
nat = hostnet.NatGateway("nat", internal_interfaces=[net.name], **options)
hostnet.PortForward("http", nat_gateway=nat.id, source_port=8080, destination="10.0.0.7:80", **options)
"""
)
IN_A_NAMESPACE = (
    HEAD
    + """
net = hostnet.Bridge("net", name="cellbr", addresses=["10.7.0.1/24"], dhcp_server={}, **options)
hostnet.TapBinding("vms", match="vm-*", bridge=net.name, **options)
"""
)


class Slow(Stack):
    """A stack on a slow host."""

    @staticmethod
    def ended(running: Running) -> Run:
        """Wait until `pulumi` ends."""
        text, _ = running.process.communicate(timeout=PATIENCE)
        return Run(str(running.process.args), running.process.returncode, text, running.events())


class World:
    """The server and the stack that works on it."""

    def __init__(self, directory: Path) -> None:
        """Make both; nothing is started."""
        self.directory = directory
        self.place = Place(directory)
        self.server = self.place.server
        self.cli = Cli(directory / "pulumi")
        self.stack = self.new_stack("server", PROGRAM)
        self.files: set[str] = set()

    def new_stack(self, name: str, program: str, **more: Any) -> Slow:
        """A stack for the server.

        Args:
            name: Of the stack.
            program: The Pulumi program.
            more: Further properties of the connection.
        """
        stack = Slow(self.cli, name)
        stack.write(program)
        connection = {
            "host": ADDRESS,
            "user": "admin",
            "host_key": self.server.host_key,
            "private_key": self.server.key.read_text(),
            "dial_error_limit": -1,
        }
        (stack.folder / "connection.json").write_text(json.dumps({**connection, **more}))
        return stack

    def pulumi(self, command: str, stack: Slow | None = None) -> Run:
        """Run `pulumi` on a stack (absent: the server's) from the other end of the segment; it must not warn."""
        run: Run = self.place.outside.call(getattr(stack or self.stack, command), *([None] if command == "up" else []))
        assert run.warnings == []
        return run

    def hostnet(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line from the other end of the segment, as root of the server."""
        home = self.directory / "home"
        (home / ".ssh").mkdir(parents=True, exist_ok=True)
        shutil.copy(self.directory / "known_hosts", home / ".ssh")
        argv = [sys.executable, "-m", "hostnet.cli", *arguments]
        argv += ["--host", f"root@{ADDRESS}", "--identity", str(self.server.key)]
        env = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(CHECKOUT / "provider")}
        return self.place.outside.call(
            subprocess.run, argv, env=env, capture_output=True, text=True, check=False, timeout=PATIENCE
        )

    @property
    def uplink(self) -> str:
        """The server's interface on the segment."""
        return str(self.stack.resources["nat"]["outputs"]["externalInterface"])

    # --- its state ----------------------------------------------------------------------------------------------------

    def answers(self) -> bool:
        """Whether the guest answers through the forward."""
        return self.server.get(8080) == "hello from the guest"

    def show(self, unit: str, prop: str) -> str:
        """A property of a unit."""
        return self.server(f"systemctl show --property={prop} --value {unit}").strip()

    def addresses(self) -> dict[str, list[str]]:
        """The addresses of the links that the stack makes."""
        links = json.loads(self.server("ip -json address show"))
        return {
            link["ifname"]: sorted(f"{one['local']}/{one['prefixlen']}" for one in link["addr_info"])
            for link in links
            if link["ifname"] in OURS
        }

    def ports(self) -> dict[str, str]:
        """The bridge of each link that is a port of one."""
        links = json.loads(self.server("ip -json link show"))
        return {link["ifname"]: link["master"] for link in links if "master" in link}

    def system_files(self) -> set[str]:
        """The files that systemd and network daemons read, and the folders in which hostnet keeps its own."""
        folders = "/etc/systemd /etc/NetworkManager /run/systemd/system /run/systemd/network /run/systemd/transient"
        found = self.server(f"find {folders} /run/NetworkManager/conf.d /run/hostnet -type f -o -type l", check=False)
        files = {path for path in found.splitlines() if not Path(path).name.startswith("session-")}
        return {*files, *self.server("find /var/lib -maxdepth 1").splitlines()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server that has booted, with the stack up and with a guest's service enabled and started."""
    made = World(tmp_path_factory.mktemp("server"))
    try:
        made.server.start()
        with timed("from its start to the first login"):
            made.files = made.system_files()
        with timed("pulumi up"):
            made.pulumi("up")
        made.server("systemctl enable --now guest.service")
        until(made.answers)
        yield made
    finally:
        made.place.close()


def test_systemd_finds_no_fault(world: World) -> None:
    """It reads hostnet's units without a complaint and has them enabled; no unit has failed."""
    assert world.server("systemd-analyze verify --man=no /etc/systemd/system/hostnet*.service 2>&1") == ""
    assert world.server("systemctl is-enabled hostnet hostnet-firewall hostnet-watch").split() == ["enabled"] * 3
    assert world.server("systemctl --failed --no-legend") == ""


def test_network_daemons_leases_come_from_a_bridge_of_ours(world: World) -> None:
    """The server itself is a guest: systemd-networkd's DHCP client has its address from the segment's DHCP server."""
    mac = world.place.segment["server.guest.macAddress"]
    world.place.segment.refresh()
    leases = {lease["macAddress"]: lease["address"] for lease in world.place.segment["segment.leases"]}
    assert leases[mac] == ADDRESS
    assert f"{ADDRESS} (DHCP4 via 192.0.2.1)" in world.server(f"networkctl status {world.uplink}")


def test_dhcp_answers_get_their_checksums_from_tc(world: World) -> None:
    """The server's kernel has the action `csum`, which a test machine's may lack: DHCP answers to guests pass it."""
    shown = world.server("tc -s filter show dev vmbr egress")
    assert "csum (udp)" in shown
    sent = re.search(r"Sent \d+ bytes (\d+) pkt", shown)
    assert sent, shown
    assert int(sent[1]) > 0


def test_nothing_goes_with_the_log_in(world: World) -> None:
    """After the log-out logind ends the session's processes, but none of hostnet's, in a namespace neither."""
    world.server("ip netns add cell")
    cell = world.new_stack("cell", IN_A_NAMESPACE, netns="cell")
    world.pulumi("up", cell)
    world.server.hang_up()
    until(lambda: world.server("loginctl list-sessions --no-legend").count("admin") == 0)
    groups = world.server("for pid in $(ip netns pids cell); do cat /proc/$pid/cgroup /proc/$pid/comm; done").split()
    assert len(groups) == 4, groups
    assert "dnsmasq" in groups
    assert all(group.startswith("0::/system.slice/run-") for group in groups[::2]), groups
    assert world.server("systemctl is-active hostnet-watch hostnet-dhcp-vmbr").split() == ["active"] * 2
    world.pulumi("destroy", cell)
    assert world.server("ip netns pids cell") == ""
    world.server("ip netns delete cell")
    assert "run-" not in world.server("systemctl list-units --all --plain --no-legend --type scope")


def test_what_dies_is_started_again(world: World) -> None:
    """Systemd restarts the watcher, and the DHCP server whatever its end was, however often they die."""
    for unit, signal in (*[(UNITS[3], "KILL")] * 6, (UNITS[3], "TERM"), *[(UNITS[2], "KILL")] * 6):
        before = world.show(unit, "MainPID")
        world.server(f"systemctl kill --signal={signal} {unit}")
        until(partial(_runs_again, world, unit, before))
    _is_followed(world)
    world.server("systemctl restart guest.service")
    until(world.answers)


def _is_followed(world: World) -> None:
    """The watcher attaches a link that appears."""
    world.server("ip link add vm-late type veth peer name late")
    until(lambda: world.ports().get("vm-late") == "vmbr")
    world.server("ip link delete vm-late")


def _runs_again(world: World, unit: str, before: str) -> bool:
    return world.show(unit, "MainPID") not in ("0", before) and world.show(unit, "ActiveState") == "active"


def test_networkd_leaves_ours_alone(world: World) -> None:
    """After a reload and after a restart, hostnet's links have the same addresses and bridges."""
    addresses, ports = world.addresses(), world.ports()
    assert {"10.0.0.1/24", "fd12::1/64"} <= set(addresses["vmbr"])
    assert ports == {"tap-web": "vmbr", "vm-guest": "vmbr"}
    for command in ("networkctl reload", "systemctl restart systemd-networkd"):
        world.server(command)
        until(lambda: _setup(world)[world.uplink] == "configured")
        assert {_setup(world)[name] for name in (*OURS, "vm-guest")} == {"unmanaged"}
        assert (world.addresses(), world.ports()) == (addresses, ports)
    assert world.answers()


def _setup(world: World) -> dict[str, str]:
    """The state of each link in systemd-networkd."""
    return {line.split()[1]: line.split()[-1] for line in world.server("networkctl --no-legend list").splitlines()}


@pytest.mark.parametrize("action", ["enable --now", "reload", "restart"])
def test_a_firewall_that_empties_nftables(world: World, action: str) -> None:
    """Debian's nftables.service starts with `flush ruleset`; hostnet's rules are back after it."""
    if action != "enable --now":  # alone, or on a server of its own, it is not active: systemd reloads no such unit
        world.server("systemctl enable --now nftables.service")
        until(world.answers)
    world.server("nft add table inet witness")
    world.server(f"systemctl {action} nftables.service")
    assert "witness" not in world.server("nft list tables"), "nftables.service flushes the ruleset"
    until(world.answers)


def test_the_command_line_from_afar(world: World) -> None:
    """`doctor` finds the host ready, `status` shows what is not as declared, and `restore` repairs it."""
    done = world.hostnet("doctor", "--json")
    assert done.returncode == 0, done.stdout
    checks = {check["name"]: check["level"] for check in json.loads(done.stdout)["checks"]}
    assert (checks["systemd"], checks["watcher"], checks["systemd-networkd"]) == ("ok", "ok", "note")
    world.server("ip link delete tap-routed && nft flush map inet hostnet dnat_port4")
    assert _drift(world) == {"http", "routed"}
    assert not world.answers()
    assert "put back 6 resources" in world.hostnet("restore").stdout
    assert _drift(world) == set()
    assert world.answers()


def _drift(world: World) -> set[str]:
    found = json.loads(world.hostnet("status", "--json").stdout)["resources"]
    return {resource["name"] for resource in found if resource["drift"]}


def test_it_reboots(world: World) -> None:
    """The guest answers again by itself; the network was there before its service, and there is no drift."""
    before = world.server.boot_id()
    world.server.hang_up()
    with timed("from the request to reboot to the guest's answer"):
        world.server("systemctl reboot", check=False)
        until(lambda: world.server.boots == 2)
        until(world.answers)
    assert world.server.boot_id() != before
    assert world.server("systemctl is-system-running --wait").strip() == "running"
    assert world.server("systemctl --failed --no-legend") == ""
    assert world.server("journalctl --boot --output=cat --grep='ordering cycle'", check=False) == ""
    assert [world.show(unit, "ActiveState") for unit in UNITS] == ["active", "inactive", "active", "active"]
    assert world.show(UNITS[3], "NRestarts") == "0"
    assert {_setup(world)[name] for name in (*OURS, "vm-guest")} == {"unmanaged"}
    finished = int(world.show(UNITS[0], "ExecMainExitTimestampMonotonic"))
    assert finished <= int(world.show("network.target", "ActiveEnterTimestampMonotonic"))
    assert finished <= int(world.show("guest.service", "InactiveExitTimestampMonotonic"))
    _is_followed(world)
    assert world.pulumi("refresh").changes == {}
    assert world.pulumi("up").changes == {}


def test_network_manager_leaves_ours_alone(world: World) -> None:
    """Started instead of systemd-networkd and restarted, it manages the uplink and none of hostnet's links."""
    addresses, ports = world.addresses(), world.ports()
    # Not in a login session, which ends with the uplink's address.
    stop = "systemctl disable --now systemd-networkd.socket systemd-networkd.service"
    for command in (f"systemd-run sh -c '{stop}; systemctl start NetworkManager'", "systemctl restart NetworkManager"):
        world.server(command)
        until(lambda: f"{world.uplink}:connected" in _devices(world))
        state = dict(line.split(":", 1) for line in _devices(world))
        assert {state[name] for name in (*OURS, "vm-guest")} == {"unmanaged"}
        assert (world.addresses(), world.ports()) == (addresses, ports)
        assert world.answers()


def _devices(world: World) -> list[str]:
    """The state of each link in NetworkManager."""
    return world.server("nmcli --terse --fields DEVICE,STATE device", check=False).splitlines()


def test_destroy_leaves_nothing(world: World) -> None:
    """There is no unit, no file for systemd or a network daemon, no agent and no record any more."""
    world.server("systemctl enable systemd-networkd.socket systemd-networkd.service")
    world.server("systemctl disable systemd-networkd-wait-online.service nftables.service guest.service")
    world.pulumi("destroy")
    assert world.server("systemctl list-units --all --plain --no-legend 'hostnet*'") == ""
    assert world.server("systemctl --failed --no-legend") == ""
    assert world.system_files() == world.files
    assert "hostnet" not in world.server("nft list tables")
    assert world.addresses() == {}
    assert world.server("sysctl --values net.ipv4.ip_forward").strip() == "0"
