"""The package's functions, and the list of the resources on a host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hostnet.resources import KINDS
from hostnet.resources.functions import FUNCTIONS, Function
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.urn import Urn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hostnet.lifecycle.host_access import HostAccess
    from hostnet.rpc.protos import provider_pb2

# The size of a page where the caller gives none.
_PAGE = 1000

_TOKEN_DIGITS = 10

Entry = tuple[str, str]  # id and name


def find_function(token: str) -> Function:
    """The function with this token.

    Raises:
        HostnetError: There is none.
    """
    if token not in FUNCTIONS:
        known = ", ".join(FUNCTIONS)
        raise HostnetError(Code.INVALID, f"unknown function {token}", f"hostnet has {known}")
    return FUNCTIONS[token]


async def call(access: HostAccess, function: Function, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a function whose arguments have been checked; empty while one is unknown (a preview).

    Raises:
        HostnetError: The host can't answer it.
    """
    question = function.arguments(arguments)
    if question is None:
        return {}
    host = await access.host("", arguments)
    facts = await access.facts("", host, function.facts, question)
    return function.result(facts.data)


async def list_page(
    access: HostAccess, request: provider_pb2.ListRequest, query: Mapping[str, Any]
) -> tuple[list[Entry], str]:
    """A page of the resources of one kind that hostnet's record on a host has.

    Args:
        access: Leads to the host.
        request: What the engine asks for.
        query: Has the `connection`, if there is one.

    Returns:
        The page, and where the next one starts; "" after the last one.

    Raises:
        HostnetError: The type is not hostnet's, or the host can't be asked.
    """
    if request.token not in KINDS:
        raise HostnetError(Code.INVALID, f"unknown resource type {request.token}", f"hostnet has {', '.join(KINDS)}")
    host = await access.host("", query)
    facts = await access.facts("", host, "host", {})
    entries = sorted(
        (resource["id"], urn.name)
        for resource in facts.data.get("resources", ())
        if (urn := Urn.parse(resource["urn"])).type == request.token
    )
    if request.limit > 0:
        entries = entries[: request.limit]
    start = _place(request.continuation_token)
    end = start + (request.page_size if request.page_size > 0 else _PAGE)
    return entries[start:end], str(end) if end < len(entries) else ""


def _place(token: str) -> int:
    """Where the page of a continuation token starts.

    Raises:
        HostnetError: It is none of ours.
    """
    if token and not (token.isascii() and token.isdigit() and len(token) < _TOKEN_DIGITS):
        raise HostnetError(
            Code.INVALID, "cannot list resources", f"{token[:40]!r} is not a continuation token of hostnet"
        )
    return int(token or 0)
