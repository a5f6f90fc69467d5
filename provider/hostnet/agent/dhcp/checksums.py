"""Complete UDP checksums in DHCP answers, for clients that check them in a packet that was on no wire.

The kernel leaves the checksum of what it sends to a bridge to the last device, and neither a TAP nor a veth completes
it. Today's clients know (PACKET_AUXDATA); dhclient of 2010 and earlier drops the answer as damaged. Seen with packets:

- nft has no statement that completes a checksum. `udp checksum set 0` works on a veth and is wrong on a TAP without
  checksum offload, where the kernel then adds the sum of all but the pseudo-header (kernel 6.18, nftables 1.0.6).
- tc's action `csum` works and concerns DHCP answers alone; libvirt does the same. Debian 12's kernel 6.1 completed
  damaged answers, left other packets alone, and kept no trace after the filter was deleted.
- Where the kernel has no `csum` (6.18 as the tests have it), the bridge leaves no checksum to devices: TX checksum
  offload is off. That costs segmentation in software for all that the host sends to the bridge.

The first is tested with a stand-in for `tc` and on a whole server (tests/vm), the second with packets.
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


def complete(bridge: str, had: str = "") -> str:
    """Have DHCP answers leave the bridge with a complete checksum.

    Args:
        bridge: The bridge.
        had: What an earlier call returned that `restore` has not undone.

    Returns:
        How, for `restore`; "" if nothing was needed or possible.
    """
    how = _filter(bridge, ours=had == TC_ALONE)
    if not how and _offload(bridge) and _offload(bridge, on=False) is False:
        how = OFFLOAD
    return how or (had if had == OFFLOAD else "")


def is_complete(bridge: str, how: str) -> bool:
    """Whether the bridge is as `complete` left it.

    Args:
        bridge: The bridge.
        how: What `complete` returned.
    """
    if how in (TC, TC_ALONE):
        return "csum" in (_tc("filter", "show", "dev", bridge, "egress") or "")
    return how != OFFLOAD or not _offload(bridge)


def restore(bridge: str, how: str) -> None:
    """Undo `complete`. A bridge that was deleted took it along."""
    if how in (TC, TC_ALONE):
        _tc("filter", "delete", "dev", bridge, "egress", "prio", _PRIORITY)
    if how == TC_ALONE and not any(_tc("filter", "show", "dev", bridge, hook) for hook in ("ingress", "egress")):
        _tc("qdisc", "delete", "dev", bridge, "clsact")
    elif how == OFFLOAD:
        _offload(bridge, on=True)


def _filter(bridge: str, *, ours: bool) -> str:
    """Add tc's filter in place of an earlier one of ours; returns how, or "" if this kernel or host can't."""
    alone = _tc("qdisc", "add", "dev", bridge, "clsact") is not None or ours
    match = "u32 match ip protocol 17 0xff match ip sport 67 0xffff match ip dport 68 0xffff action csum udp"
    _tc("filter", "delete", "dev", bridge, "egress", "prio", _PRIORITY)
    if _tc("filter", "add", "dev", bridge, "egress", "protocol", "ip", "prio", _PRIORITY, *match.split()) is not None:
        return TC_ALONE if alone else TC
    if alone:
        _tc("qdisc", "delete", "dev", bridge, "clsact")
    return ""


def _tc(*arguments: str) -> str | None:
    """What tc prints; None if it fails or is not installed."""
    try:
        done = subprocess.run(["tc", *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def _offload(bridge: str, *, on: bool | None = None) -> bool | None:
    """Switch TX checksum offload (None: leave it), and say whether it is on; None if the kernel does not say."""
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
