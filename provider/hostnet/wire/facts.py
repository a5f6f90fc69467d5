"""The answers to questions about a host, as JSON has them: what getHost, getBridge, `hostnet status` and others get.

The agent makes them as dicts; the names are those of the functions' results in schema.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from hostnet.wire.objects import Json, from_json
from hostnet.wire.shapes import Cidr, Count, Identifier, Ip, Mac, Name, ShapeError, Text, reader


def _object(value: Any) -> Any:
    """An object of a resource, checked."""
    from_json(value)
    return value


ObjectJson = Annotated[Any, _object]


@dataclass(frozen=True)
class _Interface:
    name: Name
    kind: str
    ifindex: Count
    macAddress: Mac | None
    mtu: Count
    up: bool
    addresses: tuple[Cidr, ...]
    bridge: Name | None


@dataclass(frozen=True)
class _Forwarding:
    ipv4: bool
    ipv6: bool


@dataclass(frozen=True)
class _Held:
    urn: str
    id: Identifier
    kind: str


@dataclass(frozen=True)
class _Host:
    kernel: str
    nftVersion: str | None
    interfaces: tuple[_Interface, ...]
    defaultRoute: dict[str, Name | None]
    forwarding: _Forwarding
    firewalls: tuple[str, ...]
    resources: tuple[_Held, ...]


@dataclass(frozen=True)
class _Lease:
    macAddress: str
    address: Ip
    hostname: str
    expires: Count


@dataclass(frozen=True)
class _Bridge:
    name: Name
    ifindex: Count
    macAddress: Mac
    mtu: Count
    addresses: tuple[Cidr, ...]
    subnets: tuple[Cidr, ...]
    gateway: Ip | None
    gateway6: Ip | None
    ports: tuple[Name, ...]
    leases: tuple[_Lease, ...]


@dataclass(frozen=True)
class _PortForward:
    id: Identifier
    protocol: str
    sourcePorts: str
    destinationAddress: Ip
    destinationPorts: str
    owner: str
    packets: Count
    bytes: Count


@dataclass(frozen=True)
class _PortForwards:
    portForwards: tuple[_PortForward, ...]


@dataclass(frozen=True)
class _Wrong:
    item: Count  # the number of the object, among the resource's
    text: Text
    absent: bool  # the whole object is not there


@dataclass(frozen=True)
class _Resource:
    urn: str
    id: Identifier
    kind: str
    name: str
    stack: str
    project: str
    objects: tuple[ObjectJson, ...]
    members: tuple[Name, ...]
    drift: tuple[Text, ...]
    wrong: tuple[_Wrong, ...]


@dataclass(frozen=True)
class _Watcher:
    needed: bool
    pid: Count | None


@dataclass(frozen=True)
class _Refused:
    interface: Name  # of the guest, or what its packets came in by
    name: str  # the guest's host name
    source: Ip
    destination: Ip
    protocol: str
    port: Count | None
    packets: Count
    domains: tuple[str, ...] = ()  # the names of rules that its destination was answered for of late


@dataclass(frozen=True)
class _Status:
    resources: tuple[_Resource, ...]
    undeclared: Count
    watcher: _Watcher
    defaultRoute: dict[str, Name | None]
    interfaces: tuple[_Interface, ...]
    portForwards: tuple[_PortForward, ...]
    refused: tuple[_Refused, ...] = ()
    dropped: dict[str, Count] = field(default_factory=dict)  # frames by TAP


@dataclass(frozen=True)
class _Bytes:
    name: str
    received: Count
    sent: Count
    refused: Count | None = None  # packets that `egress` of the guest on it did not allow
    dropped: Count = 0  # frames that no guest may send


@dataclass(frozen=True)
class _Traffic:
    milliseconds: Count
    portForwards: tuple[_PortForward, ...]
    interfaces: tuple[_Bytes, ...]
    leases: tuple[_Lease, ...]
    refused: tuple[_Refused, ...] = ()


@dataclass(frozen=True)
class _Check:
    name: str
    level: Literal["ok", "note", "warn", "fail"]
    found: Text
    fix: Text


@dataclass(frozen=True)
class _Doctor:
    checks: tuple[_Check, ...]


_FACTS: Mapping[str, type[Any]] = {
    "host": _Host,
    "bridge": _Bridge,
    "forwards": _PortForwards,
    "status": _Status,
    "traffic": _Traffic,
    "doctor": _Doctor,
}


def facts_from_json(name: str, data: Any) -> Json:
    """The answer to a question, checked.

    Args:
        name: The question: `host`, `bridge`, `forwards`, `status`, `traffic` or `doctor`.
        data: What was sent.

    Raises:
        ShapeError: It is of another form.
    """
    try:
        reader(_FACTS[name])(data)
    except ShapeError as error:
        raise ShapeError(f".result{error}") from None
    return dict(data)
