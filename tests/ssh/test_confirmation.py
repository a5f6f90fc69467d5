"""Commit-confirmed: a change that makes the host unreachable is rolled back by the host, whoever dies meanwhile.

The server is reached at 192.0.2.2 from 192.0.2.1. What makes it unreachable: a bridge with a subnet that takes in the
client, a route of a TAP to it, the address taken off the bridge that has the uplink, that bridge deleted. What leaves
the connection in progress but takes the next: a forward of the SSH port, a dmz host without an exception for it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hostnet.hosts import login
from hostnet.hosts.session import Channel, Session
from hostnet.resources import KINDS
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.protocol import Answer, Request
from hostnet.wire.requests import Change

from tests.lab.waiting import until
from tests.ssh.world import SERVER, World, bridge, removal, watch

Look = Callable[[], dict[str, Any]]
SECONDS = 2.0  # for a confirmation
LONG = 600.0  # longer than any test


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, up: World) -> None:
    """A dead link is noticed within seconds, and the host waits no longer for a confirmation."""
    monkeypatch.setattr(login, "_KEEP_ALIVE_SECONDS", 1)
    up.settings = replace(up.settings, confirm_timeout=SECONDS)


def record(world: World) -> dict[str, Any]:
    """The header of the server's record; {}: there is none."""
    path = next((world.directory / "state").glob("netns-*.json"), None)
    return json.loads(path.read_text().splitlines()[0]) if path else {}


def phase(world: World) -> str:
    """How far the transaction on the server is; "" where nothing is recorded."""
    found: str = record(world).get("phase", {}).get("name", "")
    return found


def owners(world: World) -> list[str]:
    """The ids of what the record holds."""
    path = next((world.directory / "state").glob("netns-*.json"), None)
    return [json.loads(line)["id"] for line in path.read_text().splitlines()[1:]] if path else []


def change_of(kind: str, name: str, prior: dict[str, Any] | None = None, /, **inputs: Any) -> Change:
    """A change of a resource, as the provider sends it."""
    token = f"hostnet:index:{kind}"
    identity = name if prior is not None else ""
    urn = f"urn:pulumi:dev::shop::{token}::{name}"
    change = KINDS[token].change(urn, inputs, id=identity, old_inputs=prior, old_outputs=prior)
    assert change is not None, "nothing is unknown here"
    return change


def cutting(name: str = "bad") -> Change:
    """The change that makes a bridge behind which this server looks for the client."""
    return change_of("Bridge", name, name=name, addresses=["192.0.2.5/29"])


class Pausing(Session):
    """A session that does something before it confirms."""

    before: Callable[[], Awaitable[None]] | None = None

    async def _exchange(self, channel: Channel, request: Request, doing: str, about: Request | None = None) -> Answer:
        if request.op == "confirm" and self.before is not None:
            before, self.before = self.before, None
            await before()
        return await super()._exchange(channel, request, doing, about)


def in_session(world: World, work: Callable[[Pausing], Awaitable[None]], **values: Any) -> None:
    """Do something in a session that has made the bridge br0."""

    async def working() -> None:
        connection = world.connection(per_dial_timeout=1, dial_error_limit=-1, **values)
        session = Pausing(connection.label, world.transport(connection), world.said.append)
        await session.apply(bridge("br0"))
        await work(session)
        await session.close()

    world.run(working)


async def rolled_back(work: Awaitable[Any]) -> HostnetError:
    """What says that it was rolled back."""
    with pytest.raises(HostnetError) as error:
        await work
    assert error.value.code is Code.ROLLED_BACK
    assert "rolled the change back" in error.value.what
    assert error.value.host.endswith(f"@{SERVER}")
    return error.value


