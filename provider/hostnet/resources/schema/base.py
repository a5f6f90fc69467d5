"""What all kinds share: names, ids, derived MAC addresses, the diff of `connection`, drift of forwarding sysctls."""

# ruff: noqa: A002 (an id is what Pulumi calls it)

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from hostnet.resources.schema.connection import ELSEWHERE, compare_connections
from hostnet.resources.schema.fields import switched_on
from hostnet.resources.schema.kind import Autoname, Checked, Difference, Inputs, Outputs, Value
from hostnet.resources.schema.model import (
    BadValueError,
    Changes,
    Declared,
    Record,
    Report,
    has_unknown,
)
from hostnet.resources.schema.types import NAME_MAX, InterfaceName
from hostnet.wire.family import FAMILIES, Family
from hostnet.wire.objects import Forwarding, ForwardingState, Object
from hostnet.wire.requests import Change, Query, View

SUFFIX = 7  # hexadecimal digits of an autoname, as many as Pulumi's own

In = TypeVar("In", bound=Declared)


@dataclass(frozen=True)
class Past:
    """What the state knows of a resource: what was declared, and what came of it."""

    inputs: Inputs = field(default_factory=dict)
    outputs: Inputs = field(default_factory=dict)


class Resource(Generic[In]):
    """A kind: the declaration is in `inputs` and `results`, the behaviour in the hooks that subclasses fill in."""

    name: str
    token: str
    doc: str
    example: str
    inputs: Record[In]
    results: Record[Any]

    @property
    def properties(self) -> Collection[str]:
        """See `Kind`."""
        return self.inputs.properties

    def check(self, inputs: Inputs, olds: Inputs | None, autoname: Autoname) -> Checked:
        """See `Kind`."""
        report = Report()
        kept = dict(inputs)
        self.fill_name(kept, olds or {}, autoname, report)
        self.inputs.check(kept, "", report)
        return Checked(kept, tuple(report.failures))

    def diff(self, old_inputs: Inputs, old_outputs: Inputs, inputs: Inputs) -> Difference:
        """See `Kind`."""
        changes = compare_connections(old_inputs.get("connection"), inputs.get("connection"))
        for name in self.inputs.properties:
            if name != "connection":
                self.inputs.compare_property(name, old_inputs, inputs, "", changes)
        self.refine(old_inputs, old_outputs, inputs, changes)
        drift = self._forwarding_drift(old_inputs, old_outputs, inputs)
        replacing = {path for path, how in changes.items() if how.endswith("-replace")}
        return Difference(
            changes | drift, frozenset(drift), delete_before_replace=bool(replacing) and not replacing & ELSEWHERE
        )

    def change(
        self,
        urn: str,
        inputs: Inputs,
        *,
        id: str = "",
        old_inputs: Inputs | None = None,
        old_outputs: Inputs | None = None,
        dry: bool = False,
    ) -> Change | None:
        """See `Kind`."""
        if has_unknown(inputs):
            return None
        now = self.inputs.typed(inputs)
        past = Past(old_inputs or {}, old_outputs or {})
        own = id or self.make_id(urn, now)
        prior: tuple[Object, ...] = ()
        if old_inputs is not None:
            prior = self.desired(urn, own, self.inputs.typed(old_inputs), past)
        return Change(urn, own, self.desired(urn, own, now, past), prior, known=bool(id), dry=dry)

    def removal(self, urn: str, id: str, old_inputs: Inputs, old_outputs: Inputs) -> Change:
        """See `Kind`."""
        prior = self.desired(urn, id, self.inputs.typed(old_inputs), Past(old_inputs, old_outputs))
        return Change(urn, id, (), prior, known=True)

    def query(self, urn: str, id: str, inputs: Inputs | None, outputs: Inputs | None) -> Query:
        """See `Kind`."""
        if inputs is None:
            return Query(urn, id, self.name)
        objects = self.desired(urn, id, self.inputs.typed(inputs), Past(inputs, outputs or {}))
        return Query(urn, id, self.name, objects)

    def read_inputs(self, inputs: Inputs | None, view: View) -> dict[str, Value]:
        """See `Kind`."""
        declared = dict(inputs) if inputs is not None else self.recorded(view)
        self.settle(declared, view)
        return declared

    # What a kind fills in.

    def fill_name(self, kept: dict[str, Value], olds: Inputs, autoname: Autoname, report: Report) -> None:
        """Add an autoname to the inputs, where the kind has one."""

    def refine(self, old_inputs: Inputs, old_outputs: Inputs, inputs: Inputs, changes: Changes) -> None:
        """Change what the comparison of properties one by one can't judge."""

    def needs(self, inputs: Inputs) -> set[Family]:
        """The families whose forwarding switch the resource needs."""
        return switched_on((about, inputs.get(name)) for name, about in self.inputs.properties.items())

    def make_id(self, urn: str, inputs: In) -> str:
        """The id of a new resource; may hold `EXTERNAL_PLACEHOLDER`."""
        raise NotImplementedError

    def desired(self, urn: str, id: str, inputs: In, past: Past) -> tuple[Object, ...]:
        """What the host should have."""
        raise NotImplementedError

    def recorded(self, view: View) -> dict[str, Value]:
        """The inputs that describe what hostnet's record of a host says (import)."""
        raise NotImplementedError

    def settle(self, declared: dict[str, Value], view: View) -> None:
        """Put what the kernel has in place of what it has otherwise than declared."""
        raise NotImplementedError

    def outputs(self, urn: str, inputs: Inputs, view: View) -> Outputs:
        """See `Kind`."""
        raise NotImplementedError

    def preview_outputs(
        self, urn: str, inputs: Inputs, old_outputs: Inputs | None, old_inputs: Inputs | None = None
    ) -> Outputs:
        """See `Kind`."""
        raise NotImplementedError

    # What kinds share.

    def unchanged(self, old_inputs: Inputs | None, inputs: Inputs, *names: str) -> bool:
        """Whether an update leaves these properties as they are."""
        if old_inputs is None:
            return False
        changes: Changes = {}
        for name in names:
            self.inputs.compare_property(name, old_inputs, inputs, "", changes)
        return not changes

    def forwarding(self, inputs: Inputs, view: View) -> dict[str, bool]:
        """The `forwarding` output: on, for a family that the resource needs and whose switch is on."""
        needed, states = self.needs(inputs), view.states()
        on = {each for each in FAMILIES if states.get(Forwarding(each).key) == ForwardingState(enabled=True)}
        return {family: family in needed and family in on for family in FAMILIES}

    def _forwarding_drift(self, old_inputs: Inputs, old_outputs: Inputs, inputs: Inputs) -> Changes:
        """A switch that the resource needed before and needs still, and that somebody turned off."""
        sysctls = old_outputs.get("forwarding")
        if not isinstance(sysctls, Mapping) or not self.needs(inputs):
            return {}
        lasting = self.needs(old_inputs) & self.needs(inputs)
        off = [family for family in FAMILIES if family in lasting and not sysctls.get(family)]
        return {f"forwarding.{family}": "update" for family in off}


