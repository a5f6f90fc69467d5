"""Rules of `egress` by domain name: what the cases of tests/cases/untrusted/domains.json can't say.

Addresses: see tests/lab/topology.py. `guest5` is behind the TAP `vm0`, `guest6` behind `vm1`, on the bridge br-a, whose
DNS asks the name server of the world (tests/lab/names.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hostnet.agent.dhcp.domains import set_names

from tests.lab.clients import ask
from tests.lab.driver import Program, Provider, Stack
from tests.lab.lab import Lab
from tests.lab.names import name_server
from tests.lab.probes import RESEND
from tests.lab.waiting import until
from tests.netns.test_dhcp import _directories
from tests.netns.test_guards_at_boot import crash, reboot, restore
from tests.netns.test_untrusted import _facts, _settle_in, component
from tests.netns.test_upgrade import earlier, make_earlier

NET6 = ["10.0.0.1/24", "fd12::1/64"]
HOUR = 3600
RECORDS = [
    "host-record=example.com,198.51.100.10,2001:db8:1::10",
    "host-record=cdn.example.net,192.0.2.20,2001:db8::20",
    "cname=www.example.com,cdn.example.net",
]
BY_NAME = {"domain": "example.com", "protocol": "tcp", "ports": 80}
FAMILIES = {
    "v4": ("A", "10.0.0.1", "198.51.100.10", "tcp 198.51.100.10:80"),
    "v6": ("AAAA", "fd12::1", "2001:db8:1::10", "tcp [2001:db8:1::10]:80"),
}


@pytest.fixture(autouse=True)
def world(lab: Lab) -> Iterator[None]:
    """The name server, and who answers at its addresses."""
    lab.serve("internet", "tcp:80 tcp:81")
    lab.serve("outsider", "tcp:80")
    with name_server(lab, RECORDS):
        yield


def tap(number: int, *rules: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The TAP of guest5 (0) or guest6 (1)."""
    last = 5 + number
    guest = {"macAddress": f"02:00:00:00:00:0{last}", "addresses": [f"10.0.0.{last}", f"fd12::{last}"]}
    return "TapBinding", {"name": f"vm{number}", "bridge": "${net.name}", "guest": {**guest, "egress": list(rules)}}


def program(*rules: dict[str, Any]) -> Program:
    """A bridge, a gateway, and guest5 with these rules."""
    return {
        "net": ("Bridge", {"name": "br-a", "addresses": NET6, "dhcpServer": {}}),
        "own": tap(0, *rules),
        "nat": ("NatGateway", {"internalInterfaces": ["${net.name}"], "enableIpv6": True}),
    }


def plug(lab: Lab, *numbers: int) -> None:
    """Put the guests behind their TAPs."""
    for number in numbers:
        last = 5 + number
        lab.net.plug(
            f"vm{number}",
            f"guest{last}",
            f"address add 10.0.0.{last}/24 dev eth0",
            f"address add fd12::{last}/64 dev eth0 nodad",
            "route add default via 10.0.0.1",
            "route add ::/0 via fd12::1",
            mac=f"02:00:00:00:00:0{last}",
        )


def asks(lab: Lab, role: str, name: str, family: str = "v4", *, tcp: bool = False) -> list[str]:
    """What the bridge's DNS answers a guest, which asks until it does."""
    kind, server, _, _ = FAMILIES[family]
    return until(lambda: ask(lab[role], server, name, kind, tcp=tcp, timeout=RESEND))


def answers(lab: Lab, domain: str, family: str = "v4") -> dict[str, int]:
    """The addresses in a set of a name, with the seconds that each stays."""
    name = set_names(domain)[family == "v6"]
    (body,) = (item["set"] for item in lab.host.kernel.ruleset() if "set" in item and item["set"]["name"] == name)
    return {each["elem"]["val"]: each["elem"]["expires"] for each in body.get("elem", ())}


def age(lab: Lab, domain: str, address: str, left: int, family: str = "v4") -> None:
    """Have an answer be older: it stays for so many seconds."""
    place = f"element inet hostnet {set_names(domain)[family == 'v6']}"
    lab.host.nft(f"delete {place} {{ {address} }}\nadd {place} {{ {address} expires {left}s }}")


