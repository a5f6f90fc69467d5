"""The watcher: interfaces that appear after `pulumi up`, while no Pulumi process runs.

A host with an uplink and nothing else (tests/lab/bed.py); br-a 10.0.0.1/24 attaches `vm-*`. The tests wait for events:
none asserts a duration, which is printed instead (`pytest -s -k at_once`).
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hostnet.agent.linux.process import PidFile, Process

from tests.lab.bed import Bed
from tests.lab.driver import Provider, Stack
from tests.lab.kernel import changed_links
from tests.lab.namespaces import Namespace
from tests.lab.taps import open_tap
from tests.lab.waiting import PATIENCE, until

Program = dict[str, tuple[str, dict[str, Any]]]
NET: Program = {
    "net": ("Bridge", {"name": "br-a", "addresses": ["10.0.0.1/24"]}),
    "vms": ("TapBinding", {"match": "vm-*", "bridge": "${net.name}"}),
}
OTHER: Program = {"other": ("Bridge", {"name": "br-b"})}
LOOPED: Program = {
    "nat": ("NatGateway", {"internalInterfaces": ["${net.name}"]}),
    "web": ("PortForward", {"natGateway": "${nat.id}", "sourcePort": 8080, "destination": "10.0.0.9:80"}),
}


def report(line: str) -> None:
    """Print what was measured, for `pytest -s`."""
    sys.stdout.write(line + "\n")


class Scene:
    """A host and its stack, with what tests look at."""

    def __init__(self) -> None:
        """Nothing is declared yet."""
        self.bed = Bed("watch")
        self.host = self.bed.host
        self.provider = Provider()
        self.stack = Stack(self.provider, self.host.name)
        self._open: list[int] = []

    def close(self) -> None:
        """Remove everything."""
        for descriptor in self._open:
            os.close(descriptor)
        try:
            self.provider.close()
        finally:
            self.bed.close()

    def leave(self) -> None:
        """End the provider and its agents, as at the end of `pulumi up`; another one is ready for the next `up`."""
        beside = Provider(beside=self.provider)
        beside._own, self.provider._own = True, False
        self.provider.close()
        self.provider = self.stack.provider = beside

    def add(self, *names: str) -> None:
        """Add persistent TAPs."""
        self.host.ip(*(f"tuntap add {name} mode tap" for name in names))

    def open(self, name: str) -> int:
        """Add a TAP as a hypervisor does: it is deleted when its descriptor is closed."""
        self._open.append(self.host.call(open_tap, name))
        return self._open[-1]

    def end(self, descriptor: int) -> None:
        """End the hypervisor."""
        self._open.remove(descriptor)
        os.close(descriptor)

    def ports(self, bridge: str = "br-a") -> set[str]:
        """The links in a bridge."""
        return self.bed.kernel.ports(bridge)

    def hairpin(self, *names: str) -> bool:
        """Whether these ports are in hairpin mode."""
        links = self.bed.links()
        return all(links[name].hairpin for name in names)

    def until(self, ready: Callable[[], bool]) -> None:
        """Wait until it is so."""
        until(ready, detail=self.log)

    def attached(self, *names: str, bridge: str = "br-a") -> bool:
        """Whether exactly these are in the bridge."""
        return self.ports(bridge) == set(names)

    def watcher(self) -> Process | None:
        """The watcher, if it runs."""
        found = [PidFile(path).read() for path in self.provider.directory.glob("*.watch.pid")]
        return found[0] if found else None

    def settled(self, *names: str) -> None:
        """Wait until these are in the bridge and the watcher has finished with all that appeared before."""
        self.add("vm-last")
        self.until(lambda: "vm-last" in self.ports())
        self.host.ip("link delete vm-last")
        assert self.ports() - {"vm-last"} == set(names), self.log()

    def record(self) -> dict[str, Any]:
        """The record's header."""
        path = next(self.provider.directory.glob("*.json"))
        header: dict[str, Any] = json.loads(path.read_text().splitlines()[0])
        return header

    def log(self) -> str:
        """What the watcher wrote."""
        return "".join(path.read_text() for path in self.provider.directory.glob("*.watch.log"))


@pytest.fixture
def scene() -> Iterator[Scene]:
    """A host with nothing on it."""
    if os.geteuid() != 0:
        pytest.skip("kernel tests need root: they make network namespaces")
    made = Scene()
    try:
        yield made
    finally:
        made.close()


