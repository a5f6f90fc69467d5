"""Answers what is on the host: views for reads, facts for functions, status. Drops owners that a read found deleted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from hostnet.agent.linux.libnftables import MissingLibraryError
from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.nft.context import context_of
from hostnet.agent.nft.elements import Context, compile_common
from hostnet.agent.nft.sysctls import FORWARDING
from hostnet.agent.observe import facts
from hostnet.agent.observe.doctor import doctor
from hostnet.agent.observe.lookup import is_gone, owner_of
from hostnet.agent.observe.status import status
from hostnet.agent.observe.undeclared import strange_forwards
from hostnet.agent.observe.view import Observation, see
from hostnet.agent.plan.resolve import World
from hostnet.agent.record.owners import Owner
from hostnet.agent.record.phase import Idle
from hostnet.agent.record.record import Record
from hostnet.agent.transaction.apply import Applier
from hostnet.agent.transaction.restore import Restorer
from hostnet.agent.transaction.subsystems import Subsystems
from hostnet.agent.transaction.transition import names_of
from hostnet.wire.errors import HostnetError
from hostnet.wire.objects import Forward, Gateway, ObjectState
from hostnet.wire.requests import Query, View


class Queries:
    """Of one host."""

    def __init__(self, subsystems: Subsystems, applier: Applier, restorer: Restorer) -> None:
        self._subsystems, self._applier, self._restorer = subsystems, applier, restorer

    def read(self, queries: list[Query]) -> list[View | HostnetError | None]:
        """What there is for each query, from one look at the host."""
        with self._subsystems.store.locked() as record:
            self._restorer.roll_back(record)
            snapshot = self._subsystems.kernel.snapshot()
            self._restorer.renew_table(record, snapshot)
            found = [_attempt(query, record, snapshot) for query in queries]
            owners = record.owners.copy()
            for each in found:
                if isinstance(each, Owner):
                    owners[each.key] = each
            observation = self.observation(replace(record, owners=owners), snapshot, self._listed(record, owners))
            observation = replace(
                observation, held=record.owners, dropped=self._subsystems.firewalls.missing(owners, observation.context)
            )
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
        for key in keys:
            record.owners.remove(key)
        context = context_of(record.owners, snapshot, record.attached)
        self._subsystems.sysctls.release(record, record.owners, context, snapshot)
        self._subsystems.save(record)

    def facts(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Answer a function's question.

        :raises HostnetError: for a thing that is not there.
        """
        with self._subsystems.store.locked() as record:
            snapshot = self._subsystems.kernel.snapshot()
            if name == "bridge":
                return facts.bridge_facts(
                    arguments["name"], snapshot, self._subsystems.servers.leases(arguments["name"])
                )
            if name in ("forwards", "status"):
                self._restorer.renew_table(record, snapshot)
            if name == "forwards":
                return facts.forward_facts(record.owners, snapshot, self._subsystems.table)
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
        listed = self._listed(record, record.owners)
        observation = self.observation(record, snapshot, listed)
        observation = replace(
            observation, dropped=self._subsystems.firewalls.missing(record.owners, observation.context)
        )
        desired = self._subsystems.compiler.desired(record.owners, observation.context)
        forwards = facts.forward_facts(record.owners, snapshot, self._subsystems.table)
        return {
            **status(observation, desired, listed, self._subsystems.persistence.watching(record.owners)),
            **forwards,
        }

    def _listed(self, record: Record, owners: Mapping[str, Owner]) -> Mapping:  # type: ignore[type-arg]
        """The table's elements; none where its rules are not as we made them: elements without rules do nothing."""
        if not any(isinstance(item, (Gateway, Forward)) for owner in owners.values() for item in owner.objects):
            return {}
        try:
            listing = self._subsystems.table.listing()
        except MissingLibraryError:
            return {}
        if listing is None or (record.table.rules and listing.rules != record.table.rules):
            return {}
        return listing.elements

    def _view(self, owner: Owner, observation: Observation) -> View | None:
        seen = see(owner, observation)
        if is_gone(owner, seen):
            return None
        strange = strange_forwards(owner, observation)
        objects, seen = (*owner.objects, *(x for x, _ in strange)), (*seen, *(x for _, x in strange))
        return View(owner.id, objects, seen, self._subsystems.persistence.warnings(owner))

    def states(self, record: Record, owners: Iterable[Owner]) -> Iterator[tuple[ObjectState | None, ...]]:
        """The state of each object of owners that were just applied: our elements are taken for there."""
        observation = self.observation(record, self._subsystems.kernel.snapshot(), None)
        return (see(owner, observation) for owner in owners)

    def _within(self, record: Record, context: Context, snapshot: Snapshot, elements: Mapping[Any, Any]) -> bool:
        """Whether what all forwards share for `loopback` is there: elements, hairpin mode, and `route_localnet`."""
        shared = all((element.set, element.key) in elements for element, _ in compile_common(context))
        return shared and _hairpinned(context, snapshot) and self._subsystems.sysctls.local(record)

    def observation(self, record: Record, snapshot: Snapshot, elements: Mapping | None) -> Observation:  # type: ignore[type-arg]
        """What views are made from; without `elements` those that were just applied are taken for seen."""
        world = World(record.owners, snapshot)
        context = context_of(record.owners, snapshot, record.attached)
        desired = self._subsystems.compiler.desired(record.owners, context).elements
        strange = {} if elements is None else {k: v for k, v in elements.items() if k not in desired}
        if elements is None:
            elements = desired
        return Observation(
            world,
            context,
            elements,
            record.attached,
            names_of(record.owners.values()),
            lambda family: self._subsystems.sysctls.on(record, family),
            strange,
            self._within(record, context, snapshot, elements),
            dhcp=lambda server: self._subsystems.servers.see(server, world),
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