def made(lab: Lab) -> list[str]:
    """The sets and chains that rules by name have."""
    return sorted(set(re.findall(r"(?:set|chain) (n[46]_\w+|list_\w+) \{", lab.host.run("nft list ruleset"))))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_address_is_allowed_for_an_hour_after_its_last_answer(lab: Lab, stack: Stack, family: str) -> None:
    """Another answer renews it, by UDP and by TCP; where none comes, it goes, and the next answer brings it back."""
    _, _, address, probe = FAMILIES[family]
    stack.up(program(BY_NAME))
    plug(lab, 0)
    for tcp in (False, True):
        assert asks(lab, "guest5", "example.com", family, tcp=tcp) == [address]
        assert HOUR - 60 < answers(lab, "example.com", family)[address] <= HOUR
        assert lab.reaches("guest5", probe)[0] == "internet"
        age(lab, "example.com", address, 600, family)
        assert answers(lab, "example.com", family)[address] <= 600
    assert asks(lab, "guest5", "example.com", family) == [address]
    assert HOUR - 60 < answers(lab, "example.com", family)[address] <= HOUR
    age(lab, "example.com", address, 1, family)
    until(lambda: not answers(lab, "example.com", family))
    assert lab.probe("guest5", probe).outcome == "refused"
    assert asks(lab, "guest5", "example.com", family) == [address]
    assert lab.reaches("guest5", probe)[0] == "internet"


def test_no_connection_fails_while_answers_renew_an_address(lab: Lab, stack: Stack) -> None:
    """The element is deleted and added in one transaction."""
    stack.up(program(BY_NAME))
    plug(lab, 0)
    asks(lab, "guest5", "example.com")
    before = lab.host.call(_generation)
    with lab.hammer("guest5", "tcp 198.51.100.10:80") as hammer:
        for _ in range(100):
            asks(lab, "guest5", "example.com")
    assert not hammer.failures, f"{len(hammer.failures)} of {hammer.total} failed: {hammer.failures[0]}"
    assert lab.host.call(_generation) >= before + 100


def _generation() -> int:
    from hostnet.agent.linux.libnftables import Nft  # noqa: PLC0415 - in the host's namespace

    return Nft().generation()


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ([BY_NAME, {"cidr": "192.0.2.0/24"}], "internet"),
        ([{"domain": "example.com"}, {"domain": "example.net"}], "internet"),
        ([{**BY_NAME, "ports": 81}, {"domain": "example.net"}], "nobody"),
        ([{"domain": "example.net"}], "nobody"),
        ([], "nobody"),
    ],
    ids=["a network more", "another port too", "another port", "another name", "nothing"],
)
def test_connections_whose_answer_is_too_old(lab: Lab, stack: Stack, rules: list[dict[str, Any]], kept: str) -> None:
    """An update keeps them, as long as the list had and has a rule by name with their protocol and port."""
    stack.up(program(BY_NAME))
    plug(lab, 0)
    asks(lab, "guest5", "example.com")
    conversation = lab.converse("guest5", "tcp 198.51.100.10:80")
    age(lab, "example.com", "198.51.100.10", 1)
    until(lambda: not answers(lab, "example.com"))
    assert lab.probe("guest5", "tcp 198.51.100.10:80").outcome == "refused"
    stack.up(program(*rules))
    assert (lab.still(conversation).server or "nobody") == kept
    lab.background.call(conversation.close)


