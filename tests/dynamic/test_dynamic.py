"""`hostnet.dynamic` with the real pulumi and no plugin: what a life of its resources does to a host.

Addresses: br0 has 10.0.0.1/24 and fd12::1/64, the guest on vm-web gets the lowest free ones.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import re
from collections.abc import Callable
from typing import Any

import hostnet.dynamic
import pulumi

from tests.dynamic.stacks import DynamicStack, changes, network
from tests.e2e.stacks import Cli, Host, Stack

CREATED = dict.fromkeys(("net", "web", "nat", "http"), "create")


def test_a_life(stack: DynamicStack, host: Host) -> None:
    """Up, a second up, an update in place, drift seen and mended, a replacement, destroy: the host is as before."""
    program = network(host)
    assert changes(stack.up(program)) == CREATED
    assert stack.outputs["kernelIpArg"] == "ip=10.0.0.2::10.0.0.1:255.255.255.0:web:eth0:off"
    assert (stack.outputs["sourcePorts"], stack.outputs["ifindex"]) == ("8080", host.links["br0"].index)
    assert host.links["vm-web"].master == "br0"
    assert changes(stack.up(program)) == {}

    narrow = network(host, mtu=1400)
    assert changes(stack.preview(narrow))["net"] == "update"
    assert changes(stack.up(narrow)) == {"net": "update"}
    assert host.links["br0"].mtu == 1400

    host.ip("address add 10.9.0.1/24 dev br0", "link set vm-web nomaster")
    host.nft("flush map inet hostnet " + _map_of(host, "8080"))
    assert changes(stack.refresh()).keys() >= {"net", "web", "http"}
    assert "10.9.0.1/24" in stack.resources["net"]["outputs"]["addresses"]
    assert changes(stack.up(narrow)).keys() >= {"net", "web", "http"}
    assert host.addresses("br0") == ["10.0.0.1/24", "fd12::1/64"]
    assert host.links["vm-web"].master == "br0"
    assert "8080" in host.namespace.kernel.listing("table inet hostnet")
    assert changes(stack.refresh()) == {}

    assert changes(stack.up(network(host, mtu=1400, name="br1")))["net"] == "replace"
    assert "br0" not in host.links
    assert host.links["vm-web"].master == "br1"

    stack.destroy()
    assert host.links.keys() == {"lo", "eth0", "wire"}
    assert host.namespace.kernel.listing() == ""
    assert not host.state_dir.exists()


def _map_of(host: Host, port: str) -> str:
    """The map of our table that has this port."""
    for item in host.ruleset:
        if port in json.dumps(item.get("map", {}).get("elem", [])):
            return str(item["map"]["name"])
    raise AssertionError(port)


def test_the_kernel_has_the_same_as_from_the_plugin(new_cli: Callable[[], Cli], new_host: Callable[[], Host]) -> None:
    """One program with the classes of one and of the other: the same links, addresses, routes and ruleset."""
    one, other = new_host(), new_host()
    dynamic = DynamicStack(new_cli(), "same", stateDir=str(one.state_dir))
    plugin = Stack(new_cli(), "same", stateDir=str(other.state_dir))
    dynamic.up(network(one))
    plugin.up(network(other, importlib.import_module("pulumi_hostnet")))
    assert dynamic.outputs == plugin.outputs
    assert _seen(one) == _seen(other)


def _seen(host: Host) -> dict[str, Any]:
    """All that the host has, but for what is another with every interface."""
    links = {name: link.lasting for name, link in host.links.items()}
    for name in links.keys() - {"br0", "eth0"}:
        del links[name]["mac"]  # the kernel draws a TAP's by lot
    routes = [route for route in host.namespace.kernel.routes(table=None) if not route.destination.startswith("fe80:")]
    rules = _without_handles(host.namespace.kernel.ruleset())
    return {"links": links, "routes": sorted(map(str, routes)), "rules": rules}


def _without_handles(listing: Any) -> Any:
    """The listing without handles, and without the name of the state directory in the elements' comments."""
    if isinstance(listing, dict):
        return {name: _without_handles(value) for name, value in listing.items() if name != "handle"}
    if isinstance(listing, list):
        return [_without_handles(item) for item in listing]
    return re.sub(r" @/.*", "", listing) if isinstance(listing, str) else listing


