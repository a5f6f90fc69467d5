"""The scalar types of the properties: names, addresses, ports, times. Each has one canonical spelling for a value."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import math
import re
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from hostnet.resources.schema.model import BadValueError, Scalar
from hostnet.wire.objects import ports_text
from hostnet.wire.shapes import is_domain
from hostnet.wire.subnets import reserved

if TYPE_CHECKING:
    from hostnet.resources.schema.values import Value

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

IPV4, IPV6 = 4, 6
NAME_MAX = 15  # IFNAMSIZ less the final NUL
NETNS_MAX = 255  # NAME_MAX of a file system: the name is a file in /run/netns
PORT_MAX = 65535
ID_MAX = 2**32 - 2  # (uid_t)-1 means "no change"

_IPV4_LOOPBACK, _IPV4_MULTICAST, _IPV4_BROADCAST = 127, range(224, 240), 2**32 - 1  # first bytes; an address
_IPV6_MULTICAST, _IPV6_LINK_LOCAL = 0xFF, 0xFE80 >> 6  # the first 8 and the first 10 bits

# `%` is a template to the kernel ("tap%d"), a trailing `*` to nftables; the others need quoting somewhere.
_NAME = re.compile(r"[A-Za-z0-9_.+=@~#][A-Za-z0-9_.+=@~#-]*", re.ASCII)
_GLOB = re.compile(r"(?:[A-Za-z0-9_.+=@~#*?-]|\[[!]?[A-Za-z0-9_.+=@~#-]+\])+", re.ASCII)
_SYSCTL_NAMES = frozenset({"all", "default"})  # directories of /proc/sys/net/ipv4/conf that are no interfaces
_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}", re.ASCII)
_ACCOUNT = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?", re.ASCII)
_USER = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._-]{0,31}\$?", re.ASCII)
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?", re.ASCII)
_NEVER_ANSWERED = frozenset({"localhost", "invalid", "onion"})  # no bridge's DNS asks for them (RFC 6761, RFC 7686)
_PORTS = re.compile(r"([0-9]{1,5})(?::([0-9]{1,5}))?", re.ASCII)
_DASHED_PORTS = re.compile(r"[0-9]{1,5}-[0-9]{1,5}", re.ASCII)  # a destination's spelling, often written for a source's
_TIME = re.compile(r"([0-9]{1,10})([smhd])", re.ASCII)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_RATE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(bit|kbit|mbit|gbit)", re.ASCII)
_BITS: Final = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_RATE_MIN, _RATE_MAX = 64 * 10**3, 10 * 10**9
_LEASE_MIN = 120  # dnsmasq raises anything shorter to this
_KEY_TYPE = re.compile(r"(?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[A-Za-z0-9@.-]+", re.ASCII)


def text(value: Value, should: str) -> str:
    """The value, if it is a non-empty string; one that holds bytes or half a character is none."""
    if not isinstance(value, str) or not value:
        raise BadValueError(should)
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise BadValueError(f"{should}, in Unicode")
    return value


def integer(value: Value, should: str) -> int:
    """The value, if it is a whole number; Pulumi's numbers are all floats."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadValueError(should)
    if isinstance(value, float):
        if not value.is_integer():
            raise BadValueError(should)
        return int(value)
    return value


class Bool(Scalar):
    """True or false."""

    json = "boolean"
    label = "boolean"

    def parse(self, value: Value) -> bool:
        """Accept true and false."""
        if not isinstance(value, bool):
            raise BadValueError("true or false")
        return value


class Int(Scalar):
    """A whole number within bounds."""

    json = "integer"

    def __init__(self, low: int, high: int | None = None, note: str = "") -> None:
        self.low, self.high = low, high
        bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
        self.should = f"a whole number {bounds}" + (f" ({note})" if note else "")
        self.label = "integer"

    def parse(self, value: Value) -> int:
        """Accept whole numbers within the bounds, also as floats: Pulumi's numbers are all floats."""
        number = integer(value, self.should)
        if number < self.low or (self.high is not None and number > self.high):
            raise BadValueError(self.should)
        return number


class Number(Scalar):
    """A number of seconds above zero."""

    json = "number"
    label = "number"

    def parse(self, value: Value) -> float:
        """Accept finite numbers above zero."""
        should = "a number of seconds above 0"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadValueError(should)
        if not math.isfinite(value) or value <= 0:
            raise BadValueError(should)
        return int(value) if isinstance(value, float) and value.is_integer() else value


