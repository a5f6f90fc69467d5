"""What elements depend on beside their own owner, gathered from all owners. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Mapping

from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.nft.elements import Context, overlap
from hostnet.agent.record.owners import Owners
from hostnet.wire.objects import Address, Forward, Gateway, Link, Object, Port, Route


def context_of(owners: Owners, snapshot: Snapshot, attached: Mapping[str, str]) -> Context:
    """The context; empty while no gateway and no forward is there, and so nothing needs the table.

    :param attached: the links that globs attached.
    """
    items = [item for owner in owners.structural.values() for item in owner.objects]
    gateways = {item.name: item for item in items if isinstance(item, Gateway)}
    if not gateways and len(owners) == len(owners.structural):
        return Context()
    declared: dict[str, tuple[str, ...]] = {}
    for item in items:
        if isinstance(item, Address):
            declared[item.link] = (*declared.get(item.link, ()), item.cidr)
    devices = tuple(sorted(_devices(items, declared)))
    inner = {*devices, *(name for gateway in gateways.values() for name in gateway.internal)}
    doubled, externals = _doubled(owners, gateways)
    looked_up = {name: snapshot.addresses.get(name, ()) for name in {*inner, *externals} - set(devices)}
    addresses = {**looked_up, **{name: declared.get(name, ()) for name in devices}}
    ports = tuple(sorted(_ports(items, inner, attached))) if _looped(owners) else ()
    bridges = _strangers(gateways, snapshot, inner)
    observed = hashlib.sha256(repr(sorted({**looked_up, **bridges}.items())).encode()).hexdigest()[:16]
    return Context(devices, addresses, gateways, ports, doubled, bridges, observed if looked_up or bridges else "")


def _strangers(
    gateways: Mapping[str, Gateway], snapshot: Snapshot, inner: Container[str]
) -> dict[str, tuple[str, ...]]:
    """Other people's bridges in the gateways' networks, with their addresses."""
    networks = [cidr for gateway in gateways.values() for cidr in (*gateway.internal4, *gateway.internal6)]
    return {
        name: cidrs
        for name, cidrs in sorted(snapshot.addresses.items() if networks else ())
        if name not in inner and snapshot.links[name].kind == "bridge" and overlap(networks, cidrs)
    }


def ports_of(owners: Owners, attached: Mapping[str, str]) -> frozenset[str]:
    """`Context.ports` alone, without a look at ten thousand forwards."""
    items = [item for owner in owners.structural.values() for item in owner.objects]
    declared = {item.link: ("",) for item in items if isinstance(item, Address)}
    inner = {*_devices(items, declared), *(name for x in items if isinstance(x, Gateway) for name in x.internal)}
    return frozenset(_ports(items, inner, attached)) if _looped(owners) else frozenset()


def _devices(items: list[Object], declared: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Our bridges and routed TAPs."""
    for item in items:
        if isinstance(item, Link) and (item.kind == "bridge" or item.name in declared):
            yield item.name
        elif isinstance(item, Route):
            yield item.link


def _ports(items: list[Object], bridges: set[str], attached: Mapping[str, str]) -> set[str]:
    return {item.link for item in items if isinstance(item, Port) and item.bridge in bridges} | set(attached)


def _looped(owners: Owners) -> bool:
    """Whether any forward may be reached from within."""
    return any(isinstance(item, Forward) and item.loopback for owner in owners.values() for item in owner.objects)


def _doubled(owners: Owners, gateways: Mapping[str, Gateway]) -> tuple[frozenset[tuple[str, str, int]], frozenset[str]]:
    """The ports that several external interfaces forward, and those interfaces (none, where there is just one)."""
    externals: dict[str, list[Forward]] = {}
    for owner in owners.values():
        for item in owner.objects:
            if isinstance(item, Forward):
                gateway = gateways.get(item.gateway) if item.gateway else None
                external = (gateway.external if gateway else item.external) or ""
                externals.setdefault(external, []).append(item)
    if len(externals) < 2:
        return frozenset(), frozenset()
    seen: dict[tuple[str, str, int], str] = {}
    doubled = set()
    for external, forwards in externals.items():
        for item in forwards:
            for key in ((item.family, protocol, port) for protocol in item.protocols for port in set(item.ports)):
                if seen.setdefault(key, external) != external:
                    doubled.add(key)
    return frozenset(doubled), frozenset(externals)
