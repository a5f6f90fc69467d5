"""Other people's firewalls: an accept of ours in each chain that would drop our traffic, tagged, and taken out again.

A packet passes only where every base chain of its hook lets it, so no rule of our own table can help. All state there
is are the rules themselves: they are found by their comment.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from hostnet.agent.firewalls.accepts import (
    FORWARD,
    AcceptRule,
    Traffic,
    for_iptables,
    for_iptables_nft,
    for_nft,
    traffic_of,
    wants_any,
)
from hostnet.agent.firewalls.chains import (
    IPTABLES_NFT,
    LEGACY,
    LOCK_SECONDS,
    USER_CHAIN,
    Chain,
    Reader,
    Rule,
    Spot,
    legacy_command,
    spots,
    tagged,
)
from hostnet.agent.linux.libnftables import MissingLibraryError, NftError
from hostnet.agent.nft.elements import Context
from hostnet.agent.nft.table import Table
from hostnet.agent.record.owners import Owner, Owners
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import Forward, Gateway

_ATTEMPTS = 3  # somebody else may change a chain between our look and our change


class FirewallError(Exception):
    """A chain that would not take our rules."""

    def __init__(self, chain: Chain, why: str) -> None:
        super().__init__(str(chain), why)
        self.chain, self.why = chain, why


@dataclass(frozen=True)
class Repair:
    """What a chain lacks, and what it has of ours that nobody needs.

    :param insert: what to accept, and in which chain before which rule.
    :param remove: our rules to take out, by the name of the chain that they are in.
    """

    chain: Chain
    spot: Spot | None = None
    insert: tuple[AcceptRule, ...] = ()
    remove: tuple[tuple[str, Rule], ...] = ()


@dataclass(frozen=True)
class Wishes:
    """What must pass, and the interfaces that it is about."""

    openings: tuple[Traffic, ...] = ()
    inner: frozenset[str] = frozenset()
    outer: frozenset[str] = frozenset()

    @classmethod
    def of(cls, owners: Owners, context: Context) -> Wishes:
        """Those of all owners."""
        found = tuple(traffic_of(owners, owners.structural, context))
        outer = frozenset(gateway.external for gateway in context.gateways.values() if gateway.external)
        named = {name for each in found for name in (each.iif, each.oif) if name}
        return cls(found, frozenset(named) - outer, outer)


def repairs(chains: Iterable[Chain], wishes: Wishes) -> Iterator[Repair]:
    """What to do to these chains. Pure."""
    for chain in chains:
        if chain.closed:
            continue
        places = spots(chain, wishes.inner, wishes.outer if chain.hook == FORWARD else frozenset())
        wanted = _accepts(chain, wishes) if places else []
        had = _ours(chain)
        if not (wanted or had):
            continue
        there: set[str] = set()
        remove = []
        comments = {accept.comment for accept in wanted}
        for name, number, rule in had:
            if rule.comment in comments - there and _works(name, number, places):
                there.add(rule.comment)
            else:
                remove.append((name, rule))
        insert = tuple(accept for accept in wanted if accept.comment not in there)
        if insert or remove:
            yield Repair(chain, places[0] if places else None, insert, tuple(remove))


def _ours(chain: Chain) -> list[tuple[str, int, Rule]]:
    """Our rules in a chain and in the administrator's: (chain, number, rule)."""
    lists = [(chain.name, chain.rules)]
    if chain.hook == FORWARD:
        lists.append((USER_CHAIN, chain.others.get(USER_CHAIN, ())))
    return [(name, i, rule) for name, rules in lists for i, rule in enumerate(rules) if tagged([rule])]


def _works(name: str, number: int, places: Sequence[Spot]) -> bool:
    """Whether a rule at this place is met before what drops."""
    return any(name == spot.name and (spot.before is None or number < spot.before) for spot in places)


def _accepts(chain: Chain, wishes: Wishes) -> list[AcceptRule]:
    wanted = [each for each in wishes.openings if each.hook == chain.hook]
    render = {LEGACY: for_iptables, IPTABLES_NFT: for_iptables_nft}.get(chain.kind, for_nft)
    return render(wanted, chain.family)


