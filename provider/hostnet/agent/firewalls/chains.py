"""Other people's base chains at forward and input: read from nftables and iptables-legacy, and whether they drop.

A chain drops where its policy does, or where a rule that looks at nothing drops or rejects, in itself or in a chain
that it always jumps to. Rules that look at something (a bad state, a network, a zone) are somebody's will: what we
insert stands behind them, right before what drops the rest.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hostnet.agent.firewalls.accepts import FORWARD, INPUT, TAG
from hostnet.agent.linux.install_hints import advice_here
from hostnet.agent.linux.libnftables import NftError
from hostnet.agent.nft.ruleset import TABLES
from hostnet.agent.nft.table import Table

NFT, IPTABLES_NFT, LEGACY = "nft", "iptables-nft", "iptables-legacy"
USER_CHAIN = "DOCKER-USER"  # Docker leaves it to the administrator, and jumps there before all else
LOCK_SECONDS = 30  # for the lock that all iptables commands share; somebody may hold it and hang
_NAME = re.compile(r"[A-Za-z0-9_./-]+")  # what needs no quotes in nft
_LEGACY_COMMANDS = {"ip": "iptables-legacy", "ip6": "ip6tables-legacy"}
_LEGACY_TABLES = {"ip": "ip_tables_names", "ip6": "ip6_tables_names"}
_OWNED = "the program that made its table owns it, and lets nobody else in"
# firewalld from 2.1 on. A line that is not there means "yes" to some versions.
_FIREWALLD = (
    "`sed -i '/^NftablesTableOwner=/d' /etc/firewalld/firewalld.conf && "
    "echo NftablesTableOwner=no >>/etc/firewalld/firewalld.conf && systemctl restart firewalld`"
)
_DEEPEST = 16  # jumps in a row; the kernel allows as many
_XT_COMMENT = "\0"  # stands for one that nft does not show


@dataclass(frozen=True)
class Rule:
    """A rule, as far as it matters here.

    :param place: its handle (nft) or its number in the chain (iptables-legacy).
    :param verdict: "drop" (also for reject), "accept", "return", "jump", "goto", or "" for none.
    :param free: it looks at nothing: every packet that comes here gets its verdict.
    :param interfaces: where it looks at interfaces alone: those conditions, as (equal, names) each.
    """

    place: int
    verdict: str
    target: str = ""
    free: bool = False
    interfaces: tuple[tuple[bool, frozenset[str]], ...] = ()
    comment: str = ""
    text: str = ""  # iptables-legacy: its arguments


@dataclass(frozen=True)
class Chain:
    """A base chain of somebody else's, and the chains that it always jumps to.

    :param kind: `NFT`, `IPTABLES_NFT` or `LEGACY`.
    :param closed: why nothing can be inserted here; "" where it can.
    """

    kind: str
    family: str
    table: str
    name: str
    hook: str
    policy: str
    rules: tuple[Rule, ...] = ()
    others: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    closed: str = ""

    @property
    def mend(self) -> str:
        """What a person can do where nothing can be inserted: a command, where there is one."""
        if self.closed == _OWNED and self.table == "firewalld":
            return _FIREWALLD
        if self.closed and self.kind == LEGACY:
            return advice_here("iptables-legacy")
        return "Let that firewall accept the guests' traffic by its own means"

    def __str__(self) -> str:
        """As a person names it."""
        of = f"{self.family} {self.table} {self.name}"
        return f"{of} (iptables-legacy)" if self.kind == LEGACY else of


@dataclass(frozen=True)
class Spot:
    """Where an accept works: in chain `name`, before the rule number `before` (None: at the end)."""

    name: str
    before: int | None


def spots(chain: Chain, inner: frozenset[str], outer: frozenset[str]) -> tuple[Spot, ...]:
    """Where an accept can go, best first; () where the chain does not drop.

    :param inner: our interfaces; a rule that names one of them means it, and counts for no drop of the rest.
    :param outer: the external interfaces.
    """
    found: list[Spot] = []
    for number, rule in enumerate(chain.rules):
        if rule.free and rule.verdict == "jump" and rule.target == USER_CHAIN and chain.hook == FORWARD:
            found.insert(0, Spot(USER_CHAIN, _end(chain.others.get(USER_CHAIN, ()))))
        fate = _fate(rule, chain.others, inner, outer)
        if fate == "accept" or (not fate and rule.free and rule.verdict in ("return", "goto")):
            # Here the rules end: what is behind is reached by nothing.
            dropped = fate != "accept" and chain.policy == "drop"
            return (*found, Spot(chain.name, number)) if dropped else ()
        if fate == "drop":
            return (*found, Spot(chain.name, number))
    return (*found, Spot(chain.name, None)) if chain.policy == "drop" else ()


def _end(rules: tuple[Rule, ...]) -> int | None:
    """The first rule that no packet gets past."""
    return next((i for i, rule in enumerate(rules) if rule.free and rule.verdict in ("drop", "accept", "return")), None)


def _fate(
    rule: Rule, others: Mapping[str, tuple[Rule, ...]], inner: frozenset[str], outer: frozenset[str], deep: int = 0
) -> str:
    """What becomes of a packet of ours that no rule before this looked at: "drop", "accept" or "" (it goes on)."""
    if rule.verdict == "drop" and (rule.free or _concerns(rule, inner, outer)):
        return "drop"
    if not rule.free or deep > _DEEPEST:
        return ""
    if rule.verdict == "accept":
        return "accept"
    if rule.verdict in ("jump", "goto"):
        for each in others.get(rule.target, ()):
            fate = _fate(each, others, inner, outer, deep + 1)
            if fate or (each.free and each.verdict in ("return", "goto")):
                return fate
    return ""


def _concerns(rule: Rule, inner: frozenset[str], outer: frozenset[str]) -> bool:
    """Whether a drop that looks at interfaces alone is for all but some, or for all of an external interface."""
    return bool(rule.interfaces) and all(
        bool(names & outer) and not names & inner if equal else bool((inner | outer) - names)
        for equal, names in rule.interfaces
    )


# --- nftables ------------------------------------------------------------------------------------------------------


class Reader:
    """Reads the chains of this network namespace.

    Args:
        table: Of hostnet; its nftables is asked.
        legacy: Whether to look for iptables-legacy's chains too, which a command lists.
    """

    def __init__(self, table: Table, *, legacy: bool = True) -> None:
        self._nftables, self._sees_legacy = table.nft, legacy

    def chains(self) -> list[Chain]:
        """All base chains at forward and input that are not ours.

        :raises MissingLibraryError: where there are nftables tables and no libnftables to read them.
        """
        return [*self._nft(), *(_legacy() if self._sees_legacy else ())]

    def _nft(self) -> Iterator[Chain]:
        tables = {place: owned for place, owned in self._nftables.tables().items() if " ".join(place) not in TABLES}
        if not tables:
            return
        listed = [item["chain"] for item in self._nftables.list("list chains") if "chain" in item]
        for chain in listed:
            key = (chain["family"], chain["table"])
            if key in tables and chain.get("hook") in (FORWARD, INPUT) and chain.get("type") == "filter":
                names = {each["name"] for each in listed if (each["family"], each["table"]) == key}
                yield self._chain(chain, names, owned=tables[key])

    def _chain(self, chain: dict[str, Any], names: set[str], *, owned: bool) -> Chain:
        family, table, name = chain["family"], chain["table"], chain["name"]
        strange = not (_NAME.fullmatch(table) and _NAME.fullmatch(name))
        iptables = table == "filter" and family in ("ip", "ip6")
        closed = "its name is none that hostnet would paste into a rule" if strange else ""
        closed = closed or (_OWNED if owned else "")
        rules: tuple[Rule, ...] = () if strange else self._rules(family, table, name)
        others: dict[str, tuple[Rule, ...]] = {}
        waiting = _targets(rules) + ([USER_CHAIN] if USER_CHAIN in names and iptables else [])
        while waiting:
            target = waiting.pop()
            if target in names and target not in others and _NAME.fullmatch(target):
                others[target] = self._rules(family, table, target)
                waiting += _targets(others[target])
        kind = IPTABLES_NFT if iptables else NFT
        return Chain(kind, family, table, name, chain["hook"], chain.get("policy", "accept"), rules, others, closed)

    def _rules(self, family: str, table: str, name: str) -> tuple[Rule, ...]:
        try:
            listed = self._nftables.list(f"list chain {family} {table} {name}", terse=True)
        except NftError:
            return ()  # it went in between
        rules = [_rule(item["rule"]) for item in listed if "rule" in item]
        if any(rule.comment == _XT_COMMENT for rule in rules):
            comments = self._nftables.xt_comments(family, table, name)
            rules = [replace(rule, comment=comments.get(rule.place, rule.comment)) for rule in rules]
        return tuple(rules)


def _targets(rules: Iterable[Rule]) -> list[str]:
    return [rule.target for rule in rules if rule.free and rule.target]


def _rule(data: dict[str, Any]) -> Rule:
    """From nft's JSON."""
    verdict, target, free, interfaces, comment = "", "", True, [], data.get("comment", "")
    for expression in data.get("expr", ()):
        (kind, body), *_ = expression.items()
        extension = body.get("name", "") if kind == "xt" and isinstance(body, dict) else ""
        if extension == "comment":
            comment = _XT_COMMENT
        elif kind in ("accept", "drop", "return"):
            verdict = kind
        elif kind == "reject" or extension == "REJECT":
            verdict = "drop"
        elif kind in ("jump", "goto"):
            verdict, target = kind, body["target"]
        elif kind not in ("counter", "log") and extension != "LOG":
            free = False
            interfaces.append(_interfaces(body) if kind == "match" else None)
    alone = tuple(each for each in interfaces if each is not None)
    return Rule(data["handle"], verdict, target, free, alone if len(alone) == len(interfaces) else (), comment)


