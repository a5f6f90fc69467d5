"""Sockets of programs: which ports have a listener, from /proc/net of this network namespace."""

from __future__ import annotations

from pathlib import Path

_LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp
_UNCONNECTED = "07"  # a UDP socket that is bound and not connected


def listening(protocol: str, family: str) -> set[int]:
    """The ports with a listener.

    Args:
        protocol: "tcp" or "udp"; of others /proc tells nothing.
        family: "ipv4" or "ipv6".
    """
    state = {"tcp": _LISTEN, "udp": _UNCONNECTED}.get(protocol)
    if state is None:
        return set()
    ports: set[int] = set()
    # A v6 socket may take v4 connections as well.
    for suffix in ("", "6") if family == "ipv4" else ("6",):
        try:
            lines = Path(f"/proc/self/net/{protocol}{suffix}").read_text().splitlines()[1:]
        except FileNotFoundError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == state:
                ports.add(int(fields[1].rsplit(":", 1)[1], 16))
    return ports