def digest(*parts: str | bytes) -> bytes:
    """A hash of the parts, each apart from the next."""
    out = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode(errors="surrogatepass")
        out.update(len(data).to_bytes(4, "big") + data)
    return out.digest()


def derived_mac(first: int, *parts: str) -> str:
    """A MAC address that is always the same for the same parts: locally administered, unicast."""
    return ":".join(f"{byte:02x}" for byte in (first, *digest(*parts)[:5]))


def sanitised(name: str, fallback: str) -> str:
    """A name out of `[a-z0-9-]`, without a hyphen at either end."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or fallback


def autonamed(autoname: Autoname, fallback: str) -> str:
    """A name for an interface: at most 15 bytes, with a suffix that keeps it apart from others.

    Raises:
        BadValueError: where the user's own configuration of autonaming gives none that fits.
    """
    if autoname.mode == "disable":
        raise BadValueError("given: autonaming is switched off")
    if autoname.proposed and autoname.mode in {"enforce", "propose"}:
        return _proposed(autoname.proposed, enforce=autoname.mode == "enforce", fallback=fallback)
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
    """Add `name`: the one it has, else a new one."""
    if kept.get("name") is not None:
        return
    if isinstance(olds.get("name"), str):
        kept["name"] = olds["name"]
        return
    try:
        kept["name"] = autonamed(autoname, fallback)
    except BadValueError as bad:
        report.fail("name", f"must be {bad}")
