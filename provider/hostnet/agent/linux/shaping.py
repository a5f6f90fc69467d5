"""Traffic shaping of an interface (tc): a token bucket, with fair queueing in it where the kernel has it.

The formats are those of linux/pkt_sched.h. What an interface receives is not limited here, but by our nftables tables
(`upload_ports` and `upload_links` in `nft/ruleset.py`): many kernels lack what tc needs for it (act_police,
cls_matchall), and what tc redirects to an ifb passes nftables' bridge hooks no more (Linux 6.18), and with them what
keeps a guest from forging addresses.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from hostnet.agent.linux import netlink
from hostnet.agent.linux.netlink import Netlink, Tolerate, attribute, attributes, nested

RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
TC_H_ROOT = 0xFFFFFFFF
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_TBF_PARMS, TCA_TBF_BURST = 1, 6
TCA_FQ_CODEL_TARGET, TCA_FQ_CODEL_INTERVAL = 1, 3
TC_LINKLAYER_ETHERNET = 1  # with it the kernel computes the time of a packet, and needs no table of them
BUCKET = "tbf"
_HANDLE = 0x686E0000  # of the bucket ("hn"): its class, in which the fair queueing is, is the first one below it

_TC = struct.Struct("=BxxxiIII")  # family, interface, handle, parent, info
_RATE = struct.Struct("=BBHhHI")  # cell_log, linklayer, overhead, cell_align, mpu, bytes a second
_BUCKET = struct.Struct("=III")  # limit, buffer, mtu
_TICK = 64  # ns: in these the kernel says how long a full bucket lasts (PSCHED_SHIFT)
_FRAME = 1518  # bytes of an Ethernet frame
_TARGET, _INTERVAL = 5_000, 100_000  # µs: CoDel's own (RFC 8289)


@dataclass(frozen=True)
class Bucket:
    """A token bucket at the root of an interface, in bytes.

    Attributes:
        rate: A second.
        burst: What it holds when it is full. A larger packet never fits: one of several segments is cut, another lost.
        limit: How much waits at most, where no fair queueing decides that.
    """

    rate: int
    burst: int
    limit: int


def buckets(socket: Netlink, names: Mapping[int, str]) -> dict[str, Bucket]:
    """The token buckets at the root of interfaces.

    Args:
        socket: To the namespace.
        names: The interfaces by index.
    """
    found = {}
    for message in socket.dump(RTM_GETQDISC, _TC.pack(0, 0, 0, 0, 0)):
        _, index, _, parent, _ = _TC.unpack_from(message.body)
        if parent == TC_H_ROOT and index in names:
            bucket = _bucket(message.body)
            if bucket is not None:
                found[names[index]] = bucket
    return found


def _bucket(body: bytes) -> Bucket | None:
    about = attributes(body[_TC.size :])
    if netlink.text(about.get(TCA_KIND, b"")) != BUCKET:
        return None
    options = attributes(about.get(TCA_OPTIONS, b""))[TCA_TBF_PARMS]
    rate = _RATE.unpack_from(options)[-1]
    limit, ticks, _ = _BUCKET.unpack_from(options, 2 * _RATE.size)
    return Bucket(rate, ticks * _TICK * rate // 1_000_000_000, limit)


def shape(socket: Netlink, index: int, bucket: Bucket) -> None:
    """Put a token bucket at the root of an interface, in place of what is there.

    Args:
        socket: To the namespace.
        index: The interface.
        bucket: Its properties.

    Raises:
        OSError: The kernel refuses; ENOENT where it has no tbf.
    """
    rate = _RATE.pack(0, TC_LINKLAYER_ETHERNET, 0, 0, 0, bucket.rate)
    parameters = rate + bytes(_RATE.size) + _BUCKET.pack(bucket.limit, 0, 0)
    burst = attribute(TCA_TBF_BURST, bucket.burst)
    _put(socket, index, _HANDLE, TC_H_ROOT, BUCKET, attribute(TCA_TBF_PARMS, parameters), burst)
    # A packet takes this time at a low rate. CoDel would drop each with a target below it.
    target = _TARGET + _FRAME * 1_000_000 // bucket.rate
    options = attribute(TCA_FQ_CODEL_TARGET, target), attribute(TCA_FQ_CODEL_INTERVAL, target - _TARGET + _INTERVAL)
    with Tolerate(errno.ENOENT):  # the kernel has no fq_codel: one queue for all, of `limit`
        _put(socket, index, 0, _HANDLE | 1, "fq_codel", *options)


def unshape(socket: Netlink, index: int) -> None:
    """Give an interface the kernel's own queue back."""
    with Tolerate(errno.ENOENT):
        socket.request(RTM_DELQDISC, _TC.pack(0, index, 0, TC_H_ROOT, 0))


def _put(socket: Netlink, index: int, handle: int, parent: int, kind: str, *options: bytes) -> None:
    body = _TC.pack(0, index, handle, parent, 0) + attribute(TCA_KIND, kind) + nested(TCA_OPTIONS, *options)
    socket.request(RTM_NEWQDISC, body, netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE)
