"""Answers what is on the host: views for reads, facts for functions, status. Drops owners that a read found deleted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

from hostnet.agent.indexes.sharing import SharingMap
from hostnet.agent.linux.libnftables import MissingLibraryError
from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.nft.context import Context, context_of
from hostnet.agent.nft.ruleset import Place
from hostnet.agent.nft.syntax import Listing
from hostnet.agent.nft.sysctls import FORWARDING
from hostnet.agent.observe import facts
from hostnet.agent.observe.doctor import doctor
from hostnet.agent.observe.listeners import absent
from hostnet.agent.observe.lookup import is_gone, owner_of
from hostnet.agent.observe.observation import Elements, Observation
from hostnet.agent.observe.refused import Answers, Counters, dropped_by_link, refused_facts, seen
from hostnet.agent.observe.states import extra, promised, states
from hostnet.agent.observe.status import status
from hostnet.agent.plan.uplinks import reply_uplinks
from hostnet.agent.plan.world import World
from hostnet.agent.record.owners import Owner, Owners
from hostnet.agent.record.phase import Idle
from hostnet.agent.record.record import Record
from hostnet.agent.routing.proxies import proxied
from hostnet.agent.transaction.apply import Applier
from hostnet.agent.transaction.restore import Restorer
from hostnet.agent.transaction.subsystems import Subsystems
from hostnet.agent.transaction.sync import Synchronizer
from hostnet.agent.transaction.transition import names_of
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.family import family_of
from hostnet.wire.objects import DhcpServer, Link, ObjectState
from hostnet.wire.requests import Query, View

Comparison = tuple[Elements, set[Place], Elements]


class Queries:
    """Of one host."""

    def __init__(self, subsystems: Subsystems, applier: Applier, restorer: Restorer) -> None:
        self._subsystems, self._applier, self._restorer = subsystems, applier, restorer
        self._sync = Synchronizer(subsystems)
        self._compared_last: tuple[Listing, object, Comparison] | None = None

    def read(self, queries: list[Query]) -> list[View | HostnetError | None]:
        """What the host has for each query, from one look at it."""
        with self._subsystems.store.locked() as record:
            self._restorer.roll_back(record)
            snapshot = self._subsystems.kernel.snapshot()
            self._restorer.renew_table(record, snapshot)
            found = [_attempt(query, record, snapshot) for query in queries]
            owners = record.owners.copy()
            for each in found:
                if isinstance(each, Owner):
                    owners[each.key] = each
            observation = self.observe(replace(record, owners=owners), snapshot, held=record.owners)
            views = [self._view(x, observation) if isinstance(x, Owner) else x for x in found]
            claims = {x.key: q.urn for q, x in zip(queries, found) if isinstance(x, Owner) and _imports(q, x, record)}
            if claims.items() - record.claims.items():
                record.claims.update(claims)
                self._subsystems.save(record)
            gone = [x.key for x, view in zip(found, views) if isinstance(x, Owner) and view is None]
            self._drop(record, [key for key in gone if key in record.owners], snapshot)
            return views

    def _drop(self, record: Record, keys: list[str], snapshot: Snapshot) -> None:
        """Drop owners that a read found deleted: a state that drops them as well will never ask to delete them.

        Other owners are left as they are: a read repairs nothing.
        """
        if not keys:
            return
        if len(keys) == len(record.owners):
            self._applier.run(record, {key: (record.owners[key], None) for key in keys}, snapshot)
            record.phase = Idle()
            self._subsystems.commit(record)
            return
        left = record.owners.copy()
        for key in keys:
            left.remove(key)
        self._sync.withdraw(record, left, snapshot)
        record.owners = left
        context = context_of(record.owners, snapshot, record.attached)
        self._subsystems.sysctls.release(record, record.owners, context, snapshot)
        self._subsystems.save(record)

    def facts(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Answer a function (`getHost`, …) or a command (`hostnet status`, …).

        Raises:
            HostnetError: What is asked for is not there.
        """
        with self._subsystems.store.locked() as record:
            snapshot = self._subsystems.kernel.snapshot()
            if name == "bridge":
                return facts.bridge_facts(
                    arguments["name"], snapshot, self._subsystems.servers.leases(arguments["name"])
                )
            if name in ("forwards", "status", "traffic"):
                self._restorer.renew_table(record, snapshot)
            if name == "forwards":
                return facts.forward_facts(record.owners, self._counters())
            if name == "traffic":
                return self._traffic(record)
            if name == "status":
                return self._status(record, snapshot)
            if name == "doctor":
                place, watching = (
                    self._subsystems.store.path.parent,
                    self._subsystems.persistence.watching(record.owners),
                )
                machine = self._subsystems.store.instance is None
                return doctor(record, place, self._subsystems.table, watching, self._subsystems.kernel, machine=machine)
            sysctls = {name: self._subsystems.kernel.sysctl(name) for name in FORWARDING.values()}
            return facts.host_facts(record.owners, snapshot, self._subsystems.table, sysctls)

    def _status(self, record: Record, snapshot: Snapshot) -> dict[str, Any]:
        watching = self._subsystems.persistence.watching(record.owners)
        counters = self._counters()  # first: what `observe` looks at is the same listing then
        observation = self.observe(record, snapshot, held=record.owners)
        late = seen(counters)
        refused = refused_facts(record.owners, late, self._answers())
        found = {"refused": refused, "dropped": dropped_by_link(late)}
        return {**status(observation, watching), **facts.forward_facts(record.owners, counters), **found}

    def _traffic(self, record: Record) -> dict[str, Any]:
        servers = self._subsystems.servers
        bridges = dict.fromkeys(item.bridge for _, item in record.owners.holding(DhcpServer) if item.dhcp)
        leases = [lease for bridge in bridges for lease in servers.leases(bridge)]
        counters, traffic = self._counters(), self._subsystems.kernel.traffic()
        return facts.traffic_facts(record.owners, counters, self._answers(), traffic, leases)

    def _answers(self) -> Answers:
        """The addresses in sets of names: of the listing that the counters are from."""
        try:
            listing = self._subsystems.table.listing()
        except MissingLibraryError:
            return {}
        return listing.answers if listing is not None else {}

    def _counters(self) -> Counters:
        """Packets and bytes by place in our tables, as they are now."""
        try:
            listing = self._subsystems.table.listing(fresh=True)
        except MissingLibraryError:
            listing = None
        return listing.counters if listing else {}

    def _view(self, owner: Owner, observation: Observation) -> View | None:
        found = states(owner, observation)
        if is_gone(owner, found):
            return None
        undeclared = extra(owner, observation)
        objects, found = (*owner.objects, *(x for x, _ in undeclared)), (*found, *(x for _, x in undeclared))
        warnings = (*self._subsystems.persistence.warnings(owner), *absent(owner, observation.world.snapshot))
        return View(owner.id, objects, found, warnings)

    def states(
        self, record: Record, owners: Iterable[Owner], snapshot: Snapshot
    ) -> Iterator[tuple[ObjectState | None, ...]]:
        """The state of each object of owners that were just applied: the elements of our table are taken for there.

        Those that wait for another resource are taken for as declared.

        Args:
            record: As it is afterwards.
            owners: Those that were applied.
            snapshot: What the kernel has.
        """
        context = context_of(record.owners, snapshot, record.attached)
        elements = self._subsystems.compiler.desired(record.owners, context).elements
        waiting = {key: owner.later for key, owner in record.owners.waiting.items()}
        if waiting:
            record = replace(record, owners=record.owners.copy())
            for key, owner in waiting.items():
                record.owners[key] = owner
            context = context_of(record.owners, snapshot, record.attached)
        # An observation of what should be: nothing of it has to be compared.
        observation = replace(self._observation(record, snapshot, context, elements), intact=lambda _: not waiting)
        return ((promised if owner.key in waiting else states)(owner, observation) for owner in owners)

    def observe(self, record: Record, snapshot: Snapshot, *, held: Owners) -> Observation:
        """Look at everything that the owners of a record are about.

        Args:
            record: The owners to look for; more than those that are recorded, where something is imported.
            snapshot: What the kernel has.
            held: The owners that are recorded.
        """
        context = context_of(record.owners, snapshot, record.attached)
        compiler = self._subsystems.compiler
        desired = compiler.desired(record.owners, context).elements
        elements, lost, undeclared = self._compared(record, desired)
        return replace(
            self._observation(record, snapshot, context, elements),
            intact=lambda owner: not lost or lost.isdisjoint(each.place for each in compiler.elements(owner)),
            undeclared=undeclared,
            held=held,
            dropped=self._subsystems.firewalls.dropped(record.owners, context, snapshot),
            watcher_runs=self._subsystems.persistence.watching(record.owners).process is not None,
        )

    def _observation(self, record: Record, snapshot: Snapshot, context: Context, elements: Elements) -> Observation:
        world = World(record.owners, snapshot)
        return Observation(
            world,
            context,
            elements,
            record.attached,
            names_of(record.owners.every(Link)),
            cache(lambda family: self._subsystems.sysctls.on(record, family, record.owners, context, snapshot)),
            loopback_fault=cache(lambda: self._loopback_fault(record, context, snapshot, elements)),
            reflects=cache(lambda: _reflect(context, snapshot)),
            dhcp=lambda server: self._subsystems.servers.state(server, world),
            proxies=cache(lambda: self._proxy_faults(record, context, snapshot)),
            replies=cache(lambda: self._reply_faults(record, snapshot)),
        )

    def _proxy_faults(self, record: Record, context: Context, snapshot: Snapshot) -> dict[str, str]:
        """By a guest's TAP, what is missing for the host to answer for the guest."""
        found: dict[str, str] = {}
        guests = record.owners.proxied_guests
        missing = self._subsystems.proxies.missing(record.owners) if guests else set()
        for guest in guests:
            lost = [address for link, address in proxied(guest) if (link, address) in missing]
            sysctls, families = self._subsystems.sysctls, {family_of(cidr) for cidr in guest.addresses or ()}
            if lost:
                found[guest.link] = f"the host does not answer for {', '.join(lost)} on {guest.proxy}"
            elif not sysctls.proxies(guest):
                found[guest.link] = f"proxy_ndp of {guest.proxy} is off"
            elif not all(sysctls.on(record, family, record.owners, context, snapshot) for family in families):
                found[guest.link] = "forwarding is off"
        return found

    def _reply_faults(self, record: Record, snapshot: Snapshot) -> dict[str, str]:
        """By uplink, what is missing for replies to leave by it."""
        strict = {
            link: "rp_filter drops what comes in there"
            for link in reply_uplinks(record.owners, snapshot, record.replies.routes)
            if not self._subsystems.sysctls.is_loose(link)
        }
        return {**strict, **self._subsystems.routing.faults(record, record.owners, snapshot)}

    def _compared(self, record: Record, desired: SharingMap[Place, tuple[str, ...]]) -> Comparison:
        """The table's elements; the places of those that it lacks or has otherwise; and those that it has too many."""
        if not desired:
            return {}, set(), {}
        there = self._subsystems.table.held(record.table)
        if there is not None:  # most reads: nobody has changed nftables since this agent did
            places = set(desired.differences(there))
            return there, places & desired.keys(), {place: there[place] for place in places - desired.keys()}
        listing = self._listing(record)
        if listing is None:
            return {}, set(desired), {}
        last = self._compared_last
        # The engine refreshes a few resources at a time: of a thousand there are a hundred groups, of one listing.
        if last is None or last[0] is not listing or last[1] is not desired:
            last = self._compared_last = (listing, desired, _compare(listing, desired, self._subsystems.table.own))
        return last[2]

    def _listing(self, record: Record) -> Listing | None:
        """Our tables; None where the rules are not as we made them: elements without rules do nothing.

        Raises:
            HostnetError: hostnet itself has made them otherwise since, so nothing can be said of what they lack.
        """
        try:
            listing = self._subsystems.table.settled()
        except MissingLibraryError:
            return None
        mark = record.table
        if listing is not None and mark.rules and listing.origin.is_another(mark.template):
            why = "another process of hostnet has just replaced them, or was killed at that"
            raise HostnetError(Code.CONFLICT, "cannot compare the nftables tables", why, "Run the command again")
        if listing is None or (mark.rules and listing.rules != mark.rules):
            return None
        return listing

    def _loopback_fault(self, record: Record, context: Context, snapshot: Snapshot, elements: Elements) -> str:
        """What is wrong with what all forwards share for `loopback`; "": nothing."""
        if not all(each.place in elements for each in self._subsystems.compiler.common):
            return "nftables elements are missing"
        if not _reflect(context, snapshot):
            return "a bridge's ports are not in hairpin mode"
        return "" if self._subsystems.sysctls.local(record) else "route_localnet is off"


def _compare(listing: Listing, desired: SharingMap[Place, tuple[str, ...]], own: str) -> Comparison:
    elements, foreign = listing.elements, listing.foreign(own)
    lost = {place for place, value in desired.entries() if elements.get(place) != value}
    return elements, lost, {x: value for x, value in elements.items() if x not in desired and x not in foreign}


def _reflect(context: Context, snapshot: Snapshot) -> bool:
    """Whether all ports that should be in hairpin mode are."""
    links = (snapshot.links[port] for port in context.ports if port in snapshot.links)
    return all(link.hairpin for link in links if link.master)


def _imports(query: Query, found: Owner, record: Record) -> bool:
    """Whether a query asks, for an import, for what another stack's resource has."""
    return not query.objects and found.key in record.owners and found.urn != query.urn


def _attempt(query: Query, record: Record, snapshot: Snapshot) -> Owner | HostnetError | None:
    try:
        return owner_of(query, record, snapshot)
    except HostnetError as error:
        return error