class Text(Scalar):
    """A string without a form of its own."""

    label = "string"

    def __init__(self, should: str = "a string that is not empty", *, lines: bool = False) -> None:
        self.should, self.lines = should, lines

    def parse(self, value: Value) -> str:
        """Accept every string that is not empty and has no control characters."""
        found = text(value, self.should)
        allowed = "\n\r\t" if self.lines else ""
        if any(ord(c) < ord(" ") and c not in allowed for c in found):
            raise BadValueError(f"{self.should}, without control characters")
        return found


class Choice(Scalar):
    """One of several words.

    Args:
        words: The words.
        token: "hostnet:index:Name", the enumeration in the SDKs. They also take the words as strings.
        doc: What it is.
    """

    def __init__(self, *words: str, token: str, doc: str) -> None:
        self.words, self.token, self.doc = words, token, doc
        self.label = "string: " + ", ".join(f"`{word}`" for word in words)
        self.should = "one of " + ", ".join(words)

    def parse(self, value: Value) -> str:
        """Accept the words as they are written."""
        if not isinstance(value, str) or value not in self.words:
            lower = isinstance(value, str) and value.lower() in self.words
            raise BadValueError(self.should + (" (in lower case)" if lower else ""))
        return value

    def schema(self, types: dict[str, Value]) -> dict[str, Value]:
        """A string, or a member of the enumeration, which is added to `types`."""
        members = [{"name": _pascal(word), "value": word} for word in self.words]
        types[self.token] = {"type": "string", "description": self.doc, "enum": members}
        return {"oneOf": [{"type": "string"}, {"type": "string", "$ref": f"#/types/{self.token}"}]}


def _pascal(word: str) -> str:
    """`tcp+udp` as `TcpUdp`."""
    return "".join(part.capitalize() for part in re.split(r"[^a-z0-9]", word))


class InterfaceName(Scalar):
    """The name of a network interface. `ours`: one that we create."""

    label = "string: an interface name"

    def __init__(self, *, ours: bool = False) -> None:
        self.ours = ours

    def parse(self, value: Value) -> str:
        """Accept the names that the kernel, sysctls and nftables take without quoting."""
        should = f"an interface name: 1 to {NAME_MAX} of A-Z a-z 0-9 _ . - + = @ ~ #, not starting with -"
        name = text(value, should)
        if name in {".", ".."}:
            raise BadValueError("an interface name other than . and ..")
        if not _NAME.fullmatch(name):
            raise BadValueError(should)
        if len(name) > NAME_MAX:
            raise BadValueError(f"an interface name of at most {NAME_MAX} bytes (it has {len(name)})")
        if name in _SYSCTL_NAMES or (self.ours and name == "lo"):
            raise BadValueError("an interface name other than all, default and lo, which the kernel uses itself")
        return name


class NetnsName(Scalar):
    """The name of a network namespace, as `ip netns` has it."""

    label = "string: a network namespace's name"

    def parse(self, value: Value) -> str:
        """Accept the names that `ip netns` and a file system take."""
        should = (
            f"a network namespace's name: 1 to {NETNS_MAX} of the characters A-Z a-z 0-9 _ . - + = @ ~ #, "
            "not starting with - and not . or .."
        )
        name = text(value, should)
        if name in {".", ".."} or len(name) > NETNS_MAX or not _NAME.fullmatch(name):
            raise BadValueError(should)
        return name


class Glob(Scalar):
    """A glob for interface names."""

    label = "string: a glob"

    def parse(self, value: Value) -> str:
        """Accept the characters of interface names, and `*`, `?` and `[…]`."""
        should = "a glob for interface names such as vm-*: the characters of interface names, *, ? and […]"
        pattern = text(value, should)
        if not _GLOB.fullmatch(pattern) or pattern in {".", ".."} or pattern.startswith("-"):
            raise BadValueError(should)
        if len(re.sub(r"\[[^]]*\]", "x", pattern).replace("*", "")) > NAME_MAX:
            raise BadValueError(f"a glob that fits names of at most {NAME_MAX} bytes")
        return pattern


class UserName(Scalar):
    """The name of a user who logs in."""

    label = "string: a user's name"

    def parse(self, value: Value) -> str:
        """Accept the portable names of POSIX, and the `$` at the end of a machine's account."""
        should = "a user's name: 1 to 32 of the characters A-Z a-z 0-9 . _ -, not starting with -"
        name = text(value, should)
        if not _USER.fullmatch(name):
            raise BadValueError(should)
        return name


