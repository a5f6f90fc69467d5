"""Drift of every kind: shown in the right property by `refresh` and `preview --refresh`, repaired by the next `up`.

Each test breaks many things at once, each at another resource: what is shown and repaired has to be exactly those.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping

import pulumi_hostnet as hostnet

from tests.e2e.stacks import Host, Program, Stack

# Gives a persistent TAP to another user, which `ip tuntap` can not.
# TUNSETIFF with IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, TUNSETOWNER.
GIVE_AWAY = """
import fcntl, os, struct, sys
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH14x", sys.argv[1].encode(), 0x5002))
fcntl.ioctl(tun, 0x400454CC, int(sys.argv[2]))
"""

Diffs = Mapping[str, set[str]]


def tops(diffs: Mapping[str, Mapping[str, str]]) -> dict[str, set[str]]:
    """The properties in which each resource differs, without indexes: which of a list's items moved does not matter."""
    return {name: {path.partition("[")[0] for path in diff} for name, diff in diffs.items()}


def drifts(stack: Stack, host: Host, program: Program, breakage: list[str], shown: Diffs, gone: set[str]) -> None:
    """Break things, and hold that exactly this is shown and repaired.

    Args:
        stack: Where the program runs.
        host: Its host.
        program: Declares the resources.
        breakage: Command lines, run on the host.
        shown: By resource, the properties in which it must differ.
        gone: The resources that must be shown as gone.
    """
    whole = host.snapshot()
    for command in breakage:
        host.run(command)
    assert host.snapshot() != whole
    changed = {name for name in shown if shown[name]}

    broken = host.snapshot()
    planned = stack.preview(program, "--refresh")
    assert tops(planned.diffs) == shown, "preview --refresh"
    assert planned.changes == dict.fromkeys(changed, "update") | dict.fromkeys(gone, "create")
    assert host.snapshot() == broken, "a preview changes nothing"

    refreshed = stack.refresh()
    assert tops(refreshed.diffs) == shown, "refresh"
    assert refreshed.changes == dict.fromkeys(changed, "update") | dict.fromkeys(gone, "delete")
    assert host.snapshot() == broken, "a refresh changes nothing"

    repaired = stack.up(program)
    assert tops(repaired.diffs) == shown, "up"
    assert repaired.changes == dict.fromkeys(changed, "update") | dict.fromkeys(gone, "create")
    now = host.snapshot()
    for aspect in whole:
        assert now[aspect] == whole[aspect], aspect


def links(host: Host) -> Program:
    """Bridges and TAPs, each named after the property that a test changes."""

    def program() -> None:
        connection = hostnet.ConnectionArgs(netns=host.name)
        for index, name in enumerate(("lost", "extra", "mac", "mtu", "stp", "same")):
            bridge = hostnet.Bridge(
                name,
                name=f"br-{name}",
                addresses=[f"10.{index}.0.1/24", f"fd12:{index}::1/64"],
                mac_address="06:00:00:00:00:01" if name == "mac" else None,
                mtu=1400 if name == "mtu" else None,
                connection=connection,
            )
        for name in ("apart", "isolated", "size", "owner"):
            hostnet.TapBinding(
                name,
                name=f"t-{name}",
                bridge=bridge.name,
                mtu=1400,
                owner="1000",
                connection=connection,
            )
        for name in ("away", "routed"):
            hostnet.TapBinding(
                name,
                name=f"t-{name}",
                addresses=["10.255.0.1/32"] if name == "away" else ["10.255.0.2/32"],
                routes=["10.200.0.1/32"] if name == "away" else ["10.200.0.2/32"],
                connection=connection,
            )

    return program


def test_links_that_were_changed(stack: Stack, host: Host) -> None:
    """Addresses, MAC, MTU, STP, isolation, attachment, owner, routes: each is the drift of its own property."""
    host.ip("link add foreign type veth peer name foreign2")
    program = links(host)
    stack.up(program)
    drifts(
        stack,
        host,
        program,
        [
            "ip address del 10.0.0.1/24 dev br-lost",
            "ip address add 10.99.0.1/24 dev br-extra",
            "ip link set br-mac address 06:00:00:00:00:99",
            "ip link set br-mtu mtu 1300",
            "ip link set br-stp type bridge stp_state 1",
            "ip link set t-apart nomaster",
            "ip link set t-isolated type bridge_slave isolated on",
            "ip link set t-size mtu 1280",
            shlex.join([sys.executable, "-c", GIVE_AWAY, "t-owner", "2000"]),
            "ip address del 10.255.0.1/32 dev t-away",
            "ip route del 10.200.0.2/32 dev t-routed",
        ],
        {
            "lost": {"addresses"},
            "extra": {"addresses"},
            "mac": {"macAddress"},
            "mtu": {"mtu"},
            "stp": {"stp"},
            "apart": {"bridge"},
            "isolated": {"isolated"},
            "size": {"mtu"},
            "owner": {"owner"},
            "away": {"addresses", "routes"},  # with the last IPv4 address the kernel drops the IPv4 routes
            "routed": {"routes"},
        },
        set(),
    )