def _interfaces(match: dict[str, Any]) -> tuple[bool, frozenset[str]] | None:
    """The condition, where it is one on an interface's name."""
    left, right = match["left"], match["right"]
    key = left.get("meta", {}).get("key") if isinstance(left, dict) else None
    names = right.get("set") if isinstance(right, dict) else [right]
    if key not in ("iifname", "oifname", "iif", "oif") or match["op"] not in ("==", "!="):
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return match["op"] == "==", frozenset(names)


# --- iptables-legacy -----------------------------------------------------------------------------------------------


def legacy_command(family: str) -> str | None:
    """The command that sees iptables-legacy's rules of a family, where it is installed."""
    return shutil.which(_LEGACY_COMMANDS[family])


def _legacy() -> Iterator[Chain]:
    for family, names in _LEGACY_TABLES.items():
        try:
            tables = Path("/proc/self/net", names).read_text().split()
        except OSError:
            continue  # not in this kernel
        if "filter" not in tables:
            continue
        command = legacy_command(family)
        if command is None:
            for hook in (FORWARD, INPUT):
                why = f"{_LEGACY_COMMANDS[family]} is not installed, and nothing else sees its rules"
                yield Chain(LEGACY, family, "filter", hook.upper(), hook, "drop", closed=why)
            continue
        yield from _legacy_chains(family, command)


