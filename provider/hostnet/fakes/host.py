"""A host in memory: the agent's own code on a fake kernel and fake nftables, behind a real session."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hostnet.agent.firewalls.sync import Firewalls
from hostnet.agent.lasting.attach import Attacher
from hostnet.agent.linux.link_events import Changes
from hostnet.agent.linux.operations import WriteSysctl
from hostnet.agent.linux.snapshot import KernelLink
from hostnet.agent.nft.desired import Compiler
from hostnet.agent.nft.sysctls import FORWARDING, Sysctls
from hostnet.agent.nft.table import Table
from hostnet.agent.record.record import Store
from hostnet.agent.routing.proxies import Proxies
from hostnet.agent.routing.sync import ReplyRouting
from hostnet.agent.transaction.host import Host
from hostnet.agent.transaction.subsystems import Subsystems
from hostnet.fakes.channel import FakeTransport
from hostnet.fakes.dhcp import FakeDhcpServers
from hostnet.fakes.kernel import FakeKernel
from hostnet.fakes.nftables import FakeNftables
from hostnet.fakes.persistence import FakePersistence
from hostnet.hosts.session import Session
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.family import Family
from hostnet.wire.requests import Change, Facts, Query, View

Method = Literal["apply", "read", "facts"]
UPLINK = "eth0"


@dataclass
class _Failure:
    error: Exception
    method: Method
    when: Callable[[Any], bool]
    applied: bool


class FakeHost(Session):
    """A session with a host that lives in this object.

    It starts as a bare server: `lo`, `eth0` with 203.0.113.5/24, 2001:db8:5::5/64 and both default routes, forwarding
    off, no other firewall, no systemd. What crosses to it is JSON, and the agent that answers is the real one, so it
    refuses what a real host refuses and its views are a real host's.

    Args:
        label: As messages name it.
        persist: The provider's `persist`.

    Attributes:
        kernel: Its links, addresses, routes and sysctls.
        nftables: Its ruleset, ours and other programs'.
        servers: Its DHCP servers.
        persistence: Its watcher and systemd's units.
        agent: The agent.
        transport: Starts its agents; `last_activity` is what a test says.
        requests: All that was asked, in order.
        entered: Set when a request waits at `hold`.
    """

    def __init__(self, label: str = "this machine", persist: str = "auto") -> None:
        self.requests: list[Any] = []
        self.entered = asyncio.Event()
        self._arrivals = asyncio.Condition()
        self._gate = asyncio.Event()
        self._gate.set()
        self._failures: list[_Failure] = []

        root = Path(tempfile.mkdtemp(prefix="hostnet-fake-"))
        weakref.finalize(self, shutil.rmtree, root, ignore_errors=True)
        self._state = root / "state"
        self.kernel, self.nftables, self.servers = FakeKernel(), FakeNftables(), FakeDhcpServers()
        self._store = Store(self._state, "host", None)
        self.persistence = FakePersistence(self._store, root, persist)
        self._table = Table(self.nftables)
        self.agent = Host(self._subsystems())
        self.transport = FakeTransport(self.agent)
        super().__init__(label, self.transport)
        self.kernel.add_link(UPLINK, "physical", addresses=("203.0.113.5/24", "2001:db8:5::5/64"))
        self.kernel.add_route(UPLINK, "0.0.0.0/0", "203.0.113.1")
        self.kernel.add_route(UPLINK, "::/0", "2001:db8:5::1")

    def _subsystems(self) -> Subsystems:
        return Subsystems(
            self._store,
            self.persistence,
            self.kernel,
            self._table,
            Compiler(),
            Sysctls(self.kernel),
            ReplyRouting(self.kernel, self.nftables),
            Proxies(self.kernel),
            Firewalls(self._table, legacy=False),
            self.servers,
        )

    # --- what the provider asks --------------------------------------------------------------------------------------

    async def apply(self, change: Change) -> View:
        """Make it so, or, dry, say whether it would work."""
        failure = await self._arrive("apply", change)
        if failure and not failure.applied:
            raise failure.error
        view = await super().apply(change)
        if failure:
            raise failure.error
        return view

    async def read(self, query: Query) -> View | None:
        """What the host has for it; None where the thing itself is gone."""
        failure = await self._arrive("read", query)
        if failure:
            raise failure.error
        return await super().read(query)

    async def facts(self, name: str, arguments: dict[str, Any]) -> Facts:
        """Answer a function. `doctor` is refused: it tries the machine's own kernel."""
        failure = await self._arrive("facts", (name, arguments))
        if failure:
            raise failure.error
        if name == "doctor":
            raise HostnetError(Code.UNSUPPORTED, "examine the host", "a fake host has no real kernel", host=self.label)
        return await super().facts(name, arguments)

    # --- what a test does to it --------------------------------------------------------------------------------------

    def dump(self) -> dict[str, Any]:
        """Everything on the host, as plain values to compare."""
        with self._store.locked() as record:
            owners = {
                f"{owner.urn} {owner.id}": sorted(x.key for x in owner.objects) for owner in record.owners.values()
            }
            put_back = {name: vars(each) for name, each in sorted(record.sysctls.items())}
        return {
            **self.kernel.dump(),
            "nftables": self.nftables.dump(),
            "dhcp": sorted(self.servers.running),
            "watched": self.persistence.watched,
            "owners": dict(sorted(owners.items())),
            "sysctls to put back": put_back,
        }

    def fail(
        self,
        error: Exception,
        method: Method = "apply",
        *,
        when: Callable[[Any], bool] = lambda _: True,
        applied: bool = False,
    ) -> None:
        """Let the next such request fail.

        Args:
            error: What is raised.
            method: What is asked.
            when: Which request; the next one by default.
            applied: Do what it asks for before it fails: a lost answer, a partial failure.
        """
        self._failures.append(_Failure(error, method, when, applied))

    def hold(self) -> None:
        """Keep requests waiting; `entered` is set when one does."""
        self._gate.clear()

    def release(self) -> None:
        """Let them go on."""
        self._gate.set()

    async def arrived(self, count: int) -> None:
        """Wait until so many requests have come."""
        async with self._arrivals:
            await self._arrivals.wait_for(lambda: len(self.requests) >= count)

    def link(self, name: str) -> KernelLink:
        """A link as it is now.

        Raises:
            KeyError: There is none of this name.
        """
        return self.kernel.link(name)

    def add_link(self, name: str, kind: str = "tap", **values: Any) -> None:
        """Another program makes an interface, which the watcher may attach; see `FakeKernel.add_link`."""
        self.kernel.add_link(name, kind, **values)
        self._follow(Changes(appeared={name}))

    def change_link(self, name: str, **values: Any) -> None:
        """Another program changes an interface; see `FakeKernel.change_link`."""
        self.kernel.change_link(name, **values)

    def remove_link(self, name: str) -> None:
        """An interface goes."""
        self.kernel.remove_link(name)
        self._follow(Changes(gone={name}))

    def run_nft(self, batch: str) -> None:
        """Another program runs nft."""
        self.nftables.run(batch)

    def flush_ruleset(self) -> None:
        """Another program runs `nft flush ruleset`."""
        self.nftables.run("flush ruleset")

    def set_forwarding(self, family: Family, *, enabled: bool) -> None:
        """Another program sets the sysctl."""
        self.kernel.perform(WriteSysctl(FORWARDING[family], "1" if enabled else "0"))

    def lose_record(self) -> None:
        """Another program deletes the state directory."""
        shutil.rmtree(self._state, ignore_errors=True)

    def restart_agent(self) -> None:
        """The agent's process ends, and the next request starts another."""
        self._store = Store(self._state, "host", None)
        self._table = Table(self.nftables)
        self.agent = Host(self._subsystems())
        self._transport = self.transport = FakeTransport(self.agent)
        self._channel = None

    def _follow(self, changes: Changes) -> None:
        """What the watcher's process does with the kernel's message, if it runs."""
        if self.persistence.watched:
            Attacher(Store(self._state, "host", None), self.kernel, Table(self.nftables)).step(changes)

    async def _arrive(self, method: Method, request: Any) -> _Failure | None:
        async with self._arrivals:
            self.requests.append(request)
            self._arrivals.notify_all()
        if not self._gate.is_set():
            self.entered.set()
        await self._gate.wait()
        for failure in self._failures:
            if failure.method == method and failure.when(request):
                self._failures.remove(failure)
                return failure
        return None
