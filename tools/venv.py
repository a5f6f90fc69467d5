"""The checkout's virtual environment, with pinned versions."""

import hashlib
import importlib.util
import sys
from pathlib import Path

from tools.paths import CHECKOUT, VENV, VENV_PYTHON
from tools.steps import SetupError, doing, done, run

CONSTRAINTS = CHECKOUT / "constraints.txt"
SDK = CHECKOUT / "sdk" / "python"
# Each has the digest of what this part of the environment was made from.
STAMP = VENV / "hostnet-setup"
EXTRAS = {"dev": "development tools", "bench": "library that draws plots"}
OLDEST_PYTHON = (3, 11)


def _digest() -> str:
    """A digest of what the environment is made from."""
    digest = hashlib.sha256(f"{sys.version} {CHECKOUT}".encode())
    for path in (CHECKOUT / "pyproject.toml", CONSTRAINTS, SDK / "pyproject.toml"):
        digest.update(path.read_bytes() if path.exists() else b"-")
    return digest.hexdigest()


def _is_done(stamp: Path) -> bool:
    """Whether a part of the environment was made from what is here now."""
    return VENV_PYTHON.exists() and stamp.exists() and stamp.read_text() == _digest()


def build() -> None:
    """Make the virtual environment and install hostnet and its SDK into it.

    Raises:
        SetupError: This Python is too old or lacks `ensurepip`, or a package cannot be installed.
    """
    if _is_done(STAMP):
        done("virtual environment .venv")
        return
    if sys.version_info < OLDEST_PYTHON:
        raise SetupError("hostnet needs Python 3.11 or newer: run `make PYTHON=python3.x …` with one that is.")
    if importlib.util.find_spec("ensurepip") is None:
        raise SetupError("This Python has no ensurepip: install python3-venv and try again.")
    with doing("make the virtual environment .venv"):
        if not VENV_PYTHON.exists():
            run([sys.executable, "-m", "venv", "--clear", VENV], "Install python3-venv and try again.")
        _install(STAMP, CHECKOUT, *([SDK] if (SDK / "pyproject.toml").exists() else []))


def add(extra: str) -> None:
    """Install an extra of hostnet's into the environment that `build` made.

    Args:
        extra: A name of `EXTRAS`.

    Raises:
        SetupError: A package cannot be installed.
    """
    stamp = VENV / f"hostnet-setup-{extra}"
    if _is_done(stamp):
        done(f"{EXTRAS[extra]} in .venv")
        return
    with doing(f"install the {EXTRAS[extra]} into .venv"):
        _install(stamp, f"{CHECKOUT}[{extra}]")


def _install(stamp: Path, *editables: Path | str) -> None:
    """Install packages in place, and stamp the environment. The constraints hold for build requirements, too."""
    stamp.unlink(missing_ok=True)
    # From pip 25.3 on, PIP_CONSTRAINT does not hold for build requirements.
    constraints = {"PIP_CONSTRAINT": str(CONSTRAINTS), "PIP_BUILD_CONSTRAINT": str(CONSTRAINTS)}
    run(
        [VENV_PYTHON, "-m", "pip", "install", *(f"--editable={editable}" for editable in editables)],
        "Check that PyPI is reached and try again.",
        env={**constraints, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_PROGRESS_BAR": "off"},
    )
    stamp.write_text(_digest())
