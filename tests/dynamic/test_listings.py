"""The listings in docs/nft.md and docs/cli.md are what a run of their commands prints today."""

from __future__ import annotations

import os

import pytest

from tools import docs_listing
from tools.paths import CHECKOUT


@pytest.mark.parametrize("name", ["nft.md", "cli.md"])
def test_the_listings_are_of_today(capsys: pytest.CaptureFixture[str], name: str) -> None:
    """`make docs` writes them; it also writes docs/drift-and-import.md, whose runs are too long for here."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes a network namespace")
    stale = docs_listing.main(["--check", str(CHECKOUT / "docs" / name)])
    assert not stale, capsys.readouterr().out
