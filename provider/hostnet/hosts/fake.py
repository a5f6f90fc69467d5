"""A host in memory: `FakeHost` answers as an agent would, keeps state, and can be made to drift and to fail.

For tests of everything that is above a host, ours and other people's. What it leaves out: packets, time, and
everything that a `DhcpServer` does but for running.
"""

from __future__ import annotations

import asyncio
import copy
import ipaddress
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from hostnet.hosts.connection import Connection, Settings
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.family import Family
from hostnet.wire.objects import (
    EXTERNAL_PLACEHOLDER,
    Address,
    DhcpServer,
    DhcpState,
    Forward,
    Forwarding,
    ForwardingState,
    ForwardState,
    Gateway,
    GatewayState,
    Glob,
    GlobState,
    Guest,
    GuestState,
    Link,
    LinkState,
    Object,
    ObjectState,
    Port,
    Route,
)
from hostnet.wire.requests import Change, Facts, Query, View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Owner = tuple[str, str]  # URN and id: during a replacement two resources have one URN
Method = Literal["apply", "read", "facts"]


@dataclass
class _Kernel:
    """What the kernel has, whoever made it."""

    links: dict[str, LinkState] = field(default_factory=dict)
    forwarding: dict[str, bool] = field(default_factory=lambda: {"ipv4": False, "ipv6": False})
    elements: dict[str, Gateway | Forward] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)  # dnsmasq, by bridge
    next_index: int = 10


@dataclass
class _Record:
    """What hostnet wrote down."""

    owners: dict[Owner, dict[str, Object]] = field(default_factory=dict)
    guests: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sysctls: dict[str, bool] = field(default_factory=dict)  # a forwarding switch's value before us


@dataclass
class _State:
    kernel: _Kernel = field(default_factory=_Kernel)
    record: _Record = field(default_factory=_Record)


@dataclass
class _Failure:
    error: Exception
    method: Method
    when: Callable[[Any], bool]
    applied: bool


