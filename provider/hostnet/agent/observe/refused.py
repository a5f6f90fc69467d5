"""What `egress` refused of late, by guest and destination, and what anti-spoofing dropped. Pure."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from hostnet.agent.dhcp.domains import rules_by_name, set_names
from hostnet.agent.nft.ruleset import Place
from hostnet.agent.record.owners import Owners
from hostnet.wire.family import digit_of
from hostnet.wire.objects import Gateway, Guest

Facts = dict[str, Any]
Counters = Mapping[Place, tuple[int, int]]
Answers = Mapping[str, Mapping[str, int]]

_LINKS = "refused_links"
_DROPPED = ("dropped_guests", "dropped_taps", "dropped_arps")
_ICMP = ("icmp", "icmpv6")


def seen(counters: Counters) -> Counters:
    """What packets have added: one pass through the counters of ten thousand forwards, for all that is asked here."""
    return {place: count for place, count in counters.items() if place[0].startswith(("refused_", "dropped_"))}


def refused_facts(owners: Owners, counters: Counters, answers: Answers) -> list[Facts]:
    """Each destination that was refused, the most packets first.

    Args:
        owners: All owners.
        counters: Packets and bytes by place, those of `seen`.
        answers: The addresses in sets of names.
    """
    there = [(name, key, packets) for (name, key), (packets, _) in counters.items() if name.startswith("refused_")]
    if not there:
        return []
    guests, named = _Guests(owners), _names(owners, answers)
    found = []
    for name, key, packets in there:
        if name == _LINKS:
            continue
        link, source, destination, protocol, *port = key
        guest = guests.at(link, source)
        found.append(
            {
                "interface": guest.link if guest is not None else link,
                "name": (guest.hostname or "") if guest is not None else "",
                "source": source,
                "destination": destination,
                "domains": named.get(destination, []),
                "protocol": "icmp" if protocol in _ICMP else protocol,
                "port": int(port[0]) if port else None,
                "packets": packets,
            }
        )
    return sorted(found, key=lambda each: (-each["packets"], each["source"], each["destination"], each["port"] or 0))


def _names(owners: Owners, answers: Answers) -> dict[str, list[str]]:
    """By address, the names of rules that it was answered for of late."""
    found: dict[str, list[str]] = {}
    if not any(answers.values()):
        return found
    items: list[Guest | Gateway] = [*owners.every(Guest), *owners.every(Gateway)]
    for domain in sorted({str(rule.domain) for item in items for rule in rules_by_name(item)}):
        for name in set_names(domain):
            for address in answers.get(name, ()):
                found.setdefault(address, []).append(domain)
    return found


def refused_by_link(owners: Owners, counters: Counters) -> Counter[str] | None:
    """Refused packets by the interface of their guest; None where nothing has `egress`.

    Args:
        owners: All owners.
        counters: Packets and bytes by place, those of `seen`.
    """
    guests = [guest for guest in owners.every(Guest) if guest.egress is not None]
    if not guests and not any(gateway.egress is not None for gateway in owners.every(Gateway)):
        return None
    links = {(guest.bridge or guest.link, guest.mac): guest.link for guest in owners.every(Guest)}
    found: Counter[str] = Counter()
    for (name, key), (packets, _) in counters.items():
        if name == _LINKS:
            found[links.get((key[0], key[1]), key[0])] += packets
    return found


def dropped_by_link(counters: Counters) -> Counter[str]:
    """By TAP, the frames that were dropped because no guest may send them.

    Args:
        counters: Packets and bytes by place, those of `seen`.
    """
    found: Counter[str] = Counter()
    for (name, key), (packets, _) in counters.items():
        if name in _DROPPED:
            found[key[0]] += packets
    return found


class _Guests:
    """The guests by the interface that their packets come in by, and their addresses."""

    def __init__(self, owners: Owners) -> None:
        self._known: dict[tuple[str, str], Guest] = {}
        self._wide: list[Guest] = []
        for guest in owners.every(Guest):
            self._known.update({(guest.bridge or guest.link, each): guest for each in _addresses(guest)})
            if guest.allowed:
                self._wide.append(guest)

    def at(self, link: str, source: str) -> Guest | None:
        """The guest who sends from an address; None for one that is not declared.

        Args:
            link: The interface that its packets come in by.
            source: The address.
        """
        guest = self._known.get((link, source)) or self._known.get((link, ""))
        if guest is not None:
            return guest
        address: Any = ipaddress.ip_address(source)
        homes = (each for each in self._wide if (each.bridge or each.link) == link)
        return next((each for each in homes if any(address in net for net in _networks(each, source))), None)


def _addresses(guest: Guest) -> Iterator[str]:
    """A guest's addresses; "" for any, where nobody else is behind the interface."""
    yield from (cidr.split("/")[0] for cidr in guest.addresses or ())
    if guest.bridge is None:
        yield ""


def _networks(guest: Guest, source: str) -> Iterator[Any]:
    return (ipaddress.ip_network(cidr) for cidr in guest.allowed if digit_of(cidr) == digit_of(source))
