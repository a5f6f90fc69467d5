"""From what an owner had, what it should have and what the kernel has, to operations and what undoes them. Pure.

Creating comes before removing: `Plan.build` runs before the nftables batch and the sysctls, `Plan.remove` after them,
so that a new network is closed before it is reachable and an old one stays closed until it is gone.
"""

from __future__ import annotations

import fnmatch
import ipaddress
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace

from hostnet.agent.linux import operations as ops
from hostnet.agent.linux.operations import Operation, Step
from hostnet.agent.linux.snapshot import KernelLink, Snapshot
from hostnet.agent.plan.resolve import World
from hostnet.agent.record.owners import Owner
from hostnet.wire.objects import Address, Glob, Link, Object, Port, Route

_IPV6_MIN_MTU = 1280


@dataclass
class Plan:
    """The steps of a transaction, in order, and the links that globs attach or let go."""

    build: list[Step] = field(default_factory=list)
    remove: list[Step] = field(default_factory=list)
    attached: dict[str, str] = field(default_factory=dict)  # link -> owner key of the glob
    detached: list[str] = field(default_factory=list)

    @property
    def undo(self) -> tuple[Operation, ...]:
        """What takes it all back, in order: the last step first."""
        return self.undo_but(())

    def undo_but(self, failed: Container[str]) -> tuple[Operation, ...]:
        """What takes it back but for the steps of these owners, of which nothing is left."""
        steps = (step for step in reversed([*self.build, *self.remove]) if step.owner not in failed)
        return tuple(each for step in steps for each in step.undo)


@dataclass(frozen=True)
class Names:
    """How a declared user or group compares with a number in the kernel (looked up by the caller: no IO here)."""

    users: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)


def plan(
    old: Owner | None, new: Owner | None, world: World, attached: Mapping[str, str], names: Names, into: Plan
) -> None:
    """Add the steps that take one owner from `old` to `new`, given what the kernel has.

    :param world: all owners as they will be, and the snapshot.
    :param attached: which glob attached which link so far.
    """
    key = (new or old).key  # type: ignore[union-attr]
    wanted = {item.key: item for item in new.objects} if new else {}
    had = {item.key: item for item in old.objects} if old else {}
    for item in wanted.values():
        if isinstance(item, Link):
            before = had.get(item.key)
            world = _remade(key, item, world, names, into)
            _link(key, item, before if isinstance(before, Link) else None, world.snapshot, names, into)
            _other_ports(key, item, world, attached, into)
    _addresses(key, wanted.values(), world.snapshot, into)
    for item in wanted.values():
        if isinstance(item, Port):
            _port(key, item, world, into)
        elif isinstance(item, Glob):
            glob_steps(key, item, world, attached, into)
    for name, item in had.items():
        if name not in wanted:
            _gone(key, item, wanted, world.snapshot, attached, into)


def _remade(key: str, item: Link, world: World, names: Names, into: Plan) -> World:
    """A TAP whose owner or group is taken back is made anew: the kernel can change them, but not take them off."""
    state = world.snapshot.links.get(item.name)
    if state is None or item.kind != "tap" or not takes_user_off(item, state, names):
        return world
    into.build.append(Step(key, ops.DeleteLink(item.name), tuple(_remake(item, world.snapshot))))
    links = {name: link for name, link in world.snapshot.links.items() if name != item.name}
    addresses = {name: cidrs for name, cidrs in world.snapshot.addresses.items() if name != item.name}
    routes = {name: cidrs for name, cidrs in world.snapshot.routes.items() if name != item.name}
    return replace(world, snapshot=replace(world.snapshot, links=links, addresses=addresses, routes=routes))


def takes_user_off(item: Link, state: KernelLink, names: Names) -> bool:
    """Whether the declaration wants a TAP without the group, or without the owner, that it has."""
    if same_user(item, state, names):
        return False
    no_user = item.user is None and item.group is not None and state.uid is not None
    return no_user or (item.group is None and state.gid is not None)


def _link(key: str, item: Link, before: Link | None, snapshot: Snapshot, names: Names, into: Plan) -> None:
    state = snapshot.links.get(item.name)
    if state is None:
        into.build.append(Step(key, _create(item), (ops.DeleteLink(item.name),)))
        if item.kind == "tap" and (item.mtu is not None or item.mac is not None):
            into.build.append(Step(key, ops.SetLink(item.name, mtu=item.mtu, mac=item.mac)))
        into.build.append(Step(key, ops.SetLink(item.name, accept_ra=0, up=True)))
        return
    _change_link(key, item, before, snapshot, names, into)
    if not state.up:
        into.build.append(Step(key, ops.SetLink(item.name, up=True), (ops.SetLink(item.name, up=False),)))


