"""Firewalls for the tests: ufw and firewalld, unpacked and not installed.

If it were installed, firewalld would start with the machine and filter its traffic. Unpacked, it runs only where a test
starts it.
"""

import shutil
from pathlib import Path

from tools import debian
from tools.paths import cache
from tools.steps import doing, done

PACKAGES = ("ufw", "firewalld", "python3-firewall")


def folder() -> Path:
    """The folder into which they are unpacked."""
    return cache() / "firewalls"


def prepare() -> None:
    """Unpack them, if they are missing."""
    if folder().exists():
        done("firewalls for the tests (unpacked)")
        return
    part = folder().with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    with doing(f"unpack Debian packages: {' '.join(PACKAGES)}"):
        debian.refresh_lists()
        for package in PACKAGES:
            debian.unpack(package, part)
        part.rename(folder())
