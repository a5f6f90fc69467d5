"""One server by two names: to Pulumi another `connection.host` is another host, and what is there is made again.

The server is 192.0.2.2 and 192.0.2.22.
"""

from __future__ import annotations

from functools import partial

import pytest

from tests.ssh.world import SERVER, World, bridge, removal

OTHER = "192.0.2.22"


@pytest.mark.parametrize(
    ("steps", "there"),
    [
        pytest.param(
            [("create", SERVER), ("create", OTHER), ("delete", SERVER), ("delete", OTHER)],
            [True, True, True, False],
            id="moved to another name and destroyed",
        ),
        pytest.param(
            [("create", SERVER), ("create", OTHER), ("delete", OTHER)],
            [True, True, False],
            id="the old name is dead, and its resource was forgotten (deleteUnreachable)",
        ),
        pytest.param(
            [("create", SERVER), ("create", OTHER), ("create", SERVER), ("delete", OTHER), ("delete", SERVER)],
            [True, True, True, True, False],
            id="moved back, with the first delete still to come",
        ),
        pytest.param(
            [("create", SERVER), ("update", OTHER), ("delete", OTHER)],
            [True, True, False],
            id="the name was changed in the state by hand",
        ),
        pytest.param(
            [("create", SERVER), ("delete", SERVER), ("create", OTHER), ("delete", OTHER)],
            [True, False, True, False],
            id="deleted before it is made again",
        ),
    ],
)
def test_what_is_made_again_by_another_name(up: World, steps: list[tuple[str, str]], there: list[bool]) -> None:
    """The delete that follows is about the old name, and takes nothing away; one by the new name does."""
    up.server.namespace.ip(f"address add {OTHER}/24 dev eth0")

    async def one(step: str, host: str) -> bool:
        # A provider process each: what they know of each other is on the server.
        session = up.session(up.connection(host=host))
        if step == "delete":
            await session.apply(removal("br0"))
        else:
            await session.apply(bridge("br0", known=step == "update"))
        await session.close()
        return "br0" in up.server.bridges()

    assert [up.run(partial(one, *step)) for step in steps] == there
