"""Equality in meaning is no difference; and each property that replaces does so in an order that works."""

# ruff: noqa: FBT003 (`say` takes the value before and the value after, whatever they are)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pulumi
import pulumi_hostnet as hostnet

from tests.e2e.stacks import Host, Program, Stack

# Of two values, the one before or the one after.
Say = Callable[[Any, Any], Any]


def saying(*, second: bool) -> Say:
    """Takes the first of each two values, or the second."""
    return lambda one, two: two if second else one


def spelled_links(say: Say, connection: hostnet.ConnectionArgs) -> None:
    """Bridges and TAPs, each spelled in one of two ways."""
    bridge = hostnet.Bridge(
        "net",
        name="net",
        addresses=say(["10.0.0.1/24", "fd12::1/64"], ["10.0.0.1/24", "FD12:0:0::0001/64"]),
        mac_address=say("06:00:00:00:00:0a", "06:00:00:00:00:0A"),
        stp=say(None, False),
        vlan_filtering=say(None, False),
        port_isolation=say(False, None),
        open_firewall=say(None, True),
        adopt=say(None, False),
        connection=connection,
    )
    hostnet.Bridge("other", name="other", addresses=["10.1.0.1/24"], connection=connection)
    hostnet.TapBinding(
        "web",
        name="web",
        bridge=bridge.name,
        vnet_hdr=say(None, True),
        isolated=say(None, False),
        addresses=say(None, []),
        guest=hostnet.GuestArgs(
            mac_address=say("02:00:00:00:00:0b", "02:00:00:00:00:0B"),
            addresses=say(["10.0.0.5", "fd12::5"], ["10.0.0.5/24", "fd12:0::5/64"]),
        ),
        connection=connection,
    )
    hostnet.TapBinding(
        "routed",
        name="routed",
        addresses=say(["10.9.0.0/32", "fd99::/128"], ["10.9.0.0/32", "fd99:0::0/128"]),
        routes=say(["10.9.0.5/32", "10.9.0.6/32"], ["10.9.0.6/32", "10.9.0.5/32"]),
        connection=connection,
    )


def spelled_gateway(say: Say, connection: hostnet.ConnectionArgs) -> None:
    """A gateway and its forwards, each spelled in one of two ways."""
    nat = hostnet.NatGateway(
        "nat",
        internal_interfaces=say(["net", "other"], ["other", "net"]),
        internal_ips=say(["10.5.0.0/16", "10.6.0.0/16"], ["10.6.0.0/16", "10.5.0.0/16"]),
        enable_ipv6=say(None, False),
        dmz_except_ports=say(None, [22]),
        firewall=say(None, "auto"),
        forward_ports=say(
            [
                hostnet.ForwardPortArgs(source_port=1001, destination="10.0.0.5"),
                hostnet.ForwardPortArgs(source_port=1002, destination="10.0.0.5"),
            ],
            [
                hostnet.ForwardPortArgs(source_port="1002", destination="10.0.0.5:1002", protocol="tcp"),
                hostnet.ForwardPortArgs(source_port="1001", destination="10.0.0.5", loopback=True),
            ],
        ),
        connection=connection,
    )
    hostnet.PortForward(
        "http",
        nat_gateway=nat.id,
        source_port=say(80, "80"),
        destination=say("10.0.0.5", "10.0.0.5:80"),
        protocol=say(None, "tcp"),
        loopback=say(None, True),
        source_cidrs=say(["192.0.2.0/24", "198.51.100.0/24"], ["198.51.100.0/24", "192.0.2.0/24"]),
        connection=connection,
    )
    hostnet.PortForward(
        "range",
        nat_gateway=nat.id,
        source_port="8000:8002",
        destination=say("[fd12::5]:9000-9002", "[FD12:0:0::5]:9000-9002"),
        listen_addresses=say(["2001:db8::2"], ["2001:0db8:0:0::2"]),
        connection=connection,
    )


def test_another_spelling_is_no_difference(stack: Stack, host: Host) -> None:
    """Spelling of addresses and MACs, order without meaning, int or string ports, defaults given or absent."""

    def program(*, other: bool) -> Program:
        def declare() -> None:
            connection = hostnet.ConnectionArgs(netns=host.name)
            spelled_links(saying(second=other), connection)
            spelled_gateway(saying(second=other), connection)

        return declare

    stack.up(program(other=False))
    whole = host.snapshot()
    planned = stack.preview(program(other=True), "--diff")
    assert planned.diffs == {}
    assert planned.changes == {}
    assert stack.refresh().changes == {}
    assert stack.up(program(other=True), "--expect-no-changes").changes == {}
    assert stack.refresh().changes == {}
    assert host.snapshot() == whole
    assert stack.preview(program(other=False)).changes == {}


