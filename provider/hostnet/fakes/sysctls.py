"""The sysctls of a fake kernel: those that hostnet reads or writes, with a new network namespace's values."""

from __future__ import annotations

import errno
import os

# Of each interface, and of `all` and `default`, which a new interface's values are copied from (Linux 6.18).
_OF_LINKS = {
    "ipv4": {"forwarding": "0", "promote_secondaries": "0", "proxy_arp": "0", "route_localnet": "0", "rp_filter": "0"},
    "ipv6": {
        "accept_dad": "1",
        "accept_ra": "1",
        "disable_ipv6": "0",
        "forwarding": "0",
        "keep_addr_on_down": "0",
        "proxy_ndp": "0",
    },
}
# One switch has two names in IPv4.
_IP_FORWARD, _ALL_FORWARDING = "net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding"


def sysctl_of(family: str, link: str, name: str) -> str:
    """The name of an interface's sysctl: `/` stands for a dot of the interface's name, as in sysctl(8)."""
    return f"net.{family}.conf.{link.replace('.', '/')}.{name}"


class FakeSysctls:
    """Names and values. What a write to one does to others is what the kernel does."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {_IP_FORWARD: "0"}
        for scope in ("all", "default"):
            for family, names in _OF_LINKS.items():
                self.values.update({sysctl_of(family, scope, name): value for name, value in names.items()})

    def read(self, name: str) -> str | None:
        """The value; None where there is no such sysctl."""
        return self.values.get(name)

    def add_link(self, link: str, *families: str) -> None:
        """An interface appears, or IPv6 on one: it gets the values of `default`."""
        for family in families:
            for name in _OF_LINKS[family]:
                self.values[sysctl_of(family, link, name)] = self.values[sysctl_of(family, "default", name)]

    def remove_link(self, link: str, *families: str) -> None:
        """An interface goes, or IPv6 from one."""
        for family in families:
            for name in _OF_LINKS[family]:
                self.values.pop(sysctl_of(family, link, name), None)

    def write(self, name: str, value: str) -> None:
        """Write a value.

        Raises:
            OSError: There is no such sysctl (ENOENT), or the value is no number (EINVAL).
        """
        if name not in self.values:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        if not value.lstrip("-").isdigit():
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
        self.values[name] = value
        if name in (_IP_FORWARD, _ALL_FORWARDING):
            self.values[_IP_FORWARD] = self.values[_ALL_FORWARDING] = value
            self._everywhere("ipv4", value)
        elif name == sysctl_of("ipv6", "all", "forwarding"):
            self._everywhere("ipv6", value)

    def _everywhere(self, family: str, value: str) -> None:
        """Forwarding of `all` is written to each interface and to `default`."""
        start, end = f"net.{family}.conf.", ".forwarding"
        self.values.update({name: value for name in self.values if name.startswith(start) and name.endswith(end)})
