"""Who reaches whom, and who does not: tests/cases/reachability, and what needs more than a probe.

Addresses: see tests/lab/topology.py; the cases' format: tests/lab/cases.py.
"""

from __future__ import annotations

import pytest

from tests.lab.cases import Case, Runner, load
from tests.lab.driver import Stack
from tests.lab.lab import Lab
from tests.lab.probes import DOUBT


@pytest.mark.parametrize("case", load("reachability"), ids=lambda case: case.name)
def test_case(lab: Lab, stack: Stack, case: Case) -> None:
    """Every probe ends as the case says, and a destroy leaves the host as it was."""
    Runner(lab, stack, case).run()


@pytest.mark.parametrize(
    "how", [{"internalInterfaces": ["br-a"]}, {"internalIps": ["10.0.0.0/24"], "internalIpv6s": ["fd12::/64"]}]
)
@pytest.mark.parametrize("target", ["198.51.100.10", "[2001:db8:1::10]"])
@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
def test_low_source_ports_are_remapped_with_a_fixed_address(
    lab: Lab, stack: Stack, protocol: str, target: str, how: dict[str, list[str]]
) -> None:
    """As libvirt has it: servers trust low source ports; also where the outbound address is declared."""
    fixed = {"externalIp": "192.0.2.3", "externalIpv6": "2001:db8::3", "enableIpv6": True}
    stack.up(
        {
            "net": ("Bridge", {"name": "br-a", "addresses": ["10.0.0.1/24", "fd12::1/64"]}),
            "vms": ("TapBinding", {"match": "a-*", "bridge": "${net.name}"}),
            "nat": ("NatGateway", {**fixed, **how}),
        }
    )
    lab.serve("internet", f"{protocol}:80")
    low = lab.probe("guest1", f"{protocol} {target}:80 from :700")
    assert (low.server, low.source) == ("internet", "2001:db8::3" if "[" in target else "192.0.2.3")
    assert low.source_port >= 1024
    assert lab.probe("guest2", f"{protocol} {target}:80 from :7000").source_port == 7000
    stack.destroy()
    assert lab.net.snapshot() == lab.net.pristine


@pytest.mark.parametrize("tracked", [True, False], ids=["tracked", "untracked"])
@pytest.mark.parametrize("target", ["10.0.0.1", "[fd12::1]"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_the_inside_address_does_not_answer_to_the_outside(
    lab: Lab, stack: Stack, protocol: str, target: str, *, tracked: bool
) -> None:
    """A NAT chain drops new connections; a packet that conntrack does not see passes no NAT chain, and is dropped too.

    Without hostnet's chain the same packet is answered: nothing else keeps it out.
    """
    stack.up(
        {
            "net": ("Bridge", {"name": "br-a", "addresses": ["10.0.0.1/24", "fd12::1/64"]}),
            "vms": ("TapBinding", {"match": "a-*", "bridge": "${net.name}"}),
            "nat": ("NatGateway", {"internalInterfaces": ["br-a"], "enableIpv6": True}),
        }
    )
    lab.serve("host", f"{protocol}:80")
    if not tracked:
        lab.host.nft(
            "table inet raw { chain pre { type filter hook prerouting priority raw; iifname eth0 notrack; }\n"
            "chain out { type filter hook output priority raw; oifname eth0 notrack; }\n}\n"
        )
    assert lab.probe("guest1", f"{protocol} {target}:80").server == "host"
    assert lab.probe("attacker", f"{protocol} {target}:80", DOUBT).outcome != "reached"
    lab.host.nft("".join(f"flush chain inet hostnet {name}\n" for name in ("protect_addrs", "protect_host")))
    assert lab.probe("attacker", f"{protocol} {target}:80").server == "host"
    if not tracked:
        lab.host.nft("delete table inet raw")
