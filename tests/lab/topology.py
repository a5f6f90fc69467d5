"""The standard topology: a host with an uplink, neighbours on it, an internet behind a router, and guests.

    internet ---- router ---+
                            |   uplink segment 192.0.2.0/24, 2001:db8::/64 (a bridge in namespace `segment`)
    peer -------------------+
    outsider ---------------+--- eth0 [host] a-1 ---- guest1      network A: 10.0.0.0/24, fd12::/64
    attacker ---------------+         [host] a-2 ---- guest2
                                      [host] b-3 ---- guest3      network B: 10.1.0.0/24, fd13::/64
    outsider2 --- segment2 ------ eth1 [host] b-4 ---- guest4
                 203.0.113.0/24, 2001:db8:2::/64; made on demand (`Topology.second_uplink`, `Topology.second_line`)

    namespace   address (v4, v6)                             routes
    host        eth0: 192.0.2.2 and .3, 2001:db8::2 and ::3  default via 192.0.2.1, 2001:db8::1
                eth1: 203.0.113.2, 2001:db8:2::2
    router      192.0.2.1, 2001:db8::1;                      forwards; knows no guest's network
                198.51.100.1, 2001:db8:1::1
    internet    198.51.100.10, 2001:db8:1::10                default via the router
    peer        192.0.2.10, 2001:db8::10                     default via the router
    outsider    192.0.2.20, 2001:db8::20                     default via the router
    attacker    192.0.2.30, 2001:db8::30                     10.0.0.0/8, fd00::/8, 127.0.0.0/8 via the host
    outsider2   203.0.113.20, 2001:db8:2::20                 default via the host's eth1
    guest1, 2   10.0.0.11 and .12, fd12::11 and ::12         default via 10.0.0.1, fd12::1 (a bridge to declare)
    guest3, 4   10.1.0.13 and .14, fd13::13 and ::14         default via 10.1.0.1, fd13::1 (likewise)
    guest5, 6   none: for TAPs, see `Topology.plug`

A guest's veth ends on the host in an interface (`a-1` … `b-4`) that is up and in no bridge: what is under test attaches
it (`match: "a-*"`). MACs: 02:00:00:00:00:<number of the guest>.

Duplicate address detection is off everywhere: a new bridge's link-local address is tentative for two seconds else, and
till then the host can't ask for a guest of a forwarded v6 packet. Neighbours and guests send ICMP errors without a rate
limit, and ask for who is not there every 50 ms, for three seconds as a kernel does by default; the host is in all else
as a kernel makes it.
All stay from test to test but the host: `fresh_host` creates it again, `snapshot` says whether that is needed.
"""

from __future__ import annotations

import contextlib
from functools import partial

from tests.lab.background import Background
from tests.lab.kernel import LOCAL, Kernel, Link, Route
from tests.lab.namespaces import Namespace, Namespaces
from tests.lab.taps import PointToPoint, TapGuest
from tests.lab.waiting import until

HOST4, HOST6 = "192.0.2.2", "2001:db8::2"
NEIGHBOURS = {"router": 1, "peer": 10, "outsider": 20, "attacker": 30}
GUESTS = {"guest1": ("a-1", 0), "guest2": ("a-2", 0), "guest3": ("b-3", 1), "guest4": ("b-4", 1)}
TAP_GUESTS = ("guest5", "guest6")

# Sysctls of a host that hostnet, or a case, may set: part of `snapshot`.
HOST_SYSCTLS = (
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.forwarding",
    "net.ipv4.conf.default.forwarding",
    "net.ipv4.conf.eth0.forwarding",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv4.conf.default.rp_filter",
    "net.ipv4.conf.all.route_localnet",
    "net.ipv4.conf.default.route_localnet",
    "net.ipv4.conf.eth0.route_localnet",
    "net.ipv4.conf.lo.route_localnet",
    "net.ipv6.conf.all.forwarding",
    "net.ipv6.conf.default.forwarding",
    "net.ipv6.conf.eth0.forwarding",
    "net.ipv6.conf.default.disable_ipv6",
    "net.ipv6.conf.all.accept_ra",
    "net.ipv6.conf.default.accept_ra",
    "net.ipv6.conf.eth0.accept_ra",
    "net.bridge.bridge-nf-call-iptables",
    "net.bridge.bridge-nf-call-ip6tables",
)

