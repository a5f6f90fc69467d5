"""The `connection` that every kind has: how a host is reached.

No failure here quotes a value: a password in the wrong property would be printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from hostnet.hosts.connection import Connection
from hostnet.resources.schema.model import Changes, Declared, Record, Report, Type, compare_items, join, prop
from hostnet.resources.schema.types import (
    PORT_MAX,
    AbsolutePath,
    Bool,
    HostAddress,
    HostKey,
    Int,
    NetnsName,
    Number,
    PrivateKey,
    Text,
    UserName,
)
from hostnet.resources.schema.values import UNKNOWN, Value

T = TypeVar("T", bound=Declared)

_DEFAULTS = Connection()

_NEED_HOST = (
    "port", "user", "password", "privateKey", "privateKeyPassword", "agentSocketPath", "hostKey",
    "insecureIgnoreHostKey", "proxy", "dialErrorLimit", "perDialTimeout",
)  # fmt: skip
# A change of any of these means another host or namespace: the old and the new resource can't clash.
ELSEWHERE = frozenset({"connection", "connection.host", "connection.netns"})


class QuietRecord(Record[T]):
    """A record whose values no failure quotes."""

    def check(self, value: Value, path: str, report: Report) -> Value:
        """Check without quoting a value in any failure."""
        with report:
            return super().check(value, path, report)


class _Proxy(Type):
    """A connection inside a connection; `CONNECTION` is looked up late, because its own declaration refers to it."""

    label = "Connection"

    def check(self, value: Value, path: str, report: Report) -> Value:
        """Check a connection that is a jump host."""
        judged = CONNECTION.check(value, path, report)
        if isinstance(judged, Mapping):
            for name in ("proxy", "netns", "sudo"):
                if judged.get(name) is not None:
                    report.fail(
                        join(path, name), "must not be given for a proxy: hostnet only jumps through it, and once"
                    )
            if judged.get("host") is None:
                report.fail(join(path, "host"), "is required for a proxy")
        return judged

    def canonical(self, value: Value) -> Value:
        """A connection's canonical value."""
        return CONNECTION.canonical(value)

    def compare(self, old: Value, new: Value, path: str, changes: Changes) -> None:
        """Compare two connections."""
        CONNECTION.compare(old, new, path, changes)

    def schema(self, types: dict[str, Value]) -> dict[str, Value]:
        """The connection's own type."""
        return CONNECTION.schema(types)


class ConnectionInputs(Declared):
    """How a host is reached. Without `host` it is this machine."""

    host: str | None = prop(
        HostAddress(), "The host's name or address.", default_doc="this machine, without SSH", replaces=True
    )
    port: int = prop(Int(1, PORT_MAX), "The SSH server's port.", default=_DEFAULTS.port)
    user: str = prop(UserName(), "The user that logs in.", default=_DEFAULTS.user)
    password: str | None = prop(Text(), "The user's password.", secret=True)
    private_key: str | None = prop(PrivateKey(), "The private key's text, not its path.", secret=True)
    private_key_password: str | None = prop(Text(), "The passphrase of the private key.", secret=True)
    agent_socket_path: str | None = prop(
        AbsolutePath(), "The socket of an SSH agent.", default_doc="`SSH_AUTH_SOCK` of the environment"
    )
    host_key: str | None = prop(
        HostKey(),
        "The host's public key, in the format of authorized_keys. Any other key is an error.",
        default_doc="the key in `known_hosts`",
    )
    insecure_ignore_host_key: bool = prop(
        Bool(),
        "Accepts any host key. An attacker between this machine and the host can then read and change everything.",
        default=_DEFAULTS.insecure_ignore_host_key,
    )
    proxy: ConnectionInputs | None = prop(_Proxy(), "A jump host through which the connection goes.")
    dial_error_limit: int = prop(
        Int(-1, note="-1: unlimited"),
        "How often hostnet tries to connect while a new server boots. -1: without limit. A preview tries once. A "
        "refresh and a delete try at most three times, because their server has existed before.",
        default=_DEFAULTS.dial_error_limit,
    )
    per_dial_timeout: float = prop(
        Number(), "How long one attempt to connect may take.", unit="s", default=_DEFAULTS.per_dial_timeout
    )
    sudo: bool | None = prop(Bool(), "Uses sudo to become root.", default_doc="true if the user is not root")
    netns: str | None = prop(
        NetnsName(),
        "The named network namespace of the host (`ip netns`) to work in.",
        default_doc="the host's own network",
        replaces=True,
    )


def _connection_rules(judged: dict[str, Value], path: str, report: Report) -> None:
    """Never fall back to this machine: a program that says how to log in means another one."""
    if judged["host"] is not None:
        return
    given = [name for name in _NEED_HOST if judged[name] is not None]
    if given:
        names = ", ".join(given)
        report.fail(join(path, "host"), f"is required with {names}: without a host, hostnet would change this machine")


CONNECTION: Record[ConnectionInputs] = QuietRecord(
    ConnectionInputs, "hostnet:index:Connection", rules=_connection_rules
)


def connection_prop() -> Any:
    """The `connection` of a resource or function."""
    return prop(
        CONNECTION,
        "How the host is reached.",
        default_doc="the provider's `connection`, or this machine",
        effect="Nothing changes. If `host` or `netns` changes, the resource is replaced: it is created on the new host "
        "first.",
    )


def compare_connections(old: Value, new: Value) -> dict[str, str]:
    """What differs in meaning; host and namespace replace. Absent is this machine."""
    changes: Changes = {}
    if old is UNKNOWN or new is UNKNOWN:
        return {} if old is new else {"connection": "update-replace"}
    compare_items(CONNECTION, old or {}, new or {}, "connection", changes)
    return changes
