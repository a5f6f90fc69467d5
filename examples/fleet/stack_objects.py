"""The Stack objects of the Pulumi Kubernetes Operator for the same groups: it runs each stack in a pod."""

from typing import Any

RESYNC = 3600  # seconds after which the operator repairs what was changed by hand


def stack_objects(fleet: dict[str, Any]) -> dict[str, Any]:
    """A list for `kubectl apply -f -`. The groups wait for the canary.

    Args:
        fleet: The content of fleet.json; `kubernetes` has the fields that all Stack objects share.
    """
    canary = fleet["canary"]
    return {
        "apiVersion": "v1",
        "kind": "List",
        "items": [_stack(group, "" if group == canary else canary, fleet["kubernetes"]) for group in fleet["groups"]],
    }


def _stack(group: str, after: str, shared: dict[str, Any]) -> dict[str, Any]:
    spec = {
        "stack": group,
        **shared,
        "refresh": True,
        "resyncFrequencySeconds": RESYNC,
        "continueResyncOnCommitMatch": True,
    }
    if after:
        requirement = {"succeededWithinDuration": f"{2 * RESYNC}s"}
        spec["prerequisites"] = [{"name": _name(after), "requirement": requirement}]
    return {"apiVersion": "pulumi.com/v1", "kind": "Stack", "metadata": {"name": _name(group)}, "spec": spec}


def _name(group: str) -> str:
    return f"fleet-{group}"
