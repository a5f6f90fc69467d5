"""getHost, getBridge and getPortForwards: from a program, and from `pulumi do` without one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pulumi
import pulumi_hostnet as hostnet

from tests.e2e.stacks import Host, Stack
from tests.lab.lab import Lab
from tools.paths import CHECKOUT


def test_from_a_program(lab: Lab, new_stack: Callable[..., Stack], tmp_path: Path) -> None:
    """What the host is, what a bridge of it is, and what its forwards took; unknown arguments wait for the up."""
    host = Host(lab.host, tmp_path / "state")
    stack = new_stack(host)
    lab.serve("guest1", "tcp:80")

    def program() -> None:
        connection = hostnet.ConnectionArgs(netns=host.name)
        net = hostnet.Bridge("net", name="br-a", addresses=["10.0.0.1/24", "fd12::1/64"], connection=connection)
        guests = hostnet.TapBinding("guests", match="a-*", bridge=net.name, connection=connection)
        door = hostnet.PortForward("door", source_port=8080, destination="10.0.0.11:80", connection=connection)
        after = pulumi.InvokeOutputOptions(depends_on=[guests, door])
        pulumi.export("host", hostnet.get_host_output(connection=connection, opts=after).apply(_plain))
        bridge = hostnet.get_bridge_output(name=net.name, connection=connection, opts=after)
        pulumi.export("bridge", bridge.apply(_plain))
        forwards = hostnet.get_port_forwards_output(connection=connection, opts=after)
        pulumi.export("forwards", forwards.apply(lambda found: [_plain(one) for one in found.port_forwards]))

    assert stack.preview(program).changes == dict.fromkeys(("net", "guests", "door"), "create")
    stack.up(program)
    assert lab.reaches("outsider", "tcp 192.0.2.2:8080")[0] == "guest1"
    assert lab.reaches("outsider", "tcp 192.0.2.2:8080")[0] == "guest1"
    stack.up(program)

    found = stack.outputs
    assert found["host"]["default_route"] == {"ipv4": "eth0", "ipv6": "eth0"}
    assert found["host"]["forwarding"]["ipv4"] is True
    assert {(one["kind"], one["id"]) for one in found["host"]["resources"]} == {
        ("Bridge", "br-a"),
        ("TapBinding", "br-a/a-*"),
        ("PortForward", "eth0/ipv4/tcp/8080"),
    }
    assert {one["name"] for one in found["host"]["interfaces"]} == set(host.links)
    bridge = found["bridge"]
    assert (bridge["gateway"], bridge["gateway6"]) == ("10.0.0.1", "fd12::1")
    assert set(bridge["ports"]) == {"a-1", "a-2"}
    assert bridge["ifindex"] == host.links["br-a"].index
    (door,) = found["forwards"]
    assert door["owner"] == stack.urn("door")
    assert (door["id"], door["protocol"], door["source_ports"]) == ("eth0/ipv4/tcp/8080", "tcp", "8080")
    assert (door["destination_address"], door["destination_ports"]) == ("10.0.0.11", "80")
    assert door["packets"] >= 2 * 6, "both ways: two handshakes, a greeting and an end each"
    assert door["bytes"] >= door["packets"] * 40


def test_a_bridge_that_is_not_there(stack: Stack, host: Host) -> None:
    """An error that names it."""

    def program() -> None:
        hostnet.get_bridge(name="nowhere", connection=hostnet.ConnectionArgs(netns=host.name))

    assert "nowhere" in stack.preview(program, fails=True).text


def test_pulumi_do(stack: Stack, host: Host) -> None:
    """`pulumi do`: functions, and a resource's life without a program."""

    def do(token: str, *command: str, **inputs: object) -> Any:
        values = {"connection": {"netns": host.name}, **inputs}
        path = stack.folder / "in.pcl"
        path.write_text("".join(f"{key} = {_pcl(value)}\n" for key, value in values.items()))
        package = ("--package", str(CHECKOUT / "provider" / "bin" / "pulumi-resource-hostnet"))
        given = ("--hostnet:state-dir", str(host.state_dir), "--input", "pcl", "--input-file", str(path))
        ended = stack.cli("do", *package, token, *command, *given, cwd=stack.folder, PULUMI_EXPERIMENTAL="1")
        # On a busy machine the CLI (3.259) prints the plugin's "waiting for this machine …" before the result.
        return json.loads(ended.stdout[ended.stdout.index("{") :])

    host.ip("link add br-x type bridge", "address add 10.0.0.1/24 dev br-x")
    assert do("hostnet:index:getHost")["defaultRoute"] == {"ipv4": "eth0", "ipv6": "eth0"}
    assert do("hostnet:index:getBridge", name="br-x")["addresses"] == ["10.0.0.1/24"]
    assert do("hostnet:index:getPortForwards")["portForwards"] == []


def _pcl(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_pcl(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


def _plain(value: Any) -> Any:
    """A result as JSON."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if hasattr(value, "__dict__") and not isinstance(value, str | int | bool):
        return {key: _plain(item) for key, item in vars(value).items() if not key.startswith("__")}
    return value
