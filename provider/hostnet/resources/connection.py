"""How a host is reached: the `connection` of every resource, and the provider's own configuration.

No reason given here ever quotes a value: a mistyped password in the wrong property would be printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hostnet.hosts.connection import Settings
from hostnet.resources.schema.kind import UNKNOWN, Checked, Difference, Inputs, Value
from hostnet.resources.schema.model import Changes, Declared, Record, Report, Type, compare_items, join, prop
from hostnet.resources.schema.types import (
    PORT_MAX,
    AbsolutePath,
    Bool,
    Choice,
    HostAddress,
    HostKey,
    Int,
    NetnsName,
    Number,
    PrivateKey,
    Text,
)

DELETE_UNREACHABLE_ENV = "HOSTNET_DELETE_UNREACHABLE"
_NEED_HOST = (
    "port", "user", "password", "privateKey", "privateKeyPassword", "agentSocketPath", "hostKey",
    "insecureIgnoreHostKey", "proxy", "dialErrorLimit", "perDialTimeout",
)  # fmt: skip
# With any of these another host or another namespace is meant: old and new can't clash.
ELSEWHERE = frozenset({"connection", "connection.host", "connection.netns"})


class _ConnectionType(Record[Any]):
    """A connection: its values are never quoted."""

    def check(self, value: Value, path: str, report: Report) -> Value:
        """See `Type`."""
        with report:
            return super().check(value, path, report)


class _Proxy(Type):
    """A connection inside a connection: resolved late, because the class that holds it is not there yet."""

    label = "Connection"

    def check(self, value: Value, path: str, report: Report) -> Value:
        """See `Type`."""
        judged = CONNECTION.check(value, path, report)
        if isinstance(judged, Mapping):
            for name in ("proxy", "netns", "sudo"):
                if judged.get(name) is not None:
                    report.fail(join(path, name), "is not for a proxy: it is one jump, and nothing is done on it")
            if judged.get("host") is None:
                report.fail(join(path, "host"), "is required for a proxy")
        return judged

    def canonical(self, value: Value) -> Value:
        """See `Type`."""
        return CONNECTION.canonical(value)

    def compare(self, old: Value, new: Value, path: str, changes: Changes) -> None:
        """See `Type`."""
        CONNECTION.compare(old, new, path, changes)

    def schema(self, types: dict[str, Value]) -> dict[str, Value]:
        """See `Type`."""
        return CONNECTION.schema(types)


class ConnectionInputs(Declared):
    """How a host is reached. Empty: this machine."""

    host: str | None = prop(
        HostAddress(), "The host's name or address.", default_doc="this machine, without SSH", replaces=True
    )
    port: int = prop(Int(1, PORT_MAX), "The SSH server's port.", default=22)
    user: str = prop(Text(), "The user to log in as.", default="root")
    password: str | None = prop(Text(), "The user's password.", secret=True)
    private_key: str | None = prop(PrivateKey(), "The private key's text, not its path.", secret=True)
    private_key_password: str | None = prop(Text(), "What the private key is encrypted with.", secret=True)
    agent_socket_path: str | None = prop(AbsolutePath(), "The SSH agent's socket.", default_doc="`SSH_AUTH_SOCK`")
    host_key: str | None = prop(
        HostKey(),
        "The host's public key, in authorized_keys format. Any other key is an error.",
        default_doc="known_hosts decides",
    )
    insecure_ignore_host_key: bool = prop(
        Bool(), "Accept whatever key the host shows. Whoever is in between reads and changes all.", default=False
    )
    proxy: ConnectionInputs | None = prop(_Proxy(), "A host to jump through; one jump.")
    dial_error_limit: int = prop(
        Int(-1, note="-1: unlimited"),
        "How often to try while a new server boots. -1: without limit. A preview tries once; a refresh and a delete, "
        "which are of a server that was there, three times at most.",
        default=10,
    )
    per_dial_timeout: float = prop(Number(), "How long one try may take.", unit="s", default=15)
    sudo: bool | None = prop(Bool(), "Become root with sudo.", default_doc="true where the user is not root")
    netns: str | None = prop(
        NetnsName(),
        "A named network namespace of the host (`ip netns`) to work in.",
        default_doc="the host's own network",
        replaces=True,
    )


def _connection_rules(judged: dict[str, Value], path: str, report: Report) -> None:
    """Never fall back to this machine: whoever says how to log in has another one in mind."""
    if judged["host"] is not None:
        return
    given = [name for name in _NEED_HOST if judged[name] is not None]
    if given:
        names = ", ".join(given)
        report.fail(join(path, "host"), f"is required beside {names}: without it, this machine would be changed")


CONNECTION: Record[ConnectionInputs] = _ConnectionType(
    ConnectionInputs, "hostnet:index:Connection", rules=_connection_rules
)


def connection_prop() -> Any:
    """The `connection` of a resource or function."""
    return prop(
        CONNECTION,
        "How to reach the host.",
        default_doc="the provider's `connection`, else this machine",
        effect="None. A change of `host` or `netns` replaces the resource, created on the new host first; any other "
        "change is an update that touches nothing on the host.",
    )


def compare_connections(old: Value, new: Value) -> dict[str, str]:
    """What differs in meaning; host and namespace replace. Absent is this machine."""
    changes: Changes = {}
    if old is UNKNOWN or new is UNKNOWN:
        return {} if old is new else {"connection": "update-replace"}
    compare_items(CONNECTION, old or {}, new or {}, "connection", changes)
    return changes


class ProviderInputs(Declared):
    """The provider's configuration."""

    connection: ConnectionInputs | None = prop(
        CONNECTION, "The host of every resource that names none itself.", default_doc="this machine"
    )
    delete_unreachable: bool = prop(
        Bool(),
        "Deleting on a host that is gone succeeds with a warning; otherwise it is an error. Also: environment "
        f"variable `{DELETE_UNREACHABLE_ENV}`.",
        default=False,
    )
    persist: str = prop(
        Choice("auto", "always", "never"),
        "Whether the network comes back after a reboot of the host. `auto`: where systemd runs.",
        default="auto",
    )
    confirm_timeout: float = prop(
        Number(),
        "How long the host waits to be told that a change did not cut us off before it undoes the change.",
        unit="s",
        default=30,
    )
    state_dir: str = prop(
        AbsolutePath(),
        "Where the host keeps the record of what it should have. Different directories are different owners.",
        default="/var/lib/hostnet",
    )


