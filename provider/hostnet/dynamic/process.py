"""What all dynamic resources of one process share: an event loop in a thread, and the way to the hosts behind it.

This is what rpc/servicer.py and rpc/server.py are for the plugin, made from the same parts.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import sys
import threading
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

from hostnet.dynamic.provider import Known, Properties
from hostnet.hosts.pool import Pool
from hostnet.lifecycle.crud import Operations, PartialError, State, Subject
from hostnet.lifecycle.host_access import HostAccess
from hostnet.lifecycle.redaction import Redactor
from hostnet.resources.connection import check_config, parse_config
from hostnet.resources.schema.kind import Failure, Kind
from hostnet.rpc import responses as answers
from hostnet.rpc.codec import SECRET, SIGNATURE, Decoded, decode, encode, output_secrets
from hostnet.rpc.failures import status_of
from hostnet.rpc.log import EngineLog
from hostnet.wire.errors import Code, HostnetError

if TYPE_CHECKING:
    from hostnet.rpc.protos import provider_pb2

T = TypeVar("T")

# The engine kills five seconds after it asked this process to end.
_CLOSE_SECONDS = 3.0


class HostnetFailure(Exception):  # noqa: N818 - Pulumi prints the name in front of the message
    """What a request failed with: a message for a person, without secrets."""


class Process:
    """The loop and what lives in it."""

    def __init__(self) -> None:
        """Start the loop. No host is reached yet."""
        self.redact = Redactor()
        # As every plugin's, this process's last argument is the engine's address; Pulumi's own code ignores it.
        address = sys.argv[-1] if len(sys.argv) > 1 and ":" in sys.argv[-1] else None
        self.log = EngineLog(address, self.redact)
        self.access = HostAccess(self.log, Pool)
        self.operations = Operations(self.access, self.log)
        self._settings: object = None
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="hostnet", daemon=True).start()
        atexit.register(self.close)

    def configure(self, config: Properties) -> None:
        """Take the configuration; it comes once for each kind and is the same each time.

        Raises:
            HostnetFailure: it can't be right.
        """
        with self._lock:
            if self._settings == config:
                return
            self.learn({"connection": parse_config(config)[0]} if not check_config(config).failures else {})
            self.run(self._configure(config))
            self._settings = config

    async def _configure(self, config: Properties) -> None:
        failures = check_config(config).failures
        if failures:
            text = "; ".join(f"hostnet:{each.path}: {each.reason}" for each in failures)
            raise HostnetError(Code.INVALID, "use the configuration", text)
        await self.access.configure(*parse_config(config, os.environ))

    def learn(self, values: Properties) -> Decoded:
        """Values as the plugin decodes them; credentials among them are kept out of messages from now on."""
        decoded = decode(encode(values, unknowns=True))
        self.redact.learn(decoded.texts)
        return decoded

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something in the loop and wait for it.

        Raises:
            HostnetFailure: whatever went wrong.
        """
        failure, result = asyncio.run_coroutine_threadsafe(self._told(work), self._loop).result()
        if failure is not None:
            # Raised here, and not in the loop: Pulumi prints the whole traceback of what a dynamic provider raises.
            raise failure
        return cast("T", result)

    async def _told(self, work: Coroutine[Any, Any, T]) -> tuple[HostnetFailure | None, T | None]:
        try:
            return None, await work
        except PartialError as error:
            reason = error.reason
        except Exception as error:  # noqa: BLE001 - every one becomes a message
            reason = status_of(error)[1]
        finally:
            await self.log.flush()
        return HostnetFailure(self.redact(reason)), None

    def close(self) -> None:
        """End the sessions: what is under way ends in its own time, the agents with it."""
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(_CLOSE_SECONDS)

    async def _close(self) -> None:
        await self.access.close()
        await self.log.close()


@functools.cache
def _process() -> Process:
    return Process()


def configure(config: Properties) -> None:
    """See `Process.configure`."""
    _process().configure({name: value for name, value in config.items() if value is not None})


def create(kind: Kind, known: Known) -> State:
    """Make a resource."""
    _process().learn(known.values)
    return _process().run(_process().operations.create(Subject(kind, known.urn), known.values))


def update(kind: Kind, identifier: str, known: Known, old: Known, outputs: Properties) -> State:
    """Change a resource."""
    _process().learn(known.values)
    state = State(identifier, old.values, outputs)
    return _process().run(_process().operations.update(Subject(kind, known.urn, identifier), known.values, state))


def read(kind: Kind, identifier: str, known: Known, outputs: Properties | None) -> State | None:
    """What the host has; None where it is gone. Without `outputs` the id is all there is."""
    _process().learn(known.values)
    state = None if outputs is None else State(identifier, known.values, outputs)
    return _process().run(_process().operations.read(Subject(kind, known.urn, identifier), state, known.values))


def delete(kind: Kind, identifier: str, known: Known, outputs: Properties) -> None:
    """Take a resource away."""
    _process().learn(known.values)
    state = State(identifier, known.values, outputs)
    _process().run(_process().operations.delete(Subject(kind, known.urn, identifier), state))


def failures(found: Iterable[Failure], known: Known) -> list[provider_pb2.CheckFailure]:
    """Check failures that show no secret."""
    given = _given(known)
    _process().redact.learn(given.texts)
    return answers.failures(found, given, _process().redact)


def with_secrets(outputs: Properties, known: Known) -> Properties:
    """Outputs, those secret that may tell a secret input: which input it is, a dynamic provider does not learn."""
    marks = {path[0] for path in output_secrets(outputs, _given(known))}
    return {name: secret(value) if name in marks else value for name, value in outputs.items()}


def secret(value: object) -> Properties:
    """A value that Pulumi keeps encrypted."""
    return {SIGNATURE: SECRET, "value": value}


def _given(known: Known) -> Decoded:
    given = _process().learn(known.values)
    if known.secret:
        given.secrets |= {(name,) for name in known.values if name != "connection"}
    return given
