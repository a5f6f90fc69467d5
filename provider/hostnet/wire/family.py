"""The two families of IP: one name for each, and what follows from it."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Literal

Family = Literal["ipv4", "ipv6"]

FAMILIES: tuple[Family, Family] = ("ipv4", "ipv6")

VERSION: Mapping[Family, int] = {"ipv4": 4, "ipv6": 6}

# The last character of a set's name in our table: `dnat_port4`, `dnat_port6`.
DIGIT: Mapping[Family, str] = {"ipv4": "4", "ipv6": "6"}

# nft's word for the family's header: `ip saddr`, `ip6 saddr`.
NFT_HEADER: Mapping[Family, str] = {"ipv4": "ip", "ipv6": "ip6"}

# The number of the family in netlink messages.
AF: Mapping[Family, int] = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}

ANY_NETWORK: Mapping[Family, str] = {"ipv4": "0.0.0.0/0", "ipv6": "::/0"}

# A forward's listen address that means every address of the family.
ANY_ADDRESS: Mapping[Family, str] = {"ipv4": "0.0.0.0", "ipv6": "::"}  # noqa: S104 - compared with, never bound

# Below this MTU the kernel takes IPv6 off a link, with its addresses and sysctls (addrconf_notify; RFC 8200, 5).
IPV6_MTU_MIN = 1280

# The prefix length of a subnet in which guests make their own addresses (RFC 4862).
SLAAC_LENGTH = 64


def family_of(text: str) -> Family:
    """The family of an address, an address with prefix length, or a network, as text."""
    return "ipv6" if ":" in text else "ipv4"


def digit_of(text: str) -> str:
    """The same as the digit in a set's name."""
    return DIGIT[family_of(text)]


def family_of_set(name: str) -> Family:
    """The family of a set of our table, by the digit at the end of its name."""
    return "ipv6" if name.endswith(DIGIT["ipv6"]) else "ipv4"
