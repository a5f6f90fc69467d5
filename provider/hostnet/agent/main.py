"""The agent's process: requests in, answers out (`wire/protocol.py`), until its input ends."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gc
import os
import platform
import signal
import sys
import syslog
import time
import traceback
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hostnet import __version__
from hostnet.agent.lasting import watch
from hostnet.agent.lasting.agent_file import remove_agents
from hostnet.agent.lasting.persistence import Persistence
from hostnet.agent.linux.process import started_at
from hostnet.agent.provider import Provider, Turn
from hostnet.agent.record.lock import Background, Waiter
from hostnet.agent.record.netns import enter, namespace_of, store_here
from hostnet.agent.record.record import Store
from hostnet.agent.transaction.commit_confirm import CommitConfirm, Confirmation
from hostnet.agent.transaction.host import Host
from hostnet.agent.transaction.subsystems import Subsystems
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.protocol import (
    FILE_IS_GONE,
    AgentProcess,
    Answer,
    Greeting,
    Outcome,
    Request,
    UnknownBaseError,
    Whole,
    event,
    outcomes_to_json,
    refusal,
)
from hostnet.wire.requests import Change

# A provider that lost the connection tries again for minutes before it gives up.
_REMEMBERED_SECONDS = 300
# Python looks for cycles whenever 700 objects are new. What an agent reads and derives has none and stays: with 10,000
# forwards a sixth of the CPU time of `status` went into that.
_YOUNG_OBJECTS = 10_000
_PAUSES = (1, 2, 4, 8, 15, 30, 60)  # seconds between attempts to roll back


def main(arguments: list[str] | None = None) -> int:
    """Serve until standard input ends; or be the watcher; or put back what is recorded, once."""
    # With a width it does not import shutil (`linux/files.py`).
    parser = argparse.ArgumentParser(
        prog="hostnet-agent", formatter_class=lambda prog: argparse.HelpFormatter(prog, width=100)
    )
    parser.add_argument("task", nargs="?", choices=["serve", "watch", "restore"], default="serve")
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--netns")
    parser.add_argument("--via", help="the name by which the provider calls this host, and its own")
    parser.add_argument("--persist", choices=["auto", "always", "never", "keep"], default="keep")
    parser.add_argument("--confirm", type=float, metavar="SECONDS")
    parser.add_argument("--lock-timeout", type=float, metavar="SECONDS", default=120)
    parser.add_argument("--self-check", action="store_true", help="compare with what a new agent derives")
    options = parser.parse_args(arguments)
    gc.set_threshold(_YOUNG_OBJECTS)
    Host.self_checks |= options.self_check
    if options.task != "serve":
        return _run_task(options)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole process group; the provider decides
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else prints must not look like an answer
    used = _hold_file()
    # Before anything is open here: it is to share nothing with this process.
    confirm = CommitConfirm(options.confirm, lambda number: _roll_back(options, number)) if options.confirm else None
    provider = Provider(0, out)
    try:
        host = _serving(options, provider)
    except HostnetError as error:
        provider.send(refusal(error))
        return 1
    provider.send(greeting().to_line())
    # Where the provider has gone, hostnet-confirm waits for another agent that one talks to.
    with contextlib.suppress(EOFError):
        _serve_all(options, host, provider, confirm)
    _remove_files(options.state_dir, used)
    return 0


def _serving(options: argparse.Namespace, provider: Provider) -> Host:
    """The host, for requests of a provider."""
    turn = Turn(provider, options.lock_timeout)
    return open_host(options.state_dir, options.netns, options.persist, options.via, turn)


def _serve_all(options: argparse.Namespace, host: Host, provider: Provider, confirm: CommitConfirm | None) -> None:
    """Answer requests until the input ends.

    Raises:
        EOFError: The provider went while one was under way.
    """
    here = namespace_of(options.netns)
    while request := provider.next():
        if namespace_of(options.netns) != here:
            # The namespace was deleted, and perhaps another created by its name: the one that we are in has no name.
            try:
                host = _serving(options, provider)
            except HostnetError as error:
                provider.send(Answer(request.id, error=error).to_line())
                continue
            here = namespace_of(options.netns)
        if request.op == "watch":
            _watch(options, provider)
            break
        confirmation = ProviderConfirmation(provider, confirm, request.changes) if confirm else None
        provider.send(serve(host, request, confirmation).to_line())


class ProviderConfirmation:
    """Asks the provider to confirm what one of its requests changed: a `Confirmation`.

    Args:
        provider: The provider.
        process: What rolls the change back where no answer comes.
        changes: Those of the request.
    """

    required = True

    def __init__(self, provider: Provider, process: CommitConfirm, changes: Sequence[Change]) -> None:
        self._provider, self._process, self._changes = provider, process, changes

    def begun(self, transaction: str) -> None:
        """See `Confirmation`."""
        self._process.begun(transaction)

    def request(self, outcomes: list[Outcome], transaction: str, *, reconnect: bool) -> str:
        """See `Confirmation`."""
        self._process.applied(transaction)
        number = self._provider.request.id
        result = outcomes_to_json(outcomes, self._changes)
        answer = Answer(number, result, confirm="login" if reconnect else "answer")
        request = None
        with contextlib.suppress(OSError):
            self._provider.send(answer.to_line())
            request = self._provider.following()
        if request is None:
            raise EOFError
        if request.op not in ("confirm", "roll-back"):
            self._provider.put_back(request)
            return "its provider sent another request instead of a confirmation"
        return "" if request.op == "confirm" else request.why

    def ended(self) -> None:
        """See `Confirmation`."""
        self._process.ended()


def _roll_back(options: argparse.Namespace, transaction: str) -> None:
    """Roll back a change that is not confirmed, and keep its result for a provider that comes back to ask.

    hostnet-confirm calls this. Whatever keeps it from it, it tries again: there may be no other process that could.
    """
    for pause in (*_PAUSES, None):
        try:
            waiter = Background("rolling back a change that its provider did not confirm")
            host = open_host(options.state_dir, options.netns, options.persist, waiter=waiter)
            if host.roll_back(transaction, options.confirm):
                syslog.syslog(syslog.LOG_WARNING, "hostnet: rolled back a change that its provider did not confirm")
                # A shutdown need not wait for it.
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
                signal.sigtimedwait({signal.SIGTERM}, _REMEMBERED_SECONDS)
                host.forget(transaction)
            break
        except Exception as error:  # noqa: BLE001 - whatever it is, the next attempt may work
            what = "hostnet: cannot roll back a change that its provider did not confirm"
            syslog.syslog(syslog.LOG_ERR, f"{what}: {type(error).__name__}: {error}")
        if pause is None:
            return
        time.sleep(pause)
    with contextlib.suppress(FileNotFoundError):
        _remove_files(options.state_dir, _opened())


def _watch(options: argparse.Namespace, provider: Provider) -> None:
    """Be the watcher in the foreground, until the caller hangs up."""

    def say(line: str) -> None:
        with contextlib.suppress(OSError):
            provider.send(event(line))

    store = store_here(options.state_dir, options.netns)
    persistence = Persistence(store, options.netns, options.persist)
    watch.foreground(store, persistence, say, follower(store, persistence))


def _opened() -> int | None:
    """The file that this agent runs from, opened; None where it runs from a package or a checkout."""
    file = Path(sys.argv[0])
    return os.open(file, os.O_RDONLY | os.O_CLOEXEC) if file.suffix == ".zip" else None


def _hold_file() -> int | None:
    """Hold the file that this agent runs from, so that another agent that ends does not remove it.

    Watchers start from it. Where it is removed already, the message is Python's about a missing file: the provider
    sends the file again (`hosts/ssh.py`).
    """
    with contextlib.suppress(FileNotFoundError):
        used = _opened()
        if used is None:
            return None
        fcntl.flock(used, fcntl.LOCK_SH)
        if os.fstat(used).st_nlink:
            return used
    sys.exit(f"{FILE_IS_GONE} {sys.argv[0]}: it was removed")


def _remove_files(state_dir: Path, used: int | None) -> None:
    """Remove the files that agents run from, where nothing is recorded on the host, except those in use."""
    if used is None or any(state_dir.glob("*.json")):
        return
    os.close(used)
    remove_agents(Path(sys.argv[0]).parent)
    with contextlib.suppress(OSError):
        state_dir.rmdir()


def _run_task(options: argparse.Namespace) -> int:
    """A task that systemd or another agent starts, without a provider."""
    try:
        if options.task == "watch":
            if options.netns is not None:
                enter(options.netns)
            store = store_here(options.state_dir, options.netns)
            return watch.background(store, follower(store, Persistence(store, options.netns)))
        waiter = Background("restoring what is recorded")
        count = open_host(options.state_dir, options.netns, options.persist, waiter=waiter).restore()
    except HostnetError as error:
        sys.stderr.write(f"hostnet: {error}\n")
        return 1
    sys.stdout.write(f"hostnet: put back {count} resources\n")
    return 0


def follower(store: Store, persistence: Persistence) -> watch.Follow:
    """What the watcher calls to follow the default routes: an agent of its own, made when it is first needed."""
    host = cache(lambda: Host(Subsystems.of(store, persistence)))
    return lambda: host().follow()


def open_host(
    state_dir: Path, netns: str | None, persist: str = "keep", via: str | None = None, waiter: Waiter | None = None
) -> Host:
    """The host, or the named namespace on it, which this process enters.

    Args:
        state_dir: The provider's `stateDir`.
        netns: The namespace; None: this process stays where it is.
        persist: Whether a reboot brings back what is recorded (the provider's configuration).
        via: The name by which the provider calls this host, and its own.
        waiter: How the host's lock is waited for; None: as long as it takes.

    Raises:
        HostnetError: There is no such namespace, or this is not root.
    """
    if os.geteuid() != 0:
        raise HostnetError(
            Code.PERMISSION,
            "cannot change the host's network",
            f"the agent runs as user {os.geteuid()}, not as root",
            "Run pulumi as root, or set connection.sudo and allow this user to use sudo without a password",
        )
    if netns is not None:
        enter(netns)
    store = store_here(state_dir, netns)
    store.waiter = waiter or store.waiter
    return Host(Subsystems.of(store, Persistence(store, netns, persist)), via)


def greeting() -> Greeting:
    """The greeting of this process."""
    process = AgentProcess(os.getpid(), started_at(os.getpid()) or 0)
    return Greeting(__version__, process, platform.release(), platform.python_version())


def serve(host: Host, request: Request, confirmation: Confirmation | None = None) -> Answer | Whole:
    """Answer a request.

    Args:
        host: What it is about.
        request: What the provider asks.
        confirmation: Where changes must be confirmed.

    Raises:
        EOFError: The provider left before it confirmed one.
    """
    try:
        request = request.completed(host.base)
        return Answer(request.id, _OPERATIONS[request.op](host, request, confirmation))
    except UnknownBaseError:
        return Whole(request.id)
    except HostnetError as error:
        return Answer(request.id, error=error)
    except EOFError:
        raise
    except Exception as error:  # noqa: BLE001 - a bug of ours must be an answer, not the end of the agent
        traceback.print_exc()
        where = traceback.extract_tb(error.__traceback__)[-1]
        bug = HostnetError(
            Code.KERNEL,
            f"the agent failed in {request.op}",
            f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})",
            "This is a bug in hostnet. Please report it",
        )
        return Answer(request.id, error=bug)


def _apply(host: Host, request: Request, confirmation: Confirmation | None) -> list[Any]:
    if request.replaces:
        host.take_over(request.replaces.pid, request.replaces.started, request.transaction)
    perform = host.outcome if request.outcome_only else host.apply
    outcomes = perform(list(request.changes), request.transaction, confirmation=confirmation)
    return outcomes_to_json(outcomes, request.changes)


def _read(host: Host, request: Request, _: Confirmation | None) -> list[Any]:
    if request.replaces:
        host.take_over(request.replaces.pid, request.replaces.started)
    return outcomes_to_json(host.read(list(request.queries)), request.queries)


def _restore(host: Host, _request: Request, _: Confirmation | None) -> int:
    return host.restore()


def _facts(host: Host, request: Request, _: Confirmation | None) -> dict[str, Any]:
    return host.facts(request.facts, request.arguments)


_OPERATIONS = {"apply": _apply, "read": _read, "restore": _restore, "facts": _facts}


if __name__ == "__main__":
    sys.exit(main())
