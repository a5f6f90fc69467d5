"""Resources whose names hold what separates the parts of a URN."""

from __future__ import annotations

import json
import subprocess
import sys

import pulumi_hostnet as hostnet

from tests.e2e.stacks import Host, Program, Stack
from tools.paths import CHECKOUT, tool_env


def network(host: Host, destination: str) -> Program:
    """A bridge, a guest's TAP, a gateway and a forward, each with `::` in its name and a kind's name behind it."""

    def program() -> None:
        connection = hostnet.ConnectionArgs(netns=host.name)
        bridge = hostnet.Bridge("a::b", addresses=["10.0.0.1/24"], connection=connection)
        guest = hostnet.GuestArgs(hostname="web")
        hostnet.TapBinding("a::NatGateway::b", bridge=bridge.name, guest=guest, connection=connection)
        nat = hostnet.NatGateway("nat::", internal_interfaces=[bridge.name], connection=connection)
        hostnet.PortForward(
            "::http", nat_gateway=nat.id, source_port=8080, destination=destination, connection=connection
        )

    return program


def status(host: Host, *flags: str) -> str:
    """What `hostnet status` prints."""
    where = ["--netns", host.name, "--state-dir", str(host.state_dir)]
    argv = [sys.executable, "-m", "hostnet.cli", "status", *where, *flags]
    env = {**tool_env(), "PYTHONPATH": str(CHECKOUT / "provider"), "COLUMNS": "160", "NO_COLOR": "1"}
    return subprocess.run(argv, env=env, check=True, capture_output=True, text=True).stdout


def test_a_resource_called_a_b(host: Host, stack: Stack) -> None:
    """Created, refreshed, updated, shown under its whole name with its kind and stack, and destroyed."""
    before = host.snapshot()
    names = {"a::b": "Bridge", "a::NatGateway::b": "TapBinding", "nat::": "NatGateway", "::http": "PortForward"}
    assert stack.up(network(host, "10.0.0.2")).changes == dict.fromkeys(names, "create")
    assert stack.up(network(host, "10.0.0.2"), "--refresh", "--expect-no-changes").changes == {}
    assert stack.up(network(host, "10.0.0.3")).changes == {"::http": "update"}
    assert host.forwards() == {8080: "10.0.0.3:8080"}

    owners = {
        each["name"]: (each["kind"], each["stack"], each["project"], each["drift"])
        for each in json.loads(status(host, "--json"))["resources"]
    }
    assert owners == {name: (kind, stack.name, stack.project, []) for name, kind in names.items()}
    text = status(host)
    for name in names:
        assert f" {name} " in text, text

    host.ip(f"link set {stack.resources['a::NatGateway::b']['outputs']['name']} nomaster")
    assert stack.refresh().changes == {"a::NatGateway::b": "update"}
    assert stack.up(network(host, "10.0.0.3")).changes == {"a::NatGateway::b": "update"}
    stack.destroy()
    assert host.snapshot() == before
    assert host.left == []
