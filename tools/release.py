"""Checks that this checkout can be released, and tags it: `python -m tools.release [--tag]`.

What is checked: the version is the same wherever it is written, CHANGELOG.md has it with a date, all is committed, and
neither tag is there. With --tag the commit gets both tags; nothing is pushed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from hostnet import __version__

from tools.paths import CHECKOUT


def tags(version: str) -> tuple[str, str]:
    """The release's, and Go's, whose module is in a folder."""
    return f"v{version}", f"sdk/go/hostnet/v{version}"


def versions(checkout: Path) -> dict[str, str]:
    """Where the version is written: file -> what it says."""
    python = {
        name: tomllib.loads((checkout / name).read_text(encoding="utf-8"))["project"]["version"]
        for name in ("pyproject.toml", "sdk/python/pyproject.toml")
    }
    for name in ("schema.json", "sdk/nodejs/package.json"):
        python[name] = json.loads((checkout / name).read_text(encoding="utf-8"))["version"]
    return python


def problems(checkout: Path, version: str, git_status: str, known_tags: frozenset[str]) -> Iterator[str]:
    """What stands in the way of a release, each with what to do.

    Args:
        checkout: Its files are read.
        version: The version of provider/hostnet/__init__.py.
        git_status: What `git status --porcelain` prints.
        known_tags: The tags that are there.
    """
    for name, found in versions(checkout).items():
        if found != version:
            yield f"{name}: its version is {found}, hostnet's is {version}. Change it, or run `make sdk`"
    changelog = (checkout / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)$", changelog, re.MULTILINE):
        yield f"CHANGELOG.md: there is no heading `## {version} (YYYY-MM-DD)`. Write what is new"
    if git_status:
        yield "git: there are changes that are not committed. Commit them"
    for tag in tags(version):
        if tag in known_tags:
            yield f"git: the tag {tag} is there already. Raise the version"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout


def main(arguments: list[str]) -> int:
    """Check, and tag if asked; the exit status."""
    found = list(problems(CHECKOUT, __version__, _git("status", "--porcelain"), frozenset(_git("tag").split())))
    for problem in found:
        print(problem, file=sys.stderr)
    if found:
        return 1
    for tag in tags(__version__) if "--tag" in arguments else ():
        _git("tag", tag)
        print(f"tagged {tag}")
    print("Next: `make test`, `make dist`, and push the tags (docs/releasing.md).")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
