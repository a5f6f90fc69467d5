"""The sysctls that owners need: set with the first owner that needs one, and restored with the last.

An old value is restored only if the sysctl still has ours: another program may have set it since.

Each interface has its own switches, and a new one gets those of `conf.default`: `conf.all.forwarding` alone says
nothing. systemd-networkd sets `conf.eth0.forwarding=0`, and hardened hosts have `conf.default.forwarding=0`. For IPv4
the switch of the interface that a packet comes in by decides. For IPv6 `conf.all` does (ip6_forward, Linux 6.18); the
interface's own says whether the host is a router to its neighbours, which drop it as their router otherwise (RFC 4861,
7.2.5). An uplink with 0 there takes router advertisements, which is as good as accept_ra=2.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping

from hostnet.agent.linux.kernel import Kernel
from hostnet.agent.linux.operations import WriteSysctl
from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.nft.context import Context
from hostnet.agent.nft.destinations import Destinations
from hostnet.agent.plan.uplinks import reply_uplinks
from hostnet.agent.record.originals import Sysctl
from hostnet.agent.record.owners import Owners
from hostnet.agent.record.record import Record
from hostnet.wire.family import Family, family_of
from hostnet.wire.objects import Guest, Link, Port

FORWARDING: Mapping[Family, str] = {"ipv4": "net.ipv4.ip_forward", "ipv6": "net.ipv6.conf.all.forwarding"}
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
        shared: Whether another record has a network here, too. What is restored could be what that one needs.
    """

    def __init__(self, kernel: Kernel, shared: Callable[[], bool] = lambda: False) -> None:
        self._kernel, self._shared = kernel, shared
        # The interfaces that need `route_localnet`: a forward leads from 127.0.0.1 on the host to a guest behind them.
        self._localnet = Destinations()
        self._closed_homes = Destinations()

    def sync(self, record: Record, owners: Owners, context: Context, snapshot: Snapshot) -> bool:
        """Set what these owners need, and restore what no owner needs any more.

        Args:
            record: The host's; it remembers old values.
            owners: All owners.
            context: What their elements depend on.
            snapshot: The host's interfaces.

        Returns:
            Whether any was set or restored.

        Raises:
            SysctlError: One can't be set.
        """
        wanted = dict(self._wanted(record, owners, context, snapshot))
        written = self._set(record, wanted)
        return self._release(record, wanted) or written

    def follow(
        self, record: Record, owners: Owners, context: Context, snapshot: Snapshot, links: Iterable[str]
    ) -> bool:
        """Set those of these interfaces: each may be a new one of that name, which has the values of `default`.

        What is off of the host as a whole is left as it is: a refresh shows it.

        Returns:
            Whether any was set.

        Raises:
            SysctlError: One can't be set.
        """
        ours = tuple(f".conf.{link.replace('.', '/')}." for link in links)
        wanted = self._wanted(record, owners, context, snapshot)
        return self._set(record, {name: value for name, value in wanted if any(each in name for each in ours)})

    def _set(self, record: Record, wanted: Mapping[str, str]) -> bool:
        written = False
        for name, value in wanted.items():
            current = self._kernel.sysctl(name)
            if current is None:
                continue  # the interface does not exist (yet)
            if name not in record.sysctls:
                record.sysctls[name] = Sysctl(current, value)
            if current != value:
                self._write(name, value)
                written = True
        return written

    def remember(self, record: Record, owners: Owners, context: Context, snapshot: Snapshot) -> None:
        """Have the record remember the values that `sync` is going to change, for whoever undoes the transaction."""
        for name, value in self._wanted(record, owners, context, snapshot):
            current = self._kernel.sysctl(name)
            if current is not None and name not in record.sysctls:
                record.sysctls[name] = Sysctl(current, value)

    def release(self, record: Record, owners: Owners, context: Context, snapshot: Snapshot) -> None:
        """Restore what none of these owners needs any more, and set nothing.

        Raises:
            SysctlError: One can't be set.
        """
        self._release(record, dict(self._wanted(record, owners, context, snapshot)))

    def _release(self, record: Record, wanted: Mapping[str, str]) -> bool:
        """Restore what is not wanted any more; whether there was any."""
        # Forwarding goes off before accept_ra is 1 again: in the other order the uplink would lose its default route.
        unwanted = [name for name in record.sysctls if name not in wanted]
        for name in reversed(unwanted):
            self._restore(name, record.sysctls[name])
            del record.sysctls[name]  # not before: what could not be restored is tried again
        return bool(unwanted)

    def _restore(self, name: str, held: Sysctl) -> None:
        if held.old != held.ours and self._kernel.sysctl(name) == held.ours and not self._shared():
            self._write(name, held.old)

    def _write(self, name: str, value: str) -> None:
        operation = WriteSysctl(name, value)
        try:
            self._kernel.perform(operation)
        except OSError as error:
            if error.errno != errno.ENOENT:  # the interface was deleted in between
                raise SysctlError(operation, error) from None

    def _wanted(
        self, record: Record, owners: Owners, context: Context, snapshot: Snapshot
    ) -> Iterator[tuple[str, str]]:
        yield from self._loose(record, owners, snapshot)
        guests = owners.proxied_guests
        # Of IPv4 the kernel answers for an entry where it forwards; of IPv6 only with this as well (ndisc.c).
        yield from ((name, "1") for name in sorted({name for guest in guests for name in _proxy_switches(guest)}))
        families = owners.families | {family_of(cidr) for guest in guests for cidr in guest.addresses or ()}
        networks = {**context.addresses, **context.bridges}
        for device in sorted(self._localnet.behind(networks, owners.forwards.loopback_targets)):
            yield _of_link("ipv4", device, "route_localnet"), "1"
        if "ipv6" in families:
            # Before forwarding: with it on, the kernel ignores router advertisements on an interface with accept_ra=1,
            # and the uplink loses its default route (systemd#40322). 0 is left alone.
            deaf = {_of_link("ipv6", name, "accept_ra") for name in _deaf_uplinks(owners, context, snapshot)}
            held = {name for name in record.sysctls if name.endswith(_ACCEPT_RA)}
            for name in sorted(deaf | held):
                yield name, "2"
        for family in sorted(families):
            # Before the interfaces' own: a write that changes it sets those of all interfaces (Linux 6.18).
            yield FORWARDING[family], "1"
            for name in self._closed(record, family, owners, context, snapshot):
                yield name, "1"

    def _loose(self, record: Record, owners: Owners, snapshot: Snapshot) -> Iterator[tuple[str, str]]:
        """The uplinks that drop what comes from where the main table leads elsewhere (a strict reverse path filter).

        The larger one of an interface's value and that of `all` counts (ip-sysctl): 2 is the largest.
        """
        for link in reply_uplinks(owners, snapshot, record.replies.routes):
            name = _of_link("ipv4", link, "rp_filter")
            if name in record.sysctls or not self.is_loose(link):
                yield name, "2"

    def proxies(self, guest: Guest) -> bool:
        """Whether the host answers neighbour solicitations for others where it should for this guest."""
        return all(self._kernel.sysctl(name) == "1" for name in _proxy_switches(guest))

    def is_loose(self, link: str) -> bool:
        """Whether an uplink takes what comes from where the main table leads elsewhere."""
        names = (_of_link("ipv4", each, "rp_filter") for each in (link, "all"))
        return max(int(self._kernel.sysctl(name) or 0) for name in names) != 1

    def _closed(
        self, record: Record, family: Family, owners: Owners, context: Context, snapshot: Snapshot
    ) -> Iterator[str]:
        """The switches of interfaces that are off while forwarding of the family is on, and those that we have set.

        Where forwarding is off altogether, switching it on sets every interface's.
        """
        on = self._kernel.sysctl(FORWARDING[family]) == "1"
        links = self._forwarding_links(family, owners, context, snapshot) if on or record.sysctls else set()
        for link in sorted(links):
            name = _of_link(family, link, "forwarding")
            closed = on and _is_closed(family, link, snapshot) is not False and self._kernel.sysctl(name) == "0"
            if name in record.sysctls or closed:
                yield name

    def local(self, record: Record) -> bool:
        """Whether 127.0.0.1 reaches the guests that it should: every `route_localnet` has our value."""
        held = [(name, each) for name, each in record.sysctls.items() if name.endswith(".route_localnet")]
        return all(self._kernel.sysctl(name) in (None, each.ours) for name, each in held)

    def on(self, record: Record, family: Family, owners: Owners, context: Context, snapshot: Snapshot) -> bool:
        """Whether every sysctl that forwarding of this family needs has its value.

        Args:
            record: The host's.
            family: The family.
            owners: All owners.
            context: What their elements depend on.
            snapshot: The host's interfaces.
        """
        names = [FORWARDING[family]]
        if family == "ipv4":
            names.append(_of_link("ipv4", "default", "forwarding"))
        else:
            names += [name for name in record.sysctls if name.endswith(_ACCEPT_RA)]
        held = [record.sysctls.get(name) for name in names]
        if not all(
            (current := self._kernel.sysctl(name)) is None or current == (each.ours if each else "1")
            for name, each in zip(names, held)
        ):
            return False
        links = self._forwarding_links(family, owners, context, snapshot)
        if any(_is_closed(family, link, snapshot) for link in links):
            return False
        # Of an interface that appears, such as a container's, nobody knows whether it is an uplink.
        deaf = [snapshot.links[name] for name in _deaf_uplinks(owners, context, snapshot)] if family == "ipv6" else []
        return not any(link.forwarding6 and (link.physical or link.name in context.externals) for link in deaf)

    def _forwarding_links(self, family: Family, owners: Owners, context: Context, snapshot: Snapshot) -> set[str]:
        """The interfaces whose own switch matters.

        They are those that guests are behind; of IPv4 the external ones and `default`, too. An interface that goes and
        comes back has the value of `default`.
        """
        names = {*context.devices, *context.bridges, *_internal(context), *_proxied_links(owners)}
        if family == "ipv6" or not (context.externals or names):
            return names
        names |= {"default", *context.externals}
        closed = {link.name for link in snapshot.links.values() if not link.forwarding4} - names
        # Where the destination of a forward is in the subnet of one of these, its answers come in by it.
        networks = {name: snapshot.addresses[name] for name in closed if name in snapshot.addresses}
        return names | self._closed_homes.behind(networks, owners.forwards.targets)


