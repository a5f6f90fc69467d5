"""How set-up talks and fails: one line a step, and an error that says what to do."""

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


class SetupError(Exception):
    """A step failed; the message says what to do about it."""


def done(what: str) -> None:
    """Say that a step had nothing to do."""
    print(f"setup: {what}: already done", flush=True)


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Say what a step does, and how long it took."""
    print(f"setup: {what} ...", flush=True)
    start = time.monotonic()
    yield
    print(f"setup: {what}: done in {time.monotonic() - start:.0f} s", flush=True)


def run(
    argv: Sequence[str | Path],
    advice: str,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    given: str = "",
) -> str:
    """Run a program to its end and return what it printed.

    Args:
        argv: The program and its arguments.
        advice: What a person can do when it fails.
        cwd: The folder to run it in.
        env: Variables to set on top of this process's.
        given: Its standard input.

    Raises:
        SetupError: It failed or is not there; with the end of its output and the advice.
    """
    words = [str(word) for word in argv]
    try:
        result = subprocess.run(
            words,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            check=False,
            text=True,
            input=given,
            capture_output=True,
        )
    except OSError as error:
        raise SetupError(f"{' '.join(words)}: {error.strerror}. {advice}") from error
    if result.returncode != 0:
        tail = "\n".join((result.stdout + result.stderr).strip().splitlines()[-15:])
        raise SetupError(f"`{' '.join(words)}` failed with exit status {result.returncode}:\n{tail}\n{advice}")
    return result.stdout
