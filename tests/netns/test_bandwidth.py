"""`TapBinding.bandwidth`: what a guest receives and sends, measured on TCP connections; repair, import, restore.

Addresses: see tests/lab/topology.py. guest5 is behind the TAP vm0: on the bridge br-a as 10.0.0.50 and fd12::50, or
routed as 10.2.0.5 and fd15::5. The other end of each connection is the host. What passes is counted against the time
that has passed, so a slow machine passes less and breaks no upper limit; that the rate is reached is waited for.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.driver import Program, Stack
from tests.lab.lab import Lab
from tests.lab.namespaces import Namespace
from tests.lab.waiting import until

MBIT = 125_000  # bytes a second
RATE = 8 * MBIT
BUCKET = RATE + 65536  # bytes that may pass at once: nft's bucket holds a second
WINDOW = 3.0  # seconds over which a rate is taken
FAMILIES = ("v4", "v6")


def program(*, routed: bool, multi_queue: bool = False, **bandwidth: str) -> Program:
    """A guest behind vm0."""
    where: dict[str, Any] = (
        {"addresses": ["10.2.0.1/32", "fd15::1/128"], "routes": ["10.2.0.5/32", "fd15::5/128"]}
        if routed
        else {"bridge": "${net.name}"}
    )
    guest = {} if routed else {"addresses": ["10.0.0.50", "fd12::50"]}
    tap = {"name": "vm0", "guest": guest, "multiQueue": multi_queue, "bandwidth": bandwidth, **where}
    return {
        "net": ("Bridge", {"name": "br-a", "addresses": ["10.0.0.1/24", "fd12::1/64"]}),
        "tap": ("TapBinding", tap),
    }


def plugged(lab: Lab, stack: Stack, *, routed: bool) -> dict[str, tuple[str, str]]:
    """The guest is there; by family its address and the host's."""
    if routed:
        four, six = ("10.2.0.5", "10.2.0.1"), ("fd15::5", "fd15::1")
        more = [f"route add {gateway} dev eth0" for _, gateway in (four, six)]
    else:
        four, six, more = ("10.0.0.50", "10.0.0.1"), ("fd12::50", "fd12::1"), []
    lengths = ("32", "128") if routed else ("24", "64")
    addresses = [f"address add {own}/{length} dev eth0" for (own, _), length in zip((four, six), lengths, strict=True)]
    addresses[1] += " nodad"
    lab.net.plug("vm0", "guest5", *addresses, *more, mac=stack["tap.guest.macAddress"])
    return {"v4": four, "v6": six}


class Stream:
    """One TCP connection that sends without a pause; what arrives is counted."""

    def __init__(self, sender: Namespace, receiver: Namespace, address: str) -> None:
        """Connect.

        Args:
            sender: Who sends.
            receiver: Who listens.
            address: The receiver's.
        """
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = receiver.socket(family, socket.SOCK_STREAM)
        listener.bind((address, 0))
        listener.listen()
        listener.settimeout(60)
        self._client = sender.socket(family, socket.SOCK_STREAM)
        self._client.settimeout(60)
        self._client.connect(listener.getsockname()[:2])
        self._server, _ = listener.accept()
        self._server.settimeout(60)
        listener.close()
        self.samples: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._client.send(bytes(16384))

    def _receive(self) -> None:
        total = 0
        with contextlib.suppress(OSError):
            while data := self._server.recv(65536):
                total += len(data)
                self.samples.append((time.monotonic(), total))

    def rates(self) -> Iterator[float]:
        """The rates over windows, in bytes a second."""
        samples = list(self.samples)
        first = 0
        for at, total in samples:
            while at - samples[first + 1][0] >= WINDOW if first + 1 < len(samples) else False:
                first += 1
            began, before = samples[first]
            if at - began >= WINDOW:
                yield (total - before) / (at - began)

    @property
    def passed(self) -> tuple[float, int]:
        """Seconds since the beginning, and the bytes that arrived."""
        (began, _), (at, total) = self.samples[0], self.samples[-1]
        return at - began, total

    def close(self) -> None:
        """End it."""
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        for thread in self._threads:
            thread.join(30)


def limited(stream: Stream, rate: int) -> None:
    """The connection comes to 90 % of the rate at least, and never passes 110 % of it and a bucket."""
    try:
        until(lambda: any(0.9 * rate <= found <= 1.1 * rate for found in stream.rates()), detail=lambda: stream.passed)
        seconds, total = stream.passed
        assert total <= 1.1 * rate * seconds + BUCKET, stream.passed
    finally:
        stream.close()


def free(stream: Stream) -> None:
    """The connection passes what no limit of `RATE` allows."""
    try:
        until(lambda: stream.passed[1] > 2 * RATE * stream.passed[0] + 2 * BUCKET, detail=lambda: stream.passed)
    finally:
        stream.close()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("routed", [False, True], ids=["bridged", "routed"])
