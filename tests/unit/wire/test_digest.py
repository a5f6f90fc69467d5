"""Digests without OpenSSL are those of `hashlib`, and the agent does not load it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from hostnet.wire.digest import sha256

PROVIDER = Path(__file__).parents[3] / "provider"
_LOADED = """
import sys
sys.path.insert(0, sys.argv[1])
import hostnet.agent.main
print("_hashlib" in sys.modules)
"""


def test_a_digest_is_that_of_hashlib() -> None:
    """Names in the kernel and on disks are made from it."""
    for data in (b"", b"/srv/hostnet", bytes(range(256)) * 100):
        assert sha256(data).hexdigest() == hashlib.sha256(data).hexdigest()
        assert sha256(data).digest() == hashlib.sha256(data).digest()


def test_an_agent_does_not_load_openssl() -> None:
    """Where this Python has its own implementation."""
    argv = [sys.executable, "-I", "-S", "-c", _LOADED, str(PROVIDER)]
    loaded = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    assert loaded == str(sha256 is hashlib.sha256)
