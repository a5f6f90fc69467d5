"""Runs one Pulumi program, with the Python of its own environment; language_host.py sends the request on stdin."""

import os
import runpy
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from pulumi import RunError
from pulumi.automation._server import LanguageServer
from pulumi.runtime import settings
from pulumi.runtime.proto import language_pb2

# Tells language_host.py that the error was shown.
SHOWN = 32


def _users_frames(error: BaseException, folder: str) -> str:
    """The traceback from the first frame in the program's folder on: what is above it is Pulumi's and ours."""
    frames = traceback.extract_tb(error.__traceback__)
    first = next((i for i, frame in enumerate(frames) if frame.filename.startswith(folder)), 0)
    return "".join(traceback.format_exception(error, limit=first - len(frames)))


def _run(program: Path, root: str) -> None:
    """Run the program as `__main__`; what it raises becomes the message that the official host shows."""
    settings.SETTINGS.root_directory = root
    try:
        runpy.run_path(str(program), run_name="__main__")
    except RunError:
        raise
    except Exception as error:
        shown = _users_frames(error, str(program if program.is_dir() else program.parent))
        raise RunError(f"Program failed with an unhandled exception:\n{shown}") from error


def main() -> int:
    """Run the program of the request; the exit status."""
    # Ctrl-C and the engine's Cancel end a program at once, and without a traceback of whatever it was just doing.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    request = language_pb2.RunRequest.FromString(sys.stdin.buffer.read())
    program = Path(request.info.program_directory, request.info.entry_point).resolve()
    # The program's own standard input is not the engine's.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = [str(program), *request.args[1:]]
    server: Any = LanguageServer(lambda: _run(program, request.info.root_directory))
    response = server.Run(request, None)
    return SHOWN if response.error else 0


if __name__ == "__main__":
    sys.exit(main())