def _legacy_chains(family: str, command: str) -> Iterator[Chain]:
    done = subprocess.run([command, f"--wait={LOCK_SECONDS}", "-S"], capture_output=True, text=True, check=False)
    policies: dict[str, str] = {}
    chains: dict[str, list[Rule]] = {}
    for line in done.stdout.splitlines():
        option, name, *rest = shlex.split(line)
        rules = chains.setdefault(name, [])
        if option == "-P":
            policies[name] = rest[0].lower()
        elif option == "-A":
            rules.append(_legacy_rule(len(rules) + 1, rest, line.split(" ", 2)[2]))
    others = {name: tuple(rules) for name, rules in chains.items() if name not in policies}
    for hook in (FORWARD, INPUT):
        name = hook.upper()
        if name in policies:
            yield Chain(LEGACY, family, "filter", name, hook, policies[name], tuple(chains[name]), others)


def _legacy_rule(number: int, words: list[str], text: str) -> Rule:
    """From a line of `iptables -S`."""
    verdict, target, comment, free = "", "", "", True
    rest = iter(words)
    for word in rest:
        if word in ("-j", "-g"):
            target = next(rest)
            verdict = {"DROP": "drop", "REJECT": "drop", "ACCEPT": "accept", "RETURN": "return", "LOG": ""}.get(
                target, "goto" if word == "-g" else "jump"
            )
            break  # what follows are the target's own options
        if word == "-m":
            free = free and (target := next(rest)) == "comment"
        elif word == "--comment":
            comment = next(rest)
        else:
            free = False
    return Rule(number, verdict, target if verdict in ("jump", "goto") else "", free, (), comment, text)


def tagged(rules: Iterable[Rule]) -> list[Rule]:
    """Those of ours."""
    return [rule for rule in rules if rule.comment.startswith(TAG)]
