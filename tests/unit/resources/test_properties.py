"""Properties of all inputs: check and diff never raise, and another spelling or order is no difference."""


# ruff: noqa: S104 (an address in data)

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

import pytest
from hostnet.resources import RESOURCES, nat_gateway
from hostnet.resources.functions import FUNCTIONS
from hostnet.resources.nat_gateway import NAT_GATEWAY
from hostnet.resources.port_forward import FORWARD_PORTS
from hostnet.resources.provider import check_config, diff_config
from hostnet.resources.schema import model
from hostnet.resources.schema.model import BadValueError, ListOf, Record, Type, freeze
from hostnet.resources.schema.types import IpAddress, usable_ip
from hostnet.resources.schema.values import UNKNOWN
from hostnet.wire.objects import Forward, ForwardingState, ForwardState, Gateway, GatewayState, ObjectState
from hostnet.wire.requests import View
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.unit.resources.golden import TOKENS, autoname, load, urn

if TYPE_CHECKING:
    from hostnet.resources.schema.kind import Kind

# Both sides of each border between what a host's address can be and what not.
EDGES = [
    ipaddress.ip_address(text)
    for text in (
        "0.0.0.0", "0.0.0.1", "0.255.255.255", "1.0.0.0", "126.255.255.255", "127.0.0.0", "127.255.255.255",
        "128.0.0.0", "223.255.255.255", "224.0.0.0", "239.255.255.255", "240.0.0.0",
        "255.255.255.254", "255.255.255.255", "::",
        "::1", "::2", "fe7f:ffff::", "fe80::", "febf:ffff::", "fec0::", "feff:ffff::", "ff00::", "ffff::",
    )
]  # fmt: skip

QUICK = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(UNKNOWN),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
PLAUSIBLE: st.SearchStrategy[Any] = st.sampled_from([
    "10.0.0.1/24", "10.0.0.0/24", "fd12::1/64", "FD12::/64", "10.0.0.2", "fd12::2", "10.0.0.2:80", "[fd12::2]:80-82",
    "8000:8002", "80", 80, 80.0, 0, "br0", "vm-*", "02:00:00:00:00:0A", "1h", "infinite", "tcp", "tcp+udp", "auto",
    "web", "nat-1234567", "0.0.0.0", "::", "/a", True, False, None, UNKNOWN, [], {}, 22, -1,
])  # fmt: skip


def near(kind: Type) -> st.SearchStrategy[Any]:
    """Values of about the right shape, as somebody writes them in a hurry."""
    if isinstance(kind, ListOf):
        return st.lists(near(kind.item) | PLAUSIBLE, max_size=4) | PLAUSIBLE
    if isinstance(kind, Record):
        fields = {name: near(about.type) for name, about in kind.properties.items() if name != "proxy"}
        return st.fixed_dictionaries({}, optional=fields) | PLAUSIBLE
    return PLAUSIBLE


def wholly(kind: Type) -> st.SearchStrategy[dict[str, Any]]:
    """Inputs of a record with any values."""
    assert isinstance(kind, Record)
    fields = {name: near(about.type) | JSON for name, about in kind.properties.items()}
    return st.fixed_dictionaries({}, optional=fields)


each_kind = pytest.mark.parametrize("kind", RESOURCES, ids=lambda kind: kind.name)


@each_kind
@QUICK
@given(data=st.data())
def test_check_and_diff_answer_for_all_inputs(kind: Kind[Any], data: st.DataObject) -> None:
    """They never raise, equal inputs have no difference, and a canonical value is its own canonical value."""
    old = data.draw(wholly(kind.inputs) | st.dictionaries(st.text(), JSON, max_size=4))
    new = data.draw(wholly(kind.inputs))
    outputs = data.draw(st.dictionaries(st.sampled_from(["forwarding", "guest", "externalInterface"]), JSON))
    checked = kind.check(new, data.draw(st.none() | st.just(old)), autoname())
    for failure in checked.failures:
        assert failure.reason
        assert isinstance(failure.path, str)
    kind.diff(old, outputs, new)
    assert kind.diff(new, {}, new).detailed == {}
    canonical = kind.inputs.canonical(new)
    assert freeze(kind.inputs.canonical(canonical)) == freeze(canonical)


