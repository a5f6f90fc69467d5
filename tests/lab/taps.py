"""A guest without a hypervisor: frames move between a persistent TAP of the host and an interface of the guest.

What QEMU does with a TAP is done here by the lab's background loop: it opens the TAP in the host's namespace, makes a
TAP `eth0` in the guest's, and copies frames both ways. When it lets go, the host's TAP loses its carrier and stays.
`PointToPoint` is a line without Ethernet, as a modem or a VPN has it, made of two TUN devices in the same way.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct

from tests.lab.background import Background
from tests.lab.namespaces import Namespace
from tests.lab.servers import add_reader

# <linux/if_tun.h>
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_TAP = 0x0001, 0x0002
IFF_NO_PI = 0x1000
IFF_MULTI_QUEUE = 0x0100
IFF_VNET_HDR = 0x4000
FRAME = 65536 + 64


def open_tap(name: str, *, vnet_hdr: bool = True, multi_queue: bool = False) -> int:
    """A file descriptor of one queue of a TAP in the calling thread's namespace; the TAP is made where it is absent.

    Args:
        name: The TAP.
        vnet_hdr: As the TAP was made: opening a persistent TAP changes the flag to what the opener asks for.
        multi_queue: As the TAP was made.

    Raises:
        OSError: EBUSY where another process holds a single-queue TAP, EINVAL where `multi_queue` does not fit.
    """
    return _open(name, IFF_TAP | (IFF_VNET_HDR if vnet_hdr else 0) | (IFF_MULTI_QUEUE if multi_queue else 0))


def _open(name: str, flags: int) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags | IFF_NO_PI))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class TapGuest:
    """The wire between a host's TAP and a guest's `eth0`, which exists while this is plugged in."""

    def __init__(
        self, background: Background, host: Namespace, tap: str, guest: Namespace, *, mac: str, vnet_hdr: bool = True
    ) -> None:
        """Plug in.

        Args:
            background: Copies the frames.
            host: Where the TAP is.
            tap: The TAP.
            guest: Gets the other end, as `eth0`.
            mac: The guest's MAC address, as `TapBinding.guest.macAddress` says it.
            vnet_hdr: As the TAP was made.

        Raises:
            OSError: Where the TAP can't be opened.
        """
        self._background = background
        self._host = host.call(open_tap, tap, vnet_hdr=vnet_hdr)
        self._guest = guest.call(open_tap, "eth0", vnet_hdr=vnet_hdr)  # the same headers go in and out unchanged
        guest.ip(f"link set eth0 address {mac} up")
        loop = background.loop
        background.call(add_reader, loop, self._host, _copy, self._host, self._guest)
        background.call(add_reader, loop, self._guest, _copy, self._guest, self._host)

    def close(self) -> None:
        """Unplug: the guest's interface goes, the host's TAP stays."""
        for descriptor in (self._host, self._guest):
            self._background.call(self._background.loop.remove_reader, descriptor)
            os.close(descriptor)


class PointToPoint:
    """A line between two namespaces: packets without Ethernet, no ARP, no subnet. It goes with `close`."""

    def __init__(self, background: Background, one: tuple[Namespace, str], other: tuple[Namespace, str]) -> None:
        """Make it.

        Args:
            background: Copies the packets.
            one: A namespace, and the interface's name there.
            other: The same of the other end.
        """
        self._background = background
        self._ends = [namespace.call(_open, name, IFF_TUN) for namespace, name in (one, other)]
        for namespace, name in (one, other):
            namespace.ip(f"link set {name} up")
        for end, far in (self._ends, self._ends[::-1]):
            background.call(add_reader, background.loop, end, _copy, end, far)

    def close(self) -> None:
        """Take it away: both interfaces go."""
        while self._ends:
            end = self._ends.pop()
            self._background.call(self._background.loop.remove_reader, end)
            os.close(end)


def _copy(source: int, destination: int) -> None:
    """Move the frames that wait; one that the other side can't take is lost, as on a wire."""
    with contextlib.suppress(OSError):
        for _ in range(64):
            frame = os.read(source, FRAME)
            with contextlib.suppress(OSError):
                os.write(destination, frame)