def _create(item: Link) -> Operation:
    if item.kind == "bridge":
        return ops.CreateBridge(item.name, item.mac, item.mtu, item.stp, item.vlan_filtering)
    return ops.CreateTap(item.name, item.user, item.group, item.multi_queue, item.vnet_hdr)


def _change_link(key: str, item: Link, before: Link | None, snapshot: Snapshot, names: Names, into: Plan) -> None:
    state = snapshot.links[item.name]
    bridge = item.kind == "bridge"
    # A bridge follows its smallest port until an MTU is set by hand, also to what it happens to be.
    unpinned = bridge and (before is None or before.mtu is None)

    def add(operation: Operation, undo: Operation) -> None:
        into.build.append(Step(key, operation, (undo,)))

    if item.mac is not None and state.mac != item.mac:
        add(ops.SetLink(item.name, mac=item.mac), ops.SetLink(item.name, mac=state.mac))
    if item.mtu is not None and (unpinned or state.mtu != item.mtu):
        add(
            ops.SetLink(item.name, mtu=item.mtu, bridge_device=bridge),
            ops.SetLink(item.name, mtu=state.mtu, bridge_device=bridge),
        )
    # Below 1280 bytes a link has no IPv6; when that comes back, so does what the host accepts by default.
    anew = state.accept_ra is None and state.mtu < _IPV6_MIN_MTU <= (item.mtu or 0)
    if snapshot.takes_routers(item.name) or anew:
        add(ops.SetLink(item.name, accept_ra=0), ops.SetLink(item.name, accept_ra=state.accept_ra))
    if bridge and state.stp != item.stp:
        add(ops.SetBridgeOption(item.name, "stp", item.stp), ops.SetBridgeOption(item.name, "stp", state.stp))
    if bridge and state.vlan_filtering != item.vlan_filtering:
        add(
            ops.SetBridgeOption(item.name, "vlan_filtering", item.vlan_filtering),
            ops.SetBridgeOption(item.name, "vlan_filtering", state.vlan_filtering),
        )
    if not bridge and not same_user(item, state, names):
        operation = ops.SetTapUser(item.name, item.user, item.group, item.multi_queue, item.vnet_hdr)
        into.build.append(Step(key, operation, _former_user(item, state, snapshot)))


def _former_user(item: Link, state: KernelLink, snapshot: Snapshot) -> tuple[Operation, ...]:
    """What gives a TAP its former owner and group; one that it had not can only be taken off by making it anew."""
    if (state.uid is None and item.user is not None) or (state.gid is None and item.group is not None):
        return (ops.DeleteLink(item.name), *_remake(item, snapshot))
    return (ops.SetTapUser(item.name, _number(state.uid), _number(state.gid), item.multi_queue, item.vnet_hdr),)


def same_user(item: Link, state: KernelLink, names: Names) -> bool:
    """Whether the TAP may be opened by whom the declaration says (nobody named: root)."""
    uid = names.users.get(item.user) if item.user is not None else (0 if item.group is None else None)
    gid = names.groups.get(item.group) if item.group is not None else None
    return uid == state.uid and gid == state.gid


def _addresses(key: str, wanted: Iterable[Object], snapshot: Snapshot, into: Plan) -> None:
    """Addresses of a link of ours are exclusive: what somebody else added goes."""
    wanted = list(wanted)
    for item in wanted:
        if not isinstance(item, Link):
            continue
        link = item.name
        declared = [item.cidr for item in wanted if isinstance(item, Address) and item.link == link]
        seen = snapshot.addresses.get(link, ())
        extra = [cidr for cidr in seen if cidr not in declared]
        missing = [cidr for cidr in declared if cidr not in seen]
        _exchange(key, link, declared, missing, extra, snapshot.through.get(link, ()), into)
        if item.kind == "tap":
            routes = [route.cidr for route in wanted if isinstance(route, Route) and route.link == link]
            _routes(key, link, routes, snapshot.routes.get(link, ()), into)
            if any(":" not in cidr for cidr in extra):
                # With a link's last IPv4 address the kernel drops its IPv4 routes: put ours back.
                into.remove.extend(Step(key, ops.AddRoute(link, cidr)) for cidr in routes if ":" not in cidr)


