"""An engine in small: it applies programs of resources through `lifecycle`, as Pulumi would, against a dict.

A program maps a resource's name to its kind and inputs, dependencies first:

    {"net": ("Bridge", {"addresses": ["10.0.0.1/24"]}),
     "web": ("PortForward", {"natGateway": "${nat.id}", "sourcePort": 80, "destination": "10.0.0.11"})}

`${name.output}` (also `.id`, and `[0]` and dots into values) stands for another resource's output. Independent
resources are created and deleted at the same time, as the engine does it. Each `up`, refresh and import is a run of its
own: what `lifecycle` knows of a run ends with it.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hostnet.hosts.connection import Connection, Settings
from hostnet.lifecycle.crud import Operations, PartialError, State, Subject
from hostnet.lifecycle.host_access import HostAccess
from hostnet.lifecycle.log import EngineLog, Line
from hostnet.resources.schema.kind import Kind
from hostnet.resources.schema.values import UNKNOWN, Autoname, Failure
from hostnet.wire.errors import Code, HostnetError

from tests.lab.namespaces import temporary_directory

if TYPE_CHECKING:
    from hostnet.hosts.session import Session

T = TypeVar("T")
Inputs = dict[str, Any]
Program = Mapping[str, tuple[str, Inputs]]
_REFERENCE = re.compile(r"\$\{(?P<name>[\w-]+)\.(?P<path>[\w.\[\]]+)\}")


class CheckError(Exception):
    """Inputs that a kind refuses."""

    def __init__(self, name: str, failures: tuple[Failure, ...]) -> None:
        """What is wrong with which resource."""
        super().__init__("; ".join(f"{name}.{one.path}: {one.reason}" for one in failures))
        self.failures = failures


@dataclass(frozen=True)
class Resource:
    """A resource as the state knows it."""

    kind: Kind[Any]
    urn: str
    id: str
    inputs: Inputs
    outputs: Inputs
    needs: frozenset[str] = frozenset()
    partial: bool = False  # a change of it was applied in part

    @property
    def subject(self) -> Subject:
        """It, as `lifecycle` names it."""
        return Subject(self.kind, self.urn, self.id)

    @property
    def stated(self) -> State:
        """What the state has of it, as `lifecycle` takes it."""
        return State(self.id, self.inputs, self.outputs, self.partial)

    def become(self, made: State) -> Resource:
        """It, after a create, an update or a read."""
        inputs, outputs = dict(made.inputs), dict(made.outputs)
        return replace(self, id=made.id, inputs=inputs, outputs=outputs, partial=made.partial)

    def at(self, path: str) -> Any:
        """An output by its path; `id` is the id."""
        value: Any = {**self.outputs, "id": self.id}
        for key in re.findall(r"\w+", path):
            value = value[int(key)] if isinstance(value, list | tuple) else value[key]
        return value


class Provider:
    """The provider process: an event loop and a pool with its agents, for as long as a host lives."""

    def __init__(self, settings: Settings | None = None, *, beside: Provider | None = None) -> None:
        """Start the loop; agents start with the first request.

        Args:
            settings: Its state directory is replaced by one that goes with this object.
            beside: Another provider process on the same machine, whose state directory is shared.
        """
        self._own = beside is None
        self.directory: Path = beside.directory if beside else temporary_directory("state")
        self.settings = replace(settings or Settings(), state_dir=str(self.directory))
        self._runner = asyncio.Runner()
        self._pool = self._runner.run(_make_pool(self.settings))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the provider's loop."""
        return self._runner.run(work)

    async def host(self, inputs: Inputs) -> Session:
        """The host of a resource."""
        return await self.session(Connection.from_inputs(inputs.get("connection")))

    async def session(self, connection: Connection) -> Session:
        """The session of a connection; it outlives a run."""
        found: Session = await self._pool.host(connection)
        return found

    def close(self) -> None:
        """End the agents; what they made stays."""
        try:
            self._runner.run(_maybe(self._pool.close))
        finally:
            self._runner.close()
            if self._own:
                shutil.rmtree(self.directory, ignore_errors=True)


async def _make_pool(settings: Settings) -> Any:
    return import_module("hostnet.hosts.pool").Pool(settings)


async def _maybe(function: Callable[[], Any]) -> None:
    result = function()
    if isinstance(result, Awaitable):
        await result


class _Hosts:
    """The hosts of a run: the provider's, which stay when the run ends."""

    def __init__(self, provider: Provider) -> None:
        self.host = provider.session

    def known(self, _: Connection) -> None:
        """The provider's own pool knows."""

    async def cancel(self) -> None:
        """A test cancels the provider's own pool."""

    async def close(self) -> None:
        """The provider closes its own pool."""


class _Warnings:
    """Delivers the engine's log: warnings to a list."""

    possible = True

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts

    async def send(self, line: Line) -> None:
        """Keep what a warning says."""
        if line.severity == "warning":
            self._texts.append(line.text)

    async def close(self) -> None:
        """Nothing is open."""


