"""The demonstration that a newcomer runs first: a real microVM (QEMU) behind hostnet, from preview to destroy."""

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def test_the_demonstration_ends_well() -> None:
    """`make demo` boots the microVM with the stack's `kernelIpArg`, reaches it, repairs, and leaves nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.demo"], cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "GUEST READY" in done.stdout or "hello from" in done.stdout
