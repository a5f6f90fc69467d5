"""The tables of hostnet: fixed chains and rules; every resource is elements of their sets and maps.

`inet hostnet` does NAT and filtering; `bridge hostnet` drops what only a bridge sees, `arp hostnet` what guests behind
routed TAPs may not say in ARP. A change of a resource changes
its own elements and nothing else. What a packet costs:

- The rules are the same on every host. NAT chains see the first packet of a connection, conntrack translates the rest.
  Each later packet that is forwarded meets one base chain, `forward`: an empty chain, too, costs each packet (340 ns of
  5,200 for a UDP packet, Linux 6.18). So what protects the host's addresses is in a NAT chain and in `input`.
- A set without `flags interval` is a hash table: a look-up costs the same at any size. All forwards of single ports are
  in such sets, with `listenAddresses` (`dnat_addr4`), with `sourceCidrs` (`dnat_limited4`, `port_sources24_4`) and
  without; so are their counters, the one set in which each packet of a forwarded connection is looked up.
- What comes from within meets one look-up that says so (`inner_links`), whichever networks the host has, and maps that
  have no interface in their keys: one element for a forward, not one for each network.
- An interval set of one field (`internal_nets4`) is a tree: a look-up grows with the logarithm of its size.
- An interval set of several fields is the kernel's nft_set_pipapo: a look-up goes through bitmaps with a bit for each
  element, so it grows with their number. Only what is a range has elements there: ports as a range, sources with an
  unusual prefix length, a listen address together with sources. It looks at field by field and stops at the first that
  fits nothing, so the field that most packets miss comes first (`hairpin_sources4`).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import Literal

from hostnet.agent.dhcp.domains import NOTHING, NOTHING_SET
from hostnet.wire.digest import sha256

TABLE = "inet hostnet"
BRIDGE_TABLE = "bridge hostnet"
ARP_TABLE = "arp hostnet"
TABLES = (TABLE, BRIDGE_TABLE, ARP_TABLE)
# Stand beside them while they are replaced (`Table._replace`).
COPIES = tuple(f"{table}_next" for table in TABLES)
OURS = (*TABLES, *COPIES)

# By number, as nft reads and writes them here: it looks names up in /etc/protocols, which a small system lacks
# (Debian 12 without the package netbase: "Could not resolve protocol name").
PROTOCOLS = {"tcp": "6", "udp": "17", "sctp": "132"}
# nft 1.0.6 refuses to map ports in a rule that names no protocol: "transport protocol mapping is only valid after
# transport protocol match".
_PORTED = "meta l4proto { 6, 17, 132 }"

# The prefix lengths of `sourceCidrs` that are looked up in a hash table each; a network of another length is its parts
# of the next of these, where they are few (`elements.parts_of`).
SOURCE_LENGTHS = {"4": (32, 24, 16, 8), "6": (128, 64, 56, 48, 32)}

# The prefix lengths of what guests with lists of their own may reach that are looked up likewise: there may be a
# thousand guests. A network of another length, and a range of ports, is an element of an interval set.
LIST_LENGTHS = {"4": (32, 24, 0), "6": (128, 64, 0)}

Place = tuple[str, tuple[str, ...]]  # set, key
VERDICT = ("verdict",)  # the value of a map that leads on to a chain, which is its element's value

# Rules of `egress` by domain name need chains and sets of their own: a chain for each distinct list, and two sets for
# each name. Both are elements like others, of these two that are no sets of nft's: they come with the first owner and
# go with the last one. The name of a chain is a digest of its rules, which are its element's value; that of a set is
# one of its domain (`dhcp/domains.py`).
LIST_CHAINS, NAME_SETS = "list_chains", "name_sets"
LISTS = "list_"  # how the names of these chains begin
MADE = (LIST_CHAINS, NAME_SETS)
# The sets in which gateways of several records may have the same element. It has the mark of the record that added it
# first, and stays with whoever comes after it.
OUTER = "outer_links"
SHARED = ("external_links", "mss_clamp_links", OUTER)
# An hour, as promised, and the set is never full of what a guest asks for: who answers for the name says how many
# addresses it has.
NAME_SET = "type ipv{digit}_addr; size 65535; flags timeout; timeout 1h"


@dataclass(frozen=True)
class SetSpec:
    """A set or map of a table.

    Args:
        key: nft's types of the key's fields.
        value: nft's types of the value's fields; none for a set.
        interval: Whether fields may be ranges or networks.
        table: The table that it belongs to.
        counter: Whether each element counts what it matched.
        icmp: Whether ICMP is among its protocols.
        limit: Whether each element has a rate, and matches what exceeds it; its value is the rate in bytes a second.
        seen: Whether packets add its elements, which count them and go after an hour without any.
        of: What its elements follow from: port forwards, gateways, the interfaces themselves, or what guests may do.
        holds: What is in it, for docs/nft.md.
    """

    key: tuple[str, ...]
    value: tuple[str, ...] = ()
    interval: bool = False
    table: str = TABLE
    counter: bool = False
    icmp: bool = False
    limit: bool = False
    seen: bool = False
    of: Literal["forward", "gateway", "link", "guest"] = "gateway"
    holds: str = ""

    @property
    def plain(self) -> bool:
        """Whether an element that hostnet adds is a key, and at most a value."""
        return not (self.interval or self.limit or self.seen or self.value == VERDICT)


@dataclass(frozen=True)
class Element:
    """An element of a set (no value) or map. Fields are as a person writes them: `10.0.0.0/8`, `8000-8002`, `tcp`."""

    set: str
    key: tuple[str, ...]
    value: tuple[str, ...] = ()

    @property
    def place(self) -> Place:
        """Where it is; one place has one element."""
        return self.set, self.key


Tag = tuple[str, str]  # field, item
Tagged = tuple[Element, Tag]


# --- sets and maps -------------------------------------------------------------------------------------------------


def _specs() -> dict[str, SetSpec]:
    """The sets and maps by name.

    `…_links` hold interfaces, `…_pairs` an interface in and one out, `…_nets` networks (with an interface: its key is
    the interface out and the source). No name is a word of nft's grammar: its parser refuses those in any place
    (nft 1.0.6 with `masquerade`, `counter`, `fwd`: "unexpected masquerade, expecting string").
    """
    link, pair = ("ifname",), ("ifname", "ifname")
    port = ("ifname", "inet_proto", "inet_service")
    specs = {
        "internal_links": SetSpec(link, holds="interfaces behind a gateway"),
        "egress_links": SetSpec(link, holds="interfaces behind a gateway with `egress`"),
        "egress_link_lists": SetSpec(
            link, VERDICT, holds="those with rules by domain name: the chain that knows the names"
        ),
        "external_links": SetSpec(link, holds="external interfaces"),
        "mss_clamp_links": SetSpec(link, holds="external interfaces with `mssClamp`"),
        "dmz_except_ports": SetSpec(("ifname", "inet_service"), holds="`dmzExceptPorts` of an external interface"),
        **_side_specs(link, pair),
        **_upload_specs(),
        "hairpin_ports": SetSpec(
            pair,
            table=BRIDGE_TABLE,
            of="link",
            holds="bridge ports in hairpin mode: what would go back to where it came from is dropped",
        ),
        "dnsmasq_ports": SetSpec(
            port,
            of="link",
            holds="ports that a bridge's `dhcpServer` answers on: guests' DNS and DHCP go there, even if port 53 is "
            "forwarded",
        ),
    }
    specs |= _guard_specs()
    for n in "46":
        address = f"ipv{n}_addr"
        specs |= _forward_specs(n, address) | _gateway_specs(n, address)
        specs[f"bridge_addrs{n}"] = SetSpec((address,), of="link", holds="the host's addresses on `our_links`")
        specs[f"hairpin_sources{n}"] = SetSpec(
            (address, "ifname"),
            interval=True,
            of="link",
            holds="their subnets: a guest that reaches its sibling through a forward is masqueraded",
        )
    return specs


def _side_specs(link: tuple[str, ...], pair: tuple[str, ...]) -> dict[str, SetSpec]:
    """Those by which a packet is known to come from within, or to go back to where it came from."""
    return {
        "our_links": SetSpec(
            link, of="link", holds="the bridges and routed TAPs that hostnet made, and interfaces behind a gateway"
        ),
        "inner_links": SetSpec(
            link,
            of="link",
            holds="those of them from which forwards with `loopback` are reached: none that is physical or external or "
            "has a default route; also other programs' bridges with an address in `internalIps` or `internalIpv6s`",
        ),
        "outer_links": SetSpec(
            link,
            of="link",
            holds="external interfaces, physical ones that are internal, and bridges with a default route or a port "
            "that is no TAP or veth: from all other bridges forwards with `loopback` are reached, too",
        ),
        "hairpin_pairs": SetSpec(
            pair,
            of="link",
            holds="each of `our_links` twice: in by it and out by it; also other programs' bridges with an address in "
            "`internalIps` or `internalIpv6s`, so that frames between their own ports pass",
        ),
    }


def _upload_specs() -> dict[str, SetSpec]:
    """What limits the rate at which guests send: where a TAP on a bridge is seen, and where a routed one is."""
    places = (("upload_links", TABLE, "routed TAPs"), ("upload_ports", BRIDGE_TABLE, "TAPs on a bridge"))
    return {
        name: SetSpec(
            ("ifname",), table=table, limit=True, of="guest", holds=f"{what} with `bandwidth.upload`, and the rate"
        )
        for name, table, what in places
    }


def _forward_specs(n: str, address: str) -> dict[str, SetSpec]:
    """Those of port forwards of one family. Where the value is an address alone the kernel keeps the port.

    Args:
        n: The family's digit, the end of each name.
        address: nft's type of an address.
    """
    port = ("ifname", "inet_proto", "inet_service")
    source_port = ("ifname", "inet_proto", address, "inet_service")
    listen_port = ("ifname", "inet_proto", address, address, "inet_service")  # listen address, source
    to_port = (address, "inet_service")
    specs = {
        # Single ports.
        "dnat_port": SetSpec(port, to_port, holds="one port, from every source, at every address of the host"),
        "dnat_addr": SetSpec(
            ("ifname", "inet_proto", address, "inet_service"), to_port, holds="one port, with `listenAddresses`"
        ),
        "dnat_limited": SetSpec(port, to_port, holds="one port, with `sourceCidrs`"),
        **{
            f"port_sources{length}_": SetSpec(
                (*port, address), holds=f"sources of ports of its family's `dnat_limited`, by networks of {length} bits"
            )
            for length in SOURCE_LENGTHS[n]
        },
        # Ranges. Where the value is an address alone the kernel keeps the port: a whole range is one element.
        "dnat_source": SetSpec(
            source_port,
            to_port,
            interval=True,
            holds="a range that leads to one port; `sourceCidrs` that are too many parts for `port_sources`",
        ),
        "dnat_range": SetSpec(source_port, (address,), interval=True, holds="a range that leads to the same ports"),
        "dnat_addr_source": SetSpec(
            listen_port,
            to_port,
            interval=True,
            holds="with `listenAddresses`, and with `sourceCidrs` or a range that leads to one port",
        ),
        "dnat_addr_range": SetSpec(
            listen_port,
            (address,),
            interval=True,
            holds="with `listenAddresses`, a range that leads to the same ports",
        ),
        "dnat_wildcard": SetSpec(port, interval=True, holds="ports that listen on `0.0.0.0` or `::`"),
        **_inner_specs(address, to_port),
        # Forwards whose target sees this host's address.
        "source_nat_targets": SetSpec((address,), holds="the targets of forwards with `sourceNat`"),
        "source_nat_ports": SetSpec(
            (*port, address), holds="forwards of one port with `sourceNat`, each with its target"
        ),
        "source_nat_ranges": SetSpec((*port, address), interval=True, holds="the same of forwards of a range"),
        "source_nat_inner_ports": SetSpec(
            (*port[1:], address), holds="the same of one port, for what comes from within"
        ),
        "source_nat_inner_ranges": SetSpec((*port[1:], address), interval=True, holds="the same of a range"),
        **_counter_specs(address),
    }
    return {name + n: replace(spec, of="forward") for name, spec in specs.items()}


def _inner_specs(address: str, to_port: tuple[str, ...]) -> dict[str, SetSpec]:
    """Those of forwards with `loopback`: for what comes from within, whichever interface that is.

    Args:
        address: nft's type of an address.
        to_port: nft's types of an address and a port.
    """
    port, listen_port = ("inet_proto", "inet_service"), ("inet_proto", address, "inet_service")
    specs = {"inner_wildcard": SetSpec(port, interval=True, holds="from within: ports of `0.0.0.0` or `::`")}
    for which, key, where in (("inner", port, ""), ("inner_addr", listen_port, ", with `listenAddresses`")):
        to_one, to_same = (
            f"from within: a range that leads to {what}{where}" for what in ("one port", "the same ports")
        )
        specs[f"{which}_port"] = SetSpec(key, to_port, holds=f"from within: one port{where}")
        specs[f"{which}_ports"] = SetSpec(key, to_port, interval=True, holds=to_one)
        specs[f"{which}_range"] = SetSpec(key, (address,), interval=True, holds=to_same)
    return specs


def _counter_specs(address: str) -> dict[str, SetSpec]:
    key = ("inet_proto", "inet_service", address)
    return {
        "forward_counters": SetSpec(
            key, counter=True, holds="packets and bytes of each forward of one port, in both directions"
        ),
        "range_counters": SetSpec(key, interval=True, counter=True, holds="the same of each forward of a range"),
    }


def _gateway_specs(n: str, address: str) -> dict[str, SetSpec]:
    """Those of gateways of one family; see `_forward_specs`."""
    pair, net, nets = ("ifname", "ifname"), (address,), ("ifname", address)
    specs = {
        # Who may begin connections.
        "forward_pairs": SetSpec(
            pair,
            holds="who may begin connections: internal to external (v6: with `enableIpv6` or `routeIpv6`), internal to "
            "internal with `internalForwarding`",
        ),
        "forward_nets": SetSpec(nets, interval=True, holds="the same for `internalIps` and `internalIpv6s`"),
        "routed_nets": SetSpec(
            nets,
            interval=True,
            holds="`internalIps` with `routeIpv4`, `internalIpv6s` with `routeIpv6`: what comes in on the external "
            "interface for them is forwarded, and what they send keeps its source",
        ),
        "net_to_net": SetSpec(
            (address, address),
            interval=True,
            holds="`internalForwarding` between networks given by address, except for what comes in externally",
        ),
        "net_to_link": SetSpec((address, "ifname"), interval=True, holds="the same from a network to an interface"),
        "link_to_net": SetSpec(nets, interval=True, holds="the same from an interface to a network"),
        # Source NAT: to the external interface's own address, or to a fixed one.
        "masquerade_pairs": SetSpec(pair, holds="what is masqueraded: interface in and out"),
        "masquerade_nets": SetSpec(nets, interval=True, holds="the same: interface out and source"),
        "snat_pairs": SetSpec(pair, net, holds="what gets `externalIp` or `externalIpv6`: interface in and out"),
        "snat_nets": SetSpec(nets, net, interval=True, holds="the same: interface out and source"),
        "internal_nets": SetSpec(
            net, interval=True, holds="all networks behind gateways: traffic among them keeps its source"
        ),
        "closed_nets": SetSpec(
            net, interval=True, holds="`internalIps` and `internalIpv6s`: new connections to them are dropped"
        ),
        "gateway_addrs": SetSpec(
            net, holds="the host's addresses on internal interfaces: they do not answer to the outside"
        ),
        # One address each, both ways.
        "one_to_one_addrs": SetSpec(
            nets, net, holds="`oneToOneNat` by its external address: where what is sent there goes"
        ),
        "one_to_one_inner": SetSpec(net, net, holds="the same for what comes from within"),
        "one_to_one_hosts": SetSpec(nets, holds="the same by its internal address: who may begin connections"),
        "one_to_one_sources": SetSpec(nets, net, holds="the same: which source address it gets"),
        **_egress_specs(net),
        "dmz_hosts": SetSpec(("ifname",), net, holds="`dmzHost` or `dmzHostIpv6` of an external interface"),
        "dmz_addrs": SetSpec(
            nets, net, holds="the same with `externalIp` or `externalIpv6`, which it is restricted to"
        ),
        "dmz_except_addrs": SetSpec(
            ("ifname", address, "inet_service"), holds="`dmzExceptPorts` of an address in the map before"
        ),
    }
    return {name + n: spec for name, spec in specs.items()}


def _guard_specs() -> dict[str, SetSpec]:
    """Those that hold what guests may do to the host and to each other."""
    specs = {
        "services_links": SetSpec(("ifname",), holds="bridges with `hostAccess: services`"),
        "isolated_links": SetSpec(
            ("ifname", "ifname", "ether_addr"),
            holds="bridges whose guests are isolated, in and out, and their MAC addresses: what one guest sends to "
            "another by way of the host is dropped",
        ),
    }
    for n in "46":
        specs[f"service_addrs{n}"] = SetSpec(
            ("ifname", f"ipv{n}_addr"), holds="their own addresses: the bridge's DNS answers there"
        )
    guest = ("ifname", "ether_addr")
    specs["egress_guests"] = SetSpec(guest, holds="guests with `egress`: interface and MAC address")
    for n in "46":
        lists = _list_specs("egress_guest", guest, (f"ipv{n}_addr",), "what these guests may reach")
        specs |= {name + n: spec for name, spec in lists.items()}
        specs |= {
            f"{name}{length}_{n}": replace(
                spec,
                key=spec.key if length else spec.key[:-1],
                interval=False,
                holds=f"{spec.holds}, {f'networks of {length} bits' if length else 'everything'}",
            )
            for name, spec in lists.items()
            for length in LIST_LENGTHS[n]
        }
    specs["egress_guest_lists"] = SetSpec(
        guest, VERDICT, holds="those with rules by domain name: the chain that knows the names"
    )
    specs |= _refused_specs()
    specs |= _checked_specs("guest", BRIDGE_TABLE) | _checked_specs("tap", TABLE)
    for name in IN_ARP:
        specs["arp" + name] = replace(specs["tap" + name], table=ARP_TABLE, holds=f"`tap{name}`, for ARP")
    specs["routed_taps"] = SetSpec(
        ("ifname",), holds="routed TAPs whose packets are looked at: with `antiSpoofing` or `bandwidth.upload`"
    )
    specs |= _port_specs()
    near, prefix = "addresses of the host and of guests: no other guest may choose them", "advertised prefixes"
    for name, spec in {
        "slaac_nets6": SetSpec(("ifname", "ipv6_addr"), holds=f"{prefix}: of these a guest may take any free address"),
        "slaac_targets6": SetSpec(("ifname", "nd_prefix"), holds="the same for neighbour advertisements"),
        "taken_addrs6": SetSpec(("ipv6_addr",), holds=near),
        "taken_targets6": SetSpec(("nd_target",), holds="the same for neighbour advertisements"),
    }.items():
        specs[name] = replace(spec, table=BRIDGE_TABLE)
    return {name: replace(spec, of="guest") for name, spec in specs.items()}


def _port_specs() -> dict[str, SetSpec]:
    """Those that name the bridge ports whose frames the rules look at, and the senders that need no further look."""
    specs = {
        "served_ports": SetSpec(
            ("ifname",),
            table=BRIDGE_TABLE,
            holds="ports of bridges with `dhcpServer` or `ipv6SendRa`: no servers, no routers",
        ),
        "ruled_ports": SetSpec(
            ("ifname",),
            table=BRIDGE_TABLE,
            holds="the ports in `upload_ports`, `guest_links` and `served_ports`: what comes by any other passes",
        ),
    }
    for n in "46":
        specs[f"guest_senders{n}"] = SetSpec(
            ("ifname", f"sender{n}", f"source{n}"),
            table=BRIDGE_TABLE,
            holds="`guest_macs` with `guest_addrs`, of TAPs without `bandwidth.upload`: whose TCP and UDP pass at once",
        )
    return specs


def _checked_specs(of: str, table: str) -> dict[str, SetSpec]:
    """Those of guests whose frames are checked.

    Args:
        of: How the names begin: `guest` for those on a bridge, `tap` for those behind a routed TAP.
        table: Where they are.
    """
    which = "guests on a bridge" if table == BRIDGE_TABLE else "guests behind a routed TAP"
    specs = {
        "links": SetSpec(("ifname",), holds=f"TAPs of {which} with `antiSpoofing`"),
        "macs": SetSpec(("ifname", "ether_addr"), holds="their MAC addresses"),
        "targets6": SetSpec(("ifname", "nd_target"), holds="their addresses in neighbour advertisements"),
        "target_nets6": SetSpec(("ifname", "nd_target"), interval=True, holds="the same for networks"),
    }
    for n in "46":
        key = ("ifname", f"ipv{n}_addr")
        specs[f"addrs{n}"] = SetSpec(key, holds="their addresses, single `allowedAddresses` and link-local addresses")
        specs[f"nets{n}"] = SetSpec(key, interval=True, holds="networks of `allowedAddresses` and `routes`")
        specs[f"unchecked{n}"] = SetSpec(
            ("ifname",),
            holds="TAPs where this family is not checked: neither the bridge nor the guest has an address of it",
        )
    return {f"{of}_{name}": replace(spec, table=table) for name, spec in specs.items()}


# The ends of the names of sets that concern ARP, too. A table has sets of its own.
IN_ARP = ("_links", "_macs", "_addrs4", "_nets4", "_unchecked4")

# Parts of a packet by their place, by our name for their type; nft lists their elements as numbers. nft 1.0.6 has no
# name for the target of a neighbour solicitation or advertisement, and for its first 64 bits. A sender is a source MAC
# address and the ethertype, read at once: for a source address by name nft reads the ethertype again in each rule.
RAW = {
    "nd_target": "@th,64,128",
    "nd_prefix": "@th,64,64",
    "sender4": "@ll,48,64",
    "sender6": "@ll,48,64",
    "source4": "@nh,96,32",
    "source6": "@nh,64,128",
}


def _egress_specs(net: tuple[str, ...]) -> dict[str, SetSpec]:
    """What guests of gateways with `egress` may reach: by protocol and port, by protocol, or whatever it is.

    Args:
        net: nft's type of an address.
    """
    specs = {
        "egress_nets": SetSpec(net, interval=True, holds="`internalIps` and `internalIpv6s` of gateways with `egress`"),
        "egress_net_lists": SetSpec(
            net, VERDICT, interval=True, holds="those with rules by domain name: the chain that knows the names"
        ),
    }
    for of, source, what in (("link", ("ifname",), "interfaces"), ("net", net, "networks")):
        specs |= _list_specs(f"egress_{of}", source, net, f"what these {what} may reach")
    return specs


def _list_specs(name: str, source: tuple[str, ...], net: tuple[str, ...], holds: str) -> dict[str, SetSpec]:
    """What somebody may reach.

    Args:
        name: How the names of the sets begin.
        source: nft's types of who it is.
        net: nft's type of an address.
        holds: What the sets hold.
    """
    return {
        f"{name}_any": SetSpec((*source, *net), interval=True, holds=f"{holds} by any protocol"),
        f"{name}_proto": SetSpec(
            (*source, "inet_proto", *net), interval=True, icmp=True, holds=f"{holds} by a protocol"
        ),
        f"{name}_port": SetSpec(
            (*source, "inet_proto", "inet_service", *net), interval=True, holds=f"{holds} by protocol and port"
        ),
    }


def _refused_specs() -> dict[str, SetSpec]:
    """What was refused or dropped of late, for a person to see."""
    specs = {"refused_links": SetSpec(("ifname", "ether_addr"), seen=True, holds="whose packets `egress` refused")}
    for of, table in (("guest", BRIDGE_TABLE), ("tap", TABLE), ("arp", ARP_TABLE)):
        holds = "TAPs whose frames `antiSpoofing` dropped, or those that only a server or router sends"
        specs[f"dropped_{of}s"] = SetSpec(("ifname",), table=table, seen=True, holds=holds)
    for n in "46":
        to = ("ifname", f"ipv{n}_addr", f"ipv{n}_addr", "inet_proto")
        specs[f"refused_ports{n}"] = SetSpec(
            (*to, "inet_service"), seen=True, holds="what it refused: interface, source, destination, protocol, port"
        )
        specs[f"refused_others{n}"] = SetSpec(to, seen=True, holds="the same of protocols without ports")
    return {name: replace(spec, of="guest") for name, spec in specs.items()}


# Elements that packets add to one set at most: who scans the ports of others fills no more memory than that. A packet
# of what finds no room is refused like any other, and counted in `refused_links` alone.
_MOST_SEEN = 1024

SETS = _specs()


def _declare(name: str, spec: SetSpec) -> str:
    of = "typeof" if RAW.keys() & set(spec.key) else "type"
    types = " . ".join(RAW.get(each, "meta iifname" if of == "typeof" else each) for each in spec.key)
    flags = " flags interval;" if spec.interval else ""
    if spec.seen:
        return f"  set {name} {{ {of} {types}; size {_MOST_SEEN}; flags dynamic,timeout; timeout 1h; counter; }}"
    if spec.value:
        return f"  map {name} {{ type {types} : {' . '.join(spec.value)};{flags} }}"
    counter = " counter;" if spec.counter else ""
    # Each element has a rate of its own; the kernel takes a set's as the form of theirs.
    limit = " limit rate over 1 bytes/second burst 1 bytes;" if spec.limit else ""
    return f"  set {name} {{ {of} {types};{flags}{counter}{limit} }}"


# --- chains --------------------------------------------------------------------------------------------------------

# In the order in which a packet meets them. All have the policy accept: hostnet decides about the networks that a
# gateway lists, and leaves the rest of the host alone.
_CHAINS = f"""
  # The kernel answers for any of its addresses on every interface: the gateway's inside address, too, to a neighbour
  # on the uplink who sends there directly. Before dstnat of any program, so that it sees what was asked for; a NAT
  # chain, since that one costs the first packet of a connection alone.
  chain protect_addrs {{
    type nat hook prerouting priority -150; policy accept;
PROTECT
  }}

  # What passes no NAT chain reaches the host here: it is not tracked, or fits into no connection.
  chain protect_host {{
    type filter hook input priority mangle; policy accept;
    iifname @routed_taps jump from_taps
    iifname @services_links jump services
    ct state established,related accept
PROTECT
  }}

  # All that guests reach of the host where their bridge has `hostAccess: services`. What a forward leads elsewhere does
  # not come here. Answers pass, and not what a guest began before: a connection to SSH ends when this is switched on.
  chain services {{
    meta l4proto {{ 1, 58 }} accept
    ct direction reply accept
    iifname . meta l4proto . th dport @dnsmasq_ports jump bridge_services
    reject with icmpx admin-prohibited
  }}

  # DHCP is asked at broadcast and group addresses, too; DNS at the bridge's own.
  chain bridge_services {{
    udp dport 67 accept
    iifname . ip daddr @service_addrs4 accept
    iifname . ip6 daddr @service_addrs6 accept
    ip6 daddr fe80::/10 accept
  }}

  chain from_inside {{
    ct state established,related accept
    iifname "lo" accept
    iifname @our_links accept
    drop
  }}

  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    # What is not for an address of this host is on its way through: a forward of port 80 must not take it.
    fib daddr type != local accept
    # Guests' DHCP and DNS go to their own bridge's server, whatever port 53 of the host is forwarded to.
    meta l4proto {{ 6, 17 }} iifname . meta l4proto . th dport @dnsmasq_ports jump own_services
    jump from_within
    meta nfproto ipv4 jump dnat_prerouting4
    meta nfproto ipv6 jump dnat_prerouting6
    # One address for one guest, of any protocol.
    dnat ip to iifname . ip daddr map @one_to_one_addrs4
    dnat ip6 to iifname . ip6 daddr map @one_to_one_addrs6
    # The dmz host gets the rest, but for ICMP, and for what is meant for the host's inside addresses.
    meta l4proto {{ 1, 58 }} accept
    ip daddr @bridge_addrs4 accept
    ip6 daddr @bridge_addrs6 accept
    meta l4proto 6 iifname . ip daddr . tcp dport @dmz_except_addrs4 accept
    meta l4proto 6 iifname . ip6 daddr . tcp dport @dmz_except_addrs6 accept
    dnat ip to iifname . ip daddr map @dmz_addrs4
    dnat ip6 to iifname . ip6 daddr map @dmz_addrs6
    meta l4proto 6 iifname . tcp dport @dmz_except_ports accept
    meta nfproto ipv4 dnat ip to iifname map @dmz_hosts4
    meta nfproto ipv6 dnat ip6 to iifname map @dmz_hosts6
  }}

  # Forwards with `loopback`. Of another program's bridge the kernel says that it is one, so that one that is new needs
  # no change here. An interface of another kind may lead anywhere: VLANs, tunnels, whatever a veth's other end is.
  chain from_within {{
    iifname @inner_links goto within
    meta iifkind "bridge" iifname != @outer_links goto other_bridges
  }}

  chain within {{
    meta nfproto ipv4 goto within4
    goto within6
  }}

  chain other_bridges {{
    meta nfproto ipv4 goto other_bridges4
    goto other_bridges6
  }}

  chain own_services {{
    ip daddr @bridge_addrs4 accept
    ip6 daddr @bridge_addrs6 accept
  }}

  # What the host sends to its own addresses leaves through lo. By number: nft 1.0.6 knows the name `dstnat` in
  # prerouting alone.
  chain output {{
    type nat hook output priority -100; policy accept;
    oifname != "lo" accept
    # The kernel drops the reply to a translated connection from ::1.
    ip6 daddr ::1 accept
    jump within
  }}

  chain mss_clamp {{
    oifname @mss_clamp_links tcp option maxseg size set rt mtu
    # `rt mtu` is the smaller of the routes to either end (get_tcpmss in net/netfilter/nft_rt.c): so it serves what
    # comes in, too.
    iifname @mss_clamp_links tcp option maxseg size set rt mtu
  }}

  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname @routed_taps jump from_taps
    # No packet but a SYN has the option (RFC 9293, 3.7.1). Before the next two rules, which accept a SYN and ACK.
    tcp flags syn jump mss_clamp
    ct status dnat goto count_forwards
    ct state established,related accept
    # Link-local addresses are not forwarded (RFC 3927, 7). The kernel itself keeps to that with those of IPv6. No
    # connection of theirs is established; for what forwards take `hairpin` looks at the first packet.
    ip daddr 169.254.0.0/16 jump link_local
    ip saddr 169.254.0.0/16 jump link_local
    # What one isolated guest sends to another by way of the host has the bridge's MAC address as its destination.
    iifname . oifname . ether daddr @isolated_links drop
    # Frames between a bridge's own ports come here, too, where br_netfilter is loaded: with each other's addresses.
    iifname . oifname @hairpin_pairs accept
    iifname . ether saddr @egress_guests jump guest_egress
    iifname @egress_links jump egress
    ip saddr @egress_nets4 jump egress
    ip6 saddr @egress_nets6 jump egress
    meta nfproto ipv4 iifname . oifname @forward_pairs4 accept
    meta nfproto ipv6 iifname . oifname @forward_pairs6 accept
    oifname . ip saddr @one_to_one_hosts4 accept
    oifname . ip6 saddr @one_to_one_hosts6 accept
    oifname . ip saddr @forward_nets4 accept
    oifname . ip6 saddr @forward_nets6 accept
    iifname . ip daddr @routed_nets4 accept
    iifname . ip6 daddr @routed_nets6 accept
    # From an external interface a source address proves nothing: anybody there can write a guest's into a packet.
    iifname != @external_links jump internal_forwarding
    oifname @internal_links drop
    ip daddr @closed_nets4 drop
    ip6 daddr @closed_nets6 drop
    iifname @internal_links oifname @external_links drop
    oifname @external_links ip saddr @closed_nets4 drop
    oifname @external_links ip6 saddr @closed_nets6 drop
  }}

  # Where no gateway, forward or bridge of hostnet is concerned, it is not hostnet's business.
  chain link_local {{
    # With br_netfilter, what guests of one bridge say to each other comes here, too.
    iifname . oifname @hairpin_pairs return
    iifname @our_links drop
    oifname @our_links drop
    ip saddr @internal_nets4 drop
    ip daddr @internal_nets4 drop
  }}

  chain internal_forwarding {{
    ip saddr . ip daddr @net_to_net4 accept
    ip6 saddr . ip6 daddr @net_to_net6 accept
    ip saddr . oifname @net_to_link4 accept
    ip6 saddr . oifname @net_to_link6 accept
    iifname . ip daddr @link_to_net4 accept
    iifname . ip6 daddr @link_to_net6 accept
  }}

  # A guest with a list of its own. Anti-spoofing holds its MAC address, and so its list holds for all its addresses.
  chain guest_egress {{
    meta nfproto ipv4 goto guest_egress4
    goto guest_egress6
  }}
