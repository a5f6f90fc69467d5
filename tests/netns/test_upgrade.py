"""A table that another version of hostnet made is replaced while traffic goes through it.

Addresses: see tests/lab/topology.py. Clients connect without a pause, one through a forward (outsider to guest1 by
192.0.2.2:8080), one through masquerade (guest1 to internet). No assertion depends on a duration: nftables in the
namespaces at both ends counts the SYNs that left and those that arrived, and the host counts its RSTs.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from hostnet.agent.dhcp.domains import NOTHING_SET
from hostnet.agent.linux.libnftables import Nft, NftError
from hostnet.agent.nft.ruleset import COPIES, SETS, TABLES, TEMPLATE
from hostnet.agent.transaction.host import Host
from hostnet.wire.errors import HostnetError
from hostnet.wire.protocol import Request
from hostnet.wire.requests import Query

from tests.lab.driver import Program, Provider, Stack
from tests.lab.inside import InsideProvider, open_host
from tests.lab.lab import Lab
from tests.lab.listings import parse_listing
from tests.lab.namespaces import Namespace
from tests.lab.probes import Hammer
from tests.lab.waiting import until

ROUNDS = 5
PATHS = {"forward": ("outsider", "tcp 192.0.2.2:8080"), "masquerade": ("guest1", "tcp 198.51.100.10:80")}
ROOT = Path(__file__).parents[2] / "provider"
EARLIER = "e" * 16  # an earlier version's template
REPLACES = "".join(f"delete table {name}\n" for name in TABLES)  # how the batch begins that replaces the tables
STEPS = {
    "the old tables leave the way": "delete chain inet hostnet ",
    "the tables are replaced": REPLACES,
    "the copy leaves the way": f"delete chain {COPIES[0]} ",
    "the copy is deleted": f"delete table {COPIES[0]}\n",
}
ANY = Query("urn:pulumi:dev::shop::hostnet:index:Bridge::any", "any", "Bridge")
# An agent that dies before a batch.
DIES = """
import os, signal, sys
sys.path.insert(0, {root!r})
from hostnet.agent.linux.libnftables import Nft
from hostnet.agent.main import main

run = Nft.run

def dies(nft, batch):
    if batch.startswith({batch!r}):
        os.kill(os.getpid(), signal.SIGKILL)
    run(nft, batch)

