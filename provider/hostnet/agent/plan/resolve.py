"""From a change to an owner: look up what only the host knows, allocate addresses, refuse conflicts. Pure."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Callable

from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.plan.guests import resolve_guest
from hostnet.agent.plan.overlaps import check_address, check_gateway, check_route
from hostnet.agent.plan.world import World
from hostnet.agent.record.owners import Owner
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.family import FAMILIES, Family, family_of
from hostnet.wire.objects import (
    EXTERNAL_PLACEHOLDER,
    Address,
    Forward,
    Gateway,
    Glob,
    Guest,
    Link,
    Object,
    Port,
    Route,
)
from hostnet.wire.requests import Change


def resolve(change: Change, world: World) -> Owner:
    """The owner that this change asks for.

    Raises:
        HostnetError: It can't be; names the resource that it conflicts with.
    """
    objects = [_resolve(item, change, world) for item in change.objects]
    return Owner(change.urn, _identity(change, objects, world), tuple(objects))


def _resolve(item: Object, change: Change, world: World) -> Object:
    if isinstance(item, Gateway):
        gateway = resolve_gateway(item, world)
        check_gateway(gateway, change, world)
        return gateway
    if isinstance(item, Forward):
        return _resolve_forward(item, change, world)
    if isinstance(item, Guest):
        return resolve_guest(item, change, world)
    check = _CHECKS.get(type(item))
    if check is not None:
        check(item, change, world)
    return item


def _identity(change: Change, objects: list[Object], world: World) -> str:
    if EXTERNAL_PLACEHOLDER not in change.id:
        return change.id
    forward = next((item for item in objects if isinstance(item, Forward)), None)
    return change.id.replace(EXTERNAL_PLACEHOLDER, world.external_of(forward)) if forward else change.id


# --- links ---------------------------------------------------------------------------------------------------------


def _check_link(item: Link, change: Change, world: World) -> None:
    what = f"cannot create {item.noun} {item.name}"
    owner = world.link_owner(item.name)
    mine = owner is not None and owner.urn == change.urn and (owner.id == change.id or not change.id)
    if owner is not None and not mine:
        raise HostnetError(
            Code.CONFLICT,
            what,
            f"the name belongs to {owner.label}",
            "Choose another name, or import it to take it over",
            holder=owner.key,
        )
    state = world.snapshot.links.get(item.name)
    if state is None:
        _check_altnames(item.name, what, world)
        return
    if state.our_kind != item.kind:
        why = f"EEXIST: an interface of this name exists and is {_a(state.our_kind)}"
        raise HostnetError(Code.CONFLICT, what, why, "Choose another name")
    if not (mine or change.known or item.adopt):
        adopt = ", or with adopt: true" if item.kind == "bridge" else ""
        raise HostnetError(
            Code.CONFLICT,
            what,
            "EEXIST: it already exists and is not managed by hostnet",
            f"Take it over with `pulumi import` (id {item.name}){adopt}",
        )


def _check_altnames(name: str, what: str, world: World) -> None:
    for link in world.snapshot.links.values():
        if name in link.altnames:
            fix = f"Choose another name, or run `ip link property del dev {link.name} altname {name}`"
            raise HostnetError(Code.CONFLICT, what, f"EEXIST: {name} is an alternative name of {link.name}", fix)


def _a(kind: str) -> str:
    names = {"physical": "a network card", "veth": "a veth", "bridge": "a bridge", "tap": "a TAP"}
    return names.get(kind, f"a {kind} interface")


def _check_port(item: Port, _: Change, world: World) -> None:
    what = f"cannot put {item.link} into bridge {item.bridge}"
    if item.link in world.snapshot.uplinks:
        raise _uplink(what, item.link, world.snapshot)
    _check_bridge(item.bridge, what, world)


def _check_bridge(bridge: str, what: str, world: World) -> None:
    declared = world.link(bridge)
    if declared is not None and declared.kind == "bridge":
        return
    state = world.snapshot.links.get(bridge)
    if state is None:
        why = f"there is no interface {bridge}"
        raise HostnetError(Code.NOT_FOUND, what, why, "Create the Bridge first: use its `name` output")
    if state.kind != "bridge":
        raise HostnetError(Code.INVALID, what, f"{bridge} is {_a(state.our_kind)}", "Name a bridge")


def _check_glob(item: Glob, change: Change, world: World) -> None:
    for owner, other in world.others(change, Glob):
        if other.key == item.key:
            why = f"{item.bridge} has the match {item.pattern} already, which belongs to {owner.label}"
            raise HostnetError(Code.CONFLICT, f"cannot attach {item.pattern}", why, "Remove one of the two")
    what = f"cannot attach {item.pattern!r} to bridge {item.bridge}"
    _check_bridge(item.bridge, what, world)
    for name, link in world.snapshot.links.items():
        if fnmatch.fnmatchcase(name, item.pattern) and name != item.bridge:
            if name in world.snapshot.uplinks:
                raise _uplink(what, name, world.snapshot)
            if link.physical:
                why = f"{name} matches and is a physical interface"
                raise HostnetError(Code.INVALID, what, why, "Narrow the glob")


def _uplink(what: str, name: str, snapshot: Snapshot) -> HostnetError:
    families = " and ".join(
        family.replace("ip", "IP") for family, link in sorted(snapshot.default_links.items()) if link == name
    )
    return HostnetError(
        Code.INVALID,
        what,
        f"{name} is the interface of the {families} default route; the host would lose its own network",
        "Name other interfaces",
    )


# An object of another type conflicts with nothing.
_CHECKS: Mapping[type[Any], Callable[[Any, Change, World], None]] = {
    Link: _check_link,
    Address: check_address,
    Route: check_route,
    Port: _check_port,
    Glob: _check_glob,
}


# --- gateways and forwards -----------------------------------------------------------------------------------------


def _default_link(what: str, family: Family | None, snapshot: Snapshot) -> str:
    """The interface of the default route: IPv4's first, where the family is not given."""
    for each in sorted(FAMILIES, key=lambda each: each != family):
        if each in snapshot.default_links:
            return snapshot.default_links[each]
    why = "externalInterface is not set and the host has no default route"
    raise HostnetError(Code.NOT_FOUND, what, why, "Set externalInterface")


