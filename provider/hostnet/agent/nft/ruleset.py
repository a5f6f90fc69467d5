"""The tables of hostnet: fixed chains and rules; every resource is elements of their sets and maps.

`inet hostnet` does NAT and filtering; `bridge hostnet` drops what only a bridge sees. A change of a resource changes
its own elements and nothing else. What a packet costs:

- The rules are the same on every host. NAT chains see the first packet of a connection, conntrack translates the rest;
  in `forward` the first rule accepts what belongs to a known connection.
- A set without `flags interval` is a hash table: `dnat_port4`, where most forwards are, costs the same at any size.
- An interval set of one field (`internal_nets4`) is a tree: a look-up grows with the logarithm of its size.
- An interval set of several fields (`dnat_range4`, `dnat_source4`, `dnat_addr4`, `forward_counters4`) is the kernel's
  nft_set_pipapo: a look-up goes through bitmaps with bits for each element, so it grows with their number, if slowly.
  In `forward_counters4` each packet of a forwarded connection is looked up, in the others the first one alone.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

TABLE = "inet hostnet"
BRIDGE_TABLE = "bridge hostnet"
TABLES = (TABLE, BRIDGE_TABLE)

# By number, as nft reads and writes them here: it looks names up in /etc/protocols, which a small system lacks
# (Debian 12 without the package netbase: "Could not resolve protocol name").
PROTOCOLS = {"tcp": "6", "udp": "17", "sctp": "132"}
# nft 1.0.6 refuses to map ports in a rule that names no protocol: "transport protocol mapping is only valid after
# transport protocol match".
_PORTED = "meta l4proto { 6, 17, 132 }"

Place = tuple[str, tuple[str, ...]]  # set, key


@dataclass(frozen=True)
class SetSpec:
    """A set or map of a table.

    Args:
        key: nft's types of the key's fields.
        value: nft's types of the value's fields; none for a set.
        interval: Whether fields may be ranges or networks.
        table: The table that it belongs to.
        counter: Whether each element counts what it matched.
    """

    key: tuple[str, ...]
    value: tuple[str, ...] = ()
    interval: bool = False
    table: str = TABLE
    counter: bool = False


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


# --- sets and maps -------------------------------------------------------------------------------------------------


def _specs() -> dict[str, SetSpec]:
    """The sets and maps by name.

    `…_links` hold interfaces, `…_pairs` an interface in and one out, `…_nets` networks (with an interface: its key is
    the interface out and the source). No name is a word of nft's grammar: its parser refuses those in any place
    (nft 1.0.6 with `masquerade`, `counter`, `fwd`: "unexpected masquerade, expecting string").
    """
    link, pair = SetSpec(("ifname",)), SetSpec(("ifname", "ifname"))
    specs = {
        "our_links": link,  # interfaces that hostnet made, and those behind a gateway
        "internal_links": link,  # interfaces behind a gateway
        "external_links": link,
        "mss_clamp_links": link,
        "hairpin_pairs": pair,  # from an interface back to itself
        "hairpin_ports": SetSpec(("ifname", "ifname"), table=BRIDGE_TABLE),
        "routed_nets6": SetSpec(("ifname", "ipv6_addr"), interval=True),  # interface in, destination
        "dnsmasq_ports": SetSpec(("ifname", "inet_proto", "inet_service")),  # what a bridge's own server answers
        "dmz_except_ports": SetSpec(("ifname", "inet_service")),
    }
    for n in "46":
        specs |= _specs_of(n, f"ipv{n}_addr")
    return specs


def _specs_of(n: str, address: str) -> dict[str, SetSpec]:
    """Those of one family.

    Args:
        n: The family's digit, the end of each name.
        address: nft's type of an address.
    """
    pair = ("ifname", "ifname")
    port = ("ifname", "inet_proto", "inet_service")
    source_port = ("ifname", "inet_proto", address, "inet_service")
    listen_port = ("ifname", "inet_proto", address, address, "inet_service")  # listen address, source
    to_port = (address, "inet_service")
    return {
        # Port forwards. Where the value is an address alone the kernel keeps the port: a whole range is one element.
        f"dnat_addr{n}": SetSpec(listen_port, to_port, interval=True),
        f"dnat_addr_range{n}": SetSpec(listen_port, (address,), interval=True),
        f"dnat_port{n}": SetSpec(port, to_port),
        f"dnat_source{n}": SetSpec(source_port, to_port, interval=True),
        f"dnat_range{n}": SetSpec(source_port, (address,), interval=True),
        f"dnat_wildcard{n}": SetSpec(port, interval=True),  # those that listen on 0.0.0.0 or ::
        f"forward_counters{n}": SetSpec(("inet_proto", "inet_service", address), interval=True, counter=True),
        f"dmz_hosts{n}": SetSpec(("ifname",), (address,)),
        # The host's own addresses on our links and on those behind a gateway.
        f"bridge_addrs{n}": SetSpec((address,)),
        f"gateway_addrs{n}": SetSpec((address,)),
        f"hairpin_sources{n}": SetSpec(("ifname", address), interval=True),
        # Networks behind gateways: all of them, and those that are given by address (`internalIps`).
        f"internal_nets{n}": SetSpec((address,), interval=True),
        f"closed_nets{n}": SetSpec((address,), interval=True),
        # Who may begin connections.
        f"forward_pairs{n}": SetSpec(pair),
        f"forward_nets{n}": SetSpec(("ifname", address), interval=True),
        # `internalForwarding` of networks that are given by address: source, destination.
        f"net_to_net{n}": SetSpec((address, address), interval=True),
        f"net_to_link{n}": SetSpec((address, "ifname"), interval=True),
        f"link_to_net{n}": SetSpec(("ifname", address), interval=True),
        # Source NAT: to the external interface's own address, or to a fixed one.
        f"masquerade_pairs{n}": SetSpec(pair),
        f"masquerade_nets{n}": SetSpec(("ifname", address), interval=True),
        f"snat_pairs{n}": SetSpec(pair, (address,)),
        f"snat_nets{n}": SetSpec(("ifname", address), (address,), interval=True),
    }


SETS = _specs()


def _declare(name: str, spec: SetSpec) -> str:
    types = " . ".join(spec.key)
    flags = " flags interval;" if spec.interval else ""
    if spec.value:
        return f"  map {name} {{ type {types} : {' . '.join(spec.value)};{flags} }}"
    counter = " counter;" if spec.counter else ""
    return f"  set {name} {{ type {types};{flags}{counter} }}"


# --- chains --------------------------------------------------------------------------------------------------------

# In the order in which a packet meets them. All have the policy accept: hostnet decides about the networks that a
# gateway lists, and leaves the rest of the host alone.
_CHAINS = f"""
  # A forward from 127.0.0.1 needs the sysctl route_localnet, with which the kernel takes packets for 127.0.0.0/8 from
  # the outside, too.
  chain no_martian_loopback {{
    type filter hook prerouting priority raw; policy accept;
    iifname != "lo" ip daddr 127.0.0.0/8 drop
  }}

  # The kernel answers for any of its addresses on every interface: the gateway's inside address, too, to a neighbour
  # on the uplink who sends there directly. Before dstnat, so that it sees what was asked for.
  chain protect_host {{
    type filter hook prerouting priority mangle; policy accept;
    iifname @our_links accept
    iifname "lo" accept
    ct state established,related accept
    ip daddr @gateway_addrs4 drop
    ip6 daddr @gateway_addrs6 drop
  }}

  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    # What is not for an address of this host is on its way through: a forward of port 80 must not take it.
    fib daddr type != local accept
    # Guests' DHCP and DNS go to their own bridge's server, whatever port 53 of the host is forwarded to.
    meta l4proto {{ 6, 17 }} iifname . meta l4proto . th dport @dnsmasq_ports ip daddr @bridge_addrs4 accept
    meta l4proto {{ 6, 17 }} iifname . meta l4proto . th dport @dnsmasq_ports ip6 daddr @bridge_addrs6 accept
    meta nfproto ipv4 jump dnat_prerouting4
    meta nfproto ipv6 jump dnat_prerouting6
    # The dmz host gets the rest, but for ICMP, and for what is meant for the host's inside addresses.
    meta l4proto {{ 1, 58 }} accept
    ip daddr @bridge_addrs4 accept
    ip6 daddr @bridge_addrs6 accept
    meta l4proto 6 iifname . tcp dport @dmz_except_ports accept
    meta nfproto ipv4 dnat ip to iifname map @dmz_hosts4
    meta nfproto ipv6 dnat ip6 to iifname map @dmz_hosts6
  }}

  # What the host sends to its own addresses leaves through lo. By number: nft 1.0.6 knows the name `dstnat` in
  # prerouting alone.
  chain output {{
    type nat hook output priority -100; policy accept;
    oifname != "lo" accept
    meta nfproto ipv4 jump dnat_output4
    # The kernel drops the reply to a translated connection from ::1.
    ip6 daddr ::1 accept
    meta nfproto ipv6 jump dnat_output6
  }}

  chain mss_clamp {{
    type filter hook forward priority mangle; policy accept;
    oifname @mss_clamp_links tcp flags syn tcp option maxseg size set rt mtu
    iifname @mss_clamp_links tcp flags syn tcp option maxseg size set rt mtu
  }}

  chain forward {{
    type filter hook forward priority filter; policy accept;
    ct state established,related accept
    ct status dnat accept
    # Frames between a bridge's own ports come here, too, where br_netfilter is loaded.
    iifname . oifname @hairpin_pairs accept
    meta nfproto ipv4 iifname . oifname @forward_pairs4 accept
    meta nfproto ipv6 iifname . oifname @forward_pairs6 accept
    oifname . ip saddr @forward_nets4 accept
    oifname . ip6 saddr @forward_nets6 accept
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

  chain internal_forwarding {{
    ip saddr . ip daddr @net_to_net4 accept
    ip6 saddr . ip6 daddr @net_to_net6 accept
    ip saddr . oifname @net_to_link4 accept
    ip6 saddr . oifname @net_to_link6 accept
    iifname . ip daddr @link_to_net4 accept
    iifname . ip6 daddr @link_to_net6 accept
  }}

  # Behind `forward`: what is dropped there is not counted.
  chain count_forwards {{
    type filter hook forward priority filter + 10; policy accept;
COUNTS
  }}

  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    # Whoever asks for a forward from the target's own network gets the answer from the target directly, and does not
    # know it, unless it goes back through the host.
    iifname . oifname @hairpin_pairs ct status dnat masquerade
    ct status dnat oifname . ip saddr @hairpin_sources4 masquerade
    ct status dnat oifname . ip6 saddr @hairpin_sources6 masquerade
    oifname != "lo" ip saddr 127.0.0.0/8 ct status dnat masquerade
    fib daddr type {{ broadcast, multicast }} accept
    ip daddr @internal_nets4 accept
    ip6 daddr @internal_nets6 accept
    # Servers such as NFS trust ports below 1024: a guest's must not look like root's on this host.
    {_PORTED} th sport < 1024 jump low_ports
    snat ip to iifname . oifname map @snat_pairs4
    snat ip6 to iifname . oifname map @snat_pairs6
    snat ip to oifname . ip saddr map @snat_nets4
    snat ip6 to oifname . ip6 saddr map @snat_nets6
    meta nfproto ipv4 iifname . oifname @masquerade_pairs4 jump masqueraded
    meta nfproto ipv6 iifname . oifname @masquerade_pairs6 jump masqueraded
    oifname . ip saddr @masquerade_nets4 jump masqueraded
    oifname . ip6 saddr @masquerade_nets6 jump masqueraded
  }}

  chain low_ports {{
    {_PORTED} snat ip to iifname . oifname map @snat_pairs4 : 1024-65535
    {_PORTED} snat ip6 to iifname . oifname map @snat_pairs6 : 1024-65535
    {_PORTED} snat ip to oifname . ip saddr map @snat_nets4 : 1024-65535
    {_PORTED} snat ip6 to oifname . ip6 saddr map @snat_nets6 : 1024-65535
  }}

  # Not `masquerade`, which is a word of nft's grammar.
  chain masqueraded {{
    {_PORTED} th sport < 1024 masquerade to :1024-65535
    masquerade
  }}
