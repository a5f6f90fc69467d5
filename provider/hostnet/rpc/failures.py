"""Every error as a gRPC status.

To the engine (3.259) the codes Unknown, Internal and DataLoss mean that a resource's state is not known: it keeps a
pending operation that a person has to clear. An exception that leaves a handler is Unknown. So each `Code` has a gRPC
code here, and every other exception is a bug, whose message says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpc import StatusCode

from hostnet.lifecycle.messages import error_text, shorten
from hostnet.rpc.protos import provider_pb2, status_pb2
from hostnet.wire.errors import Code, HostnetError

if TYPE_CHECKING:
    from google.protobuf.struct_pb2 import Struct

STATUS_OF = {
    Code.INVALID: StatusCode.INVALID_ARGUMENT,
    Code.CONFLICT: StatusCode.ALREADY_EXISTS,
    Code.NOT_FOUND: StatusCode.NOT_FOUND,
    Code.KERNEL: StatusCode.FAILED_PRECONDITION,
    # Not UNIMPLEMENTED: that is how the engine (3.259) recognises an RPC that a provider does not have.
    Code.UNSUPPORTED: StatusCode.FAILED_PRECONDITION,
    Code.UNREACHABLE: StatusCode.UNAVAILABLE,
    Code.PERMISSION: StatusCode.PERMISSION_DENIED,
    Code.ROLLED_BACK: StatusCode.ABORTED,
    # Create and Update send it with ErrorResourceInitFailed, which overrides the code. The next run repeats a delete,
    # so no state is unknown.
    Code.PARTIAL: StatusCode.ABORTED,
    # The next agent rolls back by the record what this one left half done, so no state is unknown.
    Code.AGENT_DIED: StatusCode.ABORTED,
    Code.BUSY: StatusCode.ABORTED,
    # As for AGENT_DIED: what the host answered is refused, and the next run asks again.
    Code.MALFORMED: StatusCode.ABORTED,
    Code.CANCELLED: StatusCode.CANCELLED,
}

DETAILS_KEY = "grpc-status-details-bin"
# Not the name in protobuf's registry, which has hostnet's prefix (`protos`).
_TYPE_URL = "type.googleapis.com/pulumirpc.ErrorResourceInitFailed"


def status_of(error: BaseException) -> tuple[StatusCode, str]:
    """The gRPC code and the message for a person."""
    code = STATUS_OF[error.code] if isinstance(error, HostnetError) else StatusCode.INTERNAL
    return code, error_text(error)


def init_failed(identifier: str, properties: Struct, inputs: Struct, reasons: list[str]) -> bytes:
    """The status trailer by which the engine keeps a resource in the state that was applied in part.

    The next `pulumi up` then calls Update for it, also without a difference.

    Args:
        identifier: The resource's id.
        properties: Its outputs.
        inputs: Its inputs.
        reasons: Why it is not complete.
    """
    detail = provider_pb2.ErrorResourceInitFailed(
        id=identifier, properties=properties, inputs=inputs, reasons=[shorten(reason) for reason in reasons]
    )
    status = status_pb2.Status(code=STATUS_OF[Code.PARTIAL].value[0], message=shorten("; ".join(reasons)))
    entry = status.details.add()
    entry.type_url = _TYPE_URL
    entry.value = detail.SerializeToString()
    return status.SerializeToString()