def test_an_interface_that_appears_is_attached_and_nothing_else_is(scene: Scene) -> None:
    """Without a provider or an agent it comes up in the bridge; the log has it, and `refresh` shows it in `members`."""
    scene.stack.up(NET)
    scene.leave()
    scene.add("vm-1", "other")
    scene.until(lambda: scene.attached("vm-1") and scene.bed.links()["vm-1"].up)
    assert not scene.bed.links()["other"].up
    scene.until(lambda: "attached vm-1 to br-a" in scene.log())
    assert scene.stack.refresh() == {}
    assert scene.stack["vms.members"] == ["vm-1"]


def test_an_interface_takes_the_mtu_of_its_bridge_and_gets_its_own_back(scene: Scene) -> None:
    """Also if no provider runs as it appears, and if it has another name by then. One changed since keeps its own."""
    jumbo: Program = {"net": ("Bridge", {**NET["net"][1], "mtu": 9000}), "vms": NET["vms"]}
    scene.stack.up(jumbo)
    scene.leave()
    scene.host.ip("tuntap add tmp mode tap", "link set tmp mtu 1400", "link set tmp name vm-small")
    scene.add("vm-1", "vm-2", "vm-3", "vm-4")
    scene.until(lambda: scene.attached("vm-small", "vm-1", "vm-2", "vm-3", "vm-4"))
    scene.settled("vm-small", "vm-1", "vm-2", "vm-3", "vm-4")
    assert {link.mtu for name, link in scene.bed.links().items() if name.startswith("vm-")} == {9000}
    scene.host.ip("link set vm-2 mtu 4000", "link set vm-3 name vm-renamed", "link set vm-4 name other")
    scene.until(lambda: "vm-3 was renamed to vm-renamed" in scene.log() and "detached other" in scene.log())
    assert scene.bed.links()["other"].mtu == 1500
    assert scene.stack.refresh() == {"net": ["mtu"]}
    scene.stack.up({"net": jumbo["net"]})
    links = scene.bed.links()
    assert {name: links[name].mtu for name in ("vm-small", "vm-1", "vm-2", "vm-renamed")} == {
        "vm-small": 1400,
        "vm-1": 1500,
        "vm-2": 4000,
        "vm-renamed": 1500,
    }
    scene.stack.destroy()


def test_it_comes_with_the_first_match_and_goes_with_the_last(scene: Scene) -> None:
    """There is one process for each host. It goes with the last match, even if the bridge stays."""
    scene.stack.up({"net": NET["net"]})
    assert scene.watcher() is None
    scene.stack.up(NET)
    first = scene.watcher()
    assert first is not None
    scene.until(lambda: Path(f"/proc/{first.pid}/comm").read_text() == "hostnet-watch\n")
    more = ("TapBinding", {"match": "ct-*", "bridge": "br-a", "isolated": True})
    scene.stack.up({**NET, "more": more})
    assert scene.watcher() == first
    scene.add("ct-1", "vm-1")
    scene.until(lambda: scene.attached("ct-1", "vm-1"))
    scene.stack.up({"net": NET["net"], "more": more})
    assert scene.watcher() == first
    assert scene.ports() == {"ct-1"}
    scene.stack.up({"net": NET["net"]})
    assert scene.watcher() is None
    assert not Path(f"/proc/{first.pid}").exists() or not _alive(first)
    assert sorted(path.suffix for path in scene.provider.directory.iterdir()) == [".json", ".lock"]
    scene.stack.destroy()
    assert not scene.provider.directory.exists()


def _alive(process: Process) -> bool:
    return "Z" not in Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_delete_detaches_exactly_what_was_attached(scene: Scene) -> None:
    """An interface that another program put into the bridge stays there, even if it matches."""
    scene.stack.up(NET)
    scene.host.ip("tuntap add tmp mode tap", "link set tmp master br-a", "link set tmp name vm-theirs")
    scene.add("vm-1")
    scene.until(lambda: scene.attached("vm-1", "vm-theirs"))
    scene.settled("vm-1", "vm-theirs")
    scene.stack.up({"net": NET["net"]})
    assert scene.ports() == {"vm-theirs"}