def _proxy_switches(guest: Guest) -> set[str]:
    families = {family_of(cidr) for cidr in guest.addresses or ()} if guest.proxy else set()
    return {_of_link("ipv6", guest.proxy, "proxy_ndp")} if guest.proxy and "ipv6" in families else set()


def _proxied_links(owners: Owners) -> set[str]:
    """The interfaces between which guests' addresses are forwarded for which the host answers."""
    return {link for guest in owners.proxied_guests for link in (guest.proxy or "", guest.bridge or guest.link)}


def _of_link(family: Family, link: str, switch: str) -> str:
    """The sysctl of an interface. `/` stands for a dot of its name, as in sysctl(8)."""
    return f"net.{family}.conf.{link.replace('.', '/')}.{switch}"


def _is_closed(family: Family, name: str, snapshot: Snapshot) -> bool | None:
    """Whether an interface's forwarding is off; None where the snapshot has no such interface."""
    link = snapshot.links.get(name)
    if link is None:
        return None
    return not (link.forwarding4 if family == "ipv4" else link.forwarding6)


def _deaf_uplinks(owners: Owners, context: Context, snapshot: Snapshot) -> list[str]:
    """The interfaces that ignore router advertisements as soon as the host is a router on them."""
    # lo has accept_ra=1, too (Linux 6.18), and no router behind it.
    candidates = [link for link in snapshot.links.values() if link.accept_ra == 1 and link.name != "lo"]
    inner = _inner(owners, context) if candidates else set()
    return [
        link.name
        for link in candidates
        if link.name not in inner and not link.master and not snapshot.leads_to_guests(link.name)
    ]


def _internal(context: Context) -> set[str]:
    return {name for gateway in context.gateways.values() for name in gateway.internal}


def _inner(owners: Owners, context: Context) -> set[str]:
    """The interfaces that are no uplinks: ours, those that we attached to bridges, and those behind gateways."""
    names = _internal(context)
    return names | {link.name for link in owners.every(Link)} | {port.link for port in owners.every(Port)}
