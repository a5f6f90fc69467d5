"""Create, read, update and delete of any kind on any host: what a kind needs, asked of the host that it is on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hostnet.lifecycle.made import Made
from hostnet.lifecycle.stated import Stated, created, new_mark
from hostnet.lifecycle.turns import Turns
from hostnet.resources.schema.model import has_unknown
from hostnet.wire.errors import Code, HostnetError, OutcomeUnknownError
from hostnet.wire.objects import EXTERNAL_PLACEHOLDER
from hostnet.wire.urn import Urn

if TYPE_CHECKING:
    from hostnet.hosts.session import Session
    from hostnet.lifecycle.host_access import HostAccess
    from hostnet.lifecycle.log import EngineLog
    from hostnet.resources.schema.kind import Kind
    from hostnet.resources.schema.values import Difference, Inputs, Outputs
    from hostnet.wire.requests import Change, View


@dataclass(frozen=True)
class Subject:
    """The resource that a request is about."""

    kind: Kind[Any]
    urn: str
    id: str = ""

    def __str__(self) -> str:
        return f"{self.kind.name} {Urn.parse(self.urn).name}"


@dataclass(frozen=True)
class State:
    """What Pulumi's state has of a resource.

    Args:
        id: Its id.
        inputs: Those of the last update.
        outputs: Those of the last update or refresh.
        partial: The last run applied it in part.
    """

    id: str = ""
    inputs: Inputs = field(default_factory=dict)
    outputs: Outputs = field(default_factory=dict)
    partial: bool = False


class PartialError(Exception):
    """A change was applied in part, and rolling it back failed as well. The state has to keep what exists.

    Args:
        state: What exists on the host.
        reason: Why it is not all.
    """

    def __init__(self, state: State, reason: str) -> None:
        super().__init__(reason)
        self.state, self.reason = state, reason


class Operations:
    """What the engine's requests do, with values in and values out.

    Args:
        access: Leads to the hosts.
        log: Gets warnings.
    """

    def __init__(self, access: HostAccess, log: EngineLog) -> None:
        self._access, self._log = access, log
        self._stated, self._made, self._turns = Stated(access.place), Made(access.place), Turns()

    def begin(self) -> None:
        """Forget the last engine's state: a plugin that an engine attached to may serve another one."""
        self._stated.forget()
        self._made.forget()
        self._turns.forget()

    def declare(self, urn: str) -> None:
        """Take down that the program has a resource."""
        self._stated.declare(urn)

    def diff(self, subject: Subject, old: State, inputs: Inputs) -> Difference:
        """What an update has to do, from the state and from what this run has made of other resources.

        Raises:
            HostnetError: Another resource of this program is the same thing: it was imported twice. Or it stays as it
                is, and another one waits for what it has.
        """
        # The provider's own connection counts as given: to name the host that a resource is on anyway is no change.
        olds, news = self._access.filled(old.inputs), self._access.filled(inputs)
        found: Difference = subject.kind.diff(olds, old.outputs, news, self._made.beside(news))
        stays = not found.replaces
        first = self._stated.diffed(subject.urn, subject.kind.token, subject.id, old.inputs, old.outputs, stays=stays)
        if first != subject.urn:
            raise _imported_twice(subject, first)
        self._turns.named(subject.urn)
        if not found.detailed and not old.partial and self._stated.is_declared(subject.urn):
            self._turns.unchanged(subject.urn, subject.id)
        return found

    async def preview(self, subject: Subject, inputs: Inputs, old: State | None) -> Outputs:
        """The outputs of a create or an update, as far as they are known beforehand.

        Where every input is known, the host is asked whether the change would work, and the user warned if not.
        """
        change = None
        if self._access.connection(inputs) is not None:
            change = self._change(subject, inputs, old, dry=True)
        if change is not None:
            view = await self._access.preview(subject.urn, inputs, change, self._turns.take)
            if view is not None:
                self._turns.over(subject.urn, view.id)
        planned = self._planned(subject, inputs, old)
        self._take_down(subject, subject.id or _id(inputs), inputs, planned)
        return planned

    async def create(self, subject: Subject, inputs: Inputs) -> State:
        """Create it.

        Raises:
            HostnetError: Nothing was created.
            PartialError: A part of it stays.
        """
        return await self._apply(subject, inputs, None)

    async def update(self, subject: Subject, inputs: Inputs, old: State) -> State:
        """Update it. A change of credentials alone changes nothing on the host.

        Raises:
            HostnetError: It is as it was before.
            PartialError: It is neither as before nor as it should be.
        """
        self._stated.add(subject.urn, subject.id, old.inputs)
        self._stated.live(subject.urn, subject.kind.token, subject.id, old.inputs, old.outputs)
        if not old.partial and self._only_connection(subject, inputs, old):
            self._turns.over(subject.urn, subject.id)
            return State(subject.id, inputs, old.outputs)
        return await self._apply(subject, inputs, old)

    async def read(self, subject: Subject, old: State | None, at: Inputs) -> State | None:
        """What the host has; None where it is gone.

        Args:
            subject: The resource.
            old: The state; None for an import, of which the id alone is known.
            at: Inputs with the `connection`, if there is one.

        Raises:
            HostnetError: The host can't say. That is never taken for gone.
        """
        kind, urn = subject.kind, subject.urn
        if old is not None:
            self._stated.add(subject.urn, subject.id, old.inputs)
        query = kind.query(urn, subject.id, old.inputs if old else None, old.outputs if old else None)
        host = await self._access.host(urn, at)
        view = await self._access.read(urn, host, query)
        if view is None:
            return None
        self._tell(urn, view)
        inputs = kind.read_inputs(old.inputs if old else None, view)
        outputs = kind.outputs(urn, old.inputs if old else inputs, view) | created(old.outputs if old else {})
        return State(subject.id if old else view.id or subject.id, inputs, outputs)

    async def delete(self, subject: Subject, old: State) -> None:
        """Delete it; what is gone already is success, and so is what was created again under its id since.

        Raises:
            HostnetError: It may still be there.
        """
        newer = self._stated.newer(subject.urn, subject.kind.token, subject.id, old.inputs, old.outputs)
        if subject.urn in newer:
            return
        change = subject.kind.removal(subject.urn, subject.id, old.inputs, old.outputs)
        change = replace(change, heirs=newer)
        try:
            host = await self._access.host(subject.urn, old.inputs)
            view = await self._access.apply(subject.urn, host, change)
        except HostnetError as error:
            self._deleted_with_its_host(subject, error)
        else:
            self._stated.gone(subject.urn, subject.id)
            self._tell(subject.urn, view)

    async def _apply(self, subject: Subject, inputs: Inputs, old: State | None) -> State:
        change = self._change(subject, inputs, old, dry=False)
        if change is None:
            what = f"cannot {'update' if old else 'create'} {subject}"
            raise HostnetError(Code.INVALID, what, "the value of an input is not known")
        host = await self._access.host(subject.urn, inputs)
        try:
            view = await self._turns.take(change, lambda asked: self._access.apply(subject.urn, host, asked))
        except HostnetError as error:
            if error.code is not Code.PARTIAL and not isinstance(error, OutcomeUnknownError):
                raise
            remains = await self._remains(subject, inputs, old, host, change, error)
            if remains is None:
                raise
            raise PartialError(self._marked(subject, remains, old), str(error)) from error
        self._turns.over(subject.urn, view.id)
        self._tell(subject.urn, view)
        made = self._marked(subject, State(view.id, inputs, subject.kind.outputs(subject.urn, inputs, view)), old)
        self._take_down(subject, made.id, inputs, made.outputs)
        return made

    def _marked(self, subject: Subject, made: State, old: State | None) -> State:
        """The state of a create or an update, with the mark of the create that it is from."""
        outputs = {**made.outputs, **(created(old.outputs) if old else new_mark())}
        self._stated.live(subject.urn, subject.kind.token, made.id, made.inputs, outputs)
        return replace(made, outputs=outputs)

    def _take_down(self, subject: Subject, identifier: str, inputs: Inputs, outputs: Inputs) -> None:
        if subject.kind.derived_from:
            self._made.add(subject.kind.name, identifier, inputs, dict(outputs))

    def _change(self, subject: Subject, inputs: Inputs, old: State | None, *, dry: bool) -> Change | None:
        """The change of a create or an update; None while a value that it needs is unknown."""
        if old is None:
            stated = self._stated.ids(subject.urn, inputs)
            return subject.kind.change(subject.urn, inputs, dry=dry, stated=stated)
        past: dict[str, Any] = {"id": subject.id, "old_inputs": old.inputs, "old_outputs": old.outputs}
        return subject.kind.change(subject.urn, inputs, dry=dry, **past)

    async def _remains(
        self,
        subject: Subject,
        inputs: Inputs,
        old: State | None,
        host: Session,
        change: Change,
        error: HostnetError,
    ) -> State | None:
        """The state of a resource that was applied in part, or may have been: its id, and the outputs that are certain.

        None where nothing of a new resource remains, or no id of it is known: the next create takes that over or takes
        it away.
        """
        identifier, remains = change.id, error.code is Code.PARTIAL or old is not None
        if error.code is Code.UNREACHABLE:
            remains = remains or EXTERNAL_PLACEHOLDER not in identifier
        else:
            try:
                query = subject.kind.query(subject.urn, change.id, inputs, None)
                view = await self._access.read(subject.urn, host, query)
                identifier = view.id if view else identifier
                remains = remains or view is not None
            except HostnetError as failed:
                self._log.warn(subject.urn, f"cannot read {subject} after the failure: {failed}")
                remains = remains or EXTERNAL_PLACEHOLDER not in identifier
        if not remains:
            return None
        known = {name: value for name, value in self._planned(subject, inputs, old).items() if not has_unknown(value)}
        return State(subject.id or identifier, inputs, known, partial=True)

    def _deleted_with_its_host(self, subject: Subject, error: HostnetError) -> None:
        """Accept that the host is gone, where the user opted in to that."""
        if error.code is not Code.UNREACHABLE:
            raise error
        if not self._access.settings.delete_unreachable:
            hint = (
                "If this host no longer exists, set the provider's deleteUnreachable (or HOSTNET_DELETE_UNREACHABLE=1 "
                "in the environment), and the resource is removed from the state"
            )
            fix = f"{error.fix.rstrip('.')}. {hint}" if error.fix else hint
            raise HostnetError(error.code, error.what, error.why, fix, error.host) from error
        self._log.warn(subject.urn, f"removed from the state with its host (deleteUnreachable): {error}")

    def _tell(self, urn: str, view: View) -> None:
        for note in view.notes:
            self._log.info(urn, note)
        for warning in view.warnings:
            self._log.warn(urn, warning)

    def _planned(self, subject: Subject, inputs: Inputs, old: State | None) -> Outputs:
        """The outputs as far as they are known beforehand; those that there will not be are left out."""
        had, was = (old.outputs, old.inputs) if old else (None, None)
        planned = subject.kind.preview_outputs(subject.urn, inputs, had, was, self._made.beside(inputs))
        return {name: value for name, value in planned.items() if value is not None}

    def _only_connection(self, subject: Subject, inputs: Inputs, old: State) -> bool:
        """Whether an update changes nothing but how the host is reached."""
        if inputs.get("connection") == old.inputs.get("connection"):
            return False
        detailed = subject.kind.diff(old.inputs, old.outputs, inputs, self._made.beside(inputs)).detailed
        return bool(detailed) and all(path.split(".")[0] == "connection" for path in detailed)


def _imported_twice(subject: Subject, first: str) -> HostnetError:
    other = f"{subject.kind.name} {Urn.parse(first).name}"
    return HostnetError(
        Code.CONFLICT,
        f"{subject} is {subject.id}",
        f"that is {other} of this program too: it was imported twice, or both ask for it",
        f"If both ask for it, change one. Else remove one from the program, and run `pulumi state delete "
        f"'{subject.urn}'`: it changes nothing on the host",
    )


def _id(inputs: Inputs) -> str:
    """The id that a resource will have, by which others name it; "" while that is not known."""
    name = inputs.get("name")
    return name if isinstance(name, str) else ""
