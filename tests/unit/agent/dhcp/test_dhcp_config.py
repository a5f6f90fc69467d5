"""The configuration of dnsmasq: from objects to lines, without unchecked text of a program."""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hostnet.agent.dhcp.config import ServerConfig, check, config_of, inputs_to_open, parse_leases
from hostnet.agent.dhcp.dnsmasq import check_fills_sets, fills_sets
from hostnet.agent.dhcp.domains import set_names
from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.plan.world import World
from hostnet.agent.record.owners import Owner, Owners
from hostnet.wire.errors import HostnetError
from hostnet.wire.objects import Address, DhcpServer, EgressRule, Gateway, Guest, Lease, Link, Object, Port, StaticLease
from hypothesis import given
from hypothesis import strategies as st

MAC = "02:00:00:00:00:0{}"
BASE = DhcpServer("br-a", dhcp=True)


def setup(
    server: DhcpServer, *others: Object, cidrs: tuple[str, ...] = ("10.0.0.1/24",), mtu: int | None = None
) -> ServerConfig:
    """The set-up of a server on a bridge with these addresses and other objects."""
    bridge: tuple[Object, ...] = (
        Link(server.bridge, "bridge", mtu=mtu),
        *(Address(server.bridge, cidr) for cidr in cidrs),
        server,
    )
    owners = {"net": Owner("urn:net", "br-a", bridge), "more": Owner("urn:more", "more", others)}
    return config_of(server, World(Owners(owners), Snapshot()))


def test_the_whole_subnet() -> None:
    """Without a range, all hosts of the gateway's subnet get leases. Other subnets serve static leases."""
    config = setup(BASE, cidrs=("10.0.0.1/24", "10.0.2.1/30", "fd12::1/64")).lines
    assert "dhcp-range=set:net0,10.0.0.1,10.0.0.254,255.255.255.0,1h" in config
    assert "dhcp-range=set:net1,10.0.2.0,static,255.255.255.252,1h" in config
    assert "dhcp-option=tag:net0,option:router,10.0.0.1" in config
    assert "dhcp-option=tag:net1,option:router,10.0.2.1" in config
    assert {"interface=br-a", "except-interface=lo", "bind-dynamic", "port=53"} <= set(config)


def test_no_mtu_is_announced_that_a_port_does_not_carry() -> None:
    """The bridge's, or that of a TAP with a smaller one; without either, what guests assume anyway."""

    def told(bridge: int | None, *taps: int | None) -> set[str]:
        objects: list[Object] = []
        for number, mtu in enumerate(taps):
            objects += [Link(f"t{number}", "tap", mtu=mtu), Port(f"t{number}", "br-a")]
        server = replace(BASE, send_ra=True, ra_prefixes=("fd12::/64",))
        return {
            line
            for line in setup(server, *objects, cidrs=("10.0.0.1/24", "fd12::1/64"), mtu=bridge).lines
            if "mtu" in line
        }

    def lines(mtu: int, v6: int) -> set[str]:
        return {f"dhcp-option=option:mtu,{mtu}", f"ra-param=br-a,mtu:{v6},0"}

    assert told(None) == told(None, None, 9000) == set()
    assert told(9000) == told(9000, None, 9000) == lines(9000, 9000)
    assert told(9000, None, 1400) == told(None, None, 1400) == lines(1400, 1400)
    assert told(None, 1000) == lines(1000, 1280)


def test_without_dns_of_its_own() -> None:
    """Guests are given other servers or none, and port 53 stays closed."""
    some = setup(replace(BASE, dns_servers=("9.9.9.9", "2620:fe::9"))).lines
    assert {"port=0", "dhcp-option=option:dns-server,9.9.9.9"} <= set(some)
    assert {"port=0", "dhcp-option=option:dns-server"} <= set(setup(replace(BASE, dns_servers=())).lines)


