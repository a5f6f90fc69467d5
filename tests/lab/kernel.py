"""What the kernel has in a network namespace, read apart from hostnet: with pyroute2 and the nftables bindings.

    kernel = lab.host.kernel
    kernel.links()["br-a"].mtu                   links with their addresses and, of a port, its place in a bridge
    kernel.routes(), kernel.rules()              the main table, the policy rules; `routes(table=None)`: all tables
    kernel.neighbours(), kernel.qdiscs()
    kernel.ruleset(), kernel.listing()           nftables as JSON objects, and as `nft list ruleset` prints it

Each call reads again, in a thread that is in the namespace, by sockets that are closed before it returns: nothing of
the observer keeps a namespace alive, and no answer is older than the question.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.rtnl import RTMGRP_LINK, rt_proto, rt_scope, rt_type
from pyroute2.netlink.rtnl.marshal import MarshalRtnl
from pyroute2.netlink.rtnl.ndmsg import NTF_PROXY
from pyroute2.netlink.rtnl.ndmsg import states as neighbour_states

T = TypeVar("T")
MAIN, LOCAL = 254, 255  # <linux/rtnetlink.h>: the table of routes that name none, and that of the own addresses
EVENTS_BUFFER = 1 << 22  # bytes: hundreds of links at once
SKIP_STATS = 8  # likewise: RTEXT_FILTER_SKIP_STATS
# <linux/if.h>
IFF_UP, IFF_RUNNING, IFF_LOWER_UP = 0x1, 0x40, 0x10000
CONNECTED = IFF_UP | IFF_RUNNING | IFF_LOWER_UP
# What a bridge does by itself: its timers, spanning tree and multicast groups.
_PASSING = re.compile(r".*_timer|.*_id|state|designated_.*|topology_change.*|config_pending|mcast_n_groups|.*_cnt")
# <linux/if_tun.h>: IFF_TAP, which is what the kernel gives as IFLA_TUN_TYPE
TUN_TYPE_TAP = 2
# <linux/pkt_sched.h>
INGRESS, CLSACT_EGRESS = 0xFFFFFFF2, 0xFFFFFFF3


@dataclass(frozen=True)
class Link:
    """A network interface.

    Attributes:
        kind: "bridge", "tap", "tun", "veth", ...; "" for loopback and hardware.
        flags: the kernel's IFF_ flags.
        addresses: CIDRs in the kernel's order, without link-local IPv6 ones.
        link_local: the link-local IPv6 ones.
        master: the bridge that it is a port of.
        details: what its kind has, by the kernel's names without their prefix: `stp_state`, `owner`, `vnet_hdr`.
        port: what a port of a bridge has, likewise: `isolated`, `mode`.
    """

    name: str
    index: int
    kind: str
    mtu: int
    mac: str
    flags: int
    addresses: tuple[str, ...] = ()
    link_local: tuple[str, ...] = ()
    master: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    port: Mapping[str, Any] = field(default_factory=dict)

    @property
    def up(self) -> bool:
        """Whether it is switched on."""
        return bool(self.flags & IFF_UP)

    @property
    def carrier(self) -> bool:
        """Whether it is switched on and connected, and the kernel has taken note (which it does in its own time)."""
        return self.flags & CONNECTED == CONNECTED

    @property
    def lasting(self) -> dict[str, Any]:
        """What does not change by itself: without the index, timers, and what follows from a carrier."""
        return {
            **{fact: getattr(self, fact) for fact in ("kind", "mtu", "mac", "up", "master")},
            "addresses": sorted(self.addresses),
            "details": _lasting(self.details),
            "port": _lasting(self.port),
        }

    @property
    def owner(self) -> int | None:
        """The user who may open a TAP."""
        return self.details.get("owner")

    @property
    def group(self) -> int | None:
        """The group that may open a TAP."""
        return self.details.get("group")

    @property
    def stp(self) -> bool:
        """Whether a bridge speaks the spanning tree protocol."""
        return bool(self.details.get("stp_state"))

    @property
    def isolated(self) -> bool:
        """Whether a port is isolated from other isolated ports."""
        return bool(self.port.get("isolated"))

    @property
    def hairpin(self) -> bool:
        """Whether a port takes back frames that came from it."""
        return bool(self.port.get("mode"))  # so the kernel calls it


@dataclass(frozen=True)
class Route:
    """A route.

    Attributes:
        destination: a CIDR, with the length of a single address too; "default" for all of a family.
        device: "" where there is none (unreachable), or several.
        gateway: "" where the destination is on the link.
        hops: gateway and device of each of several next hops.
        source: the preferred source address, or "".
        protocol: who made it: "kernel", "boot", "static", "ra", ...
        kind: "unicast", "local", "broadcast", ...
        limits: what holds for packets that take it, such as their `mtu` (the kernel calls them metrics).
    """

    destination: str
    device: str
    gateway: str
    hops: tuple[tuple[str, str], ...]
    source: str
    metric: int
    table: int
    protocol: str
    scope: str
    kind: str
    limits: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        words = {
            "via": self.gateway,
            "dev": self.device,
            "src": self.source,
            "metric": self.metric,
            **dict(self.limits),
        }
        said = "".join(f" {word} {value}" for word, value in words.items() if value)
        hops = "".join(f" nexthop via {gateway} dev {device}" for gateway, device in self.hops)
        return f"{self.kind} {self.destination}{said}{hops} table {self.table} proto {self.protocol} scope {self.scope}"


@dataclass(frozen=True)
class Rule:
    """A policy rule: which table routes what.

    Attributes:
        selector: what it holds for, by the kernel's names: `fwmark`, `iifname`, `src`, ...
    """

    priority: int
    family: int
    action: int
    table: int
    selector: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Neighbour:
    """An entry of the neighbour tables (ARP, neighbour discovery).

    Attributes:
        mac: "" where it is not known, and for a proxy entry.
        state: "reachable", "stale", "failed", ...; "" for a proxy entry.
    """

    address: str
    device: str
    mac: str
    state: str


@dataclass(frozen=True)
class Qdisc:
    """A queueing discipline (tc), or a filter on one.

    Attributes:
        options: what its kind has, as pyroute2 decodes it.
    """

    device: str
    kind: str
    handle: int
    parent: int
    options: Any = None


class Nftables(Protocol):
    """As much of the bindings' class as is used here."""

    def cmd(self, cmdline: str) -> tuple[int, str, str]:
        """Run commands; gives status, output and errors."""

    def set_json_output(self, val: bool) -> object:  # noqa: FBT001 - the bindings' signature
        """Print JSON."""

    def set_numeric_proto_output(self, val: bool) -> object:  # noqa: FBT001
        """Print protocols as numbers: their names depend on the machine's /etc/protocols."""

    def set_stateless_output(self, val: bool) -> object:  # noqa: FBT001
        """Print no counters."""


