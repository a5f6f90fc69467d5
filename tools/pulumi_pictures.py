"""Draws docs/pictures from real runs, as root: `python -m tools.pulumi_pictures [FOLDER]`.

A network namespace stands for the server, and the template in YAML is the program: what `pulumi up` prints, what a
preview prints after a destination was changed, and the network as `hostnet graph` draws it.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tools.docs_listing import Stage
from tools.paths import CHECKOUT, VENV

FOLDER = CHECKOUT / "docs" / "pictures"
TEMPLATE = CHECKOUT / "templates" / "hostnet-yaml" / "Pulumi.yaml"
WIDTH = 100
SHOWN = "--color always --suppress-progress"
# A page that shows the picture fetches nothing from elsewhere: the reader's own fonts are used.
_FONTS = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)
# Lines about resources that are not done yet.
_UNDER_WAY = re.compile(r"^.*(?:creating|updating\.).*\n", re.MULTILINE)
# What differs from run to run.
_TIMES = re.compile(r" \(\d+(?:\.\d+)?s\)|^.*Duration:.*\n?", re.MULTILINE)
_ATTEMPTS = 10


def terminal(title: str, printed: str) -> str:
    """What a program printed, as a picture of a terminal.

    Args:
        title: The command.
        printed: Its output, with colours.
    """
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True, color_system="standard")
        console.print(Text.from_ansi(_TIMES.sub("", printed).strip()))
    # The name of its styles is the same in each run; else it would follow from the text.
    picture = console.export_svg(title=title, unique_id=re.sub(r"\W+", "-", title))
    return _FONTS.sub("", picture)


def project() -> str:
    """The template as a project, with the plugin of this checkout."""
    text = TEMPLATE.read_text(encoding="utf-8")
    plugin = f"plugins:\n  providers:\n    - name: hostnet\n      path: {CHECKOUT / 'provider' / 'bin'}\n"
    return f"name: my-host\nruntime: yaml\n{plugin}{text[text.index('resources:') :]}"


def draw(target: Path) -> None:
    """Draw all into a folder."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="hostnet-pictures-") as folder:
        stage = Stage(Path(folder))
        program, record = stage.folder / "Pulumi.yaml", stage.folder / "record"
        program.write_text(project(), encoding="utf-8")

        def printed(command: str) -> str:
            text = stage.printed(command).replace(f" (namespace {stage.namespace})", "")
            return text.replace(stage.namespace, "server")

        def write(name: str, picture: str) -> None:
            (target / name).write_text(picture, encoding="utf-8")

        try:
            stage.open()
            up = printed(f"pulumi up --yes --skip-preview {SHOWN}")
            write("up.svg", terminal("pulumi up --yes", _UNDER_WAY.sub("", up)))
            stage.run("ip tuntap add vm-web mode tap && ip link set vm-web up")
            command = f"{VENV}/bin/hostnet graph --netns {stage.namespace} --state-dir {record} --format svg"
            write("topology.svg", printed(command))
            text = program.read_text(encoding="utf-8")
            first, _, last = text.rpartition("destination: 10.0.0.2\n")
            program.write_text(f"{first}destination: 10.0.0.2:8443\n{last}", encoding="utf-8")
            # On a busy machine a preview may not wait for the host, and warns.
            previews = (printed(f"pulumi preview --diff {SHOWN}") for _ in range(_ATTEMPTS))
            write(
                "diff.svg", terminal("pulumi preview --diff", next(each for each in previews if "warning" not in each))
            )
            stage.run("pulumi destroy --yes --skip-preview")
        finally:
            stage.close()


def main(arguments: list[str]) -> int:
    """Draw; the exit status."""
    draw(Path(arguments[0]) if arguments else FOLDER)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
