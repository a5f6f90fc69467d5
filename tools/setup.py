"""Set-up of a checkout: `python3 -m tools.setup [COMMAND]`, run from its top.

Each command does what is missing and skips what is done:
    demo     what `make demo` needs: nftables and QEMU, the virtual environment, `pulumi`, a microVM
    dev      what a change of the code needs: the development tools, the generator of the SDKs
    test     both, and what `make test` needs besides: DHCP clients, firewalls, stores, a test server (the default)
    bench    what `make bench` needs besides: a library that draws plots
    systems  what `make systems` needs besides: a minimal Debian 12 and a minimal Debian 13

Others:
    env      print the PATH with which `pulumi` is found
    gensdk   build the generator of the SDKs and print its path
    clean    remove the virtual environment and what is in the cache
"""

import contextlib
import shutil
import sys
from collections.abc import Callable

from tools import debian, firewalls, golang, guest, server, systems, venv
from tools.paths import HOST_PROGRAMS, VENV, cache, missing_hosts, tool_path
from tools.steps import SetupError, done

# The groups of tools/debian.py that a command installs; `test` installs all.
DEMO_PACKAGES = ("set-up", "provider", "guest")
DEV_PACKAGES = ("set-up",)


def prepare_demo() -> None:
    """Do what `make demo` needs."""
    debian.install(DEMO_PACKAGES)
    venv.build()
    _prepare_pulumi()
    guest.prepare()


def prepare_dev() -> None:
    """Do what lint, types, unit tests and the generated files need."""
    debian.install(DEV_PACKAGES)
    venv.build()
    venv.add("dev")
    golang.gensdk()


def prepare_test() -> None:
    """Do all that `make test` needs, and so everything."""
    debian.install()
    venv.build()
    venv.add("dev")
    golang.gensdk()
    golang.build_yaml_host()
    _prepare_pulumi()
    golang.build_s3_server()
    guest.prepare()
    guest.wired_initramfs()
    firewalls.prepare()
    server.prepare()


def prepare_bench() -> None:
    """Do what `make bench` needs: all that `make test` needs, and a library that draws plots."""
    prepare_test()
    venv.add("bench")


def _prepare_pulumi() -> None:
    """Provide `pulumi`, and say which of the programs that it starts are stand-ins."""
    golang.build_pulumi()
    golang.place_pulumi()
    for name in HOST_PROGRAMS:
        done(f"{name} ({'stand-in of this checkout' if name in missing_hosts() else 'official'})")


def print_path() -> None:
    """Print PATH, with the folders of the built `pulumi` and the stand-ins where the machine lacks these programs."""
    print(tool_path())


def print_gensdk() -> None:
    """Build the SDK generator; its path alone goes to standard output."""
    with contextlib.redirect_stdout(sys.stderr):
        program = golang.gensdk()
    print(program)


def clean() -> None:
    """Remove what set-up made. Debian's packages stay installed."""
    # By name: HOSTNET_CACHE may be a folder that holds other things too.
    for folder in (VENV, *(cache() / name for name in ("bin", "go", "guest", "firewalls", "server", "systems"))):
        if folder.exists():
            shutil.rmtree(folder)
            print(f"removed {folder}")


COMMANDS: dict[str, Callable[[], None]] = {
    "demo": prepare_demo,
    "dev": prepare_dev,
    "test": prepare_test,
    "bench": prepare_bench,
    "systems": systems.prepare,
    "env": print_path,
    "gensdk": print_gensdk,
    "clean": clean,
}


def main(args: list[str]) -> int:
    """Run one command; the exit status."""
    command = COMMANDS.get(args[0] if args else "test")
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
