"""Links, addresses, routes and sysctls: read them, and perform one operation. No decisions are taken here."""

from __future__ import annotations

import errno
import fcntl
import grp
import ipaddress
import os
import pwd
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache, singledispatchmethod
from pathlib import Path

from hostnet.agent.linux import conntrack, netlink, shaping, sockets
from hostnet.agent.linux import operations as ops
from hostnet.agent.linux.conntrack import Flows
from hostnet.agent.linux.netlink import Attributes, Tolerate, attribute, attributes, nested
from hostnet.agent.linux.snapshot import DefaultRoutes, KernelLink, Policy, Snapshot
from hostnet.wire.family import AF, ANY_ADDRESS, FAMILIES, IPV6_MTU_MIN, family_of

# linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/if_tun.h
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_QDISC, IFLA_MASTER = 1, 3, 4, 6, 10
IFLA_LINKINFO, IFLA_AF_SPEC, IFLA_CARRIER = 18, 26, 33
IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS = 29, 8
IFLA_PROP_LIST = 52  # all properties are alternative names (IFLA_ALT_IFNAME)
# The switches of an interface, as arrays of numbers; those of IPv4 are counted from 1 (linux/ip.h, linux/ipv6.h).
IFLA_INET_CONF, IPV4_DEVCONF_FORWARDING = 1, 1
IFLA_INET6_CONF, DEVCONF_FORWARDING, DEVCONF_ACCEPT_RA, DEVCONF_DISABLE_IPV6 = 2, 0, 3, 26
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_BR_STP_STATE, IFLA_BR_VLAN_FILTERING = 5, 7
IFLA_BRPORT_MODE, IFLA_BRPORT_GROUP_FWD_MASK, IFLA_BRPORT_ISOLATED = 4, 31, 33  # MODE is hairpin mode
IFLA_TUN_OWNER, IFLA_TUN_GROUP, IFLA_TUN_TYPE, IFLA_TUN_VNET_HDR, IFLA_TUN_PERSIST, IFLA_TUN_MULTI_QUEUE = (
    1,
    2,
    3,
    5,
    6,
    7,
)
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 4, 8
IFA_F_NODAD = 0x02
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_METRICS = 1, 4, 5, 6, 7, 8
RTA_MULTIPATH, RTA_CACHEINFO, RTA_TABLE, RTA_VIA, RTA_EXPIRES = 9, 12, 15, 18, 23
RT_TABLE_MAIN, RTPROT_KERNEL, RTPROT_BOOT, RTPROT_STATIC, RTN_UNICAST, RTNH_F_ONLINK = 254, 2, 3, 4, 1, 4
RT_SCOPE_LINK, RT_SCOPE_NOWHERE = 253, 255
FRA_PRIORITY, FRA_FWMARK, FRA_TABLE, FRA_FWMASK, FRA_PROTOCOL, FR_ACT_TO_TBL = 6, 10, 15, 16, 21, 1  # fib_rules.h
NDA_DST, NUD_PERMANENT, NTF_PROXY = 1, 0x80, 0x08  # linux/neighbour.h
ARPHRD_ETHER, IFF_UP = 1, 1
IFF_TAP, IFF_MULTI_QUEUE, IFF_NO_PI, IFF_VNET_HDR, _IFF_TUN_EXCL = 0x2, 0x100, 0x1000, 0x4000, 0x8000
TUNSETIFF, TUNSETPERSIST, TUNSETOWNER, TUNSETGROUP = 0x400454CA, 0x400454CB, 0x400454CC, 0x400454CE

_LINK = struct.Struct("=BxHiII")
_ADDR = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_FAMILY = struct.Struct("=H")  # of a gateway that is not of its route's
_NEXT_HOP = struct.Struct("=HBBi")
_USER_HZ = 100  # ticks a second, in which the kernel says how long a route lives
_ANY = {AF[family]: ANY_ADDRESS[family] for family in FAMILIES}  # a default route's destination
_SYSCTLS = Path("/proc/sys")
_LONGEST_SYSCTL = 4096  # bytes
# Where iproute2 reads the names of routing tables: /etc goes before what its package has.
_NAMED_TABLES = tuple(Path(top, "iproute2") for top in ("/etc", "/usr/share", "/usr/lib"))


# Statistics are half of a link's message, and change with each packet.
_NO_STATISTICS = attribute(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)

_LIMITED = attribute(IFLA_QDISC, shaping.BUCKET)