def _routes(key: str, link: str, declared: list[str], seen: tuple[str, ...], into: Plan) -> None:
    """Routes through a TAP of ours are exclusive, as its addresses are. A bridge's are its host's business."""
    for cidr in declared:
        if cidr not in seen:
            into.build.append(Step(key, ops.AddRoute(link, cidr), (ops.DeleteRoute(link, cidr),)))
    for cidr in seen:
        if cidr not in declared:
            into.remove.append(Step(key, ops.DeleteRoute(link, cidr), (ops.AddRoute(link, cidr),)))


def _exchange(
    key: str,
    link: str,
    declared: list[str],
    missing: list[str],
    extra: list[str],
    through: Iterable[Operation],
    into: Plan,
) -> None:
    """Add before deleting, but for a v6 address that only changes its prefix length: the kernel has each once.

    :param through: the routes that may go with the addresses; undone last, when the addresses are back.
    """
    again = {ipaddress.ip_interface(cidr).ip for cidr in missing if ":" in cidr}
    for cidr in extra:
        if ipaddress.ip_interface(cidr).ip in again:
            into.build.append(Step(key, ops.DeleteAddress(link, cidr), (ops.AddAddress(link, cidr),)))
    for cidr in missing:
        into.build.append(Step(key, ops.AddAddress(link, cidr), (ops.DeleteAddress(link, cidr),)))
    late = [cidr for cidr in extra if ipaddress.ip_interface(cidr).ip not in again]
    for cidr in late:
        routes = through if cidr == late[0] else ()
        into.remove.append(Step(key, ops.DeleteAddress(link, cidr), (ops.AddAddress(link, cidr), *routes)))
    # Deleting a primary v4 address takes its secondaries along (unless promote_secondaries): put ours back.
    for cidr in declared:
        mine = ipaddress.ip_interface(cidr)
        if mine.version == 4 and any(ipaddress.ip_interface(x).network == mine.network for x in late):
            into.remove.append(Step(key, ops.AddAddress(link, cidr)))


def _port(key: str, item: Port, world: World, into: Plan) -> None:
    bridge = world.link(item.bridge)
    isolated = item.isolated or (bridge is not None and bridge.port_isolation)
    _attach(key, item.link, item.bridge, isolated=isolated, snapshot=world.snapshot, into=into)


def _attach(key: str, link: str, bridge: str, *, isolated: bool, snapshot: Snapshot, into: Plan) -> None:
    state = snapshot.links.get(link)
    master = snapshot.master_of(link)
    if master != bridge:
        undo = (ops.SetLink(link, bridge=master or ""),) if state else ()
        into.build.append(Step(key, ops.SetLink(link, bridge=bridge), undo))
    if (state is not None and state.isolated) != isolated or (isolated and master != bridge):
        undo = (ops.SetLink(link, isolated=not isolated),) if state and master == bridge else ()
        into.build.append(Step(key, ops.SetLink(link, isolated=isolated), undo))


def _other_ports(key: str, item: Link, world: World, attached: Mapping[str, str], into: Plan) -> None:
    """Other owners' ports of a bridge: as isolated as it says, and back in it when it is made anew."""
    if item.kind != "bridge":
        return
    anew = item.name not in world.snapshot.links
    for owner in world.owners.structural.values():
        if owner.key == key:
            continue
        for port in owner.objects:
            if not isinstance(port, (Port, Glob)) or port.bridge != item.name:
                continue
            if isinstance(port, Glob) and anew:
                glob_steps(owner.key, port, world, attached, into)
                continue
            links = [port.link] if isinstance(port, Port) else [x for x, by in attached.items() if by == owner.key]
            for link in links:
                there = link in world.snapshot.links
                if there and world.snapshot.master_of(link) == (None if anew else item.name):
                    _attach(
                        key,
                        link,
                        item.name,
                        isolated=port.isolated or item.port_isolation,
                        snapshot=world.snapshot,
                        into=into,
                    )


def hairpin(key: str, old: Iterable[str], new: Iterable[str], snapshot: Snapshot, into: Plan) -> None:
    """Hairpin mode of ports: on where a guest may reach a forward to itself, off again where none is left.

    With br_netfilter the translation happens on the way through the bridge, and the frame has to leave by the port it
    came in by. What is flooded comes back, too: the bridge table drops that.

    :param old: the ports that had it on our account; `new`: those that shall.
    """
    new = set(new)
    joining = {
        step.operation.name for step in into.build if isinstance(step.operation, ops.SetLink) and step.operation.bridge
    }
    for port in sorted(new):
        state = snapshot.links.get(port)
        if port in joining or (state is not None and state.master and not state.hairpin):
            into.build.append(Step(key, ops.SetLink(port, hairpin=True)))
    anew = {step.operation.name for step in into.build if isinstance(step.operation, ops.DeleteLink)}
    for port in sorted(set(old) - new - anew):
        state = snapshot.links.get(port)
        if state is not None and state.master and state.hairpin:
            into.build.append(Step(key, ops.SetLink(port, hairpin=False), (ops.SetLink(port, hairpin=True),)))


