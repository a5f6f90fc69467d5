"""Faults at any moment of an operation: what is killed, cut, filled, flushed or held, while a host is changed.

One table: each operation x each fault x {local, SSH}; `IMPOSSIBLE` names what can't be, with the reason. Each cell gets
moments from a seed. Whatever happens, the host has of each resource what it had or what it should have, the next `up`
calls what Pulumi's state lacks and brings the host to what is declared, and a destroy leaves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hostnet.agent.record.lock import Background, acquire
from hostnet.agent.transaction.commit_confirm import NAME as CONFIRM
from hostnet.hosts.connection import Connection, Settings
from hostnet.hosts.local import LocalTransport
from hostnet.hosts.session import Session
from hostnet.wire.errors import Code, HostnetError, OutcomeUnknownError
from hostnet.wire.objects import (
    Address,
    DhcpServer,
    Forward,
    Forwarding,
    Gateway,
    Glob,
    Link,
    Object,
    Port,
    from_json,
)
from hostnet.wire.requests import Change, Query, View

from tests.lab.bed import Bed, difference, snapshot_of
from tests.lab.namespaces import Namespace, temporary_directory

T = TypeVar("T")
Key = tuple[str, str]  # a resource's name in the program, and its id
Declared = dict[Key, tuple[Object, ...]]
Undo = Callable[[], None]

MOMENTS = int(os.environ.get("HOSTNET_MOMENTS", "100"))  # for each side
SEED = int(os.environ.get("HOSTNET_SEED", "11"))
PATIENCE = 60  # seconds for what must come
_HOLD_SECONDS = 0.02  # for which another process has the lock
_CLONE_NEWNS = 0x00020000

OPERATIONS = ("create", "update", "replace", "delete", "refresh", "restore")
FAULTS = (
    "plugin killed",
    "pulumi killed",
    "agent killed",
    "hostnet-confirm killed",
    "dnsmasq killed",
    "watcher killed",
    "SSH cut",
    "disk full",
    "read-only /proc/sys",
    "foreign flush",
    "lock held",
)
SIDES = ("local", "SSH")
IMPOSSIBLE = {
    (
        "hostnet-confirm killed",
        "local",
    ): "a change of this machine can't cut it off from itself: there is no hostnet-confirm",
    ("SSH cut", "local"): "there is no connection",
}
# What is missing afterwards although nobody changed it back: the next refresh sees it.
_DRIFTING = {"foreign flush", "dnsmasq killed", "watcher killed"}
# The session in which they happen goes on.
_HARMLESS = {"dnsmasq killed", "watcher killed", "disk full", "read-only /proc/sys", "foreign flush", "lock held"}
_FULL_PROGRAM = {"dnsmasq killed", "watcher killed"}

_KIND = {"br0": "Bridge", "vm0": "TapBinding", "nat": "NatGateway", "web": "PortForward", "any": "TapBinding"}


def _forward(port: int, to: str) -> tuple[Object, ...]:
    return Forward("ipv4", ("tcp",), (port, port), to, (port, port), external="eth0"), Forwarding("ipv4")


def _bridge(cidr: str, mtu: int | None) -> tuple[Object, ...]:
    return Link("br0", "bridge", mac="06:00:00:00:00:01", mtu=mtu), Address("br0", cidr), Address("br0", "fd12::1/64")


_OLD: Declared = {
    ("br0", "br0"): _bridge("10.0.0.1/24", None),
    ("vm0", "vm0"): (Link("vm0", "tap", mac="06:00:00:00:00:02", user="1234"), Port("vm0", "br0")),
    ("nat", "nat"): (Gateway("nat", "eth0", ("br0",), nat6=True), Forwarding("ipv4"), Forwarding("ipv6")),
    ("web", "web"): _forward(80, "10.0.0.2"),
}
_NEW: Declared = {
    ("br0", "br0"): _bridge("10.0.0.254/24", 1400),
    ("vm0", "vm0"): (Link("vm0", "tap", mac="06:00:00:00:00:02", user="4321"), Port("vm0", "br0")),
    ("nat", "nat"): (Gateway("nat", "eth0", ("br0",), snat4="192.0.2.2"), Forwarding("ipv4")),
    ("web", "web"): _forward(80, "10.0.0.3"),
}
_SERVER = DhcpServer("br0", dhcp=True, range_start="10.0.0.100", range_end="10.0.0.150")
_GLOB: Declared = {("any", "br0/gl-*"): (Glob("br0", "gl-*"),)}


def _full(declared: Declared) -> Declared:
    """With a DHCP server and a glob."""
    bridge = ("br0", "br0")
    return {**declared, bridge: (*declared[bridge], _SERVER), **_GLOB}


def before_and_after(operation: str, fault: str) -> tuple[Declared, Declared]:
    """What is declared before an operation, and then."""
    old, new = (_full(_OLD), _full(_NEW)) if fault in _FULL_PROGRAM else (_OLD, _NEW)
    replaced = {("web", "web-2") if key == ("web", "web") else key: objects for key, objects in old.items()}
    replaced["web", "web-2"] = _forward(81, "10.0.0.2")
    return {
        "create": ({}, old),
        "update": (old, new),
        "replace": (old, replaced),
        "delete": (old, {}),
        "refresh": (old, old),
        "restore": (old, old),
    }[operation]


@dataclass(frozen=True)
class Cell:
    """A cell of the table, with its moments.

    Attributes:
        operation: What is under way.
        fault: What happens.
        moments: When: parts of the time that the operation takes without a fault.
    """

    operation: str
    fault: str
    moments: tuple[float, ...] = ()

    def __str__(self) -> str:
        return f"{self.operation}, {self.fault}"


def cells(side: str) -> list[Cell]:
    """The table of one side, with `MOMENTS` moments in all."""
    chance = random.Random(f"{SEED} {side}")  # noqa: S311 - no secret
    pairs = [(each, fault) for fault in FAULTS if (fault, side) not in IMPOSSIBLE for each in OPERATIONS]
    more = chance.sample(range(len(pairs)), len(pairs))
    counts = [MOMENTS // len(pairs) + (more[number] < MOMENTS % len(pairs)) for number in range(len(pairs))]
    return [
        Cell(operation, fault, tuple(round(chance.random(), 3) for _ in range(count)))
        for (operation, fault), count in zip(pairs, counts, strict=True)
    ]


def urn(name: str) -> str:
    """A resource's URN."""
    return f"urn:pulumi:dev::shop::hostnet:index:{_KIND[name]}::{name}"


