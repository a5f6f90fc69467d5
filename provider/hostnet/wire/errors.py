"""Every error that hostnet raises on purpose."""

from __future__ import annotations

from enum import Enum
from typing import Any


class Code(str, Enum):
    """What went wrong, for a program. rpc/ maps each to a gRPC code on purpose."""

    INVALID = "invalid"  # the request itself can't be right
    CONFLICT = "conflict"  # somebody else holds what was asked for
    NOT_FOUND = "not-found"  # named thing is not on the host (an interface, a namespace, a bridge)
    KERNEL = "kernel"  # the kernel (or nft) refused
    UNSUPPORTED = "unsupported"  # the host lacks a feature or a program
    UNREACHABLE = "unreachable"  # the host, or the namespace on it, is gone or does not answer
    PERMISSION = "permission"  # not root, no sudo
    ROLLED_BACK = "rolled-back"  # applied, not confirmed, undone
    PARTIAL = "partial"  # applied in part, and undoing failed as well
    AGENT_DIED = "agent-died"  # the agent ended in mid-request; it is started again
    CANCELLED = "cancelled"


class HostnetError(Exception):
    """What was asked, of which object, on which host, what the kernel said and what to do next.

    :param code: the class of failure.
    :param what: what was asked and of which object, one clause without a full stop.
    :param why: what the kernel or the other party said ("EEXIST: File exists").
    :param fix: what to do next, one sentence.
    :param host: where; filled in by the session that talks to the host.
    """

    def __init__(self, code: Code, what: str, why: str = "", fix: str = "", host: str = "") -> None:
        super().__init__(what)
        self.code, self.what, self.why, self.fix, self.host = code, what, why, fix, host

    def __str__(self) -> str:
        """The whole message, for a person."""
        where = f" on {self.host}" if self.host else ""
        why = f": {self.why}" if self.why else ""
        fix = f". {self.fix}" if self.fix else ""
        return f"{self.what}{where}{why}{fix}"

    def to_json(self) -> dict[str, Any]:
        """As it travels from the agent."""
        return {"code": self.code.value, "what": self.what, "why": self.why, "fix": self.fix}

    @classmethod
    def from_json(cls, data: dict[str, Any], host: str = "") -> HostnetError:
        """As it arrives from the agent."""
        return cls(Code(data["code"]), data["what"], data["why"], data["fix"], host)
