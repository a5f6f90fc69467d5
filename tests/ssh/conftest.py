"""A world with a real sshd for each test, and a home that is not the person's who runs them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.ssh.world")

from hostnet.hosts import host_keys  # noqa: E402

from tests.ssh.world import World  # noqa: E402


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without keys, known hosts and agents."""
    folder = tmp_path / "home"
    (folder / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setattr(host_keys, "SYSTEM_KNOWN_HOSTS", folder / "none")
    return folder


@pytest.fixture
def world(tmp_path: Path, home: Path) -> Iterator[World]:
    """A client, and a server whose sshd is not started."""
    if os.geteuid() != 0 or shutil.which("sshd", path="/usr/sbin") is None:
        pytest.skip("these tests need root and openssh-server")
    made = World(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def up(world: World) -> World:
    """The same with its sshd running."""
    world.server.start()
    return world
