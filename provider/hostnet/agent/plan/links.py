"""The operations on links that take an owner from what it has to what it should have, and their inverses. Pure.

Creating comes before removing: `Plan.build` runs before the nftables batch and the sysctls, `Plan.remove` after them,
so that a new network is closed before it can be reached, and an old one stays closed until it is gone.
"""

from __future__ import annotations

import fnmatch
import ipaddress
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace

from hostnet.agent.linux import operations as ops
from hostnet.agent.linux.operations import Operation, Step
from hostnet.agent.linux.shaping import Bucket
from hostnet.agent.linux.snapshot import KernelLink, Snapshot
from hostnet.agent.plan.mtu import followers, mtu_steps, noted_mtu, port_mtu, wanted_mtu
from hostnet.agent.plan.world import World
from hostnet.agent.record.originals import Mtu
from hostnet.agent.record.owners import Owner
from hostnet.wire.family import IPV6_MTU_MIN, family_of
from hostnet.wire.objects import ETHERNET_MTU, Address, Glob, Guest, Link, Port, Route

# Each reserved group address (01:80:c2:00:00:0X: STP, LLDP) but for that of pause frames, which the kernel drops. A
# frame to one of them passes no rule of nftables otherwise, and yet the bridge learns its source MAC address, and STP
# of the bridge obeys it (`br_handle_frame`, Linux 6.18). With its bit set it is a frame like any other.
EVERY_GROUP = 0xFFFD


@dataclass
class Plan:
    """The steps of a transaction, in order.

    Attributes:
        build: Those that come before the nftables batch.
        remove: Those that come after it.
        attached: By the name of a link that a glob attaches, the key of the glob's owner.
        detached: The links that globs release.
        mtus: By link, the key of the owner for which its MTU is set, and what to record of it (None: nothing).
    """

    build: list[Step] = field(default_factory=list)
    remove: list[Step] = field(default_factory=list)
    attached: dict[str, str] = field(default_factory=dict)
    detached: list[str] = field(default_factory=list)
    mtus: dict[str, tuple[str, Mtu | None]] = field(default_factory=dict)

    @property
    def undo(self) -> tuple[Operation, ...]:
        """The inverses of all steps, the last step first."""
        return self.undo_but(())

    def undo_but(self, failed: Container[str]) -> tuple[Operation, ...]:
        """The inverses, but for the steps of these owners, which are undone already."""
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
    """Add the steps that take one owner from `old` to `new`.

    Args:
        old: What it has; None: nothing.
        new: What it should have; None: nothing.
        world: All owners as they will be, and what the kernel has.
        attached: By link, the owner whose glob attached it so far.
        names: The numbers of users and groups.
        into: Where the steps are added.
    """
    new = new or _without_objects(old)
    old = old or _without_objects(new)
    key = new.key
    had = {item.name: item for item in old.of(Link)}
    for item in new.of(Link):
        world = _recreated(key, item, had.get(item.name), world, names, into)
        _link(key, item, had.get(item.name), world, names, into)
        _enable_ipv6(key, item, new, world.snapshot, into)
        _other_ports(key, item, world, attached, into)
        _addresses(key, item, new, world.snapshot, into)
    for port in new.of(Port):
        _port(key, port, new, world, into)
    for glob in new.of(Glob):
        glob_steps(key, glob, world, attached, into)
    _remove(old, new, world, attached, into)


def _without_objects(owner: Owner | None) -> Owner:
    return replace(owner, objects=()) if owner else Owner("", "")


def _recreated(key: str, item: Link, before: Link | None, world: World, names: Names, into: Plan) -> World:
    """A TAP whose owner or group is unset is created again: the kernel can change them, and not unset them.

    So is one that changes hands, if its new resource has another number of queues.
    """
    state = world.snapshot.links.get(item.name)
    if state is None or item.kind != "tap":
        return world
    other_queues = before is not None and before.multi_queue != item.multi_queue
    if not (other_queues or takes_user_off(item, state, names)):
        return world
    into.build.append(Step(key, ops.DeleteLink(item.name), tuple(_recreate(item, world.snapshot))))
    links = {name: link for name, link in world.snapshot.links.items() if name != item.name}
    addresses = {name: cidrs for name, cidrs in world.snapshot.addresses.items() if name != item.name}
    routes = {name: cidrs for name, cidrs in world.snapshot.routes.items() if name != item.name}
    buckets = {name: bucket for name, bucket in world.snapshot.buckets.items() if name != item.name}
    without = replace(world.snapshot, links=links, addresses=addresses, routes=routes, buckets=buckets)
    return replace(world, snapshot=without)


