"""Compare hostnet with libraries that others use for the same work: pyroute2, and libnftables' Python bindings.

`python -m benchmarks.libraries` runs it: TAPS=100 on a bridge, FORWARDS=1000 in one batch, one more forward beside
them. In each of ROUNDS=7 rounds all take turns, so that they see the same machine. It prints medians, and their ratio
to hostnet's own code for the same messages. "The whole step" is all that an agent does for the same resources:
admission, plan, kernel, record. Below that it prints what a library costs a process: import time and memory. Needs
root; works in network namespaces of its own.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyroute2
from hostnet.agent.bundle import bundle
from hostnet.agent.linux import operations as ops
from hostnet.agent.linux.libnftables import Nft
from hostnet.agent.linux.rtnetlink import LinuxKernel
from hostnet.agent.transaction.host import Host
from hostnet.resources import KINDS
from hostnet.wire.errors import HostnetError
from hostnet.wire.requests import Change
from pyroute2 import IPRoute

from tests.lab.inside import open_host
from tests.lab.kernel import bindings
from tests.lab.namespaces import Namespace, Namespaces, ip

TAPS = int(os.environ.get("TAPS", "100"))
FORWARDS = int(os.environ.get("FORWARDS", "1000"))
ROUNDS = int(os.environ.get("ROUNDS", "7"))
KEY, VALUE = "ifname . inet_proto . inet_service", "ipv4_addr . inet_service"  # as the agent's map of forwards
DECLARE = f"add table inet bench\nadd map inet bench m {{ type {KEY} : {VALUE}; }}\n"
NAMES = [f"vm{number}" for number in range(TAPS)]
OWN = "hostnet's own code"
STEP = "hostnet, the whole step"

Work = Callable[[], object]
Times = dict[str, list[float]]


def seconds(namespace: Namespace, work: Work) -> float:
    """How long something takes in a namespace."""

    def timed() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return namespace.call(timed)


# --- TAPs on a bridge ------------------------------------------------------------------------------------------------


def taps_by_ip(host: Namespace) -> Work:
    """One process `ip` with all commands."""
    lines = ["link add br0 type bridge"]
    for name in NAMES:
        lines += [f"tuntap add {name} mode tap", f"link set {name} master br0 up"]
    return lambda: ip(lines, namespace=host.name)


def taps_by_pyroute2() -> None:
    """As its documentation shows it, with one object for all."""
    with IPRoute() as route:
        route.link("add", ifname="br0", kind="bridge")
        (bridge,) = route.link_lookup(ifname="br0")
        for name in NAMES:
            route.link("add", ifname=name, kind="tuntap", mode="tap")
            (index,) = route.link_lookup(ifname=name)
            route.link("set", index=index, master=bridge, state="up")


def taps_by_hostnet() -> None:
    """The messages of the agent's netlink module."""
    kernel = LinuxKernel()
    kernel.perform(ops.CreateBridge("br0"))
    for name in NAMES:
        kernel.perform(ops.CreateTap(name))
        kernel.perform(ops.SetLink(name, bridge="br0", up=True))


def change(kind: str, name: str, inputs: dict[str, Any]) -> Change:
    """What a provider asks of an agent for a new resource."""
    token = f"hostnet:index:{kind}"
    made = KINDS[token].change(f"urn:pulumi:dev::bench::{token}::{name}", inputs)
    if made is None:
        raise ValueError(f"{name}: something is unknown")
    return made


def apply(agent: Host, changes: list[Change]) -> None:
    """Have an agent apply them.

    Raises:
        HostnetError: It refuses one.
    """
    for outcome in agent.apply(changes):
        if isinstance(outcome, HostnetError):
            raise outcome


def removals(changes: list[Change]) -> list[Change]:
    """The changes that delete what these have made."""
    return [Change(one.urn, one.id, (), one.objects, known=True) for one in reversed(changes)]


