"""Every error that hostnet raises on purpose."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any

from hostnet.wire.shapes import Text, reader, shortened, visible


class Code(str, Enum):
    """The class of a failure, for a program. rpc/failures.py maps each to a gRPC code."""

    INVALID = "invalid"  # the request itself is wrong
    CONFLICT = "conflict"  # another resource or program holds what was asked for
    NOT_FOUND = "not-found"  # the host has no such interface, namespace or bridge
    KERNEL = "kernel"  # the kernel or nft refused
    UNSUPPORTED = "unsupported"  # the host lacks a feature or a program
    UNREACHABLE = "unreachable"  # the host, or the namespace on it, is gone or does not answer
    PERMISSION = "permission"  # not root and no sudo, or a login that is refused
    ROLLED_BACK = "rolled-back"  # applied, not confirmed, and so rolled back
    PARTIAL = "partial"  # applied in part, and rolling back failed as well
    AGENT_DIED = "agent-died"  # the agent ended during the request; the next request starts another one
    BUSY = "busy"  # another process holds the host's lock for longer than this one waits
    MALFORMED = "malformed"  # the host answered what no agent of this version sends
    CANCELLED = "cancelled"


def _known(value: str) -> bool:
    return value in {code.value for code in Code}


CodeName = Annotated[str, _known, "the code of an error"]


class HostnetError(Exception):
    """A failure that a person can do something about: `<host>: <what failed>: <why>. <what to do>`.

    Args:
        code: The class of the failure.
        what: What failed, and of which object: one clause without a full stop, `cannot create bridge br0`.
        why: The reason, with the errno name where the kernel gave one: `EEXIST: File exists`.
        fix: What to do next: sentences, the last without a full stop.
        host: The host's name; the session that talks to the host fills it in.
        holder: Of a conflict: the key of the owner that has what was asked for; "" where that is no resource.
    """

    def __init__(
        self, code: Code, what: str, why: str = "", fix: str = "", host: str = "", *, holder: str = ""
    ) -> None:
        super().__init__(what)
        self.code, self.host, self.holder = code, host, holder
        # A reason may be what a program, a server or a guest said.
        self.what, self.why, self.fix = (shortened(visible(part)) for part in (what, why, fix))

    def __str__(self) -> str:
        text = ": ".join(part for part in (self.host, self.what, self.why) if part)
        return f"{text}. {self.fix}" if self.fix else text

    def to_json(self) -> dict[str, Any]:
        """The error as the agent sends it; the host's name is the provider's to add."""
        data = {"code": self.code.value, "what": self.what, "why": self.why, "fix": self.fix}
        return {**data, "holder": self.holder} if self.holder else data

    @classmethod
    def from_json(cls, data: Any, host: str = "") -> HostnetError:
        """The error that `to_json` wrote.

        Raises:
            ShapeError: It is of another form.
        """
        parts: _Parts = reader(_Parts)(data)
        return cls(Code(parts.code), parts.what, parts.why, parts.fix, host, holder=parts.holder)


class OutcomeUnknownError(HostnetError):
    """A change was sent, and what became of it can't be learned: it was made, or it was not."""


@dataclass(frozen=True)
class _Parts:
    """An error as JSON."""

    code: CodeName
    what: Text
    why: Text
    fix: Text
    holder: Text = ""
