"""Beside other firewalls: what should pass passes, and nothing else; a reload is repaired; no rule of ours is left.

Addresses: see tests/lab/topology.py; the firewalls: tests/lab/firewalls.py.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hostnet.agent.firewalls.chains import _FIREWALLD
from hostnet.agent.nft.syntax import mark_of

from tests.lab.driver import Provider, Stack
from tests.lab.firewalls import NAMES, Firewall, Firewalld, Legacy, running, started
from tests.lab.lab import Lab
from tests.lab.probes import DOUBT

_DHCP_PATIENCE = 4.0  # seconds; dnsmasq first pings the address that it is going to offer

Program = dict[str, tuple[str, dict[str, Any]]]

OUT = ["guest1 tcp 198.51.100.10:80", "guest1 udp [2001:db8:1::10]:80", "guest1 icmp 198.51.100.10"]
IN = ["outsider tcp 192.0.2.2:8080", "outsider udp [2001:db8::2]:8080", "guest3 tcp 192.0.2.2:8080"]
ACROSS = ["guest2 tcp 10.0.0.11:80", "guest2 tcp [fd12::11]:80"]
NEVER = ["attacker tcp 10.0.0.11:80", "guest3 tcp 10.0.0.11:80", "attacker tcp [fd12::11]:80"]
OWN = ["outsider tcp 192.0.2.2:8081", "guest1 udp 192.0.2.2:53"]  # the host's own, where the input chain drops


def program(*, auto: bool) -> Program:
    """Networks A and B are behind one gateway, with a forward to guest1 in each family."""
    mode = "auto" if auto else "none"
    forward = {"natGateway": "${nat.id}", "protocol": "tcp+udp", "sourcePort": 8080}
    return {
        "net-a": ("Bridge", {"name": "br-a", "addresses": ["10.0.0.1/24", "fd12::1/64"], "openFirewall": auto}),
        "net-b": ("Bridge", {"name": "br-b", "addresses": ["10.1.0.1/24", "fd13::1/64"], "openFirewall": auto}),
        "vms-a": ("TapBinding", {"match": "a-*", "bridge": "${net-a.name}"}),
        "vms-b": ("TapBinding", {"match": "b-*", "bridge": "${net-b.name}"}),
        "nat": (
            "NatGateway",
            {"internalInterfaces": ["${net-a.name}", "${net-b.name}"], "enableIpv6": True, "firewall": mode},
        ),
        "web4": ("PortForward", {**forward, "destination": "10.0.0.11:80"}),
        "web6": ("PortForward", {**forward, "destination": "[fd12::11]:80"}),
    }


def prepare(lab: Lab) -> None:
    """Start servers, and have br_netfilter hand bridged frames to the firewalls of IP."""
    lab.serve("guest1", "tcp:80 udp:80")
    lab.serve("internet", "tcp:80 udp:80")
    lab.serve("host", "tcp:8081 udp:53")
    for name in ("iptables", "ip6tables"):
        lab.host.sysctl(f"net.bridge.bridge-nf-call-{name}", 1)


def judge(lab: Lab, *, passes: list[str], blocked: list[str]) -> None:
    """Every probe ends as expected."""
    asked = [(line, *line.split(" ", 1)) for line in passes]
    verdicts = lab.probes([(role, target) for _, role, target in asked])
    assert not {line: str(v) for (line, *_), v in zip(asked, verdicts, strict=True) if v.outcome != "reached"}
    futures = {line: lab.begin(role, target, DOUBT) for line in blocked for role, _, target in [line.partition(" ")]}
    assert not [line for line, future in futures.items() if future.result().outcome == "reached"]


@pytest.mark.parametrize("name", NAMES)
def test_beside_a_firewall(lab: Lab, stack: Stack, name: str) -> None:
    """With `none` it drops; with `auto` what should pass passes, and nothing else. A reload is drift."""
    prepare(lab)
    with running(name, lab.host) as firewall:
        before = firewall.rules()
        warned = stack.preview({"nat": ("NatGateway", {"internalIps": ["10.0.0.0/24"], "firewall": "none"})})
        assert [text for text in warned if 'firewall: "none"' in text], warned
        stack.up(program(auto=False))
        assert firewall.rules() == before
        closed = NEVER + ([] if name == "docker" else OWN)
        let_through = {"firewalld": IN, "ufw": [OUT[-1]]}.get(name, [])  # what is translated; pings
        blocked = OUT + IN + ACROSS + closed
        judge(lab, passes=[], blocked=[line for line in blocked if line not in let_through])
        assert stack.up(program(auto=True)) == [
            "update nat: firewall", "update net-a: openFirewall", "update net-b: openFirewall",
        ]  # fmt: skip
        judge(lab, passes=OUT + IN + ACROSS, blocked=closed)
        assert stack.refresh() == {}
        _reload(lab, stack, firewall)
        stack.destroy()
        assert firewall.rules() == before


def _reload(lab: Lab, stack: Stack, firewall: Firewall) -> None:
    """Reload the firewall: rules of ours that are gone are drift, and come back."""
    firewall.reload()
    if firewall.survives_reload:
        assert stack.refresh() == {}
    else:
        assert stack.refresh() == {"nat": ["firewall"], "net-a": ["openFirewall"], "net-b": ["openFirewall"]}
        assert len(stack.again()) == 3
        assert stack.refresh() == {}
    judge(lab, passes=OUT + IN + ACROSS, blocked=NEVER)
    assert stack.again() == []


@pytest.mark.parametrize("name", NAMES)
def test_two_state_directories(lab: Lab, stack: Stack, name: str) -> None:
    """Neither's records know of the other's rules: its updates, refreshes and its end leave them alone."""
    prepare(lab)
    lab.serve("guest3", "tcp:80")
    with running(name, lab.host) as firewall, contextlib.closing(Provider()) as another:
        before = firewall.rules()
        other = Stack(another, lab.host.name)
        stack.up(network("a", "10.0.0"))
        other.up(network("b", "10.1.0"))
        passes = [["guest1 tcp 198.51.100.10:80", "guest2 tcp 10.0.0.11:80"], ["guest3 tcp 198.51.100.10:80"]]
        judge(lab, passes=passes[0] + passes[1], blocked=NEVER[:2])
        assert (stack.refresh(), other.refresh()) == ({}, {})
        stack.up({**network("a", "10.0.0"), "net-c": ("Bridge", {"name": "br-c", "openFirewall": True})})
        stack.up(network("a", "10.0.0"))
        judge(lab, passes=passes[1], blocked=NEVER[:2])
        stack.destroy()
        judge(lab, passes=passes[1], blocked=[])
        assert other.refresh() == {}
        assert other.again() == []
        other.destroy()
        assert _named(firewall.rules()) == _named(before)


def network(letter: str, subnet: str) -> Program:
    """A bridge that other firewalls must let forward, behind a gateway of its own."""
    bridge = {"name": f"br-{letter}", "addresses": [f"{subnet}.1/24"], "openFirewall": True}
    return {
        "net": ("Bridge", bridge),
        "vms": ("TapBinding", {"match": f"{letter}-*", "bridge": "${net.name}"}),
        f"nat-{letter}": ("NatGateway", {"internalInterfaces": ["${net.name}"]}),
    }


def test_our_rules_in_iptables_can_be_read(lab: Lab, stack: Stack) -> None:
    """`iptables -S` shows each with its comment in DOCKER-USER. Rules that were saved and loaded are still ours."""
    prepare(lab)
    with running("docker", lab.host) as firewall:
        before = firewall.rules()
        stack.up(program(auto=True))
        for command in ("iptables", "ip6tables"):
            shown = lab.host.run(f"{command}-nft -S DOCKER-USER")
            mark = mark_of(str(stack.provider.directory))
            assert f'-A DOCKER-USER -i br-a -o eth0 -m comment --comment "hostnet: br-a to eth0{mark}"' in shown
            assert f'-A DOCKER-USER -o br-a -m comment --comment "hostnet: any to br-a{mark}" -j ACCEPT' in shown
            assert "hostnet" not in lab.host.run(f"{command}-nft -S FORWARD")
            saved = lab.host.run(f"{command}-nft-save")
            lab.host.run([f"{command}-nft-restore"], text=saved)
        assert stack.refresh() == {}
        assert stack.again() == []
        stack.destroy()
        assert _named(firewall.rules()) == _named(before)


def _named(rules: str) -> str:
    return re.sub(r"\s+", " ", rules)


def test_an_administrators_drop_goes_before_ours(lab: Lab, stack: Stack) -> None:
    """Our accept comes after the administrator's rules with a condition, and before a RETURN or the last drop."""
    prepare(lab)
    with running("docker", lab.host):
        lab.host.run("iptables-nft -A DOCKER-USER -s 192.0.2.20 -j DROP")
        lab.host.run("iptables-nft -A DOCKER-USER -j RETURN")
        stack.up(program(auto=True))
        judge(lab, passes=[*OUT, "peer tcp 192.0.2.2:8080"], blocked=["outsider tcp 192.0.2.2:8080"])
        rules = [line for line in lab.host.run("iptables-nft -S DOCKER-USER").splitlines() if line.startswith("-A")]
        assert "192.0.2.20" in rules[0]
        assert rules[-1] == "-A DOCKER-USER -j RETURN"
        stack.destroy()


