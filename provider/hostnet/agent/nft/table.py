"""Our nftables tables: bring them from what they hold to what they should hold, and touch only what differs."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from hostnet.agent.dhcp.domains import rules_by_name, set_names
from hostnet.agent.indexes.sharing import SharingMap
from hostnet.agent.linux.kernel import Nftables, RawChange
from hostnet.agent.linux.libnftables import MissingLibraryError, Nft, NftError
from hostnet.agent.nft.desired import Desired
from hostnet.agent.nft.ruleset import (
    COPIES,
    LIST_CHAINS,
    LISTS,
    MADE,
    NAME_SET,
    NAME_SETS,
    OURS,
    OUTER,
    SETS,
    SHARED,
    TABLE,
    TABLES,
    TEMPLATE,
    Element,
    Place,
    copied,
    table_text,
    template_in,
)
from hostnet.agent.nft.syntax import (
    LONGEST_COMMENT,
    Listing,
    Origin,
    address_of,
    clean_comment,
    encode,
    encode_key,
    list_chain,
    list_rule,
    name_set,
    read_listing,
    render,
    render_key,
)
from hostnet.agent.record.lock import exclusive
from hostnet.agent.record.netns import inode
from hostnet.agent.record.record import Mark
from hostnet.wire.digest import sha256
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.objects import Gateway, Guest

T = TypeVar("T")


_ELEMENTS_PER_LINE = 500  # of a batch: few commands, and none too long for nft's parser


@dataclass(frozen=True)
class Synced:
    """What became of the tables.

    Attributes:
        mark: How they are now.
        added: The elements that were added.
    """

    mark: Mark
    added: tuple[Place, ...] = ()


class Table:
    """The tables in the kernel.

    Args:
        nft: nftables in the namespace; None: the library's, in the namespace that the process is in.
        own: What ends the comments of the elements of this record (`syntax.mark_of`).
    """

    def __init__(self, nft: Nftables | None = None, own: str = "") -> None:
        self.nft, self.own = nft or Nft(), own
        self._turn = _turn if nft is None else nullcontext
        self._listed: tuple[int, Listing | None] | None = None
        self._held: tuple[int, SharingMap[Place, tuple[str, ...]]] | None = None
        self._rehearses = False

    def generation(self) -> int:
        """The number of the last change to nftables in this namespace, by any program."""
        return self.nft.generation()

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Within it, the kernel judges the batch of `sync` and changes nothing."""
        self._rehearses = True
        self.nft.dry_run(on=True)
        try:
            yield
        finally:
            self.nft.dry_run(on=False)
            self._rehearses = False

    def listing(self, *, fresh: bool = False) -> Listing | None:
        """Our tables; None where there is none.

        Args:
            fresh: List them again even if nothing has changed: counters count without a change.
        """
        now = self.generation()
        if fresh or self._listed is None or self._listed[0] != now:
            # Not `get element`: it reads the whole set for one key (77 ms with 10,000 elements, nft 1.0.6).
            self._listed = (now, self._list(terse=False))
        return self._listed[1]

    def settled(self) -> Listing | None:
        """The same, after whoever exchanges them at this moment."""
        listing = self.listing()
        if listing is not None and listing.origin.copied:
            with self._turn():
                listing = self.listing(fresh=True)
        return listing

    def held(self, mark: Mark) -> SharingMap[Place, tuple[str, ...]] | None:
        """What the tables hold of this record, without a look at each element; None where only a listing tells.

        This process itself has made the last change to nftables in this namespace. The generation in a record does not
        tell: after a reboot the kernel counts from the beginning.

        Args:
            mark: How the tables were after the last change, by the record.
        """
        if self._held is None or mark.generation != self._held[0] or mark.generation != self.generation():
            return None
        return self._held[1]

    def _list(self, *, terse: bool) -> Listing | None:
        found = {name: self.nft.table(name, elements=not terse, apart=LISTS) for name in TABLES}
        tables = {name: table for name, table in found.items() if table is not None}
        return replace(read_listing(tables), origin=self._origin()) if tables else None

    def _origin(self) -> Origin:
        heads = {" ".join(place): head for place, head in self.nft.tables().items()}
        return Origin(template_in(heads[TABLE].comment) if TABLE in heads else "", not heads.keys().isdisjoint(COPIES))

    def answered(self, name: str) -> tuple[str, ...]:
        """The addresses in a set of a name; none where it is not there."""
        return tuple(map(address_of, self.nft.set_elements(TABLE, name_set(name))))

    def sync(self, before: Desired, after: Desired, mark: Mark, ensure: Iterable[str] = ()) -> Synced:
        """Bring the tables from `before` to `after`, in one batch.

        As long as no other program has changed nftables, the kernel holds what is recorded, and only the difference is
        sent. Otherwise the tables are listed: they are replaced if their chains or rules are not as recorded,
        elements of no owner are deleted, and those of `ensure` are put back.

        Args:
            before: What the recorded owners asked for.
            after: What they ask for now.
            mark: How the tables were after the last change.
            ensure: The keys of the owners whose elements are put back where they are missing. What others lack stays
                visible as their drift.

        Returns:
            How the tables are now, and what was added.

        Raises:
            NftError: nft or the kernel refused the batch. Nothing has changed.
        """
        if not after.elements:
            return Synced(self._clear(before, mark))
        now = self.generation()
        if mark.rules and mark.template == TEMPLATE and mark.generation == now:
            removed, added = _delta(before, after)
            with suppress(NftError):  # the kernel holds something else after all
                return _synced(self._send(removed, added, after, replace(mark, generation=now)), added)
        listing = self.listing(fresh=True)
        if listing is None or _other_rules(listing, mark):
            with self._turn():
                now, listing = self.generation(), self.listing()  # another record's agent may just have exchanged them
                if listing is None or _other_rules(listing, mark):
                    return Synced(self._replace(before, after, listing, mark), tuple(after.elements))
        # Where the record was lost, an element that no recorded owner asked for may be of a stack that is not back yet.
        foreign = listing.foreign(self.own) - before.elements.keys()
        known = listing.elements.keys() - foreign if mark.rules else before.elements.keys()
        removed, added, left = _exact(listing, before.elements, after, {*ensure, ""}, known)
        mark = self._send(removed, added, after, Mark(listing.rules, TEMPLATE, now))
        if left:
            # The recorded elements are not those of the kernel: the next sync has to list.
            self._held, mark = None, replace(mark, generation=0)
        return _synced(mark, added)

    def withdraw(self, before: Desired, after: Desired, mark: Mark) -> Mark:
        """Delete what only owners have that are gone, where it is there; nothing else, whatever the tables lack.

        Args:
            before: What all asked for.
            after: What those that are left ask for.
            mark: How the tables were after the last change.

        Returns:
            How the tables are now.

        Raises:
            NftError: nft or the kernel refused the batch. Nothing has changed.
        """
        now, listing = self.generation(), self.listing()
        if listing is None or _other_rules(listing, mark):
            return mark
        removed = [place for place in before.elements if place not in after.elements and place in listing.elements]
        sent = self._send(removed, [], after, replace(mark, generation=now))
        self._held = None
        return sent if mark.generation == now else replace(sent, generation=0)

    def outdated(self, mark: Mark) -> bool:
        """Whether hostnet itself made the tables otherwise than the record says, and nobody harmed them.

        Another version made them. Or else an agent of another record replaced them, or one that died before it wrote
        that down: of these the tables' comment tells.
        """
        if not mark.rules or (mark.template == TEMPLATE and self.held(mark) is not None):
            return False
        if mark.template == TEMPLATE and not self._origin().is_another(TEMPLATE):
            return False  # without a look at all elements
        with self._turn():
            listing = self.listing()
            if listing is None:
                return False
            if listing.origin.is_another(mark.template):
                return True
            return mark.template != TEMPLATE and mark.rules in (listing.rules, self._former_print())

    def _former_print(self) -> str:
        """The print of the rules as versions before this one made it, of what nft lists."""
        listed = [item for name in self._existing(TABLES) for item in self.nft.list(f"list table {name}")]
        pairs = [(kind, body) for item in listed for kind, body in item.items() if kind in ("rule", "chain")]
        rules = [{kind: {name: part for name, part in body.items() if name != "handle"}} for kind, body in pairs]
        return sha256("\n".join(json.dumps(each, sort_keys=True) for each in rules).encode()).hexdigest()

    def _clear(self, before: Desired, mark: Mark) -> Mark:
        """Delete the tables, unless elements of other records are in them; where this one was lost, of anybody."""
        self._held = None
        listing = self.listing(fresh=True)
        if listing is not None and self._others(listing, before, mark) - before.elements.keys():
            if listing.origin.copied:
                with self._turn():
                    self._replace(before, Desired(), self.listing(), mark)
            else:
                there = [place for place in before.elements if place in listing.elements]
                self._send(there, [], Desired(), Mark())
            self._held = None
            return Mark()
        self._drop()
        return Mark()

    def shared(self) -> bool:
        """Whether elements of other records are in the tables."""
        try:
            listing = self.listing()
        except MissingLibraryError:
            return False
        return listing is not None and bool(listing.needed(self.own))

    @property
    def there(self) -> bool:
        """Whether any of our tables is there; False where nft is not installed."""
        try:
            return bool(self._existing())
        except MissingLibraryError:
            return False

    def _send(self, removed: list[Place], added: list[Element], after: Desired, mark: Mark) -> Mark:
        removed = self._unshared(removed)
        if not removed and not added:
            return mark
        self._held = None
        names = {*(name for name, _ in removed), *(element.set for element in added)}
        if all(name not in MADE and SETS[name].plain for name in names):
            raw = _raw_changes(removed, added, after, self.own)
            self.nft.change(raw, lambda: "".join(_batch(removed, added, after, self.own)))
        else:
            self.nft.run("".join(_batch(removed, added, after, self.own)))
        return replace(mark, generation=self._generation_after(mark.generation, after))

    def _generation_after(self, before: int, after: Desired) -> int:
        """The generation after a change of ours; 0 where another program changed nftables at the same moment.

        Args:
            before: The generation before.
            after: What the tables hold, if it was ours alone.
        """
        now = self.generation()
        if now != before + 1:
            return 0
        self._held = (now, after.elements)
        return now

    def _unshared(self, removed: list[Place]) -> list[Place]:
        """Without what other records need as well: of `SHARED` what is of interfaces that they name; chains and sets.

        What leads out leads out for all: while there is another record, none of `outer_links` goes. For chains and sets
        the kernel tells: it does not delete what is in use, and then the tables are listed.
        """
        listed = self._listed is not None and self._listed[0] == self.generation()
        if not any(name in SHARED or (listed and name in MADE) for name, _ in removed):
            return removed
        listing = self.listing()
        others = listing.needed(self.own) if listing is not None else set()
        used = {part for name, key in others if name not in SHARED for part in key}

        def goes(name: str, key: tuple[str, ...]) -> bool:
            if name == OUTER:
                return not others
            return key[0] not in used if name in SHARED else name not in MADE or (name, key) not in others

        return [place for place in removed if goes(*place)]

    def _existing(self, ours: Iterable[str] = OURS) -> list[str]:
        """Those of our tables that exist.

        To delete one that does not exist is an error (ENOENT) that refuses the whole batch, and nft 1.0.6 does not know
        `destroy`.
        """
        # Not in JSON: libnftables 1.0.6 writes garbage for the flags of a table that a program owns.
        names = {line.removeprefix("table ") for line in self.nft.lines("list tables")}
        return [name for name in ours if name in names]

    def _drop(self) -> None:
        text = _deletion(self._existing())
        if text:
            self.nft.run(text)

    def _replace(self, before: Desired, after: Desired, former: Listing | None, mark: Mark) -> Mark:
        """Replace the tables by new ones with all elements, those of other records as well.

        Args:
            before: What the recorded owners asked for.
            after: What they ask for now.
            former: The tables as they are.
            mark: How they were after the last change.

        Raises:
            NftError: nft or the kernel refused them. Nothing has changed; but where they were refused although the copy
                was not (no memory, say), that stays in force until the next transaction.
        """
        # What comes after the listing is seen by its generation.
        listed, self._held = self._listed[0] if self._listed else self.generation(), None

        def text(former: Listing | None) -> str:
            return self._whole(after, former, self._others(former, before, mark))

        if former is None or self._rehearses:
            self.nft.run(_deletion(self._existing()) + text(former))
            generation = self._generation_after(listed, after)
        else:
            sent = self._exchange(text, former, listed)
            generation = self._generation_after(listed + sent - 1, after)
        listing = self._list(terse=True)
        return Mark(listing.rules if listing else "", TEMPLATE, generation)

    def _exchange(self, text: Callable[[Listing | None], str], former: Listing, listed: int) -> int:
        """Replace tables that are in force, with a copy of the new ones in force meanwhile: no packet is refused.

        One batch deletes the old ones and makes the new ones: the kernel makes these valid and those invalid at once
        (nf_tables' generations). Connections in progress are conntrack's, and stay. Between two batches they would
        break: while a namespace has no NAT chain, the kernel translates no packet of a known connection either, and the
        host answers it with a RST (Linux 6.18). But the kernel reads the generation again for each chain and each
        look-up: a packet that is between two of them at that moment finds nothing in the old tables' maps, and meets no
        chain of the new ones. So a copy stands beside them, and tables leave the packets' way, by their base chains,
        before they are deleted. Two tables with the same rules do what one does: the first translates, and both accept.

        An agent that dies in between leaves the old tables in force, or the copy, or the new ones; who lists them next
        makes them again (`Origin.copied`), once it is its turn: till then the agent lives.

        Args:
            text: What makes the new ones, with what is kept of the old ones.
            former: The old ones, as they are listed.
            listed: The generation of that listing.

        Returns:
            How many batches that took; 0 where the copy could not be deleted, and the next transaction has to list.
        """
        sent, batch = 0, text(former)
        if former.bases or not self._origin().copied:  # else a copy is, of an agent that died
            sent += self._take_away_copy()
            made = self._applied(copied(batch))
            if made:
                sent += made + self._applied(_unhooking(former.bases))
            if self.generation() != listed + sent:
                # Another record's elements, or addresses that dnsmasq was asked for, have come since the listing.
                batch = text(self.listing(fresh=True))
        self.nft.run(_deletion(self._existing(TABLES)) + batch)
        sent += 1 + self._take_away_copy()
        return 0 if self._origin().copied else sent

    def _take_away_copy(self) -> int:
        """Delete the copy, if there is one: the number of batches that took."""
        there = {name: self.nft.table(name, elements=False) for name in COPIES}
        tables = {name: table for name, table in there.items() if table is not None}
        sent = self._applied(_unhooking(f"{name} {chain}" for name, table in tables.items() for chain in table.bases))
        return sent + self._applied(_deletion(tables))

    def _applied(self, batch: str) -> int:
        """Apply a batch that may be refused: the number of batches that were applied."""
        with suppress(NftError):
            if batch:
                self.nft.run(batch)
                return 1
        return 0

    def _others(self, listing: Listing | None, before: Desired, mark: Mark) -> set[Place]:
        """The elements that stay whatever this record's owners ask for: those of other records.

        Where this record was lost, also those that no recorded owner asked for: their stack may not be back yet.
        """
        if listing is None:
            return set()
        return listing.needed(self.own) if mark.rules else listing.elements.keys() - before.elements.keys()

    def _whole(self, after: Desired, former: Listing | None, others: set[Place]) -> str:
        """The commands that make the tables with all elements, and others' from the former ones."""
        # In order, as a delta is: an interval map of several fields is listed as it was filled.
        everything = [Element(*place, value) for place, value in sorted(after.elements.entries())]
        return table_text() + "".join((*_batch([], everything, after, self.own), *_kept(after, former, others)))


