"""What stands in the way of a release."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hostnet import __version__

from tools.paths import CHECKOUT
from tools.release import problems, tags, versions


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that are read, with a changelog that has a date."""
    for name in versions(CHECKOUT):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text(f"# Changes\n\n## {__version__} (2027-01-31)\n\nNew.\n")
    return tmp_path


def test_nothing_stands_in_the_way(checkout: Path) -> None:
    """This checkout's versions agree."""
    assert list(problems(checkout, __version__, "", frozenset({"v0.0.1"}))) == []


def test_another_version_somewhere(checkout: Path) -> None:
    """Each file that differs is named; so is the changelog that lacks the version."""
    found = [problem.partition(":")[0] for problem in problems(checkout, "9.9.9", "", frozenset())]
    assert found == [*versions(checkout), "CHANGELOG.md"]


def test_a_changelog_without_a_date(checkout: Path) -> None:
    """A version that is not released yet."""
    (checkout / "CHANGELOG.md").write_text(f"## {__version__} (not released)\n")
    (problem,) = problems(checkout, __version__, "", frozenset())
    assert problem.startswith("CHANGELOG.md: ")


def test_uncommitted_changes_and_present_tags(checkout: Path) -> None:
    """The commit, and both tags."""
    found = list(problems(checkout, __version__, " M README.md\n", frozenset(tags(__version__))))
    assert len(found) == 3
    assert "not committed" in found[0]
    assert all(tag in problem for tag, problem in zip(tags(__version__), found[1:], strict=True))
