"""A server under QEMU on a segment of its own, and a stack for it, run by the real `pulumi` from across the segment.

Address plan: the namespace `outside` has 192.0.2.1/24 on the bridge br-up. That bridge, its DHCP server and the TAP
`server` are hostnet's own work (another stack, in `outside`): the server is a guest of it and gets 192.0.2.2 by DHCP.
On the server the stack makes vmbr, 10.0.0.1/24 and fd12::1/64; its guest (seed/) gets 10.0.0.7 by DHCP.
"""

from __future__ import annotations

import contextlib
import http.client
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab import waiting
from tests.lab.driver import Provider, Stack
from tests.lab.namespaces import Namespace, Namespaces
from tests.ssh.world import keygen
from tools import server

SEED = Path(__file__).parent / "seed"
ADDRESS = "192.0.2.2"
PATIENCE = 300  # seconds for what must come
SEGMENT = {
    "segment": ("Bridge", {"name": "br-up", "addresses": ["192.0.2.1/24"], "dhcpServer": {}}),
    "server": (
        "TapBinding",
        {"name": "server", "bridge": "${segment.name}", "guest": {"addresses": [ADDRESS], "hostname": "server"}},
    ),
}


def report(line: str) -> None:
    """Print a measurement, for `pytest -s`."""
    sys.stdout.write(line + "\n")


def until(true: Callable[[], object]) -> None:
    """Wait until a condition holds that no event reports."""
    waiting.until(true, PATIENCE)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Measure how long the block takes."""
    start = time.monotonic()
    yield
    report(f"{what}: {time.monotonic() - start:.1f} s")


class Machine:
    """The server: its keys, its disk, and QEMU, which starts again whenever the server reboots."""

    def __init__(self, outside: Namespace, directory: Path, mac: str) -> None:
        """Copy the disk and make the keys; the server is not started."""
        self._outside, self._directory, self._mac = outside, directory, mac
        self.console = directory / "console"
        self.key, self._host_key = keygen(directory / "key"), keygen(directory / "host_key")
        made = server.files()
        disk = directory / "disk"
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", made.disk, disk], check=True)
        server.seeded(made.initramfs, self._seed(), directory / "initramfs")
        self._files = server.Files(disk, made.kernel, directory / "initramfs")
        self._known = directory / "known_hosts"
        self._known.write_text(f"{ADDRESS} {self.host_key}\n")
        self.boots = 0
        self._on = True
        self._qemu: subprocess.Popen[bytes] | None = None
        self._mains = threading.Thread(target=self._supply, name="mains", daemon=True)

    @property
    def host_key(self) -> str:
        """Its public host key."""
        return self._host_key.with_suffix(".pub").read_text().strip()

    def _seed(self) -> Path:
        seed = self._directory / "seed"
        shutil.copytree(SEED, seed)
        ssh = seed / "etc/ssh"
        shutil.copy(self.key.with_suffix(".pub"), ssh / "authorized_keys")
        shutil.copy(self._host_key, ssh / "ssh_host_ed25519_key")
        return seed

    def start(self) -> None:
        """Turn the power on."""
        self._mains.start()

    def _supply(self) -> None:
        argv = server.qemu_argv(self._files, "server", self._mac, self.console)
        while self._on:
            self.boots += 1
            self._qemu = self._outside.call(subprocess.Popen, argv, stdin=subprocess.DEVNULL)
            if self._qemu.wait() != 0:
                return

    def close(self) -> None:
        """Turn the power off, and delete the disk."""
        self._on = False
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu.wait()
        if self._mains.is_alive():
            self._mains.join()
        self._files.disk.unlink()  # 0.4 GB, which pytest would keep

    # --- over SSH --------------------------------------------------------------------------------------------------

    def __call__(self, command: str, *, check: bool = True) -> str:
        """Run a command line there as root.

        Returns:
            Its standard output.

        Raises:
            AssertionError: It fails and `check` is set; with its standard error.
        """
        return self._outside.run([*self._ssh(), command], check=check)

    def _ssh(self, *options: str) -> list[str]:
        set_ = {
            "UserKnownHostsFile": self._known,
            "IdentityFile": self.key,
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": 5,
            "ConnectionAttempts": PATIENCE,  # one a second
            "ServerAliveInterval": 5,
            "ControlMaster": "auto",  # a login costs a second there
            "ControlPath": self._directory / "ssh",
            "ControlPersist": "yes",
            "LogLevel": "ERROR",
        }
        words = [word for name, value in set_.items() for word in ("-o", f"{name}={value}")]
        return ["ssh", "-F", "none", *words, *options, f"root@{ADDRESS}"]

    def hang_up(self) -> None:
        """Close the connection that commands share. This ends the login session on the server."""
        self._outside.run(self._ssh("-O", "exit"), check=False)

    def boot_id(self) -> str:
        """The identifier of the current boot."""
        return self("cat /proc/sys/kernel/random/boot_id").strip()

    # --- over HTTP -------------------------------------------------------------------------------------------------

    def get(self, port: int) -> str:
        """The answer of a port of the server, asked from outside; "" if there is none."""
        return self._outside.call(_get, port)


def _get(port: int) -> str:
    connection = http.client.HTTPConnection(ADDRESS, port, timeout=5)
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
        connection.request("GET", "/")
        return connection.getresponse().read().decode().strip()
    return ""


class Place:
    """The segment with the server on it."""

    def __init__(self, directory: Path) -> None:
        """Make the segment with hostnet, and the server on it; it is not started."""
        self.namespaces = Namespaces()
        self.outside = self.namespaces.add("outside")
        self.provider = Provider()
        self.segment = Stack(self.provider, self.outside.name, "segment")
        self.segment.up(SEGMENT)
        self.server = Machine(self.outside, directory, self.segment["server.guest.macAddress"])

    def close(self) -> None:
        """Delete everything."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.namespaces.close)
            stack.callback(self.provider.close)
            stack.callback(self.segment.destroy)
            stack.callback(self.server.close)
