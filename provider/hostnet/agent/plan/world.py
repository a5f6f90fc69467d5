"""Everything that a decision about one resource is made from: all owners, and what the kernel has. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from hostnet.agent.indexes.prefixes import Prefix
from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.record.networks import Held
from hostnet.agent.record.originals import Mtu
from hostnet.agent.record.owners import Kind, Owner, Owners
from hostnet.wire.objects import Address, Forward, Gateway, Link, Route
from hostnet.wire.requests import Change
from hostnet.wire.subnets import reserved

_ENDS = 0b11  # the last bits of the first and the last address of any subnet with more than two


@dataclass(frozen=True)
class World:
    """All owners (those of this transaction that were admitted so far included) and what the kernel has.

    Attributes:
        owners: All owners.
        snapshot: What the kernel has.
        mtus: The MTUs that hostnet has set (`Record.mtus`).
    """

    owners: Owners
    snapshot: Snapshot
    mtus: Mapping[str, Mtu] = field(default_factory=dict)

    def others(self, change: Change, kind: type[Kind]) -> Iterator[tuple[Owner, Kind]]:
        """The objects of a type that a change may conflict with, with their owners (not for forwards).

        Those of its own resource are left out: what it has, and what it replaces (the same URN with another id).
        """
        return ((owner, item) for owner, item in self.owners.holding(kind) if owner.urn != change.urn)

    def networks_beside(self, change: Change, prefix: Prefix) -> Iterator[tuple[Owner, Prefix, Held]]:
        """Other resources' subnets, routes and guests that overlap a network."""
        for network, held in self.owners.networks.wide.overlapping(prefix):
            owner = self.owners[held.owner]
            if owner.urn != change.urn:
                yield owner, network, held

    def single_addresses(self, change: Change, prefix: Prefix) -> Iterator[tuple[Owner, Address]]:
        """The addresses without a subnet (`10.0.0.0/32`) that other resources give the host in a network."""
        for _, cidr in self.owners.networks.single.overlapping(prefix):
            yield from (found for found in self.others(change, Address) if found[1].cidr == cidr)

    def has(self, change: Change, item: Address | Route) -> bool:
        """Whether the resource of a change has a network already, by the record."""
        found = self.owners.networks.wide.overlapping(Prefix.parse(item.cidr))
        return any(held.item == item and self.owners[held.owner].urn == change.urn for _, held in found)

    def reserved(self, address: str, on: str | None = None) -> str:
        """What an address is that no machine can have: "the broadcast address of 10.0.0.0/24"; "" for any other.

        The smallest subnet or route that holds it decides, and an address of the host's own is a machine's.

        Args:
            address: Bare.
            on: Look at the subnets of this link of the host alone.
        """
        prefix = Prefix.parse(address)
        if prefix.first & _ENDS not in (0, _ENDS) or self.snapshot.local(address):
            return ""
        index = self.snapshot.address_index
        found = [(network, self.snapshot.links_with[cidr]) for network, cidr in index.overlapping(prefix)]
        homes = [network for network, links in found if on is None or on in links]
        if on is None:
            homes += [network for network, _ in self.owners.networks.wide.overlapping(prefix)]
        if not homes:
            return ""
        home = min(homes, key=lambda each: each.last - each.first)
        if prefix.first not in (home.first, home.last):
            return ""
        network = ipaddress.ip_network((home.first.to_bytes(home.bits // 8, "big"), home.bits - home.size))
        why = reserved(ipaddress.ip_address(address), network)
        return f"{why} of {network}" if why else ""

    def link_owner(self, name: str) -> Owner | None:
        """The owner of a link."""
        keys = self.owners.links.get(name)
        return self.owners[keys[-1]] if keys else None

    def link(self, name: str) -> Link | None:
        """A declared link."""
        owner = self.link_owner(name)
        return next((item for item in owner.of(Link) if item.name == name), None) if owner else None

    def cidrs(self, link: str) -> tuple[str, ...]:
        """A link's addresses: as declared where it is ours, else as the kernel has them."""
        owner = self.link_owner(link)
        if owner is None:
            return self.snapshot.addresses.get(link, ())
        return tuple(item.cidr for item in owner.of(Address) if item.link == link)

    def gateway(self, name: str) -> Gateway | None:
        """A declared gateway."""
        return self.owners.gateways.get(name)

    def external_of(self, forward: Forward) -> str:
        """The external interface of a resolved forward."""
        return self.owners.external_of(forward)
