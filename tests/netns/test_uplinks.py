"""Uplinks and public addresses as people have them: tests/cases/uplinks.

Addresses: see tests/lab/topology.py; the cases' format: tests/lab/cases.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.cases import Case, Runner, load
from tests.lab.driver import Provider, Stack
from tests.lab.lab import Lab


@pytest.mark.parametrize("case", load("uplinks"), ids=lambda case: case.name)
def test_case(lab: Lab, stack: Stack, case: Case) -> None:
    """Every probe ends as the case says, and a destroy leaves the host as it was."""
    Runner(lab, stack, case).run()


def test_replies_by_the_same_uplink_come_back_at_boot(lab: Lab) -> None:
    """Nothing of it is left in the kernel, an uplink is not there yet, and other numbers are taken: `restore`."""
    lab.net.second_uplink()
    lab["outsider2"].ip("address replace 198.51.100.77/32 dev lo")
    lab.host.ip("route add default via 203.0.113.20 dev eth1 metric 500")
    lab.serve("guest1", "tcp:80")
    provider = Provider()
    try:
        stack = Stack(provider, netns=lab.host.name)
        up(stack)
        stack.up({**stack.program, "web": ("PortForward", {**WEB, "natGateway": "${nat.id}"})})
        reached = "tcp 203.0.113.2:8080 from 198.51.100.77"
        assert lab.reaches("outsider2", reached) == ("guest1", "198.51.100.77")
        lab.host.nft("flush ruleset")
        for family in ("-4", "-6"):
            lab.host.run(f"ip {family} rule delete fwmark 0x1000000/0x3f000000")
            lab.host.run(f"ip {family} route flush table 7100")
        lab.host.run("ip rule add pref 100 to 198.51.100.9 table 7100")
        assert lab.blocked("outsider2", reached)
        provider.run(_restore(provider, lab.host.name))
        assert lab.reaches("outsider2", reached) == ("guest1", "198.51.100.77")
        assert stack.refresh() == {}
        lab.host.run("ip rule delete pref 100")
        stack.destroy()
        assert {rule.priority for rule in lab.host.kernel.rules()} == {0, 32766, 32767}
    finally:
        provider.close()


async def _restore(provider: Provider, netns: str) -> None:
    host: Any = await provider.host({"connection": {"netns": netns}})
    await host.restore()


WEB = {"sourcePort": 8080, "destination": "10.0.0.11:80"}
ANYWHERE = {"v4": "198.51.100.77", "v6": "2001:db8:77::1"}
NEXT_HOPS = {
    "v4": "route replace default nexthop via 192.0.2.20 dev eth0 nexthop via 203.0.113.20 dev eth1",
    "v6": "route replace ::/0 nexthop via 2001:db8::20 dev eth0 nexthop via 2001:db8:2::20 dev eth1",
}
SOURCES = {"v4": {"outsider": "192.0.2.2", "outsider2": "203.0.113.2"}}
SOURCES["v6"] = {"outsider": "2001:db8::2", "outsider2": "2001:db8:2::2"}


@pytest.fixture(params=["v4", "v6"])
def anywhere(request: pytest.FixtureRequest, lab: Lab) -> Iterator[str]:
    """A family; a server of its address in ANYWHERE is behind each of the host's two uplinks."""
    family, bits = request.param, {"v4": 32, "v6": 128}[request.param]
    lab.net.second_uplink()
    for role in ("outsider", "outsider2"):
        lab[role].ip(f"address replace {ANYWHERE[family]}/{bits} dev lo")
    if family == "v6":  # where IPv6's default route is replaced the former one stays beside it
        lab.host.ip("route delete ::/0")
    lab.host.ip(NEXT_HOPS[family])
    lab.host.sysctl(
        f"net.{'ipv4' if family == 'v4' else 'ipv6'}.fib_multipath_hash_policy", 1
    )  # by ports, not by addresses alone
    yield family
    lab["outsider"].ip(f"address delete {ANYWHERE[family]}/{bits} dev lo")


def up(stack: Stack, **gateway: object) -> None:
    """A bridge with guests behind a gateway."""
    stack.up(
        {
            "net": ("Bridge", {"name": "br-a", "addresses": ["10.0.0.1/24", "fd12::1/64"]}),
            "vms": ("TapBinding", {"match": "a-*", "bridge": "${net.name}"}),
            "nat": ("NatGateway", {"internalInterfaces": ["br-a"], "enableIpv6": True, **gateway}),
        }
    )


def target(family: str) -> str:
    """The server that is behind each uplink."""
    return ANYWHERE["v4"] if family == "v4" else f"[{ANYWHERE['v6']}]"


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_each_flow_has_the_address_of_its_next_hop(lab: Lab, stack: Stack, anywhere: str, protocol: str) -> None:
    """Issue 15: with an ECMP default route 11 of 16 flows left untranslated by the other uplink."""
    up(stack)
    assert stack["nat.externalInterfaces"] == ["eth0", "eth1"]
    for role in ("outsider", "outsider2"):
        lab.serve(role, f"{protocol}:80")
    asked = [lab.begin("guest1", f"{protocol} {target(anywhere)}:80 from :{port}") for port in range(7000, 7032)]
    verdicts = [each.result() for each in asked]
    assert {verdict.server for verdict in verdicts} == {"outsider", "outsider2"}
    for verdict in verdicts:
        assert verdict.source == SOURCES[anywhere][verdict.server]
    stack.destroy()


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_moved_default_route_takes_new_flows_along(lab: Lab, stack: Stack, anywhere: str, protocol: str) -> None:
    """The gateway leads out by both while only one has the route: nothing is to be done when it moves, and back."""
    up(stack, externalInterfaces=["eth0", "eth1"])
    for role in ("outsider", "outsider2"):
        lab.serve(role, f"{protocol}:80")
    hops = NEXT_HOPS[anywhere].split(" nexthop ")
    for hop, role in ((hops[1], "outsider"), (hops[2], "outsider2"), (hops[1], "outsider")):
        if anywhere == "v6":
            lab.host.ip("route delete ::/0")
        lab.host.ip(f"{hops[0]} {hop}")
        # The same ports as before: what conntrack knows of the flow names the other uplink's address.
        verdict = lab.probe("guest1", f"{protocol} {target(anywhere)}:80 from :7000")
        assert (verdict.server, verdict.source) == (role, SOURCES[anywhere][role])
    assert stack.refresh() == {}
    stack.destroy()
