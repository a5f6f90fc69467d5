"""Each kind's life as the engine leads it, on a fake host.

Addresses: bridge `vms` has 10.0.0.1/24 and fd12::1/64; the uplink is the fake's eth0, 203.0.113.5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from hostnet.resources.schema.values import UNKNOWN
from hostnet.rpc.codec import decode
from hostnet.rpc.protos import provider_pb2

from tests.rpc.engine import Engine, Resource, message, paths

if TYPE_CHECKING:
    from collections.abc import Callable

BRIDGE = {"name": "vms", "addresses": ["10.0.0.1/24", "fd12::1/64"]}
GATEWAY = {"externalInterface": "eth0", "internalInterfaces": ["vms"]}

# kind: (inputs, an update, a replacement, drift that a refresh sees)
LIVES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None, Callable[[Engine], None]]] = {
    "Bridge": (
        BRIDGE,
        {"addresses": ["10.0.0.1/24"], "mtu": 1400},
        {"name": "other"},
        lambda engine: engine.host.change_link("vms", addresses=("10.0.0.1/24",)),
    ),
    "TapBinding": (
        {"name": "vm0", "bridge": "vms", "owner": "nobody", "guest": {"hostname": "web"}},
        {"owner": "1000", "isolated": True},
        {"multiQueue": True},
        lambda engine: engine.host.change_link("vm0", bridge=None),
    ),
    "NatGateway": (
        GATEWAY,
        {"internalInterfaces": ["vms", "lab"]},
        None,
        lambda engine: engine.host.set_forwarding("ipv4", enabled=False),
    ),
    "PortForward": (
        {"externalInterface": "eth0", "sourcePort": 80, "destination": "10.0.0.2"},
        {"destination": "10.0.0.3:8080"},
        {"sourcePort": 81},
        lambda engine: engine.host.set_forwarding("ipv4", enabled=False),
    ),
}


def is_gone(made: Resource) -> bool:
    """Whether a read finds nothing of a resource. A gateway's id stays, without the networks behind it."""
    read = made.read()
    if made.token.endswith(":NatGateway"):
        return bool(read.id) and not decode(read.inputs).values.get("internalInterfaces")
    return not read.id


@pytest.fixture(params=LIVES)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind."""
    name: str = request.param
    return name


@pytest.fixture
def made(engine: Engine, kind: str) -> Resource:
    """One of that kind, created; its bridge is there."""
    if kind != "Bridge":
        Resource(engine, "Bridge", "vms", **BRIDGE).create()
    return Resource(engine, kind, "it", **LIVES[kind][0]).create()


def test_preview_shows_outputs_and_touches_nothing(engine: Engine, kind: str) -> None:
    """A preview of a create names what is known, leaves the rest unknown and changes nothing."""
    if kind == "TapBinding":
        Resource(engine, "Bridge", "vms", **BRIDGE).create()
    before = engine.host.dump()
    planned = Resource(engine, kind, "it", **LIVES[kind][0]).preview()
    assert planned.values
    assert engine.host.dump() == before
    assert engine.warnings() == []


def test_create_then_clean(made: Resource) -> None:
    """After a create, a refresh finds nothing changed, and the same program is no difference."""
    assert made.id
    read = made.read()
    assert decode(read.properties).values == made.values()
    assert read.inputs == made.inputs
    assert made.diff().changes == provider_pb2.DiffResponse.DIFF_NONE


def guest_of(addresses: list[str], gateway: str, argument: str) -> dict[str, Any]:
    """A guest's outputs, but for its MAC address."""
    return {"addresses": addresses, "gateway": gateway, "kernelIpArg": argument}


def test_a_guest_follows_its_bridge_into_another_subnet(engine: Engine) -> None:
    """In the run that changes the bridge, and in its preview; nothing of the TapBinding's own inputs has changed."""
    net = Resource(engine, "Bridge", "net", name="vms", addresses=["10.0.0.1/24"]).create()
    tap = Resource(engine, "TapBinding", "it", name="vm0", bridge="vms", guest={}).create()
    fixed = Resource(
        engine, "TapBinding", "fixed", name="vm1", bridge="vms", guest={"addresses": ["10.0.0.9"]}
    ).create()
    mac = tap.values()["guest"]["macAddress"]
    before = guest_of(["10.0.0.2/24"], "10.0.0.1", "ip=10.0.0.2::10.0.0.1:255.255.255.0::eth0:off")
    assert tap.values()["guest"] == {"macAddress": mac, **before}
    assert tap.diff().changes == provider_pb2.DiffResponse.DIFF_NONE, "what was created is as it should be"

    moved = {"name": "vms", "addresses": ["10.7.0.1/25"]}
    net.preview(**moved)
    assert paths(tap.diff()) == {"guest.addresses": "UPDATE", "guest.gateway": "UPDATE"}
    planned = tap.preview().values["guest"]
    assert (planned["macAddress"], planned["addresses"], planned["gateway"]) == (mac, UNKNOWN, "10.7.0.1")

    net.update(**moved)
    assert not any(each.inputDiff for each in tap.diff().detailedDiff.values())
    tap.update(**tap.given)
    after = guest_of(["10.7.0.2/25"], "10.7.0.1", "ip=10.7.0.2::10.7.0.1:255.255.255.128::eth0:off")
    assert tap.values()["guest"] == {"macAddress": mac, **after}
    assert tap.refresh().diff().changes == provider_pb2.DiffResponse.DIFF_NONE
    with pytest.raises(grpc.RpcError, match=r"10\.0\.0\.9 is in no subnet of bridge vms"):
        fixed.update(**fixed.given)

    net.update(name="vms", addresses=["10.7.0.1/25", "fd12::1/64"])
    assert paths(tap.diff()) == {"guest.addresses": "UPDATE", "guest.gateway6": "UPDATE"}
    net.update(name="vms", addresses=["10.7.0.1/25"], mtu=1400)
    assert tap.diff().changes == provider_pb2.DiffResponse.DIFF_NONE


