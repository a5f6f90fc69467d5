"""The paths of the checkout, of the cache, and of the programs that set-up built."""

import os
import shutil
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
VENV = CHECKOUT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
# This checkout's `pulumi` if the machine has none, with the stand-ins beside it.
CLI_BIN = VENV / "pulumi"
DEVHOST = CHECKOUT / "tools" / "devhost"
# `pulumi up` of a Python program needs these beside the CLI. The official distribution has both.
HOST_PROGRAMS = ("pulumi-language-python", "pulumi-resource-pulumi-python")


def cache() -> Path:
    """The folder for what takes long to build and checkouts share: HOSTNET_CACHE, or one in the user's cache folder."""
    chosen = os.environ.get("HOSTNET_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hostnet"


def cached_bin() -> Path:
    """The folder for programs in the cache."""
    return cache() / "bin"


def _system_path() -> str:
    """PATH without the folders that `tool_path` adds, so that calling it twice gives the same result."""
    ours = {str(CLI_BIN), str(DEVHOST)}
    return os.pathsep.join(part for part in os.environ.get("PATH", os.defpath).split(os.pathsep) if part not in ours)


def system_program(name: str) -> str | None:
    """The path of a program that is installed on the machine, or None."""
    return shutil.which(name, path=_system_path())


def tool_path() -> str:
    """The PATH for `pulumi`: the machine's own, with the built CLI and the stand-ins if the machine lacks them."""
    if system_program("pulumi") is None:
        return os.pathsep.join((str(CLI_BIN), _system_path()))
    if missing_hosts():
        return os.pathsep.join((_system_path(), str(DEVHOST)))
    return _system_path()


def missing_hosts() -> list[str]:
    """The host programs that the machine lacks. The official ones may be beside `pulumi` and not on PATH."""
    pulumi = system_program("pulumi")
    beside = Path(pulumi).resolve().parent if pulumi else VENV
    return [name for name in HOST_PROGRAMS if system_program(name) is None and not (beside / name).exists()]


def tool_env() -> dict[str, str]:
    """The environment for `pulumi`: this process's, with `tool_path`."""
    return {**os.environ, "PATH": tool_path(), "PULUMI_SKIP_UPDATE_CHECK": "true"}
