"""Runs a module as where there is no Linux: `python -I no_linux.py MODULE ARGUMENTS`.

macOS cannot be had in the tests. This takes away from Python what only Linux has: functions of `os`, kinds of sockets,
epoll, /proc and /sys, libnftables. Whatever asks for one of them fails as it does there.
"""

# What binds names of `os` and `select` when it is imported comes first: Python's own modules are others on macOS.
import asyncio
import errno
import os
import runpy
import select
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from typing import Any

OF_OS = (
    *("copy_file_range", "eventfd", "fdatasync", "getrandom", "getresgid", "getresuid", "getxattr", "listxattr"),
    *("memfd_create", "pidfd_open", "pipe2", "posix_fadvise", "posix_fallocate", "removexattr", "sched_getaffinity"),
    *("sched_setaffinity", "setns", "setresgid", "setresuid", "setxattr", "splice", "unshare"),
    *("O_DIRECT", "O_NOATIME", "O_PATH", "O_TMPFILE"),
)
OF_SOCKET = (
    *("AF_NETLINK", "AF_PACKET", "AF_VSOCK", "MSG_CMSG_CLOEXEC", "MSG_NOSIGNAL", "SOCK_CLOEXEC", "SOCK_NONBLOCK"),
    *("SO_BINDTODEVICE", "SO_MARK", "SO_PEERCRED", "TCP_KEEPIDLE", "TCP_USER_TIMEOUT"),
)
FAMILIES = {int(socket.AF_NETLINK), int(socket.AF_PACKET)}
OPENS = {"open", "os.listdir", "os.scandir"}
BEFORE = (asyncio, shutil, subprocess, tempfile, urllib.request)


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """What Python is about to do fails where it needs Linux."""
    first = arguments[0] if arguments else None
    if event in OPENS and isinstance(first, str) and first.startswith(("/proc/", "/sys/")):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), first)
    if event == "socket.__new__" and int(arguments[1]) in FAMILIES:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    if event == "ctypes.dlopen" and "nftables" in str(first):
        raise OSError(f"{first}: cannot open shared object file")


def main() -> None:
    """Take it away, and run the module as `__main__`."""
    for module, names in ((os, OF_OS), (socket, OF_SOCKET), (select, ("epoll",)), (selectors, ("EpollSelector",))):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    selectors.DefaultSelector = selectors.PollSelector  # type: ignore[assignment,misc]
    sys.platform = "darwin"
    sys.addaudithook(refuse)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
