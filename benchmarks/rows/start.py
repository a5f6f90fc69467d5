"""The plugin's start, from exec to its port line, and peak memory of the plugin and its agent.

Beside it the no-op's plugin, and a bare Python that imports grpc and serves nothing on a port (the bare tool).
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.measure import PROVIDERS, Figure, in_turn, rounds
from benchmarks.place import Places
from benchmarks.plugin import peak_memory

TITLE = "Start and memory"
# The targets: to start, as a part of what a bare Python with grpc needs; MiB.
MOST, PLUGIN, AGENT = 120 / 110, 45, 25
BARE = """
import asyncio
import grpc.aio

async def main():
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)

asyncio.run(main())
"""


def started(argv: list[str]) -> dict[str, float]:
    """The milliseconds until a program prints its first line."""
    start = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    took = time.perf_counter() - start
    process.kill()
    process.communicate()
    return {"start": 1000 * took}


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    return [
        int(word) for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()
    ]


def memory() -> tuple[float, float]:
    """The peak memory of a plugin and of its agent, after a bridge, a gateway and a forward."""
    with Places() as places, places.add("ours").plugin() as plugin:
        bridge = plugin.resource("Bridge", "br0", name="br0", addresses=["10.0.0.1/24"])
        gateway = plugin.resource("NatGateway", "nat", internalInterfaces=["br0"])
        plugin.create([bridge])
        plugin.create([gateway])
        plugin.create(
            [plugin.resource("PortForward", "f", natGateway=gateway.id, sourcePort=80, destination="10.0.0.2")]
        )
        (agent,) = children(plugin.process.pid)
        return peak_memory(plugin.process.pid), peak_memory(agent)


def measure() -> list[Figure]:
    """Starts take turns."""
    turns = {name: [str(folder / "pulumi-resource-hostnet")] for name, folder in PROVIDERS.items()}
    turns["bare"] = [sys.executable, "-I", "-c", BARE]
    found = in_turn({name: lambda argv=argv: started(argv) for name, argv in turns.items()}, rounds(15))  # type: ignore[misc]
    ours, noop, bare = (found[name]["start"] for name in ("ours", "noop", "bare"))
    plugin, agent = memory()
    return [
        Figure("start to port line", "ms", ours, None, bare, MOST * bare, "120/110 x bare Python with grpc"),
        Figure("... of the no-op", "ms", noop, None, bare),
        Figure("plugin's peak memory", "MiB", plugin, limit=PLUGIN),
        Figure("agent's peak memory", "MiB", agent, limit=AGENT),
    ]
