"""Each project in examples/, as a user copies it: up, up again, destroy, on a host that nothing has touched.

The packets run in the laboratory's topology (tests/lab/topology.py): guest5 and guest6 are behind the examples' TAPs,
the host is 192.0.2.2 and 2001:db8::2, outsider 192.0.2.20 is its neighbour, internet 198.51.100.10 is behind a router.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pulumi_hostnet as hostnet
import pytest

from tests.e2e.stacks import Cli, Host, Run, Stack
from tests.lab.clients import ask
from tests.lab.lab import Lab
from tests.lab.names import name_server
from tests.lab.namespaces import RUN_NETNS, Namespace, remove
from tests.lab.waiting import until
from tools.paths import CHECKOUT

EXAMPLES = CHECKOUT / "examples"
MANY = 300  # forwards of many-forwards
JOBS = 20  # guests of sandbox


class Example(Stack):
    """A stack of an example, copied as git has it; `../..` has what the checkout's has."""

    def _write(self, name: str, content: object) -> None:
        if name != "Pulumi.yaml":
            super()._write(name, content)
            return
        for file in EXAMPLES.joinpath(self.project).iterdir():
            if file.is_file() and not file.match("Pulumi.*.yaml"):
                shutil.copy(file, self.folder)
        for folder in ("provider", ".venv"):
            link = self.folder / ".." / ".." / folder
            if not link.is_symlink():
                link.symlink_to(CHECKOUT / folder)


def processes(host: Host) -> list[str]:
    """What runs in the host's namespace."""
    found = subprocess.run(["ip", "netns", "pids", host.name], capture_output=True, text=True, check=True)
    return [Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in found.stdout.split()]


def life_cycle(stack: Stack, host: Host, program: Callable[[], None] | None, check: Callable[[Run], None]) -> None:
    """Up with no warning; up again changes nothing; destroy leaves nothing.

    Args:
        stack: Where the program runs.
        host: Its host.
        program: Declares the resources; None: what is in the stack's folder.
        check: Looks at the host after the first `up`.
    """
    before = host.snapshot()
    made = stack.up(program)
    assert made.warnings == []
    assert set(made.changes.values()) == {"create"}
    check(made)
    assert stack.up(program, "--expect-no-changes").changes == {}
    stack.destroy()
    assert host.snapshot() == before
    assert host.left == []
    assert processes(host) == []


# --- what each builds ----------------------------------------------------------------------------------------------


def microvm_host(host: Host, outputs: dict[str, Any]) -> None:
    """The bridge, the gateway and both guests' ports; a TAP that a VMM makes is attached."""
    bridge = outputs["bridge"]
    assert host.addresses(bridge) == ["10.0.0.1/24", "fd12:3456:789a::1/64"]
    assert outputs["externalAddresses"] == ["192.0.2.2", "2001:db8::2"]
    assert host.forwards() == {80: "10.0.0.2:80", 443: "10.0.0.2:443", 2222: "10.0.0.3:22"}
    assert host.forwards("dnat_port6")[80] == "fd12:3456:789a::2:80"
    assert sum("dnsmasq" in line for line in processes(host)) > 0
    attached(host, bridge)


def attached(host: Host, bridge: str) -> None:
    """An interface that appears now, and is named as a VM's, becomes a port of the bridge before long."""
    # `timeout`: were it never attached, the monitor would wait for ever.
    argv = ["timeout", "20", "ip", "-n", host.name, "-o", "monitor", "link"]
    monitor = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        host.ip("tuntap add vm-late mode tap", "link set vm-late up")
        assert monitor.stdout
        if host.links["vm-late"].master != bridge:
            for line in monitor.stdout:
                if "vm-late" in line and f"master {bridge}" in line:
                    break
        assert host.links["vm-late"].master == bridge
    finally:
        monitor.terminate()
        monitor.communicate()
        host.ip("link delete vm-late")


