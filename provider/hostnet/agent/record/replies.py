"""What hostnet made so that replies leave by the uplink that the request came in by."""

from __future__ import annotations

from dataclasses import dataclass, field

from hostnet.wire.shapes import Count


@dataclass(frozen=True)
class ReplyRoute:
    """The numbers of one uplink: those that were free when it first needed them.

    Attributes:
        mark: The mark of connections that came in by it.
        table: The routing table of their replies.
        priority: That of the rules that lead there.
    """

    mark: Count
    table: Count
    priority: Count


@dataclass(frozen=True)
class Replies:
    """All of it on one host.

    Attributes:
        routes: By uplink.
        text: A hash of what our nftables table of marks was made from; "": there is none.
        rules: A hash of its chains and rules as the kernel lists them.
    """

    routes: dict[str, ReplyRoute] = field(default_factory=dict)
    text: str = ""
    rules: str = ""
