"""A name server of the world, for what a bridge's own DNS asks: dnsmasq with records of a test's own."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.lab.clients import ask
from tests.lab.lab import Lab
from tests.lab.waiting import until

ROLE, ADDRESS = "internet", "198.51.100.10"
_THERE = "there.test"  # answered as soon as it runs
_OPTIONS = ("no-hosts", "no-resolv", "keep-in-foreground", "conf-file=/dev/null", "pid-file=", "user=root")


@contextlib.contextmanager
def name_server(lab: Lab, records: Iterable[str]) -> Iterator[None]:
    """It runs in the internet, and the host's resolv.conf names it (ip-netns(8)).

    Args:
        lab: The lab.
        records: dnsmasq's options: `host-record=www.example.com,198.51.100.10`, `cname=a.example,b.example`.
    """
    folder = Path("/etc/netns", lab.host.name)
    _make(folder)
    (folder / "resolv.conf").write_text(f"nameserver {ADDRESS}\n")
    options = [*_OPTIONS, f"host-record={_THERE},{ADDRESS}", *records]
    server = lab[ROLE].call(subprocess.Popen, ["dnsmasq", *(f"--{option}" for option in options)])
    try:
        until(lambda: ask(lab[ROLE], ADDRESS, _THERE, timeout=1))
        yield
    finally:
        server.terminate()
        server.wait()
        (folder / "resolv.conf").unlink()
        folder.rmdir()
        with contextlib.suppress(OSError):
            folder.parent.rmdir()


def _make(folder: Path) -> None:
    """Make a folder and those above it, which another process's test may remove at this moment."""
    while not folder.exists():
        with contextlib.suppress(FileNotFoundError):
            folder.mkdir(parents=True)
