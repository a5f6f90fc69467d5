"""`Lab`: the topology, its servers and probes behind one door."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Self

from tests.lab.background import Background
from tests.lab.namespaces import Namespace
from tests.lab.probes import DOUBT, Conversation, Hammer, Target, Verdict, converse, probe
from tests.lab.servers import Servers
from tests.lab.topology import Topology
from tests.lab.waiting import PATIENCE


class Lab:
    """One worker's laboratory. Use it as a context manager: it takes everything away at its end."""

    def __init__(self) -> None:
        """Make the standard topology (see `topology`)."""
        self.background = Background()
        self.net = Topology(self.background)
        self.servers = Servers(self.background)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop and take away everything."""
        self.servers.stop()
        self.net.close()
        self.background.close()

    def __getitem__(self, role: str) -> Namespace:
        """A namespace by its role: `lab["guest1"].run("ip address")`."""
        return self.net[role]

    @property
    def host(self) -> Namespace:
        """The host under test."""
        return self.net.host

    def fresh_host(self) -> Namespace:
        """Begin a test: no servers, no TAP guests, a host that nothing has touched."""
        self.servers.stop()
        return self.net.fresh_host()

    def serve(self, role: str, ports: str) -> None:
        """Start servers, as `"tcp:80 udp:8000-8002 sctp:80"`, on every address of a namespace."""
        self.servers.start(self[role], ports)

    def begin(self, role: str, target: str, timeout: float = PATIENCE) -> Future[Verdict]:
        """Begin a probe, as `Target.parse` reads it, and go on."""
        return self.background.start(probe(self[role], Target.parse(target), timeout))

    def probe(self, role: str, target: str, timeout: float = PATIENCE) -> Verdict:
        """Probe once and wait. Where no answer is expected, give `timeout=DOUBT`."""
        return self.begin(role, target, timeout).result()

    def reaches(self, role: str, target: str) -> tuple[str, str]:
        """Who answers, and whom it sees: `("guest1", "192.0.2.20")`; `("", "")` of ICMP.

        Raises:
            AssertionError: Where nobody answers.
        """
        verdict = self.probe(role, target)
        assert verdict.outcome == "reached", f"{role} {target}: {verdict}"
        return verdict.server, verdict.source

    def blocked(self, role: str, target: str) -> bool:
        """Whether nobody answers: refused, or silent for `DOUBT` seconds."""
        return self.probe(role, target, DOUBT).outcome != "reached"

    def probes(self, questions: Iterable[tuple[str, str]], timeout: float = PATIENCE) -> list[Verdict]:
        """Many probes at once: (role, target) each."""
        return [future.result() for future in [self.begin(role, target, timeout) for role, target in questions]]

    def converse(self, role: str, target: str) -> Conversation:
        """Open a TCP connection and keep it; ask with `still`."""
        return self.background.run(converse(self[role], Target.parse(target)))

    def still(self, conversation: Conversation, timeout: float = PATIENCE) -> Verdict:
        """Who is at the other end of a kept connection now."""
        return self.background.run(conversation.ask(timeout))

    @contextmanager
    def hammer(self, role: str, target: str, clients: int = 2) -> Iterator[Hammer]:
        """Connect without a pause while the block runs; at least ten connections before it and ten after it.

        Returns:
            What the connections saw, complete when the block has ended.
        """
        hammer = self.background.run(_hammer())
        strikes = [self.background.start(hammer.strike(self[role], Target.parse(target))) for _ in range(clients)]
        self.background.run(hammer.wait(10))
        try:
            yield hammer
            self.background.run(hammer.wait(10))
        finally:
            for strike in strikes:
                strike.cancel()
            self.background.run(asyncio.sleep(0))


async def _hammer() -> Hammer:
    return Hammer()