def routed_vms(host: Host, outputs: dict[str, Any]) -> None:
    """A TAP a guest, without a bridge, with the route to it."""
    for number, netmask in ((1, "255.255.255.254"), (2, "255.255.255.252"), (3, "255.255.255.248")):
        assert host.addresses(f"vm{number}") == ["10.0.0.0/32", "fd12:3456:789a::/128"]
        assert {f"10.0.0.{number} dev vm{number}", f"fd12:3456:789a::{number} dev vm{number}"} <= host.routes
        guest = outputs["guests"][f"vm{number}"]
        assert guest["kernelIpArg"] == f"ip=10.0.0.{number}::10.0.0.0:{netmask}:vm{number}:eth0:off"
        assert guest["gateway6"] == "fd12:3456:789a::"
    assert host.forwards() == {80: "10.0.0.1:80"}


def dmz(host: Host, outputs: dict[str, Any]) -> None:
    """The forward beside what leads everything else to the guest."""
    assert outputs["public"]["addresses"] == ["10.0.0.2/24", "fd12:3456:789a::2/64"]
    assert host.forwards() == {8443: "10.0.0.3:443"}
    rules = json.dumps(host.ruleset)
    assert '"10.0.0.2"' in rules
    assert '"fd12:3456:789a::2"' in rules


def many_forwards(host: Host, outputs: dict[str, Any]) -> None:
    """Each has its element."""
    assert outputs["forwards"] == MANY
    assert host.forwards()[10000] == "10.1.0.10:22"
    assert json.dumps(host.ruleset).count('"10.1.0.') >= MANY


def hetzner(host: Host, outputs: dict[str, Any]) -> None:
    """The host answers for the public guest, and for no other."""
    proxies = {(entry.address, entry.device) for entry in host.namespace.kernel.neighbours(proxies=True)}
    assert proxies == {("192.0.2.50", "eth0"), ("2001:db8::50", "eth0")}
    assert outputs["public"]["addresses"] == ["192.0.2.50/32", "2001:db8::50/128"]
    assert host.forwards() == {8080: "10.0.0.2:80"}


def ovh(host: Host, outputs: dict[str, Any]) -> None:
    """The host answers for the addresses of both guests, and for no other."""
    proxies = {(entry.address, entry.device) for entry in host.namespace.kernel.neighbours(proxies=True)}
    addresses = [f"203.0.113.{number}" for number in (50, 51)] + [f"2001:db8:5:1::{number}" for number in (50, 51)]
    assert proxies == {(address, "eth0") for address in addresses}
    assert outputs["guests"]["mail"]["addresses"] == ["203.0.113.51/32", "2001:db8:5:1::51/128"]


def contabo(host: Host, outputs: dict[str, Any]) -> None:
    """An address of each family stands for the guest."""
    assert outputs["mail"]["addresses"] == ["10.0.0.10/24", "fd12:3456:789a::10/64"]
    assert '"eth0" . 192.0.2.50' in host.namespace.run("nft list map inet hostnet one_to_one_addrs4")
    assert '"eth0" . 2001:db8::50' in host.namespace.run("nft list map inet hostnet one_to_one_addrs6")


def sandbox(host: Host, outputs: dict[str, Any]) -> None:
    """A TAP for each job, with its limits and its list of names, one chain for each."""
    listed = host.namespace.run("nft list map inet hostnet egress_guest_lists")
    chains = set()
    for number in range(1, JOBS + 1):
        name = f"job-{number}"
        guest = outputs["guests"][name]
        assert guest["addresses"][0].startswith("10.0.0.")
        (line,) = (line for line in listed.splitlines() if guest["macAddress"] in line)
        chain = re.findall(r"goto (list_\w+)", line)[-1]
        assert host.namespace.run(f"nft list chain inet hostnet {chain}").count("tcp dport 443") == 2 * 3
        chains.add(chain)
        assert host.namespace.run(f"tc qdisc show dev {name} root").count("rate 50Mbit") == 1
    assert len(chains) == JOBS
    assert host.namespace.run("nft list set bridge hostnet upload_ports").count("1250000 bytes/second") == JOBS


