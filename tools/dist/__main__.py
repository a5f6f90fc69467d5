"""Builds what is published: `python -m tools.dist [FOLDER]`; the default is dist/ in the checkout."""

import hashlib
import shutil
import sys
from pathlib import Path

from tools.dist import gomodule, npm, plugin, wheels
from tools.paths import CHECKOUT
from tools.steps import SetupError, doing

SUMS = "SHA256SUMS"


def build(target: Path) -> None:
    """Build everything into a folder, which then holds nothing else.

    Raises:
        SetupError: A part cannot be built.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for what, part in (
        ("the wheels", wheels.build),
        ("the npm package", npm.build),
        ("the Go module", gomodule.build),
        ("the plugin", plugin.build),
    ):
        with doing(f"build {what}"):
            part(target)
    shutil.copyfile(CHECKOUT / "schema.json", target / "schema.json")
    sums = "".join(f"{digest(path)}  {path.name}\n" for path in sorted(target.iterdir()))
    (target / SUMS).write_text(sums, encoding="utf-8")


def digest(path: Path) -> str:
    """The SHA-256 of a file, as `sha256sum` prints it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(args: list[str]) -> int:
    """Build; the exit status."""
    target = Path(args[0]) if args else CHECKOUT / "dist"
    try:
        build(target)
    except SetupError as error:
        print(f"dist: {error}", file=sys.stderr)
        return 1
    for path in sorted(target.iterdir()):
        print(f"{path.stat().st_size:>10}  {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
