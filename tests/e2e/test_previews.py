"""What a preview knows, asks and warns of; and what never shows: secrets."""

from __future__ import annotations

import json
from collections.abc import Callable

import pulumi
import pulumi_hostnet as hostnet

from tests.e2e.stacks import Host, Program, Stack

SECRETS = ("swordfish-1", "swordfish-2", "swordfish-3", "swordfish-4")


def test_an_unknown_host_costs_nothing(stack: Stack, host: Host) -> None:
    """A server of the same stack: the preview plans all four resources without a word, and the up reaches it."""
    server = f"""
import pulumi, pulumi_hostnet as hostnet
from pulumi.dynamic import CreateResult, Resource, ResourceProvider

class Servers(ResourceProvider):
    def create(self, props):
        return CreateResult("server", {{"netns": {host.name!r}}})

class Server(Resource):
    netns: pulumi.Output[str]
    def __init__(self, name):
        super().__init__(Servers(), name, {{"netns": None}})

connection = hostnet.ConnectionArgs(netns=Server("server").netns)
bridge = hostnet.Bridge("net", addresses=["10.0.0.1/24"], connection=connection)
tap = hostnet.TapBinding("web", bridge=bridge.name, guest={{}}, connection=connection)
nat = hostnet.NatGateway("nat", internal_interfaces=[bridge.name], connection=connection)
to = tap.guest.addresses[0].apply(lambda address: address.split("/")[0])
hostnet.PortForward("http", nat_gateway=nat.id, source_port=80, destination=to, connection=connection)
pulumi.export("guest", tap.guest.addresses)
"""
    stack.write(server)
    planned = stack.preview(None)
    assert planned.changes == dict.fromkeys(["net", "web", "nat", "http"], "create")
    assert planned.warnings == []
    made = stack.up(None)
    assert made.changes == planned.changes
    assert stack.outputs["guest"] == ["10.0.0.2/24"]
    assert host.forwards() == {80: "10.0.0.2:80"}
    assert stack.preview(None, "--expect-no-changes").changes == {}
    stack.destroy()
    assert host.left == []


def test_what_would_fail_is_a_warning_at_preview(stack: Stack, host: Host) -> None:
    """A missing interface, a taken name, a taken port: the preview says so, at the resource, and goes on."""
    host.ip("link add foreign type bridge")

    def program() -> None:
        connection = hostnet.ConnectionArgs(netns=host.name)
        hostnet.Bridge("fine", name="fine", addresses=["10.0.0.1/24"], connection=connection)
        hostnet.Bridge("taken", name="foreign", addresses=["10.1.0.1/24"], connection=connection)
        hostnet.NatGateway("side", external_interface="eth7", internal_ips=["10.0.0.0/24"], connection=connection)

    planned = stack.preview(program)
    assert planned.changes == dict.fromkeys(["fine", "taken", "side"], "create")
    told = planned.said_by_name("warning")
    assert set(told) == {"taken", "side"}
    assert "eth7" in told["side"]
    assert "foreign" in told["taken"]
    assert not host.table
    assert "fine" not in host.links


def test_a_host_that_is_gone(new_host: Callable[[], Host], new_stack: Callable[..., Stack]) -> None:
    """Never "resource gone": refresh, update and delete are errors; `deleteUnreachable` lets the state forget."""
    host = new_host()
    stack = new_stack(host)

    def program(mtu: int | None = None) -> Program:
        def declare() -> None:
            connection = hostnet.ConnectionArgs(netns=host.name)
            bridge = hostnet.Bridge("net", addresses=["10.0.0.1/24"], mtu=mtu, connection=connection)
            hostnet.TapBinding("web", bridge=bridge.name, connection=connection)

        return declare

    stack.up(program())
    host.namespace.delete()
    kept = set(stack.resources)
    planned = stack.preview(program(1400))
    assert planned.changes == {"net": "update"}
    for run in (stack.refresh(fails=True), stack.up(program(1400), fails=True), stack.destroy(fails=True)):
        assert host.name in run.errors
        assert set(stack.resources) == kept
    assert "deleteUnreachable" in run.errors
    forgotten = stack.destroy(HOSTNET_DELETE_UNREACHABLE="1")
    assert set(forgotten.changes) == kept
    assert any("deleteUnreachable" in warning for warning in forgotten.warnings)