def test_reserved_and_named() -> None:
    """The bridge's guests and the static leases have an entry; of two with one address, one has."""
    leases = (StaticLease(MAC.format(1), "10.0.0.9", "db"), StaticLease(MAC.format(2), "10.0.0.10"))
    guests = (
        Guest("vm-a", "br-a", MAC.format(3), ("10.0.0.2/24", "fd12::2/64"), "web"),
        Guest("vm-b", "br-b", MAC.format(4), ("10.1.0.2/24",), "elsewhere"),
        Guest("vm-c", "br-a", MAC.format(5), ("10.0.0.9/24",), "late"),
    )
    server = replace(BASE, static_leases=leases)
    made = setup(server, *guests)
    assert made.hosts == (f"{MAC.format(3)},10.0.0.2,web", f"{MAC.format(1)},10.0.0.9,db", f"{MAC.format(2)},10.0.0.10")
    assert made.names == ("10.0.0.2 web", "fd12::2 web", "10.0.0.9 db")
    advertised = setup(
        replace(server, send_ra=True, ra_prefixes=("fd12::/64",)), *guests, cidrs=("10.0.0.1/24", "fd12::1/64")
    )
    assert advertised.names == ("10.0.0.2 web", "10.0.0.9 db"), "a SLAAC guest makes its own v6 address"


@pytest.mark.parametrize(
    "change",
    [
        {"bridge": "br,a"},
        {"bridge": "br a"},
        {"range_start": "10.0.1.5", "range_end": "10.0.1.9"},
        {"range_start": "10.0.0.5\nuser=root", "range_end": "10.0.0.9"},
        {"lease_time": "1h\nconf-script=/bin/sh"},
        {"lease_time": "1h,2h"},
        {"domain": "a.b\nuser=root"},
        {"domain": "a,b"},
        {"domain": "a..b"},
        {"dns_servers": ("9.9.9.9,1.1.1.1",)},
        {"static_leases": (StaticLease("02:00:00:00:00:01,set:x", "10.0.0.9"),)},
        {"static_leases": (StaticLease(MAC.format(1), "10.0.0.9,ignore"),)},
        {"static_leases": (StaticLease(MAC.format(1), "10.0.0.9", "web\n10.0.0.1 bank"),)},
        {"static_leases": (StaticLease(MAC.format(1), "10.0.0.9", "we#b"),)},
        {"send_ra": True, "ra_prefixes": ()},
        {"send_ra": True, "ra_prefixes": ("fd13::/64",)},
        {"send_ra": True, "ra_prefixes": ("fd12::/56",)},
    ],
)
def test_refused(change: dict[str, Any]) -> None:
    """A value is malformed, or the bridge has no address in the prefix or range."""
    with pytest.raises(HostnetError):
        setup(replace(BASE, **change), cidrs=("10.0.0.1/24", "fd12::1/64"))


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_no_unchecked_text_gets_into_a_line(domain: str, hostname: str, mac: str, time: str) -> None:
    """Each value is refused, or its line has only characters that its option allows."""
    lease = StaticLease(mac, "10.0.0.9", hostname)
    try:
        made = setup(replace(BASE, domain=domain, lease_time=time, static_leases=(lease,)))
    except HostnetError:
        return
    for line in (*made.lines, *made.hosts, *made.names):
        assert line.isascii()
        assert not set(line) & set("\n\r\"'#\\;\t")


def test_leases() -> None:
    """Expired leases, IPv6 leases and other hardware in dnsmasq's file are left out."""
    text = """100 02:00:00:00:00:01 10.0.0.5 web 01:02:00:00:00:00:01
50 02:00:00:00:00:02 10.0.0.6 old *
0 02:00:00:00:00:03 10.0.0.7 * *
100 06-02:00:00:00:00:04 10.0.0.8 * *
duid 00:01:00:01
100 1234 fd12::5 web 00:01
broken
"""
    assert list(parse_leases(text, 60)) == [
        Lease("02:00:00:00:00:01", "10.0.0.5", "web", 100),
        Lease("02:00:00:00:00:03", "10.0.0.7", "", 0),
    ]


def test_what_to_open() -> None:
    """Only the served ports are opened, and none without openFirewall."""
    assert inputs_to_open([replace(BASE, send_ra=True), replace(BASE, open_firewall=False)]) == [
        ("br-a", "udp", (67, 53)),
        ("br-a", "tcp", (53,)),
        ("br-a", "icmpv6", (133, 135, 136)),
    ]
    assert inputs_to_open([replace(BASE, dns_servers=())]) == [("br-a", "udp", (67,))]


NAMED = Guest("vm-a", "br-a", MAC.format(1), ("10.0.0.2/24",), "web")


