"""Run one command of `pulumi` for many groups of hosts, each group a stack, by the workers of a task queue.

The canary is first and alone, then follow as many groups at a time as fleet.json says. When a group fails, no further
group is begun; those that are under way come to their end. Where a worker is killed, another one goes on.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from channel import RUN, Events, connect
from stack_objects import stack_objects

HERE = Path(__file__).resolve().parent
COMMANDS = ("preview", "up", "refresh", "destroy")
SECRETS = {"password", "private_key", "private_key_password"}
HOUR = 3600 * 1000  # milliseconds, the longest that a group may take after Ctrl-C
PREFETCH = {"dramatiq_queue_prefetch": "1"}  # a worker must not keep a second group while another worker is idle
PAUSE = 2.0  # seconds between two lines of one group about its progress


@dataclass
class Group:
    """What is known of a group.

    Attributes:
        outcome: What became of it.
        worker: Who works on it, or did: machine and process.
        tries: How many workers have begun it.
        sent: When its task was given to the queue.
        waited: For how many seconds no worker had it.
        needed: What it needed, as the worker reported it.
        shown: When a line about its progress was printed.
    """

    outcome: str = "not touched"
    worker: str = ""
    tries: int = 0
    sent: float = 0
    waited: float = 0
    needed: dict[str, Any] = field(default_factory=dict)
    shown: float = 0


class Run:
    """One command for all groups."""

    def __init__(self, command: str, fleet: dict[str, Any]) -> None:
        # Here alone, since it connects to the broker: printing the operator's objects needs none.
        from tasks import work  # noqa: PLC0415

        self._work, self._command, self._fleet = work, command, fleet
        self._name = uuid.uuid4().hex
        self._client = connect()
        self._events = Events(self._client, self._name)
        self.groups = {name: Group() for name in fleet["groups"]}

    @property
    def failed(self) -> list[str]:
        """The groups that failed."""
        return [name for name, group in self.groups.items() if group.outcome == "FAILED"]

    def roll_out(self, workers: list[subprocess.Popen[bytes]]) -> None:
        """Run the command for the canary, then for the others.

        Args:
            workers: Those of this machine that belong to this run; none: all are elsewhere.

        Raises:
            ChildProcessError: All of these workers have ended.
        """
        self._client.set(RUN, self._name)
        canary = self._fleet["canary"]
        waiting = [canary, *(name for name in self.groups if name != canary)]
        under_way: set[str] = set()
        while (waiting and not self.failed) or under_way:
            at_once = self._fleet["at_once"] if self.groups[canary].outcome == "done" else 1
            while waiting and not self.failed and len(under_way) < at_once:
                under_way.add(waiting[0])
                self._send(waiting.pop(0))
            for event in self._events.wait(seconds=0.5):
                if event["group"] in under_way and self._take(**event):
                    under_way.remove(event["group"])
            if workers and all(worker.poll() is not None for worker in workers):
                raise ChildProcessError("all workers have ended: see workers.log")

    def _send(self, name: str) -> None:
        group = self.groups[name]
        group.outcome, group.sent = "queued", time.monotonic()
        self._work.send(self._name, self._command, name, self._fleet["groups"][name], self._fleet["network"])

    def _take(self, group: str, kind: str, **said: Any) -> bool:
        """Take note of an event; whether the group has come to its end."""
        known = self.groups[group]
        if kind == "begun":
            known.outcome, known.worker, known.tries = "begun", said["worker"], known.tries + 1
            known.waited = known.waited or time.monotonic() - known.sent
            self._say(group, f"begun by {known.worker}" + (f", try {known.tries}" if known.tries > 1 else ""))
        elif kind == "taken over":
            self._say(
                group, f"removed the lock and the pending creates of a worker that was killed on {said['machine']}"
            )
        elif kind == "progress" and time.monotonic() > known.shown + PAUSE:
            known.shown = time.monotonic()
            self._say(group, f"{said['ended']} of {said['begun']} resources so far")
        elif kind in ("done", "failed"):
            known.outcome, known.needed = "done" if kind == "done" else "FAILED", said
            self._say(group, known.outcome)
            return True
        return False

    @staticmethod
    def _say(group: str, what: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {group}: {what}", flush=True)

    def table(self) -> Iterator[str]:
        """What each group needed, and why the failed ones failed."""
        form = "{:<20} {:<12} {:>9} {:>8} {:>8} {:>7} {:>6}  {}"
        yield form.format("group", "outcome", "resources", "waited s", "took s", "CPU s", "MiB", "worker")
        for name, group in self.groups.items():
            needed, ended = group.needed, bool(group.needed)
            figures = [f"{needed[what]:.1f}" if ended else "" for what in ("seconds", "processor", "memory")]
            changes = needed.get("changes", {})
            resources = sum(changes.values()) if changes else ""
            waited = f"{group.waited:.1f}" if group.tries else ""
            tries = f" (try {group.tries})" if group.tries > 1 else ""
            yield form.format(name, group.outcome, resources, waited, *figures, group.worker + tries).rstrip()
        for name in self.failed:
            yield f"{name}: {self.groups[name].needed['why']}"


@contextmanager
def local_workers(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Workers on this machine, for as long as the block lasts. A task that they have begun comes to its end."""
    argv = [sys.executable, "-m", "dramatiq", "tasks", "--processes", "1", "--threads", "1"]
    argv += ["--path", str(HERE), "--log-file", str(HERE / "workers.log"), "--worker-shutdown-timeout", str(HOUR)]
    # In sessions of their own: Ctrl-C is for the command.
    how = {"cwd": HERE, "start_new_session": True, "env": os.environ | PREFETCH}
    workers = [subprocess.Popen(argv, **how) for _ in range(count)]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()


def read(path: Path) -> dict[str, Any]:
    """Read fleet.json.

    Raises:
        ValueError: It holds what the queue must not carry.
    """
    fleet: dict[str, Any] = json.loads(path.read_text())
    for group in fleet["groups"].values():
        for name, host in group.items():
            if secret := SECRETS & {*host, *host.get("proxy", ())}:
                raise ValueError(f"{path}: {name} has {', '.join(secret)}: the queue would carry it. Use an SSH agent.")
    return fleet


def main() -> int:
    """Do what the command line says. The exit status is 0 if every group succeeded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=(*COMMANDS, "stack-objects"))
    parser.add_argument("fleet", nargs="?", type=Path, default=HERE / "fleet.json")
    parser.add_argument("--workers", type=int, default=0, help="workers to start here for this run (default: none)")
    options = parser.parse_args()
    try:
        fleet = read(options.fleet)
    except ValueError as error:
        parser.error(str(error))
    if options.command == "stack-objects":
        print(json.dumps(stack_objects(fleet), indent=2))
        return 0
    if "FLEET_BROKER" not in os.environ:
        parser.error("FLEET_BROKER is not set: the address of the broker, such as redis://localhost or unix:///path")
    run, start, why = Run(options.command, fleet), time.monotonic(), None
    try:
        with local_workers(options.workers) as workers:
            run.roll_out(workers)
    except (KeyboardInterrupt, ChildProcessError) as error:
        why = str(error) or "interrupted; groups that have begun come to their end"
    print("\n".join(run.table()))
    print(f"{options.command}: {time.monotonic() - start:.1f} s")
    if why:
        print(f"stopped: {why}", file=sys.stderr)
    return 1 if why or run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
