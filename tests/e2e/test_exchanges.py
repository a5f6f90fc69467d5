"""Resources of one stack that exchange what only one of them can have converge in one `up`, one by one or at once.

With `--parallel 1` the engine waits for the answer about the first before it says anything of the second.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pulumi_hostnet as hostnet
import pytest

from tests.e2e.stacks import Cli, Host, Program, Stack
from tests.lab.lab import Lab

PARALLEL = [(), ("--parallel", "1")]


def net(connection: hostnet.ConnectionArgs) -> hostnet.Bridge:
    """The guests' bridge."""
    return hostnet.Bridge("net", name="net", addresses=["10.0.0.1/24"], connection=connection)


def ports(connection: hostnet.ConnectionArgs, *, moved: bool) -> None:
    """Two forwards swap their ports, and three take each other's in turn."""
    own = {"one": 81, "two": 82, "a": 91, "b": 92, "c": 93}
    later = {"one": 82, "two": 81, "a": 92, "b": 93, "c": 91}
    for number, (name, port) in enumerate((later if moved else own).items()):
        hostnet.PortForward(name, source_port=port, destination=f"10.0.0.{number + 10}:80", connection=connection)


def guests(connection: hostnet.ConnectionArgs, *, moved: bool) -> None:
    """Two guests swap their addresses, two their MAC addresses, and three take each other's addresses in turn."""
    bridge = net(connection)
    taps = {"one": (11, 1), "two": (12, 2), "mac1": (21, 3), "mac2": (22, 4), "a": (31, 5), "b": (32, 6), "c": (33, 7)}
    if moved:
        taps |= {"one": (12, 1), "two": (11, 2), "mac1": (21, 4), "mac2": (22, 3)}
        taps |= {"a": (32, 5), "b": (33, 6), "c": (31, 7)}
    for name, (address, mac) in taps.items():
        guest = hostnet.GuestArgs(addresses=[f"10.0.0.{address}"], mac_address=f"02:00:00:00:00:{mac:02}")
        hostnet.TapBinding(name, name=name, bridge=bridge.name, guest=guest, connection=connection)


def inline(connection: hostnet.ConnectionArgs, *, moved: bool) -> None:
    """A PortForward becomes one of its gateway's `forwardPorts`, and one of those a PortForward."""
    bridge = net(connection)
    gateway = hostnet.NatGateway(
        "gateway",
        internal_interfaces=[bridge.name],
        forward_ports=[hostnet.ForwardPortArgs(source_port=81 if moved else 82, destination="10.0.0.9:80")],
        connection=connection,
    )
    port = 82 if moved else 81
    name = "later" if moved else "own"
    hostnet.PortForward(
        name, source_port=port, destination="10.0.0.9:80", nat_gateway=gateway.id, connection=connection
    )


def bridges(connection: hostnet.ConnectionArgs, *, moved: bool) -> None:
    """An address moves from one bridge to another, two swap theirs, and a name moves from one that goes."""
    subnets = {"one": ["10.1.0.1/24"], "two": ["10.2.0.1/24"], "from": ["10.3.0.1/24", "10.4.0.1/24"], "into": []}
    if moved:
        subnets |= {"one": ["10.2.0.1/24"], "two": ["10.1.0.1/24"], "from": ["10.3.0.1/24"], "into": ["10.4.0.1/24"]}
    for name in ("one", "two", "into", "from"):
        hostnet.Bridge(name, name=name, addresses=subnets[name], connection=connection)
    if not moved:
        hostnet.Bridge("former", name="named", addresses=["10.5.0.1/24"], connection=connection)
    hostnet.Bridge("heir", name="named" if moved else "spare", connection=connection)


EXCHANGES: dict[str, Callable[..., None]] = {
    "ports": ports,
    "guests": guests,
    "inline": inline,
    "bridges": bridges,
}


@pytest.mark.parametrize("flags", PARALLEL, ids=["at-once", "one-by-one"])
@pytest.mark.parametrize("what", EXCHANGES)
def test_an_exchange_converges_in_one_run(stack: Stack, host: Host, what: str, flags: tuple[str, ...]) -> None:
    """There and back again: the preview warns of nothing, one run does it, and a refresh finds nothing to do."""

    def program(*, moved: bool) -> Program:
        def declare() -> None:
            EXCHANGES[what](hostnet.ConnectionArgs(netns=host.name), moved=moved)

        return declare

    stack.up(program(moved=False), *flags)
    for moved in (True, False) if what != "bridges" else (True,):
        assert stack.preview(program(moved=moved), *flags).warnings == []
        stack.up(program(moved=moved), *flags)
        assert stack.preview(program(moved=moved), "--refresh").changes == {}
    stack.destroy()
    assert host.left == []


def test_packets_of_two_forwards_that_swap_their_ports(lab: Lab, cli: Cli, tmp_path: Path) -> None:
    """Each port leads to the other guest afterwards; and back again."""
    stack = Stack(cli, "swap", stateDir=str(tmp_path / "state"))

    def program(one: int, two: int) -> Program:
        def declare() -> None:
            connection = hostnet.ConnectionArgs(netns=lab.host.name)
            bridge = net(connection)
            hostnet.TapBinding("guests", match="a-*", bridge=bridge.name, connection=connection)
            for name, port, guest in (("one", one, 11), ("two", two, 12)):
                to = f"10.0.0.{guest}:80"
                hostnet.PortForward(name, source_port=port, destination=to, connection=connection)

        return declare

    for role in ("guest1", "guest2"):
        lab.serve(role, "tcp:80")
    for one, two in ((8081, 8082), (8082, 8081), (8081, 8082)):
        stack.up(program(one, two), "--parallel", "1")
        assert lab.reaches("outsider", f"tcp 192.0.2.2:{one}")[0] == "guest1"
        assert lab.reaches("outsider", f"tcp 192.0.2.2:{two}")[0] == "guest2"
    stack.destroy()


def test_a_port_that_another_forward_keeps(stack: Stack, host: Host) -> None:
    """One program gives a port to two: the preview warns or fails, `up` fails, and both name the holder."""

    def program(*ports: int) -> Program:
        def declare() -> None:
            connection = hostnet.ConnectionArgs(netns=host.name)
            for number, port in enumerate(ports):
                to = f"10.0.0.{number + 10}:80"
                hostnet.PortForward(f"f{number}", source_port=port, destination=to, connection=connection)

        return declare

    stack.up(program(81, 82))
    with stack.running("preview", program(82, 82), "--parallel", "1") as previewing:
        assert "belongs to PortForward f1" in stack.ended(previewing).text
    assert "belongs to PortForward f1" in stack.up(program(82, 82), "--parallel", "1", fails=True).text
    assert host.forwards()[82] == "10.0.0.11:80"
    stack.up(program(82, 81), "--parallel", "1")
    assert stack.preview(program(82, 81), "--refresh").changes == {}
