"""`hostnet top`: what passes through the forwards and to the guests of a host, now and again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hostnet.cli.status import destination, destination_of, guest_of, in_units, what_of

Json = dict[str, Any]
# Lines of a screen that no row of the two tables takes: the title, what is not as declared, headings, the last line.
_OTHER_LINES, _MOST_DRIFT, _LEAST_ROWS = 10, 4, 3
_MOST_REFUSED = 4


@dataclass(frozen=True)
class ForwardRate:
    """What a forward carries.

    Attributes:
        name: Its resource.
        id: Its id.
        destination: An address and ports.
        packets: A second.
        bytes: A second.
        total: All bytes, as counted by the kernel.
    """

    name: str
    id: str
    destination: str
    packets: float
    bytes: float
    total: int


@dataclass(frozen=True)
class GuestRate:
    """What an interface of a guest carries, as the guest sees it.

    Attributes:
        link: The interface.
        name: The guest's host name, or its resource.
        addresses: Declared and leased ones.
        download: Bytes a second that the guest receives.
        upload: Bytes a second that it sends.
        refused: Packets to places that its `egress` does not allow; None where that is not counted.
        dropped: Frames that no guest may send.
    """

    link: str
    name: str
    addresses: list[str]
    download: float
    upload: float
    refused: int | None
    dropped: int = 0


@dataclass(frozen=True)
class Sample:
    """A moment of a host.

    Attributes:
        host: The host.
        resources: How many there are.
        drift: What is not as declared, in words.
        forwards: Those that carry the most first.
        guests: Likewise.
        leases: How many addresses are leased.
        refused: To where `egress` refused packets in the last hour, as the agent says it; the most packets first.
    """

    host: str
    resources: int
    drift: list[str]
    forwards: list[ForwardRate]
    guests: list[GuestRate]
    leases: int
    refused: list[Json] = field(default_factory=list)

    def to_json(self) -> Json:
        """As JSON."""
        return asdict(self)


def sample(label: str, status: Json, before: Json, now: Json) -> Sample:
    """The rates between two answers of the agent to `traffic`.

    Args:
        label: The host.
        status: The agent's last answer to `status`.
        before: The earlier answer.
        now: The later one.
    """
    seconds = max((now["milliseconds"] - before["milliseconds"]) / 1000, 0.001)
    forwards = _forwards(status, before, now, seconds)
    guests = _guests(status, before, now, seconds)
    drift = [f"{each['name']}: {text}" for each in status["resources"] for text in each["drift"]]
    if status["undeclared"]:
        drift.append(f"no resource declares {status['undeclared']} elements of hostnet's nftables tables")
    if status["watcher"]["needed"] and not status["watcher"]["pid"]:
        drift.append("no process attaches new interfaces")
    return Sample(
        label,
        len(status["resources"]),
        drift,
        sorted(forwards, key=lambda each: (-each.bytes, -each.total)),
        sorted(guests, key=lambda each: (-each.download - each.upload, each.link)),
        len(now["leases"]),
        list(now.get("refused", ())),
    )


def _forwards(status: Json, before: Json, now: Json, seconds: float) -> Iterator[ForwardRate]:
    names = {each["urn"]: each["name"] for each in status["resources"]}
    earlier = {(each["owner"], each["id"]): each for each in before["portForwards"]}
    for each in now["portForwards"]:
        then = earlier.get((each["owner"], each["id"]), each)
        yield ForwardRate(
            names.get(each["owner"], each["owner"]),
            each["id"],
            destination(each),
            # A table that was made again counts from 0.
            max(each["packets"] - then["packets"], 0) / seconds,
            max(each["bytes"] - then["bytes"], 0) / seconds,
            each["bytes"],
        )


def _guests(status: Json, before: Json, now: Json, seconds: float) -> Iterator[GuestRate]:
    earlier = {each["name"]: each for each in before["interfaces"]}
    counters = {each["name"]: each for each in now["interfaces"]}
    leased = {each["macAddress"]: each["address"] for each in now["leases"]}
    for link, (name, addresses, mac) in _interfaces(status).items():
        if link not in counters:
            continue
        each, then = counters[link], earlier.get(link, counters[link])
        lease = leased.get(mac)
        yield GuestRate(
            link,
            name,
            addresses + ([lease] if lease and lease not in addresses else []),
            # What the host sends on a TAP is what the guest receives.
            max(each["sent"] - then["sent"], 0) / seconds,
            max(each["received"] - then["received"], 0) / seconds,
            each.get("refused"),
            each.get("dropped", 0),
        )


def _interfaces(status: Json) -> Mapping[str, tuple[str, list[str], str]]:
    """The interfaces of guests: a name, the addresses and the MAC address of each."""
    found: dict[str, tuple[str, list[str], str]] = {}
    for resource in status["resources"]:
        for link in resource["members"]:
            found[link] = (resource["name"], [], "")
        for item in resource["objects"]:
            if item["type"] == "link" and item["kind"] == "tap":
                found.setdefault(item["name"], (resource["name"], [], ""))
            if item["type"] == "guest":
                addresses = [cidr.partition("/")[0] for cidr in item.get("addresses") or ()]
                found[item["link"]] = (item.get("hostname") or resource["name"], addresses, item["mac"])
    return found


def screen(shown: Sample, height: int) -> RenderableType:
    """A sample as a screen of so many lines."""
    drift = shown.drift[:_MOST_DRIFT]
    rows = height - _OTHER_LINES - len(drift)
    # With a heading, where there is any, and where it leaves room for the others.
    refused = shown.refused[: max(min(_MOST_REFUSED, rows - 2 * _LEAST_ROWS - 1), 0)]
    rows = max(rows - len(refused) - bool(refused), 2 * _LEAST_ROWS)
    guests = min(len(shown.guests), max(rows // 2, rows - len(shown.forwards)))
    forwards = min(len(shown.forwards), rows - guests)
    state = f"[yellow]{len(shown.drift):,} not as declared[/]" if shown.drift else "[green]all as declared[/]"
    counts = f"{shown.resources:,} resource{'' if shown.resources == 1 else 's'}, {state}, {shown.leases:,} leases"
    parts: list[RenderableType] = [Text.from_markup(f"{escape(shown.host)}: {counts}")]
    parts += [Text(f"✗ {text}", "yellow", no_wrap=True, overflow="ellipsis") for text in drift]
    if len(shown.drift) > len(drift):
        parts.append(Text(f"and {len(shown.drift) - len(drift):,} more: `hostnet status`", "yellow"))
    parts.append(_forward_table(shown.forwards[:forwards], len(shown.forwards)))
    parts.append(_guest_table(shown.guests[:guests], len(shown.guests)))
    if refused:
        parts.append(_refused_table(refused, len(shown.refused)))
    return Group(*parts)


def _table(what: str, shown: int, count: int, columns: Mapping[str, bool]) -> Table:
    """An empty table. Of each column, whether it holds numbers."""
    more = f" ({shown:,} of {count:,})" if shown < count else ""
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    for number, (name, right) in enumerate(columns.items()):
        title = Text(f"{what}{more}" if number == 0 else name)
        table.add_column(title, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
    return table


def _forward_table(shown: Sequence[ForwardRate], count: int) -> Table:
    numbers = {"packets/s": True, "bytes/s": True, "total": True}
    table = _table("PORT FORWARDS", len(shown), count, {"": False, "id": False, "destination": False, **numbers})
    for each in shown:
        rates = (f"{each.packets:,.0f}", in_units(round(each.bytes)), in_units(each.total))
        table.add_row(*map(Text, (each.name, each.id, each.destination, *rates)))
    return table


def _guest_table(shown: Sequence[GuestRate], count: int) -> Table:
    # An agent that counts what `egress` refuses says so of each interface.
    counted = any(each.refused is not None for each in shown)
    spoofed = any(each.dropped for each in shown)
    refused = {"refused": True} if counted else {}
    refused |= {"dropped": True} if spoofed else {}
    columns = {"": False, "interface": False, "addresses": False, "download/s": True, "upload/s": True, **refused}
    table = _table("GUESTS", len(shown), count, columns)
    for each in shown:
        rates = [in_units(round(each.download)), in_units(round(each.upload))]
        rates += [f"{each.refused or 0:,}"] if counted else []
        rates += [f"{each.dropped:,}"] if spoofed else []
        table.add_row(*map(Text, (each.name, each.link, " ".join(each.addresses), *rates)))
    return table


def _refused_table(shown: Sequence[Json], count: int) -> Table:
    table = _table("REFUSED", len(shown), count, {"": False, "destination": False, "protocol": False, "packets": True})
    for each in shown:
        table.add_row(*map(Text, (guest_of(each), destination_of(each), what_of(each), f"{each['packets']:,}")))
    return table
