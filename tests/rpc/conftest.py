"""A fresh engine, plugin and host for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.rpc.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def engine() -> Iterator[Engine]:
    """A configured plugin whose default host is this machine (a fake)."""
    with Engine() as running:
        yield running.configure()
