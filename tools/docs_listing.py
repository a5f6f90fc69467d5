"""Runs the listings in docs/ again: `python -m tools.docs_listing [--check] docs/nft.md …`. As root.

What a document shows of a run stands between markers, so that it can be run again and compared:

    <!-- program -->              the Pulumi program in the next ```python block is what `pulumi` runs from here on
    <!-- run: COMMAND -->         the next ``` block is what COMMAND printed
    <!-- quiet: COMMAND -->       run, and nothing of it shown

Commands run in one network namespace that is made for the document and stands for the host (eth0: 192.0.2.2/24 and
2001:db8::2/64, default routes), `pulumi` with a home and a backend of its own. What differs from run to run (the
namespace's name, folders, durations) is written as it would be on a host of one's own, or left out.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tools.paths import CHECKOUT, VENV, tool_env

_MARK = re.compile(r"^<!-- (program|run|quiet)(?:: (.*))? -->$")
_FENCE = "```"
_LEFT_OUT = re.compile(r"^(Duration: .*|@ .*|View Live: .*|\s+pulumi:pulumi:Stack .*|Read hostnet .*)$")
_SECONDS = re.compile(r" \(\d+(\.\d+)?s\)")


class Stage:
    """A namespace, a project and a stack for one document."""

    def __init__(self, folder: Path) -> None:
        """Make them.

        Args:
            folder: an empty one, for all that is written.
        """
        self.folder, self.namespace = folder, f"hostnet-docs-{os.getpid()}"
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

    def open(self) -> None:
        """Make the host and the stack."""
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
        """Run a command on the host; what it prints, as a document shows it.

        Raises:
            RuntimeError: it failed. (A document shows a failure by the end of a pipe.)
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
        return self._shown(done.stdout)

    def _shown(self, text: str) -> str:
        text = text.replace(f" (namespace {self.namespace})", "").replace(str(self.folder), "~/shop")
        lines = [line.rstrip() for line in text.splitlines() if not _LEFT_OUT.match(line)]
        kept = re.sub(r"\n{2,}", "\n\n", "\n".join(lines))
        return _SECONDS.sub("", kept).strip("\n")

    def close(self) -> None:
        """Take the namespace away."""
        subprocess.run(["ip", "netns", "delete", self.namespace], check=False)


def rewritten(text: str, stage: Stage) -> str:
    """The document with its commands run again, in order."""
    out: list[str] = []
    lines = iter(text.split("\n"))
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
    """The lines of a fenced block whose first line has been read."""
    block = []
    for line in lines:
        if line == _FENCE:
            break
        block.append(line)
    return block


def main(arguments: list[str]) -> int:
    """Rewrite the documents, or say which are not as they would be written."""
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
        print(f"not as a run is now: {', '.join(stale)}. Run `python -m tools.docs_listing {' '.join(stale)}`")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
