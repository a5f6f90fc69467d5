"""Tests that share something costly stay together when several workers run them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import pytest

@pytest.mark.xdist_group("together")
@pytest.mark.parametrize("number", range(8))
def test_one_of_a_group(number):
    pass
"""


def test_a_group_runs_on_one_worker(tmp_path: Path) -> None:
    """The pinned pytest and pytest-xdist agree about `xdist_group`; where they don't, nothing else says so."""
    (tmp_path / "test_group.py").write_text(PROGRAM)
    argv = [sys.executable, "-m", "pytest", "-v", "-n", "2", "--dist", "loadgroup", "-p", "no:cacheprovider"]
    argv += ["-c", "/dev/null", "--rootdir", str(tmp_path), str(tmp_path)]
    said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    workers = re.findall(r"\[(gw\d)\].* PASSED ", said)
    assert len(workers) == 8, said
    assert len(set(workers)) == 1, said
