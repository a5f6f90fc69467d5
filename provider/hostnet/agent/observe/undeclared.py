"""Port forwards in our table that no resource asked for: they show as extra `forwardPorts` of a gateway. Pure."""

from __future__ import annotations

from hostnet.agent.observe.view import Observation
from hostnet.agent.record.owners import Owner
from hostnet.wire.family import ANY_NETWORK, family_of_set
from hostnet.wire.objects import Forward, ForwardState, Gateway, Ports


def strange_forwards(owner: Owner, observation: Observation) -> list[tuple[Forward, ForwardState]]:
    """What somebody else added on this owner's gateway, from outside or from within; the next update takes it out."""
    gateway = next((item for item in owner.objects if isinstance(item, Gateway)), None)
    if gateway is None or not observation.strange:
        return []
    devices = {gateway.external, "lo", *observation.context.inner[gateway.name]}
    found: dict[str, tuple[Forward, ForwardState]] = {}
    for (name, key), value in observation.strange.items():
        if not value or len(key) < 3 or key[0] not in devices:
            continue
        forward = _forward(gateway, name, key, value)
        seen = ForwardState(**{**vars(forward), "external": gateway.external})
        found.setdefault(forward.key, (forward, seen))
    return list(found.values())


def _forward(gateway: Gateway, name: str, key: tuple[str, ...], value: tuple[str, ...]) -> Forward:
    """The forward that such an element makes. Its key is (device, protocol, …, ports), see `ruleset.SETS`."""
    ports = _ports(key[-1])
    between = key[2:-1]
    listen = between[:1] if name.startswith("dnat_addr") else ()
    sources = tuple(source for source in between[len(listen) :] if source not in ANY_NETWORK.values())
    to_ports = _ports(value[1]) if len(value) > 1 else ports
    family = family_of_set(name)
    return Forward(
        family, (key[1],), ports, value[0], to_ports, gateway=gateway.name, listen=tuple(listen), sources=sources
    )


def _ports(text: str) -> Ports:
    low, _, high = text.partition("-")
    return int(low), int(high or low)
