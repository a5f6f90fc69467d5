"""What a host sends, read: lines of a bounded size, and values of the declared types.

tests/rpc/test_hostile_hosts.py has what comes of it for a person.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hostnet.hosts import reader
from hostnet.hosts.reader import LINE_BYTES, Lines
from hostnet.wire import shapes
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import Forward, ForwardState, from_json, state_to_json, to_json
from hostnet.wire.protocol import BootstrapReport, Request, parse_event, result_from_json
from hostnet.wire.requests import Change, Query
from hostnet.wire.shapes import ShapeError, loads, visible

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run it in a loop of its own, and leave the thread's loop alone: another module's tests ask for that."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


def read(*chunks: bytes, longest: int | None = None) -> list[bytes]:
    """All lines of an output that comes in these pieces."""

    async def reading() -> list[bytes]:
        source = asyncio.StreamReader()
        for chunk in chunks:
            source.feed_data(chunk)
        source.feed_eof()
        lines, found = Lines(source), []
        while not lines.ended:
            found.append(await lines.next(longest))
        return found

    return run(reading())


def test_lines_are_what_stands_between_newlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """However the output is cut into pieces; the last one may have no end."""
    assert read(b"a\nb", b"b\n\ncc") == [b"a\n", b"bb\n", b"\n", b"cc"]
    monkeypatch.setattr(reader, "CHUNK_BYTES", 3)
    assert read(b"a\nbb\n\n" + b"c" * 10 + b"\nd\n") == [b"a\n", b"bb\n", b"\n", b"c" * 10 + b"\n", b"d\n"]


def test_a_line_is_bounded() -> None:
    """Without its end, too: it is not waited for."""
    assert read(b"x" * 1023 + b"\n", longest=1024) == [b"x" * 1023 + b"\n"]
    for data in (b"x" * 1024 + b"\n", b"x" * 2048):
        with pytest.raises(ShapeError, match="more than 1 KiB"):
            read(data, longest=1024)


def test_nothing_is_read_that_nobody_waits_for() -> None:
    """What comes meanwhile stays with the channel, which holds back its writer."""

    async def reading() -> None:
        source = asyncio.StreamReader(limit=reader.CHUNK_BYTES)
        paused = []

        class Channel(asyncio.Transport):
            def pause_reading(self) -> None:
                paused.append(True)

            def resume_reading(self) -> None:
                paused.append(False)

        source.set_transport(Channel())
        lines = Lines(source)
        source.feed_data(b"x" * 3 * reader.CHUNK_BYTES)
        assert paused == [True]
        source.feed_data(b"\n")
        assert await lines.next() == b"x" * 3 * reader.CHUNK_BYTES + b"\n"
        assert paused == [True, False]

    run(reading())


def test_sixty_thousand_forwards_fit() -> None:
    """Of one gateway, each with all that it may have: in the bytes of a line, and in its values."""
    v6 = "fd12:3456:789a:bcde:1234:5678:9abc:def0"
    forward = Forward(
        "ipv6",
        ("tcp", "udp"),
        (10_000, 10_009),
        v6,
        (20_000, 20_009),
        "nat-0123456",
        "enp0s31f6",
        (v6,),
        (f"{v6}/128",),
    )
    state = ForwardState(**vars(forward))
    line = json.dumps([to_json(forward), state_to_json(state)], separators=(",", ":")).encode()
    assert len(line) * 60_000 < LINE_BYTES
    assert sum(map(line.count, (b",", b"[", b"{"))) * 60_000 < shapes._MOST_VALUES


def test_control_characters_are_visible() -> None:
    """Those that a terminal obeys, those that change the order of letters, and halves of characters."""
    assert visible("\x1b[2J a\nb\t\x9b\u202e\ud800 ä→") == r"\x1b[2J a\nb\t\x9b\u202e\ud800 ä→"
    assert loads(rb'{"\u001b": ["\u0007", {"a": "\u202e"}], "b": "plain"}') == {
        r"\x1b": [r"\x07", {"a": r"\u202e"}],
        "b": "plain",
    }
    error = HostnetError(Code.KERNEL, "a\x1b", "b\n", "c" * 5000)
    assert str(error) == rf"a\x1b: b\n. {'c' * 3999}…"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"type": "link", "name": "br0", "kind": "bridge", "mtu": "big"}, '.mtu is "big", not an integer'),
        ({"type": "link", "name": "br0"}, "has no kind"),
        ({"type": "link", "name": "../x", "kind": "tap"}, '.name is "../x", not the name of an interface'),
        ({"type": "address", "link": "br0", "cidr": "10.0.0.1/-1"}, "not an IP address or a network"),
        ({"type": "address", "link": "br0", "cidr": "fe80::1%\x1b/64"}, r'"fe80::1%\x1b/64", not an IP'),
        ({"type": "guest", "link": "t", "bridge": None, "mac": "x"}, '.mac is "x", not a MAC address'),
        ({"type": "forward", "family": "ipx"}, "has no address"),
        ({"type": ["link"]}, "unknown object type"),
        ([], "unknown object type"),
    ],
)
def test_an_object_of_another_form_is_refused(data: Any, says: str) -> None:
    """With the place and what is there."""
    with pytest.raises(ShapeError) as error:
        from_json(data)
    assert says in str(error.value)


def test_ports_and_lists() -> None:
    """A pair is two ports, a list is a list, and an error says which of them."""
    good = to_json(Forward("ipv4", ("tcp",), (80, 81), "10.0.0.2", (80, 81)))
    assert from_json(json.loads(json.dumps(good))).ports == (80, 81)  # type: ignore[union-attr]
    for bad in ([80], [80, 81, 82], "80", [80, 65536], [80, True]):
        with pytest.raises(ShapeError, match="ports"):
            from_json({**good, "ports": bad})
    with pytest.raises(ShapeError, match=r"listen\[1\]"):
        from_json({**good, "listen": ["10.0.0.1", "here"]})


def test_a_result_is_that_of_its_request() -> None:
    """As many outcomes as changes, and none of them nothing; facts by their name; a number for restore."""
    query, change = Query("", "br0", "Bridge"), Change("", "br0")
    assert result_from_json(Request(1, "read", queries=(query, query)), [None, None], "h") == [None, None]
    with pytest.raises(ShapeError, match="a change has an outcome"):
        result_from_json(Request(1, "apply", changes=(change,)), [None], "h")
    assert result_from_json(Request(1, "restore"), 7, "h") == 7
    with pytest.raises(ShapeError, match="checks"):
        result_from_json(Request(1, "facts", facts="doctor"), {}, "h")


def test_what_comes_before_the_agent() -> None:
    """Reports of the bootstrap, and events of the watcher, have a form too."""
    assert BootstrapReport.parse(b'{"hostnet": {"wait": "cloud-init"}}').wait == "cloud-init"
    for line in (b'{"hostnet": []}', b'{"hostnet": {"fail": "all"}}', b'{"hostnet": {}, "x": 1}', b'{"hostnet"'):
        with pytest.raises(ShapeError):
            BootstrapReport.parse(line)
    assert parse_event(b'{"event": "a\\u001b"}') == r"a\x1b"
    with pytest.raises(ShapeError):
        parse_event(b'{"event": 1}')
