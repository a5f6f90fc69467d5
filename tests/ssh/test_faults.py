"""What breaks in mid-session: afterwards the host is as asked or as before, and the provider knows which.

Where the answer to a transaction is lost, its outcome is asked. A deaf server makes that a request never arrives; an
sshd that is stopped while the agent waits for the host's lock, that it is done and its answer does not arrive.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hostnet.agent.record.lock import Background, acquire
from hostnet.hosts import login
from hostnet.hosts.session import Session
from hostnet.wire.errors import Code, HostnetError, OutcomeUnknownError

from tests.lab.waiting import PATIENCE
from tests.ssh.world import SERVER, World, bridge, forward, removal, watch


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead link is noticed within seconds, not within a minute."""
    monkeypatch.setattr(login, "_KEEP_ALIVE_SECONDS", 1)


def record(world: World) -> Path:
    """The server's record."""
    return next((world.directory / "state").glob("netns-*.json"), world.directory / "none")


def owners(world: World) -> list[str]:
    """The ids of what the record holds."""
    path = record(world)
    return [json.loads(line)["id"] for line in path.read_text().splitlines()[1:]] if path.exists() else []


def header(world: World) -> dict[str, Any]:
    """The record's first line."""
    data: dict[str, Any] = json.loads(record(world).read_text().splitlines()[0])
    return data


@contextmanager
def held(world: World, doing: str = "") -> Iterator[None]:
    """Hold the host's lock: an agent that is asked for something waits in the middle of it."""
    lock = next((world.directory / "state").glob("netns-*.lock"))
    descriptor = os.open(lock, os.O_RDWR)
    acquire(descriptor, Background(doing))
    try:
        yield
    finally:
        os.close(descriptor)


async def lose_the_answer(world: World, session: Session) -> None:
    """Stop sshd's processes between the request that was just sent and its answer."""
    with held(world):
        await watch(lambda: _waits_for_lock(session.greeting.process.pid))
        for pid in world.server.session_processes():
            os.kill(pid, signal.SIGSTOP)


def in_session(world: World, work: Callable[[Session], Awaitable[None]], **values: Any) -> None:
    """Do something in a session that has made the bridge br0."""

    async def working() -> None:
        session = world.session(world.connection(**values))
        await session.apply(bridge("br0"))
        await work(session)
        await session.close()

    world.run(working)


def test_an_idle_session_reconnects(up: World) -> None:
    """What sshd had for us is killed while nothing is asked: the next request does not notice."""

    async def work(session: Session) -> None:
        up.server.kill_sessions()
        assert session._channel is not None
        await session._channel.ended()
        assert (await session.apply(bridge("br1"))).id == "br1"

    in_session(up, work)
    assert owners(up) == ["br0", "br1"]
    assert up.server.log_ins() == 2


def test_done_but_the_answer_is_lost(up: World) -> None:
    """The session asks for the outcome: no change is made twice, and each gets its view as if nothing had happened."""

    async def work(session: Session) -> None:
        asked = [asyncio.ensure_future(session.apply(bridge(name))) for name in ("br1", "br2")]
        await lose_the_answer(up, session)
        await watch(lambda: owners(up) == ["br0", "br1", "br2"])
        bridges = up.server.bridges()
        held, first = record(up).read_text().splitlines()[1:], header(up)
        assert first["phase"]["name"] == "unconfirmed", "its provider has not heard of it yet"
        up.server.kill_sessions()
        views = await asyncio.gather(*asked)
        assert [view.id for view in views] == ["br1", "br2"]
        assert all(view.seen[0] is not None for view in views)
        assert up.server.bridges() == bridges
        assert record(up).read_text().splitlines()[1:] == held
        over = {"phase": {"name": "idle"}}
        assert header(up) == {**first, **over}, "the second agent did nothing but take our confirmation"

    in_session(up, work)
    assert any(text.startswith(f"reconnecting to root@{SERVER}") for text in up.said)


