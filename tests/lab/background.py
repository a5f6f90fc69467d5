"""One event loop in a thread of its own: servers, TAP pumps and probes run there while a test blocks or works."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        """Start it."""
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="lab", daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin a coroutine there; `asyncio.wrap_future` awaits it elsewhere."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and wait for it."""
        return self.start(work).result()

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a plain function in the loop's thread and wait for it."""

        async def calling() -> T:
            return function(*args)

        return self.run(calling())

    def close(self) -> None:
        """Cancel what still runs and end the thread."""

        async def cancelling() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self.run(cancelling())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
