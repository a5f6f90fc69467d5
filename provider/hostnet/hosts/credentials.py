"""How the provider authenticates: a private key, a password, an SSH agent. No message has a secret in it.

A private key is tried first, then the keys of `agentSocketPath`, then the password (also where the server asks for it
interactively). The SSH agent of the environment (SSH_AUTH_SOCK) is used only where the connection has none of these: a
program that says how to log in means that, and a server disconnects after a few wrong keys.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import asyncssh

from hostnet.hosts.connection import Connection
from hostnet.wire.errors import Code, HostnetError


class Credentials:
    """What a connection logs in with.

    Args:
        keys: Private keys, or an SSH agent's, in the order in which they are tried.
        password: The password.
        tried: Their names for the message where the server accepts none of them.
    """

    def __init__(self, keys: Sequence[asyncssh.SSHKeyPair], password: str | None, tried: Sequence[str]) -> None:
        self.keys, self.password, self.tried = keys, password, tried
        self.own: Sequence[asyncssh.SSHKeyPair] = ()  # of the keys, those that this process itself signs with
        self._agent: asyncssh.SSHAgentClient | None = None

    @classmethod
    async def of(cls, connection: Connection) -> Credentials:
        """Those of a connection.

        Raises:
            HostnetError: A key can't be read, or an SSH agent does not answer.
        """
        keys: list[asyncssh.SSHKeyPair] = []
        own: Sequence[asyncssh.SSHKeyPair] = ()
        tried: list[str] = []
        if connection.private_key is not None:
            keys += await asyncio.to_thread(_load, connection)
            own = tuple(keys)
            tried.append(f"the private key ({keys[0].get_algorithm()})")
        path = connection.agent_socket_path
        if path is None and connection.private_key is None and connection.password is None:
            path = os.environ.get("SSH_AUTH_SOCK") or None
        agent = None
        if path is not None:
            agent, held = await _agent_keys(connection, path)
            keys += held
            tried.append(f"{len(held)} keys of the SSH agent at {path}")
        if connection.password is not None:
            tried.append("the password")
        made = cls(keys, connection.password, tried)
        made._agent, made.own = agent, own
        return made

    def close(self) -> None:
        """Disconnect from the SSH agent."""
        if self._agent is not None:
            self._agent.close()

    def refused(self, connection: Connection) -> HostnetError:
        """The error where the server accepts none of them."""
        why = f"the server does not accept {' or '.join(self.tried)}"
        fix = f"Check connection.user, and that the server's authorized_keys or sshd_config allows {connection.user}"
        if not self.tried:
            why = "the connection has no credentials"
            fix = (
                "Set connection.privateKey, connection.password or connection.agentSocketPath, or start an SSH agent "
                "(SSH_AUTH_SOCK)"
            )
        return HostnetError(Code.PERMISSION, f"cannot log in as {connection.user}", why, fix, connection.label)


def _load(connection: Connection) -> Sequence[asyncssh.SSHKeyPair]:
    """The private key. Decrypting an OpenSSH key takes a moment on purpose (bcrypt)."""
    text = (connection.private_key or "").strip().replace("\r\n", "\n") + "\n"
    # asyncssh's own message is used to tell the cases apart, and never shown: it may quote the key.
    try:
        key = asyncssh.import_private_key(text, connection.private_key_password)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        why = "it is not a private key in OpenSSH or PEM format"
        if str(error).startswith("Passphrase must be specified"):
            why = "it is encrypted, and connection.privateKeyPassword is not set"
        elif isinstance(error, asyncssh.KeyEncryptionError) or "decrypt" in str(error):
            why = "connection.privateKeyPassword does not decrypt it"
        what = "cannot use connection.privateKey"
        raise HostnetError(Code.INVALID, what, why, "Correct the connection", connection.label) from None
    return asyncssh.load_keypairs([key])


async def _agent_keys(
    connection: Connection, path: str
) -> tuple[asyncssh.SSHAgentClient, Sequence[asyncssh.SSHKeyPair]]:
    agent = asyncssh.SSHAgentClient(path)
    try:
        await agent.connect()
        return agent, list(await agent.get_keys())
    except (OSError, ValueError) as error:
        agent.close()
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it does not list its keys"
        where = "connection.agentSocketPath" if connection.agent_socket_path else "SSH_AUTH_SOCK"
        what, fix = f"cannot use the SSH agent at {path}", f"Start it, or correct {where}"
        raise HostnetError(Code.PERMISSION, what, why, fix, connection.label) from None