GUEST_LIST

  # What guests behind a gateway may reach goes on to the other rules.
  chain egress {{
    iifname . ether saddr @egress_guests return
EGRESS
    iifname vmap @egress_link_lists
    goto net_lists
  }}

  # The chains of lists by domain name begin with `list_`, and are made with the first that has such a list. What they
  # allow returns to `forward`; all else is refused by the last one.
  chain net_lists {{
    ip saddr vmap @egress_net_lists4
    ip6 saddr vmap @egress_net_lists6
    goto refused
  }}

  # At once, so that a program need not wait.
  chain refused {{
    update @refused_links {{ iifname . ether saddr }}
    {_PORTED} update @refused_ports4 {{ iifname . ip saddr . ip daddr . meta l4proto . th dport }}
    {_PORTED} update @refused_ports6 {{ iifname . ip6 saddr . ip6 daddr . meta l4proto . th dport }}
    meta l4proto != {{ 6, 17, 132 }} update @refused_others4 {{ iifname . ip saddr . ip daddr . meta l4proto }}
    meta l4proto != {{ 6, 17, 132 }} update @refused_others6 {{ iifname . ip6 saddr . ip6 daddr . meta l4proto }}
    # With br_netfilter the kernel sends a reset itself (nf_send_reset), with the address that a forward leads to.
    ct status dnat reject with icmpx admin-prohibited
    meta l4proto 6 reject with tcp reset
    reject with icmpx admin-prohibited
  }}

  # What was forwarded passes: `goto` does not come back, so the end of this chain is the policy of `forward`.
  chain count_forwards {{
    ct state new iifname != @external_links jump asked_within
COUNTS
  }}

  # A forward that a guest asks for leads beyond its bridge, too: to what its `egress` allows.
  chain asked_within {{
    iifname . oifname @hairpin_pairs return
    iifname . ether saddr @egress_guests jump guest_egress
    iifname @egress_links jump egress
    ip saddr @egress_nets4 jump egress
    ip6 saddr @egress_nets6 jump egress
  }}

  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ct status dnat jump hairpin
    # All that follows is about external interfaces.
    oifname != @external_links accept
    # A translated source would mislead who answers a broadcast, or a group: DHCP, mDNS. libvirt leaves them out, too.
    fib daddr type {{ broadcast, multicast }} accept
    ip daddr @internal_nets4 accept
    ip6 daddr @internal_nets6 accept
    # With every port: a guest with an address of its own needs no other's, also below 1024.
    snat ip to oifname . ip saddr map @one_to_one_sources4
    snat ip6 to oifname . ip6 saddr map @one_to_one_sources6
    # Public addresses on an interface whose other guests are translated.
    oifname . ip saddr @routed_nets4 accept
    # Servers such as NFS trust ports below 1024: a guest's must not look like root's on this host.
    {_PORTED} th sport < 1024 jump low_ports
    # Networks before interfaces: no network here holds a more specific one of another gateway (`Context.parts`).
    snat ip to oifname . ip saddr map @snat_nets4
    snat ip6 to oifname . ip6 saddr map @snat_nets6
    oifname . ip saddr @masquerade_nets4 jump masqueraded
    oifname . ip6 saddr @masquerade_nets6 jump masqueraded
    snat ip to iifname . oifname map @snat_pairs4
    snat ip6 to iifname . oifname map @snat_pairs6
    meta nfproto ipv4 iifname . oifname @masquerade_pairs4 jump masqueraded
    meta nfproto ipv6 iifname . oifname @masquerade_pairs6 jump masqueraded
  }}

  # Whoever asks for a forward from the target's own network gets the answer from the target directly, and does not
  # know it, unless it goes back through the host.
  chain hairpin {{
    ip daddr 169.254.0.0/16 jump link_local
    ip saddr 169.254.0.0/16 jump link_local
    iifname . oifname @hairpin_pairs masquerade
    meta oifkind "bridge" jump other_hairpin
    ip saddr . oifname @hairpin_sources4 masquerade
    ip6 saddr . oifname @hairpin_sources6 masquerade
    # No guest can answer 127.0.0.1: to it that is the guest itself.
    oifname != "lo" ip saddr 127.0.0.0/8 masquerade
    ip daddr @source_nat_targets4 jump source_nat
    ip6 daddr @source_nat_targets6 jump source_nat
  }}

  # The same on bridges of other programs, of whose subnets hostnet knows nothing. With br_netfilter what stays on a
  # bridge has no interface here to come in by (br_nf_post_routing).
  chain other_hairpin {{
    oifname @inner_links return
    oifname @outer_links return
    iifname @inner_links return
    iifname @outer_links return
    fib saddr type local return
    masquerade
  }}

  # For targets that do not answer through this host. What the host itself sends has no interface to come in by.
  chain source_nat {{
    fib saddr type local jump masqueraded
SOURCE_NAT
    iifname @inner_links goto source_nat_inner
    meta iifkind "bridge" iifname != @outer_links goto source_nat_inner
  }}

  chain source_nat_inner {{
SOURCE_INNER
  }}

  chain low_ports {{
    {_PORTED} snat ip to oifname . ip saddr map @snat_nets4 : 1024-65535
    {_PORTED} snat ip6 to oifname . ip6 saddr map @snat_nets6 : 1024-65535
    oifname . ip saddr @masquerade_nets4 jump masqueraded
    oifname . ip6 saddr @masquerade_nets6 jump masqueraded
    {_PORTED} snat ip to iifname . oifname map @snat_pairs4 : 1024-65535
    {_PORTED} snat ip6 to iifname . oifname map @snat_pairs6 : 1024-65535
  }}

  # Not `masquerade`, which is a word of nft's grammar.
  chain masqueraded {{
    {_PORTED} th sport < 1024 masquerade to :1024-65535
    masquerade
  }}
