"""Keeps secrets out of messages: what the engine prints, it prints to terminals and CI logs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

HIDDEN = "[secret]"

# A shorter secret is hidden only where it stands as a word of its own: "80" in "8080" is no leak, and a message with
# every other letter hidden is no message.
_SHORT = 6

# Messages quote the beginning of a long value: so many characters of a secret are enough to hide it.
_HEAD = 12


class Redactor:
    """Knows every secret that this process was sent, and hides it in text."""

    def __init__(self) -> None:
        self._long: set[str] = set()
        self._short: set[str] = set()

    def learn(self, texts: Iterable[str]) -> None:
        """Remember secrets: whole, line by line (errors about a key quote one line), and as `repr` shows them."""
        for text in texts:
            for form in (text, *text.splitlines(), repr(text)[1:-1]):
                secret = form.strip()
                if secret:
                    (self._short if len(secret) < _SHORT else self._long).add(secret)

    def __call__(self, text: str) -> str:
        """The text with every known secret replaced, safe to put into a protobuf message."""
        for secret in sorted(self._long, key=len, reverse=True):
            text = _hide(text, secret)
        if self._short:
            words = "|".join(re.escape(secret) for secret in sorted(self._short, key=len, reverse=True))
            text = re.sub(rf"(?<!\w)(?:{words})(?!\w)", HIDDEN, text)
        return text.encode(errors="backslashreplace").decode()


def _hide(text: str, secret: str) -> str:
    """Replace the secret and every quotation of its beginning."""
    head = secret[:_HEAD]
    start = text.find(head)
    while start >= 0:
        length = len(head)
        while length < len(secret) and text[start + length : start + length + 1] == secret[length]:
            length += 1
        text = text[:start] + HIDDEN + text[start + length :]
        start = text.find(head, start + len(HIDDEN))
    return text