_NFT_LOCK = threading.Lock()  # libnftables says nothing of threads


@functools.cache
def bindings() -> Callable[[], Nftables]:
    """The class `Nftables` of libnftables' own Python bindings.

    PyPI has no official package of them. Debian's and Ubuntu's python3-nftables belongs to the system's Python; its
    module is plain Python on ctypes and works in any version, so it is loaded by its path.

    Raises:
        AssertionError: It is not installed.
    """
    places = [Path("/usr/lib/python3/dist-packages/nftables/__init__.py"), *_asked()]
    place = next((place for place in places if place.exists()), None)
    assert place, "python3-nftables is not installed: run `make setup`"
    spec = importlib.util.spec_from_file_location("nftables", place, submodule_search_locations=[str(place.parent)])
    assert spec, place
    assert spec.loader, place
    module = importlib.util.module_from_spec(spec)
    sys.modules["nftables"] = module  # its `__init__` imports its own submodule
    spec.loader.exec_module(module)
    found: Callable[[], Nftables] = module.Nftables
    return found


def _asked() -> Iterator[Path]:
    """Where the system's own Python has the module, if it is elsewhere."""
    program = "import nftables; print(nftables.__file__)"
    done = subprocess.run(["/usr/bin/python3", "-c", program], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        yield Path(done.stdout.strip())


class Kernel:
    """What the kernel has in one network namespace.

    Args:
        call: calls a function in a thread that is in the namespace, and gives what it gave.
    """

    def __init__(self, call: Callable[[Callable[[], Any]], Any]) -> None:
        self._call = call

    def links(self) -> dict[str, Link]:
        """All links by name."""
        found: dict[str, Link] = self._call(_links)
        return found

    def routes(self, table: int | None = MAIN) -> list[Route]:
        """The routes of both families in one table; of all tables where it is None."""
        found: list[Route] = self._call(_routes)
        return [route for route in found if table in (None, route.table)]

    def static_routes(self) -> dict[str, set[str]]:
        """The destinations of the routes in the main table that somebody set, by link; without default routes."""
        found: dict[str, set[str]] = {}
        for route in self.routes():
            if route.destination != "default" and route.protocol in ("static", "boot"):
                found.setdefault(route.device, set()).add(route.destination)
        return found

    def ports(self, bridge: str) -> set[str]:
        """The ports of a bridge."""
        return {name for name, link in self.links().items() if link.master == bridge}

    def rules(self) -> list[Rule]:
        """The policy rules of both families."""
        return list(self._call(_rules))

    def neighbours(self, *, proxies: bool = False) -> list[Neighbour]:
        """The neighbour tables; or what the kernel answers for on behalf of others."""
        return list(self._call(functools.partial(_neighbours, proxies=proxies)))

    def qdiscs(self) -> list[Qdisc]:
        """The queueing disciplines of all links."""
        return list(self._call(_qdiscs))

    def filters(self, device: str, parent: int) -> list[Qdisc]:
        """The filters of a link's queueing discipline: `INGRESS`, `CLSACT_EGRESS`, or a handle."""
        return list(self._call(functools.partial(_filters, device, parent)))

    def link_events(self) -> socket.socket:
        """A socket that gets a message whenever a link comes, changes or goes; `changed_links` reads them."""
        made: socket.socket = self._call(_link_events)
        return made

    def ruleset(self) -> list[dict[str, Any]]:
        """All of nftables, in the JSON of libnftables-json(5), with protocols as numbers."""
        listed: list[dict[str, Any]] = json.loads(self.nft("list ruleset", in_json=True))["nftables"]
        return [item for item in listed if "metainfo" not in item]

    def listing(self, what: str = "ruleset", *, stateless: bool = False) -> str:
        """What `nft list <what>` prints, `nft -s` where it is stateless."""
        return self.nft(f"list {what}", stateless=stateless)

    def elements(self, name: str, table: str = "inet hostnet") -> list[Any]:
        """The elements of a set or map, as JSON; none where it is not there."""
        for item in self.ruleset():
            body = item.get("set") or item.get("map")
            if body and (f"{body['family']} {body['table']}", body["name"]) == (table, name):
                return list(body.get("elem", ()))
        return []

    def tables(self) -> set[str]:
        """The tables of nftables, with their families: `"inet hostnet"`."""
        return {line.removeprefix("table ") for line in self.listing("tables").splitlines()}

    def nft(self, commands: str, *, in_json: bool = False, stateless: bool = False) -> str:
        """Run nft commands.

        Returns:
            What they print.

        Raises:
            AssertionError: With what nft said, where it or the kernel refuses.
        """
        output: str = self._call(functools.partial(_nft, commands, in_json=in_json, stateless=stateless))
        return output


def _link_events() -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, EVENTS_BUFFER)
    made.bind((0, RTMGRP_LINK))
    return made


