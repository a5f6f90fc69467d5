"""A bridge, NAT and N forwards from nothing, and one more, beside tools for the same: `nft`, iptables, netavark.

SIZES="100 1000". Forwards are resources of their own, or all are the gateway's `forwardPorts`. The bare tool is one
`ip -batch` and one `nft -f`. iptables is a process for each rule, as scripts have it. netavark is measured where it is
installed (Debian's package netavark). CNI's plugins are not: they want a container, and a process for each change of
one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable

from hostnet.rpc.protos import provider_pb2

from benchmarks.measure import Figure, in_turn, rounds, seconds, sizes
from benchmarks.place import Place, Places, forward, ip_batch
from benchmarks.plugin import Plugin
from tests.rpc.engine import Resource

TITLE = "From nothing, beside other tools"
TIMES = 3  # of `nft -f`
ONE = -1
BRIDGE = ["link add br0 type bridge", "addr add 10.0.0.1/16 dev br0", "link set br0 up"]
NETAVARK = shutil.which("netavark", path=f"{os.environ.get('PATH', '')}:/usr/lib/podman:/usr/libexec/podman")
Turn = Callable[[], dict[str, float]]


def by_plugin(plugin: Plugin, count: int) -> dict[str, float]:
    """Bridge, gateway and forwards as the engine creates them: the first two one after the other."""
    bridge = plugin.resource("Bridge", "br0", name="br0", addresses=["10.0.0.1/16"])
    gateway = plugin.resource("NatGateway", "nat", internalInterfaces=["br0"])
    forwards: list[Resource] = []

    def create() -> None:
        plugin.create([bridge])
        plugin.create([gateway])
        made = (plugin.resource("PortForward", f"f{x}", natGateway=gateway.id, **forward(x)) for x in range(count))
        forwards.extend(made)
        plugin.create(forwards)

    took = {"from nothing": seconds(create)}
    one = plugin.resource("PortForward", "one", natGateway=gateway.id, **forward(ONE))
    took["one more"] = seconds(lambda: plugin.create([one]))
    plugin.delete([one, *forwards])
    plugin.delete([gateway])
    plugin.delete([bridge])
    return took


def by_plugin_inline(plugin: Plugin, count: int) -> dict[str, float]:
    """The same with all forwards in the gateway; one more is an update of it, once its inputs are checked."""
    bridge = plugin.resource("Bridge", "br0", name="br0", addresses=["10.0.0.1/16"])
    forwards = [forward(number) for number in range(count)]
    gateway = plugin.resource("NatGateway", "nat", internalInterfaces=["br0"], forwardPorts=forwards)

    def create() -> None:
        plugin.create([bridge])
        plugin.create([gateway])

    took = {"from nothing": seconds(create)}
    more = [*forwards, forward(ONE)]
    change = gateway.change_to(gateway.checked(internalInterfaces=["br0"], forwardPorts=more))
    diff, update = provider_pb2.DiffRequest(**change), provider_pb2.UpdateRequest(**change)
    took["one more"] = seconds(lambda: (plugin.stub.Diff(diff), plugin.stub.Update(update)))
    plugin.delete([gateway])
    plugin.delete([bridge])
    return took


def rule(number: int) -> tuple[str, str]:
    """A forward's port and destination."""
    inputs = forward(number)
    return str(inputs["sourcePort"]), inputs["destination"]


def by_nft(place: Place, count: int) -> dict[str, float]:
    """A table with a map, in one batch; one more by another process."""
    pairs = [f"{port} : {target.replace(':', ' . ')}" for port, target in map(rule, range(count))]
    table = f"""table ip bench {{
map m {{ type inet_service : ipv4_addr . inet_service; elements = {{ {", ".join(pairs)} }} }}
chain prerouting {{ type nat hook prerouting priority dstnat; dnat ip to tcp dport map @m; }}
chain postrouting {{ type nat hook postrouting priority srcnat; iifname "br0" oifname "eth0" masquerade; }}
}}
"""

    def create() -> None:
        ip_batch(place, BRIDGE)
        place.nft(table)

    port, target = rule(ONE)
    one = f"add element ip bench m {{ {port} : {target.replace(':', ' . ')} }}\n"
    took = {"from nothing": seconds(create), "one more": seconds(lambda: place.nft(one))}
    place.nft("delete table ip bench\n")
    ip_batch(place, ["link delete br0"])
    return took