"""

# A forward from 127.0.0.1 needs the sysctl route_localnet, with which the kernel takes packets for 127.0.0.0/8 from the
# outside, too.
_PROTECT = """
    ip daddr 127.0.0.0/8 iifname != "lo" drop
    ip daddr @gateway_addrs4 goto from_inside
    ip6 daddr @gateway_addrs6 goto from_inside
"""

# What a frame is, and whose. By their places, which are read in a frame of any protocol: the ethertype is part of a
# sender, so that of another protocol, or in a tagged frame, nothing fits.
_TCP4, _UDP4, _TCP6, _UDP6 = "@nh,72,8 6", "@nh,72,8 17", "@nh,48,8 6", "@nh,48,8 17"
_SENDER4, _SENDER6 = (f"iifname . {RAW[f'sender{n}']} . {RAW[f'source{n}']}" for n in "46")
_SERVER_PORTS = "\n    ".join(
    f"{port} return" for port in ("th sport 67", "th sport 547", "th dport 68", "th dport 546")
)

# A frame to a group (the lowest bit of the first byte) is flooded, in hairpin mode also to the port that it came from:
# the guest would see its own.
# What a port sends is limited before all that may drop it, whatever becomes of it: a guest that floods costs little.
_BRIDGE_CHAINS = f"""
  # Before br_netfilter (0), and before the bridge learns anything of what is dropped here. Most frames pass by one
  # look-up, of which the chains for guests would say the same: TCP, and UDP of no server's port.
  chain prerouting {{
    type filter hook prerouting priority -310; policy accept;
    {_TCP4} {_SENDER4} @guest_senders4 accept
    {_TCP6} {_SENDER6} @guest_senders6 accept
    {_UDP4} jump senders4
    {_UDP6} jump senders6
    iifname != @ruled_ports accept
    iifname @upload_ports drop
    iifname @guest_links goto guests
    iifname @served_ports goto served
  }}

  # One comparison a rule: of `th sport != 547 th dport != 68` nft 1.0.6 makes one, which holds where either does.
  chain senders4 {{
    {_SERVER_PORTS}
    {_SENDER4} @guest_senders4 accept
  }}

  chain senders6 {{
    {_SERVER_PORTS}
    {_SENDER6} @guest_senders6 accept
  }}

  chain served {{
    ip6 nexthdr != 6 exthdr frag exists jump guest_fragments
    goto guest_servers
  }}

  chain guests {{
    iifname . ether saddr != @guest_macs goto guest_dropped
    # All else is dropped: VLAN tags, STP, other protocols. In a tagged frame this reads the tag's type.
    ether type vmap {{ ip : goto guest4, ip6 : goto guest6, arp : goto guest_arp }}
    goto guest_dropped
  }}

