"""Kernel tests as data: tests/cases/kernel/*.json, and the `packets` of tests/cases/resources/*.json.

A file is `{"cases": [case, …]}`; a resource is `{"kind": "Bridge", …its inputs}`. A case:

    name        what holds, a few words; unique
    origin      where the behaviour comes from ("netavark 250-bridge-nftables: range of 3 udp v6")
    matrix      {"family": ["v4", "v6"], "proto": ["tcp", "udp"]}: one test for each combination. A value is text or a
                number that takes the place of `<proto>`; or {"label": {"x": …, "y": …}}: several places at once
    sysctls     of the host, before anything else
    before      commands before anything else: "host nft …", "guest1 ip …" (undone only by what they are);
                "host second-uplink", "host second-line ppp0": see `Topology`; "host ready br-f": wait until a link has
                carrier and addresses
    servers     {"guest1": "tcp:80 udp:5000-5002"}
    names       what the world's name server answers: dnsmasq's options, see tests/lab/names.py
    use         names out of tests/cases/shared.json, in an order that dependencies allow
    resources   further resources; also `${name.output}` in their inputs
    probes      see below
    after       further steps: a list of one-entry objects
      update    {"web": {"destination": "10.0.0.12"}}: inputs to change (null takes one out); then `up`
      add       resources to add, then `up` · remove: names to take out, then `up`
      refuse    {"error": "part of the message", "add": {…}}: an `add` that fails and changes nothing
      up        the same program again; the value is what it has to do: ["update web: destination"]
      refresh   what it has to find: {"web": ["destination"], "net": ["gone"]}; {} is nothing
      drifted   {"net-a": "addresses"}: a refresh finds drift in this property (or below it) and in nothing else, the
                next `up` updates exactly those resources, and after it nothing is left to find
      mended    ["nat", "web"]: a refresh finds drift in some of these and in nothing else, whether as gone or as
                changed, the next `up` repairs just that, and after it nothing is left to find
      ask       guests' questions to the DNS of their bridge: "guest5 <gateway-a.bare> AAAA www.example.com [tcp] ->
                2001:db8:1::10"; several answers with spaces between them
      run       commands, as in `before` · servers · sysctls · probes
      keep      a TCP connection that is kept: "outsider tcp 192.0.2.2:80" · kept: who answers on it ("nobody")
      hammer    {"probe": "outsider tcp …", "update": {…}}: an `update` during which no connection may fail
      plug      {"guest5": {"tap": "vm0", "mac": "…", "commands": ["address add …"]}}: a guest behind a TAP
      outputs   {"net.gateway": "10.0.0.1"}
      kernel    what the host's kernel has, read apart from hostnet (kernel.py):
                {"links": {"br-a": {"mtu": 1400, "addresses": ["10.0.0.1/24"]}, "br-x": null}}: facts of links by
                the names of `Link`'s attributes, addresses in any order; null: there is no such link
                {"ports": {"br-a": ["a-1"]}}: all ports of a bridge
                {"routes": {"vm0": ["10.2.0.5/32"]}}: all static routes by link, default routes apart
                {"sysctls": {"net.ipv4.ip_forward": 1}}
                {"tables": ["inet hostnet"]}: all tables of nftables
                {"sets": {"hairpin": []}}: all elements of a set in `inet hostnet`
      destroy   true: everything

A probe is `FROM PROTOCOL TARGET [from SOURCE] -> RESULT [as SEEN]`: `outsider tcp 192.0.2.2:8080 -> guest1 as
192.0.2.20`. RESULT is who answers, `reached` (anybody), `blocked` (nobody: refused or silent), `refused` or `silent`;
SEEN is the address that the server saw.

`<guest1.4>` is a v4 address of the plan in topology.py, `<guest1.6>` a v6 one in brackets, `<guest1.6.bare>` without;
with `family` in the matrix also `<guest1>` and `<guest1.bare>`. `other` is the host's second address, `second`
one on its second uplink that a case adds, `gateway-a` and `gateway-b` are the host on the guests' networks, `net-a` and
`net-b` those networks.

At its end each case is destroyed, and the host must be as it was before the case's resources.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hostnet.wire.errors import HostnetError

from tests.lab.clients import ask
from tests.lab.driver import CheckError, Stack
from tests.lab.kernel import Link
from tests.lab.lab import Lab
from tests.lab.names import name_server
from tests.lab.probes import DOUBT, RESEND, Conversation, Verdict
from tests.lab.topology import is_ready
from tests.lab.waiting import PATIENCE, until

CASES = Path(__file__).parent.parent / "cases"

_PLAN = {
    "host": ("192.0.2.2", "2001:db8::2"),
    "other": ("192.0.2.3", "2001:db8::3"),
    "host2": ("203.0.113.2", "2001:db8:2::2"),
    "second": ("203.0.113.9", "2001:db8:2::9"),
    "router": ("192.0.2.1", "2001:db8::1"),
    "peer": ("192.0.2.10", "2001:db8::10"),
    "outsider": ("192.0.2.20", "2001:db8::20"),
    "attacker": ("192.0.2.30", "2001:db8::30"),
    "outsider2": ("203.0.113.20", "2001:db8:2::20"),
    "internet": ("198.51.100.10", "2001:db8:1::10"),
    "gateway-a": ("10.0.0.1", "fd12::1"),
    "gateway-b": ("10.1.0.1", "fd13::1"),
    "guest1": ("10.0.0.11", "fd12::11"),
    "guest2": ("10.0.0.12", "fd12::12"),
    "guest3": ("10.1.0.13", "fd13::13"),
    "guest4": ("10.1.0.14", "fd13::14"),
    "net-a": ("10.0.0.0/24", "fd12::/64"),
    "net-b": ("10.1.0.0/24", "fd13::/64"),
    "loopback": ("127.0.0.1", "::1"),
    "any": ("0.0.0.0", "::"),  # noqa: S104 - not bound to
}
_PROBE = re.compile(r"(?P<who>\S+) (?P<target>.+) -> (?P<result>\S+)(?: as (?P<seen>\S+))?")
_PLACE = re.compile(r"<([\w.-]+)>")


@dataclass(frozen=True)
class Case:
    """One test, with every place filled in."""

    name: str
    origin: str
    sysctls: dict[str, Any] = field(default_factory=dict)
    before: list[str] = field(default_factory=list)
    servers: dict[str, str] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    resources: dict[str, dict[str, Any]] = field(default_factory=dict)
    probes: list[str] = field(default_factory=list)
    after: list[dict[str, Any]] = field(default_factory=list)


def load(folder: str, part: str = "cases") -> list[Case]:
    """All cases of tests/cases/<folder>, in files' order.

    Args:
        folder: The folder.
        part: Which list of each file; a file may lack it.

    Raises:
        ValueError: Two cases have one name, or nothing fills a place.
    """
    cases = [case for path in sorted((CASES / folder).glob("*.json")) for case in _file(path, part)]
    twice = {case.name for case in cases if sum(other.name == case.name for other in cases) > 1}
    if twice:
        msg = f"two cases of one name: {sorted(twice)}"
        raise ValueError(msg)
    return cases


def _file(path: Path, part: str) -> Iterator[Case]:
    shared = json.loads((CASES / "shared.json").read_text())
    for raw in json.loads(path.read_text()).get(part, ()):
        try:
            yield from _expand(raw, shared)
        except (KeyError, TypeError) as error:
            msg = f"{path.name}: {raw.get('name')}: {error!r}"
            raise ValueError(msg) from error


def _expand(raw: dict[str, Any], shared: dict[str, Any]) -> Iterator[Case]:
    """The cases of a matrix."""
    matrix = raw.get("matrix", {})
    rows = [[*values.items()] if isinstance(values, dict) else values for values in matrix.values()]
    resources = {name: shared[name] for name in raw.get("use", ())} | raw.get("resources", {})
    body = {key: value for key, value in raw.items() if key not in ("matrix", "use", "name")} | {"resources": resources}
    for row in itertools.product(*rows):
        labels, places = [], _plan_places()
        for key, value in zip(matrix, row, strict=True):
            label, more = value if isinstance(value, tuple) else (str(value), {key: value})
            labels.append(f"{key}={label}" if str(label).isdigit() else label)
            places |= more
        if places.get("family") in ("v4", "v6"):
            places |= _family_places(places["family"])
        yield Case(name=" ".join([raw["name"], *labels]), **_fill(body, places))


def _plan_places() -> dict[str, Any]:
    places: dict[str, Any] = {}
    for role, (v4, v6) in _PLAN.items():
        places |= {f"{role}.4": v4, f"{role}.6": f"[{v6}]", f"{role}.4.bare": v4, f"{role}.6.bare": v6}
    return places


def _family_places(family: str) -> dict[str, Any]:
    v4 = family == "v4"
    places: dict[str, Any] = {"ipv": "4" if v4 else "6", "icmp": "icmp" if v4 else "icmpv6"}
    for role, (four, six) in _PLAN.items():
        places |= {role: four if v4 else f"[{six}]", f"{role}.bare": four if v4 else six}
    return places


def _fill(value: Any, places: Mapping[str, Any]) -> Any:
    """JSON with its places filled in; text that is one place becomes what the place is."""
    if isinstance(value, dict):
        return {_fill(key, places): _fill(item, places) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, places) for item in value]
    if not isinstance(value, str):
        return value
    whole = _PLACE.fullmatch(value)
    filled = places[whole[1]] if whole else _PLACE.sub(lambda found: str(places[found[1]]), value)
    return _fill(filled, places) if _PLACE.search(str(filled)) else filled


class Runner:
    """Carries out one case."""

    def __init__(self, lab: Lab, stack: Stack, case: Case) -> None:
        """Nothing is done yet."""
        self.lab, self.stack, self.case = lab, stack, case
        self._conversation: Conversation | None = None

    def run(self) -> None:
        """The whole case, and that nothing is left of it."""
        with name_server(self.lab, self.case.names) if self.case.names else contextlib.nullcontext():
            self._whole(self.case)

    def _whole(self, case: Case) -> None:
        self._sysctls(case.sysctls)
        self._run(case.before)
        self._servers(case.servers)
        dirty = case.sysctls or case.before
        before = self.lab.net.snapshot() if dirty else self.lab.net.pristine
        try:
            self.stack.up(_program(case.resources))
            self._probes(case.probes)
            for number, step in enumerate(case.after):
                ((what, value),) = step.items()
                try:
                    getattr(self, f"_{what}")(value)
                except AssertionError as error:
                    error.add_note(f"in step {number} of `after`: {step}")
                    raise
        finally:
            if self._conversation:
                self.lab.background.call(self._conversation.close)
            self.lab.net.unplug()
            self.stack.destroy()
        assert self.lab.net.snapshot().splitlines() == before.splitlines()

    # The steps; each is the word of `after` with an underscore.

    def _sysctls(self, sysctls: dict[str, Any]) -> None:
        for name, value in sysctls.items():
            self.lab.host.sysctl(name, value)

    def _run(self, commands: list[str]) -> None:
        for command in commands:
            role, *argv = shlex.split(command)
            if argv == ["second-uplink"]:
                self.lab.net.second_uplink()
            elif argv[0] == "second-line":
                self.lab.net.second_line(argv[1])
            elif argv[0] == "ready":
                until(partial(is_ready, self.lab[role].kernel, argv[1]))
            else:
                self.lab[role].run(argv)

    def _servers(self, servers: dict[str, str]) -> None:
        for role, ports in servers.items():
            self.lab.serve(role, ports)

    def _ask(self, lines: list[str]) -> None:
        """One after the other, each until it is answered: a server that was just started may not hear yet."""
        for line in lines:
            question, _, wanted = line.partition(" -> ")
            role, server, kind, name, *how = question.split()
            guest, tcp = self.lab[role], how == ["tcp"]
            asked = partial(ask, guest, server, name, kind, tcp=tcp, timeout=RESEND)
            found = until(asked, detail=partial(str, question))
            assert sorted(found) == sorted(wanted.split()), f"{line}   but: {found}"

    def _probes(self, lines: list[str]) -> None:
        """All together; those that expect an answer are given time for it."""
        asked = []
        for line in lines:
            found = _PROBE.fullmatch(line)
            assert found, f"not a probe: {line!r}"
            patience = DOUBT if found["result"] in ("blocked", "silent") else PATIENCE
            asked.append((line, found, self.lab.begin(found["who"], found["target"], patience)))
        wrong = []
        for line, found, future in asked:
            verdict = future.result()
            if not _fits(verdict, found["result"], found["seen"]):
                wrong.append(f"{line}   but: {verdict}")
        assert not wrong, "\n".join(["probes:", *wrong])

    def _update(self, changes: dict[str, dict[str, Any]]) -> list[str]:
        program = dict(self.stack.program)
        for name, inputs in changes.items():
            kind, old = program[name]
            merged = {**old, **inputs}
            program[name] = (kind, {key: value for key, value in merged.items() if value is not None})
        return self.stack.up(program)

    def _add(self, resources: dict[str, dict[str, Any]]) -> None:
        self.stack.up({**self.stack.program, **_program(resources)})

    def _remove(self, names: list[str]) -> None:
        self.stack.up({name: one for name, one in self.stack.program.items() if name not in names})

    def _refuse(self, step: dict[str, Any]) -> None:
        program = dict(self.stack.program)
        with pytest.raises((HostnetError, CheckError)) as error:
            self._add(step["add"])
        self.stack.program = program
        assert step["error"] in str(error.value)

    def _up(self, steps: list[str]) -> None:
        assert self.stack.again() == sorted(steps)

    def _refresh(self, drift: dict[str, list[str]]) -> None:
        assert self.stack.refresh() == drift

    def _drifted(self, expected: dict[str, str]) -> None:
        found = self.stack.refresh()
        assert {name: sorted({_top(path) for path in paths}) for name, paths in found.items()} == {
            name: [top] for name, top in expected.items()
        }, found
        self._settled(expected)

    def _mended(self, expected: list[str]) -> None:
        found = self.stack.refresh()
        assert found, "the drift was not seen"
        assert set(found) <= set(expected), found
        self._settled(found)

    def _settled(self, drifted: Iterable[str]) -> None:
        """The next `up` touches what drifted and nothing else, and then all is well."""
        assert {step.split(":")[0].split()[1] for step in self.stack.again()} == set(drifted)
        assert self.stack.refresh() == {}
        assert self.stack.again() == []

    def _keep(self, probe: str) -> None:
        role, _, target = probe.partition(" ")
        self._conversation = self.lab.converse(role, target)

    def _kept(self, server: str) -> None:
        assert self._conversation, "no `keep` before"
        verdict = self.lab.still(self._conversation, DOUBT if server == "nobody" else PATIENCE)
        assert (verdict.server or "nobody") == server, verdict

    def _hammer(self, step: dict[str, Any]) -> None:
        role, _, target = step["probe"].partition(" ")
        with self.lab.hammer(role, target) as hammer:
            self._update(step["update"])
        assert not hammer.failures, f"{len(hammer.failures)} of {hammer.total} failed: {hammer.failures[0]}"
        assert set(step.get("servers", hammer.servers)) == set(hammer.servers)

    def _plug(self, guests: dict[str, dict[str, Any]]) -> None:
        for role, plug in guests.items():
            filled = json.loads(re.sub(r"\$\{([\w-]+\.[\w.\[\]]+)\}", self._output, json.dumps(plug)))
            self.lab.net.plug(filled["tap"], role, *filled.get("commands", ()), mac=filled["mac"])

    def _output(self, found: re.Match[str]) -> str:
        return str(self.stack[found[1]])

    def _outputs(self, expected: dict[str, Any]) -> None:
        found = {path: self.stack[path] for path in expected}
        assert json.loads(json.dumps(found)) == expected

    def _kernel(self, expected: dict[str, Any]) -> None:
        kernel = self.lab.host.kernel
        links = kernel.links()
        read: dict[str, Callable[[Any], Any]] = {
            "links": lambda facts: {name: _facts(links.get(name), wanted) for name, wanted in facts.items()},
            "ports": lambda ports: {bridge: sorted(kernel.ports(bridge)) for bridge in ports},
            "routes": lambda _: {name: sorted(routes) for name, routes in kernel.static_routes().items()},
            "sysctls": lambda names: {name: int(self.lab.host.sysctl(name)) for name in names},
            "tables": lambda _: sorted(kernel.tables()),
            "sets": lambda names: {name: kernel.elements(name) for name in names},
        }
        found = {what: read[what](value) for what, value in expected.items()}
        assert found == _sorted(expected)

    def _destroy(self, whether: bool) -> None:  # noqa: FBT001 - a step's value
        assert whether
        self.stack.destroy()


def _program(resources: dict[str, dict[str, Any]]) -> dict[str, tuple[str, dict[str, Any]]]:
    return {
        name: (one["kind"], {key: value for key, value in one.items() if key != "kind"})
        for name, one in resources.items()
    }


def _top(path: str) -> str:
    """The top-level property of a path."""
    return re.split(r"[.\[]", path)[0]


def _facts(link: Link | None, wanted: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The facts of a link that a case asks for; None where there is no such link."""
    if link is None:
        return None
    found = {what: getattr(link, what) for what in wanted or ("name",)}
    return {what: sorted(value) if what == "addresses" else value for what, value in found.items()}


def _sorted(value: Any) -> Any:
    """Lists in the order in which the kernel's are compared."""
    if isinstance(value, dict):
        return {key: _sorted(item) for key, item in value.items()}
    return sorted(value) if isinstance(value, list) else value


def _fits(verdict: Verdict, result: str, seen: str | None) -> bool:
    """Whether a verdict is what a probe expects."""
    if result == "blocked":
        return verdict.outcome != "reached"
    if result in ("refused", "silent"):
        return verdict.outcome == result
    answered = verdict.outcome == "reached" and result in ("reached", verdict.server)
    return answered and (seen is None or seen.strip("[]") == verdict.source)