@dataclass
class State:
    """What Pulumi's state has.

    Attributes:
        held: Each resource's objects by its inputs.
        partial: Which were applied in part.
        in_part: Whether an error said that a change could not be undone as a whole.
    """

    held: Declared = field(default_factory=dict)
    partial: set[Key] = field(default_factory=set)
    in_part: bool = False

    def up(self, target: Declared) -> dict[Key, Change]:
        """What the engine calls to get from here to there: nothing for what is as it should be."""
        calls: dict[Key, Change] = {}
        for (name, identifier), objects in target.items():
            key, stated = (name, identifier), tuple(i for n, i in self.held if n == name)
            if key not in self.held:
                calls[key] = Change(urn(name), identifier, objects, stated=stated)
            elif objects != self.held[key] or key in self.partial:
                calls[key] = Change(urn(name), identifier, objects, self.held[key], known=True)
        for key in self.held.keys() - target.keys():
            calls[key] = Change(urn(key[0]), key[1], (), self.held[key], known=True)
        return calls

    def note(self, key: Key, change: Change, outcome: object) -> None:
        """Take down what became of a call."""
        unknown = isinstance(outcome, HostnetError) and (
            outcome.code is Code.PARTIAL or isinstance(outcome, OutcomeUnknownError)
        )
        self.in_part |= isinstance(outcome, HostnetError) and outcome.code is Code.PARTIAL
        if not change.objects:
            if isinstance(outcome, View):
                del self.held[key]
        elif isinstance(outcome, View) or unknown:
            self.held[key] = change.objects
            (self.partial.add if unknown else self.partial.discard)(key)