"""

# A frame to a group (the lowest bit of the first byte) is flooded, in hairpin mode also to the port that it came from:
# the guest would see its own.
_BRIDGE_CHAINS = """
  chain forward {
    type filter hook forward priority 0; policy accept;
    ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 iifname . oifname @hairpin_ports drop
  }
"""


def _counts() -> str:
    """The rules that count. One for each protocol: nft 1.0.6 knows the type of `ct original proto-dst` only then.

    Without it: "can not use variable sized data types (invalid) in concat expressions".
    """
    return "\n".join(
        f"    ct status dnat meta nfproto ipv{n} meta l4proto {protocol}"
        f" meta l4proto . ct original proto-dst . ct reply {ip} saddr @forward_counters{n}"
        for n, ip in (("4", "ip"), ("6", "ip6"))
        for protocol in PROTOCOLS.values()
    )


def _dnat_chain(n: str, hook: str, device: str) -> str:
    """The look-ups for port forwards of a family: a specific listen address first, then any address.

    Args:
        n: The family's digit.
        hook: Where the chain is jumped to from.
        device: `iifname` or `oifname`, by which interfaces are looked up there.
    """
    ip = "ip" if n == "4" else "ip6"
    to = f"{_PORTED} dnat {ip} to {device} . meta l4proto"
    # From outside a bridge's address is not the host's: only forwards of every address take what is sent there.
    outside = (
        f"    iifname != @our_links {_PORTED} {ip} daddr @bridge_addrs{n}"
        f" {device} . meta l4proto . th dport != @dnat_wildcard{n} return\n"
        if hook == "prerouting"
        else ""
    )
    return f"""
  chain dnat_{hook}{n} {{
    {to} . {ip} daddr . {ip} saddr . th dport map @dnat_addr{n}
    {to} . {ip} daddr . {ip} saddr . th dport map @dnat_addr_range{n}
{outside}    {to} . th dport map @dnat_port{n}
    {to} . {ip} saddr . th dport map @dnat_source{n}
    {to} . {ip} saddr . th dport map @dnat_range{n}
  }}"""


# --- the text ------------------------------------------------------------------------------------------------------


def table_text() -> str:
    """Both tables without elements, in nft syntax: in JSON, libnftables 1.0.6 makes a plain set of a map.

    The comments above are for readers of this file: the kernel gets the text without them.
    """
    declared = {table: [_declare(n, x) for n, x in SETS.items() if x.table == table] for table in TABLES}
    text = "\n".join(
        (
            f'add table {TABLE} {{ comment "hostnet: see docs/nft.md; elements belong to resources"; }}',
            f"table {TABLE} {{",
            *declared[TABLE],
            *(_dnat_chain(n, "prerouting", "iifname") + _dnat_chain(n, "output", "oifname") for n in "46"),
            _CHAINS.replace("COUNTS", _counts()) + "}",
            f"table {BRIDGE_TABLE} {{",
            *declared[BRIDGE_TABLE],
            _BRIDGE_CHAINS + "}\n",
        )
    )
    return re.sub(r"^ *(#.*)?\n", "", text, flags=re.MULTILINE)


# Names this text: tables that were made from another one, by another version of hostnet, are replaced.
TEMPLATE = hashlib.sha256(table_text().encode()).hexdigest()[:16]