def test_guests_share_what_they_have_in_common_and_the_last_one_takes_it_away(lab: Lab, stack: Stack) -> None:
    """A chain for each distinct list, two sets for each name; what one guest asked for, the other may reach, too."""
    one, two = {"domain": "example.com"}, {"domain": "example.net", "protocol": "tcp", "ports": "80:90"}
    stack.up({**program(one, two), "other": tap(1, two, one)})
    assert [len([x for x in made(lab) if x.startswith(of)]) for of in ("list_", "n4_", "n6_")] == [1, 2, 2]
    plug(lab, 0, 1)
    assert lab.probe("guest6", "tcp 198.51.100.10:80").outcome == "refused"
    asks(lab, "guest5", "example.com")
    assert lab.reaches("guest6", "tcp 198.51.100.10:80")[0] == "internet"
    stack.up({**program(one), "other": tap(1, two, one)})
    assert [len([x for x in made(lab) if x.startswith(of)]) for of in ("list_", "n4_", "n6_")] == [2, 2, 2]
    assert lab.reaches("guest5", "tcp 198.51.100.10:80")[0] == "internet"
    stack.up({**program(one), "other": tap(1, {"cidr": "192.0.2.0/24"})})
    assert [len([x for x in made(lab) if x.startswith(of)]) for of in ("list_", "n4_", "n6_")] == [1, 1, 1]
    assert lab.reaches("guest5", "tcp 198.51.100.10:80")[0] == "internet"
    assert stack.refresh() == {}
    stack.up(program({"cidr": "192.0.2.0/24"}))
    assert made(lab) == []
    written = [path.read_text() for folder in _directories(stack) for path in folder.glob("br-a/*.conf")]
    assert written
    assert not any("cache-size" in text for text in written)
    lab.net.unplug()
    stack.destroy()
    assert lab.net.snapshot() == lab.net.pristine


@pytest.mark.parametrize("loss", [crash, reboot])
def test_it_holds_again(lab: Lab, stack: Stack, loss: Callable[[Lab], None]) -> None:
    """After a restore the rules are there, and nothing is allowed until it is asked for."""
    both = {**program(BY_NAME), "other": tap(1)}
    stack.up(both)
    plug(lab, 0)
    asks(lab, "guest5", "example.com")
    loss(lab)
    restore(lab, stack)
    if loss is reboot:
        plug(lab, 0)
    assert lab.probe("guest5", "tcp 198.51.100.10:80").outcome == "refused"
    asks(lab, "guest5", "example.com")
    assert lab.reaches("guest5", "tcp 198.51.100.10:80")[0] == "internet"
    assert lab.probe("guest5", "tcp 198.51.100.10:81").outcome == "refused"
    assert stack.refresh() == {}
    lab.net.unplug()
    stack.destroy()
    assert made(lab) == []


def test_tables_of_an_earlier_version_hand_their_answers_on(lab: Lab, stack: Stack) -> None:
    """A change replaces the tables: what was answered before is still allowed, for the time that it has left."""
    stack.up(program(BY_NAME))
    plug(lab, 0)
    asks(lab, "guest5", "example.com")
    asks(lab, "guest5", "example.com", "v6")
    age(lab, "example.com", "198.51.100.10", 900)
    make_earlier(lab, stack, earlier(lab.host))
    forward = ("PortForward", {"natGateway": "${nat.id}", "sourcePort": 8080, "destination": "10.0.0.5:80"})
    stack.up({**program(BY_NAME), "web": forward})
    assert 800 < answers(lab, "example.com")["198.51.100.10"] <= 900
    assert list(answers(lab, "example.com", "v6")) == ["2001:db8:1::10"]
    assert lab.reaches("guest5", "tcp 198.51.100.10:80")[0] == "internet"
    assert stack.refresh() == {}


def test_two_records_on_one_host(lab: Lab, stack: Stack) -> None:
    """Guests of providers with different `stateDir`s have the same list: neither takes away what the other needs."""
    provider = Provider()
    try:
        second = Stack(provider, lab.host.name, name="second")
        mac = "02:00:00:00:00:06"
        guest = {"macAddress": mac, "addresses": ["10.1.0.6"], "egress": [BY_NAME]}
        other: Program = {
            "net": ("Bridge", {"name": "br-b", "addresses": ["10.1.0.1/24"], "dhcpServer": {}}),
            "own": ("TapBinding", {"name": "vm1", "bridge": "${net.name}", "guest": guest}),
            "nat": ("NatGateway", {"internalInterfaces": ["${net.name}"]}),
        }
        stack.up(program(BY_NAME))
        second.up(other)
        plug(lab, 0)
        settings = ("address add 10.1.0.6/24 dev eth0", "route add default via 10.1.0.1")
        lab.net.plug("vm1", "guest6", *settings, mac=mac)
        asks(lab, "guest5", "example.com")
        assert lab.reaches("guest6", "tcp 198.51.100.10:80")[0] == "internet"
        stack.up(program(BY_NAME, {"cidr": "192.0.2.0/24"}))
        assert (stack.refresh(), second.refresh()) == ({}, {})
        lab.host.nft("add rule inet hostnet refused counter")
        assert stack.refresh()
        stack.up(program(BY_NAME))
        assert lab.reaches("guest6", "tcp 198.51.100.10:80")[0] == "internet"
        assert (stack.refresh(), second.refresh()) == ({}, {})
        lab.net.unplug()
        stack.destroy()
        assert len(made(lab)) == 3
        assert second.refresh() == {}
        second.destroy()
        assert made(lab) == []
    finally:
        provider.close()