@asynccontextmanager
async def _run_of(provider: Provider, warnings: list[str]) -> AsyncIterator[Operations]:
    """The operations of one run, as the plugin has them."""
    log = EngineLog(_Warnings(warnings), str)
    access = HostAccess(log, lambda _settings, _progress: _Hosts(provider))
    await access.configure(None, provider.settings)
    try:
        yield Operations(access, log)
    finally:
        await log.close()


def kinds() -> dict[str, Kind[Any]]:
    """The kinds by their short names."""
    return {kind.name: kind for kind in import_module("hostnet.resources").KINDS.values()}


@dataclass
class Stack:
    """A stack: programs go up, the state says what there is.

    Args:
        netns: The named namespace that is the host of resources without a connection of their own.
        warnings: Everything that hosts warned of.
    """

    provider: Provider
    netns: str
    name: str = "lab"
    state: dict[str, Resource] = field(default_factory=dict)
    program: dict[str, tuple[str, Inputs]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def __getitem__(self, path: str) -> Any:
        """An output: `stack["net.gateway"]`."""
        name, _, output = path.partition(".")
        return self.state[name].at(output)

    def up(self, program: Program) -> list[str]:
        """Make it so.

        Returns:
            What was done, sorted: `"create web"`, `"update web: destination"`, `"replace web: sourcePort"`, `"delete
            web"`; nothing for what is as it should be.

        Raises:
            CheckError: For inputs that are refused; nothing of that resource is done then.
            HostnetError: Where a host refuses; the rest is carried out as far as it does not need that.
            ExceptionGroup: Where several fail.
        """
        self.program = dict(program)
        return self.provider.run(self._up(program))

    def again(self) -> list[str]:
        """`up` with the program as it is."""
        return self.up(self.program)

    def preview(self, program: Program) -> list[str]:
        """What hosts would warn of, or refuse, before anything is done."""
        return self.provider.run(self._preview(program))

    def refresh(self) -> dict[str, list[str]]:
        """Read everything. What is gone leaves the state.

        Returns:
            What the next `up` of the same program would have to repair: paths by resource, `["gone"]` for one that is
            gone.
        """
        return self.provider.run(self._refresh())

    def destroy(self) -> None:
        """Delete everything.

        Raises:
            HostnetError: Where a host refuses; what could be deleted is.
        """
        self.up({})

    def import_(self, name: str, kind: str, id: str, inputs: Inputs | None = None) -> Inputs:  # noqa: A002
        """Take something into the state by its id.

        Returns:
            The inputs that describe it, without the connection.

        Raises:
            KeyError: Where it is not there.
        """
        return self.provider.run(self._import(name, kind, id, inputs or {}))

    async def _up(self, program: Program) -> list[str]:
        async with _run_of(self.provider, self.warnings) as run:
            return await self._take_up(run, program)

    async def _take_up(self, run: Operations, program: Program) -> list[str]:
        steps: list[str] = []
        tasks: dict[str, asyncio.Task[None]] = {}
        for name, (kind, inputs) in program.items():
            needs = frozenset(_references(inputs))
            waits = [tasks[need] for need in needs]
            tasks[name] = asyncio.ensure_future(self._after(waits, self._settle(run, name, kind, inputs, needs, steps)))
        errors = _errors(await asyncio.gather(*tasks.values(), return_exceptions=True))
        removals: dict[str, asyncio.Task[None]] = {}
        for name in [name for name in reversed(self.state) if name not in program]:
            waits = [removal for user, removal in removals.items() if name in self.state[user].needs]
            removals[name] = asyncio.ensure_future(self._after(waits, self._remove(run, name, steps)))
        errors += _errors(await asyncio.gather(*removals.values(), return_exceptions=True))
        if errors:
            raise errors[0] if len(errors) == 1 else ExceptionGroup("several resources failed", errors)
        return sorted(steps)

    async def _after(self, waits: list[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
        """Do something once what it needs is done; not at all where that failed."""
        if any(isinstance(done, BaseException) for done in await asyncio.gather(*waits, return_exceptions=True)):
            work.close()
            raise asyncio.CancelledError
        await work

    async def _settle(
        self, run: Operations, name: str, kind_name: str, given: Inputs, needs: frozenset[str], steps: list[str]
    ) -> None:
        """Create, update or replace one resource, or leave it."""
        kind, old = kinds()[kind_name], self.state.get(name)
        inputs = self._check(name, kind, given, old)
        declared = Resource(kind, old.urn if old else self._urn(name, kind), old.id if old else "", {}, {}, needs)
        run.declare(declared.urn)
        if old is None:
            await self._create(run, name, declared, inputs)
            steps.append(f"create {name}")
            return
        difference = run.diff(old.subject, old.stated, inputs)
        if difference.replaces:
            await self._replace(run, name, declared, inputs, first_delete=difference.delete_before_replace)
            steps.append(f"replace {name}: {' '.join(sorted(difference.replaces))}")
        elif difference.changed or old.partial:
            await self._made(name, declared, run.update(old.subject, inputs, old.stated))
            steps.append(f"update {name}: {' '.join(sorted(difference.detailed))}")
        else:
            self.state[name] = replace(old, needs=needs)

    def _urn(self, name: str, kind: Kind[Any]) -> str:
        return f"urn:pulumi:{self.name}::lab::{kind.token}::{name}"

    def _check(self, name: str, kind: Kind[Any], given: Inputs, old: Resource | None) -> Inputs:
        inputs = self._resolve(given)
        inputs.setdefault("connection", {"netns": self.netns})
        autoname = Autoname(name, f"{self.name}-{name}".encode())
        checked = kind.check(inputs, old.inputs if old else None, autoname)
        if checked.failures:
            raise CheckError(name, checked.failures)
        return checked.inputs

    def _resolve(self, value: Any, *, preview: bool = False) -> Any:
        """Inputs with references replaced by outputs."""
        if isinstance(value, Mapping):
            return {key: self._resolve(item, preview=preview) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._resolve(item, preview=preview) for item in value]
        whole = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if whole and preview and whole["name"] not in self.state:
            return UNKNOWN
        return self.state[whole["name"]].at(whole["path"]) if whole else value

    async def _create(self, run: Operations, name: str, declared: Resource, inputs: Inputs) -> None:
        await self._made(name, declared, run.create(replace(declared, id="").subject, inputs))

    async def _made(self, name: str, declared: Resource, work: Coroutine[Any, Any, State]) -> None:
        """Take what was made into the state, also where it is only a part.

        Raises:
            HostnetError: Nothing was made, or only a part.
        """
        try:
            self.state[name] = declared.become(await work)
        except PartialError as error:
            self.state[name] = declared.become(error.state)
            raise error.__cause__ or error from None

    async def _replace(
        self, run: Operations, name: str, declared: Resource, inputs: Inputs, *, first_delete: bool
    ) -> None:
        old = self.state[name]
        if first_delete:
            await run.delete(old.subject, old.stated)
            del self.state[name]
        await self._create(run, name, declared, inputs)
        if not first_delete:
            await run.delete(old.subject, old.stated)

    async def _remove(self, run: Operations, name: str, steps: list[str]) -> None:
        old = self.state[name]
        await run.delete(old.subject, old.stated)
        del self.state[name]
        steps.append(f"delete {name}")

    async def _preview(self, program: Program) -> list[str]:
        said: list[str] = []
        for name, (kind_name, given) in program.items():
            kind, old = kinds()[kind_name], self.state.get(name)
            inputs = self._resolve(given, preview=True)
            inputs = self._check(name, kind, inputs, old)
            past = {"id": old.id, "old_inputs": old.inputs, "old_outputs": old.outputs} if old else {}
            change = kind.change(self._urn(name, kind), inputs, dry=True, **past)  # type: ignore[arg-type]
            if change is None:
                continue
            try:
                said += (await (await self.provider.host(inputs)).apply(change)).warnings
            except HostnetError as error:
                said.append(str(error))
        return said

    async def _refresh(self) -> dict[str, list[str]]:
        async with _run_of(self.provider, self.warnings) as run:
            reads = (run.read(old.subject, old.stated, old.inputs) for old in self.state.values())
            found = await asyncio.gather(*reads)
        drift: dict[str, list[str]] = {}
        for (name, old), new in zip(list(self.state.items()), found, strict=True):
            if new is None:
                drift[name] = ["gone"]
                del self.state[name]
                continue
            changed = old.kind.diff(new.inputs, new.outputs, old.inputs)
            if changed.changed:
                drift[name] = sorted(changed.detailed)
            self.state[name] = old.become(new)
        return drift

    async def _import(self, name: str, kind_name: str, id: str, given: Inputs) -> Inputs:  # noqa: A002
        kind = kinds()[kind_name]
        at = {"connection": {"netns": self.netns}, **given}
        subject = Subject(kind, self._urn(name, kind), id)
        async with _run_of(self.provider, self.warnings) as run:
            found = await run.read(subject, None, at)
        if found is None:
            raise KeyError(id)
        inputs = dict(found.inputs)
        whole = {**inputs, "connection": at["connection"]}
        self.state[name] = Resource(kind, subject.urn, found.id, whole, dict(found.outputs))
        self.program[name] = (kind_name, inputs)
        return inputs


def _references(value: Any) -> set[str]:
    """The names of the resources that inputs refer to."""
    if isinstance(value, Mapping):
        return set().union(*map(_references, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(_references, value))
    found = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return {found["name"]} if found else set()


def _errors(results: list[Any]) -> list[Exception]:
    """What failed of its own, not because of another."""
    for error in results:
        if isinstance(error, BaseException) and not isinstance(error, Exception | asyncio.CancelledError):
            raise error
    return [error for error in results if isinstance(error, Exception)]


def refused(error: BaseException, code: Code) -> bool:
    """Whether an error, or one of a group, is hostnet's with this code."""
    if isinstance(error, BaseExceptionGroup):
        return any(refused(one, code) for one in error.exceptions)
    return isinstance(error, HostnetError) and error.code == code
