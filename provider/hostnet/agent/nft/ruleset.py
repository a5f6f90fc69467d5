"""The one table, `inet hostnet`: fixed chains and rules; every resource is elements of its sets and maps.

A packet's cost therefore does not depend on how many forwards there are, and a change touches only its own elements.
Chains, in the order in which a packet meets them:

no_martian_loopback nothing from outside is for 127.0.0.0/8 (`route_localnet` would let it in)
guard        a gateway's networks' own addresses do not answer to the outside
prerouting   port forwards, then the dmz host; guests' DNS and DHCP of their own bridge go before
output       port forwards for the host itself
clamp        MSS to path MTU
forward      who may talk to a network behind a gateway; `inner`: its networks to each other
count        packets and bytes of each forward, both ways
postrouting  masquerade, fixed source addresses, and the hairpin
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from dataclasses import dataclass
from typing import Any

TABLE = "inet hostnet"
BRIDGE_TABLE = "bridge hostnet"  # for what only a bridge sees: frames that hairpin mode floods back to their sender
VERSION = 1  # of the template; a table of another version is built anew

# By number, as nft reads and writes them here: names it looks up in /etc/protocols, which a small system lacks
# (Debian: the package netbase).
PROTOCOLS = {"tcp": "6", "udp": "17", "sctp": "132"}
_NAMES = {number: name for name, number in PROTOCOLS.items()}
_PORTED = "meta l4proto { 6, 17, 132 }"
_ICMP = "{ 1, 58 }"

# nft's type of each field, and whether the set holds ranges.
_KEY = ("ifname", "inet_proto")


@dataclass(frozen=True)
class SetSpec:
    """A set or map of the table: the types of its key's fields, of its value's (none: a set), and its flag."""

    key: tuple[str, ...]
    value: tuple[str, ...] = ()
    interval: bool = False
    table: str = TABLE
    counter: bool = False  # each element counts what it matched


def _specs() -> dict[str, SetSpec]:
    specs = {
        "our_links": SetSpec(("ifname",)),  # interfaces that hostnet made, and internal ones
        "internal": SetSpec(("ifname",)),  # interfaces behind a gateway
        "external": SetSpec(("ifname",)),
        "hairpin": SetSpec(("ifname", "ifname")),
        "hairpin_ports": SetSpec(("ifname", "ifname"), table=BRIDGE_TABLE),
        "clamped": SetSpec(("ifname",)),
        "open_nets6": SetSpec(("ifname", "ipv6_addr"), interval=True),
        "dnsmasq_ports": SetSpec(
            ("ifname", "inet_proto", "inet_service")
        ),  # ports of our bridges' own that a server answers
        "dmz_except": SetSpec(("ifname", "inet_service")),
    }
    for n in "46":
        address = f"ipv{n}_addr"
        both = (address, "inet_service")
        specs |= {
            f"dnat_addr{n}": SetSpec((*_KEY, address, address, "inet_service"), both, interval=True),
            f"dnat_addr_range{n}": SetSpec((*_KEY, address, address, "inet_service"), (address,), interval=True),
            f"dnat_wildcard{n}": SetSpec((*_KEY, "inet_service"), interval=True),
            f"dnat_port{n}": SetSpec((*_KEY, "inet_service"), both),
            f"dnat_range{n}": SetSpec((*_KEY, address, "inet_service"), both, interval=True),
            f"dnat_source{n}": SetSpec((*_KEY, address, "inet_service"), (address,), interval=True),
            f"counted{n}": SetSpec(("inet_proto", "inet_service", address), interval=True, counter=True),
            f"dmz{n}": SetSpec(("ifname",), (address,)),
            f"bridge_addrs{n}": SetSpec((address,)),
            f"hairpin_sources{n}": SetSpec(("ifname", address), interval=True),
            f"gateway_addrs{n}": SetSpec((address,)),
            f"nets{n}": SetSpec((address,), interval=True),
            f"closed_nets{n}": SetSpec((address,), interval=True),
            f"pairs{n}": SetSpec(("ifname", "ifname")),
            f"net_pairs{n}": SetSpec(("ifname", address), interval=True),
            f"internal_nets{n}": SetSpec((address, address), interval=True),  # source, destination
            f"internal_from{n}": SetSpec((address, "ifname"), interval=True),
            f"internal_to{n}": SetSpec(("ifname", address), interval=True),
            f"nat{n}": SetSpec(("ifname", "ifname")),
            f"net_nat{n}": SetSpec(("ifname", address), interval=True),
            f"snat{n}": SetSpec(("ifname", "ifname"), (address,)),
            f"net_snat{n}": SetSpec(("ifname", address), (address,), interval=True),
        }
    return specs


SETS = _specs()


@dataclass(frozen=True)
class Element:
    """An element of a set (no value) or map. Fields are as a person writes them: `10.0.0.0/8`, `8000-8002`, `tcp`."""

    set: str
    key: tuple[str, ...]
    value: tuple[str, ...] = ()

    @property
    def place(self) -> tuple[str, tuple[str, ...]]:
        """Where it is: two elements of one place can't both be."""
        return self.set, self.key


