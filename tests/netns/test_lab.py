"""The laboratory itself: its probes tell the truth about networks set up by hand with ip and nft.

Addresses: see tests/lab/topology.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import grpc
import pytest

from tests.lab.lab import Lab
from tests.lab.namespaces import RUN_NETNS, sweep
from tests.lab.probes import DOUBT
from tests.lab.sctp import Chunk, Packet, crc32c
from tests.lab.taps import open_tap
from tests.lab.topology import GUESTS
from tests.lab.waiting import PATIENCE

OUTSIDER = ("192.0.2.20", "[2001:db8::20]")
INTERNET = ("198.51.100.10", "[2001:db8:1::10]")


def bridge_a(lab: Lab) -> None:
    """Network A by hand: a bridge with guests 1 and 2, and forwarding."""
    lab.host.ip(
        "link add br-a type bridge forward_delay 0",
        "link set br-a up",
        "link set a-1 master br-a",
        "link set a-2 master br-a",
        "address add 10.0.0.1/24 dev br-a",
        "address add fd12::1/64 dev br-a nodad",
    )
    lab.host.sysctl("net.ipv4.ip_forward", 1)
    lab.host.sysctl("net.ipv6.conf.all.forwarding", 1)


@pytest.mark.parametrize(("protocol", "address"), list(product(("tcp", "udp", "sctp"), (*OUTSIDER, *INTERNET))))
def test_a_server_tells_its_name_and_whom_it_sees(lab: Lab, protocol: str, address: str) -> None:
    """Each protocol and family reaches a listener, with the client's own address, and is refused where none is."""
    lab.serve("outsider", f"{protocol}:80")
    lab.serve("internet", f"{protocol}:80")
    server = "outsider" if address in OUTSIDER else "internet"
    source = "2001:db8::2" if "[" in address else "192.0.2.2"
    assert lab.reaches("host", f"{protocol} {address}:80") == (server, source)
    assert lab.probe("host", f"{protocol} {address}:81").outcome == "refused"


@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
def test_a_dropped_packet_is_silence(lab: Lab, protocol: str) -> None:
    """A drop on the way is *silent*, not *refused*, and the same path is open beside it."""
    lab.serve("host", f"{protocol}:80 {protocol}:81")
    lab.host.nft(f"table inet t {{ chain c {{ type filter hook input priority 0; {protocol} dport 81 drop; }}; }}")
    for host in ("192.0.2.2", "[2001:db8::2]"):
        assert lab.reaches("outsider", f"{protocol} {host}:80")[0] == "host"
        assert lab.probe("outsider", f"{protocol} {host}:81", DOUBT).outcome == "silent"


@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
def test_an_icmp_error_is_a_refusal(lab: Lab, protocol: str) -> None:
    """A reject by ICMP ends a probe at once."""
    rule = "th dport 81 reject with icmpx host-unreachable"
    lab.host.nft(f"table inet t {{ chain c {{ type filter hook input priority 0; {rule}; }}; }}")
    for host in ("192.0.2.2", "[2001:db8::2]"):
        assert lab.probe("outsider", f"{protocol} {host}:81").outcome == "refused"


@pytest.mark.parametrize("protocol", ["gre", "esp"])
def test_a_protocol_without_ports(lab: Lab, protocol: str) -> None:
    """It is answered where it is served, also to a client beside the server, and refused elsewhere."""
    lab.serve("outsider", protocol)
    for address, source in (("192.0.2.20", "192.0.2.2"), ("2001:db8::20", "2001:db8::2")):
        assert lab.reaches("host", f"{protocol} {address}") == ("outsider", source)
        assert lab.reaches("outsider", f"{protocol} {address}") == ("outsider", address)
    for address in ("192.0.2.10", "2001:db8::10"):
        assert lab.probe("host", f"{protocol} {address}").outcome == "refused"


def test_icmp_echo(lab: Lab) -> None:
    """An address that exists answers, one that does not is silent or refused."""
    assert lab.reaches("outsider", "icmp 192.0.2.2") == ("", "")
    assert lab.reaches("outsider", "icmp 2001:db8::2") == ("", "")
    assert lab.blocked("outsider", "icmp 192.0.2.99")


def test_source_address_and_port_are_bound(lab: Lab) -> None:
    """A probe leaves from the address and port that it was given, and the answer comes from the one it asked."""
    lab.serve("outsider", "tcp:80 udp:80")
    for protocol in ("tcp", "udp"):
        verdict = lab.probe("host", f"{protocol} 192.0.2.20:80 from 192.0.2.3:700")
        assert (verdict.source, verdict.source_port) == ("192.0.2.3", 700)
    lab.serve("host", "udp:53 sctp:53")
    assert lab.reaches("outsider", "udp 192.0.2.3:53") == ("host", "192.0.2.20")
    assert lab.reaches("outsider", "sctp [2001:db8::3]:53") == ("host", "2001:db8::20")


