"""Writes what is made from the command line's parser: `python -m tools.command_line`.

The completions of the shells are shtab's; the manual page is written here, since a generator that knows no common
options would repeat them for each command. Both are files of the package: an installation needs no generator.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import shtab
from hostnet.cli.arguments import CODES, COMMON, EXAMPLES, SHELLS, parser

from tools.paths import CHECKOUT

FILES = CHECKOUT / "provider" / "hostnet" / "cli" / "files"
_MARK = "Written by `make commands` from provider/hostnet/cli/arguments.py."
_NAMESPACES = "ls /run/netns 2>/dev/null"


def made() -> dict[str, str]:
    """The files by name."""
    completed = _completed(parser())
    texts = {
        f"hostnet.{shell}": shtab.complete(completed, shell=shell, preamble={shell: f"# {_MARK}"}) for shell in SHELLS
    }
    return {name: text.rstrip() + "\n" for name, text in texts.items()} | {"hostnet.1": manual(parser())}


def _subparsers(whole: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands by name."""
    (action,) = (each for each in whole._actions if isinstance(each, argparse._SubParsersAction))  # noqa: SLF001 - as shtab
    return dict(action.choices)


def _completed(whole: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser, with what completes the values of options."""
    for command in _subparsers(whole).values():
        for action in command._actions:  # noqa: SLF001 - as shtab reads it
            if action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif action.dest == "state_dir":
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
            elif action.dest == "netns":
                action.complete = shtab.cmd(_NAMESPACES)  # type: ignore[attr-defined]
    return whole


# --- the manual page, in the language of man(7) ---------------------------------------------------------------------


def manual(whole: argparse.ArgumentParser) -> str:
    """The manual page."""
    return "\n".join([*_page(whole), ""])


def _page(whole: argparse.ArgumentParser) -> Iterator[str]:
    commands = _subparsers(whole)
    yield f'.\\" {_MARK}'
    yield from ('.TH HOSTNET 1 "" "hostnet" "User Commands"', ".SH NAME")
    yield f"hostnet \\- {_text((whole.description or '').rstrip('.').lower().replace('linux', 'Linux'))}"
    yield ".SH SYNOPSIS"
    for name, command in commands.items():
        yield from (".SY hostnet", f"\\fB{name}\\fP", *map(_usage, _own(command)))
        yield from ("[\\fIoptions of all commands\\fP]", ".YS") if _shared(command) else (".YS",)
    yield from (".SH DESCRIPTION", _text(" ".join(COMMON.split())), ".SH COMMANDS")
    for name, command in commands.items():
        yield from (f".SS {name}", _text(command.description or ""))
        yield from (line for action in _own(command) for line in _option(action))
    yield ".SH OPTIONS OF ALL COMMANDS"
    for action in _shared(commands["status"]):
        yield from _option(action)
    yield ".SH EXIT STATUS"
    for code, what in re.findall(r"^  (\d+) +(.*)$", CODES, re.MULTILINE):
        yield from (".TP", f".B {code}", _text(what))
    yield from (
        ".SH ENVIRONMENT",
        ".TP",
        ".B SSH_AUTH_SOCK",
        "The SSH agent whose keys are used without \\-\\-identity.",
    )
    yield from (".TP", ".B NO_COLOR", "If it is set, the output has no colors.", ".SH FILES", ".TP")
    yield from (".I /var/lib/hostnet", "What hostnet has on the host, as recorded there.")
    yield from (".TP", ".I ~/.ssh/known_hosts", "The keys of hosts, without \\-\\-host\\-key.", ".SH EXAMPLES")
    for example in EXAMPLES.values():
        yield from (".PP", ".EX", _text(example), ".EE")
    yield from (".SH SEE ALSO", ".BR nft (8),", ".BR ip (8),", ".BR pulumi (1)")


def _groups(command: argparse.ArgumentParser) -> Iterator[tuple[bool, argparse.Action]]:
    """The options and arguments, and whether each is one of those that all commands have."""
    for group in command._action_groups:  # noqa: SLF001 - as shtab reads it
        for action in group._group_actions:  # noqa: SLF001
            if not isinstance(action, argparse._HelpAction):  # noqa: SLF001
                yield (group.title or "").endswith("all commands"), action


def _own(command: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for shared, action in _groups(command) if not shared]


def _shared(command: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for shared, action in _groups(command) if shared]


def _value(action: argparse.Action) -> str:
    """What stands for the value of an option or argument; "" where it has none."""
    if action.nargs == 0:
        return ""
    if action.choices:
        return "|".join(f"\\fB{_text(str(each))}\\fP" for each in action.choices)
    return f"\\fI{_text(str(action.metavar or action.dest.upper()))}\\fP"


def _name(action: argparse.Action) -> str:
    option = f"\\fB{_text(action.option_strings[0])}\\fP" if action.option_strings else ""
    return " ".join(filter(None, (option, _value(action))))


def _usage(action: argparse.Action) -> str:
    many = " ..." if action.nargs == "*" else ""
    return f"[{_name(action)}{many}]" if action.option_strings or many else _name(action)


def _option(action: argparse.Action) -> Iterator[str]:
    help_ = (action.help or "") % {"default": action.default}
    yield from (".TP", _name(action), _text(f"{help_[0].upper()}{help_[1:]}."))


def _text(text: str) -> str:
    """Text that roff reads as text: backslashes, hyphens to copy, accents, and no request at the start of a line."""
    for plain, escape in (("\\", "\\e"), ("-", "\\-"), ("~", "\\(ti"), ("^", "\\(ha"), ("`", "\\(ga"), ("'", "\\(aq")):
        text = text.replace(plain, escape)
    return f"\\&{text}" if text.startswith((".", "\\(aq")) else text


def main() -> int:
    """Write the files."""
    for name, text in made().items():
        (FILES / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