def two_uplinks(host: Host, outputs: dict[str, Any]) -> None:
    """On a host with one line it is a gateway like any other."""
    assert outputs["lines"] == ["eth0"]
    assert outputs["addresses"] == ["192.0.2.2", "2001:db8::2"]
    assert host.forwards() == {80: "10.0.0.2:80"}
    attached(host, "vms")


CHECKS = {
    "microvm-host": microvm_host,
    "routed-vms": routed_vms,
    "dmz": dmz,
    "many-forwards": many_forwards,
    "hetzner": hetzner,
    "ovh": ovh,
    "contabo": contabo,
    "two-uplinks": two_uplinks,
    "sandbox": sandbox,
}


# What a host has before, beside its main address.
ADDRESSES = {"contabo": ("address add 192.0.2.50/32 dev eth0", "address add 2001:db8::50/64 dev eth0 nodad")}

# Those that make their hosts themselves; what rents one is tested by mocks (tests/unit/test_rented_server.py).
CLOUDS = {"pretend-cloud", "rented-server"}
OF_MANY_HOSTS = {"fleet", "rollout"}  # test_groups.py, test_rollout.py


def test_each_example_is_here() -> None:
    """A new one needs a test."""
    assert {path.name for path in EXAMPLES.iterdir() if path.is_dir()} == set(CHECKS) | CLOUDS | OF_MANY_HOSTS


def example(name: str, cli: Cli, host: Host) -> Example:
    """A stack of it, on the host that the provider's configuration names."""
    stack = Example(cli, host.state_dir.parent.name, project=name, stateDir=str(host.state_dir))
    stack.cli("config", "set", "hostnet:connection", json.dumps({"netns": host.name}), cwd=stack.folder)
    return stack


@pytest.mark.parametrize("name", CHECKS)
def test_an_example(name: str, cli: Cli, host: Host) -> None:
    """It runs as it stands there."""
    host.ip(*ADDRESSES.get(name, ()))
    stack = example(name, cli, host)
    life_cycle(stack, host, None, lambda _: CHECKS[name](host, stack.outputs))


def plug(lab: Lab, tap: str, role: str, guest: dict[str, Any]) -> None:
    """Put a guest behind a TAP, set up with what the TapBinding gives out."""
    commands = [f"address add {address} dev eth0 nodad" for address in guest["addresses"] if ":" in address]
    commands += [f"address add {address} dev eth0" for address in guest["addresses"] if ":" not in address]
    for gateway in (guest["gateway"], guest["gateway6"]):
        commands.append(f"route replace {gateway} dev eth0")
        commands.append(f"route add default via {gateway} dev eth0")
    lab.net.plug(tap, role, *commands, mac=guest["macAddress"])


def test_packets_of_routed_vms(lab: Lab, cli: Cli, tmp_path: Path) -> None:
    """Guests reach out in both families and are reached by the forward, but not by each other."""
    stack = example("routed-vms", cli, Host(lab.host, tmp_path / "state"))
    stack.up(None)
    guests = stack.outputs["guests"]
    plug(lab, "vm1", "guest5", guests["vm1"])
    plug(lab, "vm2", "guest6", guests["vm2"])
    for role in ("guest5", "internet"):
        lab.serve(role, "tcp:80")
    assert lab.reaches("guest5", "tcp 198.51.100.10:80") == ("internet", "192.0.2.2")
    assert lab.reaches("guest6", "tcp [2001:db8:1::10]:80")[0] == "internet"
    assert lab.reaches("outsider", "tcp 192.0.2.2:80") == ("guest5", "192.0.2.20")
    assert lab.reaches("outsider", "tcp [2001:db8::2]:80") == ("guest5", "2001:db8::20")
    assert lab.blocked("guest6", "tcp 10.0.0.1:80")
    assert lab.blocked("guest6", "tcp [fd12:3456:789a::1]:80")
    stack.destroy()


