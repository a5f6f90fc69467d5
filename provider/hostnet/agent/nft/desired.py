"""What our tables should hold, compiled from all owners. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hostnet.agent.nft.context import Context
from hostnet.agent.nft.elements import compile_common, compile_object
from hostnet.agent.nft.ruleset import Element, Place
from hostnet.agent.record.owners import Owner


@dataclass(frozen=True)
class Desired:
    """What the tables should hold.

    Args:
        elements: Values by place.
        owners: The owner's key by place; "" for what all share.
    """

    elements: Mapping[Place, tuple[str, ...]] = field(default_factory=dict)
    owners: Mapping[Place, str] = field(default_factory=dict)


class ClashError(Exception):
    """Two owners ask for different values in one place."""

    def __init__(self, owner: str, holder: str, element: Element) -> None:
        super().__init__(owner, holder, element)
        self.owner, self.holder, self.element = owner, holder, element


class Compiler:
    """Compiles owners to elements, and only those that changed since the last time."""

    def __init__(self) -> None:
        self._context = Context()
        self._compiled: dict[str, tuple[Owner, tuple[Element, ...]]] = {}

    def desired(self, owners: Mapping[str, Owner], context: Context) -> Desired:
        """What the tables should hold for all these owners.

        Raises:
            ClashError: Two of them exclude each other.
        """
        alike = replace(context, ports=())  # no owner's own elements depend on what is attached
        if alike != self._context:
            self._context, self._compiled = alike, {}
        elements: dict[Place, tuple[str, ...]] = {}
        holders: dict[Place, str] = {}
        for element, _ in compile_common(context):
            elements[element.set, element.key] = element.value
            holders[element.set, element.key] = ""
        for key, owner in owners.items():
            for element in self.elements(owner, context):
                place = (element.set, element.key)
                if elements.setdefault(place, element.value) != element.value:
                    raise ClashError(key, holders[place], element)
                holders.setdefault(place, key)
        return Desired(elements, holders)

    def elements(self, owner: Owner, context: Context) -> tuple[Element, ...]:
        """What the tables should hold for one owner.

        Args:
            owner: The owner.
            context: As `desired` had it last.
        """
        cached = self._compiled.get(owner.key)
        if cached is None or cached[0] is not owner:
            found = tuple(element for item in owner.objects for element, _ in compile_object(item, context))
            self._compiled[owner.key] = cached = (owner, found)
        return cached[1]
