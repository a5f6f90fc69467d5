"""Uplinks and public addresses as people have them: tests/cases/uplinks.

Addresses: see tests/lab/topology.py; the cases' format: tests/lab/cases.py.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Self

import pytest

from tests.lab.cases import Case, Runner, load
from tests.lab.datagrams import Wire, empty, unreachable
from tests.lab.driver import Provider, Stack
from tests.lab.lab import Lab
from tests.lab.waiting import until


@pytest.mark.parametrize("case", load("uplinks"), ids=lambda case: case.name)
def test_case(lab: Lab, stack: Stack, case: Case) -> None:
    """Every probe ends as the case says, and a destroy leaves the host as it was."""
    Runner(lab, stack, case).run()


def test_replies_by_the_same_uplink_come_back_at_boot(lab: Lab) -> None:
    """Nothing of it is left in the kernel, an uplink is not there yet, and other numbers are taken: `restore`."""
    second_default_route(lab)
    lab.serve("guest1", "tcp:80")
    provider = Provider()
    try:
        stack = Stack(provider, netns=lab.host.name)
        up(stack)
        stack.up({**stack.program, "web": ("PortForward", {**WEB, "natGateway": "${nat.id}"})})
        reached = "tcp 203.0.113.2:8080 from 198.51.100.77"
        assert lab.reaches("outsider2", reached) == ("guest1", "198.51.100.77")
        lab.host.nft("flush ruleset")
        for family in ("-4", "-6"):
            lab.host.run(f"ip {family} rule delete fwmark 0x1000000/0x3f000000")
            lab.host.run(f"ip {family} route flush table 7100")
        lab.host.run("ip rule add pref 100 to 198.51.100.9 table 7100")
        assert lab.blocked("outsider2", reached)
        provider.run(_restore(provider, lab.host.name))
        assert lab.reaches("outsider2", reached) == ("guest1", "198.51.100.77")
        assert stack.refresh() == {}
        lab.host.run("ip rule delete pref 100")
        stack.destroy()
        assert {rule.priority for rule in lab.host.kernel.rules()} == {0, 32766, 32767}
    finally:
        provider.close()


# Of other programs at the priority `mangle`; both write a connection's mark as a whole.
MARKING = {
    "new": "ct state new ct mark set 0x1234",  # each packet until the first reply: a repeated SYN, too
    "all": "ct mark set meta mark",  # as `iptables -t mangle -A POSTROUTING -j CONNMARK --save-mark`
}
# The guest loses the first packet of each connection, as where its neighbour is not known yet.
LOSSY = """table ip lossy {
  chain prerouting {
    type filter hook prerouting priority 0;
    tcp dport 80 tcp flags & (syn | ack) == syn numgen inc mod 2 0 drop
    udp dport 80 numgen inc mod 2 0 drop
  }
}"""


@pytest.mark.parametrize("marking", MARKING.values(), ids=MARKING)
def test_replies_where_another_program_writes_the_whole_mark(lab: Lab, stack: Stack, marking: str) -> None:
    """Also for a connection whose first packet is lost: the uplink's mark is set again where it is gone."""
    second_default_route(lab)
    restore = "chain pre { type filter hook prerouting priority mangle; meta mark set ct mark; }"
    lab.host.nft(
        f"table ip theirs {{ {restore}; chain post {{ type filter hook postrouting priority mangle; {marking}; }}; }}"
    )
    lab.serve("guest1", "tcp:80 udp:80")
    up(stack)
    stack.up({**stack.program, "web": ("PortForward", {**WEB, "protocol": "tcp+udp", "natGateway": "${nat.id}"})})
    lab["guest1"].nft(LOSSY)
    try:
        for protocol in ("tcp", "udp"):
            assert lab.reaches("outsider2", f"{protocol} 203.0.113.2:8080 from 198.51.100.77") == (
                "guest1",
                "198.51.100.77",
            )
        conversation = lab.converse("outsider2", "tcp 203.0.113.2:8080 from 198.51.100.77")
        assert [lab.still(conversation).outcome for _ in range(3)] == ["reached"] * 3
        lab.background.call(conversation.close)
    finally:
        lab["guest1"].nft("delete table ip lossy")
    assert stack.refresh() == {}
    stack.destroy()
    assert set(lab.host.kernel.tables()) == {"ip theirs"}