def test_links_that_are_gone(stack: Stack, host: Host) -> None:
    """A link that is gone, renamed, or of another kind now, is gone; what others attached to a bridge stays there."""
    host.ip("link add foreign type veth peer name foreign2")

    def program() -> None:
        connection = hostnet.ConnectionArgs(netns=host.name)
        for index, name in enumerate(("gone", "named", "kind", "same")):
            hostnet.Bridge(name, name=f"br-{name}", addresses=[f"10.{index}.0.1/24"], connection=connection)
        for name in ("tap-gone", "tap-named", "tap-kind", "tap-same"):
            hostnet.TapBinding(name, name=name, connection=connection)

    stack.up(program)
    host.ip("link set foreign master br-same")
    whole = host.snapshot()
    host.ip(
        "link del br-gone",
        "link set br-named down",
        "link set br-named name elsewhere",
        "link del tap-gone",
        "link set tap-named down",
        "link set tap-named name elsewhere2",
    )
    refreshed = stack.refresh()
    gone = {"gone", "named", "tap-gone", "tap-named"}
    assert refreshed.changes == dict.fromkeys(gone, "delete")
    refused = stack.up(program, "--continue-on-error", fails=True)
    assert "it overlaps 10.1.0.1/24 of elsewhere, which is not managed by hostnet" in refused.errors
    host.ip("address del 10.1.0.1/24 dev elsewhere")
    assert stack.up(program).changes == {"named": "create"}
    now = host.snapshot()
    for name, link in whole["links"].items():
        new = {"mac": now["links"][name]["mac"]} if name.startswith("tap") and name in gone else {}
        assert now["links"][name] == link | new
    assert host.links["foreign"].master == "br-same"

    host.ip(
        "link del br-kind",
        "link add br-kind type veth peer name x1",
        "link del tap-kind",
        "link add tap-kind type veth peer name x2",
    )
    assert stack.refresh().changes == {"kind": "delete", "tap-kind": "delete"}
    refused = stack.up(program, "--continue-on-error", fails=True)
    assert "br-kind" in refused.errors
    assert "tap-kind" in refused.errors
    assert host.links["br-kind"].kind == "veth", "what is not ours is left alone"
    host.ip("link del br-kind", "link del tap-kind")
    assert stack.up(program).changes == {"kind": "create", "tap-kind": "create"}


def gateways(host: Host) -> Program:
    """Two networks behind a gateway each, forwards of either form, and switches that a person may turn."""

    def program() -> None:
        connection = hostnet.ConnectionArgs(netns=host.name)
        for name in ("a", "b", "c"):
            index = ord(name) - ord("a")
            hostnet.Bridge(
                f"net-{name}",
                name=f"br-{name}",
                addresses=[f"10.{index}.0.1/24", f"fd12:{index}::1/64"],
                connection=connection,
            )
        inline = [
            hostnet.ForwardPortArgs(source_port=7000 + number, destination=f"10.1.0.{number}") for number in range(2, 6)
        ]
        first = hostnet.NatGateway("first", internal_interfaces=["br-a"], enable_ipv6=True, connection=connection)
        hostnet.NatGateway("second", internal_interfaces=["br-b"], forward_ports=inline, connection=connection)
        for name, port, destination in (
            ("gone", 8001, "10.0.0.2:80"),
            ("moved", 8002, "10.0.0.2:80"),
            ("same", 8003, "10.0.0.2:80"),
            ("gone6", 8001, "[fd12::2]:80"),
        ):
            hostnet.PortForward(
                name, nat_gateway=first.id, source_port=port, destination=destination, connection=connection
            )

    return program


def element(port: int, value: str = "", interface: str = "eth0") -> str:
    """An element of a map of forwards, in nft's words."""
    return f'"{interface}" . {inner_element(port, value)}'


