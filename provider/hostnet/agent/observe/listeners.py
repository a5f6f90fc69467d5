"""Ports that a program of the host listens on: a forward takes them from it, of which a preview warns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.record.owners import Owner
from hostnet.wire.family import ANY_ADDRESS
from hostnet.wire.objects import Forward, Gateway

_ALWAYS_THERE = frozenset({*ANY_ADDRESS.values(), "127.0.0.1"})


def warnings(owner: Owner, snapshot: Snapshot, listening: Callable[[str, str], set[int]]) -> Iterator[str]:
    """What a person should know before these forwards and gateways are made.

    Args:
        owner: The resource that should have them.
        snapshot: What the kernel has.
        listening: The ports with a listener, by protocol and family (`Kernel.listening`).
    """
    for gateway in owner.of(Gateway):
        yield from _absent("externalIp", (x for x in (gateway.snat4, gateway.snat6) if x), snapshot)
    for forward in owner.of(Forward):
        for protocol in forward.protocols:
            yield from _taken(forward, protocol, listening(protocol, forward.family))
        yield from _absent("listenAddresses", (x for x in forward.listen if x not in _ALWAYS_THERE), snapshot)


def _taken(item: Forward, protocol: str, listening: Iterable[int]) -> Iterator[str]:
    taken = sorted(port for port in listening if item.ports[0] <= port <= item.ports[1])
    if taken:
        ports = ", ".join(map(str, taken))
        yield (
            f"a program on the host listens on {protocol} port {ports} ({item.family}): "
            "from outside, the forward gets its connections"
        )


def _absent(name: str, addresses: Iterable[str], snapshot: Snapshot) -> Iterator[str]:
    for address in addresses:
        if not snapshot.local(address):
            yield f"{name}: {address} is not an address of the host now, and hostnet adds none"
