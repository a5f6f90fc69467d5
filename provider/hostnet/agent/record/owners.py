"""What each resource has on a host, and the indexes that make ten thousand of them quick to look through."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, KeysView, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

from hostnet.agent.record.networks import Networks
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.family import ANY_ADDRESS
from hostnet.wire.objects import Forward, Forwarding, Gateway, Json, Link, Object, from_json, to_json
from hostnet.wire.urn import Urn

_FORWARDS = frozenset({Forward, Forwarding})
_HOST_NAMES = ("via", "replaced")
_URNS = ("former", "inherited")
Kind = TypeVar("Kind", bound=Object)


@dataclass(frozen=True)
class Owner:
    """A resource's objects on this host. Its URN and id together are its identity: a replacement has two at a time.

    Attributes:
        urn: The resource's URN.
        id: The resource's id.
        objects: What the host should have for it.
        via: The name by which its provider called this host (`connection.host`), and the provider's own; None where
            that is not known.
        replaced: The names by which it was made before it was made again by others. To Pulumi another host's name is
            another host, and with another provider a resource is another one: it deletes the former one afterwards.
        former: The URNs that it had in other stacks and projects before it changed hands.
        wanted: What it should have as soon as other resources of its stack give up what they have of it; None: it does
            not wait for any. `objects` is what counts until then, be it nothing.
        inherited: The URNs of resources that had its id until the transaction that gave it to this one. A delete by one
            of them comes again where its answer was lost.
    """

    urn: str
    id: str
    objects: tuple[Object, ...] = ()
    via: str | None = None
    replaced: str | None = None
    former: tuple[str, ...] = ()
    wanted: tuple[Object, ...] | None = None
    inherited: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Identity."""
        return f"{self.urn}|{self.id}"

    @cached_property
    def _by_type(self) -> dict[type[Any], list[Any]]:
        found: dict[type[Any], list[Any]] = {}
        for item in self.objects:
            found.setdefault(type(item), []).append(item)
        return found

    @property
    def kinds(self) -> KeysView[type[Any]]:
        """The types of its objects. Most of many owners are forwards alone, and most look-ups pass them."""
        return self._by_type.keys()

    def of(self, kind: type[Kind]) -> Sequence[Kind]:
        """Its objects of a type."""
        return self._by_type.get(kind, ())

    @property
    def kind(self) -> str:
        """The resource's kind, from its URN: "Bridge"."""
        return Urn.parse(self.urn).kind

    @property
    def label(self) -> str:
        """For messages and comments: `PortForward web (stack dev of project shop)`."""
        urn = Urn.parse(self.urn)
        if not urn.kind:
            return self.urn or self.id
        return f"{urn.kind} {urn.name} (stack {urn.stack} of project {urn.project})"

    @property
    def comment(self) -> str:
        """Short, for an nft element: `dev/shop PortForward web`."""
        urn = Urn.parse(self.urn)
        if not urn.kind:
            return self.urn or self.id
        return f"{urn.stack}/{urn.project} {urn.kind} {urn.name}"

    @property
    def later(self) -> Owner:
        """With what it waits for."""
        return self if self.wanted is None else replace(self, objects=self.wanted, wanted=None)

    @cached_property
    def line(self) -> str:
        """As recorded."""
        data: Json = {"urn": self.urn, "id": self.id, "objects": [to_json(item) for item in self.objects]}
        data.update({name: value for name in _HOST_NAMES if (value := getattr(self, name)) is not None})
        data.update({name: urns for name in _URNS if (urns := getattr(self, name))})
        if self.wanted is not None:
            data["wanted"] = [to_json(item) for item in self.wanted]
        return json.dumps(data, separators=(",", ":"), default=vars)

    @classmethod
    def parse(cls, line: str) -> Owner:
        """From a line of the record."""
        data = json.loads(line)
        names = {name: data[name] for name in _HOST_NAMES if name in data}
        names.update({name: tuple(data[name]) for name in _URNS if name in data})
        wanted = tuple(map(from_json, data["wanted"])) if "wanted" in data else None
        objects = tuple(map(from_json, data["objects"]))
        owner = cls(data["urn"], data["id"], objects, wanted=wanted, **names)
        vars(owner)["line"] = line.rstrip("\n")  # it is written back as it was read
        return owner


