"""The fakes are as the kernel and nftables: the same operations and batches give the same on both.

A namespace with nothing but `lo` for each test; beside it a `FakeKernel` or `FakeNftables`. MAC addresses that the
kernel draws, handles, and the order of a hash table's elements are left out of the comparison. Both sides are read
with what the agent reads them with: what it gets is what has to be the same.
"""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest
from hostnet.agent.firewalls.chains import ChainReader
from hostnet.agent.linux import operations as ops
from hostnet.agent.linux.kernel import Kernel, Nftables
from hostnet.agent.linux.libnftables import Nft, NftError
from hostnet.agent.linux.operations import Operation
from hostnet.agent.linux.rtnetlink import LinuxKernel
from hostnet.agent.nft.ruleset import SETS, table_text
from hostnet.agent.nft.table import Table
from hostnet.fakes import FakeKernel, FakeNftables
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.lab.bed import difference
from tests.lab.listings import parse_listing
from tests.lab.namespaces import Namespace, Namespaces

MAC = "02:5e:00:00:00:0"  # begins those that a test gives; others are the kernel's choice
SYSCTLS = {
    "ipv4": ("forwarding", "promote_secondaries", "proxy_arp", "route_localnet"),
    "ipv6": ("accept_dad", "accept_ra", "disable_ipv6", "forwarding", "keep_addr_on_down", "proxy_ndp"),
}


# The same examples each time: what differs between fake and kernel is found while one of them is changed, and not by
# chance on another day.
SAME = settings(max_examples=50, derandomize=True, suppress_health_check=list(HealthCheck))


@contextlib.contextmanager
def fresh() -> Iterator[Namespace]:
    """An empty network namespace, with the sysctls of a machine that nobody has set any on."""
    made = Namespaces()
    here = made.add("fakes")
    for scope in ("all", "default", "lo"):
        # A new namespace has IPv4's from the machine's own (net.core.devconf_inherit_init_net).
        for family, names in SYSCTLS.items():
            for name in names:
                here.sysctl(f"net.{family}.conf.{scope}.{name}", int(name in ("accept_dad", "accept_ra")))
    try:
        yield here
    finally:
        made.close()


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """An empty network namespace."""
    with fresh() as made:
        yield made


# --- the kernel ----------------------------------------------------------------------------------------------------


def kernel_state(kernel: Kernel) -> dict[str, Any]:
    """A snapshot and the sysctls, in a form to compare."""
    snapshot = kernel.snapshot()
    links = {}
    for name, link in snapshot.links.items():
        mac = link.mac if link.mac.startswith((MAC, "00:")) else "drawn"
        links[name] = asdict(replace(link, mac=mac, carrier=link.tap and link.carrier))
    names = [
        f"net.{family}.conf.{link}.{name}" for family, of in SYSCTLS.items() for name in of for link in snapshot.links
    ]
    names += ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv6.conf.default.forwarding"]
    return {
        "links": links,
        "addresses": dict(snapshot.addresses),
        "routes": {name: sorted(cidrs) for name, cidrs in snapshot.routes.items()},
        "through": {name: sorted(map(repr, routes)) for name, routes in snapshot.through.items()},
        "defaults": snapshot.default_links,
        "default route links": snapshot.default_route_links,
        "policy": _policy(kernel),
        "proxies": kernel.proxies(),
        "buckets": {name: (each.rate, each.limit) for name, each in snapshot.buckets.items()},
        "sysctls": {name: kernel.sysctl(name) for name in names},
    }


def _policy(kernel: Kernel) -> tuple[list[str], list[str]]:
    """The routing rules, and the routes that are in no table of the kernel's own."""
    policy = kernel.policy()
    return sorted(map(repr, policy.rules)), sorted(repr(route) for route in policy.routes if route.table < 253)


def attempt(kernel: Kernel, operation: Operation) -> str:
    """What becomes of an operation: "" or the errno."""
    try:
        kernel.perform(operation)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def compare(namespace: Namespace, operations: Sequence[Operation]) -> None:
    """Perform the operations on both; after each one both are the same."""
    real, fake = namespace.call(LinuxKernel), FakeKernel()
    done: list[str] = []
    for operation in operations:
        answers = namespace.call(attempt, real, operation), attempt(fake, operation)
        done.append(f"{operation} -> {answers[0] or 'ok'}")
        assert answers[1] == answers[0], "\n".join(done)
        differs = difference(kernel_state(fake), namespace.call(kernel_state, real))
        assert not differs, "\n".join([*done, *differs])


