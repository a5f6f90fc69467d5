"""Refusals of the kernel and conflicts of owners, as errors that a person can act on."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from hostnet.agent.linux.operations import (
    AddAddress,
    AddRoute,
    CreateBridge,
    CreateTap,
    Operation,
    PutRoute,
    SetBridgeOption,
    SetTapUser,
    Shape,
    WriteSysctl,
)
from hostnet.agent.nft.desired import ClashError
from hostnet.agent.record.owners import Owner
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.family import family_of


class OwnerError(Exception):
    """An error of some owners of a transaction.

    Args:
        keys: The owners.
        error: Theirs.
    """

    def __init__(self, keys: list[str], error: HostnetError) -> None:
        super().__init__(str(error))
        self.keys, self.error = keys, error


def clash_error(clash: ClashError, holder: Owner | None) -> HostnetError:
    """Two owners need different values of one element."""
    element = clash.element
    what = f"cannot put {' . '.join(element.key)} : {' . '.join(element.value)} into the nftables map {element.set}"
    who = holder.label if holder else "another resource"
    return HostnetError(Code.CONFLICT, what, f"{who} needs another value there", "Remove one of the two")


def in_part(error: HostnetError, left: Iterable[object]) -> HostnetError:
    """The error of a change that failed, and could not be undone as a whole either.

    Args:
        error: Why it failed.
        left: Why what is left of it could not be undone.
    """
    why = f"{error.why}; undoing the rest of the change failed as well: {'; '.join(map(str, left))}"
    return HostnetError(Code.PARTIAL, error.what, why, "The next `pulumi up` repairs it")


def kernel_error(operation: Operation, error: OSError | LookupError) -> HostnetError:
    """The kernel refused an operation."""
    if isinstance(error, LookupError):
        return HostnetError(Code.NOT_FOUND, f"cannot {operation}", str(error))
    code = Code.PERMISSION if error.errno in (errno.EPERM, errno.EACCES) else Code.KERNEL
    return HostnetError(code, f"cannot {operation}", reason_of(error), _advice(operation, error))


def reason_of(error: OSError) -> str:
    """What the kernel said: `EEXIST: File exists`."""
    name = errno.errorcode.get(error.errno or 0, "error")
    return f"{name}: {os.strerror(error.errno or 0)}"


_ADVICE = {
    errno.EPERM: "hostnet needs root on the host: connect as root, or set connection.sudo",
    errno.EACCES: "hostnet needs root on the host: connect as root, or set connection.sudo",
    errno.EBUSY: "A program has the interface open; stop it and try again",
    errno.EROFS: "The host mounts /proc/sys read-only: set the sysctl where the host is started",
    errno.ENODEV: "The interface went away in the meantime; run `pulumi refresh`, then `pulumi up`",
}


def _advice(operation: Operation, error: OSError) -> str:
    if isinstance(operation, WriteSysctl) and error.errno in (errno.EROFS, errno.EACCES):
        return _ADVICE[errno.EROFS]
    if error.errno == errno.EOPNOTSUPP or (isinstance(operation, Shape) and error.errno == errno.ENOENT):
        return f"This kernel has no {_feature(operation)}. Load its module, or use a kernel that has it"
    return _ADVICE.get(error.errno or 0, "")


def _feature(operation: Operation) -> str:
    """What a kernel lacks that does not support an operation, with its build option."""
    if isinstance(operation, SetBridgeOption) and operation.option == "vlan_filtering":
        return "VLAN filtering of bridges (CONFIG_BRIDGE_VLAN_FILTERING, for vlanFiltering)"
    if isinstance(operation, Shape):
        return "token bucket filter (CONFIG_NET_SCH_TBF, the module sch_tbf, for bandwidth.download)"
    if isinstance(operation, CreateBridge):
        vlans = " or no VLAN filtering of bridges (CONFIG_BRIDGE_VLAN_FILTERING, for vlanFiltering)"
        return f"bridges (CONFIG_BRIDGE){vlans if operation.vlan_filtering else ''}"
    if isinstance(operation, (CreateTap, SetTapUser)):
        return "TAPs (CONFIG_TUN)"
    v6 = isinstance(operation, (AddAddress, AddRoute, PutRoute)) and family_of(operation.cidr) == "ipv6"
    return "IPv6 (CONFIG_IPV6)" if v6 else f"support for it ({operation})"
