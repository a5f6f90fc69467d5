"""The life of a server in a stack: the network of a server over SSH, from before there is one to after it is gone.

Addresses and programs: see tests/e2e/rented.py.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostnet.wire.urn import Urn

from tests.e2e.rented import CUT, FLEET, NAMES, WRONG, Rented, Site, config
from tests.e2e.stacks import Cli, Run, Stack
from tests.lab.waiting import until
from tests.ssh.world import keygen

_numbers = itertools.count()
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"  # a string that a preview does not know


@pytest.fixture
def site(cli: Cli, tmp_path: Path) -> Iterator[Site]:
    """Where `pulumi` runs; servers are added by the test."""
    made = Site(cli, tmp_path)
    yield made
    made.close()


@pytest.fixture
def stack(site: Site) -> Stack:
    """An empty stack of the program."""
    return site.stack(f"rented{next(_numbers)}")


def started(site: Site, *serials: str) -> list[Rented]:
    """Servers whose sshd listens."""
    servers = [site.server(serial) for serial in serials]
    for server in servers:
        server.start()
    return servers


def planned_outputs(run: Run) -> dict[str, dict[str, Any]]:
    """What a preview says that hostnet's resources will be."""
    told = [event["resOutputsEvent"]["metadata"] for event in run.events if "resOutputsEvent" in event]
    return {Urn.parse(one["urn"]).name: one["new"]["outputs"] for one in told if "::hostnet:" in one["urn"]}


def order(run: Run, what: str) -> list[str]:
    """The resources, the server among them, in the order in which an operation on them ended."""
    told = [event["resOutputsEvent"]["metadata"] for event in run.events if "resOutputsEvent" in event]
    names = [Urn.parse(one["urn"]).name for one in told if one["op"] == what]
    return [name for name in names if name in {*NAMES, "server"}]


# --- before there is a server --------------------------------------------------------------------------------------


def test_a_preview_knows_what_can_be_known(stack: Stack) -> None:
    """Nothing is warned of; outputs are there, unknown at the leaf where only the server can tell."""
    planned = stack.preview(None, *config(serial="one"))
    assert planned.changes == dict.fromkeys(NAMES, "create")
    assert planned.warnings == []
    outputs = planned_outputs(planned)
    assert outputs["net"]["gateway"] == "10.0.0.1"
    assert outputs["net"]["ifindex"] == UNKNOWN
    guest = outputs["web"]["guest"]
    assert guest["macAddress"].startswith("02:")
    assert [guest["gateway"], guest["addresses"], guest["kernelIpArg"]] == [UNKNOWN] * 3
    assert outputs["nat"]["externalInterface"] == UNKNOWN
    assert outputs["http"]["sourcePorts"] == "80"
    assert outputs["http"]["destinationAddress"] == UNKNOWN


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ("lease", "dhcpServer.staticLeases[0].address"),
        ("port", "sourcePort"),
        ("jump", "connection.proxy.host"),
    ],
)
def test_what_is_wrong_is_said_before_there_is_a_server(site: Site, wrong: str, path: str) -> None:
    """The host is unknown, and a wrong input is an error all the same, at its resource and with its path."""
    stack = site.stack(f"rented{next(_numbers)}", WRONG)
    refused = stack.preview(None, *config(wrong=wrong), fails=True)
    told = refused.said_by_name("error")
    assert path in told[wrong]
    assert "fine" not in told
    assert planned_outputs(refused)["fine"]["gateway"] == "10.0.0.1"


# --- up ------------------------------------------------------------------------------------------------------------


def test_up_while_it_boots(site: Site, stack: Stack) -> None:
    """The server lets nobody in yet: the status tells, `up` goes on when it does."""
    server = site.server("one")
    with stack.running("up", None, "--yes", "--skip-preview", *config(serial="one")) as running:
        running.until(lambda run: any("attempt 2" in text for text in run.said("info")))
        assert server.log_ins() == 0
        server.start()
        run = stack.ended(running)
    assert run.code == 0, run.text
    assert "net" in run.said_by_name("info"), "it says so at the first resource on the server"
    assert f"waiting for root@{server.address} (attempt 1): connection refused\n" in run.said("info")
    assert run.warnings == []
    assert server.host.forwards() == {80: "10.0.0.2:80"}
    assert "PRIVATE KEY" not in stack.state_text + run.text + json.dumps(run.events)
    assert stack.up(None, "--expect-no-changes").changes == {}
    stack.destroy()
    assert site.left_at_deletion("one") == "", "the network went before the server"


