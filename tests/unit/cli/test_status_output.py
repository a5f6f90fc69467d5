"""What `hostnet status` shows: everything of a small host, and of a large one what fits a screen."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hostnet.cli import status
from rich.console import Console

SCREEN = 40  # lines


def resource(
    name: str, *, stack: str = "dev", kind: str = "PortForward", drift: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A resource as the agent has it."""
    urn = f"urn:pulumi:{stack}::shop::hostnet:index:{kind}::{name}"
    about = {"urn": urn, "id": name, "kind": kind, "name": name, "stack": stack, "project": "shop"}
    return {**about, "objects": [], "members": [], "drift": list(drift), "wrong": []}


def forward(owner: dict[str, Any], port: int, size: int) -> dict[str, Any]:
    """A forward of a resource, as the agent has it."""
    ports = {"sourcePorts": str(port), "destinationAddress": "10.0.0.2", "destinationPorts": str(port)}
    return {"id": f"eth0/ipv4/tcp/{port}", "owner": owner["urn"], "packets": size // 1000, "bytes": size, **ports}


def shown(resources: list[dict[str, Any]], forwards: list[dict[str, Any]], *, whole: bool = False) -> list[str]:
    """The lines of the output on a terminal of 100 columns."""
    data = {
        "resources": resources,
        "portForwards": forwards,
        "undeclared": 0,
        "watcher": {"needed": False, "pid": None},
    }
    out = io.StringIO()
    status.show(Console(file=out, width=100), "root@host", data, whole=whole)
    return out.getvalue().splitlines()


def a_host(count: int, wrong: int = 0) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Forwards of ten stacks; the first are not as declared, the last carry the most."""
    drift = tuple(f"port {number} is not forwarded" for number in range(9))
    resources = [
        resource(f"f{number}", stack=f"s{number % 10}", drift=drift if number < wrong else ())
        for number in range(count)
    ]
    return resources, [forward(each, number + 1, number * 1_000_000) for number, each in enumerate(resources)]


def test_whose_frames_were_dropped_is_one_line() -> None:
    """The most first; none where there are none."""
    data: dict[str, Any] = {"resources": [resource("web")], "portForwards": [], "undeclared": 0}
    data["watcher"] = {"needed": False, "pid": None}
    for dropped, line in (
        ({}, ""),
        ({"vm0": 2, "vm1": 1234}, "Dropped in the last hour, frames that no guest may send: vm1 1,234, vm0 2."),
        ({f"v{number}": 1 for number in range(9)}, "send: v0 1, v1 1, v2 1, v3 1, v4 1, v5 1, and 3 more."),
    ):
        out = io.StringIO()
        status.show(Console(file=out, width=120), "root@host", {**data, "dropped": dropped}, whole=False)
        assert (line or "ok") in out.getvalue()
        assert ("Dropped" in out.getvalue()) is bool(dropped)


def test_what_was_refused_fits_a_screen() -> None:
    """Six destinations, the most packets first as the agent has them; all of them with `--all`."""
    to = {"interface": "vm0", "name": "ci", "source": "10.0.0.5", "destination": "198.51.100.7", "protocol": "tcp"}
    refused = [{**to, "port": port, "packets": 5000 - port} for port in range(1, 2001)]
    data = {"resources": [resource("web")], "portForwards": [], "undeclared": 0, "refused": refused}
    data["watcher"] = {"needed": False, "pid": None}
    for whole, rows in ((False, 6), (True, 2000)):
        out = io.StringIO()
        status.show(Console(file=out, width=100), "root@host", data, whole=whole)
        lines = [line for line in out.getvalue().splitlines() if "198.51.100.7" in line]
        assert len(lines) == rows
        assert lines[0].replace("│", " ").split() == ["ci", "10.0.0.5", "198.51.100.7", "tcp", "1", "4,999"]


@pytest.mark.parametrize("wrong", [0, 3, 10_000])
def test_ten_thousand_forwards_fit_a_screen(wrong: int) -> None:
    """What is not as declared comes first, then the stacks, then the forwards that carry the most."""
    lines = shown(*a_host(10_000, wrong))
    text = "\n".join(lines)
    assert len(lines) <= SCREEN
    assert lines[0] == f"root@host: 10,000 resources, {f'{wrong:,} not as declared' if wrong else 'all as declared'}"
    assert ("port 0 is not forwarded" in text) is bool(wrong)
    assert "shop/s0 │       1,000" in text
    assert "eth0/ipv4/tcp/10000" in text
    assert "--all" in text
    if wrong:
        assert lines[1].startswith("Not as declared")
        assert "and 8 more" in text
    if wrong == 10_000:
        assert "(6 of 10,000)" in text


def test_all_of_them() -> None:
    """`--all` lists every resource and every forward."""
    lines = shown(*a_host(10_000), whole=True)
    assert sum("eth0/ipv4/tcp/" in line for line in lines) == 10_000
    assert sum("PortForward" in line for line in lines) == 10_000


def test_many_inline_forwards_are_many() -> None:
    """One gateway with many forwards of its own is summarized like many resources."""
    gateway = resource("nat", kind="NatGateway")
    lines = shown([gateway], [forward(gateway, port, port) for port in range(1, 1001)])
    assert len(lines) <= SCREEN
    assert any("The busiest of 1,000 port forwards" in line for line in lines)


def test_a_small_host_is_shown_whole() -> None:
    """Twenty resources are listed, with what each is on the host."""
    lines = shown(*a_host(status.FEW, 1))
    assert sum("PortForward" in line for line in lines) == status.FEW
    assert not any("--all" in line for line in lines)


def test_forwards_are_in_order() -> None:
    """By their resource; those of one resource as it has them, whatever the record's order is."""
    web, gateway = resource("web"), resource("nat", kind="NatGateway")
    forwards = [forward(web, 80, 0), forward(gateway, 443, 0), forward(gateway, 25, 0)]
    lines = shown([web, gateway], forwards)
    ports = [int(port) for line in lines for port in (443, 25, 80) if f"eth0/ipv4/tcp/{port} " in line]
    assert ports == [443, 25, 80]
