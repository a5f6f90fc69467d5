"""DHCP, DNS and router advertisements on a bridge, as real clients see them.

Addresses: see tests/lab/topology.py. The bridge is `br-a` with 10.0.0.1/24 and fd12::1/64; clients are namespaces of
their own behind `vm-1`, `vm-2`, … with nothing but a MAC address.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hostnet.agent.dhcp.process import ABOUT, RUN
from hostnet.wire.errors import Code, HostnetError

from tests.lab.clients import Client, advertisement, ask, old_client
from tests.lab.driver import Provider, Stack, refused
from tests.lab.kernel import CLSACT_EGRESS
from tests.lab.lab import Lab
from tests.lab.namespaces import Namespace
from tests.lab.probes import DOUBT, RESEND
from tests.lab.waiting import PATIENCE, until
from tools.guest import READY, qemu_argv

Program = dict[str, tuple[str, dict[str, Any]]]
MAC = "02:00:00:00:01:0{}"
BOOT_PATIENCE = 120.0  # seconds; a microVM boots in 4, on a busy machine in many more
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2  # linux/in.h
NET4, NET6 = ["10.0.0.1/24"], ["10.0.0.1/24", "fd12::1/64"]


def network(dhcp: dict[str, Any] | None = None, **bridge: Any) -> Program:
    """The bridge and its clients' links."""
    server = {} if dhcp is None else {"dhcpServer": dhcp}
    return {
        "net": ("Bridge", {"name": "br-a", "addresses": NET4, **server, **bridge}),
        "vms": ("TapBinding", {"match": "vm-*", "bridge": "${net.name}"}),
    }


NewClient = Callable[[int], Client]


@pytest.fixture
def client(lab: Lab, tmp_path: Path) -> Iterator[NewClient]:
    """Make clients: `client(1)` is behind `vm-1`."""
    made: list[Client] = []

    def make(number: int) -> Client:
        made.append(Client(lab, f"client{number}", f"vm-{number}", MAC.format(number), tmp_path))
        return made[-1]

    yield make
    for each in made:
        each.close()


def pids(lab: Lab) -> list[int]:
    """The dnsmasq processes of the host."""
    inside = subprocess.run(["ip", "netns", "pids", lab.host.name], capture_output=True, text=True, check=True)
    names = {int(pid): Path(f"/proc/{pid}/comm") for pid in inside.stdout.split()}
    return sorted(pid for pid, comm in names.items() if comm.exists() and comm.read_text().strip() == "dnsmasq")


def kill(*processes: int) -> None:
    """Kill processes, and wait for their ends: the kernel closes sockets after `pids` has none of them any more."""
    for process in processes:
        descriptor = os.pidfd_open(process)
        os.kill(process, signal.SIGKILL)
        assert select.select([descriptor], [], [], PATIENCE)[0]
        os.close(descriptor)


def only_pid(lab: Lab) -> int:
    """The one dnsmasq process of the host: those that started it end a moment after it answers."""
    return until(lambda: found[0] if len(found := pids(lab)) == 1 else None, detail=lambda: pids(lab))


def test_a_guest_gets_all_it_needs(lab: Lab, stack: Stack, client: NewClient) -> None:
    """It gets an address of the range, router, name server, domain, lease time and MTU. A refresh shows the lease."""
    guest = client(1)
    dhcp = {"rangeStart": "10.0.0.100", "rangeEnd": "10.0.0.110", "leaseTime": "20m", "domain": "vm.internal"}
    stack.up(network(dhcp, mtu=1400))
    given = guest.udhcpc("-O", "mtu", "-x", "hostname:first")
    assert 100 <= int(given["ip"].split(".")[3]) <= 110
    expected = {"mask": "24", "router": "10.0.0.1", "dns": "10.0.0.1", "domain": "vm.internal", "lease": "1200"}
    assert {name: given.get(name) for name in expected} == expected
    assert given["mtu"] == "1400"
    assert stack.refresh() == {}
    (lease,) = stack["net.leases"]
    assert (lease["macAddress"], lease["address"], lease["hostname"]) == (guest.mac, given["ip"], "first")
    stack.destroy()
    assert not pids(lab)


def whole(to: Namespace, by: Namespace, address: str, size: int) -> int:
    """How many bytes arrive of a datagram of this size that no router may divide; it is sent until one arrives."""
    with (
        to.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        by.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind((address, 9000))
        sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)

        def arrived() -> bool:
            sender.sendto(bytes(size), (address, 9000))
            return bool(select.select([receiver], [], [], RESEND)[0])

        until(arrived)
        return len(receiver.recv(size + 1))


