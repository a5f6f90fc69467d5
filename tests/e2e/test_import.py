"""`pulumi import`: what a person made by hand, and what another stack's hostnet made."""

from __future__ import annotations

import json
from collections.abc import Callable

import pulumi_hostnet as hostnet

from tests.e2e.stacks import Host, Program, Stack


def here(host: Host) -> str:
    """The host as the provider's configuration names it: an import sends no inputs, and so no connection."""
    return json.dumps({"netns": host.name})


def import_all(stack: Stack, ids: dict[str, tuple[str, str]], *, fails: bool = False) -> str:
    """Import resources: name -> kind and id; gives what was said."""
    listed = [{"type": f"hostnet:index:{kind}", "name": name, "id": id_} for name, (kind, id_) in ids.items()]
    (stack.folder / "import.json").write_text(json.dumps({"resources": listed}))
    flags = ("--file", "import.json", "--protect=false", "--generate-code=false", "--yes", "--skip-preview")
    run = stack.run("import", None, *flags, fails=fails)
    return run.text


def test_what_a_person_made(new_stack: Callable[..., Stack], host: Host) -> None:
    """A bridge and a TAP made with `ip`: imported, clean with what is not default, then changed and destroyed."""
    host.ip(
        "link add br-x type bridge",
        "link set br-x mtu 1400 up",
        "address add 10.0.0.1/24 dev br-x",
        "address add fd12::1/64 dev br-x nodad",
        "tuntap add mode tap vnet_hdr user 1000 name vm-x",
        "link set vm-x master br-x",
    )
    mac = host.links["br-x"].mac
    stack = new_stack(host, connection=here(host))
    import_all(stack, {"net": ("Bridge", "br-x"), "web": ("TapBinding", "vm-x")})
    assert set(stack.resources["net"]["inputs"]) == {"name", "addresses", "mtu"}

    def program(mtu: int = 1400) -> Program:
        def declare() -> None:
            net = hostnet.Bridge("net", name="br-x", addresses=["10.0.0.1/24", "fd12::1/64"], mtu=mtu)
            hostnet.TapBinding("web", name="vm-x", bridge=net.name, owner="1000")

        return declare

    clean = stack.preview(program(), "--refresh")
    assert clean.diffs == {}
    assert clean.changes == {}
    before = host.snapshot()
    assert stack.up(program(), "--expect-no-changes").changes == {}
    assert host.snapshot() == before
    assert stack.up(program(1300)).changes == {"net": "update"}
    assert host.links["br-x"].mtu == 1300
    assert host.links["br-x"].mac == mac
    assert host.links["vm-x"].master == "br-x", "the port stayed"
    stack.destroy()
    assert not host.links.keys() & {"br-x", "vm-x"}
    assert host.left == []


def test_what_to_write_into_the_program(new_stack: Callable[..., Stack], host: Host) -> None:
    """An import as typed ends with the resource as text, with what is not default."""
    host.ip("link add br-x type bridge", "link set br-x mtu 1400 up")
    stack = new_stack(host, connection=here(host))
    flags = ("hostnet:index:Bridge", "net", "br-x", "--protect=false", "--yes", "--skip-preview")
    _, _, text = stack.run("import", None, *flags).text.partition("Please copy the following code")
    assert "1400" in text
    assert "br-x" in text


def test_what_is_not_there(new_stack: Callable[..., Stack], host: Host) -> None:
    """Importing what the host does not have is an error, and imports no ghost."""
    stack = new_stack(host, connection=here(host))
    ghosts = {
        "net": ("Bridge", "nowhere"),
        "vm": ("TapBinding", "nowhere"),
        "nat": ("NatGateway", "nat-0000000"),
        "door": ("PortForward", "eth0/ipv4/tcp/80"),
    }
    import_all(stack, ghosts, fails=True)
    assert stack.resources == {}
    host.ip("link add other type veth peer name other2")
    assert "other" in import_all(stack, {"kind": ("Bridge", "other")}, fails=True)


def test_what_another_stack_made(new_stack: Callable[..., Stack], host: Host) -> None:
    """All four kinds, handed over from one stack to another by id: clean, and the new stack's from then on."""

    def program() -> None:
        net = hostnet.Bridge("net", name="net", addresses=["10.0.0.1/24", "fd12::1/64"], port_isolation=True)
        hostnet.TapBinding("web", name="web", bridge=net.name, isolated=True, guest=hostnet.GuestArgs(hostname="web"))
        hostnet.TapBinding("any", match="vm-*", bridge=net.name)
        nat = hostnet.NatGateway(
            "nat",
            internal_interfaces=[net.name],
            internal_ips=["10.8.0.0/16"],
            enable_ipv6=True,
            mss_clamp=True,
            forward_ports=[
                hostnet.ForwardPortArgs(source_port=7000, destination="10.0.0.9"),
                hostnet.ForwardPortArgs(source_port="7100:7102", destination="[fd12::9]:80-82", protocol="udp"),
            ],
        )
        hostnet.PortForward("http", nat_gateway=nat.id, source_port=80, destination="10.0.0.9:8080")
        hostnet.PortForward(
            "dns",
            external_interface="eth0",
            protocol="tcp+udp",
            source_port=53,
            destination="10.0.0.9",
            listen_addresses=["192.0.2.2"],
            source_cidrs=["192.0.2.0/24"],
            loopback=False,
        )

    old = new_stack(host, connection=here(host))
    old.up(program)
    whole = host.snapshot()
    kinds = {name: one["type"].rsplit(":", 1)[-1] for name, one in old.resources.items()}
    new = new_stack(host, connection=here(host))
    import_all(new, {name: (kinds[name], one["id"]) for name, one in old.resources.items()})

    clean = new.preview(program, "--refresh", "--diff")
    assert clean.diffs == {}
    assert clean.changes == {}
    guest = old.resources["web"]["outputs"]["guest"]
    assert new.resources["web"]["outputs"]["guest"] == guest, "addresses and MAC are the guest's already"

    for name in old.resources:
        if name in old.resources:  # the others went with what they depend on
            old.cli("state", "delete", old.urn(name), "--yes", "--target-dependents", cwd=old.folder)
    assert old.resources == {}
    assert old.destroy().changes == {}
    assert host.snapshot() == whole, "what a stack forgot is not its to take away"
    assert new.up(program).changes == {}
    assert host.snapshot() == whole
    new.destroy()
    assert not host.links.keys() & {"net", "web"}
    assert host.left == []