A, D, R, X, P, L = ops.AddAddress, ops.DeleteAddress, ops.AddRoute, ops.DeleteRoute, ops.PutRoute, ops.SetLink
BRIDGE = ops.CreateBridge("br0", MAC + "1")
TAP = ops.CreateTap("tap0")
UP = (L("br0", up=True), L("tap0", up=True))
SEQUENCES: dict[str, list[Operation]] = {
    "what a TAP sends is limited, otherwise, and not any more": [
        ops.Shape("tap0", 8000, 16384, 32768),
        TAP,
        ops.Shape("tap0", 8000, 16384, 32768),
        ops.Shape("tap0", 1250000000, 5000000, 62500000),
        ops.Unshape("tap0"),
        ops.Unshape("tap0"),
        ops.Shape("tap0", 8000, 16384, 32768),
        ops.DeleteLink("tap0"),
        ops.Unshape("tap0"),
    ],
    "an address goes with IPv6, which a small MTU takes off": [
        BRIDGE,
        L("br0", mtu=1400, up=True, bridge_device=True),
        A("br0", "fd13::1/64"),
        L("br0", mtu=1000, bridge_device=True),
        D("br0", "fd13::1/64"),
    ],
    "links are made once, and deleted": [
        BRIDGE,
        BRIDGE,
        ops.CreateTap("br0"),
        TAP,
        TAP,
        ops.CreateBridge("tap0"),
        ops.CreateBridge("br1", stp=True, mtu=1400),
        ops.DeleteLink("br0"),
        ops.DeleteLink("br0"),
        ops.DeleteLink("lo"),
        L("br0", up=True),
        BRIDGE,
    ],
    "who may open a TAP": [
        TAP,
        ops.CreateTap("tap1", group="0"),
        ops.CreateTap("tap2", user="7", group="8", multi_queue=True, vnet_hdr=False),
        ops.SetTapUser("tap0", "5", None),
        ops.SetTapUser("tap0", None, "6"),
        ops.SetTapUser("tap0", None, None),
        ops.SetTapUser("tap2", "9", None),
        ops.SetTapUser("tap2", "9", None, multi_queue=True),
        ops.SetTapUser("tap9", "9", None),
        BRIDGE,
        ops.SetTapUser("br0", "9", None),
    ],
    "ports": [
        ops.CreateBridge("br0"),
        ops.CreateBridge("br1", MAC + "9", mtu=1400),
        TAP,
        ops.CreateTap("tap1"),
        L("tap0", mac=MAC + "5"),
        L("tap1", mac=MAC + "4"),
        L("tap0", isolated=True),
        L("tap0", hairpin=True),
        L("tap0", group_fwd_mask=0xFFFD),
        L("tap0", bridge="absent"),
        L("tap0", bridge="tap1"),
        L("br0", bridge="br1"),
        L("lo", bridge="br0"),
        L("tap0", bridge="br0", isolated=True, hairpin=True, group_fwd_mask=0xFFFD),
        L("tap1", bridge="br0"),
        L("tap1", mac=MAC + "6"),
        L("tap1", bridge="br0"),
        L("tap0", bridge="br1"),
        L("tap0", bridge=""),
        L("tap0", bridge=""),
        ops.DeleteLink("tap1"),
        L("tap0", bridge="br1", isolated=True),
        ops.DeleteLink("br1"),
    ],
    "an MTU": [
        ops.CreateBridge("br0"),
        TAP,
        ops.CreateTap("tap1"),
        L("tap1", mtu=1300),
        L("tap0", bridge="br0"),
        L("tap1", bridge="br0"),
        L("tap1", mtu=1350),
        L("tap1", bridge=""),
        L("br0", mtu=1500),
        L("tap1", bridge="br0"),
        L("br0", mtu=1400),
        L("tap1", bridge=""),
        L("br0", mtu=1500, bridge_device=True),
        L("tap0", mtu=10),
        L("tap0", mtu=70000),
        L("tap0", mac="01:00:5e:00:00:01"),
    ],
    "bridge options": [
        BRIDGE,
        TAP,
        ops.SetBridgeOption("br0", "stp", value=True),
        ops.SetBridgeOption("br0", "stp", value=False),
        ops.SetBridgeOption("tap0", "stp", value=True),
    ],
    "addresses": [
        BRIDGE,
        A("br0", "10.0.0.1/24"),
        A("br0", "10.0.0.1/24"),
        A("br0", "10.0.0.1/25"),
        A("br0", "10.0.0.2/24"),
        A("br0", "10.1.0.1/24"),
        A("br0", "fd12::1/64"),
        A("br0", "fd12::1/80"),
        A("br0", "fd12::2/64"),
        A("br0", "fe80::5/64"),
        A("absent", "fd12::2/64"),
        D("br0", "10.0.0.3/24"),
        D("br0", "10.0.0.1/24"),
        A("br0", "10.0.0.2/24"),
        A("br0", "10.0.0.1/24"),
        ops.WriteSysctl("net.ipv4.conf.br0.promote_secondaries", "1"),
        D("br0", "10.0.0.2/24"),
        D("br0", "fd12::2/80"),
        D("br0", "fd12::2/64"),
        D("absent", "fd12::2/64"),
        ops.DeleteLink("br0"),
        BRIDGE,
    ],
    "routes": [
        BRIDGE,
        TAP,
        A("br0", "10.0.0.1/24"),
        A("br0", "fd12::1/64"),
        R("br0", "10.9.0.0/24"),
        R("br0", "fd13::/64"),
        *UP,
        R("absent", "10.9.0.0/24"),
        R("br0", "10.9.0.0/24"),
        R("br0", "fd13::/64"),
        R("tap0", "10.9.0.0/24"),
        R("tap0", "fd13::/64"),
        X("br0", "10.9.0.0/24"),
        X("tap0", "10.9.0.0/24"),
        X("tap0", "fd13::/64"),
        R("tap0", "0.0.0.0/0"),
        R("tap0", "::/0"),
        ops.DeleteLink("tap0"),
    ],
    "other programs' routes": [
        BRIDGE,
        *UP[:1],
        A("br0", "10.0.0.1/24"),
        A("br0", "10.0.0.2/24"),
        A("br0", "fd12::1/64"),
        P("br0", "10.8.0.0/16", 254, 4, 0, gateway="10.0.0.9"),
        P("br0", "10.8.0.0/16", 254, 4, 0, gateway="10.0.0.8"),
        P("br0", "10.8.0.0/16", 254, 4, 0, gateway="10.0.0.8", metric=5),
        P("br0", "10.7.0.0/16", 254, 4, 0, gateway="10.99.0.9"),
        P("br0", "10.7.0.0/16", 254, 4, 0, gateway="10.99.0.9", onlink=True),
        P("br0", "10.6.0.0/16", 100, 4, 253, source="10.0.0.2"),
        P("br0", "10.6.0.0/16", 101, 4, 253, source="10.77.0.2"),
        P("br0", "fd77::/64", 254, 4, 0, gateway="fd12::9"),
        P("br0", "fd77::/64", 254, 4, 0, gateway="fd99::9"),
        P("br0", "fd78::/64", 254, 4, 0, gateway="fd99::9", metric=7, onlink=True),
        P("br0", "0.0.0.0/0", 254, 3, 0, gateway="10.0.0.9"),
        P("br0", "::/0", 254, 3, 0, gateway="fd12::9"),
        P("br0", "::/0", 254, 3, 0, gateway="fd12::8", metric=9),
        A("br0", "10.5.0.1/24"),
        D("br0", "10.0.0.1/24"),
        D("br0", "10.5.0.1/24"),
        D("br0", "fd12::1/64"),
    ],
    "marks lead to tables of their own": [
        BRIDGE,
        *UP[:1],
        A("br0", "10.0.0.1/24"),
        A("br0", "fd12::1/64"),
        ops.AddRule("ipv4", 32765, 0x1000000, 0x3F000000, 100),
        ops.AddRule("ipv4", 32765, 0x1000000, 0x3F000000, 100),
        ops.AddRule("ipv4", 32764, 0x1000000, 0x3F000000, 100),
        ops.AddRule("ipv6", 1, 0x2000000, 0x3F000000, 7100),
        P("br0", "10.0.0.0/24", 100, 4, 253),
        P("br0", "0.0.0.0/0", 100, 4, 0, gateway="10.0.0.9"),
        P("br0", "fd12::/64", 101, 4, 0, metric=256),
        P("br0", "::/0", 101, 4, 0, gateway="fd12::9", metric=1024),
        ops.RemoveRoute("br0", "0.0.0.0/0", 100, 4, 0, gateway="10.0.0.9"),
        ops.RemoveRoute("br0", "0.0.0.0/0", 100, 4, 0, gateway="10.0.0.9"),
        ops.RemoveRoute("br0", "::/0", 101, 4, 0, gateway="fd12::9", metric=1024),
        ops.RemoveRoute("absent", "::/0", 101, 4, 0, gateway="fd12::9", metric=1024),
        ops.DeleteRule("ipv4", 32765, 0x1000000, 0x3F000000, 100),
        ops.DeleteRule("ipv4", 32765, 0x1000000, 0x3F000000, 100),
        ops.DeleteRule("ipv6", 1, 0x2000000, 0x3F000000, 7100),
        ops.DeleteLink("br0"),
    ],
    "the host answers for others": [
        BRIDGE,
        ops.AddProxy("br0", "10.0.0.9"),
        ops.AddProxy("br0", "10.0.0.9"),
        ops.AddProxy("br0", "fd12::9"),
        ops.AddProxy("absent", "fd12::9"),
        *UP[:1],
        ops.DeleteProxy("br0", "10.0.0.9"),
        ops.DeleteProxy("br0", "10.0.0.9"),
        ops.DeleteProxy("absent", "10.0.0.9"),
        ops.AddProxy("br0", "10.0.0.10"),
        L("br0", up=False),
        ops.AddProxy("br0", "10.0.0.11"),
        ops.DeleteLink("br0"),
    ],
    "a link that goes down": [
        BRIDGE,
        *UP[:1],
        A("br0", "10.0.0.1/24"),
        A("br0", "fd12::1/64"),
        R("br0", "10.9.0.0/24"),
        R("br0", "fd13::/64"),
        L("br0", up=False),
        L("br0", up=True),
    ],
    "a link too narrow for IPv6": [
        BRIDGE,
        *UP[:1],
        A("br0", "10.0.0.1/24"),
        A("br0", "fd12::1/64"),
        R("br0", "fd13::/64"),
        L("br0", accept_ra=0),
        L("br0", mtu=1279, bridge_device=True),
        A("br0", "fd12::1/64"),
        L("br0", accept_ra=0),
        L("br0", mtu=1280, bridge_device=True),
        A("br0", "fd12::1/64"),
    ],
    "sysctls": [
        BRIDGE,
        ops.WriteSysctl("net.ipv4.ip_forward", "1"),
        ops.WriteSysctl("net.ipv6.conf.all.forwarding", "1"),
        TAP,
        ops.WriteSysctl("net.ipv4.conf.all.forwarding", "0"),
        ops.WriteSysctl("net.ipv6.conf.br0.accept_ra", "2"),
        ops.WriteSysctl("net.ipv4.conf.br0.route_localnet", "1"),
        ops.WriteSysctl("net.ipv4.conf.absent.route_localnet", "1"),
        ops.WriteSysctl("net.ipv4.ip_forward", "on"),
        A("br0", "fd12::1/64"),
        ops.WriteSysctl("net.ipv6.conf.br0.disable_ipv6", "1"),
        A("br0", "fd12::1/64"),
        ops.WriteSysctl("net.ipv6.conf.br0.disable_ipv6", "0"),
        ops.WriteSysctl("net.ipv6.conf.all.forwarding", "0"),
    ],
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_operations(namespace: Namespace, name: str) -> None:
    """Each operation succeeds on both or is refused with one errno, and leaves the same."""
    compare(namespace, SEQUENCES[name])


def operations() -> st.SearchStrategy[Operation]:
    """The operations that a plan is made of, on few names and addresses, so that they meet."""
    link = st.sampled_from(("br0", "br1", "tap0", "tap1"))
    cidr = st.sampled_from(("10.0.0.1/24", "10.0.0.2/24", "10.0.1.1/24", "10.0.0.1/25", "fd12::1/64", "fd12::2/64"))
    to4, to6 = st.sampled_from(("10.9.0.0/24", "10.8.0.0/16", "0.0.0.0/0")), st.sampled_from(("fd13::/64", "::/0"))
    by4, by6 = st.sampled_from(("10.0.0.9", "10.0.1.9")), st.sampled_from(("fd12::9", "fd14::9"))
    mac = st.sampled_from([f"{MAC}{number}" for number in range(3, 9)])
    mtu = st.sampled_from((1279, 1400, 1500))
    switch = st.sampled_from("01")
    return st.one_of(
        st.builds(ops.CreateBridge, link, st.none() | mac, st.sampled_from((None, 1400))),
        st.builds(ops.CreateTap, link, st.sampled_from((None, "5")), st.sampled_from((None, "7"))),
        st.builds(ops.SetTapUser, link, st.sampled_from((None, "6")), st.sampled_from((None, "8"))),
        st.builds(ops.DeleteLink, link),
        st.builds(L, link, mac=mac),
        st.builds(lambda name, value: L(name, mtu=value, bridge_device=name.startswith("br")), link, mtu),
        st.builds(L, link, mtu=mtu),
        st.builds(L, link, bridge=st.sampled_from(("br0", "br1", ""))),
        st.builds(L, link, isolated=st.booleans(), hairpin=st.booleans(), group_fwd_mask=st.sampled_from((0, 0xFFFD))),
        st.builds(L, link, accept_ra=st.sampled_from((0, 1))),
        st.builds(L, link, up=st.sampled_from((True, True, False))),
        st.builds(ops.SetBridgeOption, link, st.just("stp"), st.booleans()),
        st.builds(A, link, cidr),
        st.builds(D, link, cidr),
        st.builds(R, link, to4 | to6),
        st.builds(P, link, to4, st.just(254), st.just(4), st.just(0), st.sampled_from((0, 5)), by4),
        st.builds(P, link, to6, st.just(254), st.just(4), st.just(0), st.sampled_from((0, 5)), by6),
        st.builds(X, link, to4 | to6),
        st.builds(lambda name, on: ops.WriteSysctl(f"net.ipv4.conf.{name}.route_localnet", on), link, switch),
        st.builds(lambda on: ops.WriteSysctl("net.ipv6.conf.all.forwarding", on), switch),
    )


@SAME
@given(st.lists(operations(), min_size=5, max_size=40))
def test_any_operations(steps: list[Operation]) -> None:
    """Whatever is done in whatever order, the fake is as the kernel."""
    with fresh() as namespace:
        compare(namespace, [BRIDGE, TAP, *UP, *steps])


# --- nftables ------------------------------------------------------------------------------------------------------


def ruleset(nft: Nftables) -> dict[str, Any]:
    """What hostnet reads of a ruleset, in a form to compare."""
    sets: dict[str, Any] = {}
    chains: list[Any] = []
    rules: list[Any] = []
    for line in nft.lines("list tables"):
        for item in nft.list(f"list {line}"):
            (kind, body), *_ = item.items()
            body = {name: value for name, value in body.items() if name != "handle"}
            if kind in ("set", "map"):
                if isinstance(body.get("map"), list):  # of a concatenation, since nft 1.1; 1.0 writes "a . b"
                    body["map"] = " . ".join(body["map"])
                body["type"] = _type_names(body["type"])
                if "flags" in body:  # nft 1.0 does not list `dynamic`
                    body["flags"] = [flag for flag in body["flags"] if flag != "dynamic"]
                elements = sorted(json.dumps(each) for each in body.pop("elem", ()))
                sets[f"{line} {body['name']}"] = (kind, body, elements)
            elif kind == "chain":
                chains.append(body)
            elif kind == "rule":
                rules.append((body["table"], body["chain"], body.get("comment")))
    listed = [item for line in nft.lines("list tables") for item in nft.list(f"list {line}")]
    listing = parse_listing(listed)
    return {
        "tables": nft.tables(),
        "sets": sets,
        "chains": sorted(chains, key=repr),
        "rules": rules,
        "elements": listing.elements,
        "counters": listing.counters,
        "as messages": _as_messages(nft),
        "others": [_placeless(chain) for chain in ChainReader(Table(nft), legacy=False).chains()],
    }


def _type_names(listed: Any) -> Any:
    """A set's type by names, as nft 1.0 lists it; since 1.1 a set of raw payload has expressions (`typeof`)."""
    if not isinstance(listed, dict):
        return listed
    of = listed["typeof"]
    names = ["ifname" if "meta" in each else "integer" for each in of.get("concat", (of,))]
    return names if "concat" in of else names[0]


def _as_messages(nft: Nftables) -> dict[str, Any]:
    """The elements of all sets as they are in netlink messages, without a counter's figures."""
    tables = {line: nft.table(line.removeprefix("table ")) for line in nft.lines("list tables")}
    return {
        f"{line} {name}": sorted(elements)
        for line, table in tables.items()
        for name, elements in (table.sets.items() if table is not None else ())
    }


def _placeless(chain: Any) -> Any:
    """A chain as plain values, without its rules' handles."""
    rules = [asdict(replace(rule, place=0)) for rule in chain.rules]
    targets = {name: [asdict(replace(rule, place=0)) for rule in of] for name, of in chain.targets.items()}
    return {**asdict(chain), "rules": rules, "targets": targets}


def run(nft: Nftables, batch: str) -> tuple[str, int]:
    """What becomes of a batch ("" or what nft says), and by how much the generation rises."""
    before, said = nft.generation(), ""
    try:
        nft.run(batch)
    except NftError as error:
        said = str(error).splitlines()[0].rpartition("Error: ")[2]
    return said.removeprefix("Could not process rule: "), nft.generation() - before


def compare_batches(namespace: Namespace, batches: Sequence[str]) -> None:
    """Run the batches on both; after each one both are the same."""
    real, fake = namespace.call(Nft), FakeNftables()
    for number, batch in enumerate(batches):
        answers = namespace.call(run, real, batch), run(fake, batch)
        if answers[0][0] and answers[1][0] and "\n" in batch:
            continue  # of several reasons nft names those first that it finds without the kernel
        done = "\n".join(each.strip() for each in batches[: number + 1] if each != table_text())
        assert answers[1] == answers[0], f"{done}\n{answers}"
        differs = difference(ruleset(fake), namespace.call(ruleset, real))
        assert not differs, "\n".join([done, *differs])


FILTER = """
add table ip filter
add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }
add chain ip filter INPUT { type filter hook input priority filter; }
add chain ip filter user
add rule ip filter FORWARD counter jump user
add rule ip filter FORWARD iifname "a" oifname != { "b", "c" } accept comment "between"
add rule ip filter FORWARD ct state invalid drop
add rule ip filter INPUT tcp dport { 22, 80 } accept
"""
BATCHES: dict[str, list[str]] = {
    "our tables": [
        table_text(),
        (
            'add element inet hostnet our_links { "br0" comment "lab net", "br1" }\n'
            'add element inet hostnet dnat_port4 { "eth0" . 6 . 80 comment "web" : 10.0.0.2 . 8080 }\n'
            'add element inet hostnet dnat_source4 { "eth0" . 6 . 0.0.0.0/0 . 90-99 : 10.0.0.2 . 80 }\n'
            'add element inet hostnet dnat_range6 { "eth0" . 17 . ::/0 . 8000-8007 : fd12::2 }\n'
            "add element inet hostnet forward_counters4 { 6 . 80 . 10.0.0.2 }\n"
            'add element bridge hostnet hairpin_ports { "tap0" . "tap0" }\n'
        ),
        (
            'delete element inet hostnet dnat_port4 { "eth0" . 6 . 80 }\n'
            'add element inet hostnet dnat_port4 { "eth0" . 6 . 80 comment "web" : 10.0.0.3 . 8080 }\n'
        ),
        "flush set inet hostnet our_links",
        "delete set inet hostnet our_links",
        "delete table inet hostnet\ndelete table bridge hostnet\ndelete table arp hostnet\n" + table_text(),
        "flush ruleset",
        "flush ruleset",
    ],
    "what is there, and what is not": [
        "add table inet t",
        "add table inet t",
        "create table inet t",
        "delete table inet absent",
        "add set inet t s { type ifname; }",
        'add element inet t s { "a" comment "one" }',
        'add element inet t s { "a" comment "two" }',
        'create element inet t s { "a" }',
        'delete element inet t s { "b" }',
        'add element inet t s { "c" }\ndelete element inet t s { "b" }',
        "add map inet t m { type ifname : ipv4_addr; }",
        'add element inet t m { "a" : 192.0.2.1 }',
        'add element inet t m { "a" : 192.0.2.1 }',
        'add element inet t m { "a" : 192.0.2.2 }',
        'delete element inet t m { "a" }\nadd element inet t m { "a" : 192.0.2.2 }',
        "add chain inet t c",
        "add chain inet t c",
        "add rule inet t c jump absent",
        "add rule inet t absent accept",
        "add rule inet t c accept",
        "delete rule inet t c handle 99",
        "flush set inet t s",
        "flush set inet t s",
        "flush chain inet t c",
        "add chain inet t d\nadd rule inet t c jump d",
        "delete chain inet t d",
        "flush table inet t",
        "delete chain inet t d",
        "delete table inet t",
    ],
    "intervals": [
        (
            "add table inet t\nadd set inet t nets { type ipv4_addr; flags interval; }\n"
            "add map inet t ports { type inet_proto . ipv4_addr . inet_service : ipv4_addr; flags interval; }\n"
        ),
        "add element inet t nets { 10.0.0.0/8, 192.0.2.1, 192.0.2.4-192.0.2.9 }",
        "add element inet t nets { 10.0.0.0/8 }",
        "add element inet t nets { 10.1.0.0/16 }",
        "add element inet t nets { 192.0.2.0/24 }",
        "delete element inet t nets { 10.1.0.0/16 }",
        "delete element inet t nets { 10.0.0.0/8 }",
        "add element inet t ports { 6 . 10.0.0.0/8 . 80-90 : 10.0.0.2 }",
        "add element inet t ports { 6 . 10.0.0.0/8 . 80-90 : 10.0.0.2 }",
        "add element inet t ports { 6 . 10.0.0.0/8 . 80-90 : 10.0.0.3 }",
        "add element inet t ports { 6 . 10.1.0.0/16 . 85 : 10.0.0.3 }",
        "add element inet t ports { 17 . 10.1.0.0/16 . 85 : 10.0.0.3 }",
        "add element inet t ports { 6 . 10.0.0.0/8 . 90-99 : 10.0.0.3 }",
        "add element inet t ports { 6 . 0.0.0.0/0 . 70-99 : 10.0.0.3 }",
        "delete element inet t ports { 6 . 10.0.0.0/8 . 80 }",
        "delete element inet t ports { 6 . 10.0.0.0/8 . 80-90 }",
    ],
    "lists by domain name": [
        table_text(),
        (
            "add set inet hostnet n4_0123456789ab "
            '{ type ipv4_addr; size 65535; flags timeout; timeout 1h; comment "example.com"; }'
        ),
        (
            "add chain inet hostnet list_0123456789ab\nflush chain inet hostnet list_0123456789ab\n"
            "add rule inet hostnet list_0123456789ab tcp dport 80-90 ip daddr @n4_0123456789ab return\n"
            "add rule inet hostnet list_0123456789ab meta l4proto 1 ip daddr @n4_0123456789ab return\n"
            "add rule inet hostnet list_0123456789ab ip daddr @n4_0123456789ab return\n"
            "add rule inet hostnet list_0123456789ab goto refused"
        ),
        'add element inet hostnet egress_link_lists { "br0" comment "x" : goto list_0123456789ab }',
        'add element inet hostnet egress_link_lists { "br0" : goto list_0123456789ab }',
        'add element inet hostnet egress_link_lists { "br1" : goto list_absent }',
        "delete chain inet hostnet list_0123456789ab",
        "delete set inet hostnet n4_0123456789ab",
        'delete element inet hostnet egress_link_lists { "br0" }\ndelete chain inet hostnet list_0123456789ab',
        "delete set inet hostnet n4_0123456789ab",
    ],
    "other programs' chains": [
        FILTER,
        'add rule ip filter FORWARD iifname . oifname { "a" . "b" } accept comment "hostnet: a to b"',
        'insert rule ip filter user ip saddr 10.0.0.0/8 return comment "first"',
        'add rule ip filter user log prefix "user " counter reject',
        (
            "add table inet firewalld\nadd chain inet firewalld filter_FORWARD "
            "{ type filter hook forward priority filter + 10; policy accept; }\n"
            "add rule inet firewalld filter_FORWARD reject with icmpx admin-prohibited"
        ),
        "delete table ip filter",
    ],
}


@pytest.mark.parametrize("name", BATCHES)
def test_batches(namespace: Namespace, name: str) -> None:
    """Each batch is applied by both or refused for one reason, raises the generation alike, and leaves the same."""
    compare_batches(namespace, BATCHES[name])


def test_rules_by_handle(namespace: Namespace) -> None:
    """A rule is inserted before another, or deleted, by the handle that a listing names."""
    real, fake = namespace.call(Nft), FakeNftables()

    def edit(nft: Nftables) -> dict[str, Any]:
        nft.run(FILTER)
        listed = nft.list("list chain ip filter FORWARD", terse=True)
        first, between, last = (item["rule"]["handle"] for item in listed if "rule" in item)
        nft.run(f'insert rule ip filter FORWARD handle {between} oifname "x" accept comment "before"')
        nft.run(f'add rule ip filter FORWARD handle {last} oifname "y" accept comment "behind"')
        nft.run(f"delete rule ip filter FORWARD handle {first}")
        return ruleset(nft)

    assert edit(fake) == namespace.call(edit, real)


def test_a_dry_run_changes_nothing(namespace: Namespace) -> None:
    """It is refused where the batch would be."""
    real, fake = namespace.call(Nft), FakeNftables()

    def rehearse(nft: Nftables) -> list[tuple[str, int]]:
        nft.dry_run(on=True)
        answers = [run(nft, "add table inet t"), run(nft, "delete table inet absent")]
        nft.dry_run(on=False)
        return [*answers, run(nft, "add table inet t")]

    assert rehearse(fake) == namespace.call(rehearse, real)


def commands() -> st.SearchStrategy[str]:
    """Commands that add and delete elements of our own sets, on few keys, so that they meet."""
    fields = {
        "ifname": ('"eth0"', '"br0"'),
        "inet_proto": ("6", "17"),
        "inet_service": ("80", "81", "80-89", "85-99", "8000-8007"),
        "ipv4_addr": ("10.0.0.2", "10.0.0.0/24", "10.0.0.0/8", "0.0.0.0/0"),
        "ipv6_addr": ("fd12::2", "fd12::/64", "::/0"),
    }
    found: list[st.SearchStrategy[str]] = []
    for name in ("our_links", "dnat_port4", "dnat_source4", "dnat_addr4", "closed_nets6", "net_to_net4"):
        spec = SETS[name]
        usable = {kind: [x for x in of if spec.interval or not {"-", "/"} & set(x)] for kind, of in fields.items()}
        key = st.tuples(*(st.sampled_from(usable[kind]) for kind in spec.key)).map(" . ".join)
        value = " : " + " . ".join(fields[kind][0] for kind in spec.value) if spec.value else ""
        found += [
            key.map(f"add element {spec.table} {name} {{{{ {{}}{value} }}}}".format),
            key.map(f"delete element {spec.table} {name} {{{{ {{}} }}}}".format),
        ]
    return st.one_of(found)


@SAME
@given(st.lists(st.lists(commands(), min_size=1, max_size=3).map("\n".join), min_size=5, max_size=30))
def test_any_batches(batches: list[str]) -> None:
    """Whatever elements come and go in whatever order, the fake is as nftables."""
    with fresh() as namespace:
        compare_batches(namespace, [table_text(), *batches])
