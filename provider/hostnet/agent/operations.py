"""The operations that a plan is made of: plain data, performed by `kernel.Kernel.perform`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CreateBridge:
    """Make a bridge (down, without addresses)."""

    name: str
    mac: str | None = None
    mtu: int | None = None
    stp: bool = False
    vlan_filtering: bool = False


@dataclass(frozen=True)
class CreateTap:
    """Make a persistent TAP (down)."""

    name: str
    user: str | None = None
    group: str | None = None
    multi_queue: bool = False
    vnet_hdr: bool = True


@dataclass(frozen=True)
class SetTapUser:
    """Change who may open a TAP; the other fields are how it was made, which opening it must name."""

    name: str
    user: str | None
    group: str | None
    multi_queue: bool = False
    vnet_hdr: bool = True


@dataclass(frozen=True)
class DeleteLink:
    """Delete a link; its addresses and routes go with it, its ports are released."""

    name: str


@dataclass(frozen=True)
class SetLink:
    """Change what is not None. `bridge` "" takes it out of its bridge."""

    name: str
    mac: str | None = None
    mtu: int | None = None
    bridge: str | None = None
    isolated: bool | None = None
    up: bool | None = None
    bridge_device: bool = False


@dataclass(frozen=True)
class SetBridgeOption:
    """STP or VLAN filtering of a bridge."""

    name: str
    option: str  # stp | vlan_filtering
    value: bool


@dataclass(frozen=True)
class AddAddress:
    """Add an address; it being there is success."""

    link: str
    cidr: str


@dataclass(frozen=True)
class DeleteAddress:
    """Delete an address; it being gone is success."""

    link: str
    cidr: str


@dataclass(frozen=True)
class AddRoute:
    """Add or replace a route through a link."""

    link: str
    cidr: str


@dataclass(frozen=True)
class DeleteRoute:
    """Delete a route; it being gone is success."""

    link: str
    cidr: str


@dataclass(frozen=True)
class WriteSysctl:
    """Write a sysctl."""

    name: str
    value: str


Operation = (
    CreateBridge
    | CreateTap
    | SetTapUser
    | DeleteLink
    | SetLink
    | SetBridgeOption
    | AddAddress
    | DeleteAddress
    | AddRoute
    | DeleteRoute
    | WriteSysctl
)


@dataclass(frozen=True)
class Step:
    """An operation for an owner, and what undoes it."""

    owner: str
    operation: Operation
    undo: tuple[Operation, ...] = ()


def describe(operation: Operation) -> str:
    """What was asked, for an error message: "create bridge vmbr"."""
    match operation:
        case CreateBridge() | CreateTap():
            return f"create {'bridge' if isinstance(operation, CreateBridge) else 'TAP'} {operation.name}"
        case SetTapUser():
            return f"change who may open TAP {operation.name}"
        case DeleteLink():
            return f"delete link {operation.name}"
        case SetBridgeOption():
            return f"set {operation.option} of bridge {operation.name} to {'on' if operation.value else 'off'}"
        case AddAddress() | DeleteAddress():
            return f"{'add' if isinstance(operation, AddAddress) else 'delete'} address {operation.cidr} of {operation.link}"
        case AddRoute() | DeleteRoute():
            return f"{'add' if isinstance(operation, AddRoute) else 'delete'} route {operation.cidr} through {operation.link}"
        case WriteSysctl():
            return f"set sysctl {operation.name} to {operation.value}"
        case SetLink():
            return f"set {_settings(operation)} of {operation.name}"


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
    if operation.up is not None:
        parts.append("up" if operation.up else "down")
    return ", ".join(parts)