def replaced_links(say: Say, connection: hostnet.ConnectionArgs) -> tuple[hostnet.Bridge, hostnet.Bridge]:
    """Bridges and TAPs, each with another property that replaces."""
    net = hostnet.Bridge("net", name=say("net", "net2"), addresses=["10.0.0.1/24"], connection=connection)
    same = hostnet.Bridge("same", name="same", addresses=["10.1.0.1/24"], connection=connection)
    hostnet.TapBinding("queues", name="queues", multi_queue=say(None, True), connection=connection)
    hostnet.TapBinding("header", name="header", vnet_hdr=say(None, False), connection=connection)
    hostnet.TapBinding("named", name=say("named", "named2"), bridge=net.name, guest={}, connection=connection)
    glob = say({"name": "single"}, {"match": "vm-*"})
    hostnet.TapBinding("either", bridge=same.name, connection=connection, **glob)
    hostnet.TapBinding("back", bridge=same.name, connection=connection, **say({"match": "vx-*"}, {"name": "single2"}))
    return net, same


def replaced_forwards(
    say: Say, connection: hostnet.ConnectionArgs, first: hostnet.NatGateway, second: hostnet.NatGateway
) -> None:
    """Forwards, each with another property that replaces."""
    for name, key in (
        ("port", {"source_port": say(81, 91)}),
        ("span", {"source_port": say("2000:2002", "2001:2003"), "destination": "10.0.0.9:3000-3002"}),
        ("protocol", {"source_port": 82, "protocol": say("tcp", "tcp+udp")}),
        ("listen", {"source_port": 83, "listen_addresses": say(None, ["192.0.2.2"])}),
        ("family", {"source_port": 84, "destination": say("10.0.0.9", "fd12::9")}),
        ("gateway", {"source_port": 85, "nat_gateway": say(first.id, second.id)}),
    ):
        arguments: dict[str, Any] = {"destination": "10.0.0.9", "nat_gateway": first.id, **key}
        hostnet.PortForward(name, connection=connection, **arguments)


def swapped_forwards(say: Say, connection: hostnet.ConnectionArgs, gateway: hostnet.NatGateway) -> None:
    """Two forwards: port 86 goes from one to the other.

    The engine does not know this, and runs the two in any order. A program that wants it done in one run says which of
    them has to give the port up first.
    """
    swaps = [("swap-a", say(86, 87)), ("swap-b", say(88, 86))]
    before: list[pulumi.Resource] = []
    for name, port in say(reversed(swaps), swaps):
        forward = hostnet.PortForward(
            name,
            destination="10.0.0.9",
            nat_gateway=gateway.id,
            source_port=port,
            connection=connection,
            opts=pulumi.ResourceOptions(depends_on=before),
        )
        before = [forward]


def assert_replaced(host: Host) -> None:
    """What the host has after the replacement."""
    assert host.links.keys() >= {"net2", "same", "queues", "header", "named2", "single2", "vm-1", "vm-2"}
    assert not host.links.keys() & {"net", "named", "single"}
    assert host.links["queues"].details["multi_queue"]
    assert not host.links["header"].details["vnet_hdr"]
    assert host.links["named2"].master == "net2"
    assert {host.links[name].master for name in ("vm-1", "vm-2", "single2")} == {"same"}
    assert set(host.forwards()) >= {82, 85, 86, 87, 91}
    assert not set(host.forwards()) & {81, 84, 88}


def test_each_replacing_property_replaces_in_an_order_that_works(stack: Stack, host: Host) -> None:
    """All at once: where old and new could clash on the host the old goes first, and what hangs on it follows."""
    host.ip("link add vm-1 type veth peer name far-1", "link add vm-2 type veth peer name far-2")

    def program(*, after: bool) -> Program:
        def declare() -> None:
            say, connection = saying(second=after), hostnet.ConnectionArgs(netns=host.name)
            net, same = replaced_links(say, connection)
            first = hostnet.NatGateway("first", internal_interfaces=[net.name], connection=connection)
            second = hostnet.NatGateway("second", internal_interfaces=[same.name], connection=connection)
            replaced_forwards(say, connection, first, second)
            swapped_forwards(say, connection, first)

        return declare

    stack.up(program(after=False))
    replaced = stack.up(program(after=True))
    unmoved = {"same", "first", "second"}
    assert replaced.changes == {name: "replace" for name in stack.resources if name not in unmoved} | {
        "first": "update"
    }
    assert replaced.diff("queues") == {"multiQueue": "add-replace"}
    order = [step.op for step in replaced.steps if step.name == "queues"]
    assert order.index("delete-replaced") < order.index("create-replacement"), "one name, one TAP"
    assert_replaced(host)
    assert stack.preview(program(after=True), "--refresh").changes == {}

    stack.up(program(after=False))
    assert not host.links.keys() & {"net2", "named2", "single2"}
    assert set(host.forwards()) >= {81, 82, 84, 85, 86, 88}
    assert stack.preview(program(after=False), "--refresh").changes == {}
    stack.destroy()
    assert host.left == []
