"""`hostnet.dynamic` needs the plugin for nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tools.paths import CHECKOUT

_PROGRAM = """
import json, sys
from hostnet.dynamic.provider import HostnetProvider
from hostnet.lifecycle.log import Line
import hostnet.dynamic.process

checked = HostnetProvider("hostnet:index:Bridge").check({}, {"addresses": ["10.0.0.0/33"], "mtu": 1400.0})
print(json.dumps({
    "failures": [[each.property, each.reason] for each in checked.failures],
    "modules": sorted(name for name in sys.modules if name.startswith("hostnet.")),
}))
"""


def test_its_process_loads_nothing_of_the_plugin() -> None:
    """A fresh interpreter checks a bridge, as Pulumi's process for dynamic resources does."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM], check=True, capture_output=True, text=True)
    told = json.loads(done.stdout)
    ((about, reason),) = told["failures"]
    assert about == "addresses"
    assert reason.startswith("addresses[0]: ")
    assert "hostnet.lifecycle.crud" in told["modules"]
    assert [name for name in told["modules"] if name.startswith("hostnet.rpc")] == []


@pytest.mark.parametrize("room", ["lifecycle", "dynamic"])
def test_it_needs_no_grpc(room: str) -> None:
    """Neither gRPC nor protobuf is imported; only `pulumi` itself may need them."""
    files = sorted((CHECKOUT / "provider" / "hostnet" / room).rglob("*.py"))
    assert files
    for file in files:
        assert not re.search(r"^\s*(?:from|import) (?:grpc|google)\b", file.read_text(), re.MULTILINE), file