class _ProviderType(Record[ProviderInputs]):
    """The provider's configuration: its values are never quoted either."""

    def check(self, value: Value, path: str, report: Report) -> Value:
        """See `Type`."""
        with report:
            return super().check(value, path, report)


PROVIDER: Record[ProviderInputs] = _ProviderType(ProviderInputs)
_ENGINE_KEYS = frozenset({"version", "pluginDownloadURL", "__internal"})  # the engine's own, beside ours


def decode_config(inputs: Inputs) -> dict[str, Value]:
    """The configuration as values: Pulumi hands over what is no string as JSON text."""
    out: dict[str, Value] = {}
    for name, value in inputs.items():
        about = PROVIDER.properties.get(name)
        if name in _ENGINE_KEYS or value is None:
            continue
        out[name] = about.type.from_text(value) if about and isinstance(value, str) else value
    return out


def check_config(inputs: Inputs) -> Checked:
    """All failures of the provider's configuration; nothing is added to it."""
    report = Report()
    PROVIDER.check(decode_config(inputs), "", report)
    return Checked(dict(inputs), tuple(report.failures))


def diff_config(old: Inputs, new: Inputs) -> Difference:
    """A change of the default connection's host or namespace replaces the provider, and so what it made."""
    left, right = decode_config(old), decode_config(new)
    changes = compare_connections(left.get("connection"), right.get("connection"))
    for name in PROVIDER.properties:
        if name != "connection":
            PROVIDER.compare_property(name, left, right, "", changes)
    return Difference(changes)


def parse_config(inputs: Inputs, environ: Mapping[str, str] | None = None) -> tuple[dict[str, Value] | None, Settings]:
    """The default connection (as inputs) and the settings, from a checked configuration.

    Args:
        inputs: the configuration.
        environ: the process's environment, for `HOSTNET_DELETE_UNREACHABLE`.
    """
    values = decode_config(inputs)
    typed = PROVIDER.typed({name: value for name, value in values.items() if name != "connection"})
    opted = (environ or {}).get(DELETE_UNREACHABLE_ENV, "").strip().lower() in {"1", "true", "yes", "on"}
    connection = values.get("connection")
    return connection, Settings(
        delete_unreachable=typed.delete_unreachable or (opted and values.get("deleteUnreachable") is None),
        persist=typed.persist,
        confirm_timeout=typed.confirm_timeout,
        state_dir=typed.state_dir,
    )
