"""Resources of one stack that exchange what only one of them can have, while the engine sends one change at a time.

As `pulumi up --parallel 1` does: a check and a diff, then the change, and nothing of the next resource before the
answer; what the program no longer has is deleted last.
"""

from __future__ import annotations

import itertools
import re
from typing import Any, TypeAlias

import grpc
import pytest
from hostnet.resources.schema.values import UNKNOWN
from hostnet.rpc.protos import provider_pb2

from tests.rpc.engine import Engine, Resource, message

Inputs: TypeAlias = dict[str, Any]
Program: TypeAlias = dict[tuple[str, str], Inputs]  # by kind and name


def forward(port: int | str, to: str = "10.0.0.9:80") -> Inputs:
    """The inputs of a PortForward."""
    return {"sourcePort": port, "destination": to}


def guest(address: str, mac: str = "") -> Inputs:
    """The inputs of a TapBinding, but for its name."""
    return {"bridge": "net", "guest": {"addresses": [address], **({"macAddress": mac} if mac else {})}}


def taps(**guests: Inputs) -> Program:
    """TAPs on a bridge that stays."""
    net: Program = {("Bridge", "net"): {"name": "net", "addresses": ["10.0.0.1/24"]}}
    return net | {("TapBinding", name): {"name": name, **inputs} for name, inputs in guests.items()}


def bridges(**addresses: list[str]) -> Program:
    """Bridges."""
    return {("Bridge", name): {"name": name, "addresses": each} for name, each in addresses.items()}


def forwards(**ports: int | str) -> Program:
    """Forwards, each to another guest."""
    return {("PortForward", name): forward(port, f"10.0.0.{ord(name[0])}:80") for name, port in ports.items()}


def gateway(*ports: int) -> Program:
    """A gateway with forwards of its own."""
    inline = [forward(port) for port in ports]
    return {("NatGateway", "nat"): {"internalInterfaces": ["net"], "forwardPorts": inline}}


def beside(bridge: str, address: str, names: str) -> Program:
    """A bridge with guests whose addresses follow from its subnet."""
    net: Program = {("Bridge", bridge): {"name": bridge, "addresses": [address]}}
    return net | {("TapBinding", name): {"name": name, "bridge": bridge, "guest": {}} for name in names.split()}


MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
# What there is before, and after.
EXCHANGES: dict[str, tuple[Program, Program]] = {
    "two ports": (forwards(a=81, b=82), forwards(a=82, b=81)),
    "three ports": (forwards(a=81, b=82, c=83), forwards(a=82, b=83, c=81)),
    "a chain of ports": (forwards(a=81, b=82, c=83), forwards(a=82, b=83, c=84)),
    "single ports become a range": (forwards(a=81, b=82, c=83), forwards(a="81:82", b=84, c=85)),
    "a port of what goes": (forwards(a=81, b=82), forwards(a=82)),
    "two guests' addresses": (taps(a=guest("10.0.0.5"), b=guest("10.0.0.6")),
                              taps(a=guest("10.0.0.6"), b=guest("10.0.0.5"))),
    "two guests' MAC addresses": (taps(a=guest("10.0.0.5", MACS[0]), b=guest("10.0.0.6", MACS[1])),
                                  taps(a=guest("10.0.0.5", MACS[1]), b=guest("10.0.0.6", MACS[0]))),
    "three guests' addresses": (taps(a=guest("10.0.0.5"), b=guest("10.0.0.6"), c=guest("10.0.0.7")),
                                taps(a=guest("10.0.0.6"), b=guest("10.0.0.7"), c=guest("10.0.0.5"))),
    "an inline forward becomes one of its own": (
        taps() | gateway(81), taps() | gateway() | {("PortForward", "own"): forward(81)}),
    "a forward becomes an inline one": (
        taps() | gateway() | {("PortForward", "own"): forward(81)}, taps() | gateway(81)),
    "a bridge's address": (bridges(a=["10.1.0.1/24", "10.2.0.1/24"], b=[]), bridges(a=["10.1.0.1/24"],
                                                                                    b=["10.2.0.1/24"])),
    "two bridges' addresses": (bridges(a=["10.1.0.1/24"], b=["10.2.0.1/24"]),
                               bridges(a=["10.2.0.1/24"], b=["10.1.0.1/24"])),
    "a bridge's name": ({("Bridge", "a"): {"name": "x", "addresses": ["10.1.0.1/24"]}, ("Bridge", "b"): {"name": "y"}},
                        {("Bridge", "b"): {"name": "x", "addresses": ["10.1.0.1/24"], "mtu": 1400}}),
}  # fmt: skip
# In these, others follow what waits.
FOLLOWED = {
    "two bridges' addresses with their guests": (
        beside("x", "10.1.0.1/24", "x1 x2") | beside("y", "10.2.0.1/24", "y1 y2"),
        beside("x", "10.2.0.1/24", "x1 x2") | beside("y", "10.1.0.1/24", "y1 y2"),
    ),
    "forwards on a gateway that waits": (
        taps() | {("PortForward", "own"): forward(81)},
        taps() | gateway(81) | {("PortForward", "late"): {"natGateway": "nat", **forward(82)}},
    ),
}