def test_what_dhcp_and_advertisements_announce_as_mtu_every_port_carries(
    lab: Lab, stack: Stack, client: NewClient
) -> None:
    """On a jumbo bridge an attached interface and a TAP take its MTU, and whole packets of it pass.

    A TAP with a smaller MTU of its own makes all guests use that one.
    """
    guest = client(1)
    program = network({}, addresses=NET6, ipv6SendRa=True, mtu=9000)
    program["tap"] = ("TapBinding", {"name": "web", "bridge": "${net.name}", "guest": {}})
    stack.up(program)
    links = lab.host.kernel.links()
    assert (links["vm-1"].mtu, links["web"].mtu) == (9000, 9000)
    assert guest.udhcpc("-O", "mtu")["mtu"] == "9000"
    assert advertisement(guest.namespace)["mtu"] == 9000
    guest.namespace.ip("link set eth0 mtu 9000")
    assert whole(lab.host, guest.namespace, "10.0.0.1", 9000 - 28) == 9000 - 28
    lab.host.ip("link set vm-1 mtu 1500")
    assert stack.refresh() == {"net": ["mtu"]}
    stack.up(program)
    assert lab.host.kernel.links()["vm-1"].mtu == 9000
    assert stack.refresh() == {}
    program["tap"][1]["mtu"] = 1400
    stack.up(program)
    assert guest.udhcpc("-O", "mtu")["mtu"] == "1400"
    assert advertisement(guest.namespace)["mtu"] == 1400
    assert lab.host.kernel.links()["vm-1"].mtu == 9000
    stack.up(network({}, addresses=NET6, ipv6SendRa=True))
    assert lab.host.kernel.links()["vm-1"].mtu == 1500, "it has its own back"
    assert stack.refresh() == {}
    stack.destroy()


def test_an_undeclared_range_is_the_subnet_less_what_is_used(lab: Lab, stack: Stack, client: NewClient) -> None:
    """A /29 with a gateway, a guest and a static lease has three addresses left; a fourth client gets none."""
    lease = {"macAddress": MAC.format(9), "address": "10.0.0.6"}
    program = network({"staticLeases": [lease]}, addresses=["10.0.0.1/29"])
    program["tap"] = ("TapBinding", {"name": "web", "bridge": "${net.name}", "guest": {}})
    stack.up(program)
    assert stack["tap.guest.addresses"] == ["10.0.0.2/29"]
    got = {client(number).udhcpc()["ip"] for number in (1, 2, 3)}
    assert got == {"10.0.0.3", "10.0.0.4", "10.0.0.5"}
    fourth = client(4)
    assert "lease of" not in fourth.namespace.run("busybox udhcpc -i eth0 -f -q -n -t 3 -T 1 -s /bin/true", check=False)
    stack.destroy()


def test_an_address_on_lease_is_not_free(lab: Lab, stack: Stack, client: NewClient) -> None:
    """A guest's derived address is the lowest one that no client has leased."""
    guest = client(1)
    stack.up(network({"rangeStart": "10.0.0.2", "rangeEnd": "10.0.0.3"}))
    taken = {guest.udhcpc()["ip"], client(2).udhcpc()["ip"]}
    assert taken == {"10.0.0.2", "10.0.0.3"}
    program = dict(stack.program)
    program["tap"] = ("TapBinding", {"name": "web", "bridge": "${net.name}", "guest": {}})
    stack.up(program)
    assert stack["tap.guest.addresses"] == ["10.0.0.4/24"]
    stack.destroy()


def test_dhclient(lab: Lab, stack: Stack, client: NewClient) -> None:
    """ISC's client gets a static lease with its name."""
    guest = client(1)
    lease = {"macAddress": guest.mac, "address": "10.0.0.50", "hostname": "web"}
    stack.up(network({"domain": "vm.internal", "staticLeases": [lease], "dnsServers": ["192.0.2.53", "192.0.2.54"]}))
    given = guest.dhclient()
    assert given["new_ip_address"] == "10.0.0.50"
    assert given["new_domain_name_servers"] == "192.0.2.53 192.0.2.54"
    assert given["new_domain_name"] == "vm.internal"
    assert ask(guest.namespace, "10.0.0.1", "web", timeout=DOUBT) is None, "with dnsServers the gateway is no server"
    stack.up(network({"dnsServers": []}))
    assert "dns" not in guest.udhcpc()
    stack.destroy()


def test_names(lab: Lab, stack: Stack, client: NewClient) -> None:
    """Names of static leases and guests are answered with and without the domain, by UDP and TCP."""
    guest = client(1)
    lease = {"macAddress": MAC.format(8), "address": "10.0.0.50", "hostname": "db"}
    program = network({"domain": "vm.internal", "staticLeases": [lease]}, addresses=NET6)
    program["tap"] = ("TapBinding", {"name": "web", "bridge": "${net.name}", "guest": {"hostname": "web"}})
    stack.up(program)
    guest.udhcpc()
    guest.namespace.ip("address add fd12::77/64 dev eth0 nodad")
    web4, web6 = (cidr.split("/")[0] for cidr in stack["tap.guest.addresses"])
    for name, expected in (
        ("web", web4),
        ("web.vm.internal", web4),
        ("db", "10.0.0.50"),
        ("db.vm.internal", "10.0.0.50"),
    ):
        assert ask(guest.namespace, "10.0.0.1", name) == [expected]
        assert ask(guest.namespace, "fd12::1", name, tcp=True) == [expected]
    assert ask(guest.namespace, "10.0.0.1", "web", "AAAA") == [web6]
    for name in ("other", "other.vm.internal"):
        assert ask(guest.namespace, "10.0.0.1", name) == [], "neither is for the servers of the world"
    assert "web.vm.internal" in guest.namespace.run(f"busybox nslookup {web4} 10.0.0.1")
    stack.up({**program, "tap": ("TapBinding", {**program["tap"][1], "guest": {"hostname": "www"}})})
    assert ask(guest.namespace, "10.0.0.1", "www") == [web4]
    assert ask(guest.namespace, "10.0.0.1", "web") == []
    stack.destroy()