@each_kind
@QUICK
@given(data=st.data())
def test_all_that_passes_check_can_be_sent_to_a_host(kind: Kind[Any], data: st.DataObject) -> None:
    """Every other method accepts the inputs that check accepts."""
    inputs = data.draw(st.fixed_dictionaries({}, optional={n: near(p.type) for n, p in kind.inputs.properties.items()}))
    checked = kind.check(inputs, None, autoname())
    if checked.failures:
        return
    kind.preview_outputs(urn(kind), checked.inputs, None)
    kind.preview_outputs(urn(kind), checked.inputs, {}, checked.inputs)
    change = kind.change(urn(kind), checked.inputs)
    if change is None:
        return
    assert change.objects
    assert len({item.key for item in change.objects}) == len(change.objects)
    assert kind.removal(urn(kind), change.id, checked.inputs, {}).prior == change.objects


@pytest.mark.parametrize("name", TOKENS)
def test_an_unknown_passes_in_every_position(name: str) -> None:
    """Each value of each good case, at any depth, is replaced by an unknown."""
    kind = next(kind for kind in RESOURCES if kind.token == TOKENS[name])
    for case in load(name, "create"):
        for inputs in with_one_unknown(case["inputs"]):
            assert kind.check(inputs, None, autoname()).failures == (), inputs
            assert kind.change(urn(kind), inputs) is None
            assert kind.diff(case["inputs"], {}, inputs).detailed
            assert kind.preview_outputs(urn(kind), inputs, None).keys() == kind.results.properties.keys()


def with_one_unknown(value: Any) -> list[Any]:
    """The value once for each of its parts, with `UNKNOWN` in place of the part."""
    out: list[Any] = []
    if isinstance(value, dict):
        for key, item in value.items():
            out += [{**value, key: UNKNOWN}, *({**value, key: part} for part in with_one_unknown(item))]
    elif isinstance(value, list):
        for index, item in enumerate(value):
            before, after = value[:index], value[index + 1 :]
            out += [[*before, UNKNOWN, *after], *([*before, part, *after] for part in with_one_unknown(item))]
    return out


@QUICK
@given(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from(["10.0.0.2", "10.0.0.3:80", "fd12::2"])), max_size=9),
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9), st.booleans(), st.booleans()), max_size=4),
)
def test_forwards_at_their_old_distance_from_an_end_are_not_compared(
    rows: list[tuple[int, str]], edits: list[tuple[int, int, bool, bool]]
) -> None:
    """What is found is the same as where each is compared with each."""
    old = [{"sourcePort": port, "destination": destination} for port, destination in rows]
    new = [dict(each) for each in old]
    for place, port, put_in, take_out in edits:
        if take_out:
            del new[place : place + 1]
        if put_in:
            new.insert(place, {"sourcePort": port, "destination": "10.0.0.4"})
    found: dict[str, str] = {}
    FORWARD_PORTS.compare(old, new, "forwardPorts", found)
    all_compared: dict[str, str] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "_same_places", lambda *_: (set(), set()))
        FORWARD_PORTS.compare(old, new, "forwardPorts", all_compared)
    if len({port for port, _ in rows}) == len(rows) and len({x["sourcePort"] for x in new}) == len(new):
        assert found == all_compared
    assert bool(found) or not all_compared


@QUICK
@given(
    st.dictionaries(st.integers(1, 9), st.sampled_from(["10.0.0.2", "10.0.0.3:80", "fd12::2", "FD12::3"]), max_size=9),
    st.data(),
)
def test_a_forward_that_is_as_declared_is_read_as_it_was_written(rows: dict[int, str], data: st.DataObject) -> None:
    """What is found is the same as where each property of each forward is compared."""
    forwards = [{"sourcePort": port, "destination": destination} for port, destination in rows.items()]
    inputs = {"internalInterfaces": ["br0"], "forwardPorts": forwards}
    objects = NAT_GATEWAY.query("urn", "nat", inputs, {}).objects
    otherwise: list[dict[str, Any]] = [
        {},
        {"loopback": False},
        {"source_nat": True},
        {"address": "10.0.0.9"},
        {"to_ports": (81, 81)},
        {"sources": ("10.0.0.0/8",)},
    ]
    seen: list[ObjectState | None] = []
    for item in objects:
        state: ObjectState | None = ForwardingState(enabled=True)
        if isinstance(item, Gateway):
            state = GatewayState(**{**vars(item), "external": "eth0"})
        if isinstance(item, Forward):
            changed: dict[str, Any] | None = data.draw(st.sampled_from([*otherwise, None]))
            state = None if changed is None else ForwardState(**{**vars(item), "external": "eth0", **changed})
        seen.append(state)
    view = View("nat", objects, tuple(seen))
    found = NAT_GATEWAY.read_inputs(inputs, view)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nat_gateway, "unlike", lambda *_: {"all": "compared"})
        assert found == NAT_GATEWAY.read_inputs(inputs, view)