@pytest.mark.parametrize("what", ["error", "datagram"])
def test_what_comes_in_elsewhere_does_not_move_a_connection(lab: Lab, stack: Stack, what: str) -> None:
    """A neighbour on the first uplink reports an error of a connection of the second one, or sends as its client."""
    second_default_route(lab)
    lab.serve("guest1", "udp:80")
    up(stack)
    stack.up({**stack.program, "web": ("PortForward", {**WEB, "protocol": "udp", "natGateway": "${nat.id}"})})
    client, server = ("198.51.100.77", 7001), ("203.0.113.2", 8080)
    assert lab.reaches("outsider2", "udp 203.0.113.2:8080 from 198.51.100.77:7001") == ("guest1", client[0])
    guest, attacker = lab["guest1"], lab["attacker"]
    attacker.ip("route replace 203.0.113.2 via 192.0.2.2")
    counters = "icmp type 3 counter; udp dport 80 counter"
    guest.nft(f"table ip seen {{ chain pre {{ type filter hook prerouting priority 0; {counters}; }}; }}")
    connection, mark = "-p udp --orig-port-dst 8080 --orig-src 198.51.100.77", 0x02000000
    try:
        if what == "error":
            mark = 0  # another program took it away
            lab.host.run(f"conntrack -U {connection} --mark {mark}")
            protocol, packet = socket.IPPROTO_ICMP, unreachable(empty(server, client))
        else:
            protocol, packet = socket.IPPROTO_RAW, empty(client, server)
        with attacker.socket(socket.AF_INET, socket.SOCK_RAW, protocol) as raw:
            raw.sendto(packet, server)
        until(lambda: "packets 1 " in guest.run("nft list table ip seen"))
        assert f"mark={mark} " in lab.host.run(f"conntrack -L {connection}")
    finally:
        guest.nft("delete table ip seen")
        attacker.ip("route delete 203.0.113.2")


class Flow:
    """A UDP flow of guest1 from one port, in which each datagram has its number; and what arrives at both servers."""

    def __init__(self, lab: Lab, family: str) -> None:
        """Nothing is sent yet."""
        self.sent = 0
        self._target = ANYWHERE[family]
        six = socket.AF_INET6 if family == "v6" else socket.AF_INET
        self._socket = lab["guest1"].socket(six, socket.SOCK_DGRAM)
        lab["guest1"].call(self._socket.bind, ("", 7000))
        self.wires = {role: Wire(lab[role]) for role in ("outsider", "outsider2")}

    def __enter__(self) -> Self:
        """It is ready."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close all."""
        self._socket.close()
        for wire in self.wires.values():
            wire.close()

    def send(self) -> bytes:
        """Send the next datagram."""
        self.sent += 1
        text = b"%06d" % self.sent
        with suppress(OSError):  # an ICMP error that came back for an earlier one
            self._socket.sendto(text, (self._target, 9))
        return text

    def until_seen(self, role: str, source: str) -> None:
        """Send without a pause until a datagram with this source arrives at a server."""

        def arrives() -> bool:
            self.send()
            wire = self.wires[role]
            wire.read()
            return source in wire.seen.values()

        until(arrives)

    def sources(self, role: str) -> dict[int, str]:
        """By number, the source of each datagram that arrived there."""
        self.wires[role].read()
        return {int(text): source for text, source in self.wires[role].seen.items() if text.isdigit()}


