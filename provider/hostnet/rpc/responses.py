"""The parts of an answer that need no host: differences, malformed values, the schema."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING

from hostnet.lifecycle.paths import Path, parse_path
from hostnet.resources.schema.values import Difference
from hostnet.rpc.protos import provider_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hostnet.rpc.codec import MalformedError

_KINDS = {
    "add": provider_pb2.PropertyDiff.ADD,
    "add-replace": provider_pb2.PropertyDiff.ADD_REPLACE,
    "delete": provider_pb2.PropertyDiff.DELETE,
    "delete-replace": provider_pb2.PropertyDiff.DELETE_REPLACE,
    "update": provider_pb2.PropertyDiff.UPDATE,
    "update-replace": provider_pb2.PropertyDiff.UPDATE_REPLACE,
}


def malformed(error: MalformedError) -> provider_pb2.CheckFailure:
    """A value that can't even be decoded, as a check failure."""
    # Without `property`: the engine (3.259) prints that one's value as well, secrets included.
    return provider_pb2.CheckFailure(reason=f"{error.what}: {error.why}")


def difference(found: Difference, ignored: Iterable[str]) -> provider_pb2.DiffResponse:
    """A diff as the engine takes it, without what the program ignores (`ignoreChanges`)."""
    patterns = [parse_path(path) for path in ignored]
    kept = {path: how for path, how in found.detailed.items() if not _covered(parse_path(path), patterns)}
    replaces = Difference(kept).replaces
    detailed = {
        path: provider_pb2.PropertyDiff(kind=_KINDS[how], inputDiff=path not in found.output_paths)
        for path, how in kept.items()
    }
    return provider_pb2.DiffResponse(
        changes=provider_pb2.DiffResponse.DIFF_SOME if kept else provider_pb2.DiffResponse.DIFF_NONE,
        diffs=list(dict.fromkeys(str(parse_path(path)[0]) for path in kept if path)),
        replaces=replaces,
        detailedDiff=detailed,
        hasDetailedDiff=True,
        deleteBeforeReplace=bool(replaces) and found.delete_before_replace,
    )


@functools.cache
def schema_text() -> str:
    """The package's schema as JSON."""
    from hostnet.resources.package_schema import package_schema  # noqa: PLC0415 - for `pulumi package` alone

    return json.dumps(package_schema())


def _covered(path: Path, patterns: list[Path]) -> bool:
    """Whether a path is one of these or below one."""
    return any(
        len(pattern) <= len(path) and all(want in ("*", part) for want, part in zip(pattern, path, strict=False))
        for pattern in patterns
    )