def takes_user_off(item: Link, state: KernelLink, names: Names) -> bool:
    """Whether a TAP has an owner or a group that the declaration does not name."""
    if same_user(item, state, names):
        return False
    no_user = item.user is None and item.group is not None and state.uid is not None
    return no_user or (item.group is None and state.gid is not None)


def _link(key: str, item: Link, before: Link | None, world: World, names: Names, into: Plan) -> None:
    state, mtu = world.snapshot.links.get(item.name), wanted_mtu(key, item, world)
    into.mtus[item.name] = (key, noted_mtu(item.name, mtu, world))
    if state is None:
        into.build.append(Step(key, _create(item), (ops.DeleteLink(item.name),)))
        # A bridge gets both in the message that creates it; /dev/net/tun takes neither.
        if item.kind == "tap" and (mtu is not None or item.mac is not None):
            into.build.append(Step(key, ops.SetLink(item.name, mtu=mtu, mac=item.mac)))
        _download(key, item, before, mtu, world.snapshot, into)
        into.build.append(Step(key, ops.SetLink(item.name, accept_ra=0, up=True)))
        return
    _change_link(key, item, before, mtu, world, names, into)
    _download(key, item, before, mtu, world.snapshot, into)
    if not state.up:
        into.build.append(Step(key, ops.SetLink(item.name, up=True), (ops.SetLink(item.name, up=False),)))


