"""How a provider logs in, and that no message has a secret in it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from hostnet.hosts.connection import Connection
from hostnet.hosts.login import log_in
from hostnet.wire.errors import Code, HostnetError

from tests.ssh.world import PASSWORD, SERVER, World, keygen


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
@pytest.mark.parametrize("form", ["RFC4716", "PEM"])
@pytest.mark.parametrize("passphrase", ["", "sesame open"])
def test_a_private_key(up: World, kind: str, form: str, passphrase: str) -> None:
    """Keys as ssh-keygen makes them, in OpenSSH's form and (but for ed25519) in PEM, in the clear and encrypted."""
    if (kind, form) == ("ed25519", "PEM"):
        return  # ssh-keygen has no such thing
    key = keygen(up.directory / "other", kind, passphrase, "-m", form)
    up.authorize(key)
    greeting = up.connect(up.connection(private_key=key.read_text(), private_key_password=passphrase or None))
    assert greeting.process.pid


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The requests of each login (RFC 4252): each costs a round trip."""
    requests: list[int] = []
    send = asyncssh.SSHClientConnection.send_userauth_packet

    def counted(self: asyncssh.SSHClientConnection, kind: int, *rest: bytes, **options: Any) -> None:
        requests.append(kind)
        send(self, kind, *rest, **options)

    monkeypatch.setattr(asyncssh.SSHClientConnection, "send_userauth_packet", counted)
    return requests


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_a_login_with_a_key_asks_nothing(up: World, kind: str, asked: list[int]) -> None:
    """It signs at once: which ways there are, and whether the key would do, is learned from a refusal."""
    key = keygen(up.directory / "other", kind)
    up.authorize(key)
    up.connect(up.connection(private_key=key.read_text()))
    assert len(asked) == 1


def test_a_key_that_is_refused_and_a_password(up: World) -> None:
    """The refusal says that a password is the next way."""
    other = keygen(up.directory / "other").read_text()
    assert up.connect(up.connection(user="admin", private_key=other, password=PASSWORD)).process.pid


def test_a_pkcs8_key_with_windows_line_ends(up: World) -> None:
    """What an editor or a secret store made of a key is a key still."""
    key = keygen(up.directory / "other", "rsa", "", "-m", "PKCS8")
    up.authorize(key)
    assert up.connect(up.connection(private_key=key.read_text().strip().replace("\n", "\r\n")))


@pytest.mark.parametrize(
    ("password", "why"),
    [(None, "connection.privateKeyPassword is not set"), ("wrong word", "does not decrypt it")],
)
@pytest.mark.parametrize("form", ["RFC4716", "PEM"])
def test_an_encrypted_key_that_does_not_open(world: World, form: str, password: str | None, why: str) -> None:
    """It is said before anything is sent, without a word of the key or of its password."""
    key = keygen(world.directory / "other", "rsa", "sesame open", "-m", form)
    connection = world.connection(private_key=key.read_text(), private_key_password=password)
    with pytest.raises(HostnetError, match=why) as error:
        world.connect(connection)
    assert error.value.code is Code.INVALID
    tells_nothing(error.value, connection)


def test_what_is_no_key(world: World) -> None:
    """A private key must be one."""
    text = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0IHRleHQ=\n-----END OPENSSH PRIVATE KEY-----\n"
    connection = world.connection(private_key=text)
    with pytest.raises(HostnetError, match="not a private key") as error:
        world.connect(connection)
    assert error.value.code is Code.INVALID
    tells_nothing(error.value, connection)


def test_a_key_that_the_host_does_not_know(up: World) -> None:
    """It is said which key was offered by its kind, and the host is not asked again: one login was tried."""
    connection = up.connection(private_key=keygen(up.directory / "other").read_text())
    with pytest.raises(HostnetError, match="does not accept the private key") as error:
        up.connect(connection)
    assert error.value.code is Code.PERMISSION
    assert error.value.host == f"root@{SERVER}"
    assert up.said == []
    tells_nothing(error.value, connection)


def test_a_password(up: World) -> None:
    """OpenSSH's own password login, and sudo for the user who is not root."""
    assert up.connect(up.connection(user="admin", private_key=None, password=PASSWORD))


