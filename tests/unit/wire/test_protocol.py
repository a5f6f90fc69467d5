"""What a provider and an agent write for each other, read back; and the form that it has on the wire."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hostnet.wire.edits import SHORT, from_edits, to_edits
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import (
    DhcpServer,
    DhcpState,
    Forward,
    ForwardState,
    Guest,
    GuestState,
    Lease,
    Link,
    LinkState,
    Object,
    ObjectState,
    StaticLease,
    from_json,
    to_json,
)
from hostnet.wire.protocol import (
    AgentProcess,
    Answer,
    Greeting,
    Request,
    event,
    is_greeting,
    outcomes_from_json,
    outcomes_to_json,
    parse_event,
    refusal,
)
from hostnet.wire.requests import Change, Query, View
from hostnet.wire.shapes import ShapeError
from hypothesis import given
from hypothesis import strategies as st

_URN = "urn:pulumi:dev::shop::hostnet:index:Bridge::a::b"
_GREETING = Greeting("1.2.3", AgentProcess(4711, 8_000_000_000), "6.1.0", "3.9.2")
_SERVER = DhcpServer("br0", dhcp=True, static_leases=(StaticLease("02:00:00:00:00:01", "10.0.0.2"),))
_FORWARD = Forward("ipv6", ("tcp", "udp"), (80, 82), "fd12::2", (8080, 8082), listen=("::",), sources=("fd12::/64",))
_CHANGE = Change(_URN, "br0", (Link("br0", "bridge", mtu=1400), _SERVER), (_FORWARD,), known=True, dry=True)
_QUERY = Query(_URN, "br0", "Bridge", (Guest("t0", None, "02:00:00:00:00:01", hint=("10.0.0.2/24",)),))
_ERROR = HostnetError(Code.CONFLICT, "br0 can't be made", "it exists", "Choose another name", "root@192.0.2.2")

REQUESTS = [
    Request(1, "apply", (_CHANGE, replace(_CHANGE, objects=())), transaction="f00"),
    Request(2, "apply", (_CHANGE,), transaction="f00", outcome_only=True, replaces=AgentProcess(1, 2)),
    Request(3, "read", queries=(_QUERY,)),
    Request(4, "facts", facts="bridge", arguments={"name": "br0"}),
    Request(5, "restore"),
    Request(6, "watch"),
    Request(7, "confirm"),
    Request(8, "roll-back", why="no new login"),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: f"{request.id} {request.op}")
def test_a_request_is_read_as_it_was_written(request_: Request) -> None:
    """With its objects, on one line; what is empty is not sent."""
    line = request_.to_line()
    assert line.count(b"\n") == 1
    assert Request.parse(line) == request_
    assert all(json.loads(line).values())


def test_a_greeting() -> None:
    """It is distinguished from what a login script prints, and has the agent's identity."""
    line = _GREETING.to_line()
    assert is_greeting(line)
    assert Greeting.parse(line, "root@192.0.2.2") == _GREETING
    assert not is_greeting(b'Welcome to {"greeting"\n')
    assert not is_greeting(Answer(1, []).to_line())


def test_an_agent_that_can_not_serve() -> None:
    """It greets with the reason; the provider adds the host."""
    line = refusal(_ERROR)
    assert is_greeting(line)
    with pytest.raises(HostnetError) as raised:
        Greeting.parse(line, "root@192.0.2.2")
    assert str(raised.value) == str(_ERROR)
    assert raised.value.code is _ERROR.code


@pytest.mark.parametrize(
    "answer",
    [
        Answer(1, {"kernel": "6.1.0"}),
        Answer(2, 0),
        Answer(3, [], confirm="answer"),
        Answer(4, [], confirm="login"),
    ],
    ids=lambda answer: answer.id,
)
def test_an_answer_is_read_as_it_was_written(answer: Answer) -> None:
    """Also an empty result; and the proof that the provider needs before it confirms."""
    assert Answer.parse(answer.to_line(), "root@192.0.2.2") == answer


def test_an_answer_that_is_an_error() -> None:
    """Every part of the error arrives; the provider adds the host."""
    answer = Answer.parse(Answer(9, error=_ERROR).to_line(), "root@192.0.2.2")
    assert answer.error is not None
    assert (answer.id, answer.error.code, str(answer.error)) == (9, _ERROR.code, str(_ERROR))


def test_outcomes_are_read_as_they_were_written() -> None:
    """Views with states of every object or of none, an error among them, and what a read did not find."""
    link = LinkState("br0", "bridge", 7, "02:00:00:00:00:01", 1500, addresses=("10.0.0.1/24",))
    lease = Lease("02:00:00:00:00:01", "10.0.0.2", "web", 0)
    forward = ForwardState("ipv6", ("tcp",), (80, 82), "fd12::2", (8080, 8082), external="eth0", sources=("fd12::/64",))
    views = [
        View("br0", (Link("br0", "bridge"), _SERVER), (link, DhcpState(running=True, leases=(lease,))), ("look out",)),
        View("eth0/ipv6/tcp/80", (_FORWARD, *_QUERY.objects), (forward, GuestState("02:00:00:00:00:01", ()))),
        View("gone", (Link("gone", "tap"),), (None,)),
        View("", (), ()),
    ]
    asked = [_QUERY] * (len(views) + 2)
    sent = json.loads(json.dumps(outcomes_to_json([*views, _ERROR, None], asked)))
    *found, error, nothing = outcomes_from_json(sent, "root@192.0.2.2", asked)
    assert found == views
    assert isinstance(error, HostnetError)
    assert str(error) == str(_ERROR)
    assert nothing is None


