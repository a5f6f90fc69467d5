"""Create, read, update and delete of any kind on any host: what a kind wants, asked of the host that it is on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hostnet.resources.schema.model import has_unknown
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.urn import Urn

if TYPE_CHECKING:
    from hostnet.lifecycle.host_access import HostAccess
    from hostnet.lifecycle.log import EngineLog
    from hostnet.resources.schema.kind import Inputs, Kind, Outputs
    from hostnet.wire.requests import Change, Host


@dataclass(frozen=True)
class Subject:
    """The resource that a request is about."""

    kind: Kind
    urn: str
    id: str = ""


@dataclass(frozen=True)
class State:
    """What Pulumi knows of a resource.

    :param partial: the last run left it half-way.
    """

    id: str = ""
    inputs: Inputs = field(default_factory=dict)
    outputs: Outputs = field(default_factory=dict)
    partial: bool = False


class PartialError(Exception):
    """Applied in part, and undoing it failed as well. The state has to keep what there is."""

    def __init__(self, state: State, reason: str) -> None:
        """Keep what there is, and why it is not all."""
        super().__init__(reason)
        self.state, self.reason = state, reason


class Operations:
    """What the engine's requests do, with values in and values out."""

    def __init__(self, access: HostAccess, log: EngineLog) -> None:
        """Work on the hosts that `reach` leads to; warn through `log`."""
        self._access, self._log = access, log

    async def preview(self, subject: Subject, inputs: Inputs, old: State | None) -> Outputs:
        """What a create or update would give. Where all is known, the host is asked whether it would work."""
        change = None
        if self._access.connection(inputs) is not None:
            change = _wish(subject, inputs, old, dry=True)
        if change is not None:
            await self._access.try_out(subject.urn, inputs, change)
        return _planned(subject, inputs, old)

    async def create(self, subject: Subject, inputs: Inputs) -> State:
        """Make it.

        :raises HostnetError: where nothing of it was made.
        :raises PartialError: where a part of it stays.
        """
        return await self._apply(subject, inputs, None)

    async def update(self, subject: Subject, inputs: Inputs, old: State) -> State:
        """Change it. A new way to the same host is nothing to do on that host.

        :raises HostnetError: where it is as it was before.
        :raises PartialError: where it is neither.
        """
        if not old.partial and _only_connection(subject, inputs, old):
            return State(subject.id, inputs, old.outputs)
        return await self._apply(subject, inputs, old)

    async def read(self, subject: Subject, old: State | None, at: Inputs) -> State | None:
        """What the host has; None where it is gone. Without `old`, an import: the id is all there is.

        :param at: has the `connection`, if there is one.
        :raises HostnetError: where the host can't say; never taken for gone.
        """
        kind, urn = subject.kind, subject.urn
        query = kind.query(urn, subject.id, old.inputs if old else None, old.outputs if old else None)
        host = await self._access.host(urn, at)
        view = await self._access.read(urn, host, query)
        if view is None:
            return None
        self._warn(urn, view.warnings)
        inputs = kind.read_inputs(old.inputs if old else None, view)
        outputs = kind.outputs(urn, old.inputs if old else inputs, view)
        return State(subject.id if old else view.id or subject.id, inputs, outputs)

    async def delete(self, subject: Subject, old: State) -> None:
        """Take it away; what is gone already is success.

        :raises HostnetError: where it may still be there.
        """
        change = subject.kind.removal(subject.urn, subject.id, old.inputs, old.outputs)
        try:
            host = await self._access.host(subject.urn, old.inputs)
            view = await self._access.apply(subject.urn, host, change)
        except HostnetError as error:
            self._deleted_with_its_host(subject, error)
        else:
            self._warn(subject.urn, view.warnings)

    async def _apply(self, subject: Subject, inputs: Inputs, old: State | None) -> State:
        change = _wish(subject, inputs, old, dry=False)
        if change is None:
            what = f"{'update' if old else 'create'} {subject.kind.name} {Urn.parse(subject.urn).name}"
            raise HostnetError(Code.INVALID, what, "an input that is needed is not known")
        host = await self._access.host(subject.urn, inputs)
        try:
            view = await self._access.apply(subject.urn, host, change)
        except HostnetError as error:
            if error.code is not Code.PARTIAL:
                raise
            raise PartialError(await self._remains(subject, inputs, old, host, change), str(error)) from error
        self._warn(subject.urn, view.warnings)
        return State(view.id, inputs, subject.kind.outputs(subject.urn, inputs, view))

    async def _remains(self, subject: Subject, inputs: Inputs, old: State | None, host: Host, change: Change) -> State:
        """The state of a resource that is there in part: its id, and the outputs that are certain."""
        identifier = change.id
        try:
            query = subject.kind.query(subject.urn, change.id, inputs, None)
            view = await self._access.read(subject.urn, host, query)
            identifier = view.id if view else identifier
        except HostnetError as error:
            self._log.warn(subject.urn, f"after the failure, the host could not be read either: {error}")
        known = {name: value for name, value in _planned(subject, inputs, old).items() if not has_unknown(value)}
        return State(subject.id or identifier, inputs, known, partial=True)

    def _deleted_with_its_host(self, subject: Subject, error: HostnetError) -> None:
        """Accept that the host is gone, where the user opted in to it."""
        if error.code is not Code.UNREACHABLE:
            raise error
        if not self._access.settings.delete_unreachable:
            hint = (
                "If that host is gone for good, set the provider's deleteUnreachable (or HOSTNET_DELETE_UNREACHABLE=1 "
                "in the environment) to delete what was on it from the state"
            )
            fix = f"{error.fix.rstrip('.')}. {hint}" if error.fix else hint
            raise HostnetError(error.code, error.what, error.why, fix, error.host) from error
        self._log.warn(subject.urn, f"taken as deleted with its host (deleteUnreachable): {error}")

    def _warn(self, urn: str, warnings: tuple[str, ...]) -> None:
        for warning in warnings:
            self._log.warn(urn, warning)


def _wish(subject: Subject, inputs: Inputs, old: State | None, *, dry: bool) -> Change | None:
    """The kind's wish for a create or an update."""
    past: dict[str, Any] = {}
    if old is not None:
        past = {"id": subject.id, "old_inputs": old.inputs, "old_outputs": old.outputs}
    return subject.kind.change(subject.urn, inputs, dry=dry, **past)


def _planned(subject: Subject, inputs: Inputs, old: State | None) -> Outputs:
    """The outputs as far as they are known beforehand; what there will not be is left out."""
    past = (old.outputs, old.inputs) if old else (None, None)
    planned = subject.kind.preview_outputs(subject.urn, inputs, *past)
    return {name: value for name, value in planned.items() if value is not None}


def _only_connection(subject: Subject, inputs: Inputs, old: State) -> bool:
    """Whether an update is about the way to the host alone."""
    detailed = subject.kind.diff(old.inputs, old.outputs, inputs).detailed
    return bool(detailed) and all(path.split(".")[0] == "connection" for path in detailed)