def test_bridge_and_nat_by_hand(lab: Lab) -> None:
    """The topology carries what hostnet will do: guests out through masquerade, in through DNAT, of all protocols."""
    bridge_a(lab)
    lab.host.nft("""
        table inet t {
            chain pre { type nat hook prerouting priority dstnat;
                iifname eth0 meta nfproto ipv4 meta l4proto { tcp, udp, sctp } th dport 8080 dnat ip to 10.0.0.11:80
                iifname eth0 meta nfproto ipv6 meta l4proto { tcp, udp, sctp } th dport 8080 dnat ip6 to [fd12::11]:80
            }
            chain post { type nat hook postrouting priority srcnat; oifname eth0 masquerade; }
        }""")
    lab.serve("guest1", "tcp:80 udp:80 sctp:80")
    lab.serve("internet", "tcp:80 udp:80 sctp:80")
    for protocol in ("tcp", "udp", "sctp"):
        assert lab.reaches("outsider", f"{protocol} 192.0.2.2:8080") == ("guest1", "192.0.2.20")
        assert lab.reaches("outsider", f"{protocol} [2001:db8::2]:8080") == ("guest1", "2001:db8::20")
        assert lab.reaches("guest2", f"{protocol} 198.51.100.10:80") == ("internet", "192.0.2.2")
        assert lab.reaches("guest2", f"{protocol} [2001:db8:1::10]:80") == ("internet", "2001:db8::2")


def test_the_attacker_is_one(lab: Lab) -> None:
    """With plain routing and loopback routing on, the attacker gets at guests and at 127/8: a block is then a block."""
    bridge_a(lab)
    lab.host.sysctl("net.ipv4.conf.eth0.route_localnet", 1)
    lab.serve("guest1", "tcp:80")
    lab.serve("host", "tcp:80")
    assert lab.reaches("attacker", "tcp 10.0.0.11:80") == ("guest1", "192.0.2.30")
    assert lab.reaches("attacker", "tcp [fd12::11]:80") == ("guest1", "2001:db8::30")
    for address in ("127.0.0.1", "127.0.0.2"):
        assert lab.reaches("attacker", f"tcp {address}:80") == ("host", "192.0.2.30")
    lab.host.sysctl("net.ipv4.conf.eth0.route_localnet", 0)
    assert lab.blocked("attacker", "tcp 127.0.0.1:80")
    assert lab.reaches("attacker", "tcp 192.0.2.2:80") == ("host", "192.0.2.30")


@pytest.mark.parametrize("vnet_hdr", [True, False])
def test_a_guest_behind_a_tap(lab: Lab, vnet_hdr: bool) -> None:  # noqa: FBT001 - a parameter
    """A persistent TAP carries real traffic of a guest, keeps its flags, and stays when the guest is gone."""
    flag = "vnet_hdr" if vnet_hdr else ""
    lab.host.ip("address add 10.2.0.1/24 dev lo", f"tuntap add vm0 mode tap {flag}", "link set vm0 up")
    lab.host.ip("route add 10.2.0.5/32 dev vm0")
    before = lab.host.kernel.links()["vm0"].details
    lab.net.plug(
        "vm0",
        "guest5",
        "address add 10.2.0.5/32 dev eth0",
        "route add 10.2.0.1 dev eth0",
        "route add default via 10.2.0.1",
        mac="02:00:00:00:00:05",
        vnet_hdr=vnet_hdr,
    )
    lab.host.sysctl("net.ipv4.ip_forward", 1)
    lab.serve("guest5", "tcp:80 udp:80 sctp:80")
    for protocol in ("tcp", "udp", "sctp"):
        assert lab.reaches("host", f"{protocol} 10.2.0.5:80 from 10.2.0.1")[0] == "guest5"
        assert lab.reaches("attacker", f"{protocol} 10.2.0.5:80") == ("guest5", "192.0.2.30")
    assert lab.host.kernel.links()["vm0"].details == before
    lab.net.unplug()
    assert "vm0" in lab.host.kernel.links()


def test_opening_an_absent_tap_makes_it_for_a_while(lab: Lab) -> None:
    """What a hypervisor does that makes its TAP itself: the interface lives as long as its descriptor."""
    descriptor = lab.host.call(open_tap, "vm-x")
    assert "vm-x" in lab.host.kernel.links()
    os.close(descriptor)
    assert "vm-x" not in lab.host.kernel.links()


def test_a_kept_connection_tells_whether_it_lives(lab: Lab) -> None:
    """A conversation answers while its path is open, and is silent when it is cut."""
    lab.serve("host", "tcp:80")
    conversation = lab.converse("outsider", "tcp 192.0.2.2:80")
    assert lab.still(conversation).server == "host"
    lab.host.nft("table inet t { chain c { type filter hook input priority 0; tcp dport 80 drop; }; }")
    assert lab.still(conversation, DOUBT).outcome == "silent"
    conversation.close()


