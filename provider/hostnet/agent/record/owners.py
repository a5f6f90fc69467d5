"""What each resource has on a host, and the indexes that make ten thousand of them quick to look through."""

from __future__ import annotations

import json
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, ValuesView
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

from hostnet.agent.indexes.sharing import SharingMap, add_value, take_value
from hostnet.agent.record.forwards import ForwardIndex, Place, Span, places
from hostnet.agent.record.guests import GuestIndex
from hostnet.agent.record.networks import NETWORKED, Networks
from hostnet.wire.edits import gone_and_come
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.family import Family
from hostnet.wire.objects import Forward, Forwarding, Gateway, Guest, Json, Link, Object, digest_of, from_json, to_json
from hostnet.wire.urn import Urn, owner_key

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

    @cached_property
    def key(self) -> str:
        """Identity."""
        return owner_key(self.urn, self.id)

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

    @cached_property
    def digest(self) -> str:
        """Of its forwards: a provider that has the same sends only what changes."""
        return digest_of(self.of(Forward))

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

    @cached_property
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


class Owners(Mapping[str, Owner]):
    """All owners by key, in the order in which they came, and what is looked up among them.

    A copy shares with the original all that is the same. Most of many owners are port forwards.

    Attributes:
        version: Which owners these are: another object after each change, the same one in a copy.
        links: By the name of a link, its owner's key; of two, which there are while a resource changes its URN, the
            later one is last and counts.
        gateways: By name.
        waiting: Those that wait for what others give up.
    """

    def __init__(self, owners: Mapping[str, Owner] | None = None) -> None:
        self.version = object()
        self._lends = False  # whether a copy has what follows, too
        self._numbered: SharingMap[str, _Numbered] = SharingMap()
        self._last = 0
        self._kinds: dict[type[Any], SharingMap[str, _Numbered]] = {}
        self._in_order: dict[type[Any], dict[str, Owner]] = {}  # all, and those of a kind, since one was asked for
        self._proxied: tuple[dict[str, Owner], tuple[Guest, ...]] = ({}, ())
        self._urns: SharingMap[str, tuple[str, ...]] = SharingMap()
        self._ids: SharingMap[str, tuple[str, ...]] = SharingMap()
        self._families: dict[Family, int] = {}
        self._forwards: ForwardIndex | None = None
        self._networks: Networks | None = None
        self._guests: GuestIndex | None = None
        self._lends_forwards = self._lends_networks = False  # whether others have it, too
        self._gateway_holders: dict[str, tuple[tuple[str, Gateway], ...]] = {}
        self.links: SharingMap[str, tuple[str, ...]] = SharingMap()
        self.gateways: dict[str, Gateway] = {}
        self.waiting: dict[str, Owner] = {}
        for key, owner in owners.items() if owners else ():
            self[key] = owner

    def copy(self) -> Owners:
        """One that changes apart from this. Most copies never change, and have nothing of their own."""
        self._lends = self._lends_forwards = self._lends_networks = True
        other = Owners.__new__(Owners)
        # The indexes are made here if they are not yet: a copy's own would go with the copy.
        vars(other).update(vars(self), _forwards=self.forwards, _networks=self.networks, _guests=self.guests)
        return other

    def _begin_change(self) -> None:
        """Have nothing in common with a copy that a change would show in."""
        self.version = object()
        if not self._lends:
            return
        self._lends = False
        self._numbered, self.links = self._numbered.copy(), self.links.copy()
        self._kinds = {kind: each.copy() for kind, each in self._kinds.items()}
        self._in_order = dict(self._in_order)
        self._urns, self._ids, self._families = self._urns.copy(), self._ids.copy(), dict(self._families)
        self.gateways, self.waiting = dict(self.gateways), dict(self.waiting)
        self._gateway_holders = dict(self._gateway_holders)
        self._guests = self._guests.copy() if self._guests is not None else None

    # --- as a mapping ------------------------------------------------------------------------------------------------

    def __getitem__(self, key: str) -> Owner:
        return self._numbered[key][1]

    def get(self, key: str, default: Any = None) -> Any:
        """The owner of a key, else the default."""
        found = self._numbered.get(key)
        return default if found is None else found[1]

    def __contains__(self, key: object) -> bool:
        return key in self._numbered

    def __len__(self) -> int:
        return len(self._numbered)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ordered(Owner))

    def values(self) -> ValuesView[Owner]:
        """In the order in which they came."""
        return self._ordered(Owner).values()

    def items(self) -> ItemsView[str, Owner]:
        """In the order in which they came."""
        return self._ordered(Owner).items()

    def _ordered(self, kind: type[Any]) -> dict[str, Owner]:
        """Those with an object of a kind; with `Owner`, all."""
        if kind not in self._in_order:
            numbered = self._numbered if kind is Owner else self._kinds.get(kind)
            entries = sorted(numbered.entries(), key=_number) if numbered else ()
            self._in_order[kind] = {key: owner for key, (_, owner) in entries}
        return self._in_order[kind]

    # --- changes -----------------------------------------------------------------------------------------------------

    def __setitem__(self, key: str, owner: Owner) -> None:
        old = self.get(key)
        if old is owner:
            return
        self._begin_change()
        gone, come = gone_and_come(old.of(Forward), owner.of(Forward)) if old is not None else ((), owner.of(Forward))
        if old is not None:
            self._drop(key, old, gone)
        self._in_order.pop(Owner, None)
        self._last += 1
        self._numbered[key] = entry = (self._last, owner)
        for kind in owner.kinds:
            self._kinds.setdefault(kind, SharingMap())[key] = entry
            self._in_order.pop(kind, None)
        add_value(self._urns, owner.urn, key)
        add_value(self._ids, owner.id, key)
        if owner.wanted is not None:
            self.waiting[key] = owner
        for link in owner.of(Link):
            add_value(self.links, link.name, key)
        for forwarding in owner.of(Forwarding):
            self._families[forwarding.family] = self._families.get(forwarding.family, 0) + 1
        if owner.kinds & NETWORKED and (networks := self._own_networks()):
            networks.put(owner.key, owner.objects)
        if self._guests is not None and Guest in owner.kinds:
            self._guests.put(owner.key, owner.objects)
        self._have_gateways(key, old, owner, come)
        self._place(((owner.key, item) for item in come), there=True)

    def remove(self, key: str) -> None:
        """Take an owner out, if it is there."""
        old = self.get(key)
        if old is not None:
            self._begin_change()
            self._drop(key, old, old.of(Forward))
            self._have_gateways(key, old, None)

    def _drop(self, key: str, old: Owner, gone: Iterable[Forward]) -> None:
        """Take an owner out of all but the gateways, with those of its forwards that do not stay."""
        self._in_order.pop(Owner, None)
        self._place(((old.key, item) for item in gone), there=False)
        del self._numbered[key]
        for kind in old.kinds:
            del self._kinds[kind][key]
            self._in_order.pop(kind, None)
        take_value(self._urns, old.urn, key)
        take_value(self._ids, old.id, key)
        self.waiting.pop(key, None)
        for link in old.of(Link):
            take_value(self.links, link.name, key)
        for forwarding in old.of(Forwarding):
            self._families[forwarding.family] -= 1
        if old.kinds & NETWORKED and (networks := self._own_networks()):
            networks.drop(old.key, old.objects)
        if self._guests is not None and Guest in old.kinds:
            self._guests.drop(old.key, old.objects)

    def _have_gateways(self, key: str, old: Owner | None, new: Owner | None, come: Iterable[Forward] = ()) -> None:
        """An owner has other gateways, or none. Forwards that name them listen elsewhere from now on.

        Of two owners of one gateway, which there are while a resource changes its URN, the later one counts.

        Args:
            key: The owner's.
            old: What it had.
            new: What it has.
            come: Its forwards that are not noted yet.
        """
        mine = {gateway.name: gateway for gateway in new.of(Gateway)} if new is not None else {}
        names = dict.fromkeys((*(gateway.name for gateway in old.of(Gateway)), *mine) if old is not None else mine)
        holders, moving = {}, set()
        for name in names:
            others = [each for each in self._gateway_holders.get(name, ()) if each[0] != key]
            holders[name] = (*others, *([(key, mine[name])] if name in mine else []))
            there, then = self.gateways.get(name), holders[name][-1][1] if holders[name] else None
            if there is None or then is None or there.uplinks != then.uplinks:
                moving.add(name)
        fresh = frozenset(come) if moving else ()
        moved = [
            (owner.key, item)
            for owner, item in (self.holding(Forward) if moving else ())
            if item.gateway in moving and not (owner is new and item in fresh)
        ]
        self._place(moved, there=False)
        for name, found in holders.items():
            self._gateway_holders[name] = found
            if found:
                self.gateways[name] = found[-1][1]
            else:
                del self._gateway_holders[name]
                self.gateways.pop(name, None)
        self._place(moved, there=True)

    def _place(self, forwards: Iterable[tuple[str, Forward]], *, there: bool) -> None:
        """Note forwards of owners where they listen now, or forget them."""
        for key, item in forwards:
            index = self._own_forwards()
            if index is not None:
                (index.put if there else index.drop)(key, item, self.externals_of(item))

    def _own_forwards(self) -> ForwardIndex | None:
        """The index of forwards, which nobody else has; None where it was not asked for yet."""
        if self._forwards is not None and self._lends_forwards:
            self._forwards, self._lends_forwards = self._forwards.copy(), False
        return self._forwards

    def _own_networks(self) -> Networks | None:
        """The same of networks."""
        if self._networks is not None and self._lends_networks:
            self._networks, self._lends_networks = self._networks.copy(), False
        return self._networks

    # --- questions ---------------------------------------------------------------------------------------------------

    @property
    def networks(self) -> Networks:
        """Which networks are taken; made when first asked for, then kept up."""
        if self._networks is None:
            self._networks = Networks()
            for owner in self.values():
                self._networks.put(owner.key, owner.objects)
        return self._networks

    @property
    def guests(self) -> GuestIndex:
        """Which guests are on which bridge; made when first asked for, then kept up."""
        if self._guests is None:
            self._guests = GuestIndex()
            for owner in self._ordered(Guest).values():
                self._guests.put(owner.key, owner.objects)
        return self._guests

    @property
    def forwards(self) -> ForwardIndex:
        """Where forwards listen; made when first asked for, then kept up."""
        if self._forwards is None:
            self._forwards = ForwardIndex()
            for owner, item in self.holding(Forward):
                self._forwards.put(owner.key, item, self.externals_of(item))
        return self._forwards

    def lend_forwards(self) -> ForwardIndex:
        """The same, as it is now: what changes here does not change it."""
        index, self._lends_forwards = self.forwards, True
        return index

    @property
    def families(self) -> set[Family]:
        """The families that are forwarded for an owner."""
        return {family for family, count in self._families.items() if count}

    def external_of(self, item: Forward) -> str:
        """The external interface of a forward, of several the first; "" where it has none."""
        return self.externals_of(item)[0]

    def externals_of(self, item: Forward) -> tuple[str, ...]:
        """The external interfaces of a forward; "" where it has none."""
        gateway = self.gateways.get(item.gateway) if item.gateway else None
        return (gateway.uplinks if gateway else None) or ("" if gateway else item.external or "",)

    def has(self, *kinds: type[Any]) -> bool:
        """Whether there is any object of these types."""
        return any(self._kinds.get(kind) for kind in kinds)

    def every(self, kind: type[Kind]) -> Iterator[Kind]:
        """All objects of a type."""
        return (item for _, item in self.holding(kind))

    def holding(self, kind: type[Kind]) -> Iterator[tuple[Owner, Kind]]:
        """All objects of a type, each with its owner."""
        return ((owner, item) for owner in self._ordered(kind).values() for item in owner.of(kind))

    @property
    def proxied_guests(self) -> tuple[Guest, ...]:
        """The guests that the host answers for; a change asks for them in many places."""
        holders = self._ordered(Guest)  # another one as soon as a guest comes, changes or goes
        if self._proxied[0] is not holders:
            self._proxied = (holders, tuple(guest for guest in self.every(Guest) if guest.proxy))
        return self._proxied[1]

    def beside_urn(self, urn: str, keys: Iterable[str]) -> Iterator[Owner]:
        """Those of the owners of these keys that are another resource's."""
        return (owner for owner in map(self.__getitem__, keys) if owner.urn != urn)

    def of_urn(self, urn: str) -> list[Owner]:
        """What a resource has: a replacement has two at a time."""
        return [self[key] for key in self._urns.get(urn, ())]

    def of_id(self, identity: str) -> list[Owner]:
        """The owners of this id; those of different kinds may have the same."""
        return [self[key] for key in self._ids.get(identity, ())]

    def differences(self, other: Owners) -> list[tuple[str, Owner | None, Owner | None]]:
        """Which owners are not the same in another one: key, owner here, owner there. In the other's order."""
        keys = self._numbered.differences(other._numbered)
        found = [(other._numbered.get(key, _NOWHERE), key) for key in keys]
        pairs = ((key, self.get(key), there) for (_, there), key in sorted(found, key=lambda each: each[0][0]))
        return [(key, here, there) for key, here, there in pairs if here is not there]

    # --- forwards ----------------------------------------------------------------------------------------------------

    def beside(self, owner: Owner, *, elsewhere: bool) -> set[str]:
        """The keys of other resources that have one of an owner's ports somewhere.

        Args:
            owner: The owner.
            elsewhere: On another external interface; else at another address of the same one.
        """
        index = self.forwards
        found = {
            key
            for item in owner.of(Forward)
            for key in index.beside(item, self._externals_beside(item, owner), elsewhere=elsewhere)
        }
        return {key for key in found if key in self and self[key].urn != owner.urn}

    def check_ports(self, owner: Owner) -> None:
        """Refuse an owner whose ports are taken, whole or in part, by another resource or twice by this one.

        Raises:
            HostnetError: They are; names the owner that has them.
        """
        mine: dict[Place, list[Span]] = {}
        index, own = self.forwards, owner.key
        for item in owner.of(Forward):
            for place, ports in places(item, self._externals_beside(item, owner)):
                for there, key in index.holders(place, ports):
                    holder = self.get(key) if key != own else owner
                    if holder is None or holder.urn != owner.urn:
                        raise _taken(place, ports, there, holder)
                mine.setdefault(place, []).append(ports)
        for place, spans in mine.items():
            spans.sort()
            for one, other in zip(spans, spans[1:]):
                if other[0] <= one[1]:
                    raise _taken(place, other, one, None)

    def _externals_beside(self, item: Forward, owner: Owner) -> tuple[str, ...]:
        """The external interfaces of a forward of an owner that may not be among these yet."""
        for gateway in owner.of(Gateway):
            if gateway.name == item.gateway:
                return gateway.uplinks or ("",)
        return self.externals_of(item)


_Numbered = tuple[int, Owner]
_NOWHERE = (0, None)


def _number(entry: tuple[str, _Numbered]) -> int:
    return entry[1][0]


def _taken(place: Place, asked: Span, taken: Span, holder: Owner | None) -> HostnetError:
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


def _span(ports: Span) -> str:
    return ":".join(map(str, dict.fromkeys(ports)))
