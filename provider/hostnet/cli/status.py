"""The output of `hostnet status`."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.text import Text

from hostnet.cli.table import print_table
from hostnet.resources.schema.destination import Destination
from hostnet.resources.schema.types import split_ports
from hostnet.wire.objects import ports_text

if TYPE_CHECKING:
    from rich.console import Console

_MOST_MEMBERS = 6
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
# With more resources or forwards than this, a summary is shown: it fits a screen.
FEW = 20
_MOST_ROWS = 6  # of each table of a summary
_MORE = "Show every resource and forward with --all."


def show(console: Console, label: str, data: dict[str, Any], *, whole: bool) -> None:
    """Print the agent's answer to `status`.

    Args:
        console: Where.
        label: The host.
        data: The answer.
        whole: Every resource and every forward, also where there are many.
    """
    resources = data["resources"]
    if not resources:
        console.print(f"{escape(label)}: hostnet has no resources here")
        return
    drifted = [resource for resource in resources if resource["drift"]]
    state = f"[yellow]{len(drifted):,} not as declared[/]" if drifted else "[green]all as declared[/]"
    console.print(
        f"{escape(label)}: {len(resources):,} resource{'' if len(resources) == 1 else 's'}, {state}", highlight=False
    )
    names = {each["urn"]: each["name"] for each in resources}
    # The record has them as they came, and a run creates many at once.
    forwards = sorted(data["portForwards"], key=lambda each: names.get(each["owner"], each["owner"]))
    if whole or max(len(resources), len(forwards)) <= FEW:
        print_resources(console, resources)
        if forwards:
            _print_forwards(console, "Port forwards", forwards, names)
    else:
        _print_summary(console, resources, drifted)
        if forwards:
            busiest = heapq.nlargest(_MOST_ROWS, forwards, key=lambda each: each["bytes"])
            _print_forwards(console, f"The busiest of {len(forwards):,} port forwards", busiest, names)
        console.print(_MORE)
    print_refused(console, data.get("refused", ()), None if whole else _MOST_ROWS)
    for line in _notes(data):
        console.print(line)


def _print_summary(console: Console, resources: Sequence[dict[str, Any]], drifted: Sequence[dict[str, Any]]) -> None:
    """Print what is not as declared, and how many resources of each kind each stack has."""
    if drifted:
        wrong = [
            (_stack(each), each["kind"], each["name"], Text(_first(each["drift"]), "yellow"))
            for each in drifted[:_MOST_ROWS]
        ]
        more = f" ({_MOST_ROWS} of {len(drifted):,})" if len(drifted) > _MOST_ROWS else ""
        print_table(console, f"Not as declared{more}", ("stack", "kind", "name", "state"), wrong)
    kinds = sorted({each["kind"] for each in resources})
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for each in resources:
        counts[_stack(each)][each["kind"]] += 1
    largest = heapq.nlargest(_MOST_ROWS, counts, key=lambda stack: counts[stack].total())
    more = f" ({_MOST_ROWS} of {len(counts):,} stacks)" if len(counts) > _MOST_ROWS else ""
    rows = [(stack, *(f"{counts[stack][kind]:,}" for kind in kinds)) for stack in largest]
    print_table(console, f"Resources{more}", ("stack", *kinds), rows, right=kinds)


def _stack(resource: dict[str, Any]) -> str:
    return f"{resource['project']}/{resource['stack']}" if resource["stack"] else "?"


def _first(lines: Sequence[str]) -> str:
    """The first of several differences."""
    return lines[0] + (f", and {len(lines) - 1:,} more" if len(lines) > 1 else "")


def as_declared(data: dict[str, Any]) -> bool:
    """Whether everything on the host is as its resources declare it, by the agent's answer to `status`."""
    watcher = data["watcher"]
    drift = any(resource["drift"] for resource in data["resources"])
    return not (drift or data["undeclared"] or (watcher["needed"] and not watcher["pid"]))


def print_resources(console: Console, resources: Sequence[dict[str, Any]]) -> None:
    """Print the resources by stack, with what each is on the host, and what is not as declared."""
    rows = [
        (_stack(each), each["kind"], each["name"], holds(each), _state(each["drift"]))
        for each in sorted(resources, key=lambda each: (_stack(each), each["kind"], each["name"]))
    ]
    print_table(console, "Resources", ("stack", "kind", "name", "on the host", "state"), rows)


def _state(drift: Sequence[str]) -> Text:
    return Text("\n".join(drift), "yellow") if drift else Text("ok", "green")


def holds(resource: dict[str, Any]) -> str:
    """What a resource is on the host, in a few words."""
    words = list(filter(None, (_words(item) for item in resource["objects"])))
    members = resource["members"]
    if members:
        more = f" and {len(members) - _MOST_MEMBERS} more" if len(members) > _MOST_MEMBERS else ""
        words.append(f"attached: {', '.join(members[:_MOST_MEMBERS])}{more}")
    return "\n".join(words)