class LinuxKernel:
    """The network namespace that the thread is in when this is made. Implements `kernel.Kernel`."""

    def __init__(self) -> None:
        self._netlink = netlink.Netlink()

    # --- reading ---------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Everything that plans and views need, at this moment."""
        listed = self._netlink.dump(RTM_GETLINK, _LINK.pack(0, 0, 0, 0, 0) + _NO_STATISTICS)
        links = {link.name: link for link in (_link(message.body) for message in listed)}
        names = {link.index: link.name for link in links.values()}
        addresses: dict[str, list[str]] = {}
        for message in self._netlink.dump(RTM_GETADDR, _ADDR.pack(0, 0, 0, 0, 0)):
            index, cidr = _address(message.body)
            if cidr and index in names:
                addresses.setdefault(names[index], []).append(cidr)
        routes, defaults, uplinks, gateways = self._routes(names)
        bridges = {link.index: link.name for link in links.values() if link.kind == "bridge"}
        through = self._through(bridges)
        # A list of all queueing disciplines costs as much as one of all links: a host without a limit does without.
        limited = any(_LIMITED in message.body for message in listed)
        return Snapshot(
            links,
            {name: tuple(cidrs) for name, cidrs in addresses.items()},
            routes,
            defaults,
            uplinks,
            through,
            gateways=gateways,
            buckets=shaping.buckets(self._netlink, names) if limited else {},
        )

    def glimpse(self, names: Iterable[str]) -> Snapshot:
        """These links and what they are ports of, without addresses; default routes only where they go through them."""
        wanted = [attribute(IFLA_IFNAME, name) for name in names]
        links = {link.name: link for link in filter(None, (self._look(0, one) for one in wanted))}
        for index in {link.master for link in links.values()} - {link.index for link in links.values()} - {0}:
            master = self._look(index)
            if master is not None:
                links[master.name] = master
        _, defaults, uplinks, _ = self._routes({link.index: link.name for link in links.values()})
        return Snapshot(links, {}, {}, defaults, uplinks)

    def _look(self, index: int, name: bytes = b"") -> KernelLink | None:
        with Tolerate(errno.ENODEV):
            return _link(self._netlink.ask(RTM_GETLINK, _LINK.pack(0, 0, index, 0, 0) + name + _NO_STATISTICS).body)
        return None

    def _routes(
        self, names: dict[int, str]
    ) -> tuple[dict[str, tuple[str, ...]], dict[str, str], tuple[str, ...], dict[str, str]]:
        """Static routes by link; by family the interface of the default route; the interfaces and routers of all."""
        routes: dict[str, list[str]] = {}
        defaults: dict[str, tuple[int, str]] = {}
        uplinks = DefaultRoutes()
        gateways: dict[str, str] = {}
        for label, family in AF.items():
            for message in self._netlink.dump(RTM_GETROUTE, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
                _, length, _, _, table, protocol, _, kind, _ = _ROUTE.unpack_from(message.body)
                if table != RT_TABLE_MAIN or kind != RTN_UNICAST:
                    continue
                found = attributes(message.body[_ROUTE.size :])
                hops = [(names.get(index, ""), hop) for index, hop in _next_hops(found)]
                links = [link for link, _ in hops]
                if not links:
                    continue
                name, metric = links[0], netlink.u32(found.get(RTA_PRIORITY, b"\0\0\0\0"))
                to = str(ipaddress.ip_address(found[RTA_DST])) if length else _ANY[family]
                uplinks.add(label, f"{to}/{length}", metric, links)
                if length == 0:
                    gateways.update((router, link) for link, hop in hops if link and (router := _router(hop)))
                    if label not in defaults or metric < defaults[label][0]:
                        defaults[label] = (metric, name)
                if protocol in (RTPROT_BOOT, RTPROT_STATIC):  # ours or an administrator's, not a daemon's
                    routes.setdefault(name, []).append(f"{to}/{length}")
        found_defaults = {label: name for label, (_, name) in defaults.items() if name}
        return {name: tuple(cidrs) for name, cidrs in routes.items()}, found_defaults, uplinks.links, gateways

    def proxies(self) -> set[tuple[str, str]]:
        """The addresses that the host answers for on behalf of others: link and address."""
        found = set()
        for family in AF.values():
            for message in self._netlink.dump(RTM_GETNEIGH, _NEIGHBOUR.pack(family, 0, 0, NTF_PROXY, 0)):
                _, index, _, _, _ = _NEIGHBOUR.unpack_from(message.body)
                address = attributes(message.body[_NEIGHBOUR.size :]).get(NDA_DST, b"")
                with suppress(OSError):  # an entry without a link is for every one; or the link was deleted
                    found.add((socket.if_indextoname(index), str(ipaddress.ip_address(address))))
        return found

    def policy(self) -> Policy:
        """The routing rules, and the routes of all tables."""
        listed = self._netlink.dump(RTM_GETLINK, _LINK.pack(0, 0, 0, 0, 0) + _NO_STATISTICS)
        names = {link.index: link.name for link in (_link(message.body) for message in listed)}
        rules: list[ops.AddRule | None] = []
        routes: list[ops.PutRoute] = []
        for family in FAMILIES:
            with Tolerate(errno.EOPNOTSUPP, errno.EAFNOSUPPORT):  # the kernel, or this host, has it not
                rules += [_rule(each.body) for each in self._netlink.dump(RTM_GETRULE, _rule_body(AF[family]))]
            for message in self._netlink.dump(RTM_GETROUTE, _ROUTE.pack(AF[family], 0, 0, 0, 0, 0, 0, 0, 0)):
                routes += _hops(message.body, names)
        return Policy(tuple(filter(None, rules)), tuple(routes), _named_tables())

    def _through(self, names: dict[int, str]) -> dict[str, tuple[ops.PutRoute, ...]]:
        """The routes through some links, in any table, without those that the kernel adds by itself."""
        found: dict[str, list[ops.PutRoute]] = {}
        for message in self._netlink.dump(RTM_GETROUTE, _ROUTE.pack(0, 0, 0, 0, 0, 0, 0, 0, 0)) if names else ():
            route = _route(message.body, names)
            if route is not None:
                found.setdefault(route.link, []).append(route)
        # The kernel refuses a route whose gateway no route leads to (ENETUNREACH): that route comes first.
        return {
            name: tuple(sorted(routes, key=lambda route: route.gateway is not None)) for name, routes in found.items()
        }

    def sysctl(self, name: str) -> str | None:
        """The value of a sysctl; None where there is none of this name."""
        # Without a file object, which takes five more system calls: each change looks at about ten sysctls.
        try:
            descriptor = os.open(sysctl_path(name), os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.read(descriptor, _LONGEST_SYSCTL).decode("ascii").strip()
            finally:
                os.close(descriptor)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def traffic(self) -> dict[str, tuple[int, int]]:
        """The bytes that each interface has received and sent."""
        return sockets.traffic()

    def listening(self, protocol: str, family: str) -> set[int]:
        """The ports on which a program of the host listens."""
        return sockets.listening(protocol, family)

    def bindable(self, protocol: str, address: str, port: int, *, shared: bool = False) -> bool:
        """Whether a server could have a port of an address now."""
        return sockets.bindable(protocol, address, port, shared=shared)

    # --- changing --------------------------------------------------------------------------------------------------

    @singledispatchmethod
    def perform(self, operation: ops.Operation) -> None:
        """Perform one operation."""
        raise NotImplementedError(operation)

    def forget(self, flows: Iterable[Flows], is_local: Callable[[str], bool]) -> int:
        """Delete tracked flows; returns how many there were."""
        return conntrack.forget(flows, is_local)

    @perform.register
    def _create_tap(self, operation: ops.CreateTap) -> None:
        # Without IFF_TUN_EXCL, TUNSETIFF opens a TAP of this name that another program made, and reports no error.
        _open_tap(operation, _IFF_TUN_EXCL)

    @perform.register
    def _set_tap_user(self, operation: ops.SetTapUser) -> None:
        _open_tap(operation, 0)

    @perform.register
    def _delete_link(self, operation: ops.DeleteLink) -> None:
        self._set(operation.name, kind=RTM_DELLINK)

    @perform.register
    def _delete_address(self, operation: ops.DeleteAddress) -> None:
        # ENXIO: with an MTU below 1280 an interface has no IPv6 any more, and so no address of it (Linux 6.18).
        with Tolerate(errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENXIO):
            self._netlink.request(RTM_DELADDR, self._address_body(operation.link, operation.cidr))

    @perform.register
    def _add_route(self, operation: ops.AddRoute) -> None:
        flags = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE
        self._netlink.request(RTM_NEWROUTE, self._route_body(operation.link, operation.cidr), flags)

    @perform.register
    def _put_route(self, route: ops.PutRoute) -> None:
        with Tolerate(errno.EEXIST):
            self._netlink.request(RTM_NEWROUTE, self._put_body(route), netlink.NLM_F_CREATE | netlink.NLM_F_EXCL)

    @perform.register
    def _add_proxy(self, operation: ops.AddProxy) -> None:
        with Tolerate(errno.EEXIST):
            self._netlink.request(RTM_NEWNEIGH, self._proxy_body(operation), netlink.NLM_F_CREATE)

    @perform.register
    def _delete_proxy(self, operation: ops.DeleteProxy) -> None:
        with Tolerate(errno.ENOENT, errno.ENODEV):
            self._netlink.request(RTM_DELNEIGH, self._proxy_body(operation))

    def _proxy_body(self, operation: ops.AddProxy) -> bytes:
        family, index = AF[family_of(operation.address)], self._index(operation.link)
        body = _NEIGHBOUR.pack(family, index, NUD_PERMANENT, NTF_PROXY, 0)
        return body + attribute(NDA_DST, ipaddress.ip_address(operation.address).packed)

    @perform.register
    def _remove_route(self, route: ops.RemoveRoute) -> None:
        with Tolerate(errno.ESRCH, errno.ENODEV):
            self._netlink.request(RTM_DELROUTE, self._put_body(route))

    @perform.register
    def _add_rule(self, rule: ops.AddRule) -> None:
        with Tolerate(errno.EEXIST):
            flags = netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
            self._netlink.request(RTM_NEWRULE, _rule_body(AF[rule.family], rule), flags)

    @perform.register
    def _delete_rule(self, rule: ops.DeleteRule) -> None:
        with Tolerate(errno.ENOENT):
            self._netlink.request(RTM_DELRULE, _rule_body(AF[rule.family], rule))

    def _put_body(self, route: ops.PutRoute) -> bytes:
        network = ipaddress.ip_network(route.cidr)
        flags = RTNH_F_ONLINK if route.onlink else 0
        # The header has 8 bits for the table; RTA_TABLE holds any.
        numbers = (route.table if route.table < 256 else 0, route.protocol, route.scope, RTN_UNICAST, flags)
        body = _ROUTE.pack(AF[family_of(route.cidr)], network.prefixlen, 0, route.tos, *numbers)
        body += attribute(RTA_TABLE, route.table) + attribute(RTA_OIF, self._index(route.link))
        if network.prefixlen:
            body += attribute(RTA_DST, network.network_address.packed)
        if route.gateway is not None:
            gateway = ipaddress.ip_address(route.gateway)
            if gateway.version == network.version:
                body += attribute(RTA_GATEWAY, gateway.packed)
            else:
                body += attribute(RTA_VIA, _FAMILY.pack(socket.AF_INET6) + gateway.packed)
        if route.source is not None:
            body += attribute(RTA_PREFSRC, ipaddress.ip_address(route.source).packed)
        if route.metrics:
            body += attribute(RTA_METRICS, bytes.fromhex(route.metrics))
        for kind, number in ((RTA_PRIORITY, route.metric), (RTA_EXPIRES, route.expires)):
            if number:
                body += attribute(kind, number)
        return body

    @perform.register
    def _delete_route(self, operation: ops.DeleteRoute) -> None:
        with Tolerate(errno.ESRCH, errno.ENODEV):
            # Protocol 0 and scope "nowhere" match any (Linux 6.18): another program may have added it again.
            body = self._route_body(operation.link, operation.cidr, protocol=0, scope=RT_SCOPE_NOWHERE)
            self._netlink.request(RTM_DELROUTE, body)

    @perform.register
    def _write_sysctl(self, operation: ops.WriteSysctl) -> None:
        write_sysctl(operation.name, operation.value)

    @perform.register
    def _create_bridge(self, operation: ops.CreateBridge) -> None:
        # The MAC belongs in this message: set later, udev's MACAddressPolicy= may have set another one (seen by incus).
        body = attribute(IFLA_IFNAME, operation.name)
        if operation.mac:
            body += attribute(IFLA_ADDRESS, bytes.fromhex(operation.mac.replace(":", "")))
        options = [attribute(IFLA_BR_STP_STATE, int(operation.stp))]
        if operation.vlan_filtering:
            options.append(attribute(IFLA_BR_VLAN_FILTERING, b"\1"))
        body += nested(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, "bridge"), nested(IFLA_INFO_DATA, *options))
        flags = netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
        self._netlink.request(RTM_NEWLINK, _LINK.pack(0, 0, 0, 0, 0) + body, flags)
        # No other host has its MAC address, so its link-local address needs no duplicate address detection. Until that
        # is over, 1 to 2 s, the kernel solicits no neighbour and forwards no IPv6 to the bridge. Where /proc/sys is
        # read-only (a container) this time has to be waited for, and all else works.
        name = f"net.ipv6.conf.{operation.name.replace('.', '/')}.accept_dad"
        if self.sysctl(name) not in (None, "0"):
            with Tolerate(errno.EROFS):
                write_sysctl(name, "0")
        if operation.mtu:
            self._pin_mtu(operation.name, operation.mtu)

    def _pin_mtu(self, name: str, mtu: int) -> None:
        """Set a bridge's MTU so that it stays.

        A bridge follows its smallest port until its MTU is set by hand. The kernel notes that only where the value
        changes (`br_change_mtu`, Linux 6.18), so it is set to another value first.
        """
        self._set(name, attribute(IFLA_MTU, mtu - 1 if mtu > IPV6_MTU_MIN else mtu + 1))
        self._set(name, attribute(IFLA_MTU, mtu))

    @perform.register
    def _set_link(self, operation: ops.SetLink) -> None:
        if operation.mac is not None:
            self._set(operation.name, attribute(IFLA_ADDRESS, bytes.fromhex(operation.mac.replace(":", ""))))
        # Before the bridge, which takes the smallest MTU of its ports as soon as one joins (Linux 6.18).
        if operation.mtu is not None:
            if operation.bridge_device:
                self._pin_mtu(operation.name, operation.mtu)
            else:
                self._set(operation.name, attribute(IFLA_MTU, operation.mtu))
        if operation.bridge is not None:
            index = self._index(operation.bridge) if operation.bridge else 0
            self._set(operation.name, attribute(IFLA_MASTER, index))
        # After the bridge: they are options of a bridge's port, and a link that is none has not got them (EOPNOTSUPP).
        if operation.isolated is not None:
            self._set_port(operation.name, IFLA_BRPORT_ISOLATED, bytes([operation.isolated]))
        if operation.hairpin is not None:
            self._set_port(operation.name, IFLA_BRPORT_MODE, bytes([operation.hairpin]))
        if operation.group_fwd_mask is not None:
            self._set_port(operation.name, IFLA_BRPORT_GROUP_FWD_MASK, struct.pack("=H", operation.group_fwd_mask))
        # Before the link is up: from then on IPv6 solicits routers and obeys their answers (net/ipv6/addrconf.c).
        self._set_ipv6(operation.name, "accept_ra", operation.accept_ra)
        self._set_ipv6(operation.name, "disable_ipv6", None if operation.ipv6 is None else int(not operation.ipv6))
        if operation.up is not None:
            self._set(operation.name, up=operation.up)

    def _set_ipv6(self, link: str, switch: str, value: int | None) -> None:
        name = f"net.ipv6.conf.{link.replace('.', '/')}.{switch}"
        if value is not None and self.sysctl(name) is not None:  # else the link has no IPv6
            write_sysctl(name, str(value))

    def _set_port(self, name: str, option: int, value: bytes) -> None:
        data = nested(IFLA_INFO_SLAVE_DATA, attribute(option, value))
        self._set(name, nested(IFLA_LINKINFO, attribute(IFLA_INFO_SLAVE_KIND, "bridge"), data))

    @perform.register
    def _set_bridge_option(self, operation: ops.SetBridgeOption) -> None:
        if operation.option == "stp":
            option = attribute(IFLA_BR_STP_STATE, int(operation.value))
        else:
            option = attribute(IFLA_BR_VLAN_FILTERING, bytes([operation.value]))
        info = nested(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, "bridge"), nested(IFLA_INFO_DATA, option))
        self._set(operation.name, info)

    @perform.register
    def _shape(self, operation: ops.Shape) -> None:
        bucket = shaping.Bucket(operation.rate, operation.burst, operation.limit)
        shaping.shape(self._netlink, self._index(operation.name), bucket)

    @perform.register
    def _unshape(self, operation: ops.Unshape) -> None:
        with Tolerate(errno.ENODEV):
            shaping.unshape(self._netlink, self._index(operation.name))

    @perform.register
    def _add_address(self, operation: ops.AddAddress) -> None:
        body = self._address_body(operation.link, operation.cidr)
        network = ipaddress.ip_interface(operation.cidr).network
        if network.version == 6:
            # Without ports a bridge has no carrier: duplicate address detection would not end (seen by netavark).
            body += attribute(IFA_FLAGS, IFA_F_NODAD)
        # For an address by netlink the kernel adds no broadcast address itself. A /31 has none (RFC 3021).
        elif network.prefixlen < 31:
            body += attribute(IFA_BROADCAST, network.broadcast_address.packed)
        with Tolerate(errno.EEXIST):
            self._netlink.request(RTM_NEWADDR, body, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL)

    def _set(self, name: str, body: bytes = b"", *, kind: int = RTM_NEWLINK, up: bool | None = None) -> None:
        flags, change = (IFF_UP if up else 0, IFF_UP) if up is not None else (0, 0)
        self._netlink.request(kind, _LINK.pack(0, 0, self._index(name), flags, change) + body)

    def _index(self, name: str) -> int:
        # Looked up just before it is used: an index that was read earlier may be another link's by now.
        try:
            return socket.if_nametoindex(name)
        except OSError:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), name) from None

    def _address_body(self, link: str, cidr: str) -> bytes:
        interface = ipaddress.ip_interface(cidr)
        packed = interface.ip.packed
        head = _ADDR.pack(AF[family_of(cidr)], interface.network.prefixlen, 0, 0, self._index(link))
        return head + attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)

    def _route_body(self, link: str, cidr: str, protocol: int = RTPROT_STATIC, scope: int | None = None) -> bytes:
        network = ipaddress.ip_network(cidr)
        v4 = network.version == 4
        if scope is None:
            # As `ip route` has it: of a route with global scope the kernel takes no address as the gateway of another
            # one ("Nexthop has invalid gateway", Linux 6.18).
            scope = RT_SCOPE_LINK if v4 else 0
        head = _ROUTE.pack(AF[family_of(cidr)], network.prefixlen, 0, 0, RT_TABLE_MAIN, protocol, scope, RTN_UNICAST, 0)
        if network.prefixlen:
            head += attribute(RTA_DST, network.network_address.packed)
        return head + attribute(RTA_OIF, self._index(link))


