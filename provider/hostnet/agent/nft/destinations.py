"""The interface behind which each destination of a forward is; kept up, destination by destination."""

from __future__ import annotations

from collections.abc import Mapping

from hostnet.agent.indexes.prefixes import Prefix, PrefixIndex
from hostnet.agent.indexes.sharing import SharingMap

Networks = Mapping[str, tuple[str, ...]]  # by interface, its addresses with their prefix lengths


class Destinations:
    """The interfaces in whose networks any of some addresses is."""

    def __init__(self) -> None:
        self._forget({})

    def _forget(self, networks: Networks) -> None:
        self._networks = dict(networks)
        self._index: PrefixIndex[str] = PrefixIndex()
        self._addresses: SharingMap[str, int] = SharingMap()
        self._counts: dict[str, int] = {}

    def behind(self, networks: Networks, addresses: SharingMap[str, int]) -> set[str]:
        """The interfaces.

        It costs what has changed since the last time: all addresses are looked at where the networks are others.

        Args:
            networks: The interfaces to look at.
            addresses: The addresses.
        """
        if networks != self._networks:
            self._forget(networks)
            for link, cidrs in networks.items():
                for prefix in {Prefix.parse(cidr) for cidr in cidrs}:
                    self._index.add(prefix, link)
        for address in self._addresses.differences(addresses):
            by = (address in addresses) - (address in self._addresses)
            for _, link in self._index.overlapping(Prefix.parse(address)) if by else ():
                self._counts[link] = self._counts.get(link, 0) + by
        self._addresses = addresses.copy()
        return {link for link, count in self._counts.items() if count}