Nft.run = dies
sys.exit(main())
"""
PROGRAM: Program = {
    "net": ("Bridge", {"name": "br-a", "addresses": ["10.0.0.1/24"]}),
    "vms": ("TapBinding", {"match": "a-*", "bridge": "${net.name}"}),
    "nat": ("NatGateway", {"internalInterfaces": ["${net.name}"]}),
    "web": ("PortForward", {"natGateway": "${nat.id}", "sourcePort": 8080, "destination": "10.0.0.11:80"}),
    "range": ("PortForward", {"natGateway": "${nat.id}", "sourcePort": "5000:5009", "destination": "10.0.0.12"}),
}

SECOND: Program = {
    "net": ("Bridge", {"name": "br-z", "addresses": ["10.9.0.1/24"]}),
    "nat": ("NatGateway", {"internalInterfaces": ["${net.name}"]}),
    "web": ("PortForward", {"natGateway": "${nat.id}", "sourcePort": 9090, "destination": "10.9.0.2"}),
}


def another(port: int) -> tuple[str, dict[str, Any]]:
    """One more forward."""
    return "PortForward", {"natGateway": "${nat.id}", "sourcePort": port, "destination": "10.0.0.12"}


class Meter:
    """Counts, in the namespaces at both ends, the connections that were begun and those that came."""

    def __init__(self, lab: Lab) -> None:
        """Nothing is counted yet."""
        self.lab = lab

    def open(self) -> None:
        """Begin to count."""
        self._count("outsider", "output", "ip daddr 192.0.2.2 tcp dport 8080", "begun")
        self._count("guest1", "prerouting", "ip saddr 192.0.2.20 tcp dport 80", "came")
        self._count("guest1", "output", "ip daddr 198.51.100.10 tcp dport 80", "begun")
        self._count("internet", "prerouting", "ip saddr 192.0.2.2 tcp dport 80", "came")

    def close(self) -> None:
        """Take the counters away."""
        for role in ("outsider", "guest1", "internet"):
            self.lab[role].run("nft delete table ip tally", check=False)

    def _count(self, role: str, hook: str, what: str, name: str) -> None:
        self.lab[role].nft(
            f"table ip tally {{ counter {name} {{ packets 0 bytes 0 }}; "
            f"chain {name} {{ type filter hook {hook} priority -300; "
            f"{what} tcp flags & (syn | ack) == syn counter name {name}; }}; }}"
        )

    def _counted(self, role: str, name: str) -> int:
        listed = json.loads(self.lab[role].run(f"nft -j list counter ip tally {name}"))["nftables"]
        return next(int(item["counter"]["packets"]) for item in listed if "counter" in item)

    def missing(self) -> dict[str, int]:
        """The connections that were begun and did not come, by path."""
        ends = {"forward": ("outsider", "guest1"), "masquerade": ("guest1", "internet")}
        return {path: self._counted(begin, "begun") - self._counted(end, "came") for path, (begin, end) in ends.items()}


@pytest.fixture
def meter(lab: Lab) -> Iterator[Meter]:
    """Servers, and a meter beside them."""
    lab.serve("guest1", "tcp:80")
    lab.serve("internet", "tcp:80")
    made = Meter(lab)
    made.open()
    yield made
    made.close()


@contextmanager
def traffic(lab: Lab) -> Iterator[dict[str, Hammer]]:
    """Connect on both paths without a pause while the block runs."""
    with ExitStack() as stack:
        yield {path: stack.enter_context(lab.hammer(role, target)) for path, (role, target) in PATHS.items()}


def go_on(lab: Lab, hammers: dict[str, Hammer], more: int) -> None:
    """Wait until so many more connections have ended on each path."""
    for hammer in hammers.values():
        lab.background.run(hammer.wait(more))


def refused(hammers: dict[str, Hammer]) -> list[str]:
    """What was refused, not what was slow."""
    return [f"{path}: {each}" for path, one in hammers.items() for each in one.failures if each.outcome == "refused"]


def intercept(host: Host, run: Callable[[str, Callable[[str], None]], None]) -> None:
    """Have each batch of an agent in this process go through a function, which gets what runs it as well."""
    nft, inner = host.table.nft, host.table.nft.run
    nft.run = lambda batch: run(batch, inner)  # type: ignore[method-assign]


def resets(host: Namespace) -> int:
    """The RSTs that the host has sent: the answer to a connection that was not translated."""
    names, values = (line.split() for line in host.run("cat /proc/net/snmp").splitlines() if line.startswith("Tcp:"))
    return int(values[names.index("OutRsts")])


# --- an earlier version --------------------------------------------------------------------------------------------


def earlier(host: Namespace, *, renamed: bool = True) -> str:
    """Our tables as they are, in nft syntax, with other names for all sets and for the chains that rules jump to."""
    text = "\n".join(host.run(f"nft list table {name}") for name in TABLES)
    chains = set(re.findall(r"\b(?:jump|goto) (\w+)", text))
    for name in {*SETS, *chains} if renamed else ():
        text = re.sub(rf"\b{name}\b", f"old_{name}", text)
    return text.replace(TEMPLATE, EARLIER)


def drop(host: Namespace) -> str:
    """The commands that delete our tables."""
    return "".join(f"delete table {name}\n" for name in TABLES if name in host.run("nft list tables"))


def make_earlier(lab: Lab, stack: Stack, text: str, *, recorded: bool = True) -> None:
    """Have the host as an earlier version left it: its tables, and (or not) its record of them, of what nft lists."""
    lab.host.nft(drop(lab.host) + text)
    listed = lab.host.call(lambda: [item for name in TABLES for item in Nft().list(f"list table {name}")])
    mark = {"rules": parse_listing(listed).rules, "template": EARLIER} if recorded else {}
    path = next(stack.provider.directory.glob("netns-*.json"))
    header, *lines = path.read_text().splitlines()
    data = json.loads(header)
    data["table"] = {**data["table"], "generation": 0, **(mark or {"rules": "", "template": ""})}
    path.write_text("\n".join([json.dumps(data), *lines]) + "\n")


@dataclass
class Version:
    """What the host's tables and record are of."""

    sets: frozenset[str]
    template: str