def bucket_of(download: int, mtu: int) -> Bucket:
    """The token bucket that limits what a guest receives.

    Full, it lasts 4 ms, as many as a timer of 250 Hz has between two ticks, and holds the largest frame: also that of
    an MTU of 9000 which its bridge gets later. As much waits as takes 50 ms, and at a low rate twenty frames.

    Args:
        download: bit/s.
        mtu: The TAP's.
    """
    rate = download // 8
    return Bucket(rate, max(rate // 250, 16384, 2 * mtu), max(rate // 20, 32768, 4 * mtu))


def _download(key: str, item: Link, before: Link | None, mtu: int | None, snapshot: Snapshot, into: Plan) -> None:
    """Limit what a guest receives. What another program limits on a TAP without `bandwidth` is left alone."""
    state, there = snapshot.links.get(item.name), snapshot.buckets.get(item.name)
    if item.download is None:
        if before is not None and before.download is not None and there is not None:
            into.build.append(Step(key, ops.Unshape(item.name), (_shape(item.name, there),)))
        return
    wanted = bucket_of(item.download, mtu or (state.mtu if state else ETHERNET_MTU))
    if state is None or there is None or not same_bucket(there, wanted):
        undo = ops.Unshape(item.name) if there is None else _shape(item.name, there)
        into.build.append(Step(key, _shape(item.name, wanted), (undo,)))


def _shape(name: str, bucket: Bucket) -> Operation:
    return ops.Shape(name, bucket.rate, bucket.burst, bucket.limit)


def same_bucket(one: Bucket, other: Bucket) -> bool:
    """Whether two are the same: the kernel counts a burst in ticks of 64 ns."""
    close = abs(one.burst - other.burst) <= max(one.burst, other.burst) // 50
    return close and (one.rate, one.limit) == (other.rate, other.limit)


def _enable_ipv6(key: str, item: Link, owner: Owner, snapshot: Snapshot, into: Plan) -> None:
    """A link that is to have addresses or routes of IPv6 gets IPv6.

    Where conf.default.disable_ipv6 is 1, a new link has none, and the kernel refuses its addresses (EACCES).
    """
    addresses = (address.cidr for address in owner.of(Address) if address.link == item.name)
    routes = (route.cidr for route in owner.of(Route) if route.link == item.name)
    if not any(family_of(cidr) == "ipv6" for cidr in (*addresses, *routes)):
        return
    state = snapshot.links.get(item.name)
    if state is None:
        into.build.append(Step(key, ops.SetLink(item.name, ipv6=True)))
    elif state.disable_ipv6 or (state.accept_ra is None and state.mtu < IPV6_MTU_MIN):
        into.build.append(Step(key, ops.SetLink(item.name, ipv6=True), (ops.SetLink(item.name, ipv6=False),)))


def _create(item: Link) -> Operation:
    if item.kind == "bridge":
        return ops.CreateBridge(item.name, item.mac, item.mtu, item.stp, item.vlan_filtering)
    return ops.CreateTap(item.name, item.user, item.group, item.multi_queue, item.vnet_hdr)


def _change_link(
    key: str, item: Link, before: Link | None, mtu: int | None, world: World, names: Names, into: Plan
) -> None:
    snapshot = world.snapshot
    state = snapshot.links[item.name]
    bridge = item.kind == "bridge"
    # A bridge follows its smallest port until an MTU is set by hand, also to what it happens to be.
    unpinned = bridge and (before is None or before.mtu is None)

    def add(operation: Operation, undo: Operation) -> None:
        into.build.append(Step(key, operation, (undo,)))

    if item.mac is not None and state.mac != item.mac:
        add(ops.SetLink(item.name, mac=item.mac), ops.SetLink(item.name, mac=state.mac))
    if unpinned and mtu == state.mtu:
        pin = ops.SetLink(item.name, mtu=mtu, bridge_device=True)
        add(pin, pin)
    into.build += mtu_steps(key, item.name, mtu, world, pin=bridge)
    # With an MTU below 1280 bytes a link has no IPv6 sysctls (addrconf_notify). They come back with the default of
    # the host, which accepts router advertisements.
    gets_ipv6 = state.accept_ra is None and state.mtu < IPV6_MTU_MIN <= (mtu or 0)
    if snapshot.takes_routers(item.name) or gets_ipv6:
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
    """What gives a TAP its former owner and group. Where it had none, only creating it again unsets the new one."""
    if (state.uid is None and item.user is not None) or (state.gid is None and item.group is not None):
        return (ops.DeleteLink(item.name), *_recreate(item, snapshot))
    return (ops.SetTapUser(item.name, _number(state.uid), _number(state.gid), item.multi_queue, item.vnet_hdr),)


def same_user(item: Link, state: KernelLink, names: Names) -> bool:
    """Whether the TAP has the declared owner and group (where neither is declared: root)."""
    uid = names.users.get(item.user) if item.user is not None else (0 if item.group is None else None)
    gid = names.groups.get(item.group) if item.group is not None else None
    return uid == state.uid and gid == state.gid


def _addresses(key: str, item: Link, owner: Owner, snapshot: Snapshot, into: Plan) -> None:
    """Addresses of a link of ours are exclusive: those that another program added are removed."""
    link = item.name
    declared = list(dict.fromkeys(address.cidr for address in owner.of(Address) if address.link == link))
    there = snapshot.addresses.get(link, ())
    extra = [cidr for cidr in there if cidr not in declared]
    missing = [cidr for cidr in declared if cidr not in there]
    _exchange(key, link, declared, missing, extra, snapshot.through.get(link, ()), into)
    if item.kind == "tap":
        routes = [route.cidr for route in owner.of(Route) if route.link == link]
        _routes(key, link, routes, snapshot.routes.get(link, ()), into)
        if any(family_of(cidr) == "ipv4" for cidr in extra):
            # With a link's last IPv4 address the kernel deletes its IPv4 routes (fib_disable_ip): put ours back.
            into.remove.extend(Step(key, ops.AddRoute(link, cidr)) for cidr in routes if family_of(cidr) == "ipv4")


def _routes(key: str, link: str, declared: list[str], there: tuple[str, ...], into: Plan) -> None:
    """Routes through a TAP of ours are exclusive, as its addresses are. Those through a bridge are not ours."""
    for cidr in declared:
        if cidr not in there:
            into.build.append(Step(key, ops.AddRoute(link, cidr), (ops.DeleteRoute(link, cidr),)))
    for cidr in there:
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

    Args:
        key: The owner's.
        link: The link.
        declared: All addresses that it should have.
        missing: Those that it has not.
        extra: Those that it has, and should not have.
        through: The routes that may go with the addresses; put back last, when the addresses are back.
        into: Where the steps are added.
    """
    again = {ipaddress.ip_interface(cidr).ip for cidr in missing if family_of(cidr) == "ipv6"}
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


def _port(key: str, item: Port, owner: Owner, world: World, into: Plan) -> None:
    bridge = world.link(item.bridge)
    isolated = item.isolated or (bridge is not None and bridge.port_isolation)
    _attach(key, item.link, item.bridge, isolated=isolated, snapshot=world.snapshot, into=into)
    _check_groups(key, item, owner, world.snapshot, into)


def groups_checked(link: str, guests: Iterable[Guest]) -> bool:
    """Whether the rules for guests have to see also what a port sends to reserved group addresses."""
    return any(guest.anti_spoofing for guest in guests if guest.link == link and guest.bridge is not None)


def _check_groups(key: str, item: Port, owner: Owner, snapshot: Snapshot, into: Plan) -> None:
    state = snapshot.links.get(item.link)
    stays = state is not None and snapshot.master_of(item.link) == item.bridge
    there = state.group_fwd_mask if state is not None and stays else 0
    checked = groups_checked(item.link, owner.of(Guest))
    if checked != (there == EVERY_GROUP):
        undo = (ops.SetLink(item.link, group_fwd_mask=there),) if stays else ()
        into.build.append(Step(key, ops.SetLink(item.link, group_fwd_mask=EVERY_GROUP if checked else 0), undo))


def _attach(key: str, link: str, bridge: str, *, isolated: bool, snapshot: Snapshot, into: Plan) -> None:
    state = snapshot.links.get(link)
    master = snapshot.master_of(link)
    if master != bridge:
        undo = (_port_again(link, snapshot),) if state else ()
        into.build.append(Step(key, ops.SetLink(link, bridge=bridge), undo))
    if (state is not None and state.isolated) != isolated or (isolated and master != bridge):
        undo = (ops.SetLink(link, isolated=not isolated),) if state and master == bridge else ()
        into.build.append(Step(key, ops.SetLink(link, isolated=isolated), undo))


def _other_ports(key: str, item: Link, world: World, attached: Mapping[str, str], into: Plan) -> None:
    """Other owners' ports of a bridge: isolation and MTU as it says; put back when it is created again."""
    if item.kind != "bridge":
        return
    created = item.name not in world.snapshot.links
    others = [(o, x) for o, x in world.owners.holding(Port) if x.bridge == item.name and o.key != key]
    owners = {port.link: owner for owner, port in others}
    ports: list[tuple[Port | Glob, str]] = [(port, port.link) for _, port in others]
    globs = [(o.key, x) for o, x in world.owners.holding(Glob) if x.bridge == item.name and o.key != key]
    if not created:
        ports += [(glob, link) for owner, glob in globs for link, by in attached.items() if by == owner]
    for port, link in ports:
        there = link in world.snapshot.links
        if there and world.snapshot.master_of(link) == (None if created else item.name):
            isolated = port.isolated or item.port_isolation
            _attach(key, link, item.name, isolated=isolated, snapshot=world.snapshot, into=into)
            if isinstance(port, Port):
                _check_groups(key, port, owners[link], world.snapshot, into)
    mtu = port_mtu(item.name, world)
    for link in followers(item.name, world, attached):
        into.build += mtu_steps(key, link, mtu, world)
        into.mtus[link] = (key, noted_mtu(link, mtu, world))
    for owner, glob in globs if created else ():
        glob_steps(owner, glob, world, attached, into)


def hairpin(key: str, old: Iterable[str], new: Iterable[str], snapshot: Snapshot, into: Plan) -> None:
    """Hairpin mode of ports: on where a guest may reach a forward to itself, off again where none is left.

    With br_netfilter the translation happens as the frame crosses the bridge, and it has to leave by the port that it
    came in by. Flooded frames come back, too: the bridge table drops those.

    Args:
        key: The owner that the steps for ports of other owners belong to.
        old: The ports that hostnet put into hairpin mode.
        new: The ports that should be in it.
        snapshot: What the kernel has.
        into: Where the steps are added.
    """
    new = set(new)
    # A port that can't join its bridge fails its own resource, and no other.
    joining = {
        step.operation.name: step.owner
        for step in into.build
        if isinstance(step.operation, ops.SetLink) and step.operation.bridge
    }
    for port in sorted(new):
        state = snapshot.links.get(port)
        if port in joining or (state is not None and state.master and not state.hairpin):
            into.build.append(Step(joining.get(port, key), ops.SetLink(port, hairpin=True)))
    recreated = {step.operation.name for step in into.build if isinstance(step.operation, ops.DeleteLink)}
    for port in sorted(set(old) - new - recreated):
        state = snapshot.links.get(port)
        if state is not None and state.master and state.hairpin:
            into.build.append(Step(key, ops.SetLink(port, hairpin=False), (ops.SetLink(port, hairpin=True),)))


def glob_members(item: Glob, snapshot: Snapshot) -> tuple[list[str], list[str]]:
    """The interfaces that a glob should have now, and those that match and are in another bridge."""
    members: list[str] = []
    elsewhere: list[str] = []
    for name in sorted(snapshot.links):
        if name == item.bridge or not fnmatch.fnmatchcase(name, item.pattern):
            continue
        # What a bridge's port receives is the bridge's: an uplink in it would serve this host no more. A bridge in a
        # bridge the kernel refuses (ELOOP).
        if name in snapshot.uplinks or snapshot.links[name].physical or snapshot.links[name].kind == "bridge":
            continue
        master = snapshot.master_of(name)
        (members if master in (None, item.bridge) else elsewhere).append(name)
    return members, elsewhere


def glob_steps(key: str, item: Glob, world: World, attached: Mapping[str, str], into: Plan) -> None:
    """Add the steps that attach what a glob matches now: up, in the bridge, as isolated as it says."""
    bridge = world.link(item.bridge)
    declared = {link.name for link in world.owners.every(Link)}
    isolated = item.isolated or (bridge is not None and bridge.port_isolation)
    mtu = port_mtu(item.bridge, world)
    for name in glob_members(item, world.snapshot)[0]:
        if name in declared:
            continue  # it has a resource of its own, which says where it belongs
        mine = attached.get(name) == key
        if world.snapshot.master_of(name) == item.bridge and not mine:
            continue  # another program put it there: not ours to change, nor to release
        into.build += mtu_steps(key, name, mtu, world)
        into.mtus[name] = (key, noted_mtu(name, mtu, world))
        _attach(key, name, item.bridge, isolated=isolated, snapshot=world.snapshot, into=into)
        if not world.snapshot.links[name].up:
            into.build.append(Step(key, ops.SetLink(name, up=True)))
        into.attached[name] = key


def _remove(old: Owner, new: Owner, world: World, attached: Mapping[str, str], into: Plan) -> None:
    """What the owner has and should not have any more."""
    snapshot = world.snapshot
    key, kept = new.key, {item.key for item in new.objects}
    for link in old.of(Link):
        state = snapshot.links.get(link.name)
        if link.key not in kept and state is not None and state.our_kind == link.kind:
            into.remove.append(Step(key, ops.DeleteLink(link.name), tuple(_recreate(link, snapshot))))
    for port in old.of(Port):
        # A link that is deleted leaves its bridge by itself.
        if port.key not in kept and f"link {port.link}" in kept and snapshot.master_of(port.link) == port.bridge:
            undo = (_port_again(port.link, snapshot),)
            into.remove.append(Step(key, ops.SetLink(port.link, bridge=""), undo))
    for glob in old.of(Glob):
        if glob.key not in kept:
            _release(key, glob, world, attached, into)


def _release(key: str, item: Glob, world: World, attached: Mapping[str, str], into: Plan) -> None:
    """Detach exactly what the glob attached, where it still is, and give it back its own MTU."""
    for name, owner in attached.items():
        if owner != key or name in into.attached:
            continue
        into.detached.append(name)
        if world.snapshot.master_of(name) == item.bridge:
            undo = (ops.SetLink(name, bridge=item.bridge),)
            into.remove.append(Step(key, ops.SetLink(name, bridge=""), undo))
        if name in world.snapshot.links:
            into.remove += mtu_steps(key, name, None, world)
        into.mtus[name] = (key, None)


def _recreate(item: Link, snapshot: Snapshot) -> Iterable[Operation]:
    """The operations that bring a deleted link back as it was, whatever is declared by now."""
    name, state = item.name, snapshot.links[item.name]
    if item.kind == "bridge":
        yield ops.CreateBridge(name, state.mac, item.mtu, state.stp, state.vlan_filtering)
    else:
        yield ops.CreateTap(name, _number(state.uid), _number(state.gid), state.multi_queue, state.vnet_hdr)
        yield ops.SetLink(name, mac=state.mac, mtu=state.mtu)
        if name in snapshot.buckets:
            yield _shape(name, snapshot.buckets[name])
        master = snapshot.master_of(name)
        if master:
            yield _port_again(name, snapshot)
    kept = (*snapshot.addresses.get(name, ()), *snapshot.routes.get(name, ()))
    ipv6 = any(family_of(cidr) == "ipv6" for cidr in kept)
    yield ops.SetLink(name, accept_ra=state.accept_ra, ipv6=ipv6 or None, up=state.up)
    yield from (ops.AddAddress(name, cidr) for cidr in snapshot.addresses.get(name, ()))
    if item.kind == "tap":
        yield from (ops.AddRoute(name, cidr) for cidr in snapshot.routes.get(name, ()))
    if item.kind == "bridge":
        yield from (_port_again(port, snapshot) for port in snapshot.ports_of(name))
        yield from snapshot.through.get(name, ())


def _port_again(name: str, snapshot: Snapshot) -> Operation:
    """What puts a link into the bridge that it is in, as it is there: as a port leaves, the kernel clears the rest."""
    state, master = snapshot.links[name], snapshot.master_of(name)
    if master is None:
        return ops.SetLink(name, bridge="")
    isolated, hairpin = (each or None for each in (state.isolated, state.hairpin))
    mask = state.group_fwd_mask or None
    return ops.SetLink(name, bridge=master, isolated=isolated, hairpin=hairpin, group_fwd_mask=mask)


def _number(number: int | None) -> str | None:
    return None if number is None else str(number)