@pytest.fixture
def as_before(up: World) -> Look:
    """Looks at the server's network, to be compared."""

    def look() -> dict[str, Any]:
        server = up.server.namespace
        return {
            "links": {name: link.lasting for name, link in server.kernel.links().items()},
            # The kernel makes some by itself, a while after a link came up.
            "routes": sorted(map(str, (one for one in server.kernel.routes(table=None) if one.protocol != "kernel"))),
            "nft": server.kernel.listing(),
            "forwarding": server.run("sysctl net.ipv4.ip_forward"),
        }

    return look


def test_a_change_that_leaves_the_way_counts(up: World) -> None:
    """It is confirmed within the request; nothing is left open, and no process stays behind."""

    async def work(session: Pausing) -> None:
        async def look() -> None:
            assert phase(up) == "unconfirmed", "it waits for the confirmation"
            assert owners(up) == ["br0", "br1"]

        session.before = look
        await session.apply(bridge("br1"))
        assert phase(up) == "idle"
        assert len(up.server.confirm_processes()) == 1

    in_session(up, work)
    until(lambda: not up.server.agents() and not up.server.confirm_processes())
    assert owners(up) == ["br0", "br1"]


CUTS = {
    "a subnet that takes in the client": cutting(),
    "a route to the client by a TAP": change_of(
        "TapBinding", "bad", name="bad", addresses=["10.9.0.1/32"], routes=["192.0.2.1/32"]
    ),
}


@pytest.mark.parametrize("change", CUTS.values(), ids=CUTS)
def test_what_cuts_the_way_is_undone(up: World, as_before: Look, change: Change) -> None:
    """By the host itself; the provider hears of it when it can connect again, and its next request is served."""

    async def work(session: Pausing) -> None:
        before = as_before()
        error = await rolled_back(session.apply(change))
        assert f"the provider did not confirm it within {SECONDS:g} s" in error.why
        assert as_before() == before
        assert owners(up) == ["br0"]
        assert phase(up) == "rolled back", "what became of it is kept for a while"
        assert (await session.apply(bridge("br1"))).id == "br1"

    in_session(up, work)
    assert owners(up) == ["br0", "br1"]


def test_the_first_change_of_all(up: World, as_before: Look) -> None:
    """Nothing is recorded before it, and the provider still hears of its end."""
    before = as_before()

    async def work() -> None:
        session = up.session(up.connection(per_dial_timeout=1, dial_error_limit=-1))
        await rolled_back(session.apply(cutting()))
        await session.close()

    up.run(work)
    assert as_before() == before
    assert owners(up) == []


def test_those_that_went_with_it(up: World, as_before: Look) -> None:
    """One transaction counts as a whole: each of its resources has the error."""

    async def work(session: Pausing) -> None:
        before = as_before()
        asked = [session.apply(bridge("br1")), session.apply(cutting()), session.apply(bridge("br2"))]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [each.code for each in outcomes if isinstance(each, HostnetError)] == [Code.ROLLED_BACK] * 3
        assert as_before() == before

    in_session(up, work)
    assert owners(up) == ["br0"]


def uplink_on_a_bridge(world: World) -> None:
    """The server is reached through a bridge that has its uplink."""
    world.server.namespace.ip(
        "link add wan address 02:00:00:00:00:77 type bridge",
        "address del 192.0.2.2/24 dev eth0",
        "link set eth0 master wan",
        "link set wan up",
        "address add 192.0.2.2/24 dev wan",
        "route add default via 192.0.2.1 dev wan metric 100 proto dhcp",
        "route add 203.0.113.0/24 via 192.0.2.1 dev wan src 192.0.2.2 table 77",
        "address add 2001:db8::2/64 dev wan nodad",
        "route add ::/0 via 2001:db8::1 dev wan proto ra expires 900",
    )


UPLINK = {"name": "wan", "addresses": ["192.0.2.2/24", "2001:db8::2/64"], "adopt": True}


