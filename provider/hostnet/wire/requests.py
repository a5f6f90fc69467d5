"""What a provider asks of a host, and what it gets back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hostnet.wire.objects import Object, ObjectState

ObjectT = TypeVar("ObjectT")
StateT = TypeVar("StateT")


@dataclass(frozen=True)
class Change:
    """What a host should have for one resource; nothing: it is deleted.

    Args:
        urn: The owner's URN. With `id` it is the owner's identity: during a replacement two owners have one URN.
        id: The resource's id. It may hold `EXTERNAL_PLACEHOLDER`, which the agent resolves.
        objects: Everything that the host should have for it.
        prior: Everything that it had by the state (from the old inputs), so that a lost record does no harm.
        known: The state holds this resource (update, delete); False for a create.
        dry: A preview: say whether it would work, change nothing.
        stated: Of a create: the ids under which the state has this resource on this host already, so that it is a
            replacement. What the host has under the URN and any other id was created and never acknowledged, or it is
            about to be deleted (`pulumi up --replace`, of which the provider hears nothing before).
        awaits: The keys of owners that may yet give up, in this run, what the change asks for: then it waits for them.
        heirs: Of a delete: the URNs under which the state has the same id from a later create. Where the host has one
            owner of that id, not two, it is theirs.
    """

    urn: str
    id: str
    objects: tuple[Object, ...] = ()
    prior: tuple[Object, ...] = ()
    known: bool = False
    dry: bool = False
    stated: tuple[str, ...] = ()
    awaits: tuple[str, ...] = ()
    heirs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Query:
    """A read of one resource.

    Args:
        urn: The owner's URN.
        id: The resource's id.
        kind: `Bridge`, `TapBinding`, `NatGateway` or `PortForward`.
        objects: As for `Change`, from the inputs in the state; on import none: the id finds them.
    """

    urn: str
    id: str
    kind: str
    objects: tuple[Object, ...] = ()


@dataclass(frozen=True)
class View:
    """What a host has for one resource.

    Args:
        id: The resource's id, resolved.
        objects: Those that were asked for, with everything resolved (external interface, guest addresses).
        seen: The state of each object, in their order; None where it is absent.
        warnings: What the user should know.
        notes: What happened besides, and is right: a resource that another stack created was taken over.
    """

    id: str
    objects: tuple[Object, ...] = ()
    seen: tuple[ObjectState | None, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def object(self, kind: type[ObjectT]) -> ObjectT | None:
        """The first object of a type."""
        return next((each for each in self.objects if isinstance(each, kind)), None)

    def every(self, kind: type[ObjectT]) -> list[ObjectT]:
        """All objects of a type."""
        return [each for each in self.objects if isinstance(each, kind)]

    def state(self, kind: type[StateT]) -> StateT | None:
        """The first state of a type."""
        return next((each for each in self.seen if isinstance(each, kind)), None)

    def pairs(self) -> Iterator[tuple[Object, ObjectState | None]]:
        """Every object with its state."""
        return zip(self.objects, self.seen)

    def states(self) -> dict[str, ObjectState | None]:
        """Every object's state, by the object's key."""
        return {each.key: seen for each, seen in self.pairs()}


@dataclass(frozen=True)
class Facts:
    """The answer to a question about the host (getHost, getBridge, getPortForwards), as JSON."""

    data: dict[str, Any] = field(default_factory=dict)
