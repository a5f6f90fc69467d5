"""Subsystems of answers that need no host: check failures, differences, the schema."""

from __future__ import annotations

import functools
import json
import re
from typing import TYPE_CHECKING

from hostnet.resources.schema.kind import Difference, Failure
from hostnet.rpc.codec import MalformedError, Path, path_text
from hostnet.rpc.protos import provider_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hostnet.lifecycle.redaction import Redactor
    from hostnet.rpc.codec import Decoded

_KINDS = {
    "add": provider_pb2.PropertyDiff.ADD,
    "add-replace": provider_pb2.PropertyDiff.ADD_REPLACE,
    "delete": provider_pb2.PropertyDiff.DELETE,
    "delete-replace": provider_pb2.PropertyDiff.DELETE_REPLACE,
    "update": provider_pb2.PropertyDiff.UPDATE,
    "update-replace": provider_pb2.PropertyDiff.UPDATE_REPLACE,
}

# Pulumi's property paths: name, .name, [0], ["name with dots"], and * for any.
_PART = re.compile(r'\["((?:[^"\\]|\\.)*)"\]|\[(\d+|\*)\]|([^.\[\]]+)')


def failures(found: Iterable[Failure], given: Decoded, redact: Redactor) -> list[provider_pb2.CheckFailure]:
    """Check failures as the engine prints them.

    It prints the value of `property` beside the reason, secret or not, so the property of a failure that may be
    about a secret stays empty and its path goes into the reason.
    """
    hidden = {str(path[0]) for path in given.secrets} | {"connection"}
    out = []
    for failure in found:
        parts = parse_path(failure.path)
        if parts and str(parts[0]) in hidden:
            reason = redact(f"{failure.path}: {failure.reason}")
            out.append(provider_pb2.CheckFailure(property="", reason=reason))
        else:
            out.append(provider_pb2.CheckFailure(property=redact(failure.path), reason=redact(failure.reason)))
    return out


def malformed(error: MalformedError) -> provider_pb2.CheckFailure:
    """A value that can't even be decoded, as a check failure."""
    return provider_pb2.CheckFailure(reason=f"{path_text(error.path)}: {error.reason}")


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


def parse_path(text: str) -> Path:
    """A Pulumi property path as its parts; indices as int."""
    parts: list[str | int] = []
    for quoted, index, name in _PART.findall(text):
        if index.isdecimal():
            parts.append(int(index))
        else:
            parts.append(quoted or index or name)
    return tuple(parts)


def _covered(path: Path, patterns: list[Path]) -> bool:
    """Whether a path is one of these or below one."""
    return any(
        len(pattern) <= len(path) and all(want in ("*", part) for want, part in zip(pattern, path, strict=False))
        for pattern in patterns
    )