def test_an_error_whose_answer_is_lost(up: World) -> None:
    """What failed in the lost transaction fails with the same words; what was done in it is done."""
    up.server.namespace.ip("link add br2 type veth peer name other")

    async def work(session: Session) -> None:
        asked = [asyncio.ensure_future(session.apply(bridge(name))) for name in ("br1", "br2")]
        await lose_the_answer(up, session)
        await watch(lambda: owners(up) == ["br0", "br1"])
        # Whoever asked again now would get it.
        up.server.namespace.ip("link delete br2")
        up.server.kill_sessions()
        done, failed = await asyncio.gather(*asked, return_exceptions=True)
        assert not isinstance(done, BaseException)
        assert done.id == "br1"
        assert isinstance(failed, HostnetError)
        assert failed.code is Code.CONFLICT
        # The next run is a new transaction, and gets it.
        assert (await session.apply(bridge("br2"))).id == "br2"

    in_session(up, work)


def test_it_never_arrived(up: World) -> None:
    """The outcome is asked: there is none, so it is done now."""

    async def work(session: Session) -> None:
        with up.deaf(up.server.namespace):
            asked = asyncio.ensure_future(session.apply(bridge("br1")))
            await asyncio.sleep(0)
            up.server.kill_sessions()
            await watch(lambda: not up.server.agents())
            assert owners(up) == ["br0"]
        assert (await asked).id == "br1"

    in_session(up, work)
    assert owners(up) == ["br0", "br1"]


def test_the_first_agent_is_still_at_it(up: World) -> None:
    """The connection breaks while the first agent waits for the host's lock: it ends, and the second one waits."""

    async def work(session: Session) -> None:
        first = session.greeting.process.pid
        with held(up):
            asked = asyncio.ensure_future(session.apply(bridge("br1")))
            await watch(lambda: _waits_for_lock(first))
            up.server.kill_sessions()
            await watch(lambda: first not in up.server.agents() and any(map(_waits_for_lock, up.server.agents())))
            assert owners(up) == ["br0"]
        assert (await asked).id == "br1"

    in_session(up, work)
    assert owners(up) == ["br0", "br1"]


def _waits_for_lock(pid: int) -> bool:
    return any("->" in line and f" {pid} " in line for line in Path("/proc/locks").read_text().splitlines())


@pytest.mark.parametrize("how", ["cancelled", "killed"])
def test_nothing_is_done_for_a_provider_that_is_gone(up: World, how: str) -> None:
    """Its request waits for the host's lock, it cancels or is killed, and the lock comes free."""

    async def work(session: Session) -> None:
        pid = session.greeting.process.pid
        with held(up):
            asked = asyncio.ensure_future(session.apply(bridge("br1")))
            await watch(lambda: _waits_for_lock(pid))
            session.cancel()
            if how == "killed":  # before the word arrives, as far as the agent is concerned
                up.server.kill_sessions()
                await watch(lambda: pid not in up.server.agents())
            with pytest.raises(HostnetError) as error:
                await asked
            assert error.value.code is Code.CANCELLED if how == "cancelled" else Code.UNREACHABLE

    in_session(up, work)
    assert owners(up) == ["br0"]
    assert "br1" not in up.server.bridges()


def test_who_waits_sees_who_has_the_lock(up: World) -> None:
    """And gives up after `lockTimeout`."""
    up.settings = replace(up.settings, lock_timeout=1)

    async def work(session: Session) -> None:
        with held(up, "trying a case"), pytest.raises(HostnetError, match="trying a case") as error:
            await session.apply(bridge("br1"))
        assert error.value.code is Code.BUSY
        assert (await session.apply(bridge("br1"))).id == "br1"

    in_session(up, work)
    assert any("(trying a case) has had its lock for" in text for text in up.said)


def test_a_dead_link(up: World, impatient: None) -> None:
    """The link goes down during a request without an error: keep-alive notices, and the session waits for the link."""

    async def work(session: Session) -> None:
        with held(up):
            asked = asyncio.ensure_future(session.apply(bridge("br1")))
            await watch(lambda: _waits_for_lock(session.greeting.process.pid))
            up.client.ip("link set eth0 down")
        await watch(lambda: any("attempt 2" in text for text in up.said))
        assert not asked.done()
        up.client.ip("link set eth0 up")
        assert (await asked).id == "br1"

    in_session(up, work, dial_error_limit=-1, per_dial_timeout=1)
    assert owners(up) == ["br0", "br1"]


