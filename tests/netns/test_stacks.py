"""Stacks on a host: two side by side, a host that is gone, an agent that dies; and what needs more than a probe.

Addresses: see tests/lab/topology.py.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from hostnet.wire.errors import Code, HostnetError

from tests.lab.driver import Provider, Stack, refused
from tests.lab.lab import Lab

Program = dict[str, tuple[str, dict[str, Any]]]


def network(name: str, *, forward: int, guest: int) -> Program:
    """A bridge with its guests, a gateway and a forward: network A or B of the plan."""
    number = {"a": 0, "b": 1}[name]
    return {
        "net": ("Bridge", {"name": f"br-{name}", "addresses": [f"10.{number}.0.1/24", f"fd1{2 + number}::1/64"]}),
        "vms": ("TapBinding", {"match": f"{name}-*", "bridge": "${net.name}"}),
        "nat": ("NatGateway", {"internalInterfaces": ["${net.name}"], "enableIpv6": True}),
        "web": (
            "PortForward",
            {"natGateway": "${nat.id}", "sourcePort": forward, "destination": f"10.{number}.0.1{guest}:80"},
        ),
    }


@pytest.fixture
def second(lab: Lab, stack: Stack) -> Iterator[Stack]:
    """Another stack on the same host, from a provider process of its own."""
    provider = Provider(beside=stack.provider)
    yield Stack(provider, lab.host.name, name="second")
    provider.close()


@pytest.mark.parametrize("first_gone", ["lab", "second"])
def test_two_stacks_share_a_host(lab: Lab, stack: Stack, second: Stack, first_gone: str) -> None:
    """Neither sees the other's as its own; switches and table live till the last; either may go first."""
    stack.up(network("a", forward=8080, guest=1))
    second.up(network("b", forward=8081, guest=3))
    lab.serve("guest1", "tcp:80")
    lab.serve("guest3", "tcp:80")
    assert lab.reaches("outsider", "tcp 192.0.2.2:8080") == ("guest1", "192.0.2.20")
    assert lab.reaches("outsider", "tcp 192.0.2.2:8081") == ("guest3", "192.0.2.20")
    assert stack.refresh() == {}
    assert second.refresh() == {}
    goes, stays = (stack, second) if first_gone == "lab" else (second, stack)
    port, guest = (8081, "guest3") if stays is second else (8080, "guest1")
    goes.destroy()
    assert lab.reaches("outsider", f"tcp 192.0.2.2:{port}") == (guest, "192.0.2.20")
    assert lab.blocked("outsider", f"tcp 192.0.2.2:{8080 + 8081 - port}")
    assert stays.refresh() == {}
    assert lab.host.sysctl("net.ipv4.ip_forward") == "1"
    stays.destroy()
    assert lab.net.snapshot() == lab.net.pristine


@pytest.mark.parametrize("first", [0, 1], ids=["oldest-first", "newest-first"])
def test_two_state_directories_share_the_table(lab: Lab, stack: Stack, first: int) -> None:
    """What both have added stays with the last one, and goes with it: also where its gateway goes before its guest."""
    with contextlib.closing(Provider()) as another:
        stacks = [stack, Stack(another, lab.host.name, name="another")]
        for number, each in enumerate(stacks):
            program = network("ab"[number], forward=8080 + number, guest=1 + 2 * number)
            program["nat"][1]["mssClamp"] = True
            tap = {"name": f"vm{number}", "bridge": "${net.name}", "guest": {"egress": [{"cidr": "198.51.100.0/24"}]}}
            each.up({**program, "tap": ("TapBinding", tap)})
        assert [each.refresh() for each in stacks] == [{}, {}]
        last = stacks[1 - first]
        stacks[first].destroy()
        assert last.refresh() == {}
        last.up({name: last.program[name] for name in ("net", "tap")})
        for name in ("external_links", "mss_clamp_links", "outer_links"):
            assert '"eth0"' not in lab.host.run(f"nft list set inet hostnet {name}")
        assert last.refresh() == {}
        last.destroy()
    assert "hostnet" not in lab.host.run("nft list tables")


def test_a_key_of_another_stack_is_an_error_that_names_it(lab: Lab, stack: Stack, second: Stack) -> None:
    """The same port in two stacks: the second is refused, and the first goes on."""
    stack.up(network("a", forward=8080, guest=1))
    lab.serve("guest1", "tcp:80")
    with pytest.raises(HostnetError, match="lab"):
        second.up(network("b", forward=8080, guest=3))
    assert lab.reaches("outsider", "tcp 192.0.2.2:8080")[0] == "guest1"
    second.destroy()
    stack.destroy()
    assert lab.net.snapshot() == lab.net.pristine