class FakeHost:
    """A host that lives in this object.

    It starts with `lo` and `eth0` (203.0.113.5/24, 2001:db8:5::5/64, the default route's interface) and with
    forwarding off.
    """

    def __init__(self, label: str = "this machine") -> None:
        """Start as a bare machine.

        :param label: as messages name it.
        """
        self.label = label
        self.heard = 0.0
        self.default_route: str | None = "eth0"
        self.requests: list[Change | Query] = []  # all that was asked, in order
        self.entered = asyncio.Event()  # set when a request waits at `hold`
        self._arrivals = asyncio.Condition()
        self._gate = asyncio.Event()
        self._gate.set()
        self._failures: list[_Failure] = []
        self._state = _State()
        self.add_link("lo", "loopback", index=1)
        uplink = ("203.0.113.5/24", "2001:db8:5::5/64")
        self.add_link("eth0", "physical", index=2, addresses=uplink)

    # The interface `Host`.

    async def apply(self, change: Change) -> View:
        """See `Host`."""
        failure = await self._arrive("apply", change)
        state = copy.deepcopy(self._state)
        if failure and not failure.applied:
            raise failure.error
        try:
            view = _Step(state, self.default_route, change).run()
        except HostnetError as error:
            error.host = self.label
            raise
        if not change.dry:
            self._state = state
        if failure:
            raise failure.error
        return view

    async def read(self, query: Query) -> View | None:
        """See `Host`."""
        failure = await self._arrive("read", query)
        if failure:
            raise failure.error
        objects = query.objects or tuple(_Finder(self._state).find(query))
        if not objects:
            return None
        step = _Step(self._state, self.default_route, Change(query.urn, query.id, objects, dry=True))
        resolved = tuple(step.resolve(wish) for wish in objects)
        seen = tuple(step.see(wish) for wish in resolved)
        main = next((i for i, wish in enumerate(resolved) if isinstance(wish, Link | Gateway | Forward)), None)
        if main is not None and seen[main] is None:
            return None
        return View(step.identifier(resolved), resolved, seen)

    async def facts(self, name: str, arguments: dict[str, Any]) -> Facts:
        """See `Host`."""
        failure = await self._arrive("facts", (name, arguments))
        if failure:
            raise failure.error
        return Facts(_facts(self._state, self.default_route, name, arguments))

    async def close(self) -> None:
        """See `Host`."""

    # What a test does to it.

    def dump(self) -> dict[str, Any]:
        """All there is, as plain values, to compare."""
        kernel, record = self._state.kernel, self._state.record
        return {
            "links": {name: asdict(link) for name, link in sorted(kernel.links.items())},
            "elements": {key: asdict(element) for key, element in sorted(kernel.elements.items())},
            "forwarding": dict(kernel.forwarding),
            "dhcp": sorted(kernel.running),
            "owners": {f"{urn} {ident}": sorted(held) for (urn, ident), held in sorted(record.owners.items())},
        }

    def fail(
        self,
        error: Exception,
        method: Method = "apply",
        *,
        when: Callable[[Any], bool] = lambda _: True,
        applied: bool = False,
    ) -> None:
        """Make the next such request fail.

        :param when: which request; all by default.
        :param applied: do what it asks for all the same (a lost answer, a partial failure).
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

    def link(self, name: str) -> LinkState:
        """A link as the kernel has it.

        :raises KeyError: where it is gone.
        """
        return self._state.kernel.links[name]

    def add_link(self, name: str, kind: str = "tap", *, index: int | None = None, **values: Any) -> None:
        """Somebody else adds an interface; one that a glob matches is attached, as the watcher would."""
        _make_link(self._state.kernel, name, kind, index, **values)
        for wish in _all(self._state):
            if isinstance(wish, Glob) and fnmatchcase(name, wish.pattern):
                _attach(self._state.kernel, name, wish.bridge, isolated=wish.isolated)

    def remove_link(self, name: str) -> None:
        """Somebody deletes an interface."""
        _drop_link(self._state.kernel, name)

    def change_link(self, name: str, **values: Any) -> None:
        """Somebody changes an interface: `mtu=1400`, `addresses=(…)`, `bridge=None` and so on."""
        self._state.kernel.links[name] = replace(self.link(name), **values)

    def flush_ruleset(self) -> None:
        """Somebody runs `nft flush ruleset`."""
        self._state.kernel.elements.clear()

    def remove_element(self, key: str) -> None:
        """Somebody deletes a gateway's or forward's elements, by the object's key."""
        del self._state.kernel.elements[key]

    def set_forwarding(self, family: Family, *, enabled: bool) -> None:
        """Somebody sets the sysctl."""
        self._state.kernel.forwarding[family] = enabled

    def lose_record(self) -> None:
        """Somebody deletes the state directory."""
        self._state.record = _Record()

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


class FakePool:
    """A pool of fake hosts: one a host name and namespace, made when first asked for."""

    def __init__(self, settings: Settings | None = None, log: Callable[[str, str], None] = lambda _, __: None) -> None:
        """As the real pool's."""
        self.settings, self.log = settings, log
        self.hosts: dict[str, FakeHost] = {}
        self.connections: list[Connection] = []  # all that were asked for
        self.unreachable: set[str] = set()  # labels
        self.cancelled = self.closed = False
        self.asked = asyncio.Event()  # set when a session is asked for
        self._gate = asyncio.Event()
        self._gate.set()

    def at(self, connection: Connection | None = None) -> FakeHost:
        """The host that a connection leads to, whether it can be reached or not."""
        label = (connection or Connection()).label
        return self.hosts.setdefault(label, FakeHost(label))

    def hold(self) -> None:
        """Keep every new session waiting, as a server that is booting does."""
        self._gate.clear()

    def release(self) -> None:
        """Let them go on."""
        self._gate.set()

    async def host(self, connection: Connection) -> FakeHost:
        """As the real pool's."""
        self.connections.append(connection)
        self.asked.set()
        await self._gate.wait()
        if connection.label in self.unreachable:
            why = "ETIMEDOUT: Connection timed out"
            raise HostnetError(Code.UNREACHABLE, "reach the host", why, "Is it up?", connection.label)
        return self.at(connection)

    async def cancel(self) -> None:
        """As the real pool's."""
        self.cancelled = True

    async def close(self) -> None:
        """As the real pool's."""
        self.closed = True