def test_new_credentials(site: Site, stack: Stack) -> None:
    """Another key and another port are an update of the state; the server hears of them with the next thing to do."""
    server = site.server("one")
    server.config = server.config.replace("Port 22", "Port 22\nPort 2222")
    server.start()
    stack.up(None, *config(serial="one"))
    log_ins = server.log_ins()
    server.host.ip("address delete 10.0.0.1/24 dev net")
    keygen(site.key)
    site.authorize(server)
    changed = stack.up(None, *config(port=2222))
    assert changed.changes == dict.fromkeys(NAMES, "update")
    assert set(changed.diff("net")) == {"connection.port", "connection.privateKey"}
    assert server.log_ins() == log_ins
    assert server.host.addresses("net") == [], "it was not repaired: nothing was sent to the server"
    assert stack.refresh().changes.keys() >= {"net"}
    assert server.log_ins() > log_ins
    stack.up(None)
    assert server.host.addresses("net") == ["10.0.0.1/24"]
    stack.destroy()


# --- another server ------------------------------------------------------------------------------------------------


def test_another_server(site: Site, stack: Stack) -> None:
    """The new one has its network before anything of the old one goes, and that goes before the old server."""
    one, two = started(site, "one", "two")
    stack.up(None, *config(serial="one"))
    planned = stack.preview(None, *config(serial="two"))
    assert planned.changes == dict.fromkeys(NAMES, "replace")
    assert planned.warnings == []
    moved = stack.up(None, *config(serial="two"))
    assert moved.changes == planned.changes
    assert moved.warnings == []
    ends = [step.op for step in moved.steps]
    assert ends.index("delete-replaced") > max(i for i, op in enumerate(ends) if op == "create-replacement")
    assert order(moved, "delete-replaced") in (
        ["http", "web", "nat", "net", "server"],
        ["http", "nat", "web", "net", "server"],
    )
    assert site.left_at_deletion("one") == ""
    assert not one.host.table
    assert two.host.forwards() == {80: "10.0.0.2:80"}
    assert stack.outputs["address"] == two.address


def test_a_server_that_is_deleted_before_its_successor_is_made(site: Site, stack: Stack) -> None:
    """As one with a fixed name: the network goes from the old one while it is there, and comes on the new one."""
    _, two = started(site, "one", "two")
    stack.up(None, *config(serial="one"))
    moved = stack.up(None, *config(serial="two", fixed="true"))
    assert moved.changes == dict.fromkeys(NAMES, "replace")
    assert site.left_at_deletion("one") == ""
    assert two.host.forwards() == {80: "10.0.0.2:80"}


def test_a_server_that_died(site: Site, stack: Stack) -> None:
    """Its successor gets the network; to forget what was on the dead one takes the opt-in, and then it is a warning."""
    one, two = started(site, "one", "two")
    stack.up(None, *config(serial="one", limit=1))
    one.close()
    moved = stack.up(None, *config(serial="two"), fails=True)
    assert one.address in moved.errors
    assert "deleteUnreachable" in moved.errors
    assert "HOSTNET_DELETE_UNREACHABLE=1" in moved.errors
    assert two.host.forwards() == {80: "10.0.0.2:80"}
    forgotten = stack.up(None, HOSTNET_DELETE_UNREACHABLE="1")
    assert set(forgotten.said_by_name("warning")) == NAMES
    assert all(one.address in text and "deleteUnreachable" in text for text in forgotten.warnings)
    assert stack.up(None, "--expect-no-changes").changes == {}
    assert two.host.forwards() == {80: "10.0.0.2:80"}


def test_the_same_server_by_another_address(site: Site, stack: Stack) -> None:
    """To Pulumi it is another host: everything is replaced, on one and the same server, and is there in the end."""
    (server,) = started(site, "one")
    server.namespace.ip("address add 192.0.2.200/24 dev eth0")
    stack.up(None, *config(serial="one"))
    before = server.host.links["net"].index
    moved = stack.up(None, *config(address="192.0.2.200"))
    assert moved.changes == dict.fromkeys(NAMES, "replace")
    assert server.host.forwards() == {80: "10.0.0.2:80"}
    assert server.host.addresses("net") == ["10.0.0.1/24"]
    assert server.host.links["net"].index == before
    assert stack.refresh().changes == {}
    stack.destroy()
    assert server.host.left == []


