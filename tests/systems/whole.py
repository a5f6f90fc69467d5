"""What takes longer on minimal systems; no part of `make systems`. Run it with `make systems-whole`."""

from __future__ import annotations

import pytest

from tests.systems.system import System

pytestmark = pytest.mark.timeout(0)  # each of the tests within has its own


def test_the_demo_needs_make_and_python_alone(bare: System) -> None:
    """`make demo` installs what it needs and ends well; a `pulumi` that this machine has built is not built again."""
    bare.online("make", "setup-demo")
    assert "GUEST READY" in bare.offline("make", "demo")


@pytest.mark.parametrize("folder", ["cli", "dynamic"])
def test_folder(system: System, folder: str) -> None:
    """All tests of a folder, with a `pulumi` beside what set-up for tests brings."""
    system.online("make", "setup-demo")
    system.pytest("-n", "2", "--dist", "loadgroup", f"tests/{folder}")