def two_lines(lab: Lab, family: str, *, both: bool) -> str:
    """A server of one address is behind each uplink; gives the `ip` command that adds the second default route.

    Args:
        lab: The laboratory.
        family: v4 or v6.
        both: Whether the second one is there already, with a higher metric.
    """
    bits, first, second = {"v4": (32, "192.0.2.20", "203.0.113.20"), "v6": (128, "2001:db8::20", "2001:db8:2::20")}[
        family
    ]
    lab.net.second_uplink()
    for role in ("outsider", "outsider2"):
        lab[role].ip(f"address replace {ANYWHERE[family]}/{bits} dev lo")
    anywhere = "::/0" if family == "v6" else "default"
    lab.host.ip(f"route delete {anywhere}", f"route add {anywhere} via {first} dev eth0 metric 2000")
    add = f"route add {anywhere} via {second} dev eth1 metric {3000 if both else 1500}"
    if both:
        lab.host.ip(add)
    return add


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_a_failover_under_traffic(lab: Lab, stack: Stack, family: str) -> None:
    """The first line goes while a flow is on: one packet is lost, and none leaves with another line's or no address."""
    two_lines(lab, family, both=True)
    up(stack)
    assert stack["nat.externalInterfaces"] == ["eth0", "eth1"]
    one, other = SOURCES[family]["outsider"], SOURCES[family]["outsider2"]
    with Flow(lab, family) as flow:
        flow.until_seen("outsider", one)
        lab.host.ip(f"route delete {'::/0' if family == 'v6' else 'default'} dev eth0")
        moved = flow.sent
        flow.until_seen("outsider2", other)
        flow.wires["outsider2"].source_of(flow.send())
        arrived = {role: flow.sources(role) for role in flow.wires}
        assert set(arrived["outsider"].values()) == {one}
        assert set(arrived["outsider2"].values()) == {other}
        lost = set(range(moved + 1, flow.sent + 1)) - arrived["outsider2"].keys()
        assert lost == {moved + 1}
    lab.serve("outsider2", "tcp:80")
    assert lab.reaches("guest1", f"tcp {target(family)}:80 from :7000") == ("outsider2", other)
    stack.destroy()
    lab["outsider"].ip(f"address delete {ANYWHERE[family]}/{32 if family == 'v4' else 128} dev lo")


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_the_watcher_follows_a_line_that_takes_over(lab: Lab, stack: Stack, family: str) -> None:
    """While no Pulumi runs: a flow that goes on gets the new line's address, and the old one's when that line goes."""
    add = two_lines(lab, family, both=False)
    up(stack)
    assert stack["nat.externalInterfaces"] == ["eth0"]
    one, other = SOURCES[family]["outsider"], SOURCES[family]["outsider2"]
    with Flow(lab, family) as flow:
        flow.until_seen("outsider", one)
        lab.host.ip(add)
        moved = flow.sent
        flow.until_seen("outsider2", other)
        arrived = flow.sources("outsider2")
        late = [number for number, source in arrived.items() if source != other]
        first = min(number for number, source in arrived.items() if source == other)
        assert all(moved < number < first for number in late)
        assert stack.refresh() == {}
        assert set(stack["nat.externalInterfaces"]) == {"eth0", "eth1"}
        until(lambda: any(rule.table == 7100 for rule in lab.host.kernel.rules()))
        lab.host.ip(add.replace("add", "delete"))
        flow.wires["outsider"].seen.clear()
        flow.until_seen("outsider", one)
        assert set(flow.sources("outsider").values()) == {one}
    until(lambda: '"eth1"' not in lab.host.run("nft list set inet hostnet external_links"))
    assert stack.refresh() == {}
    assert stack["nat.externalInterfaces"] == ["eth0"]
    stack.destroy()
    lab["outsider"].ip(f"address delete {ANYWHERE[family]}/{32 if family == 'v4' else 128} dev lo")


def test_the_watcher_closes_a_bridge_that_begins_to_lead_out(lab: Lab, stack: Stack) -> None:
    """While no Pulumi runs: another program's bridge gets a port that may lead anywhere, and loses it again."""
    lab.net.second_uplink()
    lab.host.ip(
        "link add link eth1 name up1 type macvlan mode passthru",
        "link set up1 up",
        "link add br-f type bridge forward_delay 0",
        "link set br-f up",
        "link set b-3 master br-f",
        "address add 10.1.0.1/24 dev br-f",
    )
    lab.serve("guest1", "tcp:80")
    up(stack)
    stack.up({**stack.program, "web": ("PortForward", {**WEB, "natGateway": "${nat.id}"})})
    assert lab.reaches("guest3", "tcp 192.0.2.2:8080") == ("guest1", "10.1.0.13")
    outer = "nft list set inet hostnet outer_links"
    lab.host.ip("link set up1 master br-f")
    until(lambda: '"br-f"' in lab.host.run(outer))
    assert lab.blocked("guest3", "tcp 192.0.2.2:8080")
    assert lab.reaches("guest2", "tcp 192.0.2.2:8080") == ("guest1", "10.0.0.1")
    assert stack.refresh() == {}
    lab.host.ip("link set up1 nomaster")
    until(lambda: '"br-f"' not in lab.host.run(outer))
    assert lab.reaches("guest3", "tcp 192.0.2.2:8080") == ("guest1", "10.1.0.13")
    assert stack.refresh() == {}
    stack.destroy()


async def _restore(provider: Provider, netns: str) -> None:
    host: Any = await provider.host({"connection": {"netns": netns}})
    await host.restore()