@pytest.mark.parametrize(
    ("wanted", "refused"),
    [
        (Guest("vm-b", "br-a", MAC.format(2), ("10.0.0.3/24",), "WEB"), "the host name WEB belongs to the guest of"),
        (Guest("vm-b", "br-a", MAC.format(2), ("10.0.0.3/24",), "db"), ""),
        (Guest("vm-b", "br-b", MAC.format(2), ("10.1.0.3/24",), "web"), ""),
        (
            replace(BASE, static_leases=(StaticLease(MAC.format(2), "10.0.0.9", "Web"),)),
            "two machines would have the host name Web",
        ),
        (replace(BASE, static_leases=(StaticLease(MAC.format(1), "10.0.0.2", "web"),)), ""),
    ],
    ids=["another guest's name", "another name", "another bridge", "a static lease", "a static lease of the guest"],
)
def test_a_host_name_has_one_machine(wanted: Object, refused: str) -> None:
    """DNS would answer the name with both, and does not tell upper from lower case."""
    held = {
        "net": Owner("urn:net", "br-a", (Link("br-a", "bridge"), Address("br-a", "10.0.0.1/24"), BASE)),
        "web": Owner("urn:web", "vm-a", (NAMED,)),
    }
    change = Owner("urn:net" if isinstance(wanted, DhcpServer) else "urn:new", "new", (wanted,))
    world = World(Owners({owner.key: owner for owner in held.values()}), Snapshot(addresses={"br-a": ("10.0.0.1/24",)}))
    if refused:
        with pytest.raises(HostnetError, match=refused):
            check(change, world)
    else:
        check(change, world)


def test_a_server_that_comes_later_finds_two_guests_of_one_name() -> None:
    """Without DNS on the bridge they are none of each other's business."""
    guests = (NAMED, replace(NAMED, link="vm-b", mac=MAC.format(2), addresses=("10.0.0.3/24",)))
    owners = [Owner(f"urn:{guest.link}", guest.link, (guest,)) for guest in guests]
    world = World(Owners({owner.key: owner for owner in owners}), Snapshot(addresses={"br-a": ("10.0.0.1/24",)}))
    check(owners[1], world)
    with pytest.raises(HostnetError, match="have the host name web"):
        check(Owner("urn:net", "br-a", (BASE,)), world)


# --- rules of egress by domain name ----------------------------------------------------------------------------------


def _named(*domains: str, link: str = "vm0") -> Guest:
    return Guest(link, "br-a", MAC.format(5), egress=tuple(EgressRule(domain=domain) for domain in domains))


def _nftsets(*others: Object) -> dict[str, str]:
    """By name, what dnsmasq is to do with its answers."""
    lines = [line for line in setup(BASE, *others).lines if line.startswith("nftset=")]
    return {line.split("/")[1]: line.split("/", 2)[2] for line in lines}


def test_a_server_fills_sets_of_the_names_that_its_guests_have() -> None:
    """Its own guests', and those of gateways that they are behind; it has no cache then."""
    guests = (_named("example.com", "b.example"), replace(_named("example.net"), link="vm1", bridge="br-b"))
    rules = tuple(EgressRule(domain=name) for name in ("c.example", "example.com"))
    gateways = (
        Gateway("inside", "eth0", internal=("br-a",), egress=rules),
        Gateway("networks", "eth0", internal4=("10.0.0.0/16",), egress=(EgressRule(domain="d.example"),)),
        Gateway("elsewhere", "eth0", internal=("br-b",), egress=(EgressRule(domain="e.example"),)),
        Gateway("by-address", "eth0", internal=("br-a",), egress=(EgressRule("10.0.0.0/8"),)),
    )
    assert set(_nftsets(*guests, *gateways)) == {"b.example", "c.example", "d.example", "example.com"}
    assert "cache-size=0" in setup(BASE, *guests).lines
    assert "cache-size=0" not in setup(BASE, gateways[3]).lines


def test_a_line_has_the_sets_of_the_names_above() -> None:
    """Dnsmasq takes the longest name alone. `notexample.com` is not below `example.com`."""
    found = _nftsets(_named("example.com", "api.example.com", "notexample.com"))
    sets = {name: {*set_names(name)} for name in found}
    for name, above in {"api.example.com": {"example.com"}, "example.com": set(), "notexample.com": set()}.items():
        wanted = sets[name].union(*(sets[each] for each in above))
        assert set(re.findall(r"n[46]_[0-9a-f]{12}", found[name])) == wanted


def test_a_line_that_dnsmasq_would_cut_is_refused() -> None:
    """It reads 1,024 bytes of a line."""
    three = ("example.com", "api.example.com", "v1.api.example.com")
    assert all(len(f"nftset=/{name}/{words}") < 1024 for name, words in _nftsets(_named(*three)).items())
    with pytest.raises(HostnetError, match=r"v2.v1.api.example.com.*v1.api.example.com"):
        _nftsets(_named(*three, "v2.v1.api.example.com"))


