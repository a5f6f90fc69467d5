"""Fixtures: the minimal systems, one after the other on a worker each."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.systems.system import System
from tools import systems

NAMES = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in systems.RELEASES]


@pytest.fixture(scope="module", params=NAMES)
def bare(request: pytest.FixtureRequest) -> Iterator[System]:
    """A system that has `make` and `python3`, and in which nothing was run yet."""
    if os.geteuid() != 0:
        pytest.skip("these tests need root: they unpack systems and make namespaces")
    if not systems.are_possible():
        pytest.skip("these tests need a Debian machine: its package sources are what the systems are made from")
    system = System(request.param)
    yield system
    system.close()


@pytest.fixture(scope="module")
def system(bare: System) -> System:
    """The system after set-up."""
    bare.online("python3", "-m", "tests.systems.set_up")
    return bare
