"""A `Connection` as values, and the provider's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hostnet.wire.protocol import STATE_DIR


@dataclass(frozen=True)
class Connection:
    """How a host is reached, as the properties of `connection`. Without a `host` it is this machine.

    Secrets are kept out of `repr`.
    """

    host: str | None = None
    port: int = 22
    user: str = "root"
    password: str | None = field(default=None, repr=False)
    private_key: str | None = field(default=None, repr=False)
    private_key_password: str | None = field(default=None, repr=False)
    agent_socket_path: str | None = None
    host_key: str | None = None
    insecure_ignore_host_key: bool = False
    proxy: Connection | None = None
    dial_error_limit: int = 10
    per_dial_timeout: float = 15
    sudo: bool | None = None
    netns: str | None = None

    @property
    def label(self) -> str:
        """The host as messages name it."""
        where = "this machine" if self.host is None else f"{self.user}@{self.host}"
        if self.host is not None and self.port != 22:
            where += f":{self.port}"
        return where + (f" (namespace {self.netns})" if self.netns else "")

    @classmethod
    def from_inputs(cls, inputs: Mapping[str, Any] | None) -> Connection:
        """From a checked `connection` input (camelCase)."""
        if not inputs:
            return cls()
        values = {_snake(name): value for name, value in inputs.items() if value is not None}
        if values.get("proxy"):
            values["proxy"] = cls.from_inputs(values["proxy"])
        for number in ("port", "dial_error_limit"):
            if number in values:
                values[number] = int(values[number])
        return cls(**values)


@dataclass(frozen=True)
class Settings:
    """The provider's configuration besides `connection`.

    Args:
        delete_unreachable: A delete on a host that can't be reached succeeds.
        persist: Whether a reboot restores what the record holds: `auto`, `always` or `never`.
        confirm_timeout: Seconds after which an unconfirmed change is rolled back.
        lock_timeout: Seconds for which a request waits for the host's lock.
        state_dir: Where the host keeps its record and the agent's file.
        provider: The name of the provider's own resource; "" where the engine does not say it.
    """

    delete_unreachable: bool = False
    persist: str = "auto"
    confirm_timeout: float = 30
    lock_timeout: float = 120
    state_dir: str = STATE_DIR
    provider: str = ""


def _snake(camel: str) -> str:
    return "".join("_" + c.lower() if c.isupper() else c for c in camel)