ROUTED: Program = {
    "net": ("Bridge", {"name": "br-b", "addresses": ["10.1.0.1/24", "fd13::1/64"]}),
    "vms": ("TapBinding", {"match": "b-*", "bridge": "${net.name}"}),
    "tap": ("TapBinding", {"name": "vm0", "addresses": ["10.66.0.0/32"], "routes": ["10.66.0.2/32"], "guest": {}}),
}


@pytest.mark.parametrize(
    ("route", "holder"),
    [
        ("10.66.0.2/32", "TapBinding tap (stack lab"),
        ("10.66.0.0/24", "TapBinding tap (stack lab"),
        ("10.1.0.13/32", "Bridge net (stack lab"),
        ("fd13::/16", "Bridge net (stack lab"),
        ("192.0.2.1/32", "the host's gateway on eth0"),
        ("128.0.0.0/1", "the host's gateway on eth0"),
        ("2001:db8::2/128", "the host's own address on eth0"),
    ],
)
def test_a_route_takes_nothing_of_others(lab: Lab, stack: Stack, second: Stack, route: str, holder: str) -> None:
    """No stack's route leads to its TAP what another stack's guest or the host has; a preview says so as well."""
    stack.up(ROUTED)
    settings = ("address add 10.66.0.2/32 dev eth0", "route add 10.66.0.0 dev eth0", "route add default via 10.66.0.0")
    lab.net.plug("vm0", "guest5", *settings, mac=stack["tap.guest.macAddress"])
    lab.serve("guest5", "tcp:80")
    lab.serve("guest3", "tcp:80")
    lab.serve("internet", "tcp:80")
    bad: Program = {"bad": ("TapBinding", {"name": "vm9", "addresses": ["10.67.0.0/32"], "routes": [route]})}
    assert [text for text in second.preview(bad) if holder in text]
    with pytest.raises(HostnetError) as refusal:
        second.up(bad)
    assert holder in str(refusal.value)
    assert lab.reaches("host", "tcp 10.66.0.2:80")[0] == "guest5"
    assert lab.reaches("host", "tcp 10.1.0.13:80")[0] == "guest3"
    assert lab.reaches("host", "tcp 198.51.100.10:80")[0] == "internet"
    second.destroy()
    stack.destroy()


def test_a_namespace_that_is_gone_is_an_unreachable_host(lab: Lab, stack: Stack) -> None:
    """A named namespace that no longer exists is a host that is gone: reading is an error, never "resource gone"."""
    stack.up({"net": ("Bridge", {"name": "br-a", "addresses": ["10.0.0.1/24"]})})
    subprocess.run(["ip", "netns", "delete", lab.host.name], check=True)  # the agent still is in what has no name now
    for attempt in (stack.refresh, stack.destroy):
        with pytest.raises(HostnetError) as error:
            attempt()
        assert refused(error.value, Code.UNREACHABLE)
    assert set(stack.state) == {"net"}
    lab.net.namespaces.delete("host")


def test_another_agent_follows_one_that_was_killed(lab: Lab, stack: Stack) -> None:
    """The provider lives, starts another agent, and knows what it had made."""
    stack.up(network("a", forward=8080, guest=1))
    lab.serve("guest1", "tcp:80")
    inside = subprocess.run(["ip", "netns", "pids", lab.host.name], capture_output=True, text=True, check=True)
    pids = [int(pid) for pid in inside.stdout.split()]
    assert pids, "no agent in the namespace"
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    try:
        stack.refresh()
    except HostnetError as error:  # the request that met the death may say so; the next one must not
        assert error.code is Code.AGENT_DIED  # noqa: PT017
    assert stack.refresh() == {}
    assert lab.reaches("outsider", "tcp 192.0.2.2:8080")[0] == "guest1"
    stack.destroy()
    assert lab.net.snapshot() == lab.net.pristine