class Account(Scalar):
    """A user or group: name or number."""

    json = ("integer", "string")
    label = "string or integer: a name or a number"

    def parse(self, value: Value) -> str:
        """Accept a name or a number; the canonical value is a string."""
        should = f"a name, or a number from 0 to {ID_MAX}"
        if isinstance(value, str) and not (value.isascii() and value.isdigit()):
            if not _ACCOUNT.fullmatch(value):
                raise BadValueError(should)
            return value
        if isinstance(value, str):
            number = int(value) if len(value) <= len(str(ID_MAX)) else ID_MAX + 1
        else:
            number = integer(value, should)
        if not 0 <= number <= ID_MAX:
            raise BadValueError(should)
        return str(number)


class Mac(Scalar):
    """A unicast MAC address."""

    label = "string: a MAC address"

    def parse(self, value: Value) -> str:
        """Accept six pairs of hexadecimal digits with colons; the canonical value is in lower case."""
        should = "a MAC address such as 02:00:5e:10:00:01, six pairs of hexadecimal digits with colons"
        mac = text(value, should).lower()
        if not _MAC.fullmatch(mac):
            raise BadValueError(should)
        if int(mac[:2], 16) & 1:
            raise BadValueError("a unicast MAC address: the lowest bit of its first byte must be 0")
        if mac == "00:00:00:00:00:00":
            raise BadValueError("a MAC address other than all zeros")
        return mac


@lru_cache(maxsize=65536)
def parse_ip(value: str) -> IpAddress:
    """An address, bare.

    Raises:
        BadValueError: It is something else, or an IPv6 address with a zone or an embedded IPv4 address.
    """
    should = "an IP address such as 10.0.0.2 or fd12::2"
    try:
        found = ipaddress.IPv6Address(value) if ":" in value else ipaddress.IPv4Address(value)
    except ValueError:
        raise BadValueError(should + (", without a prefix length" if "/" in value else "")) from None
    if isinstance(found, ipaddress.IPv6Address) and (found.scope_id or found.ipv4_mapped):
        raise BadValueError(f"{should}, without a zone and not an IPv4-mapped one")
    return found


@lru_cache(maxsize=65536)
def parse_interface(value: str) -> IpInterface:
    """An address with its prefix length.

    Raises:
        BadValueError: It is something else.
    """
    should = "an address with its prefix length such as 10.0.0.1/24 or fd12::1/64"
    address, slash, prefix = value.partition("/")
    if not slash:
        raise BadValueError(should)
    if not (prefix.isascii() and prefix.isdigit()):
        raise BadValueError(f"{should}, the length as a number")
    parse_ip(address)
    try:
        return ipaddress.ip_interface(f"{address}/{int(prefix[:4])}")
    except ValueError:
        raise BadValueError(f"{should}, at most /32 or /128") from None


class Ip(Scalar):
    """An address of a host, bare. `wildcard`: 0.0.0.0 and :: are fine too; `loopback`: as well as 127.0.0.0/8."""

    def __init__(self, family: int | None = None, *, wildcard: bool = False, loopback: bool = False) -> None:
        self.family, self.wildcard, self.loopback = family, wildcard, loopback
        self.label = f"string: an IPv{family} address" if family else "string: an IP address"

    def parse(self, value: Value) -> str:
        """Accept an address without prefix length; the canonical value is as `ipaddress` prints it."""
        sample = {None: "10.0.0.2 or fd12::2", IPV4: "10.0.0.2", IPV6: "fd12::2"}[self.family]
        found = parse_ip(text(value, f"an IP address such as {sample}"))
        if self.family and found.version != self.family:
            raise BadValueError(f"an IPv{self.family} address such as {sample}")
        usable_ip(found, wildcard=self.wildcard, loopback=self.loopback)
        return str(found)


