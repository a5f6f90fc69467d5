"""A fleet's stack: on each server a network for VMs. `fleet.json` beside it has their connections, and how much."""

import json
from pathlib import Path

import pulumi_hostnet as hostnet

fleet = json.loads(Path("fleet.json").read_text())
for number, given in enumerate(fleet["servers"]):
    connection = hostnet.ConnectionArgs(**given)
    bridge = hostnet.Bridge(f"vms-{number}", name="vms", addresses=["10.0.0.1/24"], connection=connection)
    nat = hostnet.NatGateway(f"nat-{number}", internal_interfaces=[bridge.name], connection=connection)
    for vm in range(fleet["taps"]):
        hostnet.TapBinding(f"vm{vm}-{number}", name=f"vm{vm}", bridge=bridge.name, guest={}, connection=connection)
    for forward in range(fleet["forwards"]):
        hostnet.PortForward(
            f"web{forward}-{number}",
            nat_gateway=nat.id,
            source_port=8000 + forward,
            destination=f"10.0.0.{2 + forward % fleet['taps']}:{fleet['port']}",
            connection=connection,
        )
