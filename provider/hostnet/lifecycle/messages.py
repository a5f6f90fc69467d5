"""What a person reads when something is wrong: check failures and errors, without secrets."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from hostnet.lifecycle.paths import parse_path
from hostnet.lifecycle.secrets import Given
from hostnet.resources.schema.values import Failure
from hostnet.wire.errors import HostnetError

# gRPC sends a message as an HTTP/2 header, which has its limits (16 KB in some clients).
_LONGEST = 4000
# Of one resource. A person reads no more, and each is searched for secrets.
_MOST_FAILURES = 100


@dataclass(frozen=True)
class CheckFailure:
    """A failure of a check as Pulumi takes it.

    Args:
        property: The top-level property, whose value the engine prints; empty where it must not.
        reason: What is wrong, with the whole path.
    """

    property: str
    reason: str


def check_failures(
    found: Iterable[Failure], given: Given, declared: Collection[str], redact: Callable[[str], str]
) -> list[CheckFailure]:
    """Check failures as Pulumi takes them.

    The engine (3.259) prints the value of `property` beside the reason, also where it is a secret. So a property is
    named there only where it can't hold a credential: `connection` can, a property that is marked as a secret, and one
    that is not declared (`conection`). Of a nested path the engine finds no value and prints `value {<nil>}`, so the
    path is in the reason.

    Args:
        found: What the kind found.
        given: The inputs.
        declared: The names of the properties that the kind has.
        redact: Hides secrets in a text.
    """
    named = set(declared) - {path[0] for path in given.secrets} - {"connection"}
    shown: list[CheckFailure] = []
    found = iter(found)
    for number, failure in enumerate(found):
        if number == _MOST_FAILURES:
            total = number + 1 + sum(1 for _ in found)
            shown.append(CheckFailure("", f"{total:,} failures in all; the first {_MOST_FAILURES} are shown"))
            break
        top = next(iter(parse_path(failure.path)), "")
        reason = f"{failure.path}: {failure.reason}" if failure.path else failure.reason
        shown.append(CheckFailure(str(top) if top in named else "", redact(reason)))
    return shown


def error_text(error: BaseException) -> str:
    """The message of an error. Of a bug it has the place only: the text of an exception may quote a secret."""
    if isinstance(error, HostnetError):
        return shorten(str(error))
    return f"bug in hostnet: {type(error).__name__} {_place(error)}. Please report it"


def shorten(text: str) -> str:
    """The text, cut where it is too long for a message."""
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _place(error: BaseException) -> str:
    """The innermost line of hostnet's own code that the error came through."""
    package = Path(__file__).parent.parent
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if package in file.parents:
            return f"at {file.relative_to(package.parent)}:{frame.lineno}"
    return "outside hostnet's code"
