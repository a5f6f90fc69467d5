"""What a provider and an agent say to each other, as it is written on the byte stream between them.

Every message is one JSON object on one line. Provider and agent are of the same version, since the provider brings its
agent along: there is no negotiation. But the host of an agent may be anybody's, and whatever it sends is input: every
message of an agent is checked against its declaration here (`wire/shapes.py`).

    agent -> provider    {"greeting": {"version": …, "process": {…}, …}}
    provider -> agent    {"id": 1, "op": "apply", "transaction": "…", "changes": […]}
    agent -> provider    {"id": 1, "result": […]}

What both sides have is not sent again (`wire/edits.py`): of the objects that a resource had before, and of those in the
answer, only what is not as the change or the query has it. Of a resource with many forwards a request has only what is
not as in the forwards that the resource had by the state, and a digest of those. Where the host's record has others,
the agent asks for the whole request:

    agent -> provider    {"id": 1, "whole": true}

An agent that can't serve greets with `{"greeting": {"error": {…}}}`. A request that fails has `"error": {…}` in its
answer instead of `"result"`.

On a host that is reached over SSH a change has to be confirmed (docs/architecture.md). Then the answer asks for that,
with the proof that the provider needs first, and a second answer follows:

    agent -> provider    {"id": 1, "result": […], "confirm": "login"}
    provider -> agent    {"id": 1, "op": "confirm"}    or    {"id": 1, "op": "roll-back", "why": "…"}
    agent -> provider    {"id": 1, "result": […]}

While another process holds the host's lock, the agent says so, and a provider that does not want to wait cancels. Then
nothing is done for the request:

    agent -> provider    {"id": 1, "waiting": {"pid": 4711, "doing": "applying …", "seconds": 12}}
    provider -> agent    {"id": 1, "op": "cancel"}

After `{"op": "watch"}` the agent serves no more requests. It sends `{"event": "attached vm-1 to br0"}` until there is
nothing left to follow.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, Optional, Union

from hostnet.wire.edits import SHORT, from_edits, to_edits
from hostnet.wire.errors import HostnetError
from hostnet.wire.facts import facts_from_json
from hostnet.wire.objects import (
    Forward,
    ForwardState,
    Json,
    Object,
    ObjectState,
    digest_of,
    from_json,
    state_from_json,
    state_to_json,
    states_unlike,
    to_json,
    unlike,
)
from hostnet.wire.requests import Change, Query, View
from hostnet.wire.shapes import Count, Identifier, ShapeError, Text, loads, reader

Operation = Literal["apply", "read", "facts", "restore", "watch", "confirm", "roll-back", "cancel"]

# Where a host keeps its record if the provider's `stateDir` says nothing else.
STATE_DIR = "/var/lib/hostnet"

# The operations that hold the host's lock, as messages say what a process is doing.
DOING: Mapping[str, str] = {"apply": "applying", "read": "reading", "facts": "reading", "restore": "restoring"}

# What became of a change or a query; None: a read found nothing.
Asked = Sequence[Union[Change, Query]]
Objects = Sequence[Object]
Outcome = Union[View, HostnetError]
Outcomes = Sequence[Optional[Outcome]]

# What the provider has to find out before it confirms: that the answer arrived, or that it can log in once more.
Proof = Literal["answer", "login"]

# What Python says where the file of a program is missing (3.9 to 3.13), and the agent where its own was removed since.
FILE_IS_GONE = "can't open file"
_GREETING = b'{"greeting"'
_REPORT = b'{"hostnet"'
_WAITING = re.compile(rb'\{"id":\d{1,16},"waiting":')
_WHOLE = re.compile(rb'\{"id":\d{1,16},"whole":')
MANY = 100  # forwards of a resource: from so many on the record's are the base of its changes


def _line(message: Json) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def _only(message: Any, name: str) -> Any:
    """The value of a message that has this one name.

    Raises:
        ShapeError: It has not, or others.
    """
    if not isinstance(message, dict) or message.keys() != {name}:
        raise ShapeError(f" is not an object with {name} alone")
    return message[name]


# --- the greeting --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AgentProcess:
    """An agent's process. A later process with the same number has another time of start.

    Args:
        pid: Its number on its host.
        started: When it was started, in clock ticks since the boot.
    """

    pid: Count
    started: Count


@dataclass(frozen=True)
class Greeting:
    """The first line of an agent.

    Args:
        version: Hostnet's.
        process: The agent's.
        kernel: The host's kernel release.
        python: The version of the host's Python.
    """

    version: str
    process: AgentProcess
    kernel: str
    python: str

    def to_line(self) -> bytes:
        """The greeting as it is sent."""
        return _line({"greeting": asdict(self)})

    @classmethod
    def parse(cls, line: bytes, host: str) -> Greeting:
        """Read a greeting.

        Args:
            line: What the agent sent.
            host: The host's name in messages.

        Raises:
            HostnetError: The agent says why it can't serve.
            ShapeError: It is no greeting.
        """
        data = _only(loads(line), "greeting")
        if isinstance(data, dict) and "error" in data:
            raise HostnetError.from_json(data["error"], host)
        made: Greeting = reader(cls)(data)
        return made


def refusal(error: HostnetError) -> bytes:
    """The greeting of an agent that can't serve."""
    return _line({"greeting": {"error": error.to_json()}})