@lru_cache(maxsize=4096)
def sysctl_path(name: str) -> Path:
    """Its place in /proc. In an interface's part of the name `/` stands for a dot, as in sysctl(8)."""
    return _SYSCTLS.joinpath(*(part.replace("/", ".") for part in ops.check_sysctl_name(name).split(".")))


def write_sysctl(name: str, value: str) -> None:
    """Write it unless it has this value: then a read-only /proc is no obstacle."""
    path = sysctl_path(name)
    if path.read_text().strip() != value:
        path.write_text(value)


def user_id(user: str) -> int:
    """A user's number.

    Raises:
        LookupError: This host has no such user.
    """
    return int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid


def group_id(group: str) -> int:
    """A group's number.

    Raises:
        LookupError: This host has no such group.
    """
    return int(group) if group.isdigit() else grp.getgrnam(group).gr_gid


def _open_tap(tap: ops.CreateTap | ops.SetTapUser, flags: int) -> None:
    """Make a persistent TAP, or change who may open one: /dev/net/tun does that, rtnetlink can't."""
    flags |= IFF_TAP | IFF_NO_PI | (IFF_VNET_HDR if tap.vnet_hdr else 0) | (IFF_MULTI_QUEUE if tap.multi_queue else 0)
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", tap.name.encode(), flags))
        # A TAP without owner and group every local user may open (`tun_not_capable`): the owner is root, then.
        if tap.user is not None or tap.group is None:
            fcntl.ioctl(descriptor, TUNSETOWNER, 0 if tap.user is None else user_id(tap.user))
        if tap.group is not None:
            fcntl.ioctl(descriptor, TUNSETGROUP, group_id(tap.group))
        # Last: until it is persistent, a TAP goes with its descriptor, and a failure above leaves none.
        fcntl.ioctl(descriptor, TUNSETPERSIST, 1)
    finally:
        os.close(descriptor)


