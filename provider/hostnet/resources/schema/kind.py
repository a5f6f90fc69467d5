"""What a resource kind is to the rest of hostnet. Everything here is pure: no IO, no clock, no root.

Values are JSON-like (dict, list, str, int, float, bool, None) with `UNKNOWN` wherever a preview does not know yet.
Secrets are plain values here: rpc/ remembers where they were and marks what it sends back.
"""

# ruff: noqa: A002 (an id is what Pulumi calls it)

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from hostnet.wire.requests import Change, Query, View

Value = Any
Inputs = Mapping[str, Value]
Outputs = dict[str, Value]


class _Unknown:
    """The type of `UNKNOWN`."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = _Unknown()


@dataclass(frozen=True)
class Failure:
    """An input that can't be right. `path` like `dhcpServer.staticLeases[0].address`, "" for the whole resource."""

    path: str
    reason: str


@dataclass(frozen=True)
class Checked:
    """The inputs to keep (autonames added, nothing else) and all that is wrong with them."""

    inputs: dict[str, Value]
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class Difference:
    """What changed. `detailed` maps a path to one of add, update, delete and the same with `-replace`."""

    detailed: dict[str, str] = field(default_factory=dict)
    output_paths: frozenset[str] = frozenset()  # those paths of `detailed` that are in outputs (drift), not inputs
    delete_before_replace: bool = False

    @property
    def changed(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.detailed)

    @property
    def replaces(self) -> list[str]:
        """The top-level properties that make it a replacement."""
        tops = [path.split(".")[0].split("[")[0] for path, how in self.detailed.items() if how.endswith("-replace")]
        return list(dict.fromkeys(tops))


@dataclass(frozen=True)
class Autoname:
    """How the engine wants a name made: from the URN's name and a seed; or as the user configured."""

    urn_name: str
    random_seed: bytes = b""
    proposed: str | None = None  # autonaming configuration: the engine's proposal
    mode: str = "default"  # "default" | "propose" | "enforce" | "disable"


class Kind(Protocol):
    """One of the resources. `hostnet.resources.KINDS` has them all by token."""

    name: str  # "Bridge"
    token: str  # "hostnet:index:Bridge"

    @property
    def properties(self) -> Collection[str]:
        """The names of the inputs."""

    def check(self, inputs: Inputs, olds: Inputs | None, autoname: Autoname) -> Checked:
        """All failures at once; unknowns are let through wherever they are."""

    def diff(self, old_inputs: Inputs, old_outputs: Inputs, inputs: Inputs) -> Difference:
        """What an update has to do; equality in meaning is no difference; drift shows from `old_outputs`."""

    def change(
        self,
        urn: str,
        inputs: Inputs,
        *,
        id: str = "",
        old_inputs: Inputs | None = None,
        old_outputs: Inputs | None = None,
        dry: bool = False,
    ) -> Change | None:
        """The wish to send to the host: create (no `id`), update. None while a needed input is unknown (a preview)."""

    def removal(self, urn: str, id: str, old_inputs: Inputs, old_outputs: Inputs) -> Change:
        """The wish to be gone."""

    def query(self, urn: str, id: str, inputs: Inputs | None, outputs: Inputs | None) -> Query:
        """How to read it; without `inputs` it is an import."""

    def outputs(self, urn: str, inputs: Inputs, view: View) -> Outputs:
        """The outputs of what a host reported; what is not there (a `gateway6` of a v4 bridge) is left out."""

    def preview_outputs(
        self, urn: str, inputs: Inputs, old_outputs: Inputs | None, old_inputs: Inputs | None = None
    ) -> Outputs:
        """All outputs, `UNKNOWN` (at the leaf) where only the host can tell, None where there will be none.

        For an update give both olds: what the update leaves alone then stays known, so that a preview does not
        threaten to replace what depends on it.
        """

    def read_inputs(self, inputs: Inputs | None, view: View) -> dict[str, Value]:
        """The inputs that describe what the host has.

        The old spelling where it means the same, the kernel's value where it drifted; for an import (`inputs` None)
        only what is not default.
        """