def test_other_names_are_asked_of_the_hosts_own_servers(lab: Lab, stack: Stack, client: NewClient) -> None:
    """The gateway asks the servers in the host's resolv.conf, in a named namespace its own (ip-netns(8))."""
    guest = client(1)
    folder = Path("/etc/netns", lab.host.name)
    folder.mkdir(parents=True)
    try:
        (folder / "resolv.conf").write_text("nameserver 198.51.100.10\n")
        own = tuple(f"--{word}" for word in ("no-hosts", "no-resolv", "keep-in-foreground", "conf-file=/dev/null"))
        upstream = lab["internet"].call(
            subprocess.Popen, ["dnsmasq", *own, "--pid-file=", "--user=root", "--address=/world.example/203.0.113.99"]
        )
        try:
            assert until(lambda: ask(lab["internet"], "198.51.100.10", "world.example", timeout=1)) == ["203.0.113.99"]
            stack.up(network({}))
            guest.udhcpc()
            assert until(lambda: ask(guest.namespace, "10.0.0.1", "world.example")) == ["203.0.113.99"]
        finally:
            upstream.terminate()
            upstream.wait()
        stack.destroy()
    finally:
        (folder / "resolv.conf").unlink()
        folder.rmdir()
        with contextlib.suppress(OSError):
            folder.parent.rmdir()


def test_router_advertisements(lab: Lab, stack: Stack, client: NewClient) -> None:
    """A guest's kernel gives itself an address of the declared prefix, and of no other one of the bridge."""
    guest = client(1)
    addresses = [*NET6, "fd99::1/64"]
    stack.up(network({}, addresses=addresses, ipv6SendRa=True, ipv6Prefixes=["fd12::/64"]))
    assert until(guest.addresses6) == ["fd12::ff:fe00:101/64"]
    assert lab.reaches(guest.namespace.role, "icmp fd12::1")
    told = advertisement(guest.namespace)
    assert told["prefixes"] == ["fd12::/64"]
    assert not told["managed"]
    (server,) = told["servers"]
    assert server.startswith(("fe80::", "fd12::"))
    assert stack.refresh() == {}
    stack.up(network({}, addresses=addresses, ipv6SendRa=True))
    assert until(lambda: len(found := guest.addresses6()) == 2 and found) == [
        "fd12::ff:fe00:101/64",
        "fd99::ff:fe00:101/64",
    ]
    stack.destroy()


def test_advertisements_alone(lab: Lab, stack: Stack, client: NewClient) -> None:
    """Without a dhcpServer, advertisements name no DNS server, and there is neither DHCP nor DNS."""
    guest = client(1)
    stack.up(network(None, addresses=["fd12::1/64"], ipv6SendRa=True))
    assert until(guest.addresses6) == ["fd12::ff:fe00:101/64"]
    assert advertisement(guest.namespace)["servers"] == []
    assert ask(guest.namespace, "fd12::1", "web", timeout=DOUBT) is None
    assert old_client(guest.namespace, guest.mac, DOUBT) == "silent"
    stack.destroy()
    assert not pids(lab)


def test_a_slaac_guest_has_a_v6_name(lab: Lab, stack: Stack, client: NewClient) -> None:
    """With advertisements a guest's name stands for the IPv6 address that it made itself."""
    stack.up(network({}, addresses=NET6, ipv6SendRa=True))
    program = dict(stack.program)
    program["tap"] = ("TapBinding", {"name": "web", "bridge": "${net.name}", "guest": {"hostname": "web"}})
    stack.up(program)
    host = stack["tap.guest"]
    lab.net.plug("web", "guest5", mac=host["macAddress"])
    lab["guest5"].sysctl("net.ipv6.conf.eth0.accept_ra", 1)
    lab["guest5"].run("busybox udhcpc -i eth0 -f -q -n -t 20 -T 1 -s /bin/true")
    asker = client(1)
    asker.udhcpc()
    assert ask(asker.namespace, "10.0.0.1", "web") == [host["addresses"][0].split("/")[0]]
    made = until(lambda: ask(asker.namespace, "10.0.0.1", "web", "AAAA"))
    assert [f"{address}/64" for address in made] != [host["addresses"][1]]
    assert f"{made[0]}/64" in lab["guest5"].kernel.links()["eth0"].addresses
    stack.destroy()


def test_leases_come_and_go_without_a_restart(lab: Lab, stack: Stack, client: NewClient) -> None:
    """Adding and removing a static lease and a guest keeps the process, and the leases of others."""
    first, second = client(1), client(2)
    stack.up(network({}))
    process = only_pid(lab)
    mine = first.udhcpc()["ip"]
    program = network({"staticLeases": [{"macAddress": second.mac, "address": "10.0.0.77"}]})
    stack.up(program)
    assert second.udhcpc()["ip"] == "10.0.0.77"
    program["tap"] = ("TapBinding", {"name": "web", "bridge": "${net.name}", "guest": {"hostname": "web"}})
    stack.up(program)
    assert ask(second.namespace, "10.0.0.1", "web") == [stack["tap.guest.addresses"][0].split("/")[0]]
    assert first.udhcpc("-r", mine)["ip"] == mine
    stack.up(network({}))
    assert ask(second.namespace, "10.0.0.1", "web") == []
    third = client(3)
    taken = {first.udhcpc("-r", mine)["ip"], third.udhcpc()["ip"]}
    assert mine in taken
    assert {lease["address"] for lease in _leases(stack)} >= taken
    assert pids(lab) == [process]
    stack.destroy()