def test_what_is_in_another_bridge_is_left_there_and_named(scene: Scene) -> None:
    """So does one that gets its name in the other bridge (by a hypervisor's script). Preview, `up` and log name it."""
    scene.stack.up({**NET, **OTHER})
    assert scene.stack.warnings == []
    scene.host.ip("tuntap add tmp mode tap", "link set tmp master br-b", "link set tmp name vm-2")
    scene.until(lambda: "vm-2" in scene.log())
    assert "did not attach vm-2, which matches vm-*: it is in br-b" in scene.log()
    scene.settled()
    assert scene.ports("br-b") == {"vm-2"}
    more = ("TapBinding", {"match": "vm-?", "bridge": "${net.name}", "isolated": True})
    said = (
        "vm-2 matches vm-? and is not attached to br-a: it is in br-b. To attach it, take it out of there "
        "(`ip link set vm-2 nomaster`)"
    )
    assert said in scene.stack.preview({**NET, **OTHER, "more": more})
    scene.stack.up({**NET, **OTHER, "more": more})
    assert scene.stack.warnings == [said]


def test_an_uplink_is_never_bridged(scene: Scene) -> None:
    """The interface with the default route is not attached, whatever its name is."""
    scene.stack.up(NET)
    scene.host.ip(
        "link add tmp type veth peer name tmp-peer",
        "link set tmp-peer up",
        "link set tmp up",
        "address add 203.0.113.2/24 dev tmp",
        "route add default via 203.0.113.1 dev tmp metric 1",
        "route replace default via 192.0.2.1 metric 5",
    )
    scene.host.run("ip route del default via 192.0.2.1", check=False)
    scene.host.ip("link set tmp name vm-up")
    scene.until(lambda: "it has the default route" in scene.log())
    scene.settled()
    assert "did not attach vm-up, which matches vm-*: it has the default route" in scene.log()


def test_renamed_so_that_it_fits_and_away_again(scene: Scene) -> None:
    """It is attached when its name matches, stays while it does, and is detached afterwards. The record follows."""
    scene.stack.up(NET)
    scene.add("tap7")
    scene.host.ip("link set tap7 name vm-7")
    scene.until(lambda: scene.attached("vm-7"))
    scene.host.ip("link set vm-7 down", "link set vm-7 name vm-8")
    scene.until(lambda: "vm-7 was renamed to vm-8: it stays in br-a" in scene.log())
    assert scene.ports() == {"vm-8"}
    assert set(scene.record()["attached"]) == {"vm-8"}
    scene.host.ip("link set vm-8 down", "link set vm-8 name tap7")
    scene.until(lambda: "detached tap7, which was vm-8" in scene.log())
    assert scene.ports() == set()
    scene.until(lambda: scene.record()["attached"] == {})


def test_renamed_to_another_match(scene: Scene) -> None:
    """It moves from one bridge to the other."""
    more = ("TapBinding", {"match": "ct-*", "bridge": "${other.name}"})
    scene.stack.up({**NET, **OTHER, "more": more})
    scene.add("vm-1")
    scene.until(lambda: scene.attached("vm-1"))
    scene.host.ip("link set vm-1 down", "link set vm-1 name ct-1")
    scene.until(lambda: scene.attached("ct-1", bridge="br-b"))
    assert scene.ports() == set()


@pytest.mark.parametrize("looped", [False, True], ids=["plain", "with a forward from within"])
@pytest.mark.parametrize("number", [1, 20, 200])
def test_many_at_once(scene: Scene, number: int, *, looped: bool) -> None:
    """All are attached, in any order, and the record has each. The durations are printed."""
    scene.stack.up(NET | LOOPED if looped else NET)
    scene.leave()
    scene.settled()
    names = [f"vm-{each}" for each in range(number)]
    clock = Clock(scene.host)
    scene.add(*names)
    scene.until(lambda: scene.attached(*names))
    scene.until(lambda: set(scene.record()["attached"]) == set(names))
    scene.until(lambda: looped is scene.hairpin(*names))
    took = sorted(clock.stop().values())
    assert len(took) == number
    median, most = (1e3 * each for each in (statistics.median(took), took[-1]))
    report(
        f"{number} TAPs at once, from each one's appearance to its attachment: median {median:.1f}, most {most:.1f} ms"
    )
    assert scene.stack.refresh() == {}
    scene.stack.up({"net": NET["net"]})
    assert scene.ports() == set()