def test_a_component_and_an_import(lab: Lab, stack: Stack) -> None:
    """`egress` of a MicroVmHost takes names; an import shows them."""
    stack.up(component(untrusted=True, guests=["ci-1"], addresses=NET6, egress=[BY_NAME]))
    _settle_in(lab, stack, "ci-1", "guest5")
    assert lab.probe("guest5", "tcp 198.51.100.10:80").outcome == "refused"
    assert asks(lab, "guest5", "example.com") == ["198.51.100.10"]
    assert asks(lab, "guest5", "www.example.com", "v6") == ["2001:db8::20"]
    assert lab.reaches("guest5", "tcp 198.51.100.10:80")[0] == "internet"
    assert lab.reaches("guest5", "tcp [2001:db8::20]:80")[0] == "outsider"
    assert lab.probe("guest5", "tcp 198.51.100.10:81").outcome == "refused"
    assert stack.refresh() == {}
    found = stack.import_("again", "NatGateway", stack.state["box-nat"].id)
    assert found["egress"] == [{"domain": "example.com", "protocol": "tcp", "ports": "80"}]


def test_each_form_of_a_rule_is_read_as_it_was_written(lab: Lab, stack: Stack) -> None:
    """By protocol and port, of both families. A port that another program changed is drift, and is repaired."""
    kinds: list[dict[str, Any]] = [
        {},
        *({"protocol": protocol} for protocol in ("tcp", "udp", "sctp", "icmp")),
        *({"protocol": protocol, "ports": "80"} for protocol in ("tcp", "udp", "sctp")),
        {"protocol": "tcp", "ports": "8000:8100"},
    ]
    stack.up(program(*({"domain": "example.com", **kind} for kind in kinds)))
    assert stack.refresh() == {}
    assert stack.again() == []
    (chain,) = (name for name in made(lab) if name.startswith("list_"))
    listed = lab.host.run(f"nft -a list chain inet hostnet {chain}")
    (handle,) = re.findall(r"udp dport 80 ip daddr .* # handle ([0-9]+)", listed)
    lab.host.nft(
        f"replace rule inet hostnet {chain} handle {handle} udp dport 81 ip daddr @{set_names('example.com')[0]} return"
    )
    assert stack.refresh() == {"own": ["guest.egress"]}
    stack.again()
    assert stack.refresh() == {}
    assert "udp dport 81" not in lab.host.run(f"nft list chain inet hostnet {chain}")


def test_a_bridge_that_answers_no_names_any_more_is_drift_of_its_guests(lab: Lab, stack: Stack) -> None:
    """The bridge is updated first, and its guests' rules have no effect from then on: a read shows it."""
    stack.up(program(BY_NAME))
    changed = program(BY_NAME)
    changed["net"][1]["dhcpServer"] = {"dnsServers": ["192.0.2.53"]}
    stack.up(changed)
    assert stack.refresh() == {"own": ["guest.egress[0]"]}
    stack.up(program(BY_NAME))
    assert stack.refresh() == {}
    del lab


def test_what_is_refused_has_its_name_where_one_was_asked(lab: Lab, stack: Stack) -> None:
    """For `hostnet status`: the names whose answers had the address."""
    stack.up(program(BY_NAME))
    plug(lab, 0)
    asks(lab, "guest5", "www.example.com")
    assert lab.reaches("guest5", "tcp 192.0.2.20:80")[0] == "outsider"
    assert lab.probe("guest5", "tcp 192.0.2.20:443").outcome == "refused"
    assert lab.probe("guest5", "tcp 198.51.100.10:80").outcome == "refused"
    found = _facts(stack, "status")["refused"]
    assert {(each["destination"], each["port"], tuple(each["domains"])) for each in found} == {
        ("192.0.2.20", 443, ("example.com",)),
        ("198.51.100.10", 80, ()),
    }
