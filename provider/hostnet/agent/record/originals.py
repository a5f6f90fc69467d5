"""What hostnet changed of things that are not its own, and what they were before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hostnet.agent.linux.operations import check_sysctl_name
from hostnet.wire.shapes import reader


@dataclass(frozen=True)
class Sysctl:
    """A sysctl that we set: what it was and what we made of it."""

    old: str
    ours: str


@dataclass(frozen=True)
class Mtu:
    """A link's MTU: what it was and what we made of it."""

    own: int
    ours: int


@dataclass
class Originals:
    """What must be put back when the owners go.

    Attributes:
        sysctls: By name.
        attached: By the name of a link that a glob attached, the key of the glob's owner.
        mtus: By the name of a link whose MTU hostnet has set.
    """

    sysctls: dict[str, Sysctl] = field(default_factory=dict)
    attached: dict[str, str] = field(default_factory=dict)
    mtus: dict[str, Mtu] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As the record keeps it."""
        return {
            "sysctls": {name: vars(value) for name, value in self.sysctls.items()},
            "attached": self.attached,
            "mtus": mtus_to_json(self.mtus),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Originals:
        """What `to_json` wrote. An earlier hostnet wrote less.

        Raises:
            ValueError: It has another shape, or a name that is no sysctl's.
        """
        parts: _Parts = reader(_Parts)({name: data[name] for name in vars(_Parts()) if name in data})
        sysctls = {check_sysctl_name(name): sysctl for name, sysctl in parts.sysctls.items()}
        return cls(sysctls, parts.attached, mtus_from_json(parts.mtus))


@dataclass(frozen=True)
class _Parts:
    sysctls: dict[str, Sysctl] = field(default_factory=dict)
    attached: dict[str, str] = field(default_factory=dict)
    mtus: dict[str, tuple[int, int]] = field(default_factory=dict)


def mtus_to_json(mtus: Mapping[str, Mtu]) -> dict[str, list[int]]:
    """Each as a pair of numbers."""
    return {name: [each.own, each.ours] for name, each in mtus.items()}


def mtus_from_json(data: Mapping[str, Sequence[int]]) -> dict[str, Mtu]:
    """What `mtus_to_json` wrote."""
    return {name: Mtu(int(own), int(ours)) for name, (own, ours) in data.items()}