class Owners(dict[str, Owner]):
    """All owners by key.

    Most of many owners are port forwards. `structural` has the others, among which relations are looked up; `links` has
    the owner's key by a link's name, `forwards` the ports that are taken, `networks` subnets, routes and addresses,
    `waiting` those that wait for what others give up.
    """

    def __init__(self, owners: dict[str, Owner] | None = None) -> None:
        super().__init__(owners or {})
        self.structural = {key: owner for key, owner in self.items() if not owner.kinds <= _FORWARDS}
        self.waiting = {key: owner for key, owner in self.items() if owner.wanted is not None}
        self._forwards: ForwardIndex | None = None
        self._networks: Networks | None = None
        self.links = {item.name: key for key, owner in self.structural.items() for item in owner.of(Link)}

    @property
    def networks(self) -> Networks:
        """Which networks are taken; made when first asked for, then kept up."""
        if self._networks is None:
            self._networks = Networks()
            for owner in self.structural.values():
                self._networks.put(owner.key, owner.objects)
        return self._networks

    @property
    def forwards(self) -> ForwardIndex:
        """Which ports are taken; made when first asked for, then kept up."""
        if self._forwards is None:
            self._forwards = ForwardIndex(self)
        return self._forwards

    def every(self, kind: type[Kind]) -> Iterator[Kind]:
        """All objects of a type."""
        return (item for _, item in self.holding(kind))

    def holding(self, kind: type[Kind]) -> Iterator[tuple[Owner, Kind]]:
        """All objects of a type, each with its owner."""
        owners = self if kind in _FORWARDS else self.structural
        return ((owner, item) for owner in owners.values() for item in owner.of(kind))

    def copy(self) -> Owners:
        """One that changes apart from this."""
        other = Owners()
        dict.update(other, self)
        other.structural, other.links, other.waiting = dict(self.structural), dict(self.links), dict(self.waiting)
        other._forwards = self._forwards and self._forwards.copy()
        other._networks = self._networks and self._networks.copy()
        return other

    def __setitem__(self, key: str, owner: Owner) -> None:
        self.remove(key)
        super().__setitem__(key, owner)
        if owner.wanted is not None:
            self.waiting[key] = owner
        if not owner.kinds <= _FORWARDS:
            self.structural[key] = owner
            self.links.update((item.name, key) for item in owner.of(Link))
            if self._networks is not None:
                self._networks.put(owner.key, owner.objects)
        if Gateway in owner.kinds:
            self._forwards = None  # a gateway's external interface is part of where its forwards are
        elif self._forwards is not None:
            self._forwards.put(owner, self)

    def remove(self, key: str) -> None:
        """Take an owner out, if it is there."""
        old = self.get(key)
        if old is None:
            return
        if self._forwards is not None:
            self._forwards.drop(old, self)
        if self._networks is not None:
            self._networks.drop(old.key, old.objects)
        if Gateway in old.kinds:
            self._forwards = None
        super().pop(key)
        self.waiting.pop(key, None)
        self.structural.pop(key, None)
        for item in old.of(Link):
            if self.links.get(item.name) == key:
                del self.links[item.name]


ForwardPlace = tuple[str, str, str, str]  # external interface, family, protocol, listen address or "*"


