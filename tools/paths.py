"""Where things are: the checkout, the cache, the programs that set-up made."""

import os
import shutil
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
VENV = CHECKOUT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
# This checkout's `pulumi`, where the machine has none, with the stand-ins beside it.
CLI_BIN = VENV / "pulumi"
DEVHOST = CHECKOUT / "tools" / "devhost"
# What `pulumi up` of a Python program needs beside the CLI; the official distribution has both.
HOST_PROGRAMS = ("pulumi-language-python", "pulumi-resource-pulumi-python")


def cache() -> Path:
    """The folder for what is costly to make and shared by checkouts: HOSTNET_CACHE, or the user's cache folder."""
    chosen = os.environ.get("HOSTNET_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hostnet"


def cached_bin() -> Path:
    """The cache's folder for programs."""
    return cache() / "bin"


def _system_path() -> str:
    """PATH without what `tool_path` adds to it, so that asking twice gives the same answer."""
    ours = {str(CLI_BIN), str(DEVHOST)}
    return os.pathsep.join(part for part in os.environ.get("PATH", os.defpath).split(os.pathsep) if part not in ours)


def system_program(name: str) -> str | None:
    """The path of a program that the machine itself has, or None."""
    return shutil.which(name, path=_system_path())


def tool_path() -> str:
    """The PATH for `pulumi`: the machine's own, and the cached CLI and the stand-ins for what is missing there."""
    if system_program("pulumi") is None:
        return os.pathsep.join((str(CLI_BIN), _system_path()))
    if missing_hosts():
        return os.pathsep.join((_system_path(), str(DEVHOST)))
    return _system_path()


def missing_hosts() -> list[str]:
    """The host programs that the machine lacks. The official ones may lie beside `pulumi` without being on PATH."""
    pulumi = system_program("pulumi")
    beside = Path(pulumi).resolve().parent if pulumi else VENV
    return [name for name in HOST_PROGRAMS if system_program(name) is None and not (beside / name).exists()]


def tool_env() -> dict[str, str]:
    """This process's environment with `tool_path`, to run `pulumi` with."""
    return {**os.environ, "PATH": tool_path(), "PULUMI_SKIP_UPDATE_CHECK": "true"}
