"""A server on which `python3` is a program that says what it likes: over a real sshd, with a real channel.

What it may say is bounded here; tests/rpc/test_hostile_hosts.py has what comes of each answer.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from hostnet.hosts import session, ssh
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.protocol import AgentProcess, Greeting

from tests.lab.waiting import until
from tests.ssh.world import SERVER, World, bridge, watch

_GREETING = Greeting("0", AgentProcess(1, 1), "6.1", "3.9").to_line()
# It notes how much it got rid of.
_PROGRAM = """#!{python} -IS
import os, sys
os.write(1, {early!r})
sys.stdin.readline() if {waits!r} else None
written = 0
while True:
    written += os.write(1, {flood!r}) if {flood!r} else len(os.read(0, 1 << 20)) or os._exit(0)
    open({note!r} + ".new", "w").write(f"{{os.getpid()}} {{written}}")
    os.rename({note!r} + ".new", {note!r})
"""
_MOST = 16 << 20  # what sshd, TCP and asyncssh hold between the program and its reader is less


def hostile(world: World, *, early: bytes = b"", waits: bool = False, flood: bytes = b"") -> Path:
    """Start a server whose `python3` prints something, may wait for a request, and goes on printing; gives its note."""
    note, program = world.directory / "note", world.directory / "hostile"
    program.write_text(
        _PROGRAM.format(python=sys._base_executable, early=early, waits=waits, flood=flood, note=str(note))  # type: ignore[attr-defined]
    )
    program.chmod(0o755)
    world.server.path("sh", python3=str(program))
    world.server.start()
    return note


def refused(world: World) -> HostnetError:
    """The error of a change on that server. The event loop goes on meanwhile."""
    turns = 0

    async def turning() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.001)

    async def working() -> HostnetError:
        one = world.session()
        beside = asyncio.ensure_future(turning())
        with pytest.raises(HostnetError) as error:
            await one.apply(bridge("br0"))
        beside.cancel()
        await one.close()
        return error.value

    error = world.run(working)
    assert error.host == f"root@{SERVER}"
    assert turns > 1
    return error


def blocked(note: Path) -> bool:
    """Whether the program has been stopped by its full pipe: it sleeps, and has written no more at the next look."""
    if not note.exists():
        return False
    pid, written = note.read_text().split()
    sleeps = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"
    seen = getattr(blocked, "seen", "")
    blocked.seen = written if sleeps else ""  # type: ignore[attr-defined]
    return sleeps and seen == written


def test_a_line_without_end_before_the_agent(world: World) -> None:
    """It is given up after a mebibyte."""
    note = hostile(world, flood=b"x" * 65536)
    error = refused(world)
    assert error.code is Code.MALFORMED
    assert "more than 1,024 KiB before the agent started" in error.why
    assert int(until(lambda: note.read_text().split()[1:])[0]) < _MOST


def test_a_report_that_is_none(world: World) -> None:
    """The bootstrap's lines have a form, too."""
    hostile(world, early=b'{"hostnet": ["\x1b"]}\n')
    assert refused(world).code is Code.MALFORMED


def test_reports_that_move_the_cursor(world: World) -> None:
    """They are shown, and move nothing."""
    hostile(world, early=b'{"hostnet": {"fail": "place", "why": "\\u001b[2J"}}\n')
    error = refused(world)
    assert error.code is Code.PERMISSION
    assert error.why == r"\x1b[2J"


def test_an_answer_without_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up at the length of the longest answer."""
    monkeypatch.setattr("hostnet.hosts.reader.LINE_BYTES", 4 << 20)
    hostile(world, early=_GREETING, waits=True, flood=b"x" * 65536)
    error = refused(world)
    assert error.code is Code.MALFORMED
    assert "more than 4,096 KiB" in error.why


def test_silence(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after the greeting it is given up."""
    monkeypatch.setattr(session, "_ANSWER_SECONDS", 1.0)
    hostile(world, early=_GREETING)
    error = refused(world)
    assert error.code is Code.AGENT_DIED
    assert "no answer within" in error.why
    monkeypatch.setattr(ssh, "_BOOT_SECONDS", 1)
    hostile_program = world.directory / "hostile"
    hostile_program.write_text(hostile_program.read_text().replace(repr(_GREETING), repr(b"")))
    assert refused(world).code is Code.UNREACHABLE


def test_an_idle_channel_is_held_back(world: World) -> None:
    """What nobody asked for stays where it comes from."""
    note = hostile(world, early=_GREETING, flood=b"x" * 65536 + b"\n")

    async def working() -> None:
        one = world.session()
        await one.connect()
        await watch(lambda: blocked(note))
        assert int(until(lambda: note.read_text().split()[1:])[0]) < _MOST
        with pytest.raises(HostnetError) as error:
            await one.apply(bridge("br0"))
        assert error.value.code is Code.MALFORMED
        await one.close()

    world.run(working)
