"""Warnings before and after a change: ports with a listener, addresses that are not the host's, links left alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from hostnet.agent.dhcp.config import DHCP, served_ports
from hostnet.agent.dhcp.process import in_use
from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.plan.links import glob_members
from hostnet.agent.plan.world import World
from hostnet.agent.record.owners import Owner
from hostnet.wire.family import ANY_ADDRESS
from hostnet.wire.objects import Address, DhcpServer, Forward, Gateway, Glob

_ALWAYS_THERE = frozenset({*ANY_ADDRESS.values(), "127.0.0.1"})


def warnings(owner: Owner, snapshot: Snapshot, listening: Callable[[str, str], set[int]]) -> Iterator[str]:
    """What a person should know before these forwards and gateways are made.

    Args:
        owner: The resource that should have them.
        snapshot: What the kernel has.
        listening: The ports with a listener, by protocol and family (`Kernel.listening`).
    """
    yield from absent(owner, snapshot)
    for forward in owner.of(Forward):
        for protocol in forward.protocols:
            yield from _taken(forward, protocol, listening(protocol, forward.family))
        yield from _absent("listenAddresses", (x for x in forward.listen if x not in _ALWAYS_THERE), snapshot)


def absent(owner: Owner, snapshot: Snapshot) -> Iterator[str]:
    """What a gateway names and the host does not have at the moment. It works again as soon as that is back."""
    yield from lines_down(owner, snapshot)
    for gateway in owner.of(Gateway):
        yield from _absent("externalIp", (x for x in (gateway.snat4, gateway.snat6) if x), snapshot)
        yield from _absent("oneToOneNat", (outer for outer, _ in gateway.one_to_one), snapshot)


def lines_down(owner: Owner, snapshot: Snapshot) -> Iterator[str]:
    """The external interfaces that are not there at the moment."""
    for gateway in owner.of(Gateway):
        for name in gateway.uplinks:
            if name not in snapshot.links:
                yield f"there is no external interface {name} now: nothing leaves or comes in by it until it is back"


def ports_in_use(old: Owner | None, new: Owner, bindable: Callable[..., bool]) -> Iterator[str]:
    """The ports that a bridge's server needs and that another program has, so that it would not start.

    Args:
        old: What the resource has by the record: a server that runs has its ports.
        new: What it should have.
        bindable: Whether a server could have a port (`Kernel.bindable`).
    """
    had = set(_sockets(old)) if old is not None else set()
    taken = {
        (bridge, port)
        for bridge, protocol, address, port in set(_sockets(new)) - had
        if not bindable(protocol, address, port, shared=port == DHCP)
    }
    for bridge, port in sorted(taken):
        yield f"the server of {bridge} would not start: port {port} is in use. {in_use(port)}"


def _sockets(owner: Owner) -> Iterator[tuple[str, str, str, int]]:
    """Those of a bridge's server: bridge, protocol, address and port. DHCP has one on every address."""
    for item in owner.of(DhcpServer):
        own = [each.cidr.partition("/")[0] for each in owner.of(Address) if each.link == item.bridge]
        for protocol, port in served_ports(item):
            for address in [ANY_ADDRESS["ipv4"]] if port == DHCP else own:
                yield item.bridge, protocol, address, port


def left_alone(owner: Owner, world: World) -> Iterator[str]:
    """The interfaces that match a glob and that hostnet does not attach, since they are in another bridge.

    A TAP of a resource's own is where that resource says.
    """
    for item in owner.of(Glob):
        for name in glob_members(item, world.snapshot)[1]:
            if world.link_owner(name) is None:
                there = world.snapshot.master_of(name)
                yield (
                    f"{name} matches {item.pattern} and is not attached to {item.bridge}: it is in {there}. To attach "
                    f"it, take it out of there (`ip link set {name} nomaster`)"
                )


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