def as_rented(lab: Lab) -> None:
    """The host as a provider sets it up: addresses of its own alone, and gateways that are on no subnet."""
    lab["router"].ip("address replace 172.31.1.1/32 dev eth0", "address replace fe80::1/64 dev eth0 nodad")
    lab.host.ip(
        "address flush dev eth0 scope global",
        "address add 192.0.2.2/32 dev eth0",
        "address add 2001:db8::2/128 dev eth0 nodad",
        "route add 172.31.1.1 dev eth0",
        "route add default via 172.31.1.1 dev eth0",
        "route replace ::/0 via fe80::1 dev eth0",
    )


def test_packets_of_hetzner(lab: Lab, cli: Cli, tmp_path: Path) -> None:
    """The public guest has its own addresses in both directions; the private one the host's, and its forward."""
    as_rented(lab)
    stack = example("hetzner", cli, Host(lab.host, tmp_path / "state"))
    stack.up(None)
    plug(lab, "vm-public", "guest5", stack.outputs["public"])
    plug(lab, "vm-private", "guest6", stack.outputs["private"])
    for role in ("guest5", "guest6", "internet"):
        lab.serve(role, "tcp:80")
    assert lab.reaches("internet", "tcp 192.0.2.50:80") == ("guest5", "198.51.100.10")
    assert lab.reaches("internet", "tcp [2001:db8::50]:80") == ("guest5", "2001:db8:1::10")
    assert lab.reaches("guest5", "tcp 198.51.100.10:80") == ("internet", "192.0.2.50")
    assert lab.reaches("guest5", "tcp [2001:db8:1::10]:80") == ("internet", "2001:db8::50")
    assert lab.reaches("guest6", "tcp 198.51.100.10:80") == ("internet", "192.0.2.2")
    assert lab.reaches("internet", "tcp 192.0.2.2:8080") == ("guest6", "198.51.100.10")
    assert lab.blocked("internet", "tcp 192.0.2.51:80")
    stack.destroy()
    lab["router"].ip("address delete 172.31.1.1/32 dev eth0", "address delete fe80::1/64 dev eth0")


def test_packets_of_ovh(lab: Lab, cli: Cli, tmp_path: Path) -> None:
    """As OVHcloud's router does it: a gateway that ends in .254, one of IPv6 outside the /64, and ARP for each."""
    gateway6 = "2001:db8:5:ff:ff:ff:ff:ff"
    lab["router"].ip(
        "address add 192.0.2.254/24 dev eth0",
        f"address add {gateway6}/128 dev eth0 nodad",
        "route add 203.0.113.0/24 dev eth0",
        "route add 2001:db8:5:1::/64 dev eth0",
    )
    lab.host.ip(
        "address flush dev eth0 scope global",
        "address add 192.0.2.2/24 dev eth0",
        "address add 2001:db8:5:1::1/128 dev eth0 nodad",
        "route add default via 192.0.2.254",
        f"route add {gateway6} dev eth0",
        f"route replace ::/0 via {gateway6} dev eth0",
    )
    stack = example("ovh", cli, Host(lab.host, tmp_path / "state"))
    stack.up(None)
    plug(lab, "vm-shop", "guest5", stack.outputs["guests"]["shop"])
    plug(lab, "vm-mail", "guest6", stack.outputs["guests"]["mail"])
    for role in ("guest5", "guest6", "internet"):
        lab.serve(role, "tcp:80")
    for role, number in (("guest5", 50), ("guest6", 51)):
        assert lab.reaches("internet", f"tcp 203.0.113.{number}:80") == (role, "198.51.100.10")
        assert lab.reaches("internet", f"tcp [2001:db8:5:1::{number}]:80") == (role, "2001:db8:1::10")
        assert lab.reaches(role, "tcp 198.51.100.10:80") == ("internet", f"203.0.113.{number}")
        assert lab.reaches(role, "tcp [2001:db8:1::10]:80") == ("internet", f"2001:db8:5:1::{number}")
    assert lab.reaches("guest5", "tcp 203.0.113.51:80") == ("guest6", "203.0.113.50")
    assert lab.blocked("internet", "tcp 203.0.113.52:80")
    assert lab.blocked("internet", "tcp [2001:db8:5:1::52]:80")
    stack.destroy()
    lab["router"].ip(
        "route delete 203.0.113.0/24 dev eth0",
        "route delete 2001:db8:5:1::/64 dev eth0",
        "address delete 192.0.2.254/24 dev eth0",
        f"address delete {gateway6}/128 dev eth0",
    )


