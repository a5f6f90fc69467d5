"""The base chains of other firewalls at forward and input, and the places in them where an accept rule works.

They are read from nftables (iptables-nft's are there as well) and from iptables-legacy. A chain drops our traffic if
its policy does, or if an unconditional rule drops or rejects, in the chain itself or in one that it always jumps to.
Rules with a condition (a bad state, a network, a zone) are what the administrator wants: ours come after them, right
before what drops the rest.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hostnet.agent.firewalls.accepts import FORWARD, INPUT, TAG
from hostnet.agent.linux import files
from hostnet.agent.linux.install_hints import advice_here
from hostnet.agent.linux.libnftables import NftError
from hostnet.agent.nft.ruleset import OURS
from hostnet.agent.nft.syntax import mark_in
from hostnet.agent.nft.table import Table

IIF, OIF = "iif", "oif"
NFT, IPTABLES_NFT, LEGACY = "nft", "iptables-nft", "iptables-legacy"
USER_CHAIN = "DOCKER-USER"  # for the administrator's rules; Docker jumps to it before all others
LOCK_SECONDS = 30  # for the lock of all iptables commands: a process that holds it may hang
_NAME = re.compile(r"[A-Za-z0-9_./-]+")  # what needs no quotes in nft
# iptables-legacy's rules are in a subsystem of their own in the kernel: nft and iptables-nft don't list them. These
# files in /proc/net name a table once a legacy command has used it; without one they are empty or missing.
_LEGACY_COMMANDS = {"ip": "iptables-legacy", "ip6": "ip6tables-legacy"}
_LEGACY_SIDES = {"-i": IIF, "-o": OIF}
_LEGACY_TABLES = {"ip": "ip_tables_names", "ip6": "ip6_tables_names"}
_OWNED = "the program that made its table owns it, and the kernel refuses rules of others"
# firewalld owns its table from version 2.1 on. Some versions take a missing line for "yes".
_FIREWALLD = (
    "`sed -i '/^NftablesTableOwner=/d' /etc/firewalld/firewalld.conf && "
    "echo NftablesTableOwner=no >>/etc/firewalld/firewalld.conf && systemctl restart firewalld`"
)
_DEEPEST = 16  # jumps in a row: as many as the kernel allows (NFT_JUMP_STACK_SIZE)
_XT_COMMENT = "\0"  # stands for one that nft does not show


@dataclass(frozen=True)
class Rule:
    """A rule, as far as it matters here.

    Attributes:
        place: Its handle (nft) or its number in the chain (iptables-legacy).
        verdict: "drop" (also for reject), "accept", "return", "jump", "goto", or "" for none.
        target: The chain that it jumps to.
        unconditional: Whether every packet gets its verdict.
        interfaces: If all its conditions are about interfaces: these, as (equal, names) each.
        sides: To each of `interfaces`, which one it is about: `IIF` or `OIF`.
        verdicts: Of a verdict map by one interface: by its name, the verdict and the target.
        comment: Its comment.
        text: iptables-legacy: its arguments.
    """

    place: int
    verdict: str
    target: str = ""
    unconditional: bool = False
    interfaces: tuple[tuple[bool, frozenset[str]], ...] = ()
    sides: tuple[str, ...] = ()
    verdicts: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    comment: str = ""
    text: str = ""

    def matches(self, iif: str, oif: str) -> bool:
        """Whether every packet from one interface to another meets its conditions; False also where that is open."""
        if self.unconditional:
            return True
        names = {IIF: iif, OIF: oif}
        return bool(self.sides) and all(
            (names[side] in listed) == equal for side, (equal, listed) in zip(self.sides, self.interfaces)
        )

    def decides(self, iif: str, oif: str) -> tuple[str, str]:
        """The verdict on a packet that meets its conditions, and the target of a jump."""
        if not self.verdicts:
            return self.verdict, self.target
        return self.verdicts.get(oif if self.sides == (OIF,) else iif, ("", ""))


@dataclass(frozen=True)
class Chain:
    """A base chain of another firewall.

    Attributes:
        kind: `NFT`, `IPTABLES_NFT` or `LEGACY`.
        family: Its table's family.
        table: Its table.
        name: Its name.
        hook: `FORWARD` or `INPUT`.
        policy: "accept" or "drop".
        rules: Its rules.
        targets: The rules of the chains that it always jumps to.
        read_only: Why no rule can be added; "" if one can.
    """

    kind: str
    family: str
    table: str
    name: str
    hook: str
    policy: str
    rules: tuple[Rule, ...] = ()
    targets: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    read_only: str = ""

    @property
    def fix(self) -> str:
        """What a person can do if no rule can be added: a command, if there is one."""
        if self.read_only == _OWNED and self.table == "firewalld":
            return _FIREWALLD
        if self.read_only and self.kind == LEGACY:
            return advice_here("iptables-legacy")
        return "Have that firewall accept the guests' traffic by its own configuration"

    def __str__(self) -> str:
        """Its name in messages."""
        of = f"{self.family} {self.table} {self.name}"
        return f"{of} (iptables-legacy)" if self.kind == LEGACY else of


@dataclass(frozen=True)
class Position:
    """A place where an accept rule works.

    Attributes:
        chain: The chain's name.
        before: The number of the rule that it goes before; None: the end.
    """

    chain: str
    before: int | None


def positions(chain: Chain, internal: frozenset[str], external: frozenset[str]) -> tuple[Position, ...]:
    """The places where an accept rule works, the best one first; () if the chain does not drop our traffic.

    Args:
        chain: A chain of another firewall.
        internal: Our interfaces. A rule that names one of them is about it, and not a drop of all the rest.
        external: The external interfaces.
    """
    found: list[Position] = []
    for number, rule in enumerate(chain.rules):
        if rule.unconditional and rule.verdict == "jump" and rule.target == USER_CHAIN and chain.hook == FORWARD:
            found.insert(0, Position(USER_CHAIN, _first_final(chain.targets.get(USER_CHAIN, ()))))
        verdict = _verdict(rule, chain.targets, internal, external)
        if verdict == "accept" or (not verdict and rule.unconditional and rule.verdict in ("return", "goto")):
            # No packet reaches the rules after this one.
            dropped = verdict != "accept" and chain.policy == "drop"
            return (*found, Position(chain.name, number)) if dropped else ()
        if verdict == "drop":
            return (*found, Position(chain.name, number))
    return (*found, Position(chain.name, None)) if chain.policy == "drop" else ()


def refusals(chain: Chain, iif: str, oif: str) -> tuple[Position, ...]:
    """The places where an accept lets new connections from one interface to another pass, the best one first.

    libvirt rejects what goes to its bridge (`oif virbr0 reject`), Docker drops it in a chain that a verdict map leads
    to. Rules with other conditions (a network, a state) are taken for passed: they stay before ours.

    Args:
        chain: A chain of another firewall at forward.
        iif: Where the packets come in.
        oif: Where they leave.

    Returns:
        () where no rule drops all of them.
    """
    found: list[Position] = []
    for number, rule in enumerate(chain.rules):
        if rule.unconditional and rule.verdict == "jump" and rule.target == USER_CHAIN:
            found.insert(0, Position(USER_CHAIN, _first_final(chain.targets.get(USER_CHAIN, ()))))
        verdict = _between(rule, chain.targets, iif, oif)
        if verdict:
            return (*found, Position(chain.name, number)) if verdict == "drop" else ()
    return ()


def _between(rule: Rule, targets: Mapping[str, tuple[Rule, ...]], iif: str, oif: str, depth: int = 0) -> str:
    """The verdict on packets between two interfaces: "drop", "accept", "end" (of the chain), or "" (they go on)."""
    if depth > _DEEPEST or not rule.matches(iif, oif):
        return ""
    verdict, target = rule.decides(iif, oif)
    if verdict in ("drop", "accept"):
        return verdict
    if verdict == "return":
        return "end"
    for each in targets.get(target, ()) if verdict in ("jump", "goto") else ():
        inner = _between(each, targets, iif, oif, depth + 1)
        if inner == "end":
            break
        if inner:
            return inner
    return "end" if verdict == "goto" else ""


def _first_final(rules: tuple[Rule, ...]) -> int | None:
    """The number of the first rule that no packet gets past."""
    final = ("drop", "accept", "return")
    return next((i for i, rule in enumerate(rules) if rule.unconditional and rule.verdict in final), None)


def _verdict(
    rule: Rule,
    targets: Mapping[str, tuple[Rule, ...]],
    internal: frozenset[str],
    external: frozenset[str],
    depth: int = 0,
) -> str:
    """The verdict on a packet of ours that met no condition before: "drop", "accept" or "" (it goes on)."""
    if rule.verdict == "drop" and (rule.unconditional or _drops_ours(rule, internal, external)):
        return "drop"
    if not rule.unconditional or depth > _DEEPEST:
        return ""
    if rule.verdict == "accept":
        return "accept"
    if rule.verdict in ("jump", "goto"):
        for each in targets.get(rule.target, ()):
            verdict = _verdict(each, targets, internal, external, depth + 1)
            if verdict or (each.unconditional and each.verdict in ("return", "goto")):
                return verdict
    return ""


def _drops_ours(rule: Rule, internal: frozenset[str], external: frozenset[str]) -> bool:
    """Whether a drop with conditions on interfaces is for all but some, or for all of an external interface."""
    return bool(rule.interfaces) and all(
        bool(names & external) and not names & internal if equal else bool((internal | external) - names)
        for equal, names in rule.interfaces
    )


# --- nftables --------------------------------------------------------------------------------------------------------


class ChainReader:
    """Reads the chains of this network namespace.

    Args:
        table: Our table, whose nftables is asked.
        legacy: Whether iptables-legacy's chains are listed, too, by its command.
    """

    def __init__(self, table: Table, *, legacy: bool = True) -> None:
        self._nftables, self._sees_legacy = table.nft, legacy

    def chains(self, *, links: Container[str] = ()) -> list[Chain]:
        """All base chains at forward and input that are not ours.

        Args:
            links: Interfaces to which something is forwarded: chains for what leaves by them are read, too.

        Raises:
            MissingLibraryError: There are tables of nftables, and no libnftables to read them.
        """
        return [*self._nft(links), *(_legacy() if self._sees_legacy else ())]

    def _nft(self, links: Container[str]) -> Iterator[Chain]:
        tables = {place: head for place, head in self._nftables.tables().items() if " ".join(place) not in OURS}
        if not tables:
            return
        listed = [item["chain"] for item in self._nftables.list("list chains") if "chain" in item]
        for chain in listed:
            key = (chain["family"], chain["table"])
            # A chain of type nat sees the first packet of a connection alone, and is not where firewalls drop.
            if key in tables and chain.get("hook") in (FORWARD, INPUT) and chain.get("type") == "filter":
                names = {each["name"] for each in listed if (each["family"], each["table"]) == key}
                yield self._chain(chain, names, links, owned=tables[key].owned)

    def _chain(self, chain: dict[str, Any], names: set[str], links: Container[str], *, owned: bool) -> Chain:
        family, table, name = chain["family"], chain["table"], chain["name"]
        quotable = bool(_NAME.fullmatch(table) and _NAME.fullmatch(name))
        iptables = table == "filter" and family in ("ip", "ip6")
        read_only = "" if quotable else "its name has characters that hostnet writes into no command"
        read_only = read_only or (_OWNED if owned else "")
        rules = self._rules(family, table, name) if quotable else ()
        targets: dict[str, tuple[Rule, ...]] = {}
        # DOCKER-USER may hold rules of ours although no rule jumps to it any more.
        waiting = [*_targets(rules, links)] + ([USER_CHAIN] if USER_CHAIN in names and iptables else [])
        while waiting:
            target = waiting.pop()
            if target in names and target not in targets and _NAME.fullmatch(target):
                targets[target] = self._rules(family, table, target)
                waiting += _targets(targets[target], links)
        kind, policy = IPTABLES_NFT if iptables else NFT, chain.get("policy", "accept")
        return Chain(kind, family, table, name, chain["hook"], policy, rules, targets, read_only)

    def _rules(self, family: str, table: str, name: str) -> tuple[Rule, ...]:
        try:
            # Terse: other programs' sets may have a hundred thousand elements (blocklists), and none matters here.
            listed = self._nftables.list(f"list chain {family} {table} {name}", terse=True)
        except NftError:
            return ()  # it was deleted in between
        rules = [self._rule(item["rule"]) for item in listed if "rule" in item]
        if any(rule.comment == _XT_COMMENT for rule in rules):
            comments = self._nftables.xt_comments(family, table, name)
            rules = [replace(rule, comment=comments.get(rule.place, rule.comment)) for rule in rules]
        return tuple(rules)

    def _rule(self, data: dict[str, Any]) -> Rule:
        rule = _rule(data)
        body = next((each["vmap"] for each in data.get("expr", ()) if "vmap" in each), None)
        side = _side(body["key"]) if body else None
        if body is None or side is None or len(data["expr"]) - _silent(data) > 1:
            return rule
        return replace(
            rule, sides=(side,), interfaces=((False, frozenset()),), verdicts=self._verdicts(data, body["data"])
        )

    def _verdicts(self, rule: dict[str, Any], of: Any) -> dict[str, tuple[str, str]]:
        """The elements of a verdict map by interfaces: the rule's own, or those of a map of its table."""
        elements = of.get("set", ()) if isinstance(of, dict) else ()
        if isinstance(of, str):
            command = f"list map {rule['family']} {rule['table']} {of.removeprefix('@')}"
            try:
                listed = self._nftables.list(command) if _NAME.fullmatch(of.removeprefix("@")) else []
            except NftError:
                listed = []  # it was deleted in between
            elements = next((item["map"].get("elem", ()) for item in listed if "map" in item), ())
        return {name: _decision(verdict) for name, verdict in elements if isinstance(name, str)}


