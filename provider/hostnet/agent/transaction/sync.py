"""Brings what is no link to what the owners need: our table, sysctls, DHCP servers, others' firewalls.

Each function says, where it fails, which owners it failed for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import replace
from functools import cache

from hostnet.agent.dhcp import config as dhcp
from hostnet.agent.dhcp.dnsmasq import ServerError
from hostnet.agent.firewalls.sync import FirewallError, firewall_error
from hostnet.agent.linux.conntrack import Flows
from hostnet.agent.linux.install_hints import advice_here
from hostnet.agent.linux.libnftables import MissingLibraryError, NftError
from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.nft.context import context_of
from hostnet.agent.nft.desired import ClashError, Desired
from hostnet.agent.nft.egress import forbidden_flows
from hostnet.agent.nft.flows import newly_translated, redirected
from hostnet.agent.nft.sysctls import SysctlError
from hostnet.agent.nft.table import refused
from hostnet.agent.plan.world import World
from hostnet.agent.record.owners import Owners
from hostnet.agent.record.phase import Pairs
from hostnet.agent.record.record import Record
from hostnet.agent.routing.replies import NoNumberError
from hostnet.agent.routing.sync import RoutingError
from hostnet.agent.transaction.kernel_errors import OwnerError, clash_error, kernel_error
from hostnet.agent.transaction.subsystems import Subsystems
from hostnet.agent.transaction.transition import Transition, effective
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import DhcpServer, Forwarding, Gateway, Guest, Link, Object

_REPLIES = "cannot have replies leave by the uplink of the request (replyBySameUplink)"


class Synchronizer:
    """Of one host.

    In its functions `pairs` are those of a transition that are still tried, and `owners` all that there should be
    afterwards. `verify`: compare with what the host has instead of what the record says that it has.
    """

    def __init__(self, subsystems: Subsystems) -> None:
        self._subsystems = subsystems

    def table(self, transition: Transition, pairs: Pairs, owners: Owners, *, verify: bool) -> list[Flows]:
        """Bring our table to what the owners need, in one batch.

        Where it verifies, it puts back what is missing of any owner.

        Returns:
            The flows that should go elsewhere, or with another source, from now on. The kernel keeps each on its path
            while packets come.

        Raises:
            OwnerError: Two owners need different values of one element, nft refused, or it is not installed.
        """
        record, table = transition.record, self._subsystems.table
        known = _with_lost(transition.before, pairs)
        old_context = context_of(known, transition.snapshot, transition.attached_before)
        old = self._subsystems.compiler.desired(known, old_context)
        context = transition.context(owners, known)
        try:
            new = self._subsystems.compiler.desired(owners, context)
        except ClashError as clash:
            newer, holder = (clash.owner, clash.holder) if clash.owner in pairs else (clash.holder, clash.owner)
            raise OwnerError([newer], clash_error(clash, owners.get(holder))) from None
        forbidden = forbidden_flows(known, owners, old_context, context, cache(table.answered))
        flows: list[Flows] = [*redirected(old, new), *forbidden]
        if old.elements or new.elements or record.table.rules or (verify and table.there):
            # What is compiled from today's addresses may not be what was compiled when the record was written, and of
            # an owner that the record lacks only the state says that its elements were ever there.
            look = verify or known is not transition.before or old_context.observed != record.table.observed
            mark = replace(record.table, generation=0) if look else record.table
            try:
                synced = table.sync(old, new, mark, set(owners) if verify else set(pairs))
            except (NftError, MissingLibraryError) as error:
                raise self._table_error(transition, pairs, error) from None
            record.table = replace(synced.mark, observed=context.observed)
            flows += newly_translated(synced.added, context, transition.snapshot)
        return flows

    def withdraw(self, record: Record, owners: Owners, snapshot: Snapshot) -> None:
        """Take away what is left of owners whose thing another program deleted, and repair nothing.

        A read does this: the guests of such a TAP have leases still, its port is in hairpin mode by our table, and what
        the others have would look changed.

        Args:
            record: With all owners.
            owners: Those that are left.
            snapshot: What the kernel has.
        """
        before, after = World(record.owners, snapshot), World(owners, snapshot)
        gone = [owner for key, owner in record.owners.items() if key not in owners]
        old_context = context_of(record.owners, snapshot, record.attached)
        context = context_of(owners, snapshot, record.attached)
        compiler, servers = self._subsystems.compiler, self._subsystems.servers
        # Where this fails, the next change does it, and says why.
        with contextlib.suppress(ClashError, NftError, MissingLibraryError):
            old, new = compiler.desired(record.owners, old_context), compiler.desired(owners, context)
            mark = self._subsystems.table.withdraw(old, new, record.table)
            record.table = replace(mark, observed=context.observed)
        bridges = set().union(*(dhcp.bridges_of(owner, owners) for owner in gone))
        running = {x.bridge for x in record.owners.every(DhcpServer) if servers.state(x, before).running}
        with contextlib.suppress(ServerError):
            servers.sync(after, bridges & running)
        with contextlib.suppress(FirewallError):
            self._subsystems.firewalls.sync(record.owners, owners, context, snapshot, exact=False)

    def _table_error(self, transition: Transition, pairs: Pairs, error: NftError | MissingLibraryError) -> OwnerError:
        if isinstance(error, MissingLibraryError):
            what = "cannot set up the nftables tables"
            missing = HostnetError(Code.UNSUPPORTED, what, str(error), advice_here("libnftables"))
            return OwnerError(list(pairs), missing)
        # Tried one by one: of a batch of several lines nft 1.0.6 may name the wrong one.
        at_fault = [key for key in pairs if self._is_refused(transition, {key: pairs[key]})]
        return OwnerError(at_fault or list(pairs), refused("the nftables batch failed", error))

    def _is_refused(self, transition: Transition, pairs: Pairs) -> bool:
        """Whether nft refuses the elements of these owners by themselves: the others of a joined batch go through."""
        before, record, compiler = transition.before, transition.record, self._subsystems.compiler
        owners = effective(before, pairs, {})
        try:
            old = compiler.desired(before, context_of(before, transition.snapshot, record.attached))
            new: Desired = compiler.desired(owners, transition.context(owners))
            with self._subsystems.table.rehearsal():
                self._subsystems.table.sync(old, new, record.table, set(pairs))
        except (ClashError, NftError):
            return True
        return False

    def sysctls(self, transition: Transition, pairs: Pairs, owners: Owners) -> None:
        """Set the sysctls that the owners need, restore those that no owner needs any more.

        Raises:
            OwnerError: One can't be set.
        """
        record, snapshot = transition.record, transition.snapshot
        try:
            context = context_of(owners, snapshot, record.attached)
            transition.performed |= self._subsystems.sysctls.sync(record, owners, context, snapshot)
        except SysctlError as failure:
            transition.performed = True
            error = kernel_error(failure.operation, failure.error)
            raise OwnerError(list(_with_any(pairs, {Forwarding, Gateway, Guest})), error) from None

    def prepare_routing(self, transition: Transition) -> None:
        """Have the record hold the numbers that `routing` is going to use."""
        with contextlib.suppress(NoNumberError):  # `routing` says so
            self._subsystems.routing.prepare(transition.record, transition.owners, transition.snapshot)
        self._subsystems.proxies.prepare(transition.record, transition.owners)

    def proxies(self, transition: Transition, pairs: Pairs, owners: Owners) -> None:
        """Have the host answer for guests.

        Raises:
            OwnerError: The kernel refuses an entry.
        """
        try:
            transition.performed |= self._subsystems.proxies.sync(transition.record, owners)
        except RoutingError as failure:
            error = kernel_error(failure.operation, failure.error)
            raise OwnerError(list(_with_any(pairs, {Guest})), error) from None

    def routing(self, transition: Transition, pairs: Pairs, owners: Owners) -> None:
        """Have replies leave by the uplink that the request came in by.

        Raises:
            OwnerError: The kernel or nft refuses what that needs.
        """
        keys = list(_with_any(pairs, {Gateway}))
        try:
            changed = self._subsystems.routing.sync(transition.record, owners, transition.snapshot)
        except RoutingError as failure:
            raise OwnerError(keys, kernel_error(failure.operation, failure.error)) from None
        except NoNumberError:
            why = "the routing rules of other programs take every mark that hostnet could use"
            error = HostnetError(Code.CONFLICT, _REPLIES, why, "Set replyBySameUplink to false")
            raise OwnerError(keys, error) from None
        except MissingLibraryError as missing:
            error = HostnetError(Code.UNSUPPORTED, _REPLIES, str(missing), advice_here("libnftables"))
            raise OwnerError(keys, error) from None
        except NftError as refusal:
            raise OwnerError(keys, refused(_REPLIES, refusal)) from None
        transition.performed |= changed

    def servers(self, transition: Transition, pairs: Pairs, owners: Owners) -> None:
        """Start, reconfigure and stop the DHCP servers of the bridges that these pairs are about.

        Raises:
            OwnerError: A server does not run.
        """
        bridges = {key: set().union(*(dhcp.bridges_of(each, owners) for each in pair)) for key, pair in pairs.items()}
        try:
            self._subsystems.servers.sync(World(owners, transition.snapshot), set().union(*bridges.values()))
        except ServerError as failure:
            at_fault = [key for key, names in bridges.items() if failure.bridge in names]
            raise OwnerError(at_fault, failure.error) from None

    def firewalls(self, transition: Transition, pairs: Pairs, owners: Owners, *, verify: bool) -> None:
        """Have others' firewalls accept the owners' traffic.

        Where it verifies, it looks at them even if no owner needs anything of them.

        Raises:
            OwnerError: A chain does not take our rules.
        """
        try:
            self._subsystems.firewalls.sync(
                transition.before, owners, transition.context(owners), transition.snapshot, exact=verify
            )
        except FirewallError as failure:
            raise OwnerError(list(_with_any(pairs, {Gateway, Link})), firewall_error(failure)) from None


def _with_lost(before: Owners, pairs: Pairs) -> Owners:
    """All owners before, with those that are missing from a record that was lost: their elements may be there."""
    lost = {key: old for key, (old, _) in pairs.items() if old is not None and key not in before}
    if not lost:
        return before
    known = before.copy()
    for key, owner in lost.items():
        known[key] = owner
    return known


def _with_any(pairs: Pairs, kinds: set[type[Object]]) -> Iterable[str]:
    """The owners that have, or had, an object of one of these kinds."""
    return (key for key, (old, new) in pairs.items() if (owner := new or old) is not None and owner.kinds & kinds)
