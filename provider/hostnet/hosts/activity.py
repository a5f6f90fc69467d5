"""When a host last showed a sign of life, by a clock that stands still while this process computes."""

from __future__ import annotations

import time


def idle_clock() -> float:
    """Seconds in which this process did not compute: with many hosts at once, its own work is no host's delay."""
    return time.monotonic() - time.process_time()


class Activity:
    """The signs of life of one host.

    Attributes:
        last: The time of the last one by `idle_clock`; 0.0 before the first.
    """

    def __init__(self) -> None:
        self.last = 0.0

    def note(self) -> None:
        """The host, or the jump host before it, has just answered."""
        self.last = idle_clock()