def test_a_host_that_does_not_come_back(up: World, impatient: None) -> None:
    """UNREACHABLE, and it is said that the outcome is not known; the next run finds out."""

    async def work(session: Session) -> None:
        with up.deaf(up.client):
            asked = asyncio.ensure_future(session.apply(bridge("br1")))
            await watch(lambda: owners(up) == ["br0", "br1"])
            with pytest.raises(HostnetError, match="Whether the change was made is not known") as error:
                await asked
            assert error.value.code is Code.UNREACHABLE
        assert (await session.apply(bridge("br1"))).id == "br1"
        await session.apply(removal("br1"))

    in_session(up, work, dial_error_limit=2, per_dial_timeout=1)
    assert owners(up) == ["br0"]


def test_a_connection_that_breaks_twice(up: World) -> None:
    """The session reconnects once a request; then the request fails, and the next one is served."""

    async def work(session: Session) -> None:
        with held(up):
            asked = asyncio.ensure_future(session.apply(bridge("br1")))
            for _ in range(2):
                await watch(lambda: any(map(_waits_for_lock, up.server.agents())))
                agents = up.server.agents()
                up.server.kill_sessions()
                await watch(lambda: not set(agents) & set(up.server.agents()))  # noqa: B023
            with pytest.raises(OutcomeUnknownError) as error:
                await asked
            assert error.value.code is Code.UNREACHABLE
        assert (await session.apply(bridge("br1"))).id == "br1"

    in_session(up, work)


def test_a_killed_agent(up: World) -> None:
    """The error says how it ended, while another stack holds the lock; the next agent starts in the same login.

    It had changed nothing, and the next one knows that without the lock.
    """

    async def work(session: Session) -> None:
        with held(up):
            asked = asyncio.ensure_future(session.apply(bridge("br1")))
            await watch(lambda: _waits_for_lock(session.greeting.process.pid))
            os.kill(session.greeting.process.pid, signal.SIGKILL)
            with pytest.raises(HostnetError, match="SIGKILL") as error:
                await asyncio.wait_for(asked, PATIENCE)
        assert error.value.code is Code.AGENT_DIED
        assert (await session.apply(bridge("br1"))).id == "br1"

    in_session(up, work)
    assert up.server.log_ins() == 1


def test_an_agent_that_was_killed_while_idle(up: World) -> None:
    """No request was under way, so there is no error: another one starts."""

    async def work(session: Session) -> None:
        assert session._channel is not None
        os.kill(session.greeting.process.pid, signal.SIGKILL)
        await session._channel.ended()
        assert (await session.apply(bridge("br1"))).id == "br1"

    in_session(up, work)
    assert up.server.log_ins() == 1


def test_sshd_restarts(up: World) -> None:
    """Sessions outlive sshd; one that breaks then waits for the new one."""

    async def work(session: Session) -> None:
        up.server.stop()
        assert (await session.apply(bridge("br1"))).id == "br1"
        up.server.kill_sessions()
        assert session._channel is not None
        await session._channel.ended()
        asked = asyncio.ensure_future(session.apply(bridge("br2")))
        await watch(lambda: any("attempt 1" in text for text in up.said))
        await asyncio.to_thread(up.server.start)
        assert (await asked).id == "br2"

    in_session(up, work, dial_error_limit=-1)


def test_a_server_that_was_reinstalled(up: World) -> None:
    """Another key at the same address in mid-session: nothing is sent to it, and it is not taken for gone."""

    async def work(session: Session) -> None:
        up.server.stop()
        up.server.new_host_key()
        await asyncio.to_thread(up.server.start)
        before = up.server.log_ins()
        for pid in up.server.agents():
            os.kill(pid, signal.SIGSTOP)
        asked = asyncio.ensure_future(session.apply(bridge("br1")))
        await asyncio.sleep(0)
        for pid in up.server.processes("sshd: root"):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(HostnetError, match="host key mismatch") as error:
            await asked
        assert error.value.code is Code.PERMISSION
        assert up.server.log_ins() == before

    in_session(up, work)