ARP
GUESTS
  chain forward {{
    type filter hook forward priority 0; policy accept;
    @ll,7,1 1 iifname . oifname @hairpin_ports drop
  }}
"""


# Of these a guest has the choice, as long as nobody else has the address.
_GUEST_CHOICE = """
  chain guest_choice6 {
    ip6 saddr fe80::/10 accept
    iifname . ip6 saddr & ffff:ffff:ffff:ffff:: @slaac_nets6 accept
  }
"""

# Behind a routed TAP nobody else hears a guest: the host is its one neighbour, and looks at what it forwards or takes
# in. An empty base chain at prerouting would cost every packet of the host.
_TAP_GUESTS = """
  chain from_taps {
    iifname @upload_links drop
    iifname @tap_links jump tap_guests
  }

  chain tap_guests {
    iifname . ether saddr != @tap_macs goto tap_dropped
    meta nfproto ipv4 goto tap4
    goto tap6
  }
"""


def _arp_chain(chain: str, of: str) -> str:
    """Whom a guest says to be in ARP.

    Args:
        chain: Its name.
        of: How the names of the sets begin.
    """
    return f"""
  chain {chain} {{
    iifname . arp saddr ether != @{of}_macs goto {of}_dropped
    iifname @{of}_unchecked4 accept
    iifname . arp saddr ip @{of}_addrs4 accept
    # Duplicate address detection (RFC 5227).
    arp operation request arp saddr ip 0.0.0.0 accept
    iifname . arp saddr ip @{of}_nets4 accept
    goto {of}_dropped
  }}