def test_all_failures_at_once_each_with_its_path(stack: DynamicStack, host: Host) -> None:
    """The plugin's checks; of a connection no value is shown, and a secret never is."""

    def program() -> None:
        hostnet.dynamic.Bridge(
            "net",
            addresses=["10.0.0.0/24"],
            dhcp_server={"static_leases": [{"mac_address": "x", "address": "10.0.0.9"}]},
            connection={"host": "192.0.2.1", "password": "hunter22", "port": "hunter22"},
        )

    run = stack.preview(program, fails=True)
    for path in ("addresses[0]", "dhcpServer.staticLeases[0].macAddress", "connection.port"):
        assert path in run.errors
    assert "hunter22" not in run.text


def test_an_error_says_what_the_plugin_would_and_leaves_nothing(stack: DynamicStack, host: Host) -> None:
    """A link that is not ours: refused; the state has no resource and no pending operation."""
    host.ip("link add br0 type bridge")
    run = stack.up(network(host), fails=True)
    assert "HostnetFailure: " in run.errors
    assert "adopt" in run.errors
    latest = json.loads(stack.state_text)["checkpoint"]["latest"]
    assert not latest.get("pending_operations")
    assert not stack.resources


def test_secrets_stay_out_of_the_state(stack: DynamicStack, host: Host) -> None:
    """What comes of a secret input is a secret, in lists too, over a refresh; the pickle names a class, and no more."""

    def program() -> None:
        hostnet.dynamic.Bridge(
            "net", name="br0", addresses=[pulumi.Output.secret("10.77.0.1/24")], connection={"netns": host.name}
        )

    stack.up(program)
    assert host.addresses("br0") == ["10.77.0.1/24"]
    stack.refresh()
    assert "10.77.0" not in stack.state_text
    pickled = base64.b64decode(stack.resources["net"]["inputs"]["__provider"])
    assert b"HostnetProvider" in pickled
    assert len(pickled) < 200


def test_credentials_are_secrets_whoever_says_so() -> None:
    """In a dict, in a proxy's dict, and in an Output of a dict."""
    asyncio.set_event_loop(
        asyncio.new_event_loop()
    )  # what an Output is made in; an earlier test may have ended its own
    marked = hostnet.dynamic._with_secrets({"user": "root", "password": "p", "proxy": {"private_key": "k"}})
    assert marked["user"] == "root"
    assert isinstance(marked["password"], pulumi.Output)
    assert isinstance(marked["proxy"]["private_key"], pulumi.Output)
    assert hostnet.dynamic._has_credentials({"proxy": {"privateKeyPassword": "p"}})
    assert not hostnet.dynamic._has_credentials({"host": "192.0.2.1"})


def test_an_alias_keeps_the_identity(stack: DynamicStack, host: Host) -> None:
    """A resource renamed with an alias is the same to the host: its guest's MAC address, its updates, its end."""

    def tap(name: str, **inputs: Any) -> Callable[[], None]:
        options = pulumi.ResourceOptions(aliases=[pulumi.Alias(name="old")])

        def program() -> None:
            hostnet.dynamic.TapBinding(
                name, name="vm-web", guest={}, connection={"netns": host.name}, opts=options, **inputs
            )

        return program

    stack.up(tap("old"))
    mac = stack.resources["old"]["outputs"]["guest"]["macAddress"]
    assert changes(stack.up(tap("new"))) == {}
    assert changes(stack.up(tap("new", mtu=1400))) == {"new": "update"}
    assert host.links["vm-web"].mtu == 1400
    assert stack.resources["new"]["outputs"]["guest"]["macAddress"] == mac
    stack.destroy()
    assert "vm-web" not in host.links


def test_what_a_guest_may_reach(stack: DynamicStack, host: Host) -> None:
    """A list comes, changes and is repaired."""

    def tap(*rules: dict[str, Any]) -> Callable[[], None]:
        guest = {"mac_address": "02:00:00:00:00:05", "egress": list(rules)}
        inputs: dict[str, Any] = {"name": "vm-web", "addresses": ["10.2.0.1/32"], "routes": ["10.2.0.5/32"]}

        def program() -> None:
            hostnet.dynamic.TapBinding("web", guest=guest, connection={"netns": host.name}, **inputs)

        return program

    def listed() -> int:
        return host.namespace.run("nft list table inet hostnet").count('"vm-web" . 02:00:00:00:00:05 . tcp . 443 . ')

    rule = {"cidr": "198.51.100.10/32", "protocol": "tcp", "ports": "443"}
    stack.up(tap(rule))
    assert listed() == 1
    assert changes(stack.up(tap(rule, {**rule, "cidr": "192.0.2.0/24"}))) == {"web": "update"}
    assert listed() == 2
    host.namespace.run("nft flush set inet hostnet egress_guests")
    assert changes(stack.up(tap(rule, {**rule, "cidr": "192.0.2.0/24"}), "--refresh")) == {"web": "update"}
    assert "vm-web" in host.namespace.run("nft list set inet hostnet egress_guests")
    stack.destroy()


