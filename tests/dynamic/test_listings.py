"""The listings in docs/nft.md are what a run of their commands prints today."""

from __future__ import annotations

import os

import pytest

from tools import docs_listing
from tools.paths import CHECKOUT


def test_the_ruleset_in_the_docs_is_the_ruleset(capsys: pytest.CaptureFixture[str]) -> None:
    """`make docs` writes them; it also writes docs/drift-and-import.md, whose runs are too long for here."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes a network namespace")
    stale = docs_listing.main(["--check", str(CHECKOUT / "docs" / "nft.md")])
    assert not stale, capsys.readouterr().out
