"""A bare host for many quick sequences: one namespace, an uplink, two interfaces that others made; no neighbours.

eth0    192.0.2.2/24, 2001:db8::2/64, both default routes (its veth peer `out0` is here, too, for the carrier)
gl-1, gl-2    TAPs that another program made, for a glob
"""

from __future__ import annotations

import json
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tests.lab.kernel import Kernel, Link
from tests.lab.namespaces import Namespace, Namespaces

UPLINK = "eth0"
FREE = ("gl-1", "gl-2")
SWITCHES = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv6.conf.eth0.accept_ra")
_CONF = "/proc/sys/net/{family}/conf/{link}/{name}"


class Bed:
    """The namespace and what an observer in it can tell."""

    def __init__(self, role: str = "bed") -> None:
        """Make it."""
        self._namespaces = Namespaces()
        self.host = self._namespaces.add(role)
        for family in ("all", "default"):
            self.host.sysctl(f"net.ipv6.conf.{family}.accept_dad", 0)
        self.host.ip(
            "link add eth0 address 02:00:00:00:00:02 type veth peer name out0",
            "link set out0 up",
            "link set eth0 up",
            "address add 192.0.2.2/24 dev eth0",
            "address add 2001:db8::2/64 dev eth0 nodad",
            "route add default via 192.0.2.1",
            "route add ::/0 via 2001:db8::1 dev eth0",
            *(f"tuntap add {name} mode tap" for name in FREE),
            *(f"link set {name} up" for name in FREE),
        )
        self.switch("net.ipv4.ip_forward", "0")
        self.switch("net.ipv6.conf.all.forwarding", "0")

    def close(self) -> None:
        """Take it away."""
        self._namespaces.close()

    @property
    def kernel(self) -> Kernel:
        """What the kernel has here."""
        return self.host.kernel

    def nft(self, batch: str) -> None:
        """Run nft commands here."""
        self.kernel.nft(batch)

    def switch(self, name: str, value: str | None = None) -> str:
        """Read a sysctl, or set it."""
        return self.host.sysctl(name, value)

    def links(self) -> dict[str, Link]:
        """Links by name."""
        return self.kernel.links()

    def ruleset(self) -> list[dict[str, Any]]:
        """All of nftables here, as JSON."""
        return self.kernel.ruleset()

    def snapshot(self) -> dict[str, Any]:
        """All that hostnet may touch, in a form to compare."""
        return snapshot_of(self.host)


def snapshot_of(host: Namespace) -> dict[str, Any]:
    """All that hostnet may touch on a host, in a form to compare."""
    links = host.kernel.links()
    return {
        "links": {name: link.lasting for name, link in links.items()},
        "sysctls": {name: host.call(_conf, name) for name in links},
        "routes": host.kernel.static_routes(),
        "switches": {name: host.sysctl(name) for name in SWITCHES},
        "ruleset": [_plain(item) for item in host.kernel.ruleset()],
    }


def difference(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two snapshots differ, for a message that a person can read."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [*one, *(key for key in other if key not in one)]
        return [line for key in keys for line in difference(one.get(key), other.get(key), f"{path}/{key}")]
    if isinstance(one, list) and isinstance(other, list):
        left, right = [x for x in one if x not in other], [x for x in other if x not in one]
        return [f"{path}: {x}, not {y}" for x, y in zip_longest(left, right)]
    return [] if one == other else [f"{path}: {one}, not {other}"]


def _plain(item: Any) -> Any:
    """Without what depends on the order in which things were made."""
    if isinstance(item, dict):
        return {
            key: sorted(map(json.dumps, map(_plain, value)))
            if key == "elem" and isinstance(value, list)
            else _plain(value)
            for key, value in item.items()
            if key != "handle"
        }
    return [_plain(one) for one in item] if isinstance(item, list) else item


def _conf(link: str) -> dict[str, str]:
    """The interface's sysctls that hostnet may set."""
    found = {}
    for family, name in (("ipv4", "route_localnet"), ("ipv6", "accept_ra"), ("ipv6", "forwarding")):
        path = Path(_CONF.format(family=family, link=link, name=name))
        found[name] = path.read_text().strip() if path.exists() else ""
    return found