"""


def _dropped_chain(of: str) -> str:
    return f"""
  chain {of}_dropped {{
    update @dropped_{of}s {{ iifname }}
    drop
  }}
"""


# What the host hears of guests behind routed TAPs: it would answer, and note whatever address a guest says to have.
_ARP_CHAINS = (
    """
  chain input {
    type filter hook input priority 0; policy accept;
    iifname @arp_links goto arp_senders
  }
"""
    + _dropped_chain("arp")
    + _arp_chain("arp_senders", "arp")
)


def _server_chains(of: str, targets: str) -> str:
    """What no guest may be: the owner of other addresses, a server, a router.

    Args:
        of: How the names of the sets begin.
        targets: The rules for the addresses that it may choose.
    """
    return f"""{_dropped_chain(of)}
  # Whom a guest says to be: the target of a neighbour advertisement, or of duplicate address detection.
  chain {of}_targets {{
    iifname . @th,64,128 @{of}_targets6 return
    {targets}
    iifname . @th,64,128 @{of}_target_nets6 return
    goto {of}_dropped
  }}

  # No guest is a DHCP server (RFC 7610) or a router (RFC 6105), nor redirects others.
  chain {of}_servers {{
    udp sport {{ 67, 547 }} goto {of}_dropped
    udp dport {{ 68, 546 }} goto {of}_dropped
    icmpv6 type {{ 134, 137 }} goto {of}_dropped
    icmp type {{ 5, 9 }} goto {of}_dropped
  }}

  # The first fragment has to show what it is (RFC 7112, RFC 7113): else the message that it hides is put together
  # behind this chain.
  chain {of}_fragments {{
    frag frag-off != 0 return
    th sport 0-65535 return
    goto {of}_dropped
  }}
