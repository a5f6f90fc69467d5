"""Stacks whose resources are `hostnet.dynamic`'s, and the program that both they and the plugin's stacks run."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import hostnet.dynamic
import pulumi
from hostnet.wire.urn import Urn

from tests.e2e.stacks import Cli, Host, Program, Run, Stack
from tools.paths import VENV

OURS = "pulumi-python:dynamic/hostnet:"


class DynamicStack(Stack):
    """A stack in a project that knows of no plugin."""

    def __init__(self, cli: Cli, name: str, *, project: str = "shop", **config: str) -> None:
        """As `Stack`."""
        super().__init__(cli, name, project=project, **config)
        runtime = {"name": "python", "options": {"virtualenv": str(VENV)}}
        self._write("Pulumi.yaml", {"name": project, "runtime": runtime})

    @property
    def resources(self) -> dict[str, dict[str, Any]]:
        """Hostnet's resources in the state, by name."""
        latest = json.loads(self.state_text)["checkpoint"].get("latest") or {}
        found = [one for one in latest.get("resources") or () if OURS in one["type"]]
        return {Urn.parse(one["urn"]).name: one for one in found}


def changes(run: Run) -> dict[str, str]:
    """Resource -> what was done (or planned), without what stays the same; of a replacement just `replace`."""
    quiet = {"same", "refresh", "read", "create-replacement", "delete-replaced"}
    ended = (event.get("resOutputsEvent", event.get("resOpFailedEvent")) for event in run.events)
    steps = (one["metadata"] for one in ended if one and OURS in one["metadata"]["urn"])
    return {Urn.parse(one["urn"]).name: one["op"] for one in steps if one["op"] not in quiet}


def network(host: Host, resources: ModuleType = hostnet.dynamic, **bridge: Any) -> Program:
    """A bridge, a guest's TAP, a gateway and two forwards.

    Args:
        host: Where it is.
        resources: Where the classes come from: `hostnet.dynamic`, or the plugin's SDK.
        bridge: Inputs of the bridge, beside or instead of those here.
    """

    def program() -> None:
        connection = {"netns": host.name}
        net = resources.Bridge(
            "net",
            connection=connection,
            **{
                "name": "br0",
                "mac_address": "02:00:00:00:00:0a",
                "addresses": ["10.0.0.1/24", "fd12::1/64"],
                **bridge,
            },
        )
        web = resources.TapBinding(
            "web",
            name="vm-web",
            bridge=net.name,
            guest={"hostname": "web", "mac_address": "02:00:00:00:00:0b"},
            connection=connection,
        )
        nat = resources.NatGateway(
            "nat",
            internal_interfaces=[net.name],
            enable_ipv6=True,
            forward_ports=[{"source_port": 8443, "destination": "10.0.0.2:443"}],
            connection=connection,
        )
        http = resources.PortForward(
            "http",
            nat_gateway=nat.id,
            source_port=8080,
            destination=web.guest.apply(lambda guest: guest["addresses"][0].split("/")[0] + ":80"),
            connection=connection,
        )
        pulumi.export("kernelIpArg", web.guest.kernel_ip_arg)
        pulumi.export("sourcePorts", http.source_ports)
        pulumi.export("ifindex", net.ifindex)

    return program
