"""The MTU of a link: its own, or that of the bridge that it is a port of. Pure.

A bridge with a declared MTU drops what is larger than one of its ports carries, and sends no ICMP error: a bridge has
no address of the sender's network to send it from. So its ports take its MTU.
"""

from __future__ import annotations

from collections.abc import Mapping

from hostnet.agent.linux import operations as ops
from hostnet.agent.linux.operations import Step
from hostnet.agent.plan.world import World
from hostnet.agent.record.originals import Mtu
from hostnet.wire.objects import ETHERNET_MTU, TAP_MTU_MAX, Glob, Link, Port


def wanted_mtu(key: str, item: Link, world: World) -> int | None:
    """The MTU that a link of ours should have; None: the kernel's choice.

    Args:
        key: The owner's, which has the link's place in a bridge as well.
        item: The link.
        world: All owners.
    """
    if item.mtu is not None or item.kind == "bridge":
        return item.mtu
    owner = world.owners.get(key)
    port = next((each for each in owner.of(Port) if each.link == item.name), None) if owner is not None else None
    return port_mtu(port.bridge, world) if port is not None else None


def port_mtu(bridge: str, world: World) -> int | None:
    """The MTU of the ports of a bridge that have none of their own; None: the bridge declares none."""
    declared = world.link(bridge)
    return None if declared is None or declared.mtu is None else min(declared.mtu, TAP_MTU_MAX)


def followers(bridge: str, world: World, attached: Mapping[str, str]) -> list[str]:
    """The links in a bridge whose MTU is the bridge's: TAPs without their own, and those that a glob attached."""
    taps = {each.name for each in world.owners.every(Link) if each.mtu is None}
    globs = {owner.key for owner, each in world.owners.holding(Glob) if each.bridge == bridge}
    ports = [each.link for each in world.owners.every(Port) if each.bridge == bridge and each.link in taps]
    ports += [name for name, key in attached.items() if key in globs]
    return [name for name in ports if world.snapshot.master_of(name) == bridge]


def carried_mtu(bridge: str, world: World) -> int | None:
    """The largest packet that every declared port of a bridge carries; None: what guests assume anyway."""
    own = port_mtu(bridge, world)
    in_it = {each.link for each in world.owners.every(Port) if each.bridge == bridge}
    ports = [each.mtu for each in world.owners.every(Link) if each.name in in_it and each.mtu is not None]
    found = min([own or ETHERNET_MTU, *ports])
    return found if own is not None or found < ETHERNET_MTU else None


def mtu_steps(key: str, name: str, wanted: int | None, world: World, *, pin: bool = False) -> list[Step]:
    """The step that gives a link its MTU; where none is wanted any more, the one that it had before hostnet's.

    Args:
        key: The owner's.
        name: The link; it is there.
        wanted: What it should have.
        world: All owners, and what the kernel has.
        pin: It is a bridge.
    """
    there, noted = world.snapshot.links[name].mtu, world.mtus.get(name)
    if wanted is None:
        # An MTU that another program has set since stays.
        wanted = noted.own if noted is not None and noted.ours == there else there
    if wanted == there:
        return []
    undo = ops.SetLink(name, mtu=there, bridge_device=pin)
    return [Step(key, ops.SetLink(name, mtu=wanted, bridge_device=pin), (undo,))]


def noted_mtu(name: str, wanted: int | None, world: World) -> Mtu | None:
    """What the record should say of a link's MTU; None: nothing, for hostnet has set none."""
    if wanted is None:
        return None
    state, noted = world.snapshot.links.get(name), world.mtus.get(name)
    there = state.mtu if state is not None else ETHERNET_MTU
    if noted is not None and noted.ours == there:
        there = noted.own
    return Mtu(there, wanted)
