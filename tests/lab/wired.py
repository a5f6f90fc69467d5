"""A microVM whose console is the other end of its eth0: the test writes its frames, and reads what it hears.

See tools/wire. In all else it is a guest as any other: its kernel answers ARP, pings and what it did not ask for.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence

from tests.lab.namespaces import Namespace
from tests.lab.waiting import PATIENCE
from tools.guest import qemu_argv, wired_initramfs

BOOT_PATIENCE = 180.0  # seconds; under TCG on a busy machine
_WINDOW = 8  # frames that are not confirmed: a serial line has no flow control


class WiredVm:
    """One of them, from its boot to its end."""

    def __init__(self, host: Namespace, tap: str, mac: str, addresses: str) -> None:
        """Start it; `wait` says when it is ready.

        Args:
            host: Where its TAP is.
            tap: The TAP.
            mac: Its MAC address.
            addresses: Its addresses, as /init of tools/guest-root reads them.
        """
        argv = qemu_argv(tap, mac, f"{addresses} wire=1", initramfs=wired_initramfs())
        pipe = subprocess.PIPE
        self._qemu: subprocess.Popen[bytes] = host.call(subprocess.Popen, argv, stdin=pipe, stdout=pipe)
        self._news = threading.Condition()
        self._heard: list[bytes] = []
        self._said: list[str] = []
        self._confirmed = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._qemu.stdout is not None
        for raw in self._qemu.stdout:
            line = raw.decode(errors="replace").strip()
            with self._news:
                if line.startswith("< "):
                    self._heard.append(bytes.fromhex(line[2:]))
                elif line == ">":
                    self._confirmed += 1
                else:
                    self._said.append(line)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def _await(self, what: str, count: int, patience: float) -> None:
        with self._news:
            there = self._news.wait_for(
                lambda: (self._confirmed >= count and what in self._said) or not self._reader.is_alive(), patience
            )
        assert there, self._said[-20:]
        assert self._reader.is_alive(), self._said[-20:]

    def wait(self) -> None:
        """Wait until it is there."""
        self._await("WIRE READY", 0, BOOT_PATIENCE)

    def send(self, frames: Sequence[bytes]) -> None:
        """Send frames; when this returns, its kernel has them all."""
        assert self._qemu.stdin is not None
        start = self._confirmed
        for number, frame in enumerate(frames):
            self._await("WIRE READY", start + number - _WINDOW, PATIENCE)
            self._qemu.stdin.write(frame.hex().encode() + b"\n")
            self._qemu.stdin.flush()
        self._await("WIRE READY", start + len(frames), PATIENCE)

    def heard(self) -> list[bytes]:
        """All frames that came in since the last call."""
        with self._news:
            heard, self._heard = self._heard, []
        return heard

    def close(self) -> None:
        """Switch it off."""
        self._qemu.kill()
        self._qemu.wait()
        self._reader.join()
