"""What is not as declared: the one place that says it. Pure.

A read tells the provider what is declared but for these differences (`states.py`), `hostnet status` tells a person.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Callable

from hostnet.agent.linux.snapshot import KernelLink
from hostnet.agent.nft.guard_elements import isolating, served
from hostnet.agent.observe.differences import Difference, is_not, is_off, lost
from hostnet.agent.observe.links import ObservedLink, observed_glob, observed_link
from hostnet.agent.observe.observation import Observation
from hostnet.agent.observe.table_drift import UPLOADS, forward_drift, gateway_drift, guest_filter_drift
from hostnet.agent.plan.links import EVERY_GROUP, bucket_of, groups_checked, same_bucket
from hostnet.agent.plan.mtu import followers, port_mtu
from hostnet.agent.record.owners import Owner
from hostnet.wire.objects import (
    Address,
    DhcpServer,
    Forward,
    Forwarding,
    Gateway,
    Glob,
    Guest,
    Link,
    Object,
    Port,
    Route,
)
from hostnet.wire.subnets import derived_guest


def drift(owner: Owner, observation: Observation) -> list[Difference]:
    """All that differs in an owner's objects."""
    intact = cache(lambda: observation.intact(owner))  # each of ten thousand forwards asks
    return [each for item in owner.objects for each in _drift_of(item, owner, observation, intact)]


def _drift_of(item: Object, owner: Owner, observation: Observation, intact: Callable[[], bool]) -> Iterable[Difference]:
    if isinstance(item, Forward):
        return _forward_drift(item, observation, intact)
    find = _DRIFT.get(type(item))
    return find(item, owner, observation) if find is not None else ()


# --- links ---------------------------------------------------------------------------------------------------------


def _link_drift(item: Link, owner: Owner, observation: Observation) -> Iterator[Difference]:
    observed = observed_link(item.name, observation)
    if observed is None or observed.kernel.our_kind != item.kind:
        what = "does not exist" if observed is None else f"is another kind of interface ({observed.kernel.our_kind})"
        yield Difference(item.key, "", f"{item.noun} {item.name} {what}", declared=item)
        return
    yield from _setting_drift(item, observed.kernel)
    if item.kind == "bridge":
        yield from _port_mtu_drift(item, observation)
        yield from _host_access_drift(item, owner, observation)
    if item.kind == "tap":
        yield from _user_drift(item, observed.kernel, observation)
        yield from _bandwidth_drift(item, observed.kernel, observation)
    yield from _list_drift(item, "addresses", "address", observed.addresses, _declared(owner.of(Address), item))
    if item.kind == "tap":  # a bridge's routes are its host's business
        yield from _list_drift(item, "routes", "route", observed.routes, _declared(owner.of(Route), item))
    if observed.advertised and owner.key in observation.held:
        text = f"{item.name} accepts router advertisements: a guest could give this host addresses and routes"
        yield Difference(item.key, "advertised", text, there=True, declared=False)
    if observation.dropped & {item.key, f"dhcp {item.name}"}:
        yield is_off(item, "open_firewall", "another firewall drops its traffic")


def _setting_drift(item: Link, kernel: KernelLink) -> Iterator[Difference]:
    if not kernel.up:
        yield is_not(item, "up", item.name, "down", "up")
    if item.mac is not None and kernel.mac != item.mac:
        yield is_not(item, "mac", "the MAC address", kernel.mac, item.mac)
    if item.mtu is not None and kernel.mtu != item.mtu:
        yield is_not(item, "mtu", "the MTU", kernel.mtu, item.mtu)
    for field, name in (("stp", "STP"), ("vlan_filtering", "VLAN filtering"), ("multi_queue", "multi-queue")):
        if getattr(kernel, field) != getattr(item, field):
            yield is_not(item, field, name, getattr(kernel, field), getattr(item, field))


def _port_mtu_drift(item: Link, observation: Observation) -> Iterator[Difference]:
    """Ports that do not have their bridge's MTU: an update of the bridge gives it to them."""
    wanted = port_mtu(item.name, observation.world)
    for name in followers(item.name, observation.world, observation.attached) if wanted is not None else ():
        there = observation.world.snapshot.links[name].mtu
        if there != wanted:
            text = f"the MTU of {name} is {there}, not {wanted} as its bridge's"
            yield Difference(item.key, "port_mtu", text, there, wanted)


