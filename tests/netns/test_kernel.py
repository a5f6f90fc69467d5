"""The observer of the kernel itself: it tells what `ip`, `tc` and `nft` have set, and nothing else."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.kernel import CLSACT_EGRESS, LOCAL, MAIN, Neighbour, Rule, bindings
from tests.lab.namespaces import Namespace, Namespaces
from tests.lab.waiting import until


@pytest.fixture
def host() -> Iterator[Namespace]:
    """An empty namespace with two ends of a wire."""
    namespaces = Namespaces()
    try:
        made = namespaces.add("seen")
        made.ip("link add v0 type veth peer name v1", "link set v0 up", "link set v1 up")
        yield made
    finally:
        namespaces.close()


def test_links(host: Namespace) -> None:
    """A bridge, a TAP in it with all its properties, and addresses."""
    host.ip(
        "link add br0 address 02:00:00:00:00:0b type bridge stp_state 1",
        "link set br0 up",
        "address add 10.0.0.1/24 dev br0",
        "address add fd12::1/64 dev br0 nodad",
        "tuntap add vm0 mode tap vnet_hdr multi_queue user 1234 group 4321",
        "tuntap add tun0 mode tun",
        "link set vm0 master br0",
        "link set vm0 type bridge_slave isolated on hairpin on",
        "link set br0 mtu 1400",
        "address add 10.9.0.1 peer 10.9.0.2/32 dev v0",
    )
    links = host.kernel.links()
    assert {name: link.kind for name, link in links.items()} == {
        "lo": "", "v0": "veth", "v1": "veth", "br0": "bridge", "vm0": "tap", "tun0": "tun",
    }  # fmt: skip
    bridge, tap = links["br0"], links["vm0"]
    assert (bridge.mtu, bridge.mac, bridge.stp) == (1400, "02:00:00:00:00:0b", True)
    assert (bridge.up, bridge.carrier) == (True, False)
    assert bridge.addresses == ("10.0.0.1/24", "fd12::1/64")
    assert (tap.master, tap.isolated, tap.hairpin, tap.up) == ("br0", True, True, False)
    assert (tap.owner, tap.group, tap.details["vnet_hdr"], tap.details["multi_queue"]) == (1234, 4321, 1, 1)
    assert links["v0"].addresses == ("10.9.0.1/32",), "its own, not the other end's"
    assert links["v0"].link_local[0].startswith("fe80::")
    assert links["v0"].carrier
    host.ip("link set vm0 type bridge_slave isolated off hairpin off", "link set br0 type bridge stp_state 0")
    again = host.kernel.links()
    assert (again["vm0"].isolated, again["vm0"].hairpin, again["br0"].stp) == (False, False, False)
    assert host.kernel.ports("br0") == {"vm0"}


def test_routes_and_rules(host: Namespace) -> None:
    """Of each table, with gateways, next hops, metrics and who made them."""
    host.ip(
        "address add 10.9.0.1/24 dev v0",
        "route add default nexthop via 10.9.0.2 dev v0 nexthop via 10.9.0.3 dev v0",
        "route add 10.7.0.5 dev v0 mtu 1400",
        "route add fd77::/64 dev v0",
        "route add 10.79.0.0/16 via 10.9.0.2 table 100 metric 7 proto static src 10.9.0.1",
        "route add unreachable 10.78.0.0/24",
        "rule add fwmark 0x7 table 100",
    )
    seen = host.kernel
    assert seen.static_routes() == {"v0": {"10.7.0.5/32", "fd77::/64"}, "": {"10.78.0.0/24"}}
    (default,) = [route for route in seen.routes() if route.destination == "default"]
    assert default.hops == (("10.9.0.2", "v0"), ("10.9.0.3", "v0"))
    (near,) = [route for route in seen.routes() if route.destination == "10.7.0.5/32"]
    assert near.limits == (("mtu", 1400),)
    (far,) = seen.routes(table=100)
    assert (far.gateway, far.metric, far.protocol, far.source) == ("10.9.0.2", 7, "static", "10.9.0.1")
    assert {route.table for route in seen.routes(table=None)} == {100, MAIN, LOCAL}
    assert "10.9.0.1/32" in {route.destination for route in seen.routes(table=LOCAL)}
    marked = [rule for rule in seen.rules() if rule.table == 100]
    assert marked == [Rule(32765, socket.AF_INET, 1, 100, (("fwmark", 7), ("fwmask", 0xFFFFFFFF)))]


def test_neighbours(host: Namespace) -> None:
    """Those of the links, and those that the host answers for."""
    host.ip(
        "neighbour add 10.9.0.2 lladdr 02:00:00:00:00:09 dev v0",
        "neighbour add proxy 10.5.0.5 dev v0",
        "neighbour add proxy fd55::5 dev v1",
    )
    permanent = [one for one in host.kernel.neighbours() if one.state == "permanent"]
    assert permanent == [Neighbour("10.9.0.2", "v0", "02:00:00:00:00:09", "permanent")]
    proxies = host.kernel.neighbours(proxies=True)
    assert [(one.address, one.device) for one in proxies] == [("10.5.0.5", "v0"), ("fd55::5", "v1")]


def test_queueing(host: Namespace) -> None:
    """A link's queueing discipline with its rate."""
    host.run("tc qdisc add dev v0 root tbf rate 8mbit burst 32kbit latency 400ms")
    (shaped,) = [qdisc for qdisc in host.kernel.qdiscs() if qdisc.device == "v0"]
    assert shaped.kind == "tbf"
    assert shaped.options.get_attr("TCA_TBF_PARMS")["rate"] == 1_000_000, "bytes a second"
    assert host.kernel.filters("v0", CLSACT_EGRESS) == []


def test_nftables(host: Namespace) -> None:
    """As objects and as text; what nft refuses is an error with its words."""
    assert (host.kernel.ruleset(), host.kernel.listing(), host.kernel.tables()) == ([], "", set())
    host.nft("""
        table inet hostnet {
            set ports { type inet_proto . inet_service; elements = { tcp . 80 }; }
            chain c { type filter hook input priority 0; tcp dport 80 counter accept; }
        }
        table ip hostnet { set ports { type inet_service; elements = { 81 }; }; }""")
    assert host.kernel.tables() == {"inet hostnet", "ip hostnet"}
    assert host.kernel.elements("ports") == [{"concat": [6, 80]}]
    assert host.kernel.elements("ports", "ip hostnet") == [81]
    assert "counter packets 0 bytes 0 accept" in host.kernel.listing()
    assert "counter accept" in host.kernel.listing(stateless=True)
    assert "ports" in host.kernel.listing("set inet hostnet ports")
    with pytest.raises(AssertionError, match="No such file or directory"):
        host.kernel.nft("delete table inet absent")


def test_it_keeps_nothing_open(host: Namespace) -> None:
    """A namespace goes when its name goes, though it was looked at: the other end of a wire goes with it."""
    other = Namespace("seen-too")
    host.ip(f"link add wire type veth peer name far netns {other.name}")
    other.nft("table inet t { }")
    assert "far" in other.kernel.links()
    assert other.kernel.tables() == {"inet t"}
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        other.kernel.links()
        other.kernel.ruleset()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    other.delete()
    until(lambda: "wire" not in host.kernel.links())


def test_the_bindings_are_the_systems() -> None:
    """They are found where Debian and Ubuntu have them, whichever Python runs the tests."""
    found = sys.modules[bindings().__module__].__file__
    assert found
    assert found.startswith("/usr/lib/python3/dist-packages/nftables/")
    assert "/usr/lib/python3/dist-packages" not in sys.path, "nothing else of the system's Python is let in"
