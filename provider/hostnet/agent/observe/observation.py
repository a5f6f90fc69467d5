"""All that was looked at on the host, as data. `view` and `drift` say what it means for an owner. Pure."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from hostnet.agent.nft.context import Context
from hostnet.agent.nft.elements import compile_common, compile_object
from hostnet.agent.nft.ruleset import Element, Place, Tagged
from hostnet.agent.plan.links import Names
from hostnet.agent.plan.world import World
from hostnet.agent.record.owners import Owner
from hostnet.wire.family import Family
from hostnet.wire.objects import DhcpServer, DhcpState, Object

Elements = Mapping[Place, tuple[str, ...]]


@dataclass(frozen=True)
class Observation:
    """What the host has, and what the record says.

    Attributes:
        world: All owners, and what the kernel has of links, addresses and routes.
        context: What the elements of one owner depend on beside its own objects.
        elements: Those of our table; empty where the table is gone, or its rules are not ours any more.
        attached: By link, the owner whose glob attached it.
        names: The numbers of users and groups.
        forwarding: By family, whether every sysctl that forwarding needs has its value.
        undeclared: The elements of our table that no resource asks for.
        loopback_fault: What is wrong with what all forwards share for `loopback`; "": nothing.
        reflects: Whether a guest reaches itself by an address of the host that leads to it.
        held: The keys of owners that the record has: an import is judged by what was done for it, and not before.
        dropped: The keys of objects whose traffic another firewall drops for want of our rules.
        watcher_runs: Whether a process attaches new interfaces.
        intact: Whether our table has all elements of an owner, with their values: nothing of them has to be compared.
        dhcp: Whether a bridge's server runs as declared, and its leases.
        proxies: By a guest's TAP, what is missing for the host to answer for the guest.
        replies: By uplink, what is missing for replies to leave by it.
    """

    world: World
    context: Context
    elements: Elements = field(default_factory=dict)
    attached: Mapping[str, str] = field(default_factory=dict)
    names: Names = field(default_factory=Names)
    forwarding: Callable[[Family], bool] = lambda _: False
    undeclared: Elements = field(default_factory=dict)
    loopback_fault: Callable[[], str] = lambda: ""
    reflects: Callable[[], bool] = lambda: True
    held: Container[str] = ()
    dropped: frozenset[str] = frozenset()
    watcher_runs: bool = True
    intact: Callable[[Owner], bool] = lambda _: False
    dhcp: Callable[[DhcpServer], DhcpState] = lambda _: DhcpState(running=False)
    proxies: Callable[[], Mapping[str, str]] = dict
    replies: Callable[[], Mapping[str, str]] = dict

    def at(self, element: Element) -> tuple[str, ...] | None:
        """The value that the kernel has where this element belongs; () in a set, None where it has none."""
        return self.elements.get(element.place)

    def lacks(self, elements: Iterable[Element]) -> bool:
        """Whether the kernel has not all of these."""
        return any(element.place not in self.elements for element in elements)

    def compiled(self, item: Object) -> Iterator[Tagged]:
        """The elements that our table should have for an object."""
        return compile_object(item, self.context)

    def shared(self, *sets: str) -> list[Element]:
        """What our table should have in these sets of what belongs to no single owner."""
        return [element for name in sets for element in self._common.get(name, ())]

    @cached_property
    def _common(self) -> Mapping[str, list[Element]]:
        found: dict[str, list[Element]] = {}
        for element, _ in compile_common(self.context):
            found.setdefault(element.set, []).append(element)
        return found