@pytest.mark.parametrize(("delay", "lost", "doubled"), [(25, 0, 0), (100, 0, 0), (0, 10, 0), (10, 5, 5)])
def test_a_bad_line(up: World, delay: float, lost: float, doubled: float) -> None:
    """Slow (50, 200 ms there and back), with losses and duplicates: TCP's business, and no reason to reconnect."""

    async def work(session: Session) -> None:
        views = await asyncio.gather(*(session.apply(bridge(f"b{number}")) for number in range(20)))
        assert len(views) == 20

    with up.wire(delay, lost, doubled):
        in_session(up, work, per_dial_timeout=PATIENCE)
    assert len(owners(up)) == 21
    assert up.server.log_ins() == 1


def test_the_record_keeps_few_results(up: World) -> None:
    """They are for the moment after a break, not a history."""

    async def work(session: Session) -> None:
        for _ in range(10):
            await session.apply(bridge("br1"))
            await session.apply(removal("br1"))

    in_session(up, work)
    assert len(header(up)["results"]) == 16


def in_mounts(world: World, *argv: str) -> None:
    """Run a program among the server's mounts."""
    assert world.server._sshd is not None
    world.server.namespace.run(["nsenter", "--mount", "--target", str(world.server._sshd.pid), *argv])


def held_there(world: World) -> list[str]:
    """The ids of what the record holds, among the server's mounts."""
    assert world.server._sshd is not None
    there = Path(f"/proc/{world.server._sshd.pid}/root{world.directory}/state")
    found = list(there.glob("netns-*.json"))
    return [json.loads(line)["id"] for path in found for line in path.read_text().splitlines()[1:]]


def test_a_full_disk(world: World) -> None:
    """What can't be recorded is not done, whatever it is; with room again the next run goes on."""
    state = world.directory / "state"
    state.mkdir()
    world.server.mounts = f"mount -t tmpfs -o size=512k,mode=700 none {state}"
    world.server.start()
    filler = str(state / "filler")
    fill = ["sh", "-c", f"head -c 1M /dev/zero >{filler} || true"]

    async def work(session: Session) -> None:
        in_mounts(world, *fill)
        network = world.server.bridges(), world.server.namespace.kernel.listing()
        for change in (bridge("br1"), forward(8080), removal("br0")):
            with pytest.raises(HostnetError, match="ENOSPC") as error:
                await session.apply(change)
            assert "Make room" in error.value.fix
            assert (world.server.bridges(), world.server.namespace.kernel.listing()) == network
        assert held_there(world) == ["br0"]
        in_mounts(world, "rm", filler)
        assert (await session.apply(bridge("br1"))).id == "br1"
        await session.apply(removal("br0"))
        assert held_there(world) == ["br1"]

    in_session(world, work)
    assert list(world.server.bridges()) == ["br1"]


def test_read_only_sysctls(world: World) -> None:
    """A forward needs a switch that can't be set: it leaves nothing, what needs none goes on beside it."""
    world.server.mounts = "mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys"
    world.server.start()
    world.server.namespace.sysctl("net.ipv6.conf.default.accept_ra", "0")
    switch = world.server.namespace.sysctl("net.ipv4.ip_forward")
    assert switch == "0", "else it need not be set"

    async def work(session: Session) -> None:
        rules = world.server.namespace.kernel.listing()
        asked = [session.apply(forward(8080)), session.apply(bridge("br1"))]
        failed, done = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(failed, HostnetError)
        assert "read-only" in failed.fix
        assert not isinstance(done, BaseException)
        assert world.server.namespace.kernel.listing() == rules
        assert owners(world) == ["br0", "br1"]
        in_mounts(world, "mount", "-o", "remount,bind,rw", "/proc/sys")
        await session.apply(forward(8080))
        assert world.server.namespace.sysctl("net.ipv4.ip_forward") == "1"

    in_session(world, work)
