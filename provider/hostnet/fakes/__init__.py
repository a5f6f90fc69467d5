"""Stateful fakes of what the agent works on: a kernel, nftables, DHCP servers, systemd. They need no root.

The agent's own code runs on them: `FakeHost` and `FakePool` are hosts in memory, for tests of everything above a host.
"""

from __future__ import annotations

from hostnet.fakes.host import FakeHost
from hostnet.fakes.kernel import FakeKernel
from hostnet.fakes.nftables import FakeNftables
from hostnet.fakes.pool import FakePool

__all__ = ["FakeHost", "FakeKernel", "FakeNftables", "FakePool"]
