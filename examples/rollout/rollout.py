"""Roll a change out to many hosts, group by group, and stop at the first group that fails.

A group is a stack of this project. Every group is previewed before any is changed. After a group's `up`, each of its
hosts must answer through its forward; only then the next group follows.
"""

import argparse
import http.client
import json
import os
import sys
import time
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

from network import PORT, networks
from pulumi import automation

HERE = Path(__file__).resolve().parent
AT_ONCE = 64  # hosts do not wait for each other; Pulumi's own default is four for each processor


class StopError(Exception):
    """The rollout stops, for the reason in the message."""


def stack_of(group: str, hosts: dict[str, dict[str, Any]], live: str) -> automation.Stack:
    """The stack of a group. Its settings are beside this file."""
    options = automation.LocalWorkspaceOptions(work_dir=str(HERE), env_vars=dict(os.environ))
    return automation.create_or_select_stack(group, "rollout", partial(networks, hosts, live), opts=options)


def preview(stack: automation.Stack, *, despite_warnings: bool) -> None:
    """Preview a group's `up`.

    hostnet asks the hosts whether the change would work. It warns if not, or if a host does not answer.

    Raises:
        StopError: The preview has a warning.
    """
    warnings: list[str] = []

    def note(event: automation.events.EngineEvent) -> None:
        said = event.diagnostic_event
        if said and said.severity == "warning":
            warnings.append(said.message.strip())

    changes = stack.preview(parallel=AT_ONCE, on_event=note).change_summary
    print(f"{stack.name}: {', '.join(f'{count} {op}' for op, count in changes.items())}")
    for warning in warnings:
        print(f"{stack.name}: {warning}")
    if warnings and not despite_warnings:
        raise StopError(f"the preview of {stack.name} warns")


def probe(host: str, path: str, seconds: float) -> None:
    """Send a request to the VM behind a host, as a client would, until it answers.

    Raises:
        StopError: There was no good answer within that time.
    """
    url = f"http://{host}:{PORT}{path}"
    browser = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + seconds
    while True:
        try:
            browser.open(url, timeout=5).close()
        except (OSError, http.client.HTTPException) as error:
            why = error
        else:
            return
        if time.monotonic() > end:
            raise StopError(f"{url} does not answer: {why}")
        time.sleep(1)


def roll_out(fleet: dict[str, Any], outcome: dict[str, str], *, only_preview: bool, despite_warnings: bool) -> None:
    """Change group after group.

    Args:
        fleet: The content of `fleet.json`.
        outcome: Each group's outcome, kept up to date.
        only_preview: Change nothing.
        despite_warnings: Continue if a preview warns.

    Raises:
        StopError: A group failed.
    """
    stacks = {group: stack_of(group, hosts, fleet["live"]) for group, hosts in fleet["groups"].items()}
    for stack in stacks.values():
        preview(stack, despite_warnings=despite_warnings)
    if only_preview:
        return
    for group, stack in stacks.items():
        outcome[group] = "FAILED"
        stack.up(parallel=AT_ONCE, on_output=print)
        for host in fleet["groups"][group].values():
            probe(host["host"], **fleet["probe"])
        outcome[group] = "done, and answers"


def main() -> int:
    """Roll out what `fleet.json` says. The exit status is 0 if every group succeeded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fleet", nargs="?", type=Path, default=HERE / "fleet.json")
    parser.add_argument("--only-preview", action="store_true")
    parser.add_argument("--despite-warnings", action="store_true")
    options = vars(parser.parse_args())
    fleet = json.loads(options.pop("fleet").read_text())
    outcome = dict.fromkeys(fleet["groups"], "not touched")
    why = None
    try:
        roll_out(fleet, outcome, **options)
    except (StopError, automation.CommandError, KeyboardInterrupt) as error:
        why = str(error) or "interrupted"
    for group, what in outcome.items():
        print(f"{group:<20} {what}")
    if why:
        print(f"stopped: {why}", file=sys.stderr)
    return 1 if why else 0


if __name__ == "__main__":
    sys.exit(main())