def table_text() -> str:
    """The whole tables without elements, in nft syntax."""
    declared = {table: [_declare(n, x) for n, x in SETS.items() if x.table == table] for table in (TABLE, BRIDGE_TABLE)}
    return "\n".join(
        (
            f'add table {TABLE} {{ comment "hostnet: see docs/nft.md; elements belong to resources"; }}',
            f"table {TABLE} {{",
            *declared[TABLE],
            _chains() + "}",
            f"table {BRIDGE_TABLE} {{",
            *declared[BRIDGE_TABLE],
            _BRIDGE_CHAINS + "}\n",
        )
    )


_BRIDGE_CHAINS = """
  chain forward {
    type filter hook forward priority 0; policy accept;
    ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 iifname . oifname @hairpin_ports drop
  }
"""


def _declare(name: str, spec: SetSpec) -> str:
    types = " . ".join(spec.key)
    flags = " flags interval;" if spec.interval else ""
    if spec.value:
        return f"  map {name} {{ type {types} : {' . '.join(spec.value)};{flags} }}"
    counter = " counter;" if spec.counter else ""
    return f"  set {name} {{ type {types};{flags}{counter} }}"


def _chains() -> str:
    dnat_in = "".join(_forward_rules(n, "iifname", own=True) for n in "46")
    dnat_out = "".join(_forward_rules(n, "oifname", own=False) for n in "46")
    # nft 1.0.6 knows the type of `ct original proto-dst` only where a rule is about one protocol.
    counts = "\n".join(
        f"    ct status dnat meta nfproto ipv{n} meta l4proto {protocol}"
        f" meta l4proto . ct original proto-dst . ct reply {'ip' if n == '4' else 'ip6'} saddr @counted{n}"
        for n in "46"
        for protocol in PROTOCOLS.values()
    )
    return f"""
  chain no_martian_loopback {{
    type filter hook prerouting priority raw; policy accept;
    iifname != "lo" ip daddr 127.0.0.0/8 drop
  }}
  chain protect_host {{
    type filter hook prerouting priority mangle; policy accept;
    iifname @our_links accept
    iifname "lo" accept
    ct state established,related accept
    ip daddr @gateway_addrs4 drop
    ip6 daddr @gateway_addrs6 drop
  }}
{dnat_in}{dnat_out}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type != local accept
    meta l4proto {{ 6, 17 }} iifname . meta l4proto . th dport @dnsmasq_ports ip daddr @bridge_addrs4 accept
    meta l4proto {{ 6, 17 }} iifname . meta l4proto . th dport @dnsmasq_ports ip6 daddr @bridge_addrs6 accept
    meta nfproto ipv4 jump iifname4
    meta nfproto ipv6 jump iifname6
    meta l4proto {_ICMP} accept
    ip daddr @bridge_addrs4 accept
    ip6 daddr @bridge_addrs6 accept
    meta l4proto 6 iifname . tcp dport @dmz_except accept
    meta nfproto ipv4 dnat ip to iifname map @dmz4
    meta nfproto ipv6 dnat ip6 to iifname map @dmz6
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    oifname != "lo" accept
    meta nfproto ipv4 jump oifname4
    ip6 daddr ::1 accept
    meta nfproto ipv6 jump oifname6
  }}
  chain clamp {{
    type filter hook forward priority mangle; policy accept;
    oifname @clamped tcp flags syn tcp option maxseg size set rt mtu
    iifname @clamped tcp flags syn tcp option maxseg size set rt mtu
  }}
  chain count {{
    type filter hook forward priority filter + 10; policy accept;
{counts}
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    ct state established,related accept
    ct status dnat accept
    iifname . oifname @hairpin accept
    meta nfproto ipv4 iifname . oifname @pairs4 accept
    meta nfproto ipv6 iifname . oifname @pairs6 accept
    oifname . ip saddr @net_pairs4 accept
    oifname . ip6 saddr @net_pairs6 accept
    iifname . ip6 daddr @open_nets6 accept
    iifname != @external jump internal_forwarding
    oifname @internal drop
    ip daddr @closed_nets4 drop
    ip6 daddr @closed_nets6 drop
    iifname @internal oifname @external drop
    oifname @external ip saddr @closed_nets4 drop
    oifname @external ip6 saddr @closed_nets6 drop
  }}
  chain internal_forwarding {{
    ip saddr . ip daddr @internal_nets4 accept
    ip6 saddr . ip6 daddr @internal_nets6 accept
    ip saddr . oifname @internal_from4 accept
    ip6 saddr . oifname @internal_from6 accept
    iifname . ip daddr @internal_to4 accept
    iifname . ip6 daddr @internal_to6 accept
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    iifname . oifname @hairpin ct status dnat masquerade
    ct status dnat oifname . ip saddr @hairpin_sources4 masquerade
    ct status dnat oifname . ip6 saddr @hairpin_sources6 masquerade
    oifname != "lo" ip saddr 127.0.0.0/8 ct status dnat masquerade
    fib daddr type {{ broadcast, multicast }} accept
    ip daddr @nets4 accept
    ip6 daddr @nets6 accept
    {_PORTED} th sport < 1024 jump low_ports
    snat ip to iifname . oifname map @snat4
    snat ip6 to iifname . oifname map @snat6
    snat ip to oifname . ip saddr map @net_snat4
    snat ip6 to oifname . ip6 saddr map @net_snat6
    meta nfproto ipv4 iifname . oifname @nat4 jump masqueraded
    meta nfproto ipv6 iifname . oifname @nat6 jump masqueraded
    oifname . ip saddr @net_nat4 jump masqueraded
    oifname . ip6 saddr @net_nat6 jump masqueraded
  }}
  chain low_ports {{
    {_PORTED} snat ip to iifname . oifname map @snat4 : 1024-65535
    {_PORTED} snat ip6 to iifname . oifname map @snat6 : 1024-65535
    {_PORTED} snat ip to oifname . ip saddr map @net_snat4 : 1024-65535
    {_PORTED} snat ip6 to oifname . ip6 saddr map @net_snat6 : 1024-65535
  }}
  chain masqueraded {{
    {_PORTED} th sport < 1024 masquerade to :1024-65535
    masquerade
  }}
"""


