"""Uplinks and public addresses as people have them: tests/cases/uplinks.

Addresses: see tests/lab/topology.py; the cases' format: tests/lab/cases.py.
"""

from __future__ import annotations

import pytest

from tests.lab.cases import Case, Runner, load
from tests.lab.driver import Stack
from tests.lab.lab import Lab


@pytest.mark.parametrize("case", load("uplinks"), ids=lambda case: case.name)
def test_case(lab: Lab, stack: Stack, case: Case) -> None:
    """Every probe ends as the case says, and a destroy leaves the host as it was."""
    Runner(lab, stack, case).run()
