"""A kind of resource: its declaration, what follows from it, and the hooks that each kind fills in. Pure."""

# ruff: noqa: A002 (an id is what Pulumi calls it)

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from hostnet.resources.schema.connection import ELSEWHERE, compare_connections
from hostnet.resources.schema.fields import switched_on
from hostnet.resources.schema.model import (
    Changes,
    Declared,
    Record,
    Report,
    has_unknown,
)
from hostnet.resources.schema.values import Autoname, Checked, Difference, Inputs, Look, Outputs, Value, nothing
from hostnet.wire.family import FAMILIES, Family
from hostnet.wire.objects import Forwarding, ForwardingState, Object
from hostnet.wire.requests import Change, Query, View

In = TypeVar("In", bound=Declared)


@dataclass(frozen=True)
class Past:
    """What Pulumi's state has of a resource: its former inputs and outputs."""

    inputs: Inputs = field(default_factory=dict)
    outputs: Inputs = field(default_factory=dict)


class Kind(Generic[In]):
    """A kind of resource; `hostnet.resources.KINDS` has all four by token.

    Attributes:
        name: Such as "Bridge".
        token: Such as "hostnet:index:Bridge".
        doc: What it is; Markdown, full sentences.
        inputs: The declarations of the inputs.
        results: The declarations of the outputs.
        derived_from: Whether other resources derive values from its outputs.
    """

    name: str
    token: str
    doc: str
    inputs: Record[In]
    results: Record[Any]
    derived_from: bool = False

    @property
    def properties(self) -> Collection[str]:
        """The names of the inputs."""
        return self.inputs.properties

    def check(self, inputs: Inputs, olds: Inputs | None, autoname: Autoname) -> Checked:
        """Add an autoname to the inputs, and report all failures at once. An unknown passes in every position."""
        report = Report()
        kept = dict(inputs)
        self.fill_name(kept, olds or {}, autoname, report)
        self.inputs.check(kept, "", report)
        return Checked(kept, tuple(report.failures))

    def diff(self, old_inputs: Inputs, old_outputs: Inputs, inputs: Inputs, look: Look = nothing) -> Difference:
        """What an update changes, by meaning.

        Drift of what no input shows comes from `old_outputs`, and what has to be derived again from `look`.
        """
        changes = compare_connections(old_inputs.get("connection"), inputs.get("connection"))
        for name in self.inputs.properties:
            if name != "connection":
                self.inputs.compare_property(name, old_inputs, inputs, "", changes)
        self.refine(old_inputs, old_outputs, inputs, changes)
        drift = self._forwarding_drift(old_inputs, old_outputs, inputs)
        drift |= self.derive_again(old_outputs, inputs, look)
        drift = {path: how for path, how in drift.items() if path not in changes}
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
        stated: tuple[str, ...] = (),
    ) -> Change | None:
        """What to ask the host for: a create (no `id`) or an update. None while an input is unknown (a preview)."""
        if has_unknown(inputs):
            return None
        now = self.inputs.typed(inputs)
        past = Past(old_inputs or {}, old_outputs or {})
        own = id or self.make_id(urn, now)
        prior: tuple[Object, ...] = ()
        if old_inputs is not None:
            prior = self.desired(urn, own, self.inputs.typed_beside(old_inputs, inputs, now), past)
        return Change(urn, own, self.desired(urn, own, now, past), prior, known=bool(id), dry=dry, stated=stated)

    def removal(self, urn: str, id: str, old_inputs: Inputs, old_outputs: Inputs) -> Change:
        """What to ask the host for so that the resource is deleted."""
        prior = self.desired(urn, id, self.inputs.typed(old_inputs), Past(old_inputs, old_outputs))
        return Change(urn, id, (), prior, known=True)

    def query(self, urn: str, id: str, inputs: Inputs | None, outputs: Inputs | None) -> Query:
        """What to read on the host. Without `inputs` it is an import."""
        if inputs is None:
            return Query(urn, id, self.name)
        objects = self.desired(urn, id, self.inputs.typed(inputs), Past(inputs, outputs or {}))
        return Query(urn, id, self.name, objects)

    def read_inputs(self, inputs: Inputs | None, view: View) -> dict[str, Value]:
        """The inputs that describe what the host has.

        A value keeps its spelling while the host's means the same; drift has the host's value. An import (`inputs`
        None) has only what is not default.
        """
        declared = dict(inputs) if inputs is not None else self.recorded(view)
        self.settle(declared, view)
        return declared

    # Each kind fills in these.

    def fill_name(self, kept: dict[str, Value], olds: Inputs, autoname: Autoname, report: Report) -> None:
        """Add an autoname to the inputs, if the kind has names."""

    def refine(self, old_inputs: Inputs, old_outputs: Inputs, inputs: Inputs, changes: Changes) -> None:
        """Correct what a comparison of one property at a time can't know."""

    def derive_again(self, old_outputs: Inputs, inputs: Inputs, look: Look) -> Changes:
        """The outputs that do not follow any more from what this run has made of other resources."""
        del old_outputs, inputs, look
        return {}

    def needs(self, inputs: Inputs) -> set[Family]:
        """The families whose forwarding the resource needs."""
        return switched_on((about, inputs.get(name)) for name, about in self.inputs.properties.items())

    def make_id(self, urn: str, inputs: In) -> str:
        """The id of a new resource. It may contain `EXTERNAL_PLACEHOLDER`."""
        raise NotImplementedError

    def desired(self, urn: str, id: str, inputs: In, past: Past) -> tuple[Object, ...]:
        """The objects that the host should have."""
        raise NotImplementedError

    def recorded(self, view: View) -> dict[str, Value]:
        """The inputs that describe the recorded objects (import)."""
        raise NotImplementedError

    def settle(self, declared: dict[str, Value], view: View) -> None:
        """Replace each declared value that the kernel has otherwise by the kernel's."""
        raise NotImplementedError

    def outputs(self, urn: str, inputs: Inputs, view: View) -> Outputs:
        """The outputs, from the answer of a host. What does not exist (`gateway6` of an IPv4 bridge) is left out."""
        raise NotImplementedError

    def preview_outputs(
        self,
        urn: str,
        inputs: Inputs,
        old_outputs: Inputs | None,
        old_inputs: Inputs | None = None,
        look: Look = nothing,
    ) -> Outputs:
        """All outputs: `UNKNOWN`, at the leaf, if only the host knows the value; None if there will be none.

        An update gives both olds. An output that the update does not touch then stays known, and a preview does not
        announce a replacement of what depends on it.
        """
        raise NotImplementedError

    # All kinds share these.

    def unchanged(self, old_inputs: Inputs | None, inputs: Inputs, *names: str) -> bool:
        """Whether an update leaves these properties unchanged."""
        if old_inputs is None:
            return False
        changes: Changes = {}
        for name in names:
            self.inputs.compare_property(name, old_inputs, inputs, "", changes)
        return not changes

    def forwarding(self, inputs: Inputs, view: View) -> dict[str, bool]:
        """The `forwarding` output: whether the resource needs a family and the kernel forwards it."""
        needed = self.needs(inputs)
        on = {
            each.family
            for each, seen in view.pairs()
            if isinstance(each, Forwarding) and seen == ForwardingState(enabled=True)
        }
        return {family: family in needed and family in on for family in FAMILIES}

    def _forwarding_drift(self, old_inputs: Inputs, old_outputs: Inputs, inputs: Inputs) -> Changes:
        """The switches that the resource needed before and still needs, and that are off."""
        sysctls = old_outputs.get("forwarding")
        if not isinstance(sysctls, Mapping) or not self.needs(inputs):
            return {}
        lasting = self.needs(old_inputs) & self.needs(inputs)
        off = [family for family in FAMILIES if family in lasting and not sysctls.get(family)]
        return {f"forwarding.{family}": "update" for family in off}