def test_the_hammer_counts_servers_and_failures(lab: Lab) -> None:
    """A gap in service is seen, an atomic change is not a gap."""
    bridge_a(lab)
    chain = "add table ip t; add chain ip t c { type nat hook prerouting priority dstnat; }; flush chain ip t c;"
    rule = "add rule ip t c iifname eth0 tcp dport 8080 dnat to"
    lab.host.nft(f"{chain} {rule} 10.0.0.11:80")
    lab.serve("guest1", "tcp:80")
    lab.serve("guest2", "tcp:80")
    with lab.hammer("outsider", "tcp 192.0.2.2:8080") as hammer:
        lab.host.nft(f"flush chain ip t c; {rule} 10.0.0.12:80")
    assert not hammer.failures
    assert set(hammer.servers) == {"guest1", "guest2"}
    with lab.hammer("outsider", "tcp 192.0.2.2:8080") as hammer:
        lab.host.nft("flush chain ip t c")
    assert hammer.failures


def test_the_hammer_sees_a_lost_packet(lab: Lab) -> None:
    """A connection that TCP saves by a second SYN counts as a failure, however fast the machine is."""
    lab.serve("host", "tcp:80")
    lab.host.nft(
        "add table ip t; add chain ip t c { type filter hook input priority 0; };"
        "add rule ip t c tcp dport 80 tcp flags & (syn | ack) == syn numgen inc mod 5 == 0 drop"
    )
    with lab.hammer("outsider", "tcp 192.0.2.2:80", clients=1) as hammer:  # of two, one may lose its second SYN as well
        pass
    assert hammer.servers["host"]
    assert {(verdict.outcome, verdict.resent > 0) for verdict in hammer.failures} == {("reached", True)}


def test_many_probes_at_once(lab: Lab) -> None:
    """A hundred probes from several namespaces are answered together."""
    lab.serve("host", "tcp:80 udp:80")
    questions = [(f, f"{p} 192.0.2.2:80") for f in ("outsider", "peer") for p in ("tcp", "udp") for _ in range(25)]
    assert {verdict.server for verdict in lab.probes(questions)} == {"host"}


def test_bridge_netfilter_is_a_namespaces_own(lab: Lab) -> None:
    """The sysctl that decides about hairpins is per namespace: bridged frames meet a drop only where it is 1."""
    bridge_a(lab)
    lab.host.nft("table inet t { chain c { type filter hook forward priority 0; policy drop; }; }")
    lab.serve("guest1", "tcp:80")
    for switch, blocked in ((1, True), (0, False)):
        lab.host.sysctl("net.bridge.bridge-nf-call-iptables", switch)
        assert lab.blocked("guest2", "tcp 10.0.0.11:80") is blocked


def test_a_second_uplink(lab: Lab) -> None:
    """eth1 has a segment and a neighbour of its own."""
    lab.net.second_uplink()
    lab.serve("host", "tcp:80")
    assert lab.reaches("outsider2", "tcp 203.0.113.2:80") == ("host", "203.0.113.20")
    assert lab.reaches("outsider2", "tcp [2001:db8:2::2]:80") == ("host", "2001:db8:2::20")


def test_a_touched_host_is_made_anew_and_an_untouched_one_is_not(lab: Lab) -> None:
    """`fresh_host` keeps what is pristine, replaces what is not."""
    host = lab.host
    assert lab.fresh_host() is host
    bridge_a(lab)
    assert not lab.net.is_pristine()
    assert lab.fresh_host() is not host
    assert lab.net.is_pristine()
    bridge_a(lab)
    lab.serve("guest1", "tcp:80")
    assert lab.reaches("host", "tcp 10.0.0.11:80")[0] == "guest1"


def test_each_guest_is_wired(lab: Lab) -> None:
    """Every guest's veth carries its traffic once it is on a bridge."""
    for role, (link, net) in GUESTS.items():
        lab.host.ip(f"link set {link} master br{net}" if f"br{net}" in lab.host.kernel.links() else "netconf show")
        if f"br{net}" not in lab.host.kernel.links():
            lab.host.ip(
                f"link add br{net} type bridge forward_delay 0",
                f"link set br{net} up",
                f"address add 10.{net}.0.1/24 dev br{net}",
                f"link set {link} master br{net}",
            )
        assert lab.reaches("host", f"icmp 10.{net}.0.1{role[-1]}") == ("", "")


def test_what_a_killed_run_leaves_is_swept() -> None:
    """A run that is killed can't clean up; the next run's sweep does, and touches nothing of the living."""
    program = "from tests.lab.namespaces import Namespace as N; print(N('left').name, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout
        name = run.stdout.readline().strip()
        sweep()
        assert (RUN_NETNS / name).exists()
        run.kill()
        run.wait()
    sweep()
    assert not (RUN_NETNS / name).exists()


def test_a_fork_in_a_namespace_leaves_grpc_where_it_was(lab: Lab) -> None:
    """Its threads start again after a fork, from the thread that forked: in that thread's namespace."""
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        for _ in range(2):
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                grpc.channel_ready_future(channel).result(PATIENCE)
            lab.host.call(_fork)
    finally:
        server.stop(None)


def _fork() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def test_crc32c_is_castagnolis() -> None:
    """RFC 3720, B.4: 32 bytes of zeros."""
    assert crc32c(bytes(32)) == 0x8A9136AA
    packet = Packet(1, 2, Chunk.INIT_ACK, 3, 4, b"words")
    assert Packet.decode(packet.encode()) == packet
    assert Packet.decode(packet.encode()[:-1] + b"!") is None