class Clock:
    """Notes the first event of each link, and the first one of it as a port."""

    def __init__(self, host: Namespace) -> None:
        """Start to listen."""
        self._told: list[tuple[float, bytes]] = []
        self._events = host.kernel.link_events()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._end.is_set():
            if select.select([self._events], [], [], 0.1)[0]:
                self._told.append((time.monotonic(), self._events.recv(1 << 20)))

    def stop(self) -> dict[int, float]:
        """The seconds between the two, by the index of the link."""
        self._end.set()
        self._thread.join()
        self._events.close()
        first: dict[int, float] = {}
        joined: dict[int, float] = {}
        for when, data in self._told:
            for index, master in changed_links(data):
                first.setdefault(index, when)
                if master is not None:
                    joined.setdefault(index, when)
        return {index: when - first[index] for index, when in joined.items()}


def test_killed_in_the_middle_of_two_hundred(scene: Scene) -> None:
    """Exactly what it had attached when it died is detached with the match, and nothing is left."""
    scene.stack.up(NET)
    scene.leave()
    process = scene.watcher()
    assert process is not None
    scene.host.ip("tuntap add tmp mode tap", "link set tmp master br-a", "link set tmp name vm-theirs")
    adding = threading.Thread(target=scene.add, args=[f"vm-{number}" for number in range(200)])
    adding.start()
    scene.until(lambda: len(scene.ports()) > 20)
    os.kill(process.pid, signal.SIGKILL)
    adding.join()
    assert len(scene.ports()) > 20
    scene.stack.up({"net": NET["net"]})
    assert scene.ports() == {"vm-theirs"}
    assert sorted(path.suffix for path in scene.provider.directory.iterdir()) == [".json", ".lock"]
    scene.stack.destroy()
    assert not scene.provider.directory.exists()


def test_a_hypervisor_that_makes_its_tap_itself(scene: Scene) -> None:
    """A TAP exists as long as a process holds it. It is attached each time; once deleted, it is not in the record."""
    scene.stack.up(NET)
    for _ in range(3):
        held = scene.open("vm-1")
        scene.until(lambda: scene.attached("vm-1"))
        scene.end(held)
        scene.until(lambda: "vm-1" not in scene.bed.links())
    scene.settled()
    scene.add("vm-2")
    scene.until(lambda: set(scene.record()["attached"]) == {"vm-2"})


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs QEMU")
def test_qemu_makes_its_tap(scene: Scene) -> None:
    """A netdev of QEMU without scripts is attached when it appears, and goes with QEMU."""
    scene.stack.up(NET)
    scene.leave()
    qemu = scene.host.call(
        subprocess.Popen,
        [
            *("qemu-system-x86_64", "-S", "-M", "q35", "-accel", "tcg", "-m", "16", "-nodefaults", "-display", "none"),
            *("-netdev", "tap,id=n,ifname=vm-q,script=no,downscript=no", "-device", "virtio-net-pci,netdev=n"),
        ],
        stdin=subprocess.DEVNULL,
    )
    try:
        scene.until(lambda: scene.attached("vm-q"))
    finally:
        qemu.kill()
        qemu.wait()
    scene.until(scene.attached)


def test_killed_and_restarted(scene: Scene) -> None:
    """A read warns that the watcher ended. The next change starts it, and it attaches what appeared meanwhile."""
    scene.stack.up(NET)
    first = scene.watcher()
    assert first is not None
    os.kill(first.pid, signal.SIGKILL)
    scene.until(lambda: scene.watcher() is None)
    scene.add("vm-1")
    warned = scene.provider.run(_read_warnings(scene.stack))
    assert any("no process attaches new interfaces" in line for line in warned)
    scene.stack.up({**NET, **OTHER})
    scene.until(lambda: scene.attached("vm-1"))
    assert scene.watcher() not in (None, first)
    assert scene.provider.run(_read_warnings(scene.stack)) == ()


async def _read_warnings(stack: Stack) -> tuple[str, ...]:
    vms = stack.state["vms"]
    host = await stack.provider.host(vms.inputs)
    view = await host.read(vms.kind.query(vms.urn, vms.id, vms.inputs, vms.outputs))
    assert view is not None
    return view.warnings