def usable_ip(found: IpAddress, *, wildcard: bool = False, loopback: bool = False) -> None:
    """Refuse an address that no guest and no host can have, or that others can't reach.

    Raises:
        BadValueError: The address is refused; the message says which would be right.
    """
    # By its number: each `is_…` of `ipaddress` takes as long as parsing, and a gateway has thousands of addresses.
    number = int(found)
    if found.version == IPV4:
        _usable_ipv4(number, wildcard=wildcard, loopback=loopback)
    elif number >> 120 == _IPV6_MULTICAST:
        raise BadValueError("a unicast address")
    elif number == 0 and not wildcard:
        raise BadValueError("the address of one host")
    elif number == 1:
        raise BadValueError("an address other than ::1 (the kernel drops translated replies to it)")
    elif number >> 118 == _IPV6_LINK_LOCAL:
        raise BadValueError("an address that needs no zone, so not in fe80::/10")


def _usable_ipv4(number: int, *, wildcard: bool, loopback: bool) -> None:
    first = number >> 24
    if first in _IPV4_MULTICAST or number == _IPV4_BROADCAST:
        raise BadValueError("a unicast address")
    if number == 0:
        if not wildcard:
            raise BadValueError("the address of one host")
    elif first == _IPV4_LOOPBACK:
        if not loopback:
            raise BadValueError("an address that can be reached from outside the host, so not in 127.0.0.0/8")
    elif first == 0:
        raise BadValueError("an address outside 0.0.0.0/8")


def host_address(found: IpInterface) -> None:
    """Refuse what can't be an interface's address: network, broadcast, loopback and link-local IPv6 addresses.

    Raises:
        BadValueError: The value is refused; the message says what would be right.
    """
    usable_ip(found.ip)
    network = found.network
    if network.prefixlen == 0:
        raise BadValueError("an address with a prefix length above 0")
    why = reserved(found.ip, network)
    if why:
        raise BadValueError(f"a host address such as {network[1]}/{network.prefixlen} (this is {why})")


class HostCidr(Scalar):
    """An interface's address with the prefix length of its subnet."""

    label = "string: an address with prefix length (CIDR)"

    def parse(self, value: Value) -> str:
        """Accept an address with prefix length that an interface can have."""
        found = parse_interface(text(value, "an address with its prefix length such as 10.0.0.1/24 or fd12::1/64"))
        host_address(found)
        return str(found)


class GuestAddress(Scalar):
    """A guest's address, with or without prefix length; the bridge's subnet decides the prefix length."""

    label = "string: an address, with or without prefix length"

    def parse(self, value: Value) -> str:
        """Accept an address; the canonical value has no prefix length."""
        address = text(value, "an address such as 10.0.0.2 or 10.0.0.2/24")
        if "/" in address:
            return HostCidr().parse(address).split("/")[0]
        return Ip().parse(address)


class NetCidr(Scalar):
    """A network: no host bits. `length`: the only prefix length allowed."""

    def __init__(self, family: int | None = None, length: int | None = None) -> None:
        self.family, self.length = family, length
        of = f"an IPv{family} network" if family else "a network"
        self.label = f"string: {of} (CIDR{f', /{length}' if length else ''})"
        sample = "10.0.0.0/24" if family != IPV6 else f"fd12::/{length or 64}"
        self.should = f"{of} such as {sample}"

    def parse(self, value: Value) -> str:
        """Accept a network without host bits."""
        given = text(value, self.should)
        if "/" not in given:
            try:
                found = parse_ip(given)
            except BadValueError:
                raise BadValueError(self.should) from None
            raise BadValueError(f"{self.should} (a single host is {found}/{found.max_prefixlen})")
        try:
            interface = parse_interface(given)
        except BadValueError:
            raise BadValueError(self.should) from None
        network: IpNetwork = interface.network
        if self.family and interface.version != self.family:
            raise BadValueError(self.should)
        if interface.ip != network.network_address:
            raise BadValueError(f"a network without host bits: {network}")
        if network.is_multicast:
            raise BadValueError("a network of unicast addresses")
        if self.length and network.prefixlen != self.length:
            raise BadValueError(f"a /{self.length} network")
        return str(network)


class Port(Scalar):
    """One port."""

    json = "integer"
    label = "integer: a port"

    def parse(self, value: Value) -> int:
        """Accept a number, also as a string."""
        should = f"a port from 1 to {PORT_MAX}"
        if isinstance(value, str) and _PORTS.fullmatch(value) and ":" not in value:
            value = int(value)
        port = integer(value, should)
        if not 1 <= port <= PORT_MAX:
            raise BadValueError(should)
        return port


