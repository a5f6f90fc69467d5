"""The operations of a plan, as plain data. `Kernel.perform` performs one.

The `str` of each says what was asked, for an error message: "create bridge vmbr".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Union

from hostnet.wire.family import Family
from hostnet.wire.shapes import Cidr, Count, Ip, Mac, Name, reader


@dataclass(frozen=True)
class CreateBridge:
    """Make a bridge (down, without addresses)."""

    name: Name
    mac: Mac | None = None
    mtu: Count | None = None
    stp: bool = False
    vlan_filtering: bool = False

    def __str__(self) -> str:
        return f"create bridge {self.name}"


@dataclass(frozen=True)
class CreateTap:
    """Make a persistent TAP (down)."""

    name: Name
    user: str | None = None
    group: str | None = None
    multi_queue: bool = False
    vnet_hdr: bool = True

    def __str__(self) -> str:
        return f"create TAP {self.name}"


@dataclass(frozen=True)
class SetTapUser:
    """Change who may open a TAP.

    TUNSETIFF must name the queues that the TAP was made with (else EINVAL), and sets `vnet_hdr` again.
    """

    name: Name
    user: str | None
    group: str | None
    multi_queue: bool = False
    vnet_hdr: bool = True

    def __str__(self) -> str:
        return f"change who may open TAP {self.name}"


@dataclass(frozen=True)
class DeleteLink:
    """Delete a link; its addresses and routes go with it, its ports are released."""

    name: Name

    def __str__(self) -> str:
        return f"delete link {self.name}"


@dataclass(frozen=True)
class SetLink:
    """Change what is not None. `bridge` "" takes it out of its bridge."""

    name: Name
    mac: Mac | None = None
    mtu: Count | None = None
    bridge: str | None = None
    isolated: bool | None = None
    hairpin: bool | None = None  # frames may leave through the port they came in by
    group_fwd_mask: int | None = None  # a bit for each reserved group address (01:80:c2:00:00:0X) that is forwarded
    accept_ra: int | None = None  # the sysctl: with 0 no router behind the link gives this host routes or addresses
    ipv6: bool | None = None  # the sysctl disable_ipv6: with it the kernel refuses addresses of IPv6
    up: bool | None = None
    bridge_device: bool = False  # a bridge: its MTU stays, and does not follow its ports' any more

    def __str__(self) -> str:
        return f"set {_settings(self)} of {self.name}"


@dataclass(frozen=True)
class SetBridgeOption:
    """STP or VLAN filtering of a bridge."""

    name: Name
    option: str  # stp | vlan_filtering
    value: bool

    def __str__(self) -> str:
        return f"set {self.option} of bridge {self.name} to {'on' if self.value else 'off'}"


@dataclass(frozen=True)
class Shape:
    """Limit what an interface sends, in bytes: a token bucket in place of its queue."""

    name: Name
    rate: Count
    burst: Count
    limit: Count

    def __str__(self) -> str:
        return f"limit {self.name} to {self.rate * 8} bit/s (bandwidth.download)"


@dataclass(frozen=True)
class Unshape:
    """Give an interface the kernel's own queue back. An interface that is not there is success."""

    name: Name

    def __str__(self) -> str:
        return f"take the limit of {self.name} (bandwidth.download) away"


@dataclass(frozen=True)
class AddAddress:
    """Add an address. An address that exists is success."""

    link: Name
    cidr: Cidr

    def __str__(self) -> str:
        return f"add address {self.cidr} to {self.link}"


@dataclass(frozen=True)
class DeleteAddress:
    """Delete an address. An address that does not exist is success."""

    link: Name
    cidr: Cidr

    def __str__(self) -> str:
        return f"delete address {self.cidr} of {self.link}"


@dataclass(frozen=True)
class AddRoute:
    """Add or replace a route through a link."""

    link: Name
    cidr: Cidr

    def __str__(self) -> str:
        return f"add route {self.cidr} through {self.link}"


@dataclass(frozen=True)
class PutRoute:
    """Put another program's route through a bridge back as it was. A route that exists is success.

    The kernel drops it with the bridge, or (IPv4) with the bridge's last address. Numbers are those of rtnetlink(7).
    The gateway of an IPv4 route may be an IPv6 address.
    """

    link: Name
    cidr: Cidr
    table: int
    protocol: int
    scope: int
    metric: int = 0
    gateway: str | None = None
    source: str | None = None
    onlink: bool = False
    expires: int = 0  # s; 0: never
    tos: int = 0
    metrics: str = ""  # RTA_METRICS (its MTU and the like) in hexadecimal, as the kernel lists it

    def __str__(self) -> str:
        return f"put route {self.cidr} through {self.link} back"