def changed_links(data: bytes) -> list[tuple[int, int | None]]:
    """Of each link that appeared or changed by a message of `Kernel.link_events`: its index, and its master's."""
    messages = MarshalRtnl().parse(data)
    # A bridge tells of its ports itself, too, in messages of its own family.
    changed = [one for one in messages if one["event"] == "RTM_NEWLINK" and one["family"] == socket.AF_UNSPEC]
    return [(one["index"], one.get_attr("IFLA_MASTER")) for one in changed]


def _nft(commands: str, *, in_json: bool, stateless: bool) -> str:
    with _NFT_LOCK:
        nftables = bindings()()
        nftables.set_json_output(in_json)
        nftables.set_numeric_proto_output(in_json)
        nftables.set_stateless_output(stateless)
        status, output, error = nftables.cmd(commands)
    assert status == 0, f"{error.strip()}\n{commands}"
    return output


def _links() -> dict[str, Link]:
    with IPRoute() as route:
        messages = [(message, _Attributes(message, "IFLA_")) for message in route.get_links(ext_mask=SKIP_STATS)]
        addresses, link_local = _addresses(route)
    names = {message["index"]: attributes["ifname"] for message, attributes in messages}
    links = [_link(message, attributes, names) for message, attributes in messages]
    return {
        link.name: replace(
            link, addresses=tuple(addresses.get(link.index, ())), link_local=tuple(link_local.get(link.index, ()))
        )
        for link in links
    }


def _addresses(route: IPRoute) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """CIDRs by the link's index: first those with meaning beyond the link, then IPv6's link-local ones."""
    found: tuple[dict[int, list[str]], dict[int, list[str]]] = ({}, {})
    for message in route.get_addr():
        attributes = _Attributes(message, "IFA_")
        # IFA_ADDRESS is the other end's on a link with two ends; IPv6 has no IFA_LOCAL without one.
        address = attributes.get("local") or attributes["address"]
        kind = int(":" in address and message["scope"] == rt_scope["link"])
        found[kind].setdefault(message["index"], []).append(f"{address}/{message['prefixlen']}")
    return found


