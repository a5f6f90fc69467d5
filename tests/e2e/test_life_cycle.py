"""The main job with the real CLI: from an empty host to guests that are reached, and back to a host with nothing left.

The packets run in the laboratory's topology (tests/lab/topology.py): guest1 10.0.0.11 and guest2 10.0.0.12 on the
host's ports a-1 and a-2; an outsider on the uplink's segment, who sees the host at 192.0.2.2.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pulumi
import pulumi_hostnet as hostnet

from tests.e2e.stacks import Host, Program, Stack
from tests.lab.lab import Lab

GUEST1, GUEST2 = "10.0.0.11", "10.0.0.12"


def network(
    host: Host, destination: str = f"{GUEST1}:80", source_port: int = 8080, *, forwards: bool = True
) -> Program:
    """A bridge with the guests' ports, a TAP of our own, a gateway and forwards of both families."""

    def program() -> None:
        connection = hostnet.ConnectionArgs(netns=host.name)
        bridge = hostnet.Bridge("net", name="br-a", addresses=["10.0.0.1/24", "fd12::1/64"], connection=connection)
        hostnet.TapBinding("guests", match="a-*", bridge=bridge.name, connection=connection)
        tap = hostnet.TapBinding(
            "web", bridge=bridge.name, guest=hostnet.GuestArgs(hostname="web"), connection=connection
        )
        nat = hostnet.NatGateway("nat", internal_interfaces=[bridge.name], enable_ipv6=True, connection=connection)
        if forwards:
            hostnet.PortForward(
                "http",
                nat_gateway=nat.id,
                source_port=source_port,
                destination=destination,
                connection=connection,
            )
            hostnet.PortForward(
                "http6", nat_gateway=nat.id, source_port=8080, destination="[fd12::11]:80", connection=connection
            )
        pulumi.export("kernelIpArg", tap.guest.kernel_ip_arg)
        pulumi.export("external", nat.external_addresses)

    return program


def test_the_main_path(lab: Lab, new_stack: Callable[..., Stack], tmp_path: Path) -> None:
    """Preview, up, no-change up, update in place, replace, targeted destroy, destroy: each does what it says."""
    host = Host(lab.host, tmp_path / "state")
    stack = new_stack(host)
    before = host.snapshot()
    for guest in ("guest1", "guest2", "internet"):
        lab.serve(guest, "tcp:80")
    made = dict.fromkeys(["net", "guests", "web", "nat", "http", "http6"], "create")

    planned = stack.preview(network(host))
    assert planned.changes == made
    assert planned.warnings == [], "all is new: there is nothing to warn of"
    assert host.snapshot() == before, "a preview changes nothing"

    assert stack.up(network(host)).changes == made
    tap = stack.resources["web"]["outputs"]["name"]
    assert stack.outputs == {
        "kernelIpArg": "ip=10.0.0.2::10.0.0.1:255.255.255.0:web:eth0:off",
        "external": ["192.0.2.2", "192.0.2.3", "2001:db8::2", "2001:db8::3"],
    }
    assert host.addresses("br-a") == ["10.0.0.1/24", "fd12::1/64"]
    assert host.links[tap].kind == "tap"
    assert host.links[tap].details["persist"]
    assert {name for name, link in host.links.items() if link.master == "br-a"} == {"a-1", "a-2", tap}
    assert host.forwards("dnat_port4") == {8080: "10.0.0.11:80"}
    assert host.forwards("dnat_port6") == {8080: "fd12::11:80"}
    assert lab.reaches("outsider", "tcp 192.0.2.2:8080") == ("guest1", "192.0.2.20")
    assert lab.reaches("outsider", "tcp [2001:db8::2]:8080") == ("guest1", "2001:db8::20")
    assert lab.reaches("guest1", "tcp 198.51.100.10:80") == ("internet", "192.0.2.2")
    assert lab.reaches("guest1", "tcp [2001:db8:1::10]:80")[0] == "internet"

    whole = host.snapshot()
    assert stack.up(network(host), "--expect-no-changes").changes == {}
    assert host.snapshot() == whole

    moved = stack.up(network(host, f"{GUEST2}:80"))
    assert moved.changes == {"http": "update"}
    assert moved.diff("http") == {"destination": "update"}
    assert lab.reaches("outsider", "tcp 192.0.2.2:8080") == ("guest2", "192.0.2.20")

    replaced = stack.up(network(host, f"{GUEST2}:80", 8081))
    assert replaced.changes == {"http": "replace"}
    assert replaced.diff("http") == {"sourcePort": "update-replace"}
    assert stack.resources["http"]["id"] == "eth0/ipv4/tcp/8081"
    assert lab.reaches("outsider", "tcp 192.0.2.2:8081") == ("guest2", "192.0.2.20")
    assert lab.blocked("outsider", "tcp 192.0.2.2:8080")

    targeted = stack.destroy("--target", stack.urn("http"))
    assert targeted.changes == {"http": "delete"}
    assert lab.blocked("outsider", "tcp 192.0.2.2:8081")
    assert lab.reaches("outsider", "tcp [2001:db8::2]:8080")[0] == "guest1"
    assert lab.reaches("guest2", "tcp 198.51.100.10:80") == ("internet", "192.0.2.2")

    gone = stack.destroy()
    assert set(gone.changes) == set(made) - {"http"}
    assert host.left == []
    assert host.snapshot() == before