@lru_cache(maxsize=4096)
def _link(body: bytes) -> KernelLink:
    """A link from the kernel's message, which is the same each time while nothing of the link changes."""
    _, hardware, index, flags, _ = _LINK.unpack_from(body)
    found = attributes(body[_LINK.size :])
    info = attributes(found[IFLA_LINKINFO]) if IFLA_LINKINFO in found else {}
    kind = netlink.text(info.get(IFLA_INFO_KIND, b""))
    data = attributes(info.get(IFLA_INFO_DATA, b""))
    slave: Attributes = {}
    if netlink.text(info.get(IFLA_INFO_SLAVE_KIND, b"")) == "bridge":
        slave = attributes(info.get(IFLA_INFO_SLAVE_DATA, b""))
    tun = data if kind == "tun" else {}
    families = attributes(found.get(IFLA_AF_SPEC, b""))
    bridge = data if kind == "bridge" else {}
    return KernelLink(
        name=netlink.text(found[IFLA_IFNAME]),
        index=index,
        kind=kind,
        up=bool(flags & IFF_UP),
        mac=found.get(IFLA_ADDRESS, b"").hex(":"),
        mtu=netlink.u32(found.get(IFLA_MTU, b"\0\0\0\0")),
        ethernet=hardware == ARPHRD_ETHER,
        master=netlink.u32(found.get(IFLA_MASTER, b"\0\0\0\0")),
        isolated=slave.get(IFLA_BRPORT_ISOLATED, b"\0")[0] == 1,
        hairpin=slave.get(IFLA_BRPORT_MODE, b"\0")[0] == 1,
        group_fwd_mask=int.from_bytes(slave.get(IFLA_BRPORT_GROUP_FWD_MASK, b"")[:2], sys.byteorder),
        # 1 where the kernel does STP, 2 where a daemon does (BR_USER_STP).
        stp=IFLA_BR_STP_STATE in bridge and netlink.u32(bridge[IFLA_BR_STP_STATE]) != 0,
        vlan_filtering=bridge.get(IFLA_BR_VLAN_FILTERING, b"\0")[0] == 1,
        tap=tun.get(IFLA_TUN_TYPE, b"\0")[0] == IFF_TAP,
        uid=netlink.u32(tun[IFLA_TUN_OWNER]) if IFLA_TUN_OWNER in tun else None,
        gid=netlink.u32(tun[IFLA_TUN_GROUP]) if IFLA_TUN_GROUP in tun else None,
        multi_queue=tun.get(IFLA_TUN_MULTI_QUEUE, b"\0")[0] == 1,
        vnet_hdr=tun.get(IFLA_TUN_VNET_HDR, b"\0")[0] == 1,
        persistent=tun.get(IFLA_TUN_PERSIST, b"\0")[0] == 1,
        altnames=tuple(netlink.text(name) for _, name in netlink.each_attribute(found.get(IFLA_PROP_LIST, b""))),
        carrier=found.get(IFLA_CARRIER, b"\0")[0] == 1,
        accept_ra=_switch(families, socket.AF_INET6, IFLA_INET6_CONF, DEVCONF_ACCEPT_RA),
        disable_ipv6=bool(_switch(families, socket.AF_INET6, IFLA_INET6_CONF, DEVCONF_DISABLE_IPV6)),
        forwarding4=_switch(families, socket.AF_INET, IFLA_INET_CONF, IPV4_DEVCONF_FORWARDING - 1) != 0,
        forwarding6=_switch(families, socket.AF_INET6, IFLA_INET6_CONF, DEVCONF_FORWARDING) != 0,
    )


