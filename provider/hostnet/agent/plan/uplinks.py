"""Which uplinks answer for themselves: what came in by one of them is replied to by it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.record.owners import Owners


def reply_uplinks(owners: Owners, snapshot: Snapshot, held: Iterable[str]) -> tuple[str, ...]:
    """The uplinks of gateways with `replyBySameUplink` that have a default route, or had one, sorted.

    A line that is down keeps what it has: it may come back, and what comes in by it meanwhile shows that it works.

    Where the host has no second uplink there is no other way back, and none of this is needed.

    Args:
        owners: All owners.
        snapshot: The host's interfaces and routes.
        held: Those that have what replies need already.
    """
    gateways = [gateway for gateway in owners.gateways.values() if gateway.reply]
    uplinks = {name for gateway in gateways for name in gateway.uplinks}
    there = {name for name in uplinks if name in snapshot.links}
    several = len(snapshot.uplinks | there) > 1
    return tuple(sorted(there & (snapshot.uplinks | set(held)))) if several else ()
