"""A host with a stack on it, and the command line run as a person would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.bed import Bed
from tests.lab.driver import Provider, Stack

PROVIDER = Path(__file__).resolve().parents[2] / "provider"
PROGRAM: dict[str, tuple[str, dict[str, Any]]] = {
    "net": ("Bridge", {"name": "br-a", "addresses": ["10.0.0.1/24", "fd12::1/64"]}),
    "vms": ("TapBinding", {"match": "gl-*", "bridge": "${net.name}"}),
    "web-vm": ("TapBinding", {"name": "tap-web", "bridge": "${net.name}", "guest": {"hostname": "web"}}),
    "nat": ("NatGateway", {"internalInterfaces": ["${net.name}"]}),
    "web": ("PortForward", {"natGateway": "${nat.id}", "sourcePort": 80, "destination": "10.0.0.2"}),
    "far": ("PortForward", {"natGateway": "${nat.id}", "sourcePort": "8000:8002", "destination": "10.0.0.77"}),
}


class Terminal:
    """Runs `hostnet` against the host."""

    def __init__(self, bed: Bed, provider: Provider) -> None:
        """Nothing is declared yet."""
        self.bed, self.provider = bed, provider
        self.stack = Stack(provider, bed.host.name)

    def argv(self, *arguments: str) -> list[str]:
        """The command line."""
        where = ["--netns", self.bed.host.name, "--state-dir", str(self.provider.directory)]
        return [sys.executable, "-m", "hostnet.cli", *arguments, *where]

    @property
    def environment(self) -> dict[str, str]:
        """A wide terminal without colours."""
        return {**os.environ, "PYTHONPATH": str(PROVIDER), "COLUMNS": "160", "NO_COLOR": "1"}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            self.argv(*arguments), env=self.environment, capture_output=True, text=True, check=False, timeout=120
        )


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """A host with nothing on it."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes network namespaces")
    bed, provider = Bed("cli"), Provider()
    try:
        yield Terminal(bed, provider)
    finally:
        provider.close()
        bed.close()