def _switch(families: Attributes, family: int, switches: int, place: int) -> int | None:
    """A sysctl of an interface; None where the interface has not this family."""
    conf = attributes(families.get(family, b"")).get(switches, b"")
    at = 4 * place
    return int.from_bytes(conf[at : at + 4], sys.byteorder, signed=True) if len(conf) > at else None


def _next_hops(route: Attributes) -> Iterator[tuple[int, Attributes]]:
    """The links that a route leads through, by index, with each hop's attributes: several where uplinks share it."""
    if RTA_OIF in route:
        yield netlink.u32(route[RTA_OIF]), route
    hops, at = route.get(RTA_MULTIPATH, b""), 0
    while at + _NEXT_HOP.size <= len(hops):
        size, _, _, index = _NEXT_HOP.unpack_from(hops, at)
        yield index, attributes(hops[at + _NEXT_HOP.size : at + size])
        at += max((size + 3) & ~3, _NEXT_HOP.size)


def _router(hop: Attributes) -> str:
    """The address of a hop's router; "" for none, and for one that is known on its link alone (fe80::1)."""
    packed = hop.get(RTA_GATEWAY) or hop.get(RTA_VIA, b"")[_FAMILY.size :]
    router = ipaddress.ip_address(packed) if packed else None
    return "" if router is None or (router.version == 6 and router.is_link_local) else str(router)


