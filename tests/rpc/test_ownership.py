"""Whose a thing is: after a rename, with an alias, with an old copy of the state, and where a create had no answer.

Named after the kinds: identity tied to the stack and project part of the URN; what was done and never acknowledged.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from hostnet.rpc.codec import decode
from hostnet.rpc.protos import provider_pb2

from tests.rpc.engine import Engine, Resource, message, paths
from tests.rpc.test_life_cycle import LIVES, is_gone

if TYPE_CHECKING:
    from collections.abc import Callable

BRIDGE = {"name": "vms", "addresses": ["10.0.0.1/24"]}
RENAMED = [{"stack": "prod"}, {"project": "shop"}, {"stack": "prod", "project": "shop"}]


@pytest.fixture(params=LIVES)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind."""
    name: str = request.param
    return name


@pytest.fixture
def empty(engine: Engine, kind: str) -> dict[str, Any]:
    """The host before: with the bridge that the kind needs, which is another stack's."""
    if kind != "Bridge":
        Resource(engine, "Bridge", "vms", **LIVES["Bridge"][0]).as_urn(stack="base").create()
    return engine.host.dump()


@pytest.fixture
def made(engine: Engine, kind: str, empty: dict[str, Any]) -> Resource:
    """One of that kind, created."""
    del empty
    return Resource(engine, kind, "it", **LIVES[kind][0]).create()


def another_run(engine: Engine) -> None:
    """Another run of `pulumi`: another provider process, and another agent."""
    engine.run(engine.host.restart_agent)
    engine.configure()


def without_owners(dump: dict[str, Any]) -> dict[str, Any]:
    """What is on a host, whoever has it. An element's comment names its owner."""
    return {name: value for name, value in dump.items() if name not in ("owners", "nftables")}


@pytest.mark.parametrize("moved", RENAMED, ids=["stack", "project", "state-move"])
def test_a_renamed_stack_goes_on(engine: Engine, made: Resource, kind: str, moved: dict[str, str]) -> None:
    """Refresh and diff find nothing changed; the first write takes the thing over and says so; so does the next."""
    another_run(engine)
    renamed = made.as_urn(**moved)
    outputs = renamed.values()
    assert renamed.refresh().values() == outputs
    assert renamed.diff().changes == provider_pb2.DiffResponse.DIFF_NONE
    wanted = LIVES[kind][0] | LIVES[kind][1]
    renamed.preview(**wanted)
    assert engine.warnings() == []
    renamed.update(**wanted)
    assert engine.notes() == [f"took {made.id} over from {kind} it (stack test of project project)"]
    assert renamed.refresh().diff().changes == provider_pb2.DiffResponse.DIFF_NONE
    renamed.update(**LIVES[kind][0])
    assert len(engine.notes()) == 1
    assert [line for line in engine.host.dump()["owners"] if made.urn in line] == []
    renamed.delete()
    assert is_gone(renamed)


@pytest.mark.parametrize("moved", RENAMED, ids=["stack", "project", "state-move"])
def test_the_first_write_after_a_rename_is_a_delete(
    engine: Engine, empty: dict[str, Any], made: Resource, moved: dict[str, str]
) -> None:
    """`pulumi destroy` right after the rename leaves nothing."""
    another_run(engine)
    made.as_urn(**moved).delete()
    assert engine.host.dump() == empty


def test_a_delete_by_an_old_copy_of_the_state(engine: Engine, made: Resource, kind: str) -> None:
    """It is an error that names the new owner, whoever held the thing in between, and changes nothing."""
    owners = [made.as_urn(stack=stack) for stack in ("prod", "live")]
    for owner in owners:
        owner.update(**LIVES[kind][0])
    whole = engine.host.dump()
    another_run(engine)
    for old in (made, owners[0]):
        with pytest.raises(grpc.RpcError) as failed:
            old.delete()
        assert f"cannot delete {made.id}: it changed hands" in message(failed.value)
        assert f"{kind} it (stack live of project project)" in message(failed.value)
    assert engine.host.dump() == whole
    made.update(**LIVES[kind][0])  # the rename is taken back
    made.delete()
    assert is_gone(made)


def test_a_delete_of_what_is_another_resource(engine: Engine, made: Resource, kind: str) -> None:
    """The state of another stack names it under another resource's name: an error, and it stays."""
    whole = engine.host.dump()
    with pytest.raises(grpc.RpcError) as failed:
        made.as_urn(stack="prod", name="other").delete()
    assert f"it belongs to {kind} it (stack test of project project)" in message(failed.value)
    assert "pulumi state delete" in message(failed.value)
    assert engine.host.dump() == whole