def _turn() -> AbstractContextManager[None]:
    """The turn of who exchanges the tables of this network namespace: agents of several records may."""
    return exclusive(Path(f"/run/hostnet-tables-{inode(Path('/proc/thread-self/ns/net'))}.lock"))


def _deletion(tables: Iterable[str]) -> str:
    return "".join(f"delete table {name}\n" for name in tables)


def _unhooking(chains: Iterable[str]) -> str:
    return "".join(f"delete chain {name}\n" for name in chains)


def _kept(after: Desired, former: Listing | None, others: set[Place]) -> Iterator[str]:
    """The commands that put the elements of other records into the new tables, and the addresses of names."""
    if former is None:
        return
    kept = sorted(others - after.elements.keys())
    yield from _making((Element(*place, former.elements[place]) for place in kept if place[0] in MADE), after)
    for name, key in kept:
        if name not in SETS:
            continue
        element, comment = Element(name, key, former.elements[name, key]), former.comments.get((name, key), "")
        with suppress(ValueError):  # another version's set of this name
            yield f"add element {SETS[name].table} {name} {{ {render(element, comment)} }}\n"
    for name, answers in former.answers.items():
        place = NAME_SETS, (name,)
        left = [f"{address} expires {seconds}s" for address, seconds in answers.items() if seconds > 0]
        if left and (place in after.elements or place in kept):
            yield f"add element {TABLE} {name} {{ {', '.join(left)} }}\n"


