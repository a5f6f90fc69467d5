"""Names, ids and MAC addresses that are derived from a resource's name or URN."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from hostnet.resources.schema.model import BadValueError, Report
from hostnet.resources.schema.types import NAME_MAX, InterfaceName

if TYPE_CHECKING:
    from hostnet.resources.schema.values import Autoname, Inputs, Value

SUFFIX = 7  # hexadecimal digits of an autoname, as many as Pulumi's own


def digest(*parts: str | bytes) -> bytes:
    """A hash of the parts. Each has its length before it, so that ("ab", "c") and ("a", "bc") differ."""
    out = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode(errors="surrogatepass")
        out.update(len(data).to_bytes(4, "big") + data)
    return out.digest()


def derived_mac(first: int, *parts: str) -> str:
    """A locally administered unicast MAC address, always the same for the same parts."""
    return ":".join(f"{byte:02x}" for byte in (first, *digest(*parts)[:5]))


def sanitised(name: str, fallback: str) -> str:
    """The name in characters of `[a-z0-9-]`, without a hyphen at either end."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or fallback


def autonamed(autoname: Autoname, fallback: str) -> str:
    """A name for an interface: at most 15 bytes, with a suffix that makes it unique.

    Raises:
        BadValueError: Autonaming is off, or its configuration gives a name that does not fit.
    """
    if autoname.mode == "disable":
        raise BadValueError("given: autonaming is switched off")
    if autoname.proposed and autoname.mode in {"enforce", "propose"}:
        return _proposed(autoname.proposed, enforce=autoname.mode == "enforce", fallback=fallback)
    # The engine (3.259) draws another seed for each check of a resource that its state does not have: one that was
    # created, and whose answer never came, has another name the next time.
    return _cut(
        sanitised(autoname.urn_name, fallback), autoname.random_seed + autoname.urn_name.encode(errors="surrogatepass")
    )


def _proposed(name: str, *, enforce: bool, fallback: str) -> str:
    try:
        return str(InterfaceName(ours=True).parse(name))
    except BadValueError as bad:
        if enforce:
            raise BadValueError(f"{bad}; autonaming is configured to give {name[:60]!r}") from None
        return _cut(sanitised(name, fallback), name.encode(errors="surrogatepass"))


def _cut(name: str, seed: bytes) -> str:
    stem = name[: NAME_MAX - SUFFIX - 1].rstrip("-")
    return f"{stem}-{digest(seed).hex()[:SUFFIX]}"


def fill_interface_name(
    kept: dict[str, Value], olds: Inputs, autoname: Autoname, report: Report, fallback: str
) -> None:
    """Add `name`: the resource's present name, or a new one."""
    if kept.get("name") is not None:
        return
    # For a replacement the engine (3.259) checks again without olds: it gets another name.
    if isinstance(olds.get("name"), str):
        kept["name"] = olds["name"]
        return
    try:
        kept["name"] = autonamed(autoname, fallback)
    except BadValueError as bad:
        report.fail("name", f"must be {bad}")
