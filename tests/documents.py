"""The programs that the documents show, as blocks between fences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tools.paths import CHECKOUT

PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A program, or a part of one.

    Attributes:
        page: The file, from the top of the checkout.
        line: Where its first line is.
        language: As the fence names it.
        text: The program.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        """The name of a test."""
        return f"{self.page}:{self.line}"


def blocks(*languages: str) -> Iterator[Block]:
    """The blocks of all pages in these languages."""
    for path in PAGES:
        yield from parts(str(path.relative_to(CHECKOUT)), path.read_text(encoding="utf-8"), *languages)


def parts(page: str, text: str, *languages: str) -> Iterator[Block]:
    """The blocks of a text in these languages."""
    for found in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if found[1] in languages:
            yield Block(page, text.count("\n", 0, found.start(2)) + 1, found[1], found[2])