def _rule_body(family: int, rule: ops.AddRule | None = None) -> bytes:
    if rule is None:
        return _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
    body = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, FR_ACT_TO_TBL, 0) + attribute(FRA_TABLE, rule.table)
    body += attribute(FRA_PRIORITY, rule.priority) + attribute(FRA_FWMARK, rule.mark)
    return body + attribute(FRA_FWMASK, rule.mask) + attribute(FRA_PROTOCOL, bytes([RTPROT_STATIC]))


def _rule(body: bytes) -> ops.AddRule | None:
    """A rule that leads to a table; None for another."""
    family, _, _, _, table, _, _, action, _ = _ROUTE.unpack_from(body)
    found = attributes(body[_ROUTE.size :])

    def number(kind: int, default: int = 0) -> int:
        return netlink.u32(found[kind]) if kind in found else default

    if action != FR_ACT_TO_TBL:
        return None
    mark, mask = number(FRA_FWMARK), number(FRA_FWMASK) if FRA_FWMARK in found else 0
    label = next(each for each in FAMILIES if AF[each] == family)
    return ops.AddRule(label, number(FRA_PRIORITY), mark, mask, number(FRA_TABLE, table))


def _named_tables() -> frozenset[int]:
    found = set()
    for folder in _NAMED_TABLES:
        for path in (folder / "rt_tables", *sorted(folder.glob("rt_tables.d/*.conf"))):
            try:
                lines = path.read_text(errors="replace").splitlines()
            except OSError:
                continue
            found |= {int(words[0]) for line in lines if (words := line.split()) and words[0].isdecimal()}
    return frozenset(found)


