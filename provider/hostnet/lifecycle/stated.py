"""The resources that the engine's state has, as far as the engine has named them to this process."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from hostnet.wire.urn import Urn

Inputs: TypeAlias = Mapping[str, Any]

# A hidden output: which create the state has it from. A resource that was created again under its own id
# (`pulumi up --replace`) is in the state twice until the engine has deleted the former one, be it in a later run.
CREATED: Final = "__created"


def created(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The mark of a create among the outputs of a state; an earlier hostnet's have none."""
    return {CREATED: outputs[CREATED]} if CREATED in outputs else {}


def new_mark() -> dict[str, Any]:
    """The mark of another create."""
    return {CREATED: secrets.token_hex(8)}


class Stated:
    """The ids of each resource, with the inputs that the state has.

    A create of a resource that has one is a replacement. Without this, what a killed provider created and the engine
    never heard of could not be distinguished from what the engine is about to replace. With `pulumi up --replace` the
    engine (3.259) names nothing before the create: no diff, and a check without old inputs.

    Args:
        place: Where the resource of these inputs is: which host, and which namespace.
    """

    def __init__(self, place: Callable[[Inputs], object]) -> None:
        self._place = place
        self._inputs: dict[str, dict[str, Inputs]] = {}
        self._declared: set[str] = set()
        self._live: dict[tuple[str, str, object], dict[str, dict[str, Any]]] = {}  # by URN, the mark
        self._diffed: dict[tuple[str, str, object], str] = {}

    def add(self, urn: str, identifier: str, inputs: Inputs) -> None:
        """Take down that the state has a resource under an id."""
        self._inputs.setdefault(urn, {})[identifier] = {"connection": inputs.get("connection")}

    def gone(self, urn: str, identifier: str) -> None:
        """Take down that a resource was deleted. Another one may have its id next: two forwards that swap ports."""
        self._inputs.get(urn, {}).pop(identifier, None)

    def declare(self, urn: str) -> None:
        """Take down that the program has a resource: the engine checks its inputs."""
        self._declared.add(urn)

    def is_declared(self, urn: str) -> bool:
        """Whether the program has a resource, as far as the engine has checked its inputs."""
        return urn in self._declared

    def diffed(self, urn: str, kind: str, identifier: str, inputs: Inputs, outputs: Inputs, *, stays: bool) -> str:
        """Take down that the program and the state have a resource; the one that had the same thing first.

        One that gets another id may have one that is another resource's already: the run before ended in an exchange.

        The refresh of `pulumi up --refresh` counts for nothing here: it reads and compares (the engine, 3.259, calls
        Diff) under the URN from before an alias, which the program does not have.
        """
        self.add(urn, identifier, inputs)
        place = self._place(inputs)
        if place is None or urn not in self._declared:
            return urn
        self.live(urn, kind, identifier, inputs, outputs)
        return self._diffed.setdefault((kind, identifier, place), urn) if stays else urn

    def live(self, urn: str, kind: str, identifier: str, inputs: Inputs, outputs: Inputs) -> None:
        """Take down from which create the state has a resource that is not about to be deleted.

        The engine compares and updates that one only, and has the one that it creates.
        """
        self._live.setdefault((kind, identifier, self._place(inputs)), {})[urn] = created(outputs)

    def newer(self, urn: str, kind: str, identifier: str, inputs: Inputs, outputs: Inputs) -> tuple[str, ...]:
        """Under which URNs the state has the resource of this id from another create as well, which stays.

        Beside its own: where the program no longer has it, those of the program that have its id. One of them may be
        the same resource by an alias; a former entry keeps the former URN.
        """
        mark = created(outputs)
        found = self._live.get((kind, identifier, self._place(inputs)), {})
        mine, here = Urn.parse(urn), {urn: found.get(urn, mark)}
        if urn not in self._declared:
            here.update((x, found[x]) for x in found if x in self._declared and Urn.parse(x).is_in_stack_of(mine))
        return tuple(each for each, its in here.items() if its != mark)

    def ids(self, urn: str, inputs: Inputs) -> tuple[str, ...]:
        """The ids that the state has of a resource where these inputs of a create are."""
        here = self._place(inputs)
        return tuple(each for each, old in self._inputs.get(urn, {}).items() if self._place(old) == here)

    def forget(self) -> None:
        """Forget all: another engine has another state."""
        self._inputs.clear()
        self._declared.clear()
        self._live.clear()
        self._diffed.clear()
