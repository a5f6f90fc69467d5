"""Roll a change out to many hosts, group by group, and stop at the first group that fails.

A group is a stack of this project. Every group is previewed before any is touched. After a group's `up`, each of its
hosts has to answer through its forward; only then the next group follows.
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
AT_ONCE = 64  # hosts wait for nothing but themselves; Pulumi's own limit is four a processor


class StopError(Exception):
    """Why the rollout goes no further."""


def stack_of(group: str, hosts: dict[str, dict[str, Any]], live: str) -> automation.Stack:
    """The stack of a group; its settings lie beside this file."""
    options = automation.LocalWorkspaceOptions(work_dir=str(HERE), env_vars=dict(os.environ))
    return automation.create_or_select_stack(group, "rollout", partial(networks, hosts, live), opts=options)


def preview(stack: automation.Stack, *, despite_warnings: bool) -> None:
    """See what a group's `up` would do.

    hostnet asks the hosts whether it would work, and warns where it would not, or where a host does not answer.

    Raises:
        StopError: It would fail.
    """
    warnings: list[str] = []

    def told(event: automation.events.EngineEvent) -> None:
        said = event.diagnostic_event
        if said and said.severity == "warning":
            warnings.append(said.message.strip())

    changes = stack.preview(parallel=AT_ONCE, on_event=told).change_summary
    print(f"{stack.name}: {', '.join(f'{count} {op}' for op, count in changes.items())}")
    for warning in warnings:
        print(f"{stack.name}: {warning}")
    if warnings and not despite_warnings:
        raise StopError(f"the preview of {stack.name} warns")


def probe(host: str, path: str, seconds: float) -> None:
    """Ask the VM behind a host, as a client would.

    Raises:
        StopError: There was no good answer in that time.
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
    """Roll out.

    Args:
        fleet: What `fleet.json` says.
        outcome: What became of each group, kept up to date.
        only_preview: Touch nothing.
        despite_warnings: Go on where a preview warns.

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
        for way in fleet["groups"][group].values():
            probe(way["host"], **fleet["probe"])
        outcome[group] = "done, and answers"


def main() -> int:
    """Roll out what `fleet.json` says; 0: everywhere."""
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