def _leases(stack: Stack) -> list[dict[str, Any]]:
    assert stack.refresh() == {}
    return list(stack["net.leases"])


def test_another_configuration_keeps_the_leases(lab: Lab, stack: Stack, client: NewClient) -> None:
    """A change of range, lease time, addresses and MTU takes another process; the leases stay."""
    guest = client(1)
    stack.up(network({"rangeStart": "10.0.0.100", "rangeEnd": "10.0.0.199"}))
    mine = guest.udhcpc()["ip"]
    before = only_pid(lab)
    stack.up(
        network({"rangeStart": "10.0.0.90", "rangeEnd": "10.0.0.199", "leaseTime": "2h"}, addresses=NET6, mtu=1400)
    )
    after = only_pid(lab)
    assert before != after
    assert [lease["address"] for lease in _leases(stack)] == [mine]
    given = guest.udhcpc("-r", mine)
    assert (given["ip"], given["lease"]) == (mine, "7200")
    stack.destroy()


def test_nothing_answers_on_the_uplink(lab: Lab, stack: Stack, client: NewClient) -> None:
    """An outsider gets neither DHCP nor DNS at any address; a guest on the same path does."""
    stack.up(network({}, addresses=NET6))
    guest = client(1)
    guest.udhcpc()
    guest.namespace.ip("address add fd12::77/64 dev eth0 nodad")
    for server in ("10.0.0.1", "fd12::1"):
        assert ask(guest.namespace, server, "localhost") is not None
        for tcp in (False, True):
            assert not ask(lab["attacker"], server, "localhost", tcp=tcp, timeout=DOUBT)
    for server in ("192.0.2.2", "2001:db8::2"):
        assert ask(lab["outsider"], server, "localhost", timeout=DOUBT) is None
    mac = lab["outsider"].kernel.links()["eth0"].mac
    assert old_client(lab["outsider"], mac, 1.5) == "silent"
    stack.destroy()


def test_two_bridges_have_two_servers(lab: Lab, stack: Stack, client: NewClient) -> None:
    """Each bridge has its own process; the end of one does not concern the other."""
    program = network({})
    program["other"] = ("Bridge", {"name": "br-b", "addresses": ["10.1.0.1/24"], "dhcpServer": {}})
    stack.up(program)
    assert len(pids(lab)) == 2
    guest = client(1)
    assert guest.udhcpc()["ip"].startswith("10.0.0.")
    lab.host.ip("link set vm-1 master br-b")
    assert guest.udhcpc()["ip"].startswith("10.1.0.")
    lab.host.ip("link set vm-1 master br-a")
    stack.up(network({}))
    assert only_pid(lab)
    assert guest.udhcpc()["ip"].startswith("10.0.0.")
    stack.destroy()


def test_one_that_died_is_drift_and_comes_back(lab: Lab, stack: Stack, client: NewClient) -> None:
    """A refresh shows that the server has ended. The next `up` starts it, with its leases."""
    guest = client(1)
    stack.up(network({}, addresses=NET6, ipv6SendRa=True))
    mine = guest.udhcpc()["ip"]
    kill(*pids(lab))
    assert set(stack.refresh()) == {"net"}
    stack.again()
    assert stack.refresh() == {}
    assert only_pid(lab)
    assert guest.udhcpc("-r", mine)["ip"] == mine
    stack.destroy()


def test_lists_that_somebody_changed_are_drift(lab: Lab, stack: Stack) -> None:
    """A file that the server reads on its next signal and that is not as declared is drift."""
    stack.up(network({"staticLeases": [{"macAddress": MAC.format(9), "address": "10.0.0.9"}]}))
    (hosts,) = (path / "br-a" / "hosts" for path in _directories(stack))
    hosts.write_text("")
    assert set(stack.refresh()) == {"net"}
    stack.again()
    assert hosts.read_text() == f"{MAC.format(9)},10.0.0.9\n"
    stack.destroy()


@pytest.mark.parametrize("closed", ["", "br-a", "br-a/hosts"])
def test_lists_that_the_server_cannot_read_are_drift(lab: Lab, stack: Stack, client: NewClient, closed: str) -> None:
    """It has given up root when it reads them again. The next `up` opens the way, and the server reads them then."""
    guest = client(1)
    stack.up(network({}))
    (directory,) = _directories(stack)
    (directory / closed).chmod(0o700)
    assert set(stack.refresh()) == {"net"}
    stack.up(network({"staticLeases": [{"macAddress": guest.mac, "address": "10.0.0.9"}]}))
    assert stack.refresh() == {}
    assert guest.udhcpc()["ip"] == "10.0.0.9"
    stack.destroy()


def _directories(stack: Stack) -> list[Path]:
    """The directories of this stack in /run/hostnet."""
    mine = str(stack.provider.directory)
    return [path.parent for path in RUN.glob(f"*/{ABOUT}") if mine in path.read_text()]


