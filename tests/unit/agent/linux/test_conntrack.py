"""Which flows a change of what guests may reach ends."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hostnet.agent.linux.conntrack import Flow, Flows, ForbiddenFlows, ForwardedFlows, OwnFlows, candidates

TCP = 6
RULES = (("tcp", (443, 443), "198.51.100.10/32"),)


def flow(
    source: str, destination: str = "198.51.100.10", port: int = 443, *, answers: tuple[str, int] | None = None
) -> Flow:
    """A TCP flow; one that a forward leads elsewhere has another end that answers."""
    return Flow("ipv4", TCP, source, destination, port, True, answers is not None, answers=answers)  # noqa: FBT003


def ended(wanted: Sequence[Flows], each: Flow) -> bool:
    """Whether it is forgotten; 192.0.2.2 is the host."""
    return any(one.has(each, lambda address: address == "192.0.2.2") for one in candidates(wanted)(each))


def test_a_list_ends_what_it_does_not_have_and_nothing_near() -> None:
    """Of the guest alone: not within its bridge or to the host; where a forward leads counts."""
    mine = [ForbiddenFlows("ipv4", ("10.0.0.5/32", "10.0.0.100/32"), RULES, ("10.0.0.0/24",))]
    assert ended(mine, flow("10.0.0.5", port=80))
    assert ended(mine, flow("10.0.0.100", "192.0.2.20"))
    assert not ended(mine, flow("10.0.0.5"))
    assert not ended(mine, flow("10.0.0.5", "10.0.0.6", 80))
    assert not ended(mine, flow("10.0.0.5", "192.0.2.2", 80))
    assert ended(mine, flow("10.0.0.5", "192.0.2.2", 8080, answers=("10.1.0.13", 80)))
    assert not ended(mine, flow("10.0.0.5", "192.0.2.2", 8080, answers=("198.51.100.10", 443)))
    assert not ended(mine, flow("10.0.0.5", "192.0.2.2", 8080, answers=("10.0.0.6", 80)))
    assert not ended(mine, flow("10.0.0.5", "192.0.2.2", 8080, answers=("192.0.2.2", 80)))
    assert not ended(mine, flow("10.0.0.6", port=80))


def test_a_gateways_list_is_not_that_of_guests_with_their_own() -> None:
    """It ends flows of the others of its network."""
    gateway = [ForbiddenFlows("ipv4", ("10.0.0.0/24",), (), ("10.0.0.0/24",), ("10.0.0.5/32",))]
    assert ended(gateway, flow("10.0.0.6"))
    assert not ended(gateway, flow("10.0.0.5"))


def test_what_no_name_is_known_for_goes_on_while_a_rule_by_name_fits() -> None:
    """What could be reached before by a rule that can be named, and may not now, ends."""
    kept, known = (("tcp", (443, 443)),), ("192.0.2.0/24", "203.0.113.7")
    mine = [ForbiddenFlows("ipv4", ("10.0.0.5/32",), RULES, kept=kept, known=known)]
    assert not ended(mine, flow("10.0.0.5", "203.0.113.9"))
    assert ended(mine, flow("10.0.0.5", "203.0.113.9", 80))
    assert ended(mine, flow("10.0.0.5", "203.0.113.7"))
    assert ended(mine, flow("10.0.0.5", "192.0.2.20"))
    assert not ended(mine, flow("10.0.0.5"))


def test_a_flow_is_compared_with_its_own_guest_alone() -> None:
    """However many get a list at once; networks, and what is no guest's, are compared with each flow."""
    guests = [ForbiddenFlows("ipv4", (f"10.0.{number // 250}.{number % 250 + 1}/32",), RULES) for number in range(1000)]
    wide = ForbiddenFlows("ipv4", ("10.9.0.0/16", "10.0.0.7/32"), RULES)
    concerned = candidates([*guests, wide])
    assert concerned(flow("10.0.0.7")) == [wide, guests[6]]
    assert concerned(flow("10.9.0.1")) == [wide]


@pytest.mark.parametrize(
    ("number", "forgotten"), [(1, True), (6, False), (17, True), (33, False), (47, True), (50, True), (132, False)]
)
def test_what_an_address_leads_to_changes_for_all_but_connections(number: int, forgotten: bool) -> None:  # noqa: FBT001
    """For what comes in, and for what the former guest began; another guest's go on."""
    wanted: list[Flows] = [ForwardedFlows("ipv4"), OwnFlows("ipv4", "10.0.0.5")]
    assert ended(wanted, Flow("ipv4", number, "198.51.100.10", "192.0.2.2")) is forgotten
    assert ended(wanted, Flow("ipv4", number, "10.0.0.5", "198.51.100.10", source_translated=True)) is forgotten
    assert not ended(wanted, Flow("ipv4", number, "10.0.0.6", "198.51.100.10", source_translated=True))
    assert not ended(wanted, Flow("ipv4", number, "10.0.0.5", "10.0.0.6"))


def test_a_forwards_former_destination_loses_the_flows_of_its_port() -> None:
    """Those that it began from another port go on."""
    wanted = [OwnFlows("ipv4", "10.0.0.5", (6000, 6001))]
    for port, forgotten in ((5999, False), (6000, True), (6001, True), (6002, False)):
        own = Flow("ipv4", 17, "10.0.0.5", "198.51.100.10", 53, source_translated=True, source_port=port)
        assert ended(wanted, own) is forgotten