def test_a_delete_of_what_was_only_imported(engine: Engine, empty: dict[str, Any], made: Resource) -> None:
    """An import hands a thing over: a destroy right after it takes it away, though the record has the former URN."""
    imported = made.as_urn(stack="prod")
    found = imported.imported(made.id)
    imported.inputs, imported.outputs = found.inputs, found.properties
    imported.delete()
    assert engine.host.dump() == empty


def test_an_aliased_resource_is_replaced_first(engine: Engine, made: Resource) -> None:
    """`pulumi up --refresh --replace` with an alias: created under the new URN, and the delete takes nothing away."""
    whole = without_owners(engine.host.dump())
    another_run(engine)
    aliased = made.as_urn(name="new")
    aliased.read()  # all that the engine says of the old resource before the create
    created = Resource(engine, made.token.rpartition(":")[2], "new", **made.given).create()
    made.as_urn(name="new").delete()
    if "mac" in whole["links"].get(made.id, {}):  # a bridge's follows from its URN
        engine.host.change_link(made.id, mac=whole["links"][made.id]["mac"])
    assert without_owners(engine.host.dump()) == whole
    assert created.diff().changes == provider_pb2.DiffResponse.DIFF_NONE
    another_run(engine)
    created.delete()
    assert is_gone(created)


ALIASED: dict[str, tuple[str, dict[str, Any]]] = {
    **{kind: (kind, life[0]) for kind, life in LIVES.items()},
    "a bridge without a name": ("Bridge", {"addresses": ["10.7.0.1/24"]}),
    "a TAP without a name": ("TapBinding", {"addresses": ["10.9.0.1/32"], "routes": ["10.9.0.2/32"]}),
    "a match": ("TapBinding", {"match": "vm-*", "bridge": "vms"}),
}


@pytest.mark.parametrize(("kind", "given"), ALIASED.values(), ids=ALIASED)
def test_an_alias_is_replaced_before_anything_else(engine: Engine, kind: str, given: dict[str, Any]) -> None:
    """`pulumi up --replace`, the first with the alias: refused, also in the preview, with what to run instead."""
    if kind != "Bridge":
        Resource(engine, "Bridge", "vms", **LIVES["Bridge"][0]).create()
    old = Resource(engine, kind, "old", **given).create()
    whole = engine.host.dump()
    another_run(engine)
    new = Resource(engine, kind, "new", **given)
    new.preview()
    another_run(engine)
    with pytest.raises(grpc.RpcError) as failed:
        new.create()
    advice = f"If {kind} new is {kind} old under another name (an alias), run `pulumi up` without --replace ("
    assert advice in message(failed.value)
    assert engine.warnings() == [f"this change would fail: {message(failed.value)}"]
    assert engine.host.dump() == whole
    another_run(engine)
    renamed = old.as_urn(name="new")
    assert renamed.diff().changes == provider_pb2.DiffResponse.DIFF_NONE
    another_run(engine)
    assert renamed.read().id == old.id
    new.create()
    renamed.delete()
    assert not is_gone(new)


def test_a_replaced_resource_keeps_its_name(engine: Engine, made: Resource, kind: str) -> None:
    """`pulumi up --replace`: created again, and the delete of the former one takes nothing away."""
    whole = engine.host.dump()
    another_run(engine)
    Resource(engine, kind, "it", **made.given).create()  # the engine says nothing of the old one before
    made.delete()
    assert engine.host.dump() == whole


