"""`python -m hostnet.rpc [flags] [engine's address]`: the plugin `pulumi-resource-hostnet`."""

from __future__ import annotations

import asyncio
import sys

from hostnet.rpc.server import serve

# Flags of the engine that have their value in the next argument. None of them matters: this process logs to the engine.
_WITH_VALUE = frozenset({"--tracing", "-tracing"})


def engine_address(arguments: list[str]) -> str | None:
    """The one argument that is not a flag, if there is one."""
    found = None
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in _WITH_VALUE:
            skip = True
        elif not argument.startswith("-"):
            found = argument
    return found


def main() -> None:
    """Run the plugin."""
    asyncio.run(serve(engine_address(sys.argv[1:])))


if __name__ == "__main__":
    main()