@pytest.mark.parametrize("to", [{"addresses": ["10.0.0.1/24"]}, {"addresses": []}, None])
def test_the_address_taken_off_the_uplinks_bridge(up: World, as_before: Look, to: dict[str, Any] | None) -> None:
    """Or the bridge deleted: address, routes and the uplink's place in it come back."""
    uplink_on_a_bridge(up)

    async def work(session: Pausing) -> None:
        await session.apply(change_of("Bridge", "wan", **UPLINK))
        before = as_before()
        held = change_of("Bridge", "wan", **UPLINK)
        if to is None:
            change = Change(held.urn, "wan", (), held.objects, known=True)
        else:
            change = change_of("Bridge", "wan", UPLINK, **{**UPLINK, **to})
        await rolled_back(session.apply(change))
        assert as_before() == before
        view = await session.apply(replace(held, known=True))
        assert view.seen[0] is not None

    in_session(up, work)
    assert sorted(owners(up)) == ["br0", "wan"]


def test_routes_whose_gateway_is_on_no_subnet(up: World, as_before: Look) -> None:
    """As many who rent out servers have it: what leads to the gateway comes back before what leads through it."""
    server = up.server.namespace
    server.ip(
        "link add wan type bridge",
        "address del 192.0.2.2/24 dev eth0",
        "link set eth0 master wan",
        "link set wan up",
        "address add 192.0.2.2/32 dev wan",
        "route add 192.0.2.1/32 dev wan scope link",
        "route add default via 192.0.2.1 dev wan",
        "route add 198.51.100.0/24 via inet6 fe80::1 dev wan",
        "route add 203.0.113.0/24 via 192.0.2.1 dev wan mtu 1400",
        "address add 2001:db8::2/128 dev wan nodad",
        "route add 2001:db8:1::1/128 dev wan",
        "route add 2001:db8:2::/48 via 2001:db8:1::1 dev wan",
    )
    inputs = {**UPLINK, "addresses": ["192.0.2.2/32", "2001:db8::2/128"]}

    async def work(session: Pausing) -> None:
        await session.apply(change_of("Bridge", "wan", **inputs))
        before = as_before()
        assert any("via fe80::1" in route for route in before["routes"])
        for to in (change_of("Bridge", "wan", inputs, **{**inputs, "addresses": []}), None):
            held = change_of("Bridge", "wan", **inputs)
            await rolled_back(session.apply(to or Change(held.urn, "wan", (), held.objects, known=True)))
            assert as_before() == before

    in_session(up, work)


def test_what_cannot_come_back_as_it_was(up: World, as_before: Look) -> None:
    """The rest does; the record says what was, and not the change, or the next boot would make it again."""
    inputs = {"name": "vmbr", "addresses": ["10.5.0.1/24"]}
    server = {"dhcpServer": {"rangeStart": "10.5.0.10", "rangeEnd": "10.5.0.20"}}
    up.server.mounts += "cp $(readlink -f $(command -v dnsmasq)) /run/dnsmasq\n"
    up.server.mounts += "mount --bind /run/dnsmasq $(readlink -f $(command -v dnsmasq))"
    up.server.stop()
    up.server.start()

    async def work(session: Pausing) -> None:
        await session.apply(change_of("Bridge", "vmbr", **inputs, **server))
        before = as_before()
        bad = change_of("Bridge", "vmbr", {**inputs, **server}, name="vmbr", addresses=["192.0.2.5/29"])
        asked = asyncio.ensure_future(session.apply(bad))
        await watch(lambda: phase(up) == "unconfirmed")
        assert up.server._sshd is not None
        there = f"/proc/{up.server._sshd.pid}/root/run/dnsmasq"
        up.server.namespace.run(["sh", "-c", f"cat /bin/false >{there}"])
        error = await rolled_back(asked)
        assert "the rollback failed in part: cannot serve DHCP" in error.why
        assert as_before()["routes"] == before["routes"]
        path = next((up.directory / "state").glob("netns-*.json"))
        assert "10.5.0.1/24" in path.read_text()
        assert "192.0.2.5" not in path.read_text()

    in_session(up, work)


