"""Beside other people's firewalls: traffic passes, nothing else does, a reload is mended, and nothing of ours stays.

Addresses: see tests/lab/topology.py; the firewalls: tests/lab/firewalls.py.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.lab.driver import Stack
from tests.lab.firewalls import NAMES, Firewall, running
from tests.lab.lab import Lab

Program = dict[str, tuple[str, dict[str, Any]]]

OUT = ["guest1 tcp 198.51.100.10:80", "guest1 udp [2001:db8:1::10]:80", "guest1 icmp 198.51.100.10"]
IN = ["outsider tcp 192.0.2.2:8080", "outsider udp [2001:db8::2]:8080", "guest3 tcp 192.0.2.2:8080"]
ACROSS = ["guest2 tcp 10.0.0.11:80", "guest2 tcp [fd12::11]:80"]
NEVER = ["attacker tcp 10.0.0.11:80", "guest3 tcp 10.0.0.11:80", "attacker tcp [fd12::11]:80"]
OWN = ["outsider tcp 192.0.2.2:8081", "guest1 udp 192.0.2.2:53"]  # the host's own, where the input chain drops


def program(*, auto: bool) -> Program:
    """Networks A and B behind one gateway, a forward to guest1 in each family."""
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
    """Servers, and a kernel that shows bridged frames to IP's firewalls."""
    lab.serve("guest1", "tcp:80 udp:80")
    lab.serve("internet", "tcp:80 udp:80")
    lab.serve("host", "tcp:8081 udp:53")
    for name in ("iptables", "ip6tables"):
        lab.host.sysctl(f"net.bridge.bridge-nf-call-{name}", 1)


def judge(lab: Lab, *, passes: list[str], blocked: list[str]) -> None:
    """Every probe ends as told."""
    asked = [(line, *line.split(" ", 1)) for line in passes]
    verdicts = lab.probes([(role, target) for _, role, target in asked])
    assert not {line: str(v) for (line, *_), v in zip(asked, verdicts, strict=True) if v.outcome != "reached"}
    futures = {line: lab.begin(*line.split(" ", 1), timeout=0.3) for line in blocked}
    assert not [line for line, future in futures.items() if future.result().outcome == "reached"]


@pytest.mark.parametrize("name", NAMES)
def test_beside_a_firewall(lab: Lab, stack: Stack, name: str) -> None:
    """Without us it drops; with `auto` all passes that should and nothing else; a reload is drift, and mended."""
    prepare(lab)
    with running(name, lab.host) as firewall:
        before = firewall.rules()
        warned = stack.preview({"nat": ("NatGateway", {"internalIps": ["10.0.0.0/24"], "firewall": "none"})})
        assert [text for text in warned if 'firewall: "none"' in text], warned
        stack.up(program(auto=False))
        assert firewall.rules() == before
        closed = NEVER + ([] if name in ("docker", "legacy") else OWN)
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
    """Its own reload, and what is left of ours then."""
    firewall.reload()
    if firewall.survives_reload:
        assert stack.refresh() == {}
    else:
        assert stack.refresh() == {"nat": ["firewall"], "net-a": ["openFirewall"], "net-b": ["openFirewall"]}
        assert len(stack.again()) == 3
        assert stack.refresh() == {}
    judge(lab, passes=OUT + IN + ACROSS, blocked=NEVER)
    assert stack.again() == []


def test_our_rules_in_iptables_can_be_read(lab: Lab, stack: Stack) -> None:
    """`iptables -S` shows each with its comment, in DOCKER-USER; a saved and loaded copy of ours is ours still."""
    prepare(lab)
    with running("docker", lab.host) as firewall:
        before = firewall.rules()
        stack.up(program(auto=True))
        for command in ("iptables", "ip6tables"):
            shown = lab.host.run(f"{command}-nft -S DOCKER-USER")
            assert '-A DOCKER-USER -i br-a -o eth0 -m comment --comment "hostnet: br-a to eth0" -j ACCEPT' in shown
            assert '-A DOCKER-USER -o br-a -m comment --comment "hostnet: any to br-a" -j ACCEPT' in shown
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
    """What looks at something is somebody's will: our accept stands behind it, and before a RETURN or the last drop."""
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


def test_a_table_that_a_program_owns_is_told(lab: Lab, stack: Stack) -> None:
    """As with firewalld 2.1 and later, which lets nobody into its table: a preview says so, and no drift is shown for ever."""
    prepare(lab)
    rules = "table inet owned { flags owner; chain f { type filter hook forward priority 0; policy drop; }; }"
    keeper = lab.host.call(_keep, rules)
    try:
        said = stack.preview(program(auto=True))
        assert [text for text in said if "inet owned f" in text and "owns it" in text], said
        stack.up(program(auto=True))
        assert stack.refresh() == {}
        stack.destroy()
    finally:
        keeper.kill()
        keeper.wait()


def _keep(rules: str) -> Any:  # noqa: ANN401 - a process
    import subprocess  # noqa: PLC0415

    process = subprocess.Popen(["nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin
    assert process.stdout
    process.stdin.write(f"{rules}\nlist tables\n")
    process.stdin.flush()
    while "owned" not in process.stdout.readline():
        pass
    return process
