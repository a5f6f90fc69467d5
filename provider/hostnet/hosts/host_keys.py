"""Which host key a server must present, and what to say where it presents another.

The host key is always checked: against `hostKey`, else against known_hosts as OpenSSH reads it (hashed entries,
`[host]:port`, revoked keys, certificate authorities). Nothing is ever added to known_hosts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh
from asyncssh.public_key import get_default_certificate_algs, get_default_public_key_algs

from hostnet.hosts.connection import Connection
from hostnet.wire.errors import Code, HostnetError

SYSTEM_KNOWN_HOSTS = Path("/etc/ssh/ssh_known_hosts")
_SSH_PORT = 22


@dataclass(frozen=True)
class Trusted:
    """The host keys that a server may present.

    Args:
        keys: The keys themselves.
        authorities: Keys that may have signed a host's certificate.
        revoked: Keys that it must not present.
        source: Where they come from, for messages.
    """

    keys: Sequence[asyncssh.SSHKey] = ()
    authorities: Sequence[asyncssh.SSHKey] = ()
    revoked: Sequence[asyncssh.SSHKey] = field(default=())
    source: str = ""

    @property
    def algorithms(self) -> list[str]:
        """In what order to ask for the host's keys: first the algorithms of the trusted keys.

        The others follow: a host that has none of those presents a key all the same, and the error can name it.
        """
        first = [name for key in self.keys for name in key.sig_algorithms]
        if self.authorities:
            first = [*get_default_certificate_algs(), *first]
        return [name.decode() for name in dict.fromkeys([*first, *get_default_public_key_algs()])]


def known_hosts_files() -> list[Path]:
    """The user's known_hosts and the machine's."""
    return [Path("~/.ssh/known_hosts").expanduser(), SYSTEM_KNOWN_HOSTS]


def trusted_keys(connection: Connection) -> Trusted:
    """The host keys that a connection trusts.

    Raises:
        HostnetError: `hostKey` or known_hosts can't be read.
    """
    if connection.host_key is not None:
        return Trusted(_parse(connection), source="connection.hostKey")
    text = "".join(_text(path, connection) for path in known_hosts_files())
    try:
        known = asyncssh.import_known_hosts(text)
        port = None if connection.port == _SSH_PORT else connection.port
        keys, authorities, revoked, *_ = known.match(connection.host or "", "", port)
    except ValueError:
        raise HostnetError(
            Code.INVALID,
            "cannot check the host key",
            "a line of known_hosts is malformed",
            f"Correct {' or '.join(map(str, known_hosts_files()))}, or set connection.hostKey",
            connection.label,
        ) from None
    return Trusted(keys, authorities, revoked, "known_hosts")


def untrusted(connection: Connection, key: asyncssh.SSHKey, trusted: Trusted) -> HostnetError:
    """The error for a key that is not among the trusted ones."""
    compare = f"Compare it with the output of `ssh-keygen -lf {_file(key)}` on the host itself"
    line = f"{_pattern(connection)} {_public(key)}"
    if not trusted.keys:
        return HostnetError(
            Code.PERMISSION,
            "unknown host key",
            f"the server presented {_shown(key)}, which is not in known_hosts",
            f"{compare}. If they match, set connection.hostKey to `{_public(key)}`, or add this line to "
            f"~/.ssh/known_hosts: `{line}`",
            connection.label,
        )
    replace = f"set connection.hostKey to `{_public(key)}`"
    if trusted.source == "known_hosts":
        replace = (
            f"remove the old line (`ssh-keygen -R '{_pattern(connection)}'`) and add this one to "
            f"~/.ssh/known_hosts: `{line}`"
        )
    return HostnetError(
        Code.PERMISSION,
        "host key mismatch",
        f"the server presented {_shown(key)}, {trusted.source} expects {', '.join(map(_shown, trusted.keys))}",
        f"The key was changed, or the connection is being intercepted. {compare}. Only if they match (a reinstalled "
        f"host has a new key), {replace}",
        connection.label,
    )


def refused(connection: Connection, why: str) -> HostnetError:
    """The error for a key or certificate that is refused whatever is trusted (revoked, expired)."""
    fix = "Give the host a new key, or correct known_hosts"
    return HostnetError(Code.PERMISSION, "host key refused", why, fix, connection.label)


def _parse(connection: Connection) -> list[asyncssh.SSHKey]:
    lines = (line.strip() for line in (connection.host_key or "").splitlines())
    try:
        return [asyncssh.import_public_key(line) for line in lines if line and not line.startswith("#")]
    except asyncssh.KeyImportError:
        raise HostnetError(
            Code.INVALID,
            "cannot use connection.hostKey",
            "it is not a public key in authorized_keys format",
            "Use the line of the host's /etc/ssh/ssh_host_ed25519_key.pub, or a line that `ssh-keyscan` prints without "
            "the host name in front",
            connection.label,
        ) from None


def _text(path: Path, connection: Connection) -> str:
    try:
        return path.read_text(errors="replace") + "\n"
    except FileNotFoundError:
        return ""
    except OSError as error:
        fix = "Make it readable, or set connection.hostKey"
        what, why = f"cannot read {path}", error.strerror or ""
        raise HostnetError(Code.PERMISSION, what, why, fix, connection.label) from None


def _pattern(connection: Connection) -> str:
    """The host as known_hosts writes it."""
    return f"{connection.host}" if connection.port == _SSH_PORT else f"[{connection.host}]:{connection.port}"


def _shown(key: asyncssh.SSHKey) -> str:
    """A key as messages show it: its fingerprint, as `ssh-keygen -l` prints it, and its algorithm."""
    return f"{key.get_fingerprint()} ({_algorithm(key)})"


def _algorithm(key: asyncssh.SSHKey) -> str:
    return key.algorithm.decode()


def _public(key: asyncssh.SSHKey) -> str:
    """A key as authorized_keys has it, without a comment."""
    return " ".join(key.export_public_key().decode().split()[:2])


def _file(key: asyncssh.SSHKey) -> str:
    """Where OpenSSH keeps a host's key of this kind."""
    kind = _algorithm(key).removeprefix("ssh-").split("-")[0]
    return f"/etc/ssh/ssh_host_{kind}_key.pub"