# What the state has of one resource, each entry a create, and what the engine and its runs do. `up` compares the entry
# that is not about to be deleted; `lost` is a create whose answer the engine never got.
SEQUENCES = {
    "deleted in the run": "create agent run create agent delete:0 | agent run delete:1",
    "deleted by the next up": "create run create run diff:1 delete:0 | run delete:1",
    "deleted by the next up, after an update": "create run create run diff:1 update:1 delete:0 | run delete:1",
    "deleted by the next up, after a refresh": "create run create run refresh:0 refresh:1 diff:1 delete:0 | delete:1",
    "replaced again": "create run create run create delete:0 delete:1 | run delete:2",
    "both destroyed": "create run create run delete:0 delete:1",
    "both destroyed, the new one first": "create run create run delete:1 delete:0",
    "both destroyed after a refresh": "create run create run refresh:0 refresh:1 delete:0 delete:1",
    "no answer": "lost run create | run delete:0",
    "no answer to the replacement": "create run lost run diff:0 | run delete:0",
    "no answer to the replacement, and destroyed": "create run lost run delete:0",
    "no answer, and replaced then": "lost run create run diff:0 run create delete:0 | run delete:1",
    "deleted before it is created": "create run diff:0 delete:0 create | run diff:1 delete:1",
    "deleted before it is created, and once more": "create run create run delete:1 create delete:0 | run delete:2",
    "of an earlier hostnet": "create forget:0 run create delete:0 | run delete:1",
    "of an earlier hostnet, by the next up": "create forget:0 run create run diff:1 delete:0 | run delete:1",
    "of an earlier hostnet, not replaced": "create forget:0 run diff:0 update:0 | run diff:0 delete:0",
    "renamed": "create run create rename run diff:1 delete:0 | run delete:1",
    "imported and destroyed": "create run import | run delete:1",
    "imported and replaced": "create run import run create delete:1 | run delete:2",
}


class Story:
    """What happens to one resource, with the entries that the state has of it."""

    def __init__(self, resource: Resource) -> None:
        """Nothing has happened yet."""
        self._resource, self._state = resource, list[Resource]()
        self._whole: dict[str, Any] = {}
        self._steps: dict[str, Callable[[], object]] = {
            "agent": lambda: resource.engine.run(resource.engine.host.restart_agent),
            "run": lambda: another_run(resource.engine),
            "create": lambda: self._state.append(self._created()),
            "lost": self._created,
            "import": lambda: self._state.append(self._imported()),
            "rename": self._rename,
        }

    def step(self, word: str) -> None:
        """One of a sequence; `|`: all is there."""
        word, _, at = word.partition(":")
        if word == "|":
            assert without_owners(self._resource.engine.host.dump()) == self._whole
        elif at:
            self._engine(word, self._state[int(at)])
        else:
            self._steps[word]()

    def _engine(self, word: str, entry: Resource) -> None:
        if word == "forget":
            assert entry.outputs is not None
            del entry.outputs.fields["__created"]
        elif word == "update":
            entry.update(**self._resource.given)
        else:
            getattr(entry, word)()

    def _created(self) -> Resource:
        created = copy.copy(self._resource).create()
        self._whole = without_owners(self._resource.engine.host.dump())
        return created

    def _imported(self) -> Resource:
        found, imported = self._resource.imported(self._state[0].id), copy.copy(self._state[0])
        imported.inputs, imported.outputs = found.inputs, found.properties
        return imported

    def _rename(self) -> None:
        self._resource = self._resource.as_urn(stack="prod")
        self._state = [entry.as_urn(stack="prod") for entry in self._state]


@pytest.mark.parametrize("sequence", SEQUENCES.values(), ids=SEQUENCES)
def test_created_again(engine: Engine, kind: str, empty: dict[str, Any], sequence: str) -> None:
    """The delete of a former entry takes nothing of a later one away, in whichever run; the last one leaves nothing."""
    story = Story(Resource(engine, kind, "it", **LIVES[kind][0]))
    for word in sequence.split():
        story.step(word)
    assert engine.host.dump() == empty


# --- what was created, and the engine never heard of -----------------------------------------------------------------

AUTONAMED: dict[str, dict[str, Any]] = {
    "Bridge": {"addresses": ["10.0.0.1/24"]},
    "TapBinding": {"guest": {}, "routes": ["10.9.0.2/32"], "addresses": ["10.9.0.1/32"]},
}


def declared(engine: Engine, kind: str, seed: bytes, **inputs: Any) -> Resource:
    """A resource without a name, with the seed of one run."""
    resource = Resource(engine, kind, "it", **(AUTONAMED[kind] | inputs))
    resource.seed = seed
    return resource


@pytest.mark.parametrize("kind", AUTONAMED)
def test_a_create_that_had_no_answer(engine: Engine, kind: str) -> None:
    """The next run creates it under another name, and takes away what the first left."""
    empty = engine.host.dump()
    lost = declared(engine, kind, b"one").create()
    another_run(engine)
    made = declared(engine, kind, b"two").create()
    assert made.id != lost.id
    assert engine.notes() == [f"removed {lost.id}: {made.id} takes its place"]
    assert lost.id not in engine.host.dump()["links"]
    made.delete()
    assert engine.host.dump() == empty