class Stack:
    """The resources of a stack."""

    def __init__(self, engine: Engine) -> None:
        """There are none."""
        self.engine, self.made = engine, dict[tuple[str, str], Resource]()

    def up(self, program: Program, order: list[tuple[str, str]]) -> None:
        """One run, one change at a time, and what is deleted at the end of it."""
        self.engine.run(self.engine.host.restart_agent)
        self.engine.configure()
        for key in order:
            self.step(key, self.linked(program[key]))
        for key in [key for key in self.made if key not in program]:
            self.made[key].delete()
            del self.made[key]

    def linked(self, inputs: Inputs) -> Inputs:
        """Inputs with the id of the gateway that they name."""
        gateway = self.made.get(("NatGateway", str(inputs.get("natGateway"))))
        return {**inputs, "natGateway": gateway.id} if gateway is not None else inputs

    def step(self, key: tuple[str, str], inputs: Inputs) -> None:
        """One resource's turn."""
        old = self.made.get(key)
        if old is not None:
            found = old.diff(**inputs)
            if found.replaces:
                assert found.deleteBeforeReplace
                old.delete()
                del self.made[key]
            elif found.changes == provider_pb2.DiffResponse.DIFF_SOME:
                old.update(**inputs)
                return
            else:
                return
        self.made[key] = Resource(self.engine, *key, **inputs).create()

    def preview(self, program: Program, order: list[tuple[str, str]]) -> list[str]:
        """The warnings of a preview."""
        self.engine.run(self.engine.host.restart_agent)
        self.engine.configure()
        before = len(self.engine.warnings())
        for key in order:
            old, inputs = self.made.get(key), {**program[key]}
            if "natGateway" in inputs and ("NatGateway", "nat") not in self.made:
                inputs["natGateway"] = UNKNOWN
            inputs = self.linked(inputs)
            found: Any = old.diff(**inputs) if old is not None else None
            if old is None or found.replaces:
                Resource(self.engine, *key, **inputs).preview()
            elif found.changes == provider_pb2.DiffResponse.DIFF_SOME:
                old.preview(**inputs)
        return self.engine.warnings()[before:]

    def refreshed(self) -> list[str]:
        """What a refresh finds changed or gone."""
        self.engine.run(self.engine.host.restart_agent)
        self.engine.configure()
        changed = []
        for (_, name), made in self.made.items():
            if not made.refresh().id or made.diff().changes != provider_pb2.DiffResponse.DIFF_NONE:
                changed.append(name)
        return changed


def lasting(engine: Engine) -> dict[str, Any]:
    """What a host has, however it came to it."""
    dump = engine.host.dump()
    # An element that stays keeps its comment, which names the owner that had it first.
    rules = re.sub(r' comment "[^"]*"', "", dump["nftables"])
    return {"owners": dump["owners"], "addresses": dump["addresses"], "rules": rules}


def orders(program: Program) -> list[list[tuple[str, str]]]:
    """The orders that the engine may take: bridges and gateways first, since the others depend on them."""
    first = [key for key in program if key[0] in ("Bridge", "NatGateway") and len({kind for kind, _ in program}) > 1]
    rest = [key for key in program if key not in first]
    return [[*first, *each] for each in itertools.permutations(rest)]


CASES = [(what, number) for what, (_, after) in (EXCHANGES | FOLLOWED).items() for number in range(len(orders(after)))]


@pytest.mark.parametrize(("what", "number"), CASES, ids=[f"{what}-{number}" for what, number in CASES])
def test_it_converges_in_one_run(engine: Engine, what: str, number: int) -> None:
    """In any order: the preview warns of nothing, and the host is as if the program had come in that order at once.

    A guest without an address gets the next free one, and the table says which address each may send with.
    """
    before, after = (EXCHANGES | FOLLOWED)[what]
    stack = Stack(engine)
    stack.up(before, list(before))
    order = orders(after)[number]
    assert stack.preview(after, order) == []
    stack.up(after, order)
    assert stack.refreshed() == []
    with Engine() as fresh:
        Stack(fresh.configure()).up(after, order)
        assert lasting(engine) == lasting(fresh)
    for made in reversed(stack.made.values()):
        made.delete()
    assert engine.host.dump()["owners"] == {}


def led(engine: Engine) -> dict[int, str]:
    """Where each port leads now."""
    text = engine.host.dump()["nftables"]
    found = re.findall(r'dnat_port4 { "eth0" \. 6 \. (\d+) comment "[^"]*" : ([0-9.]+) ', text)
    return {int(port): address for port, address in found}


def swap(engine: Engine) -> tuple[Stack, Program, list[tuple[str, str]]]:
    """Two forwards, and the program and the order in which the first waits for the second."""
    stack = Stack(engine)
    before, after = EXCHANGES["two ports"]
    stack.up(before, list(before))
    return stack, after, list(after)


def begun(stack: Stack, program: Program, order: list[tuple[str, str]]) -> None:
    """A run in which only the first has had its turn."""
    stack.engine.run(stack.engine.host.restart_agent)
    stack.engine.configure()
    stack.step(order[0], program[order[0]])


