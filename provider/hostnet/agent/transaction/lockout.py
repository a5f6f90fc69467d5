"""Whether a change may keep a provider on another machine from logging in again.

A connection in progress is no proof that the next one works: conntrack keeps it on its path whatever a new rule does.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from hostnet.agent.linux.process import parent
from hostnet.agent.record.owners import Owner, Owners
from hostnet.agent.record.phase import Pairs
from hostnet.wire.objects import Address, Forward, Gateway, Guest, Link, Object, Route

_SSH = 22
_FIELDS = 4  # of SSH_CONNECTION: the client's address and port, the server's address and port (ssh(1))


@dataclass(frozen=True)
class Login:
    """How the provider logged in.

    Args:
        client: The address that it came from; "" where it is not known.
        server: The address of this host that it connected to; "" where it is not known.
        port: The port of this host.
    """

    client: str = ""
    server: str = ""
    port: int = _SSH


def is_possible(owners: Owners, pairs: Pairs, closed: Callable[[], Container[str]]) -> bool:
    """Whether what a transaction changed may refuse or divert new connections to the SSH port of this host.

    Args:
        owners: All owners afterwards.
        pairs: What each owner of the transaction had, and what it has.
        closed: Gives the addresses of this host that do not answer to the outside any more.
    """
    login = _login()
    had = {item for old, _ in pairs.values() if old for item in old.objects}
    has = {item for _, new in pairs.values() if new for item in new.objects}
    if any(_diverts(item, login) for item in _redirected(owners, had, has)):
        return True
    if any(_reroutes(item, login) for item in had ^ has if isinstance(item, (Address, Route))):
        return True
    if any(isinstance(item, Link) and item.host_access != "all" for item in has - had):
        return True  # the provider may be a guest of this bridge
    if any(isinstance(item, Guest) and _answers_for(item, login) for item in has - had):
        return True
    if _moves_replies(had, has):
        return True  # the provider may come by a forward: through a guest, as a jump host
    return any(isinstance(item, (Gateway, Address)) for item in had ^ has) and login.server in closed()


def warnings(old: Owner | None, new: Owner, closed: Callable[[], Container[str]]) -> Iterator[str]:
    """What a preview says of a change that may refuse the next log-in.

    Args:
        old: What the owner has.
        new: What it is to have.
        closed: As for `is_possible`.
    """
    login = _login()
    if not login.server:
        return
    had, has = {item for each in (old,) if each for item in each.objects}, set(new.objects)
    owners = Owners({new.key: new})
    if is_possible(owners, {new.key: (old, new)}, closed) and had != has:
        yield (
            f"this may refuse new SSH connections to {login.server}. It is confirmed by a new log-in, "
            "and rolled back where that fails"
        )


def _login() -> Login:
    """How the provider logged in, as sshd wrote it to our environment.

    sudo keeps SSH_CONNECTION from us, so our ancestors are asked.
    """
    pid = os.getpid()
    while pid > 1:
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            pid = parent(pid)
        except OSError:
            break
        for variable in variables:
            name, _, value = variable.decode(errors="replace").partition("=")
            fields = value.split()
            if name == "SSH_CONNECTION" and len(fields) == _FIELDS and fields[-1].isdigit():
                return Login(fields[0], fields[2], int(fields[3]))
    return Login()


def _answers_for(guest: Guest, login: Login) -> bool:
    """Whether neighbours are sent here for the provider's own address: its packets would come back here."""
    own = [_address(cidr.partition("/")[0]) for cidr in guest.addresses or ()] if guest.proxy else []
    return _address(login.client) in own


def _moves_replies(had: set[Object], has: set[Object]) -> bool:
    """Whether replies to what is forwarded may leave by another uplink from now on."""
    before, after = ({x.name: x for x in items if isinstance(x, Gateway)} for items in (had, has))
    either = {name: (before.get(name), after.get(name)) for name in {*before, *after}}
    return any(_answers(one) != _answers(other) for one, other in either.values())


def _answers(item: Gateway | None) -> tuple[str, ...]:
    """The uplinks of a gateway with several that answer for themselves."""
    return item.uplinks if item is not None and item.reply and item.more else ()


def _redirected(owners: Owners, had: set[Object], has: set[Object]) -> Iterator[Object]:
    """The objects that are new or changed, and the forwards of changed gateways: they listen where the gateway does."""
    yield from has - had
    gateways = {item.name for item in had ^ has if isinstance(item, Gateway)}
    if gateways:
        yield from (item for item in owners.every(Forward) if item.gateway in gateways)


def _diverts(item: Object, login: Login) -> bool:
    """Whether it may take TCP connections to the provider's address and port of this host."""
    if isinstance(item, Forward):
        return "tcp" in item.protocols and item.ports[0] <= login.port <= item.ports[1]
    if not isinstance(item, Gateway):
        return False
    given_away = any(outer == login.server for outer, _ in item.one_to_one)
    return given_away or (bool(item.dmz4 or item.dmz6) and login.port not in item.dmz_except)


def _reroutes(item: Address | Route, login: Login) -> bool:
    """Whether replies to the client may leave by another interface, or the address that it connects to moves."""
    interface = ipaddress.ip_interface(item.cidr)
    if isinstance(item, Address) and login.server and interface.ip == _address(login.server):
        return True
    client = _address(login.client)
    return client is not None and client.version == interface.version and client in interface.network


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address without its zone (`fe80::1%eth0`); None where sshd wrote none."""
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
