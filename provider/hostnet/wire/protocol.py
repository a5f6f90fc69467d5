"""What a provider and an agent say to each other, as it is written on the byte stream between them.

Every message is one JSON object on one line. Provider and agent are of the same version, since the provider brings its
agent along: there is no negotiation. But the host of an agent may be anybody's, and whatever it sends is input: every
message of an agent is checked against its declaration here (`wire/shapes.py`).

    agent -> provider    {"greeting": {"version": …, "process": {…}, …}}
    provider -> agent    {"id": 1, "op": "apply", "transaction": "…", "changes": […]}
    agent -> provider    {"id": 1, "result": […]}

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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Optional, Union

from hostnet.wire.errors import HostnetError
from hostnet.wire.facts import facts_from_json
from hostnet.wire.objects import Json, from_json, state_from_json, state_to_json, to_json
from hostnet.wire.requests import Change, Query, View
from hostnet.wire.shapes import Count, Identifier, ShapeError, Text, loads, reader

Operation = Literal["apply", "read", "facts", "restore", "watch", "confirm", "roll-back", "cancel"]

# What became of a change or a query; None: a read found nothing.
Outcome = Union[View, HostnetError]
Outcomes = Sequence[Optional[Outcome]]

# What the provider has to find out before it confirms: that the answer arrived, or that it can log in once more.
Proof = Literal["answer", "login"]

# What Python says where the file of a program is missing (3.9 to 3.13), and the agent where its own was removed since.
FILE_IS_GONE = "can't open file"
_GREETING = b'{"greeting"'
_REPORT = b'{"hostnet"'
_WAITING = re.compile(rb'\{"id":\d{1,16},"waiting":')


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
        facts: The name of the facts: `host`, `bridge`, `forwards`, `status`, `doctor`.
        arguments: Those of `facts`.
        why: The reason of `roll-back`.
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

    def to_line(self) -> bytes:
        """The request as it is sent; what is empty is left out."""
        message: Json = {"id": self.id, "op": self.op}
        rest = {
            "changes": [change_to_json(each) for each in self.changes],
            "queries": [query_to_json(each) for each in self.queries],
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
        data["changes"] = tuple(map(change_from_json, data.get("changes", ())))
        data["queries"] = tuple(map(query_from_json, data.get("queries", ())))
        if "replaces" in data:
            data["replaces"] = AgentProcess(**data["replaces"])
        return cls(**data)


def change_to_json(change: Change) -> Json:
    """A change as it is sent."""
    return {
        "urn": change.urn,
        "id": change.id,
        "objects": [to_json(item) for item in change.objects],
        "prior": [to_json(item) for item in change.prior],
        "known": change.known,
        "dry": change.dry,
        "stated": change.stated,
        "awaits": change.awaits,
        "heirs": change.heirs,
    }


def change_from_json(data: Json) -> Change:
    """The change that `change_to_json` wrote."""
    objects, prior = tuple(map(from_json, data["objects"])), tuple(map(from_json, data["prior"]))
    stated, awaits, heirs = (tuple(data[name]) for name in ("stated", "awaits", "heirs"))
    return Change(data["urn"], data["id"], objects, prior, data["known"], data["dry"], stated, awaits, heirs)


def query_to_json(query: Query) -> Json:
    """A query as it is sent."""
    objects = [to_json(item) for item in query.objects]
    return {"urn": query.urn, "id": query.id, "kind": query.kind, "objects": objects}


def query_from_json(data: Json) -> Query:
    """The query that `query_to_json` wrote."""
    return Query(data["urn"], data["id"], data["kind"], tuple(map(from_json, data["objects"])))


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


def outcomes_to_json(outcomes: Outcomes) -> list[Json | None]:
    """The outcomes of an `apply` or a `read` as they are sent, in the order of the changes or queries."""
    return [_outcome_to_json(each) for each in outcomes]


def outcomes_from_json(data: Any, host: str, count: int) -> list[Outcome | None]:
    """The outcomes that `outcomes_to_json` wrote.

    Args:
        data: What an answer has as its result.
        host: The host's name in messages.
        count: How many there are.

    Raises:
        ShapeError: They are not as many, or one has another form.
    """
    if not isinstance(data, list) or len(data) != count:
        raise ShapeError(f".result is not a list of {count}")
    return _each("result", data, lambda each: _outcome_from_json(each, host))


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
    outcomes = outcomes_from_json(data, host, len(request.changes or request.queries))
    if request.op == "apply" and None in outcomes:
        raise ShapeError(f".result[{outcomes.index(None)}] is null, and a change has an outcome")
    return outcomes


@dataclass(frozen=True)
class _Restored:
    """The result of `restore`, as JSON."""

    result: Count


def _outcome_to_json(outcome: Outcome | None) -> Json | None:
    if outcome is None:
        return None
    if isinstance(outcome, HostnetError):
        return {"error": outcome.to_json()}
    return {
        "id": outcome.id,
        "objects": [to_json(item) for item in outcome.objects],
        "seen": [state_to_json(item) for item in outcome.seen],
        "warnings": list(outcome.warnings),
        "notes": list(outcome.notes),
    }


def _outcome_from_json(data: Any, host: str) -> Outcome | None:
    if data is None:
        return None
    if isinstance(data, dict) and "error" in data:
        return HostnetError.from_json(_only(data, "error"), host)
    parts: _ViewParts = reader(_ViewParts)(data)
    if parts.seen and len(parts.objects) != len(parts.seen):  # of a dry change there are none
        raise ShapeError(f" has {len(parts.objects)} objects and the states of {len(parts.seen)}")
    objects = _each("objects", parts.objects, from_json)
    seen = _each("seen", zip(objects, parts.seen), lambda pair: state_from_json(pair[0].type, pair[1]))
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
