"""A kernel in memory: links, addresses, routes and sysctls of one network namespace. No root, no packets, no time.

It performs the agent's operations with the effects, and refuses them with the errno, of Linux 6.18;
`tests/netns/test_fakes.py` performs the same operations on both and compares.
"""

from __future__ import annotations

import errno
import ipaddress
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from functools import singledispatchmethod
from typing import Any

from hostnet.agent.linux import operations as ops
from hostnet.agent.linux.conntrack import Flow, Flows
from hostnet.agent.linux.rtnetlink import (
    RT_SCOPE_LINK,
    RT_TABLE_MAIN,
    RTPROT_BOOT,
    RTPROT_KERNEL,
    RTPROT_STATIC,
    group_id,
    user_id,
)
from hostnet.agent.linux.shaping import Bucket
from hostnet.agent.linux.snapshot import DefaultRoutes, KernelLink, Policy, Snapshot
from hostnet.fakes.sysctls import FakeSysctls, sysctl_of
from hostnet.wire.family import Family, family_of

_KINDS = {"physical": "", "loopback": "", "tap": "tun"}  # as rtnetlink names them, where `add_link` has other words
_NO_MAC = "00:00:00:00:00:00"
_MTU, _SMALLEST_MTU, _LARGEST_MTU, _IPV6_MTU = 1500, 68, 65535, 1280
_KERNELS_RULES: tuple[tuple[Family, int, int], ...] = (
    *(("ipv4", priority, table) for priority, table in ((0, 255), (32766, 254), (32767, 253))),
    *(("ipv6", priority, table) for priority, table in ((0, 255), (32766, 254))),
)
_IPV6_METRIC = 1024  # of a route that names none


