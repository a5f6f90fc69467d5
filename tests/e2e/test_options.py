"""Pulumi's resource options and targets, as far as a provider can get them wrong."""

from __future__ import annotations

from functools import partial
from typing import Any

import pulumi
import pulumi_hostnet as hostnet

from tests.e2e.stacks import Host, Program, Stack


def optioned(
    host: Host, *, after: bool = False, without: frozenset[str] = frozenset(), unprotected: bool = False
) -> Program:
    """Resources with an option each.

    Args:
        host: The host.
        after: Whether each is changed.
        without: Resources that are left out.
        unprotected: Whether `protect` is taken off.
    """

    def say(one: Any, two: Any) -> Any:
        return two if after else one

    def declare() -> None:
        connection = hostnet.ConnectionArgs(netns=host.name)

        def bridge(name: str, number: int, mtu: int, **options: Any) -> None:
            if name not in without:
                hostnet.Bridge(
                    name,
                    name=f"br{number}",
                    addresses=[f"10.{number}.0.1/24"],
                    mtu=mtu,
                    connection=connection,
                    opts=pulumi.ResourceOptions(**options),
                )

        bridge("ignored", 1, say(1400, 1300), ignore_changes=["mtu"])
        timeouts = pulumi.CustomTimeouts(create="1m", update="1m", delete="1m")
        bridge("timed", 2, say(1400, 1300), custom_timeouts=timeouts)
        bridge("kept", 3, 1400, retain_on_delete=True)
        bridge("guarded", 4, 1400, protect=not unprotected)
        bridge(say("old", "new"), 5, 1400, aliases=[pulumi.Alias(name="old")])
        if "tap" not in without:
            hostnet.TapBinding(
                say("was", "is"),
                name="vm",
                bridge="br5",
                guest={},
                connection=connection,
                opts=pulumi.ResourceOptions(aliases=[pulumi.Alias(name="was")]),
            )
        hostnet.PortForward(
            "door",
            source_port=say(80, 81),
            destination="10.1.0.2",
            connection=connection,
            opts=pulumi.ResourceOptions(delete_before_replace=True),
        )

    return declare


def test_options_of_a_change(stack: Stack, host: Host) -> None:
    """ignoreChanges, aliases, deleteBeforeReplace, customTimeouts, --target, --replace."""
    program = partial(optioned, host)
    stack.up(program(without=frozenset({"tap"})))
    stack.up(program())
    guest = stack.resources["was"]["outputs"]["guest"]
    mac = host.links["br5"].mac

    targeted = stack.up(program(after=True), "--target", stack.urn("timed"))
    assert targeted.changes == {"timed": "update"}
    assert set(host.forwards()) == {80}

    rest = stack.up(program(after=True))
    assert rest.changes == {"door": "replace"}
    assert host.links["br1"].mtu == 1400
    assert host.links["br2"].mtu == 1300
    assert host.links["br5"].mac == mac, "another URN, the same bridge"
    assert stack.resources["is"]["outputs"]["guest"] == guest, "and the same guest"
    order = [step.op for step in rest.steps if step.name == "door"]
    assert order.index("delete-replaced") < order.index("create-replacement")
    assert set(host.forwards()) == {81}
    assert stack.preview(program(after=True), "--refresh").changes == {}

    again = stack.up(program(after=True), "--replace", stack.urn("timed"))
    assert again.changes == {"timed": "replace"}
    assert host.links["br2"].mtu == 1300, "what keeps its name is not taken away with what it replaces"
    assert host.addresses("br2") == ["10.2.0.1/24"]
    assert stack.resources["is"]["outputs"]["guest"] == guest, "a replacement may hold what it replaces"
    assert host.links["vm"].master == "br5"


def test_options_of_a_delete(stack: Stack, host: Host) -> None:
    """retainOnDelete, protect."""
    program = partial(optioned, host)
    stack.up(program(without=frozenset({"tap"})))  # it names its bridge, and does not wait for it
    stack.up(program())
    gone = stack.up(program(without=frozenset({"kept"})))
    assert "kept" not in stack.resources
    assert gone.changes in ({"kept": "delete"}, {"kept": "retain"})
    assert host.addresses("br3") == ["10.3.0.1/24"], "retainOnDelete leaves it on the host"

    guarded = stack.up(program(without=frozenset({"kept", "guarded"})), fails=True)
    assert "protected" in guarded.errors
    assert "br4" in host.links

    stack.up(program(without=frozenset({"kept"}), unprotected=True))
    stack.destroy()
    assert {name for name in host.links if name.startswith("br")} == {"br3"}


def test_an_alias_on_a_derived_mac(stack: Stack, host: Host) -> None:
    """Renamed and changed in one up: the guest keeps its MAC and addresses, and the old owner is not left behind."""

    def program(name: str, mtu: int | None) -> Program:
        def declare() -> None:
            connection = hostnet.ConnectionArgs(netns=host.name)
            aliased = pulumi.ResourceOptions(aliases=[pulumi.Alias(name=one) for one in ("first", "second")])
            net = hostnet.Bridge("net", name="net", addresses=["10.0.0.1/24"], connection=connection)
            hostnet.TapBinding(name, name="vm", bridge=net.name, guest={}, mtu=mtu, connection=connection, opts=aliased)

        return declare

    stack.up(program("first", None))
    guest = stack.resources["first"]["outputs"]["guest"]
    renamed = stack.up(program("second", 1400))
    assert renamed.changes == {"second": "update"}
    assert stack.resources["second"]["outputs"]["guest"] == guest
    assert host.record.count('"id":"vm"') == 1, "one owner: the new name's"
    stack.destroy()
    assert host.left == []