def version(lab: Lab, stack: Stack) -> Version:
    """What is there now."""
    listed = [each for item in lab.host.kernel.ruleset() for kind, each in item.items() if kind in ("set", "map")]
    sets = frozenset(each["name"] for each in listed if f"{each['family']} {each['table']}" in TABLES)
    path = next(stack.provider.directory.glob("netns-*.json"))
    return Version(sets, json.loads(path.read_text().splitlines()[0])["table"]["template"])


def base_chains(host: Namespace) -> list[dict[str, Any]]:
    """Those that packets meet."""
    chains = [each for item in host.kernel.ruleset() for kind, each in item.items() if kind == "chain"]
    return [each for each in chains if "hook" in each]


def tables(host: Namespace) -> set[str]:
    """All tables that there are."""
    return {line.removeprefix("table ") for line in host.run("nft list tables").splitlines()}


NOW = Version(frozenset((*SETS, NOTHING_SET)), TEMPLATE)


Inside = tuple[Stack, Host]


@pytest.fixture
def inside(lab: Lab) -> Iterator[Inside]:
    """A stack that is up, and an agent of its host in this process."""
    provider = InsideProvider(lab.host)
    stack = Stack(provider, lab.host.name)
    stack.up(PROGRAM)
    yield stack, open_host(lab.host, provider.directory)
    provider.close()


# --- the promises --------------------------------------------------------------------------------------------------


def test_an_update_replaces_the_table_and_no_connection_is_lost(lab: Lab, stack: Stack, meter: Meter) -> None:
    """Five times, by an update of something else: none refused, none lost, and connections in progress go on."""
    stack.up(PROGRAM)
    text = earlier(lab.host)
    kept = [lab.converse(role, target) for role, target in PATHS.values()]
    before = resets(lab.host)
    for number in range(ROUNDS):
        make_earlier(lab, stack, text)
        assert version(lab, stack) != NOW
        with traffic(lab) as hammers:
            assert stack.up({**PROGRAM, "more": another(9000 + number)})
        assert version(lab, stack) == NOW
        assert [lab.still(one).server for one in kept] == ["guest1", "internet"]
        assert refused(hammers) == []
    assert resets(lab.host) == before
    for one in kept:
        one.close()
    until(lambda: set(meter.missing().values()) == {0})
    assert stack.refresh() == {}


def test_the_copy_carries_the_traffic_alone(lab: Lab, inside: Inside, meter: Meter) -> None:
    """The kernel has no moment that is the same for all chains: what stands beside them meanwhile does all they do."""
    stack, host = inside
    text = earlier(lab.host)
    make_earlier(lab, stack, text)
    kept = [lab.converse(role, target) for role, target in PATHS.values()]

    def without_tables(batch: str, run: Callable[[str], None]) -> None:
        if batch.startswith(REPLACES):
            lab.host.nft(drop(lab.host))
            go_on(lab, hammers, 50)
            alone.append([lab.still(one).server for one in kept])
            lab.host.nft(text)
        run(batch)

    alone: list[list[str]] = []
    intercept(host, without_tables)
    with traffic(lab) as hammers:
        lab.host.call(host.read, [ANY])
    assert alone == [["guest1", "internet"]]
    assert refused(hammers) == []
    until(lambda: set(meter.missing().values()) == {0})
    assert version(lab, stack) == NOW
    assert tables(lab.host) == {*TABLES}
    for one in kept:
        one.close()


def die(lab: Lab, stack: Stack, task: str, batch: str) -> None:
    """Have an agent read, or restore, that dies before a batch which begins so."""
    code, directory = DIES.format(root=str(ROOT), batch=batch), str(stack.provider.directory)
    argv = [sys.executable, "-c", code, task, "--state-dir", directory, "--netns", lab.host.name]
    with subprocess.Popen(argv, stdin=PIPE, stdout=PIPE, stderr=PIPE) as agent:
        assert agent.stdin is not None
        assert agent.stderr is not None
        if task == "serve":
            agent.stdin.write(Request(1, "read", queries=(ANY,)).to_line())
            agent.stdin.flush()
        said = agent.stderr.read().decode()
    assert agent.returncode == -signal.SIGKILL, said