def test_what_a_guest_may_reach_by_name(stack: DynamicStack, host: Host) -> None:
    """The list has a chain, and the names have sets, as long as there is one."""

    def program(*rules: dict[str, Any]) -> Callable[[], None]:
        def made() -> None:
            at = {"netns": host.name}
            bridge = hostnet.dynamic.Bridge("net", name="br0", addresses=["10.0.0.1/24"], dhcp_server={}, connection=at)
            guest = {"mac_address": "02:00:00:00:00:05", "egress": list(rules)}
            hostnet.dynamic.TapBinding("web", name="vm-web", bridge=bridge.name, guest=guest, connection=at)

        return made

    def listed() -> str:
        return host.namespace.run("nft list table inet hostnet")

    rule = {"domain": "*.example.com", "protocol": "tcp", "ports": "443"}
    stack.up(program(rule))
    assert listed().count("tcp dport 443") == 2
    assert changes(stack.up(program({**rule, "domain": "example.com"}))) == {}
    assert changes(stack.up(program(rule, {"domain": "example.net"}))) == {"web": "update"}
    assert listed().count('comment "example.net"') == 2
    assert changes(stack.up(program({"cidr": "192.0.2.0/24"}))) == {"web": "update"}
    assert "list_" not in listed().replace("egress_link_lists", "")
    stack.destroy()


def _forward(host: Host) -> None:
    hostnet.dynamic.PortForward("web", source_port=80, destination="10.0.0.2", connection={"netns": host.name})


def test_another_host_is_a_replacement_made_there_first(
    stack: DynamicStack, host: Host, new_host: Callable[[], Host]
) -> None:
    """`connection.netns` replaces, create-before-delete."""
    other = new_host()
    stack.up(lambda: _forward(host))
    run = stack.up(lambda: _forward(other))
    assert changes(run) == {"web": "replace"}
    done = [one["metadata"]["op"] for event in run.events if (one := event.get("resOutputsEvent"))]
    assert done.index("create-replacement") < done.index("delete-replaced")
    assert host.namespace.kernel.listing() == ""
    assert "PortForward web" in other.namespace.kernel.listing()


def test_a_host_that_is_gone(stack: DynamicStack, host: Host) -> None:
    """A refresh fails and keeps the state; destroy fails and names the opt-in, which works and warns."""
    stack.up(lambda: _forward(host))
    host.namespace.delete()
    stack.refresh(fails=True)
    assert "web" in stack.resources
    assert "HOSTNET_DELETE_UNREACHABLE" in stack.destroy(fails=True).errors
    run = stack.destroy(HOSTNET_DELETE_UNREACHABLE="1")
    assert any("deleteUnreachable" in text for text in run.warnings)
    assert not stack.resources


def test_what_dynamic_resources_cannot_do_is_said(stack: DynamicStack, host: Host) -> None:
    """A misspelled input and an import end the program with what is wrong."""

    def misspelled() -> None:
        hostnet.dynamic.Bridge("net", adresses=["10.0.0.1/24"])

    assert "unexpected keyword argument 'adresses'" in stack.preview(misspelled, fails=True).text

    def imported() -> None:
        hostnet.dynamic.Bridge("net", name="br0", opts=pulumi.ResourceOptions(import_="br0"))

    assert "cannot import a dynamic resource" in stack.preview(imported, fails=True).text


def test_children_of_components_have_identities_of_their_own(stack: DynamicStack, host: Host) -> None:
    """Two components with a TAP of one name each: different URNs, as the engine has them, names and MAC addresses."""

    class Machine(pulumi.ComponentResource):
        def __init__(self, kind: str) -> None:
            super().__init__(f"shop:index:{kind}", "vm")
            hostnet.dynamic.TapBinding(
                "tap", guest={}, connection={"netns": host.name}, opts=pulumi.ResourceOptions(parent=self)
            )

    def program() -> None:
        for kind in ("Web", "Db"):
            Machine(kind)

    stack.up(program)
    latest = json.loads(stack.state_text)["checkpoint"]["latest"]["resources"]
    taps = [one for one in latest if one["type"].endswith("TapBinding")]
    assert [tap["inputs"]["__urn"] for tap in taps] == [tap["urn"] for tap in taps]
    assert len({tap["outputs"]["name"] for tap in taps}) == 2
    assert len({tap["outputs"]["guest"]["macAddress"] for tap in taps}) == 2
