"""Rules of `egress` by domain name: a bridge's dnsmasq puts what it answers into sets of our table. Pure.

A name has two sets, one for each family. dnsmasq's `nftset` adds each address that it answers for the name, or for one
below it, also where the answer goes through CNAMEs. dnsmasq 2.90, nft 1.0.6 and Linux 6.18 leave three things to do:

- dnsmasq takes the longest name that fits, and no other. So a name's line has the sets of each name above it, too.
- What comes from dnsmasq's cache reaches no set. A cache would also answer a name whose CNAME it knows with an address
  that was asked for by another name. So a server with such lines has no cache.
- To add an element that is there does not renew its timeout, and the promise is an hour after the last answer. dnsmasq
  hands libnftables the text `add element <words> { <address> }`, and the words may hold more commands. A name has two
  such texts: the first keeps the address in a variable (`redefine`, of the library's context, which lives as long as
  the process), the second adds, deletes and adds the element in one transaction. No packet finds the set without it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

from hostnet.agent.plan.world import World
from hostnet.agent.record.guests import above
from hostnet.agent.record.owners import Owner
from hostnet.wire.digest import sha256
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import EgressRule, Gateway, Guest
from hostnet.wire.shapes import is_domain

# The first command of a line is always `add element`. This set has this element from the beginning, so it changes
# nothing, and the kernel counts no change.
NOTHING_SET, NOTHING = "dns_port", "53"
_TABLE = "inet#hostnet#"  # dnsmasq writes a space for each #
_VARIABLE = "a"
_LONGEST_LINE = 1024  # bytes of a line of its configuration that dnsmasq 2.90 reads (MAXDNAME)


@lru_cache(maxsize=4096)
def set_names(domain: str) -> tuple[str, str]:
    """The sets of the addresses that were answered for a name: of IPv4, and of IPv6.

    Raises:
        ValueError: It is no domain name.
    """
    if not is_domain(domain):
        msg = f"{domain!r} is no domain name"
        raise ValueError(msg)
    digest = sha256(domain.encode()).hexdigest()[:12]
    return f"n4_{digest}", f"n6_{digest}"


def rules_by_name(item: Guest | Gateway) -> list[EgressRule]:
    """The rules by domain name of a guest or a gateway."""
    return [rule for rule in item.egress or () if rule.domain is not None]


def with_names(owner: Owner) -> list[Guest | Gateway]:
    """The guests and gateways of an owner that have rules by domain name."""
    items: list[Guest | Gateway] = [*owner.of(Guest), *owner.of(Gateway)]
    return [item for item in items if rules_by_name(item)]


def domains_on(bridge: str, world: World) -> list[str]:
    """The names for which a bridge's server fills sets, in order.

    Args:
        bridge: The bridge.
        world: All owners, and the host as it is.
    """
    guests = (guest for guest in world.owners.every(Guest) if guest.bridge == bridge)
    names = (str(rule.domain) for guest in guests for rule in rules_by_name(guest))
    return sorted({*names, *_gateways_names(bridge, world)})


def _gateways_names(bridge: str, world: World) -> set[str]:
    """The names in rules of gateways that guests of a bridge are behind."""
    gateways = (each for each in world.owners.every(Gateway) if rules_by_name(each) and _is_behind(bridge, each, world))
    return {str(rule.domain) for gateway in gateways for rule in rules_by_name(gateway)}


def _is_behind(bridge: str, gateway: Gateway, world: World) -> bool:
    """Whether guests of a bridge are behind a gateway."""
    if bridge in gateway.internal:
        return True
    networks: list[Any] = [ipaddress.ip_network(cidr) for cidr in (*gateway.internal4, *gateway.internal6)]
    own: list[Any] = [ipaddress.ip_interface(cidr).network for cidr in world.cidrs(bridge)]
    return any(net.version == each.version and net.overlaps(each) for net in networks for each in own)


def lines(domains: Iterable[str]) -> Iterator[str]:
    """The lines of dnsmasq's configuration that fill the sets of these names.

    Raises:
        HostnetError: So many of them are within each other that a line would be too long.
    """
    names = dict.fromkeys(domains)
    if names:
        yield "cache-size=0"
    yield from (_line(name, names.__contains__) for name in names)


def check_lines(guest: Guest, bridge: str, world: World) -> None:
    """Refuse a guest's rules by name where a line for its bridge's server would be too long.

    Args:
        guest: The guest, one of the owners'.
        bridge: Its bridge.
        world: All owners, and the host as it is.

    Raises:
        HostnetError: So many names are within each other.
    """
    index, gateways_names = world.owners.guests, _gateways_names(bridge, world)

    def is_served(name: str) -> bool:
        return name in gateways_names or index.has_domain(bridge, name)

    for own in (str(rule.domain) for rule in rules_by_name(guest)):
        below = (each for each in gateways_names if each.endswith(f".{own}"))
        for name in {*index.domains_below(bridge, own), *below}:
            _line(name, is_served)


def _line(name: str, is_served: Callable[[str], bool]) -> str:
    within = sorted(filter(is_served, above(name)))
    line = f"nftset=/{name}/" + ",".join(_commands(digit, within) for digit in "46")
    if len(line) >= _LONGEST_LINE:
        raise HostnetError(
            Code.INVALID,
            f"cannot let guests reach {name}",
            f"too many names of egress rules are above it: {', '.join(each for each in within if each != name)}",
            "A rule for a name holds for all names below it: leave out the longer ones",
        )
    return line


def _commands(digit: str, domains: Iterable[str]) -> str:
    """The two texts that put an address of a family into the sets of these names, as dnsmasq's option has their words.

    dnsmasq writes `add element` before the words of each, and the address in braces behind them.
    """
    sets = [_TABLE + set_names(domain)[digit == "6"] for domain in domains]
    to = f"${_VARIABLE};"
    renewed = "add#element#".join(f"{each}{to}delete#element#{each}{to}add#element#{each}{to}" for each in sets[:-1])
    last = f"{sets[-1]}{to}delete#element#{sets[-1]}{to}undefine#{_VARIABLE};add#element#{sets[-1]}"
    kept = f"{_TABLE}{NOTHING_SET}#{{#{NOTHING}#}};redefine#{_VARIABLE}#="
    return f"{digit}#{kept},{digit}#{renewed}{'add#element#' if renewed else ''}{last}"


def check(item: Guest | Gateway, world: World, answering: Iterable[str]) -> None:
    """Refuse rules by name where no server of the guests' own bridge answers DNS.

    Args:
        item: What has them.
        world: All owners, and the host as it is.
        answering: The bridges whose own server answers DNS.

    Raises:
        HostnetError: They have no effect there.
    """
    rules, there = rules_by_name(item), set(answering)
    if not rules:
        return
    if isinstance(item, Gateway):
        asked = [name for name in item.internal if name not in there]
        if item.internal:
            why = f"hostnet serves no DNS on {', '.join(asked)}" if asked else ""
        else:
            near = any(_is_behind(name, item, world) for name in there)
            why = "" if near else "hostnet serves no DNS in the gateway's networks"
    else:
        why = "" if item.bridge in there else f"hostnet serves no DNS on {item.bridge or 'a routed TAP'}"
    if why:
        raise HostnetError(
            Code.INVALID,
            f"cannot let guests reach {rules[0].domain} by its name",
            why,
            "Give the Bridge a dhcpServer without dnsServers, or write the rule with a cidr",
        )


def lacks_nftset(version: str) -> bool:
    """Whether a dnsmasq has been built without `nftset`, by what `dnsmasq --version` prints."""
    options = next((line for line in version.splitlines() if line.startswith("Compile time options:")), "")
    return "nftset" not in options.split()
