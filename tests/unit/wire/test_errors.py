"""The one form of a message: `<host>: <what failed>: <why>. <what to do>`."""

from __future__ import annotations

import json

import pytest
from hostnet.wire.errors import Code, HostnetError


@pytest.mark.parametrize(
    ("why", "fix", "host", "text"),
    [
        (
            "EEXIST: File exists",
            "Choose another name",
            "root@192.0.2.2",
            "root@192.0.2.2: cannot create bridge br0: EEXIST: File exists. Choose another name",
        ),
        ("EEXIST: File exists", "", "root@192.0.2.2", "root@192.0.2.2: cannot create bridge br0: EEXIST: File exists"),
        ("", "Choose another name", "", "cannot create bridge br0. Choose another name"),
        ("", "", "", "cannot create bridge br0"),
    ],
)
def test_a_message(why: str, fix: str, host: str, text: str) -> None:
    """A part that there is not leaves no separator behind."""
    assert str(HostnetError(Code.CONFLICT, "cannot create bridge br0", why, fix, host)) == text


@pytest.mark.parametrize("code", Code)
def test_an_error_crosses_to_the_provider(code: Code) -> None:
    """Every part arrives; the provider adds the host."""
    sent = json.loads(json.dumps(HostnetError(code, "what", "why", "fix").to_json()))
    error = HostnetError.from_json(sent, "root@192.0.2.2")
    assert error.code is code
    assert str(error) == "root@192.0.2.2: what: why. fix"
