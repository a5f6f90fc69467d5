"""Where libnftables is found: the C library stands in for it, so that nothing opens a socket."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hostnet.agent.linux import libnftables as nftables

NAME = "libnot-on-any-machine.so.1"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory such as Nix's store has for nftables, on PATH by a link; the linker knows nothing of it."""
    package, profile = tmp_path / "store" / "abc-nftables", tmp_path / "profile"
    for folder in (package / "bin", package / "lib", profile):
        folder.mkdir(parents=True)
    shutil.copy("/bin/true", package / "bin" / "nft")
    (profile / "nft").symlink_to(package / "bin" / "nft")
    monkeypatch.setenv("PATH", str(profile))
    monkeypatch.setattr(nftables, "_PROGRAMS", ())
    monkeypatch.setattr(nftables, "_SONAME", NAME)
    return package


def a_library() -> str:
    """A library's file that can be loaded twice."""
    lines = subprocess.run(["/sbin/ldconfig", "-p"], check=True, capture_output=True, text=True).stdout.splitlines()
    return next(line.split(" => ")[1] for line in lines if line.strip().startswith("libm.so.6 "))


def test_beside_the_program(store: Path) -> None:
    """As on NixOS, where no linker's path leads to it."""
    shutil.copy(a_library(), store / "lib" / NAME)
    assert nftables.library()._name == str(store / "lib" / NAME)


def test_nowhere(store: Path) -> None:
    """What the linker said is said."""
    with pytest.raises(nftables.MissingLibraryError, match=NAME):
        nftables.library()


def test_no_program(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is there an `nft` to look beside."""
    monkeypatch.setenv("PATH", str(store / "empty"))
    with pytest.raises(nftables.MissingLibraryError, match=NAME):
        nftables.library()