ETH0 = {"externalInterface": "eth0"}
TAKERS = {
    "a forward of the SSH port": change_of("PortForward", "ssh", sourcePort=22, destination="10.0.0.2", **ETH0),
    "a range with it": change_of(
        "PortForward", "range", sourcePort="20:30", destination="10.0.0.2", protocol="tcp+udp", **ETH0
    ),
    "a dmz host that gets all": change_of("NatGateway", "dmz", **ETH0, dmzHost="10.0.0.2", dmzExceptPorts=[2222]),
}


@pytest.mark.parametrize("change", TAKERS.values(), ids=TAKERS)
def test_what_takes_the_next_log_in_is_undone_at_once(up: World, as_before: Look, change: Change) -> None:
    """The connection in progress goes on: so the provider tries another, before it confirms."""
    up.settings = replace(up.settings, confirm_timeout=4 * SECONDS)

    async def work(session: Pausing) -> None:
        before = as_before()
        error = await rolled_back(session.apply(change))
        assert "after the change a new connection to the host failed" in error.why
        assert as_before() == before

    in_session(up, work)
    assert up.server.log_ins() == 1


def test_the_address_of_the_server_is_given_to_a_guest(up: World, as_before: Look) -> None:
    """Another one is not: that needs no second log-in."""
    up.settings = replace(up.settings, confirm_timeout=4 * SECONDS)
    up.server.namespace.ip("address add 192.0.2.77/24 dev eth0")
    other, own = (
        change_of(
            "NatGateway",
            "gw",
            internalIps=["10.0.0.0/24"],
            oneToOneNat=[{"externalAddress": address, "internalAddress": "10.0.0.2"}],
            **ETH0,
        )
        for address in ("192.0.2.77", "192.0.2.2")
    )

    async def work(session: Pausing) -> None:
        await session.apply(other)
        assert up.server.log_ins() == 1
        before = as_before()
        error = await rolled_back(session.apply(own))
        assert "after the change a new connection to the host failed" in error.why
        assert as_before() == before

    in_session(up, work)


def second_uplink(world: World) -> None:
    """The server has another default route, which it does not prefer."""
    world.server.namespace.ip(
        "link add other type veth peer name far",
        "link set other up",
        "link set far up",
        "address add 203.0.113.2/24 dev other",
        "route add default via 192.0.2.1 dev eth0 metric 100",
        "route add default via 203.0.113.1 dev other metric 500",
    )


BOTH = change_of("NatGateway", "gw", externalInterfaces=["eth0", "other"], internalIps=["10.0.0.0/24"])


def test_replies_by_the_same_uplink_leave_the_providers_own_alone(up: World) -> None:
    """It is answered as the main table says, whichever uplink it came in by; new connections are as well."""
    second_uplink(up)

    async def work(session: Pausing) -> None:
        await session.apply(BOTH)
        assert {rule.table for rule in up.server.namespace.kernel.rules()} >= {7100, 7101}
        await session._transport.verify_login()

    in_session(up, work)
    assert len(owners(up)) == 2


def test_a_rule_that_moves_the_way_back(up: World, as_before: Look) -> None:
    """Another program marks what the host sends, in bits that are hostnet's as well: our rule would come first.

    Its own rule looks at other bits, so no number shows that it needs these.
    """
    second_uplink(up)
    server = up.server.namespace
    marks = "type route hook output priority mangle; ip daddr 192.0.2.1 meta mark set 0x2000001;"
    server.nft(f"table ip vpn {{ chain out {{ {marks} }}; }}")
    server.ip("route add 192.0.2.0/24 dev eth0 table 77", "rule add pref 500 fwmark 0x1/0xff table 77")

    async def work(session: Pausing) -> None:
        before, rules = as_before(), server.kernel.rules()
        error = await rolled_back(session.apply(BOTH))
        assert f"the provider did not confirm it within {SECONDS:g} s" in error.why
        assert as_before() == before
        assert server.kernel.rules() == rules

    in_session(up, work)
    assert owners(up) == ["br0"]