class _Step:
    """One change on a state that may be thrown away."""

    def __init__(self, state: _State, default_route: str | None, change: Change) -> None:
        self.state, self.kernel, self.record = state, state.kernel, state.record
        self.default_route, self.change = default_route, change
        self.owner: Owner = (change.urn, change.id)
        self.warnings: list[str] = []

    def run(self) -> View:
        change = self.change
        objects = tuple(self.resolve(wish) for wish in change.objects)
        identifier = self.identifier(objects)
        self.owner = (change.urn, identifier)
        held = self.record.owners.get(self.owner, {})
        wanted = {wish.key: wish for wish in objects}
        before = {wish.key: self.resolve(wish) for wish in change.prior} | held
        for wish in objects:
            self.refuse(wish, before)
        self.record.owners[self.owner] = wanted
        for key, wish in reversed(list(before.items())):
            if key not in wanted:
                self.remove(wish)
        for wish in objects:
            self.put(wish, before.get(wish.key))
        if not objects:
            del self.record.owners[self.owner]
        objects = tuple(self.resolve(wish) for wish in objects)
        return View(identifier, objects, tuple(self.see(wish) for wish in objects), tuple(self.warnings))

    def identifier(self, objects: tuple[Object, ...]) -> str:
        external = next((w.external for w in objects if isinstance(w, Forward | Gateway)), None)
        return self.change.id.replace(EXTERNAL_PLACEHOLDER, external or EXTERNAL_PLACEHOLDER)

    # Filling in what the declaration leaves to the host.

    def resolve(self, wish: Object) -> Object:
        if isinstance(wish, Gateway):
            return replace(wish, external=self.uplink(wish.external), resolved=wish.resolved or wish.external is None)
        if isinstance(wish, Forward):
            resolved = wish.resolved or (wish.external is None and wish.gateway is None)
            return replace(wish, external=self.forward_external(wish), resolved=resolved)
        if isinstance(wish, Guest):
            addresses = self.record.guests.get(wish.link) if wish.addresses is None else wish.addresses
            return replace(wish, addresses=addresses)
        return wish

    def uplink(self, name: str | None) -> str:
        external = name or self.default_route
        if external is None:
            raise HostnetError(Code.NOT_FOUND, "find the external interface", "there is no default route")
        if external not in self.kernel.links:
            if not self.change.dry and self.change.objects:
                raise HostnetError(Code.NOT_FOUND, f"use the external interface {external}", "there is none")
            self.warnings.append(f"there is no interface {external}")
        return external

    def forward_external(self, wish: Forward) -> str:
        if wish.gateway is None:
            return self.uplink(wish.external)
        for other in _all(self.state):
            if isinstance(other, Gateway) and other.name == wish.gateway:
                return self.uplink(other.external)
        if self.change.dry or not self.change.objects:
            return self.default_route or "none"
        raise HostnetError(Code.NOT_FOUND, f"use the NAT gateway {wish.gateway}", "there is none on this host")

    # Conflicts.

    def refuse(self, wish: Object, before: dict[str, Object]) -> None:
        if isinstance(wish, Link):
            self.refuse_link(wish, before)
        elif isinstance(wish, Address):
            self.refuse_address(wish)
        elif isinstance(wish, Port | Glob):
            self.refuse_attachment(wish)
        elif isinstance(wish, Forward):
            self.refuse_forward(wish)
        elif isinstance(wish, Guest):
            self.refuse_guest(wish)

    def others(self) -> Iterator[tuple[Owner, Object]]:
        for owner, held in self.record.owners.items():
            if owner[0] != self.owner[0]:
                for wish in held.values():
                    yield owner, wish

    def refuse_link(self, wish: Link, before: dict[str, Object]) -> None:
        there = self.kernel.links.get(wish.name)
        for owner, other in self.others():
            if other.key == wish.key:
                raise _conflict(f"create {wish.kind} {wish.name}", f"it belongs to {owner[0]}")
        if there is None or wish.key in before:
            return
        if there.kind == "physical":
            raise HostnetError(Code.CONFLICT, f"create {wish.kind} {wish.name}", f"{wish.name} is an uplink")
        if not wish.adopt or there.kind != wish.kind:
            raise HostnetError(
                Code.CONFLICT, f"create {wish.kind} {wish.name}", "EEXIST: it exists and is not ours",
                "Choose another name, or set adopt",
            )  # fmt: skip

    def refuse_address(self, wish: Address) -> None:
        mine = ipaddress.ip_interface(wish.cidr).network
        for owner, other in self.others():
            if isinstance(other, Address) and mine.overlaps(ipaddress.ip_interface(other.cidr).network):
                raise _conflict(
                    f"set the address {wish.cidr} on {wish.link}", f"it overlaps {other.cidr} of {owner[0]}"
                )

    def refuse_attachment(self, wish: Port | Glob) -> None:
        if isinstance(wish, Glob):
            for name, link in self.kernel.links.items():
                if link.kind == "physical" and fnmatchcase(name, wish.pattern):
                    raise HostnetError(Code.CONFLICT, f"attach {wish.pattern} to {wish.bridge}", f"{name} is an uplink")
        bridge = self.kernel.links.get(wish.bridge)
        if not self.change.dry and (bridge is None or bridge.kind != "bridge"):
            raise HostnetError(Code.NOT_FOUND, f"attach to the bridge {wish.bridge}", "there is none on this host")

    def refuse_forward(self, wish: Forward) -> None:
        for owner, other in self.others():
            if (
                isinstance(other, Forward)
                and (other.family, other.external, other.listen) == (wish.family, wish.external, wish.listen)
                and set(other.protocols) & set(wish.protocols)
                and other.ports[0] <= wish.ports[1]
                and wish.ports[0] <= other.ports[1]
            ):
                ports = "-".join(map(str, wish.ports))
                raise _conflict(f"forward {'+'.join(wish.protocols)} {ports}", f"it is forwarded by {owner[0]}")

    def refuse_guest(self, wish: Guest) -> None:
        wanted = {_bare(address) for address in wish.addresses or ()}
        for owner, other in self.others():
            if not isinstance(other, Guest) or other.bridge != wish.bridge:
                continue
            if other.mac == wish.mac:
                raise _conflict(f"give a guest the MAC {wish.mac}", f"{owner[0]} has it")
            taken = wanted & {_bare(address) for address in self.record.guests.get(other.link, ())}
            if taken:
                raise _conflict(f"give a guest the address {min(taken)}", f"{owner[0]} has it")

    # Making and unmaking: a method for each type of object.

    def put(self, wish: Object, before: Object | None) -> None:
        if isinstance(wish, Gateway | Forward) and before is not None:
            self.kernel.elements.pop(before.key, None)
        put = getattr(self, f"put_{wish.type}")
        put(wish)

    def put_link(self, wish: Link) -> None:
        if wish.name not in self.kernel.links:
            _make_link(self.kernel, wish.name, wish.kind, None)
        link = self.kernel.links[wish.name]
        self.change_link(
            wish.name, mac=wish.mac or link.mac, mtu=wish.mtu or link.mtu, stp=wish.stp,
            vlan_filtering=wish.vlan_filtering, user=wish.user, group=wish.group, multi_queue=wish.multi_queue,
            vnet_hdr=wish.vnet_hdr,
        )  # fmt: skip
        self.put_addresses(wish.name)

    def put_address(self, wish: Address) -> None:
        self.put_addresses(wish.link)

    def put_route(self, wish: Route) -> None:
        if wish.link in self.kernel.links:
            routes = dict.fromkeys((*self.kernel.links[wish.link].routes, wish.cidr))
            self.change_link(wish.link, routes=tuple(routes))

    def put_port(self, wish: Port) -> None:
        if wish.link in self.kernel.links:
            _attach(self.kernel, wish.link, wish.bridge, isolated=wish.isolated or self.isolates(wish.bridge))

    def put_glob(self, wish: Glob) -> None:
        for name, link in list(self.kernel.links.items()):
            if fnmatchcase(name, wish.pattern) and link.bridge in (None, wish.bridge):
                _attach(self.kernel, name, wish.bridge, isolated=wish.isolated or self.isolates(wish.bridge))

    def put_guest(self, wish: Guest) -> None:
        self.record.guests[wish.link] = self.allocate(wish)

    def put_forwarding(self, wish: Forwarding) -> None:
        self.record.sysctls.setdefault(wish.family, self.kernel.forwarding[wish.family])
        self.kernel.forwarding[wish.family] = True

    def put_gateway(self, wish: Gateway) -> None:
        self.kernel.elements[wish.key] = wish

    def put_forward(self, wish: Forward) -> None:
        self.kernel.elements[wish.key] = wish

    def put_dhcp(self, wish: DhcpServer) -> None:
        self.kernel.running.add(wish.bridge)

    def change_link(self, name: str, **values: Any) -> None:
        if name in self.kernel.links:
            self.kernel.links[name] = replace(self.kernel.links[name], **values)

    def put_addresses(self, name: str) -> None:
        """Addresses on our links are ours alone: what is not declared goes."""
        mine = self.record.owners[self.owner].values()
        declared = tuple(wish.cidr for wish in mine if isinstance(wish, Address) and wish.link == name)
        self.change_link(name, addresses=declared)

    def isolates(self, bridge: str) -> bool:
        return any(isinstance(w, Link) and w.name == bridge and w.port_isolation for w in _all(self.state))

    def remove(self, wish: Object) -> None:
        if not any(other.key == wish.key for other in _all(self.state)):
            remove = getattr(self, f"remove_{wish.type}")
            remove(wish)

    def remove_link(self, wish: Link) -> None:
        _drop_link(self.kernel, wish.name)

    def remove_address(self, wish: Address) -> None:
        link = self.kernel.links.get(wish.link)
        if link is not None:
            self.change_link(wish.link, addresses=tuple(a for a in link.addresses if a != wish.cidr))

    def remove_route(self, wish: Route) -> None:
        link = self.kernel.links.get(wish.link)
        if link is not None:
            self.change_link(wish.link, routes=tuple(r for r in link.routes if r != wish.cidr))

    def remove_port(self, wish: Port) -> None:
        self.change_link(wish.link, bridge=None, isolated=False)

    def remove_glob(self, wish: Glob) -> None:
        for name, link in list(self.kernel.links.items()):
            if link.bridge == wish.bridge and fnmatchcase(name, wish.pattern):
                self.change_link(name, bridge=None, isolated=False)

    def remove_guest(self, wish: Guest) -> None:
        self.record.guests.pop(wish.link, None)

    def remove_forwarding(self, wish: Forwarding) -> None:
        self.kernel.forwarding[wish.family] = self.record.sysctls.pop(wish.family, False)

    def remove_gateway(self, wish: Gateway) -> None:
        self.kernel.elements.pop(wish.key, None)

    def remove_forward(self, wish: Forward) -> None:
        self.kernel.elements.pop(wish.key, None)

    def remove_dhcp(self, wish: DhcpServer) -> None:
        self.kernel.running.discard(wish.bridge)

    def allocate(self, wish: Guest) -> tuple[str, ...]:
        """A guest's addresses: those asked for, those it has or had, else the lowest free of each subnet."""
        subnets = [ipaddress.ip_interface(cidr) for cidr in self.subnets(wish)]
        if wish.addresses is not None:
            return tuple(_in_cidr(address, subnets) for address in wish.addresses)
        taken = {_bare(a) for link, held in self.record.guests.items() if link != wish.link for a in held}
        earlier = [_bare(a) for a in (*self.record.guests.get(wish.link, ()), *wish.hint)]
        out = []
        for subnet in subnets:
            free = (str(a) for a in subnet.network.hosts() if a != subnet.ip and str(a) not in taken)
            kept = (a for a in earlier if ipaddress.ip_address(a) in subnet.network and a not in taken)
            address = next(kept, None) or next(free, None)
            if address is None:
                raise _conflict(f"give the guest of {wish.link} an address", f"{subnet.network} has none left")
            out.append(f"{address}/{subnet.network.prefixlen}")
        return tuple(out)

    def subnets(self, wish: Guest) -> tuple[str, ...]:
        link = self.kernel.links.get(wish.bridge or wish.link)
        return () if link is None else (link.addresses if wish.bridge else link.routes)

    # Looking.

    def see(self, wish: Object) -> ObjectState | None:
        """None also for what is seen in its link."""
        see: Callable[[Object], ObjectState | None] | None = getattr(self, f"see_{wish.type}", None)
        return see(wish) if see else None

    def see_link(self, wish: Link) -> LinkState | None:
        link = self.kernel.links.get(wish.name)
        if link is None:
            return None
        ports = tuple(sorted(other for other, port in self.kernel.links.items() if port.bridge == wish.name))
        return replace(link, ports=ports)

    def see_glob(self, wish: Glob) -> GlobState:
        matching = {n: link for n, link in sorted(self.kernel.links.items()) if fnmatchcase(n, wish.pattern)}
        members = {n: link for n, link in matching.items() if link.bridge == wish.bridge}
        left = tuple(n for n, link in matching.items() if link.bridge not in (None, wish.bridge))
        same = all(link.isolated == wish.isolated for link in members.values())
        return GlobState(tuple(members), wish.isolated if same else not wish.isolated, left)

    def see_guest(self, wish: Guest) -> GuestState:
        addresses = self.record.guests.get(wish.link)
        if addresses is None:
            addresses = self.allocate(wish)
        via = self.kernel.links.get(wish.bridge or wish.link)
        own = [ipaddress.ip_interface(cidr).ip for cidr in via.addresses] if via else []
        gateways = {ip.version: str(ip) for ip in reversed(own)}
        return GuestState(wish.mac, addresses, wish.hostname, gateways.get(4), gateways.get(6))

    def see_forwarding(self, wish: Forwarding) -> ForwardingState:
        return ForwardingState(self.kernel.forwarding[wish.family])

    def see_dhcp(self, wish: DhcpServer) -> DhcpState:
        return DhcpState(wish.bridge in self.kernel.running)

    def see_gateway(self, wish: Gateway) -> ObjectState | None:
        there = self.kernel.elements.get(wish.key)
        return self.see_element(there) if there else None

    def see_forward(self, wish: Forward) -> ObjectState | None:
        there = self.kernel.elements.get(wish.key)
        return self.see_element(there) if there else None

    def see_element(self, there: Gateway | Forward) -> ObjectState:
        external = there.external or ""
        if isinstance(there, Forward):
            return ForwardState(**vars(there))
        uplink = self.kernel.links.get(external)
        addresses = tuple(_bare(cidr) for cidr in uplink.addresses) if uplink else ()
        fixed = tuple(a for a in (there.snat4, there.snat6) if a)
        return GatewayState(**vars(there), external_addresses=fixed or addresses)


