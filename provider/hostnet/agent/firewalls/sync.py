"""Keeps an accept rule of ours in each chain of another firewall that would drop our traffic.

A packet passes only if every base chain of its hook accepts it (nft(8), "verdict statements"): no rule of our own table
overrides a drop in another. The rules themselves are the only state: their comment says that they are ours.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from hostnet.agent.firewalls.accepts import (
    FORWARD,
    AcceptRule,
    Traffic,
    by_interface,
    for_iptables,
    for_iptables_nft,
    for_nft,
    forwards_of,
    needs_accepts,
    traffic_of,
)
from hostnet.agent.firewalls.chains import (
    IPTABLES_NFT,
    LEGACY,
    LOCK_SECONDS,
    USER_CHAIN,
    Chain,
    ChainReader,
    Position,
    Rule,
    is_ours,
    legacy_command,
    positions,
    refusals,
)
from hostnet.agent.linux.libnftables import MissingLibraryError, NftError
from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.nft.context import Context
from hostnet.agent.nft.syntax import LONGEST_COMMENT
from hostnet.agent.nft.table import Table
from hostnet.agent.record.owners import Owner, Owners
from hostnet.wire.digest import sha256
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import Forward, Gateway, Link

_ATTEMPTS = 3  # another program may change a chain after we have read it


class FirewallError(Exception):
    """A chain that did not take our rules."""

    def __init__(self, chain: Chain, why: str) -> None:
        super().__init__(str(chain), why)
        self.chain, self.why = chain, why


@dataclass(frozen=True)
class ChainUpdate:
    """What to change in a chain.

    Attributes:
        chain: The chain.
        position: Where rules are inserted.
        insert: The rules that are missing.
        remove: Our rules that are not needed, each with the name of its chain.
    """

    chain: Chain
    position: Position | None = None
    insert: tuple[AcceptRule, ...] = ()
    remove: tuple[tuple[str, Rule], ...] = ()


@dataclass(frozen=True)
class Required:
    """What the owners require of other firewalls.

    Attributes:
        traffic: What they must accept.
        internal: The interfaces that it is about, but for the external ones.
        external: The external interfaces.
        forwarded: What is forwarded to guests behind interfaces of other programs, with its external interface.
    """

    traffic: tuple[Traffic, ...] = ()
    internal: frozenset[str] = frozenset()
    external: frozenset[str] = frozenset()
    forwarded: tuple[tuple[str, Traffic], ...] = ()

    @classmethod
    def by(cls, owners: Owners, context: Context, snapshot: Snapshot) -> Required:
        """What all owners together require."""
        found = tuple(traffic_of(owners, context))
        external = frozenset(name for gateway in context.gateways.values() for name in gateway.uplinks)
        named = {name for each in found for name in (each.iif, each.oif) if name}
        return cls(found, frozenset(named) - external, external, tuple(_to_others(owners, context, snapshot)))


def _needs_accepts(owners: Owners) -> bool:
    return needs_accepts(owners.every(Gateway), owners.every(Link))


def _others(context: Context, snapshot: Snapshot) -> frozenset[str]:
    """The interfaces of other programs that have addresses, but for the external ones."""
    return frozenset(snapshot.addresses) - {*context.devices, *context.externals, "lo"}


def _to_others(owners: Owners, context: Context, snapshot: Snapshot) -> Iterator[tuple[str, Traffic]]:
    others = _others(context, snapshot)
    for traffic, external in forwards_of(owners, context) if others else ():
        home = snapshot.home_of(traffic.target or "")
        if home in others:
            yield external, replace(traffic, oif=home)


def updates(chains: Iterable[Chain], required: Required, mark: str = "") -> Iterator[ChainUpdate]:
    """What to change in these chains. Pure.

    Args:
        chains: The chains.
        required: What they must accept.
        mark: What ends the comments of this record's rules; the rules of others are left alone.
    """
    for chain in chains:
        if chain.read_only:
            continue
        places = positions(chain, required.internal, required.external if chain.hook == FORWARD else frozenset())
        wanted = [(rule, places) for rule in (_rules(chain, required) if places else ())]
        wanted += _forwarded_rules(chain, required)
        wanted = [(replace(rule, comment=_comment(rule, mark)), places) for rule, places in wanted]
        ours = _ours(chain, mark)
        if wanted or ours:
            yield from _chain_updates(chain, wanted, ours)


def _chain_updates(
    chain: Chain, wanted: list[tuple[AcceptRule, tuple[Position, ...]]], ours: list[tuple[str, int, Rule]]
) -> Iterator[ChainUpdate]:
    """What to change in a chain: one update for each place where rules are missing."""
    where = {rule.comment: places for rule, places in wanted}
    kept: set[str] = set()
    remove = []
    for name, number, rule in ours:
        if rule.comment in where.keys() - kept and _works(name, number, where[rule.comment]):
            kept.add(rule.comment)
        else:
            remove.append((name, rule))
    missing: dict[Position, list[AcceptRule]] = {}
    for accept, places in wanted:
        if accept.comment not in kept:
            missing.setdefault(places[0], []).append(accept)
    for number, (position, accepts) in enumerate(missing.items()):
        if number and chain.kind == LEGACY:
            break  # its rules have other numbers after an update: the rest comes next time
        yield ChainUpdate(chain, position, tuple(accepts), () if number else tuple(remove))
    if remove and not missing:
        yield ChainUpdate(chain, remove=tuple(remove))


def _forwarded_rules(chain: Chain, required: Required) -> list[tuple[AcceptRule, tuple[Position, ...]]]:
    """The rules for what is forwarded to interfaces of other programs, where a chain drops all that goes there."""
    if chain.hook != FORWARD:
        return []
    known: dict[tuple[str, str], tuple[Position, ...]] = {}
    by_place: dict[tuple[Position, ...], list[Traffic]] = {}
    for external, traffic in required.forwarded:
        pair = (external, traffic.oif or "")
        if pair not in known:
            known[pair] = refusals(chain, *pair)
        if known[pair]:
            by_place.setdefault(known[pair], []).append(traffic)
    found = []
    for places, group in by_place.items():
        # iptables-nft (1.8.9) lists no chain with a rule that matches what was forwarded (`ct status dnat`: "chain is
        # incompatible"): there each forward has a rule.
        whole = group if chain.kind == IPTABLES_NFT else list(by_interface(group, chain.family))
        found += [(rule, places) for rule in _renderer(chain)(whole, chain.family)]
    return found


def _comment(rule: AcceptRule, mark: str) -> str:
    """A rule's comment with the record's mark. Of a long one the end is a digest: no two rules have the same."""
    room = LONGEST_COMMENT - len(mark)
    if len(rule.comment) <= room:
        return f"{rule.comment}{mark}"
    digest = sha256(rule.comment.encode()).hexdigest()[:6]
    return f"{rule.comment[: room - len(digest) - 1]} {digest}{mark}"


def _ours(chain: Chain, mark: str) -> list[tuple[str, int, Rule]]:
    """Our rules in a chain and in the administrator's, each with its chain's name and its number."""
    lists = [(chain.name, chain.rules)]
    if chain.hook == FORWARD:
        lists.append((USER_CHAIN, chain.targets.get(USER_CHAIN, ())))
    return [(name, i, rule) for name, rules in lists for i, rule in enumerate(rules) if is_ours(rule, mark)]


def _works(name: str, number: int, places: Sequence[Position]) -> bool:
    """Whether packets meet a rule at this place before they are dropped."""
    return any(name == place.chain and (place.before is None or number < place.before) for place in places)


def _rules(chain: Chain, required: Required) -> list[AcceptRule]:
    """The rules that a chain needs."""
    traffic = [each for each in required.traffic if each.hook == chain.hook]
    return _renderer(chain)(traffic, chain.family)


def _renderer(chain: Chain) -> Callable[[Iterable[Traffic], str], list[AcceptRule]]:
    return {LEGACY: for_iptables, IPTABLES_NFT: for_iptables_nft}.get(chain.kind, for_nft)


class Firewalls:
    """The other firewalls of this network namespace.

    Args:
        table: Our table, whose nftables is asked.
        legacy: Whether iptables-legacy's chains are looked at, too.
    """

    def __init__(self, table: Table, *, legacy: bool = True) -> None:
        self._table = table
        self._reader = ChainReader(table, legacy=legacy)

    def sync(self, before: Owners, after: Owners, context: Context, snapshot: Snapshot, *, exact: bool = False) -> None:
        """Have the chains that drop accept what these owners need, and take out the rules that no owner needs.

        Args:
            before: The owners until now. If neither they nor `after` need anything, no chain is read.
            after: The owners from now on.
            context: What their elements depend on.
            snapshot: The host's interfaces.
            exact: Read the chains in any case.

        Raises:
            FirewallError: A chain does not take a change.
        """
        if not (exact or _needs_accepts(before) or _needs_accepts(after)):
            return
        refusals: list[FirewallError | None] = []
        # Rules are inserted by the handle or number of another: a reload of that firewall in between makes it invalid
        # (ENOENT), or gives the number to another rule.
        for _ in range(_ATTEMPTS):
            needed = self._updates(after, context, snapshot)
            if not needed:
                return
            refusals = [self._perform(update) for update in needed]
        left = self._updates(after, context, snapshot)
        if left:
            raise next(filter(None, refusals), FirewallError(left[0].chain, "another program changes it all the time"))

    def _updates(self, owners: Owners, context: Context, snapshot: Snapshot) -> list[ChainUpdate]:
        chains = self._chains(_others(context, snapshot))
        return list(updates(chains, Required.by(owners, context, snapshot), self._table.own)) if chains else []

    def _chains(self, links: Container[str]) -> list[Chain]:
        try:
            return self._reader.chains(links=links)
        except (MissingLibraryError, NftError):
            return []

    def dropped(self, owners: Owners, context: Context, snapshot: Snapshot) -> frozenset[str]:
        """The keys of the objects whose traffic some chain drops because a rule of ours is missing."""
        if not _needs_accepts(owners):
            return frozenset()
        needed = self._updates(owners, context, snapshot)
        return frozenset(key for update in needed for rule in update.insert for key in rule.requesters)

    def warnings(
        self, owner: Owner, owners: Owners, context: Callable[[], Context], snapshot: Snapshot
    ) -> Iterator[str]:
        """The chains that drop this owner's traffic and get no rule from us, for a person.

        Args:
            owner: The owner that changes.
            owners: All owners afterwards.
            context: Makes what their elements depend on; called only if there is a chain to look at.
            snapshot: The host's interfaces.
        """
        gateways = list(owner.of(Gateway))
        without = [forward for forward in owner.of(Forward) if forward.gateway is None]
        if not (gateways or owner.of(Forward) or needs_accepts(owner.of(Gateway), owner.of(Link))):
            return
        homes = {home for address in _targets_of(owner) if (home := snapshot.home_of(address))}
        chains = self._chains(homes)
        if not chains:
            return
        required = Required.by(owners, context(), snapshot)
        internal = required.internal | {name for gateway in gateways for name in gateway.internal}
        external = required.external | {name for gateway in gateways for name in gateway.uplinks}
        for chain in chains:
            yield from _refused(chain, homes, owner, owners, required)
            if not positions(chain, internal, external):
                continue
            if chain.hook == FORWARD and (without or any(not gateway.firewall for gateway in gateways)):
                yield _unhandled(chain, gateways)
            elif chain.read_only and any(each.hook == chain.hook for each in required.traffic):
                yield f"{chain} drops traffic, and hostnet can add no rule to it: {chain.read_only}. {chain.fix}"

    # --- changes -----------------------------------------------------------------------------------------------------

    def _perform(self, update: ChainUpdate) -> FirewallError | None:
        """Change one chain, as a whole or not at all; gives the error if the firewall refuses it."""
        if update.chain.kind == LEGACY:
            return _restore(update)
        try:
            self._table.nft.run("".join(_batch(update)))
        except NftError as error:
            return FirewallError(update.chain, str(error).splitlines()[0])
        return None


def _targets_of(owner: Owner) -> Iterator[str]:
    """Where an owner's forwards, dmz hosts and one-to-one NAT lead."""
    yield from (forward.address for forward in owner.of(Forward))
    yield from (inner for gateway in owner.of(Gateway) for _, inner in gateway.one_to_one)
    yield from (address for gateway in owner.of(Gateway) for address in (gateway.dmz4, gateway.dmz6) if address)


