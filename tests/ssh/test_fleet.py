"""Many hosts at once, in one provider process; hosts that are far away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hostnet.hosts.activity import Activity
from hostnet.hosts.connection import Connection, Settings
from hostnet.hosts.login import Jumps, LoginError
from hostnet.hosts.pool import Pool
from hostnet.lifecycle import host_access
from hostnet.lifecycle.host_access import HostAccess
from hostnet.lifecycle.log import EngineLog, Line
from hostnet.lifecycle.turns import Turns

from tests.lab.waiting import PATIENCE
from tests.ssh.fleet import STATE_DIR, Fleet
from tests.ssh.world import SERVER, World, bridge, watch

HOSTS = 30


@pytest.fixture
def fleet(home: Path) -> Iterator[Fleet]:
    """Servers, and before them one more, whose sshd takes as many at a time as sshd does by default."""
    made = Fleet(HOSTS + 1)
    try:
        yield made
    finally:
        made.close()


def test_one_log_in_on_the_jump_host(fleet: Fleet) -> None:
    """It serves all that are behind it, however many come at a time; it ends with the last of them."""
    jump, *servers = fleet.servers
    jump.stop()
    jump.config = jump.config.replace("MaxStartups 300\n", "")
    jump.start()
    proxy = fleet.connection(0)

    async def connecting() -> None:
        pool = Pool(Settings(state_dir=STATE_DIR))
        sessions = [await pool.host(fleet.connection(number, proxy=proxy)) for number in range(1, HOSTS + 1)]
        await asyncio.gather(*(session.connect() for session in sessions))
        assert jump.log_ins() == 1
        assert not any("MaxStartups" in line for line in jump.log)
        jump.kill_sessions()
        await asyncio.gather(*(session.facts("host", {}) for session in sessions))
        assert jump.log_ins() == 2
        await pool.close()
        await watch(lambda: jump.session_processes() == [])

    fleet.client.call(asyncio.run, connecting())
    assert [server.log_ins() for server in servers] == [2] * HOSTS


class Kept:
    """Delivers lines for the engine's log to a list."""

    possible = True

    def __init__(self) -> None:
        self.lines: list[Line] = []

    async def send(self, line: Line) -> None:
        """See `Delivery`."""
        self.lines.append(line)

    async def close(self) -> None:
        """See `Delivery`."""


class Distance:
    """A clock of a host that is far away: each of its signs of life takes most of what a preview waits for one."""

    def __init__(self) -> None:
        self.signs = 0

    def __call__(self) -> float:
        """The seconds. On a busy machine, too, none pass between two signs."""
        return host_access.PREVIEW_SECONDS * 0.9 * self.signs

    def noting(self) -> Callable[[Activity], None]:
        """What notes a sign, in place of `Activity.note`."""

        def note(activity: Activity) -> None:
            self.signs += 1
            activity.last = self()

        return note


def test_a_preview_looks_at_a_host_that_is_far_away(up: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """To log in there takes longer than a preview waits for a sign of life."""
    distance, kept = Distance(), Kept()
    monkeypatch.setattr(host_access, "PREVIEW_SECONDS", 0.05)
    monkeypatch.setattr(host_access, "idle_clock", distance)
    monkeypatch.setattr(Activity, "note", distance.noting())

    async def previewing() -> None:
        log = EngineLog(kept, str)
        access = HostAccess(log, Pool)
        await access.configure(None, up.settings)
        connection: dict[str, Any] = {"host": SERVER, "privateKey": up.key.read_text(), "hostKey": up.server.host_key}
        connection["perDialTimeout"] = PATIENCE
        await access.preview("it", {"connection": connection}, bridge("br0", dry=True), Turns().take)
        await access.close()
        await log.close()

    with up.wire(delay=20):
        up.run(previewing)
    assert distance() > host_access.PREVIEW_SECONDS
    assert [line for line in kept.lines if line.severity == "warning"] == []
    assert up.server.log_ins() == 1


def test_who_gives_up_on_a_jump_host(home: Path) -> None:
    """Leaves the attempt to the others; the last one ends it."""

    async def giving_up() -> None:
        came: asyncio.Queue[asyncio.StreamReader] = asyncio.Queue()
        silent = await asyncio.start_server(lambda reader, _: came.put_nowait(reader), "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        proxy = Connection("127.0.0.1", port, password="", insecure_ignore_host_key=True, per_dial_timeout=PATIENCE)
        jumps = Jumps()
        patient = asyncio.ensure_future(jumps.acquire(proxy))
        at_jump = await came.get()
        with pytest.raises(LoginError, match="no answer within"):
            await jumps.acquire(replace(proxy, per_dial_timeout=0.1))
        assert came.empty()
        assert not patient.done()
        patient.cancel()
        await at_jump.read()  # to its end
        silent.close()

    asyncio.run(asyncio.wait_for(giving_up(), PATIENCE))
