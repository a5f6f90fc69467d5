"""Completion in real shells, and the manual page as man reads it."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hostnet.cli.arguments import parser
from hostnet.cli.main import OK, main

from tools import command_line

FILES = command_line.FILES
# What stands before the cursor, and words that are offered there; none of another place. fish 4 offers words in which
# the letters stand anywhere, too: `--check` for `--h`.
CASES = [
    (["st"], {"status"}, {"--netns"}),
    (["status", "--h"], {"--host", "--host-key", "--help"}, {"--json"}),
    (["graph", "--format", ""], {"svg", "dot", "text"}, {"status"}),
    (["completion", ""], {"bash", "zsh", "fish"}, {"status"}),
    (["status", "--identity", "{folder}/id_"], {"{folder}/id_ed25519"}, {"doctor"}),
]


def bash(words: list[str]) -> set[str]:
    """What bash offers."""
    script = f'source {FILES / "hostnet.bash"}; COMP_WORDS=(hostnet "$@"); COMP_CWORD=$#; _shtab_hostnet'
    return lines(["bash", "--norc", "-c", f'{script}; printf "%s\\n" "${{COMPREPLY[@]}}"', "bash", *words])


def fish(words: list[str]) -> set[str]:
    """What fish offers; a description stands behind a tab."""
    script = f'source {FILES / "hostnet.fish"}; complete --do-complete "hostnet {" ".join(words)}"'
    return {line.partition("\t")[0] for line in lines(["fish", "--no-config", "-c", script])}


def zsh(words: list[str]) -> set[str]:
    """What zsh writes at a terminal: the only match, or the matches as a list."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(FILES / "hostnet.zsh", f"{folder}/_hostnet")
        script = (
            f"fpath=({folder} $fpath); autoload -U compinit; compinit -D -u; LISTMAX=0; "
            "finish() { print -r -- \"<$BUFFER>\"; exit }; zle -N finish; bindkey '^X' finish; print rea''dy\n"
        )
        here, there = pty.openpty()
        environment = {"TERM": "dumb", "PATH": os.environ["PATH"], "HOME": folder, "PS1": "", "COLUMNS": "200"}
        with subprocess.Popen(["zsh", "-f", "-i"], stdin=there, stdout=there, stderr=there, env=environment):
            os.close(there)
            os.write(here, script.encode())
            until(here, "ready\r\n")
            os.write(here, f"hostnet {' '.join(words)}\t\t\x18".encode())
            shown = until(here, "<hostnet[^\n]*>\r\n")
        os.close(here)
    return set(re.sub("[<>\b]", " ", shown).split())


def until(terminal: int, end: str) -> str:
    """What a terminal shows up to a text that fits a pattern."""
    shown = ""
    while not re.search(end, shown):
        shown += os.read(terminal, 4096).decode()
    return shown


def lines(argv: list[str]) -> set[str]:
    """What a program prints."""
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    return set(done.stdout.split("\n")) - {""}


@pytest.mark.parametrize("shell", [bash, zsh, fish])
@pytest.mark.parametrize(("words", "offered", "not_offered"), CASES)
def test_what_a_shell_offers(
    shell: Callable[[list[str]], set[str]],
    words: list[str],
    offered: set[str],
    not_offered: set[str],
    tmp_path: Path,
) -> None:
    """Commands, the options of a command, the values of an option, and files."""
    (tmp_path / "id_ed25519").touch()
    found = shell([word.format(folder=tmp_path) for word in words])
    assert {word.format(folder=tmp_path) for word in offered} <= found
    assert not not_offered & found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_reads_what_the_command_prints(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`hostnet completion` needs no host, and its text has no syntax error."""
    assert main(["completion", shell]) == OK
    assert subprocess.run([shell, "-n"], input=capsys.readouterr().out, text=True, check=False).returncode == 0


def test_the_files_are_those_of_the_parser() -> None:
    """`make commands` would change nothing."""
    assert {path.name: path.read_text() for path in FILES.glob("hostnet.*")} == command_line.made()


def test_the_manual_page_is_well_formed() -> None:
    """Groff and man have no warning about it, and it has every command and option."""
    page = FILES / "hostnet.1"
    assert lines(["groff", "-man", "-ww", "-z", "-Tutf8", str(page)]) == set()
    argv = ["man", "--warnings", "--encoding=utf8", "--local-file", str(page)]
    environment = {**os.environ, "MANWIDTH": "100", "MAN_KEEP_FORMATTING": "", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(argv, check=True, capture_output=True, text=True, env=environment)
    assert done.stderr == ""
    whole = parser()
    for name, command in command_line._subparsers(whole).items():
        assert f"hostnet {name}" in done.stdout
        for action in command._actions:
            assert all(option in done.stdout for option in action.option_strings if option not in ("-h", "--help"))
