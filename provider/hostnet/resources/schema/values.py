"""The values that a kind takes and returns. Pure.

Values are JSON-like (dict, list, str, int, float, bool, None), with `UNKNOWN` for what a preview does not know yet.
Secrets are plain values here: rpc/ remembers where they were, and marks them in what it sends back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

Value = Any
Inputs = Mapping[str, Value]
Outputs = dict[str, Value]

# What this run has made of another resource on the same host: its outputs, by its kind's name and its id.
Look = Callable[[str, Any], Outputs | None]


class _Unknown:
    """The type of `UNKNOWN`."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = _Unknown()


def nothing(_kind: str, _id: Value) -> None:
    """A `Look` that finds nothing: this run has made nothing."""


@dataclass(frozen=True)
class Failure:
    """What is wrong with an input. `path`: such as `dhcpServer.staticLeases[0].address`; "": the whole resource."""

    path: str
    reason: str


@dataclass(frozen=True)
class Checked:
    """The inputs to keep, with an autoname and nothing else added, and their failures."""

    inputs: dict[str, Value]
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class Difference:
    """What changed. `detailed`: by path `add`, `update` or `delete`, or one of these with `-replace`."""

    detailed: dict[str, str] = field(default_factory=dict)
    output_paths: frozenset[str] = frozenset()  # the paths of `detailed` that are outputs (drift)
    delete_before_replace: bool = False

    @property
    def changed(self) -> bool:
        """Whether an update has anything to do."""
        return bool(self.detailed)

    @property
    def replaces(self) -> list[str]:
        """The top-level properties that need a replacement."""
        tops = [path.split(".")[0].split("[")[0] for path, how in self.detailed.items() if how.endswith("-replace")]
        return list(dict.fromkeys(tops))


@dataclass(frozen=True)
class Autoname:
    """How the engine wants a name to be made: from the URN's name and a seed, or as the user has configured it."""

    urn_name: str
    random_seed: bytes = b""
    proposed: str | None = None  # autonaming configuration: the engine's proposal
    mode: str = "default"  # "default" | "propose" | "enforce" | "disable"