class Ground:
    """A host on which everything may break, and sessions beside, which look and tidy up.

    Args:
        host: The host's namespace.
        settings: The provider's.

    Attributes:
        place: A process or thread in the host's mount namespace, which is not this process's.
    """

    side = ""
    place = 0

    def __init__(self, host: Namespace, settings: Settings) -> None:
        self.host, self.settings = host, settings
        self.bare = snapshot_of(host)
        self._auditor: Session | None = None
        self._spare: Session | None = None
        self._seconds: dict[str, float] = {}
        self._wanted: dict[str, Any] = {}  # snapshots, by operation and program

    # --- what each side has of its own ---------------------------------------------------------------------------

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine where the provider is."""
        raise NotImplementedError

    def session(self) -> Session:
        """A session with the host: a plugin's."""
        raise NotImplementedError

    def hang_up(self, session: Session) -> None:
        """Close the streams of a session, as the kernel does for a process that is killed."""
        raise NotImplementedError

    # --- one moment ----------------------------------------------------------------------------------------------

    def check(self, cell: Cell, moment: float) -> None:
        """Have a fault happen, and look what comes of it."""

        async def checking() -> None:
            async with asyncio.timeout(PATIENCE):
                await self._moment(cell, moment)

        try:
            self.run(checking())
        except BaseException as error:
            error.add_note(f"{self.side}: {cell} at {moment} (HOSTNET_SEED={SEED} HOSTNET_MOMENTS={MOMENTS})")
            raise

    async def _moment(self, cell: Cell, moment: float) -> None:
        old, new = before_and_after(cell.operation, cell.fault)
        seconds, wanted = await self._without_fault(cell)
        session, state = self._spare or self.session(), State()
        self._spare = None
        await self._up(session, state, old)
        await self._prepare(cell.operation)
        work = asyncio.ensure_future(self._operate(session, cell.operation, state, new))
        await asyncio.sleep(moment * seconds)
        async with _FAULTS[cell.fault](self, session, work):
            await asyncio.wait({work})
        _no_bug(work)
        if cell.fault in _HARMLESS:
            self._spare = session  # starting an agent is what costs most here
        else:
            await session.close()
        await self._settled()
        await self._is_old_or_new(cell, state, old, new)
        creates = new.keys() - state.held.keys()
        await self._up(await self.auditor(), state, new)
        assert difference(snapshot_of(self.host), wanted) == []
        if creates:
            await self._another_command()
        await self._up(await self.auditor(), state, {})
        assert difference(snapshot_of(self.host), self.bare) == []
        assert self.files() == []

    async def _without_fault(self, cell: Cell) -> tuple[float, Any]:
        """How long an operation takes without a fault, and what the host is like then."""
        name = f"{cell.operation} {cell.fault in _FULL_PROGRAM}"
        if name not in self._wanted:
            old, new = before_and_after(cell.operation, cell.fault)
            session, state = self.session(), State()
            await self._up(session, state, old)
            await self._prepare(cell.operation)
            begin = time.monotonic()
            await self._operate(session, cell.operation, state, new)
            self._seconds[name] = time.monotonic() - begin
            self._wanted[name] = snapshot_of(self.host)
            await self._up(session, state, {})
            await session.close()
            await self._settled()
        return self._seconds[name], self._wanted[name]

    async def _up(self, session: Session, state: State, target: Declared) -> None:
        """An `up` that has to work."""
        calls = state.up(target)
        outcomes = await asyncio.gather(*map(session.apply, calls.values()))
        for (key, change), outcome in zip(calls.items(), outcomes, strict=True):
            state.note(key, change, outcome)
        assert state.held == target

    async def _prepare(self, operation: str) -> None:
        """A restore has something to put back."""
        if operation == "restore":
            self.host.ip("link delete br0")
            self.host.nft("flush ruleset")

    async def _operate(self, session: Session, operation: str, state: State, target: Declared) -> list[object]:
        if operation == "restore":
            return [await session.restore()]
        if operation == "refresh":
            return list(await asyncio.gather(*(self._read(session, key, each) for key, each in state.held.items())))
        calls = state.up(target)
        outcomes = await asyncio.gather(*map(session.apply, calls.values()), return_exceptions=True)
        for (key, change), outcome in zip(calls.items(), outcomes, strict=True):
            state.note(key, change, outcome)
        return list(outcomes)

    @staticmethod
    async def _read(session: Session, key: Key, objects: tuple[Object, ...]) -> View | None:
        return await session.read(Query(urn(key[0]), key[1], _KIND[key[0]], objects))

    async def _is_old_or_new(self, cell: Cell, state: State, old: Declared, new: Declared) -> None:
        """A refresh, and a look at what the host's record has, and whether the kernel is like that."""
        auditor = await self.auditor()
        await self._read(auditor, ("br0", "br0"), _OLD["br0", "br0"])  # rolls back what is half done
        found = (await auditor.facts("status", {})).data["resources"]
        # What could not be undone was said so, and the next `up` puts it right.
        drifting = cell.fault in _DRIFTING or cell.operation == "restore" or state.in_part
        for each in found:
            objects = tuple(map(from_json, each["objects"]))
            key = (each["name"], each["id"])
            assert objects in (old.get(key), new.get(key)), key
            assert drifting or not each["drift"], each["drift"]
        if drifting:
            for key, objects in list(state.held.items()):
                if await self._read(auditor, key, objects) is None:
                    del state.held[key]
                else:
                    state.partial.add(key)  # the next `up` has a difference to put right

    async def _settled(self) -> None:
        """Wait for the end of the processes of ended sessions; hostnet-confirm keeps a result, and is asked to end."""
        mine = {each.greeting.process.pid for each in (self._auditor, self._spare) if each is not None}

        def gone() -> bool:
            waiting = [pid for pid in self.processes(CONFIRM) if _parent(pid) not in mine]
            for pid in waiting:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            return not waiting and not set(self.agents()) - mine

        while not gone():  # noqa: ASYNC110 - of a process that is not a child there is no event
            await asyncio.sleep(0.01)

    # --- what is on the host -------------------------------------------------------------------------------------

    async def auditor(self) -> Session:
        """The session beside."""
        if self._auditor is None:
            self._auditor = self.session()
            await self._auditor.connect()
        return self._auditor

    async def _another_command(self) -> None:
        """End the session beside: each `pulumi up` and `destroy` has a plugin, and so an agent, of its own."""
        if self._auditor is not None:
            await self._auditor.close()
            self._auditor = None
            await self._settled()

    @property
    def state(self) -> Path:
        """The state directory, as the host sees it."""
        return Path(f"/proc/{self.place}/root{self.settings.state_dir}")

    def files(self) -> list[str]:
        """What is in the state directory, but for the agent's own file."""
        return [path.name for path in self.state.glob("*") if path.name != "agent"]

    @property
    def lock(self) -> Path:
        """The host's lock."""
        return self.state / f"netns-{Path('/run/netns', self.host.name).stat().st_ino}.lock"

    def processes(self, name: str) -> list[int]:
        """The processes of a name in the host's namespace."""
        inside = subprocess.run(["ip", "netns", "pids", self.host.name], capture_output=True, text=True, check=True)
        return [pid for pid in map(int, inside.stdout.split()) if _comm(pid) == name]

    def agents(self) -> list[int]:
        """The agents."""
        return [pid for pid in self.processes("python3") + self.processes("python") if pid != os.getpid()]

    def remount(self, how: str) -> bool:
        """Make /proc/sys read-only ("ro") or writable ("rw") on the host; False: a sysctl is open for writing."""
        argv = ["nsenter", f"--mount=/proc/{self.place}/ns/mnt", "mount", "-o", f"remount,bind,{how}", "/proc/sys"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
        assert done.returncode == 0 or "busy" in done.stderr, done.stderr  # EBUSY; mount(8) ends with 32 for any error
        return done.returncode == 0

    def close(self) -> None:
        """End the sessions."""
        for session in filter(None, (self._auditor, self._spare)):
            self.run(session.close())


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _no_bug(work: asyncio.Future[list[object]]) -> None:
    """Whatever failed, an error says so that is for a person."""
    if work.cancelled():
        return
    failed = work.exception()
    for outcome in [failed] if failed else work.result():
        if isinstance(outcome, BaseException):
            assert isinstance(outcome, HostnetError), outcome
            assert "bug" not in str(outcome), outcome


# --- the faults --------------------------------------------------------------------------------------------------

Work = asyncio.Future[list[object]]
Fault = Callable[[Ground, Session, Work], contextlib.AbstractAsyncContextManager[None]]


@contextlib.asynccontextmanager
async def _plugin_killed(ground: Ground, session: Session, work: Work) -> AsyncIterator[None]:
    await _hung_up(ground, session)
    session.cancel()
    work.cancel()
    yield


async def _hung_up(ground: Ground, session: Session) -> None:
    """Close a session's streams; those of an agent that is just being started, as soon as it is."""
    if session._opening is not None:
        await asyncio.wait({session._opening})
    ground.hang_up(session)


@contextlib.asynccontextmanager
async def _pulumi_killed(_: Ground, session: Session, work: Work) -> AsyncIterator[None]:
    """The plugin sees that its engine is dead: it cancels, and ends its sessions (rpc/server.py)."""
    session.cancel()
    await asyncio.wait({work}, timeout=3)
    await session.close()
    yield


def _killed(*names: str) -> Fault:
    @contextlib.asynccontextmanager
    async def fault(ground: Ground, session: Session, work: Work) -> AsyncIterator[None]:
        while not session.greeting.process.pid and not work.done():
            await asyncio.wait({work}, timeout=0.001)  # its agent is just being started
        agent = session.greeting.process.pid
        for pid in [agent] if not names else [each for name in names for each in ground.processes(name)]:
            if pid > 1 and (names != (CONFIRM,) or _parent(pid) == agent):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        yield

    return fault


@contextlib.asynccontextmanager
async def _ssh_cut(ground: Ground, session: Session, work: Work) -> AsyncIterator[None]:
    del work
    await _hung_up(ground, session)
    yield


@contextlib.asynccontextmanager
async def _disk_full(ground: Ground, session: Session, work: Work) -> AsyncIterator[None]:
    del session
    ballast = ground.state / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * (1 << 16))
    try:
        await asyncio.wait({work})
        yield
    finally:
        ballast.unlink()


