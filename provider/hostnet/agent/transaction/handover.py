"""An agent takes over from another one whose provider lost the connection to it."""

from __future__ import annotations

import os

from hostnet.agent.linux.process import Process
from hostnet.agent.record.record import Store


def take_over(store: Store, pid: int, started: int, transaction: str = "") -> None:
    """End the agent that this one takes over from, if it lives: a request that it has read must not be done later.

    It is not ended half way through a transaction: either it does not hold the host's lock, or it waits for a
    confirmation that comes to this agent now.

    Args:
        store: The host's record.
        pid: The other agent's process.
        started: When that process started, in clock ticks since the boot: with the number, its identity.
        transaction: The one that the provider asks about.
    """

    def end() -> None:
        if pid != os.getpid():
            Process(pid, started).kill()

    def look() -> None:
        if transaction and store.unconfirmed() == transaction:
            end()

    with store.locked(look):
        end()