@pytest.mark.parametrize("kind", AUTONAMED)
@pytest.mark.parametrize("named", ["diff", "read", "update"])
def test_what_a_replacement_replaces_is_no_such_thing(engine: Engine, kind: str, named: str) -> None:
    """The engine has named the older id: it stays until the engine deletes it. What had no answer goes."""
    empty = engine.host.dump()
    old = declared(engine, kind, b"one").create()
    another_run(engine)
    old.diff()
    lost = declared(engine, kind, b"two").create()
    another_run(engine)
    naming: dict[str, Callable[[], object]] = {
        "diff": old.diff,
        "read": old.read,
        "update": lambda: old.update(**old.given),
    }
    naming[named]()
    made = declared(engine, kind, b"three").create()
    assert {old.id, made.id} <= engine.host.dump()["links"].keys()
    assert lost.id not in engine.host.dump()["links"]
    old.delete()
    assert {"lo", "eth0", made.id} == engine.host.dump()["links"].keys()
    made.delete()
    assert engine.host.dump() == empty


def test_a_forward_that_had_no_answer(engine: Engine) -> None:
    """The program asks for another port in the next run: the first port is closed."""
    empty = engine.host.dump()
    at = {"externalInterface": "eth0", "destination": "10.0.0.2"}
    Resource(engine, "PortForward", "it", sourcePort=80, **at).create()
    another_run(engine)
    made = Resource(engine, "PortForward", "it", sourcePort=81, **at).create()
    assert list(engine.host.dump()["owners"]) == [f"{made.urn} eth0/ipv4/tcp/81"]
    made.delete()
    assert engine.host.dump() == empty


def test_a_resource_goes_to_another_host(engine: Engine) -> None:
    """What another stack has there under the same name stays its own: a create takes over within a stack alone."""
    there = {"connection": {"netns": "other"}}
    theirs = Resource(engine, "Bridge", "net", **BRIDGE, **there).as_urn(stack="prod").create()
    mine = Resource(engine, "Bridge", "net", **BRIDGE).create()
    moved = Resource(engine, "Bridge", "net", **BRIDGE, **there)
    mine.diff(**moved.given)
    with pytest.raises(grpc.RpcError) as failed:
        moved.create()
    assert "the name belongs to Bridge net (stack prod of project project)" in message(failed.value)
    assert decode(theirs.read().properties).values == theirs.values()


def test_a_bridge_with_guests_is_replaced(engine: Engine) -> None:
    """Its successor has the same subnet, in which the guests are that will follow it."""
    old = declared(engine, "Bridge", b"one").create()
    Resource(engine, "TapBinding", "vm", name="vm", bridge=old.id, guest={}).create()
    old.diff()
    made = declared(engine, "Bridge", b"two").create()
    assert engine.host.dump()["links"].keys() >= {old.id, made.id}


SERVER = {"rangeStart": "10.0.0.100", "rangeEnd": "10.0.0.200"}


@pytest.mark.parametrize("kind", ["TapBinding", "PortForward"])
@pytest.mark.parametrize("server", [{}, {"dhcpServer": SERVER}], ids=["", "DHCP"])
def test_what_a_read_drops_leaves_nothing(engine: Engine, kind: str, server: dict[str, Any]) -> None:
    """A TAP, or a forward, that another program deleted: after the refresh nothing else of the stack looks changed."""
    there = [
        Resource(engine, "Bridge", "net", **BRIDGE, **server).create(),
        Resource(engine, "TapBinding", "other", name="other", bridge="vms", guest={}).create(),
        Resource(engine, "NatGateway", "nat", internalInterfaces=["vms"], externalInterface="eth0").create(),
    ]
    at = {"natGateway": there[-1].id, "destination": "10.0.0.2"}
    there.append(Resource(engine, "PortForward", "a", sourcePort="80:81", **at).create())
    whole = without_owners(engine.host.dump())
    if kind == "TapBinding":
        gone = Resource(engine, "TapBinding", "vm", name="vm", bridge="vms", guest={"hostname": "web"}).create()
        engine.host.remove_link("vm")
    else:
        gone = Resource(engine, "PortForward", "b", sourcePort=82, **at).create()
        engine.run(lambda: engine.host.run_nft("flush map inet hostnet dnat_port4"))
    assert not gone.read().id
    for one in there:
        found = one.refresh().diff()
        assert found.changes == provider_pb2.DiffResponse.DIFF_NONE, (one.name, paths(found))
    assert without_owners(engine.host.dump()) == whole
