"""The checkout's virtual environment, with pinned versions."""

import hashlib
import importlib.util
import sys

from tools.paths import CHECKOUT, VENV, VENV_PYTHON
from tools.steps import SetupError, doing, done, run

CONSTRAINTS = CHECKOUT / "constraints.txt"
SDK = CHECKOUT / "sdk" / "python"
STAMP = VENV / "hostnet-setup"
OLDEST_PYTHON = (3, 11)


def _digest() -> str:
    """What the environment is made from, as one word."""
    digest = hashlib.sha256(f"{sys.version} {CHECKOUT}".encode())
    for path in (CHECKOUT / "pyproject.toml", CONSTRAINTS, SDK / "pyproject.toml"):
        digest.update(path.read_bytes() if path.exists() else b"-")
    return digest.hexdigest()


def build() -> None:
    """Make the virtual environment and install hostnet, its SDK and the development tools into it."""
    if STAMP.exists() and STAMP.read_text() == _digest() and VENV_PYTHON.exists():
        done("virtual environment .venv")
        return
    if sys.version_info < OLDEST_PYTHON:
        raise SetupError("hostnet needs Python 3.11 or newer: call `make setup PYTHON=python3.x` with one that is.")
    if importlib.util.find_spec("ensurepip") is None:
        raise SetupError("This Python has no ensurepip: install python3-venv and try again.")
    with doing("make the virtual environment .venv"):
        STAMP.unlink(missing_ok=True)
        if not VENV_PYTHON.exists():
            run([sys.executable, "-m", "venv", "--clear", VENV], "Install python3-venv and try again.")
        _install()
        STAMP.write_text(_digest())


def _install() -> None:
    """Install what the stamp covers; the constraints hold for build requirements too."""
    editables = [f"--editable={CHECKOUT}[dev]"]
    if (SDK / "pyproject.toml").exists():
        editables.append(f"--editable={SDK}")
    run(
        [VENV_PYTHON, "-m", "pip", "install", "--quiet", *editables],
        "Check that PyPI is reached and try again.",
        env={"PIP_CONSTRAINT": str(CONSTRAINTS), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
