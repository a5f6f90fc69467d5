"""A Pulumi URN, the owner's name in every request: the one place that knows how it is written."""

from __future__ import annotations

from dataclasses import dataclass

_PREFIX = "urn:pulumi:"
_DELIMITER = "::"
_PARTS = 4  # stack, project, qualified type, name


@dataclass(frozen=True)
class Urn:
    """`urn:pulumi:<stack>::<project>::<qualified type>::<name>`.

    Only the name may hold `::` (the engine's sdk/go/common/resource/urn splits into four parts at most).

    Args:
        stack: The stack's name.
        project: The project's name.
        qualified_type: The type tokens of the parents, outermost first, and the resource's own, with `$` between them.
        name: The resource's name in the program.
    """

    stack: str
    project: str
    qualified_type: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Urn:
        """Read a URN.

        A text that is not a URN becomes the name, with everything else empty: a record, which anybody may have edited,
        and a function, which is about no resource, hold such texts, and messages still have to name the owner.
        """
        parts = text.split(_DELIMITER, _PARTS - 1)
        if len(parts) < _PARTS or not text.startswith(_PREFIX):
            return cls("", "", "", text)
        return cls(parts[0][len(_PREFIX) :], *parts[1:])

    @staticmethod
    def end_of(text: str) -> str:
        """What stands behind the last `::` of a URN: the name, or its end where the name holds `::`.

        It takes a fraction of `parse`: for a first look at many.
        """
        return text.rpartition(_DELIMITER)[2]

    @property
    def type(self) -> str:
        """The resource's own type token: `hostnet:index:Bridge`. A dynamic resource has one of Pulumi's."""
        return self.qualified_type.rpartition("$")[2]

    @property
    def kind(self) -> str:
        """The last part of the type token: `Bridge`."""
        return self.type.rpartition(":")[2]

    def is_in_stack_of(self, other: Urn) -> bool:
        """Whether both belong to one stack of one project."""
        return (self.stack, self.project) == (other.stack, other.project)

    def __str__(self) -> str:
        parts = (_PREFIX + self.stack, self.project, self.qualified_type, self.name)
        return _DELIMITER.join(parts) if self.stack else self.name


def owner_key(urn: str, identifier: str) -> str:
    """What names an owner on a host: its URN alone is not enough, since a replacement has the same."""
    return f"{urn}|{identifier}"