def test_a_gateway_that_takes_a_forward_along(up: World) -> None:
    """The forward of the SSH port did no harm where its gateway was, and does where that goes."""
    up.settings = replace(up.settings, confirm_timeout=4 * SECONDS)
    up.server.namespace.ip("link add other type veth peer name far", "link set other up")
    inputs = {"externalInterface": "other", "internalIps": ["10.0.0.0/24"]}

    async def work(session: Pausing) -> None:
        made = change_of("NatGateway", "gw", **inputs)
        gateway = await session.apply(made)
        await session.apply(
            change_of("PortForward", "ssh", natGateway=gateway.id, sourcePort=22, destination="10.0.0.2")
        )
        moved = change_of("NatGateway", gateway.id, inputs, **{**inputs, **ETH0})
        error = await rolled_back(session.apply(replace(moved, urn=made.urn)))
        assert "after the change a new connection to the host failed" in error.why
        await session._transport.verify_login()

    in_session(up, work)


@pytest.mark.parametrize(
    "change",
    [
        change_of("PortForward", "web", sourcePort=80, destination="10.0.0.2", **ETH0),
        change_of("PortForward", "dns", sourcePort="1:1024", destination="10.0.0.2", **ETH0, protocol="udp"),
        change_of("NatGateway", "dmz", **ETH0, dmzHost="10.0.0.2"),
    ],
    ids=["another port", "UDP", "a dmz host with the exception"],
)
def test_what_leaves_the_ssh_port_needs_no_second_log_in(up: World, change: Change) -> None:
    """It costs no more than its confirmation."""

    async def work(session: Pausing) -> None:
        await session.apply(change)

    in_session(up, work)
    assert up.server.log_ins() == 1


def test_a_forward_of_the_ssh_port_elsewhere(up: World) -> None:
    """Where new logins still come through, it counts."""
    change = change_of(
        "PortForward",
        "ssh",
        sourcePort=22,
        destination="10.0.0.2",
        **ETH0,
        sourceCidrs=["198.51.100.0/24"],
    )

    async def work(session: Pausing) -> None:
        await session.apply(change)
        assert up.server.log_ins() == 2

    in_session(up, work)
    assert len(owners(up)) == 2


# --- deaths between a change and its confirmation --------------------------------------------------------------------


def kill_agents(world: World) -> None:
    """And what they would say."""
    for pid in world.server.agents():
        os.kill(pid, signal.SIGKILL)


async def abandon(session: Session) -> None:
    """Be a provider that is killed: its connection ends at once."""
    session._transport._login.connection.abort()  # type: ignore[attr-defined]


class Gone(BaseException):
    """The provider is no more."""


@pytest.mark.parametrize("change", [bridge("br1"), cutting()], ids=["harmless", "cutting"])
def test_the_provider_dies(up: World, as_before: Look, change: Change) -> None:
    """No provider is there to confirm: it is rolled back when the time is up, whatever it was."""

    async def work(session: Pausing) -> None:
        before = as_before()

        async def die() -> None:
            await abandon(session)
            raise Gone

        if change.id == "br1":
            session.before = die
            with pytest.raises(Gone):
                await session.apply(change)
        else:
            asked = asyncio.ensure_future(session.apply(change))
            await watch(lambda: "bad" in owners(up))
            asked.cancel()
            await abandon(session)
        assert owners(up) != ["br0"]
        await watch(lambda: owners(up) == ["br0"])
        assert as_before() == before

    in_session(up, work)


@pytest.mark.parametrize("user", ["root", "admin"])
def test_the_agent_dies_with_the_way_cut(up: World, as_before: Look, user: str) -> None:
    """hostnet-confirm lives on, under sudo as well; the provider learns of the rollback when it can connect again."""

    async def work(session: Pausing) -> None:
        before = as_before()
        asked = asyncio.ensure_future(session.apply(cutting()))
        await watch(lambda: "bad" in owners(up))
        kill_agents(up)
        await rolled_back(asked)
        assert as_before() == before

    in_session(up, work, user=user)