def _synced(mark: Mark, added: Iterable[Element]) -> Synced:
    return Synced(mark, tuple(element.place for element in added))


def _other_rules(listing: Listing, mark: Mark) -> bool:
    """Whether the tables are not those that this version makes.

    Where the record was lost nothing says how they were made, but their comment and the names of their sets.
    """
    if listing.origin.copied:
        return True
    if not mark.rules:
        return listing.origin.template != TEMPLATE or listing.sets != SETS.keys()
    return mark.template != TEMPLATE or listing.rules != mark.rules


def _delta(before: Desired, after: Desired) -> tuple[list[Place], list[Element]]:
    """What differs between two records."""
    places = before.differences(after)
    removed = [place for place in places if place in before.elements]
    added = [Element(*place, after.elements[place]) for place in places if place in after.elements]
    return removed, added


def _exact(
    listing: Listing,
    before: Mapping[Place, tuple[str, ...]],
    after: Desired,
    ensure: set[str],
    known: Collection[Place],
) -> tuple[list[Place], list[Element], bool]:
    """What has to change in what the kernel holds.

    Args:
        listing: What the kernel holds.
        before: What the recorded owners asked for.
        after: What they ask for now.
        ensure: The keys of the owners whose elements are put back.
        known: The places that may be deleted.

    Returns:
        What to delete, what to add, and whether other owners' elements are still not as they should be.
    """
    removed = [place for place in listing.elements if place not in after.elements and place in known]
    added = []
    left = False
    for place, value in after.elements.entries():
        there = listing.elements.get(place)
        if there == value:
            continue
        if ensure.isdisjoint(after.holders[place]) and before.get(place) == value:
            left = True
            continue
        added.append(Element(*place, value))
        if there is not None:
            removed.append(place)
    return sorted(removed), sorted(added, key=lambda element: element.place), left


