"""Which key a host must show, and what to say where it shows another.

A host's key is always checked: against `hostKey`, else against known_hosts as OpenSSH reads it (hashed entries,
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
class Trust:
    """The keys that a host may show.

    :param keys: they themselves.
    :param authorities: keys that may have signed a host's certificate.
    :param revoked: keys that it must not show.
    :param source: where they come from, for messages.
    """

    keys: Sequence[asyncssh.SSHKey] = ()
    authorities: Sequence[asyncssh.SSHKey] = ()
    revoked: Sequence[asyncssh.SSHKey] = field(default=())
    source: str = ""

    @property
    def algorithms(self) -> list[str]:
        """In what order to ask for the host's keys: first the kinds that we would know it by.

        The others follow: a host that has none of those shows its key, and the error can say which it is.
        """
        first = [name for key in self.keys for name in key.sig_algorithms]
        if self.authorities:
            first = [*get_default_certificate_algs(), *first]
        return [name.decode() for name in dict.fromkeys([*first, *get_default_public_key_algs()])]


def known_hosts_files() -> list[Path]:
    """The user's known_hosts and the machine's."""
    return [Path("~/.ssh/known_hosts").expanduser(), SYSTEM_KNOWN_HOSTS]


def trust(connection: Connection) -> Trust:
    """What is known of a host.

    :raises HostnetError: for a `hostKey` or a known_hosts that can't be read.
    """
    if connection.host_key is not None:
        return Trust(_parse(connection), source="connection.hostKey")
    text = "".join(_text(path, connection) for path in known_hosts_files())
    try:
        known = asyncssh.import_known_hosts(text)
        port = None if connection.port == _SSH_PORT else connection.port
        keys, authorities, revoked, *_ = known.match(connection.host or "", "", port)
    except ValueError:
        raise HostnetError(
            Code.INVALID,
            "the host's key can't be checked",
            "a line of known_hosts is malformed",
            f"Look at {' and '.join(map(str, known_hosts_files()))}, or set connection.hostKey",
            connection.label,
        ) from None
    return Trust(keys, authorities, revoked, "known_hosts")


def unknown(connection: Connection, key: asyncssh.SSHKey, trusted: Trust) -> HostnetError:
    """The error for a key that is not the host's, as far as we know."""
    shown = f"{_algorithm(key)} {key.get_fingerprint()}"
    line = f"{_pattern(connection)} {_public(key)}"
    look = f"`ssh-keygen -lf {_file(key)}` on the host itself"
    if not trusted.keys:
        return HostnetError(
            Code.PERMISSION,
            "the host's key is not known",
            f"it shows {shown}",
            f"Compare with {look}; if it is the same, set connection.hostKey to `{_public(key)}`, or add this line to "
            f"~/.ssh/known_hosts: `{line}`",
            connection.label,
        )
    expected = ", ".join(f"{_algorithm(one)} {one.get_fingerprint()}" for one in trusted.keys)
    instead = f"set connection.hostKey to `{_public(key)}`"
    if trusted.source == "known_hosts":
        instead = (
            f"take out the old line (`ssh-keygen -R '{_pattern(connection)}'`) and add this one to "
            f"~/.ssh/known_hosts: `{line}`"
        )
    return HostnetError(
        Code.PERMISSION,
        "the host's key has changed, or somebody is in between",
        f"it shows {shown}; {trusted.source} has {expected}",
        f"Compare with {look}; only if it is the same (a host that was made anew has a new key), {instead}",
        connection.label,
    )


def unacceptable(connection: Connection, why: str) -> HostnetError:
    """The error for a key or certificate that is refused whatever we know (revoked, expired)."""
    return HostnetError(
        Code.PERMISSION, "the host's key is refused", why, "Give the host a new key, or correct known_hosts",
        connection.label,
    )  # fmt: skip


def _parse(connection: Connection) -> list[asyncssh.SSHKey]:
    lines = (line.strip() for line in (connection.host_key or "").splitlines())
    try:
        return [asyncssh.import_public_key(line) for line in lines if line and not line.startswith("#")]
    except asyncssh.KeyImportError:
        raise HostnetError(
            Code.INVALID,
            "connection.hostKey can't be read",
            "it is no public key in authorized_keys format",
            "Take the line of the host's /etc/ssh/ssh_host_ed25519_key.pub, or what `ssh-keyscan` prints, without the "
            "host's name at the front",
            connection.label,
        ) from None


def _text(path: Path, connection: Connection) -> str:
    try:
        return path.read_text(errors="replace") + "\n"
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise HostnetError(
            Code.PERMISSION, f"{path} can't be read", error.strerror or "", "Mend it, or set connection.hostKey",
            connection.label,
        ) from None  # fmt: skip


def _pattern(connection: Connection) -> str:
    """The host as known_hosts writes it."""
    return f"{connection.host}" if connection.port == _SSH_PORT else f"[{connection.host}]:{connection.port}"


def _algorithm(key: asyncssh.SSHKey) -> str:
    return key.algorithm.decode()


def _public(key: asyncssh.SSHKey) -> str:
    """A key as authorized_keys has it, without a comment."""
    return " ".join(key.export_public_key().decode().split()[:2])


def _file(key: asyncssh.SSHKey) -> str:
    """Where OpenSSH keeps a host's key of this kind."""
    kind = _algorithm(key).removeprefix("ssh-").split("-")[0]
    return f"/etc/ssh/ssh_host_{kind}_key.pub"