@pytest.mark.parametrize(
    ("name", "bridge", "behind", "result"),
    [
        ("example.com", "br-a", "", "refused"),
        ("notexample.com", "br-a", "", "fits"),
        ("example.com", "br-b", "", "fits"),
        ("other.example", "br-a", "example.com", "fits"),
        ("api.example.com", "br-a", "example.com", "refused"),
    ],
)
def test_a_name_that_makes_the_line_of_one_below_it_too_long(name: str, bridge: str, behind: str, result: str) -> None:
    """Whoever comes last is refused, also where the longer name is another guest's, or the gateway's is above both."""
    long = ("v1.api.example.com", "v2.v1.api.example.com", *(() if behind else ("api.example.com",)))
    gateway = Gateway("nat", "eth0", internal=("br-a",), egress=(EgressRule(domain=behind or "example"),))
    owners = {
        "net": Owner("urn:net", "net", (Link("br-a", "bridge"), Address("br-a", "10.0.0.1/24"), BASE)),
        "other": Owner("urn:other", "other", (Link("br-b", "bridge"), replace(BASE, bridge="br-b"))),
        "nat": Owner("urn:nat", "nat", (gateway,) if behind else ()),
        "vm0": Owner("urn:vm0", "vm0", (_named(*long),)),
    }
    guest = replace(_named(name, link="vm1"), bridge=bridge, mac=MAC.format(6))
    world = World(Owners(owners), Snapshot())
    refusal = pytest.raises(HostnetError, match=r"cannot let guests reach v2\.v1\.api")
    with refusal if result == "refused" else contextlib.nullcontext():
        check(Owner("urn:vm1", "vm1", (guest,)), world)


@pytest.mark.parametrize(
    "name", ["a/4#inet#x", "a;flush ruleset", "a\nport=1", "A.example", "", "a b", "a,b", "$a", "ä.example"]
)
def test_no_other_text_becomes_a_name(name: str) -> None:
    """The agent checks again what it writes."""
    with pytest.raises(ValueError, match="no domain name"):
        _nftsets(_named(name))


@pytest.mark.parametrize("server", [None, replace(BASE, dns_servers=("192.0.2.53",)), replace(BASE, dhcp=False)])
@pytest.mark.parametrize(
    "item",
    [
        _named("example.com"),
        replace(_named("example.com"), bridge=None),
        Gateway("nat", "eth0", internal=("br-a",), egress=(EgressRule(domain="example.com"),)),
        Gateway("nat", "eth0", internal4=("10.0.0.0/24",), egress=(EgressRule(domain="example.com"),)),
    ],
)
def test_names_need_the_bridges_own_dns(server: DhcpServer | None, item: Guest | Gateway) -> None:
    """Without it nothing would ever be allowed. With it they are fine, but for a guest without a bridge."""
    bridge: tuple[Object, ...] = (Link("br-a", "bridge"), Address("br-a", "10.0.0.1/24"))

    def checked(*more: Object) -> None:
        world = World(Owners({"net": Owner("urn:net", "br-a", (*bridge, *more))}), Snapshot())
        check(Owner("urn:new", "new", (item,)), world)

    with pytest.raises(HostnetError, match="serves no DNS") as refusal:
        checked(*filter(None, [server]))
    assert "dnsServers" in refusal.value.fix
    if isinstance(item, Gateway) or item.bridge:
        checked(BASE)


def test_a_dnsmasq_without_nftset_is_known_by_what_it_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 2.90, of one that was built without it, and of an older one, which does not know the word."""
    program = tmp_path / "dnsmasq"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    owner = Owner("urn:vm", "vm0", (_named("example.com"),))
    for options, fine in (("ipset nftset auth", True), ("ipset no-nftset auth", False), ("ipset auth", False)):
        program.write_text(f"#!/bin/sh\necho Dnsmasq version 2.90\necho Compile time options: IPv6 {options}\n")
        program.chmod(0o755)
        assert fills_sets() == fine
        if fine:
            check_fills_sets(owner)
            continue
        with pytest.raises(HostnetError, match="without nftset"):
            check_fills_sets(owner)
        check_fills_sets(Owner("urn:vm", "vm0", (replace(_named(), egress=(EgressRule("10.0.0.0/8"),)),)))
