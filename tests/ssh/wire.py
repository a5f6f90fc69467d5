"""A wire between two TAPs that delays, loses and doubles frames (not every kernel has netem; every one here has TAPs).

Run as a program, so that its clock does not wait for the test's: the TAPs' descriptors, the delay of one direction in
milliseconds, and how many of a hundred frames are lost and doubled.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import random
import select
import sys
import time

_FRAME = 1 << 16


def main(left: int, right: int, delay: float, lost: float, doubled: float) -> None:
    """Carry frames until standard input ends."""
    others = {left: right, right: left}
    under_way: list[tuple[float, int, int, bytes]] = []
    poll = select.poll()
    for descriptor in (0, left, right):
        poll.register(descriptor, select.POLLIN)
    number = 0
    while True:
        wait = None if not under_way else max(0.0, (under_way[0][0] - time.monotonic()) * 1000)
        for descriptor, _ in poll.poll(wait):
            if descriptor == 0:
                return
            frame = os.read(descriptor, _FRAME)
            for _ in range(1 + (random.random() * 100 < doubled)):  # noqa: S311 - no secret
                if random.random() * 100 >= lost:  # noqa: S311 - likewise
                    number += 1
                    heapq.heappush(under_way, (time.monotonic() + delay / 1000, number, others[descriptor], frame))
        while under_way and under_way[0][0] <= time.monotonic():
            _, _, target, frame = heapq.heappop(under_way)
            with contextlib.suppress(BlockingIOError):  # full: lost, as on a wire
                os.write(target, frame)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *map(float, sys.argv[3:6]))
