"""Set-up of a checkout: `python3 -m tools.setup [COMMAND]`, run from its top.

Commands:
    all      Debian packages, virtual environment, `pulumi`, the test machines (the default)
    env      print the PATH that `pulumi` is to be called with
    gensdk   build the SDK generator and print where it is
    clean    remove the virtual environment and the cache
"""

import contextlib
import shutil
import sys
from collections.abc import Callable

from tools import debian, firewalls, golang, guest, server, venv
from tools.paths import HOST_PROGRAMS, VENV, cache, missing_hosts, tool_path
from tools.steps import SetupError, done


def everything() -> None:
    """Do all that `make demo` and `make test` need."""
    debian.install()
    venv.build()
    golang.build_pulumi()
    golang.place_pulumi()
    _say_hosts()
    guest.prepare()
    firewalls.prepare()
    server.prepare()


def _say_hosts() -> None:
    """Say which host programs are stood in for."""
    for name in HOST_PROGRAMS:
        done(f"{name} ({'development stand-in' if name in missing_hosts() else 'official'})")


def print_path() -> None:
    """Print the PATH with the cached `pulumi` and the stand-ins, as far as the machine lacks them."""
    print(tool_path())


def print_gensdk() -> None:
    """Build the SDK generator; its path alone goes to standard output."""
    with contextlib.redirect_stdout(sys.stderr):
        program = golang.gensdk()
    print(program)


def clean() -> None:
    """Remove what set-up made, but for Debian's packages."""
    # By name: HOSTNET_CACHE may be a folder that holds other things too.
    for folder in (VENV, *(cache() / name for name in ("bin", "go", "guest", "firewalls", "server"))):
        if folder.exists():
            shutil.rmtree(folder)
            print(f"removed {folder}")


COMMANDS: dict[str, Callable[[], None]] = {
    "all": everything,
    "env": print_path,
    "gensdk": print_gensdk,
    "clean": clean,
}


def main(args: list[str]) -> int:
    """Run one command; the exit status."""
    command = COMMANDS.get(args[0] if args else "all")
    if command is None:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        command()
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