"""


def _guest_chains(of: str, fine: str) -> str:
    """What guests whose frames are checked may send. One text for both tables: a bridge's sees more.

    Args:
        of: How the names of the sets begin.
        fine: What becomes of a packet that is as it should be.
    """
    if of == "guest":
        choice = "ip6 saddr != @taken_addrs6 jump guest_choice6"
        targets = (
            "@th,64,128 != @taken_targets6 @th,64,10 0x3fa return\n"
            "    @th,64,128 != @taken_targets6 iifname . @th,64,64 @slaac_targets6 return"
        )
    else:
        choice, targets = f"ip6 saddr fe80::/10 {fine}", "@th,64,10 0x3fa return"
    return f"""{_server_chains(of, targets)}
  chain {of}4 {{
    ip protocol != 6 jump {of}_servers
    iifname . ip saddr @{of}_addrs4 {fine}
    ip saddr 0.0.0.0 udp sport 68 udp dport 67 {fine}
    iifname @{of}_unchecked4 {fine}
    iifname . ip saddr @{of}_nets4 {fine}
    goto {of}_dropped
  }}

  # An extension header may hide what a packet is: only what begins with TCP is surely none of a server's.
  chain {of}6 {{
    ip6 nexthdr != 6 exthdr frag exists jump {of}_fragments
    ip6 nexthdr != 6 jump {of}_servers
    iifname @{of}_unchecked6 {fine}
    icmpv6 type 136 jump {of}_targets
    iifname . ip6 saddr @{of}_addrs6 {fine}
    # Duplicate address detection (RFC 4862), and what goes before it: MLD reports, router solicitations.
    ip6 saddr :: icmpv6 type 135 jump {of}_targets
    ip6 saddr :: icmpv6 type {{ 131, 132, 133, 135, 143 }} {fine}
    {choice}
    iifname . ip6 saddr @{of}_nets6 {fine}
    goto {of}_dropped
  }}
