"""What this run has made of the resources from which others derive values: a bridge's subnets, a gateway's uplink."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from hostnet.resources.schema.values import Look, Outputs

Inputs: TypeAlias = Mapping[str, Any]


class Made:
    """The outputs of resources that this run created or updated, or would in a preview.

    The engine asks for the difference of a guest's TapBinding after its bridge was updated, and names only the
    TapBinding's own inputs, of which none has changed.

    Args:
        place: Where the resource of these inputs is: which host, and which namespace; None while it is not known.
    """

    def __init__(self, place: Callable[[Inputs], object]) -> None:
        self._place = place
        self._outputs: dict[tuple[object, str, str], Outputs] = {}

    def add(self, kind: str, identifier: str, inputs: Inputs, outputs: Outputs) -> None:
        """Take down what was made of a resource.

        Args:
            kind: Such as "Bridge".
            identifier: What others name it by: its id.
            inputs: Its inputs.
            outputs: Its outputs.
        """
        place = self._place(inputs)
        if place is not None and identifier:
            self._outputs[place, kind, identifier] = outputs

    def beside(self, inputs: Inputs) -> Look:
        """Looks up resources on the host of these inputs."""
        place = self._place(inputs)
        return lambda kind, identifier: self._outputs.get((place, kind, identifier))

    def forget(self) -> None:
        """Forget all: another run begins."""
        self._outputs.clear()
