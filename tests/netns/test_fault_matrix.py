"""The table of faults (tests/lab/faults.py) on this machine; tests/ssh/test_fault_matrix.py has the other half."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.lab.faults import Cell, LocalGround, cells


@pytest.fixture(scope="module")
def ground() -> Iterator[LocalGround]:
    """This worker's host."""
    if os.geteuid() != 0:
        pytest.skip("kernel tests need root: they make network namespaces")
    made = LocalGround()
    yield made
    made.close()


@pytest.mark.xdist_group("faults, local")
@pytest.mark.parametrize("cell", cells("local"), ids=str)
def test_a_fault(ground: LocalGround, cell: Cell) -> None:
    """Old or new, and the next `up` is right."""
    for moment in cell.moments:
        ground.check(cell, moment)