"""


def _counts() -> str:
    """The rules that count. One for each protocol: nft 1.0.6 knows the type of `ct original proto-dst` only then.

    Without it: "can not use variable sized data types (invalid) in concat expressions".
    """
    return "\n".join(
        f"    meta nfproto ipv{n} meta l4proto {protocol}"
        f" meta l4proto . ct original proto-dst . ct reply {ip} saddr @{counters}{n} accept"
        for counters in ("forward_counters", "range_counters")
        for n, ip in (("4", "ip"), ("6", "ip6"))
        for protocol in PROTOCOLS.values()
    )


_LIST_RULES = (
    ("port", f"{_PORTED} ", " . meta l4proto . th dport"),
    ("proto", "", " . meta l4proto"),
    ("any", "", ""),
)


def _egress(*sources: tuple[str, str]) -> str:
    """The rules that let allowed packets go on.

    Args:
        sources: For whom: a part of the sets' names, and what is looked up there; "": the source address.
    """
    return "\n".join(
        f"    {before}{source or f'{ip} saddr'}{middle} . {ip} daddr @egress_{of}_{name}{n} return"
        for n, ip in (("4", "ip"), ("6", "ip6"))
        for of, source in sources
        for name, before, middle in _LIST_RULES
    )


def _guest_egress(n: str) -> str:
    """The look-ups of guests' own lists in a family: one in a hash table for each prefix length, then in the ranges."""
    ip = "ip" if n == "4" else "ip6"
    longest = LIST_LENGTHS[n][0]
    rules = []
    for name, before, middle in _LIST_RULES:
        who = f"    {before}iifname . ether saddr{middle}"
        for length in LIST_LENGTHS[n]:
            mask = "" if length == longest else f" & {_mask(n, length)}"
            to = f" . {ip} daddr{mask}" if length else ""
            rules.append(f"{who}{to} @egress_guest_{name}{length}_{n} return")
        rules.append(f"{who} . {ip} daddr @egress_guest_{name}{n} return")
    lists = "    iifname . ether saddr vmap @egress_guest_lists"
    return "\n".join((f"\n  chain guest_egress{n} {{", *rules, lists, "    goto refused", "  }\n"))