class Firewalls:
    """Other people's firewalls in this network namespace."""

    def __init__(self, table: Table, *, legacy: bool = True) -> None:
        self._table = table
        self._reader = Reader(table, legacy=legacy)

    def sync(self, before: Owners, after: Owners, context: Context, *, exact: bool = False) -> None:
        """Accept what these owners need in the chains that drop, and take out what nobody needs any more.

        :param before: who was there; where neither they nor `after` ask for anything, nothing is looked at.
        :param exact: look in any case.
        :raises FirewallError: where a chain does not take a change.
        """
        if not (exact or wants_any(before.structural.values()) or wants_any(after.structural.values())):
            return
        refusals: list[FirewallError | None] = []
        for _ in range(_ATTEMPTS):
            todo = self._todo(after, context)
            if not todo:
                return
            refusals = [self._perform(repair) for repair in todo]
        left = self._todo(after, context)
        if left:
            raise next(filter(None, refusals), FirewallError(left[0].chain, "it keeps changing"))

    def _todo(self, owners: Owners, context: Context) -> list[Repair]:
        chains = self._chains()
        return list(repairs(chains, Wishes.of(owners, context))) if chains else []

    def _chains(self) -> list[Chain]:
        try:
            return self._reader.chains()
        except (MissingLibraryError, NftError):
            return []

    def missing(self, owners: Owners, context: Context) -> frozenset[str]:
        """The keys of the objects whose traffic some chain would drop for want of our rules."""
        if not wants_any(owners.structural.values()):
            return frozenset()
        todo = self._todo(owners, context)
        return frozenset(key for repair in todo for accept in repair.insert for key in accept.holders)

    def warnings(self, owner: Owner, owners: Owners, context: Callable[[], Context]) -> Iterator[str]:
        """What a person should know: who drops this owner's traffic, where we leave that or can't change it.

        :param context: made only where there is a chain to look at.
        """
        gateways = [item for item in owner.objects if isinstance(item, Gateway)]
        loose = [x for x in owner.objects if isinstance(x, Forward) and x.gateway is None]
        if not (gateways or loose or wants_any([owner])):
            return
        chains = self._chains()
        if not chains:
            return
        wishes = Wishes.of(owners, context())
        inner = wishes.inner | {name for gateway in gateways for name in gateway.internal}
        outer = wishes.outer | {gateway.external for gateway in gateways if gateway.external}
        for chain in chains:
            if not spots(chain, inner, outer):
                continue
            if chain.hook == FORWARD and (loose or any(not gateway.firewall for gateway in gateways)):
                yield _left(chain, gateways)
            elif chain.closed and any(each.hook == chain.hook for each in wishes.openings):
                yield f"{chain} drops traffic, and no rule can be added there: {chain.closed}. {chain.mend}"

    # --- changes ---------------------------------------------------------------------------------------------------

    def _perform(self, repair: Repair) -> FirewallError | None:
        """One chain's change, whole or not at all; gives what was said against it."""
        if repair.chain.kind == LEGACY:
            return _restore(repair)
        try:
            self._table.nft.run("".join(_batch(repair)))
        except NftError as error:
            return FirewallError(repair.chain, str(error).splitlines()[0])
        return None


def _left(chain: Chain, gateways: Sequence[Gateway]) -> str:
    if any(not gateway.firewall for gateway in gateways):
        return f'forwarded traffic is dropped by {chain}: with `firewall: "none"` hostnet leaves that to you'
    return (
        f"forwarded traffic may be dropped by {chain}: for a forward without `natGateway` hostnet adds no rule there, "
        "unless its destination is behind a gateway"
    )


def _rules_of(chain: Chain, name: str) -> tuple[Rule, ...]:
    return chain.rules if name == chain.name else chain.others.get(name, ())


def _batch(repair: Repair) -> Iterator[str]:
    """In nft's syntax; deletions last, for a rule may be the one that another is inserted before."""
    chain, spot = repair.chain, repair.spot
    table = f"{chain.family} {chain.table}"
    if spot is not None:
        at = _rules_of(chain, spot.name)[spot.before].place if spot.before is not None else None
        verb = f"add rule {table} {spot.name}" if at is None else f"insert rule {table} {spot.name} handle {at}"
        for accept in repair.insert:
            yield f'{verb} {accept.text} accept comment "{accept.comment}"\n'
    for name, rule in repair.remove:
        yield f"delete rule {table} {name} handle {rule.place}\n"


def _restore(repair: Repair) -> FirewallError | None:
    """By iptables-legacy-restore, which takes a table's changes as one."""
    chain, spot = repair.chain, repair.spot
    command = legacy_command(chain.family)
    if command is None:
        return FirewallError(chain, "its command is gone")
    # A deletion takes the first rule of its text: before an insertion puts another of that text in front.
    lines = ["*filter", *(f"-D {name} {rule.text}" for name, rule in repair.remove)]
    if spot is not None:
        verb = f"-A {spot.name}"
        if spot.before is not None:
            gone = sum(name == spot.name and rule.place <= spot.before for name, rule in repair.remove)
            verb = f"-I {spot.name} {spot.before + 1 - gone}"
        lines += [
            f'{verb} {accept.text} -m comment --comment "{accept.comment}" -j ACCEPT'
            for accept in reversed(repair.insert)
        ]
    text = "\n".join([*lines, "COMMIT", ""])
    done = subprocess.run(
        [f"{command}-restore", "--noflush", f"--wait={LOCK_SECONDS}"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return None
    return FirewallError(chain, done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "it failed")


def firewall_error(failure: FirewallError) -> HostnetError:
    """For whom asked for the change."""
    return HostnetError(
        Code.KERNEL,
        f"{failure.chain} can't be changed",
        failure.why,
        "Set the gateway's `firewall` to \"none\" (or the bridge's `openFirewall` to false), and let that firewall "
        "accept the traffic by its own means",
    )