def _host_access_drift(item: Link, owner: Owner, observation: Observation) -> Iterator[Difference]:
    """What guests reach of the host: the elements of the bridge and of its addresses."""
    mine: list[Object] = [item, *(address for address in owner.of(Address) if address.link == item.name)]
    own = {element.place for each in mine for element, _ in observation.compiled(each)}
    if item.host_access == "services":
        if not own <= observation.elements.keys():
            yield is_not(item, "host_access", "the guests' access to the host", "all", "services")
    elif ("services_links", (item.name,)) in observation.undeclared:
        yield is_not(item, "host_access", "the guests' access to the host", "services", "all")


def _user_drift(item: Link, kernel: KernelLink, observation: Observation) -> Iterator[Difference]:
    """Who may open a TAP: where neither owner nor group is declared, root."""
    names = observation.names
    for field, name, declared, there, known, default in (
        ("user", "the owner", item.user, kernel.uid, names.users, 0 if item.group is None else None),
        ("group", "the group", item.group, kernel.gid, names.groups, None),
    ):
        wanted = known.get(declared) if declared is not None else default
        if there != wanted:
            found = None if there is None else str(there)
            text = f"{name} is {found or 'not set'}, not {declared or ('root' if default == 0 else 'unset')}"
            yield Difference(item.key, field, text, found, declared)


def _bandwidth_drift(item: Link, kernel: KernelLink, observation: Observation) -> Iterator[Difference]:
    """What a guest receives is limited by a token bucket, what it sends by our tables."""
    bucket = observation.world.snapshot.buckets.get(item.name)
    if item.download is not None:
        wanted = bucket_of(item.download, kernel.mtu)
        if bucket is None or bucket.rate != wanted.rate:
            there = bucket.rate * 8 if bucket is not None else None
            yield is_not(item, "download", "the limit (bit/s) of what the guest receives", there, item.download)
        elif not same_bucket(bucket, wanted):
            text = f"the limit of {item.name} has a burst of {bucket.burst} bytes and a queue of {bucket.limit}"
            yield Difference(item.key, "download", text, declared=item.download)
    for element, _ in observation.compiled(item):
        there_now = observation.at(element)
        if there_now != element.value:
            found = int(there_now[0]) * 8 if there_now else None
            yield is_not(item, "upload", "the limit (bit/s) of what the guest sends", found, item.upload)
            return
    for (name, key), rate in observation.undeclared.items():
        if name in UPLOADS and key == (item.name,) and item.upload is None:
            yield is_not(item, "upload", "the limit (bit/s) of what the guest sends", int(rate[0]) * 8, None)
            return


def _declared(items: Iterable[Any], link: Link) -> list[str]:
    return [item.cidr for item in items if item.link == link.name]


def _list_drift(item: Link, field: str, word: str, there: tuple[str, ...], declared: list[str]) -> Iterator[Difference]:
    for cidr in declared:
        if cidr not in there:
            yield lost(item, field, cidr, f"{word} {cidr} is missing")
    for cidr in there:
        if cidr not in declared:
            yield Difference(item.key, field, f"{word} {cidr} is not declared", there=cidr, item=cidr)


def _port_drift(item: Port, observation: Observation) -> Iterator[Difference]:
    observed = observed_link(item.link, observation)
    if observed is None:
        return  # its link is what is missing
    if observed.bridge != item.bridge:
        there = f"in {observed.bridge}" if observed.bridge else "in no bridge"
        yield Difference(
            item.key, "bridge", f"{item.link} is {there}, not in {item.bridge}", observed.bridge, item.bridge
        )
    yield from _isolation_drift(item, item.link, observed, observation)


def _isolation_drift(
    item: Port | Glob, name: str, observed: ObservedLink, observation: Observation
) -> Iterator[Difference]:
    """A port is isolated where its declaration or its bridge's says so."""
    bridge = observation.world.link(item.bridge)
    wanted = item.isolated or (bridge is not None and bridge.port_isolation)
    if observed.kernel.isolated != wanted:
        text = f"{name} is {'not ' if wanted else ''}isolated from the other ports of {item.bridge}"
        yield Difference(item.key, "isolated", text, observed.kernel.isolated, wanted)
    elif wanted and observation.lacks(isolating(observation.context, item.bridge)):
        text = f"{name} is not isolated from the other ports of {item.bridge} where the host forwards"
        yield Difference(item.key, "isolated", text, there=False, declared=True)