# <linux/if.h>
_FLAGS = {"UP": 0x1, "BROADCAST": 0x2, "PROMISC": 0x100, "MULTICAST": 0x1000}


def is_ready(kernel: Kernel, name: str) -> bool:
    """Whether a link is connected, and its addresses answer: IPv6's do so after a moment only."""
    link = kernel.links()[name]
    local = {route.destination.split("/")[0] for route in kernel.routes(table=LOCAL) if route.device == name}
    return link.carrier and {address.split("/")[0] for address in link.addresses} <= local


class Topology:
    """The namespaces of the module's picture, made at once; use `fresh_host` for a host that nothing has touched."""

    def __init__(self, background: Background) -> None:
        """Make it all (about 0.2 s)."""
        self._background = background
        self.namespaces = Namespaces()
        self._plugged: dict[str, TapGuest] = {}
        self._lines: list[PointToPoint] = []
        self._pristine = ""
        try:
            self._build()
        except BaseException:
            self.namespaces.close()
            raise

    def __getitem__(self, role: str) -> Namespace:
        """A namespace by its role."""
        return self.namespaces[role]

    @property
    def host(self) -> Namespace:
        """The host under test."""
        return self["host"]

    def close(self) -> None:
        """Take it all away."""
        self.unplug()
        while self._lines:
            self._lines.pop().close()
        self.namespaces.close()

    def _build(self) -> None:
        segment = self.namespaces.add("segment")
        segment.ip("link add br0 type bridge forward_delay 0", "link set br0 up")
        for role in ("internet", *NEIGHBOURS, *GUESTS, *TAP_GUESTS):
            quiet(self.namespaces.add(role))
        for role, number in NEIGHBOURS.items():
            addresses = (f"192.0.2.{number}/24", f"2001:db8::{number}/64")
            self._wire("segment", role, role, "eth0", *addresses)
            if role in ("peer", "outsider"):
                self[role].ip("route add default via 192.0.2.1", "route add ::/0 via 2001:db8::1")
        self._build_internet()
        self._arm_attacker()
        self._build_host()

    def _wire(self, switch: str, port: str, role: str, link: str, *addresses: str) -> None:
        """A veth from a segment's bridge to an interface of a namespace, with addresses."""
        self[switch].ip(
            f"link add {port} type veth peer name {link} netns {self[role].name}", f"link set {port} master br0 up"
        )
        self[role].ip(f"link set {link} up", *(f"address add {address} dev {link} nodad" for address in addresses))
        if role != "host":
            _ask_often(self[role])

    def _build_internet(self) -> None:
        router, internet = self["router"], self["internet"]
        router.ip(
            f"link add inet type veth peer name eth0 netns {internet.name}",
            "link set inet up",
            "address add 198.51.100.1/24 dev inet",
            "address add 2001:db8:1::1/64 dev inet nodad",
        )
        router.sysctl("net.ipv4.ip_forward", 1)
        router.sysctl("net.ipv6.conf.all.forwarding", 1)
        internet.ip(
            "link set eth0 up",
            "address add 198.51.100.10/24 dev eth0",
            "address add 2001:db8:1::10/64 dev eth0 nodad",
            "route add default via 198.51.100.1",
            "route add ::/0 via 2001:db8:1::1",
        )

    def _arm_attacker(self) -> None:
        """Routes to what is behind the host, and to its loopback."""
        attacker = self["attacker"]
        attacker.sysctl("net.ipv4.conf.eth0.route_localnet", 1)
        attacker.ip(
            "address del 127.0.0.1/8 dev lo",
            f"route add 127.0.0.0/8 via {HOST4} src 192.0.2.30",
            f"route add 10.0.0.0/8 via {HOST4}",
            f"route add fd00::/8 via {HOST6}",
        )

    def _build_host(self) -> None:
        """The host, its uplink and the guests' wires."""
        host = self.namespaces.add("host")
        host.sysctl("net.ipv6.conf.default.accept_dad", 0)
        self._wire(
            "segment", "host", "host", "eth0",
            "192.0.2.2/24", "192.0.2.3/24",
            "2001:db8::3/64", "2001:db8::2/64",  # of two v6 addresses the kernel prefers the younger as a source
        )  # fmt: skip
        host.ip("route add default via 192.0.2.1", "route add ::/0 via 2001:db8::1")
        host.ip(*(_guest_wire(link, self[role].name, role) for role, (link, _) in GUESTS.items()))
        host.ip(*(f"link set {link} up" for link, _ in GUESTS.values()))
        for role in GUESTS:
            self.configure_guest(role)
        self._pristine = self.snapshot()

    def configure_guest(self, role: str) -> None:
        """Give a guest the addresses and routes of the plan."""
        _, net = GUESTS[role]
        number = role[-1]
        self[role].ip(
            "link set eth0 up",
            f"address add 10.{net}.0.1{number}/24 dev eth0",
            f"address add fd1{2 + net}::1{number}/64 dev eth0 nodad",
            f"route add default via 10.{net}.0.1",
            f"route add ::/0 via fd1{2 + net}::1",
        )
        _ask_often(self[role])

    def second_uplink(self) -> Namespace:
        """Give the host `eth1` with a segment and a neighbour (`outsider2`) of its own; to be had once a host."""
        segment = self.namespaces.add("segment2")
        segment.ip("link add br0 type bridge forward_delay 0", "link set br0 up")
        outsider = quiet(self.namespaces.add("outsider2"))
        self._wire("segment2", "outsider2", "outsider2", "eth0", "203.0.113.20/24", "2001:db8:2::20/64")
        outsider.ip("route add default via 203.0.113.2", "route add ::/0 via 2001:db8:2::2")
        self.second_card()
        return outsider

    def second_card(self) -> None:
        """The card of `second_uplink`, again once it was taken out (`host ip link delete eth1`)."""
        self._wire("segment2", "host", "host", "eth1", "203.0.113.2/24", "2001:db8:2::2/64")
        until(partial(is_ready, self.host.kernel, "eth1"))
        self["outsider2"].ip("neigh flush all")  # it knew the former card's MAC address

    def second_line(self, name: str) -> PointToPoint:
        """The second uplink as a line without Ethernet, such as `ppp0`, in place of the card.

        The host has 203.0.113.2 and 2001:db8:2::2 there, `outsider2` is at the other end. Once closed, the line can be
        had again.
        """
        if "outsider2" not in self.namespaces:
            quiet(self.namespaces.add("outsider2"))
        line = PointToPoint(self._background, (self.host, name), (self["outsider2"], "eth0"))
        self._lines.append(line)
        for role, device, own, far in (("host", name, 2, 20), ("outsider2", "eth0", 20, 2)):
            self[role].ip(
                f"address add 203.0.113.{own} peer 203.0.113.{far} dev {device}",
                f"address add 2001:db8:2::{own} peer 2001:db8:2::{far} dev {device} nodad",
            )
        self["outsider2"].ip("route add default dev eth0", "route add ::/0 dev eth0")
        return line

    def plug(self, tap: str, role: str, *commands: str, mac: str, vnet_hdr: bool = True) -> TapGuest:
        """Plug a guest into a TAP of the host.

        Args:
            tap: The TAP.
            role: `guest5` or `guest6`.
            commands: `ip` commands for its `eth0`: addresses, routes.
            mac: The MAC address of its `eth0`.
            vnet_hdr: As the TAP was made.
        """
        self._plugged[role] = wire = TapGuest(self._background, self.host, tap, self[role], mac=mac, vnet_hdr=vnet_hdr)
        self[role].ip(*commands)
        return wire

    def unplug(self) -> None:
        """Unplug all guests from TAPs."""
        while self._plugged:
            self._plugged.popitem()[1].close()

    def snapshot(self) -> str:
        """All of the host that hostnet may touch, as text to compare.

        Links, addresses, routes, policy rules, proxied neighbours, queueing disciplines, sysctls and nftables.
        """
        host, kernel = self.host, self.host.kernel
        lines = [_describe(link) for link in kernel.links().values()]
        lines += sorted(str(route) for route in kernel.routes(table=None) if _is_set(route))
        lines += [*map(str, kernel.rules()), *map(str, kernel.neighbours(proxies=True))]
        lines += [f"{qdisc.kind} on {qdisc.device}" for qdisc in kernel.qdiscs()]
        lines += [f"{name} = {host.sysctl(name)}" for name in HOST_SYSCTLS]
        return "\n".join([*lines, kernel.listing()])

    def is_pristine(self) -> bool:
        """Whether the host is there, and as it was made."""
        return "host" in self.namespaces and self.snapshot() == self._pristine

    @property
    def pristine(self) -> str:
        """The snapshot of the host as it was made, for a comparison that shows the difference."""
        return self._pristine

    def settle(self) -> None:
        """Between tests: guests unplugged, guests forget the gateways that they knew, the host forgets connections."""
        self.unplug()
        while self._lines:
            self._lines.pop().close()
        for role in GUESTS:
            self[role].ip("neigh flush all")
        if "host" in self.namespaces:
            self.host.run("conntrack -F")

    def fresh_host(self) -> Namespace:
        """A host that nothing has touched: a new one (about 60 ms), unless the old one is pristine."""
        self.settle()
        if "outsider2" in self.namespaces or not self.is_pristine():
            self.namespaces.delete("host")
            for role in ("outsider2", "segment2"):
                self.namespaces.delete(role)
            # A veth's other end goes with the namespace, but only after a moment.
            for role in GUESTS:
                with contextlib.suppress(AssertionError):
                    self[role].ip("link delete eth0")
            with contextlib.suppress(AssertionError):
                self["segment"].ip("link delete host")
            self._build_host()
            for role in NEIGHBOURS:  # they knew the old host's MAC address
                self[role].ip("neigh flush all")
        return self.host