def _batch(removed: list[Place], added: list[Element], after: Desired, own: str) -> Iterator[str]:
    """The batch's text. Deletions come first: to add a key that has another value is EEXIST.

    A chain goes after the elements that lead to it, and before the sets that it looks at.
    """
    deletions = _by_set((name, render_key(name, key)) for name, key in removed if name not in MADE)
    additions = _by_set((x.set, render(x, after.comment(x.place), own)) for x in added if x.set not in MADE)
    yield from _elements("delete", deletions)
    stay = {element.place for element in added}
    gone = [place for place in removed if place not in stay]
    yield from (f"delete chain {TABLE} {list_chain(key[0])}\n" for name, key in gone if name == LIST_CHAINS)
    yield from (f"delete set {TABLE} {name_set(key[0])}\n" for name, key in gone if name == NAME_SETS)
    yield from _making((element for element in added if element.set in MADE), after)
    yield from _elements("add", additions)


def _elements(verb: str, groups: Mapping[str, list[str]]) -> Iterator[str]:
    """The commands that add or delete elements of sets."""
    for name, texts in groups.items():
        for at in range(0, len(texts), _ELEMENTS_PER_LINE):
            elements = ", ".join(texts[at : at + _ELEMENTS_PER_LINE])
            yield f"{verb} element {SETS[name].table} {name} {{ {elements} }}\n"


