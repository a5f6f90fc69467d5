"""Pairs of port forwards, and of gateways, that overlap: what a host makes of them, on fakes and in a kernel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

Inputs = dict[str, Any]

SHAPES = {
    "partly": ("8000:8010", "8005:8015"),
    "within": ("8000:8020", "8005:8010"),
    "around": ("8005:8010", "8000:8020"),
    "at the last port": ("8000:8010", "8010:8015"),
    "adjacent": ("8000:8005", "8006:8010"),
    "equal": ("8000:8010", "8000:8010"),
    "one port of a range": ("8000:8010", 8005),
    "a range with the port": (8005, "8000:8010"),
}
TARGETS = {"to one guest": ("10.0.0.2", "10.0.0.2"), "to two guests": ("10.0.0.2", "10.0.0.3")}
TO_PORTS = {
    "to one port": ("10.0.0.2:9000", "10.0.0.2:9000"),
    "to one port, and to the same ports": ("10.0.0.2:9000", "10.0.0.2"),
}


class Uplinks(NamedTuple):
    """The host's addresses: of eth0, of eth1."""

    one: str
    two: str


class Pair(NamedTuple):
    """Two resources that overlap.

    Attributes:
        first: The one that is there.
        second: The one that comes.
        refused: A part of the reason for which the second is refused; "": both are there, in either order.
    """

    first: Inputs
    second: Inputs
    refused: str = ""


# By name: what each has beside its ports and destination, and for which shapes the second is refused, with the reason.
# "ports": where they have a port in common. "ranges": where two ranges have, and are not the same forward.
Axis = tuple[Inputs, Inputs, str, str]


def axes(at: Uplinks) -> dict[str, Axis]:
    """What two forwards may differ in, beside their ports."""
    one, two = at
    eth1 = {"externalInterface": "eth1"}
    source, wider = {"sourceCidrs": ["198.51.100.0/24"]}, {"sourceCidrs": ["198.51.100.0/23", "100.64.0.0/10"]}
    every, own = {"listenAddresses": ["0.0.0.0"]}, {"listenAddresses": ["127.0.0.1"]}  # noqa: S104
    at_one, at_two, at_both = ({"listenAddresses": addresses} for addresses in ([one], [two], [one, two]))
    there, within = "there belongs to", "from the host and its networks"
    return {
        "nothing": ({}, {}, "ports", there),
        "protocols": ({"protocol": "udp"}, {"protocol": "tcp"}, "", ""),
        "some protocols": ({"protocol": "tcp+udp"}, {"protocol": "tcp"}, "ports", there),
        "sources": (source, wider, "ports", there),
        "sources of one": ({}, source, "ports", there),
        "a listen address": ({}, at_one, "", ""),
        "a listen address, both with sources": (source, at_one | wider, "", ""),
        "listen addresses": (at_one, at_two, "", ""),
        "a listen address of both": (at_both, at_one, "ports", there),
        "every address": (every, {}, "ports", there),
        "every address, and one": (every, at_one, "", ""),
        "the host's own, and every": (own, every, "", ""),
        "uplinks": ({}, eth1, "", ""),
        "uplinks, with sources": (source, wider | eth1, "", ""),
        "uplinks, every address": (every, every | eth1, "", ""),
        "uplinks, every address of one": (every, eth1, "", ""),
        "uplinks, every address, with sources": (every | source, every | wider | eth1, "", ""),
        "uplinks, one listen address": (at_one, at_one | eth1, "ranges", within),
        "uplinks, the other one's address": (at_two, eth1, "ranges", within),
        "uplinks, not from within": (at_one, at_one | eth1 | {"loopback": False}, "", ""),
        "uplinks, the host's own": (own, own | eth1, "ranges", within),
    }