def test_it_outlives_the_provider_and_restore_brings_it_back(lab: Lab, client: NewClient) -> None:
    """Guests are served without a provider or an agent. After a kill, `restore` starts the server again."""
    provider = Provider()
    guest = client(1)
    try:
        stack = Stack(provider, lab.host.name)
        stack.up(network({}))
        provider.run(provider._pool.close())
        process = only_pid(lab)
        assert {str(Path(f"/proc/{process}/fd/{number}").readlink()) for number in range(3)} == {"/dev/null"}
        assert "PPid:\t1\n" in Path(f"/proc/{process}/status").read_text()
        assert "Uid:\t0" not in Path(f"/proc/{process}/status").read_text(), "it gave up root"
        mine = guest.udhcpc()["ip"]
        kill(process)
        second = Provider(beside=provider)
        try:
            again = Stack(second, lab.host.name, state=stack.state, program=stack.program)
            second.run(_restore(second, lab.host.name))
            assert guest.udhcpc("-r", mine)["ip"] == mine
            again.destroy()
        finally:
            second.close()
        assert not pids(lab)
    finally:
        provider.close()


async def _restore(provider: Provider, netns: str) -> None:
    host: Any = await provider.host({"connection": {"netns": netns}})
    await host.restore()


def test_a_bridge_that_was_made_again_is_served(lab: Lab, stack: Stack, client: NewClient) -> None:
    """After another program has deleted the bridge, `up` makes bridge and server work again."""
    guest = client(1)
    stack.up(network({}))
    guest.udhcpc()
    lab.host.ip("link delete br-a")
    assert "net" in stack.refresh()
    stack.again()
    assert stack.refresh() == {}
    assert guest.udhcpc()["router"] == "10.0.0.1"
    stack.destroy()
    assert not pids(lab)


def test_a_destroy_leaves_nothing(lab: Lab, stack: Stack, client: NewClient) -> None:
    """No process, file or lease is left, also if only the server is removed from the bridge."""
    guest = client(1)
    stack.up(network({}))
    guest.udhcpc()
    assert _directories(stack)
    features = lab.host.run("ethtool -k br-a")
    stack.up(network())
    assert not pids(lab)
    assert "tx-checksum-ip-generic: on" in lab.host.run("ethtool -k br-a"), features
    assert old_client(guest.namespace, guest.mac, DOUBT) == "silent"
    stack.up(network({}))
    assert list(stack["net.leases"]) == []
    stack.destroy()
    assert not pids(lab)
    assert not _directories(stack)
    lab.host.ip("link delete vm-1")
    assert lab.net.snapshot() == lab.net.pristine


def test_what_a_deleted_namespace_leaves_is_swept(lab: Lab, client: NewClient) -> None:
    """A server in a namespace that has lost its name is ended by the next agent on the machine."""
    provider = Provider()
    host = lab.net.namespaces.add("host2")
    try:
        Stack(provider, host.name).up({"net": ("Bridge", {"name": "br-a", "addresses": NET4, "dhcpServer": {}})})
        inside = subprocess.run(["ip", "netns", "pids", host.name], capture_output=True, text=True, check=True)
        (process,) = (pid for pid in inside.stdout.split() if "dnsmasq" in Path(f"/proc/{pid}/comm").read_text())
        host._threads.shutdown(wait=True)
        subprocess.run(["ip", "netns", "delete", host.name], check=True)
        provider.run(provider._pool.close())
        assert Path("/proc", process).exists()
        second = Provider(beside=provider)
        try:
            Stack(second, lab.host.name).up({"net": ("Bridge", {"name": "br-a", "addresses": NET4})})
            until(lambda: not Path("/proc", process).exists())
        finally:
            second.close()
    finally:
        provider.close()
        lab.net.namespaces.delete("host2")