def _refused(chain: Chain, homes: Iterable[str], owner: Owner, owners: Owners, required: Required) -> Iterator[str]:
    """The interfaces to which an owner forwards and a chain drops all, where no rule of ours lets it pass."""
    if chain.hook != FORWARD:
        return
    names = {forward.gateway for forward in owner.of(Forward)}
    gateways = [gateway for gateway in owners.every(Gateway) if gateway.name in names]
    externals = {each.external for each in owner.of(Forward)}
    externals |= {name for gateway in (*owner.of(Gateway), *gateways) for name in gateway.uplinks}
    accepted = {traffic.oif for _, traffic in required.forwarded}
    for home in sorted(homes):
        if not any(external != home and refusals(chain, external, home) for external in externals if external):
            continue
        what = f"{chain} drops what is forwarded to {home}"
        if chain.read_only:
            yield f"{what}, and hostnet can add no rule to it: {chain.read_only}. {chain.fix}"
        elif home not in accepted:
            yield (
                f"{what}, and hostnet adds a rule to it only for an interface of another program and a gateway with "
                f'`firewall: "auto"`. {chain.fix}'
            )


def _unhandled(chain: Chain, gateways: Sequence[Gateway]) -> str:
    if any(not gateway.firewall for gateway in gateways):
        return f'{chain} drops forwarded traffic: with `firewall: "none"` hostnet adds no rule to it'
    return (
        f"{chain} may drop forwarded traffic: for a forward without `natGateway` hostnet adds no rule to it, "
        "unless the destination is behind a gateway"
    )


