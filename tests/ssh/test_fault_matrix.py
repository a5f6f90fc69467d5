"""The table of faults (tests/lab/faults.py) over SSH; tests/netns/test_fault_matrix.py has the other half."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hostnet.hosts import host_keys
from hostnet.hosts.session import Session

from tests.lab.faults import Cell, Ground, cells, mounts
from tests.ssh.world import World

T = TypeVar("T")


class SshGround(Ground):
    """The server of a world. A change that is not confirmed for a second is rolled back."""

    side = "SSH"

    def __init__(self, world: World) -> None:
        self._world = world
        settings = replace(world.settings, persist="never", confirm_timeout=1)
        world.settings = settings
        Path(settings.state_dir).mkdir(mode=0o700)
        world.server.mounts = "\n".join(" ".join(command) for command in list(mounts(settings.state_dir))[1:])
        world.server.start()
        assert world.server._sshd is not None
        self.place = world.server._sshd.pid
        self._runner = asyncio.Runner()
        super().__init__(world.server.namespace, settings)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """On the client."""
        return self._world.client.call(self._runner.run, work)

    def session(self) -> Session:
        """Over SSH."""
        return self._world.session()

    def hang_up(self, session: Session) -> None:
        """Cut the connection."""
        transport: Any = session._transport
        if transport._login is not None:
            transport._login.connection.abort()

    def close(self) -> None:
        """Take all away."""
        super().close()
        self._world.client.call(self._runner.close)
        self._world.close()


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshGround]:
    """This worker's server, and a home without keys."""
    if os.geteuid() != 0 or shutil.which("sshd", path="/usr/sbin") is None:
        pytest.skip("these tests need root and openssh-server")
    folder = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.delenv("SSH_AUTH_SOCK", raising=False)
        patch.setattr(host_keys, "SYSTEM_KNOWN_HOSTS", folder / "none")
        made = SshGround(World(folder))
        yield made
        made.close()


@pytest.mark.xdist_group("faults, SSH")
@pytest.mark.parametrize("cell", cells("SSH"), ids=str)
def test_a_fault(ground: SshGround, cell: Cell) -> None:
    """Old or new, and the next `up` is right."""
    for moment in cell.moments:
        ground.check(cell, moment)