def _hops(body: bytes, names: dict[int, str]) -> Iterator[ops.PutRoute]:
    """A route of any table and protocol; one of several next hops as a route for each."""
    source = body[2]  # the length of a prefix of sources
    found = attributes(body[_ROUTE.size :])
    if RTA_MULTIPATH not in found:
        route = _route(body, names, kernels=True) if not source else None
        if route is not None:
            yield route
        return
    kept = b"".join(attribute(kind, found[kind]) for kind in (RTA_DST, RTA_PRIORITY, RTA_TABLE) if kind in found)
    for index, hop in _next_hops(found):
        more = attribute(RTA_OIF, index) + b"".join(attribute(k, hop[k]) for k in (RTA_GATEWAY, RTA_VIA) if k in hop)
        route = _route(body[: _ROUTE.size] + kept + more, names, kernels=True)
        if route is not None:
            yield route


def _route(body: bytes, names: dict[int, str], *, kernels: bool = False) -> ops.PutRoute | None:
    """A route; None for one that leads through no such link, and, but with `kernels`, that the kernel made."""
    family, length, _, tos, table, protocol, scope, kind, flags = _ROUTE.unpack_from(body)
    if kind != RTN_UNICAST or (protocol == RTPROT_KERNEL and not kernels):
        return None
    found = attributes(body[_ROUTE.size :])
    link = names.get(netlink.u32(found.get(RTA_OIF, b"\0\0\0\0")), "")
    if not link:
        return None

    def address(number: int) -> str | None:
        return str(ipaddress.ip_address(found[number])) if number in found else None

    via = str(ipaddress.ip_address(found[RTA_VIA][_FAMILY.size :])) if RTA_VIA in found else None
    expires = int.from_bytes(found[RTA_CACHEINFO][8:12], sys.byteorder, signed=True) if RTA_CACHEINFO in found else 0
    return ops.PutRoute(
        link,
        f"{address(RTA_DST) or _ANY[family]}/{length}",
        netlink.u32(found[RTA_TABLE]) if RTA_TABLE in found else table,
        protocol,
        scope,
        netlink.u32(found.get(RTA_PRIORITY, b"\0\0\0\0")),
        address(RTA_GATEWAY) or via,
        address(RTA_PREFSRC),
        bool(flags & RTNH_F_ONLINK),
        max(0, expires) // _USER_HZ,
        tos,
        found.get(RTA_METRICS, b"").hex(),
    )


@lru_cache(maxsize=4096)
def _address(body: bytes) -> tuple[int, str]:
    """The link's index and the CIDR; "" for a link-local one of IPv6, which the kernel adds by itself."""
    _, length, _, _, index = _ADDR.unpack_from(body)
    found = attributes(body[_ADDR.size :])
    address = ipaddress.ip_address(found.get(IFA_LOCAL) or found[IFA_ADDRESS])
    if address.version == 6 and address.is_link_local:
        return index, ""
    return index, f"{address}/{length}"