def glob_members(item: Glob, snapshot: Snapshot) -> tuple[list[str], list[str]]:
    """The interfaces that a glob should have now, and those that match but sit in another bridge."""
    members: list[str] = []
    left: list[str] = []
    for name in sorted(snapshot.links):
        if name == item.bridge or not fnmatch.fnmatchcase(name, item.pattern):
            continue
        if name in snapshot.uplinks or snapshot.links[name].physical or snapshot.links[name].kind == "bridge":
            continue
        master = snapshot.master_of(name)
        (members if master in (None, item.bridge) else left).append(name)
    return members, left


def glob_steps(key: str, item: Glob, world: World, attached: Mapping[str, str], into: Plan) -> None:
    """Add the steps that attach what a glob matches now: up, in the bridge, as isolated as it says."""
    bridge = world.link(item.bridge)
    declared = {x.name for owner in world.holding(Link) for x in owner.objects if isinstance(x, Link)}
    isolated = item.isolated or (bridge is not None and bridge.port_isolation)
    for name in glob_members(item, world.snapshot)[0]:
        if name in declared:
            continue  # it has a resource of its own, which says where it belongs
        mine = attached.get(name) == key
        if world.snapshot.master_of(name) == item.bridge and not mine:
            continue  # somebody else put it there: not ours to change, nor to let go
        _attach(key, name, item.bridge, isolated=isolated, snapshot=world.snapshot, into=into)
        if not world.snapshot.links[name].up:
            into.build.append(Step(key, ops.SetLink(name, up=True)))
        into.attached[name] = key


def _gone(
    key: str, item: Object, wanted: Mapping[str, Object], snapshot: Snapshot, attached: Mapping[str, str], into: Plan
) -> None:
    """What the owner had and shall not have any more."""
    if isinstance(item, Link):
        state = snapshot.links.get(item.name)
        if state is not None and state.our_kind == item.kind:
            into.remove.append(Step(key, ops.DeleteLink(item.name), tuple(_remake(item, snapshot))))
    elif isinstance(item, Port):
        if f"link {item.link}" in wanted and snapshot.master_of(item.link) == item.bridge:
            undo = (ops.SetLink(item.link, bridge=item.bridge),)
            into.remove.append(Step(key, ops.SetLink(item.link, bridge=""), undo))
    elif isinstance(item, Glob):
        _let_go(key, item, snapshot, attached, into)


def _let_go(key: str, item: Glob, snapshot: Snapshot, attached: Mapping[str, str], into: Plan) -> None:
    """Detach exactly what the glob attached, where it still is."""
    for name, owner in attached.items():
        if owner != key or name in into.attached:
            continue
        into.detached.append(name)
        if snapshot.master_of(name) == item.bridge:
            undo = (ops.SetLink(name, bridge=item.bridge),)
            into.remove.append(Step(key, ops.SetLink(name, bridge=""), undo))


def _remake(item: Link, snapshot: Snapshot) -> Iterable[Operation]:
    """What brings a deleted link back as it was, whatever is declared by now."""
    name, state = item.name, snapshot.links[item.name]
    if item.kind == "bridge":
        yield ops.CreateBridge(name, state.mac, item.mtu, state.stp, state.vlan_filtering)
    else:
        yield ops.CreateTap(name, _number(state.uid), _number(state.gid), state.multi_queue, state.vnet_hdr)
        yield ops.SetLink(name, mac=state.mac, mtu=state.mtu)
        master = snapshot.master_of(name)
        if master:
            yield ops.SetLink(name, bridge=master, isolated=state.isolated, hairpin=state.hairpin)
    yield ops.SetLink(name, accept_ra=state.accept_ra, up=state.up)
    yield from (ops.AddAddress(name, cidr) for cidr in snapshot.addresses.get(name, ()))
    if item.kind == "tap":
        yield from (ops.AddRoute(name, cidr) for cidr in snapshot.routes.get(name, ()))
    if item.kind == "bridge":
        # The kernel clears isolation and hairpin mode as a port leaves.
        for port in map(snapshot.links.__getitem__, snapshot.ports_of(name)):
            yield ops.SetLink(port.name, bridge=name, isolated=port.isolated, hairpin=port.hairpin)
        yield from snapshot.through.get(name, ())


def _number(number: int | None) -> str | None:
    return None if number is None else str(number)