def test_what_is_deleted_with_its_server(site: Site, stack: Stack) -> None:
    """`deleted_with`: a dead server's network is not asked for, neither at a replacement nor at destroy."""
    one, two = started(site, "one", "two")
    stack.up(None, *config(serial="one", limit=1), "--config", "with=true")
    one.close()
    moved = stack.up(None, *config(serial="two"))
    assert moved.warnings == []
    assert two.host.forwards() == {80: "10.0.0.2:80"}
    two.close()
    assert stack.destroy().warnings == []
    assert stack.resources == {}


# --- a change that cuts the connection -----------------------------------------------------------------------------


def cut_off(site: Site, stack: Stack, server: Rented) -> dict[str, Any]:
    """The stack without the cut; gives what the server is then."""
    stack.up(None, *config(cut="false"))
    assert server.host.addresses("second") == ["10.1.0.1/24"]
    return server.host.snapshot()


def test_a_change_that_cuts_the_way(site: Site) -> None:
    """It fails, and says that it is undone; the server and the state are as before, and the next run finds them so."""
    (server,) = started(site, "one")
    stack = site.stack(f"rented{next(_numbers)}", CUT, confirmTimeout="2")
    before = cut_off(site, stack, server)
    planned = stack.preview(None, *config(cut="true"))
    assert planned.changes == {"second": "update"}
    failed = stack.up(None, *config(cut="true"), fails=True)
    told = failed.said_by_name("error")["second"]
    assert f"root@{server.address}: rolled the change back" in told
    assert "the provider did not confirm it within 2 s" in told
    assert server.host.snapshot() == before
    assert stack.resources["second"]["outputs"]["addresses"] == ["10.1.0.1/24"]
    assert stack.up(None, *config(cut="false"), "--expect-no-changes").changes == {}
    assert stack.refresh().changes == {}
    stack.destroy()
    assert server.host.left == []


def test_pulumi_is_killed_while_the_way_is_cut(site: Site) -> None:
    """Nobody is left who could say anything: the server undoes it, and the next run is as after any failure."""
    (server,) = started(site, "one")
    stack = site.stack(f"rented{next(_numbers)}", CUT, confirmTimeout="2")
    before = cut_off(site, stack, server)
    with stack.running("up", None, "--yes", "--skip-preview", *config(cut="true")) as running:
        until(lambda: server.host.addresses("second") == ["192.0.2.3/29"])
        assert running.process.poll() is None
    # The block's end killed it.
    until(lambda: server.host.snapshot() == before)
    stack.cli("cancel", "--yes", "--stack", stack.name, cwd=stack.folder)
    assert stack.up(None, *config(cut="false")).code == 0
    assert server.host.snapshot() == before
    assert stack.refresh().changes == {}


# --- many servers --------------------------------------------------------------------------------------------------


def test_refresh_with_one_server_unreachable(site: Site) -> None:
    """An error for each of its resources, which stay as they are in the state; all others are refreshed."""
    servers = started(site, "one", "two", "three")
    stack = site.stack(f"rented{next(_numbers)}", FLEET)
    stack.up(None)
    for server in servers:
        server.host.ip("link set vm1 nomaster", "address add 10.9.0.1/24 dev net")
    dead = servers[1]
    dead.stop()
    dead.kill_sessions()
    refreshed = stack.refresh(fails=True)
    failed = refreshed.said_by_name("error")
    on_it = {name for name in stack.resources if name.endswith("-two")}
    assert {name for name in failed if name in stack.resources} == on_it
    assert all(f"root@{dead.address}" in failed[name] for name in on_it)
    drifted = {name for name, one in stack.resources.items() if drift(one)}
    assert drifted == {"net-one", "vm1-one", "net-three", "vm1-three"}
    dead.start()
    assert stack.up(None, "--refresh").changes.keys() >= {*drifted, "net-two", "vm1-two"}
    for server in servers:
        assert server.host.addresses("net") == ["10.0.0.1/24"]
        assert server.host.links["vm1"].master == "net"


def drift(resource: dict[str, Any]) -> bool:
    """Whether the state has a resource of `FLEET` otherwise than the program."""
    if resource["type"].endswith("Bridge"):
        return bool(resource["outputs"]["addresses"] != ["10.0.0.1/24"])
    return bool(resource["inputs"].get("bridge") != "net")
