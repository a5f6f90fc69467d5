"""Runs the listings in docs/ again, as root: `python -m tools.docs_listing [--check] docs/nft.md …`.

Markers in a document say which commands run, in order:

    <!-- program -->              from here on `pulumi` runs the program in the next ```python block
    <!-- run: COMMAND -->         the next ``` block shows COMMAND and its output
    <!-- quiet: COMMAND -->       COMMAND runs, and the document does not show it
    <!-- sets: WHICH -->          the next list names the sets of hostnet's nftables tables that follow from WHICH

The commands of a document run in one network namespace, which stands for the host (eth0: 192.0.2.2/24 and
2001:db8::2/64, default routes); `pulumi` has a home and a backend of its own. What varies from run to run does not
show: the namespace's name and the temporary folder read as on a real host, durations are left out, and consecutive
resources of a diff, which Pulumi prints in the order in which they finish, are sorted. A rule set reads as nft 1.1
prints it, whichever version runs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

from hostnet.agent.nft.ruleset import SETS

from tools.paths import CHECKOUT, VENV, tool_env

_MARK = re.compile(r"^<!-- (program|run|quiet)(?:: (.*))? -->$")
_SETS = re.compile(r"^(<!-- sets: (.*) -->)\n(?:[- ] .*\n)*", re.MULTILINE)
_FENCE = "```"
_LEFT_OUT = re.compile(r"^(Duration: .*|@ .*|View Live: .*|\s+pulumi:pulumi:Stack .*|Read hostnet .*)$")
# A resource in the output of `--diff`, and what belongs to it.
_RESOURCE = re.compile(r"^    \S+ hostnet:index:")
_BELONGS = " " * 5
_SECONDS = re.compile(r" \(\d+(\.\d+)?s\)")
# What nft 1.0.6 prints, and 1.1 for the same: a priority without a name at the output hook, and a bit of a payload.
_OLDER = {"hook output priority -100;": "hook output priority dstnat;", "@ll,0,8 & 0x1 == 0x1": "@ll,7,1 0x1"}
# It also prints the elements of a set of raw payload in one line.
_IN_ONE_LINE = re.compile(r"^(\s+elements = \{ )(0x.*)$", re.MULTILINE)


class Stage:
    """The host, the project and the stack of one document."""

    def __init__(self, folder: Path) -> None:
        """Write the project.

        Args:
            folder: An empty folder for all files.
        """
        # Of one length, so that a command that wraps its lines wraps them at the same words in each run.
        self.folder, self.namespace = folder, f"hostnet-docs-{os.getpid():07}"
        self._env = {name: text for name, text in tool_env().items() if not name.startswith("PULUMI_")} | {
            "PULUMI_HOME": str(folder / "home"),
            "PULUMI_BACKEND_URL": f"file://{folder}",
            "PULUMI_CONFIG_PASSPHRASE": "docs",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "NO_COLOR": "1",
        }
        (folder / "Pulumi.yaml").write_text(
            "name: shop\n"
            f"runtime: {{name: python, options: {{virtualenv: {VENV}}}}}\n"
            f"plugins: {{providers: [{{name: hostnet, path: {CHECKOUT / 'provider' / 'bin'}}}]}}\n"
        )

        self._write_command()

    def _write_command(self) -> None:
        """Put `hostnet` on the PATH, as it is on the host itself: without the namespace and the directory."""
        command = self.folder / "bin" / "hostnet"
        command.parent.mkdir()
        where = f"--netns {self.namespace} --state-dir {self.folder / 'record'}"
        command.write_text(f'#!/bin/sh\nCOLUMNS=110 exec {VENV / "bin" / "python"} -m hostnet.cli "$@" {where}\n')
        command.chmod(0o755)
        self._env["PATH"] = f"{command.parent}{os.pathsep}{self._env['PATH']}"

    def open(self) -> None:
        """Create the host and the stack."""
        subprocess.run(["ip", "netns", "add", self.namespace], check=True)
        for command in (
            "sysctl -qw net.ipv6.conf.default.accept_dad=0",
            "ip link set lo up",
            "ip link add eth0 type veth peer name wire",
            "ip link set eth0 up",
            "ip link set wire up",
            "ip address add 192.0.2.2/24 dev eth0",
            "ip address add 2001:db8::2/64 dev eth0",
            "ip route add default via 192.0.2.1",
            "ip route add ::/0 via 2001:db8::1",
            "pulumi stack init dev",
            f"pulumi config set --path hostnet:connection.netns {self.namespace}",
            f"pulumi config set hostnet:stateDir {self.folder / 'record'}",
        ):
            self.run(command)

    def run(self, command: str) -> str:
        """Run a command on the host and return its output as a document shows it.

        Raises:
            RuntimeError: It failed. (To show a failure, let the command end in a pipe.)
        """
        return self._shown(self.printed(command))

    def printed(self, command: str) -> str:
        """Run a command on the host and return all that it printed.

        Raises:
            RuntimeError: It failed.
        """
        inside = [] if command.startswith("pulumi") else ["ip", "netns", "exec", self.namespace]
        done = subprocess.run(
            [*inside, "sh", "-c", command],
            cwd=self.folder,
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{command}: {done.stdout}")
        return done.stdout

    def _shown(self, text: str) -> str:
        text = text.replace(f" (namespace {self.namespace})", "").replace(str(self.folder), "~/shop")
        text = text.replace(" @~/shop/record", "")  # the default directory's record has no mark
        for older, newer in _OLDER.items():
            text = text.replace(older, newer)
        text = _IN_ONE_LINE.sub(lambda found: found[1] + found[2].replace(", ", ",\n\t\t\t     "), text)
        lines = [line.rstrip() for line in text.splitlines() if not _LEFT_OUT.match(line)]
        kept = re.sub(r"\n{2,}", "\n\n", "\n".join(in_order(lines)))
        return _SECONDS.sub("", kept).strip("\n")

    def close(self) -> None:
        """Delete the namespace."""
        subprocess.run(["ip", "netns", "delete", self.namespace], check=False)


def in_order(lines: list[str]) -> list[str]:
    """The lines of an output, with consecutive resources of a diff sorted by their type and id."""
    kept: list[str] = []
    resources: list[list[str]] = []
    for line in [*lines, ""]:
        if _RESOURCE.match(line):
            resources.append([line])
        elif resources and line.startswith(_BELONGS):
            resources[-1].append(line)
        else:
            kept += [text for resource in sorted(resources) for text in resource]
            resources = []
            kept.append(line)
    return kept[:-1]


def with_sets(text: str) -> str:
    """The document with new lists of sets, which need no run."""
    return _SETS.sub(lambda mark: "\n".join((mark[1], *_sets(mark[2]), "")), text)


def _sets(of: str) -> Iterator[str]:
    """An item for each set, those of the two families together."""
    for name, spec in SETS.items():
        other = f"{name[:-1]}6"
        if spec.of != of or (name == other and f"{name[:-1]}4" in SETS):
            continue
        names = f"`{name}`, `{other}`" if name != other and other in SETS else f"`{name}`"
        types = " : ".join(" . ".join(part) for part in (spec.key, spec.value) if part).replace("ipv4_addr", "address")
        yield textwrap.fill(f"- {names} ({types}): {spec.holds}", 120, subsequent_indent="  ", break_long_words=False)


def rewritten(text: str, stage: Stage) -> str:
    """The document with the outputs of a new run of its commands."""
    out: list[str] = []
    lines = iter(with_sets(text).split("\n"))
    for line in lines:
        out.append(line)
        mark = _MARK.match(line)
        if mark is None:
            continue
        kind, command = mark.groups()
        if kind == "quiet":
            stage.run(command)
            continue
        opening = next(lines)
        block = _block(lines)
        if kind == "program":
            (stage.folder / "__main__.py").write_text("\n".join(block) + "\n")
        else:
            block = [f"$ {command}", *stage.run(command).split("\n")]
        out += [opening, *block, _FENCE]
    return "\n".join(out)


def _block(lines: Iterator[str]) -> list[str]:
    """The rest of a fenced block whose first line was read, without its last line."""
    block = []
    for line in lines:
        if line == _FENCE:
            break
        block.append(line)
    return block


def main(arguments: list[str]) -> int:
    """Rewrite the documents, or with --check say which ones a new run would change."""
    check = "--check" in arguments
    stale = []
    for name in (one for one in arguments if one != "--check"):
        path = Path(name)
        before = path.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory(prefix="hostnet-docs-") as folder:
            stage = Stage(Path(folder))
            try:
                stage.open()
                after = rewritten(before, stage)
            finally:
                stage.close()
        if after != before:
            stale.append(name)
            if not check:
                path.write_text(after, encoding="utf-8")
    if check and stale:
        print(
            f"a new run prints something else: {', '.join(stale)}. Run `python -m tools.docs_listing {' '.join(stale)}`"
        )
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
