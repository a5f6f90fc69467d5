"""What all dynamic resources of one process share: an event loop in a thread, and the hosts behind it.

This is to `pulumi.dynamic` what rpc/servicer.py and rpc/server.py are to the plugin, made from the same parts.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import threading
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from typing import Any, TypeVar, cast

from hostnet.dynamic.known import Known, Properties, secret
from hostnet.dynamic.log import PulumiDelivery
from hostnet.hosts.pool import Pool
from hostnet.lifecycle.crud import Operations, PartialError, State, Subject
from hostnet.lifecycle.host_access import HostAccess
from hostnet.lifecycle.log import EngineLog
from hostnet.lifecycle.messages import CheckFailure, check_failures, error_text
from hostnet.lifecycle.redaction import Redactor
from hostnet.lifecycle.secrets import Given, output_secrets
from hostnet.resources.provider import check_config, parse_config
from hostnet.resources.schema.kind import Kind
from hostnet.resources.schema.values import Difference, Failure
from hostnet.wire.errors import Code, HostnetError

T = TypeVar("T")

# The engine (3.259) kills this process five seconds after it asked it to end.
_CLOSE_SECONDS = 3.0


class HostnetFailure(Exception):  # noqa: N818 - Pulumi prints the name in front of the message
    """What a request failed with: a message for a person, without secrets."""


class Process:
    """The loop and what lives in it. No host is reached before the first request."""

    def __init__(self) -> None:
        self._redact = Redactor()
        # As every plugin's, this process's last argument is the engine's address; Pulumi's own code ignores it.
        address = sys.argv[-1] if len(sys.argv) > 1 and ":" in sys.argv[-1] else None
        self._log = EngineLog(PulumiDelivery(address), self._redact)
        self._access = HostAccess(self._log, Pool)
        self._operations = Operations(self._access, self._log)
        self._settings: object = None
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="hostnet", daemon=True).start()
        atexit.register(self.close)

    def configure(self, config: Properties) -> None:
        """Take the configuration; it comes once for each kind and is the same each time.

        Raises:
            HostnetFailure: It can't be right.
        """
        config = {name: value for name, value in config.items() if value is not None}
        with self._lock:
            if self._settings == config:
                return
            if not check_config(config).failures:
                self._learn({"connection": parse_config(config)[0]})
            self._run(self._configure(config))
            self._settings = config

    async def _configure(self, config: Properties) -> None:
        failures = check_config(config).failures
        if failures:
            text = "; ".join(f"hostnet:{each.path}: {each.reason}" for each in failures)
            raise HostnetError(Code.INVALID, "invalid configuration", text)
        await self._access.configure(*parse_config(config, os.environ))

    def declare(self, urn: str) -> None:
        """Take down that the program has a resource."""
        self._operations.declare(urn)

    def create(self, kind: Kind[Any], known: Known) -> State:
        """Make a resource.

        Raises:
            HostnetFailure: It could not be made.
        """
        self._learn(known.values)
        return self._run(self._operations.create(Subject(kind, known.urn), known.values))

    def update(self, kind: Kind[Any], identifier: str, known: Known, old: Known, outputs: Properties) -> State:
        """Change a resource.

        Raises:
            HostnetFailure: It could not be changed.
        """
        self._learn(known.values)
        state = State(identifier, old.values, outputs)
        return self._run(self._operations.update(Subject(kind, known.urn, identifier), known.values, state))

    def read(self, kind: Kind[Any], identifier: str, known: Known, outputs: Properties | None) -> State | None:
        """What the host has; None where it is gone.

        Args:
            kind: The resource's kind.
            identifier: Its id.
            known: Its inputs, or of a `get` what the program gives.
            outputs: Those of the state; None for a `get`, which knows the id alone.

        Raises:
            HostnetFailure: The host can't say.
        """
        self._learn(known.values)
        state = None if outputs is None else State(identifier, known.values, outputs)
        return self._run(self._operations.read(Subject(kind, known.urn, identifier), state, known.values))

    def delete(self, kind: Kind[Any], identifier: str, known: Known, outputs: Properties) -> None:
        """Delete a resource.

        Raises:
            HostnetFailure: It may still be there.
        """
        self._learn(known.values)
        state = State(identifier, known.values, outputs)
        self._run(self._operations.delete(Subject(kind, known.urn, identifier), state))

    def diff(self, kind: Kind[Any], identifier: str, known: Known, old: Known, outputs: Properties) -> Difference:
        """What an update has to do."""
        state = State(identifier, old.values, outputs)
        return self._run(self._diff(Subject(kind, known.urn, identifier), state, known.values))

    async def _diff(self, subject: Subject, state: State, inputs: Properties) -> Difference:
        return self._operations.diff(subject, state, inputs)

    def failures(self, kind: Kind[Any], found: Iterable[Failure], known: Known) -> list[CheckFailure]:
        """Check failures that show no secret."""
        return check_failures(found, self._given(known), kind.properties, self._redact)

    def with_secrets(self, outputs: Properties, known: Known) -> Properties:
        """Outputs, those secret that may tell a secret input: which input it is, a dynamic provider does not learn."""
        marks = {path[0] for path in output_secrets(outputs, self._given(known))}
        return {name: secret(value) if name in marks else value for name, value in outputs.items()}

    def close(self) -> None:
        """End the sessions: what is under way ends in its own time, the agents with it."""
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(_CLOSE_SECONDS)

    async def _close(self) -> None:
        await self._access.close()
        await self._log.close()

    def _given(self, known: Known) -> Given:
        given = self._learn(known.values)
        if known.secret:
            given.secrets |= {(name,) for name in known.values if name != "connection"}
        return given

    def _learn(self, values: Properties) -> Given:
        """The values with their credentials marked, which are kept out of messages from now on."""
        given = Given(values)
        given.mark_credentials()
        self._redact.learn(given.texts)
        return given

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something in the loop and wait for it.

        Raises:
            HostnetFailure: Whatever went wrong.
        """
        failure, result = asyncio.run_coroutine_threadsafe(self._settled(work), self._loop).result()
        if failure is not None:
            # Raised here, and not in the loop: Pulumi prints the whole traceback of what a dynamic provider raises.
            raise failure
        return cast("T", result)

    async def _settled(self, work: Coroutine[Any, Any, T]) -> tuple[HostnetFailure | None, T | None]:
        try:
            return None, await work
        except PartialError as error:
            reason = error.reason
        except Exception as error:  # noqa: BLE001 - every one becomes a message
            reason = error_text(error)
        finally:
            await self._log.flush()
        return HostnetFailure(self._redact(reason)), None
