"""Which uplinks answer for themselves: what came in by one of them is replied to by it. Pure."""

from __future__ import annotations

from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.record.owners import Owners


def reply_uplinks(owners: Owners, snapshot: Snapshot) -> tuple[str, ...]:
    """The uplinks of gateways with `replyBySameUplink` that have a default route, sorted.

    Where the host has no second uplink there is no other way back, and none of this is needed.

    Args:
        owners: All owners.
        snapshot: The host's interfaces and routes.
    """
    gateways = [gateway for gateway in owners.gateways.values() if gateway.reply]
    uplinks = {name for gateway in gateways for name in gateway.uplinks}
    others = snapshot.uplinks | {name for name in uplinks if name in snapshot.links}
    return tuple(sorted(uplinks & snapshot.uplinks)) if len(others) > 1 else ()