def test_dnsmasq_is_missing(lab: Lab, stack: Stack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error names the package, in a preview too, and nothing is left."""
    for program in ("ip", "nft", "env"):
        (tmp_path / program).symlink_to(Path("/usr/sbin", program) if program != "env" else "/usr/bin/env")
    monkeypatch.setenv("PATH", str(tmp_path))
    provider = Provider()
    monkeypatch.undo()
    try:
        monkeypatch.setenv("PATH", str(tmp_path))
        bare = Stack(provider, lab.host.name)
        (said,) = (line for line in bare.preview(network({})) if "dnsmasq" in line)
        assert "apt-get install dnsmasq-base" in said
        with pytest.raises(HostnetError) as error:
            bare.up(network({}))
        assert refused(error.value, Code.UNSUPPORTED)
        bare.destroy()
    finally:
        monkeypatch.undo()
        provider.close()
    assert lab.net.snapshot() == lab.net.pristine


def test_a_server_that_does_not_start_undoes_the_bridge(lab: Lab, stack: Stack) -> None:
    """Port 53 is in use: the error says so, the bridge is undone, and others of the same step are not."""
    taken = lab.host.socket(socket.AF_INET, socket.SOCK_DGRAM)
    taken.bind(("0.0.0.0", 53))  # noqa: S104 - what a careless DNS server does
    other = {"alone": ("Bridge", {"name": "br-b", "addresses": ["10.1.0.1/24"]})}
    with taken, pytest.raises(HostnetError, match="in use") as error:
        stack.up({"net": network({})["net"], **other})
    assert refused(error.value, Code.CONFLICT)
    assert set(stack.state) == {"alone"}
    assert "br-a" not in lab.host.kernel.links()
    stack.up({"net": network({})["net"], **other})
    assert only_pid(lab)
    taken = lab.host.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    taken.bind(("::", 53))
    wanted = {"net": network({"domain": "vm.internal"}, addresses=NET6)["net"], **other}
    assert any("port 53 is in use" in text for text in stack.preview(wanted))
    with taken, pytest.raises(HostnetError, match="in use"):
        stack.up(wanted)
    assert only_pid(lab), "an update that fails leaves the server as it was"
    assert stack.refresh() == {}
    stack.destroy()


def test_a_prefix_needs_an_address(lab: Lab, stack: Stack) -> None:
    """A prefix in which the bridge has no address is refused, and the error says what to do."""
    with pytest.raises(HostnetError, match="no address in fd99::/64"):
        stack.up(network(None, addresses=NET6, ipv6SendRa=True, ipv6Prefixes=["fd99::/64"]))
    stack.destroy()
    assert lab.net.snapshot() == lab.net.pristine


def test_a_reserved_address_is_one_machines(lab: Lab, stack: Stack) -> None:
    """A static lease with a guest's address, or with its MAC address and another address, is refused."""
    program = network({})
    program["tap"] = ("TapBinding", {"name": "web", "bridge": "${net.name}", "guest": {}})
    stack.up(program)
    mac = stack["tap.guest.macAddress"]
    for lease in ({"macAddress": MAC.format(9), "address": "10.0.0.2"}, {"macAddress": mac, "address": "10.0.0.9"}):
        with pytest.raises(HostnetError, match="TapBinding tap") as error:
            stack.up({**program, "net": network({"staticLeases": [lease]})["net"]})
        assert refused(error.value, Code.CONFLICT)
    stack.up({**program, "net": network({"staticLeases": [{"macAddress": mac, "address": "10.0.0.2"}]})["net"]})
    stack.destroy()


def test_a_forward_of_port_53_leaves_guests_their_dns(lab: Lab, stack: Stack, client: NewClient) -> None:
    """A guest behind a forward of port 53 is not its siblings' DNS server. The loss of what prevents it is drift."""
    program = network({"domain": "vm.internal"})
    program["tap"] = ("TapBinding", {"name": "web", "bridge": "${net.name}", "guest": {"hostname": "web"}})
    program["nat"] = ("NatGateway", {"internalInterfaces": ["${net.name}"]})
    for name, protocol, port in (("dns", "tcp+udp", 53), ("dhcp", "udp", 67)):
        inputs = {
            "natGateway": "${nat.id}",
            "protocol": protocol,
            "sourcePort": port,
            "destination": f"10.0.0.11:{port}",
        }
        program[name] = ("PortForward", inputs)
    program["guests"] = ("TapBinding", {"match": "a-*", "bridge": "${net.name}"})
    stack.up(program)
    lab.serve("guest1", "udp:53 tcp:53")
    assert lab.reaches("outsider", "udp 192.0.2.2:53") == ("guest1", "192.0.2.20")
    guest = client(1)
    mine = guest.udhcpc()["ip"]
    expected = stack["tap.guest.addresses"][0].split("/")[0]
    for tcp in (False, True):
        assert ask(guest.namespace, "10.0.0.1", "web.vm.internal", tcp=tcp) == [expected]
    assert guest.udhcpc("-r", mine)["ip"] == mine
    assert lab.reaches(guest.namespace.role, "udp 192.0.2.2:53")[0] == "guest1"
    for gone in (
        "flush set inet hostnet dnsmasq_ports",
        'delete element inet hostnet dnsmasq_ports { "br-a" . udp . 53 }',
    ):
        lab.host.nft(gone)
        assert lab.reaches(guest.namespace.role, "udp 10.0.0.1:53")[0] == "guest1"
        assert set(stack.refresh()) == {"net"}
        assert stack.again() == ["update net: dhcpServer"]
        assert ask(guest.namespace, "10.0.0.1", "web.vm.internal") == [expected]
        assert stack.refresh() == {}
    stack.destroy()
    assert not lab.host.kernel.listing()


@pytest.mark.parametrize("wire", ["veth", "tap", "tap without vnet_hdr"])
def test_checksums_are_complete_on_every_wire(lab: Lab, stack: Stack, client: NewClient, wire: str) -> None:
    """A client that checks the checksum accepts the answer, also behind a TAP without offload."""
    program = network({})
    offload = wire == "tap"
    program["tap"] = ("TapBinding", {"name": "old", "bridge": "${net.name}", "vnetHdr": offload, "guest": {}})
    stack.up(program)
    if wire == "veth":
        assert client(1).old() == "whole"
    else:
        mac = stack["tap.guest.macAddress"]
        lab.net.plug("old", "guest5", mac=mac, vnet_hdr=offload)
        assert old_client(lab["guest5"], mac) == "whole"
    stack.destroy()


def test_what_completes_checksums_comes_and_goes(lab: Lab, stack: Stack, client: NewClient) -> None:
    """It comes and goes with the server, and if another program removes it, that is drift."""
    guest = client(1)
    stack.up(network())
    before = _checksums(lab)
    assert guest.old(DOUBT) == "silent"
    stack.up(network({}))
    ours = _checksums(lab)
    assert ours != before
    # Which of the two it is depends on the kernel.
    lab.host.run("ethtool -K br-a tx on")
    lab.host.run("tc qdisc delete dev br-a clsact", check=False)
    assert set(stack.refresh()) == {"net"}
    stack.again()
    assert stack.refresh() == {}
    assert _checksums(lab) == ours
    assert guest.old() == "whole"
    stack.up(network({"leaseTime": "2h"}))  # another process
    assert _checksums(lab) == ours
    stack.up(network())
    assert _checksums(lab) == before
    stack.destroy()


def _checksums(lab: Lab) -> tuple[bool, list[str], list[str]]:
    """How the host completes checksums on the bridge."""
    offload = "tx-checksumming: on" in lab.host.run("ethtool -k br-a")
    qdiscs = [one.kind for one in lab.host.kernel.qdiscs() if one.device == "br-a"]
    return offload, qdiscs, [one.kind for one in lab.host.kernel.filters("br-a", CLSACT_EGRESS)]


def test_microvms_boot_with_dhcp_alone(lab: Lab, stack: Stack) -> None:
    """Each guest of QEMU with `ip=dhcp` gets its address and name, and one reaches the other by its name."""
    program = network({"domain": "vm.internal"}, addresses=NET6, ipv6SendRa=True)
    for name in ("web", "sibling"):
        inputs = {"name": f"t-{name}", "bridge": "${net.name}", "guest": {"hostname": name}}
        program[name] = ("TapBinding", inputs)
    stack.up(program)
    with contextlib.ExitStack() as machines:
        web = _boot(lab, machines, "t-web", stack["web.guest.macAddress"], "ip=dhcp http=80")
        assert f"GUEST LEASE: {stack['web.guest.addresses'][0]}" in _wait_for(web, READY)
        fetch = "ip=dhcp fetch=http://web.vm.internal/"
        sibling = _boot(lab, machines, "t-sibling", stack["sibling.guest.macAddress"], fetch)
        assert "FETCHED: hello from web" in _wait_for(sibling, "FETCHED")
    named = {lease["hostname"]: lease["macAddress"] for lease in _leases(stack)}
    assert named == {name: stack[f"{name}.guest.macAddress"] for name in ("web", "sibling")}
    stack.destroy()


def _boot(lab: Lab, machines: contextlib.ExitStack, tap: str, mac: str, append: str) -> subprocess.Popen[str]:
    """Start a microVM that ends with the block."""
    argv = qemu_argv(tap, mac, append)
    machine = lab.host.call(subprocess.Popen, argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    machines.callback(machine.wait)
    machines.callback(machine.kill)
    return machine


def _wait_for(machine: subprocess.Popen[str], mark: str) -> str:
    """What a machine printed up to a line; a watchdog ends a machine that never prints it."""
    watchdog = threading.Timer(BOOT_PATIENCE, machine.kill)
    watchdog.start()
    said = ""
    assert machine.stdout
    for line in machine.stdout:
        said += line
        if mark in line:
            watchdog.cancel()
            return said
    raise AssertionError(said)


def test_an_input_chain_that_drops(lab: Lab, stack: Stack, client: NewClient) -> None:
    """With openFirewall guests get DHCP, DNS and advertisements in spite of a dropping chain; without it, nothing."""
    lab.host.nft("table inet fw { chain input { type filter hook input priority 0; policy drop; }; }")
    lab.serve("host", "tcp:22")
    guest = client(1)
    lease = {"macAddress": guest.mac, "address": "10.0.0.50", "hostname": "web"}
    shut = network({"staticLeases": [lease]}, addresses=NET6, ipv6SendRa=True, openFirewall=False)
    stack.up(shut)
    assert old_client(guest.namespace, guest.mac, DOUBT) == "silent"
    stack.up({**shut, "net": ("Bridge", {**shut["net"][1], "openFirewall": True})})
    assert guest.udhcpc()["ip"] == "10.0.0.50"
    assert until(guest.addresses6) == ["fd12::ff:fe00:101/64"]
    for server in ("10.0.0.1", "fd12::1"):
        assert ask(guest.namespace, server, "web") == ["10.0.0.50"]
        assert ask(guest.namespace, server, "web", tcp=True) == ["10.0.0.50"]
    assert lab.blocked(guest.namespace.role, "tcp 10.0.0.1:22")
    stack.destroy()
    assert "hostnet" not in lab.host.kernel.listing()


def test_a_guest_has_its_own_name_and_no_siblings(lab: Lab, stack: Stack, client: NewClient) -> None:
    """The name that a client gives itself is answered, unless a guest, a static lease or the gateway has it."""
    lease = {"macAddress": MAC.format(9), "address": "10.0.0.9", "hostname": "printer"}
    program = network({"domain": "vm.internal", "staticLeases": [lease]}, addresses=NET6)
    guest = {"name": "web", "bridge": "${net.name}", "guest": {"hostname": "web"}}
    stack.up({**program, "tap": ("TapBinding", guest)})
    web = stack["tap.guest.addresses"][0].split("/")[0]
    first, second = client(1), client(2)
    mine = first.udhcpc("-x", "hostname:first")["ip"]
    second.udhcpc("-x", "hostname:second")
    assert ask(second.namespace, "10.0.0.1", "first.vm.internal") == [mine]
    for name, address in (("web", web), ("printer", "10.0.0.9")):
        second.udhcpc("-x", f"hostname:{name}")
        assert ask(first.namespace, "10.0.0.1", f"{name}.vm.internal") == [address]
    stack.destroy()


@pytest.mark.parametrize("name", ["localhost", "LocalHost", "wpad", "wpad.x", "isatap", "local", "invalid.vm.internal"])
def test_a_guest_does_not_get_a_reserved_name(lab: Lab, stack: Stack, client: NewClient, name: str) -> None:
    """It gets a lease, but what looks such a name up is not led to it. A name that only begins so is its own."""
    stack.up(network({"domain": "vm.internal"}))
    first, second = client(1), client(2)
    first.udhcpc()
    second.udhcpc("-x", f"hostname:{name}")
    label = name.partition(".")[0]
    for asked in (label, f"{label}.vm.internal"):
        assert ask(first.namespace, "10.0.0.1", asked) == []
    mine = second.udhcpc("-x", f"hostname:{label}s")["ip"]
    assert ask(first.namespace, "10.0.0.1", f"{label}s") == [mine]
    stack.destroy()


@pytest.mark.parametrize(("user", "program"), [(12345, "dnsmasq"), (0, "cat")])
def test_what_only_looks_like_the_server_is_not_it(lab: Lab, stack: Stack, user: int, program: str) -> None:
    """Another user's process, or another program, with the server's command line does not hide that it has died."""
    stack.up(network({}))
    server = only_pid(lab)
    words = Path(f"/proc/{server}/cmdline").read_text().split("\0")[:-1]
    kill(server)

    def stop_at_exec() -> None:
        os.setresuid(user, user, user)
        ctypes.CDLL(None).ptrace(0, 0, 0, 0)  # PTRACE_TRACEME: it is there, and does nothing

    # As its argv says, and no more: none of the two would run with it.
    fake = lab.host.call(subprocess.Popen, words, executable=shutil.which(program), preexec_fn=stop_at_exec)
    try:
        assert Path(f"/proc/{fake.pid}/cmdline").read_text().split("\0")[:-1] == words
        assert set(stack.refresh()) == {"net"}
        stack.again()
        assert stack.refresh() == {}
    finally:
        # Popen takes the stop of a traced process for its end (Python 3.11), and would not kill it.
        os.kill(fake.pid, signal.SIGKILL)
        while not os.WIFSIGNALED(os.waitpid(fake.pid, 0)[1]):
            pass
    stack.destroy()
    assert not pids(lab)


# A server that takes long to die: the kernel frees its memory first, then it closes its sockets.
LARGE = """
import ctypes, os, socket, sys, time
ctypes.CDLL(None).prctl(15, b"dnsmasq", 0, 0, 0)  # PR_SET_NAME
server = socket.socket(type=socket.SOCK_DGRAM)
server.bind(("", 67))
memory = bytearray(os.urandom(1 << 20)) * 500
open(sys.argv[1], "w").write(str(os.getpid()))
print(flush=True)
time.sleep(600)
"""


def test_a_server_that_was_killed_a_moment_ago_is_started_again(lab: Lab, stack: Stack) -> None:
    """It is no process of ours any more, and has its port still: what starts it waits for its end."""
    stack.up(network({}))
    (directory,) = _directories(stack)
    kill(only_pid(lab))
    assert set(stack.refresh()) == {"net"}
    argv = [sys.executable, "-c", LARGE, str(directory / "br-a" / "pid")]
    with lab.host.call(subprocess.Popen, argv, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()
        server.kill()
        stack.again()
    assert stack.refresh() == {}
    stack.destroy()


def test_what_a_read_has_of_many_leases_is_bounded(lab: Lab, stack: Stack) -> None:
    """A network full of guests must not make the state of a stack large: the leases of the lowest addresses."""
    stack.up({"net": ("Bridge", {"name": "br-a", "addresses": ["10.0.0.1/16"], "dhcpServer": {}})})
    (directory,) = _directories(stack)
    lines = [f"0 {MAC.format(9)} 10.0.{n // 256}.{n % 256} * *\n" for n in reversed(range(2, 60_000))]
    (directory / "br-a" / "leases").write_text("".join(lines))
    assert stack.refresh() == {}
    found = [lease["address"] for lease in _leases(stack)]
    assert (len(found), found[0], found[-1]) == (1000, "10.0.0.2", "10.0.3.233")
    stack.destroy()


IN_USE: dict[str, tuple[int, int, bool, str]] = {
    "a DHCP server": (socket.SOCK_DGRAM, 67, False, "Another DHCP server has UDP port 67"),
    "a DHCP server that shares its port": (socket.SOCK_DGRAM, 67, True, ""),
    "a DNS server, by UDP": (socket.SOCK_DGRAM, 53, False, "Another DNS server listens on every address"),
    "a DNS server, by TCP": (socket.SOCK_STREAM, 53, True, "Another DNS server listens on every address"),
}


@pytest.mark.parametrize("name", IN_USE)
def test_a_port_that_another_program_has(lab: Lab, stack: Stack, name: str) -> None:
    """A preview foresees that the bridge's server would not start, and `up` says which port it is and what helps."""
    kind, port, shares, advice = IN_USE[name]
    with lab.host.socket(socket.AF_INET, kind) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(shares))
        other.bind(("", port))
        if kind == socket.SOCK_STREAM:
            other.listen()
        warned = [text for text in stack.preview(network({})) if "would not start" in text]
        assert [f"port {port} is in use. {advice}" in text for text in warned] == ([True] if advice else [])
        if advice:
            with pytest.raises(HostnetError, match=advice) as caught:
                stack.up(network({}))
            assert caught.value.code == Code.CONFLICT
    stack.up(network({}))
    assert [text for text in stack.preview(network({})) if "in use" in text] == [], "the port is its own now"
    stack.destroy()
