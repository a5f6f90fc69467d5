"""Whose a thing is, with the real engine: it changes the URNs in a state, and it forgets what a killed run did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pulumi
import pulumi_hostnet as hostnet
import pytest

from tests.e2e.stacks import Host, Program, Stack

NewStack = Callable[..., Stack]
NAMES = {"net", "web", "routed", "glob", "nat", "http", "inline"}


def network(host: Host, *, changed: bool = False, names: Callable[[str], str] = str, **options: Any) -> Program:
    """Each kind, with the names that it has by default: a bridge and two guests, a glob, gateways and a forward.

    Args:
        host: Where it is.
        changed: Change a property of each, in place.
        names: The name in the program, for the name before.
        options: `aliases`, by the name before.
    """

    def program() -> None:
        connection = hostnet.ConnectionArgs(netns=host.name)

        def declare(kind: Any, name: str, **inputs: Any) -> Any:
            former = [pulumi.Alias(name=name)] if options.get("aliases") and names(name) != name else []
            return kind(names(name), opts=pulumi.ResourceOptions(aliases=former), connection=connection, **inputs)

        net = declare(hostnet.Bridge, "net", addresses=["10.0.0.1/24", "fd12::1/64"], mtu=1400 if changed else 1450)
        guest = {"hostname": "new" if changed else "old"}
        declare(hostnet.TapBinding, "web", bridge=net.name, guest=guest)
        declare(
            hostnet.TapBinding,
            "routed",
            addresses=["10.9.0.1/32"],
            routes=["10.9.0.2/32"],
            mtu=1400 if changed else 1450,
        )
        declare(hostnet.TapBinding, "glob", match="vm-*", bridge=net.name, isolated=changed)
        nat = declare(hostnet.NatGateway, "nat", internal_interfaces=[net.name], mss_clamp=changed)
        at = "10.0.0.3" if changed else "10.0.0.2"
        declare(hostnet.PortForward, "http", nat_gateway=nat.id, source_port=80, destination=at)
        forwards = [hostnet.ForwardPortArgs(source_port=81, destination=at)]
        declare(hostnet.NatGateway, "inline", external_interface="eth0", forward_ports=forwards)

    return program


def renamed(stack: Stack, name: str, *, project: str = "") -> None:
    """`pulumi stack rename`, with the project that the folder has from now on."""
    target = f"organization/{project}/{name}" if project else name
    stack.cli("stack", "rename", "--stack", stack.name, target, cwd=stack.folder)
    config = stack.folder / f"Pulumi.{stack.name}.yaml"
    if config.exists():
        config.rename(stack.folder / f"Pulumi.{name}.yaml")
    if project:
        settings = stack.folder / "Pulumi.yaml"
        settings.write_text(settings.read_text().replace(f'"{stack.project}"', f'"{project}"'))
        stack.project = project
    stack.name = name


@pytest.mark.parametrize("project", ["", "sold"], ids=["stack", "project"])
def test_a_renamed_stack(stack: Stack, host: Host, project: str) -> None:
    """It is refreshed, updated and destroyed as if nothing had happened, and says what it took over."""
    before = host.snapshot()
    stack.up(network(host))
    macs = {name: link.mac for name, link in host.links.items()}
    former = (stack.name, stack.project)
    renamed(stack, f"{stack.name}-new", project=project)
    assert stack.preview(network(host), "--refresh").changes == {}
    assert "would fail" not in (planned := stack.preview(network(host, changed=True))).text, planned.text
    run = stack.up(network(host, changed=True))
    assert set(run.changes.values()) == {"update"}
    label = f"(stack {former[0]} of project {former[1]})"
    taken = [text for text in run.said("info") if "over from" in text and label in text]
    assert len(taken) == len(run.changes), run.text
    assert {name: link.mac for name, link in host.links.items()} == macs
    assert stack.preview(network(host, changed=True), "--refresh").changes == {}
    stack.destroy()
    assert host.snapshot() == before
    assert host.left == []


def test_a_renamed_stack_is_destroyed_at_once(stack: Stack, host: Host) -> None:
    """Nothing is left."""
    before = host.snapshot()
    stack.up(network(host))
    renamed(stack, f"{stack.name}-new")
    stack.destroy()
    assert host.snapshot() == before
    assert host.left == []


def test_an_old_copy_of_the_state(stack: Stack, host: Host, new_stack: NewStack) -> None:
    """Its destroy fails, names the stack that has the things now, and leaves them whole."""
    stack.up(network(host))
    exported = stack.folder / "state.json"
    stack.cli("stack", "export", "--stack", stack.name, "--file", str(exported), cwd=stack.folder)
    former = stack.name
    renamed(stack, f"{former}-new")
    stack.up(network(host, changed=True))
    whole = host.snapshot()

    old = new_stack(host)
    renamed(old, former)
    old.cli("stack", "import", "--stack", former, "--file", str(exported), cwd=old.folder)
    run = old.destroy("--continue-on-error", fails=True)
    assert f"now it belongs to PortForward http (stack {stack.name} of project shop)" in run.errors
    assert host.snapshot() == whole
    assert stack.preview(network(host, changed=True), "--refresh").changes == {}
    stack.destroy()
    assert host.left == []


def test_a_state_move(new_stack: NewStack, host: Host) -> None:
    """`pulumi state move` to another stack: that one updates and destroys what it got."""
    before = host.snapshot()
    source, target = new_stack(host), new_stack(host)
    source.up(network(host))
    target.up(lambda: None)
    urns = [one["urn"] for one in source.resources.values()]
    move = ["state", "move", "--yes", "--source", source.name, "--dest", target.name]
    source.cli(*move, *urns, cwd=source.folder)
    assert target.resources.keys() == NAMES
    assert source.resources == {}
    run = target.up(network(host, changed=True))
    assert set(run.changes.values()) == {"update"}
    assert target.preview(network(host, changed=True), "--refresh").changes == {}
    target.destroy()
    assert host.snapshot() == before
    assert host.left == []


def test_aliases_with_a_refresh(stack: Stack, host: Host) -> None:
    """`pulumi up --refresh` with new names: the refresh has the former ones, and that changes nothing."""
    stack.up(network(host))
    assert stack.up(network(host, names="new-{}".format, aliases=True), "--refresh").changes == {}
    assert stack.resources.keys() == {f"new-{name}" for name in NAMES}


def test_aliased_resources_are_replaced(stack: Stack, host: Host) -> None:
    """Replaced before any other change under the new names: all is there, and all goes."""
    before = host.snapshot()
    stack.up(network(host))
    stems = {name.rpartition("-")[0] for name in host.links}
    new = "new-{}".format
    program = network(host, names=new, aliases=True)
    assert stack.up(program).changes == {}
    urns = [stack.urn(new(name)) for name in NAMES]
    run = stack.up(program, "--refresh", *(flag for urn in urns for flag in ("--replace", urn)))
    assert run.changes == {new(name): "replace" for name in NAMES}
    assert len(host.links) == len(stems) + 2, host.links
    assert host.forwards() == {80: "10.0.0.2:80", 81: "10.0.0.2:81"}
    assert stack.preview(program, "--refresh").changes == {}
    stack.destroy()
    assert host.snapshot() == before
    assert host.left == []


def named(host: Host, *, bad: bool = False, names: Callable[[str], str] = str) -> Program:
    """A bridge, a guest's TAP, a gateway and a forward with names of their own, and another resource that may fail.

    Args:
        host: Where it is.
        bad: Whether the other resource is there.
        names: The name in the program, for the name before, which is an alias.
    """

    def program() -> None:
        connection = hostnet.ConnectionArgs(netns=host.name)

        def declare(kind: Any, called: str, **inputs: Any) -> Any:
            former = [pulumi.Alias(name=called)] if names(called) != called else []
            return kind(names(called), opts=pulumi.ResourceOptions(aliases=former), connection=connection, **inputs)

        net = declare(hostnet.Bridge, "net", name="vms", addresses=["10.0.0.1/24"])
        tap = declare(hostnet.TapBinding, "web", name="web", bridge=net.name)
        nat = declare(hostnet.NatGateway, "nat", internal_interfaces=[net.name])
        http = declare(hostnet.PortForward, "http", nat_gateway=nat.id, source_port=80, destination="10.0.0.2")
        if bad:
            after = pulumi.ResourceOptions(depends_on=[net, tap, nat, http])
            hostnet.TapBinding("bad", name="bad", bridge="missing", connection=connection, opts=after)

    return program


@pytest.mark.parametrize("then", ["up", "up --replace", "refresh", "destroy"])
def test_a_replacement_that_did_not_end(stack: Stack, host: Host, then: str) -> None:
    """`pulumi up --replace` fails elsewhere, and so deletes nothing: the next run deletes, and keeps what is new."""
    before = host.snapshot()
    stack.up(named(host))
    whole = host.snapshot()
    replaced = [flag for name in ("net", "web", "http") for flag in ("--replace", stack.urn(name))]
    run = stack.up(named(host, bad=True), *replaced, fails=True)
    assert run.done("create-replacement") == 3, run.text
    assert host.snapshot() == whole
    if then == "refresh":
        stack.refresh()
    if then != "destroy":
        run = stack.up(named(host), *replaced * (then == "up --replace"))
        assert run.done("delete-replaced") == (6 if then == "up --replace" else 3), run.text
        assert host.snapshot() == whole
        assert stack.preview(named(host), "--refresh").changes == {}
    stack.destroy()
    assert host.snapshot() == before
    assert host.left == []


def test_an_alias_after_a_replacement_that_did_not_end(stack: Stack, host: Host) -> None:
    """The engine deletes the former entry under its own URN: what has another name since stays."""
    before = host.snapshot()
    stack.up(named(host))
    whole = host.snapshot()
    replaced = [flag for name in ("net", "web", "http") for flag in ("--replace", stack.urn(name))]
    stack.up(named(host, bad=True), *replaced, fails=True)
    stack.up(named(host, names="new-{}".format))
    assert host.snapshot() == whole
    assert stack.preview(named(host, names="new-{}".format), "--refresh").changes == {}
    stack.destroy()
    assert host.snapshot() == before
    assert host.left == []


@pytest.mark.parametrize("how", ["--replace", "taint"])
def test_an_alias_is_replaced_before_anything_else(stack: Stack, host: Host, how: str) -> None:
    """The engine names nothing of the former resource: refused, with what to run instead, and nothing changes."""
    stack.up(network(host))
    whole = host.snapshot()
    if how == "taint":
        stack.cli("state", "taint", "--yes", "--stack", stack.name, stack.urn("net"), cwd=stack.folder)
    flags = ["--replace", "**::new-net"] if how == "--replace" else []  # it refuses the URN, which is not in the state
    run = stack.up(network(host, names="new-{}".format, aliases=True), *flags, fails=True)
    assert "If Bridge new-net is Bridge net under another name (an alias), run `pulumi up` without" in run.errors
    assert host.snapshot() == whole


def test_a_tainted_resource(stack: Stack, host: Host) -> None:
    """`pulumi state taint` of a bridge without a name: another one takes its place, and its guests follow."""
    stack.up(network(host))
    names = set(host.links)
    stack.cli("state", "taint", "--yes", "--stack", stack.name, stack.urn("net"), cwd=stack.folder)
    run = stack.up(network(host))
    (gone,), (new,) = names - set(host.links), set(host.links) - names
    assert run.said_by_name("info")["net"].strip() == f"removed {gone}: {new} takes its place"
    assert stack.preview(network(host), "--refresh").changes == {}
    stack.destroy()
    assert host.left == []


def provided(host: Host, provider: str) -> Program:
    """A bridge, a TAP, a gateway and a forward, by the default provider or ("": none) by one of their own."""

    def program() -> None:
        connection = hostnet.ConnectionArgs(netns=host.name)
        own = hostnet.Provider(provider, connection=connection, state_dir=str(host.state_dir)) if provider else None
        opts = pulumi.ResourceOptions(provider=own)
        net = hostnet.Bridge("net", name="br0", addresses=["10.0.0.1/24"], connection=connection, opts=opts)
        hostnet.TapBinding("web", name="tap0", bridge=net.name, guest={}, connection=connection, opts=opts)
        nat = hostnet.NatGateway("nat", internal_interfaces=[net.name], connection=connection, opts=opts)
        hostnet.PortForward("http", nat_gateway=nat.id, source_port=80, destination="10.0.0.2", connection=connection,
                            opts=opts)  # fmt: skip

    return program


@pytest.mark.parametrize("former", ["", "other"], ids=["default", "explicit"])
def test_another_provider(stack: Stack, host: Host, former: str) -> None:
    """The engine replaces what gets another provider: two plugin processes, one creates and the other one deletes."""
    before = host.snapshot()
    stack.up(provided(host, former))
    whole = host.snapshot()
    stack.up(provided(host, "own"))
    assert host.snapshot() == whole
    assert stack.preview(provided(host, "own"), "--refresh").changes == {}
    stack.destroy()
    assert host.snapshot() == before
    assert host.left == []
