"""Which values are secret: in what a program gives, and in what goes back to Pulumi.

For the rest of hostnet a secret is a plain value. `Given` remembers where the secrets were; `input_secrets` and
`output_secrets` say where they are in what goes back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hostnet.lifecycle.paths import Path
from hostnet.resources.schema.connection import CONNECTION
from hostnet.resources.schema.values import Value

# How a secret is written in properties: an object with the signature key (the engine's sdk/go/common/resource/sig).
SIGNATURE = "4dabf18193072939515e22adb298388d"
SECRET = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105 - a signature

# The properties of a Connection that are secret also where the program does not say so.
CREDENTIALS = frozenset(about.name for about in CONNECTION.properties.values() if about.secret)

# The same as a Python program spells them.
CREDENTIAL_ATTRIBUTES = frozenset(about.attribute for about in CONNECTION.properties.values() if about.secret)

# Outputs that only the host's kernel makes: no secret input is in them.
_KERNEL_OUTPUTS = frozenset({"ifindex", "members", "forwarding"})


@dataclass
class Given:
    """Values that a program or a state gives.

    Args:
        values: The values, secrets among them as plain ones.
        secrets: The paths of the secrets.
        texts: Every text in a secret value, for `Redactor`.
        plain: What they were read from says nothing that is not in the values: no null, no type of its own. It is
            written again word for word.
    """

    values: dict[str, Value] = field(default_factory=dict)
    secrets: set[Path] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)
    plain: bool = True

    def mark(self, path: Path, value: Value) -> None:
        """Note that the value at a path is secret."""
        self.secrets.add(path)
        _collect_texts(value, self.texts)

    def mark_credentials(self) -> None:
        """Mark the credentials of the connection and of its proxy.

        The program may not have marked them: Python's generated SDK marks top-level properties alone.
        """
        connection: Value = self.values.get("connection")
        path: Path = ("connection",)
        while isinstance(connection, Mapping):
            for name in CREDENTIALS & connection.keys():
                if connection[name] is not None:
                    self.mark((*path, name), connection[name])
            connection, path = connection.get("proxy"), (*path, "proxy")


def input_secrets(values: Mapping[str, Value], given: Given) -> set[Path]:
    """Where secrets are in inputs that go back, from a check or a read.

    A secret stays at its path while the same value is there; else the whole property becomes secret.
    """
    marks: set[Path] = set()
    for path in given.secrets:
        if path[0] in values:
            marks.add(path if _same(values, given.values, path) else path[:1])
    return marks


def output_secrets(outputs: Mapping[str, Value], given: Given) -> set[Path]:
    """Where secrets are in outputs that come from these inputs.

    A property with a secret in it stays so: at the path while it is a copy of the input, else as a whole. Once an
    input is secret, an output is open only where it is a copy of an open input or the kernel's own.
    """
    secrets = [path for path in given.secrets if path[0] != "connection"]
    if not secrets:
        return set()
    marks: set[Path] = set()
    for name, value in outputs.items():
        copied = name in given.values and given.values[name] == value
        below = [path for path in secrets if path[0] == name]
        if copied:
            marks.update(below)
        elif below or name not in _KERNEL_OUTPUTS:
            marks.add((name,))
    return marks


def _same(one: Value, other: Value, path: Path) -> bool:
    """Whether both hold the same value at a path."""
    for part in path:
        try:
            one, other = one[part], other[part]
        except (KeyError, IndexError, TypeError):
            return False
    return bool(one == other)


def _collect_texts(value: Value, texts: set[str]) -> None:
    if isinstance(value, Mapping):
        for item in value.values():
            _collect_texts(item, texts)
    elif isinstance(value, list):
        for item in value:
            _collect_texts(item, texts)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        texts.add(str(value))
