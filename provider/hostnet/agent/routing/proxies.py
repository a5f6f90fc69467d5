"""The host answers ARP and neighbour solicitations for guests whose addresses a provider delivers on the link."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from hostnet.agent.linux.kernel import Kernel
from hostnet.agent.linux.operations import AddProxy, DeleteProxy, Operation
from hostnet.agent.record.owners import Owners
from hostnet.agent.record.record import Record
from hostnet.agent.routing.sync import RoutingError
from hostnet.wire.objects import Guest


def proxied(guest: Guest) -> Iterator[tuple[str, str]]:
    """The addresses that the host answers for: interface and address."""
    if guest.proxy is not None:
        yield from ((guest.proxy, str(ipaddress.ip_interface(cidr).ip)) for cidr in guest.addresses or ())


class Proxies:
    """The entries of one record: one for each address of a declared guest, and none for a whole network.

    Args:
        kernel: The host's.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def prepare(self, record: Record, owners: Owners) -> None:
        """Have the record hold the entries that `sync` is going to make, for an agent that finishes or undoes it."""
        wanted = _wanted(owners)
        if wanted - record.proxied:
            record.proxied = record.proxied | (wanted - self._kernel.proxies())

    def sync(self, record: Record, owners: Owners) -> bool:
        """Make the entries that the owners need, and delete those of ours that none needs.

        An entry that another program made serves as well, and is not ours to delete.

        Returns:
            Whether anything was changed.

        Raises:
            RoutingError: The kernel refuses one.
        """
        wanted = _wanted(owners)
        if not (wanted or record.proxied):
            return False
        there = self._kernel.proxies()
        operations: list[Operation] = [AddProxy(*each) for each in sorted(wanted - there)]
        operations += [DeleteProxy(*each) for each in sorted((record.proxied - wanted) & there)]
        for operation in operations:
            try:
                self._kernel.perform(operation)
            except OSError as error:
                raise RoutingError(operation, error) from None
        record.proxied = frozenset((record.proxied & wanted) | (wanted - there))
        return bool(operations)

    def missing(self, owners: Owners) -> set[tuple[str, str]]:
        """The entries that owners need, and that are not there."""
        wanted = _wanted(owners)
        return wanted - self._kernel.proxies() if wanted else set()


def _wanted(owners: Owners) -> set[tuple[str, str]]:
    return {each for guest in owners.proxied_guests for each in proxied(guest)}