def compare_taps(namespaces: Namespaces, state: Path) -> Times:
    """Create them, and delete them before the next contestant's turn."""
    host = namespaces.add("taps")
    agent = open_host(host, state)
    changes = [change("Bridge", "br0", {"name": "br0"})]
    changes += [change("TapBinding", name, {"name": name, "bridge": "br0"}) for name in NAMES]
    turns: dict[str, Work] = {
        OWN: taps_by_hostnet,
        STEP: lambda: apply(agent, changes),
        "pyroute2": taps_by_pyroute2,
        "ip -batch, one process": taps_by_ip(host),
    }

    def undo(name: str) -> None:
        links = host.kernel.links()
        if {links[tap].master for tap in NAMES} != {"br0"}:
            raise RuntimeError(f"{name} has not attached every TAP")
        if name == STEP:
            host.call(apply, agent, removals(changes))
        else:
            host.ip(*(f"link delete {link}" for link in (*NAMES, "br0")))

    return rounds(turns, host, lambda _: None, undo)


# --- forwards --------------------------------------------------------------------------------------------------------


def element(number: int) -> tuple[list[Any], list[Any]]:
    """Key and value of a forward."""
    return ["eth0", "tcp", 10000 + number], [f"10.0.{1 + number // 250}.{1 + number % 250}", 80]


def text(numbers: range) -> str:
    """Forwards in nft's syntax."""
    words = (" : ".join(" . ".join(map(str, part)) for part in element(number)) for number in numbers)
    return f"add element inet bench m {{ {', '.join(words)} }}\n"


def as_json(numbers: range) -> dict[str, Any]:
    """Forwards as libnftables-json(5) has them."""
    pairs = [[{"concat": part} for part in element(number)] for number in numbers]
    return {"nftables": [{"add": {"element": {"family": "inet", "table": "bench", "name": "m", "elem": pairs}}}]}


class Forwards:
    """The contestants, each with a context that it keeps.

    Args:
        host: The namespace. Its table `inet bench` is made here, hostnet's own with the first forward.
        state: The agent's directory.
    """

    def __init__(self, host: Namespace, state: Path) -> None:
        host.ip("link add eth0 type veth peer name far", "link set eth0 up")
        self.host = host
        self.agent = open_host(host, state)
        self.own: Nft = host.call(Nft)
        self.bindings: Any = host.call(bindings())
        host.call(self.own.run, DECLARE)
        host.call(apply, self.agent, [self._change(-1)])

    def turns(self, numbers: range) -> dict[str, Work]:
        """What each does to add these."""
        batch, tree, argv = text(numbers), as_json(numbers), ["nft", "-f", "-"]
        changes = [self._change(number) for number in numbers]
        return {
            OWN: lambda: self.own.run(batch),
            STEP: lambda: apply(self.agent, changes),
            "the bindings, with text": lambda: check(self.bindings.cmd(batch)),
            "the bindings, with JSON": lambda: check(self.bindings.json_cmd(tree)),
            "nft -f, one process": lambda: subprocess.run(argv, input=batch, text=True, check=True),
        }

    def prepare(self, name: str) -> None:
        """Let the agent see what the others did to nftables: on a host it is alone for most of the time.

        After a change by another program its next step lists the table, element by element.
        """
        if name == STEP:
            self.host.call(apply, self.agent, [self._change(-1)])

    def remove(self, name: str, numbers: range) -> None:
        """Delete them. nftables refuses to delete an element that it does not have: so all were there."""
        if name == STEP:
            self.host.call(apply, self.agent, removals([self._change(number) for number in numbers]))
            return
        keys = ", ".join(" . ".join(map(str, element(number)[0])) for number in numbers)
        self.host.call(self.own.run, f"delete element inet bench m {{ {keys} }}\n")

    @staticmethod
    def _change(number: int) -> Change:
        (*_, port), (address, target) = element(number)
        inputs = {"externalInterface": "eth0", "sourcePort": port, "destination": f"{address}:{target}"}
        return change("PortForward", f"f{port}", inputs)


def check(answer: tuple[int, object, str]) -> None:
    """Check what the bindings answer.

    Raises:
        RuntimeError: It is an error.
    """
    status, _, error = answer
    if status:
        raise RuntimeError(error)