class FakeKernel:
    """One network namespace with a loopback interface that is up. Implements `hostnet.agent.linux.kernel.Kernel`.

    Attributes:
        flows: What conntrack knows.
        listeners: (protocol, family, port) of each socket that listens.
        performed: All operations that were asked for, in order.
    """

    def __init__(self) -> None:
        self.flows: set[Flow] = set()
        self.listeners: set[tuple[str, str, int]] = set()
        self.performed: list[ops.Operation] = []
        self._sysctls = FakeSysctls()
        self._links: dict[str, KernelLink] = {}
        self._addresses: dict[str, list[str]] = {}  # by link, as the kernel lists them
        self._routes: list[ops.PutRoute] = []
        self._rules: list[ops.AddRule] = [
            ops.AddRule(family, priority, 0, 0, table) for family, priority, table in _KERNELS_RULES
        ]
        self._fixed_mac: set[str] = set()  # bridges whose MAC address does not follow their ports'
        self._fixed_mtu: set[str] = set()  # bridges whose MTU does not follow their ports'
        self._buckets: dict[str, Bucket] = {}
        self._proxies: set[tuple[str, str]] = set()
        self._next_index = 1
        self._refusals: list[tuple[Callable[[ops.Operation], bool], int]] = []
        self.add_link("lo", "loopback", mac=_NO_MAC, mtu=65536, ethernet=False, addresses=("127.0.0.1/8", "::1/128"))

    # --- what a test does --------------------------------------------------------------------------------------------

    def dump(self) -> dict[str, Any]:
        """Everything, as plain values to compare."""
        return {
            "links": {name: asdict(link) for name, link in sorted(self._links.items())},
            "addresses": {name: list(cidrs) for name, cidrs in sorted(self._addresses.items()) if cidrs},
            "routes": sorted(map(asdict, self._routes), key=repr),
            "rules": sorted(map(asdict, self._rules), key=repr),
            "proxies": sorted(self._proxies),
            "buckets": {name: asdict(bucket) for name, bucket in sorted(self._buckets.items())},
            "sysctls": dict(sorted(self._sysctls.values.items())),
        }

    def link(self, name: str) -> KernelLink:
        """A link as it is now.

        Raises:
            KeyError: There is none of this name.
        """
        return self._links[name]

    def add_link(self, name: str, kind: str = "tap", **values: Any) -> None:
        """Another program makes an interface, which is up.

        Args:
            name: Its name.
            kind: "tap", "physical", "loopback", or a kind of rtnetlink's, such as "bridge", "veth".
            **values: See `change_link`; `index` as well.
        """
        index = values.pop("index", None) or self._next_index
        self._next_index = max(self._next_index, index) + 1
        self._add(KernelLink(name, index, _KINDS.get(kind, kind), up=True, mac="", mtu=_MTU, tap=kind == "tap"))
        self.change_link(name, **values)

    def change_link(self, name: str, **values: Any) -> None:
        """Another program changes an interface.

        Args:
            name: Its name.
            **values: Fields of `KernelLink`; also `addresses` (all CIDRs that it has then) and `bridge` (its name, or
                None).
        """
        addresses, bridge = values.pop("addresses", None), values.pop("bridge", "")
        self._links[name] = replace(self.link(name), **values)
        if bridge != "":
            self.perform(ops.SetLink(name, bridge=bridge or ""))
        if addresses is not None:
            for cidr in [each for each in self._addresses[name] if each not in addresses]:
                self.perform(ops.DeleteAddress(name, cidr))
            for cidr in addresses:
                self.perform(ops.AddAddress(name, cidr))

    def remove_link(self, name: str) -> None:
        """Another program, or a cable, takes an interface away."""
        self._remove(self.link(name))

    def add_route(self, link: str, cidr: str, gateway: str | None = None, **values: Any) -> None:
        """Another program adds a route of the main table.

        Args:
            link: The interface that it leads through.
            cidr: Where it leads.
            gateway: The next hop.
            **values: Other fields of `PutRoute`.
        """
        route = ops.PutRoute(link, cidr, RT_TABLE_MAIN, RTPROT_BOOT, 0 if gateway else RT_SCOPE_LINK, gateway=gateway)
        self.perform(replace(route, **values))

    def refuse(self, code: int, when: Callable[[ops.Operation], bool] = lambda _: True) -> None:
        """Refuse the next such operation.

        Args:
            code: The errno.
            when: Which operation; the next one by default.
        """
        self._refusals.append((when, code))

    # --- what the agent asks -----------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Everything at this moment."""
        routes: dict[str, tuple[str, ...]] = {}
        through: dict[str, tuple[ops.PutRoute, ...]] = {}
        for route in sorted(self._routes, key=_order):
            if route.table == RT_TABLE_MAIN and route.protocol in (RTPROT_BOOT, RTPROT_STATIC):
                routes[route.link] = (*routes.get(route.link, ()), route.cidr)
            if self._links[route.link].kind == "bridge":
                through[route.link] = (*through.get(route.link, ()), route)
        through = {
            name: tuple(sorted(found, key=lambda each: each.gateway is not None)) for name, found in through.items()
        }
        addresses = {name: tuple(cidrs) for name, cidrs in self._addresses.items() if cidrs}
        defaults, uplinks = self._defaults(self._links)
        gateways = {
            route.gateway: route.link
            for route in self._default_routes()
            if route.gateway and not route.gateway.startswith("fe80:")
        }
        links = {name: self._with_switches(link) for name, link in self._links.items()}
        return Snapshot(
            links, addresses, routes, defaults, uplinks, through, gateways=gateways, buckets=dict(self._buckets)
        )

    def _with_switches(self, link: KernelLink) -> KernelLink:
        """A link with the sysctls that rtnetlink lists with it."""
        return replace(
            link,
            disable_ipv6=self.sysctl(sysctl_of("ipv6", link.name, "disable_ipv6")) == "1",
            forwarding4=self.sysctl(sysctl_of("ipv4", link.name, "forwarding")) != "0",
            forwarding6=self.sysctl(sysctl_of("ipv6", link.name, "forwarding")) != "0",
        )

    def glimpse(self, names: Iterable[str]) -> Snapshot:
        """These links and what they are ports of."""
        links = {name: self._links[name] for name in names if name in self._links}
        masters = {link.master for link in links.values()}
        links.update({name: link for name, link in self._links.items() if link.index in masters})
        defaults, uplinks = self._defaults(links)
        return Snapshot(links, {}, {}, defaults, uplinks)

    def _defaults(self, among: Iterable[str]) -> tuple[dict[str, str], tuple[str, ...]]:
        """By family the interface of the default route, and the interfaces of all of them."""
        found = self._default_routes()
        best: dict[str, ops.PutRoute] = {}
        for route in found:
            family = family_of(route.cidr)
            if family not in best or route.metric < best[family].metric:
                best[family] = route
        defaults = {family: route.link for family, route in sorted(best.items()) if route.link in among}
        all_of_them = DefaultRoutes()
        for route in self._routes:
            if route.table == RT_TABLE_MAIN and route.link in among:
                all_of_them.add(family_of(route.cidr), route.cidr, route.metric, (route.link,))
        return defaults, all_of_them.links

    def _default_routes(self) -> list[ops.PutRoute]:
        return [route for route in self._routes if route.table == RT_TABLE_MAIN and route.cidr.endswith("/0")]

    def proxies(self) -> set[tuple[str, str]]:
        """The addresses that the host answers for on behalf of others."""
        return set(self._proxies)

    def policy(self) -> Policy:
        """The routing rules, and the routes of all tables; of the main table also those that addresses imply."""
        networks = [
            (link, network)
            for link, cidrs in self._addresses.items()
            if self._links[link].up and link != "lo"
            for network in sorted({ipaddress.ip_interface(cidr).network for cidr in cidrs}, key=str)
            if network.num_addresses > 1
        ]
        implied = [
            ops.PutRoute(link, str(network), RT_TABLE_MAIN, RTPROT_KERNEL, scope, metric)
            for link, network in networks
            for scope, metric in ((0, 256) if network.version == 6 else (RT_SCOPE_LINK, 0),)
        ]
        rules = sorted(self._rules, key=lambda rule: (rule.family, rule.priority))
        return Policy(tuple(rules), (*implied, *sorted(self._routes, key=_order)))

    def sysctl(self, name: str) -> str | None:
        """The value of a sysctl; None where there is none of this name."""
        return self._sysctls.read(name)

    def traffic(self) -> dict[str, tuple[int, int]]:
        """No packet is ever sent."""
        return dict.fromkeys(self.snapshot().links, (0, 0))

    def listening(self, protocol: str, family: str) -> set[int]:
        """The ports that have a listener; one of IPv6 takes connections of IPv4 as well."""
        families = {family, "ipv6"}
        return {port for spoken, of, port in self.listeners if spoken == protocol and of in families}

    def bindable(self, protocol: str, address: str, port: int, *, shared: bool = False) -> bool:
        """Whether no socket listens on the port."""
        del shared
        return port not in self.listening(protocol, family_of(address))

    def forget(self, flows: Iterable[Flows], is_local: Callable[[str], bool]) -> int:
        """Delete flows that conntrack knows."""
        wanted = list(flows)
        gone = {flow for flow in self.flows if any(x.family == flow.family and x.has(flow, is_local) for x in wanted)}
        self.flows -= gone
        return len(gone)

    def perform(self, operation: ops.Operation) -> None:
        """Perform one operation, or refuse it with the kernel's errno."""
        self.performed.append(operation)
        for refusal in self._refusals:
            if refusal[0](operation):
                self._refusals.remove(refusal)
                raise _refusal(refusal[1])
        self._perform(operation)

    @singledispatchmethod
    def _perform(self, operation: ops.Operation) -> None:
        raise NotImplementedError(operation)

    # --- links -------------------------------------------------------------------------------------------------------

    def _add(self, link: KernelLink) -> None:
        mac = link.mac or f"02:00:00:00:{link.index >> 8:02x}:{link.index & 0xFF:02x}"
        self._links[link.name] = replace(link, mac=mac)
        self._addresses[link.name] = []
        self._sysctls.add_link(link.name, "ipv4")
        self._sync_ipv6(link.name)

    def _remove(self, link: KernelLink) -> None:
        for port in self._ports(link):
            self._leave(port)
        self._leave(link)
        del self._links[link.name], self._addresses[link.name]
        self._routes = [route for route in self._routes if route.link != link.name]
        self._proxies = {each for each in self._proxies if each[0] != link.name}
        self._sysctls.remove_link(link.name, "ipv4", "ipv6")
        self._buckets.pop(link.name, None)
        self._fixed_mac.discard(link.name)
        self._fixed_mtu.discard(link.name)

    def _found(self, name: str) -> KernelLink:
        if name not in self._links:
            raise _refusal(errno.ENODEV)
        return self._links[name]

    def _ports(self, bridge: KernelLink) -> list[KernelLink]:
        return [link for link in self._links.values() if link.master == bridge.index]

    def _fresh(self, name: str, kind: str) -> KernelLink:
        """A link that is made now."""
        self._next_index += 1
        return KernelLink(name, self._next_index - 1, kind, up=False, mac="", mtu=_MTU)

    @_perform.register
    def _create_bridge(self, operation: ops.CreateBridge) -> None:
        name = operation.name
        if name in self._links or any(name in link.altnames for link in self._links.values()):
            raise _refusal(errno.EEXIST)
        made = replace(self._fresh(name, "bridge"), mac=operation.mac or "", carrier=True)
        self._add(replace(made, stp=operation.stp, vlan_filtering=operation.vlan_filtering))
        if operation.mac:
            self._fixed_mac.add(name)
        self._sysctls.write(sysctl_of("ipv6", name, "accept_dad"), "0")  # as `LinuxKernel.perform` does it
        if operation.mtu:
            self._set_mtu(name, operation.mtu, fix=True)

    @_perform.register
    def _create_tap(self, operation: ops.CreateTap) -> None:
        if operation.name in self._links:
            raise _refusal(errno.EBUSY)  # IFF_TUN_EXCL
        self._make_tap(operation)

    def _make_tap(self, tap: ops.CreateTap | ops.SetTapUser) -> None:
        made = self._fresh(tap.name, "tun")
        self._add(replace(made, tap=True, persistent=True, multi_queue=tap.multi_queue))
        self._own(tap)

    @_perform.register
    def _set_tap_user(self, operation: ops.SetTapUser) -> None:
        link = self._links.get(operation.name)
        if link is None:
            self._make_tap(operation)  # TUNSETIFF makes one, then
        elif link.kind != "tun" or link.multi_queue != operation.multi_queue:
            raise _refusal(errno.EINVAL)
        else:
            self._own(operation)

    def _own(self, tap: ops.CreateTap | ops.SetTapUser) -> None:
        """Say who may open a TAP: root, where nobody is named."""
        link = self._links[tap.name]
        uid = 0 if tap.user is None and tap.group is None else link.uid if tap.user is None else user_id(tap.user)
        gid = link.gid if tap.group is None else group_id(tap.group)
        self._links[tap.name] = replace(link, uid=uid, gid=gid, vnet_hdr=tap.vnet_hdr)

    @_perform.register
    def _delete_link(self, operation: ops.DeleteLink) -> None:
        link = self._found(operation.name)
        if not link.kind:
            raise _refusal(errno.EOPNOTSUPP)
        self._remove(link)

    @_perform.register
    def _set_link(self, operation: ops.SetLink) -> None:
        name = operation.name
        if operation.mac is not None:
            self._set_mac(name, operation.mac)
        if operation.mtu is not None:
            self._set_mtu(name, operation.mtu, fix=operation.bridge_device)
        if operation.bridge is not None:
            self._set_master(name, operation.bridge)
        for option in ("isolated", "hairpin", "group_fwd_mask"):
            value = getattr(operation, option)
            if value is not None:
                self._set_port(name, option, value)
        if operation.accept_ra is not None and self._has_ipv6(name):
            self._sysctls.write(sysctl_of("ipv6", name, "accept_ra"), str(operation.accept_ra))
            self._sync_ipv6(name)
        if operation.ipv6 is not None and self._has_ipv6(name):
            self._sysctls.write(sysctl_of("ipv6", name, "disable_ipv6"), str(int(not operation.ipv6)))
        if operation.up is not None:
            self._set_up(name, up=operation.up)

    def _set_port(self, name: str, option: str, value: int) -> None:
        link = self._found(name)
        if not link.master:
            raise _refusal(errno.EOPNOTSUPP)
        self._links[name] = _with(link, option, value)

    @_perform.register
    def _shape(self, operation: ops.Shape) -> None:
        self._found(operation.name)
        self._buckets[operation.name] = Bucket(operation.rate, operation.burst, operation.limit)

    @_perform.register
    def _unshape(self, operation: ops.Unshape) -> None:
        self._buckets.pop(operation.name, None)

    def _set_mac(self, name: str, mac: str) -> None:
        self._found(name)
        if mac == _NO_MAC or int(mac[:2], 16) & 1:
            raise _refusal(errno.EADDRNOTAVAIL)
        link = self._links[name] = replace(self._links[name], mac=mac)
        if link.kind == "bridge":
            self._fixed_mac.add(name)
        self._follow_ports(link.master)

    def _set_mtu(self, name: str, mtu: int, *, fix: bool = False) -> None:
        """Set an MTU. A bridge's follows its smallest port until it is changed by hand, or by force (`fix`)."""
        link = self._found(name)
        if not _SMALLEST_MTU <= mtu <= _LARGEST_MTU:
            raise _refusal(errno.EINVAL)
        if link.kind == "bridge" and (fix or link.mtu != mtu):
            self._fixed_mtu.add(name)
        self._links[name] = replace(link, mtu=mtu)
        self._sync_ipv6(name)
        self._follow_ports(link.master)

    def _set_master(self, name: str, bridge: str) -> None:
        link = self._found(name)
        if not bridge:
            self._leave(link)
            return
        master = self._found(bridge)
        if link.master == master.index:
            return
        if master.kind != "bridge":
            raise _refusal(errno.EOPNOTSUPP)
        self._leave(link)
        if not link.ethernet:
            raise _refusal(errno.EINVAL)
        if link.kind == "bridge":
            raise _refusal(errno.ELOOP)
        self._links[name] = replace(self._links[name], master=master.index)
        self._follow_ports(master.index)

    def _leave(self, port: KernelLink) -> None:
        """A port leaves its bridge: its options go."""
        self._links[port.name] = replace(
            self._links[port.name], master=0, isolated=False, hairpin=False, group_fwd_mask=0
        )
        self._follow_ports(port.master)

    def _follow_ports(self, index: int) -> None:
        """A bridge takes the lowest MAC address and the smallest MTU of its ports, unless one was set."""
        bridge = next((link for link in self._links.values() if index and link.index == index), None)
        if bridge is None:
            return
        ports = self._ports(bridge)
        if bridge.name not in self._fixed_mac:
            bridge = replace(bridge, mac=min((port.mac for port in ports), default=_NO_MAC))
        if bridge.name not in self._fixed_mtu:
            bridge = replace(bridge, mtu=min((port.mtu for port in ports), default=_MTU))
        self._links[bridge.name] = bridge
        self._sync_ipv6(bridge.name)

    def _set_up(self, name: str, *, up: bool) -> None:
        self._links[name] = replace(self._found(name), up=up)
        if not up:
            self._proxies = {each for each in self._proxies if each[0] != name}
            self._routes = [route for route in self._routes if route.link != name]
            if self.sysctl(sysctl_of("ipv6", name, "keep_addr_on_down")) != "1":
                self._drop_ipv6(name)

    @_perform.register
    def _set_bridge_option(self, operation: ops.SetBridgeOption) -> None:
        link = self._found(operation.name)
        if link.kind != "bridge":
            raise _refusal(errno.EOPNOTSUPP)
        self._links[link.name] = _with(link, operation.option, operation.value)

    # --- IPv6 of a link ----------------------------------------------------------------------------------------------

    def _has_ipv6(self, name: str) -> bool:
        return self.sysctl(sysctl_of("ipv6", name, "accept_ra")) is not None

    def _drop_ipv6(self, name: str) -> None:
        self._addresses[name] = [cidr for cidr in self._addresses[name] if ":" not in cidr]
        self._routes = [route for route in self._routes if route.link != name or ":" not in route.cidr]

    def _sync_ipv6(self, name: str) -> None:
        """Below an MTU of 1280 a link has no IPv6, nor sysctls for it; above, it gets new ones."""
        if self._links[name].mtu < _IPV6_MTU:
            self._drop_ipv6(name)
            self._sysctls.remove_link(name, "ipv6")
        elif not self._has_ipv6(name):
            self._sysctls.add_link(name, "ipv6")
        accepted = self.sysctl(sysctl_of("ipv6", name, "accept_ra"))
        self._links[name] = replace(self._links[name], accept_ra=None if accepted is None else int(accepted))

    # --- addresses and routes ----------------------------------------------------------------------------------------

    @_perform.register
    def _add_address(self, operation: ops.AddAddress) -> None:
        link, mine = self._found(operation.link), ipaddress.ip_interface(operation.cidr)
        held = self._addresses[link.name]
        if mine.version == 4:
            if operation.cidr not in held:
                held.insert(self._place(held, operation.cidr), operation.cidr)
            return
        if not self._has_ipv6(link.name):
            raise _refusal(errno.EINVAL)
        if self.sysctl(sysctl_of("ipv6", link.name, "disable_ipv6")) == "1":
            raise _refusal(errno.EACCES)
        if mine.is_link_local or any(ipaddress.ip_interface(cidr).ip == mine.ip for cidr in held):
            return  # IPv6 has each address once, whatever its prefix length
        held.insert(sum(":" not in cidr for cidr in held), operation.cidr)

    @staticmethod
    def _place(held: list[str], cidr: str) -> int:
        """Where an IPv4 address comes: behind all of its family if it is another's secondary, else before these."""
        own = [each for each in held if ":" not in each]
        if _is_secondary(cidr, own):
            return len(own)
        return next((i for i, each in enumerate(own) if _is_secondary(each, own[:i])), len(own))

    @_perform.register
    def _delete_address(self, operation: ops.DeleteAddress) -> None:
        held = self._addresses.get(operation.link, [])
        if operation.cidr not in held:
            return
        if ":" not in operation.cidr:
            self._delete_secondaries(operation.link, operation.cidr)
        held.remove(operation.cidr)
        if not any(":" not in cidr for cidr in held):
            # fib_disable_ip: with a link's last IPv4 address all IPv4 routes through it go.
            self._routes = [route for route in self._routes if route.link != operation.link or ":" in route.cidr]

    def _delete_secondaries(self, link: str, cidr: str) -> None:
        """With a primary IPv4 address its secondaries go, unless they are promoted."""
        promoted = [self.sysctl(sysctl_of("ipv4", scope, "promote_secondaries")) for scope in ("all", link)]
        held = self._addresses[link]
        if "1" not in promoted and not _is_secondary(cidr, held[: held.index(cidr)]):
            held[:] = [each for each in held if each == cidr or not _is_secondary(each, [cidr])]

    @_perform.register
    def _add_route(self, operation: ops.AddRoute) -> None:
        scope = 0 if ":" in operation.cidr else RT_SCOPE_LINK
        route = ops.PutRoute(operation.link, operation.cidr, RT_TABLE_MAIN, RTPROT_STATIC, scope)
        self._insert(route, instead=True)

    @_perform.register
    def _put_route(self, route: ops.PutRoute) -> None:
        self._insert(route, instead=False)

    def _insert(self, route: ops.PutRoute, *, instead: bool) -> None:
        """Add a route; where one of its destination, TOS and metric is in the table, that one stays or goes."""
        link = self._found(route.link)
        if ":" in route.cidr:
            if not self._has_ipv6(link.name):
                raise _refusal(errno.ENODEV)
            route = replace(route, metric=route.metric or _IPV6_METRIC)
        if route.gateway and not route.onlink and not (link.up and self._reaches(route.link, route.gateway)):
            raise _refusal(errno.EHOSTUNREACH if ":" in route.gateway else errno.ENETUNREACH)
        if not link.up:
            raise _refusal(errno.ENETDOWN)
        if route.source and not self.snapshot().local(route.source):
            raise _refusal(errno.EINVAL)
        same = [each for each in self._routes if _identity(each) == _identity(route)]
        if same and not instead:
            return
        self._routes = [each for each in self._routes if each not in same] + [route]

    def _reaches(self, link: str, gateway: str) -> bool:
        """Whether a gateway is a neighbour on a link, by its addresses or by a route without a gateway."""
        networks = [ipaddress.ip_interface(cidr).network for cidr in self._addresses[link]]
        networks += [ipaddress.ip_network(each.cidr) for each in self._routes if each.link == link and not each.gateway]
        return any(ipaddress.ip_address(gateway) in network for network in networks)

    @_perform.register
    def _delete_route(self, operation: ops.DeleteRoute) -> None:
        wanted = (operation.link, operation.cidr, RT_TABLE_MAIN)
        found = [each for each in self._routes if (each.link, each.cidr, each.table) == wanted]
        if found:
            self._routes.remove(min(found, key=lambda each: each.metric))

    @_perform.register
    def _remove_route(self, route: ops.RemoveRoute) -> None:
        self._routes = [each for each in self._routes if _identity(each) != _identity(route) or each.link != route.link]

    @_perform.register
    def _add_proxy(self, operation: ops.AddProxy) -> None:
        self._found(operation.link)
        self._proxies.add((operation.link, operation.address))

    @_perform.register
    def _delete_proxy(self, operation: ops.DeleteProxy) -> None:
        self._proxies.discard((operation.link, operation.address))

    @_perform.register
    def _add_rule(self, rule: ops.AddRule) -> None:
        if rule not in self._rules:
            self._rules.append(rule)

    @_perform.register
    def _delete_rule(self, rule: ops.DeleteRule) -> None:
        self._rules = [each for each in self._rules if vars(each) != vars(rule)]

    # --- sysctls -----------------------------------------------------------------------------------------------------

    @_perform.register
    def _write_sysctl(self, operation: ops.WriteSysctl) -> None:
        self._sysctls.write(operation.name, operation.value)
        for name in self._links:
            if operation.name == sysctl_of("ipv6", name, "disable_ipv6") and operation.value == "1":
                self._drop_ipv6(name)
            self._sync_ipv6(name)


def _with(link: KernelLink, option: str, value: int) -> KernelLink:
    changed: dict[str, Any] = {option: value}
    return replace(link, **changed)


def _refusal(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def _is_secondary(cidr: str, earlier: Iterable[str]) -> bool:
    """Whether an IPv4 address lies in the very subnet of one of these, which then is its primary."""
    mine = ipaddress.ip_interface(cidr)
    others: Iterator[Any] = (ipaddress.ip_interface(each) for each in earlier if ":" not in each)
    return any(other != mine and other.network == mine.network for other in others)


def _identity(route: ops.PutRoute) -> tuple[object, ...]:
    """What two routes of one table can't have in common."""
    return route.table, route.cidr, route.tos, route.metric


def _order(route: ops.PutRoute) -> tuple[int, int, int, int, int]:
    """About the kernel's own: by table and destination."""
    network = ipaddress.ip_network(route.cidr)
    return network.version, route.table, int(network.network_address), -network.prefixlen, route.metric
