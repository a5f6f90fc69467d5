"""Wait for what must happen: on a busy machine it happens late, and only what never happens is a failure."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 60.0  # seconds; only a failure costs them
_PAUSE = 0.02


def until(holds: Callable[[], T | None], patience: float = PATIENCE, *, detail: Callable[[], object] = str) -> T:
    """Wait until a condition holds.

    Args:
        holds: The condition; something true, once it holds.
        patience: How many seconds to wait at most.
        detail: What the failure says besides.

    Returns:
        What the condition gave.

    Raises:
        AssertionError: It does not hold within that time.
    """
    end = time.monotonic() + patience
    while not (found := holds()):
        assert time.monotonic() < end, f"still not so after {patience:.0f} seconds {detail()}"
        time.sleep(_PAUSE)
    return found