@QUICK
@given(st.ip_addresses() | st.sampled_from(EDGES), st.sets(st.sampled_from(["wildcard", "loopback"])))
def test_an_address_is_judged_as_ipaddress_does(address: IpAddress, allowed: set[str]) -> None:
    """By its number it is as usable as by all the questions that `ipaddress` answers."""
    # `parse_ip` has refused an IPv4-mapped one. Since Python 3.13 `ipaddress` answers for the IPv4 address in it.
    assume(not getattr(address, "ipv4_mapped", None))
    wildcard, loopback = "wildcard" in allowed, "loopback" in allowed
    unicast = not address.is_multicast and str(address) != "255.255.255.255"
    one = wildcard or not address.is_unspecified
    reached = not address.is_loopback or (loopback and address.version == 4)
    zoned = address.version == 6 and address.is_link_local
    zero = address.version == 4 and not address.is_unspecified and address in ipaddress.ip_network("0.0.0.0/8")
    try:
        usable_ip(address, wildcard=wildcard, loopback=loopback)
        accepted = True
    except BadValueError:
        accepted = False
    assert accepted == (unicast and one and reached and not zoned and not zero)


ADDRESSES = st.ip_addresses(v=4, network="10.0.0.0/8").map(str) | st.ip_addresses(v=6, network="fd12::/16").map(str)


def respelled(address: str, *, upper: bool, long: bool) -> str:
    """Another spelling of the address."""
    if ":" not in address:
        return address
    text = ipaddress.ip_address(address).exploded if long else address
    return text.upper() if upper else text


@QUICK
@given(
    st.lists(
        st.tuples(ADDRESSES, st.integers(1, 65535), st.booleans(), st.booleans()), max_size=6, unique_by=lambda x: x[1]
    ),
    st.randoms(use_true_random=False),
)
def test_another_spelling_and_order_of_forwards_is_no_difference(rows: list[tuple[Any, ...]], random: Any) -> None:
    """It concerns addresses, ports, defaults and the order."""
    kind = next(kind for kind in RESOURCES if kind.name == "NatGateway")
    one = [{"sourcePort": port, "destination": address} for address, port, _, _ in rows]
    other = []
    for address, port, upper, long in rows:
        text = respelled(address, upper=upper, long=long)
        target = f"[{text}]:{port}" if ":" in text else f"{text}:{port}"
        other.append({"sourcePort": f"{port}:{port}", "destination": target, "protocol": "tcp", "sourceCidrs": []})
    random.shuffle(other)
    assert kind.diff({"forwardPorts": one}, {}, {"forwardPorts": other}).detailed == {}
    assert kind.diff({"forwardPorts": other}, {}, {"forwardPorts": one}).detailed == {}


@QUICK
@given(st.lists(st.integers(1, 40), max_size=8, unique=True), st.lists(st.integers(1, 40), max_size=8, unique=True))
def test_a_set_shows_one_change_for_each_element_that_differs(before: list[int], after: list[int]) -> None:
    """An index that lost one element and gained another shows once."""
    kind = next(kind for kind in RESOURCES if kind.name == "NatGateway")
    old = {"internalInterfaces": ["br0", *(f"v{n}" for n in before)]}
    new = {"internalInterfaces": ["br0", *(f"v{n}" for n in after)]}
    found = kind.diff(old, {}, new).detailed
    gone, come = set(before) - set(after), set(after) - set(before)
    places = {before.index(n) for n in gone} | {after.index(n) for n in come}
    assert set(found) == {f"internalInterfaces[{place + 1}]" for place in places}


@QUICK
@given(data=st.data())
def test_every_configuration_is_checked_and_compared(data: st.DataObject) -> None:
    """The same holds for the arguments of functions."""
    config = data.draw(
        st.dictionaries(st.sampled_from(["connection", "persist", "stateDir", "confirmTimeout", "x"]), JSON)
    )
    check_config(config)
    diff_config(config, {})
    assert not diff_config(config, config).changed
    for function in FUNCTIONS.values():
        function.check(config)