def _source_nats(of: str, before: str) -> str:
    """The rules of `sourceNat`, by the port that was asked for: one for each protocol, as in `_counts`.

    Args:
        of: How the names of the sets begin.
        before: What is looked up before the protocol.
    """
    return "\n".join(
        f"    meta nfproto ipv{n} meta l4proto {protocol}"
        f" {before}meta l4proto . ct original proto-dst . {ip} daddr @{name}{n} jump masqueraded"
        for name in (f"{of}_ports", f"{of}_ranges")
        for n, ip in (("4", "ip"), ("6", "ip6"))
        for protocol in PROTOCOLS.values()
    )


def _dnat_chain(n: str) -> str:
    """The look-ups for port forwards of a family, by interface: a specific listen address first, then any address."""
    ip = "ip" if n == "4" else "ip6"
    to = f"{_PORTED} dnat {ip} to iifname . meta l4proto"
    # From outside a bridge's address is not the host's: only forwards of every address take what is sent there.
    outside = (
        f"    {ip} daddr @bridge_addrs{n} {_PORTED} iifname != @our_links"
        f" iifname . meta l4proto . th dport != @dnat_wildcard{n}"
    )
    return f"""
  chain dnat_prerouting{n} {{
    {to} . {ip} daddr . th dport map @dnat_addr{n}
    {to} . {ip} daddr . {ip} saddr . th dport map @dnat_addr_source{n}
    {to} . {ip} daddr . {ip} saddr . th dport map @dnat_addr_range{n}
{outside} return
    {to} . th dport map @dnat_port{n}
    jump limited_sources{n}
    {to} . {ip} saddr . th dport map @dnat_source{n}
    {to} . {ip} saddr . th dport map @dnat_range{n}
  }}"""


def _within_chains(n: str) -> str:
    """The look-ups for what comes from within, of a family: a specific listen address first, then any address."""
    ip = "ip" if n == "4" else "ip6"
    to = f"{_PORTED} dnat {ip} to meta l4proto"
    at_address = "\n".join(
        f"    {to} . {ip} daddr . th dport map @inner_addr_{name}{n}" for name in ("port", "ports", "range")
    )
    every = f"{_PORTED} meta l4proto . th dport != @inner_wildcard{n} return"
    # Another program's bridge keeps its own addresses, and what listens there: libvirt's DNS, say.
    return f"""
  chain within{n} {{
{at_address}
    goto inner{n}
  }}

  chain other_bridges{n} {{
{at_address}
    fib daddr . iif type local {every}
    {ip} daddr @bridge_addrs{n} {every}
    goto inner{n}
  }}

  chain inner{n} {{
    {to} . th dport map @inner_port{n}
    {to} . th dport map @inner_ports{n}
    {to} . th dport map @inner_range{n}
    dnat {ip} to {ip} daddr map @one_to_one_inner{n}
  }}"""


def _limited_sources(n: str) -> str:
    """Who may use a forward with `sourceCidrs`: one look-up in a hash table for each prefix length.

    The address is masked in a match and at the key's end: in a statement, and in the middle, nft 1.0.6 prints a mask
    that it can't read again, and a saved ruleset would not load.
    """
    ip = "ip" if n == "4" else "ip6"
    longest = SOURCE_LENGTHS[n][0]
    rules = "\n".join(
        f"    {_PORTED} iifname . meta l4proto . th dport . {ip} saddr"
        + ("" if length == longest else f" & {_mask(n, length)}")
        + f" @port_sources{length}_{n} goto dnat_limited_port{n}"
        for length in SOURCE_LENGTHS[n]
    )
    return f"""
  chain limited_sources{n} {{
{rules}
  }}

  chain dnat_limited_port{n} {{
    {_PORTED} dnat {ip} to iifname . meta l4proto . th dport map @dnat_limited{n}
  }}"""


def _mask(n: str, length: int) -> str:
    network = ipaddress.ip_network(f"0.0.0.0/{length}" if n == "4" else f"::/{length}")
    return str(network.netmask)


# --- the text ------------------------------------------------------------------------------------------------------


def table_text() -> str:
    """The tables without elements, in nft syntax: in JSON, libnftables 1.0.6 makes a plain set of a map.

    The comments above are for readers of this file: the kernel gets the text without them. That of the table says what
    it was made from, for agents of other records and versions.
    """
    return f'add table {TABLE} {{ comment "hostnet {TEMPLATE}: see docs/nft.md"; }}\n{_text()}'


def template_in(comment: str) -> str:
    """The template that a table with this comment was made from; "" where it does not say."""
    found = re.match(r"hostnet ([0-9a-f]{16}):", comment)
    return found[1] if found else ""


def _text() -> str:
    declared = {table: [_declare(n, x) for n, x in SETS.items() if x.table == table] for table in TABLES}
    text = "\n".join(
        (
            f"table {TABLE} {{",
            *declared[TABLE],
            # dnsmasq's commands begin with an element that is there (`dhcp/domains.py`).
            f"  set {NOTHING_SET} {{ type inet_service; elements = {{ {NOTHING} }} }}",
            *(_limited_sources(n) for n in "46"),
            *(_dnat_chain(n) + _within_chains(n) for n in "46"),
            _TAP_GUESTS + _guest_chains("tap", "return"),
            _CHAINS.replace("COUNTS", _counts())
            .replace("EGRESS", _egress(("link", "iifname"), ("net", "")))
            .replace("GUEST_LIST", "".join(map(_guest_egress, "46")))
            .replace("SOURCE_NAT", _source_nats("source_nat", "iifname . "))
            .replace("SOURCE_INNER", _source_nats("source_nat_inner", ""))
            .replace("PROTECT", _PROTECT)
            + "}",
            f"table {BRIDGE_TABLE} {{",
            *declared[BRIDGE_TABLE],
            _BRIDGE_CHAINS.replace("ARP", _arp_chain("guest_arp", "guest")).replace(
                "GUESTS", _guest_chains("guest", "accept") + _GUEST_CHOICE
            )
            + "}",
            f"table {ARP_TABLE} {{",
            *declared[ARP_TABLE],
            _ARP_CHAINS + "}\n",
        )
    )
    return re.sub(r"^ *(#.*)?\n", "", text, flags=re.MULTILINE)


def copied(text: str) -> str:
    """The batch that makes `COPIES` of what `table_text` and commands after it make."""
    return re.sub(r"^((?:(?:add )?table|(?:add|flush) \w+) \w+ hostnet) ", r"\1_next ", text, flags=re.MULTILINE)


_PRINT = "2"  # how `Listing.rules` is made
# Names this text: tables that were made from another one, by another version of hostnet, are replaced.
TEMPLATE = sha256((_PRINT + _text()).encode()).hexdigest()[:16]
