"""What the command and the workers say to each other beside the queue: which run is on, and how its groups do."""

import json
import os
from collections.abc import Iterator
from typing import Any

import redis

QUEUE = "fleet"
RUN = "fleet:run"  # the run that is on: a task of another one is not begun any more
_KEPT = 7 * 24 * 3600  # seconds for which the events of a run are kept


def connect() -> redis.Redis:
    """A client of the broker at `FLEET_BROKER`: `redis://…`, `rediss://…` or `unix:///path`.

    The address may have a password, and so it is never an argument of a program.
    """
    return redis.Redis.from_url(os.environ["FLEET_BROKER"])


def tell(client: redis.Redis, run: str, group: str, **event: Any) -> None:
    """Tell the command what became of a group."""
    client.xadd(_stream(run), {"event": json.dumps({"group": group, **event})})
    client.expire(_stream(run), _KEPT)


class Events:
    """The events of a run, each once."""

    def __init__(self, client: redis.Redis, run: str) -> None:
        self._client, self._run, self._last = client, run, "0"

    def wait(self, seconds: float) -> Iterator[dict[str, Any]]:
        """Those that are new, waiting at most so long for one."""
        found: Any = self._client.xread({_stream(self._run): self._last}, block=round(1000 * seconds))
        for number, fields in found[0][1] if found else ():
            self._last = number
            yield json.loads(fields[b"event"])


def finish(client: redis.Redis, run: str, group: str) -> None:
    """Keep in mind that a run is through with a group."""
    client.sadd(_finished(run), group)
    client.expire(_finished(run), _KEPT)


def is_finished(client: redis.Redis, run: str, group: str) -> bool:
    """Whether a run is through with a group."""
    return bool(client.sismember(_finished(run), group))


def _finished(run: str) -> str:
    return f"fleet:finished:{run}"


def _stream(run: str) -> str:
    return f"fleet:events:{run}"
