"""Which flows in progress must take another path from now on, by the elements that changed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hostnet.agent.linux.conntrack import ForwardedFlows, OwnFlows, UntranslatedFlows
from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.nft.context import Context
from hostnet.agent.nft.desired import Desired
from hostnet.agent.nft.networks import subnets
from hostnet.agent.nft.ruleset import SETS, Place
from hostnet.wire.family import ANY_NETWORK, VERSION, Family, family_of, family_of_set

_SOURCES = ("port_sources", "source_nat_")  # sets whose elements change the path of a forward's flows
_OF_FORWARDS = frozenset(name for name, spec in SETS.items() if spec.of == "forward")
_SOURCE_NAT = (
    "masquerade_",
    "snat_",
    "one_to_one_sources",
)  # how the sets and maps begin whose elements translate a source


def redirected(before: Desired, after: Desired) -> list[ForwardedFlows | OwnFlows]:
    """The flows whose forward, dmz host or one-to-one NAT appeared, changed or was deleted.

    conntrack keeps a flow on its path as long as packets come, so it must forget these: what comes in, and what the
    former target sends by itself, for its peers' packets would go on to it.
    """
    flows: dict[ForwardedFlows | OwnFlows, None] = {}
    for name, key in before.differences(after):
        family, former = family_of_set(name), before.elements.get((name, key), ())
        if name.startswith("one_to_one_sources"):
            # Also of one that gets an address: what it sends has the former source, and what is sent to it would be
            # dropped, because its answers belong to that flow already.
            flows[OwnFlows(family, key[1])] = None
        elif name.startswith(("dmz_hosts", "dmz_addrs", "one_to_one_addrs", "one_to_one_inner")):
            flows[ForwardedFlows(family)] = None
            flows.update(dict.fromkeys(OwnFlows(family, host) for host in former))
        elif name in _OF_FORWARDS and (ports := _udp_ports(name, key)) is not None:
            flows[ForwardedFlows(family, ports)] = None
            if former and former != after.elements.get((name, key)):
                flows[OwnFlows(family, former[0], _span(former[1]) if len(former) > 1 else ports)] = None
    return list(flows)


def _udp_ports(name: str, key: tuple[str, ...]) -> tuple[int, int] | None:
    """The ports that are asked for, of an element that changes the path of a forward's UDP flows."""
    spec = SETS[name]
    if not (spec.value or name.startswith(_SOURCES)) or "inet_proto" not in spec.key:
        return None
    at = spec.key.index("inet_proto")
    # The port is the last field, but for the sets of sources: there nft prints a masked address at the end.
    return _span(key[-1 if spec.value else at + 1]) if key[at] == "udp" else None


def _span(text: str) -> tuple[int, int]:
    """The first and the last port of `8000` or `8000-8100`."""
    low, _, high = text.partition("-")
    return int(low), int(high or low)


def newly_translated(added: Iterable[Place], context: Context, snapshot: Snapshot) -> list[UntranslatedFlows]:
    """The flows of sources that are translated from now on.

    A flow that began before stays as it is for as long as packets come, and its answers do not come back (moby#44752).

    Args:
        added: The elements that were added to our table.
        context: What they depend on.
        snapshot: The host's interfaces, addresses and routes.
    """
    sources: dict[tuple[Family, str], set[str]] = {}
    for name, key in added:
        if name.startswith(_SOURCE_NAT):
            family = family_of_set(name)
            if SETS[name].key == ("ifname", "ifname"):
                external, networks = key[1], set(_behind(key[0], family, context, snapshot))
            else:
                external, networks = key[0], {key[1]}
            sources.setdefault((family, external), set()).update(networks)
    return [
        UntranslatedFlows(family, tuple(sorted(networks)), tuple(_elsewhere(external, family, snapshot)))
        for (family, external), networks in sources.items()
    ]


def _behind(link: str, family: Family, context: Context, snapshot: Snapshot) -> Iterator[str]:
    """The networks of a family that the host reaches through an interface."""
    own = (str(net) for net in subnets(context.addresses.get(link, ())) if net.version == VERSION[family])
    yield from own
    yield from (cidr for cidr in snapshot.routes.get(link, ()) if family_of(cidr) == family)


def _elsewhere(external: str, family: Family, snapshot: Snapshot) -> Iterator[str]:
    """The networks of a family that the host reaches through any interface but the external one."""
    for by_link in (snapshot.addresses, snapshot.routes):
        for link, cidrs in by_link.items():
            if link != external:
                yield from (x for x in cidrs if family_of(x) == family and x != ANY_NETWORK[family])