def test_packets_of_contabo(lab: Lab, cli: Cli, tmp_path: Path) -> None:
    """As Contabo's router does it: additional addresses on the interface, the gateway of the /64 at fe80::1."""
    lab["router"].ip("address add fe80::1/64 dev eth0 nodad")
    lab.host.ip(
        "address flush dev eth0 scope global",
        "address add 192.0.2.2/24 dev eth0",
        "address add 192.0.2.50/32 dev eth0",
        "address add 2001:db8::50/64 dev eth0 nodad",
        "address add 2001:db8::2/64 dev eth0 nodad",  # the younger one is the source
        "route add default via 192.0.2.1",
        "route replace ::/0 via fe80::1 dev eth0",
    )
    stack = example("contabo", cli, Host(lab.host, tmp_path / "state"))
    stack.up(None)
    plug(lab, "vm-mail", "guest5", stack.outputs["mail"])
    plug(lab, "vm-other", "guest6", stack.outputs["other"])
    for role, ports in {"guest5": "tcp:25 tcp:22", "internet": "tcp:80", "host": "tcp:22"}.items():
        lab.serve(role, ports)
    assert lab.reaches("internet", "tcp 192.0.2.50:25") == ("guest5", "198.51.100.10")
    assert lab.reaches("internet", "tcp [2001:db8::50]:25") == ("guest5", "2001:db8:1::10")
    assert lab.reaches("internet", "tcp 192.0.2.50:22")[0] == "guest5"
    assert lab.reaches("internet", "tcp 192.0.2.2:22")[0] == "host"
    assert lab.reaches("guest5", "tcp 198.51.100.10:80") == ("internet", "192.0.2.50")
    assert lab.reaches("guest5", "tcp [2001:db8:1::10]:80") == ("internet", "2001:db8::50")
    assert lab.reaches("guest6", "tcp 198.51.100.10:80") == ("internet", "192.0.2.2")
    assert lab.reaches("guest6", "tcp [2001:db8:1::10]:80") == ("internet", "2001:db8::2")
    assert lab.reaches("guest6", "tcp 192.0.2.50:25")[0] == "guest5"
    assert lab.blocked("internet", "tcp 192.0.2.2:25")
    stack.destroy()
    lab["router"].ip("address delete fe80::1/64 dev eth0")


def test_packets_of_the_sandbox(lab: Lab, cli: Cli, tmp_path: Path) -> None:
    """Each job reaches what DNS has answered for its own names, in both families, and nothing else."""
    stack = example("sandbox", cli, Host(lab.host, tmp_path / "state"))
    records = [f"host-record={name},{','.join(addresses)}" for name, addresses in SANDBOX_NAMES.items()]
    with name_server(lab, [*records, f"cname={SANDBOX_ALIAS},packages.example.org"]):
        stack.up(None)
        _packets_of_the_sandbox(lab, stack)
        stack.destroy()


SANDBOX_NAMES = {
    "packages.example.org": ["198.51.100.10", "2001:db8:1::10"],
    "store-1.example.net": ["192.0.2.20", "2001:db8::20"],
    "store-2.example.net": ["192.0.2.10", "2001:db8::10"],
}
SANDBOX_ALIAS = "mirror.packages.example.org"