@pytest.mark.parametrize("target", ["198.51.100.10", "[2001:db8:1::10]"])
@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
def test_low_source_ports_are_remapped(lab: Lab, stack: Stack, protocol: str, target: str) -> None:
    """As libvirt has it: servers trust low source ports; a guest's are changed, high ones may stay."""
    stack.up(network("a", forward=8080, guest=1))
    lab.serve("internet", f"{protocol}:80")
    verdict = lab.probe("guest1", f"{protocol} {target}:80 from :700")
    assert verdict.server == "internet"
    assert verdict.source_port >= 1024
    stack.destroy()


def test_a_clamped_mss_fits_a_narrow_uplink(lab: Lab, stack: Stack) -> None:
    """mssClamp: what a guest's SYN offers beyond a 1,280-byte link is lowered to what the link carries."""
    program = network("a", forward=8080, guest=1)
    stack.up(program)
    lab.host.ip("link set eth0 mtu 1280")
    lab.serve("internet", "tcp:80")
    count = "tcp flags & (syn | ack) == syn tcp option maxseg size <= 1240"
    lab["internet"].nft(f"table ip t {{ chain c {{ type filter hook input priority 0; {count} counter; }}; }}")
    lab.reaches("guest1", "tcp 198.51.100.10:80")
    assert "packets 0 " in lab["internet"].kernel.listing()
    kind, inputs = program["nat"]
    stack.up({**program, "nat": (kind, {**inputs, "mssClamp": True})})
    lab.reaches("guest1", "tcp 198.51.100.10:80")
    assert "packets 1 " in lab["internet"].kernel.listing()
    lab["internet"].nft("delete table ip t")
    stack.destroy()


def test_a_guest_whose_namespace_is_gone_is_cleaned_up(lab: Lab, stack: Stack) -> None:
    """netavark: removal with the namespace gone still cleans."""
    stack.up(network("a", forward=8080, guest=1))
    lab["guest1"].ip("link delete eth0")
    assert stack.refresh() == {}
    stack.destroy()
    assert "br-a" not in lab.host.kernel.links()
    assert not lab.host.kernel.listing()


def test_what_hostnet_made_is_imported_clean(lab: Lab, stack: Stack) -> None:
    """Import by id gives inputs that describe the thing, and a program of those has nothing to do."""
    stack.up(network("a", forward=8080, guest=1))
    ids = {name: resource.id for name, resource in stack.state.items()}
    kinds = {name: kind for name, (kind, _) in stack.program.items()}
    stack.state.clear()
    imported = {name: stack.import_(name, kinds[name], ids[name]) for name in ids}
    assert imported["net"]["addresses"] == ["10.0.0.1/24", "fd12::1/64"]
    assert stack.up({name: (kinds[name], imported[name]) for name in ids}) == []
    stack.destroy()
    assert lab.net.snapshot() == lab.net.pristine


BEHIND_TAPS: dict[str, tuple[dict[str, Any], str]] = {
    "in the TAP's own subnet": ({"addresses": ["172.16.0.1/30"]}, "172.16.0.2/30"),
    "of a /31": ({"addresses": ["172.16.0.0/31"]}, "172.16.0.1/31"),
    "declared": ({"addresses": ["172.16.0.1/29"], "guest": {"addresses": ["172.16.0.5"]}}, "172.16.0.5/29"),
    "behind a route": ({"addresses": ["10.0.0.0/32"], "routes": ["10.0.0.7/32"]}, "10.0.0.7/32"),
    "far from its gateway": ({"addresses": ["192.0.2.99/32"], "routes": ["203.0.113.5/32"]}, "203.0.113.5/32"),
}


@pytest.mark.parametrize("name", BEHIND_TAPS)
def test_a_guests_kernel_accepts_what_it_is_given(lab: Lab, stack: Stack, name: str) -> None:
    """A guest behind a routed TAP has an address, and its gateway is on its link, as the kernel's `ip=` requires."""
    inputs, address = BEHIND_TAPS[name]
    stack.up({"tap": ("TapBinding", {"name": "vm-routed", "guest": {}, **inputs})})
    assert stack["tap.guest.addresses"] == [address]
    client, _, gateway, netmask, *_ = str(stack["tap.guest.kernelIpArg"]).removeprefix("ip=").split(":")
    guest = lab["guest3"]
    guest.ip(
        "link add probe0 type veth peer name probe1",
        "link set probe1 up",
        "link set probe0 up",
        f"address add {client}/{netmask} dev probe0",
    )
    guest.ip(f"route add 192.0.2.128/25 via {gateway} dev probe0")
    guest.ip("link delete probe0")
    assert stack.refresh() == {}
    stack.destroy()
