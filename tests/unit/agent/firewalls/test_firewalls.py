"""Where an accept goes in another firewall's chain: before the general drop, after the administrator's own rules."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hostnet.agent.firewalls.accepts import Traffic, for_iptables_nft, for_nft
from hostnet.agent.firewalls.chains import IPTABLES_NFT, NFT, USER_CHAIN, Chain, Position, Rule, positions
from hostnet.agent.firewalls.sync import Required, updates

DROP = Rule(1, "drop", unconditional=True)
ACCEPT = Rule(2, "accept", unconditional=True)
SOME = Rule(3, "drop")  # looks at something
RETURN = Rule(4, "return", unconditional=True)
INTERNAL, EXTERNAL = frozenset({"br-a"}), frozenset({"eth0"})


def jump(target: str, verdict: str = "jump") -> Rule:
    """A rule that always jumps to the target."""
    return Rule(9, verdict, target, unconditional=True)


def on(*conditions: tuple[bool, set[str]]) -> Rule:
    """A drop that matches only interfaces."""
    return Rule(8, "drop", interfaces=tuple((equal, frozenset(names)) for equal, names in conditions))


def chain(*rules: Rule, policy: str = "accept", x: tuple[Rule, ...] = (), user: tuple[Rule, ...] = ()) -> Chain:
    """A forward chain, a chain `x`, and the administrator's chain."""
    return Chain(NFT, "inet", "t", "c", "forward", policy, rules, {"x": x, USER_CHAIN: user})


END, FIRST, SECOND = Position("c", None), Position("c", 0), Position("c", 1)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (chain(SOME), ()),
        (chain(SOME, policy="drop"), (END,)),
        (chain(SOME, DROP), (SECOND,)),
        (chain(ACCEPT, DROP, policy="drop"), ()),
        (chain(RETURN, DROP), ()),
        (chain(RETURN, policy="drop"), (FIRST,)),
        (chain(SOME, jump("x"), x=(SOME, DROP)), (SECOND,)),
        (chain(SOME, jump("x"), x=(RETURN, DROP)), ()),
        (chain(SOME, jump("x", "goto"), DROP, x=(SOME,)), ()),
        (chain(SOME, jump("x", "goto"), policy="drop", x=(SOME,)), (SECOND,)),
        (chain(SOME, jump("x"), policy="drop", x=(ACCEPT,)), ()),
        (chain(jump("x"), x=(jump("x"),)), ()),
        (chain(SOME, on((True, {"eth0"}))), (SECOND,)),
        (chain(SOME, on((False, {"lan"}))), (SECOND,)),
        (chain(SOME, on((True, {"br-a"}))), ()),
        (chain(SOME, on((True, {"docker0"}), (False, {"docker0"}))), ()),
        (chain(jump(USER_CHAIN), policy="drop", user=(SOME,)), (Position(USER_CHAIN, None), END)),
        (chain(jump(USER_CHAIN), policy="drop", user=(SOME, RETURN)), (Position(USER_CHAIN, 1), END)),
        (chain(jump(USER_CHAIN), user=(SOME, DROP)), (Position(USER_CHAIN, 1), FIRST)),
        (chain(jump(USER_CHAIN), user=(SOME,)), ()),
    ],
)
def test_where_an_accept_goes(made: Chain, expected: tuple[Position, ...]) -> None:
    """Without a drop there is no accept; otherwise it goes before the drop, if possible in the chain DOCKER-USER."""
    assert positions(made, INTERNAL, EXTERNAL) == expected


TRAFFIC = (Traffic("gateway nat", iif="br-a", oif="eth0"), Traffic("gateway nat", oif="br-a"))
REQUIRED = Required(TRAFFIC, INTERNAL, EXTERNAL)


def test_an_updated_chain_needs_no_update() -> None:
    """Nothing is to do the second time. Without resources, only hostnet's own rules are removed."""
    comments = [rule.comment for rule in for_nft(REQUIRED.traffic, "inet")]
    ours = tuple(Rule(20 + i, "accept", comment=comment) for i, comment in enumerate(comments))
    whole = chain(SOME, *ours, DROP)
    assert list(updates([whole], REQUIRED)) == []
    (gone,) = updates([whole], Required())
    assert gone.remove == (("c", ours[0]), ("c", ours[1]))
    assert not gone.insert


