"""Ports that a program of the host listens on: a forward takes them away from it, which a preview should say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.record.owners import Owner
from hostnet.wire.family import ANY_ADDRESS
from hostnet.wire.objects import Forward, Gateway

_ALWAYS_THERE = frozenset({*ANY_ADDRESS.values(), "127.0.0.1"})
_LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp
_UNCONNECTED = "07"  # a UDP socket that is bound and not connected


def warnings(owner: Owner, snapshot: Snapshot) -> Iterator[str]:
    """What a person should know before these forwards and gateways are made."""
    for item in owner.objects:
        if isinstance(item, Forward):
            for protocol in item.protocols:
                yield from _taken(protocol, item)
            yield from _absent("listenAddresses", (x for x in item.listen if x not in _ALWAYS_THERE), snapshot)
        elif isinstance(item, Gateway):
            yield from _absent("externalIp", (x for x in (item.snat4, item.snat6) if x), snapshot)


def _taken(protocol: str, item: Forward) -> Iterator[str]:
    taken = sorted(port for port in _listening(protocol, item.family) if item.ports[0] <= port <= item.ports[1])
    if taken:
        ports = ", ".join(map(str, taken))
        yield (
            f"a program on the host listens on {protocol} port {ports} ({item.family}): "
            "from outside, the forward takes its place"
        )


def _absent(name: str, addresses: Iterable[str], snapshot: Snapshot) -> Iterator[str]:
    for address in addresses:
        if not snapshot.local(address):
            yield f"{name}: {address} is not an address of the host now, and hostnet adds none"


def _listening(protocol: str, family: str) -> set[int]:
    """The ports with a listener, from /proc/net of this namespace."""
    state = {"tcp": _LISTEN, "udp": _UNCONNECTED}.get(protocol)
    if state is None:
        return set()
    ports: set[int] = set()
    # A v6 socket may take v4 connections as well.
    for suffix in ("", "6") if family == "ipv4" else ("6",):
        try:
            lines = Path(f"/proc/self/net/{protocol}{suffix}").read_text().splitlines()[1:]
        except FileNotFoundError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == state:
                ports.add(int(fields[1].rsplit(":", 1)[1], 16))
    return ports