def _link(message: Any, attributes: _Attributes, names: Mapping[int, str]) -> Link:
    info = _Attributes(attributes.get("linkinfo"), "IFLA_INFO_")
    kind = info.get("kind") or ""
    prefix = {"bridge": "IFLA_BR_", "tun": "IFLA_TUN_"}.get(kind)
    details = _Attributes(info.get("data"), prefix) if prefix else {}
    bridged = info.get("slave_kind") == "bridge"
    master = attributes.get("master")
    return Link(
        name=attributes["ifname"],
        index=message["index"],
        kind="tap" if details.get("type") == TUN_TYPE_TAP else kind,
        mtu=attributes["mtu"],
        mac=attributes.get("address") or "",
        flags=message["flags"],
        master=names.get(master, f"#{master}") if master else None,
        details=details,
        port=_Attributes(info.get("slave_data"), "IFLA_BRPORT_") if bridged else {},
    )


def _lasting(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if not _PASSING.fullmatch(name)}


class _Attributes(Mapping[str, Any]):
    """Netlink attributes by their names, without a prefix and in small letters; each is decoded when it is asked for.

    That makes three quarters of what a look at the links costs: a bridge alone has forty.
    """

    def __init__(self, message: Any, prefix: str) -> None:
        self._message = message  # the attributes' data is its
        self._prefix = prefix
        # One of a name that pyroute2 does not know is called UNKNOWN.
        self._slots = {slot.name: slot for slot in message["attrs"] if slot.name != "UNKNOWN"} if message else {}

    def __getitem__(self, name: str) -> Any:
        return self._slots[self._prefix + name.upper()].value

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(self._prefix).lower() for name in self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    def __repr__(self) -> str:
        return repr(dict(self))


def _name(index: int | None) -> str:
    """A link's name; "" for none, or one that has gone in the meantime."""
    try:
        return socket.if_indextoname(index) if index else ""
    except OSError:
        return ""


def _routes() -> list[Route]:
    with IPRoute() as route:
        return [_route(message) for message in route.get_routes()]


def _route(message: Any) -> Route:
    attributes = _Attributes(message, "RTA_")
    destination = attributes.get("dst")
    return Route(
        destination=f"{destination}/{message['dst_len']}" if destination else "default",
        device=_name(attributes.get("oif")),
        gateway=_gateway(attributes),
        hops=tuple((_gateway(_Attributes(hop, "RTA_")), _name(hop["oif"])) for hop in attributes.get("multipath", ())),
        source=attributes.get("prefsrc") or "",
        metric=attributes.get("priority") or 0,
        table=attributes.get("table") or message["table"],
        protocol=rt_proto.get(message["proto"], str(message["proto"])),
        scope=rt_scope.get(message["scope"], str(message["scope"])),
        kind=rt_type.get(message["type"], str(message["type"])),
        limits=tuple(sorted(_Attributes(attributes.get("metrics"), "RTAX_").items())),
    )


def _gateway(attributes: _Attributes) -> str:
    """An IPv4 route may have an IPv6 gateway (RTA_VIA)."""
    via = attributes.get("via")
    return attributes.get("gateway") or (via["addr"] if via else "")


def _rules() -> list[Rule]:
    with IPRoute() as route:
        # Without a family the kernel gives those of multicast routing, too.
        families = (socket.AF_INET, socket.AF_INET6)
        return [_rule(message) for family in families for message in route.get_rules(family=family)]


def _rule(message: Any) -> Rule:
    found = dict(_Attributes(message, "FRA_"))
    table, priority = found.pop("table", message["table"]), found.pop("priority", 0)
    for name in ("protocol", "suppress_prefixlen"):
        found.pop(name, None)
    lengths = {"src_len": message["src_len"], "dst_len": message["dst_len"]}
    selector = found | {name: value for name, value in lengths.items() if value}
    return Rule(priority, message["family"], message["action"], table, tuple(sorted(selector.items())))


def _neighbours(*, proxies: bool) -> list[Neighbour]:
    with IPRoute() as route:
        # Without a filter of its own pyroute2 would take the flag for one, and the kernel would never see it.
        messages = route.neigh("dump", dump_filter=None, flags=NTF_PROXY if proxies else 0)
        return [
            Neighbour(
                address=message.get_attr("NDA_DST"),
                device=_name(message["ifindex"]),
                mac=message.get_attr("NDA_LLADDR") or "",
                state=_STATES.get(message["state"], ""),
            )
            for message in messages
        ]


_STATES = {value: name for name, value in neighbour_states.items() if value}


def _qdiscs() -> list[Qdisc]:
    with IPRoute() as route:
        return [_qdisc(message) for message in route.get_qdiscs()]


def _filters(device: str, parent: int) -> list[Qdisc]:
    with IPRoute() as route:
        index = socket.if_nametoindex(device)
        return [_qdisc(message) for message in route.get_filters(index=index, parent=parent)]


def _qdisc(message: Any) -> Qdisc:
    return Qdisc(
        device=_name(message["index"]),
        kind=message.get_attr("TCA_KIND"),
        handle=message["handle"],
        parent=message["parent"],
        options=message.get_attr("TCA_OPTIONS"),
    )