def _packets_of_the_sandbox(lab: Lab, stack: Stack) -> None:
    guests = stack.outputs["guests"]
    plug(lab, "job-1", "guest5", guests["job-1"])
    plug(lab, "job-2", "guest6", guests["job-2"])
    for role, ports in {"host": "tcp:8081", "internet": "tcp:443 tcp:80"}.items():
        lab.serve(role, ports)
    for role in ("outsider", "peer", "guest6"):
        lab.serve(role, "tcp:443")
    assert lab.probe("guest5", "tcp 198.51.100.10:443").outcome == "refused"
    answers = {**SANDBOX_NAMES, SANDBOX_ALIAS: SANDBOX_NAMES["packages.example.org"]}
    for role, store in (("guest5", "store-1.example.net"), ("guest6", "store-2.example.net")):
        for name, (kind, at) in itertools.product((store, SANDBOX_ALIAS), (("A", 0), ("AAAA", 1))):
            assert until(partial(ask, lab[role], "10.0.0.1", name, kind, timeout=1)) == [answers[name][at]]
    for role in ("guest5", "guest6"):
        assert lab.reaches(role, "tcp 198.51.100.10:443") == ("internet", "192.0.2.2")
        assert lab.reaches(role, "tcp [2001:db8:1::10]:443")[0] == "internet"
        assert ask(lab[role], "10.0.0.1", "job-2") == [guests["job-2"]["addresses"][0].partition("/")[0]]
    assert lab.reaches("guest5", "tcp 192.0.2.20:443")[0] == "outsider"
    assert lab.reaches("guest6", "tcp [2001:db8::10]:443")[0] == "peer"
    refused = ["198.51.100.10:80", "192.0.2.10:443", "[2001:db8::10]:443", "10.0.0.1:8081", "192.0.2.2:8081"]
    assert {lab.probe("guest5", f"tcp {target}").outcome for target in refused} == {"refused"}
    for address in guests["job-2"]["addresses"]:
        bare = address.partition("/")[0]
        assert lab.blocked("guest5", f"tcp {f'[{bare}]' if ':' in bare else bare}:443")


def test_packets_of_two_uplinks(lab: Lab, cli: Cli, tmp_path: Path) -> None:
    """Both lines lead to the guest, and its answer leaves by the same; the guest leaves by the preferred one."""
    lab.net.second_uplink()
    lab["outsider2"].ip("address replace 198.51.100.77/32 dev lo")
    lab.host.ip("route add default via 203.0.113.20 dev eth1 metric 200")
    stack = example("two-uplinks", cli, Host(lab.host, tmp_path / "state"))
    stack.up(None)
    assert stack.outputs["lines"] == ["eth0", "eth1"]
    plug(lab, "vm-web", "guest5", stack.outputs["web"])
    for role in ("guest5", "internet"):
        lab.serve(role, "tcp:80")
    assert lab.reaches("internet", "tcp 192.0.2.2:80") == ("guest5", "198.51.100.10")
    assert lab.reaches("outsider2", "tcp 203.0.113.2:80 from 198.51.100.77") == ("guest5", "198.51.100.77")
    assert lab.reaches("outsider2", "tcp [2001:db8:2::2]:80") == ("guest5", "2001:db8:2::20")
    assert lab.reaches("guest5", "tcp 198.51.100.10:80") == ("internet", "192.0.2.2")
    stack.destroy()


def test_packets_of_the_dmz(lab: Lab, cli: Cli, tmp_path: Path) -> None:
    """The guest gets any port of both families, the host keeps its SSH, and the forward wins."""
    stack = example("dmz", cli, Host(lab.host, tmp_path / "state"))
    stack.up(None)
    plug(lab, "vm-public", "guest5", stack.outputs["public"])
    plug(lab, "vm-admin", "guest6", stack.outputs["admin"])
    for role, ports in {"host": "tcp:22", "guest5": "tcp:22 tcp:80 udp:53", "guest6": "tcp:443"}.items():
        lab.serve(role, ports)
    assert lab.reaches("outsider", "tcp 192.0.2.2:80") == ("guest5", "192.0.2.20")
    assert lab.reaches("outsider", "udp [2001:db8::2]:53") == ("guest5", "2001:db8::20")
    assert lab.reaches("outsider", "tcp 192.0.2.2:22")[0] == "host"
    assert lab.reaches("outsider", "tcp 192.0.2.2:8443")[0] == "guest6"
    assert lab.blocked("guest5", "tcp 10.0.0.3:443")
    assert lab.reaches("host", "tcp 10.0.0.3:443")[0] == "guest6"
    stack.destroy()