@contextlib.asynccontextmanager
async def _read_only(ground: Ground, session: Session, work: Work) -> AsyncIterator[None]:
    del session
    while not ground.remount("ro"):  # noqa: ASYNC110 - of the end of another process's write there is no event
        await asyncio.sleep(0)
    try:
        await asyncio.wait({work})
        yield
    finally:
        assert ground.remount("rw")


@contextlib.asynccontextmanager
async def _flush(ground: Ground, session: Session, work: Work) -> AsyncIterator[None]:
    del session, work
    ground.host.nft("flush ruleset")
    yield


@contextlib.asynccontextmanager
async def _lock_held(ground: Ground, session: Session, work: Work) -> AsyncIterator[None]:
    del session

    def hold() -> None:
        descriptor = os.open(ground.lock, os.O_RDWR | os.O_CREAT, 0o600)
        acquire(descriptor, Background("a fault"))
        time.sleep(_HOLD_SECONDS)
        os.close(descriptor)

    await asyncio.to_thread(hold)
    await asyncio.wait({work})
    yield


_FAULTS: dict[str, Fault] = {
    "plugin killed": _plugin_killed,
    "pulumi killed": _pulumi_killed,
    "agent killed": _killed(),
    "hostnet-confirm killed": _killed(CONFIRM),
    "dnsmasq killed": _killed("dnsmasq"),
    "watcher killed": _killed("hostnet-watch"),
    "SSH cut": _ssh_cut,
    "disk full": _disk_full,
    "read-only /proc/sys": _read_only,
    "foreign flush": _flush,
    "lock held": _lock_held,
}


