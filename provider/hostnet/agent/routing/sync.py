"""Brings marks, routing rules and tables to what the owners need, and says what of them is missing."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace

from hostnet.agent.linux.kernel import Kernel, Nftables
from hostnet.agent.linux.libnftables import MissingLibraryError, NftError
from hostnet.agent.linux.operations import AddRule, Operation
from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.plan.uplinks import reply_uplinks
from hostnet.agent.record.owners import Owners
from hostnet.agent.record.record import Record
from hostnet.agent.record.replies import Replies
from hostnet.agent.routing.replies import NoNumberError, numbered, steps, table_name, table_text
from hostnet.wire.digest import sha256


class RoutingError(Exception):
    """A rule or a route that the kernel refuses."""

    def __init__(self, operation: Operation, error: OSError) -> None:
        super().__init__(str(operation))
        self.operation, self.error = operation, error


class ReplyRouting:
    """Of one record on a host.

    Args:
        kernel: The host's.
        nft: The host's nftables.
        own: What ends the comments of this record's elements.
    """

    def __init__(self, kernel: Kernel, nft: Nftables, own: str = "") -> None:
        self._kernel, self._nft, self._name = kernel, nft, table_name(own)

    def prepare(self, record: Record, owners: Owners, snapshot: Snapshot) -> None:
        """Have the record hold the numbers that `sync` is going to use, for an agent that finishes or undoes it."""
        uplinks = reply_uplinks(owners, snapshot, record.replies.routes)
        if uplinks:
            routes = numbered(uplinks, record.replies.routes, self._kernel.policy())
            record.replies = replace(record.replies, routes={**record.replies.routes, **routes})

    def sync(self, record: Record, owners: Owners, snapshot: Snapshot) -> bool:
        """Make what these owners need, and take away what no owner needs any more.

        Args:
            record: The host's.
            owners: All owners.
            snapshot: The host's interfaces and default routes.

        Returns:
            Whether anything was changed.

        Raises:
            RoutingError: The kernel refuses a rule or a route.
            NoNumberError: No mark is free.
            NftError: nft refuses the table.
            MissingLibraryError: libnftables is not installed.
        """
        held = record.replies.routes
        uplinks = reply_uplinks(owners, snapshot, held)
        if not uplinks and record.replies == Replies():
            return False
        policy = self._kernel.policy()
        routes = numbered(uplinks, held, policy)
        operations = list(steps(held, routes, policy))
        for operation in operations:
            self._perform(operation)
        record.replies = replace(record.replies, routes=routes)
        return self._sync_table(record) or bool(operations)

    def _perform(self, operation: Operation) -> None:
        try:
            self._kernel.perform(operation)
        except OSError as error:
            raise RoutingError(operation, error) from None

    def _sync_table(self, record: Record) -> bool:
        """Replace the table where it is not as it should be; whether it was not."""
        routes, there = record.replies.routes, self._rules()
        text = table_text(self._name, routes) if routes else ""
        digest = sha256(text.encode()).hexdigest()[:16] if text else ""
        if (digest, there) == (record.replies.text, record.replies.rules):
            return False
        drop = f"delete table {self._name}\n" if there else ""
        if drop or text:
            self._nft.run(drop + text)
        record.replies = replace(record.replies, text=digest, rules=self._rules() if text else "")
        return True

    def _rules(self) -> str:
        """A hash of the table's chains and rules; "" where there is no table."""
        try:
            listed = self._nft.list(f"list table {self._name}")
        except NftError:
            return ""
        bodies = [{k: x for k, x in body.items() if k != "handle"} for item in listed for body in item.values()]
        return sha256(json.dumps(bodies, sort_keys=True).encode()).hexdigest()[:16]

    def faults(self, record: Record, owners: Owners, snapshot: Snapshot) -> dict[str, str]:
        """What is missing, by uplink.

        Args:
            record: The host's.
            owners: All owners.
            snapshot: The host's interfaces and default routes.
        """
        held = record.replies.routes
        uplinks = reply_uplinks(owners, snapshot, held)
        if not uplinks:
            return {}
        try:
            whole = bool(record.replies.text) and self._rules() == record.replies.rules
        except MissingLibraryError:
            whole = False
        policy, found = self._kernel.policy(), {}
        with suppress(NoNumberError):
            for link, each in numbered(uplinks, held, policy).items():
                left = list(steps({}, {link: each}, policy))
                if held.get(link) != each or any(isinstance(step, AddRule) for step in left):
                    found[link] = "a routing rule is missing, or comes after another program's"
                elif left:
                    found[link] = f"routing table {each.table} has not the routes through {link}"
        return {
            link: found.get(link, "its connections are not marked") for link in uplinks if link in found or not whole
        }