def quiet(namespace: Namespace) -> Namespace:
    """Make a neighbour answer at once: no rate limit on ICMP errors, no duplicate address detection.

    Nor does it hear what a test has others say as routers: its addresses and routes are those of the plan.
    """
    namespace.sysctl("net.ipv6.conf.default.accept_ra", 0)
    namespace.sysctl("net.ipv4.icmp_ratelimit", 0)
    namespace.sysctl("net.ipv6.icmp.ratelimit", 0)
    namespace.sysctl("net.ipv6.conf.default.accept_dad", 0)
    return namespace


def _ask_often(namespace: Namespace) -> None:
    """A neighbour that is not there yet is asked for again after 50 ms, not after a second.

    The requests go on for the usual three seconds: on a busy machine an answer takes longer than three times 50 ms, and
    the kernel answers with an ICMP error once it has given a neighbour up.
    """
    for family in ("ipv4", "ipv6"):
        namespace.sysctl(f"net.{family}.neigh.eth0.retrans_time_ms", 50)
        for kind in ("mcast", "ucast"):
            namespace.sysctl(f"net.{family}.neigh.eth0.{kind}_solicit", 60)


def _guest_wire(link: str, namespace: str, role: str) -> str:
    mac = f"02:00:00:00:00:0{role[-1]}"
    return f"link add {link} type veth peer name eth0 address {mac} netns {namespace}"


def _describe(link: Link) -> str:
    """A link without what counts up or depends on the moment."""
    flags = sorted(name for name, flag in _FLAGS.items() if link.flags & flag)
    port = f"isolated={link.isolated} hairpin={link.hairpin}" if link.master else ""
    return f"{link.name} {link.kind} mtu={link.mtu} master={link.master} {port} {flags} {sorted(link.addresses)}"


def _is_set(route: Route) -> bool:
    """Whether a route is more than what comes and goes with a carrier: link-local ones do."""
    return route.kind not in ("multicast", "anycast") and not route.destination.startswith("fe80:")
