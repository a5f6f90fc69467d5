"""Which flows in progress must take another path from now on, by the elements that changed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hostnet.agent.linux.conntrack import ForwardedFlows, UntranslatedFlows
from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.nft.context import Context
from hostnet.agent.nft.desired import Desired
from hostnet.agent.nft.networks import subnets
from hostnet.agent.nft.ruleset import SETS, Place
from hostnet.wire.family import ANY_NETWORK, VERSION, Family, family_of, family_of_set

_SOURCES = ("port_sources", "source_nat_")  # sets whose elements change the path of a forward's flows
_SOURCE_NAT = (
    "masquerade_",
    "snat_",
    "one_to_one_sources",
)  # how the sets and maps begin whose elements translate a source


def changed_udp(before: Desired, after: Desired) -> list[ForwardedFlows]:
    """The UDP flows whose forward appeared, changed or was deleted.

    conntrack keeps a flow on its path as long as packets come, so it must forget these.
    """
    flows = []
    for name, key in before.differences(after):
        if name.startswith(("dmz_hosts", "dmz_addrs", "one_to_one_addrs")):
            flows.append(ForwardedFlows(family_of_set(name), (1, 65535)))
        elif len(key) > 2 and key[1] == "udp" and (SETS[name].value or name.startswith(_SOURCES)):
            # The port is the last field, but for the sets of sources: there nft prints a masked address at the end.
            low, _, high = key[-1 if SETS[name].value else 2].partition("-")
            flows.append(ForwardedFlows(family_of_set(name), (int(low), int(high or low))))
    return flows


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
