"""Our nftables table: bring it from what it holds to what it should hold, touching only what differs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from hostnet.agent.conntrack import Flows
from hostnet.agent.elements import Context, compile_common, compile_object
from hostnet.agent.nftables import Generation, Nft, NftError
from hostnet.agent.owners import Owner
from hostnet.agent.ruleset import (
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
from hostnet.errors import Code, HostnetError

Place = tuple[str, tuple[str, ...]]
TABLES = (TABLE, BRIDGE_TABLE)
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
        if context != self._context:
            self._context, self._compiled = context, {}
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
    """The table in the kernel."""

    def __init__(self) -> None:
        self._nft: Nft | None = None
        self._generation: Generation | None = None
        self._known: tuple[int, str | None] | None = None  # the generation in which the rules' print was seen
        self._listed: tuple[int, Listing | None] | None = None

    def _now(self) -> int:
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

    def rules(self) -> str | None:
        """A print of the table's chains and rules; None where there is no table. Looked at only after a change."""
        now = self._now()
        if self._known is None or self._known[0] != now:
            listing = self._list(terse=True)
            self._known = (now, listing.rules if listing else None)
        return self._known[1]

    def listing(self, *, fresh: bool = False) -> Listing | None:
        """The whole table; None where there is none. Looked at only after a change, or `fresh`, for its counters."""
        now = self._now()
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
        self, before: Desired, after: Desired, comments: Mapping[str, str], expected: str, ensure: Iterable[str] = ()
    ) -> str:
        """Bring the table from `before` to `after`, in one batch.

        :param comments: by owner's key, what an element's comment says.
        :param expected: the print of the rules as they were made ("": not known).
        :param ensure: owners whose elements are put back even where `before` has them, since they may have drifted.
        :returns: the print of the rules as they are now ("": there is no table, as none is needed).
        :raises NftError: where nft or the kernel refused; nothing has changed then.
        """
        rules = self.rules()
        if not after.elements:
            self._drop()
            return ""
        if rules is None or (expected and rules != expected):
            self._rebuild(after, comments)
            return self.rules() or ""
        removed, added = _delta(before.elements, after, set(ensure))
        try:
            self._run(removed, added, after, comments)
        except NftError:
            # Something is not as recorded: look, and change exactly what has to change.
            listing = self.listing()
            there = listing.elements if listing else {}
            places = {*removed, *((e.set, e.key) for e in added)}
            wanted = {place: after.elements[place] for place in places if place in after.elements}
            removed = [p for p in places if p in there and wanted.get(p) != there[p]]
            added = [Element(*p, wanted[p]) for p in wanted if there.get(p) != wanted[p]]
            self._run(removed, added, after, comments)
        return rules

    def _there(self) -> list[str]:
        """Those of our tables that are there: somebody may have deleted one."""
        listed = (item.get("table") for item in self.nft.list("list tables"))
        names = {f"{table['family']} {table['name']}" for table in listed if table}
        return [name for name in TABLES if name in names]

    def _drop(self) -> None:
        text = "".join(f"delete table {name}\n" for name in self._there())
        if text:
            self.nft.run(text)

    def _rebuild(self, after: Desired, comments: Mapping[str, str]) -> None:
        drop = "".join(f"delete table {name}\n" for name in self._there())
        everything = [Element(*place, value) for place, value in after.elements.items()]
        self.nft.run(drop + table_text() + "".join(_batch([], everything, after, comments)))

    def _run(self, removed: list[Place], added: list[Element], after: Desired, comments: Mapping[str, str]) -> None:
        text = "".join(_batch(removed, added, after, comments))
        if text:
            before = self._now()
            self.nft.run(text)
            if self._known is not None and self._known[0] == before and self._now() == before + 1:
                # The one change since the rules were seen is this one, and it touched elements alone.
                self._known = (before + 1, self._known[1])


def _delta(
    before: Mapping[Place, tuple[str, ...]], after: Desired, ensure: set[str]
) -> tuple[list[Place], list[Element]]:
    removed = [place for place, value in before.items() if after.elements.get(place) != value]
    gone = set(removed)
    added = [
        Element(*place, value)
        for place, value in after.elements.items()
        if place in gone or place not in before or (ensure and after.owners[place] in ensure)
    ]
    return removed, added


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
        if SETS[name].value and len(key) > 2 and key[1] == "udp":
            low, _, high = key[-1].partition("-")
            flows.append(Flows("ipv6" if name.endswith("6") else "ipv4", (int(low), int(high or low))))
    return flows


def refused(what: str, error: NftError) -> HostnetError:
    """What nft said, as an error of ours."""
    said = next((line for line in str(error).splitlines() if "Error" in line), str(error)).strip()
    return HostnetError(Code.KERNEL, what, said, "`hostnet doctor` tells what this host's nftables lacks")