def is_greeting(line: bytes) -> bool:
    """Whether a line is a greeting. Before it, a login script of the host may print anything."""
    return line.startswith(_GREETING)


@dataclass(frozen=True)
class BootstrapReport:
    """What `hosts/bootstrap.py` reports before there is an agent; one of the three.

    Args:
        wait: What it waits for.
        need: The digest of the agent's file, which it has not.
        fail: Why it can't go on; the rest says more about that.
        version: The version of the host's Python.
        uid: The user that it runs as.
        why: Why no directory serves.
    """

    wait: Text = ""
    need: Text = ""
    fail: Literal["", "python", "user", "place", "bytes"] = ""
    version: Text = ""
    uid: Count = 0
    why: Text = ""

    @classmethod
    def parse(cls, line: bytes) -> BootstrapReport:
        """Read a report.

        Raises:
            ShapeError: It is none.
        """
        made: BootstrapReport = reader(cls)(_only(loads(line), "hostnet"))
        return made


def is_report(line: bytes) -> bool:
    """Whether a line is a report of the bootstrap."""
    return line.startswith(_REPORT)


# --- a request -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """What a provider asks.

    Args:
        id: The number of the request; the answer has the same.
        op: `apply`, `read`, `facts`, `restore` or `watch`; `confirm`, `roll-back` or `cancel` about the request of that
            number.
        changes: Those of `apply`.
        queries: Those of `read`.
        transaction: A name for an `apply`. An `apply` with a name that the host's record knows is not done again: the
            answer says what became of it.
        outcome_only: Answer what became of the transaction, and change nothing: an agent died of it, or with it.
        replaces: An agent that the provider lost and that may still live; this one ends it first.
        facts: The name of the facts: `host`, `bridge`, `forwards`, `status`, `traffic`, `doctor`.
        arguments: Those of `facts`.
        why: The reason of `roll-back`.
        edited: The changes or queries as JSON, where the objects of some are written against a base (`completed`).
    """

    id: int
    op: Operation
    changes: tuple[Change, ...] = ()
    queries: tuple[Query, ...] = ()
    transaction: str = ""
    outcome_only: bool = False
    replaces: AgentProcess | None = None
    facts: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    why: str = ""
    edited: tuple[Json, ...] = ()

    def to_line(self, *, whole: bool = False) -> bytes:
        """The request as it is sent; what is empty is left out.

        Args:
            whole: Without a base: the agent asked for that, or another one may hold the host's lock.
        """
        message: Json = {"id": self.id, "op": self.op}
        based = not (whole or self.outcome_only or self.replaces)
        rest = {
            "changes": [change_to_json(each, _base(each.prior) if based else ()) for each in self.changes],
            "queries": [query_to_json(each, _base(each.objects) if based else ()) for each in self.queries],
            "transaction": self.transaction,
            "outcome_only": self.outcome_only,
            "replaces": self.replaces and asdict(self.replaces),
            "facts": self.facts,
            "arguments": self.arguments,
            "why": self.why,
        }
        return _line({**message, **{name: value for name, value in rest.items() if value}})

    @classmethod
    def parse(cls, line: bytes | str) -> Request:
        """Read a request.

        Raises:
            ValueError: It names an object that this version does not know.
        """
        data = json.loads(line)
        asked = data.get("changes") or data.get("queries") or ()
        data["edited"] = tuple(asked) if any("base" in each for each in asked) else ()
        data["changes"] = tuple(map(change_from_json, data.get("changes", ())))
        data["queries"] = tuple(map(query_from_json, data.get("queries", ())))
        if "replaces" in data:
            data["replaces"] = AgentProcess(**data["replaces"])
        return cls(**data)

    def completed(self, find: FindBase) -> Request:
        """The request with all objects.

        Args:
            find: Gives the forwards of an owner.

        Raises:
            UnknownBaseError: They are not those that the provider has.
        """
        if not self.edited:
            return self
        bases = [_found(each, find) if "base" in each else () for each in self.edited]
        pairs = list(zip(self.edited, bases))
        if self.changes:
            return replace(self, changes=tuple(change_from_json(*pair) for pair in pairs), edited=())
        return replace(self, queries=tuple(query_from_json(*pair) for pair in pairs), edited=())


# Gives the forwards that the record has of an owner, by its URN and id, if they have this digest; else None.
FindBase = Callable[[str, str, str], Optional[Sequence[Forward]]]


class UnknownBaseError(Exception):
    """The record's forwards of a resource are not those by which the provider has written its request."""


