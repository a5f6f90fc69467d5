"""What the rest of hostnet asks of a host. `Session` answers it with a real agent, `FakeHost` from memory."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from hostnet.wire.objects import Object, ObjectState

ObjectT = TypeVar("ObjectT")
StateT = TypeVar("StateT")


@dataclass(frozen=True)
class Change:
    """One resource's wish. `objects` empty: delete.

    :param urn: the owner's URN (with `id` the owner's identity: during a replacement two have one URN).
    :param id: the resource's id; may hold `EXTERNAL_PLACEHOLDER`, which the agent resolves.
    :param objects: all that the host should have for it.
    :param prior: all that the state says it had (from the old inputs), so that a lost record does no harm.
    :param known: the state holds this resource (update, delete); False for create.
    :param dry: preview: say whether it would work, change nothing.
    """

    urn: str
    id: str
    objects: tuple[Object, ...] = ()
    prior: tuple[Object, ...] = ()
    known: bool = False
    dry: bool = False


@dataclass(frozen=True)
class View:
    """What a host has for one resource: `seen[i]` belongs to `objects[i]`; None where it is absent.

    `objects` are those that were asked for with everything resolved (external interface, guest addresses).
    """

    id: str
    objects: tuple[Object, ...] = ()
    seen: tuple[ObjectState | None, ...] = ()
    warnings: tuple[str, ...] = ()

    def object(self, kind: type[ObjectT]) -> ObjectT | None:
        """The first object of a type."""
        return next((each for each in self.objects if isinstance(each, kind)), None)

    def every(self, kind: type[ObjectT]) -> list[ObjectT]:
        """All objects of a type."""
        return [each for each in self.objects if isinstance(each, kind)]

    def state(self, kind: type[StateT]) -> StateT | None:
        """The first state of a type."""
        return next((each for each in self.seen if isinstance(each, kind)), None)

    def states(self) -> dict[str, ObjectState | None]:
        """Every object's state, by the object's key."""
        return {each.key: seen for each, seen in zip(self.objects, self.seen)}


@dataclass(frozen=True)
class Query:
    """Read one resource. `objects` as for `Change`, from the state's inputs; on import empty: the id finds them."""

    urn: str
    id: str
    kind: str  # "Bridge", "TapBinding", "NatGateway", "PortForward"
    objects: tuple[Object, ...] = ()


@dataclass(frozen=True)
class Facts:
    """An answer of a function call, as JSON (getHost, getBridge, getPortForwards)."""

    data: dict[str, Any] = field(default_factory=dict)


def idle_clock() -> float:
    """Seconds, but for those in which this process computed: with many hosts at once, these are no host's fault."""
    return time.monotonic() - time.process_time()


class Host(Protocol):
    """A host that can be reached. Every method raises `HostnetError`."""

    label: str  # "this machine", "root@203.0.113.5", "… (netns demo)"

    @property
    def heard(self) -> float:
        """When it last showed that it is there while it is being connected with, by `idle_clock`; 0.0: not yet."""

    async def apply(self, change: Change) -> View:
        """Make it so (or, dry, say whether it would work); joined with what else waits into one transaction."""

    async def read(self, query: Query) -> View | None:
        """What the host has for it; None where the thing itself is gone. Joined with what else waits."""

    async def facts(self, name: str, arguments: dict[str, Any]) -> Facts:
        """Answer a function: `host`, `bridge`, `forwards`."""

    async def close(self) -> None:
        """End the session; what is committed stays."""