@dataclass(frozen=True)
class RemoveRoute(PutRoute):
    """Delete a route of any table. A route that does not exist is success."""

    def __str__(self) -> str:
        return f"delete route {self.cidr} through {self.link} of table {self.table}"


@dataclass(frozen=True)
class AddRule:
    """Add a rule that leads packets with a mark to a routing table. A rule that exists is success."""

    family: Family
    priority: Count
    mark: Count
    mask: Count
    table: Count

    def __str__(self) -> str:
        return f"add the routing rule for mark {self.mark:#x}/{self.mask:#x} to table {self.table}"


@dataclass(frozen=True)
class DeleteRule(AddRule):
    """Delete such a rule. A rule that does not exist is success."""

    def __str__(self) -> str:
        return f"delete the routing rule for mark {self.mark:#x}/{self.mask:#x} to table {self.table}"


@dataclass(frozen=True)
class DeleteRoute:
    """Delete a route. A route that does not exist is success."""

    link: Name
    cidr: Cidr

    def __str__(self) -> str:
        return f"delete route {self.cidr} through {self.link}"


@dataclass(frozen=True)
class AddProxy:
    """Answer ARP or neighbour solicitations for an address on a link. An entry that exists is success."""

    link: Name
    address: Ip

    def __str__(self) -> str:
        return f"answer for {self.address} on {self.link} (guest.proxyInterface)"


@dataclass(frozen=True)
class DeleteProxy(AddProxy):
    """Answer no more. An entry that does not exist is success."""

    def __str__(self) -> str:
        return f"answer no more for {self.address} on {self.link} (guest.proxyInterface)"


@dataclass(frozen=True)
class WriteSysctl:
    """Write a sysctl."""

    name: str
    value: str

    def __post_init__(self) -> None:
        """A record is input as well: its operations are checked as those of a request are."""
        check_sysctl_name(self.name)

    def __str__(self) -> str:
        return f"set sysctl {self.name} to {self.value}"


Operation = Union[
    CreateBridge,
    CreateTap,
    SetTapUser,
    DeleteLink,
    SetLink,
    SetBridgeOption,
    Shape,
    Unshape,
    AddAddress,
    DeleteAddress,
    AddRoute,
    PutRoute,
    DeleteRoute,
    RemoveRoute,
    AddRule,
    DeleteRule,
    AddProxy,
    DeleteProxy,
    WriteSysctl,
]


def check_sysctl_name(name: str) -> str:
    """The name of a sysctl below `net.`, as it is; in an interface's part `/` stands for a dot (sysctl(8)).

    Raises:
        ValueError: It is none: it would lead out of /proc/sys/net.
    """
    parts = [part.replace("/", ".") for part in name.split(".")]
    if parts[0] != "net" or not {"", ".", ".."}.isdisjoint(parts) or not name.isprintable():
        raise ValueError(f"{name!r} is not the name of a network sysctl")
    return name


_KINDS = {kind.__name__: kind for kind in Operation.__args__}  # type: ignore[attr-defined]


def to_json(operation: Operation) -> dict[str, Any]:
    """An operation as the record keeps it."""
    return {"operation": type(operation).__name__, **vars(operation)}


def from_json(data: dict[str, Any]) -> Operation:
    """The operation that `to_json` wrote.

    Raises:
        ValueError: It is none.
        KeyError: It is one that this version does not know.
    """
    made: Operation = reader(_KINDS[data["operation"]])({k: v for k, v in data.items() if k != "operation"})
    return made


@dataclass(frozen=True)
class Step:
    """An operation for an owner, and its inverse.

    Attributes:
        owner: The owner's key.
        operation: What to perform.
        undo: What takes it back, in order.
    """

    owner: str
    operation: Operation
    undo: tuple[Operation, ...] = ()


def _settings(operation: SetLink) -> str:
    parts = []
    if operation.mac is not None:
        parts.append(f"MAC address {operation.mac}")
    if operation.mtu is not None:
        parts.append(f"MTU {operation.mtu}")
    if operation.bridge is not None:
        parts.append(f"bridge {operation.bridge}" if operation.bridge else "no bridge")
    if operation.isolated is not None:
        parts.append("isolation" if operation.isolated else "no isolation")
    if operation.hairpin is not None:
        parts.append("hairpin mode" if operation.hairpin else "no hairpin mode")
    if operation.group_fwd_mask is not None:
        parts.append(f"group_fwd_mask {operation.group_fwd_mask:#x}")
    if operation.accept_ra is not None:
        parts.append(f"accept_ra {operation.accept_ra}")
    if operation.ipv6 is not None:
        parts.append("IPv6" if operation.ipv6 else "no IPv6")
    if operation.up is not None:
        parts.append("up" if operation.up else "down")
    return ", ".join(parts)
