"""A host that is not there yet, or not any more."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hostnet.hosts import login
from hostnet.hosts.session import Session
from hostnet.hosts.ssh import SSHTransport
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.requests import Query

from tests.lab.waiting import PATIENCE, until
from tests.ssh.world import FAST, SERVER, World, bridge, removal, watch


def test_a_server_that_boots(world: World) -> None:
    """The session waits for it; the status says why, and counts attempts; what waits joins one transaction."""

    async def booting() -> list[str]:
        session = world.session(world.connection(dial_error_limit=-1))
        waiting = [asyncio.ensure_future(session.apply(bridge(f"br{number}"))) for number in range(20)]
        await watch(lambda: len(world.said) >= 3)
        await asyncio.to_thread(world.server.start)
        views = await asyncio.gather(*waiting)
        assert session._number == 1
        await session.close()
        return [view.id for view in views]

    assert world.run(booting) == [f"br{number}" for number in range(20)]
    assert world.said[2] == f"waiting for root@{SERVER} (attempt 3): connection refused"


def test_it_is_waited_for_as_often_as_the_connection_says(world: World) -> None:
    """Then it is UNREACHABLE; who asks next need not wait as long again."""

    async def trying() -> None:
        session = world.session(world.connection(dial_error_limit=4))
        for _ in range(2):
            with pytest.raises(HostnetError) as error:
                await session.apply(bridge("br0"))
            assert error.value.code is Code.UNREACHABLE
            assert "connection refused" in error.value.why
            assert error.value.host == f"root@{SERVER}"
        # It has come up in the meantime: it is reached, and has its patience again.
        await asyncio.to_thread(world.server.start)
        assert (await session.apply(bridge("br0"))).id == "br0"
        await session.close()

    world.run(trying)
    assert world.said == [
        f"waiting for root@{SERVER} (attempt {number} of 4): connection refused" for number in (1, 2, 3)
    ]


def test_what_is_there_already_is_not_waited_for_long(world: World) -> None:
    """A refresh or a delete is of a host that was there: three attempts. What is to be made waits as ever."""

    async def trying() -> list[str]:
        session = world.session(world.connection(dial_error_limit=5))
        change = bridge("br0")
        asking: list[Callable[[], Awaitable[object]]] = [
            lambda: session.read(Query(change.urn, change.id, "Bridge", change.objects)),
            lambda: session.apply(removal("br0")),
            lambda: session.apply(change),
        ]
        reasons = []
        for ask in asking:
            with pytest.raises(HostnetError) as error:
                await ask()
            assert error.value.code is Code.UNREACHABLE
            reasons.append(error.value.why)
        await session.close()
        return reasons

    assert world.run(trying) == [
        "connection refused (3 attempts)",
        "connection refused",  # after as many in vain one more will do
        "connection refused (5 attempts)",
    ]
    assert world.said[0] == f"waiting for root@{SERVER} (attempt 1 of 3): connection refused"


def test_a_host_that_is_gone_is_asked_briefly(up: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it was waited for in vain, each further request costs seconds, not `perDialTimeout` again."""
    monkeypatch.setattr(login, "_BRIEF_SECONDS", 0.1)

    async def trying() -> list[str]:
        session = up.session(up.connection(dial_error_limit=2, per_dial_timeout=0.3))
        reasons = []
        for _ in range(2):
            with pytest.raises(HostnetError) as error:
                await session.apply(bridge("br0"))
            reasons.append(error.value.why)
        await session.close()
        return reasons

    with up.deaf(up.server.namespace):
        assert up.run(trying) == ["no answer within 0.3 s (2 attempts)", "no answer within 0.1 s"]


def test_a_preview_does_not_wait(world: World) -> None:
    """One attempt, and UNREACHABLE."""

    async def previewing() -> None:
        session = world.session(world.connection(dial_error_limit=-1))
        with pytest.raises(HostnetError) as error:
            await session.apply(bridge("br0", dry=True))
        assert error.value.code is Code.UNREACHABLE
        await session.close()

    world.run(previewing)
    assert world.said == []


CLOUD_INIT = """
ln -s /run/test/cloud-init /run/cloud-init
"""


def begin_first_boot(world: World) -> Path:
    """Start the server as cloud-init leaves it before its last stage; gives the file that ends that."""
    folder = world.directory / "server" / "cloud-init"
    folder.mkdir()
    (folder / "status.json").write_text("{}")
    world.server.mounts = CLOUD_INIT
    world.server.start()
    return folder / "result.json"


def test_a_server_that_is_being_set_up(world: World) -> None:
    """It lets us in before its cloud-init has installed the packages: it is waited for, with a word about it."""
    done = begin_first_boot(world)

    async def waiting() -> str:
        session = world.session()
        applying = asyncio.ensure_future(session.apply(bridge("br0")))
        await watch(lambda: world.said)
        assert world.server.bridges() == {}
        done.write_text("{}")
        view = await applying
        await session.close()
        return view.id

    assert world.run(waiting) == "br0"
    assert world.said == [f"waiting for root@{SERVER} (attempt 1 of 10): cloud-init is still running"]