def _silent(data: dict[str, Any]) -> int:
    """How many statements of a rule decide nothing."""
    return sum(kind in ("counter", "log") for expression in data["expr"] for kind in expression)


def _decision(verdict: dict[str, Any]) -> tuple[str, str]:
    (kind, body), *_ = verdict.items()
    return ("drop" if kind == "reject" else kind), (body or {}).get("target", "")


def _targets(rules: Iterable[Rule], links: Container[str]) -> Iterator[str]:
    """The chains that rules lead to: always, or what leaves by one of these interfaces."""
    for rule in rules:
        if rule.unconditional and rule.target:
            yield rule.target
        elif rule.verdicts and rule.sides == (OIF,):
            yield from (target for name, (_, target) in rule.verdicts.items() if target and name in links)
        elif rule.target and any(
            side == OIF and equal and any(name in links for name in names)
            for side, (equal, names) in zip(rule.sides, rule.interfaces)
        ):
            yield rule.target


def _rule(data: dict[str, Any]) -> Rule:
    """A rule of nft's JSON.

    libnftables 1.0.6 lists what an extension of iptables does as `xt`, with its name and nothing else.
    """
    verdict, target, unconditional, interfaces, comment = "", "", True, [], data.get("comment", "")
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
            unconditional = False
            interfaces.append(_interfaces(body) if kind == "match" else None)
    known = [each for each in interfaces if each is not None]
    whole = known if len(known) == len(interfaces) else []
    conditions, sides = tuple(each for _, each in whole), tuple(side for side, _ in whole)
    return Rule(data["handle"], verdict, target, unconditional, conditions, sides, comment=comment)


