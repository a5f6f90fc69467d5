"""Answers to questions about the host: getHost, getBridge, getPortForwards. Reads alone."""

from __future__ import annotations

import ipaddress
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hostnet.agent.linux.libnftables import MissingLibraryError, NftError
from hostnet.agent.linux.snapshot import KernelLink, Snapshot
from hostnet.agent.nft.forward_elements import counted
from hostnet.agent.nft.ruleset import OURS
from hostnet.agent.nft.sysctls import FORWARDING
from hostnet.agent.nft.table import Table
from hostnet.agent.observe.refused import Answers, Counters, dropped_by_link, refused_by_link, refused_facts, seen
from hostnet.agent.record.owners import Owners
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import Forward, Lease, ports_text

Facts = dict[str, Any]


def host_facts(owners: Owners, snapshot: Snapshot, table: Table, forwarding: dict[str, str | None]) -> Facts:
    """Kernel, nftables, interfaces, default routes, forwarding, other firewalls, and what hostnet holds."""
    version, firewalls = _nftables(table)
    return {
        "kernel": platform.release(),
        "nftVersion": version,
        "interfaces": interfaces(snapshot),
        "defaultRoute": dict(snapshot.default_links),
        "forwarding": {family: forwarding.get(name) == "1" for family, name in FORWARDING.items()},
        "firewalls": firewalls,
        "resources": [{"urn": owner.urn, "id": owner.id, "kind": owner.kind} for owner in owners.values()],
    }


def interfaces(snapshot: Snapshot) -> list[Facts]:
    """Every interface of the host, ours or not."""
    return [_interface(link, snapshot) for link in snapshot.links.values()]


def _interface(link: KernelLink, snapshot: Snapshot) -> Facts:
    return {
        "name": link.name,
        "kind": link.kind,
        "ifindex": link.index,
        "macAddress": link.mac or None,
        "mtu": link.mtu,
        "up": link.up,
        "addresses": list(snapshot.addresses.get(link.name, ())),
        "bridge": snapshot.master_of(link.name),
    }


def _nftables(table: Table) -> tuple[str | None, list[str]]:
    """Nft's version, and the base chains of others at input and forward: "ip filter FORWARD (policy drop)"."""
    try:
        listed = table.nft.list("list chains")
    except (MissingLibraryError, NftError):
        return None, []
    version = next((item["metainfo"]["version"] for item in listed if "metainfo" in item), None)
    return version, list(_base_chains(listed))


def _base_chains(listed: list[dict[str, Any]]) -> Iterator[str]:
    for item in listed:
        chain = item.get("chain")
        if chain is None or chain.get("hook") not in ("input", "forward"):
            continue
        if f"{chain['family']} {chain['table']}" not in OURS:
            yield f"{chain['family']} {chain['table']} {chain['name']} (policy {chain.get('policy', 'accept')})"


def bridge_facts(name: str, snapshot: Snapshot, leases: Iterable[Lease] = ()) -> Facts:
    """A bridge, ours or not.

    Raises:
        HostnetError: There is none of this name.
    """
    link = snapshot.links.get(name)
    if link is None or link.kind != "bridge":
        why = f"there is no interface {name}" if link is None else f"{name} is no bridge"
        raise HostnetError(Code.NOT_FOUND, f"cannot read bridge {name}", why, "`ip link show type bridge` lists them")
    addresses = snapshot.addresses.get(name, ())
    interfaces = [ipaddress.ip_interface(cidr) for cidr in addresses]
    return {
        "name": name,
        "ifindex": link.index,
        "macAddress": link.mac,
        "mtu": link.mtu,
        "addresses": list(addresses),
        "subnets": [str(each.network) for each in interfaces],
        "gateway": next((str(each.ip) for each in interfaces if each.version == 4), None),
        "gateway6": next((str(each.ip) for each in interfaces if each.version == 6), None),
        "ports": list(snapshot.ports_of(name)),
        "leases": [_lease(each) for each in leases],
    }


def traffic_facts(
    owners: Owners,
    counters: Counters,
    answers: Answers,
    traffic: Mapping[str, tuple[int, int]],
    leases: Iterable[Lease],
) -> Facts:
    """What `hostnet top` needs at each moment: counters of forwards and interfaces, leases, and when they were read.

    Args:
        owners: All owners.
        counters: Packets and bytes by place in our tables.
        answers: The addresses in sets of names.
        traffic: The bytes that each interface has received and sent.
        leases: Those of all bridges.
    """
    late = seen(counters)
    refused, dropped = refused_by_link(owners, late), dropped_by_link(late)
    return {
        **forward_facts(owners, counters),
        "milliseconds": int(time.monotonic() * 1000),
        "interfaces": [
            {
                "name": name,
                "received": got,
                "sent": sent,
                "refused": None if refused is None else refused[name],
                "dropped": dropped[name],
            }
            for name, (got, sent) in traffic.items()
        ],
        "refused": refused_facts(owners, late, answers),
        "leases": [_lease(each) for each in leases],
    }


def _lease(lease: Lease) -> Facts:
    return {
        "macAddress": lease.mac,
        "address": lease.address,
        "hostname": lease.hostname,
        "expires": lease.expires,
    }


def forward_facts(owners: Owners, counters: Counters) -> Facts:
    """Every forward that hostnet holds, with its counters.

    Args:
        owners: All owners.
        counters: Packets and bytes by place in our tables.
    """
    found, index = [], owners.forwards
    for owner, item in owners.holding(Forward):
        counts = [counters.get(element.place, (0, 0)) for element in counted(item, index)]
        found.append(
            {
                "id": item.id_on(owners.external_of(item)),
                "protocol": "+".join(item.protocols),
                "sourcePorts": ports_text(item.ports),
                "destinationAddress": item.address,
                "destinationPorts": ports_text(item.to_ports),
                "owner": owner.urn,
                "packets": sum(packets for packets, _ in counts),
                "bytes": sum(size for _, size in counts),
            }
        )
    return {"portForwards": found}