def _making(elements: Iterable[Element], after: Desired) -> Iterator[str]:
    """The commands that make the sets of names, and the chains that look at them. Some may be there."""
    found = list(elements)
    for each in found:
        if each.set == NAME_SETS:
            name = name_set(each.key[0])
            domain = clean_comment(_domain_of(each.place, after))[:LONGEST_COMMENT]
            comment = f' comment "{domain}";' if domain else ""
            yield f"add set {TABLE} {name} {{ {NAME_SET.format(digit=name[1])};{comment} }}\n"
    for each in found:
        if each.set == LIST_CHAINS:
            name = list_chain(each.key[0])
            yield f"add chain {TABLE} {name}\nflush chain {TABLE} {name}\n"
            yield from (f"add rule {TABLE} {name} {list_rule(rule)}\n" for rule in each.value)


def _domain_of(place: Place, after: Desired) -> str:
    """The domain name that a set is for, for a person; "" for one of another record."""
    held = after.holders.get(place, ())
    owners = [after.owners[key] for key in held[:1] if key in after.owners]
    items: list[Guest | Gateway] = [item for owner in owners for item in owner.of(Guest)]
    items += [item for owner in owners for item in owner.of(Gateway)] or after.owners.gateways.values()
    names = (str(rule.domain) for item in items for rule in rules_by_name(item))
    return next((name for name in names if place[1][0] in set_names(name)), "")


def _raw_changes(removed: list[Place], added: list[Element], after: Desired, own: str) -> list[RawChange]:
    """The same as `_batch`, in bytes."""
    deletions = _by_set((name, encode_key(name, key)) for name, key in removed)
    additions = _by_set((each.set, encode(each, after.comment(each.place), own)) for each in added)
    names = dict.fromkeys((*deletions, *additions))
    return [RawChange(SETS[x].table, x, deletions.get(x, ()), additions.get(x, ())) for x in names]


def _by_set(items: Iterable[tuple[str, T]]) -> dict[str, list[T]]:
    """What belongs to each set, in order."""
    found: dict[str, list[T]] = {}
    for name, item in items:
        found.setdefault(name, []).append(item)
    return found


def refused(what: str, error: NftError) -> HostnetError:
    """The error for what nft or the kernel refused.

    Args:
        what: What failed.
        error: The answer.
    """
    said = next((line for line in str(error).splitlines() if "Error" in line), str(error)).strip()
    return HostnetError(Code.KERNEL, what, said, "`hostnet doctor` shows what this host's nftables lacks")