def _forward_rules(n: str, device: str, *, own: bool) -> str:
    """The look-ups for port forwards of a family: a specific listen address first, then any address."""
    ip = "ip" if n == "4" else "ip6"
    # nft wants the protocol named in each rule that maps ports.
    to = f"{_PORTED} dnat {ip} to {device} . meta l4proto"
    own_rule = (
        f"    iifname != @our_links {_PORTED} {ip} daddr @bridge_addrs{n}"
        f" {device} . meta l4proto . th dport != @dnat_wildcard{n} return\n"
        if own
        else ""
    )
    return f"""
  chain {device}{n} {{
    {to} . {ip} daddr . {ip} saddr . th dport map @dnat_addr{n}
    {to} . {ip} daddr . {ip} saddr . th dport map @dnat_addr_range{n}
{own_rule}    {to} . th dport map @dnat_port{n}
    {to} . {ip} saddr . th dport map @dnat_range{n}
    {to} . {ip} saddr . th dport map @dnat_source{n}
  }}"""


# --- elements as text and back -------------------------------------------------------------------------------------

_IFNAME = re.compile(r"[A-Za-z0-9_.@+=~%,#-]{1,15}")


def render(element: Element, comment: str = "") -> str:
    """The element in nft syntax: each field checked against its type, so that no text of a user's gets through.

    :raises ValueError: where a field is not what its type says.
    """
    spec = SETS[element.set]
    text = render_key(element.set, element.key)
    if comment:
        text += f' comment "{clean_comment(comment)}"'
    if spec.value:
        text += " : " + " . ".join(_field(kind, part) for kind, part in zip(spec.value, element.value))
    return text