def _interfaces(match: dict[str, Any]) -> tuple[str, tuple[bool, frozenset[str]]] | None:
    """The condition, if it is one on an interface's name, and on which one."""
    side, right = _side(match["left"]), match["right"]
    names = right.get("set") if isinstance(right, dict) else [right]
    if side is None or match["op"] not in ("==", "!="):
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return side, (match["op"] == "==", frozenset(names))


def _side(key: Any) -> str | None:
    """Which interface an expression of nft's JSON is; None if it is another thing."""
    word = key.get("meta", {}).get("key", "") if isinstance(key, dict) else ""
    return {"iifname": IIF, "iif": IIF, "oifname": OIF, "oif": OIF}.get(word)


# --- iptables-legacy -------------------------------------------------------------------------------------------------


def legacy_command(family: str) -> str | None:
    """The command that lists iptables-legacy's rules of a family, if it is installed."""
    return files.which(_LEGACY_COMMANDS[family])


def _legacy() -> Iterator[Chain]:
    for family, names in _LEGACY_TABLES.items():
        try:
            tables = Path("/proc/self/net", names).read_text().split()
        except OSError:
            continue  # this kernel has no iptables-legacy
        if "filter" not in tables:
            continue
        command = legacy_command(family)
        if command is None:
            for hook in (FORWARD, INPUT):
                why = f"{_LEGACY_COMMANDS[family]} is not installed, and no other command lists its rules"
                yield Chain(LEGACY, family, "filter", hook.upper(), hook, "drop", read_only=why)
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
    targets = {name: tuple(rules) for name, rules in chains.items() if name not in policies}
    for hook in (FORWARD, INPUT):
        name = hook.upper()
        if name in policies:
            yield Chain(LEGACY, family, "filter", name, hook, policies[name], tuple(chains[name]), targets)