class _Finder:
    """What an id leads to when nothing else is known (import)."""

    def __init__(self, state: _State) -> None:
        self.state = state

    def find(self, query: Query) -> Iterator[Object]:
        for (_, identifier), held in self.state.record.owners.items():
            if identifier == query.id:
                yield from held.values()
                return
        link = self.state.kernel.links.get(query.id)
        if link is None:
            return
        if query.kind == "Bridge" and link.kind == "bridge":
            yield Link(link.name, "bridge", mac=link.mac, mtu=link.mtu, stp=link.stp)
        elif query.kind == "TapBinding" and link.kind == "tap":
            yield Link(link.name, "tap", user=link.user, group=link.group, multi_queue=link.multi_queue)
            if link.bridge:
                yield Port(link.name, link.bridge, link.isolated)
        for cidr in link.addresses:
            yield Address(link.name, cidr)


def _facts(state: _State, default_route: str | None, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The answers of functions, with the names of `hostnet.resources.functions`."""
    if name == "bridge":
        return _bridge_facts(state, arguments["name"])
    if name == "forwards":
        return {"portForwards": [_forward_facts(o, w) for o, w in _owned(state) if isinstance(w, Forward)]}
    return {
        "kernel": "6.0.0-fake",
        "nftVersion": "1.0.0-fake",
        "interfaces": [_interface_facts(link) for link in state.kernel.links.values()],
        "defaultRoute": {"ipv4": default_route, "ipv6": default_route} if default_route else {},
        "forwarding": dict(state.kernel.forwarding),
        "firewalls": [],
        "resources": [
            {"urn": urn, "id": identifier, "kind": urn.split("::")[2].rsplit(":", 1)[-1]}
            for urn, identifier in state.record.owners
        ],
    }


def _interface_facts(link: LinkState) -> dict[str, Any]:
    found = {
        "name": link.name, "kind": link.kind, "ifindex": link.ifindex, "macAddress": link.mac, "mtu": link.mtu,
        "up": True, "addresses": list(link.addresses),
    }  # fmt: skip
    return found | ({"bridge": link.bridge} if link.bridge else {})


def _bridge_facts(state: _State, name: str) -> dict[str, Any]:
    link = state.kernel.links.get(name)
    if link is None or link.kind != "bridge":
        raise HostnetError(Code.NOT_FOUND, f"find the bridge {name}", "there is none on this host")
    own = [ipaddress.ip_interface(cidr) for cidr in link.addresses]
    gateways = {address.version: str(address.ip) for address in reversed(own)}
    found = _interface_facts(link) | {
        "subnets": [str(address.network) for address in own],
        "ports": sorted(other for other, port in state.kernel.links.items() if port.bridge == name),
        "leases": [],
    }
    return found | {key: gateways[v] for v, key in ((4, "gateway"), (6, "gateway6")) if v in gateways}


def _forward_facts(owner: Owner, wish: Forward) -> dict[str, Any]:
    return {
        "id": owner[1], "owner": owner[0], "protocol": "+".join(wish.protocols), "packets": 0, "bytes": 0,
        "sourcePorts": _ports(wish.ports), "destinationAddress": wish.address,
        "destinationPorts": _ports(wish.to_ports),
    }  # fmt: skip


def _ports(ports: tuple[int, int]) -> str:
    return str(ports[0]) if ports[0] == ports[1] else f"{ports[0]}:{ports[1]}"


def _owned(state: _State) -> Iterator[tuple[Owner, Object]]:
    """All objects with their owners."""
    for owner, held in state.record.owners.items():
        for wish in held.values():
            yield owner, wish


def _all(state: _State) -> Iterator[Object]:
    """All objects of all owners."""
    for held in state.record.owners.values():
        yield from held.values()


def _conflict(what: str, why: str) -> HostnetError:
    return HostnetError(Code.CONFLICT, what, why)


def _bare(address: str) -> str:
    return address.split("/", maxsplit=1)[0]


def _in_cidr(address: str, subnets: list[ipaddress.IPv4Interface | ipaddress.IPv6Interface]) -> str:
    """An address with its subnet's prefix length."""
    if "/" in address:
        return address
    ip = ipaddress.ip_address(address)
    length = next((s.network.prefixlen for s in subnets if ip in s.network), ip.max_prefixlen)
    return f"{address}/{length}"


def _make_link(kernel: _Kernel, name: str, kind: str, index: int | None, **values: Any) -> None:
    if index is None:
        index, kernel.next_index = kernel.next_index, kernel.next_index + 1
    mac = f"02:00:00:00:00:{index:02x}"
    kernel.links[name] = replace(LinkState(name, kind, index, mac, 1500), **values)


def _drop_link(kernel: _Kernel, name: str) -> None:
    """As the kernel does it: its ports are free, its addresses gone."""
    kernel.links.pop(name, None)
    for other, link in list(kernel.links.items()):
        if link.bridge == name:
            kernel.links[other] = replace(link, bridge=None, isolated=False)


def _attach(kernel: _Kernel, name: str, bridge: str, *, isolated: bool) -> None:
    kernel.links[name] = replace(kernel.links[name], bridge=bridge, isolated=isolated)
