"""How we prove who we are: a private key, a password, an SSH agent. No secret gets into a message.

A private key is tried first, then the keys of `agentSocketPath`, then the password (also where the server asks for it
interactively). The agent that the environment names (SSH_AUTH_SOCK) is asked only where the connection gives none of
these: a program that says how to log in means that, and a server closes the door after a few wrong keys.
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

    :param keys: private keys, or an agent's, in the order in which they are tried.
    :param password: the password.
    :param tried: what there is, for the message where none of it is accepted.
    """

    def __init__(self, keys: Sequence[asyncssh.SSHKeyPair], password: str | None, tried: Sequence[str]) -> None:
        self.keys, self.password, self.tried = keys, password, tried
        self._agent: asyncssh.SSHAgentClient | None = None

    @classmethod
    async def of(cls, connection: Connection) -> Credentials:
        """Those of a connection.

        :raises HostnetError: for a key that can't be read, or an agent that does not answer.
        """
        keys: list[asyncssh.SSHKeyPair] = []
        tried: list[str] = []
        if connection.private_key is not None:
            keys += await asyncio.to_thread(_load, connection)
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
        made._agent = agent
        return made

    def close(self) -> None:
        """Let go of the SSH agent."""
        if self._agent is not None:
            self._agent.close()

    def refused(self, connection: Connection) -> HostnetError:
        """The error where the host accepts nothing of it."""
        why = f"it accepts neither of: {', '.join(self.tried)}" if len(self.tried) > 1 else ""
        if len(self.tried) == 1:
            why = f"it does not accept {self.tried[0]}"
        fix = f"Check connection.user, and that the host's authorized_keys (or sshd_config) allow {connection.user} in"
        if not self.tried:
            why = "the connection has nothing to log in with"
            fix = "Set connection.privateKey, password or agentSocketPath, or start an SSH agent (SSH_AUTH_SOCK)"
        return HostnetError(Code.PERMISSION, f"can't log in as {connection.user}", why, fix, connection.label)


def _load(connection: Connection) -> Sequence[asyncssh.SSHKeyPair]:
    """The private key. Deciphering an OpenSSH key takes a moment on purpose (bcrypt)."""
    text = (connection.private_key or "").strip().replace("\r\n", "\n") + "\n"
    # What asyncssh says is not passed on, but for what it is about: it may quote the key.
    try:
        key = asyncssh.import_private_key(text, connection.private_key_password)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        why = "it is no private key in OpenSSH or PEM format"
        if str(error).startswith("Passphrase must be specified"):
            why = "it is encrypted, and there is no connection.privateKeyPassword"
        elif isinstance(error, asyncssh.KeyEncryptionError) or "decrypt" in str(error):
            why = "connection.privateKeyPassword does not open it"
        raise HostnetError(
            Code.INVALID, "connection.privateKey can't be used", why, "Correct the connection", connection.label
        ) from None
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
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it gives no list of its keys"
        where = "connection.agentSocketPath" if connection.agent_socket_path else "SSH_AUTH_SOCK"
        raise HostnetError(
            Code.PERMISSION,
            f"the SSH agent at {path} does not answer",
            why,
            f"Start it, or correct {where}",
            connection.label,
        ) from None