def by_iptables(place: Place, count: int) -> dict[str, float]:
    """A process for each rule."""

    def add(*words: str) -> None:
        place.namespace.run(["iptables", "-t", "nat", "-A", *words])

    def dnat(number: int) -> None:
        port, target = rule(number)
        add("PREROUTING", "-p", "tcp", "--dport", port, "-j", "DNAT", "--to-destination", target)

    def create() -> None:
        ip_batch(place, BRIDGE)
        add("POSTROUTING", "-s", "10.0.0.0/16", "-o", "eth0", "-j", "MASQUERADE")
        for number in range(count):
            dnat(number)

    took = {"from nothing": seconds(create), "one more": seconds(lambda: dnat(ONE))}
    place.namespace.run(["iptables", "-t", "nat", "-F"])
    ip_batch(place, ["link delete br0"])
    return took


def by_netavark(place: Place, guest: Place, count: int) -> dict[str, float]:
    """A container's network with its port mappings; one more is all of it again, as netavark knows no change."""
    mappings = [
        {"host_ip": "", "host_port": int(rule(x)[0]), "container_port": 80, "protocol": "tcp", "range": 1}
        for x in range(count)
    ]
    network = {
        "name": "bench", "id": "b" * 64, "driver": "bridge", "network_interface": "br0",
        "subnets": [{"subnet": "10.0.0.0/16", "gateway": "10.0.0.1"}],
        "ipv6_enabled": False, "internal": False, "dns_enabled": False, "ipam_options": {"driver": "host-local"},
    }  # fmt: skip
    options = {
        "container_id": "c" * 64, "container_name": "bench", "port_mappings": mappings,
        "networks": {"bench": {"static_ips": ["10.0.0.2"], "interface_name": "eth1"}},
        "network_info": {"bench": network},
    }  # fmt: skip
    argv = [str(NETAVARK), "--config", str(place.directory)]
    where = f"/run/netns/{guest.namespace.name}"

    def run(verb: str) -> None:
        place.namespace.run([*argv, verb, where], text=json.dumps(options))

    took = {"from nothing": seconds(lambda: run("setup"))}
    run("teardown")
    return took


def measure() -> list[Figure]:
    """All take turns, with each number of forwards."""
    figures = []
    with Places() as places:
        plugin = places.enter_context(places.add("ours").plugin())
        bare, tables, container, guest = (places.add(role) for role in ("bare", "tables", "container", "guest"))
        for count in sizes("100 1000"):
            turns: dict[str, Turn] = {
                "ours": lambda n=count: by_plugin(plugin, n),  # type: ignore[misc]
                "inline": lambda n=count: by_plugin_inline(plugin, n),  # type: ignore[misc]
                "nft -f": lambda n=count: by_nft(bare, n),  # type: ignore[misc]
                "iptables": lambda n=count: by_iptables(tables, n),  # type: ignore[misc]
            }
            if NETAVARK:
                turns["netavark"] = lambda n=count: by_netavark(container, guest, n)  # type: ignore[misc]
            found = in_turn(turns, rounds(3))
            figures += _figures(found, count)
    return figures


def _figures(found: dict[str, dict[str, float]], count: int) -> list[Figure]:
    """Ours beside each tool: at most three times `nft -f`, and faster than the others."""
    note = "netavark is not installed on this machine, and was not measured."
    if NETAVARK:
        version = subprocess.run([NETAVARK, "--version"], check=True, capture_output=True, text=True).stdout.strip()
        note = f"Measured with {version}, whose change of one forward is a set-up of all."
    figures = []
    for tool, steps in found.items():
        for step, took in steps.items() if tool not in ("ours", "inline") else ():
            times = TIMES if tool == "nft -f" else 1
            target = f"{TIMES} x nft -f" if tool == "nft -f" else tool
            for form, of in (("ours", ""), ("inline", " in the gateway")):
                what = f"{step}, {count:,} forwards{of}, {tool}"
                figures.append(Figure(what, "s", found[form][step], None, took, times * took, target, note=note))
    return figures