def test_an_accept_after_the_drop_is_moved() -> None:
    """A new one goes before the drop, and the useless one is removed."""
    comments = [rule.comment for rule in for_nft(REQUIRED.traffic, "inet")]
    late = Rule(20, "accept", comment=comments[0])
    (update,) = updates([chain(DROP, late)], REQUIRED)
    assert [rule.comment for rule in update.insert] == comments
    assert update.remove == (("c", late),)


@pytest.mark.parametrize("mark", ["", " @/srv/net"])
def test_rules_of_another_record_are_left_alone(mark: str) -> None:
    """They end with the mark of its state directory, or, in the default one, with none."""
    other = " @/srv/other"
    theirs = tuple(Rule(20, "accept", comment=rule.comment + other) for rule in for_nft(REQUIRED.traffic, "inet"))
    whole = chain(*theirs, DROP)
    (update,) = updates([whole], REQUIRED, mark)
    assert not update.remove
    ours = tuple(Rule(30, "accept", comment=rule.comment) for rule in update.insert)
    assert all(rule.comment.endswith(mark) for rule in ours)
    assert list(updates([chain(*theirs, *ours, DROP)], REQUIRED, mark)) == []
    (gone,) = updates([chain(*theirs, *ours, DROP)], Required(), mark)
    assert gone.remove == tuple(("c", rule) for rule in ours)


def test_long_comments_stay_distinct() -> None:
    """A rule is found by its comment: two that differ at its end alone are two rules."""
    long = Traffic(
        "forward",
        iif="bridge-of-guest",
        oif="uplink-of-hosts",
        family="ipv6",
        target="2001:db8:1111:2222:3333:4444:5555:6666/128",
        protocol="tcp",
        ports="80",
    )
    required = Required((long, replace(long, ports="443")), frozenset({"bridge-of-guest"}), frozenset({"eth0"}))
    (update,) = updates([chain(DROP)], required, " @/srv/a-directory-with-a-long-name")
    comments = [rule.comment for rule in update.insert]
    assert len(set(comments)) == 2
    assert max(map(len, comments)) == 100
    ours = [Rule(20, "accept", comment=each) for each in comments]
    assert list(updates([chain(*ours, DROP)], required, " @/srv/a-directory-with-a-long-name")) == []


def test_rules_as_each_firewall_takes_them() -> None:
    """One concise rule is for nft; plain rules, which `iptables -S` can show, are for iptables."""
    assert [rule.text for rule in for_nft(REQUIRED.traffic, "inet")] == [
        'iifname . oifname { "br-a" . "eth0" }',
        'oifname { "br-a" }',
    ]
    assert [(rule.text, rule.comment) for rule in for_iptables_nft(REQUIRED.traffic, "ip")] == [
        ('iifname "br-a" oifname "eth0" counter', "hostnet: br-a to eth0"),
        ('oifname "br-a" counter', "hostnet: any to br-a"),
    ]
    to_guest = Traffic("f", iif="eth0", family="ipv4", target="10.0.0.2", protocol="tcp", ports="80")
    assert for_nft([to_guest], "ip6") == []
    assert for_nft([to_guest], "ip")[0].text == 'iifname "eth0" ip daddr 10.0.0.2 tcp dport 80'


@pytest.mark.parametrize("name", ['x" accept', "a b", "x" * 16, ""])
def test_a_bad_interface_name_is_refused(name: str) -> None:
    """A program's text is checked before it becomes a part of a rule."""
    with pytest.raises(ValueError, match="interface name"):
        for_nft([Traffic("g", iif=name or "\n", oif="eth0")], "inet")


def test_a_chain_that_cant_be_written_to_is_skipped() -> None:
    """Its owner, or its form, does not allow rules of others."""
    closed = Chain(IPTABLES_NFT, "ip", "filter", "FORWARD", "forward", "drop", read_only="owned")
    assert list(updates([closed], REQUIRED)) == []
