"""A change of a gateway with many forwards crosses as what is not as in the host's record; else it crosses whole."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hostnet.fakes import FakeHost
from hostnet.fakes.channel import FakeChannel
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import Forward, Forwarding, Gateway, Object, digest_of
from hostnet.wire.protocol import MANY, Request, UnknownBaseError, Whole
from hostnet.wire.requests import Change, Query, View

URN = "urn:pulumi:test::project::hostnet:index:NatGateway::many"
COUNT = 2 * MANY


def objects(**ports: int) -> tuple[Object, ...]:
    """A gateway's objects, with another port of the destination for some of its forwards."""
    forwards = (
        Forward("ipv4", ("tcp",), (1000 + each, 1000 + each), "10.0.0.2", (ports.get(f"f{each}", 80),) * 2, "many")
        for each in range(COUNT)
    )
    return (Gateway("many", "eth0"), Forwarding("ipv4"), *forwards)


def update(old: tuple[Object, ...], new: tuple[Object, ...]) -> Change:
    """An update, or with nothing new a delete."""
    return Change(URN, "many", new, old, known=True)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What crosses to the host."""
    found: list[bytes] = []
    really = FakeChannel.write

    def write(self: FakeChannel, data: bytes) -> None:
        found.append(data)
        really(self, data)

    monkeypatch.setattr(FakeChannel, "write", write)
    return found


def forwards_of(host: FakeHost) -> list[Object]:
    """Those that the host's record has."""
    view = asyncio.run(host.read(Query(URN, "many", "NatGateway")))
    assert view is not None
    return [item for item in view.objects if isinstance(item, Forward)]


def test_a_change_of_one_forward_is_short(lines: list[bytes]) -> None:
    """So are a read and a delete; also to an agent that knows only what is on the disk."""
    host, old, new = FakeHost(), objects(), objects(f7=81)

    async def life() -> None:
        await host.apply(Change(URN, "many", old))
        host.restart_agent()
        view = await host.apply(update(old, new))
        assert view.objects[2:] == new[2:]
        found = await host.read(Query(URN, "many", "NatGateway", new))
        assert found is not None
        assert found.objects[2:] == new[2:]
        await host.apply(update(new, ()))

    asyncio.run(life())
    created, *others = map(len, lines)
    assert len(others) == 3
    assert max(others) < created / 20
    assert host.dump()["owners"] == {}


def test_what_the_record_has_otherwise_crosses_whole(lines: list[bytes]) -> None:
    """Another copy of the state has changed it since: the agent asks for the whole request, and nothing is mixed up."""
    host, old, theirs, new = FakeHost(), objects(), objects(f3=8080), objects(f7=81)

    async def life() -> View:
        await host.apply(Change(URN, "many", old))
        await host.apply(update(old, theirs))
        del lines[:]
        return await host.apply(update(old, new))

    assert asyncio.run(life()).objects[2:] == new[2:]
    assert [b'"base"' in line for line in lines] == [True, False]
    assert forwards_of(host) == list(new[2:])


def test_a_record_that_was_lost(lines: list[bytes]) -> None:
    """Then there is no base: the whole state crosses, and what the kernel has is taken as hostnet's own again."""
    host, old, new = FakeHost(), objects(), objects(f7=81)

    async def life() -> None:
        await host.apply(Change(URN, "many", old))
        host.lose_record()
        host.restart_agent()
        await host.apply(update(old, new))

    asyncio.run(life())
    assert b'"base"' not in lines[-1]
    assert forwards_of(host) == list(new[2:])


def test_a_host_that_asks_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host is not sent a request again and again."""
    monkeypatch.setattr("hostnet.agent.main.serve", lambda _, request: Whole(request.id))
    with pytest.raises(HostnetError) as caught:
        asyncio.run(FakeHost().apply(update(objects(), objects(f7=81))))
    assert caught.value.code is Code.MALFORMED


def test_a_request_is_as_it_was() -> None:
    """Written against a base, and read with that base, in any order; with another one it is refused."""
    old = objects()
    bases: list[list[Forward]] = []

    def known(_urn: str, _id: str, digest: str) -> list[Forward] | None:
        return next((each for each in bases if digest_of(each) == digest), None)

    others = (objects(f0=81), objects(f9=81)[::-1], old[:50] + old[60:], old[30:] + old[2:20], objects()[:2])
    for new in others:
        request = Request(1, "apply", (update(old, new), Change(URN, "few", old[:3])))
        line = request.to_line()
        assert b'"base"' in line
        parsed = Request.parse(line)
        base = [item for item in old if isinstance(item, Forward)]
        bases.append(base)
        assert parsed.completed(known) == request
        with pytest.raises(UnknownBaseError):
            parsed.completed(lambda *_: None)
        assert Request.parse(replace(request, outcome_only=True).to_line()).edited == ()