@pytest.mark.parametrize("step", STEPS)
def test_a_destroy_after_its_death_leaves_nothing(lab: Lab, stack: Stack, step: str) -> None:
    """Not the copy either."""
    stack.up(PROGRAM)
    make_earlier(lab, stack, earlier(lab.host))
    die(lab, stack, "serve", STEPS[step])
    assert {*COPIES} <= tables(lab.host)
    stack.destroy()
    assert tables(lab.host) == set()


@pytest.mark.parametrize("task", ["serve", "restore"])
@pytest.mark.parametrize("step", STEPS)
def test_an_agent_that_dies_at_any_step(lab: Lab, stack: Stack, meter: Meter, task: str, step: str) -> None:
    """Something is in force after its death, too, and the next agent goes on from there: a read finds no drift."""
    stack.up(PROGRAM)
    make_earlier(lab, stack, earlier(lab.host))
    with traffic(lab) as hammers:
        die(lab, stack, task, STEPS[step])
        assert tables(lab.host) == {*TABLES, *COPIES}
        go_on(lab, hammers, 20)
        assert stack.refresh() == {}
    assert refused(hammers) == []
    until(lambda: set(meter.missing().values()) == {0})
    assert tables(lab.host) == {*TABLES}
    assert version(lab, stack) == NOW
    assert stack.again() == []


def test_tables_leave_the_way_before_they_are_deleted(lab: Lab, inside: Inside) -> None:
    """A packet that runs a deleted table's rules finds nothing in its maps, and the next rule may refuse it."""
    stack, host = inside
    make_earlier(lab, stack, earlier(lab.host))
    hooked: list[set[str]] = []

    def look(batch: str, run: Callable[[str], None]) -> None:
        if batch.startswith("delete table"):
            hooked.append({f"{each['family']} {each['table']}" for each in base_chains(lab.host)})
        run(batch)

    intercept(host, look)
    lab.host.call(host.read, [ANY])
    assert hooked == [{*COPIES}, {*TABLES}]


def test_what_comes_while_the_copy_is_made_is_in_the_new_tables(lab: Lab, inside: Inside) -> None:
    """Another record's agent, and dnsmasq, add to the old tables: what they added since the listing is not lost."""
    stack, host = inside
    make_earlier(lab, stack, earlier(lab.host, renamed=False))
    element = '"eth0" . tcp . 81 comment "dev/shop PortForward x @/srv/other" : 10.0.0.12 . 81'

    def add(batch: str, run: Callable[[str], None]) -> None:
        run(batch)
        if batch.startswith(f"add table {COPIES[0]}"):
            lab.host.nft(f"add element {TABLES[0]} dnat_port4 {{ {element} }}")

    intercept(host, add)
    lab.host.call(host.read, [ANY])
    assert "/srv/other" in lab.host.run("nft list table inet hostnet")
    assert tables(lab.host) == {*TABLES}


def test_two_records_on_one_host(lab: Lab, stack: Stack) -> None:
    """The agent of the first replaces the tables; nothing of the second looks deleted then."""
    stack.up(PROGRAM)
    provider = Provider()
    try:
        second = Stack(provider, lab.host.name)
        second.up(SECOND)
        text = earlier(lab.host)
        make_earlier(lab, stack, text)
        make_earlier(lab, second, text)
        assert stack.refresh() == {}
        assert version(lab, stack) == NOW
        assert second.refresh() == {}
        assert version(lab, second) == NOW
        assert stack.refresh() == {}
        second.destroy()
        assert stack.refresh() == {}
    finally:
        provider.close()


def test_two_records_at_once(lab: Lab, stack: Stack, meter: Meter) -> None:
    """Their agents take turns: the copy of one that lives is left alone, and both find what is theirs."""
    stack.up(PROGRAM)
    provider = Provider()
    try:
        second = Stack(provider, lab.host.name)
        second.up(SECOND)
        text = earlier(lab.host, renamed=False)  # what is in sets of other names, only its own agent puts back
        for _ in range(ROUNDS):
            make_earlier(lab, stack, text)
            make_earlier(lab, second, text)
            with traffic(lab) as hammers, ThreadPoolExecutor() as pool:
                assert list(pool.map(lambda each: each.refresh(), (stack, second))) == [{}, {}]
            assert refused(hammers) == []
            assert (version(lab, stack), version(lab, second), tables(lab.host)) == (NOW, NOW, {*TABLES})
        until(lambda: set(meter.missing().values()) == {0})
        second.destroy()
        assert stack.refresh() == {}
    finally:
        provider.close()


