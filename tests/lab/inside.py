"""The agent inside the test process: its threads live in the namespace, so that a test may put its hand in between.

`InsideProvider` is a provider whose session speaks to a `Host` of this process in the same JSON as to a process.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hostnet.agent import main
from hostnet.agent.transaction import Host
from hostnet.errors import HostnetError
from hostnet.hosts.session import Session

from tests.lab.driver import Provider
from tests.lab.namespaces import Namespace

if TYPE_CHECKING:
    from hostnet.hosts.api import Host as Reached


def open_host(namespace: Namespace, state: Path) -> Host:
    """An agent's host in a namespace, as `main` opens it there."""
    return namespace.call(main.open_host, state, None)


class _NoTransport:
    """Nothing is started: the agent is here."""

    async def start(self) -> Any:  # noqa: ANN401 - never returns
        raise NotImplementedError


class Inside(Session):
    """A session whose agent is a thread of this process."""

    def __init__(self, namespace: Namespace, host: Host) -> None:
        """Speak to this host in this namespace."""
        super().__init__(f"this machine (namespace {namespace.name})", _NoTransport())
        self._namespace, self._host = namespace, host

    async def _ask(self, operation: str, payload: dict[str, Any], label: str) -> Any:  # noqa: ANN401 - JSON
        """See `Session`: the same request, the same answer, no pipe in between."""
        del label
        self._number += 1
        request = json.dumps({"id": self._number, "op": operation, **payload})
        answer = await asyncio.wrap_future(self._namespace.submit(main._serve, self._host, request))
        answer = json.loads(json.dumps(answer))
        if "error" in answer:
            raise HostnetError.from_json(answer["error"], self.label)
        return answer["result"]


class InsideProvider(Provider):
    """A provider whose only host is a namespace, reached without a process."""

    def __init__(self, namespace: Namespace, *, beside: Provider | None = None) -> None:
        """Open the host.

        :param beside: another provider on the same host, whose state directory is shared.
        """
        super().__init__(beside=beside)
        self._inside = Inside(namespace, open_host(namespace, self.directory))

    async def host(self, inputs: Any) -> Reached:  # noqa: ANN401 - any inputs
        """The namespace, whatever the inputs say."""
        del inputs
        return self._inside