@pytest.mark.parametrize("table", ["firewalld", "another"])
def test_a_table_that_a_program_owns_is_reported(lab: Lab, stack: Stack, table: str) -> None:
    """As of firewalld 2.1: a preview says that no rule can be added, and a refresh shows no drift.

    `hostnet doctor` has the command that makes firewalld let others in.
    """
    prepare(lab)
    rules = f"table inet {table} {{ flags owner; chain f {{ type filter hook forward priority 0; policy drop; }}; }}"
    keeper = lab.host.call(_keep, rules, table)
    try:
        said = stack.preview(program(auto=True))
        assert [text for text in said if f"inet {table} f" in text and "owns it" in text], said
        (line,) = [one for one in _doctor(stack) if one["name"] == "firewall"]
        assert line["level"] == "warn"
        assert f"inet {table} f drops" in line["found"]
        assert ("NftablesTableOwner=no" in line["fix"]) is (table == "firewalld")
        assert (line["fix"] in "".join(said)) is True
        stack.up(program(auto=True))
        assert stack.refresh() == {}
        stack.destroy()
    finally:
        keeper.kill()
        keeper.wait()


def test_firewalld_as_its_package_sets_it_up(lab: Lab, stack: Stack) -> None:
    """Where it owns its table, a preview names the command with which all passes; an older one needs none."""
    prepare(lab)
    with started(Firewalld(lab.host, as_packaged=True)) as firewall:
        owned = "flags owner" in lab.host.run("nft list table inet firewalld")
        said = [text for text in stack.preview(program(auto=True)) if "inet firewalld" in text]
        assert all(_FIREWALLD in text for text in said)
        assert bool(said) is owned
        if owned:
            _edit(firewall.conf)
            firewall.restart()
        stack.up(program(auto=True))
        judge(lab, passes=OUT + IN + ACROSS, blocked=NEVER + OWN)
        assert stack.refresh() == {}
        stack.destroy()