def test_the_log_in_ends_with_the_way_cut(up: World, as_before: Look) -> None:
    """All processes of the session are asked to end, as logind may do; hostnet-confirm first does its work."""

    async def work(session: Pausing) -> None:
        before = as_before()
        asked = asyncio.ensure_future(session.apply(cutting()))
        await watch(lambda: "bad" in owners(up))
        (process,) = up.server.confirm_processes()
        for pid in (*up.server.agents(), process):
            os.kill(pid, signal.SIGTERM)
        await rolled_back(asked)
        assert as_before() == before
        assert process in up.server.confirm_processes(), "it keeps what became of the change"
        os.kill(process, signal.SIGTERM)
        await watch(lambda: process not in up.server.confirm_processes())

    in_session(up, work)


def test_the_agent_dies_with_the_way_open(up: World) -> None:
    """The next one gets the confirmation: the change was made once, and counts."""
    up.settings = replace(up.settings, confirm_timeout=LONG)

    async def work(session: Pausing) -> None:
        async def kill() -> None:
            kill_agents(up)

        session.before = kill
        assert (await session.apply(bridge("br1"))).id == "br1"
        assert phase(up) == "idle"

    in_session(up, work)
    assert owners(up) == ["br0", "br1"]
    assert up.server.log_ins() == 1


def test_the_agent_dies_half_way(up: World) -> None:
    """The error says what it died of, though hostnet-confirm rolls back at once; nothing is kept of it."""
    changes = [bridge(f"x{number}") for number in range(60)]

    async def work(session: Pausing) -> None:
        first = session.greeting.process.pid
        asked = [asyncio.ensure_future(session.apply(change)) for change in changes]
        await watch(lambda: phase(up) in ("pending", "unconfirmed"))
        os.kill(first, signal.SIGKILL)
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert {each.code for each in outcomes if isinstance(each, HostnetError)} == {Code.AGENT_DIED}
        assert "SIGKILL" in str(outcomes[0])
        assert owners(up) == ["br0"]
        assert phase(up) == "idle"

    in_session(up, work)


class Limits:
    """Stands in for `asyncio.timeout`: knows which limits were set, and which run now."""

    def __init__(self) -> None:
        self.started: set[float] = set()
        self.running: set[float] = set()
        self._timeout = asyncio.timeout

    @asynccontextmanager
    async def timeout(self, delay: float) -> AsyncIterator[asyncio.Timeout]:
        """A limit, in seconds."""
        self.started.add(delay)
        self.running.add(delay)
        try:
            async with self._timeout(delay) as limit:
                yield limit
        finally:
            self.running.discard(delay)