WEB = {"sourcePort": 8080, "destination": "10.0.0.11:80"}
ANYWHERE = {"v4": "198.51.100.77", "v6": "2001:db8:77::1"}
NEXT_HOPS = {
    "v4": "route replace default nexthop via 192.0.2.20 dev eth0 nexthop via 203.0.113.20 dev eth1",
    "v6": "route replace ::/0 nexthop via 2001:db8::20 dev eth0 nexthop via 2001:db8:2::20 dev eth1",
}
SOURCES = {"v4": {"outsider": "192.0.2.2", "outsider2": "203.0.113.2"}}
SOURCES["v6"] = {"outsider": "2001:db8::2", "outsider2": "2001:db8:2::2"}


@pytest.fixture(params=["v4", "v6"])
def anywhere(request: pytest.FixtureRequest, lab: Lab) -> Iterator[str]:
    """A family; a server of its address in ANYWHERE is behind each of the host's two uplinks."""
    family, bits = request.param, {"v4": 32, "v6": 128}[request.param]
    lab.net.second_uplink()
    for role in ("outsider", "outsider2"):
        lab[role].ip(f"address replace {ANYWHERE[family]}/{bits} dev lo")
    if family == "v6":  # where IPv6's default route is replaced the former one stays beside it
        lab.host.ip("route delete ::/0")
    lab.host.ip(NEXT_HOPS[family])
    lab.host.sysctl(
        f"net.{'ipv4' if family == 'v4' else 'ipv6'}.fib_multipath_hash_policy", 1
    )  # by ports, not by addresses alone
    yield family
    lab["outsider"].ip(f"address delete {ANYWHERE[family]}/{bits} dev lo")


def second_default_route(lab: Lab) -> None:
    """A second uplink with a worse default route, and behind it a client to whom the better one does not lead."""
    lab.net.second_uplink()
    lab["outsider2"].ip("address replace 198.51.100.77/32 dev lo")
    lab.host.ip("route add default via 203.0.113.20 dev eth1 metric 500")


def up(stack: Stack, **gateway: object) -> None:
    """A bridge with guests behind a gateway."""
    stack.up(
        {
            "net": ("Bridge", {"name": "br-a", "addresses": ["10.0.0.1/24", "fd12::1/64"]}),
            "vms": ("TapBinding", {"match": "a-*", "bridge": "${net.name}"}),
            "nat": ("NatGateway", {"internalInterfaces": ["br-a"], "enableIpv6": True, **gateway}),
        }
    )


def target(family: str) -> str:
    """The server that is behind each uplink."""
    return ANYWHERE["v4"] if family == "v4" else f"[{ANYWHERE['v6']}]"


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_each_flow_has_the_address_of_its_next_hop(lab: Lab, stack: Stack, anywhere: str, protocol: str) -> None:
    """Issue 15: with an ECMP default route 11 of 16 flows left untranslated by the other uplink."""
    up(stack)
    assert stack["nat.externalInterfaces"] == ["eth0", "eth1"]
    for role in ("outsider", "outsider2"):
        lab.serve(role, f"{protocol}:80")
    asked = [lab.begin("guest1", f"{protocol} {target(anywhere)}:80 from :{port}") for port in range(7000, 7032)]
    verdicts = [each.result() for each in asked]
    assert {verdict.server for verdict in verdicts} == {"outsider", "outsider2"}
    for verdict in verdicts:
        assert verdict.source == SOURCES[anywhere][verdict.server]
    stack.destroy()


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_moved_default_route_takes_new_flows_along(lab: Lab, stack: Stack, anywhere: str, protocol: str) -> None:
    """The gateway leads out by both while only one has the route: nothing is to be done when it moves, and back."""
    up(stack, externalInterfaces=["eth0", "eth1"])
    for role in ("outsider", "outsider2"):
        lab.serve(role, f"{protocol}:80")
    hops = NEXT_HOPS[anywhere].split(" nexthop ")
    for hop, role in ((hops[1], "outsider"), (hops[2], "outsider2"), (hops[1], "outsider")):
        if anywhere == "v6":
            lab.host.ip("route delete ::/0")
        lab.host.ip(f"{hops[0]} {hop}")
        # The same ports as before: what conntrack knows of the flow names the other uplink's address.
        verdict = lab.probe("guest1", f"{protocol} {target(anywhere)}:80 from :7000")
        assert (verdict.server, verdict.source) == (role, SOURCES[anywhere][role])
    assert stack.refresh() == {}
    stack.destroy()