_WORDS: dict[str, Callable[[dict[str, Any]], str]] = {
    "link": lambda item: f"{'bridge' if item['kind'] == 'bridge' else 'TAP'} {item['name']}",
    "address": lambda item: f"address {item['cidr']}",
    "route": lambda item: f"route {item['cidr']}",
    "port": lambda item: f"in {item['bridge']}",
    "glob": lambda item: f"{item['pattern']} in {item['bridge']}",
    "guest": lambda item: f"guest {item['mac']} {' '.join(item.get('addresses') or ())}",
    "gateway": lambda item: (
        f"NAT through {', '.join((item.get('external', '?'), *item.get('more', ())))} "
        f"for {', '.join(inside(item)) or 'its forwards'}"
    ),
    "forward": lambda item: f"{'+'.join(item['protocols'])} {ports_text(item['ports'])} to {_destination(item)}",
    "dhcp": lambda _: "DHCP, DNS or RA",
}


def destination(forward: dict[str, Any]) -> str:
    """Where a forward leads, from the agent's answer."""
    return str(Destination(forward["destinationAddress"], split_ports(forward["destinationPorts"])))


def _destination(item: dict[str, Any]) -> Destination:
    return Destination(item["address"], (item["to_ports"][0], item["to_ports"][1]))


def _words(item: dict[str, Any]) -> str:
    words = _WORDS.get(item["type"])
    return words(item) if words else ""


def inside(gateway: dict[str, Any]) -> list[str]:
    """The interfaces and networks that a gateway serves."""
    return [*gateway.get("internal", ()), *gateway.get("internal4", ()), *gateway.get("internal6", ())]


def _print_forwards(console: Console, title: str, forwards: Sequence[dict[str, Any]], names: dict[str, str]) -> None:
    rows = [
        (
            names.get(each["owner"], each["owner"]),
            each["id"],
            destination(each),
            f"{each['packets']:,}",
            in_units(each["bytes"]),
        )
        for each in forwards
    ]
    columns = ("resource", "id", "destination", "packets", "bytes")
    print_table(console, title, columns, rows, right=("packets", "bytes"))


def print_refused(console: Console, refused: Sequence[dict[str, Any]], most: int | None) -> None:
    """Print to where guests were refused, so that a person can write the missing rule.

    Args:
        console: Where.
        refused: The agent's answer.
        most: How many rows; None: all.
    """
    if not refused:
        return
    shown = refused[:most]
    more = f" ({len(shown):,} of {len(refused):,})" if len(shown) < len(refused) else ""
    rows = [(guest_of(each), destination_of(each), what_of(each), f"{each['packets']:,}") for each in shown]
    columns = ("guest", "destination", "protocol", "packets")
    print_table(console, f"Refused in the last hour{more}", columns, rows, right=("packets",))


def guest_of(refused: dict[str, Any]) -> str:
    """Whose packet was refused."""
    return f"{refused['name'] or refused['interface']} {refused['source']}"


def destination_of(refused: dict[str, Any]) -> str:
    """Where it went: the address, with the names of rules that it was answered for."""
    return " ".join((refused["destination"], *(f"({name})" for name in refused.get("domains", ()))))


def what_of(refused: dict[str, Any]) -> str:
    """The protocol and port of what was refused, as a rule of `egress` has them."""
    return refused["protocol"] if refused["port"] is None else f"{refused['protocol']} {refused['port']}"


def in_units(size: int) -> str:
    """A number of bytes with a unit."""
    number = float(size)
    for unit in _UNITS:
        if number < 1024 or unit == _UNITS[-1]:
            return f"{number:.1f} {unit}" if unit != "B" else f"{size} B"
        number /= 1024
    return str(size)


def _dropped(data: dict[str, Any]) -> Iterator[str]:
    """Whose frames were dropped, the most first."""
    dropped = sorted(data.get("dropped", {}).items(), key=lambda each: (-each[1], each[0]))
    if dropped:
        more = f", and {len(dropped) - _MOST_ROWS:,} more" if len(dropped) > _MOST_ROWS else ""
        names = ", ".join(f"{escape(name)} {count:,}" for name, count in dropped[:_MOST_ROWS])
        yield f"[yellow]Dropped in the last hour, frames that no guest may send:[/] {names}{more}."


def _notes(data: dict[str, Any]) -> Iterator[str]:
    yield from _dropped(data)
    watcher = data["watcher"]
    if watcher["needed"] and watcher["pid"]:
        yield f"Process {watcher['pid']} attaches new interfaces."
    elif watcher["needed"]:
        yield "[red]No process attaches new interfaces.[/] Run `hostnet restore` to start it."
    if data["undeclared"]:
        yield (
            f"[yellow]No resource declares {data['undeclared']} elements of hostnet's nftables tables.[/] "
            "Run `pulumi refresh` for details."
        )
