"""Minimal systems: releases of Debian with `make` and `python3` and nothing else, for set-up and tests to run in.

Set-up makes an archive of each, once and again when its recipe changes; tests/systems unpack and enter them. They are
made by mmdebstrap from the machine's own package sources, so a machine that is no Debian has none: one distribution's
system can't be made from the other's packages.
"""

import hashlib
import os
import platform
import tempfile
from pathlib import Path

from tools import debian
from tools.paths import cache
from tools.steps import doing, done, left_out, run

RELEASES = {"debian-12": "bookworm", "debian-13": "trixie"}
PACKAGES = ("make", "python3")  # all that `make demo` asks of a person
LEFT_OUT = ("doc", "info", "locale", "man")  # of /usr/share
_ADVICE = "Run `apt-get update` and try again."


def are_possible() -> bool:
    """Whether this machine can make them."""
    return platform.freedesktop_os_release()["ID"] == "debian"


def prepare() -> None:
    """Make the archives that are missing.

    Raises:
        SetupError: A tool or the network is missing; the message says what to do.
    """
    if not are_possible():
        left_out("minimal Debian systems", "this machine is no Debian")
        return
    for name in RELEASES:
        if archive(name).exists():
            done(f"minimal system {name}")
        else:
            with doing(f"build the minimal system {name} (once; minutes)"):
                _build(name)


def archive(name: str) -> Path:
    """The archive of a system, a key of `RELEASES`."""
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    return folder() / f"{name}-{digest}.tar.zst"


def folder() -> Path:
    """Where they are kept."""
    return cache() / "systems"


def _build(name: str) -> None:
    """Make an archive beside its place and move it there; those of older recipes go."""
    folder().mkdir(parents=True, exist_ok=True)
    debian.refresh_lists()
    with tempfile.TemporaryDirectory(dir=folder()) as scratch:
        made = Path(scratch) / "made.tar.zst"
        argv = ["mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
        argv += [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in LEFT_OUT]
        argv += ["--dpkgopt=force-unsafe-io"]  # it is thrown away: no file of it has to outlive a power failure
        sources = debian.sources(RELEASES[name])
        run(debian.as_root([*argv, RELEASES[name], made, "-"]), _ADVICE, given="\n".join(sources) + "\n")
        run(debian.as_root(["chown", str(os.getuid()), made]), _ADVICE)
        for old in folder().glob(f"{name}-*.tar.zst"):
            old.unlink()
        made.rename(archive(name))
