"""The kinds of resources: what they take, what is wrong with it, what has changed, what the host should have. Pure.

`KINDS` has every kind by its token; a new kind is one file and one entry here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hostnet.resources.bridge import BRIDGE
from hostnet.resources.nat_gateway import NAT_GATEWAY
from hostnet.resources.port_forward import PORT_FORWARD
from hostnet.resources.tap_binding import TAP_BINDING

if TYPE_CHECKING:
    from hostnet.resources.schema.kind import Kind

# With their declarations, for schema.json and the docs.
RESOURCES: tuple[Kind[Any], ...] = (BRIDGE, TAP_BINDING, NAT_GATEWAY, PORT_FORWARD)
KINDS: dict[str, Kind[Any]] = {kind.token: kind for kind in RESOURCES}