def test_a_guest_that_did_not_follow_its_bridge_is_drift(engine: Engine) -> None:
    """Another run changed the bridge, without its guests: the next refresh shows it, and an update derives again."""
    net = Resource(engine, "Bridge", "net", name="vms", addresses=["10.0.0.1/24"]).create()
    tap = Resource(engine, "TapBinding", "it", name="vm0", bridge="vms", guest={}).create()
    fixed = Resource(
        engine, "TapBinding", "fixed", name="vm1", bridge="vms", guest={"addresses": ["10.0.0.9"]}
    ).create()
    net.update(name="vms", addresses=["10.7.0.1/24"])
    engine.configure()  # another run
    assert tap.diff().changes == provider_pb2.DiffResponse.DIFF_NONE
    assert paths(tap.refresh().diff(**tap.given)) == {"guest.addresses": "DELETE"}
    assert paths(fixed.refresh().diff(**fixed.given)) == {"guest.addresses[0]": "ADD"}
    tap.update(**tap.given)
    assert tap.values()["guest"]["addresses"] == ["10.7.0.2/24"]
    assert tap.refresh().diff().changes == provider_pb2.DiffResponse.DIFF_NONE
    net.update(name="vms", addresses=["10.7.0.1/24", "fd12::1/64"])
    engine.configure()
    assert paths(tap.refresh().diff(**tap.given)) == {"guest.addresses": "DELETE"}
    tap.update(**tap.given)
    assert tap.values()["guest"]["addresses"] == ["10.7.0.2/24", "fd12::2/64"]


def test_a_forward_follows_its_gateway_to_another_uplink(engine: Engine) -> None:
    """Its output `externalInterface` is the gateway's, in the same run."""
    nat = Resource(engine, "NatGateway", "nat", externalInterface="eth0", internalIps=["10.0.0.0/24"]).create()
    web = Resource(engine, "PortForward", "web", natGateway=nat.id, sourcePort=80, destination="10.0.0.2").create()
    assert web.values()["externalInterface"] == "eth0"
    engine.host.add_link("wg0", "wireguard")
    nat.update(externalInterface="wg0", internalIps=["10.0.0.0/24"])
    assert paths(web.diff()) == {"externalInterface": "UPDATE"}
    web.update(**web.given)
    assert web.values()["externalInterface"] == "wg0"
    assert web.diff().changes == provider_pb2.DiffResponse.DIFF_NONE


def test_a_name_that_holds_what_separates_the_parts_of_a_urn(engine: Engine, kind: str) -> None:
    """`a::b` is created, refreshed, updated, listed under its whole name, and deleted as any other."""
    token = f"hostnet:index:{kind}"
    if kind != "Bridge":
        Resource(engine, "Bridge", "vms", **BRIDGE).create()
    made = Resource(engine, kind, "a::b", **LIVES[kind][0]).create()
    assert made.refresh().diff().changes == provider_pb2.DiffResponse.DIFF_NONE
    made.update(**LIVES[kind][0] | LIVES[kind][1])
    assert made.diff().changes == provider_pb2.DiffResponse.DIFF_NONE
    listed = [each.result for each in engine.stub.List(provider_pb2.ListRequest(token=token))]
    assert [(each.id, each.name) for each in listed if each.name != "vms"] == [(made.id, "a::b")]
    made.delete()
    assert is_gone(made)


def test_update_in_place(made: Resource, kind: str) -> None:
    """A change that needs no replacement keeps the id; then all is clean again."""
    wanted = LIVES[kind][0] | LIVES[kind][1]
    found = made.diff(**wanted)
    assert found.changes == provider_pb2.DiffResponse.DIFF_SOME
    assert found.hasDetailedDiff
    assert not found.replaces
    assert made.preview(**wanted).values
    made.update(**wanted)
    assert made.diff().changes == provider_pb2.DiffResponse.DIFF_NONE
    made.refresh()
    assert made.diff().changes == provider_pb2.DiffResponse.DIFF_NONE


