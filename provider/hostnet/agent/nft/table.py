"""Our nftables table: bring it from what it holds to what it should hold, touching only what differs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from hostnet.agent.linux.conntrack import Flows
from hostnet.agent.linux.libnftables import Generation, MissingLibraryError, Nft, NftError
from hostnet.agent.nft.elements import Context, compile_common, compile_object
from hostnet.agent.nft.ruleset import (
    BRIDGE_TABLE,
    SETS,
    TABLE,
    Element,
    Listing,
    parse_listing,
    render,
    render_key,
    table_text,
)
from hostnet.agent.record.owners import Owner
from hostnet.agent.record.record import Mark
from hostnet.wire.errors import Code, HostnetError

Place = tuple[str, tuple[str, ...]]
TABLES = (TABLE, BRIDGE_TABLE)
_TEMPLATE = hashlib.sha256(table_text().encode()).hexdigest()[:16]
_LINE = 500  # elements a line of a batch: long enough to be quick, short enough for nft's parser


@dataclass(frozen=True)
class Desired:
    """What the table should hold: value and comment by place."""

    elements: Mapping[Place, tuple[str, ...]] = field(default_factory=dict)
    owners: Mapping[Place, str] = field(default_factory=dict)  # owner's key; "" for what all share


class ClashError(Exception):
    """Two owners want one place with different values."""

    def __init__(self, owner: str, holder: str, element: Element) -> None:
        super().__init__(owner, holder, element)
        self.owner, self.holder, self.element = owner, holder, element


class Compiler:
    """Compiles owners to elements, and only those that changed since the last time."""

    def __init__(self) -> None:
        self._context = Context()
        self._compiled: dict[str, tuple[Owner, tuple[Element, ...]]] = {}

    def desired(self, owners: Mapping[str, Owner], context: Context) -> Desired:
        """What the table should hold for all these owners.

        :raises ClashError: where two can't both have what they want.
        """
        alike = replace(context, ports=())  # no owner's own elements depend on what is attached
        if alike != self._context:
            self._context, self._compiled = alike, {}
        elements: dict[Place, tuple[str, ...]] = {}
        holders: dict[Place, str] = {}
        for element, _ in compile_common(context):
            elements[element.set, element.key] = element.value
            holders[element.set, element.key] = ""
        for key, owner in owners.items():
            for element in self._elements(key, owner, context):
                place = (element.set, element.key)
                if elements.setdefault(place, element.value) != element.value:
                    raise ClashError(key, holders[place], element)
                holders.setdefault(place, key)
        return Desired(elements, holders)

    def _elements(self, key: str, owner: Owner, context: Context) -> tuple[Element, ...]:
        cached = self._compiled.get(key)
        if cached is None or cached[0] is not owner:
            found = tuple(element for item in owner.objects for element, _ in compile_object(item, context))
            self._compiled[key] = cached = (owner, found)
        return cached[1]


class Table:
    """The tables in the kernel."""

    def __init__(self) -> None:
        self._nft: Nft | None = None
        self._generation: Generation | None = None
        self._listed: tuple[int, Listing | None] | None = None

    def generation(self) -> int:
        """The number of the last change to nftables in this namespace, by whomever."""
        if self._generation is None:
            self._generation = Generation()
        return self._generation.now()

    @property
    def nft(self) -> Nft:
        """The library, loaded when the first thing needs it.

        :raises MissingLibraryError: where it is not installed.
        """
        if self._nft is None:
            self._nft = Nft()
        return self._nft

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Within it, `sync` has the kernel judge its batch and change nothing."""
        self.nft.dry_run(on=True)
        try:
            yield
        finally:
            self.nft.dry_run(on=False)

    def listing(self, *, fresh: bool = False) -> Listing | None:
        """The whole table; None where there is none. Looked at only after a change, or `fresh`, for its counters."""
        now = self.generation()
        if fresh or self._listed is None or self._listed[0] != now:
            self._listed = (now, self._list(terse=False))
        return self._listed[1]

    def _list(self, *, terse: bool) -> Listing | None:
        try:
            listed = [item for name in TABLES for item in self.nft.list(f"list table {name}", terse=terse)]
        except NftError:
            return None
        return parse_listing(listed)

    def sync(
        self, before: Desired, after: Desired, comments: Mapping[str, str], mark: Mark, ensure: Iterable[str] = ()
    ) -> Mark:
        """Bring the table from `before` to `after`, in one batch.

        While nobody else changed anything, what is recorded is what is there, and only what differs is sent. Else the
        table is looked at: rules that are not as we made them are made anew, elements that are nobody's are taken out,
        and those of `ensure` are put back.

        :param comments: by owner's key, what an element's comment says.
        :param ensure: the owners whose elements this transaction answers for; others mend theirs when they are asked.
        :raises NftError: where nft or the kernel refused; nothing has changed then.
        """
        if not after.elements:
            return self._clear(before, comments, mark)
        now = self.generation()
        if mark.rules and mark.template == _TEMPLATE and mark.generation == now:
            try:
                return self._send(*_delta(before.elements, after), after, comments, replace(mark, generation=now))
            except NftError:
                pass  # something is not as recorded after all: look
        listing = self.listing(fresh=True)
        if listing is None or mark.template not in ("", _TEMPLATE) or (mark.rules and listing.rules != mark.rules):
            self._rebuild(after, comments)
            fresh = self._list(terse=True)
            return Mark(fresh.rules if fresh else "", _TEMPLATE, self.generation())
        # Without a record of ours, what nobody here asked for may be another stack's, whose record is lost as well.
        known = listing.elements if mark.rules else before.elements
        removed, added, left = _exact(listing, before.elements, after, {*ensure, ""}, known)
        mark = self._send(removed, added, after, comments, Mark(listing.rules, _TEMPLATE, now))
        # What others have to mend yet must be looked at again when they do.
        return replace(mark, generation=0) if left else mark

    def _clear(self, before: Desired, comments: Mapping[str, str], mark: Mark) -> Mark:
        """Nothing is needed any more: the tables go, unless, the record being lost, others' elements are in them."""
        listing = None if mark.rules else self.listing(fresh=True)
        if listing is not None and listing.elements.keys() - before.elements.keys():
            there = [place for place in before.elements if place in listing.elements]
            self._send(there, [], Desired(), comments, Mark())
            return Mark()
        self._drop()
        return Mark()

    @property
    def there(self) -> bool:
        """Whether any of our tables is there; False where nft is not installed."""
        try:
            return bool(self._there())
        except MissingLibraryError:
            return False

    def _send(
        self, removed: list[Place], added: list[Element], after: Desired, comments: Mapping[str, str], mark: Mark
    ) -> Mark:
        text = "".join(_batch(removed, added, after, comments))
        if not text:
            return mark
        self.nft.run(text)
        # Where the number rose by more than one, somebody else changed something at the same moment: look next time.
        now = self.generation()
        return replace(mark, generation=now if now == mark.generation + 1 else 0)

    def _there(self) -> list[str]:
        """Those of our tables that are there: somebody may have deleted one."""
        # Not as JSON: libnftables 1.0.6 writes garbage there for the flags of a table that a program owns.
        names = {line.removeprefix("table ") for line in self.nft.lines("list tables")}
        return [name for name in TABLES if name in names]

    def _drop(self) -> None:
        text = "".join(f"delete table {name}\n" for name in self._there())
        if text:
            self.nft.run(text)

    def _rebuild(self, after: Desired, comments: Mapping[str, str]) -> None:
        drop = "".join(f"delete table {name}\n" for name in self._there())
        everything = [Element(*place, value) for place, value in after.elements.items()]
        self.nft.run(drop + table_text() + "".join(_batch([], everything, after, comments)))