def test_a_run_that_ends_half_way(engine: Engine) -> None:
    """What has its port keeps it; status and a refresh say what is not there yet, and the next run goes on."""
    stack, after, order = swap(engine)
    begun(stack, after, order)
    assert engine.notes() == [
        "takes effect when what it needs of PortForward b (stack test of project project) is free, later in this run"
    ]
    assert led(engine) == {82: "10.0.0.98"}
    status = engine.host.agent.facts("status", {})
    assert [one["drift"][0] for one in status["resources"] if one["name"] == "a"] == [
        "waits for what another resource of its stack has and should give up: run `pulumi up` again"
    ]
    assert stack.refreshed() == ["a"]
    del stack.made["PortForward", "a"]  # as a refresh does with what is gone
    stack.up(after, order[::-1])  # for the engine it is a new one, which waits for none of its kind
    assert stack.refreshed() == []
    assert led(engine) == {82: "10.0.0.97", 81: "10.0.0.98"}


def test_the_next_run_needs_no_refresh(engine: Engine) -> None:
    """Or the state says that all is well with the first, and the second's turn completes both."""
    stack, after, order = swap(engine)
    begun(stack, after, order)
    stack.up(after, order)
    assert stack.refreshed() == []


def test_a_create_that_waits_and_had_no_answer(engine: Engine) -> None:
    """The provider was killed: the state does not have the first, and creates it again."""
    stack, after, order = swap(engine)
    begun(stack, after, order)
    del stack.made[order[0]]
    stack.up(after, order[::-1])
    assert stack.refreshed() == []


def test_a_delete_that_gave_to_another_comes_again(engine: Engine) -> None:
    """The provider was killed before its answer: what has the id now is another resource's, and stays."""
    stack, after, order = swap(engine)
    begun(stack, after, order)
    former = stack.made[order[1]]
    former.delete()
    assert led(engine) == {82: "10.0.0.97"}
    stack.up(after, order)  # deletes it again
    assert stack.refreshed() == []
    assert led(engine) == {82: "10.0.0.97", 81: "10.0.0.98"}


def test_what_waits_is_taken_back(engine: Engine) -> None:
    """Its delete leaves the other one alone."""
    stack, after, order = swap(engine)
    begun(stack, after, order)
    stack.made.pop(order[0]).delete()
    assert stack.refreshed() == []
    assert led(engine) == {82: "10.0.0.98"}


REFUSED = "tcp port 82 there belongs to PortForward b (stack {} of project project)"


def test_a_holder_that_stays_as_it_is(engine: Engine) -> None:
    """A program gives one port to two: whichever has its turn first, an error names the holder. So does a preview."""
    stack, after, order = swap(engine)
    before = EXCHANGES["two ports"][0]
    program = {**after, order[1]: before[order[1]]}
    assert [REFUSED.format("test") in each for each in stack.preview(program, order[::-1])] == [True]
    for run in (stack.preview, stack.up):
        with pytest.raises(grpc.RpcError) as failed:
            run(program, order)
        assert "PortForward a asks for what another resource keeps" in message(failed.value)
        assert REFUSED.format("test") in message(failed.value)
    with pytest.raises(grpc.RpcError) as failed:
        stack.up(program, order[::-1])
    assert "that is PortForward b of this program too" in message(failed.value)
    assert led(engine) == {82: "10.0.0.98"}


def test_a_holder_that_changes_and_keeps_it(engine: Engine) -> None:
    """Its update is refused, and the error names both."""
    stack, after, order = swap(engine)
    kept = forward(82, "10.0.0.7:80")
    with pytest.raises(grpc.RpcError) as failed:
        stack.up({**after, order[1]: kept}, order)
    assert "PortForward b (stack test of project project) would keep what another resource asked for" in message(
        failed.value
    )
    assert led(engine) == {82: "10.0.0.98"}
    stack.up(after, order)
    assert stack.refreshed() == []


def test_a_holder_in_another_stack(engine: Engine) -> None:
    """Nothing waits for it: another stack may never give it up."""
    holder = Resource(engine, "PortForward", "b", **forward(82)).as_urn(stack="other").create()
    engine.run(engine.host.restart_agent)
    engine.configure()
    with pytest.raises(grpc.RpcError) as failed:
        Resource(engine, "PortForward", "a", **forward(82)).create()
    assert REFUSED.format("other") in message(failed.value)
    assert len(engine.host.dump()["owners"]) == 1
    holder.delete()


def test_a_third_one_gets_nothing(engine: Engine) -> None:
    """Two ask for one port that the third gives up: the second of them is refused."""
    stack, after, order = swap(engine)
    program: Program = {**after, ("PortForward", "late"): forward(82, "10.0.0.7:80")}
    with pytest.raises(grpc.RpcError) as failed:
        stack.up(program, [order[0], ("PortForward", "late"), order[1]])
    assert "cannot forward tcp port 82" in message(failed.value)
    assert "belongs to PortForward a" in message(failed.value)