def test_replacement_is_decided(made: Resource, kind: str) -> None:
    """What identifies a resource, or can't be changed, makes a replacement."""
    change = LIVES[kind][2]
    if change is None:
        pytest.skip("all of it updates in place")
    found = made.diff(**(LIVES[kind][0] | change))
    assert list(found.replaces) == list(change)
    assert all(how.endswith("REPLACE") for path, how in paths(found).items() if path.split(".")[0] in change)


def test_drift_is_read_and_repaired(engine: Engine, made: Resource, kind: str) -> None:
    """A change by another program: a refresh sees it, a diff names it, and an update repairs it."""
    program = dict(LIVES[kind][0])
    before = engine.host.dump()
    LIVES[kind][3](engine)
    made.refresh()
    assert made.diff(**program).changes == provider_pb2.DiffResponse.DIFF_SOME
    made.update(**program)
    assert engine.host.dump() == before


def test_gone_is_read_as_gone(engine: Engine, made: Resource, kind: str) -> None:
    """A thing that another program deleted has no id after a refresh; a gateway, which is no one thing, is drift."""
    if kind in ("Bridge", "TapBinding"):
        engine.host.remove_link(made.id)
    else:
        engine.host.flush_ruleset()
    assert is_gone(made)
    if kind != "NatGateway":
        assert not made.read().HasField("properties")


def test_delete_twice(engine: Engine, kind: str) -> None:
    """A delete leaves nothing, and deleting what is gone is success."""
    if kind != "Bridge":
        Resource(engine, "Bridge", "vms", **BRIDGE).create()
    before = engine.host.dump()
    it = Resource(engine, kind, "it", **LIVES[kind][0]).create()
    it.delete()
    assert engine.host.dump() == before
    it.delete()
    assert engine.host.dump() == before


def test_import_diffs_clean(made: Resource, kind: str) -> None:
    """An import's inputs pass Check and are no difference to what was imported."""
    found = made.imported(made.id)
    assert found.HasField("inputs")
    assert found.id == made.id
    again = Resource(made.engine, kind, "it", **decode(found.inputs).values)
    again.id, again.inputs, again.outputs = found.id, found.inputs, found.properties
    assert again.diff().changes == provider_pb2.DiffResponse.DIFF_NONE


def test_the_same_thing_is_imported_once(made: Resource, kind: str) -> None:
    """Two resources of one program can't be one thing: each would change what the other declares."""
    made.diff()
    found = made.imported(made.id)
    again = Resource(made.engine, kind, "again", **decode(found.inputs).values)
    again.id, again.inputs, again.outputs = found.id, found.inputs, found.properties
    with pytest.raises(grpc.RpcError) as refused:
        again.diff()
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert f"that is {kind} it of this program too: it was imported twice" in message(refused.value)
    assert f"pulumi state delete '{again.urn}'" in message(refused.value)
    assert made.diff().changes == provider_pb2.DiffResponse.DIFF_NONE


def test_a_refresh_before_an_alias(made: Resource) -> None:
    """`pulumi up --refresh` reads and compares a resource under its former URN: that is no second import."""
    made.engine.configure()  # another run
    renamed = made.refresh().as_urn(name="renamed")
    assert renamed.diff().changes == provider_pb2.DiffResponse.DIFF_NONE


def test_import_of_nothing(engine: Engine, kind: str) -> None:
    """What is not there is not imported: no properties, not even empty ones."""
    response = Resource(engine, kind, "it").imported("nothing")
    assert not response.HasField("properties")


def test_autoname_is_kept(engine: Engine) -> None:
    """A name that Check made comes from the seed, and stays when Check comes again with the old inputs."""
    bridge = Resource(engine, "Bridge", "a-very-long-resource-name", addresses=["10.9.0.1/24"]).create()
    assert bridge.id == decode(bridge.checked()).values["name"]
    assert len(bridge.id) <= 15
    twin = Resource(engine, "Bridge", "a-very-long-resource-name", addresses=["10.9.0.1/24"])
    assert decode(twin.checked()).values["name"] == bridge.id


def test_autonaming_configuration(engine: Engine) -> None:
    """A name that the user's configuration enforces is taken; with autonaming disabled, a name is needed."""
    bridge = Resource(engine, "Bridge", "it")
    options = provider_pb2.CheckRequest.AutonamingOptions
    enforce = options(proposed_name="br-mine", mode=options.ENFORCE)
    checked = engine.stub.Check(provider_pb2.CheckRequest(autonaming=enforce, **bridge.about))
    assert decode(checked.inputs).values == {"name": "br-mine"}
    disabled = engine.stub.Check(provider_pb2.CheckRequest(autonaming=options(mode=options.DISABLE), **bridge.about))
    assert [failure.property for failure in disabled.failures] == ["name"]
