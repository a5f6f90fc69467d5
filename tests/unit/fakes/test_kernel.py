"""The fake kernel by itself: what a test does to it. Its likeness to Linux: tests/netns."""

from __future__ import annotations

import errno
from typing import get_args

import pytest
from hostnet.agent.linux.conntrack import Flow, ForwardedFlows, UntranslatedFlows
from hostnet.agent.linux.operations import AddAddress, CreateBridge, CreateTap, DeleteLink, Operation
from hostnet.agent.linux.rtnetlink import LinuxKernel
from hostnet.fakes import FakeKernel
from hostnet.wire.family import Family

TCP, UDP = 6, 17


@pytest.fixture
def kernel() -> FakeKernel:
    """With an uplink."""
    made = FakeKernel()
    made.add_link("eth0", "physical", addresses=("192.0.2.5/24",))
    made.add_route("eth0", "0.0.0.0/0", "192.0.2.1")
    return made


def test_every_operation_is_known() -> None:
    """To Linux and to the fake: each has a method for it."""
    for performer in (vars(LinuxKernel)["perform"], vars(FakeKernel)["_perform"]):
        assert set(get_args(Operation)) <= performer.dispatcher.registry.keys()


def test_an_uplink(kernel: FakeKernel) -> None:
    """A network card with the default route."""
    snapshot = kernel.snapshot()
    assert snapshot.links["eth0"].physical
    assert snapshot.default_links == {"ipv4": "eth0"}
    assert snapshot.uplinks == {"eth0"}
    assert snapshot.local("192.0.2.5")


def test_another_program_changes_a_link(kernel: FakeKernel) -> None:
    """Its fields, its addresses and its bridge."""
    kernel.add_link("br0", "bridge")
    kernel.add_link("vm0", mtu=1400, bridge="br0")
    assert kernel.snapshot().ports_of("br0") == ("vm0",)
    kernel.change_link("vm0", isolated=True)
    kernel.change_link("eth0", addresses=("192.0.2.6/24",))
    assert kernel.link("vm0").isolated
    assert kernel.snapshot().addresses["eth0"] == ("192.0.2.6/24",)
    kernel.change_link("vm0", bridge=None)
    assert not kernel.link("vm0").master
    kernel.remove_link("eth0")
    assert not kernel.snapshot().uplinks
    with pytest.raises(KeyError):
        kernel.link("eth0")


def test_an_operation_can_be_refused(kernel: FakeKernel) -> None:
    """The next one that fits, once, with its errno."""
    kernel.refuse(errno.EPERM, lambda operation: isinstance(operation, CreateTap))
    kernel.perform(CreateBridge("br0"))
    with pytest.raises(PermissionError):
        kernel.perform(CreateTap("vm0"))
    kernel.perform(CreateTap("vm0"))
    assert [type(each) for each in kernel.performed[-3:]] == [CreateBridge, CreateTap, CreateTap]


def test_dump(kernel: FakeKernel) -> None:
    """What is undone leaves no trace."""
    before = kernel.dump()
    kernel.perform(CreateBridge("br0"))
    kernel.perform(AddAddress("br0", "10.0.0.1/24"))
    assert kernel.dump() != before
    kernel.perform(DeleteLink("br0"))
    assert kernel.dump() == before


def test_flows(kernel: FakeKernel) -> None:
    """Those of the ports are deleted that were translated, or go to the host; others live."""

    def flow(family: Family, destination: str, port: int, protocol: int = UDP, *, forwarded: bool = False) -> Flow:
        return Flow(family, protocol, "203.0.113.9", destination, port, target_translated=forwarded)

    gone = {flow("ipv4", "192.0.2.5", 53), flow("ipv4", "198.51.100.1", 54, forwarded=True)}
    kept = {
        flow("ipv4", "198.51.100.1", 53),
        flow("ipv4", "192.0.2.5", 80),
        flow("ipv4", "192.0.2.5", 53, TCP),
        flow("ipv6", "2001:db8::1", 53),
    }
    kernel.flows = gone | kept
    assert kernel.forget([ForwardedFlows("ipv4", (53, 54))], kernel.snapshot().local) == len(gone)
    assert kernel.flows == kept


def test_flows_that_are_not_translated_yet(kernel: FakeKernel) -> None:
    """Those of a network that leave by the uplink; not those to the host, to its other networks, or led on already."""

    def flow(source: str, destination: str, *, source_is: bool = False, target_is: bool = False) -> Flow:
        return Flow("ipv4", TCP, source, destination, 80, source_translated=source_is, target_translated=target_is)

    gone = {flow("10.0.0.2", "198.51.100.1"), flow("10.0.0.255", "192.0.2.9")}
    kept = {
        flow("10.0.0.2", "198.51.100.2", source_is=True),
        flow("10.0.0.2", "198.51.100.2", target_is=True),
        flow("10.0.0.2", "192.0.2.5"),
        flow("10.0.0.2", "10.1.0.2"),
        flow("10.0.1.2", "198.51.100.1"),
        flow("198.51.100.1", "10.0.0.2"),
    }
    kernel.flows = gone | kept
    wanted = UntranslatedFlows("ipv4", ("10.0.0.0/24",), ("10.0.0.0/24", "10.1.0.0/16"))
    assert kernel.forget([wanted], kernel.snapshot().local) == len(gone)
    assert kernel.flows == kept


def test_listeners(kernel: FakeKernel) -> None:
    """A socket of IPv6 takes connections of IPv4 as well."""
    kernel.listeners = {("tcp", "ipv4", 22), ("tcp", "ipv6", 80), ("udp", "ipv4", 53)}
    assert kernel.listening("tcp", "ipv4") == {22, 80}
    assert kernel.listening("tcp", "ipv6") == {80}
    assert kernel.listening("sctp", "ipv4") == set()
    assert not kernel.bindable("tcp", "10.0.0.1", 22)
    assert kernel.bindable("tcp", "10.0.0.1", 23)