def test_micro_vm_host_in_two_lines(stack: Stack, host: Host) -> None:
    """The component with its defaults, by its own `connection`; ports 80 and 443 to two guests."""

    def program() -> None:
        hostnet.MicroVmHost(
            "microvm",
            forwards=[
                {"source_port": 80, "destination": "10.0.0.2"},
                {"source_port": 443, "destination": "10.0.0.3"},
            ],
            connection={"netns": host.name},
        )

    def check(made: Run) -> None:
        assert set(made.changes) == {"microvm", "microvm-taps", "microvm-nat"}
        assert host.addresses(stack.resources["microvm"]["outputs"]["name"]) == ["10.0.0.1/24", "fd12:3456:789a::1/64"]
        assert host.forwards() == {80: "10.0.0.2:80", 443: "10.0.0.3:443"}

    life_cycle(stack, host, program, check)


# --- pretend-cloud -------------------------------------------------------------------------------------------------

IMAGE = "debian-13"
ON_THE_SERVER = {"vms", "web", "nat", "http"}


@pytest.fixture
def region() -> Iterator[Namespace]:
    """A namespace to run `pulumi` in; the servers that are made there go with it."""
    made = Namespace("cloud")
    yield made
    for machine in RUN_NETNS.glob(f"{made.name}-*"):
        remove(machine.name)
    for disk in Path(tempfile.gettempdir()).glob(f"{made.name}-*"):
        shutil.rmtree(disk)
    made.delete()


def fetched(region: Namespace, url: str) -> str:
    """What a web server answers in the region."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    answer: bytes = region.call(lambda: opener.open(url, timeout=5).read())
    return answer.decode().strip()


def test_pretend_cloud(cli: Cli, region: Namespace) -> None:
    """A server that boots gets its network and a VM that answers; then another server does; then all is gone."""
    stack = Example(cli, "pretend", project="pretend-cloud")
    stack.inside = region
    before = region.kernel.links().keys()
    planned = stack.preview(None)
    assert planned.changes == dict.fromkeys(ON_THE_SERVER, "create")
    assert planned.warnings == []
    assert region.kernel.links().keys() == before

    made = stack.up(None, "--config", "bootSeconds=2")
    assert made.changes == planned.changes
    assert made.warnings == []
    assert fetched(region, stack.outputs["url"]) == "hello 172.31.1.1, this is web"
    assert "PRIVATE KEY" not in stack.state_text + json.dumps(made.events)
    assert stack.up(None, "--expect-no-changes", "--config", "bootSeconds=2").changes == {}

    first = stack.outputs["server"]
    moved = stack.up(None, "--config", f"image={IMAGE}")
    assert moved.changes == dict.fromkeys(ON_THE_SERVER, "replace")
    assert moved.warnings == []
    assert not RUN_NETNS.joinpath(first).exists()
    assert fetched(region, stack.outputs["url"]) == "hello 172.31.1.1, this is web"

    stack.destroy()
    assert region.kernel.links().keys() == before
    assert list(RUN_NETNS.glob(f"{region.name}-*")) == []
    assert [words for words in command_lines() if f"{region.name}-" in words] == []


def command_lines() -> Iterator[str]:
    """What runs on this machine."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield path.read_text(errors="replace").replace("\0", " ")


class Elsewhere(Example):
    """A stack whose `pulumi` is started by another program."""

    by: tuple[str, ...] = ()

    def _start(self, argv: list[str], **how: Any) -> subprocess.Popen[str]:
        return super()._start([*self.by, *argv], **how)


@pytest.mark.parametrize("by", ["", "ip netns exec"])
def test_where_pretend_cloud_does_not_run(cli: Cli, region: Namespace, by: str) -> None:
    """On the machine's own network, or where nobody else would see its servers: it makes nothing, and says where to."""
    stack = Elsewhere(cli, f"elsewhere{len(by)}", project="pretend-cloud")
    stack.by = (*by.split(), region.name) if by else ()
    failed = stack.up(None, fails=True)
    assert "run pulumi in a network namespace: `nsenter --net=" in failed.errors
    assert stack.resources == {}
    assert not [name for name in region.kernel.links() if "s-" in name]