class PortSpec(Scalar):
    """One port or a range: 8080, "8080" or "8000:8002"."""

    json = ("integer", "string")
    label = 'integer or string: a port, or a range "from:to"'

    def parse(self, value: Value) -> str:
        """Accept a number or a range; the canonical value is a string such as `8080` or `8000:8002`."""
        if type(value) is int and 1 <= value <= PORT_MAX:  # nearly all of them; True has another type
            return str(value)
        should = f'a port from 1 to {PORT_MAX}, or a range of them as "from:to"'
        if isinstance(value, str):
            match = _PORTS.fullmatch(value)
            if not match:
                hint = f": {value.replace('-', ':')}" if _DASHED_PORTS.fullmatch(value) else ""
                raise BadValueError(should + hint)
            low = int(match[1])
            high = int(match[2] or low)
        else:
            low = high = integer(value, should)
        check_range(low, high, should)
        return ports_text((low, high))


def check_range(low: int, high: int, should: str) -> None:
    """Refuse ports out of bounds and reversed ranges.

    Raises:
        BadValueError: A port is out of bounds, or the range is reversed.
    """
    if not (1 <= low <= PORT_MAX and 1 <= high <= PORT_MAX):
        raise BadValueError(should)
    if low > high:
        raise BadValueError("a range whose first port is not above its last")


def split_ports(spec: str) -> tuple[int, int]:
    """The inverse of `ports_text`."""
    low, _, high = spec.partition(":")
    return int(low), int(high or low)


class LeaseTime(Scalar):
    """A DHCP lease's length. Canonical in the largest unit that divides it."""

    label = "string: `<n>s`, `<n>m`, `<n>h`, `<n>d` or `infinite`"

    def parse(self, value: Value) -> str:
        """Accept a number with a unit; the canonical value has the largest unit that divides it."""
        should = f'a time such as "1h" (in s, m, h or d, at least {_LEASE_MIN}s), or "infinite"'
        given = text(value, should)
        if given == "infinite":
            return given
        match = _TIME.fullmatch(given)
        seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
        if not _LEASE_MIN <= seconds < 2**32 - 1:  # the DHCP option has 32 bits; all ones mean "infinite" (RFC 2131)
            raise BadValueError(should)
        unit = next(u for u in "dhms" if seconds % _SECONDS[u] == 0)
        return f"{seconds // _SECONDS[unit]}{unit}"


class Rate(Scalar):
    """A rate as tc writes it."""

    label = "string: a rate such as `100mbit`"

    def parse(self, value: Value) -> str:
        """Accept bits a second in tc's units of a thousand; the canonical value has the largest unit that fits."""
        should = "a rate such as 100mbit or 1gbit: a number with kbit, mbit or gbit, from 64kbit to 10gbit"
        given = text(value, should).lower()
        match = _RATE.fullmatch(given)
        if not match:
            octets = re.fullmatch(r"[0-9.]+[kmg]?bps", given)
            raise BadValueError(should + (" (bps are bytes a second)" if octets else ""))
        bits = Fraction(match[1]) * _BITS[match[2]]
        if not _RATE_MIN <= bits <= _RATE_MAX:
            raise BadValueError(should)
        if bits % 8:
            raise BadValueError(f"{should}, a whole number of bytes a second")
        return rate_text(int(bits))


def rate_text(bits: int) -> str:
    """A rate in bit/s as tc writes it: `100mbit`."""
    unit = next(unit for unit, size in reversed(_BITS.items()) if bits % size == 0)
    return f"{bits // _BITS[unit]}{unit}"


def rate_bits(rate: str) -> int:
    """A canonical rate in bit/s."""
    match = _RATE.fullmatch(rate)
    if match is None:
        raise ValueError(rate)
    return int(match[1]) * _BITS[match[2]]


class HostName(Scalar):
    """A host name of one label."""

    label = "string: a host name (one label)"

    def parse(self, value: Value) -> str:
        """Accept a name of one label (RFC 1123)."""
        should = "a host name of one label: 1 to 63 letters, digits and hyphens, no hyphen at either end, no dots"
        if not _LABEL.fullmatch(text(value, should)):
            raise BadValueError(should)
        return str(value)


class DomainName(Scalar):
    """A DNS domain."""

    label = "string: a domain name"

    def parse(self, value: Value) -> str:
        """Accept labels with dots between them; the canonical value is in lower case."""
        should = 'a domain name such as "vm.internal"'
        given = text(value, should)
        if len(given) > 253 or not all(_LABEL.fullmatch(label) for label in given.split(".")):
            raise BadValueError(should)
        return given.lower()


