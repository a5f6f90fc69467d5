"""Which guests are on which bridge: by MAC address, address, host name, and domain name in a rule of `egress`."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Union

from hostnet.agent.indexes.sharing import SharingMap, add_value, take_value
from hostnet.wire.objects import Guest, Object
from hostnet.wire.subnets import Ip

Place = tuple[str, str, Union[str, int]]  # the bridge, what it is, and the value
_MAC, _HOSTNAME, _DOMAIN, _BELOW = "mac", "hostname", "domain", "below"
_ADDRESS = {4: "address4", 6: "address6"}


class GuestIndex:
    """An index, which finds a guest without a look at each of a thousand. Who has something is an owner's key."""

    def __init__(self) -> None:
        self._holders: SharingMap[Place, tuple[str, ...]] = SharingMap()

    def copy(self) -> GuestIndex:
        """One that changes apart from this."""
        other = GuestIndex()
        other._holders = self._holders.copy()
        return other

    def put(self, owner: str, objects: Iterable[Object]) -> None:
        """Take down the guests of an owner."""
        for place in _places(objects):
            if place[1] == _DOMAIN and place not in self._holders:
                self._have_above(place, there=True)
            add_value(self._holders, place, owner)

    def drop(self, owner: str, objects: Iterable[Object]) -> None:
        """Forget the guests of an owner."""
        for place in _places(objects):
            take_value(self._holders, place, owner)
            if place[1] == _DOMAIN and place not in self._holders:
                self._have_above(place, there=False)

    def _have_above(self, place: Place, *, there: bool) -> None:
        """A name comes to a bridge, or goes: those above it know of it."""
        bridge, _, name = place
        for each in above(str(name)):
            (add_value if there else take_value)(self._holders, (bridge, _BELOW, each), str(name))

    def _get(self, place: Place) -> tuple[str, ...]:
        found: tuple[str, ...] = self._holders.get(place, ())
        return found

    def with_mac(self, bridge: str, mac: str) -> tuple[str, ...]:
        """Who has a MAC address on a bridge."""
        return self._get((bridge, _MAC, mac))

    def with_address(self, bridge: str, version: int, address: int) -> tuple[str, ...]:
        """Who has an address on a bridge."""
        return self._get((bridge, _ADDRESS[version], address))

    def with_hostname(self, bridge: str, name: str) -> tuple[str, ...]:
        """Who has a host name on a bridge: DNS does not tell upper from lower case."""
        return self._get((bridge, _HOSTNAME, name.lower()))

    def has_domain(self, bridge: str, name: str) -> bool:
        """Whether a guest on a bridge has a rule for a domain name."""
        return (bridge, _DOMAIN, name) in self._holders

    def domains_below(self, bridge: str, name: str) -> tuple[str, ...]:
        """The domain names in rules of guests on a bridge that are below a name, and the name itself."""
        return self._get((bridge, _BELOW, name))


def _places(objects: Iterable[Object]) -> Iterator[Place]:
    for item in objects:
        if not isinstance(item, Guest) or item.bridge is None:
            continue
        yield item.bridge, _MAC, item.mac
        for ip in addresses_of(item):
            yield item.bridge, _ADDRESS[ip.version], int(ip)
        if item.hostname:
            yield item.bridge, _HOSTNAME, item.hostname.lower()
        for rule in item.egress or ():
            if rule.domain is not None:
                yield item.bridge, _DOMAIN, str(rule.domain)


def above(name: str) -> Iterator[str]:
    """A domain name, and those that it is below."""
    labels = name.split(".")
    return (".".join(labels[at:]) for at in range(len(labels)))


def addresses_of(guest: Guest) -> Iterator[Ip]:
    """A guest's addresses, without lengths."""
    return (ipaddress.ip_interface(cidr).ip for cidr in guest.addresses or ())