def render_key(set_name: str, key: tuple[str, ...]) -> str:
    """An element's key alone, which is all that deleting it takes."""
    return " . ".join(_field(kind, part) for kind, part in zip(SETS[set_name].key, key))


def clean_comment(comment: str) -> str:
    """At most 100 bytes (the kernel's limit is 128 with its own header) of harmless characters."""
    return re.sub(r"[^A-Za-z0-9 _.:/@+-]", "_", comment)[:100]


def _field(kind: str, value: str) -> str:
    if kind == "ifname":
        if not _IFNAME.fullmatch(value):
            msg = f"{value!r} is no interface name"
            raise ValueError(msg)
        return f'"{value}"'
    if kind == "inet_proto":
        if value not in PROTOCOLS:
            msg = f"{value!r} is no protocol"
            raise ValueError(msg)
        return PROTOCOLS[value]
    if kind == "inet_service":
        low, _, high = value.partition("-")
        return f"{int(low)}-{int(high)}" if high else str(int(low))
    version = 4 if kind == "ipv4_addr" else 6
    network = ipaddress.ip_network(value)
    if network.version != version:
        msg = f"{value!r} is no {kind}"
        raise ValueError(msg)
    return value


@dataclass(frozen=True)
class Listing:
    """The table as the kernel has it: elements by place, and a print of its rules to compare."""

    elements: dict[tuple[str, tuple[str, ...]], tuple[str, ...]]
    rules: str
    counters: dict[tuple[str, tuple[str, ...]], tuple[int, int]]  # packets and bytes


def parse_listing(listed: list[dict[str, Any]]) -> Listing:
    """What `list table inet hostnet` answered in JSON."""
    elements: dict[tuple[str, tuple[str, ...]], tuple[str, ...]] = {}
    counters: dict[tuple[str, tuple[str, ...]], tuple[int, int]] = {}
    rules: list[str] = []
    for item in listed:
        (kind, body), *_ = item.items()
        if kind in ("set", "map"):
            for raw in body.get("elem", []):
                key, value = raw if kind == "map" else (raw, None)
                place = body["name"], _named(body["name"], _fields(key))
                elements[place] = () if value is None else _fields(value)
                if kind == "set" and isinstance(raw, dict) and "counter" in raw.get("elem", ()):
                    counters[place] = (raw["elem"]["counter"]["packets"], raw["elem"]["counter"]["bytes"])
        elif kind in ("rule", "chain"):
            body = {name: part for name, part in body.items() if name != "handle"}
            rules.append(json.dumps({kind: body}, sort_keys=True))
    return Listing(elements, hashlib.sha256("\n".join(rules).encode()).hexdigest(), counters)


def _named(name: str, key: tuple[str, ...]) -> tuple[str, ...]:
    """An element's key with the protocol's name in place of its number."""
    kinds = SETS[name].key if name in SETS else ()
    if "inet_proto" not in kinds:
        return key
    return tuple(_NAMES.get(part, part) if kind == "inet_proto" else part for kind, part in zip(kinds, key))


def _fields(value: Any) -> tuple[str, ...]:
    """A key or value in nft's JSON as our fields."""
    if isinstance(value, dict):
        if "elem" in value:
            return _fields(value["elem"]["val"])
        if "concat" in value:
            return tuple(_one(part) for part in value["concat"])
    return (_one(value),)


def _one(part: Any) -> str:
    if isinstance(part, dict):
        if "prefix" in part:
            return f"{part['prefix']['addr']}/{part['prefix']['len']}"
        if "range" in part:
            return "-".join(str(end) for end in part["range"])
        return json.dumps(part)
    return str(part)
