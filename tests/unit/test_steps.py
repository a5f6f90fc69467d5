"""Set-up shows that a step lives, and a failure says what the program printed and what to do."""

from __future__ import annotations

import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tools import steps
from tools.steps import SetupError, doing, run


def test_the_output_is_returned() -> None:
    """Standard output alone; standard input comes from the caller, variables are added."""
    program = "import os, sys; print(sys.stdin.read() + os.environ['WORD']); print('noise', file=sys.stderr)"
    assert run([sys.executable, "-c", program], "", given="a ", env={"WORD": "b"}) == "a b\n"


def test_a_failure_says_what_was_printed_and_what_to_do() -> None:
    """The end of both outputs, the exit status, the advice."""
    program = "import sys; print('on stdout'); sys.exit('no such mirror')"
    with pytest.raises(SetupError) as error:
        run([sys.executable, "-c", program], "Check the network.")
    text = str(error.value)
    assert text.startswith(f"`{sys.executable} -c ")
    assert text.endswith("failed with exit status 1:\non stdout\nno such mirror\nCheck the network.")


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    """Its name, the reason, the advice."""
    with pytest.raises(SetupError, match=r"nothing: No such file or directory\. Install it\."):
        run([tmp_path / "nothing"], "Install it.")


def test_a_step_shows_that_it_lives(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """While its program runs, the time so far and the program's last line; at the end, how long it took."""
    monkeypatch.setattr(steps, "LOG_SECONDS", 0.01)
    enough = tmp_path / "enough"
    program = f"""
import pathlib, sys, time
print("linking", file=sys.stderr, flush=True)
while not pathlib.Path({str(enough)!r}).exists():
    time.sleep(0.01)
"""

    def build() -> None:
        with doing("build it"):
            run([sys.executable, "-c", program], "")

    shown = ""
    with ThreadPoolExecutor() as pool:
        step = pool.submit(build)
        try:
            while "linking" not in shown:
                assert not step.done()
                time.sleep(0.01)
                shown += capsys.readouterr().out
        finally:
            enough.touch()
        step.result()
    shown += capsys.readouterr().out
    assert shown.startswith("setup: build it ...\n")
    assert re.search(r"^setup: build it \.\.\. \d+ s  linking$", shown, re.MULTILINE)
    assert re.fullmatch(r"setup: build it: done in \d+ s", shown.splitlines()[-1])


def test_a_step_that_fails_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """And the error goes on."""
    with pytest.raises(SetupError), doing("build it"):
        raise SetupError("out of space")
    assert re.fullmatch(r"setup: build it: failed after \d+ s", capsys.readouterr().out.splitlines()[-1])