# Forwards of one gateway, as a program, a host and a state have them: with some put in, taken out, changed and moved.
FORWARDS = st.lists(
    st.integers(1, 60).map(lambda port: replace(_FORWARD, ports=(port, port), gateway="nat"))
    | st.just(_SERVER)
    | st.integers(1, 5).map(lambda port: replace(_FORWARD, ports=(port, port), address="fd12::3")),
    max_size=40,
)


@given(FORWARDS, st.data())
def test_a_list_crosses_as_what_it_has_otherwise(base: list[Object], data: st.DataObject) -> None:
    """Whatever both sides have, the same list arrives; as little is sent as has changed."""
    items = data.draw(FORWARDS | st.just(base) | st.just(base[1:]) | st.just([*base, _SERVER]) | st.permutations(base))
    edits = json.loads(json.dumps(to_edits(items, base, to_json)))
    assert from_edits(edits, base, from_json) == items
    if len(base) >= SHORT:
        assert to_edits(base, base, to_json) == [len(base)]
        place = data.draw(st.integers(0, len(base) - 1))
        new = replace(_FORWARD, ports=(99, 99))
        changed = [*base[:place], new, *base[place + 1 :]]
        if len(set(base)) == len(base):
            assert [each for each in to_edits(changed, base, to_json) if type(each) is not int] == [to_json(new)]


@given(FORWARDS, st.lists(st.integers(-50, 50) | st.just(_SERVER).map(to_json) | st.booleans() | st.text()))
def test_no_list_of_edits_makes_more_than_both_sides_have(base: list[Object], edits: list[Any]) -> None:
    """It is read, or refused."""
    with contextlib.suppress(ShapeError):
        assert len(from_edits(edits, base, from_json)) <= len(base) + len(edits)


@given(FORWARDS, st.data())
def test_the_states_of_many_forwards_are_read_as_they_were_written(asked: list[Object], data: st.DataObject) -> None:
    """Those that lack the same, or nothing, and those that are not there."""
    objects = data.draw(st.just(asked) | FORWARDS)
    seen: list[ObjectState | None] = []
    for item in objects:
        state: ObjectState | None = DhcpState(running=True)
        if isinstance(item, Forward):
            otherwise = data.draw(st.sampled_from([{}, {"external": "eth0"}, {"sources": ()}, None]))
            state = otherwise if otherwise is None else ForwardState(**{**vars(item), **otherwise})
        seen.append(state)
    view = View("nat", tuple(objects), tuple(seen))
    query = replace(_QUERY, objects=tuple(asked))
    sent = json.loads(json.dumps(outcomes_to_json([view], [query])))
    assert outcomes_from_json(sent, "root@192.0.2.2", [query]) == [view]


def test_an_answer_does_not_repeat_ten_thousand_forwards() -> None:
    """They are as asked for, and where the host has them all, so are their states."""
    forwards = tuple(replace(_FORWARD, ports=(port, port), gateway="nat") for port in range(1, 10_001))
    view = View("nat", forwards, tuple(ForwardState(**{**vars(each), "external": "eth0"}) for each in forwards))
    (sent,) = outcomes_to_json([view], [replace(_QUERY, objects=forwards)])
    assert sent is not None
    assert (sent["objects"], sent["seen"]) == ([10_000], [[10_000, {"external": "eth0"}]])


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        ([[21, {}]], ".seen[0] are the states of 21 objects, and 20 are left"),
        ([[0, {}]], ".seen[0] are the states of 0 objects, and 0 are left"),
        ([[10, {}], [11, {}]], ".seen[10] are the states of 11 objects, and 10 are left"),
        ([[1]], ".seen[0] is a list of 1"),
        ([[True, {}]], ".seen[0].count is true, not an integer"),
        ([[20, {"ghost": 1}]], '.seen[0] has "ghost", which is not known'),
        ([[20, {"external": "a b"}]], '.seen[0].external is "a b", not the name of an interface'),
        ([[20, {}], None], ".seen[20] is the state of no object"),
        ([[19, {}]], " has 20 objects and the states of 19"),
    ],
)
def test_states_that_no_agent_sends(seen: list[Any], reason: str) -> None:
    """The error says which one, and why."""
    query = replace(_QUERY, objects=tuple(replace(_FORWARD, ports=(port, port)) for port in range(1, 21)))
    sent = {"id": "nat", "objects": [20], "seen": seen, "warnings": [], "notes": []}
    with pytest.raises(ShapeError, match=f"{re.escape('.result[0]' + reason)}$"):
        outcomes_from_json([sent], "root@192.0.2.2", [query])


def test_a_run_of_states_is_of_forwards() -> None:
    """Other objects have states of their own form."""
    query = replace(_QUERY, objects=(_SERVER,))
    sent = {"id": "br0", "objects": [1], "seen": [[1, {}]], "warnings": [], "notes": []}
    with pytest.raises(ShapeError, match="is about what is no forward"):
        outcomes_from_json([sent], "root@192.0.2.2", [query])


def test_an_event_of_the_watcher() -> None:
    """Its text, on one line, with control characters visible."""
    line = event("attached vm-1\n\x1b[2Jto br0 …")
    assert line.count(b"\n") == 1
    assert parse_event(line) == r"attached vm-1\n\x1b[2Jto br0 …"


def test_an_object_that_is_not_known_is_refused() -> None:
    """Provider and agent are of one version: that is a bug, and says what it stumbled over."""
    line = b'{"id":1,"op":"read","queries":[{"urn":"","id":"","kind":"","objects":[{"type":"vlan"}]}]}\n'
    with pytest.raises(ValueError, match="vlan"):
        Request.parse(line)
