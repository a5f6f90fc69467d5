"""What there is: views for reads, facts for functions, drift. Changes nothing, but lets go what a read found gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hostnet.agent import facts
from hostnet.agent.context import context_of
from hostnet.agent.doctor import doctor
from hostnet.agent.elements import Context, compile_common
from hostnet.agent.nftables import MissingLibraryError
from hostnet.agent.owners import Owner
from hostnet.agent.parts import Parts
from hostnet.agent.reading import is_gone, owner_of
from hostnet.agent.record import Record
from hostnet.agent.resolve import World
from hostnet.agent.state import Snapshot
from hostnet.agent.status import status
from hostnet.agent.strangers import strange_forwards
from hostnet.agent.sysctls import FORWARDING
from hostnet.agent.transition import Transition, names_of
from hostnet.agent.view import Sight, see
from hostnet.errors import HostnetError
from hostnet.hosts.api import Query, View
from hostnet.objects import Forward, Gateway


class Seeing:
    """Of one host."""

    def __init__(self, parts: Parts, transition: Transition) -> None:
        self._parts, self._transition = parts, transition

    def read(self, queries: list[Query]) -> list[View | HostnetError | None]:
        """What there is for each query, from one look at the host."""
        with self._parts.store.locked() as record:
            self._transition.recover(record)
            snapshot = self._parts.kernel.snapshot()
            found = [_attempt(query, record, snapshot) for query in queries]
            owners = record.owners.copy()
            for each in found:
                if isinstance(each, Owner):
                    owners[each.key] = each
            sight = self.sight(replace(record, owners=owners), snapshot, self._listed(record, owners))
            sight = replace(sight, held=record.owners, dropped=self._parts.foreign.missing(owners, sight.context))
            views = [self._view(x, sight) if isinstance(x, Owner) else x for x in found]
            claims = {x.key: q.urn for q, x in zip(queries, found) if isinstance(x, Owner) and _imports(q, x, record)}
            if claims.items() - record.claims.items():
                record.claims.update(claims)
                self._transition.save(record)
            gone = [x.key for x, view in zip(found, views) if isinstance(x, Owner) and view is None]
            self._forget(record, [key for key in gone if key in record.owners], snapshot)
            return views

    def _forget(self, record: Record, keys: list[str], snapshot: Snapshot) -> None:
        """What a read found gone is let go: a state that drops it now will never ask to delete it.

        Others' things are left as they are: a read mends nothing.
        """
        if not keys:
            return
        if len(keys) == len(record.owners):
            self._transition.run(record, {key: (record.owners[key], None) for key in keys}, snapshot)
            return
        for key in keys:
            record.owners.remove(key)
        context = context_of(record.owners, snapshot, record.attached)
        self._parts.switches.release(record, record.owners, context, snapshot)
        self._transition.save(record)

    def facts(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Answer a function's question.

        :raises HostnetError: for a thing that is not there.
        """
        with self._parts.store.locked() as record:
            snapshot = self._parts.kernel.snapshot()
            if name == "bridge":
                return facts.bridge_facts(arguments["name"], snapshot, self._parts.servers.leases(arguments["name"]))
            if name == "forwards":
                return facts.forward_facts(record.owners, snapshot, self._parts.table)
            if name == "status":
                return self._status(record, snapshot)
            if name == "doctor":
                place, watching = self._parts.store.path.parent, self._parts.service.watching(record.owners)
                machine = self._parts.store.instance is None
                return doctor(record, place, self._parts.table, watching, self._parts.kernel, machine=machine)
            switches = {name: self._parts.kernel.sysctl(name) for name in FORWARDING.values()}
            return facts.host_facts(record.owners, snapshot, self._parts.table, switches)

    def _status(self, record: Record, snapshot: Snapshot) -> dict[str, Any]:
        listed = self._listed(record, record.owners)
        sight = self.sight(record, snapshot, listed)
        sight = replace(sight, dropped=self._parts.foreign.missing(record.owners, sight.context))
        desired = self._parts.compiler.desired(record.owners, sight.context)
        forwards = facts.forward_facts(record.owners, snapshot, self._parts.table)
        return {**status(sight, desired, listed, self._parts.service.watching(record.owners)), **forwards}

    def _listed(self, record: Record, owners: Mapping[str, Owner]) -> Mapping:  # type: ignore[type-arg]
        """The table's elements; none where its rules are not as we made them: elements without rules do nothing."""
        if not any(isinstance(item, (Gateway, Forward)) for owner in owners.values() for item in owner.objects):
            return {}
        try:
            listing = self._parts.table.listing()
        except MissingLibraryError:
            return {}
        if listing is None or (record.table.rules and listing.rules != record.table.rules):
            return {}
        return listing.elements

    def _view(self, owner: Owner, sight: Sight) -> View | None:
        seen = see(owner, sight)
        if is_gone(owner, seen):
            return None
        strange = strange_forwards(owner, sight)
        objects, seen = (*owner.objects, *(x for x, _ in strange)), (*seen, *(x for _, x in strange))
        return View(owner.id, objects, seen, self._parts.service.warnings(owner))

    def _within(self, record: Record, context: Context, snapshot: Snapshot, elements: Mapping[Any, Any]) -> bool:
        """Whether what all forwards share for `loopback` is there: elements, hairpin mode, and `route_localnet`."""
        shared = all((element.set, element.key) in elements for element, _ in compile_common(context))
        return shared and _hairpinned(context, snapshot) and self._parts.switches.local(record)

    def sight(self, record: Record, snapshot: Snapshot, elements: Mapping | None) -> Sight:  # type: ignore[type-arg]
        """What views are made from; without `elements` those that were just applied are taken for seen."""
        world = World(record.owners, snapshot)
        context = context_of(record.owners, snapshot, record.attached)
        desired = self._parts.compiler.desired(record.owners, context).elements
        strange = {} if elements is None else {k: v for k, v in elements.items() if k not in desired}
        if elements is None:
            elements = desired
        return Sight(
            world,
            context,
            elements,
            record.attached,
            names_of(record.owners.values()),
            lambda family: self._parts.switches.on(record, family),
            strange,
            self._within(record, context, snapshot, elements),
            dhcp=lambda server: self._parts.servers.see(server, world),
        )


def _hairpinned(context: Context, snapshot: Snapshot) -> bool:
    links = [snapshot.links[port] for port in context.ports if port in snapshot.links]
    return all(link.hairpin for link in links if link.master)


def _imports(query: Query, found: Owner, record: Record) -> bool:
    """Whether a query asks, for an import, for what another stack's resource has."""
    return not query.objects and found.key in record.owners and found.urn != query.urn


def _attempt(query: Query, record: Record, snapshot: Snapshot) -> Owner | HostnetError | None:
    try:
        return owner_of(query, record, snapshot)
    except HostnetError as error:
        return error
