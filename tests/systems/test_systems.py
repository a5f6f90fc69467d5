"""hostnet on a minimal Debian 12 and a minimal Debian 13: set-up, and tests of what differs between releases.

They bring other versions of Python, nft and its library, iptables, dnsmasq, ufw and firewalld; the kernel is this
machine's. `make systems` runs these, `make systems-whole` what takes longer (whole.py).
"""

from __future__ import annotations

import pytest

from tests.systems.system import System

pytestmark = pytest.mark.timeout(0)  # each of the tests within has its own


def test_a_second_set_up_does_nothing(system: System) -> None:
    """All that it names was installed, by names that the release knows."""
    said = system.online("python3", "-m", "tests.systems.set_up").splitlines()
    assert said
    assert [line for line in said if not line.endswith(": already done")] == []


def test_unit_and_rpc(system: System) -> None:
    """The tests that need no network of the kernel's."""
    system.pytest("tests/unit", "tests/rpc")


def test_netns(system: System) -> None:
    """Real packets, and other programs' firewalls."""
    # A fifth of the random sequences: what they look for is in hostnet, not in a release.
    system.pytest("tests/netns", HOSTNET_SEQUENCES="100")