def _delta(before: Mapping[Place, tuple[str, ...]], after: Desired) -> tuple[list[Place], list[Element]]:
    """What differs between two records."""
    removed = [place for place, value in before.items() if after.elements.get(place) != value]
    gone = set(removed)
    added = [Element(*place, value) for place, value in after.elements.items() if place in gone or place not in before]
    return removed, added


def _exact(
    listing: Listing,
    before: Mapping[Place, tuple[str, ...]],
    after: Desired,
    ensure: set[str],
    known: Mapping[Place, tuple[str, ...]],
) -> tuple[list[Place], list[Element], bool]:
    """What has to change in what the kernel has: nobody's elements go, those of `ensure` are made right.

    The last of the three: whether others' elements are not as they should be.
    """
    removed = [place for place in listing.elements if place not in after.elements and place in known]
    added = []
    left = False
    for place, value in after.elements.items():
        there = listing.elements.get(place)
        if there == value:
            continue
        if after.owners[place] not in ensure and before.get(place) == value:
            left = True
            continue
        added.append(Element(*place, value))
        if there is not None:
            removed.append(place)
    return removed, added, left


def _batch(removed: list[Place], added: list[Element], after: Desired, comments: Mapping[str, str]) -> Iterator[str]:
    """The batch's text: deletions first, so that a changed value is delete + add in one transaction."""
    doomed: dict[str, list[str]] = {}
    for name, key in removed:
        doomed.setdefault(name, []).append(render_key(name, key))
    fresh: dict[str, list[str]] = {}
    for element in added:
        owner = after.owners[element.set, element.key]
        fresh.setdefault(element.set, []).append(render(element, comments.get(owner, "hostnet")))
    for verb, groups in (("delete", doomed), ("add", fresh)):
        for name, texts in groups.items():
            for at in range(0, len(texts), _LINE):
                yield f"{verb} element {SETS[name].table} {name} {{ {', '.join(texts[at : at + _LINE])} }}\n"


def changed_udp(before: Desired, after: Desired) -> list[Flows]:
    """The UDP ports whose forwards appeared, changed or went."""
    flows = []
    places = [p for p, value in before.elements.items() if after.elements.get(p) != value]
    places += [p for p in after.elements if p not in before.elements]
    for name, key in places:
        if name in ("dmz4", "dmz6"):
            flows.append(Flows("ipv6" if name.endswith("6") else "ipv4", (1, 65535)))
        elif SETS[name].value and len(key) > 2 and key[1] == "udp":
            low, _, high = key[-1].partition("-")
            flows.append(Flows("ipv6" if name.endswith("6") else "ipv4", (int(low), int(high or low))))
    return flows


def refused(what: str, error: NftError) -> HostnetError:
    """What nft said, as an error of ours."""
    said = next((line for line in str(error).splitlines() if "Error" in line), str(error)).strip()
    return HostnetError(Code.KERNEL, what, said, "`hostnet doctor` tells what this host's nftables lacks")
