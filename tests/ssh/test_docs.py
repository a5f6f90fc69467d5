"""The messages in docs/servers.md are the real ones; `…` there stands for what differs from run to run."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hostnet.hosts.connection import Connection
from hostnet.wire.errors import HostnetError

from tests.ssh.test_reach import begin_first_boot
from tests.ssh.world import FAR_SERVER, JUMP, World, keygen
from tools.paths import CHECKOUT

_BLOCK = re.compile(r"^<!-- said: (\w+) -->\n```\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
# A message is one line; the document wraps it.
SAID: dict[str, str] = {
    name: " ".join(message.split()) for name, message in _BLOCK.findall((CHECKOUT / "docs" / "servers.md").read_text())
}


def refused(world: World) -> Connection:
    """A key that the server does not know."""
    world.server.start()
    return world.connection(private_key=keygen(world.directory / "other").read_text())


def nothing(world: World) -> Connection:
    """No key, no password, no agent."""
    world.server.start()
    return world.connection(private_key=None)


def encrypted(world: World) -> Connection:
    """A key without its password."""
    return world.connection(private_key=keygen(world.directory / "other", "ed25519", "sesame").read_text())


def unknown(world: World) -> Connection:
    """A server that is not in known_hosts."""
    world.server.start()
    return world.connection(host_key=None)


def changed(world: World) -> Connection:
    """A server that shows another key."""
    expected = world.server.host_key
    world.server.new_host_key()
    world.server.start()
    return world.connection(host_key=expected)


def down(world: World) -> Connection:
    """A server without an sshd."""
    return world.connection(dial_error_limit=3)


def silent(world: World) -> Connection:
    """No server."""
    return world.connection(host="192.0.2.77", dial_error_limit=2, per_dial_timeout=1)


def booting(world: World) -> Connection:
    """A server whose cloud-init does not end."""
    begin_first_boot(world)
    return world.connection(dial_error_limit=2)


def forwarding(world: World) -> Connection:
    """A jump host that is none."""
    jump = world.put_jump_between()
    jump.config += "AllowTcpForwarding no\n"
    jump.start()
    return world.connection(host=FAR_SERVER, proxy=world.connection(host=JUMP, host_key=jump.host_key))


def sudo(world: World) -> Connection:
    """A user who has to say a password."""
    world.server.sudoers("admin ALL=(root) ALL")
    world.server.start()
    return world.connection(user="admin")


def python(world: World) -> Connection:
    """A Debian without Python."""
    world.server.os_release("ID=debian\n")
    world.server.path("sh", "cat", "id")
    world.server.start()
    return world.connection()


CASES: tuple[Callable[[World], Connection], ...] = (
    *(refused, nothing, encrypted, unknown, changed, down, silent, booting, forwarding, sudo, python),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_what_is_said(world: World, case: Callable[[World], Connection]) -> None:
    """Word by word."""
    connection = case(world)
    with pytest.raises(HostnetError) as error:
        world.connect(connection)
    pattern = re.escape(SAID[case.__name__]).replace("…", r"[\w+/=]+(?: [\w+/=]+)?")
    assert re.fullmatch(pattern, str(error.value)), str(error.value)


def test_each_has_its_case() -> None:
    """No message in the document without a test."""
    assert set(SAID) == {case.__name__ for case in CASES}