def test_secrets_never_show(stack: Stack, host: Host) -> None:
    """Credentials, and whatever else is marked secret: encrypted in the state, hidden in outputs, events, messages."""

    def program(*, wrong: bool = False, jump: bool = False) -> Program:
        def declare() -> None:
            login = hostnet.ConnectionArgs(
                host="127.0.0.1",
                port=1,
                dial_error_limit=1,
                insecure_ignore_host_key=True,
                password=SECRETS[0],  # the schema says that it is a secret
                private_key_password=pulumi.Output.secret(SECRETS[1]),
                proxy=hostnet.ConnectionArgs(host="127.0.0.1", port=1, password=SECRETS[2]) if jump else None,
            )
            provider = hostnet.Provider("own", connection=login, state_dir=str(host.state_dir))
            own = pulumi.ResourceOptions(provider=provider)
            here = hostnet.ConnectionArgs(netns=host.name)
            bridge = hostnet.Bridge("net", addresses=["10.0.0.1/24"], connection=here, opts=own)
            guest = hostnet.GuestArgs(hostname=pulumi.Output.secret(SECRETS[3]))
            tap = hostnet.TapBinding("web", bridge=bridge.name, guest=guest, connection=here, opts=own)
            pulumi.export("argument", tap.guest.kernel_ip_arg)
            if wrong or jump:
                hostnet.Bridge("far", addresses=["10.1.0.1/24"], connection=login, opts=own)

        return declare

    runs = [
        stack.preview(program(), "--diff"),
        stack.up(program(), "--diff", "--debug", "--show-full-output"),
        stack.refresh("--diff", "--debug"),
        stack.up(program(wrong=True), "--diff", "--debug", fails=True),
        stack.preview(program(jump=True), "--diff", "--debug"),
    ]
    assert SECRETS[3] in host.record, "the host gets it: what follows is about Pulumi's side"
    for run in runs:
        for secret in SECRETS:
            assert secret not in run.text, run.command
            assert secret not in json.dumps(run.events), run.command
    assert not [secret for secret in SECRETS if secret in stack.state_text]
    assert not [secret for secret in SECRETS[:3] if secret in host.record]


def test_a_new_way_to_the_same_host_touches_nothing(stack: Stack, host: Host) -> None:
    """Another way to become root (or login, or port) is an update of the state; the host does not hear of it."""

    def program(*, sudo: bool) -> Program:
        def declare() -> None:
            connection = hostnet.ConnectionArgs(netns=host.name, sudo=sudo)
            hostnet.Bridge("net", name="net", addresses=["10.0.0.1/24"], connection=connection)

        return declare

    stack.up(program(sudo=False))
    host.ip("address del 10.0.0.1/24 dev net")
    changed = stack.up(program(sudo=True))
    assert changed.diffs == {"net": {"connection.sudo": "update"}}
    assert changed.changes == {"net": "update"}
    assert host.addresses("net") == [], "it was not repaired: nothing was sent to the host"


def test_another_host_is_a_replacement(new_host: Callable[[], Host], new_stack: Callable[..., Stack]) -> None:
    """A change of the namespace makes everything there first, then takes it away here."""
    one, two = new_host(), new_host()
    stack = new_stack(one)

    def program(host: Host) -> Program:
        def declare() -> None:
            connection = hostnet.ConnectionArgs(netns=host.name)
            bridge = hostnet.Bridge("net", name="net", addresses=["10.0.0.1/24"], connection=connection)
            hostnet.NatGateway("nat", internal_interfaces=[bridge.name], connection=connection)

        return declare

    stack.up(program(one))
    moved = stack.up(program(two))
    assert moved.changes == {"net": "replace", "nat": "replace"}
    order = [step.op for step in moved.steps if step.name == "net"]
    assert order.index("create-replacement") < order.index("delete-replaced")
    assert (one.table, "net" in one.links) == (False, False)
    assert two.table
    assert two.addresses("net") == ["10.0.0.1/24"]


def test_a_preview_of_an_unreachable_host_is_quick(stack: Stack) -> None:
    """A namespace that is not there: the preview warns at most, and plans."""

    def program() -> None:
        hostnet.Bridge("net", addresses=["10.0.0.1/24"], connection=hostnet.ConnectionArgs(netns="hnt-nowhere"))

    assert stack.preview(program).changes == {"net": "create"}
    failed = stack.up(program, fails=True)
    assert "hnt-nowhere" in failed.errors
    assert stack.resources == {}