def test_a_pid_of_another_process_is_not_killed(scene: Scene) -> None:
    """A process of the pid file that started at another time is left alone, and a watcher is started."""
    scene.stack.up(NET)
    first = scene.watcher()
    assert first is not None
    first.stop()
    path = next(iter(scene.provider.directory.glob("*.json")))
    file = PidFile(path.with_name(path.stem + ".watch.pid"))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        file.write(bystander.pid)
        text = file.path.read_text().split()
        file.path.write_text(" ".join([text[0], str(int(text[1]) - 1), *text[2:]]))
        scene.stack.up({"net": NET["net"]})
        scene.stack.up(NET)
        Process(bystander.pid, int(text[1]) - 1).stop()
        assert bystander.poll() is None
        bystander.communicate(b"\n")
    assert scene.watcher() is not None


def test_isolation_and_hairpin_of_what_appears_later(scene: Scene) -> None:
    """A port gets what bridge and forwards need: isolation; hairpin mode and an element in our table for a loopback."""
    program: Program = {
        "net": ("Bridge", {"name": "br-a", "addresses": ["10.0.0.1/24"], "portIsolation": True}),
        "vms": NET["vms"],
        **LOOPED,
    }
    scene.stack.up(program)
    scene.leave()
    scene.add("vm-1")
    scene.until(lambda: "attached vm-1" in scene.log())
    port = scene.bed.links()["vm-1"]
    assert (port.isolated, port.hairpin) == (True, True)
    scene.until(lambda: '"vm-1" . "vm-1"' in scene.host.kernel.listing())
    assert scene.stack.refresh() == {}
    scene.stack.up({name: program[name] for name in ("net", "nat", "web")})
    assert scene.ports() == set()
    assert "vm-1" not in scene.host.kernel.listing()


def test_ports_attached_by_an_update_are_in_our_table(scene: Scene) -> None:
    """Ports that an update attaches get their elements in the same step."""
    program: Program = {"net": NET["net"], **LOOPED}
    scene.stack.up(program)
    scene.add("vm-1")
    scene.stack.up({**program, "vms": NET["vms"]})
    assert '"vm-1" . "vm-1"' in scene.host.kernel.listing()


def test_a_tap_with_a_resource_of_its_own_is_not_taken(scene: Scene) -> None:
    """A routed TAP with a matching name stays routed."""
    routed = ("TapBinding", {"name": "vm-r", "addresses": ["10.9.0.1/32"], "routes": ["10.9.0.5/32"]})
    scene.stack.up(NET)
    scene.stack.up({**NET, "routed": routed})
    scene.settled()
    scene.stack.up({**NET, "routed": routed, **OTHER})
    assert scene.ports() == set()
    assert scene.stack.refresh() == {}


@pytest.mark.parametrize("what", ["record", "namespace"])
def test_it_outlives_neither_the_namespace_nor_the_record(scene: Scene, what: str) -> None:
    """It ends with the last name of its namespace, which it would keep alive, and with the record."""
    scene.stack.up(NET)
    scene.leave()
    scene.settled()
    process = scene.watcher()
    assert process is not None
    descriptor = os.pidfd_open(process.pid)
    if what == "record":
        next(scene.provider.directory.glob("*.json")).unlink()
    else:
        subprocess.run(["ip", "netns", "delete", scene.host.name], check=True)
    try:
        assert select.select([descriptor], [], [], PATIENCE)[0]
    finally:
        os.close(descriptor)
    assert list(scene.provider.directory.glob("*.watch.*")) == []


def test_the_record_says_it_first(scene: Scene) -> None:
    """An interface that was noted and not attached, because the watcher died in between, does no harm."""
    scene.stack.up(NET)
    process = scene.watcher()
    assert process is not None
    process.stop()
    path = next(scene.provider.directory.glob("*.json"))
    header, *lines = path.read_text().splitlines()
    data = json.loads(header)
    data["attached"] = {"vm-1": scene.stack.state["vms"].urn + "|" + scene.stack.state["vms"].id, "vm-gone": "?"}
    path.write_text("\n".join([json.dumps(data), *lines]) + "\n")
    scene.add("vm-1")
    scene.stack.up({**NET, **OTHER})
    scene.until(lambda: scene.attached("vm-1"))
    scene.settled("vm-1")
    scene.stack.up({"net": NET["net"]})
    assert scene.ports() == set()
