"""What `pulumi.dynamic` does not tell a provider, and how hostnet makes up for it.

A dynamic provider gets neither the URN nor, except in a check, the old inputs. So the URN travels as the hidden input
`URN`, and outputs hold the inputs that they came from as the hidden output `INPUTS`, a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pulumi.output import Unknown

from hostnet.lifecycle import secrets
from hostnet.resources.schema.values import UNKNOWN

# Hidden inputs, and the hidden output.
URN: Final = "__urn"
SECRET: Final = "__secret"  # noqa: S105 - the name of a property: whether an input besides `connection` is a secret
INPUTS: Final = "__inputs"
_PULUMI = "__provider"

Properties = dict[str, Any]


@dataclass(frozen=True)
class Known:
    """The inputs of a resource, apart from what travels hidden among them.

    Args:
        urn: The resource's URN.
        secret: Whether an input besides `connection` is a secret.
        values: The inputs.
    """

    urn: str = ""
    secret: bool = False
    values: Properties = field(default_factory=dict)

    @classmethod
    def parse(cls, properties: Properties) -> Known:
        """From inputs, or from what `INPUTS` holds."""
        values = plain(properties)
        hidden = {name: values.pop(name, None) for name in (URN, SECRET, _PULUMI)}
        return cls(hidden[URN] or "", hidden[SECRET] is True, values)

    @property
    def hidden(self) -> Properties:
        """What travels hidden, as properties."""
        return {URN: self.urn, SECRET: self.secret}


def secret(value: object) -> Properties:
    """A value that Pulumi keeps encrypted."""
    return {secrets.SIGNATURE: secrets.SECRET, "value": value}


def outputs_of(properties: Properties) -> Properties:
    """A resource's outputs out of its state."""
    return {name: value for name, value in plain(properties).items() if name not in (INPUTS, _PULUMI)}


def plain(value: Any) -> Any:
    """Values as the kinds take them: whole numbers are ints, null is absent, unknown is `UNKNOWN`."""
    if isinstance(value, Unknown):
        return UNKNOWN
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
