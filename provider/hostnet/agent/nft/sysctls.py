"""The sysctls that owners need: set with the first owner that needs one, and restored with the last.

An old value is restored only if the sysctl still has ours: another program may have set it since.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping

from hostnet.agent.linux.kernel import Kernel
from hostnet.agent.linux.operations import WriteSysctl
from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.nft.context import Context
from hostnet.agent.nft.forward_elements import localnet_devices
from hostnet.agent.record.owners import Owner
from hostnet.agent.record.record import Record, Sysctl
from hostnet.wire.objects import Forwarding, Link, Port

FORWARDING = {"ipv4": "net.ipv4.ip_forward", "ipv6": "net.ipv6.conf.all.forwarding"}
_ACCEPT_RA = ".accept_ra"


class SysctlError(Exception):
    """A sysctl that can't be set."""

    def __init__(self, operation: WriteSysctl, error: OSError) -> None:
        super().__init__(operation.name)
        self.operation, self.error = operation, error


class Sysctls:
    """The sysctls of a host.

    Args:
        kernel: The host's.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def sync(self, record: Record, owners: Mapping[str, Owner], context: Context, snapshot: Snapshot) -> None:
        """Set what these owners need, and restore what no owner needs any more.

        Args:
            record: The host's; it remembers old values.
            owners: All owners.
            context: What their elements depend on.
            snapshot: The host's interfaces.

        Raises:
            SysctlError: One can't be set.
        """
        wanted = dict(self._wanted(record, owners, context, snapshot))
        for name, value in wanted.items():
            current = self._kernel.sysctl(name)
            if current is None:
                continue  # the interface does not exist (yet)
            if name not in record.sysctls:
                record.sysctls[name] = Sysctl(current, value)
            if current != value:
                self._write(name, value)
        self._release(record, wanted)

    def remember(self, record: Record, owners: Mapping[str, Owner], context: Context, snapshot: Snapshot) -> None:
        """Have the record remember the values that `sync` is going to change, for whoever undoes the transaction."""
        for name, value in self._wanted(record, owners, context, snapshot):
            current = self._kernel.sysctl(name)
            if current is not None and name not in record.sysctls:
                record.sysctls[name] = Sysctl(current, value)

    def release(self, record: Record, owners: Mapping[str, Owner], context: Context, snapshot: Snapshot) -> None:
        """Restore what none of these owners needs any more, and set nothing.

        Raises:
            SysctlError: One can't be set.
        """
        self._release(record, dict(self._wanted(record, owners, context, snapshot)))

    def _release(self, record: Record, wanted: Mapping[str, str]) -> None:
        for name in reversed([name for name in record.sysctls if name not in wanted]):
            self._restore(name, record.sysctls.pop(name))

    def _restore(self, name: str, held: Sysctl) -> None:
        if held.old != held.ours and self._kernel.sysctl(name) == held.ours:
            self._write(name, held.old)

    def _write(self, name: str, value: str) -> None:
        operation = WriteSysctl(name, value)
        try:
            self._kernel.perform(operation)
        except OSError as error:
            if error.errno != errno.ENOENT:  # the interface was deleted in between
                raise SysctlError(operation, error) from None

    def _wanted(
        self, record: Record, owners: Mapping[str, Owner], context: Context, snapshot: Snapshot
    ) -> Iterator[tuple[str, str]]:
        families = {item.family for owner in owners.values() for item in owner.of(Forwarding)}
        items = [item for owner in owners.values() for item in owner.objects]
        for device in sorted(localnet_devices(items, context)):
            yield f"net.ipv4.conf.{device.replace('.', '/')}.route_localnet", "1"
        if "ipv6" in families:
            # Before forwarding: with it on, the kernel ignores router advertisements on an interface with accept_ra=1,
            # and the uplink loses its default route (systemd#40322). 0 is left alone.
            inner = _inner(owners, context)
            for name in self._accepting(record, inner, snapshot):
                yield name, "2"
        for family in sorted(families):
            yield FORWARDING[family], "1"

    def _accepting(self, record: Record, inner: set[str], snapshot: Snapshot) -> Iterator[str]:
        for link in snapshot.links.values():
            name = f"net.ipv6.conf.{link.name.replace('.', '/')}{_ACCEPT_RA}"
            if link.name == "lo" or link.name in inner or link.master:
                continue
            if name in record.sysctls or self._kernel.sysctl(name) == "1":
                yield name

    def local(self, record: Record) -> bool:
        """Whether 127.0.0.1 reaches the guests that it should: every `route_localnet` has our value."""
        held = [(name, each) for name, each in record.sysctls.items() if name.endswith(".route_localnet")]
        return all(self._kernel.sysctl(name) in (None, each.ours) for name, each in held)

    def on(self, record: Record, family: str) -> bool:
        """Whether every sysctl that forwarding of this family needs has its value."""
        names = [FORWARDING[family]]
        if family == "ipv6":
            names += [name for name in record.sysctls if name.endswith(_ACCEPT_RA)]
        held = [record.sysctls.get(name) for name in names]
        return all(
            (current := self._kernel.sysctl(name)) is None or current == (each.ours if each else "1")
            for name, each in zip(names, held)
        )


def _inner(owners: Mapping[str, Owner], context: Context) -> set[str]:
    """The interfaces that are no uplinks: ours, those that we attached to bridges, and those behind gateways."""
    names = {name for gateway in context.gateways.values() for name in gateway.internal}
    for owner in owners.values():
        names |= {link.name for link in owner.of(Link)} | {port.link for port in owner.of(Port)}
    return names