# --- this machine ------------------------------------------------------------------------------------------------


class LocalGround(Ground):
    """A namespace of this machine. The provider's thread has mounts of its own, which its agents inherit."""

    side = "local"

    def __init__(self) -> None:
        self._bed = Bed("faults")
        self._thread = ThreadPoolExecutor(1)
        self._runner = asyncio.Runner()
        state = temporary_directory("state")
        self.place = self._thread.submit(_apart, str(state)).result()
        super().__init__(self._bed.host, Settings(state_dir=str(state), persist="never"))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """In the thread."""
        return self._thread.submit(self._runner.run, work).result()

    def session(self) -> Session:
        """Whose agents are child processes."""
        connection = Connection(netns=self.host.name)
        return Session(connection.label, LocalTransport(connection, self.settings))

    def hang_up(self, session: Session) -> None:
        """Close the pipes."""
        channel: Any = session._channel
        if channel is not None:
            for number in (0, 1, 2):
                channel._process._transport.get_pipe_transport(number).close()

    def close(self) -> None:
        """Take all away."""
        super().close()
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()
        self._bed.close()
        Path(self.settings.state_dir).rmdir()


def _apart(state: str) -> int:
    """Give this thread a mount namespace with a small state directory and its own /proc/sys; gives its number."""
    assert ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
    for command in mounts(state):
        subprocess.run(command, check=True)
    return threading.get_native_id()


def mounts(state: str) -> Iterator[list[str]]:
    """The mounts that faults need, of a mount namespace that nobody else uses."""
    yield ["mount", "--make-rslave", "/"]
    yield ["mount", "--bind", "/proc/sys", "/proc/sys"]
    yield ["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", state]