def test_one_connection_has_the_rate(lab: Lab, stack: Stack, family: str, *, routed: bool) -> None:
    """Each direction has its own; the other one is as fast as it was."""
    stack.up(program(routed=routed, download="8mbit"))
    guest, host = plugged(lab, stack, routed=routed)[family]
    limited(Stream(lab.host, lab["guest5"], guest), RATE)
    free(Stream(lab["guest5"], lab.host, host))
    assert stack.up(program(routed=routed, upload="8mbit")) == [
        "update tap: bandwidth.download bandwidth.upload",
    ]
    limited(Stream(lab["guest5"], lab.host, host), RATE)
    free(Stream(lab.host, lab["guest5"], guest))
    assert stack.up(program(routed=routed)) == ["update tap: bandwidth.upload"]
    free(Stream(lab["guest5"], lab.host, host))


@pytest.mark.parametrize("rate", ["64kbit", "1500kbit", "1gbit", "10gbit"])
@pytest.mark.parametrize("multi_queue", [False, True], ids=["one queue", "queues"])
def test_any_rate_is_as_declared(lab: Lab, stack: Stack, rate: str, *, multi_queue: bool) -> None:
    """A refresh finds nothing, a restore puts both back, a destroy leaves nothing."""
    before = lab.net.snapshot()
    stack.up(program(routed=False, multi_queue=multi_queue, download=rate, upload=rate.upper()))
    assert stack.refresh() == {}
    assert stack.again() == []
    (bucket,) = [each for each in lab.host.kernel.qdiscs() if each.device == "vm0" and each.kind == "tbf"]
    assert bucket.parent == 0xFFFFFFFF, "the TAP's root: all of its queues"
    stack.destroy()
    assert lab.net.snapshot() == before


OTHER_RATE = (
    'delete element inet hostnet upload_links { "vm0" }\n'
    'add element inet hostnet upload_links { "vm0" limit rate over 7 mbytes/second burst 9 kbytes }\n'
)
DRIFTS = {
    "the bucket is gone": ("download", "tc qdisc delete dev vm0 root"),
    "the bucket has another rate": ("download", "tc qdisc change dev vm0 root tbf rate 5mbit burst 20k limit 50k"),
    "another queue": ("download", "tc qdisc replace dev vm0 root handle 7: pfifo"),
    "the rate of what it sends is gone": ("upload", 'nft delete element bridge hostnet upload_ports { "vm0" }'),
    "another rate of what it sends": ("upload", f"nft {OTHER_RATE}"),
}  # fmt: skip


@pytest.mark.parametrize("drift", DRIFTS)
def test_drift_is_seen_in_its_property_and_put_back(lab: Lab, stack: Stack, drift: str) -> None:
    """And nothing else is touched."""
    which, command = DRIFTS[drift]
    stack.up(program(routed=False, download="8mbit", upload="8mbit"))
    tool, _, rest = command.partition(" ")
    if tool == "nft":
        lab.host.nft(rest)
    else:
        lab.host.run(command)
    assert stack.refresh() == {"tap": [f"bandwidth.{which}"]}
    assert stack.again() == [f"update tap: bandwidth.{which}"]
    assert stack.refresh() == {}


def test_a_limit_that_is_not_declared_is_drift(lab: Lab, stack: Stack) -> None:
    """Of what the guest sends; a queue that another program gives a TAP without `bandwidth` is not hostnet's."""
    other = ("TapBinding", {"name": "vm1", "bandwidth": {"upload": "1mbit"}})
    stack.up({**program(routed=False, download="8mbit"), "other": other})
    lab.host.nft('add element bridge hostnet upload_ports { "vm0" limit rate over 8000 bytes/second burst 9 kbytes }')
    assert stack.refresh() == {"tap": ["bandwidth.upload"]}
    stack.again()
    assert stack.refresh() == {}
    stack.up(program(routed=False))
    assert stack.refresh() == {}
    lab.host.run("tc qdisc replace dev vm0 root tbf rate 5mbit burst 20k limit 50k")
    assert stack.refresh() == {}


def test_a_tap_that_was_deleted_has_its_limits_again(lab: Lab, stack: Stack) -> None:
    """As after a reboot; and an import shows them."""
    stack.up(program(routed=False, download="8mbit", upload="1gbit"))
    lab.host.run("ip link delete vm0")
    assert stack.refresh() == {"tap": ["gone"]}
    stack.again()
    assert "tbf" in {each.kind for each in lab.host.kernel.qdiscs() if each.device == "vm0"}
    assert stack.refresh() == {}
    found = stack.import_("again", "TapBinding", "vm0")
    assert found["bandwidth"] == {"download": "8mbit", "upload": "1gbit"}