def _legacy_rule(number: int, words: list[str], text: str) -> Rule:
    """A rule of `iptables -S`."""
    verdict, target, comment = "", "", ""
    conditions: list[tuple[str, tuple[bool, frozenset[str]]] | None] = []  # None: not one on an interface's name
    equal = True
    rest = iter(words)
    for word in rest:
        if word in ("-j", "-g"):
            target = next(rest)
            verdict = {"DROP": "drop", "REJECT": "drop", "ACCEPT": "accept", "RETURN": "return", "LOG": ""}.get(
                target, "goto" if word == "-g" else "jump"
            )
            break  # what follows are the target's own options
        if word == "--comment":
            comment = next(rest)
        elif word in _LEGACY_SIDES:
            name = next(rest)
            # With + at its end it stands for many.
            known = None if name.endswith("+") else (_LEGACY_SIDES[word], (equal, frozenset((name,))))
            conditions.append(known)
        elif word == "-m" and (target := next(rest)) == "comment":
            continue
        elif word != "!":
            conditions.append(None)
        equal = word != "!"
    whole = [each for each in conditions if each is not None]
    if len(whole) < len(conditions):
        whole = []
    sides, interfaces = tuple(side for side, _ in whole), tuple(each for _, each in whole)
    target = target if verdict in ("jump", "goto") else ""
    return Rule(number, verdict, target, not conditions, interfaces, sides, comment=comment, text=text)


def is_ours(rule: Rule, mark: str = "") -> bool:
    """Whether a record put this rule in.

    Args:
        rule: The rule.
        mark: What ends the comments of the record's rules (`syntax.mark_of`).
    """
    return rule.comment.startswith(TAG) and mark_in(rule.comment) == mark
