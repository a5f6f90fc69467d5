"""The agent's process: JSON lines in, JSON lines out, until its input ends.

Request: `{"id": 1, "op": "apply", …}`. Answer: `{"id": 1, "result": …}` or `{"id": 1, "error": {…}}`. The first line
it writes, unasked, greets: what it is and where, or why it can't work.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import platform
import signal
import sys
import syslog
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

from hostnet import __version__
from hostnet.agent.lasting import watch
from hostnet.agent.lasting.persistence import Persistence, forget_agents
from hostnet.agent.linux.process import started_at
from hostnet.agent.record.netns import enter, namespace_of, store_here
from hostnet.agent.transaction.commit_confirm import CommitConfirm, Confirmation
from hostnet.agent.transaction.host import Host
from hostnet.agent.transaction.subsystems import Outcome, Subsystems
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import from_json, state_to_json, to_json
from hostnet.wire.requests import Change, Query, View

# A provider that lost the connection tries again for minutes before it gives up.
_REMEMBERED_SECONDS = 300
_PAUSES = (1, 2, 4, 8, 15, 30, 60)  # seconds between attempts to undo what nobody confirmed


def main(arguments: list[str] | None = None) -> int:
    """Serve until standard input ends; or be the watcher; or put back what is recorded, once."""
    parser = argparse.ArgumentParser(prog="hostnet-agent")
    parser.add_argument("task", nargs="?", choices=["serve", "watch", "restore"], default="serve")
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--netns")
    parser.add_argument("--via", help="the name by which the provider calls this host")
    parser.add_argument("--persist", choices=["auto", "always", "never", "keep"], default="keep")
    parser.add_argument("--confirm", type=float, metavar="SECONDS")
    options = parser.parse_args(arguments)
    if options.task != "serve":
        return _alone(options)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole process group; the provider decides
    answer = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else prints must not look like an answer
    used = _use_file()
    # Before anything is open here: it is to share nothing with this process.
    confirm = CommitConfirm(options.confirm, lambda number: _roll_back(options, number)) if options.confirm else None
    try:
        host = open_host(options.state_dir, options.netns, options.persist, options.via)
    except HostnetError as error:
        answer.write(json.dumps({"error": error.to_json()}) + "\n")
        return 1
    answer.write(json.dumps({"hello": _hello()}) + "\n")
    here = namespace_of(options.netns)
    early: list[str] = []
    while line := early.pop() if early else sys.stdin.readline():
        request = json.loads(line)
        if namespace_of(options.netns) != here:
            # The namespace was deleted, and perhaps another made by its name: what we are in is nobody's any more.
            try:
                host = open_host(options.state_dir, options.netns, options.persist, options.via)
            except HostnetError as error:
                answer.write(json.dumps({"id": request["id"], "error": error.to_json()}) + "\n")
                continue
            here = namespace_of(options.netns)
        if request["op"] == "watch":
            _watch(options, answer)
            break
        confirmation = ProviderConfirmation(answer, request["id"], confirm, early) if confirm else None
        try:
            result = serve(host, request, confirmation)
        except EOFError:
            return 0  # no provider is there to confirm: hostnet-confirm waits for another agent that one talks to
        answer.write(json.dumps(result, separators=(",", ":")) + "\n")
    _leave(options.state_dir, used)
    return 0


class ProviderConfirmation:
    """Asks the provider to confirm what one of its requests changed: a `Confirmation`.

    Args:
        answer: The stream to the provider.
        number: The request's.
        process: What rolls the change back where no answer comes.
        early: Gets the next request, where that comes instead of an answer.
    """

    required = True

    def __init__(self, answer: TextIO, number: int, process: CommitConfirm, early: list[str]) -> None:
        self._answer, self._number, self._process, self._early = answer, number, process, early

    def begun(self, transaction: str) -> None:
        """See `Confirmation`."""
        self._process.begun(transaction)

    def request(self, outcomes: list[Outcome], transaction: str, *, reconnect: bool) -> str:
        """See `Confirmation`."""
        self._process.applied(transaction)
        result = list(map(_outcome, outcomes))
        answer = {"id": self._number, "result": result, "unconfirmed": True, "anew": reconnect}
        line = ""
        with contextlib.suppress(OSError):
            self._answer.write(json.dumps(answer, separators=(",", ":")) + "\n")
            line = sys.stdin.readline()
        if not line:
            raise EOFError
        request = json.loads(line)
        if request["op"] not in ("confirm", "undo"):
            self._early.append(line)
            return "its provider sent another request instead of a confirmation"
        return "" if request["op"] == "confirm" else str(request["why"])

    def ended(self) -> None:
        """See `Confirmation`."""
        self._process.ended()


def _roll_back(options: argparse.Namespace, transaction: str) -> None:
    """Roll back a change that is not confirmed, and keep its result for a provider that comes back to ask.

    hostnet-confirm calls this. Whatever keeps it from it, it tries again: there may be no other process that could.
    """
    for pause in (*_PAUSES, None):
        try:
            host = open_host(options.state_dir, options.netns, options.persist)
            if host.roll_back(transaction, options.confirm):
                syslog.syslog(syslog.LOG_WARNING, "hostnet: rolled back a change that its provider did not confirm")
                # Whoever wants it to end, a shutdown above all, need not wait.
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
                signal.sigtimedwait({signal.SIGTERM}, _REMEMBERED_SECONDS)
                host.forget(transaction)
            break
        except Exception as error:  # noqa: BLE001
            what = "hostnet: can't roll back a change that its provider did not confirm"
            syslog.syslog(syslog.LOG_ERR, f"{what}: {type(error).__name__}: {error}")
        if pause is None:
            return
        time.sleep(pause)
    with contextlib.suppress(FileNotFoundError):
        _leave(options.state_dir, _opened())


def _watch(options: argparse.Namespace, answer: TextIO) -> None:
    """Be the watcher in the foreground, until the caller hangs up."""

    def say(line: str) -> None:
        with contextlib.suppress(OSError):
            answer.write(json.dumps({"said": line}) + "\n")

    store = store_here(options.state_dir, options.netns)
    watch.foreground(store, Persistence(store, options.netns, options.persist), say)


def _opened() -> int | None:
    """The file that this agent came to the host in, opened; None where it came in none."""
    file = Path(sys.argv[0])
    return os.open(file, os.O_RDONLY | os.O_CLOEXEC) if file.suffix == ".zip" else None


def _use_file() -> int | None:
    """Keep the file that this agent came in from being taken away by another that leaves: watchers start from it.

    What can't be opened any more is said as Python says it of a file that went a moment earlier (`hosts/ssh.py`).
    """
    with contextlib.suppress(FileNotFoundError):
        used = _opened()
        if used is None:
            return None
        fcntl.flock(used, fcntl.LOCK_SH)
        if os.fstat(used).st_nlink:
            return used
    sys.exit(f"can't open file {sys.argv[0]}: it was taken away")


def _leave(state_dir: Path, used: int | None) -> None:
    """Take away the files that agents came in, where nothing is recorded on the host, but for those in use."""
    if used is None or any(state_dir.glob("*.json")):
        return
    os.close(used)
    forget_agents(Path(sys.argv[0]).parent)
    with contextlib.suppress(OSError):
        state_dir.rmdir()


def _alone(options: argparse.Namespace) -> int:
    """A task without a provider: systemd's, or the background's."""
    try:
        if options.task == "watch":
            if options.netns is not None:
                enter(options.netns)
            return watch.follow(store_here(options.state_dir, options.netns))
        count = open_host(options.state_dir, options.netns, options.persist).restore()
    except HostnetError as error:
        sys.stderr.write(f"hostnet: {error}\n")
        return 1
    sys.stdout.write(f"hostnet: put back {count} resources\n")
    return 0


def open_host(state_dir: Path, netns: str | None, persist: str = "keep", via: str | None = None) -> Host:
    """The host, or the named namespace on it, which this process enters.

    :param persist: whether a reboot is to bring back what is recorded (the provider's configuration).
    :param via: the name by which the provider calls this host.
    :raises HostnetError: where there is no such namespace, or this is not root.
    """
    if os.geteuid() != 0:
        raise HostnetError(
            Code.PERMISSION,
            "the host's network can't be changed",
            f"this runs as user {os.geteuid()}, not as root",
            "Run pulumi as root, or set connection.sudo and allow this user sudo without a password",
        )
    if netns is not None:
        enter(netns)
    store = store_here(state_dir, netns)
    return Host(Subsystems.of(store, Persistence(store, netns, persist)), via)


def _hello() -> dict[str, Any]:
    return {
        "version": __version__,
        "pid": os.getpid(),
        "started": started_at(os.getpid()),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def serve(host: Host, request: dict[str, Any], confirmation: Confirmation | None = None) -> dict[str, Any]:
    """Answer a request.

    Args:
        host: What it is about.
        request: As it came.
        confirmation: Where changes must be confirmed.

    Raises:
        EOFError: The provider left before it confirmed one.
    """
    try:
        answer = {"result": _OPERATIONS[request["op"]](host, request, confirmation)}
    except HostnetError as error:
        answer = {"error": error.to_json()}
    except EOFError:
        raise
    except Exception as error:  # noqa: BLE001 - a bug of ours must be an answer, not the end of the agent
        traceback.print_exc()
        where = traceback.extract_tb(error.__traceback__)[-1]
        bug = HostnetError(
            Code.KERNEL,
            f"the agent failed in {request['op']}",
            f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})",
            "This is a defect of hostnet; please report it",
        )
        answer = {"error": bug.to_json()}
    return {"id": request["id"], **answer}


def _apply(host: Host, request: dict[str, Any], confirmation: Confirmation | None) -> list[Any]:
    changes = [change_from_json(change) for change in request["changes"]]
    transaction = request.get("transaction", "")
    if "instead_of" in request:
        host.take_over(**request["instead_of"], transaction=transaction)
    perform = host.outcome if request.get("ask") else host.apply
    return list(map(_outcome, perform(changes, transaction, confirmation=confirmation)))


def _read(host: Host, request: dict[str, Any], _: Confirmation | None) -> list[Any]:
    if "instead_of" in request:
        host.take_over(**request["instead_of"])
    return [_outcome(each) for each in host.read([query_from_json(query) for query in request["queries"]])]


def _restore(host: Host, request: dict[str, Any], _: Confirmation | None) -> int:
    del request
    return host.restore()


def _facts(host: Host, request: dict[str, Any], _: Confirmation | None) -> dict[str, Any]:
    return host.facts(request["name"], request["arguments"])


_OPERATIONS = {"apply": _apply, "read": _read, "restore": _restore, "facts": _facts}


def _outcome(each: View | HostnetError | None) -> dict[str, Any] | None:
    if each is None:
        return None
    if isinstance(each, HostnetError):
        return {"error": each.to_json()}
    return {
        "id": each.id,
        "objects": [to_json(item) for item in each.objects],
        "seen": [state_to_json(item) for item in each.seen],
        "warnings": list(each.warnings),
    }


def change_from_json(data: dict[str, Any]) -> Change:
    """A change as it travels."""
    return Change(
        data["urn"],
        data["id"],
        tuple(map(from_json, data["objects"])),
        tuple(map(from_json, data["prior"])),
        data["known"],
        data["dry"],
    )


def query_from_json(data: dict[str, Any]) -> Query:
    """A query as it travels."""
    return Query(data["urn"], data["id"], data["kind"], tuple(map(from_json, data["objects"])))


if __name__ == "__main__":
    sys.exit(main())