def inner_element(port: int, value: str = "") -> str:
    """The same of a map for what comes from within."""
    return f"tcp . {port}" + (f" : {value}" if value else "")


def test_elements_that_were_changed(stack: Stack, host: Host) -> None:
    """An element that is gone is a forward that is gone, a changed one is another destination."""
    program = gateways(host)
    stack.up(program)
    whole = host.snapshot()
    moves = []
    for name, made in (("dnat_port", element), ("inner_port", inner_element)):
        moves += [
            f"delete element inet hostnet {name}4 {{ {made(8001)} }}",
            f"delete element inet hostnet {name}4 {{ {made(8002)} }}",
            f"add element inet hostnet {name}4 {{ {made(8002, '10.0.0.99 . 99')} }}",
            f"delete element inet hostnet {name}6 {{ {made(8001)} }}",
            f"delete element inet hostnet {name}4 {{ {made(7003)} }}",
        ]
    host.nft("\n".join(moves))

    planned = stack.preview(program, "--refresh")
    refreshed = stack.refresh()
    shown = {"moved": {"destination"}, "second": {"forwardPorts"}}
    for run in (planned, refreshed):
        assert {name: tops(run.diffs).get(name) for name in shown} == shown
    assert refreshed.changes == {"gone": "delete", "gone6": "delete", "moved": "update", "second": "update"}
    assert planned.changes == {"gone": "create", "gone6": "create", "moved": "update", "second": "update"}
    assert stack.resources["moved"]["outputs"]["destinationAddress"] == "10.0.0.99"

    repaired = stack.up(program)
    assert repaired.changes == planned.changes
    assert host.forwards() == {
        8001: "10.0.0.2:80",
        8002: "10.0.0.2:80",
        8003: "10.0.0.2:80",
        **{7000 + number: f"10.1.0.{number}:{7000 + number}" for number in range(2, 6)},
    }
    assert host.snapshot() == whole


def test_elements_that_are_foreign(stack: Stack, host: Host) -> None:
    """A door that somebody opened in a map of ours shows at the gateways of that side, and the next up closes it."""
    program = gateways(host)
    stack.up(program)
    whole = host.snapshot()
    foreign = element(9999, "10.0.0.66 . 66")
    host.nft(
        f"add element inet hostnet dnat_port4 {{ {foreign} }}\n"
        f"delete element inet hostnet dnat_port4 {{ {element(8001)} }}"
    )
    refreshed = stack.refresh()
    assert refreshed.changes == {"gone": "delete", "first": "update", "second": "update"}
    assert tops(refreshed.diffs) == {"first": {"forwardPorts"}, "second": {"forwardPorts"}}
    assert stack.up(program).changes == {"gone": "create", "first": "update", "second": "update"}
    assert host.snapshot() == whole


def test_a_gateway_that_was_changed(stack: Stack, host: Host) -> None:
    """A network that the gateway lost, a chain that is gone, switches that were turned: all are the gateway's drift."""
    program = gateways(host)
    stack.up(program)
    whole = host.snapshot()

    host.sysctl("net.ipv4.ip_forward", 0)
    host.sysctl("net.ipv6.conf.all.forwarding", 0)
    sysctls = stack.refresh()
    expected = {"first", "second", "gone", "moved", "same", "gone6"}
    assert sysctls.changes == dict.fromkeys(expected, "update")
    assert all(paths <= {"forwarding", "forwarding.ipv4", "forwarding.ipv6"} for paths in tops(sysctls.diffs).values())
    assert stack.resources["first"]["outputs"]["forwarding"] == {"ipv4": False, "ipv6": False}
    repaired = stack.up(program)
    assert repaired.changes == dict.fromkeys(expected, "update")
    assert host.snapshot() == whole

    host.nft("delete element inet hostnet internal_links { br-a }")
    host.nft("flush chain inet hostnet postrouting")
    lost = stack.refresh()
    assert tops(lost.diffs)["first"] >= {"internalInterfaces"}
    assert set(stack.up(program).changes) <= expected
    assert host.snapshot() == whole


def test_a_table_that_is_gone(stack: Stack, host: Host) -> None:
    """The whole table deleted, and with it what other programs may have: gateways differ, forwards are gone."""
    program = gateways(host)
    stack.up(program)
    drifts(
        stack,
        host,
        program,
        ["nft delete table inet hostnet"],
        {
            "first": {"internalInterfaces", "enableIpv6"},
            "second": {"internalInterfaces", "forwardPorts"},
        },
        {"gone", "moved", "same", "gone6"},
    )
