"""How set-up reports: one line a step, signs of life while a step runs, and an error that says what to do."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

TAIL_LINES = 30  # of a failed program's output, in the error: pip's reason stands far above its last line
LAST_WIDTH = 80  # columns of a program's last line, in a log
TERMINAL_SECONDS = 1.0  # between two signs of life on a terminal, where each replaces the one before
LOG_SECONDS = 30.0  # and in a file or a pipe, where each is a line


class SetupError(Exception):
    """A step failed; the message says what to do about it."""


class _Life:
    """Shows that a step is under way: how long it has taken so far, and the last line that its program printed."""

    def __init__(self, what: str) -> None:
        """Start to show it.

        Args:
            what: The step.
        """
        self.last = ""
        self._what = what
        self._start = time.monotonic()
        self._terminal = sys.stdout.isatty()
        self._over = threading.Event()
        self._speaking = threading.Lock()
        print(f"setup: {what} ...", end="" if self._terminal else "\n", flush=True)
        self._thread = threading.Thread(target=self._show, daemon=True)
        self._thread.start()

    @property
    def seconds(self) -> float:
        """How long the step has taken so far."""
        return time.monotonic() - self._start

    def _show(self) -> None:
        while not self._over.wait(TERMINAL_SECONDS if self._terminal else LOG_SECONDS):
            with self._speaking:
                last = self.last if self._terminal else self.last[:LAST_WIDTH]
                self._print_line(f"setup: {self._what} ... {self.seconds:.0f} s  {last}", end="")

    def _print_line(self, text: str, end: str) -> None:
        if self._terminal:
            columns = shutil.get_terminal_size().columns
            print(f"\r\x1b[K{text[: columns - 1]}", end=end, flush=True)
        else:
            print(text.rstrip(), flush=True)

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Leave the terminal to another program, which may ask for a password."""
        with self._speaking:
            if self._terminal:
                print(flush=True)
            yield

    def end(self, how: str) -> None:
        """Stop, and say how the step ended."""
        self._over.set()
        self._thread.join()
        self._print_line(f"setup: {self._what}: {how} {self.seconds:.0f} s", end="\n")


# Steps do not overlap.
_current: _Life | None = None


def done(what: str) -> None:
    """Say that a step has nothing to do."""
    print(f"setup: {what}: already done", flush=True)


def left_out(what: str, why: str) -> None:
    """Say that a step can't be done on this machine, and need not."""
    print(f"setup: {what}: left out: {why}", flush=True)


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Say what a step does, that it is still at work, and how long it took."""
    global _current  # noqa: PLW0603 - `run` reports to the step that it is called in
    life = _current = _Life(what)
    try:
        yield
    except BaseException:
        life.end("failed after")
        raise
    else:
        life.end("done in")
    finally:
        _current = None


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
    if words[0] == "sudo":
        _ask_for_password()
    with tempfile.TemporaryFile("w+") as stdin:
        stdin.write(given)
        stdin.seek(0)
        try:
            process = subprocess.Popen(
                words,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                text=True,
                errors="replace",
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            raise SetupError(f"{' '.join(words)}: {error.strerror}. {advice}") from error
    printed, complaints = _follow(process)
    if process.returncode != 0:
        tail = "\n".join((printed + complaints).strip().splitlines()[-TAIL_LINES:])
        raise SetupError(f"`{' '.join(words)}` failed with exit status {process.returncode}:\n{tail}\n{advice}")
    return printed


def _ask_for_password() -> None:
    """Let sudo ask for a password now, before a sign of life overwrites its question. It remembers for a while."""
    if _current is None:
        return
    # Where no password is needed nothing is printed; what is wrong, the command itself says.
    if subprocess.run(["sudo", "-n", "true"], check=False, capture_output=True).returncode != 0:
        with _current.silent():
            subprocess.run(["sudo", "-v"], check=False)


def _follow(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """Read both outputs to their ends, and note each line as the last; then wait for the program."""
    lines: tuple[list[str], list[str]] = ([], [])

    def read(stream: IO[str], kept: list[str]) -> None:
        for line in stream:
            kept.append(line)
            if _current is not None and line.strip():
                _current.last = line.strip()

    assert process.stdout is not None  # noqa: S101 - both were asked for
    assert process.stderr is not None  # noqa: S101
    with process:
        other = threading.Thread(target=read, args=(process.stderr, lines[1]), daemon=True)
        other.start()
        try:
            read(process.stdout, lines[0])
            other.join()
        except BaseException:
            process.kill()
            raise
    return "".join(lines[0]), "".join(lines[1])
