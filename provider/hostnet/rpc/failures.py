"""Every error as a gRPC status, on purpose.

To the engine the codes Unknown, Internal and DataLoss mean that a resource's state is not known (it keeps a pending
operation that a person has to clear), and an exception that leaves a handler is Unknown. So each `Code` has a code
here, and what is left is a bug and says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpc import StatusCode

from hostnet.lifecycle.messages import error_text, shorten
from hostnet.rpc.protos import load, provider_pb2
from hostnet.wire.errors import Code, HostnetError

if TYPE_CHECKING:
    from google.protobuf.struct_pb2 import Struct

STATUS_OF = {
    Code.INVALID: StatusCode.INVALID_ARGUMENT,
    Code.CONFLICT: StatusCode.ALREADY_EXISTS,
    Code.NOT_FOUND: StatusCode.NOT_FOUND,
    Code.KERNEL: StatusCode.FAILED_PRECONDITION,
    # Not UNIMPLEMENTED: that is how the engine recognises an RPC that a provider does not have.
    Code.UNSUPPORTED: StatusCode.FAILED_PRECONDITION,
    Code.UNREACHABLE: StatusCode.UNAVAILABLE,
    Code.PERMISSION: StatusCode.PERMISSION_DENIED,
    Code.ROLLED_BACK: StatusCode.ABORTED,
    # Create and Update send it with ErrorResourceInitFailed, which overrides the code. For a delete the next run
    # repeats it, so no state is unknown.
    Code.PARTIAL: StatusCode.ABORTED,
    # The next agent finishes or undoes from the record what this one left, so no state is unknown.
    Code.AGENT_DIED: StatusCode.ABORTED,
    Code.CANCELLED: StatusCode.CANCELLED,
}

DETAILS_KEY = "grpc-status-details-bin"
_TYPE_URL = "type.googleapis.com/"


def status_of(error: BaseException) -> tuple[StatusCode, str]:
    """The gRPC code and the message for a person."""
    code = STATUS_OF[error.code] if isinstance(error, HostnetError) else StatusCode.INTERNAL
    return code, error_text(error)


def init_failed(identifier: str, properties: Struct, inputs: Struct, reasons: list[str]) -> bytes:
    """The status trailer with which a partly applied resource keeps its id in the state.

    The next `pulumi up` then calls Update for it, also without a difference.
    """
    detail = provider_pb2.ErrorResourceInitFailed(
        id=identifier, properties=properties, inputs=inputs, reasons=[shorten(reason) for reason in reasons]
    )
    status = load("status_pb2").Status(code=STATUS_OF[Code.PARTIAL].value[0], message=shorten("; ".join(reasons)))
    entry = status.details.add()
    entry.type_url = _TYPE_URL + detail.DESCRIPTOR.full_name
    entry.value = detail.SerializeToString()
    serialized: bytes = status.SerializeToString()
    return serialized