def _base(objects: Objects) -> Sequence[Forward]:
    """The forwards against which objects are written; none where there are few."""
    forwards = [item for item in objects if isinstance(item, Forward)] if len(objects) >= MANY else []
    return forwards if len(forwards) >= MANY else ()


def _found(data: Json, find: FindBase) -> Sequence[Forward]:
    found = find(data["urn"], data["id"], data["base"])
    if found is None:
        raise UnknownBaseError(data["id"])
    return found


def change_to_json(change: Change, base: Sequence[Forward] = ()) -> Json:
    """A change as it is sent.

    Args:
        change: The change.
        base: The forwards against which it is written.
    """
    return {
        "urn": change.urn,
        "id": change.id,
        **_based(base),
        "objects": _written(change.objects, base),
        "prior": _written(change.prior, base) if base else to_edits(change.prior, change.objects, to_json),
        "known": change.known,
        "dry": change.dry,
        "stated": change.stated,
        "awaits": change.awaits,
        "heirs": change.heirs,
    }


def _based(base: Sequence[Forward]) -> Json:
    return {"base": digest_of(base)} if base else {}


def _written(objects: Objects, base: Sequence[Forward]) -> list[Any]:
    return to_edits(objects, base, to_json) if base else [to_json(item) for item in objects]


def change_from_json(data: Json, base: Objects = ()) -> Change:
    """The change that `change_to_json` wrote; without the base that it needs, a change without objects."""
    if "base" in data and not base:
        objects: Objects = ()
        prior: Objects = ()
    else:
        objects = tuple(from_edits(data["objects"], base, from_json))
        prior = tuple(from_edits(data["prior"], base or objects, from_json))
    stated, awaits, heirs = (tuple(data[name]) for name in ("stated", "awaits", "heirs"))
    return Change(
        data["urn"], data["id"], tuple(objects), tuple(prior), data["known"], data["dry"], stated, awaits, heirs
    )


def query_to_json(query: Query, base: Sequence[Forward] = ()) -> Json:
    """A query as it is sent, as `change_to_json`."""
    objects = _written(query.objects, base)
    return {"urn": query.urn, "id": query.id, "kind": query.kind, **_based(base), "objects": objects}


def query_from_json(data: Json, base: Objects = ()) -> Query:
    """The query that `query_to_json` wrote, as `change_from_json`."""
    objects = from_edits(data["objects"], base, from_json) if base or "base" not in data else ()
    return Query(data["urn"], data["id"], data["kind"], tuple(objects))