def _glob_drift(item: Glob, owner: Owner, observation: Observation) -> Iterator[Difference]:
    found = observed_glob(item, owner.key, observation)
    for name in found.waiting:
        yield lost(item, "members", name, f"{name} fits {item.pattern} and is not in {item.bridge}")
    for name in found.attached:
        observed = observed_link(name, observation)
        if observed is not None:
            yield from _isolation_drift(item, name, observed, observation)
            if not observed.kernel.up:
                yield is_not(item, "up", name, "down", "up")
    if not observation.watcher_runs:
        yield is_off(item, "watcher", "no process attaches new interfaces")


def _guest_drift(item: Guest, observation: Observation) -> Iterator[Difference]:
    filters = list(guest_filter_drift(item, observation))
    yield from filters
    if not any(each.field == "anti_spoofing" for each in filters):
        yield from _guest_group_drift(item, observation)
    if item.proxy is not None and item.link in observation.proxies():
        yield Difference(item.key, "proxy", observation.proxies()[item.link], declared=item.proxy)
    yield from _guest_address_drift(item, observation)


def _guest_group_drift(item: Guest, observation: Observation) -> Iterator[Difference]:
    """What it sends to reserved group addresses comes to no rule without an option of its port."""
    observed, checked = observed_link(item.link, observation), groups_checked(item.link, [item])
    if observed is None or observed.bridge is None or observed.bridge != item.bridge:
        return  # that is what is missing
    if checked != (observed.kernel.group_fwd_mask == EVERY_GROUP):
        what = f"what the guest of {item.link} sends to reserved group addresses is {'not ' if checked else ''}checked"
        yield Difference(item.key, "anti_spoofing", what, there=not checked, declared=checked)


def _guest_address_drift(item: Guest, observation: Observation) -> Iterator[Difference]:
    """Addresses that do not follow from the bridge's subnets any more: the bridge has others since."""
    if item.bridge is None:
        return
    own = observation.world.cidrs(item.bridge)
    subnets = [each.network for each in map(ipaddress.ip_interface, own) if each.network.num_addresses > 1]
    if not subnets:
        return  # the bridge is not there, or has no subnet: its own drift
    addresses = [ipaddress.ip_interface(cidr).ip for cidr in item.addresses or ()]
    for cidr, address in zip(item.addresses or (), addresses):
        if not any(address in each for each in subnets):
            text = f"the guest's address {address} is in no subnet of {item.bridge}"
            yield Difference(item.key, "addresses", text, there=cidr, item=cidr)
    for each, kept in zip(subnets, derived_guest(item.addresses or (), own)) if item.derived else ():
        if not kept:
            yield Difference(item.key, "derived", f"the guest has no address of {each} on {item.bridge}")


# --- services ------------------------------------------------------------------------------------------------------


def _forwarding_drift(item: Forwarding, observation: Observation) -> Iterator[Difference]:
    if not observation.forwarding(item.family):
        yield is_off(item, "enabled", f"{item.family.replace('ip', 'IP')} forwarding is off")


def _dhcp_drift(item: DhcpServer, observation: Observation) -> Iterator[Difference]:
    if not observation.dhcp(item).running:
        yield is_off(item, "running", f"no DHCP server runs on {item.bridge} as declared")
    ports = [port for port, bridge in observation.context.served_ports.items() if bridge == item.bridge]
    if observation.lacks(served(ports)):
        yield is_off(item, "guarded", f"guests on {item.bridge} may act as DHCP server or router")
    # Without our table no forward leads elsewhere.
    if observation.elements and observation.lacks(element for element, _ in observation.compiled(item)):
        yield is_off(item, "reached", f"DHCP and DNS of the guests on {item.bridge} may go where a forward leads")


def _forward_drift(item: Forward, observation: Observation, intact: Callable[[], bool]) -> Iterable[Difference]:
    # Of ten thousand forwards nearly all are as they should be: their elements are not looked at one by one.
    goes = item.gateway is None or item.gateway in observation.context.gateways
    if goes and intact() and not (item.loopback and observation.loopback_fault()):
        return ()
    return forward_drift(item, observation)


# An address and a route differ in their link.
_DRIFT: Mapping[type[Any], Callable[[Any, Owner, Observation], Iterable[Difference]]] = {
    Link: _link_drift,
    Port: lambda item, _, observation: _port_drift(item, observation),
    Glob: _glob_drift,
    Guest: lambda item, _, observation: _guest_drift(item, observation),
    Gateway: lambda item, _, observation: gateway_drift(item, observation),
    Forwarding: lambda item, _, observation: _forwarding_drift(item, observation),
    DhcpServer: lambda item, _, observation: _dhcp_drift(item, observation),
}
