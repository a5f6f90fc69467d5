"""The packet cases: resources and probes as data (see tests/lab/cases.py), those of each kind in its own file."""

from __future__ import annotations

import pytest

from tests.lab.cases import Case, Runner, load
from tests.lab.driver import Stack
from tests.lab.lab import Lab


@pytest.mark.parametrize("case", [*load("kernel"), *load("resources", "packets")], ids=lambda case: case.name)
def test_case(lab: Lab, stack: Stack, case: Case) -> None:
    """Every probe ends as the case says, and a destroy leaves the host as it was."""
    Runner(lab, stack, case).run()
