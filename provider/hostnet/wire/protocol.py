"""What a provider and an agent say to each other, as it is written on the byte stream between them.

Every message is one JSON object on one line. Provider and agent are of the same version, since the provider brings its
agent along: a message that one of them can't read is a bug, and there is no negotiation.

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

After `{"op": "watch"}` the agent serves no more requests. It sends `{"event": "attached vm-1 to br0"}` until there is
nothing left to follow.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Optional, Union

from hostnet.wire.errors import HostnetError
from hostnet.wire.objects import Json, from_json, state_from_json, state_to_json, to_json
from hostnet.wire.requests import Change, Query, View

Operation = Literal["apply", "read", "facts", "restore", "watch", "confirm", "roll-back"]

# What became of a change or a query; None: a read found nothing.
Outcome = Union[View, HostnetError]
Outcomes = Sequence[Optional[Outcome]]

# What the provider has to find out before it confirms: that the answer arrived, or that it can log in once more.
Proof = Literal["answer", "login"]

_GREETING = b'{"greeting"'


def _line(message: Json) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


# --- the greeting --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AgentProcess:
    """An agent's process. A later process with the same number has another time of start.

    Args:
        pid: Its number on its host.
        started: When it was started, in clock ticks since the boot.
    """

    pid: int
    started: int


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
        """
        data = json.loads(line)["greeting"]
        if "error" in data:
            raise HostnetError.from_json(data["error"], host)
        return cls(**{**data, "process": AgentProcess(**data["process"])})


def refusal(error: HostnetError) -> bytes:
    """The greeting of an agent that can't serve."""
    return _line({"greeting": {"error": error.to_json()}})


def is_greeting(line: bytes) -> bool:
    """Whether a line is a greeting. Before it, a login script of the host may print anything."""
    return line.startswith(_GREETING)


# --- a request -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """What a provider asks.

    Args:
        id: The number of the request; the answer has the same.
        op: `apply`, `read`, `facts`, `restore` or `watch`; `confirm` or `roll-back` about the request of that number.
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
    }


def change_from_json(data: Json) -> Change:
    """The change that `change_to_json` wrote."""
    objects, prior = tuple(map(from_json, data["objects"])), tuple(map(from_json, data["prior"]))
    return Change(data["urn"], data["id"], objects, prior, data["known"], data["dry"], tuple(data["stated"]))


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
        """
        data = json.loads(line)
        error = HostnetError.from_json(data["error"], host) if "error" in data else None
        return cls(data["id"], data.get("result"), error, data.get("confirm"))


def outcomes_to_json(outcomes: Outcomes) -> list[Json | None]:
    """The outcomes of an `apply` or a `read` as they are sent, in the order of the changes or queries."""
    return [_outcome_to_json(each) for each in outcomes]


def outcomes_from_json(data: Sequence[Json | None], host: str) -> list[Outcome | None]:
    """The outcomes that `outcomes_to_json` wrote.

    Args:
        data: What an answer has as its result.
        host: The host's name in messages.
    """
    return [_outcome_from_json(each, host) for each in data]


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


def _outcome_from_json(data: Json | None, host: str) -> Outcome | None:
    if data is None:
        return None
    if "error" in data:
        return HostnetError.from_json(data["error"], host)
    objects = tuple(map(from_json, data["objects"]))
    seen = tuple(state_from_json(item.type, state) for item, state in zip(objects, data["seen"]))
    return View(data["id"], objects, seen, tuple(data["warnings"]), tuple(data["notes"]))


# --- what a watcher reports ----------------------------------------------------------------------------------------


def event(text: str) -> bytes:
    """The line about something that the watcher did."""
    return _line({"event": text})


def parse_event(line: bytes) -> str:
    """The text that `event` wrote."""
    return str(json.loads(line)["event"])