def test_flush_ruleset_is_seen_and_repaired(lab: Lab, new_stack: Callable[..., Stack], tmp_path: Path) -> None:
    """`nft flush ruleset` by hand takes gateway, forwards and the guest's filter.

    A refresh shows it, the next up brings the packets back.
    """
    host = Host(lab.host, tmp_path / "state")
    stack = new_stack(host)
    lab.serve("guest1", "tcp:80")
    stack.up(network(host))
    whole = host.snapshot()

    host.nft("flush ruleset")
    assert lab.blocked("outsider", "tcp 192.0.2.2:8080")
    shown = stack.refresh()
    assert set(shown.changes) == {"nat", "http", "http6", "web"}
    assert (shown.changes["http"], shown.changes["http6"]) == ("delete", "delete")

    repaired = stack.up(network(host))
    assert set(repaired.changes) == {"nat", "http", "http6", "web"}
    assert host.snapshot() == whole
    assert lab.reaches("outsider", "tcp 192.0.2.2:8080") == ("guest1", "192.0.2.20")


def test_a_failed_create_leaves_nothing(stack: Stack, host: Host) -> None:
    """What can't be made is not there afterwards, neither on the host nor in the state; what can, is."""
    host.ip("link add foreign type bridge", "link add other type veth peer name other2")
    before = host.snapshot()

    def program() -> None:
        connection = hostnet.ConnectionArgs(netns=host.name)
        hostnet.Bridge("good", name="good", addresses=["10.0.0.1/24"], connection=connection)
        hostnet.Bridge("taken", name="foreign", addresses=["10.1.0.1/24"], connection=connection)
        hostnet.TapBinding("kind", name="other", connection=connection)
        hostnet.TapBinding("lost", name="lost", bridge="nowhere", connection=connection)
        hostnet.TapBinding("whose", name="whose", owner="no-such-user", connection=connection)
        hostnet.NatGateway("side", external_interface="eth7", internal_interfaces=["good"], connection=connection)
        hostnet.PortForward(
            "door", external_interface="eth7", source_port=80, destination="10.0.0.2", connection=connection
        )

    run = stack.up(program, "--continue-on-error", fails=True)
    assert set(stack.resources) == {"good"}
    for name in ("foreign", "import", "adopt", "nowhere", "no-such-user", "eth7"):
        assert name in run.errors
    stack.destroy()
    assert host.snapshot() == before
    assert host.left == []