class NamedDomain(Scalar):
    """A name of DNS that stands for itself and for all names below it."""

    label = "string: a domain name"

    def parse(self, value: Value) -> str:
        """Accept labels with dots between them, also behind `*.`; the canonical value is in lower case, without it."""
        should = 'a domain name such as "example.com"'
        given = text(value, should)
        if not given.isascii():
            raise BadValueError(f'{should} (an international one as it is in DNS: "xn--bcher-kva.example")')
        name = given.lower().removeprefix("*.").removesuffix(".")
        if len(name) > 253:
            raise BadValueError(f"{should}, of at most 253 characters (it has {len(name)})")
        if not is_domain(name):
            raise BadValueError(
                f"{should}: labels of 1 to 63 letters, digits, hyphens and underscores, no hyphen at either end"
            )
        if name.rpartition(".")[2].isdigit():
            raise BadValueError(f"{should}, and no address (`cidr` is for those)")
        if name.rpartition(".")[2] in _NEVER_ANSWERED:
            raise BadValueError(f"{should} that the name servers of the Internet answer")
        return name


class GatewayId(Scalar):
    """The id of a NatGateway."""

    label = "string: the id of a NatGateway"

    def parse(self, value: Value) -> str:
        """Accept what `NatGateway.make_id` makes."""
        should = "the id of a NatGateway (`gateway.id`)"
        if not re.fullmatch(r"[a-z0-9](?:[a-z0-9-]{0,126}[a-z0-9])?", text(value, should), re.ASCII):
            raise BadValueError(should)
        return str(value)


class AbsolutePath(Scalar):
    """An absolute path."""

    label = "string: an absolute path"

    def parse(self, value: Value) -> str:
        """Accept a path from the root; the canonical value has single slashes and none at its end."""
        should = "an absolute path without . and .."
        path = text(value, should)
        parts = path.split("/")
        if not path.startswith("/") or {".", ".."} & set(parts) or any(ord(c) < ord(" ") for c in path):
            raise BadValueError(should)
        return "/" + "/".join(part for part in parts if part)


class HostAddress(Scalar):
    """The name or the address of an SSH server."""

    label = "string: a host name or an IP address"

    def parse(self, value: Value) -> str:
        """Accept a name or an address; the canonical value is in lower case."""
        should = "a host name or an IP address alone (give `user` and `port` as properties of their own)"
        host = text(value, should)
        if re.fullmatch(r"[A-Za-z0-9_.-]{1,253}", host, re.ASCII) and not host.startswith(("-", ".")):
            return host.lower()
        if ":" in host and re.fullmatch(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?", host, re.ASCII):
            try:
                return str(ipaddress.ip_address(host))
            except ValueError:
                pass
        raise BadValueError(should)


class HostKey(Scalar):
    """A host's public key."""

    label = "string: a public key in authorized_keys format"

    def parse(self, value: Value) -> str:
        """Accept a line of authorized_keys; the canonical value has no comment."""
        should = 'a public key in authorized_keys format such as "ssh-ed25519 AAAA…" (no host name before it)'
        words = text(value, should).split()
        try:
            if not _KEY_TYPE.fullmatch(words[0]) or not base64.b64decode(words[1], validate=True):
                raise BadValueError(should)
        except (IndexError, binascii.Error, ValueError):
            raise BadValueError(should) from None
        return f"{words[0]} {words[1]}"


class PrivateKey(Scalar):
    """A private key's text."""

    label = "string: a private key (PEM or OpenSSH)"

    def parse(self, value: Value) -> str:
        """Accept the text of a key in PEM or OpenSSH form."""
        should = "the text of a private key from its -----BEGIN line on, and not a path"
        if "-----BEGIN " not in text(value, should):
            raise BadValueError(should)
        return str(value)


class Anything(Scalar):
    """A value of an output, which no program writes."""

    def __init__(self, json: str, label: str) -> None:
        self.json, self.label = json, label

    def parse(self, value: Value) -> Value:
        """Accept every value that is not an object."""
        if isinstance(value, Mapping):
            raise BadValueError(f"a {self.json}")
        return value


# Outputs are not checked: what the agent reports is canonical.
OUT_TEXT: Final = Anything("string", "string")
OUT_INT: Final = Anything("integer", "integer")
OUT_BOOL: Final = Anything("boolean", "boolean")
