"""Property paths as Pulumi writes them: `dhcpServer.staticLeases[0].address`."""

from __future__ import annotations

import re

# Names of properties, and indices into lists.
Path = tuple[str | int, ...]

# name, .name, [0], ["name with dots"], and * for any.
_PART = re.compile(r'\["((?:[^"\\]|\\.)*)"\]|\[(\d+|\*)\]|([^.\[\]]+)')


def path_text(path: Path) -> str:
    """The path as messages show it."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def parse_path(text: str) -> Path:
    """The parts of a path. `*` stands for any name or index in `ignoreChanges`."""
    parts: list[str | int] = []
    for quoted, index, name in _PART.findall(text):
        if index.isdecimal():
            parts.append(int(index))
        else:
            parts.append(quoted or index or name)
    return tuple(parts)
