"""Keeps secrets out of messages: what the engine prints, it prints to terminals and CI logs."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HIDDEN = "[secret]"

# A shorter secret is hidden only where it stands as a word of its own: "80" in "8080" is no leak, and a message with
# every other letter hidden is no message.
_SHORT = 6

# Messages quote the beginning of a long value: so many characters of a secret are enough to hide it.
_HEAD = 12


class Redactor:
    """Knows every secret that this process was sent, and hides it in text.

    A text is searched once, however many secrets there are: a check may have thousands of failures, and a forward is
    secret where its port is.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._short: set[str] = set()
        # Sorted secrets by their beginning: of all secrets, a text agrees longest with a neighbour of its place.
        self._by_head: dict[str, list[str]] = {}
        self._head_lengths: set[int] = set()

    def learn(self, texts: Iterable[str]) -> None:
        """Remember secrets: whole, line by line (errors about a key quote one line), and as `repr` shows them."""
        for text in texts:
            for form in (text, *text.splitlines(), repr(text)[1:-1]):
                secret = form.strip()
                if secret and secret not in self._known:
                    self._known.add(secret)
                    self._add(secret)

    def _add(self, secret: str) -> None:
        if len(secret) < _SHORT:
            self._short.add(secret)
            return
        head = secret[:_HEAD]
        self._head_lengths.add(len(head))
        bisect.insort(self._by_head.setdefault(head, []), secret)

    def __call__(self, text: str) -> str:
        """The text with every known secret replaced, safe to put into a protobuf message."""
        if self._by_head:
            text = _hide(text, self._long_at)
        if self._short:
            text = _hide(text, self._short_at)
        return text.encode(errors="backslashreplace").decode()

    def _long_at(self, text: str, start: int) -> int:
        """How many characters from here on quote the beginning of a secret."""
        longest = 0
        for length in self._head_lengths:
            secrets = self._by_head.get(text[start : start + length])
            if secrets is None:
                continue
            rest = text[start:]
            place = bisect.bisect_left(secrets, rest)
            neighbours = secrets[max(place - 1, 0) : place + 1]
            longest = max(longest, *(_common(rest, secret) for secret in neighbours))
        return longest

    def _short_at(self, text: str, start: int) -> int:
        """How many characters from here on are a short secret that is a word of its own."""
        if start and _is_word(text[start - 1]):
            return 0
        lengths = range(min(_SHORT - 1, len(text) - start), 0, -1)
        whole = (n for n in lengths if not _is_word(text[start + n : start + n + 1]))
        return next((n for n in whole if text[start : start + n] in self._short), 0)


def _hide(text: str, secret_at: Callable[[str, int], int]) -> str:
    """Replace what is secret.

    Args:
        text: The text.
        secret_at: How many characters are secret from a place of the text on.
    """
    parts, shown = [], 0  # what is shown begins there
    for start in range(len(text)):
        length = secret_at(text, start)
        if length and start >= shown:
            parts += [text[shown:start], HIDDEN]
        if length:
            shown = max(shown, start + length)
    return "".join([*parts, text[shown:]])


def _common(text: str, other: str) -> int:
    """How many characters two texts begin with together."""
    pairs = enumerate(zip(text, other, strict=False))
    return next((number for number, (one, two) in pairs if one != two), min(len(text), len(other)))


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"