def test_the_agent_dies_before_a_slow_log_in(up: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next agent's answer is confirmed, however long that takes: only the answer itself has a time limit."""
    limits, limit = Limits(), 154.25
    monkeypatch.setattr("hostnet.hosts.session._ANSWER_SECONDS", limit)
    monkeypatch.setattr("hostnet.hosts.session._OBJECT_SECONDS", 0)
    monkeypatch.setattr("hostnet.hosts.session.asyncio.timeout", limits.timeout)
    up.settings = replace(up.settings, confirm_timeout=LONG)
    change = change_of(
        "PortForward", "ssh", sourcePort=22, destination="10.0.0.2", **ETH0, sourceCidrs=["198.51.100.0/24"]
    )

    async def work(session: Pausing) -> None:
        log_in, running = session._transport.verify_login, []

        async def verify_login() -> None:
            running.append(set(limits.running))
            if len(running) == 1:
                kill_agents(up)
                return
            await log_in()

        monkeypatch.setattr(session._transport, "verify_login", verify_login)
        assert await session.apply(change)
        assert limit in limits.started
        assert [limit in each for each in running] == [False, False]
        assert (await session.apply(bridge("br1"))).id == "br1"

    in_session(up, work)
    assert len(owners(up)) == 3


def test_the_connection_dies_with_the_way_open(up: World) -> None:
    """Another connection confirms it, though the first agent has not noticed yet that it is alone."""
    up.settings = replace(up.settings, confirm_timeout=LONG)

    async def work(session: Pausing) -> None:
        first = session.greeting.process.pid

        async def cut() -> None:
            for pid in up.server.session_processes():
                os.kill(pid, signal.SIGSTOP)  # the server does not notice
            await abandon(session)

        session.before = cut
        bridges = up.server.bridges()
        assert (await session.apply(bridge("br1"))).id == "br1"
        assert up.server.bridges().items() >= bridges.items()
        assert first not in up.server.agents()
        assert phase(up) == "idle"

    in_session(up, work)
    assert owners(up) == ["br0", "br1"]
    assert up.server.log_ins() == 2
    for pid in up.server.session_processes():
        os.kill(pid, signal.SIGKILL)


def test_another_request_instead_of_the_confirmation(up: World) -> None:
    """Nobody waits for the first one any more: it is undone, and the other done and answered."""
    up.settings = replace(up.settings, confirm_timeout=LONG)

    async def work(session: Pausing) -> None:
        async def turn_away() -> None:
            raise Gone

        session.before = turn_away
        with pytest.raises(Gone):
            await session.apply(bridge("br1"))
        assert (await session.apply(bridge("br2"))).id == "br2"
        assert owners(up) == ["br0", "br2"]

    in_session(up, work)


def test_hostnet_confirm_is_killed_before(up: World, as_before: Look) -> None:
    """The agent starts another one: no change goes unwatched."""

    async def work(session: Pausing) -> None:
        before = as_before()
        for pid in up.server.confirm_processes():
            os.kill(pid, signal.SIGKILL)
        await rolled_back(session.apply(cutting()))
        assert as_before() == before

    in_session(up, work)


def test_another_stack_comes_in_between(up: World) -> None:
    """What a dead agent left unconfirmed is undone by whoever comes next to the host, at once."""
    up.settings = replace(up.settings, confirm_timeout=LONG)

    async def work(session: Pausing) -> None:
        async def die() -> None:
            await abandon(session)
            raise Gone

        session.before = die
        with pytest.raises(Gone):
            await session.apply(bridge("br1"))
        await watch(lambda: not up.server.agents())
        assert owners(up) == ["br0", "br1"]
        other = up.session()
        await other.apply(bridge("br2"))
        assert owners(up) == ["br0", "br2"]
        await other.close()

    in_session(up, work)
    assert sorted(up.server.bridges()) == ["br0", "br2"]


def test_a_live_agents_change_is_waited_for(up: World) -> None:
    """Another stack's provider does not undo what may be confirmed yet."""
    up.settings = replace(up.settings, confirm_timeout=LONG)

    async def work(session: Pausing) -> None:
        other = up.session()
        await other.connect()
        waiting: list[asyncio.Future[Any]] = []

        async def begin() -> None:
            waiting.append(asyncio.ensure_future(other.apply(bridge("br2"))))
            await watch(lambda: _waits_for_lock(other.greeting.process.pid))

        session.before = begin
        await session.apply(bridge("br1"))
        await waiting[0]
        await other.close()

    in_session(up, work)
    assert owners(up) == ["br0", "br1", "br2"]


def _waits_for_lock(pid: int) -> bool:
    return any("->" in line and f" {pid} " in line for line in Path("/proc/locks").read_text().splitlines())


def test_the_last_resource_goes(up: World) -> None:
    """The record stays till its delete is confirmed, then it goes, and the agent's file with the agent."""

    async def work(session: Pausing) -> None:
        async def look() -> None:
            assert phase(up) == "unconfirmed"

        session.before = look
        await session.apply(removal("br0"))
        assert record(up) == {}

    in_session(up, work)
    until(lambda: not up.server.confirm_processes())
    until(lambda: not (up.directory / "state").exists())
