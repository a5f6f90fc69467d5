"""Whose a thing is, for `hostnet.dynamic`: the URN travels with the inputs, and changes with the stack's name."""

from __future__ import annotations

from tests.dynamic.stacks import DynamicStack, changes, network
from tests.e2e.stacks import Host
from tests.e2e.test_ownership import renamed


def test_a_renamed_stack(stack: DynamicStack, host: Host) -> None:
    """Refreshed, updated and destroyed as before; a new stack of the former name learns whose the bridge is."""
    before = host.snapshot()
    former = stack.name
    stack.up(network(host))
    renamed(stack, "first-new")
    assert changes(stack.refresh()) == {}
    assert changes(stack.up(network(host))) == {}
    assert changes(stack.up(network(host, mtu=1400))) == {"net": "update"}
    other = DynamicStack(stack.cli, "another", stateDir=str(host.state_dir))
    renamed(other, former)
    run = other.up(network(host), fails=True)
    assert f"the name belongs to Bridge net (stack {stack.name} of project shop)" in run.text
    other.destroy()
    assert host.links["br0"].mtu == 1400
    stack.destroy()
    assert host.snapshot() == before
    assert host.left == []


def test_a_renamed_stack_is_destroyed_at_once(stack: DynamicStack, host: Host) -> None:
    """Nothing is left."""
    before = host.snapshot()
    stack.up(network(host))
    renamed(stack, "second-new")
    stack.destroy()
    assert host.snapshot() == before
    assert host.left == []