# --- an answer -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What an agent answers.

    Args:
        id: The number of the request.
        result: Of `apply` and `read` a list with the outcome of each change or query (`outcomes_to_json`); of `facts`
            an object; of `restore` a number.
        error: Why there is no result.
        confirm: The change counts only when the provider has this proof and says `confirm`.
    """

    id: int
    result: Any = None
    error: HostnetError | None = None
    confirm: Proof | None = None

    def to_line(self) -> bytes:
        """The answer as it is sent."""
        if self.error is not None:
            return _line({"id": self.id, "error": self.error.to_json()})
        message = {"id": self.id, "result": self.result}
        return _line({**message, "confirm": self.confirm} if self.confirm else message)

    @classmethod
    def parse(cls, line: bytes, host: str) -> Answer:
        """Read an answer.

        Args:
            line: What the agent sent.
            host: The host's name in messages.

        Raises:
            ShapeError: It is no answer.
        """
        data = loads(line)
        if isinstance(data, dict) and "error" in data:
            error: _Refusal = reader(_Refusal)(data)
            return cls(error.id, error=HostnetError.from_json(error.error, host))
        made: _Success = reader(_Success)(data)
        return cls(made.id, made.result, confirm=made.confirm)


@dataclass(frozen=True)
class Holding:
    """Who holds a host's lock.

    Args:
        pid: Its process; 0: that is not known.
        doing: What it does.
        seconds: For how long it has held it.
    """

    pid: Count
    doing: Text
    seconds: Count


@dataclass(frozen=True)
class Waiting:
    """A request waits for the host's lock.

    Args:
        id: The number of the request.
        waiting: Who holds the lock.
    """

    id: Count
    waiting: Holding

    def to_line(self) -> bytes:
        """As it is sent."""
        return _line(asdict(self))

    @classmethod
    def parse(cls, line: bytes) -> Waiting:
        """Read it.

        Raises:
            ShapeError: It is something else.
        """
        made: Waiting = reader(cls)(loads(line))
        return made


@dataclass(frozen=True)
class Whole:
    """A request should be sent whole: its base is not what the host's record has.

    Args:
        id: The number of the request.
        whole: True.
    """

    id: Count
    whole: bool = True

    def to_line(self) -> bytes:
        """As it is sent."""
        return _line(asdict(self))

    @classmethod
    def parse(cls, line: bytes) -> Whole:
        """Read it.

        Raises:
            ShapeError: It is something else.
        """
        made: Whole = reader(cls)(loads(line))
        return made


def is_whole(line: bytes) -> bool:
    """Whether a line asks for a whole request."""
    return _WHOLE.match(line) is not None


def is_waiting(line: bytes) -> bool:
    """Whether a line is no answer, and says only that its request waits."""
    return _WAITING.match(line) is not None


@dataclass(frozen=True)
class _Success:
    """An answer with a result, as JSON."""

    id: Count
    result: Any
    confirm: Proof | None = None


@dataclass(frozen=True)
class _Refusal:
    """An answer with an error, as JSON."""

    id: Count
    error: Any


@dataclass(frozen=True)
class _ViewParts:
    """A view, as JSON. Its objects and states depend on each other (`_view`)."""

    id: Identifier
    objects: tuple[Any, ...]
    seen: tuple[Any, ...]
    warnings: tuple[Text, ...]
    notes: tuple[Text, ...]


@dataclass(frozen=True)
class _Run:
    """The states of some forwards, as JSON: how many, and what all of them have otherwise than declared."""

    count: Count
    fields: dict[str, Any]


def outcomes_to_json(outcomes: Outcomes, asked: Asked) -> list[Json | None]:
    """The outcomes of an `apply` or a `read` as they are sent.

    Args:
        outcomes: In the order of the changes or queries.
        asked: These.
    """
    return [_outcome_to_json(outcome, each.objects) for outcome, each in zip(outcomes, asked)]


def outcomes_from_json(data: Any, host: str, asked: Asked) -> list[Outcome | None]:
    """The outcomes that `outcomes_to_json` wrote.

    Args:
        data: What an answer has as its result.
        host: The host's name in messages.
        asked: The changes or queries.

    Raises:
        ShapeError: They are not as many, or one has another form.
    """
    if not isinstance(data, list) or len(data) != len(asked):
        raise ShapeError(f".result is not a list of {len(asked)}")
    return _each("result", zip(data, asked), lambda pair: _outcome_from_json(pair[0], host, pair[1].objects))


def _each(name: str, items: Iterable[Any], read: Callable[[Any], Any]) -> list[Any]:
    """Each item read; an error has its place."""
    found: list[Any] = []
    try:
        for item in items:
            found.append(read(item))  # noqa: PERF401 - an error tells which one
    except ShapeError as error:
        raise ShapeError(f".{name}[{len(found)}]{error}") from None
    return found


def result_from_json(request: Request, data: Any, host: str) -> Any:
    """The result of a request: outcomes of `apply` and `read`, an object of `facts`, a number of `restore`.

    Args:
        request: What was asked.
        data: What an answer has as its result.
        host: The host's name in messages.

    Raises:
        ShapeError: It is of another form.
    """
    if request.op == "facts":
        return facts_from_json(request.facts, data)
    if request.op == "restore":
        return reader(_Restored)({"result": data}).result
    outcomes = outcomes_from_json(data, host, request.changes or request.queries)
    if request.op == "apply" and None in outcomes:
        raise ShapeError(f".result[{outcomes.index(None)}] is null, and a change has an outcome")
    return outcomes


@dataclass(frozen=True)
class _Restored:
    """The result of `restore`, as JSON."""

    result: Count


def _outcome_to_json(outcome: Outcome | None, asked: Objects) -> Json | None:
    if outcome is None:
        return None
    if isinstance(outcome, HostnetError):
        return {"error": outcome.to_json()}
    return {
        "id": outcome.id,
        "objects": to_edits(outcome.objects, asked, to_json),
        "seen": _seen_to_json(outcome),
        "warnings": list(outcome.warnings),
        "notes": list(outcome.notes),
    }


def _seen_to_json(view: View) -> list[Any]:
    """The state of each object; those of many forwards as `[how many, what they have otherwise than declared]`."""
    if len(view.seen) < SHORT:
        return [state_to_json(state) for state in view.seen]
    sent: list[Any] = []
    for item, state in zip(view.objects, view.seen):
        if not isinstance(item, Forward) or not isinstance(state, ForwardState):
            sent.append(state_to_json(state))
            continue
        otherwise = unlike(item, state)
        if sent and isinstance(sent[-1], list) and sent[-1][1] == otherwise:
            sent[-1][0] += 1
        else:
            sent.append([1, otherwise])
    return sent


def _seen_from_json(data: Sequence[Any], objects: Objects) -> list[ObjectState | None]:
    """The states that `_seen_to_json` wrote."""
    seen: list[ObjectState | None] = []
    for each in data:
        at = len(seen)
        try:
            if isinstance(each, list):
                seen += _run_from_json(each, objects, at)
            else:
                seen.append(_one_from_json(each, objects[at : at + 1]))
        except ShapeError as error:
            raise ShapeError(f".seen[{at}]{error}") from None
    return seen


def _one_from_json(data: Any, item: Objects) -> ObjectState | None:
    """The state of one object."""
    if not item:
        raise ShapeError(" is the state of no object")
    return state_from_json(item[0].type, data)


def _run_from_json(data: list[Any], objects: Objects, at: int) -> Sequence[ObjectState]:
    """The states of some forwards, from a place on."""
    if len(data) != len(fields(_Run)):
        raise ShapeError(f" is a list of {len(data)}")
    run: _Run = reader(_Run)(dict(zip((each.name for each in fields(_Run)), data)))
    items = objects[at : at + run.count]
    if not 0 < run.count == len(items):
        raise ShapeError(f" are the states of {run.count} objects, and {len(items)} are left")
    return states_unlike(items, run.fields)


def _outcome_from_json(data: Any, host: str, asked: Objects) -> Outcome | None:
    if data is None:
        return None
    if isinstance(data, dict) and "error" in data:
        return HostnetError.from_json(_only(data, "error"), host)
    parts: _ViewParts = reader(_ViewParts)(data)
    try:
        objects = from_edits(parts.objects, asked, from_json)
    except ShapeError as error:
        raise ShapeError(f".objects{error}") from None
    seen = _seen_from_json(parts.seen, objects)
    if seen and len(objects) != len(seen):  # of a dry change there are none
        raise ShapeError(f" has {len(objects)} objects and the states of {len(seen)}")
    return View(parts.id, tuple(objects), tuple(seen), parts.warnings, parts.notes)


# --- what a watcher reports ----------------------------------------------------------------------------------------


def event(text: str) -> bytes:
    """The line about something that the watcher did."""
    return _line({"event": text})


def parse_event(line: bytes) -> str:
    """The text that `event` wrote, on one line.

    Raises:
        ShapeError: It is no event.
    """
    made: _Event = reader(_Event)(loads(line))
    return made.event


@dataclass(frozen=True)
class _Event:
    """An event, as JSON."""

    event: Text
