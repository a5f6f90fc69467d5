"""Two stacks on one host: neither sees the other's as its own, and what they share lives till the last is gone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pulumi_hostnet as hostnet
import pytest

from tests.e2e.stacks import Host, Program, Stack

NewStack = Callable[..., Stack]


def network(host: Host, number: int, *, size: int = 1) -> Program:
    """A network of its own, with guests and forwards of its own."""

    def program() -> None:
        connection = hostnet.ConnectionArgs(netns=host.name)
        net = hostnet.Bridge(
            "net", name=f"net{number}", addresses=[f"10.{number}.0.1/24", f"fd12:{number}::1/64"], connection=connection
        )
        nat = hostnet.NatGateway("nat", internal_interfaces=[net.name], enable_ipv6=True, connection=connection)
        for index in range(size):
            hostnet.TapBinding(
                f"vm{index}", name=f"vm{number}-{index}", bridge=net.name, guest={}, connection=connection
            )
            hostnet.PortForward(
                f"door{index}",
                nat_gateway=nat.id,
                source_port=1000 * number + index,
                destination=f"10.{number}.0.{index + 2}:80",
                connection=connection,
            )

    return program


@pytest.mark.parametrize("first", [0, 1], ids=["oldest-first", "newest-first"])
def test_either_is_destroyed_first(new_stack: NewStack, host: Host, first: int) -> None:
    """The other's network stays whole, and its next up has nothing to do; the last takes table and switches along."""
    before = host.snapshot()
    stacks = [new_stack(host), new_stack(host)]
    for index, stack in enumerate(stacks):
        stack.up(network(host, index + 1))
    both = host.snapshot()
    assert both["sysctls"]["net.ipv4.ip_forward"] == "1"
    assert host.forwards() == {1000: "10.1.0.2:80", 2000: "10.2.0.2:80"}

    other = 1 - first
    stacks[first].destroy()
    assert host.table
    assert host.snapshot()["sysctls"] == both["sysctls"]
    assert host.forwards() == {1000 * (other + 1): f"10.{other + 1}.0.2:80"}
    assert stacks[other].preview(network(host, other + 1), "--refresh").changes == {}

    stacks[other].destroy()
    assert host.snapshot() == before
    assert host.left == []


def test_both_at_the_same_moment(new_stack: NewStack, host: Host) -> None:
    """Two ups and two destroys side by side: each has its own at the end, and nothing is left."""
    before = host.snapshot()
    stacks = [new_stack(host), new_stack(host)]
    size = 5
    with ExitStack() as under_way:
        runs = [
            under_way.enter_context(stack.running("up", network(host, index, size=size), "--yes", "--skip-preview"))
            for index, stack in enumerate(stacks, 1)
        ]
        for run in [stack.ended(running) for stack, running in zip(stacks, runs, strict=True)]:
            assert run.code == 0, run.text
    assert len(host.forwards()) == 2 * size
    for index, stack in enumerate(stacks, 1):
        assert stack.preview(network(host, index, size=size), "--refresh").changes == {}
    with ExitStack() as under_way:
        runs = [under_way.enter_context(stack.running("destroy", None, "--yes", "--skip-preview")) for stack in stacks]
        for run in [stack.ended(running) for stack, running in zip(stacks, runs, strict=True)]:
            assert run.code == 0, run.text
    assert host.snapshot() == before
    assert host.left == []


@pytest.mark.parametrize("first", [0, 1], ids=["oldest-first", "newest-first"])
def test_two_state_directories(new_stack: NewStack, host: Host, tmp_path: Path, first: int) -> None:
    """The records know nothing of each other, and neither's refresh, update or destroy shows or touches the other's."""
    before = host.snapshot()
    hosts = [host, Host(host.namespace, tmp_path / "another")]
    stacks = [new_stack(each) for each in hosts]
    for index, stack in enumerate(stacks):
        stack.up(network(host, index + 1))
    for index, stack in enumerate(stacks):
        assert stack.preview(network(host, index + 1), "--refresh").changes == {}
        stack.up(network(host, index + 1, size=2))
    assert host.forwards() == {1000: "10.1.0.2:80", 1001: "10.1.0.3:80", 2000: "10.2.0.2:80", 2001: "10.2.0.3:80"}
    for index, stack in enumerate(stacks):
        assert stack.preview(network(host, index + 1, size=2), "--refresh").changes == {}

    other = 1 - first
    stacks[first].destroy()
    assert hosts[first].record == ""
    assert host.forwards() == {1000 * (other + 1) + index: f"10.{other + 1}.0.{index + 2}:80" for index in range(2)}
    assert stacks[other].preview(network(host, other + 1, size=2), "--refresh").changes == {}
    stacks[other].destroy()
    assert not host.table
    assert host.links.keys() == before["links"].keys()


def test_what_is_the_others_is_refused(new_stack: NewStack, host: Host) -> None:
    """The other's bridge, subnet, port, guest address and MAC: errors that name the owner, and leave it whole."""
    mine, other = new_stack(host), new_stack(host)

    def theirs() -> None:
        connection = hostnet.ConnectionArgs(netns=host.name)
        network(host, 1)()
        hostnet.NatGateway(
            "inline",
            external_interface="eth0",
            forward_ports=[hostnet.ForwardPortArgs(source_port=7000, destination="10.1.0.2")],
            connection=connection,
        )

    mine.up(network(host, 1))
    mine.up(theirs)
    guest = mine.resources["vm0"]["outputs"]["guest"]
    whole = host.snapshot()
    ports = "4000:4002", 7000, 1000

    def program() -> None:
        connection = hostnet.ConnectionArgs(netns=host.name)
        hostnet.Bridge("bridge", name="net1", addresses=["10.9.0.1/24"], connection=connection)
        hostnet.Bridge("subnet", name="net9", addresses=["10.1.0.129/25"], connection=connection)
        for name, port in zip(("free", "inline", "resource"), ports, strict=True):
            hostnet.PortForward(
                name, external_interface="eth0", source_port=port, destination="10.9.0.2", connection=connection
            )
        hostnet.PortForward(
            "part", external_interface="eth0", source_port="999:1001", destination="10.9.0.2", connection=connection
        )
        hostnet.TapBinding(
            "address",
            name="t-address",
            bridge="net1",
            guest=hostnet.GuestArgs(addresses=["10.1.0.2"]),
            connection=connection,
        )
        hostnet.TapBinding(
            "mac",
            name="t-mac",
            bridge="net1",
            guest=hostnet.GuestArgs(mac_address=guest["macAddress"]),
            connection=connection,
        )
        hostnet.TapBinding("derived", name="t-derived", bridge="net1", guest={}, connection=connection)

    run = other.up(program, "--continue-on-error", fails=True)
    assert set(other.resources) == {"free", "derived"}
    told = run.said_by_name("error")
    owners = {"bridge": "net", "subnet": "net", "inline": "inline", "resource": "door0", "part": "door0"}
    for name, owner in (owners | {"address": "vm0", "mac": "vm0"}).items():
        assert f" {owner} (stack {mine.name} of project shop)" in told[name], told[name]
    assert other.resources["derived"]["outputs"]["guest"]["addresses"] == ["10.1.0.3/24", "fd12:1::3/64"]
    other.destroy()
    assert host.snapshot() == whole
    assert mine.preview(theirs, "--refresh").changes == {}