def test_a_wrong_password(up: World) -> None:
    """Refused once, and not shown."""
    connection = up.connection(user="admin", private_key=None, password="opened by nobody")  # noqa: S106 - a wrong one
    with pytest.raises(HostnetError, match="does not accept the password") as error:
        up.connect(connection)
    assert error.value.code is Code.PERMISSION
    tells_nothing(error.value, connection)


def test_a_password_that_is_asked_for_interactively(world: World, home: Path) -> None:
    """Servers with PAM often ask for the password in a dialogue instead (keyboard-interactive)."""
    assert world.run(lambda: _interactive(PASSWORD)) == "admin"
    with pytest.raises(HostnetError, match="does not accept the password"):
        world.run(lambda: _interactive("something else"))


class _Asks(asyncssh.SSHServer):
    """A server that knows keyboard-interactive alone. OpenSSH's needs PAM, and so the machine's users, for it."""

    def kbdint_auth_supported(self) -> bool:
        """Yes."""
        return True

    def get_kbdint_challenge(
        self, username: str, lang: str, submethods: str
    ) -> tuple[str, str, str, list[tuple[str, bool]]]:
        """Ask as PAM does."""
        del username, submethods
        return "", "", lang, [("Password: ", False)]

    def validate_kbdint_response(self, username: str, responses: Sequence[str]) -> bool:
        """Compare."""
        return username == "admin" and list(responses) == [PASSWORD]


async def _interactive(password: str) -> str:
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.listen("127.0.0.1", 2222, server_factory=_Asks, server_host_keys=[key])
    async with server:
        public = key.export_public_key().decode()
        connection = Connection(host="127.0.0.1", port=2222, user="admin", password=password, host_key=public)
        login = await log_in(connection, None)
        name = str(login.get_extra_info("username"))
        login.close()
        await login.wait_closed()
    return name


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    """A real ssh-agent, empty; gives its socket."""
    socket = tmp_path / "agent.sock"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "SSH_AUTH_SOCK" in process.stdout.readline()
    yield socket
    process.terminate()
    process.wait()


def add(agent: Path, key: Path) -> None:
    """Give an agent a key."""
    env = {**os.environ, "SSH_AUTH_SOCK": str(agent)}
    subprocess.run(["ssh-add", "-q", str(key)], check=True, env=env)


def test_an_agent(up: World, agent: Path) -> None:
    """The right key among several."""
    add(agent, keygen(up.directory / "other"))
    add(agent, up.key)
    assert up.connect(up.connection(private_key=None, agent_socket_path=str(agent)))


def test_the_agent_of_the_environment(up: World, agent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked where the connection says nothing else, and not where it does."""
    add(agent, up.key)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
    assert up.connect(up.connection(private_key=None))
    with pytest.raises(HostnetError, match="does not accept the private key"):
        up.connect(up.connection(private_key=keygen(up.directory / "other").read_text()))


def test_an_agent_that_is_not_there(world: World) -> None:
    """It is named."""
    path = str(world.directory / "none.sock")
    with pytest.raises(HostnetError, match=r"cannot use the SSH agent at .*none\.sock") as error:
        world.connect(world.connection(private_key=None, agent_socket_path=path))
    assert error.value.code is Code.PERMISSION


def test_nothing_to_log_in_with(up: World) -> None:
    """What could be set is said."""
    with pytest.raises(HostnetError, match=r"no credentials.*privateKey, .*password or .*agentSocketPath"):
        up.connect(up.connection(private_key=None))


def test_the_persons_own_configuration_does_not_count(up: World, home: Path) -> None:
    """Neither ~/.ssh/config nor ~/.ssh/id_* has a part: a program means the same wherever it runs."""
    (home / ".ssh" / "config").write_text(f"Host *\n  Hostname 192.0.2.99\n  IdentityFile {up.key}\n")
    (home / ".ssh" / "id_ed25519").write_text(up.key.read_text())
    assert up.connect()
    with pytest.raises(HostnetError, match="has no credentials"):
        up.connect(up.connection(private_key=None))


def tells_nothing(error: HostnetError, connection: Connection) -> None:
    """No secret in a message, nor in what a traceback shows of a connection."""
    shown = f"{error} {error!r} {connection!r} {error.to_json()} {error.__cause__!r}"
    for secret in (connection.private_key, connection.private_key_password, connection.password):
        if secret:
            for line in secret.splitlines():
                assert not line or line.startswith("-----") or line not in shown
