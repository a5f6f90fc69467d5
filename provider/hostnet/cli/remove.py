"""`hostnet remove`: what a stack has on a host whose state is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from hostnet.cli.status import print_resources
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.requests import Change

if TYPE_CHECKING:
    from hostnet.hosts.session import Session

Resource = dict[str, Any]


def select(
    resources: Sequence[Resource], urns: Sequence[str], stack: str | None, project: str | None
) -> list[Resource]:
    """The resources that the command line names.

    Args:
        resources: All that the host has, by the agent's answer to `status`.
        urns: Single resources; none: a whole stack, or project.
        stack: A stack's name.
        project: A project's name.

    Raises:
        HostnetError: The host has no such resource, or the stack's name alone is not clear.
    """
    what = "cannot remove anything"
    if urns:
        missing = sorted(set(urns) - {each["urn"] for each in resources})
        if missing:
            why = f"hostnet has no resource {', '.join(missing)} there"
            raise HostnetError(Code.NOT_FOUND, what, why, "`hostnet status --json` shows the URNs")
        return [each for each in resources if each["urn"] in urns]
    found = [each for each in resources if stack in (None, each["stack"]) and project in (None, each["project"])]
    if not found:
        there = sorted({f"{each['stack']} of project {each['project']}" for each in resources if each["stack"]})
        named = " of ".join(f"{word} {name}" for word, name in (("stack", stack), ("project", project)) if name)
        why = f"hostnet has no resource of {named} there"
        raise HostnetError(Code.NOT_FOUND, what, why, f"The stacks there are: {', '.join(there) or 'none'}")
    projects = sorted({each["project"] for each in found})
    if project is None and len(projects) > 1:
        why = f"a stack {stack} is there of the projects {', '.join(projects)}"
        raise HostnetError(Code.INVALID, what, why, "Say which with --project")
    return found


def confirm(label: str, resources: Sequence[Resource]) -> bool:
    """Show what would go, and ask."""
    console = Console()
    print_resources(console, resources)
    many = f"{len(resources)} resource" + "s" * (len(resources) != 1)
    console.print(
        f"{label}: {many} will be deleted on the host, and from hostnet's record. A state that still has them shows "
        "them as deleted at its next refresh.",
        highlight=False,
        markup=False,
    )
    try:
        return input("Delete them? Type yes: ").strip().lower() == "yes"
    except EOFError:
        return False


async def remove(session: Session, resources: Sequence[Resource]) -> list[HostnetError]:
    """Delete them, together; gives the errors of those that stay."""
    changes = [Change(each["urn"], each["id"], known=True) for each in resources]
    done = await asyncio.gather(*map(session.apply, changes), return_exceptions=True)
    errors = []
    for each in done:
        if isinstance(each, HostnetError):
            errors.append(each)
        elif isinstance(each, BaseException):
            raise each
    return errors