def test_a_refusal_names_import_and_adopt(stack: Stack, host: Host) -> None:
    """A bridge that is not ours is an error that says what to do; with adopt it is taken over, and then ours whole."""
    host.ip("link add br-x type bridge", "link set br-x up", "address add 10.9.0.1/24 dev br-x")
    mac = host.links["br-x"].mac

    def program(*, adopt: bool) -> Program:
        def declare() -> None:
            hostnet.Bridge(
                "x",
                name="br-x",
                addresses=["10.0.0.1/24"],
                adopt=adopt,
                connection=hostnet.ConnectionArgs(netns=host.name),
            )

        return declare

    refused = stack.up(program(adopt=False), fails=True)
    assert "br-x" in refused.errors
    assert "pulumi import" in refused.errors
    assert "adopt" in refused.errors
    assert host.addresses("br-x") == ["10.9.0.1/24"]

    stack.up(program(adopt=True))
    assert host.addresses("br-x") == ["10.0.0.1/24"], "an address that is not declared is drift"
    assert host.links["br-x"].mac == mac, "guests have it in their neighbour tables"
    whole = host.snapshot()
    assert stack.up(program(adopt=False)).diffs == {"x": {"adopt": "update"}}
    assert host.snapshot() == whole, "adopt is about the first time alone"
    stack.destroy()
    assert "br-x" not in host.links


def test_the_next_up_repairs_without_a_refresh(stack: Stack, host: Host) -> None:
    """An update beside a loss that nobody saw puts the lost part back too: it states what the host should have."""

    def program(mtu: int | None = None) -> Program:
        def declare() -> None:
            connection = hostnet.ConnectionArgs(netns=host.name)
            hostnet.Bridge("x", name="br-x", addresses=["10.0.0.1/24", "10.1.0.1/24"], mtu=mtu, connection=connection)

        return declare

    stack.up(program())
    host.ip("address del 10.1.0.1/24 dev br-x")
    assert stack.up(program(1400)).diffs == {"x": {"mtu": "add"}}
    assert host.addresses("br-x") == ["10.0.0.1/24", "10.1.0.1/24"]
    host.ip("link del br-x")
    assert stack.up(program(1300)).changes == {"x": "update"}
    assert host.addresses("br-x") == ["10.0.0.1/24", "10.1.0.1/24"]
    assert host.links["br-x"].mtu == 1300


def test_deleting_what_is_gone_is_success(stack: Stack, host: Host) -> None:
    """A destroy of what somebody took away already goes through, without a refresh before it."""
    stack.up(network(host))
    host.nft("flush ruleset")
    host.ip("link del br-a")
    gone = stack.destroy()
    assert set(gone.changes) == {"net", "guests", "web", "nat", "http", "http6"}
    assert host.left == []


def test_bad_input_is_told_whole_at_preview(stack: Stack) -> None:
    """All that is wrong with a resource is reported at once, each with its property, before anything is done."""

    def program() -> None:
        hostnet.Bridge("x", name="br/x", addresses=["10.0.0.0/24"], mtu=67)

    told = stack.preview(program, fails=True).errors
    for name, path in (("name", "name"), ("addresses", "addresses[0]"), ("mtu", "mtu")):
        assert f"property {name} value" in told
        assert f"has a problem: {path}: must be " in told


def test_guests_follow_their_bridge_into_another_subnet(
    lab: Lab, new_stack: Callable[..., Stack], tmp_path: Path
) -> None:
    """One `up` renumbers the bridge, its guest and what refers to the guest; its preview shows it."""
    host = Host(lab.host, tmp_path / "state")
    stack = new_stack(host)

    def network(subnet: int) -> Program:
        def program() -> None:
            connection = hostnet.ConnectionArgs(netns=host.name)
            bridge = hostnet.Bridge("net", name="br-a", addresses=[f"10.{subnet}.0.1/24"], connection=connection)
            web = hostnet.TapBinding("web", bridge=bridge.name, guest=hostnet.GuestArgs(), connection=connection)
            address = web.guest.addresses.apply(lambda addresses: addresses[0].split("/")[0])
            hostnet.PortForward("http", source_port=8080, destination=address, connection=connection)
            pulumi.export("kernelIpArg", web.guest.kernel_ip_arg)

        return program

    stack.up(network(0))
    assert host.forwards() == {8080: "10.0.0.2:8080"}
    planned = stack.preview(network(7))
    assert planned.changes == {"net": "update", "web": "update", "http": "update"}
    assert planned.warnings == []
    assert stack.up(network(7)).changes == {"net": "update", "web": "update", "http": "update"}
    assert stack.outputs == {"kernelIpArg": "ip=10.7.0.2::10.7.0.1:255.255.255.0::eth0:off"}
    assert host.forwards() == {8080: "10.7.0.2:8080"}
    assert stack.up(network(7)).changes == {}
    assert stack.refresh().changes == {}
