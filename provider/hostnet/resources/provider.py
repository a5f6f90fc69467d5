"""The provider's own configuration: the default connection, and the settings that hold for every host."""

from __future__ import annotations

from collections.abc import Mapping

from hostnet.hosts.connection import Settings
from hostnet.resources.schema.connection import CONNECTION, ConnectionInputs, QuietRecord, compare_connections
from hostnet.resources.schema.model import Declared, Record, Report, prop
from hostnet.resources.schema.types import AbsolutePath, Bool, Choice, Number
from hostnet.resources.schema.values import Checked, Difference, Inputs, Value

_DEFAULTS = Settings()
DELETE_UNREACHABLE_ENV = "HOSTNET_DELETE_UNREACHABLE"


class ProviderInputs(Declared):
    """The provider's configuration."""

    connection: ConnectionInputs | None = prop(
        CONNECTION, "The host of every resource that has no `connection` of its own.", default_doc="this machine"
    )
    delete_unreachable: bool = prop(
        Bool(),
        "Lets a delete on a host that cannot be reached succeed with a warning. Otherwise it is an error. The "
        f"environment variable `{DELETE_UNREACHABLE_ENV}` does the same.",
        default=_DEFAULTS.delete_unreachable,
    )
    persist: str = prop(
        Choice(
            "auto",
            "always",
            "never",
            token="hostnet:index:Persist",  # noqa: S106 - a type token
            doc="Whether the host's network comes back after a reboot.",
        ),
        "Whether the network comes back after a reboot of the host. `auto`: yes, if systemd runs there.",
        default=_DEFAULTS.persist,
    )
    confirm_timeout: float = prop(
        Number(),
        "How long the host waits after a change for the provider to confirm that it still reaches the host. Without a "
        "confirmation the host rolls the change back.",
        unit="s",
        default=_DEFAULTS.confirm_timeout,
    )
    lock_timeout: float = prop(
        Number(),
        "How long a request waits while another process changes the same host: another stack's `pulumi up`, or a "
        "change that waits for its confirmation. Then it fails, and names that process.",
        unit="s",
        default=_DEFAULTS.lock_timeout,
    )
    state_dir: str = prop(
        AbsolutePath(),
        "The directory on the host with the record of all resources. Two providers with different directories own "
        "different resources.",
        default=_DEFAULTS.state_dir,
    )


PROVIDER: Record[ProviderInputs] = QuietRecord(ProviderInputs)
_ENGINE_KEYS = frozenset({"version", "pluginDownloadURL", "__internal"})  # the engine's own, beside ours


def decode_config(inputs: Inputs) -> dict[str, Value]:
    """The configuration as values: Pulumi passes all but strings as JSON text."""
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
    """A change of the default connection's host or namespace replaces the provider, and with it its resources."""
    left, right = decode_config(old), decode_config(new)
    changes = compare_connections(left.get("connection"), right.get("connection"))
    for name in PROVIDER.properties:
        if name != "connection":
            PROVIDER.compare_property(name, left, right, "", changes)
    return Difference(changes)


def parse_config(inputs: Inputs, environ: Mapping[str, str] | None = None) -> tuple[dict[str, Value] | None, Settings]:
    """The default connection (as inputs) and the settings, from a checked configuration.

    Args:
        inputs: The configuration.
        environ: The process's environment, for `HOSTNET_DELETE_UNREACHABLE`.
    """
    values = decode_config(inputs)
    typed = PROVIDER.typed({name: value for name, value in values.items() if name != "connection"})
    opted = (environ or {}).get(DELETE_UNREACHABLE_ENV, "").strip().lower() in {"1", "true", "yes", "on"}
    connection = values.get("connection")
    return connection, Settings(
        delete_unreachable=typed.delete_unreachable or (opted and values.get("deleteUnreachable") is None),
        persist=typed.persist,
        confirm_timeout=typed.confirm_timeout,
        lock_timeout=typed.lock_timeout,
        state_dir=typed.state_dir,
    )