def _rules_of(chain: Chain, name: str) -> tuple[Rule, ...]:
    return chain.rules if name == chain.name else chain.targets.get(name, ())


def _batch(update: ChainUpdate) -> Iterator[str]:
    """The change in nft's syntax. Deletions come last: a rule may be the one that another is inserted before."""
    chain, position = update.chain, update.position
    table = f"{chain.family} {chain.table}"
    if position is not None:
        rules = _rules_of(chain, position.chain)
        at = rules[position.before].place if position.before is not None else None
        verb = f"add rule {table} {position.chain}"
        if at is not None:
            verb = f"insert rule {table} {position.chain} handle {at}"
        for rule in update.insert:
            yield f'{verb} {rule.text} accept comment "{rule.comment}"\n'
    for name, old in update.remove:
        yield f"delete rule {table} {name} handle {old.place}\n"


def _restore(update: ChainUpdate) -> FirewallError | None:
    """Change a chain with iptables-legacy-restore, which commits a table's changes at once."""
    chain = update.chain
    command = legacy_command(chain.family)
    if command is None:
        return FirewallError(chain, "its command is not installed any more")
    done = subprocess.run(
        [f"{command}-restore", "--noflush", f"--wait={LOCK_SECONDS}"],
        input="\n".join(["*filter", *_legacy_lines(update), "COMMIT", ""]),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return None
    return FirewallError(chain, done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "it failed")


def _legacy_lines(update: ChainUpdate) -> Iterator[str]:
    """The change in iptables-restore's syntax.

    Deletions come first: `-D` deletes the first rule of its text, and an insertion puts another of that text before it.
    """
    position = update.position
    for name, old in update.remove:
        yield f"-D {name} {old.text}"
    if position is None:
        return
    verb = f"-A {position.chain}"
    if position.before is not None:
        gone = sum(name == position.chain and old.place <= position.before for name, old in update.remove)
        verb = f"-I {position.chain} {position.before + 1 - gone}"
    for rule in reversed(update.insert):
        yield f'{verb} {rule.text} -m comment --comment "{rule.comment}" -j ACCEPT'


def firewall_error(failure: FirewallError) -> HostnetError:
    """The error for the resource that needs the change."""
    return HostnetError(
        Code.KERNEL,
        f"cannot change {failure.chain}",
        failure.why,
        "Set the gateway's `firewall` to \"none\" (or the bridge's `openFirewall` to false), and have that firewall "
        "accept the traffic by its own configuration",
    )
