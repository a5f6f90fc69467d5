"""The output of `hostnet status`."""

from __future__ import annotations

from collections import defaultdict
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


def show(console: Console, label: str, data: dict[str, Any]) -> None:
    """Print the agent's answer to `status`."""
    resources = data["resources"]
    if not resources:
        console.print(f"{escape(label)}: hostnet has no resources here")
        return
    drifted = sum(bool(resource["drift"]) for resource in resources)
    state = f"[yellow]{drifted} not as declared[/]" if drifted else "[green]all as declared[/]"
    console.print(f"{escape(label)}: {len(resources)} resource{'' if len(resources) == 1 else 's'}, {state}")
    print_resources(console, resources)
    if data["portForwards"]:
        _print_forwards(console, data["portForwards"], {each["urn"]: each["name"] for each in resources})
    for line in _notes(data):
        console.print(line)


def as_declared(data: dict[str, Any]) -> bool:
    """Whether everything on the host is as its resources declare it, by the agent's answer to `status`."""
    watcher = data["watcher"]
    drift = any(resource["drift"] for resource in data["resources"])
    return not (drift or data["undeclared"] or (watcher["needed"] and not watcher["pid"]))


def print_resources(console: Console, resources: Sequence[dict[str, Any]]) -> None:
    """Print the resources by stack, with what each is on the host, and what is not as declared."""
    by_stack: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for each in resources:
        by_stack[f"{each['project']}/{each['stack']}" if each["stack"] else "?"].append(each)
    rows = [
        (stack, each["kind"], each["name"], holds(each), _state(each["drift"]))
        for stack, held in sorted(by_stack.items())
        for each in sorted(held, key=lambda each: (each["kind"], each["name"]))
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
    "gateway": lambda item: f"NAT through {item.get('external', '?')} for {', '.join(inside(item)) or 'its forwards'}",
    "forward": lambda item: (
        f"{'+'.join(item['protocols'])} {ports_text(item['ports'])} to {item['address']} {ports_text(item['to_ports'])}"
    ),
    "dhcp": lambda _: "DHCP, DNS or RA",
}


def _words(item: dict[str, Any]) -> str:
    words = _WORDS.get(item["type"])
    return words(item) if words else ""


def inside(gateway: dict[str, Any]) -> list[str]:
    """The interfaces and networks that a gateway serves."""
    return [*gateway.get("internal", ()), *gateway.get("internal4", ()), *gateway.get("internal6", ())]


def _print_forwards(console: Console, forwards: list[dict[str, Any]], names: dict[str, str]) -> None:
    rows = [
        (
            names.get(each["owner"], each["owner"]),
            each["id"],
            str(Destination(each["destinationAddress"], split_ports(each["destinationPorts"]))),
            str(each["packets"]),
            in_units(each["bytes"]),
        )
        for each in forwards
    ]
    columns = ("resource", "id", "destination", "packets", "bytes")
    print_table(console, "Port forwards", columns, rows, right=("packets", "bytes"))


def in_units(size: int) -> str:
    """A number of bytes with a unit."""
    number = float(size)
    for unit in _UNITS:
        if number < 1024 or unit == _UNITS[-1]:
            return f"{number:.1f} {unit}" if unit != "B" else f"{size} B"
        number /= 1024
    return str(size)


def _notes(data: dict[str, Any]) -> Iterator[str]:
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