def test_a_server_that_is_never_set_up(world: World) -> None:
    """UNREACHABLE after as many attempts as the connection says, at once in a preview; nothing is left there."""
    begin_first_boot(world)

    async def trying() -> None:
        session = world.session(world.connection(dial_error_limit=2))
        for dry, times in ((True, ""), (False, " (2 attempts)"), (False, "")):
            with pytest.raises(HostnetError) as error:
                await session.apply(bridge("br0", dry=dry))
            assert error.value.code is Code.UNREACHABLE
            assert error.value.why == f"cloud-init is still running{times}"
        await session.close()

    world.run(trying)
    assert world.agent_file() is None
    until(lambda: len(world.server.processes("sshd")) == 1)


def test_a_server_that_we_know_is_not_waited_for(up: World) -> None:
    """Where the agent's file is, everything is: a reboot with another round of cloud-init costs nothing."""

    async def applying(name: str) -> None:
        session = up.session(up.connection(dial_error_limit=1))
        await session.apply(bridge(name))
        await session.close()

    up.run(lambda: applying("br0"))
    up.server.stop()
    begin_first_boot(up)
    up.run(lambda: applying("br1"))
    assert up.said == []


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("192.0.2.77", "no answer within 0.3 s"),
        ("203.0.113.1", "network is unreachable"),
        ("fe80::1", ""),
        ("no.such.host.invalid", ""),
    ],
)
def test_nobody_is_there(world: World, host: str, why: str) -> None:
    """No neighbour, no route, no name: UNREACHABLE, and never this machine instead."""
    with pytest.raises(HostnetError) as error:
        world.connect(world.connection(host=host, dial_error_limit=2, per_dial_timeout=0.3))
    assert error.value.code is Code.UNREACHABLE
    assert why in error.value.why
    assert len(world.said) == 1


def test_something_else_listens_there(world: World) -> None:
    """A port that answers and then says nothing is no server yet."""

    async def trying() -> str:
        server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 2222)
        async with server:
            session = world.session(
                world.connection(host="127.0.0.1", port=2222, dial_error_limit=1, per_dial_timeout=0.2)
            )
            with pytest.raises(HostnetError) as error:
                await session.connect()
            await session.close()
            return error.value.why

    assert world.run(trying) == "no answer within 0.2 s"


def test_cancel_ends_the_waiting(world: World) -> None:
    """Ctrl-C while a server boots: whoever waits gets an error, and nothing was sent."""

    async def cancelling() -> None:
        pool = world.pool()
        host = await pool.host(world.connection(dial_error_limit=-1))
        waiting = [asyncio.ensure_future(host.apply(bridge(name))) for name in ("br0", "br1")]
        await watch(lambda: world.said)
        await pool.cancel()
        for each in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(each, HostnetError)
            assert each.code is Code.CANCELLED
        with pytest.raises(HostnetError) as error:
            await host.apply(bridge("br2"))
        assert error.value.code is Code.CANCELLED
        await pool.close()

    world.run(cancelling)


def test_hosts_do_not_wait_for_each_other(up: World) -> None:
    """One host's boot holds up its own resources alone; one provider serves both, each by its own session."""

    async def both() -> None:
        pool = up.pool()
        absent = await pool.host(up.connection(host="192.0.2.77", dial_error_limit=-1))
        present = await pool.host(up.connection())
        assert await pool.host(up.connection()) is present
        waiting = asyncio.ensure_future(absent.apply(bridge("br0")))
        assert (await present.apply(bridge("br0"))).id == "br0"
        assert not waiting.done()
        await pool.cancel()
        await asyncio.wait({waiting}, timeout=PATIENCE)
        assert waiting.done()
        await pool.close()

    up.run(both)


def test_a_host_is_never_this_machine(world: World) -> None:
    """Whatever fails before a host is reached, no agent is started here."""
    connection = world.connection(dial_error_limit=1)
    for each in (connection, replace(connection, host="127.0.0.1")):
        with pytest.raises(HostnetError) as error:
            world.connect(each)
        assert error.value.code is Code.UNREACHABLE
    assert not (world.directory / "state").exists()


def test_connections_to_this_machine_do_not_load_ssh() -> None:
    """Those who need no asyncssh do not wait for it: it takes a quarter of a second."""
    code = "import sys, hostnet.hosts.pool; sys.exit('asyncssh' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_namespaces_of_one_server(up: World) -> None:
    """`netns` on a host is entered there; one that is not there is UNREACHABLE."""
    guest = up.namespaces.add("ssh-guest")

    async def applying() -> None:
        pool = up.pool()
        host = await pool.host(up.connection(netns=guest.name))
        await host.apply(bridge("br0"))
        missing = await pool.host(up.connection(netns="nowhere"))
        with pytest.raises(HostnetError) as error:
            await missing.apply(bridge("br0"))
        assert error.value.code is Code.UNREACHABLE
        await pool.close()

    up.run(applying)
    assert "br0" in guest.kernel.links()
    assert up.server.bridges() == {}


def test_no_log_in_is_left_behind(up: World) -> None:
    """After close, the server has neither an agent nor a session of ours."""
    up.connect()
    until(lambda: not up.server.agents())
    until(lambda: len(up.server.processes("sshd")) == 1)


def test_a_close_does_not_wait_for_a_dead_host(up: World) -> None:
    """The link is down: closing is done all the same."""

    async def closing() -> None:
        connection = up.connection()
        session = Session(connection.label, SSHTransport(connection, up.settings, backoff=FAST))
        await session.apply(bridge("br0"))
        await asyncio.to_thread(up.client.ip, "link set eth0 down")
        async with asyncio.timeout(PATIENCE):
            await session.close()

    up.run(closing)
