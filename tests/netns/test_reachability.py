"""Who reaches whom, and who does not: tests/cases/reachability, and what needs more than a probe.

Addresses: see tests/lab/topology.py; the cases' format: tests/lab/cases.py.
"""

from __future__ import annotations

import pytest

from tests.lab.cases import Case, Runner, load
from tests.lab.driver import Stack
from tests.lab.lab import Lab


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
    """KERNEL.md, from libvirt: servers trust low source ports; also where the outbound address is declared."""
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
