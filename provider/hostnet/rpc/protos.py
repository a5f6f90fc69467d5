"""Pulumi's generated protocol modules, without the rest of the `pulumi` package.

`import pulumi` takes 377 to 500 ms, these modules alone 137 to 163 (docs/architecture.md), and `pulumi.runtime.proto`'s
own `__init__` imports every protocol that Pulumi has. So empty packages stand in for the three packages while the
generated modules are imported, and are removed again: a later `import pulumi` in the same interpreter is the real one,
and finds the generated modules loaded.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROTO = "pulumi.runtime.proto"
_PACKAGES = ("pulumi", "pulumi.runtime", _PROTO)


def load(name: str) -> ModuleType:
    """A module of `pulumi.runtime.proto`, by its last name.

    Args:
        name: `provider_pb2`, `engine_pb2_grpc`, …

    Raises:
        ModuleNotFoundError: Pulumi's Python SDK is not installed.
    """
    full = f"{_PROTO}.{name}"
    if full in sys.modules:
        return sys.modules[full]
    if "pulumi" in sys.modules:
        return importlib.import_module(full)
    with _stand_ins():
        return importlib.import_module(full)


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Packages that have the real ones' path and run none of their code."""
    spec = importlib.util.find_spec("pulumi")
    if spec is None or spec.origin is None:
        msg = "Pulumi's Python SDK (the distribution `pulumi`) is not installed beside hostnet"
        raise ModuleNotFoundError(msg, name="pulumi")
    root = Path(spec.origin).parent
    added = [name for name in _PACKAGES if name not in sys.modules]
    for name in added:
        stand_in = ModuleType(name)
        stand_in.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = stand_in
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


if TYPE_CHECKING:
    from pulumi.runtime.proto import (
        engine_pb2,
        engine_pb2_grpc,
        plugin_pb2,
        provider_pb2,
        provider_pb2_grpc,
    )
else:
    plugin_pb2 = load("plugin_pb2")
    provider_pb2 = load("provider_pb2")
    provider_pb2_grpc = load("provider_pb2_grpc")
    engine_pb2 = load("engine_pb2")
    engine_pb2_grpc = load("engine_pb2_grpc")

__all__ = ["engine_pb2", "engine_pb2_grpc", "load", "plugin_pb2", "provider_pb2", "provider_pb2_grpc"]
