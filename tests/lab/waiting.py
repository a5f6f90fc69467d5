"""Waiting for what is to come: on a busy machine it comes late, and only what never comes is a failure."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 60.0  # seconds; only a failure costs them
_PAUSE = 0.02


def until(holds: Callable[[], T | None], patience: float = PATIENCE, *, told: Callable[[], object] = str) -> T:
    """Wait until a condition holds.

    Args:
        holds: The condition; something true, once it holds.
        patience: How many seconds to wait at most.
        told: What to say, beside that it did not come about.

    Returns:
        What the condition gave.

    Raises:
        AssertionError: It does not hold within that time.
    """
    end = time.monotonic() + patience
    while not (found := holds()):
        assert time.monotonic() < end, f"it does not come about within {patience:.0f} seconds {told()}"
        time.sleep(_PAUSE)
    return found