def compare_forwards(namespaces: Namespaces, state: Path) -> tuple[Times, Times]:
    """All in one batch, and one more beside them."""
    forwards = Forwards(namespaces.add("forwards"), state)
    everything, one = range(FORWARDS), range(FORWARDS, FORWARDS + 1)

    def compare(numbers: range) -> Times:
        turns = forwards.turns(numbers)
        return rounds(turns, forwards.host, forwards.prepare, lambda name: forwards.remove(name, numbers))

    batch = compare(everything)
    forwards.host.call(forwards.own.run, text(everything))
    forwards.host.call(forwards.turns(everything)[STEP])
    return batch, compare(one)


def rounds(
    turns: dict[str, Work], host: Namespace, prepare: Callable[[str], None], undo: Callable[[str], None]
) -> Times:
    """Let all take turns.

    Args:
        turns: By name, the work that is timed.
        host: The namespace that it works in.
        prepare: Called before the work, untimed.
        undo: Checks the work and undoes it, untimed.
    """
    took: Times = {name: [] for name in turns}
    for number in range(ROUNDS + 1):
        for name, work in turns.items():
            prepare(name)
            time_taken = seconds(host, work)
            undo(name)
            if number:  # the first round warms up
                took[name].append(time_taken)
    return took


# --- what a library costs ---------------------------------------------------------------------------------------------

_IMPORT = """
import json, sys, time
start = time.perf_counter()
{code}
took = time.perf_counter() - start
with open("/proc/self/status") as status:
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
print(json.dumps([took, peak / 1024]))
"""


def imports() -> dict[str, tuple[float, float]]:
    """Seconds to import each, and by how many MB a process grows: medians of processes that take turns.

    VmHWM says how large a process was at most. getrusage's ru_maxrss is no measure of it: a new program keeps the value
    of the process that started it (Linux 6.18).
    """
    place = Path(sys.modules[bindings().__module__].__file__ or "").parent.parent
    codes = {
        "": "",
        OWN: "from hostnet.agent.linux import libnftables, rtnetlink",
        "pyroute2": "import pyroute2",
        "the bindings": f"sys.path.insert(0, {str(place)!r}); import nftables",
    }
    found: dict[str, list[list[float]]] = {name: [] for name in codes}
    for _ in range(ROUNDS):
        for name, code in codes.items():
            argv = [sys.executable, "-c", _IMPORT.format(code=code)]
            found[name].append(json.loads(subprocess.run(argv, capture_output=True, check=True).stdout))
    medians = {name: [statistics.median(each) for each in zip(*both, strict=True)] for name, both in found.items()}
    empty = medians.pop("")[1]
    return {name: (took, size - empty) for name, (took, size) in medians.items()}


def zipped(module: Any) -> int:
    """The bytes that a package's Python files add to a zip like the agent's."""
    folder = Path(module.__file__).parent
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(folder.rglob("*.py")):
            archive.write(path, path.relative_to(folder.parent))
    return len(out.getvalue())


# --- the table -------------------------------------------------------------------------------------------------------


def show(title: str, took: Times) -> None:
    """Print medians in milliseconds, and their ratio to hostnet's own code."""
    medians = {name: statistics.median(times) for name, times in took.items()}
    print(f"{title:<44}{'ms':>10}{'ratio':>8}")
    for name, median in medians.items():
        print(f"  {name:<42}{median * 1000:>10.2f}{median / medians[OWN]:>8.2f}")


def main() -> None:
    """Run all, and print the tables."""
    with ExitStack() as stack:
        namespaces = Namespaces()
        stack.callback(namespaces.close)
        state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hostnet-bench-")))
        taps = compare_taps(namespaces, state)
        batch, one = compare_forwards(namespaces, state)
    print(f"Medians of {ROUNDS} rounds; pyroute2 {pyroute2.__version__}\n")
    show(f"A bridge with {TAPS} TAPs", taps)
    show(f"{FORWARDS} forwards in one batch", batch)
    show(f"One more forward beside {FORWARDS}", one)
    print(f"{'The library in a process':<44}{'import, ms':>10}{'memory, MB':>12}")
    for name, (took, size) in imports().items():
        print(f"  {name:<42}{took * 1000:>10.0f}{size:>12.1f}")
    print(f"Zipped: pyroute2 {zipped(pyroute2) / 1024:.0f} KB, the whole agent {len(bundle().data) / 1024:.0f} KB")


if __name__ == "__main__":
    main()