def resolve_gateway(item: Gateway, world: World) -> Gateway:
    """A gateway with its external interfaces.

    Raises:
        HostnetError: One does not exist, or an address can't be what it is for.
    """
    what = f"cannot set up NAT gateway {item.name}"
    uplinks = item.uplinks or default_uplinks(item, world.snapshot) or _former_uplinks(item, world)
    uplinks = uplinks or (_default_link(what, None, world.snapshot),)
    for external in uplinks:
        if external not in world.snapshot.links:
            raise _missing_external(what, external, world.snapshot)
        if external in item.internal:
            why = f"{external} is both its external and an internal interface"
            raise HostnetError(Code.INVALID, what, why, "Name it as one of them only")
    for name, address in (("dmzHost", item.dmz4), ("dmzHostIpv6", item.dmz6)):
        _check_machine(what, name, address, world)
    for name, address in (("externalIp", item.snat4), ("externalIpv6", item.snat6)):
        for external in uplinks:
            _check_machine(what, name, address, world, on=external)
    for outer, inner in item.one_to_one:
        _check_machine(what, "oneToOneNat", inner, world)
        _check_one_to_one(what, outer, uplinks, world.snapshot)
    return replace(item, external=uplinks[0], more=uplinks[1:], resolved=item.external is None or item.resolved)


def _check_one_to_one(what: str, outer: str, uplinks: tuple[str, ...], snapshot: Snapshot) -> None:
    """Refuse to give away the only address of an uplink: the host itself could not be reached any more."""
    for external in uplinks:
        cidrs = snapshot.addresses.get(external, ())
        own = {cidr.partition("/")[0] for cidr in cidrs if family_of(cidr) == family_of(outer)}
        if own == {outer}:
            why = f"oneToOneNat: {outer} is the only {family_of(outer).replace('ip', 'IP')} address of {external}"
            fix = "Use an additional address: the host itself needs this one. Or use a dmzHost"
            raise HostnetError(Code.INVALID, what, why, fix)


def default_uplinks(item: Gateway, snapshot: Snapshot) -> tuple[str, ...]:
    """The external interfaces of a gateway that names none: those of all default routes, without its internal ones."""
    return tuple(name for name in snapshot.default_uplinks if name not in item.internal)


def _former_uplinks(item: Gateway, world: World) -> tuple[str, ...]:
    """What a gateway had that names none, while the host has no default route: its line may come back."""
    former = world.gateway(item.name)
    there = former.uplinks if former is not None and former.resolved else ()
    return tuple(name for name in there if name in world.snapshot.links)


def _check_machine(what: str, name: str, address: str | None, world: World, on: str | None = None) -> None:
    """Refuse an address that no machine can have.

    Args:
        what: What it is for.
        name: The property.
        address: The address.
        world: All owners, and the kernel.
        on: The interface whose subnets count, of an address that the host is to have: all addresses of a subnet that a
            hoster routes to this host are its own.
    """
    why = world.reserved(address, on) if address is not None else ""
    if why:
        raise HostnetError(
            Code.INVALID, what, f"{name}: {address} is {why}, which no machine can have", "Choose another address"
        )


def _missing_external(what: str, name: str, snapshot: Snapshot) -> HostnetError:
    there = ", ".join(sorted(name for name in snapshot.links if name != "lo")) or "none"
    why = f"there is no external interface {name}"
    return HostnetError(Code.NOT_FOUND, what, why, f"The host's interfaces are: {there}")


def _resolve_forward(item: Forward, change: Change, world: World) -> Forward:
    if world.reserved(item.address):
        _check_machine(_what(item), "destination", item.address, world)
    if item.gateway is not None:
        own = any(isinstance(x, Gateway) and x.name == item.gateway for x in change.objects)
        if not own and world.gateway(item.gateway) is None:
            why = f"there is no NAT gateway {item.gateway}"
            raise HostnetError(Code.NOT_FOUND, _what(item), why, "Use the `id` of a NatGateway")
        return item
    external = item.external
    asked = external is not None
    if external is None and EXTERNAL_PLACEHOLDER not in change.id and change.known:
        external = change.id.split("/", 1)[0]  # the id says which interface it was when it was created
    external = external or _default_link(_what(item), item.family, world.snapshot)
    if external not in world.snapshot.links:
        raise _missing_external(_what(item), external, world.snapshot)
    return replace(item, external=external, resolved=not asked)


def _what(item: Forward) -> str:
    ports = "-".join(map(str, dict.fromkeys(item.ports)))
    return f"cannot forward {'+'.join(item.protocols)} port {ports} to {item.address}"