def forwards(axis: Axis, *names: str) -> Iterator[tuple[str, Pair]]:
    """Pairs of forwards, by name: of these shapes, else of all."""
    *options, where, reason = axis
    for shape in names or SHAPES:
        ports = SHAPES[shape]
        for target, destinations in (TARGETS | (TO_PORTS if shape in ("partly", "within", "equal") else {})).items():
            first, second = (
                {"externalInterface": "eth0", "sourcePort": port, "destination": destination, **option}
                for port, destination, option in zip(ports, destinations, options, strict=True)
            )
            refused = where and shape != "adjacent"
            if where == "ranges":
                refused = refused and _excluded(shape, target)
            yield f"{shape}, {target}", Pair(first, second, reason if refused else "")


def _excluded(shape: str, target: str) -> bool:
    """Whether two forwards that meet in one map need different values there."""
    # A single port is in a map of its own, which comes first; so is a range that leads to one port.
    apart = shape in ("one port of a range", "a range with the port") or target == "to one port, and to the same ports"
    return not apart and (shape != "equal" or target == "to two guests")


def gateways(at: Uplinks) -> dict[str, Pair]:
    """Pairs of gateways with forwards, dmz hosts and networks."""
    ports = [{"sourcePort": "8000:8010", "destination": "10.0.0.2"}]
    others = [{"sourcePort": "8005:8015", "destination": "10.0.0.3"}]
    everywhere = [dict(each, listenAddresses=["0.0.0.0"]) for each in (*ports, *others)]  # noqa: S104
    vms, lab = {"internalInterfaces": ["vms"]}, {"internalInterfaces": ["lab"]}
    eth0, eth1, wildcard = {"externalInterface": "eth0"}, {"externalInterface": "eth1"}, dict[str, Any]()
    there = "there belongs to NatGateway"
    return {
        "one uplink": Pair({**vms, **eth0, "forwardPorts": ports}, {**lab, **eth0, "forwardPorts": others}, there),
        "the default uplink": Pair(
            {**vms, **eth0, "forwardPorts": ports}, {**lab, **wildcard, "forwardPorts": others}, there
        ),
        "two uplinks": Pair({**vms, **eth0, "forwardPorts": ports}, {**lab, **eth1, "forwardPorts": others}),
        "two uplinks, one network": Pair(
            {**vms, **eth0, "forwardPorts": ports}, {**vms, **eth1, "forwardPorts": others}
        ),
        "two uplinks, one network, every address": Pair(
            {**vms, **eth0, "forwardPorts": everywhere[:1]}, {**vms, **eth1, "forwardPorts": everywhere[1:]}
        ),
        "an uplink behind the other": Pair(
            {**vms, **eth1, "forwardPorts": ports}, {"internalInterfaces": ["eth1"], **eth0, "forwardPorts": others}
        ),
        "dmz hosts": Pair(
            {**vms, **eth0, "dmzHost": "10.0.0.2"}, {**lab, **eth0, "dmzHost": "10.1.0.2"}, "is the dmz host of"
        ),
        "one dmz host": Pair({**vms, **eth0, "dmzHost": "10.0.0.2"}, {**lab, **eth0, "dmzHost": "10.0.0.2"}),
        "dmz hosts of two uplinks": Pair(
            {**vms, **eth0, "dmzHost": "10.0.0.2"}, {**lab, **eth1, "dmzHost": "10.1.0.2"}
        ),
        "a network in the other": Pair(
            {"internalIps": ["10.0.0.0/8"], **eth0, "externalIp": at.one}, {"internalIps": ["10.0.0.3/32"], **eth0}
        ),
        "an address of an interface": Pair(
            {**vms, **eth0, "externalIp": at.one}, {"internalIps": ["10.0.0.3/32"], **eth0}
        ),
        "one network": Pair({"internalIps": ["10.0.0.0/8"], **eth0}, {"internalIps": ["10.0.0.0/8"]}, "is also behind"),
        "one network, two uplinks": Pair(
            {"internalIps": ["10.0.0.0/8"], **eth0}, {"internalIps": ["10.0.0.0/8"], **eth1}
        ),
    }
