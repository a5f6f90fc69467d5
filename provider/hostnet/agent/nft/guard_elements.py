"""From bridges and guests to the elements that hold what guests may do to the host and to each other. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from hostnet.agent.nft.context import Context
from hostnet.agent.nft.ruleset import Element, Tagged
from hostnet.wire.family import digit_of
from hostnet.wire.objects import Address, Link, Object


def guard_elements(item: Object, context: Context) -> Iterator[Tagged]:
    """The elements of an object. Those of a bridge's addresses are tagged with a field of the bridge.

    Args:
        item: The object.
        context: What its elements depend on.
    """
    if isinstance(item, Link) and item.name in context.services:
        yield Element("services_links", (item.name,)), ("host_access", "")
    elif isinstance(item, Link) and item.upload is not None:
        # A TAP on a bridge is seen there alone, a routed one is not.
        for name in ("upload_links", "upload_ports"):
            yield Element(name, (item.name,), (str(item.upload // 8),)), ("upload", "")
    elif isinstance(item, Address) and item.link in context.services:
        address = item.cidr.split("/")[0]
        yield Element("service_addrs" + digit_of(item.cidr), (item.link, address)), ("host_access", "")