def _edit(conf: Path) -> None:
    """What the command that we name does to firewalld's configuration."""
    command = _FIREWALLD.strip("`").replace("/etc/firewalld/firewalld.conf", str(conf))
    subprocess.run(["sh", "-c", command.rpartition(" && ")[0]], check=True)


def _doctor(stack: Stack) -> list[dict[str, str]]:
    """What `hostnet doctor` finds on the stack's host."""

    async def ask() -> list[dict[str, str]]:
        host = await stack.provider.host({"connection": {"netns": stack.netns}})
        checks: list[dict[str, str]] = (await host.facts("doctor", {})).data["checks"]
        return checks

    return stack.provider.run(ask())


@pytest.mark.parametrize("before", ["", "NftablesTableOwner=yes\n", "NftablesTableOwner=no\nNftablesTableOwner=yes\n"])
def test_the_command_for_firewalld(before: str, tmp_path: Path) -> None:
    """The command leaves one such line, and all other lines as they were."""
    conf = tmp_path / "firewalld.conf"
    conf.write_text(f"DefaultZone=public\n{before}LogDenied=off\n")
    _edit(conf)
    assert conf.read_text() == "DefaultZone=public\nLogDenied=off\nNftablesTableOwner=no\n"


def _keep(rules: str, table: str) -> subprocess.Popen[str]:
    """A program that makes a table, and owns it while it runs."""
    process = subprocess.Popen(["nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin
    assert process.stdout
    process.stdin.write(f"{rules}\nlist tables\n")
    process.stdin.flush()
    while table not in process.stdout.readline():
        pass
    return process


@pytest.mark.parametrize("name", ["docker", "native", "legacy"])
def test_a_gateway_of_forwards_alone(lab: Lab, stack: Stack, name: str) -> None:
    """Networks that no gateway lists stay closed in a chain that drops, except for the guest's forwarded port."""
    prepare(lab)
    made = program(auto=True)
    forwards = [
        {"protocol": "tcp+udp", "sourcePort": 8080, "destination": to} for to in ("10.0.0.11:80", "[fd12::11]:80")
    ]
    made = {key: made[key] for key in ("net-a", "vms-a", "net-b", "vms-b")}
    with running(name, lab.host) as firewall:
        before = firewall.rules()
        stack.up({**made, "nat": ("NatGateway", {"forwardPorts": forwards})})
        lab.serve("guest2", "tcp:80")
        judge(
            lab,
            passes=IN,
            blocked=["attacker tcp 10.0.0.12:80", "guest1 tcp 198.51.100.10:80", "guest3 tcp 10.0.0.12:80"],
        )
        assert stack.refresh() == {}
        stack.destroy()
        assert firewall.rules() == before


@pytest.mark.parametrize("name", ["native", "docker", "legacy"])
def test_networks_given_by_addresses(lab: Lab, stack: Stack, name: str) -> None:
    """They reach the internet and, with internalForwarding, each other, also by IPv6 without NAT66."""
    prepare(lab)
    lab.serve("guest3", "tcp:80")
    lab.host.sysctl("net.ipv6.conf.all.forwarding", 1)
    made = {key: value for key, value in program(auto=True).items() if value[0] in ("Bridge", "TapBinding")}
    networks = {"internalIps": ["10.0.0.0/24", "10.1.0.0/24"], "internalIpv6s": ["fd12::/64", "fd13::/64"]}
    between = ["guest1 tcp 10.1.0.13:80", "guest1 tcp [fd13::13]:80", "guest3 tcp 10.0.0.11:80"]
    with running(name, lab.host) as firewall:
        before = firewall.rules()
        stack.up({**made, "nat": ("NatGateway", {**networks, "internalForwarding": True})})
        judge(
            lab,
            passes=["guest1 tcp 198.51.100.10:80", *between, *ACROSS],
            blocked=["attacker tcp 10.0.0.11:80", "attacker tcp [fd12::11]:80", "guest1 tcp [2001:db8:1::10]:80"],
        )
        assert stack.refresh() == {}
        stack.up({**made, "nat": ("NatGateway", networks)})
        judge(lab, passes=["guest1 tcp 198.51.100.10:80", *ACROSS], blocked=between)
        stack.destroy()
        assert firewall.rules() == before


def _answered(lab: Lab) -> set[str]:
    """What the gateway of network A answers to guest1, of "dhcp", "dns" and "dns over tcp"."""
    guest = lab["guest1"]
    names = {"dhcp": _discover, "dns": _resolve, "dns over tcp": _connect}
    return {name for name, ask in names.items() if guest.call(ask)}


def _discover() -> bool:
    """Whether a DHCPDISCOVER is answered; it asks for an answer by broadcast (RFC 2131)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        client.bind(("", 68))
        client.settimeout(_DHCP_PATIENCE)
        head = struct.pack("!BBBBIHH", 1, 1, 6, 0, 0x5EED, 0, 0x8000) + bytes(16) + bytes.fromhex("0200000000aa")
        client.sendto(head.ljust(236, b"\0") + bytes.fromhex("63825363350101ff"), ("255.255.255.255", 67))
        return _hears(client)


def _resolve() -> bool:
    """Whether a DNS query gets any answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(DOUBT)
        client.sendto(bytes.fromhex("00010100000100000000000001610000010001"), ("10.0.0.1", 53))
        return _hears(client)


def _hears(client: socket.socket) -> bool:
    try:
        return bool(client.recv(1500))
    except OSError:
        return False


def _connect() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(DOUBT)
        return client.connect_ex(("10.0.0.1", 53)) == 0


@pytest.mark.parametrize("name", ["native", "ufw", "firewalld", "legacy"])
def test_a_bridge_serves_in_spite_of_a_firewall(lab: Lab, stack: Stack, name: str) -> None:
    """With a dropping input chain `openFirewall` opens DHCP and DNS alone. A reload that removes that is drift."""
    lab.serve("host", "tcp:8081 udp:8053")
    inputs = {"name": "br-a", "addresses": ["10.0.0.1/24", "fd12::1/64"], "dhcpServer": {}, "ipv6SendRa": True}
    guests = {"vms-a": ("TapBinding", {"match": "a-*", "bridge": "br-a"})}
    shut = ["guest1 tcp 10.0.0.1:8081", "guest1 udp 10.0.0.1:8053", "outsider udp 192.0.2.2:53"]
    with running(name, lab.host) as firewall:
        before = firewall.rules()
        stack.up({"net-a": ("Bridge", {**inputs, "openFirewall": False}), **guests})
        assert _answered(lab) == set()
        assert stack.up({"net-a": ("Bridge", inputs), **guests}) == ["update net-a: openFirewall"]
        assert _answered(lab) == {"dhcp", "dns", "dns over tcp"}
        judge(lab, passes=["guest1 icmp 10.0.0.1"], blocked=shut)
        assert stack.refresh() == {}
        solicitations = ("icmpv6 type 133", "nd-router-solicit", "--icmpv6-type 133")
        assert any(words in firewall.rules() for words in solicitations)
        if not firewall.survives_reload:
            firewall.reload()
            assert stack.refresh() == {"net-a": ["openFirewall"]}
            assert stack.again() == ["update net-a: openFirewall"]
            assert _answered(lab) == {"dhcp", "dns", "dns over tcp"}
        stack.destroy()
        assert firewall.rules() == before


# As libvirt 10.4 and later writes them, and as Docker 29 does with nftables, without what concerns other directions.
LIBVIRT = """table {family} libvirt_network {{
  chain forward {{
    type filter hook forward priority filter; policy accept;
    counter jump guest_cross
    counter jump guest_input
    counter jump guest_output
  }}
  chain guest_cross {{ iif "virbr0" oif "virbr0" counter accept
  }}
  chain guest_input {{
    oif "virbr0" {ip} daddr {net} ct state established,related counter accept
    oif "virbr0" counter reject
  }}
  chain guest_output {{
    {ip} saddr {net} iif "virbr0" counter accept
    iif "virbr0" counter reject
  }}
}}
"""
DOCKER = """table {family} docker-bridges {{
  map filter-forward-in-jumps {{
    type ifname : verdict
    elements = {{ "virbr0" : jump filter-forward-in__virbr0 }}
  }}
  chain filter-FORWARD {{
    type filter hook forward priority filter; policy accept;
    oifname vmap @filter-forward-in-jumps
  }}
  chain filter-forward-in__virbr0 {{
    ct state established,related counter accept
    iifname "virbr0" counter accept
    counter drop comment "UNPUBLISHED PORT DROP"
  }}
}}
"""
OTHERS = {"libvirt": ("libvirt_network", LIBVIRT), "docker": ("docker-bridges", DOCKER)}
NETWORKS = (("ip", "10.0.0.0/24", ""), ("ip6", "fd12::/64", "6"))


def close_virbr0(lab: Lab, firewall: str) -> None:
    """Another program's bridge with guest1 and guest2, and its own rules."""
    ports = [f"link set {port} master virbr0" for port in ("a-1", "a-2")]
    addresses = ("address add 10.0.0.1/24 dev virbr0", "address add fd12::1/64 dev virbr0 nodad")
    lab.host.ip("link add virbr0 type bridge forward_delay 0", "link set virbr0 up", *addresses, *ports)
    for family, _, digit in NETWORKS:
        if firewall in ("libvirt-nft", "libvirt-legacy"):
            lab.host.run(f"ip{digit}tables-{firewall.removeprefix('libvirt-')} -N LIBVIRT_FWI")
        else:
            lab.host.run(f"nft add table {family} {OTHERS[firewall][0]}")
    reload(lab, firewall)


def reload(lab: Lab, firewall: str) -> None:
    """Write the other program's rules again; they reject what begins elsewhere."""
    for family, net, digit in NETWORKS:
        if firewall in OTHERS:
            table, text = OTHERS[firewall]
            rules = text.format(family=family, ip=family, net=net)
            lab.host.run("nft -f -", text=f"delete table {family} {table}\n{rules}")
            continue
        command = f"ip{digit}tables-{firewall.removeprefix('libvirt-')}"
        for rule in (
            "-F",
            "-A FORWARD -j LIBVIRT_FWI",
            f"-A LIBVIRT_FWI -d {net} -o virbr0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-A LIBVIRT_FWI -o virbr0 -j REJECT",
        ):
            lab.host.run(f"{command} {rule}")


async def doctor(stack: Stack) -> list[str]:
    """What `hostnet doctor` says of other firewalls."""
    host = await stack.provider.host({"connection": {"netns": stack.netns}})
    checks = (await host.facts("doctor", {})).data["checks"]
    return [each["found"] for each in checks if each["name"] == "firewall"]


@pytest.mark.parametrize("firewall", ["libvirt", "docker", "libvirt-nft", "libvirt-legacy"])
def test_what_is_forwarded_to_another_programs_bridge_passes(lab: Lab, stack: Stack, firewall: str) -> None:
    """A reject of all that goes there does not stop forwards; a reload is drift; with `none` a preview says it."""
    close_virbr0(lab, firewall)
    lab.serve("guest1", "tcp:80 udp:80")
    lab.serve("internet", "tcp:80")

    def behind(mode: str) -> Program:
        forward = {"natGateway": "${nat.id}", "protocol": "tcp+udp", "sourcePort": 8080}
        nat = {"internalInterfaces": ["virbr0"], "enableIpv6": True, "firewall": mode}
        web4 = {**forward, "destination": "10.0.0.11:80"}
        web6 = {**forward, "destination": "[fd12::11]:80"}
        return {"nat": ("NatGateway", nat), "web4": ("PortForward", web4), "web6": ("PortForward", web6)}

    incoming = [IN[0], IN[1], "outsider tcp [2001:db8::2]:8080"]
    before = lab.host.run("nft -s list ruleset")
    said = stack.provider.run(doctor(stack))
    assert [text for text in said if "drops what goes to virbr0" in text], said
    stack.up(behind("none"))
    judge(lab, passes=[OUT[0]], blocked=incoming)
    assert [text for text in stack.preview(behind("none")) if "drops what is forwarded to virbr0" in text]
    assert not [text for text in stack.preview(behind("auto")) if "drops what is forwarded to virbr0" in text]
    stack.up(behind("auto"))
    judge(lab, passes=[OUT[0], *incoming], blocked=["attacker tcp 10.0.0.11:80", "attacker tcp [fd12::11]:80"])
    assert stack.refresh() == {}
    reload(lab, firewall)
    assert stack.refresh() == {"nat": ["firewall"]}
    assert stack.again() == ["update nat: firewall"]
    judge(lab, passes=incoming, blocked=[])
    assert stack.refresh() == {}
    stack.destroy()
    assert lab.host.run("nft -s list ruleset") == before
    if firewall == "libvirt-legacy":
        legacy = Legacy(lab.host)
        assert "hostnet" not in legacy.rules()
        legacy.stop()
