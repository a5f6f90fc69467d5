"""Which network namespace this is, and which record belongs to it."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from pathlib import Path

from hostnet.agent.linux import files
from hostnet.agent.linux.process import boot_id
from hostnet.agent.record.record import Store, check_directory, header_of
from hostnet.wire.errors import Code, HostnetError

NAMED_NAMESPACES = Path("/run/netns")
CLONE_NEWNET = 0x40000000  # linux/sched.h
_SO_NETNS_COOKIE = 71
_NET_NS_INIT_INO = 0xEFFFFFF9
_UNNAMED = 3  # parts of an instance without a name: boot, inode, cookie


def namespace_of(netns: str | None) -> int:
    """The inode of the namespace of this name now; 0 where there is none, or none is asked for."""
    return inode(NAMED_NAMESPACES / netns) if netns else 0


def has_name() -> bool:
    """Whether the namespace that this process is in has a name (ip-netns(8))."""
    return bool(names_of(inode(Path("/proc/self/ns/net"))))


def inode(path: Path) -> int:
    """A file's inode, which names a namespace; 0 if there is no such file."""
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def names_of(namespace: int) -> list[str]:
    """The names of a network namespace (ip-netns(8))."""
    try:
        return [entry.name for entry in NAMED_NAMESPACES.iterdir() if inode(entry) == namespace]
    except OSError:
        return []


def enter(netns: str) -> None:
    """Move this process into a named namespace.

    Raises:
        HostnetError: There is none of this name.
    """
    try:
        descriptor = os.open(NAMED_NAMESPACES / netns, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise HostnetError(
            Code.UNREACHABLE,
            f"cannot enter network namespace {netns}",
            "ENOENT: there is none of this name",
            f"Create it (`ip netns add {netns}`), or correct connection.netns",
        ) from None
    libc = ctypes.CDLL(None, use_errno=True)
    # It moves the calling thread alone (setns(2)), and the agent has no other. Python has os.setns from 3.12 on.
    failed = libc.setns(descriptor, CLONE_NEWNET)
    code = ctypes.get_errno()
    os.close(descriptor)
    if failed:
        raise HostnetError(Code.UNREACHABLE, f"cannot enter network namespace {netns}", os.strerror(code))


def store_here(state_dir: Path, netns: str | None) -> Store:
    """The record of the machine, or of the namespace that this process is in: that one ends with it, or with the boot.

    Args:
        state_dir: The provider's `stateDir`.
        netns: The name by which the namespace was entered, if by one.

    Raises:
        HostnetError: Others may write to the directory.
    """
    check_directory(state_dir)
    here = Path("/proc/self/ns/net").stat().st_ino
    if here in _machine_namespace():
        return Store(state_dir, "host", None)
    boot = boot_id()
    _sweep(state_dir, boot)
    return Store(state_dir, f"netns-{here}", f"{boot} {here} {_netns_cookie()} {netns or ''}".rstrip())


def _machine_namespace() -> set[int]:
    """The inodes by which the machine's own network namespace is known.

    That of process 1 (in a container: the container's); where a hardened init hides its own, that of the kernel's first
    thread; where that is hidden as well, the number that Linux 6.18 fixed.
    """
    known = filter(None, (inode(Path(f"/proc/{number}/ns/net")) for number in (1, 2)))
    return {next(known, _NET_NS_INIT_INO)}


def _netns_cookie() -> int:
    """A number that no other namespace of this boot has had (inodes are used again); 0 before Linux 5.14."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            return int(struct.unpack("=Q", probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))[0])
        except OSError:
            return 0


def _sweep(state_dir: Path, boot: str) -> None:
    """Drop the records of namespaces of an earlier boot, and of named ones that are gone."""
    for path in state_dir.glob("netns-*.json"):
        try:
            instance = str(header_of(files.our_line(path))["instance"] or "").split()
        except (OSError, ValueError, RecursionError):
            continue  # another program's, a newer hostnet's, or not whole: the agent of its namespace says so
        if len(instance) >= _UNNAMED and (instance[0] != boot or not _alive(instance)):
            path.unlink(missing_ok=True)
            for ending in (".lock", ".attached", ".changes"):
                path.with_suffix(ending).unlink(missing_ok=True)
            for left in state_dir.glob(f"{path.stem}.watch.*"):
                left.unlink(missing_ok=True)


def _alive(instance: list[str]) -> bool:
    """Whether a namespace may still be there: one without a name can't be looked up."""
    return len(instance) == _UNNAMED or str(namespace_of(instance[_UNNAMED])) == instance[1]
