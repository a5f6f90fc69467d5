"""Port forwards in our table that no resource declares. A read shows them as `forwardPorts` of their gateway. Pure."""

from __future__ import annotations

from hostnet.agent.nft.ruleset import SETS
from hostnet.agent.observe.observation import Observation
from hostnet.wire.family import ANY_NETWORK, family_of_set
from hostnet.wire.objects import Forward, Gateway, Ports

_MAPS = frozenset(name for name, spec in SETS.items() if spec.of == "forward" and spec.value)


def undeclared_forwards(gateway: Gateway, observation: Observation) -> list[Forward]:
    """What another program forwards on a gateway, from outside or from within; the next update takes it out."""
    if not observation.undeclared:
        return []
    devices = {*gateway.uplinks, *observation.context.apart_of(gateway)}
    found: dict[str, Forward] = {}
    for (name, key), value in observation.undeclared.items():
        if value and name in _MAPS and (name.startswith("inner_") or key[0] in devices):
            forward = _forward(gateway, name, key, value)
            found.setdefault(forward.key, forward)
    return list(found.values())


def _forward(gateway: Gateway, name: str, key: tuple[str, ...], value: tuple[str, ...]) -> Forward:
    """The forward that such an element makes. Its key is (device, protocol, …, ports), see `ruleset.SETS`.

    From within it has no device.
    """
    ports = _ports(key[-1])
    at = SETS[name].key.index("inet_proto")
    between = key[at + 1 : -1]
    listen = between[:1] if name.startswith(("dnat_addr", "inner_addr")) else ()
    sources = tuple(source for source in between[len(listen) :] if source not in ANY_NETWORK.values())
    to_ports = _ports(value[1]) if len(value) > 1 else ports
    family = family_of_set(name)
    return Forward(
        family, (key[at],), ports, value[0], to_ports, gateway=gateway.name, listen=tuple(listen), sources=sources
    )


def _ports(text: str) -> Ports:
    low, _, high = text.partition("-")
    return int(low), int(high or low)