def test_tables_that_are_refused_beside_their_copy(lab: Lab, inside: Inside, meter: Meter) -> None:
    """The copy stays in force, a read is an error and no drift, and the next one goes on from there."""
    stack, host = inside
    make_earlier(lab, stack, earlier(lab.host))

    def refuse(batch: str, run: Callable[[str], None]) -> None:
        if batch.startswith(REPLACES):
            raise NftError("Error: Cannot allocate memory")
        run(batch)

    with traffic(lab) as hammers:
        intercept(host, refuse)
        with pytest.raises(HostnetError, match="cannot compare the nftables tables"):
            lab.host.call(host.read, [ANY])
        assert tables(lab.host) == {*TABLES, *COPIES}
        go_on(lab, hammers, 20)
        assert stack.refresh() == {}
    assert refused(hammers) == []
    until(lambda: set(meter.missing().values()) == {0})
    assert (version(lab, stack), tables(lab.host)) == (NOW, {*TABLES})


def test_a_lost_record_beside_an_earlier_table_of_two_stacks(lab: Lab, stack: Stack) -> None:
    """What the first stack's change replaces has the elements of the second one, which has not come back yet."""
    stack.up(PROGRAM)
    second = Stack(stack.provider, lab.host.name, name="second")
    second.up(SECOND)
    lab.host.nft(drop(lab.host) + earlier(lab.host, renamed=False))
    next(stack.provider.directory.glob("netns-*.json")).unlink()
    stack.up({**PROGRAM, "nat": ("NatGateway", {"internalInterfaces": ["${net.name}"], "mssClamp": False})})
    assert "10.9.0.2 . 9090" in lab.host.run("nft list map inet hostnet dnat_port4")
    assert "web" not in second.refresh()


def test_a_gap_between_two_transactions_is_seen(lab: Lab, stack: Stack, meter: Meter) -> None:
    """The same traffic and meter where the table is deleted in one transaction and made in the next."""
    stack.up(PROGRAM)
    text = earlier(lab.host)
    before = resets(lab.host)
    with traffic(lab) as hammers:

        def gap_is_seen() -> bool:
            lab.host.nft(drop(lab.host))
            lab.host.nft(text)
            return any(each.startswith("forward") for each in refused(hammers)) and all(meter.missing().values())

        until(gap_is_seen)
    assert resets(lab.host) > before


def test_a_gap_ends_connections_in_progress(lab: Lab, stack: Stack, meter: Meter) -> None:
    """Without a NAT chain the kernel does not translate known connections either: the host answers with a RST."""
    del meter  # but not its servers
    stack.up(PROGRAM)
    kept = lab.converse(*PATHS["forward"])
    lab.host.nft(drop(lab.host))
    assert lab.still(kept).outcome == "refused"
    kept.close()


def test_a_read_replaces_the_table_first(lab: Lab, stack: Stack, meter: Meter) -> None:
    """Under its former names everything would look deleted: a refresh finds no drift, and no connection is lost."""
    stack.up(PROGRAM)
    make_earlier(lab, stack, earlier(lab.host))
    with traffic(lab) as hammers:
        assert stack.refresh() == {}
    assert version(lab, stack) == NOW
    assert refused(hammers) == []
    until(lambda: set(meter.missing().values()) == {0})
    assert stack.again() == []


def test_a_table_that_somebody_changed_is_drift(lab: Lab, stack: Stack) -> None:
    """An earlier version's table without one of its rules is not as that version made it: a read shows it."""
    stack.up(PROGRAM)
    make_earlier(lab, stack, earlier(lab.host))
    lab.host.nft("flush chain inet hostnet postrouting")
    assert {"nat", "web", "range"} <= set(stack.refresh())
    stack.up(PROGRAM)
    assert version(lab, stack) == NOW
    assert stack.refresh() == {}


def test_a_lost_record_beside_an_earlier_table(lab: Lab, stack: Stack) -> None:
    """Nothing tells how the tables were made but the names of their sets: the next change replaces them."""
    stack.up(PROGRAM)
    make_earlier(lab, stack, earlier(lab.host), recorded=False)
    assert stack.up({**PROGRAM, "more": another(9000)}) == ["create more"]
    assert version(lab, stack) == NOW
    assert stack.refresh() == {}