class ForwardIndex:
    """Which ports are taken, by external interface, family, protocol and listen address."""

    def __init__(self, owners: Owners) -> None:
        # By place and by port: single ports, which are most, are found at once; ranges are few and looked through.
        self._single: dict[tuple[ForwardPlace, int], str] = {}
        self._ranges: dict[ForwardPlace, tuple[tuple[int, int, str], ...]] = {}
        self._used: Counter[ForwardPlace] = Counter()
        for owner in owners.values():
            self.put(owner, owners)

    def copy(self) -> ForwardIndex:
        """One that changes apart from this."""
        other = ForwardIndex(Owners())
        other._single, other._ranges, other._used = dict(self._single), dict(self._ranges), self._used.copy()
        return other

    def put(self, owner: Owner, owners: Owners) -> None:
        """Take down what an owner holds."""
        for place, (low, high) in _places(owner, owners):
            self._used[place] += 1
            if low == high:
                self._single[place, low] = owner.key
            else:
                self._ranges[place] = (*self._ranges.get(place, ()), (low, high, owner.key))

    def drop(self, owner: Owner, owners: Owners) -> None:
        """Forget what an owner holds."""
        for place, (low, high) in _places(owner, owners):
            self._used[place] -= 1
            if low == high:
                self._single.pop((place, low), None)
            else:
                self._ranges[place] = tuple(x for x in self._ranges.get(place, ()) if x[2] != owner.key)

    def _holders(self, place: ForwardPlace, low: int, high: int) -> Iterator[tuple[int, int, str]]:
        yield from (x for x in self._ranges.get(place, ()) if x[0] <= high and low <= x[1])
        for port in range(low, high + 1):
            if (place, port) in self._single:
                yield port, port, self._single[place, port]

    def overlapping(self, owner: Owner, owners: Owners, *, elsewhere: bool) -> set[str]:
        """The keys of other owners that have one of this owner's ports somewhere.

        Args:
            owner: The owner.
            owners: All owners.
            elsewhere: On another external interface; else at another address of the same one.
        """
        found: set[str] = set()
        for (external, *alike, _), span in _places(owner, owners):
            for place, count in self._used.items():
                if count and (place[0] != external) is elsewhere and [*place[1:3]] == alike:
                    found.update(key for _, _, key in self._holders(place, *span))
        return {key for key in found if key in owners and owners[key].urn != owner.urn}

    def check(self, owner: Owner, owners: Owners) -> None:
        """Refuse a forward whose ports are taken, whole or in part, by another owner or twice by this one.

        Raises:
            HostnetError: They are; names the owner that has them.
        """
        mine: dict[ForwardPlace, list[tuple[int, int]]] = {}
        for place, (low, high) in _places(owner, owners):
            for first, last, key in self._holders(place, low, high):
                holder = owners.get(key)
                if key != owner.key and (holder is None or holder.urn != owner.urn):
                    raise _taken(place, (low, high), (first, last), holder)
            mine.setdefault(place, []).append((low, high))
        for place, spans in mine.items():
            spans.sort()
            for one, other in zip(spans, spans[1:]):
                if other[0] <= one[1]:
                    raise _taken(place, other, one, None)


def _places(owner: Owner, owners: Owners) -> Iterator[tuple[ForwardPlace, tuple[int, int]]]:
    if Forward not in owner.kinds:
        return
    gateways = {item.name: item for item in (*owners.every(Gateway), *owner.of(Gateway))}
    for item in owner.of(Forward):
        gateway = gateways.get(item.gateway) if item.gateway else None
        external = (gateway.external if gateway else item.external) or ""
        listens = {"*" if listen in ANY_ADDRESS.values() else listen for listen in item.listen} or {"*"}
        for protocol in item.protocols:
            for listen in listens:
                yield (external, item.family, protocol, listen), item.ports


def _taken(place: ForwardPlace, asked: tuple[int, int], taken: tuple[int, int], holder: Owner | None) -> HostnetError:
    external, family, protocol, listen = place
    at = "" if listen == "*" else f" at {listen}"
    who = holder.label if holder else "another entry of the same forwardPorts"
    return HostnetError(
        Code.CONFLICT,
        f"cannot forward {protocol} port {_span(asked)} on {external} ({family})",
        f"{protocol} port {_span(taken)}{at} there belongs to {who}",
        "Choose another port, or remove that forward first",
        holder=holder.key if holder else "",
    )


def _span(ports: tuple[int, int]) -> str:
    return ":".join(map(str, dict.fromkeys(ports)))
