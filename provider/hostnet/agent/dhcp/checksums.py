"""UDP checksums of DHCP answers, for clients that check them in a packet that never was on a wire.

The kernel leaves the checksum of what it sends to a bridge to the last device, and a TAP's guest or a veth never gets
it filled in. Today's clients know (PACKET_AUXDATA); dhclient as old as 2010 drops the answer as damaged. Measured with
real packets (kernel 6.18, nftables 1.0.6): nft's `udp checksum set 0` is fine on a veth and *wrong* on a TAP without
checksum offload, where the kernel later adds the sum of all but the pseudo-header; nft has nothing that fills in. What
works: tc's action `csum`, which touches DHCP's answers alone (libvirt's way); and where the kernel is built without
it, leaving no checksum of the bridge to devices, which costs segmentation in software. That kernel has no `csum`: the
first way is tested with a stand-in for `tc` and on a whole server (tests/vm), the second with packets. With Debian 12's
kernel 6.1 the first made damaged answers whole, left other packets alone, and went without a trace.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
import subprocess

TC, TC_ALONE, OFFLOAD = "tc", "tc-alone", "offload"
_PRIORITY = "6868"
_SIOCETHTOOL, _GET, _SET = 0x8946, 0x16, 0x17  # linux/sockios.h; linux/ethtool.h: ETHTOOL_GTXCSUM, ETHTOOL_STXCSUM
_VALUE = struct.Struct("=II")


def fill(bridge: str, had: str = "") -> str:
    """See to it that DHCP answers leave with a whole checksum.

    :param had: what this gave when it was done before and not taken back.
    :returns: what `leave` needs to know: how it was done; "" where nothing had to be, or could be.
    """
    how = _filter(bridge, ours=had == TC_ALONE)
    if not how and _offload(bridge) and _offload(bridge, on=False) is False:
        how = OFFLOAD
    return how or (had if had == OFFLOAD else "")


def whole(bridge: str, how: str) -> bool:
    """Whether it is as `fill` left it.

    :param how: what `fill` gave.
    """
    if how in (TC, TC_ALONE):
        return "csum" in (_tc("filter", "show", "dev", bridge, "egress") or "")
    return how != OFFLOAD or not _offload(bridge)


def leave(bridge: str, how: str) -> None:
    """Take it back; a bridge that is gone took it along."""
    if how in (TC, TC_ALONE):
        _tc("filter", "delete", "dev", bridge, "egress", "prio", _PRIORITY)
    if how == TC_ALONE and not any(_tc("filter", "show", "dev", bridge, way) for way in ("ingress", "egress")):
        _tc("qdisc", "delete", "dev", bridge, "clsact")
    elif how == OFFLOAD:
        _offload(bridge, on=True)


def _filter(bridge: str, *, ours: bool) -> str:
    """Put tc's filter in place (one of ours that is there goes first): how, or "" where this kernel or host can't."""
    alone = _tc("qdisc", "add", "dev", bridge, "clsact") is not None or ours
    match = "u32 match ip protocol 17 0xff match ip sport 67 0xffff match ip dport 68 0xffff action csum udp"
    _tc("filter", "delete", "dev", bridge, "egress", "prio", _PRIORITY)
    if _tc("filter", "add", "dev", bridge, "egress", "protocol", "ip", "prio", _PRIORITY, *match.split()) is not None:
        return TC_ALONE if alone else TC
    if alone:
        _tc("qdisc", "delete", "dev", bridge, "clsact")
    return ""


def _tc(*arguments: str) -> str | None:
    """What tc says; None where it refuses, or there is none."""
    try:
        done = subprocess.run(["tc", *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def _offload(bridge: str, *, on: bool | None = None) -> bool | None:
    """Whether the bridge leaves checksums to devices, after setting it where asked; None where it can't be told."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            if on is not None:
                _ethtool(control, bridge, _SET, int(on))
            return bool(_ethtool(control, bridge, _GET))
        except OSError:
            return None


def _ethtool(control: socket.socket, bridge: str, command: int, value: int = 0) -> int:
    data = ctypes.create_string_buffer(_VALUE.pack(command, value), _VALUE.size)
    fcntl.ioctl(control, _SIOCETHTOOL, struct.pack("16sP16x", bridge.encode(), ctypes.addressof(data)))
    return int(_VALUE.unpack(data.raw)[1])
