"""The task: one command of `pulumi` for the stack of one group. `dramatiq tasks` starts workers (README.md).

A worker acknowledges a task when it has done it. What a killed worker had, the queue gives to another one as soon as
it has missed the killed one's heartbeat for `FLEET_LOST` seconds.
"""

import os
import re
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import dramatiq
from channel import QUEUE, RUN, connect, finish, is_finished, tell
from dramatiq.brokers.redis import MAINTENANCE_SCALE, RedisBroker
from network import networks
from pulumi import automation
from redis.exceptions import LockError

HERE = Path(__file__).resolve().parent
AT_ONCE = 64  # resources: hosts do not wait for each other; Pulumi's own default is four for each processor
DAY = 24 * 3600 * 1000  # milliseconds; dramatiq's own limit for a task is ten minutes
KILLED = re.compile(r"^\s*code: -\d", re.MULTILINE)  # the exit status of a `pulumi` that a signal has ended
LOST = int(os.environ.get("FLEET_LOST", "30"))

client = connect()
# Maintenance is what returns the tasks of lost workers. By default one request in a thousand does it.
broker = RedisBroker(client=client, heartbeat_timeout=1000 * LOST, maintenance_chance=MAINTENANCE_SCALE)
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=QUEUE, max_retries=0, time_limit=DAY)
def work(run: str, command: str, group: str, hosts: dict[str, dict[str, Any]], network: dict[str, int]) -> None:
    """Run a command for a group, and tell how it went.

    Args:
        run: The run of fleet.py that wants it.
        command: `preview`, `up`, `refresh` or `destroy`.
        group: The group, and so the stack.
        hosts: The group's hosts.
        network: What each of them gets.
    """
    if client.get(RUN) != run.encode():
        return
    with lease(group):
        if is_finished(client, run, group):
            return  # the queue gave it to two workers, since one of them only seemed to be lost
        note = partial(tell, client, run, group)
        note(kind="begun", worker=f"{socket.gethostname()}:{os.getpid()}")
        progress = Progress(note)
        start, before = time.monotonic(), processor_seconds()
        try:
            stack = stack_of(group, partial(networks, hosts, **network))
            if killed := client.get(mark(group)):
                take_over(stack, killed.decode(), note)
            with marked(group):
                getattr(stack, command)(parallel=AT_ONCE, on_event=progress)
        except Exception as error:  # noqa: BLE001 - whatever it is, the command must hear of it
            note(kind="failed", why=progress.why(error), **needed(start, before))
        else:
            note(kind="done", changes=progress.changes, **needed(start, before))
        finish(client, run, group)


def stack_of(group: str, program: Callable[[], None]) -> automation.Stack:
    """The stack of a group. Its settings are beside this file."""
    options = automation.LocalWorkspaceOptions(work_dir=str(HERE))
    return automation.create_or_select_stack(group, "fleet", program, opts=options)


# --- what a killed worker leaves -------------------------------------------------------------------------------------


@contextmanager
def lease(group: str) -> Iterator[None]:
    """Hold the right to work on a group, which ends by itself when the worker is killed.

    A worker that only seems to be lost still has it: then its task, given to another worker, waits here.
    """
    lock = client.lock(f"fleet:lease:{group}", timeout=LOST, thread_local=False)
    ended = threading.Event()

    def renew() -> None:
        with suppress(LockError):
            while not ended.wait(LOST / 4):
                lock.reacquire()

    lock.acquire()
    renewing = threading.Thread(target=renew, daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        with suppress(LockError):
            lock.release()


def mark(group: str) -> str:
    """The key that says on which machine a worker is at work on a group."""
    return f"fleet:working:{group}"


@contextmanager
def marked(group: str) -> Iterator[None]:
    """Mark a group as begun. The mark stays if the worker is killed, or its `pulumi` alone."""
    client.set(mark(group), socket.gethostname())
    try:
        yield
    except automation.CommandError as error:
        if not KILLED.search(str(error)):
            client.delete(mark(group))
        raise
    client.delete(mark(group))


def take_over(stack: automation.Stack, machine: str, note: Callable[..., None]) -> None:
    """Make a stack usable again whose worker was killed: remove its lock and what it had begun to create.

    hostnet finds on the hosts what was created without the state having heard of it: the next `up` takes it over.

    Args:
        stack: The stack.
        machine: Where the worker was.
        note: Tells the command.

    Raises:
        ConcurrentUpdateError: The lock belongs to a `pulumi` on another machine, one that a person started.
    """
    refresh = partial(stack.refresh, clear_pending_creates=True, parallel=AT_ONCE)
    try:
        refresh()
    except automation.ConcurrentUpdateError as error:
        locks = re.findall(r"created by .*?@(\S+) \(pid (\d+)\)", str(error))
        if {owner for owner, _ in locks} != {machine}:
            raise
        while machine == socket.gethostname() and any(Path("/proc", pid).exists() for _, pid in locks):
            time.sleep(1)  # `pulumi` outlived its worker: it ends by itself, since it cannot reach its program
        with suppress(automation.CommandError):  # it has removed its lock in the meantime
            stack.cancel()
        refresh()
    note(kind="taken over", machine=machine)


# --- what the command hears of ---------------------------------------------------------------------------------------


class Progress:
    """Counts what the engine begins and ends, and keeps the errors."""

    def __init__(self, note: Callable[..., None]) -> None:
        self._note, self._begun, self._ended = note, 0, 0
        self.changes: dict[str, int] = {}
        self._errors: list[str] = []

    def __call__(self, event: automation.events.EngineEvent) -> None:
        """Look at an event of the engine."""
        if event.diagnostic_event and event.diagnostic_event.severity == "error":
            self._errors.append(event.diagnostic_event.message.strip())
        if event.summary_event:
            self.changes = {str(getattr(op, "value", op)): n for op, n in event.summary_event.resource_changes.items()}
        begun, ended = bool(event.resource_pre_event), bool(event.res_outputs_event or event.res_op_failed_event)
        if begun or ended:
            self._begun, self._ended = self._begun + begun, self._ended + ended
            self._note(kind="progress", begun=self._begun, ended=self._ended)

    def why(self, error: Exception) -> str:
        """Why it failed: the engine's first errors, or else the end of what the exception says."""
        if self._errors:
            return "\n".join(self._errors[:3])
        return str(error).strip()[-2000:]


def processor_seconds() -> float:
    """The processor time of this worker and of all that it started and that has ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def needed(start: float, before: float) -> dict[str, float]:
    """What a task needed. The memory is that of the largest process, `pulumi`, in the worker's life so far."""
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"seconds": time.monotonic() - start, "processor": processor_seconds() - before, "memory": memory}
